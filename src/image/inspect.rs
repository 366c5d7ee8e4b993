//! Docker's JSON about an image.

use super::{ImageError, ImageService};

/// What `docker inspect` prints of an image.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspect {}

/// `Config` of [`Inspect`].
#[derive(Clone, Debug)]
pub struct ContainerConfig {}

/// `RootFS` of [`Inspect`].
#[derive(Clone, Debug)]
pub struct InspectRootFs {}

impl ImageService {
    /// Everything about an image, by name, digest, id or id prefix.
    pub fn inspect(&self, name: &str) -> Result<Inspect, ImageError> {
        let _ = name;
        todo!()
    }
}
