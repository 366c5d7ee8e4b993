//! The process inside the namespaces: it unpacks, mounts, runs and deletes what the calling user cannot.
//!
//! ```text
//! main ── clones ─▶ inner, PID 1 of its own pid namespace ── forks ─▶ a handler per command
//!   maps the inner's ids                                               └─ clones ─▶ what becomes the command, PID 1 of its own
//! ```
//! Nothing survives anything: the end of the main process closes the control socket, on which the inner one ends, and with it
//! everything in its pid namespace.

mod after;
mod birth;
mod capture;
mod collection;
mod guard;
mod inner;
mod layers;
mod mapped;
mod probe;
mod protocol;
mod relay;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, geteuid};
use shale_cache::{DiffId, MapId};

use crate::layer::compress::PackNumbers;
use crate::layer::read::Digested;
use crate::sandbox::handover::send_with_fds;
use crate::sandbox::ids::{IdMaps, IdsError};
use crate::sandbox::ladder::Report;
use crate::sandbox::{Failure, SandboxError, overlay_failed};
use crate::solve::event::Stream;
use crate::tree::entry::Mtime;
use crate::tree::index::Index;
use birth::{Born, Deed};
use protocol::{Reply, Request};

pub use after::{Abandoned, Afterwork, Successor, is_afterwork};
pub use collection::Collection;
pub use guard::{guarded, start_error};
pub use layers::{From, Packing, To, WriteLayer, gathered, pack};

pub use mapped::Mapped;
pub use probe::{probe, probe_with};

pub use crate::sandbox::{Cancel, Exit, LowerLayer, MountOwner, MountSource, RunRequest, StepMount, Ulimit};

/// The name under which the program finds itself to be a worker.
const NAME: &str = "shale-worker";
/// Our own program, even if it was replaced on disk.
const OURSELVES: &str = "/proc/self/exe";

/// To be called before anything else: does not return in a process that was started as a worker.
pub fn hook() {
    // Whoever started us may wait for no children, which is inherited: then nobody here could, either.
    crate::sandbox::sys::heed_children();
    let mut args = std::env::args_os();
    if args.next().is_none_or(|name| name != NAME) {
        return;
    }
    match args.next().as_ref().and_then(|role| role.to_str()) {
        Some(inner::ROLE) => inner::main(),
        Some(probe::ROLE) => probe::main(),
        Some(guard::ROLE) => guard::main(),
        Some(after::SYNC) => after::sync_main(),
        Some(after::TIDY) => after::tidy_main(),
        _ => crate::sandbox::sys::exit_now(64),
    }
}

/// What a worker needs to know.
#[derive(Clone, Debug, Default)]
pub struct WorkerConfig {
    /// The store that it works in.
    pub store_root: PathBuf,
    /// Whether steps may be privileged ([`RunRequest::insecure`]): then each of the others has its system call filter compiled anew.
    pub privileged: bool,
}

/// What a RUN left.
#[derive(Debug)]
pub struct RunDone {
    /// How the command ended.
    pub exit: Exit,
    /// The encoded index of `upper`; empty unless the command ended with 0.
    pub index: Vec<u8>,
    /// The directory with the changes; equal to its index, if there is one.
    pub upper: PathBuf,
    /// Modification times that the command made lie between these, both included.
    pub window: (Mtime, Mtime),
    /// The digest of the layer's tar, if it was wanted and took no time to speak of.
    pub diff_id: Option<DiffId>,
}

/// A running worker. Requests from many threads are served at the same time. Dropped, it and all that it started end.
#[derive(Debug)]
pub struct Worker {
    control: OwnedFd,
    pid: Pid,
    /// Sockets of steps whose mounts are being taken down: each is closed when that is done.
    closing: Mutex<Vec<UnixStream>>,
    map_id: MapId,
    program: PathBuf,
    config: WorkerConfig,
}

impl Worker {
    /// Starts it. If this machine does not let us, the error says what it is that refuses and what to change.
    pub fn start(config: &WorkerConfig) -> Result<Self, SandboxError> {
        Self::start_program(Path::new(OURSELVES), config)
    }

    /// The same with another program than ourselves, which must call [`hook`] first: for tests, whose own program does not.
    pub fn start_program(program: &Path, config: &WorkerConfig) -> Result<Self, SandboxError> {
        Self::try_start(program, config).map_err(|error| explain(error, program, config))
    }

    fn try_start(program: &Path, config: &WorkerConfig) -> Result<Self, StartError> {
        let Born { control, pid, map_id } = birth::start(program, config.privileged)?;
        Ok(Self { control, pid, closing: Mutex::default(), map_id, program: program.to_owned(), config: config.clone() })
    }

