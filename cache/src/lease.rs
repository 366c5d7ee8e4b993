//! Leases: what a build has looked up or made stays until the build ends.
//!
//! ```text
//! lease              the gate: a flock, held for moments
//! leases/<id>        one per build, locked by it; a line for each thing that it relies on: `layers/<id>`, `blobs/sha256/<hex>` …
//! ```
//!
//! A build holds the gate shared while it adds a line, and looks for the thing only then. Whoever deletes holds the gate alone
//! from the reading of all leases to the last renaming into `trash/`, and deletes there after it has let go. So a line is either
//! read, or it was added when the thing was gone already and the build finds nothing. Neither waits for longer than some
//! renamings take; a build that runs for hours keeps nobody from deleting what it does not use. The lease of a process that is
//! gone is told by its free lock.
//!
//! A lease whose file may not be written (mode 0400) covers everything: so says a build that could not add a line, as on a full disk.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use crate::entry::is_absent;
use crate::error::StoreError;
use crate::last_use;
use crate::lock::{FileLock, open_lock_file, try_flock};
use crate::store::Inner;
use crate::tmp::{names_in, unique_name};

/// How long a pruning tries to get the gate. Builds hold it for microseconds; a version of shale without lines in its
/// leases holds it for a whole build.
const GATE_PATIENCE: Duration = Duration::from_secs(2);
/// How long a build waits at the gate. Prunings hold it for some renamings, unless one was stopped (`SIGSTOP`) in the middle of them.
const PASSING_PATIENCE: Duration = Duration::from_secs(60);
/// How often the kernel's table is asked who holds a lock.
const LOOKS_FOR_HOLDERS: usize = 3;
/// The mode of a lease that covers everything.
const COVERS_ALL: u32 = 0o400;

/// A held lease. Dropping the last of a store's handle ends it.
#[derive(Debug)]
pub struct Lease {
    store: Arc<Inner>,
}

impl Lease {
    pub(crate) fn take(store: &Arc<Inner>) -> Result<Self, StoreError> {
        store.begin_lease()?;
        Ok(Self { store: Arc::clone(store) })
    }

    /// Lets go of everything that this process has looked up or made so far, for one that begins again: after a full disk, say,
    /// on which its lease came to cover everything.
    pub fn renew(&self) -> Result<(), StoreError> {
        let mut leased = self.store.leased.lock().unwrap_or_else(PoisonError::into_inner);
        if leased.file.is_some() {
            // The old file goes first: its block is free then.
            leased.file = None;
            leased.file = Some(self.store.new_lease_file()?);
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.end_lease();
    }
}

/// The lease of one opened store.
#[derive(Debug, Default)]
pub(crate) struct Leased {
    holders: usize,
    file: Option<LeaseFile>,
}

#[derive(Debug)]
struct LeaseFile {
    lock: FileLock,
    gate: File,
    names: HashSet<String>,
}

impl LeaseFile {
    fn add(&mut self, names: Vec<String>, gate_path: &Path) -> Result<(), StoreError> {
        pass(&self.gate, gate_path, PASSING_PATIENCE)?;
        let mut lines = names.join("\n");
        lines.push('\n');
        let written = self.lock.file().write_all(lines.as_bytes());
        // A change of the mode takes no space.
        let written = written.or_else(|_| rustix::fs::fchmod(self.lock.file(), COVERS_ALL.into()));
        let _ = rustix::fs::flock(&self.gate, FlockOperation::Unlock);
        self.names.extend(names);
        written.map_err(|error| StoreError::io("note in", gate_path, error))
    }
}

impl Inner {
    /// A store that cannot be written needs no lease: nobody deletes in it.
    pub(crate) fn begin_lease(&self) -> Result<(), StoreError> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.holders += 1;
        if leased.file.is_none() && !self.is_read_only() {
            leased.file = Some(self.new_lease_file()?);
        }
        Ok(())
    }

    fn new_lease_file(&self) -> Result<LeaseFile, StoreError> {
        let gate = open_lock_file(&self.lease_path())?;
        loop {
            // A reaper can be faster than our lock.
            if let Some(lock) = FileLock::try_take(&self.leases().join(unique_name()))? {
                return Ok(LeaseFile { lock, gate, names: HashSet::new() });
            }
        }
    }

