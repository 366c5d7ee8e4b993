//! What a miss does: COPY and ADD select and graft, RUN runs, WORKDIR makes a directory. Layers change their form on demand.

pub mod ahead;
mod copy;
mod device;
mod emulator;
mod error;
pub mod flat;
mod former;
pub mod forms;
pub mod log;
mod marks;
mod mounts;
mod place;
mod redact;
pub mod room;
mod run;
mod spool;
mod workdir;

use std::sync::Mutex;
use std::sync::atomic::AtomicIsize;

use shale_cache::{ContentId, LayerId, ListId, Store, TmpDir};

use crate::plan::graph::{CopySource, Graph, Op, Vertex, VertexId};
use crate::sandbox::cancel::Cancel;
use crate::sandbox::sys::become_batch_job;
use crate::solve::event::Reporter;
use crate::solve::key::Inputs;
use crate::solve::{Executor, Made, Step};
use crate::source::cdi::Devices;
use crate::source::contexts::Contexts;
use crate::source::git::Repositories;
use crate::source::http::Downloads;
use crate::source::secret::Lent;
use crate::tree::index::Index;
use crate::worker::Packing;
pub use emulator::NoEmulator;
pub use error::StepError;
use forms::Forms;

/// Executes the steps of one build.
pub struct BuildExecutor<'a> {
    /// The store.
    pub store: &'a Store,
    /// Layers in the form a step needs.
    pub forms: &'a Forms<'a>,
    /// Where local files come from.
    pub contexts: &'a Contexts,
    /// Where sources of ADD that are URLs come from.
    pub downloads: &'a Downloads,
    /// Where repositories come from.
    pub repositories: &'a Repositories,
    /// Secrets and agents.
    pub lent: Lent,
    /// Devices of this machine.
    pub devices: Devices,
    /// Which vertices' results a RUN will have below it ([`run_upon`]).
    pub run_upon: Vec<bool>,
    /// Which vertices a RUN comes after ([`leads_to_run`]).
    pub leads_to_run: Vec<bool>,
    /// Copies of files of contexts that change under the build.
    pub held: Mutex<Vec<TmpDir>>,
    /// RUNs that may still begin ([`runs`]).
    pub runs_left: AtomicIsize,
    /// How layers of the vertices that are exported are packed at once; the others are not compressed.
    pub packing: Packing,
    /// Which vertices' layers are exported.
    pub exported: Vec<bool>,
    /// Looks after the space on the disk.
    pub room: &'a room::Room,
    /// Whether the digests of their tars are all that is asked for.
    pub diff_ids: bool,
    /// Packs exported layers while others are made.
    pub ahead: ahead::Ahead,
    /// Takes the output of RUNs.
    pub reporter: &'a dyn Reporter,
    /// Ends running steps.
    pub cancel: Cancel,
    /// Full logs of this build's steps.
    pub logs: log::StepLogs,
}

impl std::fmt::Debug for BuildExecutor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildExecutor").field("store", &self.store.root()).finish_non_exhaustive()
    }
}

/// What a step reads, looked at before its key is known.
#[derive(Debug)]
pub enum Selection {
    /// Nothing but its parent.
    Nothing,
    /// COPY and ADD.
    Copy(copy::Selection),
    /// COPY of what another build has selected from the same files.
    Known,
    /// RUN, through its mounts.
    Run(mounts::Sources),
}

