//! The automatic garbage collection: how much the build cache may take, and when somebody looks.
//!
//! Nobody serves a store, so the builds look after it. What one measuring found stands in the file `gc`, which is locked while
//! somebody collects. To it is added what builds say that they wrote since, or what the file system has less, whichever is more: so
//! a build tells with a few system calls whether a cap is near. What its commands wrote into cache mounts it cannot say; whoever
//! collects behind such a build measures those by themselves. An estimate that is too high only makes somebody measure too early; one
//! that is too low holds until the next routine.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::gc::{Caps, ItemFilter, PruneOptions};
use crate::inventory::ItemKind;
use crate::lock::{open_lock_file, try_flock};

const GB: u64 = 1_000_000_000;
const DAY_SECS: i64 = 24 * 3600;
/// Where nothing presses, the store is measured once in so many seconds.
const ROUTINE_SECS: i64 = 3600;
/// What could not be brought below its cap is not tried again for so many seconds.
const RETRY_SECS: i64 = 60;
/// Of the time, one part in so many may go into measuring.
const MEASURED_SHARE: u64 = 50;

/// What the automatic collection keeps to. Sizes are allocated bytes of the build cache; images only go when they are removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The cache takes no more than this; 0 for no limit.
    pub max_bytes: u64,
    /// So much of the file system is to stay free.
    pub min_free_bytes: u64,
    /// So much of the cache stays whatever else is said, but on a full disk.
    pub reserved_bytes: u64,
    /// What was not used for so many seconds goes; 0 for never.
    pub keep_secs: i64,
    /// Git checkouts take no more than this; 0 for no limit.
    pub max_checkout_bytes: u64,
    /// The records of so many builds are kept.
    pub keep_builds: usize,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// All of it.
    pub total_bytes: u64,
    /// What this user may still write.
    pub free_bytes: u64,
    /// Whether there are hardly any inodes left.
    pub lacks_inodes: bool,
}

impl Disk {
    /// The file system of a directory.
    pub fn of(dir: &Path) -> Result<Self, StoreError> {
        let found = rustix::fs::statvfs(dir).map_err(|error| StoreError::io("ask for the space of", dir, error))?;
        Ok(Self {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            // File systems without a fixed number of inodes say 0.
            lacks_inodes: found.f_files > 0 && found.f_favail < found.f_files / 100,
        })
    }
}

/// How many bytes this process has added to a store, about.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    bytes: Arc<AtomicU64>,
    has_mounts: Arc<AtomicBool>,
}

impl Growth {
    /// Adds some.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All of them.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Says that a command can write into a cache mount.
    pub fn add_mount(&self) {
        self.has_mounts.store(true, Ordering::Relaxed);
    }

    /// Whether one could.
    pub fn has_mounts(&self) -> bool {
        self.has_mounts.load(Ordering::Relaxed)
    }
}

/// Why somebody collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Urgency {
    /// A build is over, or a cap may be crossed.
    Routine,
    /// A disk or a quota is full: what is reserved goes, too.
    Full,
}

/// Why somebody collects, with what they know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// How much it presses.
    pub urgency: Urgency,
    /// The free space of the file system does not show it: a quota is at its end, or what found no room was deleted again.
    pub is_hidden: bool,
    /// What the build wrote that is over, beside what lies in cache mounts.
    pub grown_bytes: u64,
    /// Its commands could write into cache mounts.
    pub has_mounts: bool,
}

impl Reason {
    /// A build is over, or a cap may be crossed.
    pub fn routine(grown_bytes: u64, has_mounts: bool) -> Self {
        Self { urgency: Urgency::Routine, is_hidden: false, grown_bytes, has_mounts }
    }

    /// A disk is full, or a quota at its end; `is_hidden` as in the field.
    pub fn full(is_hidden: bool) -> Self {
        Self { urgency: Urgency::Full, is_hidden, grown_bytes: 0, has_mounts: false }
    }
}

/// What the last measuring found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    at_secs: i64,
    took_ms: u64,
    cache_bytes: u64,
    free_bytes: u64,
    /// What was added since, as builds say.
    grown_bytes: u64,
    /// More than the caps allow is in use, or may not be taken.
    is_over: bool,
    /// What cache mounts took when they were measured last, which may be later than the rest.
    #[serde(default)]
    mounts: Mounts,
}

