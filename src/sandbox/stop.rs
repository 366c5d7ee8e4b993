//! Stopping a step.
//!
//! If any process of the step handles SIGTERM, all get it, but a PID 1 that does not (for which the kernel would drop it) is halted.
//! Once nothing is left that handles it, or after the grace period, SIGKILL to PID 1, which takes all others along.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::handler::{Asked, Asker};

/// How long a step that handles SIGTERM may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Ends the step whose PID 1 is `init` (in our own pid namespace). The asker may insist meanwhile. On return PID 1 has ended or is about to.
pub(super) fn stop(init: Pid, init_fd: &OwnedFd, asker: &mut dyn Asker) {
    let deadline = Instant::now() + GRACE;
    let handling = terminate(init, init_fd, deadline);
    for process in &handling {
        // All of them must be gone; waiting for them one after the other takes no longer.
        if !wait_for(process, init_fd, asker, deadline) {
            break;
        }
    }
    kill(init_fd);
}

/// SIGKILL to PID 1.
pub(super) fn kill(init_fd: &OwnedFd) {
    // Fails only if it has ended already.
    let _ = pidfd_send_signal(init_fd, Signal::KILL);
}

/// Sends SIGTERM to the step's processes and returns those that handle it. If there are none, nothing is sent: a shell would go
/// on with its next command when the one that it waits for dies.
fn terminate(init: Pid, init_fd: &OwnedFd, deadline: Instant) -> Vec<OwnedFd> {
    let Some(step) = Step::open(init) else { return Vec::new() };
    let mut found = step.processes();
    if !found.iter().any(|p| p.catches_term) {
        return Vec::new();
    }
    if found.iter().any(|p| p.pid == init.as_raw_nonzero().get() && !p.catches_term) {
        // For the same reason it waits while others tidy up; then it is killed.
        let _ = pidfd_send_signal(init_fd, Signal::STOP);
    }
    let mut handling = Vec::new();
    let mut seen = HashSet::new();
    // A process may fork while we look: look until there is nothing new, which with one that never stops forking is never.
    while !found.is_empty() && Instant::now() < deadline {
        for process in found {
            if seen.insert(process.pid) && pidfd_send_signal(&process.dir, Signal::TERM).is_ok() && process.catches_term {
                handling.extend(process.pidfd());
            }
        }
        found = step.processes();
        found.retain(|p| !seen.contains(&p.pid));
    }
    handling
}

/// Waits for one process; `false` if time is up, or PID 1 is gone and all with it.
fn wait_for(process: &OwnedFd, init: &OwnedFd, asker: &mut dyn Asker, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let [gone, init_gone, asked] = {
            let from = asker.fd();
            let mut fds = [process.as_fd(), init.as_fd(), from].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
            fds.map(|fd| !fd.revents().is_empty())
        };
        if init_gone || (asked && asker.take() == Asked::Kill) {
            return false;
        }
        if gone {
            return true;
        }
    }
}

/// A view of the processes of one step.
struct Step {
    proc: OwnedFd,
    /// Identity of the step's pid namespace.
    namespace: (u64, u64),
}

struct Process {
    pid: i32,
    dir: OwnedFd,
    catches_term: bool,
}

impl Process {
    /// A descriptor that can be polled for the process's end, which the one of its directory cannot.
    fn pidfd(&self) -> Option<OwnedFd> {
        pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()
    }
}

impl Step {
    fn open(init: Pid) -> Option<Self> {
        let proc = own_proc()?;
        let dir = open_dir(&proc, &init.as_raw_nonzero().to_string())?;
        let namespace = pid_namespace(&dir)?;
        Some(Self { proc, namespace })
    }

    fn processes(&self) -> Vec<Process> {
        let Some(entries) =
            openat(&self.proc, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok().and_then(|fd| Dir::new(fd).ok())
        else {
            return Vec::new();
        };
        entries.filter_map(|entry| self.process(entry.ok()?.file_name())).collect()
    }

    fn process(&self, name: &CStr) -> Option<Process> {
        let name = name.to_str().ok()?;
        let pid = name.parse().ok()?;
        let dir = open_dir(&self.proc, name)?;
        (pid_namespace(&dir)? == self.namespace).then_some(())?;
        let status = openat(&dir, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        std::fs::File::from(status).read_to_string(&mut text).ok()?;
        Some(Process { pid, dir, catches_term: catches(&text, libc::SIGTERM) })
    }
}

/// A procfs of our own pid namespace: the one that is mounted belongs to the machine's.
fn own_proc() -> Option<OwnedFd> {
    let fs = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(fs.as_fd()).ok()?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).ok()
}

fn open_dir(proc: &OwnedFd, name: &str) -> Option<OwnedFd> {
    openat(proc, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn pid_namespace(dir: &OwnedFd) -> Option<(u64, u64)> {
    let stat = statat(dir, "ns/pid", AtFlags::empty()).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Whether the process of this `/proc/<pid>/status` has a handler for `signal`.
fn catches(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_read_from_the_status() {
        let status = "Name:\tsh\nSigIgn:\t0000000000004000\nSigCgt:\t0000000000014002\n";
        assert!(catches(status, libc::SIGTERM) && catches(status, libc::SIGINT));
        assert!(!catches(status, libc::SIGHUP) && !catches("Name: x\n", libc::SIGTERM));
    }
}