    /// Names the id map that unpacked layers are made under.
    pub fn map_id(&self) -> MapId {
        self.map_id.clone()
    }

    /// The name of the id map that a worker of ours would have, without starting one.
    pub fn map_id_here() -> Result<MapId, SandboxError> {
        let maps = || -> Result<MapId, IdsError> {
            let ours = IdMaps::current()?;
            let theirs = if geteuid().is_root() { ours.identity() } else { IdMaps::of_caller()? };
            Ok(theirs.map_id(&ours))
        };
        maps().map_err(|error| SandboxError::Other(error.to_string()))
    }

    /// The worker's process, for tests.
    pub fn process_id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Runs a command on top of layers and captures what it changed. `output` gets what it writes as it comes.
    pub fn run(&self, request: RunRequest, output: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<RunDone, SandboxError> {
        let pipes = relay::Pipes::new().map_err(|e| SandboxError::call("make pipes for a step's output", e))?;
        let closing = self.still_closing().map_err(|e| SandboxError::call("look after the mounts of a step", e))?;
        let indexes = request.indexes.clone().filter(|_| request.needs_indexes());
        if request.needs_indexes() && indexes.is_none() {
            return Err(SandboxError::Other("the indexes of the layers below a step are not there".to_owned()));
        }
        let fds = [&pipes.stdout.1, &pipes.stderr.1].map(AsFd::as_fd).into_iter();
        let fds: Vec<_> = fds.chain(indexes.iter().map(|file| file.as_fd())).chain(closing.iter().map(AsFd::as_fd)).collect();
        let socket = self.ask(&Request::Run(Box::new(request)), &fds)?;
        drop(closing);
        // The worker starts without looking at the store, so what is wrong with that shows here.
        let explained = |error| if overlay_failed(&error) { refusal_or(error, &self.program, &self.config) } else { error };
        let done = relay::run(&socket, pipes, output, cancel).map_err(explained)?;
        self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        Ok(done)
    }

    /// The sockets of steps that are over and whose mounts are not gone yet, for the next step to wait for: what one of them wrote to may lie
    /// below it, and must not be an upper directory then.
    fn still_closing(&self) -> io::Result<Vec<OwnedFd>> {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fds: Vec<_> = closing.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let is_quiet = fds.is_empty() || poll(&mut fds, Some(&Timespec::default()))? == 0;
        // Nothing more comes from them but their end.
        let ended: Vec<bool> = fds.iter().map(|fd| !is_quiet && !fd.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        closing.retain(|_| !ended.next().unwrap_or_default());
        closing.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// Waits until they are gone.
    fn await_closing(&self) {
        // Held meanwhile: others that start now wait for the same ones.
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        for mut socket in closing.drain(..) {
            drop(io::copy(&mut socket, &mut io::sink()));
        }
    }

    /// Unpacks a blob into a fresh directory of the store's `tmp/`.
    pub fn unpack(&self, blob: &File, dest: &Path) -> Result<Digested, SandboxError> {
        let socket = self.ask(&Request::Unpack(dest.to_owned()), &[blob.as_fd()])?;
        match next_reply(&socket)? {
            (Reply::Unpacked(diff_id, implied), index) => {
                let index = Index::from_bytes(index).map_err(|error| SandboxError::Other(error.to_string()))?;
                Ok(Digested { index, implied, diff_id })
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Gives directories of an unpacked layer what the index at a path says of them.
    pub fn settle(&self, index: PathBuf, paths: Vec<Vec<u8>>, dest: &Path) -> Result<(), SandboxError> {
        let socket = self.ask(&Request::Settle(index, paths, dest.to_owned()), &[])?;
        match next_reply(&socket)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Writes a layer in another form, until it is not wanted any more; `is_unwanted` is asked now and then.
    pub fn write_unless(
        &self,
        request: WriteLayer,
        out: Option<&File>,
        packed: Option<&File>,
        is_unwanted: &dyn Fn() -> bool,
    ) -> Result<Option<PackNumbers>, SandboxError> {
        let fds: Vec<BorrowedFd<'_>> = out.into_iter().chain(packed).map(AsFd::as_fd).collect();
        let niceness = rustix::process::getpriority_process(None).unwrap_or_default();
        let socket = self.ask(&Request::Write(Box::new(request), niceness), &fds)?;
        // Who writes in vain ends with the worker.
        while !relay::is_answered(&socket).map_err(|e| SandboxError::call("wait for the worker", e))? {
            if is_unwanted() {
                return Err(SandboxError::Gone("unheard"));
            }
        }
        match next_reply(&socket)? {
            (Reply::Written(numbers), _) => Ok(numbers),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Writes a layer in another form. `out` takes a packed form, `packed` is the source of [`From::Packed`].
    pub fn write(&self, request: WriteLayer, out: Option<&File>, packed: Option<&File>) -> Result<Option<PackNumbers>, SandboxError> {
        self.write_unless(request, out, packed, &|| false)
    }

    /// Makes one layer of several, bottom first, in a fresh directory of the store's `tmp/`; returns the encoded index.
    pub fn merge(&self, lowers: Vec<LowerLayer>, dest: &Path) -> Result<Vec<u8>, SandboxError> {
        // One of them may be what the step before has just made.
        self.await_closing();
        let socket = self.ask(&Request::Merge(lowers, dest.to_owned()), &[])?;
        match next_reply(&socket)? {
            (Reply::Merged, index) => Ok(index),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Reads whole contents by path.
    pub fn read(&self, from: From, paths: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, SandboxError> {
        let socket = self.ask(&Request::Read(Box::new(from), paths.to_vec()), &[])?;
        match next_reply(&socket)? {
            (Reply::Contents(read), _) => Ok(read),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Deletes trees, whoever owns what is in them.
    pub fn remove(&self, paths: &[PathBuf]) -> Result<(), SandboxError> {
        let socket = self.ask(&Request::Remove(paths.to_vec()), &[])?;
        match next_reply(&socket)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Compares unpacked forms with their indexes: directory and index file. Says the first difference of each.
    pub fn compare(&self, forms: &[(PathBuf, PathBuf)]) -> Result<Vec<Option<String>>, SandboxError> {
        let socket = self.ask(&Request::Compare(forms.to_vec()), &[])?;
        match next_reply(&socket)? {
            (Reply::Compared(found), _) => Ok(found),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Says how many bytes trees take, whoever owns what is in them.
    pub fn measure(&self, paths: &[PathBuf]) -> Result<Vec<Option<u64>>, SandboxError> {
        let socket = self.ask(&Request::Measure(paths.to_vec()), &[])?;
        match next_reply(&socket)? {
            (Reply::Measured(sizes), _) => Ok(sizes),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Hands a request over, with a socket of its own.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<UnixStream, SandboxError> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| SandboxError::call("make a socket pair", e))?;
        let gone = |_: io::Error| SandboxError::Gone("before it took a request");
        send_with_fds(self.control.as_fd(), b"r", &[theirs.as_fd()]).map_err(gone)?;
        drop(theirs);
        send_with_fds(ours.as_fd(), b"f", fds).map_err(gone)?;
        // What cannot be put into words is not the worker's fault.
        protocol::write_frame(&ours, request, &[]).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => gone(error),
            _ => SandboxError::call("ask the worker", error),
        })?;
        Ok(ours)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when it can read no more requests.
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        birth::await_end(self.pid);
    }
}

/// Why a worker did not start, before it is known what that means.
#[derive(Debug)]
enum StartError {
    /// There is no map of ids.
    Ids(IdsError),
    /// We are root of a namespace with a single user.
    SingleId,
    /// A call of its start failed.
    Refused(Failure, Deed),
    /// Anything else.
    Other(SandboxError),
}

impl std::convert::From<IdsError> for StartError {
    fn from(error: IdsError) -> Self {
        Self::Ids(error)
    }
}

impl std::convert::From<SandboxError> for StartError {
    fn from(error: SandboxError) -> Self {
        Self::Other(error)
    }
}

/// Says what it means that a worker did not start, by trying out everything that it needs.
fn explain(error: StartError, program: &Path, config: &WorkerConfig) -> SandboxError {
    let plain = match error {
        StartError::Other(error) => return error,
        StartError::Refused(failure, _) => failure.into(),
        StartError::Ids(error) => SandboxError::Other(error.to_string()),
        StartError::SingleId => SandboxError::Other("the user namespace that shale runs in maps a single id".to_owned()),
    };
    refusal_or(plain, program, config)
}

/// The refusal that a probe finds, else the error as it is.
fn refusal_or(error: SandboxError, program: &Path, config: &WorkerConfig) -> SandboxError {
    match probe_with(program, config) {
        Ok(Report { refusal: Some(refusal), .. }) => SandboxError::Refused(Box::new(refusal)),
        _ => error,
    }
}

fn next_reply(socket: &UnixStream) -> Result<(Reply, Vec<u8>), SandboxError> {
    match protocol::read_frame(socket) {
        Ok((Reply::Failed(failure), _)) => Err(failure.into()),
        Ok(reply) => Ok(reply),
        Err(_) => Err(SandboxError::Gone("while it served a request")),
    }
}

fn unexpected(reply: Reply) -> SandboxError {
    SandboxError::Other(format!("the worker gave an answer to another question: {reply:?}"))
}
