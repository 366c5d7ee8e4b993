//! Programs that tests bring along.

use std::path::Path;
use std::process::Command;

/// Copies a program that is going to be run. Another process does it: while this one has the copy open for writing, a child that
/// another thread just forks holds it open too, and running it fails with ETXTBSY.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").args([from, to]).status().expect("cp starts");
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}