impl Executor for BuildExecutor<'_> {
    type Selection = Selection;
    type Error = StepError;

    fn select(&self, step: &Step<'_>) -> Result<(Inputs, Self::Selection), StepError> {
        match &step.vertex.op {
            Op::Copy(op) => {
                let (lists, source) = (self.store.lists(), copy::source_key(step, op));
                if let Some(source) = &source
                    && let Some(files) = lists.by_source(source)?
                {
                    return Ok((Inputs { files: Some(files), ..Inputs::default() }, Selection::Known));
                }
                let selection = copy::select(self, step, op)?;
                let files = selection.list(self.store, op)?;
                if let Some(source) = &source {
                    lists.set_by_source(source, &files)?;
                }
                Ok((Inputs { files: Some(files), ..Inputs::default() }, Selection::Copy(selection)))
            }
            Op::Run(op) => {
                let sources = mounts::select(self, step, op)?;
                Ok((Inputs { mounts: sources.inputs(), ..Inputs::default() }, Selection::Run(sources)))
            }
            _ => Ok((Inputs::default(), Selection::Nothing)),
        }
    }

    fn expect(&self, step: VertexId) {
        if self.leads_to_run[step.0] {
            self.forms.expect_worker();
        }
    }

    fn is_current(&self, selection: &Self::Selection) -> bool {
        match selection {
            Selection::Copy(selection) => selection.is_current(self),
            Selection::Run(sources) => sources.are_current(self),
            Selection::Nothing | Selection::Known => true,
        }
    }

    fn complete(&self, step: &Step<'_>, selection: Self::Selection) -> Result<Self::Selection, StepError> {
        match (&step.vertex.op, selection) {
            (Op::Copy(op), Selection::Known) => {
                let selection = copy::select(self, step, op)?;
                // The key names it, and it may have been pruned since.
                selection.list(self.store, op)?;
                Ok(Selection::Copy(selection))
            }
            (_, selection) => Ok(selection),
        }
    }

    fn below(&self, step: &Step<'_>, selection: &Self::Selection) -> Result<Option<ListId>, StepError> {
        let (Op::Copy(op), Selection::Copy(selection)) = (&step.vertex.op, selection) else { return Ok(None) };
        copy::below(self, step, op, selection)
    }

    fn execute(&self, step: &Step<'_>, selection: Self::Selection) -> Result<Made, StepError> {
        self.room.watch();
        match (&step.vertex.op, selection) {
            (Op::Run(op), Selection::Run(sources)) => run::run(self, step, op, sources),
            (Op::Copy(op), Selection::Copy(selection)) => copy::write(self, step, op, selection),
            (Op::Workdir(op), _) => workdir::make(self, step, op),
            _ => unreachable!("scratch and images are no steps, and COPY and RUN are selected first"),
        }
    }

    fn reads_early(&self, vertex: &Vertex) -> bool {
        // What is fetched is shown in the step's own line.
        matches!(&vertex.op, Op::Copy(op) if matches!(op.source, CopySource::Context(_)) && op.remotes.is_empty())
    }

    fn settled(&self, vertex: VertexId, layer: &LayerId) {
        if self.exported[vertex.0] {
            self.ahead.push(*layer);
        }
    }

    fn size_bytes(&self, layer: &LayerId) -> u64 {
        self.forms.content_bytes(layer).unwrap_or(0)
    }

    fn gives_way(&self) {
        become_batch_job();
    }

    fn cancel(&self) {
        // Not a second wish of the user's: what is being stopped keeps its grace.
        self.cancel.ask();
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// How many RUNs there are.
pub fn runs(graph: &Graph) -> isize {
    graph.vertices.iter().filter(|vertex| matches!(vertex.op, Op::Run(_))).count() as isize
}

/// Whether some RUN is to be privileged.
pub fn has_privileged(graph: &Graph) -> bool {
    graph.vertices.iter().any(|vertex| matches!(&vertex.op, Op::Run(run) if run.insecure))
}

/// Which vertices' results lie below a RUN, by its parent or by a mount, and be it by layers on top of them.
pub fn run_upon(graph: &Graph) -> Vec<bool> {
    let mut upon = vec![false; graph.vertices.len()];
    // Whoever builds on a vertex stands behind it.
    for (number, vertex) in graph.vertices.iter().enumerate().rev() {
        if matches!(vertex.op, Op::Run(_)) {
            for input in vertex.inputs() {
                upon[input.0] = true;
            }
        } else if let Some(parent) = vertex.parent.filter(|_| upon[number]) {
            upon[parent.0] = true;
        }
    }
    upon
}

/// Which vertices are RUNs, or stand below one in whatever way: when such a step has to be done, so has most likely the RUN.
pub fn leads_to_run(graph: &Graph) -> Vec<bool> {
    let mut leads = vec![false; graph.vertices.len()];
    for (number, vertex) in graph.vertices.iter().enumerate().rev() {
        leads[number] |= matches!(vertex.op, Op::Run(_));
        if leads[number] {
            for input in vertex.inputs() {
                leads[input.0] = true;
            }
        }
    }
    leads
}

impl BuildExecutor<'_> {
    /// Whether a RUN will have the result of `id` below it: then its layer is wanted unpacked.
    fn is_run_upon(&self, id: VertexId) -> bool {
        self.run_upon[id.0]
    }

    /// Puts an index into the store, under its id.
    fn put_index(&self, index: &Index) -> Result<LayerId, StepError> {
        Ok(self.store.layers().put_index(index.as_bytes())?)
    }

    /// A step that changed nothing: the canonical empty layer.
    fn empty_layer(&self) -> Result<Made, StepError> {
        let index = Index::empty();
        let layer = self.put_index(&index)?;
        Ok(Made { layer, content: index.content_id(None), inputs: None })
    }

    fn made(&self, index: &Index, content: ContentId) -> Result<Made, StepError> {
        Ok(Made { layer: self.put_index(index)?, content, inputs: None })
    }

    /// The packed form that the layer of a vertex is wanted in first.
    fn packing_of(&self, id: VertexId) -> Packing {
        if self.exported[id.0] { self.packing } else { copy::PLAIN }
    }
}
