//! Layers: an index each, and the forms made from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blob::{Blobs, Made, file_len};
use crate::digest::{ContentId, DiffId, LayerId, OciDigest};
use crate::durable::Trust;
use crate::entry::{self, Found};
use crate::error::StoreError;
use crate::image::escape;
use crate::key::push_bytes;
use crate::lock::FileLock;
use crate::store::Inner;
use crate::tmp::{TmpDir, make_dir, rename_dir};

/// Which id map and ownership mode an unpacked form was made under; forms of different maps are never shared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapId(pub String);

impl fmt::Display for MapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What decides about the bytes of a packed form, beside the layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackKey {
    /// `none`, `gzip` or `zstd`.
    pub compression: String,
    /// The level.
    pub level: i32,
    /// The encoder and its version.
    pub encoder: String,
    /// Mtimes later than this were written as this.
    pub clamp_secs: Option<i64>,
}

impl PackKey {
    fn file_name(&self) -> String {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, self.compression.as_bytes());
        push_bytes(&mut bytes, &self.level.to_le_bytes());
        push_bytes(&mut bytes, self.encoder.as_bytes());
        push_bytes(&mut bytes, &self.clamp_secs.map_or(Vec::new(), |secs| secs.to_le_bytes().to_vec()));
        blake3::Hasher::new_derive_key("shale pack key v1").update(&bytes).finalize().to_hex()[..32].to_owned()
    }
}

/// A layer by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLayer {
    /// Its index.
    pub layer: LayerId,
}

/// A packed form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The tar, compressed or not.
    pub blob: OciDigest,
    /// Its size.
    pub size_bytes: u64,
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Its media type.
    pub media_type: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct PackedEntry {
    pub(crate) key: PackKey,
    pub(crate) packed: Packed,
}

/// The stamp of a layer, and what came with its index.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct MadeLayer {
    /// The length of the index.
    pub(crate) size_bytes: u64,
    /// The map of the unpacked form that the layer was born with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) map: Option<MapId>,
    /// The digest of its tar, as it is, if that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<DiffId>,
}

/// Where a layer is born with its unpacked form, before it gets its name. Dropped without a layer, it is deleted.
#[derive(Debug)]
pub struct LayerRoom {
    dir: TmpDir,
    map: MapId,
}

impl LayerRoom {
    /// Where the unpacked form is to be. Nothing is there yet.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join(BORN).join(ROOT)
    }

    /// Deletes it now. Returns where in `trash/` the rest of it is, if files of other ids are in it.
    pub fn close(self) -> Option<PathBuf> {
        self.dir.close()
    }
}

/// The directory of the unpacked form that a layer was born with. It is ours, which the form itself may not be: a directory that belongs to
/// another id cannot be moved.
pub(crate) const BORN: &str = "born";
/// The name of an unpacked form.
pub(crate) const ROOT: &str = "root";

