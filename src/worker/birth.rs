//! How a worker comes to be: a copy of this process in namespaces of its own becomes the worker's program as soon as its ids are mapped.
//!
//! The copy is made while other threads are at work, so locks may be held in it that nobody ever releases, the allocator's among them. It
//! does nothing but a few system calls, with all that they need made before.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fstat, memfd_create, open, stat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, chdir, geteuid, setsid, waitpid};
use shale_cache::MapId;

use super::protocol::{self, Ready};
use super::{NAME, OURSELVES, StartError, inner};
use crate::sandbox::ids::IdMaps;
use crate::sandbox::sys::{self, Argv};
use crate::sandbox::{Failure, SandboxError};

/// A worker that is ready.
#[derive(Debug)]
pub(super) struct Born {
    /// Closed, it ends the worker.
    pub(super) control: OwnedFd,
    pub(super) pid: Pid,
    /// Names the map that its ids have.
    pub(super) map_id: MapId,
}

/// Starts a worker of `program`, whose steps may be `privileged`.
pub(super) fn start(program: &Path, privileged: bool) -> Result<Born, StartError> {
    let ours = IdMaps::current()?;
    if geteuid().is_root() && !ours.has_many() {
        return Err(StartError::SingleId);
    }
    let at = Program::at(program).map_err(|e| SandboxError::call("find our own program", e))?;
    match in_namespaces(&at, privileged, &ours) {
        // Deleted or replaced since we started.
        Err(StartError::Refused(_, Deed::Program)) => {
            let copy = sealed_copy(program).map_err(|e| SandboxError::call("copy the program", e))?;
            in_namespaces(&Program::Copy(copy), privileged, &ours)
        }
        other => other,
    }
}

/// Root needs no user namespace, unless what it runs in has taken its privileges.
fn in_namespaces(program: &Program, privileged: bool, ours: &IdMaps) -> Result<Born, StartError> {
    let born = geteuid().is_root().then(|| with_map(None, program, privileged, ours));
    match born {
        Some(Err(StartError::Refused(Failure::Call { errno: libc::EPERM, .. }, Deed::Namespaces))) | None => {
            let theirs = if geteuid().is_root() { ours.identity() } else { IdMaps::of_caller()? };
            with_map(Some(&theirs), program, privileged, ours)
        }
        Some(other) => other,
    }
}

/// Tries it with the map of a user namespace, or without one.
fn with_map(map: Option<&IdMaps>, program: &Program, privileged: bool, ours: &IdMaps) -> Result<Born, StartError> {
    let failed = |deed: &'static str| move |error: Errno| SandboxError::call(deed, error);
    let (control, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed("make a socket pair"))?;
    let (report, their_report) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("make a pipe"))?;
    let null = open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open /dev/null"))?;
    let argv = Argv::of([NAME, inner::ROLE].into_iter().chain(privileged.then_some(inner::PRIVILEGED)));
    let copy = Copy { program, argv, control: theirs.as_fd(), null: null.as_fd(), report: their_report.as_fd() };
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | map.map_or(0, |_| libc::CLONE_NEWUSER);
    let pid = sys::copy_into(flags, control.as_fd(), &|| copy.become_worker());
    let pid = pid.map_err(|error| Deed::Namespaces.refused(error))?;
    drop((theirs, their_report));
    match introduce(&control, pid, map) {
        Ok(true) => Ok(Born { map_id: map.unwrap_or(&ours.identity()).map_id(ours), control, pid }),
        other => {
            drop(control);
            await_end(pid);
            // The report has an end now that there is no process.
            Err(other.err().or_else(|| Deed::reported(report.into())).unwrap_or_else(|| SandboxError::Gone("while it started").into()))
        }
    }
}

/// Maps its ids, and waits until it is ready; `false` if it has ended instead.
fn introduce(control: &OwnedFd, pid: Pid, map: Option<&IdMaps>) -> Result<bool, StartError> {
    if let Some(map) = map {
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        if geteuid().is_root() { map.write(pid)? } else { map.write_by_helpers(pid)? }
    }
    // One that is not there any more says nothing either.
    let _ = send(control, b"m", SendFlags::NOSIGNAL);
    let word = protocol::receive_start::<Ready>(control).map_err(|e| SandboxError::call("hear from the worker", e))?;
    Ok(word.is_some())
}

/// Waits for the end of a process of ours. Its status says nothing.
pub(super) fn await_end(pid: Pid) {
    while waitpid(Some(pid), WaitOptions::empty()).is_err_and(|error| error == Errno::INTR) {}
}

