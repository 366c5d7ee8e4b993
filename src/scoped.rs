//! Opening a path that must not lead out of a directory: openat2(2).

use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

/// So often a path is tried again. Each try is a system call, and each is spoilt by one rename or mount at the wrong moment only.
const TRIES: usize = 10_000;

/// Opens `path` below `root`, as far as `resolve` lets it lead.
///
/// The kernel gives up with EAGAIN where `..` is followed while anything on the machine is renamed or mounted, as it cannot tell then
/// that the path stayed inside. On a machine that builds, something always is; so this tries again, as openat2(2) advises.
pub(crate) fn open_scoped(root: impl AsFd, path: impl Arg + Copy, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    for _ in 0..TRIES {
        match openat2(&root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => thread::yield_now(),
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn renames_elsewhere_do_not_spoil_a_path_with_dots() {
        let (here, elsewhere) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        fs::create_dir_all(here.path().join("a/b")).expect("made");
        let root = fs::File::open(here.path()).expect("opened");
        let names = ["one", "two"].map(|name| elsewhere.path().join(name));
        fs::create_dir(&names[0]).expect("made");
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    fs::rename(&names[0], &names[1]).and_then(|()| fs::rename(&names[1], &names[0])).expect("renamed");
                }
            });
            let open = || open_scoped(&root, "a/b/../../a/b/../b", OFlags::PATH | OFlags::CLOEXEC, ResolveFlags::IN_ROOT);
            let failed: Vec<_> = (0..20_000).filter_map(|_| open().err()).collect();
            ended.store(true, Ordering::Relaxed);
            assert_eq!(failed, []);
        });
    }
}
