//! The live view: a header, finished tasks as one line each, running ones with their last lines; redrawn in place.
//!
//! The cursor is never hidden and no mode of the terminal is changed, so there is nothing to restore if the process is killed.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cli::human;

use super::Screen;
use super::board::{Board, State, Task};

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Lines of output under a running task.
const RUNNING_LINES: usize = 6;

const BLUE: &str = "\x1b[34m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";

/// The live view.
#[derive(Debug)]
pub(super) struct Tty {
    colour: bool,
    drawn_at: Option<Duration>,
    /// Columns of each line of the picture on screen.
    on_screen: Vec<usize>,
}

/// A line of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    text: String,
    colour: Option<&'static str>,
}

impl Tty {
    pub(super) fn new(colour: bool) -> Self {
        Self { colour, drawn_at: None, on_screen: vec![] }
    }

    pub(super) fn next_look(&self, now: Duration) -> Duration {
        self.drawn_at.map_or(Duration::ZERO, |at| (at + FRAME).saturating_sub(now))
    }

    /// Draws if a picture is due.
    pub(super) fn take(&mut self, board: &Board, now: Duration, screen: &mut Screen) {
        if self.next_look(now).is_zero() {
            let (columns, rows) = (screen.size)();
            self.draw(&picture(board, now, columns, Some(rows)), columns, screen);
            self.drawn_at = Some(now);
        }
    }

    /// Draws the last picture, with every task, and leaves the cursor under it.
    pub(super) fn close(&mut self, board: &Board, now: Duration, screen: &mut Screen) {
        let (columns, _) = (screen.size)();
        self.draw(&picture(board, now, columns, None), columns, screen);
    }

    fn draw(&mut self, lines: &[Line], columns: usize, screen: &mut Screen) {
        // A terminal that became narrower has wrapped the old picture: it now takes more rows.
        let rows: usize = self.on_screen.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
        let mut text = String::new();
        if rows > 0 {
            write!(text, "\x1b[{rows}A").expect("a String takes everything");
        }
        text.push('\r');
        // Line by line, and only below the last one to the end: tmux takes what is erased from the top row on for a cleared screen, and
        // keeps a copy of each picture.
        for line in lines {
            match line.colour.filter(|_| self.colour) {
                Some(colour) => writeln!(text, "{colour}{}{RESET}\x1b[K", line.text),
                None => writeln!(text, "{}\x1b[K", line.text),
            }
            .expect("a String takes everything");
        }
        text.push_str("\x1b[J");
        self.on_screen = lines.iter().map(|line| width(&line.text)).collect();
        // A terminal that is gone takes nothing; the build goes on.
        drop(screen.writer.write_all(text.as_bytes()).and_then(|()| screen.writer.flush()));
    }
}

/// The picture for a terminal of this size; without a number of rows it is the last one and complete.
fn picture(board: &Board, now: Duration, columns: usize, rows: Option<usize>) -> Vec<Line> {
    let is_last = rows.is_none();
    let columns = columns.saturating_sub(1).max(20);
    let tasks: Vec<&Task> = board.in_order().map(|(_, task)| task).collect();
    let finished = tasks.iter().filter(|task| matches!(task.state, State::Done(_) | State::Cached)).count();
    let end = if is_last { " FINISHED" } else { "" };
    let header = format!("[+] Building {} ({finished}/{}){end}", human::seconds(now), tasks.len());
    let header = Line { text: row(&header, "", columns), colour: None };
    let mut groups: Vec<(bool, Vec<Line>)> = tasks.iter().map(|task| (task.is_running(), lines_of(task, now, columns, is_last))).collect();
    if let Some(rows) = rows {
        // What does not fit goes: the oldest finished tasks first, then lines from the top.
        let room = rows.saturating_sub(2).max(1);
        let mut height: usize = groups.iter().map(|(_, lines)| lines.len()).sum();
        groups.retain(|(running, lines)| {
            let keep = *running || height <= room;
            if !keep {
                height -= lines.len();
            }
            keep
        });
        let lines: Vec<Line> = groups.into_iter().flat_map(|(_, lines)| lines).collect();
        let skip = lines.len().saturating_sub(room);
        return std::iter::once(header).chain(lines.into_iter().skip(skip)).collect();
    }
    std::iter::once(header).chain(groups.into_iter().flat_map(|(_, lines)| lines)).collect()
}

