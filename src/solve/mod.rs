//! Graph → layers: the schedule, the keys, and why a step ran.

mod cause;
pub mod event;
pub mod explain;
mod filing;
pub mod key;
pub mod ledger;
pub mod schedule;
pub mod snapshot;
mod step;

use std::error::Error;
use std::sync::Arc;

use shale_cache::{ContentId, DiffId, KeyLock, LayerId, ListId, StepRecord, StoreError};

use crate::plan::graph::{Graph, Vertex, VertexId};
use event::TaskId;
use key::Inputs;
use snapshot::Snapshot;

/// A vertex that is about to be solved, with everything before it.
#[derive(Debug)]
pub struct Step<'a> {
    /// Which.
    pub id: VertexId,
    /// What it does.
    pub vertex: &'a Vertex,
    /// The filesystem it changes.
    pub parent: Snapshot,
    /// The results of the other vertices that it reads.
    pub sources: Vec<Source>,
    /// Its line in the progress display.
    pub task: TaskId,
    /// Whether a step that it builds upon or reads ran in this build.
    pub is_after_run: bool,
    /// Which of the steps below it made other files than the last time, the first of them, in words.
    pub changed_by: Option<Arc<str>>,
    /// What it made the last time, known when it is executed: none if it is to take nothing of old.
    pub former: Option<StepRecord>,
}

impl Step<'_> {
    /// The result of a vertex that it reads.
    pub fn source(&self, id: VertexId) -> &Snapshot {
        let found = self.sources.iter().find(|source| source.id == id);
        &found.expect("the schedule solves every input first").result
    }
}

/// Another vertex that a step reads.
#[derive(Debug)]
pub struct Source {
    /// Which.
    pub id: VertexId,
    /// Its filesystem.
    pub result: Snapshot,
    /// As [`Step::changed_by`], of it and the steps below it.
    pub changed_by: Option<Arc<str>>,
}

/// What an executed step made: committed to the store, not yet under a key.
#[derive(Debug)]
pub struct Made {
    /// Its index.
    pub layer: LayerId,
    /// Its content.
    pub content: ContentId,
    /// The inputs as they were written or mounted, if the files changed after they had been hashed.
    pub inputs: Option<Inputs>,
}

/// Does what a miss asks for. `solve` sees `execute` through this alone; tests put a recorder here.
pub trait Executor: Sync {
    /// What COPY selected, ready to be written.
    type Selection: Send;
    /// Why a step failed.
    type Error: Error + From<StoreError> + Send + 'static;

    /// Matches and hashes what a step reads; the inputs enter its key.
    fn select(&self, step: &Step<'_>) -> Result<(Inputs, Self::Selection), Self::Error>;
    /// Makes ready for a step that the first look did not find: it will most likely have to be executed.
    fn expect(&self, _step: VertexId) {}
    /// Looks at what a step reads whose inputs were known without that, now that it is not cached.
    fn complete(&self, step: &Step<'_>, selection: Self::Selection) -> Result<Self::Selection, Self::Error>;
    /// What the parent holds where the step writes; `None` if the step has no second look.
    fn below(&self, step: &Step<'_>, selection: &Self::Selection) -> Result<Option<ListId>, Self::Error>;
    /// Runs the step. If it makes what it made before, the result may be the layer of [`Step::former`].
    fn execute(&self, step: &Step<'_>, selection: Self::Selection) -> Result<Made, Self::Error>;
    /// Whether what a step reads can be looked at before the steps in front of it are done: then it may be, on another thread.
    fn reads_early(&self, _vertex: &Vertex) -> bool {
        false
    }
    /// Whether a selection that was made early is still what the step would select: another one may have seen its files change since.
    fn is_current(&self, _selection: &Self::Selection) -> bool {
        true
    }
    /// Takes note that a step ran and which layer its result is: who exports it may begin to pack.
    fn settled(&self, _vertex: VertexId, _layer: &LayerId) {}
    /// Bytes of the files in a layer, for the account of the build: 0 if nobody can tell.
    fn size_bytes(&self, layer: &LayerId) -> u64;
    /// Has the calling thread, which nobody waits for, leave the cores to others.
    fn gives_way(&self) {}
    /// Ends whatever runs, soon: another step failed or the user asked.
    fn cancel(&self);
    /// Whether [`Executor::cancel`] was called.
    fn is_cancelled(&self) -> bool;
}

/// Which build this is, for records of the same step ([`shale_cache::StepSite`]).
#[derive(Clone, Debug)]
pub struct Site {
    /// Identity of the context.
    pub context: String,
    /// Dockerfile name.
    pub dockerfile: String,
}

/// A base image as it was resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// As it is named in the Dockerfile.
    pub name: String,
    /// Digest of its manifest, or of its config where there is no manifest.
    pub digest: String,
    /// Its layers, bottom first.
    pub diff_ids: Vec<DiffId>,
}

/// A build that did not end.
#[derive(Debug)]
pub enum SolveError<E> {
    /// A step failed; the first one that did.
    Step {
        /// Which.
        vertex: VertexId,
        /// Its line in the progress display.
        task: TaskId,
        /// Why.
        cause: E,
    },
    /// The user gave it up before any step failed.
    Cancelled,
}

/// Counts for the record of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps whose result was found.
    pub hits: usize,
    /// Steps that ran.
    pub misses: usize,
}

/// The snapshots of a solved graph, by vertex; `None` where nobody asked for it.
#[derive(Debug)]
pub struct Solved {
    /// By vertex number.
    pub snapshots: Vec<Option<Snapshot>>,
    /// Hits and misses.
    pub tally: Tally,
}

impl Solved {
    /// The snapshot of a vertex that was among the roots.
    pub fn snapshot(&self, id: VertexId) -> &Snapshot {
        self.snapshots[id.0].as_ref().expect("roots are solved")
    }
}

/// Which vertices a set of roots needs.
pub fn reachable(graph: &Graph, roots: &[VertexId]) -> Vec<bool> {
    let mut needed = vec![false; graph.vertices.len()];
    let mut todo = roots.to_vec();
    while let Some(id) = todo.pop() {
        if !std::mem::replace(&mut needed[id.0], true) {
            todo.extend(graph.vertices[id.0].inputs());
        }
    }
    needed
}

/// The lock of a key that is being worked on, or none where the cache is passed by.
type Held = Option<KeyLock>;
