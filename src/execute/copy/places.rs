//! Where the contents of a layer lie that is to be written.

use std::path::PathBuf;

use crate::execute::forms::Forms;
use crate::execute::spool::Spool;
use crate::execute::{BuildExecutor, StepError};
use crate::layer::contents::{Gathered, SourceRef};
use crate::plan::graph::{CopyOp, CopySource};
use crate::sandbox::SandboxError;
use crate::solve::Step;
use crate::solve::snapshot::LayerRef;
use crate::source::context::BuildContext;
use crate::tree::NodeKind;
use crate::tree::entry::Entry;
use crate::tree::graft::Graft;
use crate::tree::select;
use crate::worker::{From, gathered};

/// The directories and files that hold the contents of a layer to be written.
#[derive(Clone, Debug, Default)]
pub(in crate::execute) struct Places {
    pub(super) roots: Vec<PathBuf>,
    pub(super) spools: Vec<PathBuf>,
    pub(super) sources: Vec<(Vec<u8>, SourceRef)>,
    /// Whether only the worker can read some of it.
    pub(super) mapped: bool,
}

impl Places {
    pub(super) fn into_source(self) -> From {
        From::Gathered { roots: self.roots, spools: self.spools, sources: self.sources }
    }

    pub(in crate::execute) fn source(&self) -> From {
        From::Gathered { roots: self.roots.clone(), spools: self.spools.clone(), sources: self.sources.clone() }
    }

    /// Adds files of a layer, each with its path in what is written: from its unpacked form if that is given, else from a tar.
    pub(in crate::execute) fn add_layer(
        &mut self,
        forms: &Forms<'_>,
        layer: &LayerRef,
        fs: Option<PathBuf>,
        wanted: Vec<(Vec<u8>, Entry)>,
        spool: &mut Spool,
    ) -> Result<(), StepError> {
        if wanted.is_empty() {
            return Ok(());
        }
        if let Some(fs) = fs {
            let root = self.roots.len();
            self.roots.push(fs);
            self.mapped = !forms.reads_everything();
            self.sources.extend(wanted.into_iter().map(|(path, e)| (path, SourceRef::Root { root, path: e.path })));
        } else {
            let index = forms.index(layer)?;
            self.sources.extend(forms.read_blob(layer, |blob| spool.extract(blob, index.as_ref(), wanted))?);
            self.spools = spool.files().to_vec();
        }
        Ok(())
    }

    /// Opens everything, unless only the worker can.
    pub(in crate::execute) fn open_here(&self) -> Result<Option<Gathered>, StepError> {
        if self.mapped {
            return Ok(None);
        }
        Ok(Some(gathered(&self.roots, &self.spools, self.sources.clone()).map_err(SandboxError::from)?))
    }
}

/// Where each file of the new layer lies now.
pub(super) fn places(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    (files, checkouts): (&select::Selection, &[(usize, PathBuf)]),
    landed: &Graft,
    spool: &mut Spool,
) -> Result<Places, StepError> {
    let mut places = Places::default();
    let wanted = landed.items.iter().filter_map(|item| item.from.map(|from| (&item.entry, from)));
    match &op.source {
        CopySource::Context(name) => {
            // Without a context there are only files that were fetched, and the Dockerfile's own.
            let context = executor.contexts.get(name.as_deref());
            if let Some(context) = context {
                places.roots.push(context_path(context)?);
            }
            let own_roots = places.roots.len();
            places.roots.extend(checkouts.iter().map(|(_, dir)| dir.clone()));
            let root_of = |number| checkouts.iter().position(|(n, _)| *n == number).map_or(0, |at| own_roots + at);
            for (entry, (m, i)) in wanted {
                let item = &files.matches[m].items[i];
                let held = context.filter(|_| root_of(m) < own_roots).and_then(|context| context.held(item.source()));
                let source = match (item.inline, spool.member(m, i).or_else(|| held.map(|held| spool.take_held(&held)))) {
                    (Some(n), _) => SourceRef::Inline(op.inline[n].content.clone().into_bytes()),
                    (None, Some(member)) => member,
                    // Nothing to read, and a socket of the context cannot be.
                    (None, None) if matches!(item.node.kind, NodeKind::File { size: 0, .. }) => SourceRef::Inline(Vec::new()),
                    (None, None) => SourceRef::Root { root: root_of(m), path: item.source().to_vec() },
                };
                places.sources.push((entry.path.clone(), source));
            }
        }
        CopySource::Vertex(id) => {
            let snapshot = step.source(*id);
            let view = executor.forms.view(snapshot)?;
            let mut from_layers: Vec<Vec<(Vec<u8>, Entry)>> = vec![Vec::new(); snapshot.layers.len()];
            for (entry, (m, i)) in wanted {
                let item = &files.matches[m].items[i];
                if let Some(n) = item.inline {
                    places.sources.push((entry.path.clone(), SourceRef::Inline(op.inline[n].content.clone().into_bytes())));
                } else if let Some((layer, found)) = view.get(item.source()) {
                    from_layers[layer].push((entry.path.clone(), found));
                }
            }
            for (layer, wanted) in snapshot.layers.iter().zip(from_layers) {
                places.add_layer(executor.forms, layer, executor.forms.fs_if_there(layer)?, wanted, spool)?;
            }
        }
    }
    places.spools = spool.files().to_vec();
    Ok(places)
}

/// The context's directory by its path: the worker opens it again.
fn context_path(context: &BuildContext) -> Result<PathBuf, StepError> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", context.root().as_raw_fd());
    std::fs::read_link(&link).map_err(StepError::io("resolve", link))
}
