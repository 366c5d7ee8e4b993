//! The stat cache: which content a file had when it last looked like this.
//!
//! One file per context, `contexts/<hash>` in the store. It only saves reading files again; a build without it gives the same image.
//! A digest is believed if size, mtime, ctime, inode and device are those it was recorded under. ctime is what makes that safe: no
//! program can set it, so a change that restores size and mtime still shows. What ctime cannot show is a second change within the
//! same tick of the file system's clock as the first; so an entry is only stored when the file's times lie before the scan's start
//! ([`Horizon`]). Such a *racy* file is hashed again by the next build, which then stores it. Nor does it show on tmpfs what a program
//! writes through pages that it has mapped already: that file system gives the file no new times.
//!
//! Entries that a build did not look at are kept for a while: builds of other targets select other files.

mod format;
mod horizon;
mod loading;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

pub use horizon::Horizon;
pub use loading::Loading;

use crate::sandbox::sys::map_file;
use crate::source::seldom::Seldom;
use crate::tree::entry::{ContentDigest, Mtime};
use crate::tree::walk::Stat;
use format::Table;

/// After how many saves without being looked at an entry goes.
const MAX_AGE: u8 = 32;

/// What a digest is recorded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time.
    pub ctime: Mtime,
    /// Inode number.
    pub inode: u64,
    /// Device.
    pub dev: u64,
}

impl From<&Stat> for Fingerprint {
    fn from(stat: &Stat) -> Self {
        Self { size: stat.size, mtime: stat.mtime, ctime: stat.ctime, inode: stat.ino, dev: stat.dev }
    }
}

/// A file hashed by this build.
#[derive(Clone, Debug)]
struct Fresh {
    seen: Fingerprint,
    digest: ContentDigest,
}

/// Why there is no old state to compare with. Never an error: the build only takes longer.
#[derive(Debug, thiserror::Error)]
pub enum LoadNote {
    /// The file cannot be read.
    #[error("the stat cache {path} is ignored: {source}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is of another version or damaged.
    #[error("the stat cache {path} is ignored: {reason}", path = path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// What [`StatCache::save`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Entries in the file, 0 if nothing was written because nothing new was learned.
    pub entries: usize,
    /// Files hashed by this build that were too young to be stored.
    pub racy: usize,
}

/// The verdicts of one build on the entries it loaded.
const UNSEEN: u8 = 0;
const VERIFIED: u8 = 1;
const STALE: u8 = 2;

/// The entries loaded from the store and those that this build added. Shared by the threads of a build.
#[derive(Debug, Default)]
pub struct StatCache {
    old: Table,
    verdicts: Vec<AtomicU8>,
    fresh: Seldom<HashMap<Vec<u8>, Fresh>>,
    /// What changed since this build looked at it, with the digest of then.
    changed: Seldom<BTreeMap<Vec<u8>, Option<ContentDigest>>>,
    note: Option<LoadNote>,
}

impl StatCache {
    /// A cache that remembers for this build only.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Loads a file that [`StatCache::save`] wrote. A missing file is an empty cache; an unusable one too, with a note.
    pub fn load(path: &Path) -> Self {
        let (old, note) = match File::open(path).and_then(|file| map_file(&file)) {
            Ok(bytes) => match Table::from_bytes(bytes) {
                Ok(table) => (table, None),
                Err(reason) => (Table::default(), Some(LoadNote::Unusable { path: path.to_owned(), reason })),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Table::default(), None),
            Err(source) => (Table::default(), Some(LoadNote::Unreadable { path: path.to_owned(), source })),
        };
        let verdicts = std::iter::repeat_with(|| AtomicU8::new(UNSEEN)).take(old.len()).collect();
        Self { old, verdicts, fresh: Seldom::default(), changed: Seldom::default(), note }
    }

    /// Why the file was not used, for the debug log.
    pub fn note(&self) -> Option<&LoadNote> {
        self.note.as_ref()
    }

    /// How many entries were loaded.
    pub fn loaded(&self) -> usize {
        self.old.len()
    }

