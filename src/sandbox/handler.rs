//! The process that looks after one step: it makes things ready, starts the command, stops it if asked, and captures what it left.
//!
//! A fork of the worker, so single-threaded, in the worker's namespaces and with its privileges.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::child::{Prepared, Word};
use super::handover::MAX_FDS;
use super::spec::{Exit, RunRequest, StepMount};
use super::standby::{Held, Kind, Order, Standby};
use super::{Deed, Failure, attach, mounts, overlay, seccomp, stop, stub, targets};
use crate::tree::entry::Mtime;

/// The most files of ours that a step can see: each is handed over as a descriptor, beside its output and its root.
const MAX_FILES: usize = MAX_FDS - 3;

/// What a step left behind.
#[derive(Debug)]
pub(crate) struct Left {
    /// The upper directory, with nothing of ours in it.
    pub(crate) upper: PathBuf,
    /// Modification times that the command made lie between these, both included.
    pub(crate) window: (Mtime, Mtime),
    /// The mounts, which nothing uses any more. While they are held no other overlay should be made upon `upper`.
    pub(crate) mounts: Option<Held>,
}

/// Where the wish to stop comes from, as bytes: see `worker::protocol`.
pub(crate) trait Asker {
    /// Readable when there is something to take.
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
    /// Takes what is there.
    fn take(&mut self) -> Asked;
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing.
    Nothing,
    /// End the step, which may tidy up.
    Stop,
    /// End it now.
    Kill,
}

/// Runs the command to its end. `streams` are its stdout and its stderr; until all of `closing` have ended its layers must not be mounted;
/// `ended` is told as soon as there is no process of it left.
pub(crate) fn run(
    request: &Arc<RunRequest>,
    streams: [OwnedFd; 2],
    closing: Vec<UnixStream>,
    standby: Option<Standby>,
    asker: &mut dyn Asker,
    ended: &mut dyn FnMut(Exit),
) -> Result<Left, Failure> {
    let (prepared, lowers, before) = prepare(request)?;
    if prepared.files.len() > MAX_FILES {
        return Err(Failure::Other(format!("the step has {} files of its own, where {MAX_FILES} are possible", prepared.files.len())));
    }
    let (upper, work) = (request.upper.clone(), prepared.work.clone());
    for mut step in closing {
        // One that breaks has ended, too.
        drop(io::copy(&mut step, &mut io::sink()));
    }
    let mut fds = Vec::from(streams);
    fds.push(overlay::detached(&lowers, &upper, &work, &prepared.root)?);
    for file in &prepared.files {
        fds.push(file.detached()?);
    }
    let kind = Kind::of(request);
    let standby = match standby.filter(|standby| standby.is_for(kind)) {
        Some(standby) => standby,
        None => Standby::start(kind)?,
    };
    let begun = standby.begin(Order { request: Arc::clone(request), prepared }, &fds);
    // Only the command is to have the other ends of its output, and its root.
    drop(fds);
    let exit = attend(begun.pid, &begun.pidfd, asker)?;
    let mut made = Vec::new();
    for word in begun.words {
        match word {
            Word::Made(paths) => made.extend(paths),
            Word::Failed(_) if exit == Exit::Cancelled => {}
            Word::Failed(failure) => return Err(failure),
        }
    }
    ended(exit);
    let after = touched(&work)?;
    targets::unmake(&upper, &made)?;
    Ok(Left { upper, window: (before, after), mounts: begun.mounts })
}

/// Makes directories and files for the step, few of them: on a disk each costs as much as several mounts. Returns also the time
/// before the step, as the file system sees it, and the layers below, top-most first, the stub at the end.
fn prepare(request: &RunRequest) -> Result<(Prepared, Vec<PathBuf>, Mtime), Failure> {
    let (upper, work) = (&request.upper, request.tmp.join("work"));
    for dir in [upper, &work] {
        // The worker has no umask, and the upper directory's mode is what the step sees of `/`.
        match fs::DirBuilder::new().mode(0o755).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.deed_on("make the directory", dir)?,
        }
    }
    let (stub, files) = stub::prepare(request)?;
    let mounts = prepare_mounts(request)?;
    let before = touched(&work)?;
    // A root that is attached in the machine's is so over a directory that nothing inside needs by its path any more.
    let root = upper.clone();
    let lowers = request.lowers.iter().rev().map(|l| l.fs.clone()).chain([stub]).collect();
    Ok((Prepared { work, root, files, mounts }, lowers, before))
}

/// Makes a directory to work in for each mount of the step.
fn prepare_mounts(request: &RunRequest) -> Result<Vec<(StepMount, PathBuf)>, Failure> {
    let mut places = Vec::new();
    for (number, mount) in request.mounts.iter().enumerate() {
        let workspace = request.tmp.join(format!("mount-{number}"));
        attach::prepare(mount, &workspace)?;
        places.push((mount.clone(), workspace));
    }
    Ok(places)
}

/// The time as the file system sees it: its clock is coarser than the one that programs read, and lies behind. It is read from a
/// directory that gets it, which costs less than to make a file for it.
fn touched(path: &Path) -> Result<Mtime, Failure> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).deed_on("set the time of", path)?;
    let meta = fs::metadata(path).deed_on("look at", path)?;
    Ok(Mtime { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 })
}

/// Waits for the end of the step, and ends it if asked to.
fn attend(init: Pid, init_fd: &OwnedFd, asker: &mut dyn Asker) -> Result<Exit, Failure> {
    let mut cancelled = false;
    loop {
        let ready = {
            let from = asker.fd();
            let mut fds = [PollFd::new(init_fd, PollFlags::IN), PollFd::new(&from, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::call("wait for the step", None, error)),
            }
            fds.map(|fd| !fd.revents().is_empty())
        };
        if ready[0] {
            break;
        }
        if ready[1] {
            match asker.take() {
                Asked::Nothing => continue,
                Asked::Kill => stop::kill(init_fd),
                Asked::Stop => stop::stop(init, init_fd, asker),
            }
            cancelled = true;
            // Nothing that is asked from now on matters; PID 1 is dead or dying.
            waitid(WaitId::PidFd(init_fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).deed("wait for the step")?;
            break;
        }
    }
    let end = waitpid(Some(init), WaitOptions::empty()).deed("wait for the step")?;
    let (_, end) = end.expect("without WNOHANG there is always a status");
    Ok(match (end.exit_status(), end.terminating_signal()) {
        _ if cancelled => Exit::Cancelled,
        (Some(code), _) => Exit::Code(code),
        (_, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
    })
}

/// The overlay of a step in a fresh directory.
pub(crate) fn try_overlay(dir: &Path) -> Result<(), Failure> {
    let at = |name: &str| dir.join(name);
    for name in ["lower", "upper", "work", "root"] {
        fs::create_dir(at(name)).deed_on("make the directory", at(name))?;
    }
    overlay::mount_at(&[at("lower")], &at("upper"), &at("work"), &at("root"))?;
    // Where the upper directory cannot be written to, the mount may work all the same, read-only.
    fs::write(at("root").join("file"), "").deed_on("write to the overlay at", at("root"))
}

/// A new procfs.
pub(crate) fn try_procfs() -> Result<(), Failure> {
    mounts::try_procfs()
}

/// The filter of a step.
pub(crate) fn try_seccomp() -> Result<(), Failure> {
    seccomp::install_first().and_then(|()| seccomp::install_second()).deed("seccomp(SET_MODE_FILTER)")
}
