//! Places that mounts go to.
//!
//! Nothing here follows a link of the image out of the root: paths are walked component by component, or resolved by the kernel
//! with the root as `/`.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstat, mkdirat, openat, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::{Deed, Failure};
use crate::scoped::open_scoped;

/// What a mount needs under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Dir,
    File,
}

/// Mode of a directory in memory that covers nothing of the image; one that does has the mode of that, as with runc.
pub(super) const TMPFS_MODE: u32 = 0o1777;
/// Mode of the files that are made.
pub(super) const FILE_MODE: u32 = 0o644;
const MAX_LINKS: usize = 40;

/// Opens the place `path` inside `root`, following links as a process in there would. `None` if nothing is there.
pub(super) fn find(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Failure> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match open_scoped(root, path.trim_start_matches('/'), OFlags::PATH | OFlags::CLOEXEC, resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Failure::call("open in the step's root", Some(Path::new(path)), error)),
    }
}

/// Makes what is missing of `path` in the tree at `dir`, which is ours and has no links. Returns where that is.
pub(super) fn make_stub(dir: &Path, path: &str, shape: Shape) -> Result<PathBuf, Failure> {
    let root = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", dir)?;
    make(root.as_fd(), path, shape, None)?;
    Ok(inside(dir, path))
}

/// Where `path` is in the tree at `dir`, which has no links.
pub(super) fn inside(dir: &Path, path: &str) -> PathBuf {
    let mut names: Vec<Vec<u8>> = Vec::new();
    for name in components(path.as_bytes()) {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names.iter().fold(dir.to_owned(), |at, name| at.join(as_os(name)))
}

/// Makes what is missing of `path` inside `root`, following links as a process in there would, and opens it. Returns also
/// the paths that were made, outermost first. `owner` gets what is made.
pub(super) fn make(root: BorrowedFd<'_>, path: &str, shape: Shape, owner: Option<(u32, u32)>) -> Result<(OwnedFd, Vec<PathBuf>), Failure> {
    let fail = |deed: &str, error: Errno| Failure::call(deed, Some(Path::new(path)), error);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reopen = |fd: BorrowedFd<'_>| openat(fd, ".", directory, Mode::empty()).map_err(|e| fail("open", e));
    let mut todo: VecDeque<Vec<u8>> = components(path.as_bytes());
    let mut at = vec![reopen(root)?];
    let mut names: Vec<Vec<u8>> = Vec::new();
    let (mut links, mut made) = (0, Vec::new());
    while let Some(name) = todo.pop_front() {
        if name == b".." {
            if at.len() > 1 {
                at.pop();
                names.pop();
            }
            continue;
        }
        let here = at.last().expect("the root stays").as_fd();
        let last = todo.is_empty();
        let stat = match statat(here, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                make_one(here, &name, if last { shape } else { Shape::Dir }).map_err(|e| fail("make the mount point", e))?;
                if let Some((uid, gid)) = owner {
                    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                    chownat(here, &*name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail("change the owner of", e))?;
                }
                let full = names.iter().chain([&name]).map(|n| std::ffi::OsStr::new(as_os(n))).collect();
                made.push(full);
                statat(here, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail("look at", e))?
            }
            Err(error) => return Err(fail("look at", error)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(fail("resolve", Errno::LOOP));
                }
                let target = readlinkat(here, &*name, Vec::new()).map_err(|e| fail("read the link", e))?;
                if target.as_bytes().starts_with(b"/") {
                    at.truncate(1);
                    names.clear();
                }
                for name in components(target.as_bytes()).into_iter().rev() {
                    todo.push_front(name);
                }
            }
            FileType::Directory => {
                let next = openat(here, &*name, directory, Mode::empty()).map_err(|e| fail("open", e))?;
                at.push(next);
                names.push(name);
            }
            _ if last => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Ok((openat(here, &*name, flags, Mode::empty()).map_err(|e| fail("open", e))?, made));
            }
            _ => return Err(fail("resolve", Errno::NOTDIR)),
        }
    }
    Ok((at.pop().expect("the root stays"), made))
}

fn as_os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").map(<[u8]>::to_vec).collect()
}

fn make_one(dir: BorrowedFd<'_>, name: &[u8], shape: Shape) -> rustix::io::Result<()> {
    match shape {
        Shape::Dir => mkdirat(dir, name, Mode::from_raw_mode(0o755)),
        Shape::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(dir, name, flags, Mode::from_raw_mode(FILE_MODE)).map(drop)
        }
    }
}

/// Removes mount points that had to be made in the upper directory, where the step left them as they were: empty.
pub(super) fn unmake(upper: &Path, made: &[PathBuf]) -> Result<(), Failure> {
    let root = openat(CWD, upper, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", upper)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for path in made.iter().rev() {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let Ok(dir) = open_scoped(&root, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, resolve) else { continue };
        let Ok(found) = open_scoped(&dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, resolve) else { continue };
        let stat = fstat(&found).deed_on("look at", path)?;
        let gone = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => unlinkat(&dir, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if stat.st_size == 0 => unlinkat(&dir, name, AtFlags::empty()),
            _ => Ok(()),
        };
        match gone {
            Ok(()) | Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(Failure::call("remove the mount point", Some(path), error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_parts_are_made_inside_the_root_whatever_links_say() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        symlink(outside.path(), root.join("evil")).unwrap();
        symlink("../../../../run/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();

        let (_, made) = make(fd.as_fd(), "/etc/resolv.conf", Shape::File, None).unwrap();
        assert_eq!(made, ["run", "run/resolve", "run/resolve/stub.conf"].map(PathBuf::from));
        assert!(root.join("run/resolve/stub.conf").is_file());

        make(fd.as_fd(), "/evil/x", Shape::Dir, None).unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(root.join(outside.path().strip_prefix("/").unwrap()).join("x").is_dir());

        assert!(make(fd.as_fd(), "/loop/x", Shape::Dir, None).is_err());
        assert!(find(fd.as_fd(), "/etc/resolv.conf").unwrap().is_some());
        assert!(find(fd.as_fd(), "/etc/hosts").unwrap().is_none());

        unmake(&root, &made).unwrap();
        assert!(!root.join("run").exists());
    }

    #[test]
    fn stubs_stay_in_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        let stub = dir.path().join("stub");
        fs::create_dir(&stub).unwrap();
        assert_eq!(make_stub(&stub, "/../a/../../etc/hosts", Shape::File).unwrap(), stub.join("etc/hosts"));
        assert!(stub.join("etc/hosts").is_file() && fs::read_dir(dir.path()).unwrap().count() == 1);
    }

    #[test]
    fn what_a_step_filled_stays() {
        let dir = tempfile::tempdir().unwrap();
        let fd = openat(CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let (_, made) = make(fd.as_fd(), "/a/b", Shape::Dir, None).unwrap();
        fs::write(dir.path().join("a/kept"), "x").unwrap();
        unmake(dir.path(), &made).unwrap();
        assert!(dir.path().join("a/kept").exists() && !dir.path().join("a/b").exists());
    }
}
