//! The system calls that no safe wrapper offers, and the only `unsafe` code of the crate.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block says why it is sound")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal};

use super::handover::{receive_with_fds, send_with_fds};

/// A file mapped into memory for reading; empty for an empty file.
#[derive(Debug, Default)]
pub struct Mapping(Option<memmap2::Mmap>);

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Maps a whole file read-only. Meant for the store's files, which are written once, under another name, and renamed.
pub fn map_file(file: &File) -> io::Result<Mapping> {
    if file.metadata()?.len() == 0 {
        return Ok(Mapping(None));
    }
    // SAFETY: the mapping is private to reading, and the store never changes or truncates a file after its rename into place, it only
    // lets some grow, as a build does the indexes that it keeps in memory, so the bytes behind the slice do not change while it lives.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Mapping(Some(map)))
}

/// Allocations of this size get pages of their own.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 4 << 20;

/// Has the allocator return large allocations to the kernel when they are freed. glibc does so at first, but raises its limit to the
/// largest that was ever freed (up to 32 MB, `mallopt(3)`): the tables of a large context would be kept beside those that come after them.
pub fn return_large_allocations() {
    // SAFETY: the call takes two numbers. It locks what it changes, so it may be made at any time; one that fails changes nothing.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Has the calling thread begin its work when others pause, never in the middle of theirs: as a batch job it does not take their core
/// when it is woken (`sched(7)`).
pub fn become_batch_job() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads `param` and changes how the calling thread is scheduled. One that fails changes nothing.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param);
    }
}

/// Whether this process, or the one that it is a fork of, became a batch job by [`give_way`].
static GIVES_WAY: AtomicBool = AtomicBool::new(false);

/// As [`become_batch_job`], for a process whose forks are to become what it was: [`take_turn`].
pub(crate) fn give_way() {
    // SAFETY: the call only asks how the calling thread is scheduled.
    if unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER {
        become_batch_job();
        GIVES_WAY.store(true, Ordering::Relaxed);
    }
}

/// Ends that for the calling thread and what it starts from now on.
pub(crate) fn take_turn() {
    if GIVES_WAY.load(Ordering::Relaxed) {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: as in `become_batch_job`.
        unsafe {
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param);
        }
    }
}

/// Forks. `None` in the child.
///
/// Only single-threaded processes may call it: the worker and what it forks never start a thread before they fork.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller is single-threaded, so no lock of another thread is copied in a locked state into the child.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid))
}

/// Makes a copy of this process, whatever its other threads do, in new namespaces (`CLONE_NEW*` in `flags`) and without the descriptor
/// `except`. It runs `body` with every signal blocked, and ends.
///
/// Locks of other threads may be held in the copy for good, the allocator's too: `body` may only make system calls.
pub(crate) fn copy_into(flags: libc::c_int, except: BorrowedFd<'_>, body: &dyn Fn()) -> io::Result<Pid> {
    // SAFETY: a signal set is plain data, for which zeroes are valid; both are filled in before they are read. The second call to change
    // the mask puts back what the first one found. Signals must not find our handlers, whose pipes are ours, in the copy.
    let pid = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let flags = libc::c_long::from(flags | libc::SIGCHLD);
        // Without a stack the copy goes on upon its own copy of this one (clone(2)). Not through libc, whose `fork` makes no namespaces.
        let pid = libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0);
        if pid == 0 {
            libc::close(except.as_raw_fd());
            body();
            exit_now(1);
        }
        let failed = (pid < 0).then(io::Error::last_os_error);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        failed.map_or(Ok(pid), Err)
    }?;
    Ok(Pid::from_raw(pid as i32).expect("the kernel gives out positive numbers"))
}

/// A process that shares the memory of the one that made it, until it becomes another program or ends. The two take turns: while one
/// of them runs the other waits, so that neither sees the other's allocator, or anything else, in the middle of a change. A companion that
/// gets no other turn ends where it waits, and the link, whose end is a turn too, is closed by the kernel alone.
#[derive(Debug)]
pub(crate) struct Companion {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    link: UnixStream,
}

/// The companion's side.
#[derive(Debug)]
pub(crate) struct Turns(UnixStream);

