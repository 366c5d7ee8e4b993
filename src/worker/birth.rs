//! The first process of a worker: it makes the namespaces and waits.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::process::{Signal, WaitOptions, geteuid, setsid, waitpid};

use super::protocol::{self, Start};
use super::{NAME, inner};
use crate::sandbox::{Deed, Failure, sys};

pub(super) const ROLE: &str = "outer";

/// Does not return.
pub(super) fn main() -> ! {
    let Ok(control) = take_control() else { sys::exit_now(1) };
    match start(&control) {
        Ok(code) => sys::exit_now(code),
        Err(failure) => {
            // Nobody reads it if the main process is gone, which is a reason to end as well.
            drop(protocol::send_start(&control, &Start::Failed(failure)));
            sys::exit_now(1)
        }
    }
}

/// The control socket comes as stdin, the only descriptor besides stdout and stderr that survives the start of a program.
pub(super) fn take_control() -> io::Result<OwnedFd> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(control)
}

fn start(control: &OwnedFd) -> Result<i32, Failure> {
    // Out of the terminal's reach: Ctrl-C is the main process's to handle.
    setsid().deed("start a session")?;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let needs_map = match geteuid().is_root().then(|| sys::unshare(namespaces)) {
        Some(Ok(())) => false,
        Some(Err(error)) if error.raw_os_error() != Some(libc::EPERM) => return Err(Failure::call("unshare(NEWNS|NEWPID)", None, error)),
        _ => {
            sys::unshare(libc::CLONE_NEWUSER | namespaces).deed("unshare(NEWUSER|NEWNS|NEWPID)")?;
            true
        }
    };
    if needs_map {
        protocol::send_start(control, &Start::MapIds).deed("ask for a map of ids")?;
        match protocol::receive_start(control).deed("hear about the map of ids")? {
            Some(Start::Mapped) => {}
            _ => return Ok(1),
        }
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).deed_on("make private the mounts below", "/")?;
    let program = protected_program()?;
    match sys::fork().deed("fork")? {
        Some(_) => Ok(wait()),
        None => become_inner(control, &program, needs_map),
    }
}

/// Our own program as a file that nobody can write to, not even root: through `/proc/<pid>/exe` a step could otherwise change
/// the program on the machine while it is about to become the command.
fn protected_program() -> Result<File, Failure> {
    let ours = File::open("/proc/self/exe").deed_on("open", "/proc/self/exe")?;
    match read_only_mount(&ours) {
        Ok(program) => Ok(program),
        // Deleted or replaced since we started.
        Err(_) => sealed_copy(ours).deed("copy the program"),
    }
}

fn read_only_mount(ours: &File) -> io::Result<File> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let mount = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    sys::set_mount_attributes(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, false)?;
    let program = File::from(mount);
    let (is, should) = (program.metadata()?, ours.metadata()?);
    if (is.dev(), is.ino()) == (should.dev(), should.ino()) { Ok(program) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}

fn sealed_copy(mut ours: File) -> io::Result<File> {
    let mut copy = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    io::copy(&mut ours, &mut copy)?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o500))?;
    rustix::fs::fcntl_add_seals(&copy, rustix::fs::SealFlags::all())?;
    // A descriptor open for writing cannot be executed.
    File::open(Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&copy).to_string()))
}

/// Waits for the inner process. Its end is the worker's.
fn wait() -> i32 {
    loop {
        match waitpid(None, WaitOptions::empty()) {
            Ok(Some((_, status))) => return status.exit_status().unwrap_or(1),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

fn become_inner(control: &OwnedFd, program: &File, user_namespace: bool) -> ! {
    let failure = (|| {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).deed("tie the worker to its parent")?;
        rustix::stdio::dup2_stdin(control).deed("hand over the control socket")?;
        let word = |w: &str| CString::new(w).expect("no zero byte");
        let told = [(inner::MAPPED, user_namespace), (inner::PRIVILEGED, std::env::args().skip(2).any(|told| told == inner::PRIVILEGED))];
        let told = told.into_iter().filter(|(_, is_so)| *is_so).map(|(told, _)| told);
        let argv: Vec<_> = [NAME, inner::ROLE].into_iter().chain(told).map(word).collect();
        Err::<(), _>(Failure::call("start the inner process", None, sys::exec_file(program.as_fd(), &argv, &[])))
    })();
    drop(failure.map_err(|failure| protocol::send_start(control, &Start::Failed(failure))));
    sys::exit_now(1)
}
