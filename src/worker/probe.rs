//! Trying out what a worker needs, each thing in a process of its own, so that nothing that was tried lasts.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitOptions, geteuid, waitpid};
use serde::{Deserialize, Serialize};

use super::protocol::take_control;
use super::{NAME, WorkerConfig, protocol};
use crate::sandbox::ids::{IdMaps, IdsError};
use crate::sandbox::ladder::{Facts, Feature, Need, Refused, Report, interpret};
use crate::sandbox::{Deed, Failure, SandboxError, handler, sys};

pub(super) const ROLE: &str = "probe";

/// Between the main process and the one that tries.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// Map ids into my user namespace.
    MapIds,
    /// They are, or not.
    Mapped(Result<(), Refused>),
    /// Something was tried.
    Tried(Feature),
}

/// Finds out how steps can be isolated on this machine, with the store at `config.store_root` (which need not exist yet).
pub fn probe(config: &WorkerConfig) -> Result<Report, SandboxError> {
    probe_with(Path::new(super::OURSELVES), config)
}

/// The same with another program than ourselves, which must call [`super::hook`] first.
pub fn probe_with(program: &Path, config: &WorkerConfig) -> Result<Report, SandboxError> {
    let ours = IdMaps::current().map_err(|e| SandboxError::Other(e.to_string()))?;
    let facts = Facts::gather(&config.store_root, geteuid().is_root(), ours.has_many());
    let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|e| SandboxError::call("make a socket pair", e))?;
    let mut child = Command::new(program)
        .arg0(NAME)
        .arg(ROLE)
        .arg(&config.store_root)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| SandboxError::call("start the probe", e))?;
    let mut features = Vec::new();
    // The end of the socket is the end of the probe.
    while let Some(word) = protocol::receive_start(&control).map_err(|e| SandboxError::call("hear from the probe", e))? {
        match word {
            Word::Tried(feature) => features.push(feature),
            Word::MapIds => {
                let outcome = map(&ours, child.id()).map_err(no_map);
                features.push(Feature { need: Need::IdMap, outcome: outcome.clone() });
                protocol::send_start(&control, &Word::Mapped(outcome)).map_err(|e| SandboxError::call("talk to the probe", e))?;
            }
            Word::Mapped(_) => {}
        }
    }
    child.wait().map_err(|e| SandboxError::call("wait for the probe", e))?;
    Ok(interpret(features, &facts))
}

/// With the number of the error, if it was the helper that could not be started.
fn no_map(error: IdsError) -> Refused {
    match error {
        IdsError::Helper { program, source } if let Some(errno) = source.raw_os_error() => {
            Refused { call: format!("cannot start {program}"), errno }
        }
        other => Refused { call: other.to_string(), errno: 0 },
    }
}

fn map(ours: &IdMaps, pid: u32) -> Result<(), IdsError> {
    if geteuid().is_root() { ours.identity().write(pid) } else { IdMaps::of_caller()?.write_by_helpers(pid) }
}

/// Does not return.
pub(super) fn main() -> ! {
    let Ok(control) = take_control() else { sys::exit_now(1) };
    let store = std::env::args_os().nth(2).map(PathBuf::from).unwrap_or_default();
    sys::exit_now(i32::from(try_all(&control, &store).is_err()))
}

fn try_all(control: &OwnedFd, store: &Path) -> io::Result<()> {
    let root = geteuid().is_root();
    let direct = root && attempt(control, Need::Direct, &mut || mounts_in(libc::CLONE_NEWNS | libc::CLONE_NEWPID))?;
    if !direct {
        if root {
            attempt(control, Need::Chroot, &mut || chroot_and_chown(store))?;
        }
        let unshare = || sys::unshare(libc::CLONE_NEWUSER).deed("unshare(NEWUSER)");
        if !attempt(control, Need::UserNamespace, &mut || unshare())? {
            return Ok(());
        }
        // Now this process itself: what follows is tried in its namespace.
        if sys::unshare(libc::CLONE_NEWUSER).is_err() {
            return Ok(());
        }
        protocol::send_start(control, &Word::MapIds)?;
        if !matches!(protocol::receive_start(control)?, Some(Word::Mapped(Ok(())))) {
            return Ok(());
        }
    }
    if !attempt(control, Need::Mount, &mut || mounts_in(libc::CLONE_NEWNS))? {
        return Ok(());
    }
    attempt(control, Need::Overlay, &mut || overlay(store))?;
    attempt(control, Need::PidNamespace, &mut || in_pid_namespace(&|| Ok(())))?;
    attempt(control, Need::Procfs, &mut || in_pid_namespace(&handler::try_procfs))?;
    attempt(control, Need::Seccomp, &mut || handler::try_seccomp())?;
    Ok(())
}

