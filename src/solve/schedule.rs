//! The one place with threads for steps: every vertex whose inputs are solved runs at once, up to a limit.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, Builder};

use shale_cache::Store;

use super::event::{Event, Reporter, TaskId};
use super::filing::Filing;
use super::ledger::Ledger;
use super::snapshot::Snapshot;
use super::step::Selected;
use super::{Base, Executor, Site, SolveError, Solved, Source, Step, Tally, reachable, step};
use crate::plan::graph::{BaseId, Graph, Op, Vertex, VertexId};

/// What every step of a build shares.
#[derive(Debug)]
pub struct Solver<'a, E> {
    /// The graph.
    pub graph: &'a Graph,
    /// Records, layers.
    pub store: &'a Store,
    /// The base images, by [`BaseId`].
    pub bases: &'a [Base],
    /// Does the work.
    pub executor: &'a E,
    /// Whose steps these are.
    pub site: Site,
    /// Takes what every step did, also of a build that fails.
    pub ledger: &'a Ledger,
    /// Whether every reason is told in full, and why steps did not run too.
    pub explain: bool,
}

/// How a vertex ended.
pub(super) struct Outcome {
    pub(super) snapshot: Snapshot,
    /// `None` for vertices that are no steps.
    pub(super) hit: Option<bool>,
    /// As [`Step::changed_by`] for whatever stands upon it.
    pub(super) changed_by: Option<Arc<str>>,
}

impl<E: Executor> Solver<'_, E> {
    /// Solves what `roots` need. After the first failure running steps are cancelled and none is begun.
    pub fn solve(&self, roots: &[VertexId], reporter: &dyn Reporter) -> Result<Solved, SolveError<E::Error>> {
        let needed = reachable(self.graph, roots);
        let mut state = State::new(self.graph, &needed, roots, |vertex| self.executor.reads_early(vertex));
        let (sender, results) = mpsc::channel::<Done<E>>();
        let failure = thread::scope(|desk| {
            let filing = Filing::new(self, desk, sender.clone());
            self.solve_all(&mut state, &filing, (&sender, &results), reporter)
        });
        // What was filed last.
        let unfiled =
            || results.try_iter().find_map(|done| if let Done::Unfiled(id, task, error) = done { Some((id, task, error)) } else { None });
        match failure.or_else(unfiled) {
            Some((vertex, task, cause)) => Err(SolveError::Step { vertex, task, cause }),
            None if roots.iter().any(|root| state.snapshots[root.0].is_none()) => Err(SolveError::Cancelled),
            None => Ok(Solved { snapshots: state.snapshots, tally: state.tally }),
        }
    }

    /// Runs whatever can run until nothing is left, or nothing more is to be begun. Returns the first failure.
    fn solve_all(
        &self,
        state: &mut State<E>,
        filing: &Filing<'_, '_, E>,
        (sender, results): (&mpsc::Sender<Done<E>>, &mpsc::Receiver<Done<E>>),
        reporter: &dyn Reporter,
    ) -> Option<Failed<E>> {
        let (mut running, mut failure) = (0, None);
        thread::scope(|scope| {
            loop {
                for id in state.awaited() {
                    state.shown.insert(id, self.show(id, reporter));
                }
                let mut alone = None;
                while running < limit() && failure.is_none() && !self.executor.is_cancelled() {
                    let sender = sender.clone();
                    // The receiver lives as long as the scope.
                    if let Some((id, early)) = state.next() {
                        let task = state.shown.remove(&id).unwrap_or_else(|| self.show(id, reporter));
                        let step = self.step(id, task, state);
                        if running == 0 && !state.has_more() {
                            // Nothing can run beside it: a thread for it would only cost time.
                            alone = Some(Done::Step(id, task, self.one(step, early, filing, reporter)));
                            running = 1;
                            break;
                        }
                        let work = move || sender.send(caught(|| Done::Step(id, task, self.one(step, early, filing, reporter)))).ok();
                        if Builder::new().spawn_scoped(scope, work).is_err() {
                            // The machine has no thread to give: this one does it, whatever it learnt early went with the other.
                            let step = self.step(id, task, state);
                            alone = Some(Done::Step(id, task, self.one(step, None, filing, reporter)));
                            running += 1;
                            break;
                        }
                    } else if let Some(id) = state.next_early() {
                        let work = move || sender.send(caught(|| Done::Early(id, self.early(id)))).ok();
                        if Builder::new().spawn_scoped(scope, work).is_err() {
                            alone = Some(Done::Early(id, self.early(id)));
                            running += 1;
                            break;
                        }
                    } else {
                        break;
                    }
                    running += 1;
                }
                if running == 0 {
                    break;
                }
                let first = alone.unwrap_or_else(|| results.recv().expect("a running step holds a sender"));
                for done in std::iter::once(first).chain(results.try_iter()) {
                    if let Done::Panicked(panic) = done {
                        // The scope waits for the others.
                        self.executor.cancel();
                        resume_unwind(panic);
                    }
                    running -= usize::from(!matches!(done, Done::Unfiled(..)));
                    if let Some(failed) = state.take(self.graph, done) {
                        self.executor.cancel();
                        failure.get_or_insert(failed);
                    }
                }
            }
        });
        failure
    }

    /// What a step reads, before its parent is known. Nothing is shown of it: its turn comes later.
    fn early(&self, id: VertexId) -> Selected<E> {
        let vertex = &self.graph.vertices[id.0];
        let (parent, sources, task) = (Snapshot::scratch(), Vec::new(), TaskId(usize::MAX));
        self.executor.select(&Step { id, vertex, parent, sources, task, is_after_run: false, changed_by: None, former: None })
    }

    /// A step's line in the display, from when its turn has come.
    fn show(&self, id: VertexId, reporter: &dyn Reporter) -> TaskId {
        let (task, vertex) = (reporter.new_task(), &self.graph.vertices[id.0]);
        if vertex.op != Op::Scratch {
            reporter.report(Event::Started { task, name: vertex.name.clone() });
        }
        task
    }

    fn step(&self, id: VertexId, task: TaskId, state: &State<E>) -> Step<'_> {
        let vertex: &Vertex = &self.graph.vertices[id.0];
        let snapshot = |id: VertexId| state.snapshots[id.0].clone().expect("inputs are solved first");
        let inputs = vertex.inputs();
        Step {
            id,
            vertex,
            parent: vertex.parent.map_or_else(Snapshot::scratch, snapshot),
            is_after_run: inputs.iter().any(|input| state.ran[input.0]),
            changed_by: vertex.parent.and_then(|parent| state.changed_by[parent.0].clone()),
            sources: inputs.into_iter().map(|id| Source { id, result: snapshot(id), changed_by: state.changed_by[id.0].clone() }).collect(),
            task,
            former: None,
        }
    }

    fn one(
        &self,
        step: Step<'_>,
        early: Option<Selected<E>>,
        filing: &Filing<'_, '_, E>,
        reporter: &dyn Reporter,
    ) -> Result<Outcome, E::Error> {
        match step.vertex.op {
            Op::Scratch => Ok(Outcome { snapshot: Snapshot::scratch(), hit: None, changed_by: None }),
            Op::Image(BaseId(number)) => {
                reporter.report(Event::Cached { task: step.task });
                Ok(Outcome { snapshot: Snapshot::base(BaseId(number), &self.bases[number].diff_ids), hit: None, changed_by: None })
            }
            _ => step::run(self, step, early, filing, reporter),
        }
    }
}

