//! Unpacked forms: what a RUN stacks.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, memfd_create};
use shale_cache::{ContentId, KnownLayer, LayerId, MapId};

use super::{Forms, SMALL_INDEX_BYTES, lock, stack};
use crate::execute::StepError;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::threads::in_parallel;
use crate::tree::index::Index;
use crate::worker::{From, LowerLayer, To, WriteLayer};

/// Layers that are fetched and unpacked at a time; as many as an image fetches blobs at a time.
const PARALLEL_LAYERS: usize = 4;

/// An unpacked layer by the name of its index.
#[derive(Clone, Debug)]
struct Unpacked {
    id: LayerId,
    /// Nothing needs to be at its place then.
    is_empty: bool,
    lower: LowerLayer,
}

/// What this build has found or made unpacked. A build's lease keeps it there.
#[derive(Debug, Default)]
pub(super) struct Known {
    layers: Mutex<HashMap<LayerRef, Unpacked>>,
    merged: Mutex<HashMap<ContentId, Unpacked>>,
    settled: Mutex<Option<Settled>>,
}

/// The merged part of the stack that was asked for last: the next step's is mostly the same.
#[derive(Clone, Debug)]
struct Settled {
    /// All of the stack's layers.
    layers: Arc<[LayerRef]>,
    /// How many of them this is about, counted from the bottom.
    count: usize,
    stack: Vec<Unpacked>,
}

