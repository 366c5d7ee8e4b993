//! list, tag, remove, commit.

use shale_cache::{ImageLayer, OciDigest};

use super::{ImageError, ImageService};
use crate::oci::reference::Reference;

/// One line of `images`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The image id.
    pub id: OciDigest,
    /// The names it has, familiar forms; empty for a dangling image.
    pub names: Vec<Reference>,
    /// `name@digest` under which registries know it.
    pub repo_digests: Vec<String>,
    /// RFC 3339 time of the config.
    pub created: Option<String>,
    /// Sum of the layers' sizes as far as they are known.
    pub size_bytes: u64,
}

/// What `remove` did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// `Untagged: alpine:latest`
    Untagged(String),
    /// `Deleted: sha256:…`
    Deleted(String),
}

impl ImageService {
    /// The images, newest first.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        todo!()
    }

    /// Gives an image another name.
    pub fn tag(&self, source: &str, target: &str) -> Result<Reference, ImageError> {
        let _ = (source, target);
        todo!()
    }

    /// Removes a name, or an image with all its names.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removal>, ImageError> {
        let _ = (name, force);
        todo!()
    }

    /// Keeps a built image under its names: config and record go into the store, the names move to it. Returns the image id.
    pub fn commit(&self, names: &[Reference], config: &[u8], layers: Vec<ImageLayer>) -> Result<OciDigest, ImageError> {
        let _ = (names, config, layers);
        todo!()
    }
}
