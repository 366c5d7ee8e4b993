//! Filesystems as views.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shale_cache::ContentId;

use super::unpacked::merged_name;
use super::{Forms, lock, stack};
use crate::execute::StepError;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::tree::index::Index;
use crate::tree::merge::merge;
use crate::tree::view::View;

/// What this build has merged in memory.
#[derive(Debug, Default)]
pub(super) struct Known {
    merged: Mutex<HashMap<ContentId, Arc<Index>>>,
    settled: Mutex<Option<Settled>>,
}

/// The merged part of the stack that was asked for last: the next step's is mostly the same.
#[derive(Debug)]
struct Settled {
    layers: Arc<[LayerRef]>,
    count: usize,
    indexes: Vec<Arc<Index>>,
}

impl Forms<'_> {
    /// A filesystem as a view.
    pub fn view(&self, snapshot: &Snapshot) -> Result<View, StepError> {
        Ok(View::new(self.indexes(&snapshot.layers)?))
    }

    /// The same for who asks what lies at a path and not in which layer: of a high stack the light layers are merged, so that no step
    /// looks into each of a thousand.
    pub fn view_without_layers(&self, snapshot: &Snapshot) -> Result<View, StepError> {
        let settled = stack::settled(snapshot.layers.len());
        let mut indexes = if settled > 0 { self.settled_indexes(&snapshot.layers, settled)? } else { Vec::new() };
        indexes.extend(self.indexes(&snapshot.layers[settled..])?);
        Ok(View::new(indexes))
    }

    fn indexes(&self, layers: &[LayerRef]) -> Result<Vec<Arc<Index>>, StepError> {
        layers.iter().map(|layer| self.index(layer)).collect()
    }

    fn settled_indexes(&self, layers: &Arc<[LayerRef]>, count: usize) -> Result<Vec<Arc<Index>>, StepError> {
        if let Some(known) = &*lock(&self.views.settled)
            && known.count == count
            && known.layers[..count] == layers[..count]
        {
            return Ok(known.indexes.clone());
        }
        let single = self.indexes(&layers[..count])?;
        let entries: Vec<usize> = single.iter().map(|index| index.len()).collect();
        let mut indexes = Vec::new();
        for block in stack::light_blocks(&entries) {
            if block.len() == 1 {
                indexes.push(Arc::clone(&single[block.start]));
                continue;
            }
            let ids = layers[block.clone()].iter().map(|layer| self.layer_id(layer)).collect::<Result<Vec<_>, _>>()?;
            let merge = || Arc::new(merge(&single[block]).index);
            indexes.push(Arc::clone(lock(&self.views.merged).entry(merged_name(&ids)).or_insert_with(merge)));
        }
        *lock(&self.views.settled) = Some(Settled { layers: Arc::clone(layers), count, indexes: indexes.clone() });
        Ok(indexes)
    }
}
