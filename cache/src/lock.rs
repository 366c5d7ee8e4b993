//! Locks that a dying process releases, and whose files do not pile up.
//!
//! A lock is a `flock` on a file of its own. The holder removes the file before it lets go, or gives it another name for its next lock
//! ([`Leftover`]), so whoever waits for the lock or gets it has to check that its file is still the one at the path; if not, it starts
//! over. `flock` belongs to the open file description: two threads exclude each other as two processes do, and every descriptor is
//! close-on-exec, so a child process keeps no lock.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::error::StoreError;

/// From here on a waiting caller is told for whom it waits.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// The first pause between two tries; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// What a caller is told while it waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The process that holds the lock, if it has written its id.
    pub holder_pid: Option<u32>,
    /// How long the caller has been waiting.
    pub waited: Duration,
}

/// How a caller waits for a lock.
pub struct Patience<'a> {
    /// Called once, when the wait has lasted for a second.
    pub on_wait: &'a mut dyn FnMut(&Waiting),
    /// Asked about 50 times a second; the wait ends with [`StoreError::WaitCancelled`] when it says `false`.
    pub keep_waiting: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Patience")
    }
}

/// Files of locks that were let go: the next lock renames one of them, the others are removed together, at the end. A new file costs many
/// times that, most of all on ext4, which gives the number of a removed file to no other for some minutes and looks at each of those that
/// it passes over. A build that made and removed a file for each of a thousand steps spent a third of its time on that.
#[derive(Debug, Default)]
pub(crate) struct Leftover(Mutex<Vec<(Arc<File>, PathBuf)>>);

impl Leftover {
    /// Takes a lock that nobody holds, with a file that is left; `None` if there is none that can be had, or the lock has a file of its own.
    fn try_take(&self, path: &Path) -> Result<Option<FileLock>, StoreError> {
        let Some((file, from)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return Ok(None) };
        // Whoever has it by now removes it.
        if !try_flock(&file, FlockOperation::NonBlockingLockExclusive, &from)? || !is_still_at(&file, &from)? {
            return Ok(None);
        }
        if rustix::fs::renameat_with(CWD, &from, CWD, path, RenameFlags::NOREPLACE).is_ok() {
            return Ok(Some(FileLock { file, path: path.to_owned(), leftover: None }));
        }
        // Removes it.
        drop(FileLock { file, path: from, leftover: None });
        Ok(None)
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        for (_, path) in std::mem::take(self.0.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            // Who holds it now removes it.
            drop(FileLock::try_take_existing(&path));
        }
    }
}

/// A held lock. Dropping it removes the file and lets go.
#[derive(Debug)]
pub(crate) struct FileLock {
    file: Arc<File>,
    path: PathBuf,
    leftover: Option<Arc<Leftover>>,
}

