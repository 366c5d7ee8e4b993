//! The process that becomes the command.
//!
//! It starts in fresh namespaces with the memory of the handler, which waits, and ends in `exec`, so nothing here needs to clean up. The order of the
//! steps is a matter of security; each says what it relies on.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, open};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Resource, Rlimit, Signal, chdir, fchdir, pivot_root, setrlimit, setsid, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::mounts::{BoundFile, Root};
use super::spec::{RunRequest, StepMount};
use super::targets::{self, Shape};
use super::{Deed, Failure, exec, overlay, seccomp, sys};
use crate::plan::graph::NetworkMode;
use crate::scoped::open_scoped;

/// The capabilities of a step, as container runtimes give them: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: u64 = 0xa804_25fb;

/// What the handler made ready.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The layers below, top-most first, the stub layer at the end.
    pub(super) lowers: Vec<PathBuf>,
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// An empty directory for the root to be attached at.
    pub(super) root: PathBuf,
    pub(super) files: Vec<BoundFile>,
    /// What the step asks for, each with a directory for whoever mounts it.
    pub(super) mounts: Vec<(StepMount, PathBuf)>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What the child says before it becomes the command, in the memory that it shares with the handler. Silence: it has become it.
#[derive(Debug)]
pub(super) enum Word {
    /// Mount points that had to be made in the upper directory.
    Made(Vec<PathBuf>),
    /// It is not going to become the command.
    Failed(Failure),
}

/// The flags of the namespaces that a step gets of its own.
pub(super) fn namespaces(network: NetworkMode) -> libc::c_int {
    let always = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    always | if network == NetworkMode::None { libc::CLONE_NEWNET } else { 0 }
}

/// Becomes the command, or says why not and ends.
pub(super) fn become_command(request: &RunRequest, prepared: &Prepared, said: &mut Vec<Word>) -> ! {
    let Err(failure) = set_up_and_exec(request, prepared, said);
    said.push(Word::Failed(failure));
    sys::exit_now(exec_code())
}

const fn exec_code() -> i32 {
    127
}

fn set_up_and_exec(request: &RunRequest, prepared: &Prepared, said: &mut Vec<Word>) -> Result<std::convert::Infallible, Failure> {
    standard_streams(prepared)?;
    setsid().deed("start a session")?;
    if request.network == NetworkMode::None {
        sys::raise_loopback().deed("bring up the loopback interface")?;
    }
    enter_root(request, prepared, said)?;
    rustix::system::sethostname(request.hostname.as_bytes()).deed_on("set the host name", &request.hostname)?;
    for limit in &request.ulimits {
        set_limit(&limit.name, limit.soft, limit.hard)?;
    }
    // Both need CAP_SYS_ADMIN, as no_new_privs stays off: setuid programs work in a step.
    if !request.insecure {
        // The first is an extra that not every kernel has, so its failure is none.
        drop(sys::landlock_scope());
        seccomp::install().deed("install the system call filter")?;
    }
    become_user(request)?;
    enter_directory(&request.cwd)?;
    umask(Mode::from_raw_mode(0o022));
    // The handler going away must not leave a step behind. Set last: a change of user clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).deed("tie the step to its handler")?;
    sys::close_on_exec_from(3).deed("close descriptors")?;
    let name = request.argv.first().map_or("", String::as_str);
    let program = exec::find_program(name, &request.env)?;
    let (argv, env) = (c_strings(&request.argv)?, c_strings(&request.env)?);
    let error = sys::exec(&program, &argv, &env);
    Err(exec::exec_failure(&program.to_string_lossy(), &error))
}

fn c_strings(words: &[String]) -> Result<Vec<CString>, Failure> {
    let convert = |w: &String| CString::new(w.as_str()).map_err(|_| Failure::Other(format!("a zero byte in {w:?}")));
    words.iter().map(convert).collect()
}

fn standard_streams(prepared: &Prepared) -> Result<(), Failure> {
    rustix::stdio::dup2_stdout(&prepared.stdout).deed("set up stdout")?;
    rustix::stdio::dup2_stderr(&prepared.stderr).deed("set up stderr")
}

