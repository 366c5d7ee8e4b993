//! From a name to a base image.

use super::{ImageError, ImageService, PullPolicy, ResolvedImage};
use crate::oci::platform::Platform;
use crate::source::registry::Progress;

impl ImageService {
    /// Finds a base image: named context, then store, then registry. Manifest and config are in the store afterwards.
    pub fn resolve(
        &self,
        name: &str,
        platform: &Platform,
        policy: PullPolicy,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let _ = (name, platform, policy, progress);
        todo!()
    }
}
