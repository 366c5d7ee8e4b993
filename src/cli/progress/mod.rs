//! How a build is shown: one thread owns the screen, everybody else sends it events.
//!
//! `board` keeps what is known about every task; `plain`, `tty` and nothing at all (quiet) are views of it.

mod board;
mod plain;
mod raw;
mod tty;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::plan::graph::Warning;
use crate::solve::event::{Event, Reporter, TaskId};
use crate::span::SourceFile;

use super::diagnostic::Diagnostic;
use super::request::ProgressMode;
use board::Board;
pub use board::LogLine;
pub(super) use raw::warning_json;

/// Events that may wait for the screen. A terminal that is stopped stops the build's output, as it would any program's.
const QUEUE_LIMIT: usize = 1024;
/// The pause after a picture.
const REST: Duration = Duration::from_millis(4);
/// So many events since the last one, and there is none: a command that writes a lot would fill the queue.
const BUSY: usize = 64;

/// What the display learnt and the end of a build needs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Tasks that failed, in the order of their failure.
    pub failed: Vec<FailedStep>,
    /// Lint warnings by file.
    pub warnings: Vec<(SourceFile, Vec<Warning>)>,
}

/// A task that failed, with the end of its output.
#[derive(Clone, Debug)]
pub struct FailedStep {
    /// Its display name.
    pub name: String,
    /// Its last lines.
    pub tail: Vec<LogLine>,
}

/// Where the display writes.
pub struct Screen {
    /// Takes the bytes; an error silences the display.
    pub writer: Box<dyn Write + Send>,
    /// Columns and rows of the terminal, asked anew for every picture.
    pub size: Box<dyn Fn() -> (usize, usize) + Send>,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

impl Screen {
    /// Standard error.
    pub fn stderr() -> Self {
        let size = || match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
            _ => (80, 24),
        };
        Self { writer: Box::new(std::io::stderr()), size: Box::new(size) }
    }
}

enum Message {
    Event(Event, Duration),
    Finish,
}

/// The reporter of the command line. [`Display::finish`] ends it; dropping it ends it too.
#[derive(Debug)]
pub struct Display {
    sender: SyncSender<Message>,
    thread: Mutex<Option<JoinHandle<Summary>>>,
    tasks: AtomicUsize,
    start: Instant,
}

impl Display {
    /// Starts the display. `opening` is the text of line `#0` in plain mode.
    pub fn start(mode: ProgressMode, colour: bool, opening: &str, screen: Screen) -> Self {
        let (sender, receiver) = sync_channel(QUEUE_LIMIT);
        let start = Instant::now();
        let view = match mode {
            ProgressMode::Plain => View::Plain(plain::Plain::new(opening)),
            ProgressMode::Tty => View::Tty(tty::Tty::new(colour)),
            ProgressMode::RawJson => View::Raw(raw::Raw::new()),
            ProgressMode::Quiet => View::Quiet,
        };
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || show(&receiver, view, screen, start));
        let thread = thread.unwrap_or_else(|error| {
            // Nothing has begun that would have to be ended.
            super::console::say(&Diagnostic::no_thread(&error).render());
            std::process::exit(1)
        });
        Self { sender, thread: Mutex::new(Some(thread)), tasks: AtomicUsize::new(0), start }
    }

    /// Draws the last picture and returns what was learnt. Later events go nowhere, a second call returns nothing.
    pub fn finish(&self) -> Summary {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Summary::default() };
        // Fails only if the thread is gone, and then `join` says so.
        drop(self.sender.send(Message::Finish));
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Reporter for Display {
    fn report(&self, event: Event) {
        // After `finish` nobody listens, and nothing is to be said any more.
        drop(self.sender.send(Message::Event(event, self.start.elapsed())));
    }

    fn new_task(&self) -> TaskId {
        TaskId(self.tasks.fetch_add(1, Ordering::Relaxed))
    }
}

enum View {
    Plain(plain::Plain),
    Tty(tty::Tty),
    Raw(raw::Raw),
    Quiet,
}

