//! The users of a filesystem, for the commands that run in it and the files that are copied into it.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};

use shale_cache::LayerId;

use super::{Forms, lock, open_dir};
use crate::execute::StepError;
use crate::execute::copy::Places;
use crate::execute::spool::Spool;
use crate::layer::contents::open_beneath;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::tree::accounts::{AccountFiles, Accounts, Owner, ProcessUser};
use crate::tree::entry::Entry;
use crate::tree::view::View;

/// The most that is read of a file of accounts, in bytes.
const LIMIT_BYTES: u64 = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct Known {
    /// The files that the last step asked for, and the layers that they were found in.
    last: Mutex<Option<(Arc<[LayerRef]>, Arc<AccountFiles>)>>,
    /// Contents that no index carries.
    read: Mutex<HashMap<(LayerId, Vec<u8>), Arc<Vec<u8>>>>,
}

impl Forms<'_> {
    /// The user that a command runs as under `USER spec`.
    pub fn process_user(&self, snapshot: &Snapshot, spec: &str) -> Result<ProcessUser, StepError> {
        let known = lock(&self.accounts.last).clone();
        // A step looks at the layer of the one before it, and not for two files in each layer of a high stack.
        let files = match known {
            Some((layers, files)) if self.stay(&layers, &files, snapshot)? => files,
            _ => Arc::new(self.account_files(snapshot, &self.view(snapshot)?)?),
        };
        *lock(&self.accounts.last) = Some((Arc::clone(&snapshot.layers), Arc::clone(&files)));
        Ok(files.accounts().process(spec)?)
    }

    /// The owner of files under `--chown=SPEC`, or of directories under `USER SPEC`. `view` is the snapshot's, merged or not.
    pub fn owner(&self, snapshot: &Snapshot, view: &View, spec: &str) -> Result<Owner, StepError> {
        if snapshot.layers.is_empty() && Accounts::owner_needs_files(spec) {
            return Err(StepError::NoAccounts { owner: spec.to_owned() });
        }
        Ok(if Accounts::owner_needs_files(spec) {
            self.account_files(snapshot, view)?.accounts().owner(spec)
        } else {
            Accounts::default().owner(spec)
        })
    }

    /// Names in `--chown=SPEC` that count as others, in words.
    pub fn mistaken_owner(&self, snapshot: &Snapshot, view: &View, spec: &str) -> Result<Vec<String>, StepError> {
        if !Accounts::owner_needs_files(spec) {
            return Ok(Vec::new());
        }
        Ok(self.account_files(snapshot, view)?.accounts().mistaken(spec))
    }

    fn account_files(&self, snapshot: &Snapshot, view: &View) -> Result<AccountFiles, StepError> {
        AccountFiles::of(view, |path| self.content(snapshot, path))
    }

    /// The content of a file that no index carries.
    fn content(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Vec<u8>, StepError> {
        let Some((layer, entry)) = self.view(snapshot)?.get(path) else { return Ok(Vec::new()) };
        let layer = &snapshot.layers[layer];
        let name = (self.layer_id(layer)?, path.to_vec());
        if let Some(known) = lock(&self.accounts.read).get(&name).cloned() {
            return Ok(known.to_vec());
        }
        let content = self.read_file(layer, &entry)?;
        lock(&self.accounts.read).insert(name, Arc::new(content.clone()));
        Ok(content)
    }

    /// Where it is unpacked most files can be read by everybody; the others, and those that lie in a tar, are read as a COPY reads them.
    fn read_file(&self, layer: &LayerRef, entry: &Entry) -> Result<Vec<u8>, StepError> {
        let failed = |error| StepError::io("read", crate::layer::shown(&entry.path))(error);
        let fs = self.fs_if_there(layer)?;
        let open = |fs: &Path| open_beneath(open_dir(fs)?, &entry.path);
        if let Some(file) = fs.as_deref().and_then(|fs| open(fs).ok()) {
            return limited(file).map_err(failed);
        }
        let (mut places, mut spool) = (Places::default(), Spool::new(self.store));
        places.add_layer(self, layer, fs, vec![(entry.path.clone(), entry.clone())], &mut spool)?;
        match places.open_here()? {
            Some(contents) => contents.open_any(entry).and_then(limited).map_err(failed),
            None => Ok(self.worker()?.read(places.source(), std::slice::from_ref(&entry.path))?.concat()),
        }
    }

    /// Whether files that were found in `layers` are those of a filesystem that stands on them.
    fn stay(&self, layers: &[LayerRef], files: &AccountFiles, snapshot: &Snapshot) -> Result<bool, StepError> {
        let Some(above) = snapshot.layers.strip_prefix(layers) else { return Ok(false) };
        for layer in above {
            if !matches!(layer, LayerRef::Own { .. }) || !files.stay_under(self.index(layer)?.as_ref()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn limited(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)? as u64 > LIMIT_BYTES {
        return Err(io::Error::other(format!("a file of accounts has more than {LIMIT_BYTES} bytes")));
    }
    Ok(bytes)
}
