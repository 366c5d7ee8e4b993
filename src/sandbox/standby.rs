//! The process of a step before there is a step: it stands in namespaces of its own, with all that steps have in common mounted.
//!
//! It shares the memory of its handler and takes turns with it ([`Companion`]): in its first turn it makes ready, in its second it
//! becomes the command. A handler that is ahead of its request has the first behind it when that comes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

use super::child::{self, Prepared, Word};
use super::spec::RunRequest;
use super::sys::{Companion, Turns};
use super::{Deed, Failure};
use crate::plan::graph::NetworkMode;

/// What has to be known of a step when its process is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kind {
    /// A network namespace with nothing but a loopback interface.
    pub(super) own_network: bool,
    /// As in [`RunRequest`].
    pub(super) insecure: bool,
    /// As in [`RunRequest`].
    pub(super) shm_size_bytes: Option<u64>,
    /// The machine's files, of which it is to mount some.
    pub(super) needs_machine: bool,
}

impl Kind {
    pub(super) fn of(request: &RunRequest) -> Self {
        Self {
            own_network: request.network == NetworkMode::None,
            insecure: request.insecure,
            shm_size_bytes: request.shm_size_bytes,
            needs_machine: !request.mounts.is_empty(),
        }
    }
}

/// What the process is to become.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) request: Arc<RunRequest>,
    pub(super) prepared: Prepared,
}

/// What both sides look into, each in its turn.
#[derive(Debug, Default)]
struct Shared {
    order: OnceLock<Order>,
    said: Mutex<Vec<Word>>,
}

/// The process, ready for its step.
#[derive(Debug)]
pub(crate) struct Standby {
    kind: Kind,
    companion: Companion,
    shared: Arc<Shared>,
    mounts: Option<Held>,
}

/// Keeps the mounts of a step, which are taken down by whoever lets go of them last: it takes two grace periods of the kernel and ends ten
/// file systems. So the end of a command is known before, and what it left can be looked at meanwhile.
#[derive(Debug)]
pub(crate) struct Held(#[expect(dead_code, reason = "it only has to be open")] OwnedFd);

/// The process, become the command, or not: then that was its last word.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) words: Vec<Word>,
    pub(super) mounts: Option<Held>,
}

impl Standby {
    /// Makes the process and has it make ready.
    pub(crate) fn start(kind: Kind) -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let companion = Companion::start(child::namespaces(kind), Box::new(move |turns| stand_by(kind, turns, &theirs)));
        let companion = companion.deed("start a process in new namespaces")?;
        if let Some(mut fds) = companion.turn(&[]).deed("begin with a new process")? {
            return Ok(Self { kind, companion, shared, mounts: fds.pop().map(Held) });
        }
        let failed = shared.take_words().into_iter().find_map(|word| match word {
            Word::Failed(failure) => Some(failure),
            Word::Made(_) => None,
        });
        Err(failed.unwrap_or_else(|| Failure::Other("the process of a step ended while it was made ready".to_owned())))
    }

    /// Whether it can become a step of that kind, and nobody has ended it while it waited.
    pub(super) fn is_for(&self, kind: Kind) -> bool {
        let mut fds = [PollFd::new(&self.companion.pidfd, PollFlags::IN)];
        self.kind == kind && poll(&mut fds, Some(&Timespec::default())) == Ok(0)
    }

    /// Has it become the command; returns when it has, or has said why not. `fds` as [`child::become_command`] takes them.
    pub(super) fn begin(self, order: Order, fds: &[OwnedFd]) -> Begun {
        drop(self.shared.order.set(order));
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let words = match self.companion.turn(&fds) {
            Ok(_) => self.shared.take_words(),
            Err(error) => {
                self.companion.dismiss();
                vec![Word::Failed(Failure::call("hand a step to its process", None, error))]
            }
        };
        Begun { pid: self.companion.pid, pidfd: self.companion.pidfd, words, mounts: self.mounts }
    }
}

impl Shared {
    fn say(&self, word: Word) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(word);
    }

    /// None of a process that was killed while it spoke.
    fn take_words(&self) -> Vec<Word> {
        match self.said.try_lock() {
            Ok(mut said) => std::mem::take(&mut *said),
            Err(TryLockError::Poisoned(said)) => std::mem::take(&mut *said.into_inner()),
            Err(TryLockError::WouldBlock) => Vec::new(),
        }
    }
}

/// The process's side. Where it returns the process ends.
fn stand_by(kind: Kind, turns: &Turns, shared: &Shared) {
    let stage = match child::make_ready(kind) {
        Ok(stage) => stage,
        Err(failure) => return shared.say(Word::Failed(failure)),
    };
    // Where it cannot be opened the end of the command takes longer, and nothing else.
    let mounts = File::open("/proc/self/ns/mnt").ok();
    let mounts: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
    let fds = turns.pass(&mounts);
    let Some(order) = shared.order.get() else { return };
    shared.say(Word::Failed(child::become_command(order, &stage, fds, &|word| shared.say(word))));
}
