//! The lease: what a build has looked up stays until the build ends.
//!
//! A build holds the file `lease` shared; whoever deletes entries holds it alone, and never waits for it.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::lock::{Patience, Wait, open_lock_file, try_flock};

/// A held lease. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    file: File,
}

impl Lease {
    /// Takes the lease with others, waiting while someone holds it alone.
    pub(crate) fn shared(path: &Path, patience: &mut Patience<'_>) -> Result<Self, StoreError> {
        let file = open_lock_file(path)?;
        let mut wait = Wait::new();
        while !try_flock(&file, FlockOperation::NonBlockingLockShared, path)? {
            wait.pause(path, patience, || holders_of(&file).first().copied())?;
        }
        Ok(Self { file })
    }

    /// Takes the lease alone, now or not at all.
    pub(crate) fn alone(path: &Path) -> Result<Self, StoreError> {
        let file = open_lock_file(path)?;
        if try_flock(&file, FlockOperation::NonBlockingLockExclusive, path)? {
            Ok(Self { file })
        } else {
            Err(StoreError::Busy { path: path.to_owned(), holders: holders_of(&file) })
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Not left to close(): a child between fork and exec may still share the description.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// The processes that hold a flock on a file, as far as the kernel tells.
fn holders_of(file: &File) -> Vec<u32> {
    let (Ok(meta), Ok(table)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    parse_holders(&table, &format!("{major:02x}:{minor:02x}:{}", meta.ino()))
}

/// Lines are `1: FLOCK  ADVISORY  READ 1234 fe:00:567 0 EOF`; a `->` as second word marks one that waits; a pid of another
/// namespace is 0 or missing.
fn parse_holders(table: &str, inode: &str) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&inode);
        is_held.then(|| words[4].parse().ok()).flatten().filter(|pid| *pid != 0)
    };
    let mut holders: Vec<u32> = table.lines().filter_map(holder).collect();
    holders.sort_unstable();
    holders.dedup();
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_from_the_kernels_table() {
        let table = "1: FLOCK  ADVISORY  READ 77 fe:00:567 0 EOF\n\
                     2: FLOCK  ADVISORY  READ 12 fe:00:567 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 99 fe:00:567 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 5 fe:00:567 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 6 fe:00:568 0 EOF\n\
                     5: FLOCK  ADVISORY  READ 0 fe:00:567 0 EOF\n";
        assert_eq!(parse_holders(table, "fe:00:567"), [12, 77]);
        assert_eq!(parse_holders("", "fe:00:567"), [0; 0]);
    }
}
