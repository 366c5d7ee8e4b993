//! Places for what is not finished, and for what nobody needs any more.
//!
//! Each open store has one directory in `tmp/`, made when it first writes, and a lock `tmp/<id>.lock` next to it that it holds
//! until it ends, however it ends. Files are written in there and renamed to their places. [`Store::reap`](crate::Store::reap)
//! moves the directories whose lock is free to `trash/` and deletes what is there. What cannot be deleted, because it belongs to
//! mapped ids, stays in `trash/` and is reported, for the caller to hand to its worker.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::entry::is_absent;
use crate::error::StoreError;
use crate::lock::FileLock;
use crate::part::Parts;
use crate::remove::{Removed, remove_tree};
use crate::store::Inner;

/// Longer than a new file takes on a busy machine, where none was removed of late ([`Parts`]).
const SLOW: Duration = Duration::from_micros(100);
/// So many slow ones of an open store are each followed at once: what is made there may be a directory for thousands of files.
const FEW_SLOW: u32 = 12;
/// Once there were more of them, which may be the machine's, so many are no coincidence.
const MANY_SLOW: u32 = 3;
/// How often a directory is made until one is fast.
const TRIES: u32 = 4;

/// The directory of one open store in `tmp/`.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    /// Where files and directories are made: `path`, or a directory in it once that became slow.
    place: Mutex<PathBuf>,
    parts: Parts,
    counter: AtomicU64,
    slow: AtomicU32,
    _lock: FileLock,
}

impl Scratch {
    /// Makes the lock first and then the directory: a directory without a lock has no owner.
    pub(crate) fn new(tmp: &Path, parts: Parts) -> Result<Self, StoreError> {
        loop {
            let id = unique_name();
            let Some(lock) = FileLock::try_take(&tmp.join(format!("{id}.lock")))? else { continue };
            let path = tmp.join(id);
            parts.make_dir(&path)?;
            let (counter, slow) = (AtomicU64::new(0), AtomicU32::new(0));
            return Ok(Self { place: Mutex::new(path.clone()), path, parts, counter, slow, _lock: lock });
        }
    }

    /// Makes a directory, where files are made fast if that is easily found.
    pub(crate) fn dir(&self) -> Result<PathBuf, StoreError> {
        let mut tries = 1;
        loop {
            let path = self.fresh();
            let begun = Instant::now();
            make_dir(&path)?;
            if !self.made_in(begun.elapsed()) || tries == TRIES {
                return Ok(path);
            }
            tries += 1;
            // Otherwise it goes with the store's own directory.
            drop(fs::remove_dir(&path));
        }
    }

    /// Makes an empty file, open for reading and writing.
    pub(crate) fn file(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.fresh();
        let begun = Instant::now();
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| StoreError::io("create", &path, error))?;
        self.made_in(begun.elapsed());
        Ok((file, path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self) -> MutexGuard<'_, PathBuf> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> String {
        self.counter.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn fresh(&self) -> PathBuf {
        self.place().join(self.number())
    }

    /// Takes the time in which something was made, and goes elsewhere if that was long, or too often. Whether it did.
    fn made_in(&self, time: Duration) -> bool {
        if time < SLOW {
            return false;
        }
        let slow = self.slow.fetch_add(1, Ordering::Relaxed);
        if slow >= FEW_SLOW && !slow.is_multiple_of(MANY_SLOW) {
            return false;
        }
        let elsewhere = self.path.join(self.number());
        let is_there = self.parts.make_dir_apart(&elsewhere);
        if is_there {
            *self.place() = elsewhere;
        }
        is_there
    }
}

/// A fresh directory on the store's file system. Dropping it deletes it; what cannot be deleted goes to `trash/`.
#[derive(Debug)]
pub struct TmpDir {
    store: Arc<Inner>,
    path: PathBuf,
    is_gone: bool,
}

impl TmpDir {
    pub(crate) fn new(store: &Arc<Inner>) -> Result<Self, StoreError> {
        let path = store.scratch()?.dir()?;
        Ok(Self { store: Arc::clone(store), path, is_gone: false })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Says that the directory was renamed: there is nothing to delete any more.
    pub(crate) fn release(mut self) {
        self.is_gone = true;
    }

    /// Leaves it where it is until the store is closed. Only for what takes next to no room.
    pub fn leave(mut self) {
        self.is_gone = true;
        self.store.has_left.store(true, Ordering::Relaxed);
    }

    /// Deletes the directory now. Returns where in `trash/` the rest of it is, if files of other ids are in it.
    pub fn close(mut self) -> Option<PathBuf> {
        self.is_gone = true;
        self.store.discard(&self.path).1
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        if !self.is_gone {
            self.store.discard(&self.path);
        }
    }
}

impl Inner {
    /// Moves a file or tree out of the way. One that belongs to another id cannot be moved.
    pub(crate) fn move_to_trash(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let to = self.trash().join(unique_name());
        match rename_dir(path, &to) {
            Ok(()) => Ok(to),
            Err(error) => Err(StoreError::io("move to trash/", path, error)),
        }
    }

    /// Makes something gone: moved to `trash/`, or deleted in place where an overlay cannot move what lies in its lower layers.
    pub(crate) fn take_away(&self, path: &Path) -> Result<(), StoreError> {
        match self.move_to_trash(path) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::CrossesDevices => {
                if remove_tree(path).is_incomplete { Err(StoreError::io("delete", path, source)) } else { Ok(()) }
            }
            moved => moved.map(drop),
        }
    }

