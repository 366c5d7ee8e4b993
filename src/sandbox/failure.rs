//! What can go wrong around a step.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ladder::Refusal;

/// A failure inside the worker, in the form that crosses its socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Failure {
    /// A system call failed.
    Call {
        /// What was being done: `mount the overlay`.
        deed: String,
        /// On what.
        path: Option<String>,
        /// Why.
        errno: i32,
    },
    /// The command itself could not be started: the Dockerfile's fault, not the sandbox's.
    Exec {
        /// The sentence that container runtimes have for it.
        message: String,
        /// The exit code that a shell would give: 126 or 127.
        code: i32,
    },
    /// A file is no longer what was hashed.
    Changed {
        /// Its path in the layer.
        path: String,
    },
    /// Something else, in words.
    Other(String),
}

impl Failure {
    /// Names the deed, and the path that it was done to, of a failed call.
    pub(crate) fn call(deed: &str, path: Option<&Path>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        match error.raw_os_error() {
            Some(errno) => Self::Call { deed: deed.to_owned(), path: path.map(|p| p.display().to_string()), errno },
            None => Self::Other(match path {
                Some(path) => format!("{deed} {}: {error}", path.display()),
                None => format!("{deed}: {error}"),
            }),
        }
    }
}

/// Gives failed calls their deed.
pub(crate) trait Deed<T> {
    /// The failure of `deed`.
    fn deed(self, deed: &str) -> Result<T, Failure>;
    /// The failure of `deed` on `path`.
    fn deed_on(self, deed: &str, path: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Deed<T> for Result<T, E> {
    fn deed(self, deed: &str) -> Result<T, Failure> {
        self.map_err(|e| Failure::call(deed, None, e))
    }

    fn deed_on(self, deed: &str, path: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|e| Failure::call(deed, Some(path.as_ref()), e))
    }
}

/// Why a request to the worker failed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// This machine, or what shale runs in, does not let it isolate a step.
    #[error("cannot run build steps here: {0}")]
    Refused(Box<Refusal>),
    /// A system call failed in the main process.
    #[error("{deed}: {source}")]
    Call {
        /// What was being done.
        deed: String,
        /// The cause.
        source: io::Error,
    },
    /// A system call failed in the worker.
    #[error("{deed}{}: {source}", on(path.as_deref()))]
    Worker {
        /// What was being done.
        deed: String,
        /// On what.
        path: Option<PathBuf>,
        /// The cause.
        source: io::Error,
    },
    /// The command could not be started.
    #[error("{message}")]
    Exec {
        /// The sentence that container runtimes have for it.
        message: String,
        /// The exit code that a shell would give: 126 or 127.
        code: i32,
    },
    /// A file that a layer is made of changed after it was hashed.
    #[error("{path} changed during the build")]
    Changed {
        /// Its path in the layer.
        path: String,
    },
    /// The worker, or the part of it that had the request, is dead.
    #[error("the worker process died {0}")]
    Gone(&'static str),
    /// The worker reports something that is no failed call.
    #[error("{0}")]
    Other(String),
}

fn on(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |p| format!(" {}", p.display()))
}

impl SandboxError {
    pub(crate) fn call(deed: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Call { deed: deed.into(), source: source.into() }
    }
}

impl From<Failure> for SandboxError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Call { deed, path, errno } => {
                Self::Worker { deed, path: path.map(PathBuf::from), source: io::Error::from_raw_os_error(errno) }
            }
            Failure::Exec { message, code } => Self::Exec { message, code },
            Failure::Changed { path } => Self::Changed { path },
            Failure::Other(text) => Self::Other(text),
        }
    }
}
