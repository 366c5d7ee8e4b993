//! What is known about every task of a build, whatever shows it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cli::human;
use crate::plan::graph::Warning;
use crate::solve::event::{Event, Stream, TaskId};
use crate::span::SourceFile;

use super::{FailedStep, Summary};

/// Lines of output that are kept for the block about a failed step.
pub(super) const TAIL_LINES: usize = 20;
/// A line without an end is cut here.
const LINE_LIMIT_BYTES: usize = 64 * 1024;
/// A moving figure is told again after this long …
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// … or after this part of the whole.
const PROGRESS_STEPS: u64 = 10;

/// One line of a task's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it began, since the task began.
    pub at: Duration,
    /// Its bytes without the line end.
    pub bytes: Vec<u8>,
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Cached,
    Done(Duration),
    Failed(String),
    Canceled,
}

/// A figure that moves: a download, an export.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) what: String,
    pub(super) current_bytes: u64,
    pub(super) total_bytes: Option<u64>,
    pub(super) since: Duration,
    told_at: Duration,
    told_bytes: u64,
    finished: bool,
}

impl Moving {
    /// `sha256:abc 1.05MB / 3.42MB 0.2s`
    pub(super) fn text(&self, at: Duration) -> String {
        let total = self.total_bytes.map(|total| format!(" / {}", human::bytes(total))).unwrap_or_default();
        let elapsed = human::seconds(at.saturating_sub(self.since));
        let done = if self.finished { " done" } else { "" };
        format!("{} {}{total} {elapsed}{done}", self.what, human::bytes(self.current_bytes))
    }

    /// Whether the figure has moved enough to be told again.
    fn is_news(&self, at: Duration) -> bool {
        let step =
            self.total_bytes.is_some_and(|total| (self.current_bytes - self.told_bytes.min(self.current_bytes)) * PROGRESS_STEPS >= total);
        step || at.saturating_sub(self.told_at) >= PROGRESS_EVERY
    }
}

/// One task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) started: Duration,
    pub(super) notes: Vec<String>,
    pub(super) moving: Vec<Moving>,
    pub(super) tail: VecDeque<LogLine>,
    unfinished: [Option<LogLine>; 2],
}

impl Task {
    fn new(name: String, started: Duration) -> Self {
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { name, state: State::Running, started, notes: vec![], moving: vec![], tail: VecDeque::new(), unfinished: [None, None] }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }
}

/// What an event changed, as lines of text about one task.
#[derive(Clone, Debug)]
pub(super) struct Changes {
    pub(super) task: TaskId,
    pub(super) lines: Vec<Vec<u8>>,
}

/// All tasks.
#[derive(Debug, Default)]
pub(super) struct Board {
    tasks: BTreeMap<TaskId, Task>,
    /// Tasks in the order in which they started.
    order: Vec<TaskId>,
    failed: Vec<TaskId>,
    warnings: Vec<(SourceFile, Vec<Warning>)>,
}

