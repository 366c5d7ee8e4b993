//! Room on the disk for what a build writes. A thread looks a few times a second, from the first step that is not in the cache on:
//! when a cap of the store is crossed, or soon will be, another process evicts what was used least recently and no build uses. It also has
//! the process ready that looks after the store behind the build, and in a new store the parts of the disk are found that builds use by turns:
//! not behind the build, for who deletes a store as soon as its build is over must not find somebody at work in it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use shale_cache::{Disk, Growth, Policy, Reason, Store};

use crate::worker::{Collection, Successor};

/// How often the disk is looked at.
const PAUSE: Duration = Duration::from_millis(200);
/// After a collection this many times its length passes until the next.
const REST: u32 = 20;

/// What the C library says of `ENOSPC` and `EDQUOT`, and so most programs.
const NO_SPACE: [&[u8]; 2] = [b"no space left on device", b"disk quota exceeded"];

/// The room of one build.
#[derive(Debug)]
pub struct Room {
    collection: Option<Collection>,
    store: Store,
    watch: OnceLock<Arc<Watch>>,
    search: OnceLock<Search>,
}

/// Whether the build is over, and who looks after the store then.
#[derive(Debug, Default)]
struct Watch {
    is_over: Mutex<bool>,
    ended: Condvar,
    successor: Mutex<Option<Successor>>,
}

impl Room {
    /// Nothing is looked at yet. Without a policy nothing ever is.
    pub fn new(store: &Store, policy: Option<Policy>) -> Self {
        let of = |policy| Collection { store_root: store.root().to_owned(), policy, reason: Reason::routine(0, false) };
        Self { collection: policy.map(of), store: store.clone(), watch: OnceLock::new(), search: OnceLock::new() }
    }

    /// From now on something is written.
    pub fn watch(&self) {
        self.search.get_or_init(|| Search::begin(&self.store));
        let Some(collection) = &self.collection else { return };
        self.watch.get_or_init(|| {
            let (watch, collection, growth) = (Arc::new(Watch::default()), collection.clone(), self.store.growth().clone());
            let own = Arc::clone(&watch);
            // Without the thread the caps are looked at when the build is over.
            drop(thread::Builder::new().name("room".into()).spawn(move || own.run(&collection, &growth)));
            watch
        });
    }

    /// The process that is there for what is left to do when the build is over.
    pub fn successor(&self) -> Option<Successor> {
        self.watch.get().and_then(|watch| watch.successor.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// Nothing more is written to the store but by who calls this.
    pub fn settle(&self) {
        if let Some(search) = self.search.get() {
            search.end();
        }
    }

    /// Frees what can be freed on a full disk, and waits for it. Whether anything was.
    pub fn make(&self, is_hidden: bool) -> bool {
        self.collection.as_ref().is_some_and(|asked| Collection { reason: Reason::full(is_hidden), ..asked.clone() }.wait())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.settle();
        if let Some(watch) = self.watch.get() {
            *watch.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
            watch.ended.notify_all();
        }
    }
}

/// The thread that looks for the parts of the disk.
#[derive(Debug)]
struct Search {
    is_over: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Search {
    fn begin(store: &Store) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = if store.has_parts() || store.is_read_only() {
            None
        } else {
            let (own, store) = (Arc::clone(&is_over), store.clone());
            // What is not found now, the next build looks for.
            let find = move || drop(store.find_parts(&|| own.load(Ordering::Relaxed)));
            thread::Builder::new().name("parts".into()).spawn(find).ok()
        };
        Self { is_over, thread: Mutex::new(thread) }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(thread.join());
        }
    }
}

impl Watch {
    fn run(&self, collection: &Collection, growth: &Growth) {
        // Where there can be none now, there may be one at the end.
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = Successor::start(&collection.store_root).ok();
        let (mut pause, mut told) = (Duration::ZERO, 0);
        while !self.is_over_after(pause) {
            pause = PAUSE;
            if collection.policy.is_pressed(&collection.store_root, growth.bytes() - told) {
                let (started, reason) = (Instant::now(), Reason::routine(growth.bytes() - told, growth.has_mounts()));
                told = growth.bytes();
                let collection = Collection { reason, ..collection.clone() };
                drop(collection.start().and_then(|mut child| child.wait()));
                pause = PAUSE.max(started.elapsed() * REST);
            }
        }
    }

    fn is_over_after(&self, pause: Duration) -> bool {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        *self.ended.wait_timeout_while(is_over, pause, |is_over| !*is_over).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// What a failed command has to do with a lack of space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What the store's disk had left when the command had ended.
    pub free_bytes: u64,
    /// There are no inodes left for more files, whatever the bytes.
    pub lacks_inodes: bool,
    /// That is next to nothing. If not, the command only said that it found no space: it deleted what it had written, or wrote it elsewhere.
    pub is_full: bool,
}

impl Lack {
    /// Looks at the disk below `dir` for a command that failed, before what it wrote is deleted. `last_words` are the end of its output.
    pub fn of(dir: &Path, last_words: &[u8]) -> Option<Self> {
        let disk = Disk::of(dir).ok()?;
        let has_said = NO_SPACE.iter().any(|words| last_words.windows(words.len()).any(|part| part.eq_ignore_ascii_case(words)));
        let lacks_inodes = has_said && disk.lacks_inodes;
        let is_full = disk.free_bytes < (disk.total_bytes / 1000).clamp(1 << 20, 64 << 20) || lacks_inodes;
        (is_full || has_said).then_some(Self { free_bytes: disk.free_bytes, lacks_inodes, is_full })
    }
}

/// How a disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fullness {
    /// It has no space.
    Disk,
    /// This user may take no more of it.
    Quota,
}

/// Whether a full disk is at the bottom of an error.
pub fn fullness(error: &(dyn std::error::Error + 'static)) -> Option<Fullness> {
    match error.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull) => Some(Fullness::Disk),
        Some(io::ErrorKind::QuotaExceeded) => Some(Fullness::Quota),
        _ => fullness(error.source()?),
    }
}
