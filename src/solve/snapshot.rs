//! The result of a vertex: a filesystem as a stack of layers, known by its chain.

use std::sync::Arc;

use shale_cache::{ChainId, DiffId, LayerId};

use crate::plan::graph::BaseId;

/// One layer of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerRef {
    /// Layer `number` of a base image: its DiffID is authoritative and its blob is exported untouched.
    Base {
        /// Which image of the build's `BaseImages`.
        image: BaseId,
        /// Position in the image, 0 at the bottom.
        number: usize,
        /// Its uncompressed digest.
        diff_id: DiffId,
    },
    /// A layer that a step made.
    Own {
        /// Its index.
        layer: LayerId,
        /// When the step that first made it ended: seconds and nanoseconds since the epoch.
        created: (i64, u32),
    },
}

/// A filesystem.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Names the content: what keys of later steps contain.
    pub chain: ChainId,
    /// Layers, bottom first.
    pub layers: Arc<[LayerRef]>,
}

impl Snapshot {
    /// The empty filesystem.
    pub fn scratch() -> Self {
        Self { chain: ChainId::scratch(), layers: Arc::new([]) }
    }

    /// A base image's filesystem.
    pub fn base(image: BaseId, diff_ids: &[DiffId]) -> Self {
        let layers =
            diff_ids.iter().enumerate().map(|(number, diff_id)| LayerRef::Base { image, number, diff_id: diff_id.clone() }).collect();
        Self { chain: ChainId::of_base(diff_ids), layers }
    }

    /// This filesystem with one more layer.
    #[must_use]
    pub fn with_layer(&self, content: shale_cache::ContentId, layer: LayerId, created: (i64, u32)) -> Self {
        let mut layers = self.layers.to_vec();
        layers.push(LayerRef::Own { layer, created });
        Self { chain: self.chain.child(content), layers: layers.into() }
    }
}
