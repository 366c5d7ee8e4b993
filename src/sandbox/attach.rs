//! `RUN --mount`: what a step asks to have mounted.
//!
//! A source is made or opened first, as a mount that is attached nowhere, and then attached to the target by descriptor. Paths in a
//! source are resolved by the kernel with the source as `/`, and what was resolved is what is attached: a step that runs at the same
//! time and changes a link in between wins nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Gid, Mode, OFlags, PROC_SUPER_MAGIC, RenameFlags, ResolveFlags, Uid, fchmod, fchown, fstat, fstatfs, openat,
    renameat_with,
};
use rustix::io::Errno;

use super::mounts::{NODEV, NOEXEC, NOSUID, RDONLY, attach_at, clone, new};
use super::spec::{MountOwner, MountSource, StepMount};
use super::targets::{self, Shape};
use super::{Deed, Failure, overlay, sys};
use crate::scoped::open_scoped;

/// Room for a secret and its directory.
const SECRET_FS: [(&str, &str); 3] = [("mode", "700"), ("size", "1m"), ("nr_inodes", "8")];

/// Makes the directories that the mount needs, with the owners that it is to have. In the handler: what is made stays.
pub(super) fn prepare(mount: &StepMount, workspace: &Path) -> Result<(), Failure> {
    let make = |path: &Path, mode: u32| fs::DirBuilder::new().mode(mode).create(path).deed_on("make the directory", path);
    // Nobody but us looks in.
    make(workspace, 0o700)?;
    match &mount.source {
        MountSource::Layers { .. } => {
            for name in ["empty", "upper", "work", "root"] {
                make(&workspace.join(name), 0o755)?;
            }
        }
        MountSource::Directory { directory, owner, owned_anew, .. } => {
            let fresh = workspace.join("fresh");
            make(&fresh, 0o700)?;
            own(&fresh, *owner, &mount.target)?;
            // Whoever comes first makes it, whole; an empty one that is in use must not be replaced.
            match renameat_with(CWD, &fresh, CWD, directory, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) if *owned_anew => own(directory, *owner, &mount.target)?,
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Failure::call("make the cache", Some(directory), error)),
            }
        }
        MountSource::Secret { .. } => make(&workspace.join("root"), 0o700)?,
        MountSource::Socket { path, owner } => own(path, *owner, &mount.target)?,
        MountSource::Tmpfs { .. } | MountSource::Machine { .. } => {}
    }
    Ok(())
}

fn own(path: &Path, owner: MountOwner, target: &str) -> Result<(), Failure> {
    chown(path, Some(owner.uid), Some(owner.gid)).map_err(|error| not_given(error, owner, target))?;
    fs::set_permissions(path, fs::Permissions::from_mode(owner.mode & 0o7777)).deed_on("set the mode of", path)
}

/// Why a mount cannot have its owner: EINVAL says that the kernel knows one of the ids not here (chown(2)).
fn not_given(error: impl Into<io::Error>, owner: MountOwner, target: &str) -> Failure {
    let (error, deed) = (error.into(), format!("give what is mounted at {target} to {}:{}", owner.uid, owner.gid));
    if error.kind() != io::ErrorKind::InvalidInput {
        return Failure::call(&deed, None, error);
    }
    Failure::Other(format!("cannot {deed}: not among the ids of this user (see /etc/subuid and /etc/subgid)"))
}

/// Attaches the mount inside `root`. Returns the mount points that had to be made there.
pub(super) fn attach(root: BorrowedFd<'_>, mount: &StepMount, workspace: &Path) -> Result<Vec<PathBuf>, Failure> {
    let shape = if mount.is_file { Shape::File } else { Shape::Dir };
    let (target, made) = match targets::find(root, &mount.target)? {
        Some(target) => (target, Vec::new()),
        None => targets::make(root, &mount.target, shape, None)?,
    };
    let covered = covered(mount, &target)?;
    let mode = if made.is_empty() { covered } else { targets::TMPFS_MODE };
    let (source, mut attributes) = detached(mount, mode, workspace)?;
    if !mount.writable {
        attributes |= RDONLY;
    }
    sys::set_mount_attributes(source.as_fd(), attributes, false).deed_on("set the attributes of the mount for", &mount.target)?;
    attach_at(source.as_fd(), target.as_fd(), &mount.target)?;
    // What was made in the tmpfs on /dev ends with it.
    Ok(made.into_iter().filter(|path| !path.starts_with("dev")).collect())
}

