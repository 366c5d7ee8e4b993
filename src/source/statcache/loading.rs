//! Loading beside other work.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::StatCache;

/// A smaller file, of some thousand entries, is loaded sooner than a thread starts.
const LARGE_BYTES: u64 = 256 << 10;

/// A stat cache that is there when it is asked for. A large one is loaded by a thread of its own: to check its bytes takes as long as a
/// build of a small context until its first look at a file.
#[derive(Debug)]
pub struct Loading {
    file: Option<PathBuf>,
    thread: Mutex<Option<JoinHandle<StatCache>>>,
    loaded: OnceLock<StatCache>,
}

impl Loading {
    /// Begins to load a file; without one the cache remembers for this build only.
    pub fn begin(file: Option<PathBuf>) -> Self {
        let is_large = |file: &&Path| file.metadata().is_ok_and(|meta| meta.len() >= LARGE_BYTES);
        let thread = file.as_deref().filter(is_large).map(Path::to_owned).and_then(|file| {
            // Without a thread whoever asks first loads it.
            Builder::new().name("stat cache".into()).spawn(move || StatCache::load(&file)).ok()
        });
        Self { file, thread: Mutex::new(thread), loaded: OnceLock::new() }
    }

    /// The file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The cache; waits for it.
    pub fn get(&self) -> &StatCache {
        self.loaded.get_or_init(|| {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            let loaded = thread.and_then(|thread| thread.join().ok());
            loaded.unwrap_or_else(|| self.file().map_or_else(StatCache::empty, StatCache::load))
        })
    }
}
