//! Reads a whole store and names what in it is damaged; removes that, if asked to.
//!
//! | checked | damage |
//! |---|---|
//! | blob | its bytes do not have its digest, or it is shorter than noted |
//! | index | its bytes do not have the layer's id |
//! | record, note, pointer, list, image, name | torn: the checksum or hash does not fit |
//! | record | its key is not the hash of its parts |
//! | packed form, pointer | what it names is another size, or was never whole |
//! | image | a blob or layer that it needs is gone |
//!
//! A blob of an image that a registry has is not gone. What leads to something that was deleted is no damage: it does not hit, and the
//! next pruning takes it. Nor is a blob without a note, or a layer without an index file: both were never finished, or are half deleted.
//! Unpacked forms are checked by the caller, who knows what an index means; cache mounts, stat caches and logs are not the store's.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::blob::{Blobs, Made};
use crate::digest::{DiffId, LayerId, ListId, OciDigest};
use crate::entry::{self, Found, Kind};
use crate::error::StoreError;
use crate::image::{Images, Named};
use crate::layer::{BORN, KnownLayer, MadeLayer, MapId, PackedEntry, ROOT};
use crate::lease::{Gate, InUse};
use crate::runs;
use crate::step::StepRecord;
use crate::store::Inner;
use crate::tmp::names_in;

/// One thing that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// Below the root.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
    /// Whether taking it away repairs the store. An image that lacks something is never taken away.
    pub is_removable: bool,
    /// What was looked at: minutes may pass until it is taken away, and something whole may be there then.
    seen: Option<Seen>,
}

/// Inode, and time of its last change in seconds and nanoseconds.
type Seen = (u64, i64, i64);

impl Damage {
    /// Something that is to be taken away. `path` is below the root of the store.
    pub fn removable(store_root: &Path, path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        let path = path.into();
        Self { seen: seen(&store_root.join(&path)), path, what: what.into(), is_removable: true }
    }
}

