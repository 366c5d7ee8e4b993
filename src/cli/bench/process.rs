//! The programs that a benchmark runs, one after the other: a signal reaches the one that runs and keeps others from being started, and what
//! a build leaves behind ends before the next one is measured.

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
/// Nor for longer than this by a benchmark that is to stop.
const HURRY: Duration = Duration::from_millis(200);
/// So many signals, and what runs is killed: it had two chances.
const FINAL: usize = 3;

static STATE: Mutex<State> = Mutex::new(State { caught: None, count: 0, running: None, is_tidying: false });

struct State {
    /// The first signal that came; only that one names the exit code.
    caught: Option<i32>,
    /// How many came.
    count: usize,
    /// The process group that runs.
    running: Option<Pid>,
    /// What runs now clears away, which a first signal asks for anyway.
    is_tidying: bool,
}

impl State {
    fn with<T>(change: impl FnOnce(&mut Self) -> T) -> T {
        change(&mut STATE.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&mut self, signal: i32) {
        self.caught.get_or_insert(signal);
        self.count += 1;
        let signal = if self.count >= FINAL { Some(Signal::KILL) } else { Signal::from_named_raw(signal) };
        if let (Some(group), Some(signal)) = (self.running, signal)
            && (self.count > 1 || !self.is_tidying)
        {
            // One that has ended already is what is wanted.
            kill_process_group(group, signal).ok();
        }
    }
}

/// From now on signals go to what runs, and orphans of what ran come to this process.
pub(super) fn watch() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let mut signals = Signals::new(heeded())?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            State::with(|state| state.take(signal));
        }
    })?;
    Ok(())
}

/// The first signal that came.
pub(super) fn caught() -> Option<i32> {
    State::with(|state| state.caught)
}

/// What runs from now on clears away, and is run whatever came.
pub(super) fn tidy() {
    State::with(|state| state.is_tidying = true);
}

/// Runs a program in a process group of its own: a terminal's signals come by way of this process, so that it hears of each once. After a
/// signal nothing is started.
pub(super) fn run<T>(command: &mut Command, wait: impl FnOnce(Child) -> io::Result<T>) -> io::Result<T> {
    // Started under the lock: no signal falls between the look and the note.
    let child = State::with(|state| {
        if state.caught.is_some() && !state.is_tidying {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "canceled"));
        }
        let child = command.process_group(0).spawn()?;
        state.running = Pid::from_raw(child.id().cast_signed());
        Ok(child)
    })?;
    let ended = wait(child);
    State::with(|state| state.running = None);
    ended
}

/// Waits until no process of shale's is left that a build or another command leaves behind: it writes the disk back, which the next build
/// would pay for. Returns how long that took.
pub(super) fn await_afterwork() -> Duration {
    let start = Instant::now();
    while start.elapsed() < caught().map_or(PATIENCE, |_| HURRY) {
        let left = children()
            .into_iter()
            .filter(|pid| fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| is_afterwork(&line)));
        // One that has ended has no command line any more. Those of others are not waited for.
        if left.count() == 0 {
            break;
        }
        thread::sleep(PAUSE);
    }
    let took = start.elapsed();
    for pid in children() {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
    took
}

/// The children of this process, those that came to it included.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok);
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let pids = tasks.map(of_task).collect::<String>();
    pids.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
