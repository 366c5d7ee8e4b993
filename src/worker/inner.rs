//! The worker proper: PID 1 of its pid namespace, with every privilege in its namespaces.
//!
//! It has a single thread and only sees to it that there is always a fork of it that waits for the next command to run, and serves what
//! else is asked for.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};

use super::capture::{self, capture};
use super::layers;
use super::protocol::{self, KILL, Ready, Reply, Request, STOP, take_control};
use crate::layer::read::Digested;
use crate::sandbox::handler::{self, Asked, Asker};
use crate::sandbox::handover::receive_with_fds;
use crate::sandbox::standby::{Held, Kind, Standby};
use crate::sandbox::{Exit, Failure, RunRequest, seccomp, sys};

pub(super) const ROLE: &str = "inner";
/// Said to one that may have privileged steps: see [`WorkerConfig`](super::WorkerConfig).
pub(super) const PRIVILEGED: &str = "privileged";

/// A layer of less content is packed by the step itself, for its digest: to ask another process for it takes longer.
const SMALL_BYTES: u64 = 256 << 10;

/// Does not return. Whatever is left in the pid namespace ends with it.
pub(super) fn main() -> ! {
    let Ok(control) = take_control() else { sys::exit_now(1) };
    let is_told = |word: &str| std::env::args().skip(2).any(|told| told == word);
    sys::reset_signals();
    // Handlers and orphans of handlers are reaped by the kernel.
    sys::ignore_children();
    sys::leave_session_keyring();
    // Made once, both programs are there for every fork. One that cannot be installed yet is by each step, which says what is wrong.
    seccomp::prepare();
    if !is_told(PRIVILEGED) {
        drop(seccomp::install_in_worker());
    }
    rustix::process::umask(Mode::empty());
    // Who makes ready for the next command must not take the core of the one that is about to begin.
    sys::give_way();
    if protocol::send_start(&control, &Ready).is_err() {
        sys::exit_now(1);
    }
    loop {
        let goes_on = match fork_handler() {
            Ok(Forked::Handler(said)) => handle_next(control, said),
            Ok(Forked::Worker(said)) => !has_ended(said),
            Err(_) => late_handler(&control),
        };
        if !goes_on {
            sys::exit_now(0);
        }
    }
}

/// A handler says that it has taken a request which keeps it.
const TAKEN: u8 = b't';
/// There will be no more requests.
const ENDED: u8 = b'e';

/// Both sides of a fork, each with its end of a pipe.
enum Forked {
    Worker(File),
    Handler(File),
}

/// Makes the process that waits for the next command to run, so that the fork is done when one comes.
fn fork_handler() -> io::Result<Forked> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok(if sys::fork()?.is_some() { Forked::Worker(read.into()) } else { Forked::Handler(write.into()) })
}

/// Waits until the handler has taken a request that keeps it; whether there are no more. One that dies without a word has taken none, or leaves
/// its request's socket closed.
fn has_ended(mut said: File) -> bool {
    let mut word = [0];
    matches!(said.read(&mut word), Ok(1)) && word == [ENDED]
}

/// What is left where there was no process for a handler in time, as when a step has used them all up: to make it when the request
/// is there. Without one even then the request's socket is closed, and the main process knows. Whether there was a request.
fn late_handler(control: &OwnedFd) -> bool {
    let Ok(Some(socket)) = take(control) else { return false };
    if let Ok(None) = sys::fork() {
        sys::heed_children();
        serve(&socket, take_request(&socket), None);
        sys::exit_now(0)
    }
    true
}

/// Waits for the request to run a command, with everything ready for it. Others it leaves to forks of its own.
fn handle_next(control: OwnedFd, mut said: File) -> ! {
    let mut standby = None;
    loop {
        // Whoever cannot make ready ahead finds out why when it matters.
        if standby.is_none() && is_idle(&control) {
            standby = Standby::start(Kind::default()).ok();
        }
        let Ok(Some(socket)) = take(&control) else { break };
        let request = take_request(&socket);
        let is_run = matches!(request, Ok((Request::Run(_), _)));
        let forked = if is_run { None } else { sys::fork().ok() };
        match forked {
            Some(Some(_)) => {}
            Some(None) => {
                drop((control, said, standby));
                sys::heed_children();
                serve(&socket, request, None);
                sys::exit_now(0)
            }
            // A command, or something else where no other process can be had for it.
            None => {
                if said.write_all(&[TAKEN]).is_ok() {
                    drop((control, said));
                    sys::heed_children();
                    serve(&socket, request, standby);
                }
                sys::exit_now(0)
            }
        }
    }
    drop(said.write_all(&[ENDED]));
    sys::exit_now(0)
}

/// Whether nothing was asked for yet.
fn is_idle(control: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(control, PollFlags::IN)], Some(&Timespec::default())) == Ok(0)
}

/// The socket of the next request; `None` when there will be none.
fn take(control: &OwnedFd) -> io::Result<Option<UnixStream>> {
    loop {
        let mut byte = [0];
        let (len, mut fds) = receive_with_fds(control.as_fd(), &mut byte)?;
        match fds.pop() {
            _ if len == 0 => return Ok(None),
            Some(socket) => return Ok(Some(UnixStream::from(socket))),
            None => {}
        }
    }
}

