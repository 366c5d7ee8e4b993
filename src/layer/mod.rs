//! Index and bytes ⇄ tar.
//!
//! [`write`] makes the tar of an index, the same bytes for the same index; [`read`] takes anybody's tar apart without trusting it;
//! [`unpack`] puts one on disk as an overlay lower; [`compress`] turns tars into blobs and back.

pub mod compress;
pub mod contents;
mod deflate;
mod digested;
pub(crate) mod hashing;
mod pax;
pub mod read;
mod sparse;
pub mod unpack;
pub mod write;

use std::io;
use std::path::PathBuf;

/// Whether an error is about a disk without room, which no reading can be.
pub fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// What can go wrong with a layer's bytes.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file could not be read or written.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is no longer what was hashed.
    #[error("{} changed during the build", path.display())]
    Changed {
        /// The file, by its path in the layer.
        path: PathBuf,
    },
    /// A tar breaks the format, or says what no layer may say.
    #[error("not a valid tar: {what} at byte {offset}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// Where in the uncompressed stream.
        offset: u64,
    },
    /// The stream ended early or could not be decompressed.
    #[error("cannot read the tar: {source}")]
    Stream {
        /// Why.
        source: io::Error,
    },
}

impl LayerError {
    /// Joins an IO error to its deed and path.
    pub(crate) fn io(deed: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { deed, path, source }
    }
}

/// A layer path for messages.
pub(crate) fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path))
}
