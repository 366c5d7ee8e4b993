//! The files of images as one tree without layers: what `type=local` and `type=tar` write.
//!
//! Which files there are is known from the indexes alone. Their bytes come from the forms that the layers have: from tars
//! as far as there are any, so that nobody needs a namespace for what was copied or pulled.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, PipeReader};
use std::thread::Builder;

use super::StepError;
use super::copy::Places;
use super::forms::Forms;
use super::spool::Spool;
use crate::layer::compress::Encoder;
use crate::layer::contents::{Contents, SameTar};
use crate::sandbox::SandboxError;
use crate::solve::snapshot::Snapshot;
use crate::tree::entry::{Entry, Kind, Mtime, join};
use crate::tree::index::{Index, IndexBuilder};
use crate::worker::{Packing, To, WriteLayer};

/// One image of what is written.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Its platform, for messages.
    pub platform: String,
    /// The directory that it goes to; `None` is the top.
    pub directory: Option<String>,
    /// Its files.
    pub snapshot: &'a Snapshot,
}

/// The files of one or several images, and where their bytes are.
#[derive(Debug)]
pub struct Flat {
    /// Every path with its metadata.
    pub index: Index,
    places: Places,
    spool: Spool,
}

impl Flat {
    /// Lays the parts beside or over each other. With `epoch_secs` every time is that (BuildKit: not only later ones).
    pub fn new(forms: &Forms<'_>, parts: &[Part<'_>], epoch_secs: Option<i64>) -> Result<Self, StepError> {
        let mut flat = Gathering { builder: IndexBuilder::new(), owners: HashMap::new(), epoch_secs };
        let mut spool = Spool::new(forms.store());
        let mut places = Places::default();
        for part in parts {
            let view = forms.view(part.snapshot)?;
            let prefix = part.directory.as_deref().unwrap_or_default().as_bytes();
            flat.directory(prefix);
            let mut wanted: Vec<Vec<(Vec<u8>, Entry)>> = vec![Vec::new(); part.snapshot.layers.len()];
            let mut first_names: BTreeMap<(usize, usize), Vec<u8>> = BTreeMap::new();
            let mut failed = None;
            view.walk_with(b"", &mut |found| {
                let group = matches!(found.entry.kind, Kind::File { .. })
                    .then(|| view.layers()[found.layer].find(&found.entry.path))
                    .flatten()
                    .and_then(|at| view.layers()[found.layer].link_group(at));
                let path = join(prefix, &found.entry.path);
                let first = group.map(|group| first_names.entry((found.layer, group)).or_insert_with(|| path.clone()).clone());
                match flat.add(part, path.clone(), &found.entry, first.filter(|first| *first != path)) {
                    Ok(true) => wanted[found.layer].push((path, found.entry)),
                    Ok(false) => {}
                    Err(error) => {
                        failed.get_or_insert(error);
                    }
                }
                failed.is_none()
            });
            if let Some(error) = failed {
                return Err(error);
            }
            for (layer, wanted) in part.snapshot.layers.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty()) {
                places.add_layer(forms, layer, forms.fs_if_needed(layer)?, wanted, &mut spool)?;
            }
        }
        Ok(Self { index: flat.builder.build(), places, spool })
    }

    /// Hands the bytes to a writer, which must ask for them in the index's order. The inner result is the writer's.
    pub fn with_contents<T, E>(
        &self,
        forms: &Forms<'_>,
        write: impl FnOnce(&Index, &mut dyn Contents) -> Result<T, E>,
    ) -> Result<Result<T, E>, StepError> {
        if let Some(mut contents) = self.places.open_here()? {
            return Ok(write(&self.index, &mut contents));
        }
        // Only the worker can read some of it: it sends a tar, whose files come in the same order.
        let index = self.spool.path()?.join("index");
        std::fs::write(&index, self.index.as_bytes()).map_err(StepError::io("write", &index))?;
        let packing = Packing { encoder: Encoder::None, clamp_secs: None };
        let request = WriteLayer { index, from: self.places.source(), to: To::Packed(packing) };
        let worker = forms.worker()?;
        let (reader, writer) = io::pipe().map_err(StepError::io("make", "a pipe"))?;
        std::thread::scope(|scope| {
            let send = move || worker.write(request, Some(&File::from(std::os::fd::OwnedFd::from(writer))), None).map(drop);
            let sent = Builder::new().spawn_scoped(scope, send).map_err(StepError::io("start", "a thread"))?;
            let written = write(&self.index, &mut SameTar::<PipeReader>::new(reader));
            match (written, sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))) {
                // What the worker could not read is why the writer lacks it.
                (Err(_), Err(error)) if !is_broken_pipe(&error) => Err(error.into()),
                (written, _) => Ok(written),
            }
        })
    }
}

/// Whether the worker only says that nobody reads any more.
fn is_broken_pipe(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Worker { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// An index in the making.
struct Gathering {
    builder: IndexBuilder,
    /// By path: the platform that brought what is no directory.
    owners: HashMap<Vec<u8>, String>,
    epoch_secs: Option<i64>,
}

impl Gathering {
    fn mtime(&self, own: Mtime) -> Mtime {
        self.epoch_secs.map_or(own, |secs| Mtime { secs, nanos: 0 })
    }

    /// The directory of a platform.
    fn directory(&mut self, path: &[u8]) {
        if !path.is_empty() {
            self.builder.push(Entry::new(path, Kind::Dir, 0o755, 0, 0, self.mtime(Mtime::default())));
        }
    }

    /// Adds an entry; returns whether its bytes are wanted.
    fn add(&mut self, part: &Part<'_>, path: Vec<u8>, entry: &Entry, first: Option<Vec<u8>>) -> Result<bool, StepError> {
        let mut entry = Entry { path, mtime: self.mtime(entry.mtime), opaque: false, ..entry.clone() };
        if !entry.is_dir()
            && let Some(first) = self.owners.insert(entry.path.clone(), part.platform.clone())
        {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(StepError::Overlap { path, first, second: part.platform.clone() });
        }
        let mut has_bytes = false;
        if let Kind::File { hardlink, .. } = &mut entry.kind {
            has_bytes = first.is_none();
            *hardlink = first;
        }
        self.builder.push(entry);
        Ok(has_bytes)
    }
}
