//! The worker of a build: started by whoever needs it first, or ahead of that on a thread of its own.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};

use shale_cache::MapId;

use super::{Forms, lock};
use crate::execute::StepError;
use crate::sandbox::SandboxError;
use crate::worker::{Worker, WorkerConfig};

/// The worker, its map of ids, and the one that is on its way out.
#[derive(Debug, Default)]
pub(super) struct Staff {
    state: Mutex<State>,
    map: OnceLock<MapId>,
    leaving: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Absent,
    Starting(JoinHandle<Result<Worker, SandboxError>>),
    Ready(Arc<Worker>),
}

impl Staff {
    /// Whether there is one, or soon will be.
    pub(super) fn is_there(&self) -> bool {
        !matches!(*lock(&self.state), State::Absent)
    }
}

impl State {
    /// Returns when no process is left. One that starts is one that nobody asked for after all.
    fn end(self) {
        match self {
            Self::Absent => {}
            Self::Starting(thread) => drop(thread.join()),
            Self::Ready(worker) => drop(worker),
        }
    }
}

impl Drop for Staff {
    fn drop(&mut self) {
        std::mem::take(&mut *lock(&self.state)).end();
        if let Some(thread) = lock(&self.leaving).take() {
            drop(thread.join());
        }
    }
}

impl Forms<'_> {
    /// The worker, started by the first who asks unless that was done ahead.
    pub fn worker(&self) -> Result<Arc<Worker>, StepError> {
        let mut state = lock(&self.staff.state);
        let started = match std::mem::take(&mut *state) {
            State::Ready(worker) => Ok(worker),
            State::Starting(thread) => thread.join().unwrap_or(Err(SandboxError::Gone("while it started"))).map(Arc::new),
            State::Absent => Worker::start(&self.worker_config()).map(Arc::new),
        };
        let worker = started?;
        *state = State::Ready(Arc::clone(&worker));
        Ok(worker)
    }

    /// Has the worker started while something else is done: it will be needed. That it cannot be started is told to who asks for it.
    pub fn expect_worker(&self) {
        let mut state = lock(&self.staff.state);
        if matches!(*state, State::Absent) {
            let config = self.worker_config();
            if let Ok(thread) = thread::Builder::new().name("start".into()).spawn(move || Worker::start(&config)) {
                *state = State::Starting(thread);
            }
        }
    }

    /// Lets the worker end while something else is done: it is hardly needed any more. Who does need one has another one started.
    pub fn dismiss_worker(&self) {
        let state = std::mem::take(&mut *lock(&self.staff.state));
        if matches!(state, State::Absent) {
            return;
        }
        let mut leaving = lock(&self.staff.leaving);
        let before = leaving.take();
        *leaving = thread::Builder::new()
            .name("end".into())
            .spawn(move || {
                drop(before.map(JoinHandle::join));
                state.end();
            })
            .ok();
    }

    /// The name of the id map that unpacked forms are made under. No worker is needed for it.
    pub fn map_id(&self) -> Result<MapId, StepError> {
        if let Some(map) = self.staff.map.get() {
            return Ok(map.clone());
        }
        // Where no map can be, the worker's start says why.
        let map = Worker::map_id_here().or_else(|_| self.worker().map(|worker| worker.map_id()))?;
        Ok(self.staff.map.get_or_init(|| map).clone())
    }

    fn worker_config(&self) -> WorkerConfig {
        WorkerConfig { store_root: self.store.root().to_owned(), privileged: self.privileged }
    }
}
