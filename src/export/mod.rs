//! Results out of the store: OCI layouts and docker-archives.
//!
//! Everything that is written is a function of its input: entries sorted, times zero, JSON in one order.

mod archive;
mod manifest;
mod tar_writer;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shale_cache::{OciDigest, Packed, StoreError};

pub use archive::export;
pub use manifest::{BuiltManifest, build_manifest};

use crate::oci::reference::Reference;

/// One image to export.
#[derive(Clone, Debug)]
pub struct ExportImage {
    /// Names, each with a tag (or with a digest); may be empty.
    pub names: Vec<Reference>,
    /// The config as it is hashed.
    pub config: Vec<u8>,
    /// The packed layers, bottom first; their blobs are in the store.
    pub layers: Vec<Packed>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// A manifest to keep as it is, for images that were pulled or loaded with one; `annotations` and media types have no effect then.
    pub manifest: Option<Vec<u8>>,
}

/// Which files the archive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `type=oci`: an OCI layout.
    Oci,
    /// `type=docker`: the same with `manifest.json`, so that `docker load` of any age reads it.
    Docker,
}

/// Media types of manifest, config and layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's (`oci-mediatypes=false`).
    Docker,
}

/// Where the result goes.
pub enum Destination<'a> {
    /// A tar file; written beside and renamed.
    File(&'a Path),
    /// A tar stream (`-`).
    Stream(&'a mut dyn Write),
    /// A layout directory (`tar=false`); other images in it stay.
    Directory(&'a Path),
}

impl std::fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Directory(path) => write!(f, "Directory({})", path.display()),
        }
    }
}

/// What was written for one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The image id.
    pub config: OciDigest,
    /// The manifest's digest.
    pub manifest: OciDigest,
    /// The manifest's size.
    pub manifest_size_bytes: u64,
    /// The manifest's media type.
    pub media_type: String,
    /// Full names.
    pub names: Vec<String>,
}

/// A failed export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file that cannot be made or written.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The stream that takes the tar failed.
    #[error("cannot write the archive: {source}")]
    Stream {
        /// The cause.
        source: io::Error,
    },
    /// A blob is not in the store.
    #[error("the content {digest} is not in the store")]
    MissingBlob {
        /// The blob.
        digest: OciDigest,
    },
    /// The destination holds something else.
    #[error("{} is no OCI layout: {detail}", path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The image contradicts itself.
    #[error("cannot export the image: {detail}")]
    Invalid {
        /// What is wrong.
        detail: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