impl Board {
    pub(super) fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        self.order.iter().filter_map(|id| Some((*id, self.tasks.get(id)?)))
    }

    /// Takes an event that was sent at `at` (since the display's start).
    pub(super) fn apply(&mut self, event: Event, at: Duration) -> Option<Changes> {
        let (id, lines) = match event {
            Event::Started { task, name } => {
                if self.tasks.insert(task, Task::new(name, at)).is_none() {
                    self.order.push(task);
                }
                (task, vec![])
            }
            Event::Warnings { source, warnings } => {
                self.warnings.push((source, warnings));
                return None;
            }
            Event::Output { task, stream, bytes } => (task, output(self.known(task, at), stream, &bytes, at)),
            Event::Note { task, text } => {
                let lines = text.lines().map(|line| line.as_bytes().to_vec()).collect();
                self.known(task, at).notes.push(text);
                (task, lines)
            }
            Event::Progress { task, what, current_bytes, total_bytes } => {
                (task, progress(self.known(task, at), what, current_bytes, total_bytes, at).into_iter().collect())
            }
            Event::Cached { task } => (task, end(self.known(task, at), State::Cached, at)),
            Event::Done { task, elapsed } => (task, end(self.known(task, at), State::Done(elapsed), at)),
            Event::Canceled { task } => (task, end(self.known(task, at), State::Canceled, at)),
            Event::Failed { task, error } => {
                let error = error.lines().collect::<Vec<_>>().join(" ");
                self.failed.push(task);
                (task, end(self.known(task, at), State::Failed(error), at))
            }
        };
        Some(Changes { task: id, lines })
    }

    /// The task, made up if its start was never reported: what is said about it is shown all the same.
    fn known(&mut self, id: TaskId, at: Duration) -> &mut Task {
        self.tasks.entry(id).or_insert_with(|| {
            self.order.push(id);
            Task::new(format!("task {}", id.0), at)
        })
    }

    pub(super) fn into_summary(self) -> Summary {
        let step =
            |id: &TaskId| self.tasks.get(id).map(|task| FailedStep { name: task.name.clone(), tail: task.tail.iter().cloned().collect() });
        Summary { failed: self.failed.iter().filter_map(step).collect(), warnings: self.warnings }
    }
}

/// Cuts raw output into lines; a line that is not ended waits for its rest.
fn output(task: &mut Task, stream: Stream, bytes: &[u8], at: Duration) -> Vec<Vec<u8>> {
    let at = at.saturating_sub(task.started);
    let slot = match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    };
    let mut lines = Vec::new();
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        let mut line = task.unfinished[slot].take().unwrap_or_else(|| LogLine { at, bytes: vec![] });
        line.bytes.extend_from_slice(piece);
        if piece.ends_with(b"\n") || line.bytes.len() >= LINE_LIMIT_BYTES {
            lines.push(finish_line(task, line));
        } else {
            task.unfinished[slot] = Some(line);
        }
    }
    lines
}

fn finish_line(task: &mut Task, mut line: LogLine) -> Vec<u8> {
    while line.bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.bytes.pop();
    }
    let mut text = human::offset(line.at).into_bytes();
    text.push(b' ');
    text.extend_from_slice(&line.bytes);
    if task.tail.len() == TAIL_LINES {
        task.tail.pop_front();
    }
    task.tail.push_back(line);
    text
}

fn progress(task: &mut Task, what: String, current_bytes: u64, total_bytes: Option<u64>, at: Duration) -> Option<Vec<u8>> {
    let index = task.moving.iter().position(|moving| moving.what == what);
    let is_new = index.is_none();
    let index = index.unwrap_or_else(|| {
        task.moving.push(Moving { what, current_bytes, total_bytes, since: at, told_at: at, told_bytes: 0, finished: false });
        task.moving.len() - 1
    });
    let moving = &mut task.moving[index];
    moving.current_bytes = current_bytes;
    moving.total_bytes = total_bytes.or(moving.total_bytes);
    let was_finished = std::mem::replace(&mut moving.finished, moving.total_bytes.is_some_and(|total| current_bytes >= total));
    let tell = is_new || (moving.finished && !was_finished) || (!moving.finished && moving.is_news(at));
    tell.then(|| {
        moving.told_at = at;
        moving.told_bytes = current_bytes;
        moving.text(at).into_bytes()
    })
}

