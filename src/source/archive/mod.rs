//! Images in files: OCI layouts (directory or tar), docker-archives, and tars that are both.
//!
//! An archive is read in three steps, so that a broken one leaves the store as it was: the JSON says which images there are,
//! then every blob is copied aside and checked, and only when all are whole they are committed. Archives that cannot be read
//! at random (compressed, or a stream) are spooled to the store's file system first.

mod docker;
mod files;
mod import;
mod layout;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use shale_cache::{OciDigest, Store, StoreError};

pub use import::ImportedImage;
pub use layout::{CREATED, IMAGE_NAME, Layout, LayoutImage, REF_NAME};

use crate::oci::manifest::{Descriptor, ManifestError};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use files::Files;

/// Where an archive comes from.
pub enum Input<'a> {
    /// A file or a layout directory.
    Path(&'a Path),
    /// A stream, such as stdin.
    Stream(&'a mut dyn Read),
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file that cannot be read.
    #[error("cannot {deed} {}: {source}", shown(path))]
    Io {
        /// What was tried.
        deed: &'static str,
        /// On what; `-` is the stream.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It contradicts itself, or breaks off.
    #[error("invalid image archive {}: {detail}", shown(path))]
    Corrupt {
        /// The archive; `-` is the stream.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// There is nothing in it, as when what was to write it failed.
    #[error("{} is no image archive: it is empty", shown(path))]
    Empty {
        /// The file; `-` is the stream.
        path: PathBuf,
    },
    /// Neither an OCI layout nor a docker-archive.
    #[error("{} is no image archive: it has neither index.json nor manifest.json", shown(path))]
    NotAnImage {
        /// The archive; `-` is the stream.
        path: PathBuf,
    },
    /// Not even a tar.
    #[error("{} is no image archive: it is no tar", shown(path))]
    NotATar {
        /// The file; `-` is the stream.
        path: PathBuf,
    },
    /// A manifest in it cannot be used.
    #[error("invalid image archive {}: {source}", shown(path))]
    Manifest {
        /// The archive; `-` is the stream.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// It has no image for the platform.
    #[error("{}: no match for platform in manifest: not found", shown(path))]
    NoPlatform {
        /// The archive; `-` is the stream.
        path: PathBuf,
        /// The platform.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// It has no such image.
    #[error("{}: {wanted}: not found", shown(path))]
    NotFound {
        /// The archive; `-` is the stream.
        path: PathBuf,
        /// Tag or digest.
        wanted: String,
        /// The names that there are.
        offered: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoPlatform { wanted, offered, .. } => Some(format!("wanted {wanted}; the archive has {}", offered.join(", "))),
            Self::NotFound { offered, .. } if !offered.is_empty() => Some(format!("there is {}", offered.join(", "))),
            Self::Corrupt { .. } => Some("the store is as it was; make or copy the archive again".into()),
            _ => None,
        }
    }
}

/// An archive's name in an error.
fn shown(path: &Path) -> Cow<'_, str> {
    if path.as_os_str() == "-" { "standard input".into() } else { path.to_string_lossy() }
}

/// What stands behind names in an archive: one image, or those of several platforms in the order of their index.
#[derive(Clone, Debug)]
pub struct Group<T> {
    /// The names, each with a tag; none if the archive has none.
    pub names: Vec<Reference>,
    /// At least one.
    pub images: Vec<T>,
    /// The place of the image that the names mean where only one can be meant.
    pub chosen: usize,
    /// What is known of the index, if there are several images.
    pub index: IndexFacts,
    /// The platforms that the index has images for which are not here.
    pub left_out: Vec<String>,
}

/// What an index says besides its images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexFacts {
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what points to it, without names and times.
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Whether it is Docker's list.
    pub is_docker: bool,
}

impl<T> Group<T> {
    /// A lone image.
    fn of_one(image: T, names: Vec<Reference>) -> Self {
        Self { names, images: vec![image], chosen: 0, index: IndexFacts::default(), left_out: Vec::new() }
    }

    /// The same with something else in the place of its images.
    fn with<U>(&self, images: Vec<U>) -> Group<U> {
        let Self { names, chosen, index, left_out, .. } = self;
        Group { names: names.clone(), images, chosen: *chosen, index: index.clone(), left_out: left_out.clone() }
    }
}

/// An image as its archive describes it.
#[derive(Clone, Debug)]
struct FoundImage {
    config: Vec<u8>,
    /// Its bytes and digest; docker-archives have none.
    manifest: Option<(Vec<u8>, Descriptor)>,
    layers: Vec<FoundLayer>,
    /// Annotations of what points to it in an index of several.
    annotations: BTreeMap<String, String>,
}

impl Group<FoundImage> {
    /// The manifests of an OCI layout.
    fn digests(&self) -> impl Iterator<Item = Option<&OciDigest>> {
        self.images.iter().map(|image| image.manifest.as_ref().map(|(_, descriptor)| &descriptor.digest))
    }
}

/// A layer in an archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct FoundLayer {
    diff_id: OciDigest,
    /// The file in the archive.
    file: String,
    /// What the manifest says about it; docker-archives say nothing.
    blob: Option<(OciDigest, u64, String)>,
}

/// Reads all images of an archive, or those of one platform where it has several, and puts their blobs into the store. Records and
/// names are the caller's.
pub fn import(store: &Store, input: Input<'_>, platform: Option<&Platform>) -> Result<Vec<Group<ImportedImage>>, ArchiveError> {
    let files = Files::open(store, input)?;
    let (is_layout, is_docker) = (files.has("index.json")?, files.has("manifest.json")?);
    if !is_layout && !is_docker {
        return Err(ArchiveError::NotAnImage { path: files.path().into() });
    }
    let mut groups = if is_layout { layout::images(&files, platform)? } else { Vec::new() };
    if is_docker {
        for (image, names) in docker::images(&files)? {
            // A tar that is both lists an image twice; each list may have names that the other cannot express.
            match groups.iter_mut().find(|group| group.images[group.chosen].config == image.config) {
                Some(other) => {
                    other.names.extend(names);
                    other.names.sort();
                    other.names.dedup();
                }
                None => groups.push(Group::of_one(image, names)),
            }
        }
    }
    import::import(store, &files, &groups)
}
