//! One planned image, finished: its layers packed or known by their DiffIDs, its config assembled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use shale_cache::{BlobRef, DiffId, ImageLayer, Packed};

use super::super::BuildError;
use super::super::bases::Bases;
use crate::cli::output::LayerOptions;
use crate::execute::StepError;
use crate::execute::forms::Forms;
use crate::image::assemble::{NewLayer, assemble};
use crate::plan::graph::{Plan, PlannedImage};
use crate::solve::Solved;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::threads::in_parallel;

/// Layers that are packed at a time. More than cores, for some of them wait for the disk or for another process.
const AT_ONCE: usize = 8;

/// The config of an image and its layers, ready for the store's record.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<ImageLayer>,
}

/// An image of the plan with what it is finished from.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) plan: &'a Plan,
    pub(super) planned: &'a PlannedImage,
    pub(super) bases: &'a Bases<'a>,
    pub(super) forms: &'a Forms<'a>,
    pub(super) solved: &'a Solved,
}

impl Finish<'_> {
    /// Its filesystem.
    pub(super) fn snapshot(&self) -> &Snapshot {
        self.solved.snapshot(self.planned.root)
    }

    fn layers(&self) -> &[LayerRef] {
        &self.snapshot().layers
    }

    /// The config, once the DiffID of every layer is known.
    fn config(&self, diff_ids: &[DiffId]) -> Vec<u8> {
        let new = self.layers().iter().zip(diff_ids).filter_map(|(layer, diff_id)| match layer {
            LayerRef::Own { created, .. } => Some(NewLayer { diff_id: diff_id.clone(), created: *created }),
            LayerRef::Base { .. } => None,
        });
        let new: Vec<NewLayer> = new.collect();
        assemble(self.planned, &new, self.plan.source_date_epoch).to_json()
    }

    /// The image with every layer as a blob; those that are not packed yet are packed side by side. `lazy` leaves blobs of bases
    /// where they are: a registry may have them already.
    pub(super) fn packed(&self, options: &LayerOptions, lazy: bool) -> Result<(Kept, Vec<Packed>), BuildError> {
        let packing = options.packing(self.plan.source_date_epoch);
        let described = |layer: &LayerRef| if lazy && !options.force { self.forms.described(layer) } else { None };
        let pack = |layer: &LayerRef| described(layer).map_or_else(|| self.forms.packed(layer, packing, options.force), Ok);
        let packed = side_by_side(self.layers(), pack).map_err(failed)?;
        let diff_ids: Vec<DiffId> = packed.iter().map(|layer| layer.diff_id.clone()).collect();
        let layers = self.layers().iter().zip(&packed).map(|(layer, packed)| {
            let own = self.forms.known_layer(layer).map_err(failed)?;
            let blob = BlobRef { digest: packed.blob.clone(), size_bytes: packed.size_bytes, media_type: packed.media_type.clone() };
            Ok(ImageLayer { diff_id: packed.diff_id.clone(), layer: own, blob: Some(blob) })
        });
        Ok((Kept { config: self.config(&diff_ids), layers: layers.collect::<Result<_, BuildError>>()? }, packed))
    }

    /// The image without packing a layer for it: the image id needs the DiffIDs alone.
    pub(super) fn unpacked(&self) -> Result<Kept, BuildError> {
        let mut layers = Vec::new();
        for layer in self.layers() {
            let diff_id = self.forms.diff_id(layer, None).map_err(failed)?;
            layers.push(match layer {
                LayerRef::Own { layer, .. } => ImageLayer { diff_id, layer: Some(*layer), blob: None },
                LayerRef::Base { image, number, .. } => {
                    let base = &self.bases.images()[image.0].layers[*number];
                    let known = base.layer.map_or_else(|| self.forms.known_layer(layer), |known| Ok(Some(known))).map_err(failed)?;
                    ImageLayer { layer: known, ..base.clone() }
                }
            });
        }
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        Ok(Kept { config: self.config(&diff_ids), layers })
    }
}

/// Does one thing to each layer, a few at a time: an image may have hundreds of them, and each takes memory while it is packed. The
/// first error by place counts.
fn side_by_side<T: Send>(layers: &[LayerRef], one: impl Fn(&LayerRef) -> Result<T, StepError> + Sync) -> Result<Vec<T>, StepError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = layers.get(number) else { return };
            let result = one(layer);
            if result.is_err() {
                // The others end what they have begun and begin nothing more.
                next.store(layers.len(), Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
    };
    in_parallel(AT_ONCE.min(layers.len()), work);
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A step's error that no step has.
pub(super) fn failed(cause: StepError) -> BuildError {
    match cause {
        StepError::Cancelled => BuildError::Cancelled,
        cause => BuildError::Step { at: None, name: "exporting layers".into(), cause },
    }
}
