//! pull, load, save.

use shale_cache::{ImageLayer, OciDigest, Packed};

use super::{ImageError, ImageService, ResolvedImage};
use crate::export::{Destination, Exported, Format};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::archive::Input;
use crate::source::registry::Progress;

/// An image that `load` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image id.
    pub id: OciDigest,
    /// The names it got; none if the archive has none.
    pub names: Vec<Reference>,
}

impl ImageService {
    /// Fetches an image with all its layers (`pull`).
    pub fn pull(&self, name: &str, platform: &Platform, progress: &dyn Progress) -> Result<ResolvedImage, ImageError> {
        let _ = (name, platform, progress);
        todo!()
    }

    /// Reads images from an archive or layout into the store.
    pub fn load(&self, input: Input<'_>, platform: &Platform) -> Result<Vec<Loaded>, ImageError> {
        let _ = (input, platform);
        todo!()
    }

    /// Writes images by their names. `pack` packs a layer that has no blob.
    pub fn save(
        &self,
        names: &[&str],
        format: Format,
        destination: Destination<'_>,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<Vec<Exported>, ImageError> {
        let _ = (names, format, destination, pack);
        todo!()
    }
}