/// Our own program as a file that nobody can write to, not even root: through `/proc/<pid>/exe` a step could otherwise change
/// the program on the machine while it is about to become the command.
enum Program {
    /// Where it lies: to be mounted read-only, if it is still the one that we are.
    At { path: CString, identity: (u64, u64) },
    /// A copy in memory.
    Copy(File),
}

impl Program {
    fn at(program: &Path) -> io::Result<Self> {
        // The kernel's link has the path also of what lies there no more.
        let path = if program == Path::new(OURSELVES) { fs::read_link(program) } else { fs::canonicalize(program) }?;
        let is = stat(program)?;
        Ok(Self::At { path: CString::new(path.as_os_str().as_bytes())?, identity: (is.st_dev, is.st_ino) })
    }

    fn open(&self) -> Result<OwnedFd, io::Error> {
        match self {
            Self::Copy(copy) => Ok(rustix::io::fcntl_dupfd_cloexec(copy, 0)?),
            Self::At { path, identity } => {
                let mount = open_tree(CWD, path.as_c_str(), OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
                sys::set_mount_attributes(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, false)?;
                let is = fstat(&mount)?;
                if (is.st_dev, is.st_ino) == *identity { Ok(mount) } else { Err(Errno::NOENT.into()) }
            }
        }
    }
}

fn sealed_copy(program: &Path) -> io::Result<File> {
    let mut copy = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut File::open(program)?, &mut copy)?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o500))?;
    // Each by its name: the kernel refuses those that it does not know.
    rustix::fs::fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    // A descriptor open for writing cannot be executed.
    File::open(Path::new("/proc/self/fd").join(copy.as_raw_fd().to_string()))
}

/// What a start can fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Namespaces,
    Session,
    Map,
    Mounts,
    Program,
    Streams,
    Exec,
}

impl Deed {
    const ALL: [Self; 7] = [Self::Namespaces, Self::Session, Self::Map, Self::Mounts, Self::Program, Self::Streams, Self::Exec];

    fn refused(self, error: io::Error) -> StartError {
        let name = match self {
            Self::Namespaces => "make namespaces",
            Self::Session => "start a session",
            Self::Map => "hear about the map of ids",
            Self::Mounts => "make private the mounts below /",
            Self::Program => "mount our own program read-only",
            Self::Streams => "hand over the control socket",
            Self::Exec => "start the worker's program",
        };
        StartError::Refused(Failure::call(name, None, error), self)
    }

    /// What [`Copy::become_worker`] has told.
    fn reported(report: File) -> Option<StartError> {
        let mut told = [0; 8];
        (&report).read_exact(&mut told).ok()?;
        let (deed, errno) = told.split_at(4);
        let deed = Self::ALL.get(u32::from_le_bytes(deed.try_into().ok()?) as usize)?;
        Some(deed.refused(io::Error::from_raw_os_error(i32::from_le_bytes(errno.try_into().ok()?))))
    }
}

/// What the copy of this process has been given.
struct Copy<'a> {
    program: &'a Program,
    argv: Argv,
    control: BorrowedFd<'a>,
    null: BorrowedFd<'a>,
    report: BorrowedFd<'a>,
}

impl Copy<'_> {
    /// Nothing here may allocate, nor take a lock.
    fn become_worker(&self) {
        let Err((deed, error)) = self.try_it();
        let errno = error.raw_os_error().unwrap_or_default();
        let mut told = [0; 8];
        told[..4].copy_from_slice(&(deed as u32).to_le_bytes());
        told[4..].copy_from_slice(&errno.to_le_bytes());
        // Nobody reads it if the main process is gone, which is a reason to end as well.
        let _ = rustix::io::write(self.report, &told);
    }

    fn try_it(&self) -> Result<Infallible, (Deed, io::Error)> {
        let on = |deed: Deed| move |error: Errno| (deed, io::Error::from(error));
        // Out of the terminal's reach: Ctrl-C is the main process's to handle.
        setsid().map_err(on(Deed::Session))?;
        chdir(c"/").map_err(on(Deed::Session))?;
        let mut word = [0];
        if recv(self.control, &mut word, RecvFlags::empty()).map_err(on(Deed::Map))?.0 == 0 {
            sys::exit_now(1);
        }
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(on(Deed::Mounts))?;
        let program = self.program.open().map_err(|error| (Deed::Program, error))?;
        rustix::stdio::dup2_stdin(self.control).map_err(on(Deed::Streams))?;
        rustix::stdio::dup2_stdout(self.null).map_err(on(Deed::Streams))?;
        Err((Deed::Exec, sys::exec_file(program.as_fd(), &self.argv)))
    }
}