/// Serves one request. Nobody can be told if the socket is closed, and nobody wants to know.
fn serve(socket: &UnixStream, request: io::Result<(Request, Vec<OwnedFd>)>, standby: Option<Standby>) {
    sys::take_turn();
    let mut held = None;
    let reply = match request {
        Ok((Request::Run(request), fds)) => run(socket, &Arc::from(request), fds, standby).map(|(reply, index, mounts)| {
            held = mounts;
            (reply, index)
        }),
        Ok((Request::Unpack(dest), fds)) => unpack(&dest, fds),
        Ok((Request::Settle(index, paths, dest), _)) => layers::settle(&index, &paths, &dest).map(|()| (Reply::Done, Vec::new())),
        Ok((Request::Write(request, niceness), fds)) => {
            // Who reads what it writes says why no more is wanted, if it is told that.
            sys::outlive(libc::SIGPIPE);
            // Where priorities cannot be set it is not nicer than others.
            rustix::process::setpriority_process(None, niceness).ok();
            layers::write(*request, fds).map(|numbers| (Reply::Written(numbers), Vec::new()))
        }
        Ok((Request::Read(from, paths), _)) => layers::read(*from, &paths).map(|read| (Reply::Contents(read), Vec::new())),
        Ok((Request::Merge(lowers, dest), _)) => layers::merge(&lowers, &dest).map(|index| (Reply::Merged, index)),
        Ok((Request::Remove(paths), _)) => remove(&paths).map(|()| (Reply::Done, Vec::new())),
        Ok((Request::Compare(forms), _)) => {
            let compared = forms.iter().map(|(root, index)| capture::found_difference(root, index));
            Ok((Reply::Compared(compared.collect()), Vec::new()))
        }
        Ok((Request::Measure(paths), _)) => {
            let measured = paths.iter().map(|path| shale_cache::tree_bytes(path).ok().flatten()).collect();
            Ok((Reply::Measured(measured), Vec::new()))
        }
        Err(error) => Err(Failure::call("read a request", None, error)),
    };
    let (reply, blob) = reply.unwrap_or_else(|failure| (Reply::Failed(failure), Vec::new()));
    drop(protocol::write_frame(socket, &reply, &blob));
    // The main process does not wait for that before it needs to: the end of the socket tells.
    drop(held);
}

fn take_request(socket: &UnixStream) -> io::Result<(Request, Vec<OwnedFd>)> {
    let mut byte = [0];
    let (_, fds) = receive_with_fds(socket.as_fd(), &mut byte)?;
    let (request, _) = protocol::read_frame(socket)?;
    Ok((request, fds))
}

fn run(
    socket: &UnixStream,
    request: &Arc<RunRequest>,
    fds: Vec<OwnedFd>,
    standby: Option<Standby>,
) -> Result<(Reply, Vec<u8>, Option<Held>), Failure> {
    let mut fds = fds.into_iter();
    let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
        return Err(Failure::Other("a RUN needs two descriptors".to_owned()));
    };
    let indexes = if request.needs_indexes() { fds.next().map(File::from) } else { None };
    // Their ends say that the mounts of steps before are gone.
    let closing: Vec<UnixStream> = fds.map(UnixStream::from).collect();
    let mut exit = None;
    let mut ended = |code| {
        exit = Some(code);
        drop(protocol::write_frame(socket, &Reply::Exited(code), &[]));
    };
    let left = handler::run(request, [stdout, stderr], closing, standby, &mut Wishes(socket), &mut ended)?;
    // What a failed command left is thrown away, so it need not be read.
    let (mut index, mut diff_id) = (Vec::new(), None);
    if exit == Some(Exit::Code(0)) {
        let captured = capture(&left.upper, &request.lowers, indexes.as_ref())?;
        if request.wants_diff_id && captured.content_bytes() < SMALL_BYTES {
            diff_id = Some(layers::diff_id(&captured, &left.upper)?);
        }
        index = captured.as_bytes().to_vec();
    }
    let window = [left.window.0, left.window.1].map(|t| (t.secs, t.nanos));
    Ok((Reply::Captured { upper: left.upper, window, diff_id }, index, left.mounts))
}

fn unpack(dest: &Path, fds: Vec<OwnedFd>) -> Result<(Reply, Vec<u8>), Failure> {
    let blob = fds.into_iter().next().ok_or_else(|| Failure::Other("unpacking needs a descriptor".to_owned()))?;
    let Digested { index, implied, diff_id } = layers::unpack(blob.into(), dest)?;
    Ok((Reply::Unpacked(diff_id, implied), index.as_bytes().to_vec()))
}

/// Deletes trees. What is not there any more needs no deleting.
fn remove(paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        match remove_tree(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::call("delete", Some(path), error)),
            _ => {}
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// The main process's wishes: bytes on the request's socket, or its end.
struct Wishes<'a>(&'a UnixStream);

impl Asker for Wishes<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn take(&mut self) -> Asked {
        let mut byte = [0];
        match (&mut &*self.0).read(&mut byte) {
            Ok(1) if byte[0] == STOP => Asked::Stop,
            Ok(1) if byte[0] == KILL => Asked::Kill,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Asked::Nothing,
            // Nobody is there to wait for the step.
            _ => Asked::Kill,
        }
    }
}
