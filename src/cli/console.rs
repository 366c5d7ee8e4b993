//! The two streams: results on standard output, talk on standard error.

use std::io::{self, StdoutLock, Write as _};

use super::{Failure, diagnostic::Diagnostic};
use crate::sandbox::sys::stdout_was_closed;

/// Writes a result to standard output.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = open_stdout()?;
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|error| write_failure(&error))
}

/// Standard output, if there is one: what is written to one that was closed (`>&-`) would be lost without a word.
pub fn open_stdout() -> Result<StdoutLock<'static>, Failure> {
    if stdout_was_closed() {
        return Err(write_failure(&rustix::io::Errno::BADF.into()));
    }
    Ok(io::stdout().lock())
}

/// What a failed write to standard output means: a reader that has seen enough (`shale images | head -1`) is no error to talk about.
pub fn write_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Diagnostic::new("cannot write to standard output").because(error.to_string()).into(),
    }
}

/// Says something on standard error, as it stands. If nobody listens, nobody is told.
pub fn say(text: &str) {
    let mut err = io::stderr().lock();
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

/// Says a line that the user should know and that stops nothing.
pub fn warn(line: &str) {
    say(&format!("WARNING: {line}\n"));
}