/// What measuring the cache mounts found. What they have more since is in [`Seen::grown_bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mounts {
    bytes: u64,
    at_secs: i64,
    took_ms: u64,
}

impl Seen {
    fn grown(self, bytes: u64) -> Self {
        Self { grown_bytes: self.grown_bytes.saturating_add(bytes), ..self }
    }
}

impl Policy {
    /// What suits a disk: BuildKit's shares of it, but no more than 20 GB are kept free. A laptop's owner wants the rest of a large
    /// disk, a build machine's cache the most of a small one.
    pub fn of_disk(total_bytes: u64) -> Self {
        Self {
            max_bytes: (total_bytes / 5 * 4).min(100 * GB),
            min_free_bytes: (total_bytes / 5).min(20 * GB),
            reserved_bytes: (total_bytes / 10).min(10 * GB),
            keep_secs: 60 * DAY_SECS,
            max_checkout_bytes: (total_bytes / 20).min(5 * GB),
            keep_builds: 1000,
        }
    }

    /// Whether a store is, or soon will be, beyond a cap, as far as can be told without measuring it. `grown_bytes` were added to it
    /// that nobody was told of.
    pub fn is_pressed(&self, root: &Path, grown_bytes: u64) -> bool {
        let Ok(disk) = Disk::of(root) else { return false };
        let seen = std::fs::read(root.join("gc")).ok().and_then(|bytes| serde_json::from_slice::<Seen>(&bytes).ok());
        seen.map_or(disk.free_bytes < self.min_free_bytes, |seen| self.is_beyond(&seen.grown(grown_bytes), disk.free_bytes))
    }

    fn is_beyond(&self, seen: &Seen, free_bytes: u64) -> bool {
        let cache_bytes = seen.cache_bytes + seen.grown_bytes.max(seen.free_bytes.saturating_sub(free_bytes));
        let is_large = self.max_bytes != 0 && cache_bytes > self.max_bytes.max(self.reserved_bytes);
        is_large || free_bytes < self.min_free_bytes && cache_bytes > self.reserved_bytes
    }

    /// Whether it is time to measure.
    fn is_due(&self, seen: Option<&Seen>, now_secs: i64, free_bytes: u64) -> bool {
        let Some(seen) = seen else { return true };
        let age_secs = now_secs.saturating_sub(seen.at_secs);
        let rest_secs = (seen.took_ms * MEASURED_SHARE / 1000) as i64;
        match (self.is_beyond(seen, free_bytes), seen.is_over) {
            // The clock was set back.
            _ if age_secs < 0 => true,
            (true, false) => true,
            (true, true) => age_secs >= rest_secs.max(RETRY_SECS),
            (false, _) => age_secs >= rest_secs.max(ROUTINE_SECS),
        }
    }

    /// What is pruned, in this order. A cap that is crossed is kept with some distance, so that not every build crosses it again.
    pub(crate) fn rules(&self, reason: Reason, disk: Disk) -> Vec<PruneOptions> {
        let any = |all, caps| PruneOptions { all, caps, ..PruneOptions::default() };
        if reason.urgency == Urgency::Full {
            let min_free_bytes = self.min_free_bytes.max(disk.total_bytes / 20);
            let max_used_share = if reason.is_hidden || disk.lacks_inodes { 75 } else { 0 };
            let caps = Caps { min_free_bytes, max_used_share, ..Caps::default() };
            return vec![any(false, caps), any(true, caps)];
        }
        let reserved_bytes = self.reserved_bytes;
        let caps = Caps {
            reserved_bytes,
            max_used_bytes: self.max_bytes,
            min_free_bytes: self.min_free_bytes,
            is_distant: true,
            ..Caps::default()
        };
        let of_kind = |kind| ItemFilter { kinds: Some(vec![kind]), ..ItemFilter::default() };
        let checkouts = Caps { max_used_bytes: self.max_checkout_bytes, is_distant: true, is_apart: true, ..Caps::default() };
        let unused = ItemFilter { unused_for_secs: Some(self.keep_secs), ..ItemFilter::default() };
        let mut rules = Vec::new();
        if self.max_checkout_bytes != 0 {
            rules.push(PruneOptions { all: true, filter: of_kind(ItemKind::Checkout), caps: checkouts });
        }
        if self.keep_secs != 0 {
            rules.push(PruneOptions { all: false, filter: unused, caps: Caps { reserved_bytes, ..Caps::default() } });
        }
        if self.max_bytes != 0 || self.min_free_bytes != 0 {
            rules.extend([any(false, caps), any(true, caps)]);
        }
        rules
    }
}