fn seen(path: &Path) -> Option<Seen> {
    path.symlink_metadata().ok().map(|meta| (meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// An unpacked form to be compared with its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedForm {
    /// The layer.
    pub layer: LayerId,
    /// The id map that it was unpacked under.
    pub map: MapId,
    /// Below the root: the form with its stamp.
    pub path: PathBuf,
    /// The index, as an absolute path.
    pub index: PathBuf,
    /// The directory with the files, as an absolute path.
    pub root: PathBuf,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Damage, by path.
    pub damage: Vec<Damage>,
    /// How many things were read.
    pub checked: usize,
    /// Unpacked forms whose layers are whole.
    pub unpacked: Vec<UnpackedForm>,
}

/// Reads everything but the unpacked forms.
pub(crate) fn verify(store: &Arc<Inner>, has_contents: &dyn Fn(Vec<u8>) -> bool) -> Result<Findings, StoreError> {
    let mut check = Check {
        store,
        has_contents,
        found: Findings::default(),
        bad_blobs: BTreeSet::new(),
        good_layers: BTreeSet::new(),
        kept_layers: BTreeSet::new(),
    };
    check.blobs()?;
    check.layers()?;
    check.steps()?;
    check.pointers()?;
    check.images()?;
    check.found.damage.sort();
    check.found.damage.dedup();
    Ok(check.found)
}

/// Takes damaged things away, but for what running builds use. Returns what is left.
pub(crate) fn repair(store: &Arc<Inner>, damage: &[Damage]) -> Result<Vec<Damage>, StoreError> {
    if damage.is_empty() {
        return Ok(Vec::new());
    }
    store.require_writable(|| "repair it".into())?;
    let mut left = Vec::new();
    let gate = Gate::close(store)?;
    let in_use = InUse::read(store)?;
    for damage in damage {
        let path = store.root().join(&damage.path);
        // `layers/<id>/fs/<map>` is covered by the lease of `layers/<id>`.
        let mut above = damage.path.ancestors().filter_map(Path::to_str);
        if !damage.is_removable || above.any(|name| in_use.has(name)) {
            left.push(damage.clone());
        } else if damage.seen.is_some()
            && seen(&path) == damage.seen
            && let Err(error) = store.take_away(&path)
        {
            left.push(Damage { what: error.to_string(), ..damage.clone() });
        }
    }
    drop(gate);
    store.empty_trash()?;
    Ok(left)
}

struct Check<'a> {
    store: &'a Arc<Inner>,
    has_contents: &'a dyn Fn(Vec<u8>) -> bool,
    found: Findings,
    bad_blobs: BTreeSet<OciDigest>,
    good_layers: BTreeSet<LayerId>,
    /// Layers that are there with all contents.
    kept_layers: BTreeSet<LayerId>,
}

impl Check<'_> {
    fn bad(&mut self, path: impl Into<PathBuf>, what: impl Into<String>) {
        self.found.damage.push(Damage::removable(self.store.root(), path, what));
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut names = names_in(&self.store.root().join(folder))?;
        names.sort();
        Ok(names)
    }

    /// The entry in a file, if it is whole; else that is damage.
    fn entry<T: serde::de::DeserializeOwned>(&mut self, kind: Kind, relative: &Path) -> Result<Option<T>, StoreError> {
        self.found.checked += 1;
        match self.store.read_entry::<T>(kind, &self.store.root().join(relative))? {
            Found::Entry(value, _) => Ok(Some(value)),
            Found::Nothing => Ok(None),
            Found::Torn => {
                self.bad(relative, "torn");
                Ok(None)
            }
        }
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        for made in self.names("blobs/made")? {
            let relative = Path::new("blobs/made").join(&made);
            let Some(digest) = OciDigest::from_file_name(&made) else {
                self.bad(relative, "no digest");
                continue;
            };
            let Some(Made { size_bytes }) = self.entry::<Made>(entry::MADE, &relative)? else { continue };
            let path = Path::new("blobs").join(digest.algorithm()).join(digest.hex());
            let problem = Blobs::new(self.store).damage_of(&digest, size_bytes)?;
            if let Some(problem) = problem {
                self.bad_blobs.insert(digest);
                self.bad(relative, "notes a blob that is damaged");
                self.bad(path, problem);
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), StoreError> {
        for name in self.names("layers")? {
            match name.parse::<LayerId>() {
                Ok(layer) => self.layer(layer)?,
                Err(_) => self.bad(Path::new("layers").join(&name), "no layer"),
            }
        }
        Ok(())
    }

    fn layer(&mut self, layer: LayerId) -> Result<(), StoreError> {
        let relative = Path::new("layers").join(layer.to_hex());
        let index = self.store.root().join(&relative).join("index");
        let Some(MadeLayer { size_bytes, map, .. }) = self.entry::<MadeLayer>(entry::MADE, &relative.join("made"))? else { return Ok(()) };
        let bytes = match std::fs::read(&index) {
            Ok(bytes) => bytes,
            Err(error) if entry::is_absent(&error) => return Ok(()),
            Err(error) => return Err(StoreError::io("read", &index, error)),
        };
        if bytes.len() as u64 != size_bytes || LayerId::of_index(&bytes) != layer {
            self.bad(relative, "the index is not that of the layer");
            return Ok(());
        }
        self.good_layers.insert(layer);
        self.forms(layer, &relative)?;
        if !(self.has_contents)(bytes) {
            self.kept_layers.insert(layer);
        }
        let path = relative.join(BORN);
        let root = self.store.root().join(&path).join(ROOT);
        if let Some(map) = map.filter(|_| root.is_dir()) {
            self.found.unpacked.push(UnpackedForm { layer, map, path, index, root });
            self.kept_layers.insert(layer);
        }
        Ok(())
    }

    /// Whether a layer is whole: one that was not may have been made since it was looked for.
    fn is_good(&mut self, layer: LayerId) -> Result<bool, StoreError> {
        if !self.good_layers.contains(&layer) {
            self.layer(layer)?;
        }
        Ok(self.good_layers.contains(&layer))
    }

    fn forms(&mut self, layer: LayerId, relative: &Path) -> Result<(), StoreError> {
        let names = |folder: &str| names_in(&self.store.root().join(relative).join(folder));
        let (packed, diffs, unpacked) = (names("packed")?, names("diff")?, names("fs")?);
        for name in packed {
            let path = relative.join("packed").join(name);
            let Some(PackedEntry { packed, .. }) = self.entry::<PackedEntry>(entry::PACKED, &path)? else { continue };
            if self.bad_blobs.contains(&packed.blob) {
                self.bad(path, format!("its blob {} is damaged", packed.blob));
            } else if Blobs::new(self.store).is_there(&packed.blob)? && self.size_of(&packed.blob)? != Some(packed.size_bytes) {
                self.bad(path, format!("its blob {} has another size", packed.blob));
            } else if self.has_blob(&packed.blob)? {
                self.kept_layers.insert(layer);
            }
        }
        for name in diffs {
            self.entry::<DiffId>(entry::DIFF, &relative.join("diff").join(name))?;
        }
        for name in unpacked {
            let path = relative.join("fs").join(&name);
            let root = self.store.root().join(&path).join("root");
            if self.entry::<Made>(entry::MADE, &path.join("made"))?.is_some() && root.is_dir() {
                let index = self.store.root().join(relative).join("index");
                self.found.unpacked.push(UnpackedForm { layer, map: MapId(name), path, index, root });
                self.kept_layers.insert(layer);
            }
        }
        Ok(())
    }

    fn size_of(&self, digest: &OciDigest) -> Result<Option<u64>, StoreError> {
        crate::blob::file_len(&Blobs::new(self.store).path(digest))
    }

    fn steps(&mut self) -> Result<(), StoreError> {
        for dir in self.names("steps")? {
            let folder = Path::new("steps").join(&dir);
            for name in self.names(&folder.to_string_lossy())? {
                let path = folder.join(&name);
                if dir == "last" {
                    if runs::is_of_runs(&name) {
                        self.found.checked += 1;
                        if !runs::is_unchanged(&self.store.root().join(&path))? {
                            self.bad(path, "torn");
                        }
                    } else {
                        // Of a build its id.
                        self.entry::<String>(entry::LAST, &path)?;
                    }
                    continue;
                }
                let Some(record) = self.entry::<StepRecord>(entry::STEP, &path)? else { continue };
                if record.key.to_hex() != name || record.parts.key() != record.key {
                    self.bad(path, "its key is not the hash of its parts");
                }
            }
        }
        for name in self.names("lists")? {
            let path = Path::new("lists").join(&name);
            self.found.checked += 1;
            match std::fs::read(self.store.root().join(&path)) {
                Ok(bytes) if name.parse() == Ok(ListId::of(&bytes)) => {}
                // Pruned meanwhile.
                Err(error) if entry::is_absent(&error) => {}
                _ => self.bad(path, "its bytes are not those of its name"),
            }
        }
        Ok(())
    }

    fn pointers(&mut self) -> Result<(), StoreError> {
        for name in self.names("by-diff")? {
            let path = Path::new("by-diff").join(name);
            let target = self.entry::<LayerId>(entry::POINTER, &path)?;
            self.leads_to_a_good_layer(path, target)?;
        }
        for name in self.names("by-source")? {
            self.entry::<ListId>(entry::TAKEN, &Path::new("by-source").join(name))?;
        }
        for name in self.names("by-content")? {
            let path = Path::new("by-content").join(name);
            let target = self.entry::<KnownLayer>(entry::KNOWN, &path)?.map(|known| known.layer);
            self.leads_to_a_good_layer(path, target)?;
        }
        Ok(())
    }

    fn leads_to_a_good_layer(&mut self, path: PathBuf, target: Option<LayerId>) -> Result<(), StoreError> {
        let Some(layer) = target else { return Ok(()) };
        if !self.is_good(layer)? && self.store.root().join("layers").join(layer.to_hex()).join("index").exists() {
            self.bad(path, format!("its layer {layer} is damaged"));
        }
        Ok(())
    }

    fn images(&mut self) -> Result<(), StoreError> {
        for name in self.names("images/names")? {
            let path = Path::new("images/names").join(name);
            self.entry::<Named>(entry::NAME, &path)?;
        }
        let fetchable = self.fetchable()?;
        let names = Images::new(self.store).names_by_id()?;
        for name in self.names("images/records")? {
            let path = Path::new("images/records").join(&name);
            let Some(record) = self.entry::<crate::ImageRecord>(entry::IMAGE, &path)? else { continue };
            let names = names.get(&record.id).map(|names| names.join(", "));
            let shown = names.unwrap_or_else(|| record.id.to_string());
            let mut lost = Vec::new();
            let config = std::iter::once(&record.id).chain(record.manifest.as_ref().map(|manifest| &manifest.digest));
            for digest in config {
                if !self.has_blob(digest)? {
                    lost.push(digest.to_string());
                }
            }
            for layer in &record.layers {
                // A layer that was never fetched is fetched when somebody needs it.
                let damaged_blob = match &layer.blob {
                    Some(blob) => {
                        self.bad_blobs.contains(&blob.digest) || !(fetchable.contains(&blob.digest) || self.has_blob(&blob.digest)?)
                    }
                    None => false,
                };
                let lost_layer = layer.blob.is_none() && !self.keeps(layer.layer)?;
                if damaged_blob || lost_layer {
                    lost.push(format!("the layer {}", layer.diff_id));
                }
            }
            // Whoever removes an image takes its record first.
            if !lost.is_empty() && Images::new(self.store).get(&record.id)?.is_some() {
                let what = format!("the image {shown} has lost {}", lost.join(", "));
                self.found.damage.push(Damage { path, what, is_removable: false, seen: None });
            }
        }
        Ok(())
    }

    /// Whether a layer is there with all contents; one of a build that runs may have come meanwhile.
    fn keeps(&mut self, layer: Option<LayerId>) -> Result<bool, StoreError> {
        let Some(layer) = layer else { return Ok(false) };
        Ok(self.is_good(layer)? && self.kept_layers.contains(&layer))
    }

    /// The blobs of images that a registry is known to have.
    fn fetchable(&self) -> Result<BTreeSet<OciDigest>, StoreError> {
        let images = Images::new(self.store).list()?.into_iter().map(|(record, _)| record);
        let known = images.filter(|record| !record.repo_digests.is_empty());
        Ok(known.flat_map(|record| record.layers).filter_map(|layer| layer.blob).map(|blob| blob.digest).collect())
    }

    fn has_blob(&self, digest: &OciDigest) -> Result<bool, StoreError> {
        Ok(!self.bad_blobs.contains(digest) && Blobs::new(self.store).is_there(digest)?)
    }
}
