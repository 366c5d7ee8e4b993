//! Which entries survived the last power loss.
//!
//! Nothing is fsynced when it is written, so after an unclean stop a name can be there while its bytes are not. Therefore every
//! entry carries a [`Stamp`]: the boot in which it was written and the time since that boot, taken *after* everything that the
//! entry points to was written. A build that committed something runs a [`SyncJob`] at its end: it takes the time T,
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

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::error::StoreError;

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
        self.unsynced_stamp()
    }

    /// A stamp for an entry that nobody trusts for what it points to: it is no reason to sync.
    pub(crate) fn unsynced_stamp(&self) -> Stamp {
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

    /// What is to be done about the commits of this process, if there were any since the last call.
    pub(crate) fn take_job(&self, root: &Path) -> Option<SyncJob> {
        let is_dirty = self.is_dirty.swap(false, Ordering::AcqRel);
        is_dirty.then(|| SyncJob { root: root.to_owned(), epoch: self.epoch.clone(), at_nanos: now_nanos() })
    }
}

/// The writing back of what was committed. Any process of this boot may run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncJob {
    root: PathBuf,
    epoch: String,
    /// The commits lie before this.
    at_nanos: u64,
}

impl SyncJob {
    /// Writes everything to the disk and then the mark, unless somebody has done so since the commits. Leaves nothing but the mark,
    /// neither in `tmp/` nor in `locks/`, and makes nothing where there is no store any more.
    pub fn run(&self) -> Result<(), StoreError> {
        let (path, fresh) = (mark_path(&self.root, &self.epoch), mark_path(&self.root, &format!("{}.new", self.epoch)));
        let (root, marks) = (open(&self.root)?, self.root.join("durable"));
        // Many builds can end together: one after the other, and the first syncs for all that wait.
        let lock = open(&marks)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| StoreError::io("lock", &marks, error))?;
        if read_mark(&path).is_some_and(|mark| mark >= self.at_nanos) {
            return Ok(());
        }
        let at_nanos = now_nanos().max(self.at_nanos);
        rustix::fs::syncfs(&root).map_err(|error| StoreError::io("sync", &self.root, error))?;
        let bytes = entry::encode(entry::MARK, &Stamp { epoch: self.epoch.clone(), at_nanos }, b"{}");
        // The one file that is synced by itself: a mark that replaced a good one must not be lost with it.
        let written = File::create(&fresh).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_data()));
        written.and_then(|()| std::fs::rename(&fresh, &path)).map_err(|error| StoreError::io("write", &path, error))
    }
}