/// Ends a task: what waits for a line end comes out, then the verdict.
fn end(task: &mut Task, state: State, at: Duration) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for slot in 0..task.unfinished.len() {
        if let Some(line) = task.unfinished[slot].take() {
            lines.push(finish_line(task, line));
        }
    }
    let went_well = matches!(state, State::Done(_));
    for moving in task.moving.iter_mut().filter(|moving| went_well && !moving.finished) {
        moving.finished = true;
        lines.push(moving.text(at).into_bytes());
    }
    let verdict = match &state {
        State::Running => None,
        State::Cached => Some("CACHED".to_owned()),
        State::Done(elapsed) => Some(format!("DONE {}", human::seconds(*elapsed))),
        State::Failed(error) => Some(format!("ERROR: {error}")),
        State::Canceled => Some("CANCELED".to_owned()),
    };
    lines.extend(verdict.map(String::into_bytes));
    task.state = state;
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId(0);

    fn started() -> Board {
        let mut board = Board::default();
        board.apply(Event::Started { task: TASK, name: "[1/2] RUN <<EOF\n a".into() }, Duration::ZERO);
        board
    }

    fn lines(board: &mut Board, event: Event, at_ms: u64) -> Vec<String> {
        let changes = board.apply(event, Duration::from_millis(at_ms)).expect("about a task");
        changes.lines.into_iter().map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn write(stream: Stream, text: &str) -> Event {
        Event::Output { task: TASK, stream, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn names_are_one_line() {
        assert_eq!(started().task(TASK).unwrap().name, "[1/2] RUN <<EOF a");
    }

    #[test]
    fn output_is_cut_at_line_ends_only() {
        let mut board = started();
        assert_eq!(lines(&mut board, write(Stream::Stdout, "on"), 100), [""; 0]);
        assert_eq!(lines(&mut board, write(Stream::Stderr, "warn\n"), 200), ["0.200 warn"]);
        assert_eq!(lines(&mut board, write(Stream::Stdout, "e\r\ntwo\n\nthr"), 300), ["0.100 one", "0.300 two", "0.300 "]);
        assert_eq!(lines(&mut board, Event::Done { task: TASK, elapsed: Duration::from_millis(440) }, 440), ["0.300 thr", "DONE 0.4s"]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut board = started();
        assert_eq!(lines(&mut board, write(Stream::Stdout, &"x".repeat(LINE_LIMIT_BYTES)), 0).len(), 1);
    }

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut board = started();
        for n in 0..TAIL_LINES + 5 {
            lines(&mut board, write(Stream::Stdout, &format!("{n}\n")), 0);
        }
        board.apply(Event::Failed { task: TASK, error: "a\nb".into() }, Duration::ZERO);
        let summary = board.into_summary();
        assert_eq!(summary.failed[0].tail.len(), TAIL_LINES);
        assert_eq!(summary.failed[0].tail[0].bytes, b"5");
    }

    #[test]
    fn moving_figures_are_told_by_tenths_or_every_five_seconds() {
        let mut board = started();
        let mut at = |ms: u64, current: u64, total: Option<u64>| {
            let event = Event::Progress { task: TASK, what: "sha256:ab".into(), current_bytes: current, total_bytes: total };
            lines(&mut board, event, ms)
        };
        assert_eq!(at(0, 0, Some(1_000_000)), ["sha256:ab 0B / 1.00MB 0.0s"]);
        assert_eq!(at(100, 50_000, Some(1_000_000)), [""; 0]);
        assert_eq!(at(200, 100_000, Some(1_000_000)), ["sha256:ab 100.00kB / 1.00MB 0.2s"]);
        assert_eq!(at(5_100, 150_000, Some(1_000_000)), [""; 0]);
        assert_eq!(at(5_200, 150_000, Some(1_000_000)), ["sha256:ab 150.00kB / 1.00MB 5.2s"]);
        assert_eq!(at(6_000, 1_000_000, Some(1_000_000)), ["sha256:ab 1.00MB / 1.00MB 6.0s done"]);
        assert_eq!(at(20_000, 1_000_000, Some(1_000_000)), [""; 0]);
    }

    #[test]
    fn many_small_reports_make_few_lines() {
        let mut board = started();
        let told: usize = (0..=10_000)
            .map(|n| {
                lines(&mut board, Event::Progress { task: TASK, what: "x".into(), current_bytes: n, total_bytes: Some(10_000) }, n / 10)
                    .len()
            })
            .sum();
        assert!(told <= 12, "{told} lines");
    }

    #[test]
    fn an_event_about_an_unknown_task_is_not_lost() {
        let mut board = Board::default();
        assert_eq!(lines(&mut board, Event::Note { task: TASK, text: "hello".into() }, 0), ["hello"]);
        assert_eq!(board.in_order().count(), 1);
    }
}
