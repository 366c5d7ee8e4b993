//! What a step finds mounted: the same as under BuildKit.
//!
//! Everything is attached by descriptors: sources are fresh or cloned mounts, targets are opened with the step's root as `/`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dev, FileType, Mode, OFlags, ResolveFlags, makedev, mkdirat, mknodat, openat, statfs, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::attach;
use super::spec::StepMount;
use super::standby::Kind;
use super::targets::{self, Shape};
use super::{Deed, Failure, sys};
use crate::scoped::open_scoped;

pub(super) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(super) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(super) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Files and directories of the kernel that say too much about the machine.
const MASKED: &[&str] = &[
    "proc/asound",
    "proc/acpi",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];
/// Those that a step may read but not write.
const READ_ONLY: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
/// Device nodes: name, major, minor.
const NODES: &[(&str, u32, u32)] = &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Those that an insecure step gets besides, where the machine has them, as in BuildKit; loop devices only by their control.
const INSECURE_NODES: &[(&str, u32, u32)] =
    &[("kmsg", 1, 11), ("cuse", 10, 203), ("fuse", 10, 229), ("kvm", 10, 232), ("net/tun", 10, 200), ("loop-control", 10, 237)];
/// Links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
/// Group `tty` in most images, as terminals expect it.
const TTY_GROUP: &str = "gid=5";
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// A file of ours to be seen in the step, read-only.
#[derive(Debug)]
pub(super) struct BoundFile {
    /// Where it is outside.
    pub(super) source: PathBuf,
    /// Absolute path inside.
    pub(super) target: String,
    /// Whether it can be executed.
    pub(super) executable: bool,
}

impl BoundFile {
    /// A mount of it that is attached nowhere yet.
    pub(super) fn detached(&self) -> Result<OwnedFd, Failure> {
        let source = self.source.to_str().ok_or_else(|| Failure::Other(format!("{} is not UTF-8", self.source.display())))?;
        let mount = clone(CWD, source, false).deed_on("copy the mount of", &self.source)?;
        let attributes = RDONLY | NOSUID | NODEV | if self.executable { 0 } else { NOEXEC };
        sys::set_mount_attributes(mount.as_fd(), attributes, false).deed_on("make read-only", &self.source)?;
        Ok(mount)
    }
}

/// Where the mounts that every step has are made before there is a root for them: a file system in memory.
///
/// To take the machine's root down takes the kernel a grace period. So it goes as soon as nothing is made from it any more, before there is
/// a step: then the stage is the root, until the step's own comes. It needs not go for that: read-only, with nothing in it, it hides one of
/// the directories that are to be hidden.
///
/// Where something is still made from the machine's root, the stage is attached over that, where no path leads into it.
#[derive(Debug)]
pub(super) struct Stage {
    root: Root,
    /// What it is to hide, if the machine's root is gone.
    hides: Option<&'static str>,
}

/// Where the step's root is attached on a stage that is the root.
const ROOT: &str = "root";

/// What is mounted in every step, with what lies below.
const COMMON: [&str; 3] = ["proc", "dev", "sys"];

impl Stage {
    /// Mounts everything that does not depend on the step.
    pub(super) fn make(kind: Kind) -> Result<Self, Failure> {
        let fs = new("tmpfs", &[("mode", "755")], NOSUID | NODEV | NOEXEC)?;
        let slash = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", "/")?;
        // Over the root: paths that begin there go on below it. Mounts can be made in what is attached only.
        attach_at(fs.as_fd(), slash.as_fd(), "/")?;
        let mut root = Root { fd: fs, made: Vec::new() };
        for name in COMMON.into_iter().chain([ROOT]) {
            mkdirat(&root.fd, name, Mode::from_raw_mode(0o755)).deed_on("make the directory", name)?;
        }
        root.proc()?;
        root.dev(kind.shm_size_bytes, kind.insecure)?;
        root.sys(if kind.insecure { 0 } else { RDONLY })?;
        let hides = if kind.insecure { None } else { root.hide(!kind.needs_machine)? };
        if hides.is_some() {
            replace_root(&root.fd)?;
        }
        Ok(Self { root, hides })
    }

    /// The `/dev/null` of every step.
    pub(super) fn null(&self) -> Result<OwnedFd, Failure> {
        openat(&self.root.fd, "dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", "/dev/null")
    }

