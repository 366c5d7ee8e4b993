//! Images in files: OCI layouts (directory or tar), docker-archives, and tars that are both.

use std::io::Read;
use std::path::Path;

/// Where an archive comes from.
pub enum Input<'a> {
    /// A file or a layout directory.
    Path(&'a Path),
    /// A stream, such as stdin.
    Stream(&'a mut dyn Read),
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {}

impl ArchiveError {
    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