fn open(dir: &Path) -> Result<File, StoreError> {
    File::open(dir).map_err(|error| StoreError::io("open", dir, error))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{index, known, map, record, tree};
    use crate::{Lookup, Store};

    const FIRST: &str = "11111111-1111-1111-1111-111111111111";
    const SECOND: &str = "22222222-2222-2222-2222-222222222222";

    fn open(root: &Path, epoch: &str) -> Store {
        Store::open_in_epoch(root, epoch.to_owned()).expect("a store")
    }

    /// One of everything.
    fn fill(store: &Store) -> crate::OciDigest {
        let layer = index(store, 1);
        let tmp = store.tmp().expect("a directory");
        store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
        store.steps().put(&record(layer, 1)).expect("put");
        store.layers().set_by_content(&record(layer, 1).content, &known(layer)).expect("set");
        let room = store.layers().room(&map()).expect("a room");
        tree(room.root().parent().expect("a room"), "root");
        store.layers().put_born(&[2], room, Some(&diff_id())).expect("put");
        store.blobs().put(b"a blob").expect("put")
    }

    fn diff_id() -> crate::DiffId {
        crate::DiffId(crate::OciDigest::sha256_of(b"a tar"))
    }

    fn has(store: &Store, blob: &crate::OciDigest) -> [bool; 7] {
        let born = crate::LayerId::of_index(&[2]);
        let layer = crate::LayerId::of_index(&[1]);
        let record = record(layer, 1);
        [
            store.steps().peek(&record.key).expect("looked").is_some(),
            store.layers().has_index(&layer).expect("looked"),
            store.layers().fs(&layer, &map()).expect("looked").is_some(),
            store.layers().by_content(&record.content).expect("looked").is_some(),
            store.blobs().size(blob).expect("looked").is_some(),
            store.layers().fs(&born, &map()).expect("looked").is_some(),
            store.layers().diff_id(&born, None).expect("looked") == Some(diff_id()),
        ]
    }

    #[test]
    fn entries_of_this_boot_hold() {
        let root = tempfile::tempdir().expect("a directory");
        let blob = fill(&open(root.path(), FIRST));
        assert_eq!(has(&open(root.path(), FIRST), &blob), [true; 7]);
        // Another time namespace is no other boot.
        assert_eq!(has(&open(root.path(), &format!("{FIRST}-77")), &blob), [true; 7]);
    }

    #[test]
    fn synced_entries_of_another_boot_hold() {
        let root = tempfile::tempdir().expect("a directory");
        let store = open(root.path(), FIRST);
        let blob = fill(&store);
        assert!(store.sync_after_commit().expect("synced"));
        assert!(!store.sync_after_commit().expect("nothing to do"));
        assert_eq!(has(&open(root.path(), SECOND), &blob), [true; 7]);
    }

    #[test]
    fn entries_of_another_boot_without_a_mark_are_checked_or_dropped() {
        let root = tempfile::tempdir().expect("a directory");
        let blob = fill(&open(root.path(), FIRST));
        let store = open(root.path(), SECOND);
        // The index and the blob prove themselves by their hashes.
        assert_eq!(has(&store, &blob), [false, true, false, false, true, false, false]);
        // They were stamped again, and a sync of this boot covers them.
        store.sync_after_commit().expect("synced");
        assert_eq!(has(&open(root.path(), "33333333"), &blob), [false, true, false, false, true, false, false]);
        let key = record(crate::LayerId::of_index(&[1]), 1).key;
        let Lookup::Miss(lock) = store.steps().lookup(&key).expect("looked") else { panic!("a hit") };
        drop(lock);
        let hex = key.to_hex();
        assert!(!root.path().join("steps").join(&hex[..2]).join(&hex).exists(), "the lookup drops the record");
    }

    #[test]
    fn blobs_of_another_boot_are_read_where_that_cannot_be_noted() {
        let root = tempfile::tempdir().expect("a directory");
        let blob = fill(&open(root.path(), FIRST));
        let size = || {
            let store = open(root.path(), SECOND).into_read_only();
            // The second answer is the first one's.
            [store.blobs().size(&blob), store.blobs().size(&blob)].map(|size| size.expect("looked"))
        };
        assert_eq!(size(), [Some(6); 2]);
        fs::write(root.path().join("blobs/sha256").join(blob.hex()), [0; 6]).expect("written");
        assert_eq!(size(), [None; 2]);
    }

    #[test]
    fn what_was_committed_after_the_sync_does_not_hold() {
        let root = tempfile::tempdir().expect("a directory");
        let store = open(root.path(), FIRST);
        store.blobs().put(b"other").expect("put");
        store.sync_after_commit().expect("synced");
        let blob = fill(&store);
        assert_eq!(has(&open(root.path(), SECOND), &blob), [false, true, false, false, true, false, false]);
        // A later build of the same boot covers a killed one.
        let other = open(root.path(), FIRST);
        other.blobs().put(b"third").expect("put");
        other.sync_after_commit().expect("synced");
        assert_eq!(has(&open(root.path(), SECOND), &blob), [true; 7]);
    }

    #[test]
    fn a_torn_mark_is_no_mark_and_an_earlier_one_does_not_replace_a_later() {
        let root = tempfile::tempdir().expect("a directory");
        let store = open(root.path(), FIRST);
        let blob = fill(&store);
        store.sync_after_commit().expect("synced");
        let path = mark_path(store.root(), FIRST);
        let mark = read_mark(&path).expect("a mark");
        SyncJob { root: root.path().to_owned(), epoch: FIRST.to_owned(), at_nanos: 1 }.run().expect("synced");
        assert_eq!(read_mark(&path), Some(mark));
        let len = fs::metadata(&path).expect("a mark").len();
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(len - 1)).expect("cut");
        assert!(!has(&open(root.path(), SECOND), &blob)[0]);
    }

    /// A power loss after the rename and before the data.
    #[test]
    fn lost_bytes_are_noticed_in_the_next_boot_and_replaced() {
        let root = tempfile::tempdir().expect("a directory");
        let first = open(root.path(), FIRST);
        let (blob, layer) = (fill(&first), crate::LayerId::of_index(&[1]));
        let unpacked = first.layers().fs(&layer, &map()).expect("looked").expect("there");
        drop(first);
        let store = open(root.path(), SECOND);
        fs::write(store.blobs().path(&blob), [0; 6]).expect("zeroed");
        fs::write(store.layers().index_path(&layer), [0; 1]).expect("zeroed");
        fs::remove_file(unpacked.join("file")).expect("lost");
        assert_eq!(has(&store, &blob), [false; 7]);

        fill(&store);
        assert_eq!(has(&store, &blob), [true; 7]);
        assert!(unpacked.join("file").exists());
        assert_eq!(store.blobs().read(&blob).expect("read").expect("there"), b"a blob");
    }

    #[test]
    fn this_process_knows_its_boot() {
        let epoch = current_epoch();
        assert_eq!(epoch, current_epoch());
        assert!(!epoch.contains([' ', '/', '\n']), "{epoch}");
        assert_eq!(boot_of(&epoch).len(), BOOT_ID_LEN);
    }
}
