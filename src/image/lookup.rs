//! Which image of the store a text means, and the parts of an image.

use shale_cache::{ImageLayer, ImageRecord, OciDigest};

use super::{BaseLayer, ImageError, ImageService};
use crate::oci::config::ImageConfig;
use crate::oci::reference::{Reference, ReferenceError};

/// Digits of an id that are printed where a short one is wanted.
pub(super) const SHORT_ID_DIGITS: usize = 12;

/// How a text named an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// By a name with a tag; the full form.
    Tag(Reference),
    /// By `name@digest`.
    Digest(Reference),
    /// By its id or a prefix of it.
    Id,
}

impl ImageService {
    /// Finds an image as `docker inspect` does: full id, name, `name@digest`, then a unique prefix of an id.
    pub(super) fn find(&self, text: &str) -> Result<(ImageRecord, Named), ImageError> {
        if let Some(record) = self.find_full_id(text)? {
            return Ok((record, Named::Id));
        }
        // As Docker says it: with the tag that was looked for.
        let mut asked = text.to_owned();
        match Reference::parse(text) {
            Ok(reference) => {
                let reference = reference.with_default_tag();
                asked = reference.familiar();
                if let Some(record) = self.find_reference(&reference)? {
                    let named = if reference.digest().is_some() { Named::Digest(reference) } else { Named::Tag(reference) };
                    return Ok((record, named));
                }
            }
            Err(ReferenceError::Identifier { .. }) => {}
            Err(source) => return Err(ImageError::Reference { text: text.into(), source }),
        }
        match self.find_prefix(text, 1)? {
            Some(record) => Ok((record, Named::Id)),
            None => Err(ImageError::NotFound { name: asked }),
        }
    }

    /// `sha256:<64 digits>` or the digits alone.
    pub(super) fn find_full_id(&self, text: &str) -> Result<Option<ImageRecord>, ImageError> {
        let digest = text.parse().or_else(|_| format!("sha256:{text}").parse::<OciDigest>());
        let Ok(digest) = digest else { return Ok(None) };
        Ok(self.store.images().get(&digest)?)
    }

    /// An image by its tag, or by the digest of its manifest, of its index, or of itself.
    pub(super) fn find_reference(&self, reference: &Reference) -> Result<Option<ImageRecord>, ImageError> {
        let images = self.store.images();
        let Some(digest) = reference.digest() else {
            return Ok(images.named(&reference.to_string())?);
        };
        let known_as = reference.at_digest(digest).to_string();
        let matches = |r: &ImageRecord| r.repo_digests.contains(&known_as) || r.manifest.as_ref().is_some_and(|m| m.digest == *digest);
        Ok(images.list()?.into_iter().map(|(record, _)| record).find(matches))
    }

    /// The only image whose id begins so.
    pub(super) fn find_prefix(&self, text: &str, least_digits: usize) -> Result<Option<ImageRecord>, ImageError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() < least_digits || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let ids = self.store.images().find_by_id_prefix(text)?;
        match &ids[..] {
            [] => Ok(None),
            [id] => Ok(self.store.images().get(id)?),
            _ => Err(ImageError::Ambiguous { prefix: text.into() }),
        }
    }

    /// The names of the only image whose id begins so; a few digits could be anything.
    pub fn names_by_id(&self, text: &str) -> Result<Option<Vec<Reference>>, ImageError> {
        let found = self.find_prefix(text, SHORT_ID_DIGITS)?;
        found.map(|record| self.names_of(&record.id)).transpose()
    }

    /// The config of an image in the store.
    pub(super) fn config_of(&self, record: &ImageRecord) -> Result<(ImageConfig, Vec<u8>), ImageError> {
        let missing = || ImageError::MissingBlob { image: record.id.to_string(), digest: record.id.clone() };
        let bytes = self.store.blobs().read(&record.id)?.ok_or_else(missing)?;
        let config = parse_config(&record.id.to_string(), &bytes)?;
        Ok((config, bytes))
    }

    /// The names of an image.
    pub(super) fn names_of(&self, id: &OciDigest) -> Result<Vec<Reference>, ImageError> {
        Ok(references(&self.store.images().names_of(id)?))
    }

    /// The layers, with what the store knows about the DiffIDs of those that have no blob. Of the others nothing is asked that a build
    /// may not need: a base can have hundreds.
    pub(super) fn with_known_layers(&self, layers: &[ImageLayer]) -> Result<Vec<BaseLayer>, ImageError> {
        let layers = layers.iter().map(|layer| {
            let known = match layer {
                ImageLayer { layer: None, blob: None, diff_id } => self.store.layers().by_diff(diff_id)?,
                layer => layer.layer,
            };
            Ok(BaseLayer { layer: known, ..layer.clone() })
        });
        layers.collect()
    }
}

/// Reads a config.
pub(super) fn parse_config(image: &str, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    let invalid = |e: serde_json::Error| ImageError::Invalid { image: image.into(), detail: format!("invalid image config: {e}") };
    ImageConfig::from_json(bytes).map_err(invalid)
}

/// Names from the store, which were references when they were put there.
pub(super) fn references(names: &[String]) -> Vec<Reference> {
    names.iter().filter_map(|name| Reference::parse(name).ok()).collect()
}

/// Twelve digits of an id.
pub fn short_id(id: &OciDigest) -> &str {
    let hex = id.hex();
    &hex[..SHORT_ID_DIGITS.min(hex.len())]
}
