//! A program of the machine that ends with the process that started it, however that ends, and with it whatever it has started.
//!
//! A process of our own stands between the two and holds one end of a pipe, whose other end has nobody else: where that is closed, by the
//! kernel if need be, it kills the program's group. What the kernel offers for this follows a thread, and reaches the program alone.

use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process_group};

use super::{NAME, OURSELVES};
use crate::sandbox::sys;

pub(super) const ROLE: &str = "guard";

/// Ended with when the program could not be started; the number of the error is on standard output.
const NOT_STARTED: i32 = 71;
/// Added to the number of a signal that has ended the program, as shells do.
const SIGNAL_BASE: i32 = 128;

/// A command that runs `program` under guard. Its standard input is to stay as it is: it is the pipe, and the program has none.
pub fn guarded(program: &str) -> Command {
    let mut command = Command::new(OURSELVES);
    command.arg0(NAME).args([ROLE, program]).stdin(Stdio::piped());
    command
}

/// Why the program could not be started, from how its guard ended and what it has written.
pub fn start_error(status: ExitStatus, output: &[u8]) -> Option<io::Error> {
    let number = str::from_utf8(output).ok().filter(|_| status.code() == Some(NOT_STARTED))?;
    number.parse().ok().map(io::Error::from_raw_os_error)
}

/// Does not return.
pub(super) fn main() -> ! {
    let mut words = std::env::args_os().skip(2);
    let Some(program) = words.next() else { sys::exit_now(64) };
    // A group of its own, which a Ctrl-C does not reach: that is told by closing the pipe.
    match Command::new(&program).args(words).stdin(Stdio::null()).process_group(0).spawn() {
        Ok(child) => sys::exit_now(attend(child)),
        Err(error) => {
            let number = error.raw_os_error().unwrap_or_default().to_string();
            // Whoever reads nothing is told by the code.
            let _ = rustix::io::write(rustix::stdio::stdout(), number.as_bytes());
            sys::exit_now(NOT_STARTED)
        }
    }
}

/// Waits for the program's end, or for that of whoever wants it. Returns the code to end with.
fn attend(mut child: Child) -> i32 {
    let group = Pid::from_child(&child);
    // Standard input ends when nobody has the other end any more. Nothing is ever written to it.
    let leash = move || {
        drop(io::stdin().read_to_end(&mut Vec::new()));
        let _ = kill_process_group(group, Signal::KILL);
    };
    if thread::Builder::new().spawn(leash).is_err() {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait();
    // What it has left behind may hold its output open.
    let _ = kill_process_group(group, Signal::KILL);
    status.map_or(1, |status| status.code().unwrap_or_else(|| SIGNAL_BASE + status.signal().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_failed() {
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(start_error(ended(NOT_STARTED), b"2").map(|error| error.kind()), Some(io::ErrorKind::NotFound));
        assert!(start_error(ended(NOT_STARTED), b"some words").is_none() && start_error(ended(0), b"2").is_none());
    }
}
