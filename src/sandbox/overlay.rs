//! The root of a step: an overlay mount.
//!
//! By the new mount API, which takes descriptors and so has no limit on the length of paths. Kernels that lack one of its parts are
//! found by trying, never by their version.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree, unmount,
};

use super::{Deed, Failure, SandboxError, sys};

/// The kernel's limit on the number of lower layers.
pub(crate) const MAX_LOWERS: usize = 500;

/// How long a layer may be in use by the step of another build that has just made it, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

/// The kernel's limit on the value of an option, with its zero byte.
const MAX_OPTION_BYTES: usize = 256;

const CREATE: &str = "create the overlay";
const CREATE_AT: &str = "mount the overlay at";

/// Whether the kernel refused to make an overlay of the directories it was given.
pub(crate) fn overlay_failed(error: &SandboxError) -> bool {
    matches!(error, SandboxError::Worker { deed, .. } if [CREATE, CREATE_AT, SET_UPPER].contains(&deed.as_str()))
}

/// Newer kernels look at the upper directory when they hear of it.
const SET_UPPER: &str = "set the overlay option upperdir";

/// Mounts the layers (top-most first) and the upper directory at `target`.
pub(super) fn mount_at(lowers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), Failure> {
    patiently(lowers, || match new_api(lowers, upper, work) {
        Ok(overlay) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&overlay, "", CWD, target, flags).deed_on("attach the overlay at", target)
        }
        Err(Step::Unsupported) => old_api(lowers, upper, work, target),
        Err(Step::Failed(failure)) => Err(failure),
    })
}

/// The same, attached nowhere yet. Kernels without the new API need an empty directory to work at, `place`, and the calling process gets a
/// mount namespace of its own there: in another one's the process of another step could find the overlay, and keep it.
pub(super) fn detached(lowers: &[PathBuf], upper: &Path, work: &Path, place: &Path) -> Result<OwnedFd, Failure> {
    patiently(lowers, || match new_api(lowers, upper, work) {
        Ok(overlay) => Ok(overlay),
        Err(Step::Unsupported) => {
            sys::unshare(libc::CLONE_NEWNS).deed("unshare(NEWNS)")?;
            detached_by_old_api(lowers, upper, work, place)
        }
        Err(Step::Failed(failure)) => Err(failure),
    })
}

fn detached_by_old_api(lowers: &[PathBuf], upper: &Path, work: &Path, place: &Path) -> Result<OwnedFd, Failure> {
    old_api(lowers, upper, work, place)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, place, flags).deed_on("copy the mount of the overlay at", place);
    unmount(place, UnmountFlags::DETACH).deed_on("let go of the overlay at", place)?;
    copy
}

/// Tries it until no layer is another mount's upper directory any more.
fn patiently<T>(lowers: &[PathBuf], mut mount: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    if lowers.len() > MAX_LOWERS {
        return Err(Failure::Other(format!("{} layers below a step, where the kernel mounts at most {MAX_LOWERS}", lowers.len())));
    }
    let start = Instant::now();
    loop {
        match mount() {
            Err(failure) if is_busy(&failure) && start.elapsed() < PATIENCE => sleep(PAUSE),
            mounted => return mounted,
        }
    }
}

/// Where overlays keep an index (a choice of the kernel's maker) a layer that is still another one's upper directory is refused.
fn is_busy(failure: &Failure) -> bool {
    matches!(failure, Failure::Call { errno: libc::EBUSY, .. })
}

enum Step {
    /// The kernel has no such call or option.
    Unsupported,
    Failed(Failure),
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn new_api(lowers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Step> {
    let fs = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS) => return Err(Step::Unsupported),
        other => other.deed("open the file system type overlay")?,
    };
    for flag in ["userxattr", "volatile"] {
        fsconfig_set_flag(fs.as_fd(), flag).deed(&format!("set the overlay option {flag} at"))?;
    }
    fsconfig_set_string(fs.as_fd(), "source", "overlay").deed("name the overlay")?;
    for lower in lowers {
        lower_option(&fs, lower)?;
    }
    directory_option(&fs, "upperdir", &open_directory(upper)?)?;
    directory_option(&fs, "workdir", &open_directory(work)?)?;
    fsconfig_create(fs.as_fd()).deed(CREATE)?;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).deed("mount the overlay")?)
}