    /// Attaches the step's root, which is mounted nowhere yet, at an empty directory: of its own, or of the machine.
    pub(super) fn attach(&self, root: OwnedFd, of_machine: &Path) -> Result<Root, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = match self.hides {
            Some(_) => openat(&self.root.fd, ROOT, flags, Mode::empty()),
            None => openat(CWD, of_machine, flags, Mode::empty()),
        };
        attach_at(root.as_fd(), target.deed_on("open", of_machine)?.as_fd(), "the root")?;
        Ok(Root { fd: root, made: Vec::new() })
    }

    /// Makes the step's root, furnished, the root. Nothing of the machine is left then. `aside` is an empty directory of the machine.
    pub(super) fn leave_for(&self, root: &OwnedFd, aside: &Path) -> Result<(), Failure> {
        let Some(hides) = self.hides else {
            // Over the machine's root it would be let go of in the place of that.
            let target = openat(CWD, aside, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", aside)?;
            attach_at(self.root.fd.as_fd(), target.as_fd(), "the stage")?;
            return replace_root(root);
        };
        fchdir(root).deed("enter the root")?;
        match pivot_root(".", hides) {
            // The part of the kernel that it belonged to is gone.
            Err(Errno::NOENT) => return replace_root(root),
            done => done.deed("make the root the root")?,
        }
        chdir("/").deed_on("enter", "/")?;
        for name in COMMON.into_iter().chain([ROOT]) {
            unlinkat(&self.root.fd, name, AtFlags::REMOVEDIR).deed_on("empty the mask of", hides)?;
        }
        sys::set_mount_attributes(self.root.fd.as_fd(), RDONLY, false).deed_on("make read-only", hides)
    }
}

/// Makes a mount the root and lets go of the one that was it, with everything below.
fn replace_root(root: &OwnedFd) -> Result<(), Failure> {
    fchdir(root).deed("enter the root")?;
    pivot_root(".", ".").deed("make the root the root")?;
    // The old root is stacked on the new one now.
    unmount(".", UnmountFlags::DETACH).deed("let go of the old root")?;
    chdir("/").deed_on("enter", "/")
}

/// The attached root of a step.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    /// Mount points that had to be made in the upper directory.
    made: Vec<PathBuf>,
}

impl Root {
    /// Mounts everything: what the stage has, files with their mounts, and what the step asks for. Returns the mount points that had to be made
    /// in the upper directory.
    pub(super) fn furnish<'a>(
        mut self,
        stage: &Stage,
        files: impl Iterator<Item = (&'a BoundFile, OwnedFd)>,
        mounts: &[(StepMount, PathBuf)],
    ) -> Result<(OwnedFd, Vec<PathBuf>), Failure> {
        for name in COMMON {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mount = openat(&stage.root.fd, name, flags, Mode::empty()).deed_on("open", name)?;
            self.attach_plainly(&mount, name)?;
        }
        for (file, mount) in files {
            self.bind_file(file, &mount)?;
        }
        for (mount, workspace) in mounts {
            let made = attach::attach(self.fd.as_fd(), mount, workspace)?;
            self.made.extend(made);
        }
        Ok((self.fd, self.made))
    }