    fn end_lease(&self) {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        leased.holders -= 1;
        if leased.holders == 0 {
            leased.file = None;
        }
    }

    /// Whether this process holds a lease: then what it reads counts as used.
    pub(crate) fn has_lease(&self) -> bool {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner).file.is_some()
    }

    /// Says that this process relies on some things, by their paths below the root, if it holds a lease. To be called before it
    /// is looked whether they are there.
    pub(crate) fn rely_on(&self, names: impl IntoIterator<Item = String>) -> Result<(), StoreError> {
        let mut leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = leased.file.as_mut() else { return Ok(()) };
        let fresh: Vec<String> = names.into_iter().filter(|name| !file.names.contains(name)).collect();
        if fresh.is_empty() { Ok(()) } else { file.add(fresh, &self.lease_path()) }
    }

    /// The same for one thing, whose last use the modification time of a file tells.
    pub(crate) fn rely_on_file(&self, name: String, dated: &Path) -> Result<(), StoreError> {
        {
            let leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
            if leased.file.as_ref().is_none_or(|file| file.names.contains(&name)) {
                return Ok(());
            }
        }
        self.rely_on([name])?;
        last_use::note(dated);
        Ok(())
    }
}

/// What running builds rely on.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse {
    names: HashSet<String>,
    /// Somebody relies on everything.
    all: bool,
}

impl InUse {
    /// Reads all leases, and removes those of dead processes.
    pub(crate) fn read(store: &Inner) -> Result<Self, StoreError> {
        let mut in_use = Self::default();
        for name in names_in(&store.leases())? {
            let path = store.leases().join(name);
            let dead = FileLock::try_take_existing(&path)?;
            if dead.is_some() {
                continue;
            }
            match std::fs::metadata(&path).and_then(|meta| Ok((meta, std::fs::read_to_string(&path)?))) {
                Ok((meta, text)) => {
                    in_use.all |= meta.permissions().mode() & 0o777 == COVERS_ALL;
                    in_use.names.extend(text.lines().map(str::to_owned));
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
        }
        Ok(in_use)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    /// How many things that are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nobody relies on anything.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }
}

/// The gate held alone: no build can begin to rely on anything.
#[derive(Debug)]
pub(crate) struct Gate {
    file: File,
}

impl Gate {
    pub(crate) fn close(store: &Inner) -> Result<Self, StoreError> {
        let path = store.lease_path();
        let file = open_lock_file(&path)?;
        let since = Instant::now();
        while !try_flock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
            if since.elapsed() > GATE_PATIENCE {
                return Err(StoreError::Busy { holders: holders_of(&file), path });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Self { file })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // Not left to close(): a child between fork and exec may still share the description.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Holds the gate together with other builds.
fn pass(gate: &File, path: &Path, patience: Duration) -> Result<(), StoreError> {
    let (since, mut pause) = (Instant::now(), Duration::from_micros(100));
    while !try_flock(gate, FlockOperation::NonBlockingLockShared, path)? {
        if since.elapsed() > patience {
            return Err(StoreError::Busy { holders: holders_of(gate), path: path.to_owned() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

/// The processes that hold a flock on a file, as far as the kernel tells.
fn holders_of(file: &File) -> Vec<u32> {
    let Ok(meta) = file.metadata() else { return Vec::new() };
    let inode = format!("{:02x}:{:02x}:{}", rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()), meta.ino());
    // A table that changes while it is read, a page at a time, may come without a line that it has.
    let mut looks = (0..LOOKS_FOR_HOLDERS).map(|_| parse_holders(&std::fs::read_to_string("/proc/locks").unwrap_or_default(), &inode));
    looks.find(|holders| !holders.is_empty()).unwrap_or_default()
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

    #[test]
    fn a_build_does_not_wait_for_ever_at_the_gate() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::Store::open(dir.path()).expect("a store");
        let path = store.inner.lease_path();
        let closed = Gate::close(&store.inner).expect("nobody passes");
        let gate = open_lock_file(&path).expect("it is there");
        let stopped = pass(&gate, &path, Duration::from_millis(5)).expect_err("it is closed");
        assert!(matches!(&stopped, StoreError::Busy { holders, .. } if holders.contains(&std::process::id())), "{stopped}");
        drop(closed);
        pass(&gate, &path, Duration::ZERO).expect("it is open");
    }
}