/// Tries something in a fork and reports it.
fn attempt(control: &OwnedFd, need: Need, deed: &mut dyn FnMut() -> Result<(), Failure>) -> io::Result<bool> {
    let Some(pid) = sys::fork()? else {
        let outcome = deed().map_err(refused);
        let sent = protocol::send_start(control, &Word::Tried(Feature { need, outcome: outcome.clone() }));
        sys::exit_now(i32::from(sent.is_err() || outcome.is_err()))
    };
    let status = waitpid(Some(pid), WaitOptions::empty())?.map(|(_, status)| status.exit_status());
    Ok(status == Some(Some(0)))
}

fn refused(failure: Failure) -> Refused {
    match failure {
        Failure::Call { deed, path, errno } => Refused { call: path.map_or(deed.clone(), |p| format!("{deed} {p}")), errno },
        other => Refused { call: SandboxError::from(other).to_string(), errno: 0 },
    }
}

fn mounts_in(namespaces: libc::c_int) -> Result<(), Failure> {
    sys::unshare(namespaces).deed("unshare(NEWNS)")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).deed_on("make private the mounts below", "/")
}

fn chroot_and_chown(store: &Path) -> Result<(), Failure> {
    let dir = scratch(store)?;
    let done = std::os::unix::fs::chown(&dir, Some(1), Some(1)).deed_on("chown", &dir);
    drop(fs::remove_dir(&dir));
    done?;
    rustix::process::chroot("/").deed_on("chroot", "/")
}

/// A step's own overlay, on the store's file system.
fn overlay(store: &Path) -> Result<(), Failure> {
    mounts_in(libc::CLONE_NEWNS)?;
    let dir = scratch(store)?;
    let tried = handler::try_overlay(&dir);
    // The mount goes with this process's namespace; what overlay made in the work directory is deleted before.
    let _ = rustix::mount::unmount(dir.join("root"), rustix::mount::UnmountFlags::DETACH);
    drop(fs::remove_dir_all(&dir));
    tried
}

/// A fresh directory where the store is, or will be.
fn scratch(store: &Path) -> Result<PathBuf, Failure> {
    let tmp = store.join("tmp");
    let parent = if tmp.is_dir() { &tmp } else { store.ancestors().find(|path| path.is_dir()).unwrap_or_else(|| Path::new("/")) };
    let dir = parent.join(format!(".shale-probe-{}", std::process::id()));
    fs::create_dir(&dir).deed_on("make the directory", &dir)?;
    Ok(dir)
}

fn in_pid_namespace(deed: &dyn Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    mounts_in(libc::CLONE_NEWNS | libc::CLONE_NEWPID)?;
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).deed("make a pipe")?;
    let Some(pid) = sys::fork().deed("fork into a pid namespace")? else {
        let word = serde_json::to_vec(&deed()).unwrap_or_default();
        let _ = rustix::io::write(&write, &word);
        sys::exit_now(0)
    };
    drop(write);
    let text = io::read_to_string(fs::File::from(read)).deed("read from the pid namespace")?;
    waitpid(Some(pid), WaitOptions::empty()).deed("wait for the pid namespace")?;
    serde_json::from_str(&text).unwrap_or_else(|_| Err(Failure::Other("the process in the pid namespace died".to_owned())))
}
