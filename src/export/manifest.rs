//! Manifests of built images, and the indexes over them.

use shale_cache::OciDigest;

use super::{ExportError, ExportImage, ExportIndex, MediaTypes};
use crate::oci::manifest::{Descriptor, DescriptorPlatform, Document, Index, Manifest, media};

/// A manifest as it is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltManifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: OciDigest,
    /// The manifest's media type.
    pub media_type: String,
    /// Digest of the config, the image id.
    pub config: OciDigest,
}

/// Builds the manifest of an image, or takes the one it came with.
pub fn build_manifest(image: &ExportImage, types: MediaTypes) -> Result<BuiltManifest, ExportError> {
    let config = OciDigest::sha256_of(&image.config);
    if let Some(bytes) = &image.manifest {
        return kept(image, bytes, config);
    }
    let of = |media_type: &str| match types {
        MediaTypes::Oci => media::oci_of(media_type).to_owned(),
        MediaTypes::Docker => media::docker_of(media_type).to_owned(),
    };
    let layers = image.layers.iter().map(|l| Descriptor::new(&of(&l.media_type), l.blob.clone(), l.size_bytes)).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: of(media::OCI_MANIFEST),
        config: Descriptor::new(&of(media::OCI_CONFIG), config.clone(), image.config.len() as u64),
        layers,
        annotations: image.annotations.clone(),
    };
    let bytes = manifest.to_json();
    Ok(BuiltManifest { digest: OciDigest::sha256_of(&bytes), media_type: manifest.media_type, bytes, config })
}

/// An index as it is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltIndex {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: OciDigest,
    /// The index's media type.
    pub media_type: String,
    /// The manifests that it joins, in its order.
    pub manifests: Vec<BuiltManifest>,
}

/// Builds the index of images for several platforms, with their manifests.
pub fn build_index(index: &ExportIndex, types: MediaTypes) -> Result<BuiltIndex, ExportError> {
    let manifests = index.images.iter().map(|(_, image)| build_manifest(image, types)).collect::<Result<Vec<_>, _>>()?;
    let entries = index.images.iter().zip(&manifests).map(|((platform, image), manifest)| {
        let mut entry = Descriptor::new(&manifest.media_type, manifest.digest.clone(), manifest.bytes.len() as u64);
        entry.annotations.clone_from(&image.descriptor_annotations);
        entry.platform = Some(DescriptorPlatform::from(platform));
        entry
    });
    let mut document = Index::new(entries.collect());
    if types == MediaTypes::Docker {
        document.media_type = media::docker_of(&document.media_type).into();
    }
    document.annotations.clone_from(&index.annotations);
    let bytes = document.to_json();
    Ok(BuiltIndex { digest: OciDigest::sha256_of(&bytes), bytes, media_type: document.media_type, manifests })
}

/// A manifest that must stay as it is: only that it belongs to the image is checked.
fn kept(image: &ExportImage, bytes: &[u8], config: OciDigest) -> Result<BuiltManifest, ExportError> {
    let invalid = |detail: String| ExportError::Invalid { detail };
    let Document::Manifest(manifest) = Document::parse(bytes, None).map_err(|e| invalid(e.to_string()))? else {
        return Err(invalid("its manifest is an index".into()));
    };
    if manifest.config.digest != config {
        return Err(invalid(format!("its manifest is for the config {}, not {config}", manifest.config.digest)));
    }
    if !manifest.layers.iter().map(|l| &l.digest).eq(image.layers.iter().map(|l| &l.blob)) {
        return Err(invalid("its manifest has other layers".into()));
    }
    let media_type = if manifest.media_type.is_empty() { media::OCI_MANIFEST.into() } else { manifest.media_type };
    Ok(BuiltManifest { digest: OciDigest::sha256_of(bytes), bytes: bytes.into(), media_type, config })
}