/// The layers of a store.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Keeps an index.
    pub fn put_index(self, index: &[u8]) -> Result<LayerId, StoreError> {
        let layer = LayerId::of_index(index);
        if self.has_index(&layer)? {
            return Ok(layer);
        }
        let dir = self.store.scratch()?.dir()?;
        let made = MadeLayer { size_bytes: index.len() as u64, ..MadeLayer::default() };
        let installed =
            self.write_index(&dir, index, &made).and_then(|()| self.install(&dir, &self.dir(&layer), || self.has_index(&layer)));
        if installed.is_err() {
            // On a full disk half an index is in the way of everybody.
            self.store.discard(&dir);
        }
        installed.map(|()| layer)
    }

    fn write_index(self, dir: &Path, index: &[u8], made: &MadeLayer) -> Result<(), StoreError> {
        let path = dir.join("index");
        std::fs::write(&path, index).map_err(|error| StoreError::io("write", &path, error))?;
        self.store.write_unseen_entry(entry::MADE, &dir.join("made"), made)
    }

    /// Makes room for a layer with an unpacked form, for who has time before the layer is there.
    pub fn room(self, map: &MapId) -> Result<LayerRoom, StoreError> {
        let dir = TmpDir::new(self.store)?;
        make_dir(&dir.path().join(BORN))?;
        Ok(LayerRoom { dir, map: map.clone() })
    }

    /// Keeps an index together with the unpacked form at the room's [`root`](LayerRoom::root), and with the digest of its tar if it is
    /// known: the same as [`put_index`](Self::put_index), [`commit_fs`](Self::commit_fs) and [`set_diff_id`](Self::set_diff_id), but a
    /// layer that is new appears by a single rename.
    pub fn put_born(self, index: &[u8], room: LayerRoom, diff_id: Option<&DiffId>) -> Result<LayerId, StoreError> {
        let layer = LayerId::of_index(index);
        if !self.has_index(&layer)? {
            let made = MadeLayer { size_bytes: index.len() as u64, map: Some(room.map.clone()), diff_id: diff_id.cloned() };
            self.write_index(room.dir.path(), index, &made)?;
            if rename_if_free(room.dir.path(), &self.dir(&layer))? {
                room.dir.release();
                return Ok(layer);
            }
            // Somebody else was faster, or a power loss left a bad one.
            self.put_index(index)?;
        }
        if self.fs(&layer, &room.map)?.is_none() {
            self.install_fs(&layer, &room.map, &room.dir.path().join(BORN))?;
        }
        if let Some(diff_id) = diff_id {
            self.set_diff_id(&layer, None, diff_id)?;
        }
        Ok(layer)
    }

    /// Where the index is, if it is there.
    pub fn index_path(self, layer: &LayerId) -> PathBuf {
        self.dir(layer).join("index")
    }

    /// Whether the layer's index is there and whole.
    pub fn has_index(self, layer: &LayerId) -> Result<bool, StoreError> {
        self.rely_on(layer)?;
        let Found::Entry(made, trust) = self.made(layer)? else { return Ok(false) };
        let path = self.index_path(layer);
        if file_len(&path)? != Some(made.size_bytes) {
            return Ok(false);
        }
        if trust != Trust::None {
            return Ok(true);
        }
        let bytes = std::fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
        let is_whole = LayerId::of_index(&bytes) == *layer;
        if is_whole && !self.store.is_read_only() {
            // Nothing tells whether what came with it is.
            let made = MadeLayer { size_bytes: made.size_bytes, ..MadeLayer::default() };
            self.store.write_entry(entry::MADE, &self.made_path(layer), &made)?;
        }
        Ok(is_whole)
    }

    fn made(self, layer: &LayerId) -> Result<Found<MadeLayer>, StoreError> {
        self.store.read_entry(entry::MADE, &self.made_path(layer))
    }

    fn made_path(self, layer: &LayerId) -> PathBuf {
        self.dir(layer).join("made")
    }

    /// Whether the index is there, for a caller that knows it to have been whole in this boot.
    pub(crate) fn has_index_file(self, layer: &LayerId) -> Result<bool, StoreError> {
        self.rely_on(layer)?;
        file_len(&self.index_path(layer)).map(|len| len.is_some())
    }

    fn rely_on(self, layer: &LayerId) -> Result<(), StoreError> {
        if self.store.has_lease() { self.store.rely_on_file(format!("layers/{layer}"), &self.index_path(layer)) } else { Ok(()) }
    }

    /// Where the unpacked form is, if it is there and whole: the one that the layer was born with, or one that was made later.
    pub fn fs(self, layer: &LayerId, map: &MapId) -> Result<Option<PathBuf>, StoreError> {
        self.rely_on(layer)?;
        // Evicted, it does not come to this place again.
        let born = self.dir(layer).join(BORN).join(ROOT);
        if self.made(layer)?.trusted().is_some_and(|made| made.map.as_ref() == Some(map)) && born.is_dir() {
            return Ok(Some(born));
        }
        self.fs_in(&self.fs_dir(layer, map))
    }

    fn fs_in(self, dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        let made = self.store.read_entry::<Made>(entry::MADE, &dir.join("made"))?;
        Ok(Some(dir.join(ROOT)).filter(|root| made.trusted().is_some() && root.is_dir()))
    }

    /// Whether there is an unpacked form under another map: nobody can read that with ours.
    pub fn has_other_fs(self, layer: &LayerId, map: &MapId) -> Result<bool, StoreError> {
        let born = self.dir(layer).join(BORN).join(ROOT);
        let is_born = self.made(layer)?.trusted().and_then(|made| made.map).is_some_and(|other| other != *map) && born.is_dir();
        Ok(is_born || crate::tmp::names_in(&self.dir(layer).join("fs"))?.iter().any(|name| *name != escape(&map.0)))
    }

    /// Whether the files of the layer are there in any form, whoever can read that.
    pub fn has_form(self, layer: &LayerId) -> Result<bool, StoreError> {
        if let Some(map) = self.made(layer)?.trusted().and_then(|made| made.map)
            && self.fs(layer, &map)?.is_some()
        {
            return Ok(true);
        }
        let later = self.dir(layer).join("fs");
        for name in crate::tmp::names_in(&later)? {
            if self.fs_in(&later.join(name))?.is_some() {
                return Ok(true);
            }
        }
        Ok(self.any_packed(layer)?.is_some())
    }

    /// Makes the directory `from`, which is in the store's `tmp/`, the layer's unpacked form. If there is one already, that one
    /// stays and `from` goes to `trash/`. Returns where the unpacked form is.
    pub fn commit_fs(self, layer: &LayerId, map: &MapId, from: &Path) -> Result<PathBuf, StoreError> {
        self.require_index(layer)?;
        if let Some(known) = self.fs(layer, map)? {
            self.store.move_to_trash(from)?;
            return Ok(known);
        }
        // Form and stamp appear together, by one rename.
        let dir = self.store.scratch()?.dir()?;
        rename_dir(from, &dir.join(ROOT)).map_err(|error| StoreError::io("move", from, error))?;
        self.install_fs(layer, map, &dir)
    }

    /// Stamps a directory with an unpacked form in it, and makes it the layer's.
    fn install_fs(self, layer: &LayerId, map: &MapId, dir: &Path) -> Result<PathBuf, StoreError> {
        self.store.write_unseen_entry(entry::MADE, &dir.join("made"), &Made { size_bytes: 0 })?;
        self.install(dir, &self.fs_dir(layer, map), || Ok(self.fs(layer, map)?.is_some()))?;
        Ok(self.fs_dir(layer, map).join(ROOT))
    }

    /// The packed form that was made in this way, if its blob is still there.
    pub fn packed(self, layer: &LayerId, key: &PackKey) -> Result<Option<Packed>, StoreError> {
        let found = self.store.read_entry::<PackedEntry>(entry::PACKED, &self.packed_path(layer, key))?;
        let Some(PackedEntry { key: own, packed }) = found.trusted() else { return Ok(None) };
        let is_there = own == *key && Blobs::new(self.store).size(&packed.blob)? == Some(packed.size_bytes);
        Ok(is_there.then_some(packed))
    }

    /// Any packed form whose blob is there, the first by name.
    pub fn any_packed(self, layer: &LayerId) -> Result<Option<(PackKey, Packed)>, StoreError> {
        let dir = self.dir(layer).join("packed");
        let mut names = crate::tmp::names_in(&dir)?;
        names.sort();
        for name in names {
            let Some(PackedEntry { key, .. }) = self.store.read_entry::<PackedEntry>(entry::PACKED, &dir.join(name))?.trusted() else {
                continue;
            };
            if let Some(packed) = self.packed(layer, &key)? {
                return Ok(Some((key, packed)));
            }
        }
        Ok(None)
    }

    /// Notes the packed form of a layer. Its blob must be in the store.
    pub fn put_packed(self, layer: &LayerId, key: &PackKey, packed: &Packed) -> Result<(), StoreError> {
        self.require_index(layer)?;
        let entry = PackedEntry { key: key.clone(), packed: packed.clone() };
        self.store.write_entry(entry::PACKED, &self.packed_path(layer, key), &entry)
    }

    /// The layer with that uncompressed tar.
    pub fn by_diff(self, diff_id: &DiffId) -> Result<Option<LayerId>, StoreError> {
        self.follow(&self.by_diff_path(diff_id))
    }

    /// Notes that a layer came from, or was packed to, that uncompressed tar.
    pub fn set_by_diff(self, diff_id: &DiffId, layer: &LayerId) -> Result<(), StoreError> {
        self.store.write_entry(entry::POINTER, &self.by_diff_path(diff_id), layer)
    }

    /// The layer that has a content: of layers that were merged, the result.
    pub fn by_content(self, content: &ContentId) -> Result<Option<KnownLayer>, StoreError> {
        match self.store.read_entry::<KnownLayer>(entry::KNOWN, &self.by_content_path(content))?.trusted() {
            Some(known) => Ok(self.has_index(&known.layer)?.then_some(known)),
            None => Ok(None),
        }
    }

    /// Notes the layer that has a content.
    pub fn set_by_content(self, content: &ContentId, known: &KnownLayer) -> Result<(), StoreError> {
        self.store.write_entry(entry::KNOWN, &self.by_content_path(content), known)
    }

    /// The digest of a layer's uncompressed tar, where it was asked for before. `clamp_secs` as in [`PackKey`].
    pub fn diff_id(self, layer: &LayerId, clamp_secs: Option<i64>) -> Result<Option<DiffId>, StoreError> {
        if clamp_secs.is_none()
            && let Some(diff_id) = self.made(layer)?.trusted().and_then(|made| made.diff_id)
        {
            return Ok(Some(diff_id));
        }
        Ok(self.store.read_entry::<DiffId>(entry::DIFF, &self.diff_path(layer, clamp_secs))?.trusted())
    }

    /// Notes the digest of a layer's uncompressed tar.
    pub fn set_diff_id(self, layer: &LayerId, clamp_secs: Option<i64>, diff_id: &DiffId) -> Result<(), StoreError> {
        self.require_index(layer)?;
        self.store.write_entry(entry::DIFF, &self.diff_path(layer, clamp_secs), diff_id)
    }

    fn follow(self, path: &Path) -> Result<Option<LayerId>, StoreError> {
        match self.store.read_entry::<LayerId>(entry::POINTER, path)?.trusted() {
            Some(layer) => Ok(self.has_index(&layer)?.then_some(layer)),
            None => Ok(None),
        }
    }

    pub(crate) fn require_index(self, layer: &LayerId) -> Result<(), StoreError> {
        if self.has_index(layer)? { Ok(()) } else { Err(StoreError::NoLayer { layer: *layer }) }
    }

    pub(crate) fn dir(self, layer: &LayerId) -> PathBuf {
        self.store.root().join("layers").join(layer.to_hex())
    }

    fn fs_dir(self, layer: &LayerId, map: &MapId) -> PathBuf {
        self.dir(layer).join("fs").join(escape(&map.0))
    }

    fn packed_path(self, layer: &LayerId, key: &PackKey) -> PathBuf {
        self.dir(layer).join("packed").join(key.file_name())
    }

    fn diff_path(self, layer: &LayerId, clamp_secs: Option<i64>) -> PathBuf {
        self.dir(layer).join("diff").join(clamp_secs.map_or_else(|| "as-is".into(), |secs| format!("clamp-{secs}")))
    }

    fn by_diff_path(self, diff_id: &DiffId) -> PathBuf {
        self.store.root().join("by-diff").join(diff_id.0.file_name())
    }

    fn by_content_path(self, content: &ContentId) -> PathBuf {
        self.store.root().join("by-content").join(content.to_hex())
    }

    /// Renames a complete directory to its place. A good one that is there stays; a bad one, which a power loss left and
    /// nobody uses, goes. Deciding which needs a lock: the bad one may have been replaced meanwhile.
    fn install(self, dir: &Path, to: &Path, is_good: impl Fn() -> Result<bool, StoreError>) -> Result<(), StoreError> {
        if rename_if_free(dir, to)? {
            return Ok(());
        }
        let name = to.strip_prefix(self.store.root()).unwrap_or(to).to_string_lossy().replace('/', "-");
        let _lock = FileLock::take_quietly(&self.store.lock_path(&name))?;
        while !is_good()? {
            if to.exists() {
                self.store.move_to_trash(to)?;
            }
            if rename_if_free(dir, to)? {
                return Ok(());
            }
        }
        self.store.move_to_trash(dir).map(drop)
    }
}

/// Renames a directory, unless something is at the place.
fn rename_if_free(dir: &Path, to: &Path) -> Result<bool, StoreError> {
    use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty};
    match rename_dir(dir, to) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), AlreadyExists | DirectoryNotEmpty) => Ok(false),
        Err(error) => Err(StoreError::io("write", to, error)),
    }
}
