//! Deletes what is still good, to get its space back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::blob::Blobs;
use crate::digest::{LayerId, OciDigest};
use crate::entry;
use crate::error::StoreError;
use crate::image::{ImageRecord, Images};
use crate::layer::PackedEntry;
use crate::lease::Lease;
use crate::store::Inner;
use crate::tmp::{make_dirs, names_in};

/// What a pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Freed bytes, as allocated blocks.
    pub bytes: u64,
    /// Step records and their indexes by site.
    pub steps: usize,
    /// Layers that went with all their forms.
    pub layers: usize,
    /// Unpacked forms whose layers stayed, because an image has them packed.
    pub unpacked: usize,
    /// Blobs.
    pub blobs: usize,
    /// Trees with files of other ids, for a worker to delete.
    pub undeletable: Vec<PathBuf>,
}

/// The garbage collection of a store.
#[derive(Clone, Copy, Debug)]
pub struct Gc<'a> {
    store: &'a Arc<Inner>,
}

/// What images need.
#[derive(Default)]
struct Needed {
    blobs: BTreeSet<OciDigest>,
    /// Layers that an image names: their indexes stay.
    layers: BTreeSet<LayerId>,
    /// Those of them that the image has in no packed form: their unpacked forms stay.
    unpacked: BTreeSet<LayerId>,
}

