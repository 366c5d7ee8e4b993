//! The full output of every RUN, never clipped: `builds/<id>/<number>.log` in the store.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

/// Where the logs of one build go. The folder is made with the first byte of the first log.
#[derive(Clone, Debug)]
pub struct StepLogs {
    dir: PathBuf,
}

impl StepLogs {
    /// Logs below `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The log of the step that is `number`th in the graph.
    pub fn of_step(&self, number: usize) -> StepLog {
        StepLog { path: self.dir.join(format!("{number}.log")), file: None }
    }
}

/// One step's log.
#[derive(Debug)]
pub struct StepLog {
    path: PathBuf,
    file: Option<File>,
}

impl StepLog {
    /// Adds a piece of output.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let dir = self.path.parent().expect("a log lies in its build's folder");
            fs::create_dir_all(dir)?;
            self.file = Some(File::create(&self.path)?);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    /// Where the log lies or would lie.
    pub fn place(&self) -> PathBuf {
        self.path.clone()
    }

    /// Where the log lies, if anything was written.
    pub fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|_| self.path.clone())
    }
}
