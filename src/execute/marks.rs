//! Files that an image cannot hold: in its layers a name `.wh.NAME` says that NAME is removed (OCI image-spec, layer.md).
//!
//! BuildKit writes them into the layer all the same, and so does shale: the digest is the same. Steps of this build see a file, whoever
//! unpacks the image does not; that is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::BuildExecutor;
use crate::layer::write::WHITEOUT_PREFIX;
use crate::solve::Step;
use crate::solve::event::Event;
use crate::tree::index::Index;

/// Tells of such names in what a step made.
pub(super) fn tell(executor: &BuildExecutor<'_>, step: &Step<'_>, made: &Index) {
    let mut marks = (0..made.len()).map(|i| made.path(i)).filter(|path| is_mark(path));
    let Some(first) = marks.next() else { return };
    let first = OsStr::from_bytes(first).display();
    let more = match marks.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let text = format!("warning: /{first}{more} is no file in an image, where names that begin with .wh. stand for what was removed");
    executor.reporter.report(Event::Note { task: step.task, text });
}

fn is_mark(path: &[u8]) -> bool {
    path.rsplit(|byte| *byte == b'/').next().is_some_and(|name| name.starts_with(WHITEOUT_PREFIX))
}
