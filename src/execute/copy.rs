//! COPY and ADD: select, graft onto the parent's view, write the form that the consumer needs.

mod layer;
mod places;
mod selection;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use shale_cache::ListId;

pub(super) use layer::{PLAIN, Times, write_layer};
pub(super) use places::Places;
pub(super) use selection::{Fetched, Selection, select, source_key};

use super::spool::{self, Spool};
use super::{BuildExecutor, StepError};
use crate::layer::LayerError;
use crate::layer::unpack::needs_worker;
use crate::plan::graph::CopyOp;
use crate::sandbox::SandboxError;
use crate::solve::event::Event;
use crate::solve::key::Inputs;
use crate::solve::{Made, Step};
use crate::source::context::ContextError;
use crate::tree::accounts::Owner;
use crate::tree::entry::Mtime;
use crate::tree::graft::{self, Graft, graft};
use crate::tree::index::Index;
use crate::tree::select;
use crate::tree::view::View;
use crate::worker::From;
use layer::{index, write_unpacked};
use places::places;
use selection::LOOKS;

/// The second look: what the parent holds where the step writes. An ADD that unpacks an archive has none, since what it writes is
/// known only after reading it.
pub(super) fn below(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    selection: &Selection,
) -> Result<Option<ListId>, StepError> {
    if op.unpacks_fetched() || (op.unpack_archives && !spool::archives(executor, op, &selection.files, &selection.fetched)?.is_empty()) {
        return Ok(None);
    }
    let landed = land_on_parent(executor, step, op, &selection.files)?;
    let below = executor.store.lists().put(&landed.facts)?;
    selection.landed.set(landed).ok();
    Ok(Some(below))
}

fn land_on_parent(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, files: &select::Selection) -> Result<Graft, StepError> {
    let view = executor.forms.view_without_layers(&step.parent)?;
    let owner = op.chown.as_deref().map(|spec| executor.forms.owner(&step.parent, &view, spec)).transpose()?;
    // BuildKit says nothing of it. What is not to be shown is no name of an account.
    if let Some(spec) = op.chown.as_ref().filter(|_| !step.vertex.has_secrets()) {
        for text in executor.forms.mistaken_owner(&step.parent, &view, spec)? {
            executor.reporter.report(Event::Note { task: step.task, text: format!("--chown={spec}: {text}") });
        }
    }
    land(&view, op, files, owner)
}

fn land(view: &View, op: &CopyOp, files: &select::Selection, owner: Option<Owner>) -> Result<Graft, StepError> {
    let options = graft::Options { destination: op.destination.clone(), owner, chmod: op.chmod.clone(), created: now() };
    // A linked layer knows nothing of what is below it: as if it were copied onto nothing.
    let mut landed = if op.link { graft(&View::new(Vec::new()), files, &options)? } else { graft(view, files, &options)? };
    if let Some(owner) = owner {
        // Names in --chown were looked up in the parent's files: the answer is one more fact.
        landed.facts.extend(format!("owner {}:{}\n", owner.uid, owner.gid).into_bytes());
    }
    Ok(landed)
}

/// Writes the layer. Files that changed since they were hashed are looked at again; the key is then that of what was written.
pub(super) fn write(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: Selection) -> Result<Made, StepError> {
    let (made, changed) = steadily(executor, step, op, selection, |selection| write_once(executor, step, op, selection))?;
    let inputs = changed.map(|files| Inputs { files: Some(files), ..Inputs::default() });
    Ok(Made { inputs, ..made })
}

/// Does something with the files of a selection; if they change meanwhile, once more with a selection of what they are then. The list
/// is the key's, where it is not that of the first selection.
pub(super) fn steadily<T>(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    selection: Selection,
    mut work: impl FnMut(Selection) -> Result<T, StepError>,
) -> Result<(T, Option<ListId>), StepError> {
    let mut done = work(selection).map(|done| (done, None));
    for _ in 1..LOOKS {
        match &done {
            Err(error) if is_changed(error) => {}
            _ => break,
        }
        let again = select(executor, step, op)?;
        let files = again.list(executor.store, op)?;
        done = work(again).map(|done| (done, Some(files)));
    }
    done
}

fn is_changed(error: &StepError) -> bool {
    match error {
        StepError::Layer(LayerError::Changed { .. }) | StepError::Sandbox(SandboxError::Changed { .. }) => true,
        StepError::ContextRead(source) => matches!(ContextError::of(source), Some(ContextError::Changed { .. })),
        _ => false,
    }
}

fn write_once(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: Selection) -> Result<Made, StepError> {
    let Selection { mut files, fetched, checkouts, landed, .. } = selection;
    let (mut spool, begun) = (Spool::new(executor.store), now());
    let mut times = Times::Incidental;
    for file in &fetched {
        spool.take_fetched(file, &mut files)?;
    }
    if op.unpack_archives {
        let archives = spool::archives(executor, op, &files, &fetched)?;
        if let Some((number, _)) = archives.first().filter(|_| landed.get().is_some()) {
            // The second look took it for a plain file.
            return Err(LayerError::Changed { path: crate::layer::shown(&files.matches[*number].name) }.into());
        }
        if !archives.is_empty() {
            times = Times::Content(begun);
        }
        spool.unpack_archives(archives, &mut files)?;
    }
    let landed = match landed.into_inner() {
        Some(landed) => landed,
        None => land_on_parent(executor, step, op, &files)?,
    };
    let places = places(executor, step, op, (&files, &checkouts), &landed, &mut spool)?;
    // Of a large context the names alone are tens of megabytes.
    drop(files);
    write_layer(executor, step, landed, places, times)
}

/// A layer that is known and not written yet.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) index: Index,
    needs_worker: bool,
    places: Places,
    /// Holds files that the places name.
    _spool: Spool,
}

impl Gathering {
    /// Where the contents are, for a writer.
    pub(super) fn source(&self) -> From {
        self.places.source()
    }
}

/// A selection as a layer on nothing.
pub(super) fn gather(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: &Selection) -> Result<Gathering, StepError> {
    let mut spool = Spool::new(executor.store);
    let landed = land(&View::new(Vec::new()), op, &selection.files, None)?;
    let places = places(executor, step, op, (&selection.files, &selection.checkouts), &landed, &mut spool)?;
    let needs_worker = needs_worker(landed.items.iter().map(|item| &item.entry));
    Ok(Gathering { needs_worker, index: index(executor, landed, &places)?, places, _spool: spool })
}

/// The unpacked form of a layer, written unless the store has it.
pub(super) fn unpacked(executor: &BuildExecutor<'_>, layer: &Gathering) -> Result<PathBuf, StepError> {
    let id = executor.put_index(&layer.index)?;
    let layers = executor.store.layers();
    let map = executor.forms.map_id()?;
    layers.fs(&id, &map)?.map_or_else(|| write_unpacked(executor, &id, layer.needs_worker, layer.places.clone()), Ok)
}

/// The time of directories that a step makes.
pub(super) fn now() -> Mtime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Mtime { secs: now.as_secs() as i64, nanos: now.subsec_nanos() }
}
