//! The parts of the disk that builds work in, by turns.
//!
//! ext4 without a journal gives the number of a removed file to no other for some minutes, and looks at each such number of a part of the
//! disk whenever a file is made there: after a pruning, or some builds, a new file can take a millisecond. Where it puts a new directory
//! is decided by the directory that it is made in; one that is marked (`chattr +T`) has its directories spread, and then to where the fewest
//! are, which is just where a pruning has removed them. So `parts/` has empty directories that were spread once, a build's directory is made
//! in the one that was used longest ago, and renamed to its place. On other file systems it is empty.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;

use crate::error::StoreError;
use crate::tmp::make_dir;

/// Parts that are used in turn, at most.
const PARTS: usize = 64;
/// Directories that are made to find them: after a pruning the first hundreds of them go to the same place.
const CANDIDATES: usize = 512;
/// Numbers of inodes so close to each other are taken for such of one part: 16 groups of 8,192 are common.
const INODES: u64 = 16 << 13;

/// The parts of a store.
#[derive(Clone, Debug)]
pub(crate) struct Parts(PathBuf);

impl Parts {
    pub(crate) fn of(store_root: &Path) -> Self {
        Self(store_root.join("parts"))
    }

    /// Makes a directory for the owner alone, in the part that was used longest ago if there are parts.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        if self.make_dir_apart(path) { Ok(()) } else { make_dir(path) }
    }

    /// The same; makes nothing where there are no parts. Whether it did.
    pub(crate) fn make_dir_apart(&self, path: &Path) -> bool {
        let Some(part) = self.longest_ago() else { return false };
        let there = part.join("next");
        // One that is there already was left by a process that died in between, or is just made by another: who renames it has it.
        drop(make_dir(&there));
        fs::rename(&there, path).is_ok()
    }

    fn longest_ago(&self) -> Option<PathBuf> {
        let parts = fs::read_dir(&self.0).ok()?.filter_map(Result::ok);
        let used = |entry: &fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
        parts.filter_map(|entry| Some((used(&entry)?, entry.path()))).min().map(|(_, path)| path)
    }

    pub(crate) fn are_found(&self) -> bool {
        self.0.exists()
    }

    /// Finds the parts, unless that is not wanted any more meanwhile. `spare` is an empty directory, which the caller deletes.
    pub(crate) fn find(&self, spare: &Path, is_unwanted: &dyn Fn() -> bool) -> Result<(), StoreError> {
        if !spread(spare) {
            // Nobody asks again.
            return make_dir(&self.0);
        }
        let failed = |error| StoreError::io("create", spare, error);
        let mut found = BTreeMap::new();
        for n in 0..CANDIDATES {
            if is_unwanted() {
                return Ok(());
            }
            let dir = spare.join(n.to_string());
            make_dir(&dir)?;
            let inode = fs::symlink_metadata(&dir).map_err(failed)?.ino();
            found.entry(inode / INODES).or_insert(dir);
        }
        let parts = spare.join("parts");
        make_dir(&parts)?;
        for dir in found.into_values().take(PARTS) {
            if let Some(name) = dir.file_name() {
                fs::rename(&dir, parts.join(name)).map_err(failed)?;
            }
        }
        // Another process may have been faster: then its parts are not empty, and ours are deleted.
        drop(fs::rename(&parts, &self.0));
        Ok(())
    }
}

/// Asks the file system to take the directories in this one for unrelated: each goes to another part of the disk, with all that is made in
/// it. File systems without such a wish refuse it; whether this one has it is returned.
fn spread(parent: &Path) -> bool {
    let Ok(dir) = File::open(parent) else { return false };
    let Ok(flags) = rustix::fs::ioctl_getflags(&dir) else { return false };
    rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_used_by_turns() {
        let dir = tempfile::tempdir().expect("a directory");
        let parts = Parts::of(dir.path());
        // Without parts, too.
        parts.make_dir(&dir.path().join("first")).expect("a directory");
        parts.find(&dir.path().join("first"), &|| false).expect("parts, or none");
        assert!(parts.are_found());
        let before = fs::read_dir(&parts.0).expect("parts").count();
        assert!(before <= PARTS);
        if before == 0 {
            // A file system without them.
            return;
        }

        let oldest = parts.longest_ago().expect("a part");
        parts.make_dir(&dir.path().join("second")).expect("a directory");
        assert!(dir.path().join("second").is_dir());
        assert_eq!(fs::read_dir(&oldest).expect("a part").count(), 0, "the directory was moved");
        fs::create_dir(parts.longest_ago().expect("a part").join("next")).expect("what a killed process left");
        parts.make_dir(&dir.path().join("third")).expect("it is taken over");
        if before > 2 {
            assert_ne!(parts.longest_ago(), Some(oldest));
        }
    }
}
