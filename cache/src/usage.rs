//! How much space trees take: allocated bytes, as `du` counts them.

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::entry::is_absent;
use crate::error::StoreError;

/// Measures trees that belong to mapped ids, which only a worker can read: allocated bytes for each, `None` where it cannot either.
pub type MeasureMapped<'a> = dyn FnMut(&[PathBuf]) -> Vec<Option<u64>> + 'a;

/// Device and number.
type Inode = (u64, u64);

/// Counts trees, and files with several names once in all of them together.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    seen: HashSet<Inode>,
}

impl Meter {
    /// The allocated bytes of a file or tree; `None` if a directory in it may not be read. What is not there takes nothing.
    pub(crate) fn tree(&mut self, top: &Path) -> Result<Option<u64>, StoreError> {
        let (mut counted, mut todo) = (HashSet::new(), Vec::new());
        let done = self.below(top, &mut counted, &mut todo);
        match done {
            Ok(bytes) => Ok(Some(bytes)),
            Err((_, error)) if is_denied(&error) => {
                for inode in &counted {
                    self.seen.remove(inode);
                }
                Ok(None)
            }
            Err((path, error)) => Err(StoreError::io("measure", &path, error)),
        }
    }

    /// Other processes make and delete while this one counts. Only directories wait to be read: one of them can hold many files.
    fn below(&mut self, top: &Path, counted: &mut HashSet<Inode>, todo: &mut Vec<PathBuf>) -> Result<u64, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let mut bytes = 0;
        if let Some(meta) = there(std::fs::symlink_metadata(top)).map_err(at(top))? {
            bytes += self.count(&meta, counted);
            todo.extend(meta.is_dir().then(|| top.to_owned()));
        }
        while let Some(dir) = todo.pop() {
            let Some(entries) = there(std::fs::read_dir(&dir)).map_err(at(&dir))? else { continue };
            for entry in entries {
                let entry = entry.map_err(at(&dir))?;
                let Some(meta) = there(entry.metadata()).map_err(at(&dir))? else { continue };
                bytes += self.count(&meta, counted);
                todo.extend(meta.is_dir().then(|| entry.path()));
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

    fn count(&mut self, meta: &Metadata, counted: &mut HashSet<Inode>) -> u64 {
        let inode = (meta.dev(), meta.ino());
        if !meta.is_dir() && meta.nlink() > 1 {
            if !self.seen.insert(inode) {
                return 0;
            }
            counted.insert(inode);
        }
        allocated(meta)
    }
}

/// What is there; nothing if it is gone.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
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
    meta.blocks() * 512
}
