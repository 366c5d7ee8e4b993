//! How old a file must be for its digest to be stored.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::time::ClockId;

use super::Fingerprint;
use crate::tree::entry::Mtime;
use crate::tree::walk::stat_at;

/// Subtracted where the file system's own clock cannot be asked, or counts in seconds (FAT: two).
const UNKNOWN_GRANULARITY_NANOS: i64 = 2_000_000_000;
/// Subtracted from the file system's own stamp: a kernel tick, at the slowest rate that Linux is built with.
const TICK_NANOS: i64 = 10_000_000;

/// The scan's start, as the clock of the context's file system saw it. A file whose times lie before it cannot change any more
/// without getting later times.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// The context's device and its limit.
    dev: u64,
    limit: Mtime,
    /// The limit on any other device, such as a mount inside the context.
    elsewhere: Mtime,
}

impl Horizon {
    /// Asks the file system of an open directory for its time: by a file without a name, so that nobody ever sees it. Where that
    /// cannot be made (read-only, NFS) the kernel's clock serves, with a margin. To be called before the first file is stat'ed.
    pub fn now(dir: impl AsFd) -> Self {
        let coarse = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        let elsewhere = minus(Mtime { secs: coarse.tv_sec, nanos: coarse.tv_nsec as u32 }, UNKNOWN_GRANULARITY_NANOS);
        let dev = stat_at(dir.as_fd(), c".").map_or(0, |stat| stat.dev);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let stamp = rustix::fs::openat(dir, c".", flags, Mode::RUSR).ok().and_then(|file| {
            let stat = rustix::fs::fstat(&file).ok()?;
            Some(Mtime { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 })
        });
        let limit = stamp.map_or(elsewhere, |stamp| {
            // Whole seconds by chance are rare; by granularity they are the rule.
            minus(stamp, if stamp.nanos == 0 { UNKNOWN_GRANULARITY_NANOS } else { TICK_NANOS })
        });
        Self { dev, limit, elsewhere }
    }

    /// A limit made by hand; other devices get the same.
    pub fn before(dev: u64, limit: Mtime) -> Self {
        Self { dev, limit, elsewhere: limit }
    }

    /// Whether a change of the file from now on would show in its times. A time in the future (a stepped clock, a copied stamp)
    /// is not settled: the file is hashed by each build until the clock has passed it.
    pub fn is_settled(&self, seen: &Fingerprint) -> bool {
        let limit = if seen.dev == self.dev { self.limit } else { self.elsewhere };
        seen.ctime.max(seen.mtime) < limit
    }
}

fn minus(time: Mtime, nanos: i64) -> Mtime {
    let total = i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos) - i128::from(nanos);
    Mtime { secs: total.div_euclid(1_000_000_000) as i64, nanos: total.rem_euclid(1_000_000_000) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_lies_before_a_file_written_now_and_after_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let fd = crate::tree::walk::open_dir(dir.path()).unwrap();
        std::fs::write(dir.path().join("old"), "x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        let before = Horizon::now(&fd);
        std::fs::write(dir.path().join("new"), "x").unwrap();
        let print = |name: &str| Fingerprint::from(&stat_at(&fd, name).unwrap());
        assert!(!before.is_settled(&print("new")));
        // Where files without a name cannot be made the margin is two seconds, and "old" is simply racy.
        if before.limit != before.elsewhere {
            assert!(before.is_settled(&print("old")));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "asking leaves nothing behind");
    }

    #[test]
    fn times_are_subtracted_across_the_second() {
        assert_eq!(minus(Mtime { secs: 5, nanos: 3 }, 4), Mtime { secs: 4, nanos: 999_999_999 });
        assert_eq!(minus(Mtime { secs: 0, nanos: 0 }, 2_000_000_000), Mtime { secs: -2, nanos: 0 });
    }
}