    /// What is known of a file that looks like this now. The answer also settles what [`StatCache::digest`] says from here on.
    pub fn lookup(&self, path: &[u8], now: &Fingerprint) -> Option<ContentDigest> {
        let fresh = self.fresh.read().and_then(|fresh| fresh.get(path).cloned());
        if let Some(fresh) = fresh {
            if fresh.seen == *now {
                return Some(fresh.digest);
            }
            self.fresh.write().remove(path);
            self.note_changed(path, Some(fresh.digest));
            return None;
        }
        let i = self.old.find(path)?;
        let record = self.old.record(i);
        if record.seen != *now {
            if self.verdicts[i].swap(STALE, Ordering::Relaxed) == VERIFIED {
                self.note_changed(path, Some(record.digest));
            }
            return None;
        }
        self.verdicts[i].store(VERIFIED, Ordering::Relaxed);
        Some(record.digest)
    }

    /// The digest of a file, as of the last [`StatCache::lookup`] or [`StatCache::insert`]; `None` if neither vouched for it.
    pub fn digest(&self, path: &[u8]) -> Option<ContentDigest> {
        if let Some(digest) = self.fresh.read().and_then(|fresh| fresh.get(path).map(|fresh| fresh.digest)) {
            return Some(digest);
        }
        let i = self.old.find(path)?;
        (self.verdicts[i].load(Ordering::Relaxed) == VERIFIED).then(|| self.old.record(i).digest)
    }

    /// Notes a file that changed since this build looked at it, with its digest of then. Hashed to the same once more, only its times did.
    pub fn note_changed(&self, path: &[u8], before: Option<ContentDigest>) {
        self.changed.write().entry(path.to_vec()).or_insert(before);
    }

    /// Whether there are such files.
    pub fn has_changed(&self) -> bool {
        self.changed.read().is_some_and(|changed| !changed.is_empty())
    }

    /// Takes the list of them, which is empty then.
    pub fn take_changed(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.changed.write()).into_keys().collect()
    }

    /// Remembers a file that was just hashed.
    pub fn insert(&self, path: &[u8], seen: Fingerprint, digest: ContentDigest) {
        let is_same = self.changed.read().is_some_and(|changed| changed.get(path) == Some(&Some(digest)));
        if is_same {
            self.changed.write().remove(path);
        }
        self.fresh.write().insert(path.to_vec(), Fresh { seen, digest });
    }

    /// Writes what is known to `path`, if this build learned anything that may be stored: to a temporary name in the same directory,
    /// then renamed. Of two builds that save at once the later wins; both files are valid, and what is lost is hashed again.
    pub fn save(&self, path: &Path, horizon: &Horizon) -> io::Result<Saved> {
        let Some(fresh) = self.fresh.read() else { return Ok(Saved::default()) };
        let mut settled: Vec<_> = fresh.iter().filter(|(_, f)| horizon.is_settled(&f.seen)).collect();
        let racy = fresh.len() - settled.len();
        if settled.is_empty() {
            return Ok(Saved { entries: 0, racy });
        }
        settled.sort_unstable_by_key(|(path, _)| *path);
        let bytes = format::encode(self.merged(&settled, &fresh));
        let entries = bytes.entries;
        write_renamed(path, &bytes.bytes)?;
        Ok(Saved { entries, racy })
    }

    /// The old entries that stay and the new ones, by path.
    fn merged<'a>(&'a self, settled: &[(&'a Vec<u8>, &'a Fresh)], fresh: &HashMap<Vec<u8>, Fresh>) -> Vec<format::Record<'a>> {
        let mut records = Vec::with_capacity(self.old.len() + settled.len());
        for i in 0..self.old.len() {
            let mut record = self.old.record(i);
            let verdict = self.verdicts[i].load(Ordering::Relaxed);
            if verdict == STALE || fresh.contains_key(record.path) {
                continue;
            }
            record.age = if verdict == VERIFIED { 0 } else { record.age.saturating_add(1) };
            if record.age <= MAX_AGE {
                records.push(record);
            }
        }
        records.extend(settled.iter().map(|(path, fresh)| format::Record { path, seen: fresh.seen, digest: fresh.digest, age: 0 }));
        records.sort_unstable_by_key(|r| r.path);
        records
    }
}