impl Companion {
    /// Makes a process in new namespaces (`CLONE_NEW*` in `flags`) that waits for its first turn, in which it runs `body`.
    ///
    /// It has descriptors, working directory and signals of its own. A copy of the memory would take a good part of the time that a step
    /// costs. As with [`fork`], only for single-threaded processes. The stack and what the companion allocates are never given back.
    pub(crate) fn start(flags: libc::c_int, body: Box<dyn FnOnce(&Turns)>) -> io::Result<Self> {
        struct Entry {
            body: Box<dyn FnOnce(&Turns)>,
            ours: RawFd,
            theirs: RawFd,
        }
        extern "C" fn enter(entry: *mut libc::c_void) -> libc::c_int {
            // SAFETY: the pointer is that of the box below, which its maker leaves to us once there is a process.
            let (ours, theirs) = unsafe { ((*entry.cast::<Entry>()).ours, (*entry.cast::<Entry>()).theirs) };
            let mut byte = 0u8;
            // SAFETY: one byte is read to a variable of ours. Until there is one it is not our turn.
            if unsafe { libc::read(theirs, (&raw mut byte).cast(), 1) } != 1 {
                exit_now(127);
            }
            // SAFETY: as above, and both descriptors are copies, made by `clone`, that belong to this process alone.
            let (entry, ours, theirs) =
                unsafe { (Box::from_raw(entry.cast::<Entry>()), OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
            drop(ours);
            let turns = Turns(theirs.into());
            (entry.body)(&turns);
            exit_now(127)
        }
        const STACK_BYTES: usize = 1 << 20;
        // Whole pages of any size.
        const GUARD_BYTES: usize = 64 << 10;
        let mut stack = memmap2::MmapOptions::new().len(STACK_BYTES).stack().map_anon()?;
        // SAFETY: nobody else knows the mapping, whose lowest pages become the end of the stack: to go beyond it is fatal to the child.
        check(unsafe { libc::mprotect(stack.as_mut_ptr().cast(), GUARD_BYTES, libc::PROT_NONE) })?;
        let (link, theirs) = UnixStream::pair()?;
        let entry = Box::into_raw(Box::new(Entry { body, ours: link.as_raw_fd(), theirs: theirs.as_raw_fd() }));
        let mut pidfd: libc::c_int = -1;
        let flags = flags | libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: the child runs on a stack of its own, from its aligned end downwards, which is never unmapped. It changes nothing
        // before it is told to, and nobody but it runs then. `enter` never returns, and a panic in it aborts the child only. The
        // kernel writes the pidfd to `pidfd` before the call ends.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(STACK_BYTES).cast();
            libc::clone(enter, top, flags, entry.cast(), &raw mut pidfd)
        };
        let Some(pid) = Pid::from_raw(pid.max(0)) else {
            let error = io::Error::last_os_error();
            // SAFETY: there is no process to which it was left.
            drop(unsafe { Box::from_raw(entry) });
            return Err(error);
        };
        std::mem::forget(stack);
        // SAFETY: the call succeeded, so `pidfd` is a fresh descriptor that nothing else owns.
        Ok(Self { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) }, link })
    }

    /// Hands the turn over, with copies of descriptors, and waits until it comes back. `None`: the companion has become another
    /// program or has ended. An error: it has got no turn.
    pub(crate) fn turn(&self, fds: &[BorrowedFd<'_>]) -> io::Result<Option<Vec<OwnedFd>>> {
        pass(&self.link, fds)
    }

    /// Ends it, where it waits for a turn that will not come.
    pub(crate) fn dismiss(&self) {
        // One that has ended already is what is wanted.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Turns {
    /// Hands the turn back, with copies of descriptors, and waits for the next one. Returns the descriptors that come with it. Without
    /// another turn the process ends: it may not touch anything any more.
    pub(crate) fn pass(&self, fds: &[BorrowedFd<'_>]) -> Vec<OwnedFd> {
        let Ok(Some(fds)) = pass(&self.0, fds) else { exit_now(127) };
        fds
    }
}

/// Between the two calls the other side may be running already: nothing there may touch what both share.
fn pass(link: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut byte = [0];
    send_with_fds(link.as_fd(), &byte, fds)?;
    // Nobody is told any more that the turn went over: whatever fails here is its end.
    Ok(match receive_with_fds(link.as_fd(), &mut byte) {
        Ok((1.., fds)) => Some(fds),
        _ => None,
    })
}

/// Ends the process at once: no destructors, no exit handlers, which belong to the process that this one was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Moves the calling process into new namespaces.
pub(crate) fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: only namespace flags are passed, never CLONE_FILES or CLONE_FS, so no thread's view of descriptors changes.
    check(unsafe { libc::unshare(flags) })
}

/// Replaces the process by the program at `path`. Returns only on failure.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in a null pointer and point to strings that live across the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Arguments of a program that is started where nothing may be allocated.
pub(crate) struct Argv {
    pointers: Vec<*const libc::c_char>,
    /// What they point to.
    _strings: Vec<CString>,
}

impl Argv {
    /// Words without zero bytes.
    pub(crate) fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let strings: Vec<_> = words.map(|word| CString::new(word).expect("no zero byte")).collect();
        Self { pointers: pointers(&strings), _strings: strings }
    }
}

