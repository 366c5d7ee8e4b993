//! Writing a layer whose entries are known.

use std::io::Read as _;
use std::path::PathBuf;

use shale_cache::LayerId;

use super::now;
use super::places::Places;
use crate::execute::{BuildExecutor, StepError, former, marks};
use crate::layer::compress::Encoder;
use crate::layer::contents::{Contents as _, SourceRef};
use crate::layer::unpack::{Unpacker, needs_worker, write_gathered};
use crate::sandbox::SandboxError;
use crate::solve::{Made, Step};
use crate::tree::entry::Mtime;
use crate::tree::graft::Graft;
use crate::tree::index::Index;
use crate::tree::walk::open_dir;
use crate::worker::{From, Packing, To, WriteLayer, gathered, pack};

/// Writes the unpacked form, here if that can be: then the worker starts meanwhile.
pub(super) fn write_unpacked(
    executor: &BuildExecutor<'_>,
    layer: &LayerId,
    needs_worker: bool,
    places: Places,
) -> Result<PathBuf, StepError> {
    let (forms, layers) = (executor.forms, executor.store.layers());
    let index = layers.index_path(layer);
    forms.with_fresh_dir(|dest| {
        if places.mapped || needs_worker {
            let request = WriteLayer { index, from: places.into_source(), to: To::Directory(dest.to_owned()) };
            forms.worker()?.write(request, None, None)?;
        } else {
            let contents = gathered(&places.roots, &places.spools, places.sources).map_err(SandboxError::from)?;
            let root = open_dir(dest).map_err(StepError::io("open", dest))?;
            write_gathered(&mut Unpacker::for_root_of_steps(root), &Index::of_layer(&index, *layer)?, &contents)?;
        }
        Ok(layers.commit_fs(layer, &forms.map_id()?, dest)?)
    })
}

/// The index of a grafted layer, with the contents that it carries.
pub(super) fn index(executor: &BuildExecutor<'_>, landed: Graft, places: &Places) -> Result<Index, StepError> {
    let Places { roots, spools, sources, mapped } = places;
    let inline: Vec<Vec<u8>> = landed.inline_files().map(|item| item.entry.path.clone()).collect();
    Ok(if *mapped && !inline.is_empty() {
        let from = From::Gathered { roots: roots.clone(), spools: spools.clone(), sources: wanted(sources, &inline) };
        let read = executor.forms.worker()?.read(from, &inline)?;
        landed.into_index(&inline.into_iter().zip(read).collect::<Vec<_>>())
    } else {
        let read = read_here(roots, spools, wanted(sources, &inline), &landed)?;
        landed.into_index(&read)
    })
}

/// What the times of a layer's entries are to the steps above.
#[derive(Clone, Copy, Debug)]
pub(in crate::execute) enum Times {
    /// Nothing, as in BuildKit: those of a context are no part of its digest, and those of directories are when they were made.
    Incidental,
    /// Nothing, but somebody asked for these: no other layer stands for this one.
    Asked,
    /// Content, as those in an archive are, but for what was made since then.
    Content(Mtime),
}

/// Commits a grafted layer: its index, and unpacked if a RUN comes to lie upon it, else packed.
pub(in crate::execute) fn write_layer(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    landed: Graft,
    places: Places,
    times: Times,
) -> Result<Made, StepError> {
    if landed.items.is_empty() {
        return executor.empty_layer();
    }
    let needs_worker = needs_worker(landed.items.iter().map(|item| &item.entry));
    let index = index(executor, landed, &places)?;
    marks::tell(executor, step, &index);
    let content = match times {
        Times::Incidental | Times::Asked => index.content_id_without_mtimes(),
        Times::Content(since) => index.content_id(Some((since, now()))),
    };
    if !matches!(times, Times::Asked)
        && let Some(layer) = former::layer(executor, step, &content, &index)
    {
        return Ok(Made { layer, content, inputs: None });
    }
    let made = executor.made(&index, content)?;
    if executor.is_run_upon(step.id) {
        drop(index);
        write_unpacked(executor, &made.layer, needs_worker, places)?;
        return Ok(made);
    }
    let index_path = executor.store.layers().index_path(&made.layer);
    let packing = executor.packing_of(step.id);
    let writer = executor.store.blobs().writer()?;
    let out = writer.file().try_clone().map_err(StepError::io("write", "a blob of the store"))?;
    let numbers = if places.mapped {
        let request = WriteLayer { index: index_path, from: places.into_source(), to: To::Packed(packing) };
        executor.forms.worker()?.write(request, Some(&out), None)?.expect("a packed form has numbers")
    } else {
        let mut contents = gathered(&places.roots, &places.spools, places.sources).map_err(SandboxError::from)?;
        pack(&index, &mut contents, packing, out)?
    };
    writer.commit_as(&numbers.blob, numbers.size_bytes)?;
    executor.forms.note_packed(&made.layer, packing, &numbers)?;
    executor.forms.remember(made.layer, index);
    Ok(made)
}

fn wanted(sources: &[(Vec<u8>, SourceRef)], paths: &[Vec<u8>]) -> Vec<(Vec<u8>, SourceRef)> {
    sources.iter().filter(|(path, _)| paths.contains(path)).cloned().collect()
}

/// Reads the few contents that an index carries.
fn read_here(
    roots: &[PathBuf],
    spools: &[PathBuf],
    sources: Vec<(Vec<u8>, SourceRef)>,
    landed: &Graft,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StepError> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let mut contents = gathered(roots, spools, sources).map_err(SandboxError::from)?;
    let mut read = Vec::new();
    for item in landed.inline_files() {
        let mut bytes = Vec::new();
        let shown = || PathBuf::from(String::from_utf8_lossy(&item.entry.path).into_owned());
        contents.open(&item.entry).and_then(|mut source| source.read_to_end(&mut bytes)).map_err(|e| StepError::io("read", shown())(e))?;
        read.push((item.entry.path.clone(), bytes));
    }
    Ok(read)
}

/// How layers of builder stages are packed: nobody exports them, and they are read again soon.
pub(in crate::execute) const PLAIN: Packing = Packing { encoder: Encoder::None, clamp_secs: None };
