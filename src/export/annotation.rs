//! Annotations that the caller asks for: `--annotation` and the `annotation*` attributes of `--output`, as BuildKit sorts them.

use std::collections::BTreeMap;

use crate::oci::platform::Platform;

/// What is annotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The manifest of an image.
    Manifest,
    /// What points to the manifest.
    ManifestDescriptor,
    /// The index over several images.
    Index,
    /// What points to the index.
    IndexDescriptor,
}

impl Place {
    /// The place of a name (`manifest-descriptor`); the empty one is the manifest.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "" | "manifest" => Self::Manifest,
            "manifest-descriptor" => Self::ManifestDescriptor,
            "index" => Self::Index,
            "index-descriptor" => Self::IndexDescriptor,
            _ => return None,
        })
    }
}

/// Annotations by place and platform; `None` is every platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(BTreeMap<(Place, Option<Platform>), BTreeMap<String, String>>);

/// Annotations that the result has no place for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// There is no index.
    #[error("index annotations not supported for single platform export")]
    SinglePlatform,
    /// A platform that is not built.
    #[error("invalid annotation: no platform {0} found in source")]
    NoPlatform(Platform),
    /// Docker's media types have none but those of a manifest.
    #[error("cannot export annotations with \"oci-mediatypes=false\"")]
    DockerTypes,
}

impl Annotations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one; the last of a key counts.
    pub fn set(&mut self, place: Place, platform: Option<Platform>, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry((place, platform)).or_default().insert(key.into(), value.into());
    }

    /// Adds others over these.
    pub fn extend(&mut self, others: &Self) {
        for ((place, platform), pairs) in &others.0 {
            self.0.entry((*place, platform.clone())).or_default().extend(pairs.clone());
        }
    }

    /// What a place gets for a platform: those of every platform, over them its own.
    pub fn of(&self, place: Place, platform: Option<&Platform>) -> BTreeMap<String, String> {
        let mut all = self.0.get(&(place, None)).cloned().unwrap_or_default();
        if let Some(platform) = platform {
            all.extend(self.0.get(&(place, Some(platform.clone()))).cloned().unwrap_or_default());
        }
        all
    }

    /// All that a place gets for any platform.
    pub fn of_any(&self, place: Place) -> BTreeMap<String, String> {
        self.0.iter().filter(|((own, _), _)| *own == place).flat_map(|(_, pairs)| pairs.clone()).collect()
    }

    /// Refuses what a result for these platforms has no place for.
    pub fn check(&self, platforms: &[&Platform], is_index: bool, docker_types: bool) -> Result<(), AnnotationError> {
        for (place, platform) in self.0.keys() {
            if let Some(platform) = platform.as_ref().filter(|platform| !platforms.contains(platform)) {
                return Err(AnnotationError::NoPlatform(platform.clone()));
            }
            if docker_types && *place != Place::Manifest {
                return Err(AnnotationError::DockerTypes);
            }
            if !is_index && matches!(place, Place::Index | Place::IndexDescriptor) {
                return Err(AnnotationError::SinglePlatform);
            }
        }
        Ok(())
    }
}
