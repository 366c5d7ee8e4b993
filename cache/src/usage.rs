//! How much space trees take: allocated bytes, as `du` counts them.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::entry::is_absent;
use crate::error::StoreError;

/// Measures trees that belong to mapped ids, which only a worker can read: allocated bytes for each, `None` where it cannot either.
pub type MeasureMapped<'a> = dyn FnMut(&[PathBuf]) -> Vec<Option<u64>> + 'a;

/// Counts trees, and files with several names once in all of them together.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    seen: HashSet<(u64, u64)>,
}

impl Meter {
    /// The allocated bytes of a file or tree; `None` if a directory in it may not be read. What is not there takes nothing.
    pub(crate) fn tree(&mut self, top: &Path) -> Result<Option<u64>, StoreError> {
        let (mut bytes, mut todo, mut counted) = (0, vec![top.to_owned()], Vec::new());
        while let Some(path) = todo.pop() {
            let meta = match std::fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // Other processes make and delete while this one counts.
                Err(error) if is_absent(&error) => continue,
                Err(error) if is_denied(&error) => return Ok(self.forget(&counted)),
                Err(error) => return Err(StoreError::io("stat", &path, error)),
            };
            if meta.is_dir() || meta.nlink() == 1 {
                bytes += allocated(&meta);
            } else if self.seen.insert((meta.dev(), meta.ino())) {
                counted.push((meta.dev(), meta.ino()));
                bytes += allocated(&meta);
            }
            if meta.is_dir() {
                match std::fs::read_dir(&path) {
                    Ok(entries) => {
                        for entry in entries {
                            todo.push(entry.map_err(|error| StoreError::io("list", &path, error))?.path());
                        }
                    }
                    Err(error) if is_absent(&error) => {}
                    Err(error) if is_denied(&error) => return Ok(self.forget(&counted)),
                    Err(error) => return Err(StoreError::io("list", &path, error)),
                }
            }
        }
        Ok(Some(bytes))
    }

    fn forget(&mut self, counted: &[(u64, u64)]) -> Option<u64> {
        for inode in counted {
            self.seen.remove(inode);
        }
        None
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

fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

pub(crate) fn allocated(meta: &std::fs::Metadata) -> u64 {
    meta.blocks() * 512
}
