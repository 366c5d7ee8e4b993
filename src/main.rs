//! The binary: the worker's hook, then the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    shale::worker::hook();
    shale::cli::run(std::env::args_os())
}
