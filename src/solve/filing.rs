//! What a step leaves on paper: its record and its lines in the journal, written by a thread of their own beside the steps that come after.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope};

use shale_cache::{BuildStep, StepRecord, StoreError};

use super::event::TaskId;
use super::schedule::{Done, Solver};
use super::{Executor, Held};
use crate::plan::graph::VertexId;

/// Something to be written.
#[derive(Debug)]
pub(super) enum Paper {
    /// Records of a step that ran. The lock of its key is held until they are there.
    Records { of: (VertexId, TaskId), records: Vec<StepRecord>, lock: Held },
    /// For the journal.
    Lines(Vec<BuildStep>),
}

/// Takes what is to be written. Its thread is started by the first paper, so not by a build that finds everything, and ends when this is
/// dropped.
#[derive(Debug)]
pub(super) struct Filing<'scope, 'env, E: Executor> {
    solver: &'env Solver<'env, E>,
    scope: &'scope Scope<'scope, 'env>,
    /// Hears of records that could not be written.
    results: Sender<Done<E>>,
    desk: Mutex<Option<Sender<Paper>>>,
}

impl<'scope, 'env, E: Executor> Filing<'scope, 'env, E> {
    pub(super) fn new(solver: &'env Solver<'env, E>, scope: &'scope Scope<'scope, 'env>, results: Sender<Done<E>>) -> Self {
        Self { solver, scope, results, desk: Mutex::default() }
    }

    /// Adds lines to the journal, soon.
    pub(super) fn note(&self, lines: Vec<BuildStep>) {
        if !lines.is_empty() {
            self.take(Paper::Lines(lines));
        }
    }

    /// Writes it soon; a record that cannot be written fails its step then.
    pub(super) fn take(&self, paper: Paper) {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if desk.is_none() {
            let (sender, papers) = channel();
            let (solver, results) = (self.solver, self.results.clone());
            let clerk = Builder::new().name("filing".into()).spawn_scoped(self.scope, move || work(solver, &papers, &results));
            *desk = clerk.is_ok().then_some(sender);
        }
        // Without a thread for it, at once.
        let left = match desk.as_ref() {
            Some(desk) => desk.send(paper).err().map(|unsent| unsent.0),
            None => Some(paper),
        };
        if let Some(paper) = left {
            file(self.solver, paper, &self.results);
        }
    }
}

fn work<E: Executor>(solver: &Solver<'_, E>, papers: &Receiver<Paper>, results: &Sender<Done<E>>) {
    solver.executor.gives_way();
    for paper in papers {
        file(solver, paper, results);
    }
}

fn file<E: Executor>(solver: &Solver<'_, E>, paper: Paper, results: &Sender<Done<E>>) {
    match paper {
        Paper::Lines(lines) => solver.ledger.write(&lines),
        Paper::Records { of: (id, task), records, lock } => {
            let filed: Result<(), StoreError> = records.iter().try_for_each(|record| solver.store.steps().put(record));
            drop(lock);
            if let Err(error) = filed {
                // The receiver lives as long as the build.
                results.send(Done::Unfiled(id, task, error.into())).ok();
            }
        }
    }
}
