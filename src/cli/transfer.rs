//! Layers on their way to or from a registry: a line for each state where no terminal is, else a picture of all of them that is drawn
//! again in place. Both are Docker's.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::source::registry::{BlobState, Progress};

use super::console::print;
use super::environment::Environment;
use super::human;
use super::registry::RegistryNotes;

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Columns from which on there is room for a bar.
const BAR_FROM_COLUMNS: usize = 110;
const BAR_COLUMNS: usize = 50;

/// Which way the bytes go.
#[derive(Debug)]
pub(super) enum Direction {
    /// To the registry. Blobs are called by their layers' DiffIDs; of one without a name, the config, Docker does not speak.
    Push {
        /// Short DiffIDs by blob.
        names: HashMap<String, String>,
    },
    /// From the registry. Lines about what is there already wait: of an image that is whole and unchanged Docker says nothing.
    Pull,
}

/// The display of one image's transfer. Called from several threads.
#[derive(Debug)]
pub(super) struct Transfer {
    direction: Direction,
    shape: Shape,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Quiet,
    Lines,
    Picture,
}

#[derive(Debug, Default)]
struct State {
    rows: Vec<Row>,
    held: Vec<Row>,
    /// Rows of the picture on screen.
    on_screen: usize,
    drawn_at: Option<Instant>,
}

/// What is known of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    status: String,
    /// Bytes done and in all, while they move.
    moving: Option<(u64, u64)>,
    is_done: bool,
}

impl Transfer {
    pub(super) fn new(direction: Direction, quiet: bool, environment: &Environment) -> Self {
        let is_terminal = environment.stdout_is_terminal && environment.get("TERM") != Some("dumb");
        let shape = match (quiet, is_terminal) {
            (true, _) => Shape::Quiet,
            (false, true) => Shape::Picture,
            (false, false) => Shape::Lines,
        };
        Self { direction, shape, state: Mutex::default() }
    }

    /// A layer that will be pushed.
    pub(super) fn prepare(&self, name: &str) {
        self.tell(name, &["Preparing"], false);
    }

    /// Shows what was held back.
    pub(super) fn release(&self) {
        let mut state = self.state();
        let held = std::mem::take(&mut state.held);
        for row in held {
            self.put(&mut state, row);
        }
    }

    /// Draws the last picture and leaves the cursor under it.
    pub(super) fn finish(&self) {
        if self.shape == Shape::Picture {
            draw(&mut self.state(), true);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a blob is called, if it is spoken of.
    fn name_of<'a>(&'a self, digest: &'a str) -> Option<&'a str> {
        match &self.direction {
            Direction::Push { names } => names.get(digest).map(String::as_str),
            Direction::Pull => Some(digest.split_once(':').map_or(digest, |(_, hex)| &hex[..12.min(hex.len())])),
        }
    }

    /// A layer comes through some states, of which the last one stays.
    fn tell(&self, name: &str, states: &[&str], is_done: bool) {
        let mut state = self.state();
        for status in states {
            self.put(&mut state, Row { name: name.into(), status: (*status).into(), moving: None, is_done });
        }
    }

    fn put(&self, state: &mut State, row: Row) {
        match self.shape {
            Shape::Quiet => {}
            // A reader that has gone away is noticed at the last line.
            Shape::Lines => drop(print(format!("{}: {}\n", row.name, row.status))),
            Shape::Picture => {
                match state.rows.iter_mut().find(|known| known.name == row.name) {
                    Some(known) => *known = row,
                    None => state.rows.push(row),
                }
                draw(state, false);
            }
        }
    }
}

impl Progress for Transfer {
    fn on_blob(&self, digest: &str, state: &BlobState) {
        let Some(name) = self.name_of(digest) else { return };
        let mounted;
        let is_pull = matches!(self.direction, Direction::Pull);
        let (states, is_done): (&[&str], bool) = match state {
            BlobState::Present if is_pull => {
                let row = Row { name: name.into(), status: "Already exists".into(), moving: None, is_done: true };
                return self.state().held.push(row);
            }
            BlobState::Present => (&["Layer already exists"], true),
            BlobState::Started if is_pull => (&["Pulling fs layer"], false),
            BlobState::Started => return,
            BlobState::Done if is_pull => (&["Verifying Checksum", "Download complete", "Pull complete"], true),
            BlobState::Done => (&["Pushed"], true),
            BlobState::Mounted(path) => {
                mounted = format!("Mounted from {path}");
                (&[&mounted], true)
            }
        };
        self.release();
        self.tell(name, states, is_done);
    }

    fn on_bytes(&self, digest: &str, done_bytes: u64, total_bytes: u64) {
        let (Shape::Picture, Some(name)) = (self.shape, self.name_of(digest)) else { return };
        let status = if matches!(self.direction, Direction::Pull) { "Downloading" } else { "Pushing" };
        let row = Row { name: name.into(), status: status.into(), moving: Some((done_bytes, total_bytes)), is_done: false };
        self.put(&mut self.state(), row);
    }

    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        RegistryNotes.on_wait(what, cause, delay);
        // The remark stands where the picture was; a new one begins below.
        self.state().on_screen = 0;
    }
}

/// Draws the picture again if it is time, or for the last time.
fn draw(state: &mut State, is_last: bool) {
    if !is_last && state.drawn_at.is_some_and(|at| at.elapsed() < FRAME) {
        return;
    }
    let (columns, height) = match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 24),
    };
    let lines = picture(&state.rows, columns, (!is_last).then_some(height));
    let up = if state.on_screen > 0 { format!("\x1b[{}A", state.on_screen) } else { String::new() };
    state.on_screen = lines.len();
    state.drawn_at = Some(Instant::now());
    // Line by line, as pictures of builds.
    let lines: String = lines.into_iter().map(|line| line + "\x1b[K\n").collect();
    drop(print(format!("{up}\r{lines}\x1b[J")));
}

