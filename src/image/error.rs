//! What can go wrong with images.

use std::io;

use shale_cache::{OciDigest, StoreError};

use crate::export::ExportError;
use crate::oci::reference::ReferenceError;
use crate::source::archive::ArchiveError;
use crate::source::registry::RegistryError;

/// A failed image operation.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store has no such image, and the registry was not to be asked.
    #[error("No such image: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// A repository of which the store has no image.
    #[error("An image does not exist locally with the tag: {repository}")]
    NoRepository {
        /// Its familiar name.
        repository: String,
    },
    /// A tag that the store does not know, of a repository that it does.
    #[error("tag does not exist: {name}")]
    NoTag {
        /// The familiar name with its tag.
        name: String,
    },
    /// An id prefix that several images share.
    #[error("multiple IDs found with provided prefix: {prefix}")]
    Ambiguous {
        /// The prefix.
        prefix: String,
    },
    /// An image with several names was to be removed by its id.
    #[error("conflict: unable to delete {short_id} (must be forced) - image is referenced in multiple repositories")]
    Conflict {
        /// Twelve digits of the id.
        short_id: String,
    },
    /// A new name with a digest.
    #[error("refusing to create a tag with a digest reference")]
    DigestTag {
        /// The name.
        name: String,
    },
    /// A text that is no image name.
    #[error("{source}")]
    Reference {
        /// What was given.
        text: String,
        /// Why not.
        source: ReferenceError,
    },
    /// A named context that cannot be read.
    #[error("invalid named context {text:?}: {detail}")]
    NamedContext {
        /// What was given.
        text: String,
        /// Why not.
        detail: String,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The archive or layout cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Writing the archive failed.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A blob is nowhere.
    #[error("{image}: the content {digest} is neither in the store nor known to a registry")]
    MissingBlob {
        /// The image.
        image: String,
        /// The blob.
        digest: OciDigest,
    },
    /// The image contradicts itself.
    #[error("{image}: {detail}")]
    Invalid {
        /// The image.
        image: String,
        /// What is wrong.
        detail: String,
    },
    /// What was to be imported is no tar, or it breaks off.
    #[error("cannot import the files: {source}")]
    Tar {
        /// Why.
        source: crate::layer::LayerError,
    },
    /// A blob that cannot be written.
    #[error("cannot store {digest}: {source}")]
    Write {
        /// The blob.
        digest: OciDigest,
        /// The cause.
        source: io::Error,
    },
}

impl ImageError {
    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Ambiguous { .. } => Some("give more digits of the id".into()),
            Self::MissingBlob { .. } => Some("load or pull the image again; `shale store verify` names all that is damaged or lost".into()),
            Self::Conflict { .. } => Some("use --force, or remove the names one by one".into()),
            _ => None,
        }
    }
}
