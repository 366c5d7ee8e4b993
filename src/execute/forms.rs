//! The forms of a layer, made from each other on demand: index, unpacked directory, packed tar.
//!
//! One value serves a whole build: it starts the worker when the first unpacked form is needed, and never before.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shale_cache::{DiffId, LayerId, PackKey, Packed, Store};

use super::StepError;
use crate::image::BaseImageSet;
use crate::layer::compress::{Decoder, Encoder, PackWriter};
use crate::layer::graft::SourceRef;
use crate::layer::read;
use crate::layer::write;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::tree::index::Index;
use crate::tree::view::View;
use crate::worker::{LowerLayer, Worker, WorkerConfig};

/// How layers are packed for the outputs of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackSpec {
    /// Compression of the blobs; `None`: no output wants blobs, DiffIDs are enough.
    pub encoder: Option<Encoder>,
    /// `rewrite-timestamp`: no mtime later than this, in seconds since the epoch.
    pub clamp_secs: Option<i64>,
}

/// Layers in every form, for one build.
pub struct Forms<'a> {
    store: &'a Store,
    bases: &'a dyn BaseImageSet,
    worker: Mutex<Option<Arc<Worker>>>,
    indexes: Mutex<HashMap<LayerId, Arc<Index>>>,
    /// One lock per layer that is being unpacked or packed, so that two stages do not do the same work.
    making: Mutex<HashMap<LayerId, Arc<Mutex<()>>>>,
}

impl<'a> Forms<'a> {
    /// Nothing is read or started yet.
    pub fn new(store: &'a Store, bases: &'a dyn BaseImageSet) -> Self {
        Self { store, bases, worker: Mutex::default(), indexes: Mutex::default(), making: Mutex::default() }
    }

    /// The worker, started by the first who asks.
    pub fn worker(&self) -> Result<Arc<Worker>, StepError> {
        let mut slot = lock(&self.worker);
        if let Some(worker) = slot.as_ref() {
            return Ok(Arc::clone(worker));
        }
        let worker = Arc::new(Worker::start(&WorkerConfig { store_root: self.store.root().to_owned() })?);
        *slot = Some(Arc::clone(&worker));
        Ok(worker)
    }

    /// The worker, if anybody needed one.
    pub fn started_worker(&self) -> Option<Arc<Worker>> {
        lock(&self.worker).clone()
    }

    /// The id of a layer's index. For a layer of a base that was never looked into this reads its blob once.
    pub fn layer_id(&self, layer: &LayerRef) -> Result<LayerId, StepError> {
        let LayerRef::Base { image, number, diff_id } = layer else {
            let LayerRef::Own { layer, .. } = layer else { unreachable!("two kinds of layers") };
            return Ok(*layer);
        };
        if let Some(known) = self.store.layers().by_diff(diff_id)? {
            return Ok(known);
        }
        let blob = self.bases.open_layer(*image, *number)?;
        let index = read::index_of(Decoder::new(blob)?)?;
        let id = self.store.layers().put_index(index.as_bytes())?;
        self.store.layers().set_by_diff(diff_id, &id)?;
        Ok(id)
    }

    /// The index of a layer.
    pub fn index(&self, layer: &LayerRef) -> Result<Arc<Index>, StepError> {
        let id = self.layer_id(layer)?;
        if let Some(index) = lock(&self.indexes).get(&id) {
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(Index::open(&self.store.layers().index_path(&id))?);
        lock(&self.indexes).insert(id, Arc::clone(&index));
        Ok(index)
    }

    /// A filesystem as a view.
    pub fn view(&self, snapshot: &Snapshot) -> Result<Arc<View>, StepError> {
        let layers = snapshot.layers.iter().map(|layer| self.index(layer)).collect::<Result<_, _>>()?;
        Ok(Arc::new(View::new(layers)))
    }

    /// A filesystem unpacked, bottom first: the lowers of a RUN.
    pub fn lowers(&self, snapshot: &Snapshot) -> Result<Vec<LowerLayer>, StepError> {
        snapshot.layers.iter().map(|layer| self.unpacked(layer)).collect()
    }

    /// One layer's unpacked form.
    fn unpacked(&self, layer: &LayerRef) -> Result<LowerLayer, StepError> {
        let layers = self.store.layers();
        let map = self.worker()?.map_id();
        if let Some(id) = self.known_id(layer)?
            && layers.has_fs(&id, &map)?
        {
            return Ok(LowerLayer { fs: layers.fs_path(&id, &map), index: layers.index_path(&id) });
        }
        let (id, fs) = self.unpack(layer)?;
        Ok(LowerLayer { fs, index: layers.index_path(&id) })
    }

    /// The index id where it is known without reading a blob.
    fn known_id(&self, layer: &LayerRef) -> Result<Option<LayerId>, StepError> {
        Ok(match layer {
            LayerRef::Own { layer, .. } => Some(*layer),
            LayerRef::Base { diff_id, .. } => self.store.layers().by_diff(diff_id)?,
        })
    }
}

/// A lock that a panicking thread held is still good: every critical section here is one map operation.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