/// The file `gc`, locked: who holds it collects.
#[derive(Debug)]
pub(crate) struct Turn {
    file: File,
    path: PathBuf,
    seen: Option<Seen>,
}

impl Turn {
    /// Takes the lock. If somebody else collects, waits for them.
    pub(crate) fn take(root: &Path) -> Result<Self, StoreError> {
        let path = root.join("gc");
        let mut file = open_lock_file(&path)?;
        try_flock(&file, FlockOperation::LockExclusive, &path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| StoreError::io("read", &path, error))?;
        Ok(Self { file, path, seen: serde_json::from_slice(&text).ok() })
    }

    /// Whether cache mounts are to be measured: nothing else tells what commands wrote there, but it takes no more than its share of the
    /// time, and what is not known has to be measured with the rest.
    pub(crate) fn wants_mounts(&self, policy: &Policy, now_secs: i64) -> bool {
        let is_rested =
            |mounts: Mounts| now_secs < mounts.at_secs || now_secs - mounts.at_secs >= (mounts.took_ms * MEASURED_SHARE / 1000) as i64;
        policy.max_bytes != 0 && self.seen.is_some_and(|seen| is_rested(seen.mounts))
    }

    /// Adds what cache mounts have more than when they were measured last.
    pub(crate) fn note_mounts(&mut self, bytes: u64, took_ms: u64, at_secs: i64) -> Result<(), StoreError> {
        let Some(seen) = self.seen else { return Ok(()) };
        let grown = seen.grown(bytes.saturating_sub(seen.mounts.bytes));
        self.write(Seen { mounts: Mounts { bytes, at_secs, took_ms }, ..grown })
    }

    /// Adds what a build wrote.
    pub(crate) fn add(&mut self, grown_bytes: u64) -> Result<(), StoreError> {
        match self.seen.filter(|_| grown_bytes > 0).map(|seen| seen.grown(grown_bytes)) {
            Some(seen) => self.write(seen),
            None => Ok(()),
        }
    }

    pub(crate) fn is_due(&self, policy: &Policy, now_secs: i64, free_bytes: u64) -> bool {
        policy.is_due(self.seen.as_ref(), now_secs, free_bytes)
    }

    /// Notes what was found. Half a note, as on a full disk, is none.
    pub(crate) fn note(
        mut self,
        policy: &Policy,
        now_secs: i64,
        took_ms: u64,
        (cache_bytes, mount_bytes): (u64, u64),
        free_bytes: u64,
    ) -> Result<(), StoreError> {
        let took_mounts_ms = self.seen.map_or(0, |seen| seen.mounts.took_ms);
        let mounts = Mounts { bytes: mount_bytes, at_secs: now_secs, took_ms: took_mounts_ms };
        let mut seen = Seen { at_secs: now_secs, took_ms, cache_bytes, free_bytes, grown_bytes: 0, is_over: false, mounts };
        seen.is_over = policy.is_beyond(&seen, free_bytes);
        self.write(seen)
    }

