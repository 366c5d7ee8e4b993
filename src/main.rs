//! The binary: hooks of the worker, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: this may be the worker, which must do nothing else.
    shale::worker::hook();
    shale::cli::run(std::env::args_os())
}
