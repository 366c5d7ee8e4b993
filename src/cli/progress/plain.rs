//! Lines that are never taken back, in BuildKit's format: log parsers exist for it.
//!
//! One task is *current* and its lines come out at once; those of others wait, so that a reader is not thrown back and forth. A
//! finished task is printed whole. A task that has waited long, or whose rival is silent, becomes current.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use crate::solve::event::TaskId;

use super::board::{Board, Changes};

/// How long the current task may be silent while others have something to say.
const SILENCE: Duration = Duration::from_secs(5);
/// How long anything waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a task that has only begun waits for its first line: most are over by then and are printed in one piece.
const GRACE: Duration = Duration::from_millis(100);
/// How often waiting lines are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The plain view.
#[derive(Debug)]
pub(super) struct Plain {
    opening: String,
    numbers: BTreeMap<TaskId, usize>,
    current: Option<TaskId>,
    /// When the current task last said something.
    spoke: Duration,
    /// What is not printed yet, in the order in which tasks began to wait.
    waiting: Vec<Waiting>,
    silenced: bool,
}

#[derive(Debug)]
struct Waiting {
    task: TaskId,
    since: Duration,
    lines: Vec<Vec<u8>>,
}

impl Plain {
    pub(super) fn new(opening: &str) -> Self {
        Self { opening: opening.into(), numbers: BTreeMap::new(), current: None, spoke: Duration::ZERO, waiting: vec![], silenced: false }
    }

    pub(super) fn open(&mut self, out: &mut dyn Write) {
        if !self.opening.is_empty() {
            self.write(out, format!("#0 {}\n", self.opening).as_bytes());
        }
    }

    /// How long the view can sleep if nothing happens.
    pub(super) fn next_look(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(LOOK_EVERY)
    }

    /// Takes what an event changed.
    pub(super) fn take(&mut self, board: &Board, changes: Option<Changes>, now: Duration, out: &mut dyn Write) {
        let Some(Changes { task, lines }) = changes else { return };
        match self.waiting.iter_mut().find(|waiting| waiting.task == task) {
            Some(waiting) => waiting.lines.extend(lines),
            None if lines.is_empty() && self.current == Some(task) => {}
            None => self.waiting.push(Waiting { task, since: now, lines }),
        }
        self.look(board, now, out);
    }

    /// Prints what is due.
    pub(super) fn look(&mut self, board: &Board, now: Duration, out: &mut dyn Write) {
        if let Some(current) = self.current {
            self.print(board, current, now, out);
        }
        let finished = |task| board.task(task).is_none_or(|task| !task.is_running());
        while let Some(task) = self.waiting.iter().map(|waiting| waiting.task).find(|task| finished(*task)) {
            self.print(board, task, now, out);
        }
        let Some(first) = self.waiting.first() else { return };
        let due = match self.current {
            None => self.waiting.iter().find(|w| !w.lines.is_empty() || now.saturating_sub(w.since) >= GRACE).map(|w| w.task),
            Some(_) if now.saturating_sub(first.since) >= PATIENCE => Some(first.task),
            // A task that has only begun has nothing to say yet and can wait for the end of the silence.
            Some(_) if now.saturating_sub(self.spoke) >= SILENCE => self.waiting.iter().find(|w| !w.lines.is_empty()).map(|w| w.task),
            Some(_) => None,
        };
        if let Some(task) = due {
            self.print(board, task, now, out);
        }
    }

    /// Prints everything that still waits.
    pub(super) fn close(&mut self, board: &Board, out: &mut dyn Write) {
        while let Some(task) = self.waiting.first().map(|waiting| waiting.task) {
            self.print(board, task, Duration::MAX, out);
        }
    }

