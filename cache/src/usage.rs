//! How much space trees take: allocated bytes, as `du` counts them.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::entry::is_absent;
use crate::error::StoreError;

/// Measures trees that belong to mapped ids, which only a worker can read: allocated bytes for each, `None` where it cannot either.
pub type MeasureMapped<'a> = dyn FnMut(&[PathBuf]) -> Vec<Option<u64>> + 'a;

/// Device and number.
type Inode = (u64, u64);

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Bytes of a path with which a name, of 255 bytes at most, is still taken by the kernel: the limit is 4096.
const LONG: usize = 2048;
const BLOCK_BYTES: u64 = 512;

/// Counts trees, and files with several names once in all of them together.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    seen: HashSet<Inode>,
}

impl Meter {
    /// The allocated bytes of a file or tree; `None` if a directory in it may not be read, or it takes more descriptors than there are: a
    /// tree of many long paths. What is not there takes nothing.
    pub(crate) fn tree(&mut self, top: &Path) -> Result<Option<u64>, StoreError> {
        let (mut counted, mut todo) = (HashSet::new(), Vec::new());
        let done = self.below(top, &mut counted, &mut todo);
        match done {
            Ok(bytes) => Ok(Some(bytes)),
            Err((_, error)) if is_denied(&error) || error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                for inode in &counted {
                    self.seen.remove(inode);
                }
                Ok(None)
            }
            Err((path, error)) => Err(StoreError::io("measure", &path, error)),
        }
    }

    /// Other processes make and delete while this one counts. Only directories wait to be read: one of them can hold many files.
    fn below(&mut self, top: &Path, counted: &mut HashSet<Inode>, todo: &mut Vec<Waiting>) -> Result<u64, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: Errno| (path, error.into())
        };
        let mut bytes = 0;
        if let Some(stat) = there(rustix::fs::lstat(top)).map_err(at(top))? {
            bytes += self.count(&stat, counted);
            todo.extend(is_dir(&stat).then(|| Waiting { base: None, path: top.to_owned() }));
        }
        while let Some(waiting) = todo.pop() {
            let failed = at(&waiting.path);
            let Some(dir) = there(waiting.open()).map_err(failed.clone())? else { continue };
            let mut own = None;
            for entry in Dir::read_from(&dir).map_err(failed.clone())? {
                let entry = entry.map_err(failed.clone())?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let Some(stat) = there(statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)).map_err(failed.clone())? else { continue };
                bytes += self.count(&stat, counted);
                if is_dir(&stat) {
                    todo.push(waiting.child(name, &dir, &mut own).map_err(failed.clone())?);
                }
            }
        }
        Ok(bytes)
    }

    /// Many trees, with the help of a worker for those that this process may not read. The second value counts those that nobody
    /// could read; they count as nothing.
    pub(crate) fn trees(&mut self, paths: &[PathBuf], mapped: &mut MeasureMapped<'_>) -> Result<(Vec<u64>, usize), StoreError> {
        let mut sizes = Vec::with_capacity(paths.len());
        let mut unreadable = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            let size = self.tree(path)?;
            if size.is_none() {
                unreadable.push(at);
            }
            sizes.push(size.unwrap_or(0));
        }
        let mut unknown = 0;
        if !unreadable.is_empty() {
            let asked: Vec<PathBuf> = unreadable.iter().map(|at| paths[*at].clone()).collect();
            let answers = mapped(&asked);
            for (number, at) in unreadable.into_iter().enumerate() {
                match answers.get(number).copied().flatten() {
                    Some(size) => sizes[at] = size,
                    None => unknown += 1,
                }
            }
        }
        Ok((sizes, unknown))
    }

    fn count(&mut self, stat: &Stat, counted: &mut HashSet<Inode>) -> u64 {
        let inode = (stat.st_dev, stat.st_ino);
        if !is_dir(stat) && stat.st_nlink > 1 {
            if !self.seen.insert(inode) {
                return 0;
            }
            counted.insert(inode);
        }
        stat.st_blocks as u64 * BLOCK_BYTES
    }
}

/// A directory that waits to be read: by its path, from the one of a descriptor on where the kernel would not take all of it.
struct Waiting {
    base: Option<Arc<OwnedFd>>,
    path: PathBuf,
}

impl Waiting {
    fn open(&self) -> rustix::io::Result<OwnedFd> {
        openat(self.base.as_deref().map_or(CWD, AsFd::as_fd), &self.path, DIRECTORY, Mode::empty())
    }

    /// One in this directory, whose descriptor `dir` is. `own` is what its children share once its path is long.
    fn child(&self, name: &CStr, dir: &OwnedFd, own: &mut Option<Arc<OwnedFd>>) -> rustix::io::Result<Self> {
        let name = OsStr::from_bytes(name.to_bytes());
        if self.path.as_os_str().len() < LONG {
            return Ok(Self { base: self.base.clone(), path: self.path.join(name) });
        }
        let base = match own {
            Some(base) => Arc::clone(base),
            None => Arc::clone(own.insert(Arc::new(openat(dir, ".", DIRECTORY, Mode::empty())?))),
        };
        Ok(Self { base: Some(base), path: name.into() })
    }
}

/// What is there; nothing if it is gone.
fn there<T>(found: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// The allocated bytes of a file or tree, for a worker that may read everything in it; `None` if it may not.
pub fn tree_bytes(path: &Path) -> Result<Option<u64>, StoreError> {
    Meter::default().tree(path)
}

/// The allocated bytes of one file or directory, without what is in it.
pub(crate) fn own_bytes(path: &Path) -> Result<u64, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(allocated(&meta)),
        Err(error) if is_absent(&error) => Ok(0),
        Err(error) => Err(StoreError::io("stat", path, error)),
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

pub(crate) fn allocated(meta: &Metadata) -> u64 {
    meta.blocks() * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn paths_of_any_length_are_counted() {
        let top = tempfile::tempdir().expect("a directory");
        let (mut dir, name, mut expected) = (openat(CWD, top.path(), DIRECTORY, Mode::empty()).expect("opened"), "d".repeat(200), 0);
        for _ in 0..50 {
            for name in [&name, "sibling"] {
                mkdirat(&dir, name, Mode::RWXU).expect("made");
                expected += statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).expect("there").st_blocks as u64 * BLOCK_BYTES;
            }
            dir = openat(&dir, &name, DIRECTORY, Mode::empty()).expect("opened");
        }
        expected += own_bytes(top.path()).expect("there");
        assert_eq!(tree_bytes(top.path()).expect("measured"), Some(expected));
        assert!(!crate::remove::remove_tree(top.path()).is_incomplete);
    }
}
