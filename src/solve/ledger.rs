//! The account of a build: what each step did and why, as it ends. It outlives a build that fails.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use shale_cache::{BuildRecord, BuildStep, StoreError};

use super::key;
use crate::plan::graph::Graph;

/// Takes the steps of one build, in whatever order they end.
#[derive(Debug, Default)]
pub struct Ledger {
    steps: Mutex<Vec<BuildStep>>,
    /// The build before this one of the same context and Dockerfile, read when the first step misses.
    previous: Mutex<Option<Arc<Option<BuildRecord>>>>,
    /// What the steps of the graph say, hashed when the first of them asks whether another one has only moved.
    words: OnceLock<HashSet<String>>,
}

impl Ledger {
    /// Adds a step that has ended.
    pub(super) fn add(&self, step: BuildStep) {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
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

    /// Whether some step of the graph says the same.
    pub(super) fn has_words(&self, graph: &Graph, words: &str) -> bool {
        self.words.get_or_init(|| graph.vertices.iter().map(key::words).collect()).contains(words)
    }

    /// What was added, in the order of the graph.
    pub fn steps(&self) -> Vec<BuildStep> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        steps.sort_by_key(|step| step.number);
        steps
    }
}