    /// Attaches a mount at a directory that must be one: a link there could only have the purpose to mislead.
    fn attach_plainly(&mut self, mount: &OwnedFd, path: &'static str) -> Result<(), Failure> {
        let open = |root: BorrowedFd<'_>| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            open_scoped(root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, resolve)
        };
        let target = match open(self.fd.as_fd()) {
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(Failure::Other(format!(
                    "the image has something else than a directory at /{path}, where the step needs a mount"
                )));
            }
            Err(Errno::NOENT) => {
                // The stub is hidden by a whiteout or an opaque directory of the image.
                let (fd, made) = targets::make(self.fd.as_fd(), path, Shape::Dir, None)?;
                self.made.extend(made);
                fd
            }
            other => other.deed_on("open in the step's root", path)?,
        };
        attach_at(mount.as_fd(), target.as_fd(), path)
    }

    fn proc(&mut self) -> Result<(), Failure> {
        let mount = match fresh("proc", &[], NOSUID | NODEV | NOEXEC) {
            // A container around us that hides parts of its own /proc: the kernel allows no new one, but a copy of what we see.
            Err((_, Errno::PERM)) => clone(CWD, "/proc", true).deed_on("copy the mounts at", "/proc").and_then(|mount| {
                sys::set_mount_attributes(mount.as_fd(), NOSUID | NODEV | NOEXEC, true).deed("restrict the copy of /proc")?;
                Ok(mount)
            })?,
            other => other.map_err(|(deed, e)| Failure::call(deed, Some(Path::new("proc")), e))?,
        };
        self.attach_plainly(&mount, "proc")
    }

    fn dev(&mut self, shm_bytes: Option<u64>, insecure: bool) -> Result<(), Failure> {
        let tmpfs = new("tmpfs", &[("mode", "755"), ("size", "65536k")], NOSUID | libc::MOUNT_ATTR_STRICTATIME)?;
        self.attach_plainly(&tmpfs, "dev")?;
        let dev = openat(&tmpfs, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed("open /dev")?;
        for (name, major, minor) in NODES {
            node(&dev, name, makedev(*major, *minor))?;
        }
        for (name, major, minor) in INSECURE_NODES.iter().filter(|(name, ..)| insecure && Path::new("/dev").join(name).exists()) {
            if let Some((dir, _)) = name.split_once('/') {
                mkdirat(&dev, dir, Mode::from_raw_mode(0o755)).deed_on("make the directory in /dev", dir)?;
            }
            node(&dev, name, makedev(*major, *minor))?;
        }
        for (name, target) in LINKS {
            symlinkat(*target, &dev, *name).deed_on("make the link in /dev", name)?;
        }
        let noexec = NOSUID | NODEV | NOEXEC;
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        let pts = match fresh("devpts", &[&pts[..], &[TTY_GROUP.split_once('=').expect("key=value")]].concat(), NOSUID | NOEXEC) {
            // No such group in a map of a single one.
            Err((_, Errno::INVAL)) => new("devpts", &pts, NOSUID | NOEXEC)?,
            other => other.map_err(|(deed, e)| Failure::call(deed, Some(Path::new("devpts")), e))?,
        };
        // As in BuildKit: who asks for a size gets a mount of other attributes.
        let attributes = if shm_bytes.is_some() { NOSUID } else { noexec };
        let size = shm_bytes.unwrap_or(DEFAULT_SHM_BYTES).to_string();
        let shm = new("tmpfs", &[("mode", "1777"), ("size", &size)], attributes)?;
        let mqueue = new("mqueue", &[], noexec)?;
        for (name, mount) in [("pts", pts), ("shm", shm), ("mqueue", mqueue)] {
            mkdirat(&dev, name, Mode::from_raw_mode(0o755)).deed_on("make the directory in /dev", name)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = openat(&dev, name, flags, Mode::empty()).deed_on("open in /dev", name)?;
            attach_at(mount.as_fd(), target.as_fd(), name)?;
        }
        Ok(())
    }

    /// `protection` is read-only or nothing.
    fn sys(&mut self, protection: u64) -> Result<(), Failure> {
        let attributes = protection | NOSUID | NODEV | NOEXEC;
        let (mount, copied) = match fresh("sysfs", &[], attributes) {
            Ok(mount) => (mount, false),
            // Only the owner of a network namespace gets a new one.
            Err((_, Errno::PERM)) => {
                let mount = clone(CWD, "/sys", true).deed_on("copy the mounts at", "/sys")?;
                sys::set_mount_attributes(mount.as_fd(), attributes, true).deed("restrict the copy of /sys")?;
                (mount, true)
            }
            Err((deed, error)) => return Err(Failure::call(deed, Some(Path::new("sysfs")), error)),
        };
        self.attach_plainly(&mount, "sys")?;
        let Some(target) = targets::find(self.fd.as_fd(), "sys/fs/cgroup")? else { return Ok(()) };
        let unified = statfs("/sys/fs/cgroup").is_ok_and(|s| s.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64);
        let mount = match unified.then(|| fresh("cgroup2", &[], attributes)) {
            Some(Ok(mount)) => mount,
            _ if copied => return Ok(()),
            _ => {
                let Ok(mount) = clone(CWD, "/sys/fs/cgroup", true) else { return Ok(()) };
                sys::set_mount_attributes(mount.as_fd(), attributes, true).deed("restrict the copy of /sys/fs/cgroup")?;
                mount
            }
        };
        attach_at(mount.as_fd(), target.as_fd(), "sys/fs/cgroup")
    }

    fn bind_file(&mut self, file: &BoundFile, mount: &OwnedFd) -> Result<(), Failure> {
        let target = if let Some(fd) = targets::find(self.fd.as_fd(), &file.target)? {
            fd
        } else {
            let (fd, made) = targets::make(self.fd.as_fd(), &file.target, Shape::File, None)?;
            // What was made in the tmpfs on /dev ends with it.
            self.made.extend(made.into_iter().filter(|path| !path.starts_with("dev")));
            fd
        };
        attach_at(mount.as_fd(), target.as_fd(), &file.target)
    }

    /// Masks and write-protects parts of /proc and /sys. One directory is left to be masked by the stage, if that is wanted and there is one.
    fn hide(&self, leaves_one: bool) -> Result<Option<&'static str>, Failure> {
        let inside = |path: &str| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match open_scoped(&self.fd, path, OFlags::PATH | OFlags::CLOEXEC, resolve) {
                Ok(fd) => Ok(Some(fd)),
                Err(Errno::NOENT | Errno::LOOP) => Ok(None),
                Err(error) => Err(Failure::call("open in the step's root", Some(Path::new(path)), error)),
            }
        };
        let (mut left, mut empty) = (None, None);
        for path in MASKED {
            let Some(target) = inside(path)? else { continue };
            let stat = rustix::fs::fstat(&target).deed_on("look at", path)?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir && leaves_one && left.is_none() {
                left = Some(*path);
                continue;
            }
            let mask = match &empty {
                _ if !is_dir => clone(self.fd.as_fd(), "dev/null", false).deed_on("copy the mask of", path)?,
                Some(empty) => clone(AsFd::as_fd(empty), "", false).deed_on("copy the mask of", path)?,
                None => new("tmpfs", &[("mode", "755"), ("size", "4096"), ("nr_inodes", "2")], RDONLY | NOSUID | NODEV | NOEXEC)?,
            };
            attach_at(mask.as_fd(), target.as_fd(), path)?;
            if is_dir {
                empty.get_or_insert(mask);
            }
        }
        for path in READ_ONLY {
            let Some(target) = inside(path)? else { continue };
            let copy = clone(target.as_fd(), "", true).deed_on("copy the mount of", path)?;
            sys::set_mount_attributes(copy.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, true).deed_on("make read-only", path)?;
            attach_at(copy.as_fd(), target.as_fd(), path)?;
        }
        Ok(left)
    }
}