/// A step that failed, its line in the display, and why.
type Failed<E> = (VertexId, TaskId, <E as Executor>::Error);

/// What a thread did.
pub(super) enum Done<E: Executor> {
    /// A vertex, start to end.
    Step(VertexId, TaskId, Result<Outcome, E::Error>),
    /// A vertex that was solved, and whose record could not be written.
    Unfiled(VertexId, TaskId, E::Error),
    /// What a step selects, before its turn.
    Early(VertexId, Selected<E>),
    /// Neither: a defect of ours.
    Panicked(Box<dyn Any + Send>),
}

/// A thread that panics without a word would be waited for for ever.
fn caught<E: Executor>(work: impl FnOnce() -> Done<E>) -> Done<E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(Done::Panicked)
}

/// How far the selection is of a step that may look at its files before its turn.
enum Early<E: Executor> {
    Running,
    Selected(Selected<E>),
}

/// Progress through the graph; only the coordinating thread touches it.
struct State<E: Executor> {
    snapshots: Vec<Option<Snapshot>>,
    /// How many inputs of each vertex are not solved yet.
    waiting: Vec<usize>,
    /// How many still need a vertex's snapshot. Each names all its layers, so those that nobody needs go: of a thousand steps one stays.
    users: Vec<usize>,
    /// Who waits for each vertex.
    dependents: Vec<Vec<VertexId>>,
    ready: VecDeque<VertexId>,
    /// Who may look at its files before its turn.
    readers: VecDeque<VertexId>,
    /// Who does, or did.
    early: HashMap<VertexId, Early<E>>,
    /// Whose turn has come while their files are still being looked at, with their lines in the display.
    shown: HashMap<VertexId, TaskId>,
    tally: Tally,
    /// Whether a vertex or one before it ran.
    ran: Vec<bool>,
    changed_by: Vec<Option<Arc<str>>>,
}

