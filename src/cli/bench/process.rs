//! The programs that a benchmark runs, one after the other: a signal reaches the one that runs, and what a build leaves behind ends before
//! the next one is measured.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, waitpid};
use signal_hook::iterator::Signals;

use crate::cli::signals::heeded;
use crate::worker::is_afterwork;

/// How often processes are looked for that a build left behind.
const PAUSE: Duration = Duration::from_millis(2);
/// A disk that takes longer to be written back is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

static INTERRUPT: Mutex<Interrupt> = Mutex::new(Interrupt { caught: None, pending: None, running: None });

struct Interrupt {
    /// The first signal that came.
    caught: Option<i32>,
    /// One that came when nothing ran.
    pending: Option<i32>,
    /// The process group that runs.
    running: Option<Pid>,
}

impl Interrupt {
    fn with<T>(change: impl FnOnce(&mut Self) -> T) -> T {
        change(&mut INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&mut self, signal: i32) {
        self.caught.get_or_insert(signal);
        match self.running {
            Some(group) => send(group, signal),
            None => self.pending = Some(signal),
        }
    }
}

fn send(group: Pid, signal: i32) {
    // One that has ended already is what is wanted.
    let _ = Signal::from_named_raw(signal).map(|signal| kill_process_group(group, signal));
}

/// From now on signals go to what runs, and orphans of what ran come to this process.
pub(super) fn watch() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let mut signals = Signals::new(heeded())?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            Interrupt::with(|interrupt| interrupt.take(signal));
        }
    })?;
    Ok(())
}

/// The first signal that came.
pub(super) fn caught() -> Option<i32> {
    Interrupt::with(|interrupt| interrupt.caught)
}

/// What came so far is not for what runs from now on, which tidies up.
pub(super) fn forget() {
    Interrupt::with(|interrupt| interrupt.pending = None);
}

/// Runs a program in a process group of its own: a terminal's signals come by way of this process, so that it hears of each once.
pub(super) fn run<T>(command: &mut Command, wait: impl FnOnce(Child) -> io::Result<T>) -> io::Result<T> {
    let child = command.process_group(0).spawn()?;
    Interrupt::with(|interrupt| {
        interrupt.running = Pid::from_raw(child.id().cast_signed());
        if let (Some(group), Some(signal)) = (interrupt.running, interrupt.pending.take()) {
            send(group, signal);
        }
    });
    let ended = wait(child);
    Interrupt::with(|interrupt| interrupt.running = None);
    ended
}

/// Waits until no process of shale's is left that a build leaves behind: it writes the disk back, which the next build would pay for.
pub(super) fn await_afterwork() {
    let start = Instant::now();
    while start.elapsed() < PATIENCE && caught().is_none() {
        let left = children()
            .into_iter()
            .filter(|pid| fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| is_afterwork(&line)));
        // One that has ended has no command line any more. Those of others are not waited for.
        if left.count() == 0 {
            break;
        }
        thread::sleep(PAUSE);
    }
    for pid in children() {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// The children of this process, those that came to it included.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok);
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let pids = tasks.map(of_task).collect::<String>();
    pids.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
