//! Maps that most builds leave empty, and that are asked for every file: as long as nothing was put into them no lock is taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A map behind a lock. It must be valid after every statement: a thread that panics while it writes poisons nothing.
#[derive(Debug, Default)]
pub(super) struct Seldom<M> {
    is_used: AtomicBool,
    map: RwLock<M>,
}

impl<M> Seldom<M> {
    /// The map, `None` if nobody wrote yet.
    pub(super) fn read(&self) -> Option<RwLockReadGuard<'_, M>> {
        self.is_used.load(Ordering::Acquire).then(|| self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The map, to be written.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, M> {
        let map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        // Whoever sees this waits for the lock.
        self.is_used.store(true, Ordering::Release);
        map
    }
}