impl<E: Executor> State<E> {
    fn new(graph: &Graph, needed: &[bool], roots: &[VertexId], reads_early: impl Fn(&Vertex) -> bool) -> Self {
        let count = graph.vertices.len();
        let mut state = Self {
            snapshots: vec![None; count],
            waiting: vec![0; count],
            users: vec![0; count],
            dependents: vec![Vec::new(); count],
            ready: VecDeque::new(),
            readers: VecDeque::new(),
            early: HashMap::new(),
            shown: HashMap::new(),
            tally: Tally::default(),
            ran: vec![false; count],
            changed_by: vec![None; count],
        };
        for root in roots {
            state.users[root.0] += 1;
        }
        for (number, vertex) in graph.vertices.iter().enumerate().filter(|(number, _)| needed[*number]) {
            let inputs = vertex.inputs();
            state.waiting[number] = inputs.len();
            for input in &inputs {
                state.users[input.0] += 1;
                state.dependents[input.0].push(VertexId(number));
            }
            if inputs.is_empty() {
                state.ready.push_back(VertexId(number));
            } else if reads_early(vertex) {
                state.readers.push_back(VertexId(number));
            }
        }
        state
    }

    /// A vertex whose turn it is, with what it selected early. One whose files are being looked at waits for that.
    fn next(&mut self) -> Option<(VertexId, Option<Selected<E>>)> {
        let at = self.ready.iter().position(|id| !matches!(self.early.get(id), Some(Early::Running)))?;
        let id = self.ready.remove(at)?;
        match self.early.remove(&id) {
            Some(Early::Selected(selected)) => Some((id, Some(selected))),
            _ => Some((id, None)),
        }
    }

    /// Whether something can begin before any running step ends.
    fn has_more(&self) -> bool {
        let reads_early = || self.early.len() <= cores() && self.readers.iter().any(|id| self.waiting[id.0] > 0);
        !self.ready.is_empty() || reads_early()
    }

    /// Whose turn has come while their files are being looked at, and who are not shown yet.
    fn awaited(&self) -> Vec<VertexId> {
        let is_running = |id: &&VertexId| matches!(self.early.get(id), Some(Early::Running)) && !self.shown.contains_key(id);
        self.ready.iter().filter(is_running).copied().collect()
    }

    /// A step that nobody has begun and that may look at its files now. No more of them wait for their turn than there are cores, and one:
    /// what a large context selects takes memory, and each ends with work for one core.
    fn next_early(&mut self) -> Option<VertexId> {
        if self.early.len() > cores() {
            return None;
        }
        loop {
            let id = self.readers.pop_front()?;
            // With nothing to wait for it has its turn, or had it.
            if self.waiting[id.0] > 0 {
                self.early.insert(id, Early::Running);
                return Some(id);
            }
        }
    }

    fn selected(&mut self, id: VertexId, selected: Selected<E>) {
        self.early.insert(id, Early::Selected(selected));
    }

    /// Takes note of what a thread did; returns what failed.
    fn take(&mut self, graph: &Graph, done: Done<E>) -> Option<Failed<E>> {
        match done {
            Done::Early(id, selected) => self.selected(id, selected),
            Done::Panicked(panic) => resume_unwind(panic),
            Done::Step(id, _, Ok(outcome)) => self.solved(graph, id, outcome),
            Done::Step(id, task, Err(error)) | Done::Unfiled(id, task, error) => return Some((id, task, error)),
        }
        None
    }

    fn solved(&mut self, graph: &Graph, id: VertexId, outcome: Outcome) {
        match outcome.hit {
            Some(true) => self.tally.hits += 1,
            Some(false) => self.tally.misses += 1,
            None => {}
        }
        self.ran[id.0] = outcome.hit == Some(false) || graph.vertices[id.0].inputs().iter().any(|input| self.ran[input.0]);
        self.changed_by[id.0] = outcome.changed_by;
        self.snapshots[id.0] = Some(outcome.snapshot);
        for input in graph.vertices[id.0].inputs() {
            self.users[input.0] -= 1;
            if self.users[input.0] == 0 {
                self.snapshots[input.0] = None;
            }
        }
        for dependent in std::mem::take(&mut self.dependents[id.0]) {
            self.waiting[dependent.0] -= 1;
            if self.waiting[dependent.0] == 0 {
                self.ready.push_back(dependent);
            }
        }
    }
}

/// Steps at once: more than cores, since many wait for networks, but not so many that they fight for memory.
fn limit() -> usize {
    cores().max(4) * 2
}

/// Cores that this process may use. Asked once: the answer takes a dozen system calls.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests;
