//! Which entries survived the last power loss.
//!
//! Nothing is fsynced when it is written, so after an unclean stop a name can be there while its bytes are not. Therefore every
//! entry carries a [`Stamp`]: the boot in which it was written and the time since that boot, taken *after* everything that the
//! entry points to was written. A build that committed something calls [`sync`](Durability::sync) at its end: it takes the time T,
//! calls `syncfs` once, and then writes the mark `durable/<epoch>` = T.
//!
//! * An entry of the running boot holds: the page cache gives back what was written.
//! * An entry of another boot holds if that boot's mark is at least as late as its stamp: its bytes were written before the
//!   `syncfs` that the mark speaks of. A killed build is covered by the next build that syncs in the same boot.
//! * Any other entry does not hold: it is checked by its hash, or dropped.
//!
//! Entries are small and checksummed themselves (see `entry`), so one that was torn is noticed whatever its stamp says.
//! The time is `CLOCK_BOOTTIME`, which no administrator sets back. A time namespace can shift it, so the epoch names that too.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::entry;
use crate::error::StoreError;
use crate::lock::FileLock;
use crate::store::Inner;

/// The inode of the time namespace that the kernel starts with; it is a constant of the kernel's ABI.
const INITIAL_TIME_NAMESPACE: &str = "time:[4026531834]";
/// The length of a boot id, a UUID.
const BOOT_ID_LEN: usize = 36;

/// When an entry was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The boot id, with the time namespace appended where it is not the initial one. Without blanks.
    pub(crate) epoch: String,
    /// Nanoseconds since that boot.
    pub(crate) at_nanos: u64,
}

/// Whether what a stamp stands for is certain to be on the disk as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Written in this boot.
    ThisBoot,
    /// Written in another boot and synced there.
    Synced,
    /// Written in another boot, and nobody knows.
    None,
}

/// The boot that this process runs in, and the marks of the others.
#[derive(Debug)]
pub(crate) struct Durability {
    epoch: String,
    /// Set by a commit, cleared by a sync.
    is_dirty: AtomicBool,
    /// Marks of other epochs as read; 0 stands for "no mark".
    marks: Mutex<HashMap<String, u64>>,
}

impl Durability {
    pub(crate) fn new(epoch: String) -> Self {
        Self { epoch, is_dirty: AtomicBool::new(false), marks: Mutex::default() }
    }

    /// A stamp for an entry whose targets have been written.
    pub(crate) fn stamp(&self) -> Stamp {
        self.is_dirty.store(true, Ordering::Release);
        Stamp { epoch: self.epoch.clone(), at_nanos: now_nanos() }
    }

    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    pub(crate) fn trust(&self, root: &Path, stamp: &Stamp) -> Trust {
        if boot_of(&stamp.epoch) == boot_of(&self.epoch) {
            return Trust::ThisBoot;
        }
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = match marks.get(&stamp.epoch) {
            Some(mark) => *mark,
            None => *marks.entry(stamp.epoch.clone()).or_insert_with(|| read_mark(&mark_path(root, &stamp.epoch)).unwrap_or(0)),
        };
        if stamp.at_nanos <= mark { Trust::Synced } else { Trust::None }
    }

    /// Writes everything to the disk, if this process committed something, and then the mark. Tells whether it did.
    pub(crate) fn sync(&self, store: &Inner) -> Result<bool, StoreError> {
        if !self.is_dirty.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        let at_nanos = now_nanos();
        let done = self.sync_until(store, at_nanos);
        if done.is_err() {
            self.is_dirty.store(true, Ordering::Release);
        }
        done.map(|()| true)
    }

    fn sync_until(&self, store: &Inner, at_nanos: u64) -> Result<(), StoreError> {
        let root = store.root();
        let dir = File::open(root).map_err(|error| StoreError::io("open", root, error))?;
        rustix::fs::syncfs(&dir).map_err(|error| StoreError::io("sync", root, error))?;

        // Two builds can end together: the later time must stay.
        let path = mark_path(root, &self.epoch);
        let lock = FileLock::take_quietly(&store.lock_path("durable"))?;
        if read_mark(&path).is_none_or(|mark| mark < at_nanos) {
            let bytes = entry::encode(entry::MARK, &Stamp { epoch: self.epoch.clone(), at_nanos }, b"{}");
            // The one file that is synced by itself: a mark that replaced a good one must not be lost with it.
            store.replace_file(&path, |file| file.write_all(&bytes).and_then(|()| file.sync_data()))?;
        }
        drop(lock);
        Ok(())
    }
}

fn mark_path(root: &Path, epoch: &str) -> PathBuf {
    root.join("durable").join(epoch)
}

fn read_mark(path: &Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    entry::decode(entry::MARK, &bytes).map(|(stamp, _)| stamp.at_nanos)
}

fn boot_of(epoch: &str) -> &str {
    epoch.get(..BOOT_ID_LEN).unwrap_or(epoch)
}

/// The epoch of this process. Where the kernel does not tell its boot id, it is one that no other process shares, so that
/// entries of others only count once they are marked.
pub(crate) fn current_epoch() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let boot = boot.trim();
    let is_plain = boot.len() == BOOT_ID_LEN && boot.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if !is_plain {
        return format!("unknown-{:016x}-{:010}", crate::tmp::random_u64(), std::process::id());
    }
    match std::fs::read_link("/proc/self/ns/time") {
        Ok(namespace) if namespace.as_os_str() != INITIAL_TIME_NAMESPACE => {
            let digits: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
            format!("{boot}-{digits}")
        }
        _ => boot.to_owned(),
    }
}

fn now_nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