/// The mode of what the mount is going to cover, if it can be covered by it.
fn covered(mount: &StepMount, target: &OwnedFd) -> Result<u32, Failure> {
    let failed = |why: &str| Err(Failure::Other(format!("cannot mount at {}: {why}", mount.target)));
    // Programs would be told of other processes, and of another kernel, than there are. What the machine lends may be meant for there.
    let is_asked_for = !matches!(mount.source, MountSource::Machine { .. });
    if is_asked_for && fstatfs(target).deed_on("look at", &mount.target)?.f_type == PROC_SUPER_MAGIC {
        return failed("it lies in /proc");
    }
    let mode = fstat(target).deed_on("look at", &mount.target)?.st_mode;
    match (FileType::from_raw_mode(mode), mount.is_file) {
        (FileType::Directory, true) => failed("it is a directory, and what is mounted a file"),
        (FileType::Directory, false) | (_, true) => Ok(mode & 0o7777),
        (_, false) => failed("it is a file, and what is mounted a directory"),
    }
}

/// The source as a mount of its own, and the attributes that it gets. `mode` is that of a directory in memory.
fn detached(mount: &StepMount, mode: u32, workspace: &Path) -> Result<(OwnedFd, u64), Failure> {
    match &mount.source {
        MountSource::Layers { lowers, path } => {
            let at = |name: &str| workspace.join(name);
            let lowers: Vec<PathBuf> = lowers.iter().rev().cloned().chain([at("empty")]).collect();
            overlay::mount_at(&lowers, &at("upper"), &at("work"), &at("root"))?;
            Ok((inside(&at("root"), path)?, NODEV))
        }
        MountSource::Directory { directory, path, .. } => Ok((inside(directory, path)?, NODEV | NOSUID)),
        MountSource::Tmpfs { size_bytes } => {
            let size = size_bytes.map(|bytes| bytes.to_string());
            let mode = format!("{mode:o}");
            let options: Vec<(&str, &str)> =
                [("mode", mode.as_str())].into_iter().chain(size.as_deref().map(|size| ("size", size))).collect();
            Ok((new("tmpfs", &options, NOSUID)?, NOSUID))
        }
        MountSource::Secret { content, owner } => {
            Ok((secret(content, *owner, &mount.target, &workspace.join("root"))?, NOSUID | NODEV | NOEXEC))
        }
        MountSource::Machine { path, devices, programs } => {
            let source = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).deed_on("open", path)?;
            let attributes = NOSUID | if *devices { 0 } else { NODEV } | if *programs { 0 } else { NOEXEC };
            Ok((clone(source.as_fd(), "", false).deed_on("copy the mount of", path)?, attributes))
        }
        MountSource::Socket { path, .. } => {
            let socket = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).deed_on("open", path)?;
            Ok((clone(socket.as_fd(), "", false).deed_on("copy the mount of", path)?, NOSUID | NODEV | NOEXEC))
        }
    }
}

/// A copy of the mount at `path`, with `root` as `/`: neither `..` nor a link leads out of it.
fn inside(root: &Path, path: &str) -> Result<OwnedFd, Failure> {
    let root_fd = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", root)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let relative = match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    let source = open_scoped(&root_fd, relative, OFlags::PATH | OFlags::CLOEXEC, resolve);
    let source = source.deed_on("open the source of a mount", path)?;
    clone(source.as_fd(), "", false).deed_on("copy the mount of", path)
}

/// A file in memory, as a mount. The file system that it lies in is attached where only we look, in our own mount namespace.
fn secret(content: &[u8], owner: MountOwner, path: &str, place: &Path) -> Result<OwnedFd, Failure> {
    let fs = new("tmpfs", &SECRET_FS, NOSUID | NODEV | NOEXEC)?;
    let target = openat(CWD, place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", place)?;
    attach_at(fs.as_fd(), target.as_fd(), "the place of a secret")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&fs, "secret", flags, Mode::from_raw_mode(0o600)).deed("make the file of a secret")?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest).deed("write a secret")?;
        rest = &rest[written..];
    }
    // The owner first: its change would clear bits of the mode.
    let owned = fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
    owned.map_err(|error| not_given(error, owner, path))?;
    fchmod(&file, Mode::from_raw_mode(owner.mode & 0o7777)).deed("set the mode of a secret")?;
    clone(fs.as_fd(), "secret", false).deed("copy the mount of a secret")
}