/// A device node: made, or where that is forbidden (a user namespace) the machine's own bound on an empty file.
fn node(dev: &OwnedFd, name: &str, device: Dev) -> Result<(), Failure> {
    match mknodat(dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device) {
        Err(Errno::PERM) => {}
        other => return other.deed_on("make the device", name),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(dev, name, flags, Mode::from_raw_mode(0o666)).deed_on("make the file in /dev", name)?;
    let mount = clone(CWD, &format!("/dev/{name}"), false).deed_on("copy the mount of /dev/", name)?;
    let target = openat(dev, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).deed_on("open in /dev", name)?;
    attach_at(mount.as_fd(), target.as_fd(), name)
}

/// A new instance of a file system, mounted nowhere yet. The error names the deed.
fn fresh(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd, (&'static str, Errno)> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| ("open the file system type", e))?;
    let source = [("source", if kind == "cgroup2" { "cgroup" } else { kind })];
    for (key, value) in source.iter().chain(options) {
        let set = if value.is_empty() {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), *key)
        } else {
            fsconfig_set_string(fs.as_fd(), *key, *value)
        };
        set.map_err(|e| ("set an option of the file system", e))?;
    }
    fsconfig_create(fs.as_fd()).map_err(|e| ("create the file system", e))?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| ("mount the file system", e))
}

/// Whether a new procfs is allowed.
pub(super) fn try_procfs() -> Result<(), Failure> {
    new("proc", &[], NOSUID | NODEV | NOEXEC).map(drop)
}

pub(super) fn new(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd, Failure> {
    fresh(kind, options, attributes).map_err(|(deed, error)| Failure::call(deed, Some(Path::new(kind)), error))
}

/// A copy of the mount at `path`, attached nowhere yet; with all mounts below if `recursive`.
pub(super) fn clone(dir: BorrowedFd<'_>, path: &str, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    open_tree(dir, path, flags)
}

pub(super) fn attach_at(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &str) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).deed_on("attach the mount at", name)
}