impl<'a> Gc<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Drops the whole build cache: records, lists, cache mounts, stat caches, logs, and every layer and blob that no image needs.
    /// Images stay, those without a name too. Never waits: [`StoreError::Busy`] if a build holds the lease.
    pub fn prune_all(self) -> Result<PruneReport, StoreError> {
        let _alone = Lease::alone(&self.store.lease_path())?;
        let needed = self.needed()?;
        let mut report = PruneReport::default();
        let mut stuck = Vec::new();

        // Records go before what they point to: a pruning that is interrupted leaves nothing that hits and is not there.
        report.steps = self.count_steps()?;
        for dir in ["steps", "lists", "by-content", "contexts", "mounts", "builds"] {
            self.drop_whole(dir, &mut stuck)?;
        }
        self.prune_by_diff(&needed, &mut stuck)?;
        self.prune_layers(&needed, &mut report, &mut stuck)?;
        self.prune_blobs(&needed, &mut report, &mut stuck)?;
        self.prune_marks()?;

        let (removed, left) = self.store.reap()?;
        report.bytes = removed.bytes;
        report.undeletable = stuck.into_iter().chain(left).collect();
        Ok(report)
    }

    fn needed(self) -> Result<Needed, StoreError> {
        let mut needed = Needed::default();
        for ImageRecord { id, manifest, layers, .. } in Images::new(self.store).records()? {
            needed.blobs.insert(id);
            needed.blobs.extend(manifest.map(|manifest| manifest.digest));
            for layer in layers {
                needed.layers.extend(layer.layer);
                let packed = layer.blob.map(|blob| blob.digest);
                let has_blob = match &packed {
                    Some(digest) => Blobs::new(self.store).size(digest)?.is_some(),
                    None => false,
                };
                if let Some(layer) = layer.layer.filter(|_| !has_blob) {
                    match self.best_packed(&layer)? {
                        Some(blob) => needed.blobs.extend([blob]),
                        None => needed.unpacked.extend([layer]),
                    }
                }
                needed.blobs.extend(packed);
            }
        }
        Ok(needed)
    }

    /// The packed form that stays of a layer: one form is enough to make the others. It has all times, and is the smallest then.
    fn best_packed(self, layer: &LayerId) -> Result<Option<OciDigest>, StoreError> {
        let dir = self.layer_dir(&layer.to_hex()).join("packed");
        let mut best = None;
        for name in names_in(&dir)? {
            let Some(PackedEntry { key, packed }) = self.packed_entry(&dir.join(name))? else { continue };
            let rank = (key.clamp_secs.is_some(), packed.size_bytes, packed.blob.clone());
            if Blobs::new(self.store).size(&packed.blob)?.is_some() && best.as_ref().is_none_or(|best| rank < *best) {
                best = Some(rank);
            }
        }
        Ok(best.map(|(.., blob)| blob))
    }

    fn packed_entry(self, path: &Path) -> Result<Option<PackedEntry>, StoreError> {
        Ok(self.store.read_entry::<PackedEntry>(entry::PACKED, path)?.trusted())
    }

    fn count_steps(self) -> Result<usize, StoreError> {
        let steps = self.store.root().join("steps");
        let dirs = names_in(&steps)?.into_iter().filter(|name| name != "last");
        dirs.map(|dir| names_in(&steps.join(dir)).map(|names| names.len())).sum()
    }

    /// Replaces a directory of the store by an empty one.
    fn drop_whole(self, name: &str, stuck: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let path = self.store.root().join(name);
        if !names_in(&path)?.is_empty() {
            self.drop_path(&path, stuck);
        }
        make_dirs(&path).map_err(|error| StoreError::io("create", &path, error))
    }

    /// Moves something to `trash/`; what belongs to another id cannot be moved either.
    fn drop_path(self, path: &Path, stuck: &mut Vec<PathBuf>) {
        if self.store.move_to_trash(path).is_err() && path.symlink_metadata().is_ok() {
            stuck.push(path.to_owned());
        }
    }

    fn prune_by_diff(self, needed: &Needed, stuck: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let dir = self.store.root().join("by-diff");
        for name in names_in(&dir)? {
            let path = dir.join(name);
            let target = self.store.read_entry::<LayerId>(entry::POINTER, &path)?.trusted();
            if target.is_none_or(|layer| !needed.layers.contains(&layer)) {
                self.drop_path(&path, stuck);
            }
        }
        Ok(())
    }

    fn prune_layers(self, needed: &Needed, report: &mut PruneReport, stuck: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        for name in names_in(&self.store.root().join("layers"))? {
            let dir = self.layer_dir(&name);
            let Some(layer) = name.parse().ok().filter(|layer: &LayerId| needed.layers.contains(layer)) else {
                report.layers += 1;
                self.drop_path(&dir, stuck);
                continue;
            };
            for packed in names_in(&dir.join("packed"))? {
                let path = dir.join("packed").join(packed);
                if self.packed_entry(&path)?.is_none_or(|entry| !needed.blobs.contains(&entry.packed.blob)) {
                    self.drop_path(&path, stuck);
                }
            }
            if !needed.unpacked.contains(&layer) && dir.join("fs").exists() {
                report.unpacked += names_in(&dir.join("fs"))?.len();
                self.drop_path(&dir.join("fs"), stuck);
            }
        }
        Ok(())
    }

    fn prune_blobs(self, needed: &Needed, report: &mut PruneReport, stuck: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let blobs = self.store.root().join("blobs");
        for made in names_in(&blobs.join("made"))? {
            if OciDigest::from_file_name(&made).is_none_or(|digest| !needed.blobs.contains(&digest)) {
                self.drop_path(&blobs.join("made").join(made), stuck);
            }
        }
        for algorithm in ["sha256", "sha512"] {
            for hex in names_in(&blobs.join(algorithm))? {
                let digest = format!("{algorithm}:{hex}").parse::<OciDigest>().ok();
                if digest.is_none_or(|digest| !needed.blobs.contains(&digest)) {
                    report.blobs += 1;
                    self.drop_path(&blobs.join(algorithm).join(hex), stuck);
                }
            }
        }
        Ok(())
    }

    /// Forgets the marks of past boots from which nothing is left.
    fn prune_marks(self) -> Result<(), StoreError> {
        let root = self.store.root();
        let mut used = BTreeSet::from([self.store.durability.epoch().to_owned()]);
        let mut entries = Vec::new();
        for dir in ["blobs/made", "by-diff"] {
            entries.extend(names_in(&root.join(dir))?.into_iter().map(|name| root.join(dir).join(name)));
        }
        for layer in names_in(&root.join("layers"))? {
            let dir = self.layer_dir(&layer);
            entries.push(dir.join("made"));
            for notes in [dir.join("packed"), dir.join("diff")] {
                entries.extend(names_in(&notes)?.into_iter().map(|name| notes.join(name)));
            }
            entries.extend(names_in(&dir.join("fs"))?.into_iter().map(|name| dir.join("fs").join(name).join("made")));
        }
        for path in entries {
            used.extend(entry::epoch_at(&path));
        }
        for epoch in names_in(&root.join("durable"))? {
            if !used.contains(&epoch) {
                drop(std::fs::remove_file(root.join("durable").join(epoch)));
            }
        }
        Ok(())
    }

    fn layer_dir(self, name: &str) -> PathBuf {
        self.store.root().join("layers").join(name)
    }
}