/// By path, which costs half as much as to open each of many, where it is short enough and has nothing that the kernel takes for more.
fn lower_option(fs: &OwnedFd, lower: &Path) -> Result<(), Step> {
    let path = lower.as_os_str().as_encoded_bytes();
    if path.len() < MAX_OPTION_BYTES && !path.contains(&b'\\') && fsconfig_set_string(fs.as_fd(), "lowerdir+", lower).is_ok() {
        return Ok(());
    }
    directory_option(fs, "lowerdir+", &open_directory(lower)?)
}

/// By descriptor, else by the descriptor's path. Only the very first use of an unknown option may fall back to the old call.
fn directory_option(fs: &OwnedFd, key: &str, directory: &File) -> Result<(), Step> {
    match fsconfig_set_fd(fs.as_fd(), key, directory.as_fd()) {
        Ok(()) => return Ok(()),
        // Before 6.5 the new API only hands texts on to the old one, whatever they are.
        Err(Errno::OPNOTSUPP) => return Err(Step::Unsupported),
        Err(Errno::INVAL) => {}
        Err(other) => return Err(Failure::call(&format!("set the overlay option {key}"), None, other).into()),
    }
    match fsconfig_set_string(fs.as_fd(), key, proc_path(directory)) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL) if key == "lowerdir+" => Err(Step::Unsupported),
        Err(other) => Err(Failure::call(&format!("set the overlay option {key}"), None, other).into()),
    }
}

/// One page of options: room for about 200 layers by their descriptors.
fn old_api(lowers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), Failure> {
    let lowers = lowers.iter().map(|path| open_directory(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open_directory(upper)?, open_directory(work)?);
    let lowers: Vec<_> = lowers.iter().map(proc_path).collect();
    let options = format!("lowerdir={},upperdir={},workdir={},userxattr,volatile", lowers.join(":"), proc_path(&upper), proc_path(&work));
    if options.len() >= 4096 {
        return Err(Failure::Other(format!("{} layers below a step are more than this kernel can mount", lowers.len())));
    }
    let options = std::ffi::CString::new(options).map_err(|_| Failure::Other("a zero byte in mount options".to_owned()))?;
    mount("overlay", target, "overlay", MountFlags::empty(), &*options).deed_on(CREATE_AT, target)
}

fn proc_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn open_directory(path: &Path) -> Result<File, Failure> {
    let fd = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", path)?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::openat;
    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;

    type Api = fn(&[PathBuf], &Path, &Path, &Path) -> Result<OwnedFd, Failure>;

    /// What the kernels that shale is made on never ask for.
    #[test]
    fn the_old_api_gives_the_same_root() {
        let mounts = || {
            // Of this thread alone.
            sys::unshare(libc::CLONE_NEWNS)?;
            Ok::<_, std::io::Error>(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
        };
        let thread = std::thread::spawn(move || {
            if let Err(error) = mounts() {
                println!("SKIP: the old mount API: no mounts can be made here ({error})");
                return;
            }
            for api in [detached_by_old_api as Api, detached] {
                let dir = tempfile::tempdir().unwrap();
                let at = |name: &str| dir.path().join(name);
                for name in ["above", "below", "upper", "work"] {
                    fs::create_dir(at(name)).unwrap();
                }
                fs::write(at("above/same"), "above").unwrap();
                fs::write(at("below/same"), "below").unwrap();
                fs::write(at("below/f"), "f").unwrap();
                let root = api(&[at("above"), at("below")], &at("upper"), &at("work"), &at("upper")).unwrap();
                let read =
                    |name: &str| std::io::read_to_string(File::from(openat(&root, name, OFlags::RDONLY, Mode::empty()).unwrap())).unwrap();
                assert_eq!((read("same"), read("f")), ("above".to_owned(), "f".to_owned()));
                drop(openat(&root, "new", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644)).unwrap());
                let names: Vec<_> = fs::read_dir(at("upper")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
                assert_eq!(names, ["new"], "the place shows what lies there, not the overlay");
            }
        });
        thread.join().unwrap();
    }
}