/// The lines for a terminal of this size; without a height all of them. Where they do not fit, what is done goes first.
fn picture(rows: &[Row], columns: usize, height: Option<usize>) -> Vec<String> {
    let room = height.map_or(rows.len(), |height| height.saturating_sub(1).max(1));
    let mut surplus = rows.len().saturating_sub(room);
    let mut shown: Vec<&Row> = Vec::new();
    for row in rows {
        if surplus > 0 && row.is_done {
            surplus -= 1;
        } else {
            shown.push(row);
        }
    }
    shown.truncate(room);
    shown.into_iter().map(|row| line(row, columns).chars().take(columns.saturating_sub(1)).collect()).collect()
}

fn line(row: &Row, columns: usize) -> String {
    let Row { name, status, moving, .. } = row;
    let Some((done, total)) = moving else { return format!("{name}: {status} ") };
    let numbers = format!("{:>8}/{}", human::size(*done), human::size(*total));
    if columns <= BAR_FROM_COLUMNS {
        return format!("{name}: {status} {numbers}");
    }
    let full = (u128::from(*done) * BAR_COLUMNS as u128 / u128::from((*total).max(1))) as usize;
    let full = full.min(BAR_COLUMNS);
    let tip = if full < BAR_COLUMNS { ">" } else { "" };
    let blank = " ".repeat(BAR_COLUMNS.saturating_sub(full + tip.len()));
    format!("{name}: {status} [{}{tip}{blank}] {numbers}", "=".repeat(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, status: &str, moving: Option<(u64, u64)>, is_done: bool) -> Row {
        Row { name: name.into(), status: status.into(), moving, is_done }
    }

    #[test]
    fn bytes_are_shown_as_docker_shows_them() {
        let half = row("abc", "Pushing", Some((500_000, 1_000_000)), false);
        assert_eq!(line(&half, 80), "abc: Pushing    500kB/1MB");
        let bar = format!("abc: Pushing [{}>{}]    500kB/1MB", "=".repeat(25), " ".repeat(24));
        assert_eq!(line(&half, 120), bar);
        let whole = row("abc", "Downloading", Some((7, 7)), false);
        assert_eq!(line(&whole, 120), format!("abc: Downloading [{}]       7B/7B", "=".repeat(50)));
        assert_eq!(line(&row("abc", "Downloading", Some((0, 0)), false), 120).len(), line(&whole, 120).len());
    }

    #[test]
    fn what_is_done_makes_room() {
        let rows = [row("a", "Pushed", None, true), row("b", "Pushing", Some((1, 2)), false), row("c", "Waiting", None, false)];
        let names = |height| picture(&rows, 80, height).iter().map(|line| line[..1].to_owned()).collect::<Vec<_>>();
        assert_eq!(names(Some(24)), ["a", "b", "c"]);
        assert_eq!(names(Some(3)), ["b", "c"]);
        assert_eq!(names(Some(2)), ["b"]);
        assert_eq!(names(None), ["a", "b", "c"]);
        assert!(picture(&rows, 10, None).iter().all(|line| line.len() < 10));
    }
}