/// Replaces the process by the program open as `file`, without an environment. Returns only on failure. Allocates nothing.
pub(crate) fn exec_file(file: BorrowedFd<'_>, argv: &Argv) -> io::Error {
    let (argv, env) = (argv.pointers.as_ptr(), [std::ptr::null::<libc::c_char>()]);
    // SAFETY: as in `exec`; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe { libc::syscall(libc::SYS_execveat, file.as_raw_fd(), c"".as_ptr(), argv, env.as_ptr(), libc::AT_EMPTY_PATH) };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Sets attributes (`MOUNT_ATTR_*`) of the mount that `mount` is open on, and of all below it if asked.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant string and `attr` a valid struct of the size given.
    let rc = unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<libc::mount_attr>())
    };
    check(rc as libc::c_int)
}

/// Installs a seccomp filter for this process and what it becomes.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points to `len` instructions that live across the call; the kernel only reads them.
    let rc = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(rc as libc::c_int)
}

/// Whether the kernel knows calls with 32-bit pointers on 64-bit x86; few do.
pub(crate) fn kernel_has_x32() -> bool {
    const X32_BIT: libc::c_long = 0x4000_0000;
    // SAFETY: getpid takes no arguments.
    cfg!(target_arch = "x86_64") && unsafe { libc::syscall(X32_BIT | libc::SYS_getpid) } > 0
}

/// Closes abstract sockets and signals to the world outside by a Landlock domain. `false`: the kernel is too old for it.
pub(crate) fn landlock_scope() -> io::Result<bool> {
    #[repr(C)]
    struct RulesetAttr {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    const ABI_WITH_SCOPES: libc::c_long = 6;
    const ABSTRACT_SOCKETS_AND_SIGNALS: u64 = 0b11;
    // SAFETY: with the version flag (1) the kernel reads no struct.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    if abi < ABI_WITH_SCOPES {
        return Ok(false);
    }
    let attr = RulesetAttr { handled_access_fs: 0, handled_access_net: 0, scoped: ABSTRACT_SOCKETS_AND_SIGNALS };
    // SAFETY: `attr` is a valid struct of the size given.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0) };
    check(fd as libc::c_int)?;
    // SAFETY: the call succeeded, so `fd` is a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, fd.as_raw_fd(), 0) } as libc::c_int)?;
    Ok(true)
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers; descriptors stay open until exec, so no owner loses its own.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } as libc::c_int)
}

/// Gives up the session keyring of whoever started us: keys of the host are no business of a build step.
pub(crate) fn leave_session_keyring() {
    // SAFETY: a null name asks for a new anonymous keyring. A refusal (a seccomp filter around us) leaves us where no key can be
    // reached either, so the result does not matter.
    let _ = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

static STDOUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the process was started without a standard output.
pub fn stdout_was_closed() -> bool {
    STDOUT_WAS_CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look_at_stdout() {
    // SAFETY: no pointers.
    let rc = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_WAS_CLOSED.store(rc < 0, Ordering::Relaxed);
}

/// Run by the loader: before `main`, the standard library opens `/dev/null` where one of the three streams is closed, and nobody can tell
/// afterwards.
// SAFETY: the section holds pointers to functions of this type, and the function needs nothing that is not there before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

/// Children are reaped by the kernel from now on.
pub(crate) fn ignore_children() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// What the kernel sends a signal for is an error from now on, and not the end of the process: SIGPIPE for a pipe that nobody reads any
/// more, SIGXFSZ for a file that is longer than `ulimit -f` lets it be.
pub(crate) fn outlive(signal: libc::c_int) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Children are there to be waited for again.
pub(crate) fn heed_children() {
    // SAFETY: SIG_DFL installs no handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Whether this process ignores a signal.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data, for which zeroes are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with a null action nothing is installed; the present one is written to a value that lives across the call.
    let rc = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    rc == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Every signal has its default action again, and none is blocked: what was inherited must not be handed on to a step.
pub(crate) fn reset_signals() {
    // Not through libc, which keeps two signals to itself that may be ignored by inheritance all the same.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: all zeroes is the kernel's sigaction with SIG_DFL, no flags and an empty mask of eight bytes; no handler is
        // installed. The calls for SIGKILL and SIGSTOP fail without effect.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8) };
    }
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Brings up `lo` in a fresh network namespace.
pub(crate) fn raise_loopback() -> io::Result<()> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