impl FileLock {
    /// Takes the lock if nobody holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        Ok(Self::try_now(path)?.ok())
    }

    /// Takes the lock, waiting for whoever holds it.
    pub(crate) fn take(path: &Path, patience: &mut Patience<'_>) -> Result<Self, StoreError> {
        let mut wait = Wait::new();
        loop {
            match Self::try_now(path)? {
                Ok(lock) => return Ok(lock),
                Err(file) => wait.pause(path, patience, || read_pid(&file))?,
            }
        }
    }

    /// Takes the lock, waiting for whoever holds it, with a file that an earlier lock left if it can, and leaves that for others.
    pub(crate) fn take_with(leftover: &Arc<Leftover>, path: &Path, patience: &mut Patience<'_>) -> Result<Self, StoreError> {
        let mut lock = match leftover.try_take(path)? {
            Some(lock) => lock,
            None => Self::take(path, patience)?,
        };
        lock.leftover = Some(Arc::clone(leftover));
        Ok(lock)
    }

    /// The lock, or the file of whoever holds it.
    fn try_now(path: &Path) -> Result<Result<Self, File>, StoreError> {
        loop {
            let file = open_lock_file(path)?;
            let is_got = try_flock(&file, FlockOperation::NonBlockingLockExclusive, path)?;
            // What is no longer there was removed, or is the file of another lock by now.
            if is_still_at(&file, path)? {
                return Ok(if is_got { Ok(Self::held(file, path)) } else { Err(file) });
            }
        }
    }

    /// Takes a lock that is only ever held for moments.
    pub(crate) fn take_quietly(path: &Path) -> Result<Self, StoreError> {
        Self::take(path, &mut Patience { on_wait: &mut |_| {}, keep_waiting: &|| true })
    }

    /// Takes the lock of a file left behind, without making one.
    pub(crate) fn try_take_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match File::options().read(true).write(true).open(path) {
            // A lease that covers everything may not be written, even by its owner; to lock it on a local disk that need not be.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => File::open(path),
            opened => opened,
        };
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", path, error)),
        };
        let taken = try_flock(&file, FlockOperation::NonBlockingLockExclusive, path)? && is_still_at(&file, path)?;
        Ok(taken.then(|| Self { file: Arc::new(file), path: path.to_owned(), leftover: None }))
    }

    /// The locked file: what its holder writes behind its id is for others to read.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn held(mut file: File, path: &Path) -> Self {
        // The pid only serves a message to whoever waits: a full disk must not stop a build here. A file that is new is not
        // truncated: ext4 would write it to the disk at once when it is closed.
        let is_new = file.metadata().is_ok_and(|meta| meta.len() == 0);
        let emptied = if is_new { Ok(()) } else { file.set_len(0).and_then(|()| file.rewind()) };
        drop(emptied.and_then(|()| writeln!(file, "{}", std::process::id())));
        Self { file: Arc::new(file), path: path.to_owned(), leftover: None }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.leftover.is_none() {
            drop(std::fs::remove_file(&self.path));
        }
        // Not left to close(): a child between fork and exec may still share the description.
        let _ = rustix::fs::flock(&*self.file, FlockOperation::Unlock);
        // Only now: who takes the lock with this description does not see that it is held.
        if let Some(leftover) = self.leftover.take() {
            let left = (Arc::clone(&self.file), std::mem::take(&mut self.path));
            leftover.0.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        }
    }
}

/// The pauses of one wait, and the one call of `on_wait`.
pub(crate) struct Wait {
    since: Instant,
    pause: Duration,
    told: bool,
}

impl Wait {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), pause: FIRST_PAUSE, told: false }
    }

    pub(crate) fn pause(
        &mut self,
        path: &Path,
        patience: &mut Patience<'_>,
        holder: impl FnOnce() -> Option<u32>,
    ) -> Result<(), StoreError> {
        if !(patience.keep_waiting)() {
            return Err(StoreError::WaitCancelled { path: path.to_owned() });
        }
        let waited = self.since.elapsed();
        if !self.told && waited >= TELL_AFTER {
            self.told = true;
            (patience.on_wait)(&Waiting { holder_pid: holder(), waited });
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Opens or makes a lock file. The standard library opens everything close-on-exec.
pub(crate) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    let open = || File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(|error| StoreError::io("create", parent, error))?;
            }
            open().map_err(|error| StoreError::io("open", path, error))
        }
        other => other.map_err(|error| StoreError::io("open", path, error)),
    }
}

/// Whether the lock was got; `false` when another description holds it.
pub(crate) fn try_flock(file: &File, operation: FlockOperation, path: &Path) -> Result<bool, StoreError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(StoreError::io("lock", path, error)),
        }
    }
}

