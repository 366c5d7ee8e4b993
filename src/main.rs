//! The binary: hooks of the worker, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // MERGE POINT, and it must stay first: `shale::worker::hook()` turns this process into the worker if it was started as one.
    shale::cli::run(std::env::args_os())
}
