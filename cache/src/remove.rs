//! Deletes trees that steps have made: any depth, any permissions, never through a symbolic link.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// A directory deeper than this is moved up to the top of the tree first, so that neither descriptors nor the stack run out.
const DEEPEST: usize = 64;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a deletion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Freed bytes, as allocated blocks.
    pub(crate) bytes: u64,
    /// Files that are no directories.
    pub(crate) files: u64,
    /// Whether something could not be deleted.
    pub(crate) is_incomplete: bool,
}

impl Removed {
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.files += other.files;
        self.is_incomplete |= other.is_incomplete;
    }
}

/// Deletes a file or a whole tree, as much of it as it can. A path that is not there is fine.
pub(crate) fn remove_tree(path: &Path) -> Removed {
    let mut removal = Removal::default();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Removed { is_incomplete: true, ..Removed::default() };
    };
    match rustix::fs::open(parent, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(parent) => {
            if let Ok(name) = CString::new(name.as_bytes()) {
                removal.remove_top(parent.as_fd(), &name);
            }
        }
        Err(Errno::NOENT) => {}
        Err(_) => removal.removed.is_incomplete = true,
    }
    removal.removed
}

#[derive(Default)]
struct Removal {
    removed: Removed,
    /// Directories that were moved up from too deep, by their new names at the top.
    moved_up: Vec<CString>,
    moves: u64,
}

impl Removal {
    fn remove_top(&mut self, parent: BorrowedFd<'_>, name: &CStr) {
        let Some(stat) = self.stat(parent, name) else { return };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.unlink(parent, name, &stat);
            return;
        }
        let Some(top) = self.open_dir(parent, name, &stat) else { return };
        self.clear(top.as_fd(), &stat, top.as_fd(), 1);
        while let Some(name) = self.moved_up.pop() {
            self.remove(top.as_fd(), &name, top.as_fd(), 1);
        }
        self.rmdir(parent, name, &stat);
    }

    fn remove(&mut self, dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, depth: usize) {
        let Some(stat) = self.stat(dir, name) else { return };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.unlink(dir, name, &stat);
            return;
        }
        if depth >= DEEPEST && self.move_up(dir, name, top) {
            return;
        }
        let Some(fd) = self.open_dir(dir, name, &stat) else { return };
        self.clear(fd.as_fd(), &stat, top, depth + 1);
        drop(fd);
        self.rmdir(dir, name, &stat);
    }

    /// Deletes what a directory holds.
    fn clear(&mut self, dir: BorrowedFd<'_>, stat: &Stat, top: BorrowedFd<'_>, depth: usize) {
        // Entries can only go from a directory that its owner may write and search.
        if stat.st_mode & 0o700 != 0o700 {
            let _ = rustix::fs::fchmod(dir, Mode::RWXU);
        }
        let names = Dir::read_from(dir).map(|entries| entries.filter_map(Result::ok).map(|entry| entry.file_name().to_owned()));
        match names.map(Iterator::collect::<Vec<_>>) {
            Ok(names) => {
                for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
                    self.remove(dir, name, top, depth);
                }
            }
            Err(_) => self.removed.is_incomplete = true,
        }
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>) -> bool {
        loop {
            self.moves += 1;
            let Ok(fresh) = CString::new(format!(".shale-deep-{}", self.moves)) else { return false };
            // A name that is taken by something else is left alone: the next one is tried.
            match rustix::fs::renameat_with(dir, name, top, &fresh, rustix::fs::RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.moved_up.push(fresh);
                    return true;
                }
                Err(Errno::EXIST) => {}
                Err(_) => return false,
            }
        }
    }

    fn stat(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Option<Stat> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(error) => {
                self.removed.is_incomplete |= error != Errno::NOENT;
                None
            }
        }
    }

    fn open_dir(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Option<OwnedFd> {
        let opened = match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
            Err(Errno::ACCESS) if stat.st_uid == rustix::process::geteuid().as_raw() => {
                // Ours, but unreadable. What chmod follows here can only be our own, in a tree that only we write.
                let _ = rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty());
                rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
            }
            other => other,
        };
        self.removed.is_incomplete |= opened.as_ref().is_err_and(|error| *error != Errno::NOENT);
        opened.ok()
    }

    fn unlink(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) => {
                self.removed.files += 1;
                // Blocks of a file with more names go with the last of them.
                if stat.st_nlink == 1 {
                    self.removed.bytes += allocated(stat);
                }
            }
            Err(error) => self.removed.is_incomplete |= error != Errno::NOENT,
        }
    }

    fn rmdir(&mut self, dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) {
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) => self.removed.bytes += allocated(stat),
            Err(error) => self.removed.is_incomplete |= error != Errno::NOENT,
        }
    }
}

fn allocated(stat: &Stat) -> u64 {
    stat.st_blocks as u64 * 512
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn trees_of_any_depth_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let top = dir.path().join("top");
        fs::create_dir(&top).expect("a directory");
        // A path of this depth cannot be named in one call, so the tree is put together from the inside.
        let name = "d".repeat(50);
        for depth in 0..200 {
            let (next, inner) = (dir.path().join("next"), dir.path().join(if depth == 0 { "top" } else { "at" }));
            fs::create_dir(&next).expect("a directory");
            fs::write(next.join(".shale-deep-1"), "in the way").expect("a file");
            fs::rename(inner, next.join(&name)).expect("moved");
            fs::rename(next, dir.path().join("at")).expect("moved");
        }
        let parent = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).expect("opened");
        let mut removal = Removal::default();
        removal.remove_top(parent.as_fd(), c"at");
        assert_eq!((removal.removed.is_incomplete, removal.removed.files), (false, 200));
        assert!(removal.moves > 2, "no more than {DEEPEST} directories are open at a time");
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn links_are_not_followed_and_blocks_are_counted_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (outside, top) = (dir.path().join("outside"), dir.path().join("top"));
        fs::create_dir_all(outside.join("kept")).expect("a directory");
        fs::create_dir_all(top.join("sub")).expect("a directory");
        std::os::unix::fs::symlink(&outside, top.join("link")).expect("a link");
        fs::write(top.join("a"), [1; 8192]).expect("a file");
        fs::hard_link(top.join("a"), top.join("sub/b")).expect("a link");
        let removed = remove_tree(&top);
        assert!(outside.join("kept").exists());
        assert!(!top.exists());
        assert_eq!((removed.files, removed.is_incomplete), (3, false));
        assert!((8192..65536).contains(&removed.bytes), "{removed:?}");

        std::os::unix::fs::symlink(&outside, &top).expect("a link");
        assert_eq!(remove_tree(&top), Removed { files: 1, ..Removed::default() });
        assert!(outside.join("kept").exists());
        assert_eq!(remove_tree(&top), Removed::default());
        assert_eq!(remove_tree(&top.join("no/where")), Removed::default());
    }
}