impl Forms<'_> {
    /// A filesystem unpacked, bottom first: the lowers of a RUN. Of a high stack layers are merged, in blocks that stay the same for
    /// the steps that follow.
    ///
    /// The kernel refuses a directory that stands twice in a stack. Of a layer that does, the upper place counts: it says again
    /// everything that the lower one said. Layers that change nothing are left out.
    pub fn lowers(&self, snapshot: &Snapshot) -> Result<Vec<LowerLayer>, StepError> {
        let settled = stack::settled(snapshot.layers.len());
        let mut stack = if settled > 0 { self.settled(&snapshot.layers, settled)? } else { Vec::new() };
        stack.extend(self.all_unpacked(&snapshot.layers[settled..])?);
        let mut seen = HashSet::new();
        let mut lowers: Vec<LowerLayer> =
            stack.into_iter().rev().filter(|layer| !layer.is_empty && seen.insert(layer.id)).map(|layer| layer.lower).collect();
        lowers.reverse();
        Ok(lowers)
    }

    /// The lowest layers of a stack, merged where they are many.
    fn settled(&self, layers: &Arc<[LayerRef]>, count: usize) -> Result<Vec<Unpacked>, StepError> {
        if let Some(known) = &*lock(&self.unpacked.settled)
            && known.count == count
            && known.layers[..count] == layers[..count]
        {
            return Ok(known.stack.clone());
        }
        let mut unseen = Vec::new();
        for layer in &layers[..count] {
            if self.known_layer(layer)?.is_none() {
                unseen.push(layer.clone());
            }
        }
        // Whoever asked for their indexes first would read them twice.
        self.all_unpacked(&unseen)?;
        let entries = layers[..count].iter().map(|layer| Ok(self.index(layer)?.len())).collect::<Result<Vec<_>, StepError>>()?;
        let mut stack = Vec::new();
        for block in stack::blocks(&entries) {
            if block.len() > 1 {
                stack.push(self.merged(&layers[block])?);
            } else {
                stack.extend(self.all_unpacked(&layers[block])?);
            }
        }
        *lock(&self.unpacked.settled) = Some(Settled { layers: Arc::clone(layers), count, stack: stack.clone() });
        Ok(stack)
    }

    /// Layers unpacked, several at a time where they must be fetched or made.
    fn all_unpacked(&self, layers: &[LayerRef]) -> Result<Vec<Unpacked>, StepError> {
        let mut found: Vec<Option<Unpacked>> = {
            let known = lock(&self.unpacked.layers);
            layers.iter().map(|layer| known.get(layer).cloned()).collect()
        };
        for (layer, found) in layers.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            *found = self.find_unpacked(layer)?;
            if let Some(found) = found {
                lock(&self.unpacked.layers).insert(layer.clone(), found.clone());
            }
        }
        let absent: Vec<usize> = (0..layers.len()).filter(|n| found[*n].is_none()).collect();
        if !absent.is_empty() {
            // Where there can be none, nothing is fetched in vain.
            self.worker()?;
        }
        let made = Mutex::new(Vec::new());
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(n) = absent.get(next.fetch_add(1, Ordering::Relaxed)) {
                let result = self.unpacked(&layers[*n]);
                if result.is_err() {
                    // The others end what they have begun and begin nothing more.
                    next.store(absent.len(), Ordering::Relaxed);
                }
                lock(&made).push((*n, result));
            }
        };
        in_parallel(PARALLEL_LAYERS.min(absent.len()), work);
        let mut made = made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        made.sort_by_key(|(n, _)| *n);
        for (n, result) in made {
            let layer = result?;
            lock(&self.unpacked.layers).insert(layers[n].clone(), layer.clone());
            found[n] = Some(layer);
        }
        Ok(found.into_iter().map(|layer| layer.expect("all were found or made")).collect())
    }

    /// One layer's unpacked form, if it is there: no worker is needed to find it, and none to wait for.
    fn find_unpacked(&self, layer: &LayerRef) -> Result<Option<Unpacked>, StepError> {
        let map = self.map_id()?;
        let found = match layer {
            LayerRef::Base { .. } => self.with_fs(self.known_layer(layer)?, &map)?,
            // One that changes nothing is never mounted, and a WORKDIR that is there makes it without any form.
            LayerRef::Own { layer: id, .. } if self.index_of(id)?.is_empty() => Some((*id, PathBuf::new())),
            LayerRef::Own { layer: id, .. } => self.with_fs(Some(*id), &map)?,
        };
        found.map(|(id, fs)| self.as_unpacked(id, fs)).transpose()
    }

    /// One layer's unpacked form. It is made if nobody else has made it meanwhile.
    fn unpacked(&self, layer: &LayerRef) -> Result<Unpacked, StepError> {
        let map = self.map_id()?;
        let turn = self.turn(&match layer {
            LayerRef::Base { image, number, .. } => self.name_upon(*image, *number).to_string(),
            LayerRef::Own { layer: id, .. } => id.to_string(),
        });
        let _turn = lock(&turn);
        if let Some(found) = self.find_unpacked(layer)? {
            return Ok(found);
        }
        let (id, fs) = match layer {
            LayerRef::Base { image, number, .. } => self.unpack_base(*image, *number, &map)?,
            LayerRef::Own { layer: id, .. } => (*id, self.unpack_own(layer, id, &map)?),
        };
        self.as_unpacked(id, fs)
    }

    /// A layer with its unpacked form, if both are there.
    fn with_fs(&self, layer: Option<LayerId>, map: &MapId) -> Result<Option<(LayerId, PathBuf)>, StepError> {
        let Some(layer) = layer else { return Ok(None) };
        Ok(self.store.layers().fs(&layer, map)?.map(|fs| (layer, fs)))
    }

    fn as_unpacked(&self, id: LayerId, fs: PathBuf) -> Result<Unpacked, StepError> {
        let index = self.index_of(&id)?;
        let lower = LowerLayer { fs, index: self.store.layers().index_path(&id), part: self.bundled(&index) };
        Ok(Unpacked { id, is_empty: index.is_empty(), lower })
    }

    /// Adds an index to the file of the small ones, and says where it lies there; `None` of a large one, or without a file: then a step
    /// opens the index itself.
    fn bundled(&self, index: &Index) -> Option<(u64, u64)> {
        let bytes = index.as_bytes();
        if bytes.len() > SMALL_INDEX_BYTES {
            return None;
        }
        let mut slot = lock(&self.bundle);
        let file = match slot.take() {
            Some(file) => file,
            // In memory: what no other build will read need not come near the disk.
            None => Arc::new(File::from(memfd_create("shale-indexes", MemfdFlags::CLOEXEC).ok()?)),
        };
        let file = slot.insert(file);
        // A write that failed may have left something.
        let offset = file.metadata().ok()?.len();
        file.write_all_at(bytes, offset).ok()?;
        Some((offset, bytes.len() as u64))
    }

    /// The file that [`LowerLayer::part`] is about, for a step's [`RunRequest::indexes`](crate::worker::RunRequest::indexes).
    pub fn bundle(&self) -> Option<Arc<File>> {
        lock(&self.bundle).clone()
    }

    /// Several layers unpacked as one, which is kept under a name of its own for the next steps and builds.
    fn merged(&self, block: &[LayerRef]) -> Result<Unpacked, StepError> {
        let ids = block.iter().map(|layer| self.layer_id(layer)).collect::<Result<Vec<_>, _>>()?;
        let name = merged_name(&ids);
        if let Some(known) = lock(&self.unpacked.merged).get(&name) {
            return Ok(known.clone());
        }
        let turn = self.turn(&name.to_string());
        let _turn = lock(&turn);
        let layers = self.store.layers();
        let map = self.map_id()?;
        let known = self.with_fs(layers.by_content(&name)?.map(|known| known.layer), &map)?;
        let (id, fs) = known.map_or_else(|| self.merge(block, &name, &map), Ok)?;
        let merged = self.as_unpacked(id, fs)?;
        lock(&self.unpacked.merged).insert(name, merged.clone());
        Ok(merged)
    }

    fn merge(&self, block: &[LayerRef], name: &ContentId, map: &MapId) -> Result<(LayerId, PathBuf), StepError> {
        let parts = if block.len() > stack::FAN {
            // So few at a time that all of their directories can be open.
            block.chunks(block.len() / stack::FAN).map(|part| self.merged(part)).collect::<Result<_, _>>()?
        } else {
            self.all_unpacked(block)?
        };
        let lowers: Vec<LowerLayer> = parts.into_iter().filter(|layer| !layer.is_empty).map(|layer| layer.lower).collect();
        self.with_fresh_dir(|dest| {
            let index = self.worker()?.merge(lowers, dest)?;
            let layers = self.store.layers();
            let id = layers.put_index(&index)?;
            let fs = layers.commit_fs(&id, map, dest)?;
            layers.set_by_content(name, &KnownLayer { layer: id })?;
            Ok((id, fs))
        })
    }

    /// A layer of ours exists packed: its own index says what the unpacked form is to be.
    fn unpack_own(&self, layer: &LayerRef, id: &LayerId, map: &MapId) -> Result<PathBuf, StepError> {
        self.with_fresh_dir(|dest| {
            let request = WriteLayer { index: self.store.layers().index_path(id), from: From::Packed, to: To::Directory(dest.to_owned()) };
            self.read_blob(layer, |blob| Ok(self.worker()?.write(request, None, Some(blob))?))?;
            Ok(self.store.layers().commit_fs(id, map, dest)?)
        })
    }
}

/// The name of what layers are together. Content ids of another origin are hashed in domains of their own.
pub(super) fn merged_name(ids: &[LayerId]) -> ContentId {
    let mut hasher = blake3::Hasher::new_derive_key("shale 2026 merged layers");
    for id in ids {
        hasher.update(id.as_bytes());
    }
    ContentId::from_bytes(*hasher.finalize().as_bytes())
}
