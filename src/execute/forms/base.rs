//! The layers of bases, as the store knows them.
//!
//! A tar is mostly the same layer everywhere, and known by its DiffID. One that leaves out directories is not: what these are is for
//! the layers below to say, so it is known by the DiffIDs of all of them.

use std::path::PathBuf;

use shale_cache::{ChainId, ContentId, DiffId, KnownLayer, LayerId, MapId};

use super::{Forms, lock};
use crate::execute::StepError;
use crate::layer::compress::Decoder;
use crate::layer::read::{Digested, read_index};
use crate::plan::graph::BaseId;
use crate::solve::snapshot::LayerRef;
use crate::tree::implied::settle;
use crate::tree::view::View;

impl Forms<'_> {
    /// The layer, if the store has it.
    pub fn known_layer(&self, layer: &LayerRef) -> Result<Option<LayerId>, StepError> {
        let (image, number) = match layer {
            LayerRef::Own { layer, .. } => return Ok(Some(*layer)),
            LayerRef::Base { image, number, .. } => (*image, *number),
        };
        let known = lock(&self.of_bases).get(&(image, number)).copied();
        if known.is_some() {
            return Ok(known);
        }
        let found = match self.store.layers().by_diff(self.diff_id_of(image, number))? {
            None => self.store.layers().by_content(&self.name_upon(image, number))?.map(|known| known.layer),
            plain => plain,
        };
        if let Some(layer) = found {
            lock(&self.of_bases).insert((image, number), layer);
        }
        Ok(found)
    }

    /// Reads the blob of a layer that the store does not know, for its index.
    pub(super) fn look_into(&self, image: BaseId, number: usize) -> Result<LayerId, StepError> {
        let read = self.read_blob(&self.base_layer(image, number), |blob| {
            let tar = Decoder::new(blob).map_err(StepError::io("read", self.diff_id_of(image, number).0.to_string()))?;
            self.as_said(image, number, read_index(tar)?)
        })?;
        self.keep(image, number, read).map(|(id, _)| id)
    }

    /// Unpacks a layer into a fresh directory of the store.
    pub(super) fn unpack_base(&self, image: BaseId, number: usize, map: &MapId) -> Result<(LayerId, PathBuf), StepError> {
        self.with_fresh_dir(|dest| {
            let unpack = |blob: &_| self.as_said(image, number, self.worker()?.unpack(blob, dest)?);
            let read = self.read_blob(&self.base_layer(image, number), unpack)?;
            let (id, changed) = self.keep(image, number, read)?;
            if !changed.is_empty() {
                self.worker()?.settle(self.store.layers().index_path(&id), changed, dest)?;
            }
            Ok((id, self.store.layers().commit_fs(&id, map, dest)?))
        })
    }

    /// Keeps the index of a layer that was read. Beside its id come the directories that are something else than was read.
    fn keep(&self, image: BaseId, number: usize, read: Digested) -> Result<(LayerId, Vec<Vec<u8>>), StepError> {
        let layers = self.store.layers();
        if read.implied.is_empty() {
            let id = layers.put_index(read.index.as_bytes())?;
            layers.set_by_diff(self.diff_id_of(image, number), &id)?;
            return Ok((id, Vec::new()));
        }
        let below = (0..number).map(|lower| self.index(&self.base_layer(image, lower))).collect::<Result<_, _>>()?;
        let (index, changed) = settle(&read.index, &read.implied, &View::new(below)).unwrap_or((read.index, Vec::new()));
        let id = layers.put_index(index.as_bytes())?;
        layers.set_by_content(&self.name_upon(image, number), &KnownLayer { layer: id })?;
        Ok((id, changed))
    }

    /// The name of a layer upon those below. Content ids of another origin are hashed in domains of their own.
    pub(super) fn name_upon(&self, image: BaseId, number: usize) -> ContentId {
        let layers = &self.bases[image.0].layers[..=number];
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let mut hasher = blake3::Hasher::new_derive_key("shale 2026 layer upon others");
        hasher.update(ChainId::of_base(&diff_ids).as_bytes());
        ContentId::from_bytes(*hasher.finalize().as_bytes())
    }

    fn base_layer(&self, image: BaseId, number: usize) -> LayerRef {
        LayerRef::Base { image, number, diff_id: self.diff_id_of(image, number).clone() }
    }

    fn diff_id_of(&self, image: BaseId, number: usize) -> &DiffId {
        &self.bases[image.0].layers[number].diff_id
    }

    /// A layer is known by its DiffID to every image: what an image only says about itself must not become known.
    fn as_said(&self, image: BaseId, number: usize, read: Digested) -> Result<Digested, StepError> {
        let said = self.diff_id_of(image, number);
        if read.diff_id == *said { Ok(read) } else { Err(self.wrong_diff_id(image, said, read.diff_id)) }
    }
}
