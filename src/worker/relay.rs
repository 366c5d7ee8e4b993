//! The main process's side of a running step: its output, its end, and the wish to end it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::protocol::{KILL, Reply, STOP};
use super::{RunDone, next_reply, unexpected};
use crate::sandbox::{Cancel, SandboxError};
use crate::solve::event::Stream;
use crate::tree::entry::Mtime;

/// Read at once. A buffer for a whole pipe would be given back to the kernel after each step, and zeroed for the next one.
const READ_BYTES: usize = 16 << 10;
/// The largest pipe that a command can make of its own.
const MAX_PIPE_BYTES: usize = 4 << 20;

/// How long to wait before somebody is asked whether the answer is still wanted.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A step's output: (our end, its end) each.
pub(super) struct Pipes {
    pub(super) stdout: (OwnedFd, OwnedFd),
    pub(super) stderr: (OwnedFd, OwnedFd),
}

impl Pipes {
    pub(super) fn new() -> io::Result<Self> {
        let pipe = || -> io::Result<_> {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            // Only our end: a command does not expect a stdout that does not block.
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((ours, theirs))
        };
        Ok(Self { stdout: pipe()?, stderr: pipe()? })
    }
}

/// Waits a moment for an answer. True if one is there, or nobody is left to give one.
pub(super) fn is_answered(socket: &UnixStream) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&MOMENT)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct Source {
    stream: Stream,
    /// `None` once the other end is closed.
    fd: Option<OwnedFd>,
}

/// Relays output and wishes until the command has ended, then takes what it left.
pub(super) fn run(
    socket: &UnixStream,
    pipes: Pipes,
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<RunDone, SandboxError> {
    let Pipes { stdout: (stdout, stdout_theirs), stderr: (stderr, stderr_theirs) } = pipes;
    drop((stdout_theirs, stderr_theirs));
    let mut sources = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)].map(|(stream, fd)| Source { stream, fd: Some(fd) });
    let running = cancel.step();
    let mut buffer = vec![0; READ_BYTES];
    wait_and_relay(socket, &mut sources, &mut buffer, output, cancel)?;
    let ended = next_reply(socket);
    // Nobody writes any more, or nobody whose words still count; what was written is in the pipes. Their size is bounded, so that a
    // process that got hold of one from outside cannot keep us here.
    for source in &mut sources {
        for _ in 0..MAX_PIPE_BYTES / READ_BYTES {
            if !source.relay(&mut buffer, output) {
                break;
            }
        }
    }
    let exit = match ended? {
        (Reply::Exited(exit), _) => exit,
        (other, _) => return Err(unexpected(other)),
    };
    drop(running);
    match next_reply(socket)? {
        (Reply::Captured { upper, window, diff_id }, index) => {
            let [from, to] = window.map(|(secs, nanos)| Mtime { secs, nanos });
            Ok(RunDone { exit, index, upper, window: (from, to), diff_id })
        }
        (other, _) => Err(unexpected(other)),
    }
}

/// Relays until the worker has something to say.
fn wait_and_relay(
    socket: &UnixStream,
    sources: &mut [Source; 2],
    buffer: &mut [u8],
    output: &mut dyn FnMut(Stream, &[u8]),
    cancel: &Cancel,
) -> Result<(), SandboxError> {
    let mut wishes = vec![(KILL, cancel.insisted_fd()), (STOP, cancel.as_fd())];
    loop {
        let (socket_ready, wish_ready, source_ready) = {
            let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
            // Without a wish left the socket stands in: it is polled anyway.
            fds.push(PollFd::from_borrowed_fd(wishes.last().map_or(socket.as_fd(), |w| w.1), PollFlags::IN));
            fds.extend(sources.iter().filter_map(|s| s.fd.as_ref()).map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(SandboxError::call("wait for a step", error)),
            }
            let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            (ready[0], ready[1], ready[2..].iter().any(|r| *r))
        };
        // One piece of each, so that a command that never stops writing holds up neither the other stream nor a wish.
        if source_ready {
            for source in &mut *sources {
                source.relay(buffer, output);
            }
        }
        if wish_ready && let Some((wish, _)) = wishes.pop() {
            // If it cannot be sent the worker is dead, which the next read says.
            let _ = rustix::io::write(socket, &[wish]);
        }
        if socket_ready {
            return Ok(());
        }
    }
}

impl Source {
    /// Hands on a piece of what is in the pipe. `false`: there was nothing.
    fn relay(&mut self, buffer: &mut [u8], output: &mut dyn FnMut(Stream, &[u8])) -> bool {
        let Some(fd) = &self.fd else { return false };
        match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer)) {
            Err(Errno::AGAIN) => false,
            Ok(0) | Err(_) => {
                self.fd = None;
                false
            }
            Ok(len) => {
                output(self.stream, &buffer[..len]);
                true
            }
        }
    }
}