fn is_still_at(file: &File, path: &Path) -> Result<bool, StoreError> {
    let own = file.metadata().map_err(|error| StoreError::io("stat", path, error))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(there.ino() == own.ino() && there.dev() == own.dev()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("stat", path, error)),
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut file = file;
    file.rewind().ok()?;
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lock_excludes_and_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("locks/one");
        let lock = FileLock::try_take(&path).expect("no error").expect("free");
        assert!(FileLock::try_take(&path).expect("no error").is_none());
        assert!(FileLock::try_take_existing(&path).expect("no error").is_none());
        drop(lock);
        assert!(!path.exists());
        assert!(FileLock::try_take_existing(&path).expect("no error").is_none());
        assert!(!path.exists());
    }

    #[test]
    fn files_of_locks_that_were_let_go_are_removed_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let leftover = Arc::new(Leftover::default());
        let take = |path| take_with(&leftover, path, false).expect("it is free");
        drop((take(&one), take(&two)));
        assert!(one.exists() && two.exists());
        let held = FileLock::take_quietly(&two).expect("it is free");
        drop(leftover);
        assert!(!one.exists() && two.exists(), "one that is held stays");
        drop(held);
        assert!(!two.exists());
    }

    /// Takes a lock as steps do; without patience it is an error if another holds it.
    fn take_with(leftover: &Arc<Leftover>, path: &Path, is_patient: bool) -> Result<FileLock, StoreError> {
        FileLock::take_with(leftover, path, &mut Patience { on_wait: &mut |_| {}, keep_waiting: &|| is_patient })
    }

    #[test]
    fn a_lock_takes_over_the_file_of_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let leftover = Arc::new(Leftover::default());
        let take = |path| take_with(&leftover, path, false);
        let number = |lock: FileLock| lock.file().metadata().expect("a file").ino();

        let first = number(take(&one).expect("it is free"));
        assert_eq!(number(take(&two).expect("it is free")), first);
        assert!(!one.exists() && two.exists());

        // One that another process holds is not taken from it, and what is left then is of use to nobody.
        let others = FileLock::take_quietly(&one).expect("it is free");
        take(&one).expect_err("it is held");
        assert!(one.exists() && !two.exists());
        drop(others);

        // Nor one whose file is another's by now.
        drop(take(&one));
        let others = FileLock::take_quietly(&one).expect("it is free");
        drop(take(&two).expect("it is free"));
        assert!(FileLock::try_take(&one).expect("no error").is_none());
        drop(others);
        assert!(!one.exists());
        drop(leftover);
        assert!(!two.exists());
    }

    /// The file under a waiter's descriptor is removed or renamed with every release; two holders at once would show here.
    #[test]
    fn at_most_one_thread_holds_a_lock_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = ["one", "two"].map(|name| dir.path().join(name));
        let (are_held, taken) = ([AtomicBool::new(false), AtomicBool::new(false)], AtomicUsize::new(0));
        let hold = |n: usize, lock: FileLock| {
            assert!(!are_held[n].swap(true, Ordering::SeqCst));
            std::thread::yield_now();
            assert!(are_held[n].swap(false, Ordering::SeqCst));
            taken.fetch_add(1, Ordering::Relaxed);
            drop(lock);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| hold(0, FileLock::take_quietly(&paths[0]).expect("a lock"))));
                scope.spawn(|| {
                    let leftover = Arc::new(Leftover::default());
                    (0..100).for_each(|i| hold(i % 2, take_with(&leftover, &paths[i % 2], true).expect("a lock")));
                });
            }
        });
        assert_eq!(taken.into_inner(), 800);
        for path in paths {
            // One that somebody looked at just then is left to the next reaping.
            drop(FileLock::try_take_existing(&path).expect("no error"));
            assert!(!path.exists());
        }
    }

    #[test]
    fn whoever_waits_is_told_once_for_whom_and_can_stop() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one");
        let _lock = FileLock::take_quietly(&path).expect("a lock");
        let mut told = Vec::new();
        let since = Instant::now();
        let mut patience = Patience {
            on_wait: &mut |waiting: &Waiting| told.push(waiting.clone()),
            keep_waiting: &|| since.elapsed() < Duration::from_millis(1200),
        };
        let error = FileLock::take(&path, &mut patience).expect_err("nobody lets go");
        assert!(matches!(error, StoreError::WaitCancelled { path: own } if own == path));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].holder_pid, Some(std::process::id()));
        assert!(told[0].waited >= TELL_AFTER);
    }
}
