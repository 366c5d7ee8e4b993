//! The account of a build: what each step did and why, as it ends. It outlives a build that fails.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use shale_cache::{BuildRecord, BuildStep, Journal, StepStatus, StoreError};

use super::key;
use crate::plan::graph::Graph;

/// Takes the steps of one build, in whatever order they end.
#[derive(Debug, Default)]
pub struct Ledger {
    steps: Mutex<Steps>,
    /// Takes steps as they run, for a build that will be killed. Hits wait until something runs: a cached build writes none.
    journal: Option<Journal>,
    /// The build before this one of the same context and Dockerfile, read when the first step misses.
    previous: Mutex<Option<Arc<Option<BuildRecord>>>>,
    /// Builds before this one of the same context and Dockerfile, the newest first.
    recent: OnceLock<Vec<BuildRecord>>,
    /// What the steps of the graph say, hashed when the first of them asks whether another one has only moved.
    words: OnceLock<HashSet<String>>,
    /// Vertices below which no other result was found: nor will those above them find one.
    without_cause: Mutex<HashSet<usize>>,
}

/// The steps that have ended, in that order.
#[derive(Debug, Default)]
struct Steps {
    all: Vec<BuildStep>,
    /// How many of them the journal has.
    noted: usize,
}

impl Ledger {
    /// An account whose steps also go to a journal.
    pub fn with_journal(journal: Journal) -> Self {
        Self { journal: Some(journal), ..Self::default() }
    }

    /// A step is about to run. Returns what the journal is to have.
    pub(super) fn begins(&self, step: &BuildStep) -> Vec<BuildStep> {
        let begun = BuildStep { status: StepStatus::Running, ..step.clone() };
        self.new_to_the_journal(&mut self.steps.lock().unwrap_or_else(PoisonError::into_inner), Some(begun))
    }

    /// Adds a step that has ended. Returns what the journal is to have.
    pub(super) fn add(&self, step: BuildStep) -> Vec<BuildStep> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hit = matches!(step.status, StepStatus::Hit | StepStatus::CutOffHit);
        steps.all.push(step);
        if is_hit { Vec::new() } else { self.new_to_the_journal(&mut steps, None) }
    }

    fn new_to_the_journal(&self, steps: &mut Steps, begun: Option<BuildStep>) -> Vec<BuildStep> {
        if self.journal.is_none() {
            return Vec::new();
        }
        let new = steps.all[steps.noted..].iter().cloned().chain(begun).collect();
        steps.noted = steps.all.len();
        new
    }

    /// Adds lines to the journal.
    pub(super) fn write(&self, lines: &[BuildStep]) {
        if let Some(journal) = &self.journal {
            journal.add(lines);
        }
    }

    /// The build before this one.
    pub(super) fn previous(
        &self,
        read: impl FnOnce() -> Result<Option<BuildRecord>, StoreError>,
    ) -> Result<Arc<Option<BuildRecord>>, StoreError> {
        let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = previous.as_ref() {
            return Ok(Arc::clone(known));
        }
        Ok(Arc::clone(previous.insert(Arc::new(read()?))))
    }

    /// The builds before this one, the newest first, read when the first step differs from its last run in several ways.
    pub(super) fn recent(&self, read: impl FnOnce() -> Vec<BuildRecord>) -> &[BuildRecord] {
        self.recent.get_or_init(read)
    }

    /// The step of a vertex that has ended.
    pub(super) fn step(&self, number: usize) -> Option<BuildStep> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).all.iter().find(|step| step.number == number).cloned()
    }

    /// Notes that nothing below a vertex explains why it is another one.
    pub(super) fn note_without_cause(&self, number: usize) {
        self.without_cause.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    }

    /// Whether that was noted.
    pub(super) fn is_without_cause(&self, number: usize) -> bool {
        self.without_cause.lock().unwrap_or_else(PoisonError::into_inner).contains(&number)
    }

    /// Whether some step of the graph says the same.
    pub(super) fn has_words(&self, graph: &Graph, words: &str) -> bool {
        self.words.get_or_init(|| graph.vertices.iter().map(key::words).collect()).contains(words)
    }

    /// What was added, in the order of the graph.
    pub fn steps(&self) -> Vec<BuildStep> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).all.clone();
        steps.sort_by_key(|step| step.number);
        steps
    }
}
