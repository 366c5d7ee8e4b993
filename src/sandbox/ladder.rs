//! What this machine lets us do, found out by doing it.

use std::fmt;

use super::{Failure, SandboxError, sys};
use crate::worker::{StartError, WorkerConfig};

pub(crate) const ROLE: &str = "probe";

/// Why steps cannot run here, and what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The call that failed, with its error.
    pub call: String,
    /// Who probably refused.
    pub cause: String,
    /// What to change.
    pub fix: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}). {}", self.call, self.cause, self.fix)
    }
}

/// Does not return.
pub(crate) fn main() -> ! {
    sys::exit_now(0)
}

/// Says what it means that a worker did not start.
pub(crate) fn explain(error: StartError, _program: &std::path::Path, _config: &WorkerConfig) -> SandboxError {
    match error {
        StartError::Other(error) => error,
        StartError::Refused(failure) => match failure {
            Failure::Other(text) => SandboxError::Other(text),
            failure => failure.into(),
        },
        StartError::Ids(error) => SandboxError::Other(error.to_string()),
        StartError::SingleId => SandboxError::Other("a single id".to_owned()),
    }
}
