//! Results out of the store: OCI layouts and docker-archives, and the files of images.
//!
//! Everything that is written is a function of its input: entries sorted, times zero, JSON in one order.

pub mod annotation;
mod archive;
mod files;
mod manifest;
mod tar_writer;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shale_cache::{OciDigest, Packed, StoreError};

pub use archive::{export, export_all};
pub use files::write_files;
pub use manifest::{BuiltIndex, BuiltManifest, build_index, build_manifest};

use crate::layer::LayerError;
use crate::oci::manifest::Descriptor;
use crate::oci::platform::Platform;
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
    /// Annotations of what points to the manifest.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// A manifest to keep as it is, for images that were pulled or loaded with one; `annotations` and media types have no effect then.
    pub manifest: Option<Vec<u8>>,
}

/// Images of several platforms under the same names, joined by an index.
#[derive(Clone, Debug, Default)]
pub struct ExportIndex {
    /// Names, as of [`ExportImage`].
    pub names: Vec<Reference>,
    /// The images in the order of the index; their own names have no effect.
    pub images: Vec<(Platform, ExportImage)>,
    /// Annotations of the index.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what points to the index.
    pub descriptor_annotations: BTreeMap<String, String>,
}

/// What can stand under a name.
#[derive(Clone, Debug)]
pub enum Exportable {
    /// An image.
    Image(Box<ExportImage>),
    /// Images of several platforms.
    Index(ExportIndex),
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
    /// A directory: of a layout (`tar=false`), in which other images stay, or for files.
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

/// What was written for one image, or for images joined by an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The image ids: one, or those that the index joins.
    pub configs: Vec<OciDigest>,
    /// The digests of the manifests, in the same order.
    pub manifests: Vec<OciDigest>,
    /// The descriptor of the manifest, or of the index, without names.
    pub descriptor: Descriptor,
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
    /// The files of the image could not be written.
    #[error(transparent)]
    Files(#[from] LayerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ExportError {
    fn io(deed: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { deed, path: path.into(), source }
    }
}