    fn write(&mut self, seen: Seen) -> Result<(), StoreError> {
        self.seen = Some(seen);
        let written = serde_json::to_vec(&seen).map_err(std::io::Error::from).and_then(|text| {
            self.file.rewind()?;
            self.file.set_len(0)?;
            self.file.write_all(&text)
        });
        written.map_err(|error| StoreError::io("write", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { max_bytes: 100, min_free_bytes: 20, reserved_bytes: 10, keep_secs: 0, max_checkout_bytes: 0, keep_builds: 1 };

    fn seen(cache_bytes: u64, free_bytes: u64, is_over: bool) -> Seen {
        Seen { at_secs: 1000, took_ms: 2000, cache_bytes, free_bytes, grown_bytes: 0, is_over, mounts: Mounts::default() }
    }

    #[test]
    fn somebody_measures_when_a_cap_is_near_and_now_and_then() {
        for (last, now_secs, free, due) in [
            (None, 0, 50, true),
            (Some(seen(50, 50, false)), 1001, 50, false),
            (Some(seen(50, 50, false)), 1000 + 3599, 50, false),
            (Some(seen(50, 50, false)), 1000 + 3600, 50, true),
            (Some(seen(50, 50, false)), 999, 50, true),
            // It grew, as far as one can tell.
            (Some(seen(60, 80, false)), 1001, 39, true),
            (Some(seen(60, 80, false)), 1001, 40, false),
            (Some(seen(50, 50, false)), 1001, 19, true),
            // Others made room meanwhile, but builds wrote.
            (Some(seen(50, 50, false).grown(50)), 1001, 90, false),
            (Some(seen(50, 50, false).grown(51)), 1001, 90, true),
            // There is nothing to get.
            (Some(seen(5, 10, false)), 1001, 10, false),
            // It was tried, and more was in use; two seconds of measuring are paid by a hundred of rest.
            (Some(seen(120, 50, true)), 1001, 50, false),
            (Some(seen(120, 50, true)), 1099, 50, false),
            (Some(seen(120, 50, true)), 1100, 50, true),
        ] {
            assert_eq!(POLICY.is_due(last.as_ref(), now_secs, free), due, "{last:?} at {now_secs} with {free} free");
        }
    }

    #[test]
    fn what_cache_mounts_have_more_is_growth_and_measuring_them_takes_its_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let turn = Turn::take(dir.path()).expect("taken");
        assert!(!turn.wants_mounts(&POLICY, 1000), "nothing is known yet: all of it has to be measured");
        turn.note(&POLICY, 1000, 2000, (60, 20), 50).expect("written");
        let mut turn = Turn::take(dir.path()).expect("free again");
        assert!(turn.wants_mounts(&POLICY, 1000) && !turn.wants_mounts(&Policy { max_bytes: 0, ..POLICY }, 1000));
        turn.note_mounts(55, 3000, 1001).expect("written");
        assert!(!turn.is_due(&POLICY, 1001, 50), "60 and 35 more are below 100");
        // Three seconds of measuring are paid by 150 of rest.
        assert!(!turn.wants_mounts(&POLICY, 1150) && turn.wants_mounts(&POLICY, 1151) && turn.wants_mounts(&POLICY, 900));
        // Less than before takes nothing back: an estimate that is too high does no harm.
        turn.note_mounts(10, 0, 1001).expect("written");
        turn.note_mounts(16, 0, 1001).expect("written");
        drop(turn);
        let turn = Turn::take(dir.path()).expect("free again");
        assert!(turn.is_due(&POLICY, 1001, 50), "60 and 35 and 6 are above 100, though the disk has no less");
        assert!(turn.wants_mounts(&POLICY, 1001));
    }

    #[test]
    fn defaults_are_shares_of_a_small_disk_and_sizes_on_a_large_one() {
        let [small, large] = [50, 2000].map(|gb| Policy::of_disk(gb * GB));
        assert_eq!([small.max_bytes, small.min_free_bytes, small.reserved_bytes, small.max_checkout_bytes].map(|n| n / GB), [40, 10, 5, 2]);
        assert_eq!(
            [large.max_bytes, large.min_free_bytes, large.reserved_bytes, large.max_checkout_bytes].map(|n| n / GB),
            [100, 20, 10, 5]
        );
    }

    #[test]
    fn a_note_is_read_by_the_next_and_a_torn_one_is_none() {
        let noted = |seen| Seen { mounts: Mounts { at_secs: 1000, ..Mounts::default() }, ..seen };
        let dir = tempfile::tempdir().expect("a directory");
        let mut turn = Turn::take(dir.path()).expect("taken");
        turn.add(7).expect("nothing is known to add it to");
        assert!(turn.seen.is_none());
        turn.note(&POLICY, 1000, 2000, (120, 0), 50).expect("written");
        let mut turn = Turn::take(dir.path()).expect("free again");
        assert_eq!(turn.seen, Some(noted(seen(120, 50, true))));
        turn.add(7).expect("written");
        drop(turn);
        assert_eq!(Turn::take(dir.path()).expect("taken").seen, Some(noted(seen(120, 50, true).grown(7))));
        std::fs::write(dir.path().join("gc"), "{\"at_secs\":1").expect("written");
        assert_eq!(Turn::take(dir.path()).expect("taken").seen, None);
    }
}