/// Builds the root, makes it `/` and lets go of everything outside.
fn enter_root(request: &RunRequest, prepared: &Prepared, said: &mut Vec<Word>) -> Result<(), Failure> {
    overlay::mount_at(&prepared.lowers, &prepared.upper, &prepared.work, &prepared.root)?;
    let root = Root::open(&prepared.root)?;
    let (root, made) = root.furnish(request.shm_size_bytes, request.insecure, &prepared.files, &prepared.mounts)?;
    if !made.is_empty() {
        said.push(Word::Made(made));
    }
    if targets::find(root.as_fd(), &request.cwd)?.is_none() {
        targets::make(root.as_fd(), &request.cwd, Shape::Dir, Some((request.uid, request.gid)))?;
    }
    fchdir(&root).deed("enter the root")?;
    pivot_root(".", ".").deed("make the root the root")?;
    // The old root is stacked on the new one now.
    unmount(".", UnmountFlags::DETACH).deed("let go of the old root")?;
    chdir("/").deed_on("enter", "/")?;
    // The step's own, so that nothing of it leads to the machine's mounts.
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).deed("set up stdin")
}

fn become_user(request: &RunRequest) -> Result<(), Failure> {
    let wanted = if request.insecure { u64::MAX } else { CAPABILITIES };
    for number in 0..64u32 {
        let Some(capability) = CapabilitySet::from_bits(1 << number) else { continue };
        if wanted & (1 << number) == 0 {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) => {}
                // This kernel has no more than those before it.
                Err(rustix::io::Errno::INVAL) => break,
                Err(error) => return Err(Failure::call("drop a capability", None, error)),
            }
        }
    }
    let groups: Vec<_> = request.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups).deed("set the supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
    if request.insecure {
        return become_privileged(uid, gid);
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).deed_on("become the group", request.gid.to_string())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).deed_on("become the user", request.uid.to_string())?;
    let mut sets = rustix::thread::capabilities(None).deed("read the capabilities")?;
    sets.inheritable = CapabilitySet::empty();
    let keep = CapabilitySet::from_bits_retain(CAPABILITIES);
    let sets = CapabilitySets { effective: sets.effective & keep, permitted: sets.permitted & keep, ..sets };
    rustix::thread::set_capabilities(None, sets).deed("set the capabilities")?;
    rustix::thread::clear_ambient_capability_set().deed("clear the ambient capabilities")
}

/// Becomes a user who keeps every capability that there is here, and hands them on to programs: what `insecure` means.
fn become_privileged(uid: Uid, gid: Gid) -> Result<(), Failure> {
    rustix::thread::set_keep_capabilities(true).deed("keep the capabilities")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).deed("become the group")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).deed("become the user")?;
    let sets = rustix::thread::capabilities(None).deed("read the capabilities")?;
    let all = sets.permitted;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: all, permitted: all, inheritable: all })
        .deed("set the capabilities")?;
    for capability in all {
        rustix::thread::configure_capability_in_ambient_set(capability, true).deed("hand a capability on")?;
    }
    Ok(())
}

/// The working directory, which must lie below the root: no link of /proc that leads out is followed.
fn enter_directory(cwd: &str) -> Result<(), Failure> {
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).deed_on("open", "/")?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open_scoped(&root, cwd, flags, resolve).deed_on("enter the working directory", cwd)?;
    fchdir(&dir).deed_on("enter the working directory", cwd)?;
    let real = rustix::process::getcwd(Vec::new()).deed("read the working directory")?;
    if real.as_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(Failure::Other(format!("the working directory {cwd} lies outside of the root")))
}

fn set_limit(name: &str, soft: u64, hard: u64) -> Result<(), Failure> {
    let resource = match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(Failure::Other(format!("invalid ulimit type: {name}"))),
    };
    let value = |n: u64| (n != u64::MAX).then_some(n);
    setrlimit(resource, Rlimit { current: value(soft), maximum: value(hard) }).deed_on("set the limit", name)
}