    /// Deletes a file or tree; what is left of it is moved to `trash/`, and its path returned.
    pub(crate) fn discard(&self, path: &Path) -> (Removed, Option<PathBuf>) {
        let removed = remove_tree(path);
        let left = removed.is_incomplete.then(|| self.move_to_trash(path).unwrap_or_else(|_| path.to_owned()));
        (removed, left)
    }

    /// Deletes what dead processes left. Costs four readings of nearly empty directories when there is nothing.
    pub(crate) fn reap(&self) -> Result<(Removed, Vec<PathBuf>), StoreError> {
        if self.is_read_only() {
            return Ok((Removed::default(), Vec::new()));
        }
        for name in names_in(&self.leases())? {
            drop(FileLock::try_take_existing(&self.leases().join(name))?);
        }
        for name in names_in(&self.tmp())? {
            self.reap_scratch(&name)?;
        }
        for name in names_in(&self.locks())? {
            // Taking and dropping a lock that its holder could not drop removes its file.
            drop(FileLock::try_take_existing(&self.locks().join(name))?);
        }
        self.empty_trash()
    }

    fn reap_scratch(&self, name: &str) -> Result<(), StoreError> {
        let path = self.tmp().join(name);
        if path.extension().is_some_and(|extension| extension == "lock") {
            if let Some(lock) = FileLock::try_take_existing(&path)? {
                self.trash_if_there(&path.with_extension(""))?;
                drop(lock);
            }
        } else if !is_there(&path.with_extension("lock")) {
            // Its lock goes last, and is made first: asked only after the directory was seen, its absence is the owner's.
            self.trash_if_there(&path)?;
        }
        Ok(())
    }

    fn trash_if_there(&self, path: &Path) -> Result<(), StoreError> {
        if !is_there(path) {
            return Ok(());
        }
        match rename_dir(path, &self.trash().join(unique_name())) {
            // Another reaper was faster.
            Err(error) if !is_absent(&error) => Err(StoreError::io("move to trash/", path, error)),
            _ => Ok(()),
        }
    }

    /// Deletes everything in `trash/`, and returns what of it could not be.
    pub(crate) fn empty_trash(&self) -> Result<(Removed, Vec<PathBuf>), StoreError> {
        let (mut total, mut left) = (Removed::default(), Vec::new());
        for name in names_in(&self.trash())? {
            let path = self.trash().join(name);
            let removed = remove_tree(&path);
            if removed.is_incomplete && is_there(&path) {
                left.push(path);
            }
            total.add(removed);
        }
        left.sort();
        Ok((total, left))
    }
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Renames a file or directory to a place whose parent may not exist yet. A directory of ours that we may not write
/// cannot change its parent, so it is made writable for that moment.
pub(crate) fn rename_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    match rename_into(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let before = std::fs::symlink_metadata(from)?;
            if !before.is_dir() {
                return Err(error);
            }
            std::fs::set_permissions(from, Permissions::from_mode(before.permissions().mode() | 0o700))?;
            let renamed = rename_into(from, to);
            let now_at = if renamed.is_ok() { to } else { from };
            std::fs::set_permissions(now_at, before.permissions())?;
            renamed
        }
        other => other,
    }
}

fn rename_into(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_there(from) => {
            let Some(parent) = to.parent() else { return Err(error) };
            // A pruning removes the directory while it is empty.
            let try_again = || make_dirs(parent).and_then(|()| std::fs::rename(from, to));
            (0..10).map(|_| try_again()).find(Result::is_ok).unwrap_or_else(try_again)
        }
        other => other,
    }
}

/// Makes a directory and its parents, for the owner alone.
pub(crate) fn make_dirs(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a directory for the owner alone.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| StoreError::io("create", path, error))
}

/// The names in a directory, in no order; none if it is not there. Names that are not UTF-8 are not ours and left out.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", dir, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| StoreError::io("list", dir, error))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// A name that no other process and no other call makes: `<pid>-<random>`. Without a dot.
pub(crate) fn unique_name() -> String {
    format!("{}-{:016x}", std::process::id(), random_u64())
}

/// A random number, to be unique, not to be secret.
pub(crate) fn random_u64() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 8];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) == Ok(bytes.len()) {
        return u64::from_ne_bytes(bytes);
    }
    // Early in a boot: the standard library's per-process keys, and a counter.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_made_elsewhere_once_one_took_long() {
        let dir = tempfile::tempdir().expect("a directory");
        let scratch = Scratch::new(dir.path(), Parts::of(dir.path())).expect("a place");
        assert!(!scratch.made_in(SLOW), "there is no other place");
        assert_eq!(*scratch.place(), scratch.path());
        std::fs::create_dir_all(dir.path().join("parts/one")).expect("a part");
        assert!(!scratch.made_in(SLOW / 2) && scratch.made_in(SLOW));
        let elsewhere = scratch.place().clone();
        assert_eq!(elsewhere.parent(), Some(scratch.path()));
        assert_eq!(scratch.fresh().parent(), Some(elsewhere.as_path()));
        assert!(elsewhere.is_dir());
    }

    /// Where everything takes long, not every file has a directory of its own.
    #[test]
    fn a_slow_machine_is_no_reason_to_go_elsewhere_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("parts/one")).expect("a part");
        let scratch = Scratch::new(dir.path(), Parts::of(dir.path())).expect("a place");
        let gone = (0..FEW_SLOW + 30 * MANY_SLOW).filter(|_| scratch.made_in(SLOW)).count();
        assert_eq!(gone, (FEW_SLOW + 30) as usize);
    }
}
