//! A local directory as a [`crate::tree::Tree`]: the ignore rules applied, digests through the stat cache.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::ContextError;
use super::held::{Held, HeldFile};
use crate::scoped::open_scoped;
use crate::source::ignore::{Ignore, MatchState};
use crate::source::statcache::{Fingerprint, Horizon, LoadNote, Loading, Saved};
use crate::threads::in_parallel;
use crate::tree::entry::{ContentDigest, file_name, join, parent};
use crate::tree::index::is_below;
use crate::tree::walk::{Stat, list, node_kind, stat_at};
use crate::tree::{Node, NodeKind};

/// Each hashing thread reads through a buffer of this size, however large the file is.
const BUFFER_BYTES: usize = 256 << 10;
/// Hashing waits for the disk at least as often as for the processor.
const THREADS_PER_CORE: usize = 2;
const MAX_THREADS: usize = 16;
/// Fewer paths are looked up by one thread: to wake another takes as long.
const MIN_KNOWN_AT_ONCE: usize = 1000;

#[derive(Debug)]
pub(super) struct Directory {
    root: OwnedFd,
    ignore: Ignore,
    /// A path that is not there for this build: that of its own store.
    left_out: Option<Vec<u8>>,
    /// The match states of directories met so far.
    states: Mutex<HashMap<Vec<u8>, Arc<MatchState>>>,
    /// Whether an ignored directory holds something visible.
    openings: Mutex<HashMap<Vec<u8>, bool>>,
    cache: Loading,
    horizon: Horizon,
    /// One batch is hashed at a time: a second one most likely asks for the same files.
    hashing: Mutex<()>,
    hashed: AtomicUsize,
    held: Held,
    threads: usize,
}

