//! When things were last used: the modification time of one file of each.
//!
//! A use under a lease moves that time to the present if it lies more than an hour back, so a build that hits writes nothing else
//! and this at most once an hour for each thing. Times in the future come from a clock that was wrong: a use moves them back, and
//! a pruning takes them for the present.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

/// Uses closer to each other than this, in seconds, count as one.
pub(crate) const GRAIN_SECS: i64 = 3600;
/// Nanoseconds in a second.
pub(crate) const NANOS: i64 = 1_000_000_000;
/// Clocks of one machine do not differ by more than this, in seconds.
const TOLERANCE_SECS: i64 = 60;

/// Notes a use. That it cannot be noted, as on a read-only store, harms nobody.
pub(crate) fn note(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| is_due(mtime_secs(&meta), now_secs())) {
        let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: keep, last_modification: now };
        let _ = rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

pub(crate) fn is_due(noted: i64, now: i64) -> bool {
    noted.saturating_add(GRAIN_SECS) <= now || noted > now.saturating_add(TOLERANCE_SECS)
}

/// A noted time as a pruning counts it: nanoseconds since 1970, never later than the present.
pub(crate) fn of(meta: &std::fs::Metadata, now_nanos: i64) -> i64 {
    let fraction = std::os::unix::fs::MetadataExt::mtime_nsec(meta);
    mtime_secs(meta).saturating_mul(NANOS).saturating_add(fraction).min(now_nanos)
}

/// Whole seconds of nanoseconds.
pub(crate) fn secs(nanos: i64) -> i64 {
    nanos.div_euclid(NANOS)
}

pub(crate) fn mtime_secs(meta: &std::fs::Metadata) -> i64 {
    std::os::unix::fs::MetadataExt::mtime(meta)
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn now_nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The wall clock, in seconds since 1970.
pub(crate) fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_use_is_noted_once_an_hour_and_brings_back_times_of_a_wrong_clock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file = std::fs::File::create(&path).expect("a file");
        let now = SystemTime::now();
        let hours = |n: u64| Duration::from_secs(n * 3600);
        for (set, is_noted) in [
            (now - Duration::from_secs(600), false),
            (now - hours(2), true),
            (now + hours(24 * 365 * 30), true),
            (now + Duration::from_secs(20), false),
            (UNIX_EPOCH, true),
        ] {
            file.set_modified(set).expect("set");
            note(&path);
            let found = std::fs::metadata(&path).and_then(|meta| meta.modified()).expect("a time");
            assert_eq!(found != set, is_noted, "{set:?}");
            if is_noted {
                assert!(found >= now - Duration::from_secs(1) && found < now + hours(1), "{found:?}");
            }
        }
        note(&dir.path().join("nothing"));
    }
}
