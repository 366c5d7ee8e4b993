//! Layers, when they are needed.

use shale_cache::BlobRef;

use super::{ImageError, ImageService, ResolvedImage};
use crate::source::registry::Progress;

impl ImageService {
    /// The blob of layer `n`, fetched into the store if it is absent. Several threads may ask for the same one.
    pub fn ensure_blob(&self, image: &ResolvedImage, n: usize, progress: &dyn Progress) -> Result<BlobRef, ImageError> {
        let _ = (image, n, progress);
        todo!()
    }

    /// The blobs of all layers, several at a time.
    pub fn ensure_blobs(&self, image: &ResolvedImage, progress: &dyn Progress) -> Result<Vec<BlobRef>, ImageError> {
        let _ = (image, progress);
        todo!()
    }
}
