//! Trees of mapped ids, for commands that meet them seldom: the worker is started by the first that is met.

use std::path::{Path, PathBuf};

use super::{Worker, WorkerConfig};
use crate::sandbox::SandboxError;

/// A worker that is started when it is needed.
#[derive(Debug)]
pub struct Mapped {
    config: WorkerConfig,
    worker: Option<Result<Worker, String>>,
}

impl Mapped {
    /// Nothing is started yet.
    pub fn new(store_root: &Path) -> Self {
        Self { config: WorkerConfig { store_root: store_root.to_owned(), privileged: false }, worker: None }
    }

    /// The worker, or why there is none.
    pub fn worker(&mut self) -> Result<&Worker, SandboxError> {
        let config = &self.config;
        let slot = self.worker.get_or_insert_with(|| Worker::start(config).map_err(|error| error.to_string()));
        slot.as_ref().map_err(|error| SandboxError::Other(error.clone()))
    }

    /// Allocated bytes of trees; `None` where no worker can tell. As [`shale_cache::MeasureMapped`] asks for it.
    pub fn measure(&mut self, paths: &[PathBuf]) -> Vec<Option<u64>> {
        let measured = self.worker().and_then(|worker| worker.measure(paths));
        measured.unwrap_or_else(|_| vec![None; paths.len()])
    }

    /// The first difference of each unpacked form from its index: directory and index file.
    pub fn compare(&mut self, forms: &[(PathBuf, PathBuf)]) -> Result<Vec<Option<String>>, SandboxError> {
        if forms.is_empty() { Ok(Vec::new()) } else { self.worker()?.compare(forms) }
    }

    /// Deletes trees. Nothing is started for nothing.
    pub fn remove(&mut self, paths: &[PathBuf]) -> Result<(), SandboxError> {
        if paths.is_empty() { Ok(()) } else { self.worker()?.remove(paths) }
    }
}
