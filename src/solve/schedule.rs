//! The one place with threads for steps: every vertex whose inputs are solved runs at once, up to a limit.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;

use shale_cache::{DiffId, Store};

use super::event::{Event, Reporter};
use super::snapshot::Snapshot;
use super::{Executor, Site, SolveError, Solved, Step, Tally, reachable, step};
use crate::plan::graph::{BaseId, Graph, Op, Vertex, VertexId};

/// What every step of a build shares.
#[derive(Debug)]
pub struct Solver<'a, E> {
    /// The graph.
    pub graph: &'a Graph,
    /// Records, layers.
    pub store: &'a Store,
    /// DiffIDs of each base image, by [`BaseId`].
    pub bases: &'a [Vec<DiffId>],
    /// Does the work.
    pub executor: &'a E,
    /// Whose steps these are.
    pub site: Site,
}

/// How a vertex ended.
pub(super) struct Outcome {
    pub(super) snapshot: Snapshot,
    /// `None` for vertices that are no steps.
    pub(super) hit: Option<bool>,
}

impl<E: Executor> Solver<'_, E> {
    /// Solves what `roots` need. After the first failure running steps are cancelled and none is begun.
    pub fn solve(&self, roots: &[VertexId], reporter: &dyn Reporter) -> Result<Solved, SolveError<E::Error>> {
        let needed = reachable(self.graph, roots);
        let mut state = State::new(self.graph, &needed);
        let (sender, results) = mpsc::channel();
        let mut failure = None;
        thread::scope(|scope| {
            let mut running = 0;
            loop {
                while running < limit() && failure.is_none() && !self.executor.is_cancelled() {
                    let Some(id) = state.ready.pop_front() else { break };
                    let step = self.step(id, &state, reporter);
                    let sender = sender.clone();
                    running += 1;
                    scope.spawn(move || {
                        let task = step.task;
                        // The receiver lives as long as the scope.
                        sender.send((id, task, self.one(step, reporter))).ok();
                    });
                }
                if running == 0 {
                    break;
                }
                let (id, task, outcome) = results.recv().expect("a running step holds a sender");
                running -= 1;
                match outcome {
                    Ok(outcome) => state.solved(self.graph, id, outcome),
                    Err(error) => {
                        self.executor.cancel();
                        failure.get_or_insert((id, task, error));
                    }
                }
            }
        });
        match failure {
            Some((vertex, task, cause)) => Err(SolveError::Step { vertex, task, cause }),
            None if roots.iter().any(|root| state.snapshots[root.0].is_none()) => Err(SolveError::Cancelled),
            None => Ok(Solved { snapshots: state.snapshots, tally: state.tally }),
        }
    }

    fn step(&self, id: VertexId, state: &State, reporter: &dyn Reporter) -> Step<'_> {
        let vertex: &Vertex = &self.graph.vertices[id.0];
        let snapshot = |id: VertexId| state.snapshots[id.0].clone().expect("inputs are solved first");
        Step {
            id,
            vertex,
            parent: vertex.parent.map_or_else(Snapshot::scratch, snapshot),
            sources: vertex.inputs().into_iter().map(|id| (id, snapshot(id))).collect(),
            task: reporter.new_task(),
        }
    }

    fn one(&self, step: Step<'_>, reporter: &dyn Reporter) -> Result<Outcome, E::Error> {
        match step.vertex.op {
            Op::Scratch => Ok(Outcome { snapshot: Snapshot::scratch(), hit: None }),
            Op::Image(BaseId(number)) => {
                reporter.report(Event::Started { task: step.task, name: step.vertex.name.clone() });
                reporter.report(Event::Cached { task: step.task });
                Ok(Outcome { snapshot: Snapshot::base(BaseId(number), &self.bases[number]), hit: None })
            }
            _ => step::run(self, &step, reporter),
        }
    }
}

/// Progress through the graph; only the coordinating thread touches it.
struct State {
    snapshots: Vec<Option<Snapshot>>,
    /// How many inputs of each vertex are not solved yet.
    waiting: Vec<usize>,
    /// Who waits for each vertex.
    dependents: Vec<Vec<VertexId>>,
    ready: VecDeque<VertexId>,
    tally: Tally,
}

impl State {
    fn new(graph: &Graph, needed: &[bool]) -> Self {
        let count = graph.vertices.len();
        let mut state = Self {
            snapshots: vec![None; count],
            waiting: vec![0; count],
            dependents: vec![Vec::new(); count],
            ready: VecDeque::new(),
            tally: Tally::default(),
        };
        for (number, vertex) in graph.vertices.iter().enumerate().filter(|(number, _)| needed[*number]) {
            let inputs = vertex.inputs();
            state.waiting[number] = inputs.len();
            for input in &inputs {
                state.dependents[input.0].push(VertexId(number));
            }
            if inputs.is_empty() {
                state.ready.push_back(VertexId(number));
            }
        }
        state
    }

    fn solved(&mut self, graph: &Graph, id: VertexId, outcome: Outcome) {
        debug_assert!(id.0 < graph.vertices.len());
        match outcome.hit {
            Some(true) => self.tally.hits += 1,
            Some(false) => self.tally.misses += 1,
            None => {}
        }
        self.snapshots[id.0] = Some(outcome.snapshot);
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
    thread::available_parallelism().map_or(1, usize::from).max(4) * 2
}
