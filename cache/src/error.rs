//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{CacheKey, LayerId, OciDigest};

/// An error of the store. The cause, where there is one, is the error's source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A call to the operating system failed.
    #[error("cannot {deed} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or the quota is full.
    #[error("no space left to {deed} {}", path.display())]
    Full {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store may not be written or read.
    #[error("not allowed to {deed} {}", path.display())]
    Denied {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store lies on a read-only file system, or its folder may not be written.
    #[error("the store {} is read-only: cannot {wanted}", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// What was to be written, and where below the store: a verb with its object.
        wanted: String,
    },
    /// The store belongs to another user.
    #[error("the store {} belongs to uid {owner}, not to uid {uid}", path.display())]
    ForeignOwner {
        /// The store.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asked.
        uid: u32,
    },
    /// The directory holds something, but no store.
    #[error("{} is no store, and not empty: it holds {found:?}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// The first name found in it.
        found: String,
    },
    /// The store was written by a version that this one does not know.
    #[error("the store {} has the format {found:?}, this version reads {supported:?}", path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// What its version file says.
        found: String,
        /// What was expected.
        supported: String,
    },
    /// Another process uses what was asked for alone.
    #[error("the store is in use by {}: {}", holders_text(holders), path.display())]
    Busy {
        /// The lease that is held.
        path: PathBuf,
        /// The processes that hold it, as far as they can be seen.
        holders: Vec<u32>,
    },
    /// The caller no longer wanted to wait for a lock.
    #[error("stopped waiting for {}", path.display())]
    WaitCancelled {
        /// The lock.
        path: PathBuf,
    },
    /// Bytes do not have the digest that they were announced with.
    #[error("expected {expected}, got {actual} ({size_bytes} bytes)")]
    DigestMismatch {
        /// The announced digest.
        expected: OciDigest,
        /// The digest of the bytes.
        actual: OciDigest,
        /// How many there were.
        size_bytes: u64,
    },
    /// A file does not have the size that it was announced with.
    #[error("expected {expected} bytes of {digest}, got {actual}")]
    SizeMismatch {
        /// The announced digest.
        digest: OciDigest,
        /// The announced size.
        expected: u64,
        /// The size of the file.
        actual: u64,
    },
    /// A record was to be written under a key that is not the hash of its parts.
    #[error("a record with the key {actual} cannot be kept under {expected}")]
    KeyMismatch {
        /// The key of the lock, or the one that the record names.
        expected: CacheKey,
        /// The hash of the record's parts.
        actual: CacheKey,
    },
    /// A layer is not in the store.
    #[error("the layer {layer} is not in the store")]
    NoLayer {
        /// The layer.
        layer: LayerId,
    },
    /// An image is not in the store.
    #[error("the image {id} is not in the store")]
    NoImage {
        /// The image.
        id: OciDigest,
    },
    /// A value of ours could not be written as JSON.
    #[error("cannot encode {}", path.display())]
    Encode {
        /// The file it was meant for.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Names path and deed, and tells a full disk and a refused access apart.
    pub(crate) fn io(deed: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { deed, path, source },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied { deed, path, source },
            _ => Self::Io { deed, path, source },
        }
    }
}

fn holders_text(holders: &[u32]) -> String {
    match holders {
        [] => "another process".to_owned(),
        [one] => format!("process {one}"),
        many => format!("processes {}", many.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}
