//! The process that becomes the command.
//!
//! It starts in fresh namespaces with the memory of the handler, makes what every step finds mounted, waits for its step, and ends in
//! `exec`, so nothing here needs to clean up. The order of the parts is a matter of security; each says what it relies on.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, open};
use rustix::process::{Resource, Rlimit, Signal, fchdir, getrlimit, setrlimit, setsid, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::mounts::{BoundFile, Stage};
use super::spec::{RunRequest, StepMount};
use super::standby::{Kind, Order};
use super::targets::{self, Shape};
use super::{Deed, Failure, exec, seccomp, sys};
use crate::scoped::open_scoped;

/// The capabilities of a step, as container runtimes give them: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: u64 = 0xa804_25fb;

/// What the handler made ready.
#[derive(Debug)]
pub(super) struct Prepared {
    /// A directory where the overlay works, in which nobody looks any more.
    pub(super) work: PathBuf,
    /// An empty directory for the root to be attached at.
    pub(super) root: PathBuf,
    pub(super) files: Vec<BoundFile>,
    /// What the step asks for, each with a directory for whoever mounts it.
    pub(super) mounts: Vec<(StepMount, PathBuf)>,
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
pub(super) fn namespaces(kind: Kind) -> libc::c_int {
    let always = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    always | if kind.own_network { libc::CLONE_NEWNET } else { 0 }
}

/// What can be done before there is a step. Returns the mounts.
pub(super) fn make_ready(kind: Kind) -> Result<Stage, Failure> {
    // For the case that the handler goes away meanwhile.
    end_with_handler()?;
    // Who waits for a step lets the kernel reap its children, which must not be handed on.
    sys::heed_children();
    setsid().deed("start a session")?;
    if kind.own_network {
        sys::raise_loopback().deed("bring up the loopback interface")?;
    }
    let stage = Stage::make(kind)?;
    let has_filter = seccomp::is_in_worker();
    if kind.insecure && has_filter {
        return Err(Failure::Other("a privileged step needs a worker that is told of it when it starts".to_owned()));
    }
    if !kind.insecure && !has_filter {
        seccomp::install_first().deed("install the system call filter")?;
    }
    Ok(stage)
}

/// Becomes the command. Returns only why it did not. The descriptors are stdout, stderr, the root, and a mount for each of the files.
pub(super) fn become_command(order: &Order, stage: &Stage, fds: Vec<OwnedFd>, say: &dyn Fn(Word)) -> Failure {
    let Err(failure) = set_up_and_exec(order, stage, fds, say);
    failure
}

fn set_up_and_exec(order: &Order, stage: &Stage, fds: Vec<OwnedFd>, say: &dyn Fn(Word)) -> Result<std::convert::Infallible, Failure> {
    sys::take_turn();
    let request = &order.request;
    let mut fds = fds.into_iter();
    let (Some(stdout), Some(stderr), Some(root)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(Failure::Other("a step needs a root and two descriptors".to_owned()));
    };
    rustix::stdio::dup2_stdout(&stdout).deed("set up stdout")?;
    rustix::stdio::dup2_stderr(&stderr).deed("set up stderr")?;
    enter_root(order, stage, root, fds, say)?;
    rustix::system::sethostname(request.hostname.as_bytes()).deed_on("set the host name", &request.hostname)?;
    for limit in &request.ulimits {
        set_limit(&limit.name, limit.soft, limit.hard)?;
    }
    // Both need CAP_SYS_ADMIN, as no_new_privs stays off: setuid programs work in a step.
    if !request.insecure {
        // An extra that not every kernel has, so its failure is none.
        drop(sys::landlock_scope());
        // The greater part of the filter is there already.
        seccomp::install_second().deed("install the system call filter")?;
    }
    become_user(request)?;
    enter_directory(&request.cwd)?;
    umask(Mode::from_raw_mode(0o022));
    // A change of user has cleared it.
    end_with_handler()?;
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

/// The handler going away must not leave a step behind.
fn end_with_handler() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).deed("tie the step to its handler")
}

/// Furnishes the root, makes it `/` and lets go of everything outside.
fn enter_root(
    Order { request, prepared }: &Order,
    stage: &Stage,
    root: OwnedFd,
    files: impl ExactSizeIterator<Item = OwnedFd>,
    say: &dyn Fn(Word),
) -> Result<(), Failure> {
    if files.len() != prepared.files.len() {
        return Err(Failure::Other("a step needs a mount for each of its files".to_owned()));
    }
    // The one that becomes the step's own, so that nothing of it leads to the machine's mounts: what the step mounts may hide its path.
    let null = stage.null()?;
    let root = stage.attach(root, &prepared.root)?;
    let (root, made) = root.furnish(stage, prepared.files.iter().zip(files), &prepared.mounts)?;
    if !made.is_empty() {
        say(Word::Made(made));
    }
    if targets::find(root.as_fd(), &request.cwd)?.is_none() {
        targets::make(root.as_fd(), &request.cwd, Shape::Dir, Some((request.uid, request.gid)))?;
    }
    stage.leave_for(&root, &prepared.work)?;
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
    rustix::thread::set_thread_groups(&groups).map_err(|error| unmapped(error, "supplementary groups", &request.groups))?;
    let (uid, gid) = (Uid::from_raw(request.uid), Gid::from_raw(request.gid));
    if request.insecure {
        return become_privileged(uid, gid);
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| unmapped(error, "group", &[request.gid]))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| unmapped(error, "user", &[request.uid]))?;
    let mut sets = rustix::thread::capabilities(None).deed("read the capabilities")?;
    sets.inheritable = CapabilitySet::empty();
    let keep = CapabilitySet::from_bits_retain(CAPABILITIES);
    let sets = CapabilitySets { effective: sets.effective & keep, permitted: sets.permitted & keep, ..sets };
    rustix::thread::set_capabilities(None, sets).deed("set the capabilities")?;
    rustix::thread::clear_ambient_capability_set().deed("clear the ambient capabilities")
}

/// Why ids could not be taken: EINVAL says that the kernel knows one of them not here (setresuid(2), setgroups(2)).
fn unmapped(error: rustix::io::Errno, what: &str, ids: &[u32]) -> Failure {
    let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    if error != rustix::io::Errno::INVAL {
        return Failure::call(&format!("become the {what} {ids}"), None, error);
    }
    Failure::Other(format!("cannot become the {what} {ids}: not among the ids of this user (see /etc/subuid and /etc/subgid)"))
}

/// Becomes a user who keeps every capability that there is here, and hands them on to programs: what `insecure` means.
fn become_privileged(uid: Uid, gid: Gid) -> Result<(), Failure> {
    rustix::thread::set_keep_capabilities(true).deed("keep the capabilities")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| unmapped(error, "group", &[gid.as_raw()]))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| unmapped(error, "user", &[uid.as_raw()]))?;
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
    let shown = |n: Option<u64>| n.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    let wanted = Rlimit { current: value(soft), maximum: value(hard) };
    match setrlimit(resource, wanted) {
        Err(rustix::io::Errno::PERM) => {
            let (wanted, highest) = (shown(wanted.maximum), shown(getrlimit(resource).maximum));
            Err(Failure::Other(format!(
                "cannot set the limit {name} to {wanted}: without privileges no more than {highest} is allowed here"
            )))
        }
        set => set.deed_on("set the limit", name),
    }
}