/// The maps are valid after every statement, so a thread that panicked while it held one leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    pub(super) fn new(root: OwnedFd, cache_file: Option<PathBuf>) -> Self {
        // Before anything is stat'ed: what is written from here on may be changed again without a trace.
        let horizon = Horizon::now(&root);
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            root,
            ignore: Ignore::none(),
            left_out: None,
            states: Mutex::default(),
            openings: Mutex::default(),
            cache: Loading::begin(cache_file),
            horizon,
            hashing: Mutex::default(),
            hashed: AtomicUsize::new(0),
            held: Held::default(),
            threads: (cores * THREADS_PER_CORE).min(MAX_THREADS),
        }
    }

    pub(super) fn set_ignore(&mut self, ignore: Ignore) {
        self.ignore = ignore;
        lock(&self.states).clear();
        lock(&self.openings).clear();
    }

    /// Leaves out a path with all below it, whatever the rules say.
    pub(super) fn leave_out(&mut self, path: Vec<u8>) {
        self.left_out = Some(path);
    }

    /// What is left out although the rules would show it.
    pub(super) fn left_out(&self) -> Option<&[u8]> {
        self.left_out.as_deref().filter(|path| !self.ignore.ignores_child(&self.state(parent(path)), path))
    }

    fn is_left_out(&self, path: &[u8]) -> bool {
        self.left_out.as_deref().is_some_and(|out| path == out || is_below(path, out))
    }

    pub(super) fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn stat_cache_note(&self) -> Option<&LoadNote> {
        self.cache.get().note()
    }

    pub(super) fn hashed_files(&self) -> usize {
        self.hashed.load(Ordering::Relaxed)
    }

    pub(super) fn save_stat_cache(&self) -> io::Result<Saved> {
        self.cache.file().map_or(Ok(Saved::default()), |file| self.cache.get().save(file, &self.horizon))
    }

    /// Whether files changed since this build looked at them that are not held yet.
    pub(super) fn has_changed(&self) -> bool {
        self.cache.get().has_changed()
    }

    /// Copies them into an empty directory, and says whether there were any. For one caller at a time.
    pub(super) fn hold_changed(&self, dir: &Path) -> Result<bool, ContextError> {
        let mut holds = false;
        let changed = self.cache.get().take_changed().into_iter().filter(|path| self.held.get(path).is_none());
        for (number, path) in changed.enumerate() {
            // What has gone is told by the next look.
            let Ok(file) = open_regular(self.root.as_fd(), &path) else { continue };
            let stat = stat_fd(&file).map_err(ContextError::io("stat", &path))?;
            let copy = HeldFile::copy(file, stat.size, stat.mtime, &dir.join(number.to_string()));
            self.held.put(path.clone(), copy.map_err(ContextError::io("copy", &path))?);
            holds = true;
        }
        Ok(holds)
    }

    pub(super) fn held(&self, path: &[u8]) -> Option<HeldFile> {
        self.held.get(path)
    }

    pub(super) fn exists(&self, path: &[u8]) -> bool {
        check(path).is_ok() && matches!(self.find(path), Ok(Some(_)))
    }

    pub(super) fn node(&self, path: &[u8]) -> Result<Option<Node>, ContextError> {
        check(path)?;
        let Some((dir, name, stat)) = self.find(path).map_err(ContextError::io("stat", path))? else { return Ok(None) };
        if !path.is_empty() && !self.is_visible(path, stat.is_dir())? {
            return Ok(None);
        }
        self.describe(dir.as_fd(), &name, path.to_vec(), &stat)
    }

    pub(super) fn children(&self, path: &[u8]) -> Result<Vec<Node>, ContextError> {
        check(path)?;
        let dir = open_directory(self.root.as_fd(), path).map_err(ContextError::io("open", path))?;
        let state = self.state(path);
        let names = list(dir.as_fd()).map_err(ContextError::io("list", path))?;
        let mut nodes = Vec::with_capacity(names.len());
        for (name, file_type) in names.iter() {
            let child = join(path, name.to_bytes());
            if self.is_left_out(&child) {
                continue;
            }
            let ignored = self.ignore.ignores_child(&state, &child);
            if ignored && !matches!(file_type, FileType::Directory | FileType::Unknown) {
                continue;
            }
            let Some(stat) = stat_or_gone(dir.as_fd(), name).map_err(ContextError::io("stat", &child))? else { continue };
            if ignored && !(stat.is_dir() && self.has_opening(&child)?) {
                continue;
            }
            nodes.extend(self.describe(dir.as_fd(), name, child, &stat)?);
        }
        Ok(nodes)
    }

    pub(super) fn digests(&self, paths: &[&[u8]]) -> Result<Vec<ContentDigest>, ContextError> {
        let mut digests: Vec<_> = if paths.len() < MIN_KNOWN_AT_ONCE {
            paths.iter().map(|path| self.known(path)).collect()
        } else {
            paths.par_iter().map(|path| self.known(path)).collect()
        };
        if digests.iter().any(Option::is_none) {
            let _one_batch = lock(&self.hashing);
            let missing: Vec<_> = (0..paths.len()).filter(|i| digests[*i].is_none()).collect();
            for (i, digest) in missing.iter().zip(self.hash_all(&missing, paths)?) {
                digests[*i] = Some(digest);
            }
        }
        Ok(digests.into_iter().map(|digest| digest.expect("each was known or has been hashed")).collect())
    }

    fn known(&self, path: &[u8]) -> Option<ContentDigest> {
        self.held.get(path).map(|held| held.digest).or_else(|| self.cache.get().digest(path))
    }

    /// Hashes the files with the given numbers on several threads; the first error stops all.
    fn hash_all(&self, numbers: &[usize], paths: &[&[u8]]) -> Result<Vec<ContentDigest>, ContextError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<Vec<(usize, ContentDigest)>, ContextError> {
            let (mut buffer, mut done) = (vec![0; BUFFER_BYTES], Vec::new());
            while !failed.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(number) = numbers.get(i) else { break };
                let path = paths[*number];
                // The batch before this one may have hashed it.
                let digest = self.known(path).map_or_else(|| self.hash(path, &mut buffer), Ok);
                done.push((i, digest.inspect_err(|_| failed.store(true, Ordering::Relaxed))?));
            }
            Ok(done)
        };
        let mut digests = vec![[0; 32]; numbers.len()];
        for part in in_parallel(self.threads.min(numbers.len()), work) {
            for (i, digest) in part? {
                digests[i] = digest;
            }
        }
        Ok(digests)
    }

    /// Hashes one file. What changes meanwhile is hashed once more, then given up: only a copy of it could be hashed.
    fn hash(&self, path: &[u8], buffer: &mut [u8]) -> Result<ContentDigest, ContextError> {
        if matches!(self.find(path), Ok(Some((_, _, stat))) if stat.file_type() == FileType::Socket) {
            return Ok(*blake3::hash(b"").as_bytes());
        }
        for _ in 0..2 {
            // It was there when its directory was listed.
            let mut file = match open_regular(self.root.as_fd(), path) {
                Err(ContextError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => break,
                opened => opened?,
            };
            let look = |file: &File| stat_fd(file).map(|stat| Fingerprint::from(&stat)).map_err(ContextError::io("stat", path));
            let before = look(&file)?;
            let (digest, size) = hash_stream(&mut file, buffer).map_err(ContextError::io("read", path))?;
            let after = look(&file)?;
            self.hashed.fetch_add(1, Ordering::Relaxed);
            if before == after && size == after.size {
                self.cache.get().insert(path, after, digest);
                return Ok(digest);
            }
        }
        self.cache.get().note_changed(path, None);
        Err(ContextError::Changed { path: path.to_vec() })
    }

    /// The open parent, the name in it, and the stat of a path, if it exists. No symlink on the way counts as existing.
    fn find(&self, path: &[u8]) -> io::Result<Option<(OwnedFd, CString, Stat)>> {
        let dir = match open_beneath(self.root.as_fd(), parent(path), OFlags::PATH | OFlags::DIRECTORY) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let name = if path.is_empty() { b"." } else { file_name(path) };
        let Ok(name) = CString::new(name) else { return Ok(None) };
        Ok(stat_or_gone(dir.as_fd(), &name)?.map(|stat| (dir, name, stat)))
    }

    /// The node of what was found; `None` if it vanished meanwhile.
    fn describe(&self, dir: BorrowedFd<'_>, name: &CStr, path: Vec<u8>, stat: &Stat) -> Result<Option<Node>, ContextError> {
        let mut target = Vec::new();
        if stat.file_type() == FileType::Symlink {
            target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(error) => return Err(ContextError::io("read the link", &path)(error.into())),
            };
        }
        let kind = match node_kind(stat, &target) {
            // What BuildKit's transfer makes of it.
            NodeKind::Socket => NodeKind::File { size: 0, inode: None },
            kind => kind,
        };
        let held = self.held.get(&path).filter(|_| matches!(kind, NodeKind::File { .. }));
        let (kind, mtime) = match &held {
            Some(held) => (NodeKind::File { size: held.size_bytes, inode: None }, held.mtime),
            None => (kind, stat.mtime),
        };
        if matches!(kind, NodeKind::File { .. }) && held.is_none() {
            // From here on the cache vouches for the file, if it looks as it did.
            self.cache.get().lookup(&path, &Fingerprint::from(stat));
        }
        Ok(Some(Node { path, kind, mode: stat.mode & 0o7777, uid: 0, gid: 0, mtime, xattrs: BTreeMap::new() }))
    }

    /// Whether a path is there for COPY: not ignored, or a directory on the way to something that is not.
    fn is_visible(&self, path: &[u8], is_dir: bool) -> Result<bool, ContextError> {
        if self.is_left_out(path) {
            return Ok(false);
        }
        if !self.ignore.ignores_child(&self.state(parent(path)), path) {
            return Ok(true);
        }
        Ok(is_dir && self.has_opening(path)?)
    }

    /// Whether an ignored directory holds something visible. Looks only where a `!` pattern may match.
    fn has_opening(&self, path: &[u8]) -> Result<bool, ContextError> {
        let state = self.state(path);
        if self.ignore.can_prune(&state, path) {
            return Ok(false);
        }
        if let Some(known) = lock(&self.openings).get(path) {
            return Ok(*known);
        }
        let found = self.search_opening(path, &state)?;
        lock(&self.openings).insert(path.to_vec(), found);
        Ok(found)
    }

    fn search_opening(&self, path: &[u8], state: &MatchState) -> Result<bool, ContextError> {
        let dir = match open_directory(self.root.as_fd(), path) {
            Ok(dir) => dir,
            // What is ignored need not be readable.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => return Ok(false),
            Err(error) => return Err(ContextError::io("open", path)(error)),
        };
        let mut below = Vec::new();
        for (name, file_type) in list(dir.as_fd()).map_err(ContextError::io("list", path))?.iter() {
            let child = join(path, name.to_bytes());
            if !self.ignore.ignores_child(state, &child) {
                return Ok(true);
            }
            let is_dir = match file_type {
                FileType::Unknown => stat_or_gone(dir.as_fd(), name).is_ok_and(|stat| stat.is_some_and(|s| s.is_dir())),
                known => known == FileType::Directory,
            };
            if is_dir {
                below.push(child);
            }
        }
        drop(dir);
        for child in below {
            if self.has_opening(&child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The match state of a directory, remembered.
    fn state(&self, dir: &[u8]) -> Arc<MatchState> {
        if self.ignore.is_empty() {
            return Arc::default();
        }
        if let Some(state) = lock(&self.states).get(dir) {
            return Arc::clone(state);
        }
        let state = if dir.is_empty() { self.ignore.root() } else { self.ignore.enter(&self.state(parent(dir)), dir) };
        let state = Arc::new(state);
        lock(&self.states).insert(dir.to_vec(), Arc::clone(&state));
        state
    }
}

/// Paths come clean from the selection; anything else is refused rather than repaired.
fn check(path: &[u8]) -> Result<(), ContextError> {
    let clean = |component: &[u8]| !matches!(component, b"" | b"." | b"..") && !component.contains(&0);
    if path.is_empty() || path.split(|b| *b == b'/').all(clean) { Ok(()) } else { Err(ContextError::BadPath { path: path.to_vec() }) }
}

fn stat_or_gone(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match stat_at(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn stat_fd(file: impl AsFd) -> io::Result<Stat> {
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    Ok(rustix::fs::statx(file, c"", flags, rustix::fs::StatxFlags::BASIC_STATS)?.into())
}

fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    Ok(open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?)
}

/// Opens a regular file below `root`, never through a symlink.
pub(super) fn open_regular(root: BorrowedFd<'_>, path: &[u8]) -> Result<File, ContextError> {
    check(path)?;
    // A pipe must not block, nor a terminal become ours.
    let opened = open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
    let file = File::from(opened.map_err(|error| match error {
        Errno::LOOP | Errno::NXIO => ContextError::NotRegular { path: path.to_vec() },
        error => ContextError::io("open", path)(error.into()),
    })?);
    let stat = stat_fd(&file).map_err(ContextError::io("stat", path))?;
    if stat.is_file() { Ok(file) } else { Err(ContextError::NotRegular { path: path.to_vec() }) }
}

/// Opens a clean path below `root` without following any symlink; the empty path is the root.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match open_scoped(root, path, flags, resolve) {
        // An old kernel, or a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_steps(root, path, flags),
        other => other,
    }
}

/// What openat2 does, one component at a time.
fn open_by_steps(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir: Option<OwnedFd> = None;
    for component in parent(path).split(|b| *b == b'/').filter(|c| !c.is_empty()) {
        let from = dir.as_ref().map_or(root, AsFd::as_fd);
        dir = Some(rustix::fs::openat(from, component, step, Mode::empty())?);
    }
    let from = dir.as_ref().map_or(root, AsFd::as_fd);
    rustix::fs::openat(from, file_name(path), flags, Mode::empty())
}

/// Hashes a stream to its end through a fixed buffer. No mmap: a file that is cut short under a mapping kills the process.
pub(super) fn hash_stream(stream: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<(ContentDigest, u64)> {
    let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
    loop {
        match stream.read(buffer) {
            Ok(0) => return Ok((*hasher.finalize().as_bytes(), size)),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_fallback_without_openat2_refuses_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/f"), "x").unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let root = crate::tree::walk::open_dir(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, ok) in [("a/b/f", true), ("a/b", true), ("link/b/f", false), ("out", false), ("a/x", false), ("a/b/f/g", false)] {
            assert_eq!(open_by_steps(root.as_fd(), path.as_bytes(), flags).is_ok(), ok, "{path}");
            assert_eq!(open_beneath(root.as_fd(), path.as_bytes(), flags).is_ok(), ok, "{path}");
        }
    }

    #[test]
    fn unclean_paths_are_refused() {
        for path in ["/a", "a/", "a//b", "..", "a/../b", "./a", "a\0b"] {
            assert!(matches!(check(path.as_bytes()), Err(ContextError::BadPath { .. })), "{path}");
        }
    }
}
