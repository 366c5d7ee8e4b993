//! The wish to stop, shared by everything that can be stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A flag that can be polled. Clones are the same flag. The first [`Cancel::cancel`] asks, the second insists.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    level: AtomicU8,
    /// Whether somebody wished it, and not only a step that failed beside others.
    is_wished: AtomicBool,
    /// Steps that may still be tidying up.
    steps: AtomicUsize,
    /// Readable from the first call on; never read, so that every waiter sees it.
    asked: OwnedFd,
    /// Readable from the second call on.
    insisted: OwnedFd,
}

impl Cancel {
    /// A flag that is down.
    pub fn new() -> io::Result<Self> {
        let fd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self(Arc::new(Inner {
            level: AtomicU8::new(0),
            is_wished: AtomicBool::new(false),
            steps: AtomicUsize::new(0),
            asked: fd()?,
            insisted: fd()?,
        })))
    }

    /// Asks to stop; a second call lets no one finish what it does on being asked.
    pub fn cancel(&self) {
        self.0.is_wished.store(true, Ordering::SeqCst);
        let before = self.0.level.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |l| (l < 2).then_some(l + 1));
        let fd = match before {
            Ok(0) => &self.0.asked,
            Ok(_) => &self.0.insisted,
            Err(_) => return,
        };
        // An eventfd that was written once takes a second write; nothing to do if it does not.
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }

    /// Asks to stop, if nobody has: for those who do not know of each other, and to end what runs beside a failed step.
    pub fn ask(&self) {
        if self.0.level.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let _ = rustix::io::write(&self.0.asked, &1u64.to_ne_bytes());
        }
    }

    /// Takes back what was asked because a step failed, for a build that begins again once everybody has ended; never what the user
    /// wished. Whether nothing is asked now.
    pub fn withdraw(&self) -> bool {
        if self.0.level.compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let _ = rustix::io::read(&self.0.asked, &mut [0u8; 8]);
        }
        if self.is_wished() {
            // It may have come between the two.
            self.ask();
        }
        !self.is_cancelled()
    }

    /// Counts a command that runs, and may take its time to end, until the result is dropped.
    pub fn step(&self) -> RunningStep {
        self.0.steps.fetch_add(1, Ordering::SeqCst);
        RunningStep(self.clone())
    }

    /// How many commands run.
    pub fn running_steps(&self) -> usize {
        self.0.steps.load(Ordering::SeqCst)
    }

    /// Whether it was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.level.load(Ordering::SeqCst) > 0
    }

    /// Whether the user asked for it.
    pub fn is_wished(&self) -> bool {
        self.0.is_wished.load(Ordering::SeqCst)
    }

    /// Whether it was asked for twice.
    pub fn is_insisted(&self) -> bool {
        self.0.level.load(Ordering::SeqCst) > 1
    }

    /// Readable when it was asked for.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.asked.as_fd()
    }

    /// Readable when it was asked for twice.
    pub fn insisted_fd(&self) -> BorrowedFd<'_> {
        self.0.insisted.as_fd()
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct RunningStep(Cancel);

impl Drop for RunningStep {
    fn drop(&mut self) {
        self.0.0.steps.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn what_nobody_wished_can_be_withdrawn() {
        let cancel = Cancel::new().unwrap();
        assert!(cancel.withdraw());
        cancel.ask();
        assert!(cancel.is_cancelled() && cancel.withdraw() && !readable(cancel.as_fd()));
        cancel.cancel();
        assert!(!cancel.withdraw() && readable(cancel.as_fd()) && !cancel.is_insisted());
    }

    #[test]
    fn two_steps_and_every_clone_sees_them() {
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        assert!(!other.is_cancelled() && !readable(other.as_fd()));
        cancel.cancel();
        assert!(other.is_cancelled() && other.is_wished() && !other.is_insisted());
        assert!(readable(other.as_fd()) && readable(other.as_fd()) && !readable(other.insisted_fd()));
        cancel.cancel();
        cancel.cancel();
        assert!(other.is_insisted() && readable(other.insisted_fd()));
    }

    #[test]
    fn asking_twice_does_not_insist() {
        let cancel = Cancel::new().unwrap();
        cancel.ask();
        cancel.ask();
        assert!(cancel.is_cancelled() && readable(cancel.as_fd()) && !cancel.is_insisted() && !cancel.is_wished());
        let step = cancel.step();
        assert_eq!(cancel.running_steps(), 1);
        drop(step);
        assert_eq!(cancel.running_steps(), 0);
    }
}