fn lines_of(task: &Task, now: Duration, columns: usize, is_last: bool) -> Vec<Line> {
    let ran = now.saturating_sub(task.started);
    let (mark, elapsed, colour) = match &task.state {
        State::Running => ("", ran, None),
        State::Cached => ("CACHED ", Duration::ZERO, Some(BLUE)),
        State::Done(elapsed) => ("", *elapsed, Some(BLUE)),
        State::Failed(_) => ("ERROR ", ran, Some(RED)),
        State::Canceled => ("CANCELED ", ran, Some(YELLOW)),
    };
    let right = match task.state {
        State::Running | State::Done(_) | State::Cached => human::seconds(elapsed),
        _ => String::new(),
    };
    let mut lines = vec![Line { text: row(&format!(" => {mark}{}", visible(task.name.as_bytes())), &right, columns), colour }];
    let below = |text: String| Line { text: row(&text, "", columns), colour: None };
    if !task.is_running() {
        // What stays on the terminal says of each step that ran why it did.
        let reason = task.notes.iter().find(|note| is_last && note.starts_with("cache miss: "));
        lines.extend(reason.map(|note| below(format!(" => => {}", visible(note.as_bytes())))));
        return lines;
    }
    lines.extend(task.notes.iter().rev().take(2).rev().map(|note| below(format!(" => => {}", visible(note.as_bytes())))));
    lines.extend(task.moving.iter().map(|moving| below(format!(" => => {}", moving.text(now)))));
    if !is_last {
        let skip = task.tail.len().saturating_sub(RUNNING_LINES);
        lines.extend(task.tail.iter().skip(skip).map(|line| below(format!(" => => # {}", visible(&line.bytes)))));
    }
    lines
}

/// `left` cut to fit, `right` at the right edge.
fn row(left: &str, right: &str, columns: usize) -> String {
    let room = if right.is_empty() { columns } else { columns.saturating_sub(right.len() + 1) };
    let mut text = String::new();
    let mut used = 0;
    for c in left.chars() {
        if used + columns_of(c) > room {
            break;
        }
        used += columns_of(c);
        text.push(c);
    }
    if !right.is_empty() {
        text.extend(std::iter::repeat_n(' ', columns.saturating_sub(used + right.len())));
        text.push_str(right);
    }
    text
}