    fn print(&mut self, board: &Board, id: TaskId, now: Duration, out: &mut dyn Write) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.task == id) else { return };
        let Waiting { lines, .. } = self.waiting.remove(place);
        let Some(task) = board.task(id) else { return };
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(id).or_insert(next);
        let mut text = Vec::new();
        if self.current != Some(id) {
            if let Some(old) = self.current.and_then(|old| self.numbers.get(&old)) {
                text.extend_from_slice(format!("#{old} ...\n").as_bytes());
            }
            text.extend_from_slice(format!("\n#{number} {}\n", task.name).as_bytes());
        }
        for line in lines {
            text.extend_from_slice(format!("#{number} ").as_bytes());
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        self.write(out, &text);
        self.current = task.is_running().then_some(id);
        self.spoke = now;
    }

    /// Nobody can be told that standard error is closed; the build goes on without it.
    fn write(&mut self, out: &mut dyn Write, bytes: &[u8]) {
        if !self.silenced {
            self.silenced = out.write_all(bytes).and_then(|()| out.flush()).is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solve::event::{Event, Stream};

    /// Feeds (milliseconds, event) pairs and returns what was printed.
    fn shown(events: &[(u64, Event)]) -> String {
        let (mut board, mut plain, mut out) = (Board::default(), Plain::new("building with shale"), Vec::new());
        plain.open(&mut out);
        for (at, event) in events {
            let at = Duration::from_millis(*at);
            let changes = board.apply(event.clone(), at);
            plain.take(&board, changes, at, &mut out);
        }
        plain.close(&board, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn start(task: usize, name: &str) -> Event {
        Event::Started { task: TaskId(task), name: name.into() }
    }
    fn say(task: usize, text: &str) -> Event {
        Event::Output { task: TaskId(task), stream: Stream::Stdout, bytes: text.as_bytes().to_vec() }
    }
    fn done(task: usize, ms: u64) -> Event {
        Event::Done { task: TaskId(task), elapsed: Duration::from_millis(ms) }
    }

    #[test]
    fn a_build_reads_like_buildkit_s() {
        let text = shown(&[
            (0, start(0, "[internal] load build definition from Dockerfile")),
            (1, Event::Note { task: TaskId(0), text: "transferring dockerfile: 32B".into() }),
            (10, done(0, 10)),
            (11, start(1, "[1/3] FROM docker.io/library/alpine")),
            (12, Event::Cached { task: TaskId(1) }),
            (13, start(2, "[2/3] RUN true")),
            (136, say(2, "hello\n")),
            (400, done(2, 387)),
            (401, start(3, "[3/3] RUN false")),
            (
                500,
                Event::Failed { task: TaskId(3), error: "process \"/bin/sh -c false\" did not complete successfully: exit code: 1".into() },
            ),
            (501, start(4, "[other 1/1] RUN sleep")),
            (502, Event::Canceled { task: TaskId(4) }),
        ]);
        insta::assert_snapshot!(text, @r#"
        #0 building with shale

        #1 [internal] load build definition from Dockerfile
        #1 transferring dockerfile: 32B
        #1 DONE 0.0s

        #2 [1/3] FROM docker.io/library/alpine
        #2 CACHED

        #3 [2/3] RUN true
        #3 0.123 hello
        #3 DONE 0.4s

        #4 [3/3] RUN false
        #4 ERROR: process "/bin/sh -c false" did not complete successfully: exit code: 1

        #5 [other 1/1] RUN sleep
        #5 CANCELED
        "#);
    }

    #[test]
    fn what_is_over_at_once_is_printed_in_one_piece() {
        let cached = |task| Event::Cached { task: TaskId(task) };
        let text = shown(&[(0, start(0, "a")), (1, start(1, "b")), (2, cached(1)), (3, cached(0)), (4, start(2, "c"))]);
        assert_eq!(text, "#0 building with shale\n\n#1 b\n#1 CACHED\n\n#2 a\n#2 CACHED\n\n#3 c\n");
    }

    #[test]
    fn the_current_task_is_left_only_for_one_that_ended() {
        let text = shown(&[
            (0, start(0, "a")),
            (0, start(1, "b")),
            (100, say(0, "a1\n")),
            (200, say(1, "b1\n")),
            (300, say(0, "a2\n")),
            (400, done(1, 400)),
            (500, say(0, "a3\n")),
            (600, done(0, 600)),
        ]);
        insta::assert_snapshot!(text, @r"
        #0 building with shale

        #1 a
        #1 0.100 a1
        #1 0.300 a2
        #1 ...

        #2 b
        #2 0.200 b1
        #2 DONE 0.4s

        #1 a
        #1 0.500 a3
        #1 DONE 0.6s
        ");
    }

    #[test]
    fn a_silent_task_makes_room_and_a_loud_one_in_the_end_too() {
        let text = shown(&[(0, start(0, "a")), (0, start(1, "b")), (1000, say(1, "b1\n")), (5000, say(1, "b2\n"))]);
        assert!(text.contains("#1 ...\n\n#2 b\n#2 1.000 b1\n#2 5.000 b2\n"), "{text}");
        let loud: Vec<_> = [(0, start(0, "a")), (0, start(1, "b"))].into_iter().chain((0..12).map(|s| (s * 1000, say(0, "x\n")))).collect();
        assert!(shown(&loud).contains("#1 10.00 x\n#1 ...\n\n#2 b\n"), "{}", shown(&loud));
    }

    #[test]
    fn a_closed_stderr_does_not_stop_the_build() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut plain = Plain::new("x");
        plain.open(&mut Closed);
        assert!(plain.silenced);
    }
}
