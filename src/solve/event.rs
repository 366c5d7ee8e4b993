//! What a build reports while it runs. `solve`, `export` and `pipeline` send, `cli::progress` shows.

use std::time::Duration;

use crate::plan::graph::Warning;
use crate::span::SourceFile;

/// A line of work in the progress display. Numbered in the order of first mention by the display, not by the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub usize);

/// Which stream of a RUN a piece of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One report.
#[derive(Clone, Debug)]
pub enum Event {
    /// A task exists, with its display name (`[build 2/5] RUN make`, `[internal] load build definition from Dockerfile`).
    Started {
        /// Which.
        task: TaskId,
        /// Display name.
        name: String,
    },
    /// The task's result came from the cache.
    Cached {
        /// Which.
        task: TaskId,
    },
    /// Output of a RUN.
    Output {
        /// Which.
        task: TaskId,
        /// Its stream.
        stream: Stream,
        /// Raw bytes, cut anywhere.
        bytes: Vec<u8>,
    },
    /// A line about the task that is not the command's output: `transferring context: 1.2kB`, `naming to …`, a miss reason.
    Note {
        /// Which.
        task: TaskId,
        /// One line.
        text: String,
    },
    /// Bytes done of a known or unknown total: a download, an export.
    Progress {
        /// Which.
        task: TaskId,
        /// What moves (`sha256:abc…`, `context`).
        what: String,
        /// Bytes so far.
        current_bytes: u64,
        /// Bytes in all, if known.
        total_bytes: Option<u64>,
    },
    /// The task ended well.
    Done {
        /// Which.
        task: TaskId,
        /// How long it ran.
        elapsed: Duration,
    },
    /// The task failed.
    Failed {
        /// Which.
        task: TaskId,
        /// One line.
        error: String,
    },
    /// The task was given up because another failed or the user asked.
    Canceled {
        /// Which.
        task: TaskId,
    },
    /// Lint warnings of the build, for the block at its end.
    Warnings {
        /// The file that they point into.
        source: SourceFile,
        /// All of them.
        warnings: Vec<Warning>,
    },
}

/// Takes events from any thread. `cli::progress` and the tests implement it.
pub trait Reporter: Send + Sync {
    /// Takes one event; never blocks for long, never fails.
    fn report(&self, event: Event);
    /// A new task id.
    fn new_task(&self) -> TaskId;
}