/// Output of a program as harmless text: what a carriage return would have overwritten and control sequences are left out.
fn visible(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_sequence(&mut chars),
            '\t' => out.push_str("    "),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips the rest of an escape sequence.
fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        // Colours and cursor moves end in a letter or one of a few signs.
        Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
        // Titles and links end in BEL or in ESC and a backslash.
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\x07' || (c == '\x1b' && chars.next().is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// Columns that a character takes: combining marks none, East Asian ideographs and emoji two.
fn columns_of(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x2_0000..=0x3_fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::progress::tests::Paper;
    use crate::solve::event::{Event, Stream, TaskId};

    fn board() -> Board {
        let mut board = Board::default();
        let mut at = |ms: u64, event: Event| drop(board.apply(event, Duration::from_millis(ms)));
        for (task, name) in [(0, "[internal] load"), (1, "[1/3] FROM base"), (2, "[2/3] RUN make"), (3, "[3/3] COPY a b")] {
            at(task as u64, Event::Started { task: TaskId(task), name: name.into() });
        }
        at(10, Event::Done { task: TaskId(0), elapsed: Duration::from_millis(40) });
        at(11, Event::Cached { task: TaskId(1) });
        let output = (0..9).fold(String::new(), |text, n| format!("{text}\x1b[32mline\x1b[0m {n}\n"));
        at(12, Event::Output { task: TaskId(2), stream: Stream::Stdout, bytes: output.into_bytes() });
        at(13, Event::Progress { task: TaskId(3), what: "copying".into(), current_bytes: 5, total_bytes: Some(10) });
        board
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().fold(String::new(), |text, line| text + &line.text + "\n")
    }

    #[test]
    fn a_picture_has_a_header_and_the_last_lines_of_what_runs() {
        insta::assert_snapshot!(text(&picture(&board(), Duration::from_millis(1200), 40, Some(30))), @r"
        [+] Building 1.2s (2/4)
         => [internal] load                0.0s
         => CACHED [1/3] FROM base         0.0s
         => [2/3] RUN make                 1.2s
         => => # line 3
         => => # line 4
         => => # line 5
         => => # line 6
         => => # line 7
         => => # line 8
         => [3/3] COPY a b                 1.2s
         => => copying 5B / 10B 1.2s
        ");
    }

    #[test]
    fn the_last_picture_says_why_a_step_ran() {
        let mut board = board();
        let mut at = |ms: u64, event: Event| drop(board.apply(event, Duration::from_millis(ms)));
        at(20, Event::Note { task: TaskId(2), text: "waiting for another build, which runs the same step".into() });
        at(21, Event::Note { task: TaskId(2), text: "cache miss: 1 file changed: a".into() });
        at(22, Event::Done { task: TaskId(2), elapsed: Duration::from_millis(900) });
        at(23, Event::Cached { task: TaskId(3) });
        let reason = " => [2/3] RUN make                 0.9s\n => => cache miss: 1 file changed: a\n => CACHED [3/3]";
        let last = text(&picture(&board, Duration::from_secs(1), 40, None));
        assert!(last.contains(reason), "{last}");
        let before = text(&picture(&board, Duration::from_secs(1), 40, Some(30)));
        assert!(!before.contains("cache miss"), "{before}");
    }

    #[test]
    fn a_low_terminal_loses_what_is_finished_first() {
        let lines = picture(&board(), Duration::from_secs(1), 40, Some(6));
        assert_eq!(lines.len(), 5);
        assert!(text(&lines).contains("[3/3] COPY"), "{}", text(&lines));
        assert!(!text(&lines).contains("CACHED"), "{}", text(&lines));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for columns in [20, 25, 40, 200] {
            for line in picture(&board(), Duration::from_secs(1), columns, Some(50)) {
                assert!(width(&line.text) < columns.max(21), "{columns}: {:?}", line.text);
            }
        }
        assert_eq!(width(&row("漢字漢字漢字", "1s", 8)), 8);
    }

    #[test]
    fn programs_cannot_move_the_cursor() {
        for (raw, shown) in [
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("10%\r20%\r", "20%"),
            ("a\tb\x07", "a    b"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]8;;http://a\x1b\\link", "link"),
            ("\x1b[2J\x1b[Hup", "up"),
        ] {
            assert_eq!(visible(raw.as_bytes()), shown, "{raw:?}");
        }
    }

    #[test]
    fn a_narrower_terminal_is_cleared_whole() {
        let paper = Paper::default();
        let mut screen = Screen { writer: Box::new(paper.clone()), size: Box::new(|| (80, 24)) };
        let mut tty = Tty::new(false);
        let line = |n| Line { text: "x".repeat(n), colour: None };
        tty.draw(&[line(10), line(50)], 80, &mut screen);
        tty.draw(&[line(1)], 25, &mut screen);
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("\x1b[3A\rx\x1b[K\n\x1b[J"), "{text:?}");
    }

    /// What begins on the top row and is erased from there on counts as a cleared screen, which some terminals keep.
    #[test]
    fn a_picture_is_written_over_the_one_before_line_by_line() {
        let paper = Paper::default();
        let mut screen = Screen { writer: Box::new(paper.clone()), size: Box::new(|| (80, 24)) };
        let mut tty = Tty::new(true);
        let mut drawn = |lines: &[(&str, Option<&'static str>)]| {
            paper.0.lock().unwrap().clear();
            let lines: Vec<Line> = lines.iter().map(|(text, colour)| Line { text: (*text).into(), colour: *colour }).collect();
            tty.draw(&lines, 80, &mut screen);
            String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
        };
        assert_eq!(drawn(&[("head", None), ("one", None)]), "\rhead\x1b[K\none\x1b[K\n\x1b[J");
        assert_eq!(drawn(&[("h", None), ("one", Some(BLUE))]), "\x1b[2A\rh\x1b[K\n\x1b[34mone\x1b[0m\x1b[K\n\x1b[J");
        assert_eq!(drawn(&[("end", None)]), "\x1b[2A\rend\x1b[K\n\x1b[J");
    }
}