/// The next message. `shown` counts those since the last rest: whoever sends one to a thread that rests needs not wake it, which takes
/// longer than everything else that is done for an event.
fn next(receiver: &Receiver<Message>, wait: Option<Duration>, shown: &mut usize) -> Result<Message, RecvTimeoutError> {
    let mut message = receiver.try_recv();
    if matches!(message, Err(TryRecvError::Empty)) && (1..BUSY).contains(shown) {
        // Ended early by `finish`.
        std::thread::park_timeout(REST);
        *shown = 0;
        message = receiver.try_recv();
    }
    let message = match message {
        Err(TryRecvError::Empty) => {
            *shown = 0;
            wait.map_or_else(|| receiver.recv().map_err(Into::into), |wait| receiver.recv_timeout(wait))
        }
        message => message.map_err(|_| RecvTimeoutError::Disconnected),
    };
    *shown += 1;
    message
}

/// The display's thread.
fn show(receiver: &Receiver<Message>, mut view: View, mut screen: Screen, start: Instant) -> Summary {
    let (mut board, mut shown) = (Board::default(), 0);
    if let View::Plain(plain) = &mut view {
        plain.open(&mut screen.writer);
    }
    loop {
        let wait = match &view {
            View::Plain(plain) => plain.next_look(),
            View::Tty(tty) => Some(tty.next_look(start.elapsed())),
            View::Raw(_) | View::Quiet => None,
        };
        let message = next(receiver, wait, &mut shown);
        let now = start.elapsed();
        match message {
            Ok(Message::Event(event, at)) => {
                if let View::Raw(raw) = &mut view {
                    raw.take(&event, at, &mut screen.writer);
                }
                let changes = board.apply(event, at);
                match &mut view {
                    View::Plain(plain) => plain.take(&board, changes, now, &mut screen.writer),
                    View::Tty(tty) => tty.take(&board, now, &mut screen),
                    View::Raw(_) | View::Quiet => {}
                }
            }
            Err(RecvTimeoutError::Timeout) => match &mut view {
                View::Plain(plain) => plain.look(&board, now, &mut screen.writer),
                View::Tty(tty) => tty.take(&board, now, &mut screen),
                View::Raw(_) | View::Quiet => {}
            },
            Ok(Message::Finish) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match &mut view {
        View::Plain(plain) => plain.close(&board, &mut screen.writer),
        View::Tty(tty) => tty.close(&board, start.elapsed(), &mut screen),
        View::Raw(_) | View::Quiet => {}
    }
    board.into_summary()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::event::Stream;
    use std::sync::Arc;

    /// A writer whose bytes the test can read.
    #[derive(Clone, Default)]
    pub(super) struct Paper(pub(super) Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn build(mode: ProgressMode) -> (String, Summary) {
        let paper = Paper::default();
        let display =
            Display::start(mode, false, "building with shale", Screen { writer: Box::new(paper.clone()), size: Box::new(|| (60, 20)) });
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let task = display.new_task();
                    display.report(Event::Started { task, name: format!("task {}", task.0) });
                    display.report(Event::Output { task, stream: Stream::Stdout, bytes: b"one\ntwo".to_vec() });
                    match task.0 {
                        0 => display.report(Event::Done { task, elapsed: Duration::from_millis(400) }),
                        _ => display.report(Event::Failed { task, error: "no".into() }),
                    }
                });
            }
        });
        let summary = display.finish();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        (text, summary)
    }

    #[test]
    fn many_threads_share_one_display() {
        let (text, summary) = build(ProgressMode::Plain);
        assert!(text.starts_with("#0 building with shale\n\n#1 task "), "{text}");
        assert!(text.contains("DONE 0.4s\n") && text.contains("ERROR: no\n"), "{text}");
        assert_eq!(summary.failed.len(), 1);
        assert_eq!(summary.failed[0].tail.iter().map(|l| l.bytes.as_slice()).collect::<Vec<_>>(), [b"one", b"two"]);
    }

    #[test]
    fn quiet_prints_nothing_and_learns_the_same() {
        let (text, summary) = build(ProgressMode::Quiet);
        assert_eq!((text.as_str(), summary.failed.len()), ("", 1));
    }

    #[test]
    fn the_live_view_ends_with_everything_on_screen() {
        let (text, _) = build(ProgressMode::Tty);
        let last = text.trim_end_matches("\x1b[J").rsplit("\x1b[J").next().unwrap();
        for part in ["[+] Building ", "(1/2) FINISHED", " => task 0", " => ERROR task 1"] {
            assert!(last.contains(part), "{part:?} is not in {last:?}");
        }
    }
}