/// Not synced: the checksum tells a file that a crash tore.
fn write_renamed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(
        ".{}.{}-{:x}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id(),
        rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec
    ));
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(n: u64) -> Fingerprint {
        let time = Mtime { secs: 1000 + n as i64, nanos: 5 };
        Fingerprint { size: n, mtime: time, ctime: time, inode: n, dev: 7 }
    }

    fn known(n: u8) -> ContentDigest {
        [n; 32]
    }

    /// Everything before the year 2001 is old enough.
    fn late() -> Horizon {
        Horizon::before(7, Mtime { secs: 1_000_000_000, nanos: 0 })
    }

    #[test]
    fn what_was_saved_is_found_under_the_same_fingerprint_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("contexts/x");
        let cache = StatCache::load(&file);
        assert!(cache.note().is_none());
        for n in 0..50u8 {
            cache.insert(format!("d{}/f{n}", n % 3).as_bytes(), print(n.into()), known(n));
        }
        assert_eq!(cache.save(&file, &late()).unwrap(), Saved { entries: 50, racy: 0 });

        let cache = StatCache::load(&file);
        assert_eq!(cache.loaded(), 50);
        for n in 0..50u8 {
            let path = format!("d{}/f{n}", n % 3).into_bytes();
            assert_eq!(cache.digest(&path), None, "not vouched for yet");
            assert_eq!(cache.lookup(&path, &print(n.into())), Some(known(n)));
            assert_eq!(cache.digest(&path), Some([n; 32]));
        }
        let changes: [fn(&mut Fingerprint); 5] =
            [|p| p.size += 1, |p| p.mtime.nanos += 1, |p| p.ctime.nanos += 1, |p| p.inode += 1, |p| p.dev += 1];
        for change in changes {
            let mut other = print(3);
            change(&mut other);
            assert_eq!(cache.lookup(b"d0/f3", &other), None);
            assert_eq!(cache.digest(b"d0/f3"), None);
        }
        assert_eq!(cache.lookup(b"d0/f", &print(3)), None);
        assert_eq!(cache.save(&file, &late()).unwrap().entries, 0, "nothing learned, nothing written");
    }

    #[test]
    fn young_files_are_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let cache = StatCache::empty();
        let horizon = Horizon::before(7, Mtime { secs: 1010, nanos: 5 });
        cache.insert(b"old", print(9), known(1));
        cache.insert(b"tick", print(10), known(2));
        cache.insert(b"future", print(500), known(3));
        cache.insert(b"elsewhere", Fingerprint { dev: 8, ctime: Mtime { secs: i64::MAX, nanos: 0 }, ..print(1) }, known(4));
        assert_eq!(cache.save(&file, &horizon).unwrap(), Saved { entries: 1, racy: 3 });
        assert_eq!(StatCache::load(&file).loaded(), 1);
        assert_eq!(cache.digest(b"tick"), Some([2; 32]), "this build may use it all the same");
    }

    #[test]
    fn entries_that_nobody_asks_for_go_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let first = StatCache::empty();
        first.insert(b"gone", print(1), known(1));
        first.insert(b"used", print(2), known(2));
        first.save(&file, &late()).unwrap();
        for round in 0..=u64::from(MAX_AGE) {
            let cache = StatCache::load(&file);
            assert_eq!(cache.loaded(), 3 - usize::from(round == 0), "round {round}");
            assert!(cache.lookup(b"used", &print(2)).is_some());
            cache.insert(b"busy", print(100 + round), known(3));
            cache.save(&file, &late()).unwrap();
        }
        let cache = StatCache::load(&file);
        assert_eq!(cache.loaded(), 2);
        assert!(cache.lookup(b"gone", &print(1)).is_none());
    }

    #[test]
    fn a_changed_file_loses_its_fresh_entry() {
        let cache = StatCache::empty();
        cache.insert(b"f", print(1), known(1));
        assert_eq!(cache.lookup(b"f", &print(1)), Some(known(1)));
        assert_eq!(cache.lookup(b"f", &print(2)), None);
        assert_eq!(cache.digest(b"f"), None);
    }

    #[test]
    fn any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        let cache = StatCache::empty();
        cache.insert(b"a/b", print(1), known(1));
        cache.insert(b"c", print(2), known(2));
        cache.save(&file, &late()).unwrap();
        let good = std::fs::read(&file).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            std::fs::write(&file, &bad).unwrap();
            let cache = StatCache::load(&file);
            assert!(cache.note().is_some() && cache.loaded() == 0, "byte {i}");
            std::fs::write(&file, &good[..i]).unwrap();
            assert!(StatCache::load(&file).note().is_some(), "cut at {i}");
        }
    }

    #[test]
    fn two_builds_may_save_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::thread::scope(|scope| {
            for n in 0..4u8 {
                let file = &file;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let cache = StatCache::load(file);
                        assert!(cache.note().is_none());
                        cache.insert(&[n], print(n.into()), known(n));
                        cache.save(file, &late()).unwrap();
                    }
                });
            }
        });
        assert!(StatCache::load(&file).loaded() >= 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
