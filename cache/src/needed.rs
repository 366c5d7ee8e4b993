//! What images need: it stays, whatever is pruned.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::blob::Blobs;
use crate::digest::{LayerId, OciDigest};
use crate::entry;
use crate::error::StoreError;
use crate::image::{ImageRecord, Images};
use crate::layer::PackedEntry;
use crate::store::Inner;
use crate::tmp::names_in;

/// The parts that images need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    pub(crate) blobs: BTreeSet<OciDigest>,
    /// Layers that an image names: their indexes stay.
    pub(crate) layers: BTreeSet<LayerId>,
    /// Those of them that the image has in no packed form: their unpacked forms stay.
    pub(crate) unpacked: BTreeSet<LayerId>,
}

impl Needed {
    /// What all images need together.
    pub(crate) fn of(store: &Arc<Inner>) -> Result<Self, StoreError> {
        let mut needed = Self::default();
        let images = Images::new(store);
        // A name can stand for other blobs of an image than its record.
        let tagged = images.tagged()?.into_iter().map(|(_, record)| record);
        for record in images.records()?.into_iter().chain(tagged) {
            let own = Self::of_image(store, &record)?;
            needed.blobs.extend(own.blobs);
            needed.layers.extend(own.layers);
            needed.unpacked.extend(own.unpacked);
        }
        Ok(needed)
    }

    /// How many parts that are.
    pub(crate) fn len(&self) -> usize {
        self.blobs.len() + self.layers.len()
    }

    /// What one image needs.
    pub(crate) fn of_image(store: &Arc<Inner>, record: &ImageRecord) -> Result<Self, StoreError> {
        let mut needed = Self::default();
        needed.blobs.insert(record.id.clone());
        needed.blobs.extend(record.manifest.iter().map(|manifest| manifest.digest.clone()));
        for layer in &record.layers {
            needed.layers.extend(layer.layer);
            let packed = layer.blob.as_ref().map(|blob| &blob.digest);
            let has_blob = match packed {
                Some(digest) => Blobs::new(store).is_there(digest)?,
                None => false,
            };
            if let Some(layer) = layer.layer.filter(|_| !has_blob) {
                match best_packed(store, &layer)? {
                    Some(blob) => needed.blobs.extend([blob]),
                    None => needed.unpacked.extend([layer]),
                }
            }
            needed.blobs.extend(packed.cloned());
        }
        Ok(needed)
    }
}

/// The packed form that stays of a layer: one form is enough to make the others. It has all times, and is the smallest then.
fn best_packed(store: &Arc<Inner>, layer: &LayerId) -> Result<Option<OciDigest>, StoreError> {
    let dir = store.root().join("layers").join(layer.to_hex()).join("packed");
    let mut best = None;
    for name in names_in(&dir)? {
        let Some(PackedEntry { key, packed }) = packed_entry(store, &dir.join(name))? else { continue };
        let rank = (key.clamp_secs.is_some(), packed.size_bytes, packed.blob.clone());
        if Blobs::new(store).is_there(&packed.blob)? && best.as_ref().is_none_or(|best| rank < *best) {
            best = Some(rank);
        }
    }
    Ok(best.map(|(.., blob)| blob))
}

fn packed_entry(store: &Inner, path: &Path) -> Result<Option<PackedEntry>, StoreError> {
    Ok(store.read_entry::<PackedEntry>(entry::PACKED, path)?.trusted())
}
