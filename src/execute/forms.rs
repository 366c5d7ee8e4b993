//! The forms of a layer, made from each other on demand: index, unpacked directory, packed tar.
//!
//! One value serves a whole build: it starts the worker when an unpacked form will be needed, and never before.

mod accounts;
mod base;
mod stack;
mod staff;
mod unpacked;
mod views;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shale_cache::{BlobRef, DiffId, ImageLayer, LayerId, MapId, OciDigest, PackKey, Packed, Store, StoreError, TmpDir};

use super::StepError;
use super::place::Place;
use super::room::{Fullness, fullness};
use crate::image::{ImageService, ResolvedImage};
use crate::layer::compress::{Decoder, Encoder, PackNumbers, PackWriter};
use crate::layer::contents::{Contents, Directory, SameTar};
use crate::oci::manifest::media;
use crate::plan::graph::BaseId;
use crate::solve::snapshot::LayerRef;
use crate::source::registry::Progress;
use crate::tree::entry::Entry;
use crate::tree::index::Index;
use crate::tree::walk::open_dir;
use crate::worker::{From, Packing, To, Worker, WriteLayer, pack};

/// Indexes up to this size are kept as they were made.
const SMALL_INDEX_BYTES: usize = 16 << 10;

/// Layers in every form, for one build.
pub struct Forms<'a> {
    store: &'a Store,
    images: &'a ImageService,
    bases: &'a [ResolvedImage],
    progress: &'a dyn Progress,
    privileged: bool,
    staff: staff::Staff,
    indexes: Mutex<HashMap<LayerId, Arc<Index>>>,
    /// The layers of bases that were asked for. A build's lease keeps them there.
    of_bases: Mutex<HashMap<(BaseId, usize), LayerId>>,
    stubs: Mutex<Option<TmpDir>>,
    places: Mutex<Vec<Place>>,
    /// The small indexes of the layers that are unpacked, for the processes of the steps.
    bundle: Mutex<Option<Arc<File>>>,
    unpacked: unpacked::Known,
    views: views::Known,
    accounts: accounts::Known,
    /// One lock per DiffID or layer that is being looked into, so that two stages do not do the same work.
    making: Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl std::fmt::Debug for Forms<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forms")
    }
}

impl<'a> Forms<'a> {
    /// Nothing is read or started yet.
    pub fn new(store: &'a Store, images: &'a ImageService, bases: &'a [ResolvedImage], progress: &'a dyn Progress) -> Self {
        Self {
            store,
            images,
            bases,
            progress,
            privileged: false,
            staff: staff::Staff::default(),
            indexes: Mutex::default(),
            of_bases: Mutex::default(),
            stubs: Mutex::default(),
            places: Mutex::default(),
            bundle: Mutex::default(),
            unpacked: unpacked::Known::default(),
            views: views::Known::default(),
            accounts: accounts::Known::default(),
            making: Mutex::default(),
        }
    }

    /// The same for a build that may have privileged steps.
    #[must_use]
    pub fn with_privileges(self, privileged: bool) -> Self {
        Self { privileged, ..self }
    }

    /// Deletes what the store could not: trees of mapped ids. Nothing is started for nothing.
    pub fn remove(&self, paths: &[PathBuf]) -> Result<(), StepError> {
        if paths.is_empty() { Ok(()) } else { Ok(self.worker()?.remove(paths)?) }
    }

    /// Deletes what is in the store's way and only a worker can delete, if there is one: the trees of a build that was faster, say.
    pub fn tidy(&self) {
        if self.staff.is_there() {
            // What stays is in nobody's way, and the next build tries again.
            drop(self.store.reap().map_err(StepError::from).and_then(|left| self.remove(&left)));
        }
    }

    /// The id of a layer's index. For a layer of a base that was never looked into this reads its blob once.
    pub fn layer_id(&self, layer: &LayerRef) -> Result<LayerId, StepError> {
        match layer {
            LayerRef::Own { layer, .. } => Ok(*layer),
            LayerRef::Base { image, number, .. } => {
                if let Some(known) = self.known_layer(layer)? {
                    return Ok(known);
                }
                let turn = self.turn(&self.name_upon(*image, *number).to_string());
                let _turn = lock(&turn);
                self.known_layer(layer)?.map_or_else(|| self.look_into(*image, *number), Ok)
            }
        }
    }

    /// The index of a layer.
    pub fn index(&self, layer: &LayerRef) -> Result<Arc<Index>, StepError> {
        self.index_of(&self.layer_id(layer)?)
    }

    fn index_of(&self, id: &LayerId) -> Result<Arc<Index>, StepError> {
        let known = || lock(&self.indexes).get(id).cloned();
        if let Some(index) = known() {
            return Ok(index);
        }
        // Who packs ahead asks when others do, and each would map all of it.
        let turn = self.turn(&format!("index {id}"));
        let _turn = lock(&turn);
        if let Some(index) = known() {
            return Ok(index);
        }
        let index = Arc::new(Index::of_layer(&self.store.layers().index_path(id), *id)?);
        lock(&self.indexes).insert(*id, Arc::clone(&index));
        Ok(index)
    }

    /// The store that they lie in.
    pub fn store(&self) -> &Store {
        self.store
    }

    /// A directory for what all steps of the build share, made for the first who asks.
    pub fn stubs(&self) -> Result<PathBuf, StepError> {
        let mut slot = lock(&self.stubs);
        let dir = match slot.take() {
            Some(dir) => dir,
            None => self.store.tmp()?,
        };
        Ok(slot.insert(dir).path().to_owned())
    }

    /// A place for a step: one that was made ahead, or a new one.
    pub fn place(&self, map: &MapId) -> Result<Place, StepError> {
        let ready = lock(&self.places).pop();
        ready.map_or_else(|| Place::make(self.store, map), Ok)
    }

    /// Makes a place ahead, if none is ready. Who finds none makes it, and hears why it cannot be made.
    pub fn make_place(&self, map: &MapId) {
        if self.is_given_up() || !lock(&self.places).is_empty() {
            return;
        }
        if let Ok(place) = Place::make(self.store, map) {
            lock(&self.places).push(place);
        }
    }

    /// Keeps the index of a layer that was made just now: the steps upon it ask for it, and an index that is small takes less room
    /// here than a mapping of its file.
    pub fn remember(&self, id: LayerId, index: Index) {
        if index.as_bytes().len() <= SMALL_INDEX_BYTES {
            lock(&self.indexes).insert(id, Arc::new(index));
        }
    }

    fn wrong_diff_id(&self, image: BaseId, said: &DiffId, found: DiffId) -> StepError {
        StepError::WrongDiffId { image: self.bases[image.0].name.clone(), said: said.0.clone(), found: found.0 }
    }

    /// Gives `make` a fresh directory for an unpacked form and removes what is left of it, whoever owns it.
    pub fn with_fresh_dir<T>(&self, make: impl FnOnce(&std::path::Path) -> Result<T, StepError>) -> Result<T, StepError> {
        let tmp = self.store.tmp()?;
        let dest = tmp.path().join("root");
        std::fs::create_dir(&dest).map_err(StepError::io("make the directory", &dest))?;
        let made = make(&dest);
        let left: Vec<PathBuf> = tmp.close().into_iter().collect();
        self.remove(&left)?;
        made
    }

    /// A directory with a layer's files, if it is unpacked under our map.
    pub fn fs_if_there(&self, layer: &LayerRef) -> Result<Option<PathBuf>, StepError> {
        // Where no map can be, nothing was unpacked under one.
        let Ok(map) = Worker::map_id_here() else { return Ok(None) };
        let id = self.layer_id(layer)?;
        Ok(self.store.layers().fs(&id, &map)?)
    }

    /// The same where it must be: if nobody else but a worker could read it, a tar that is there goes before it.
    pub fn fs_if_needed(&self, layer: &LayerRef) -> Result<Option<PathBuf>, StepError> {
        let has_tar = match layer {
            LayerRef::Base { image, number, .. } => self.bases[image.0].layers[*number].blob.is_some(),
            LayerRef::Own { layer, .. } => self.store.layers().any_packed(layer)?.is_some(),
        };
        if has_tar && !self.reads_everything() { Ok(None) } else { self.fs_if_there(layer) }
    }

    /// Reads a layer's tar, compressed or not: a base's own blob, else any packed form. A base's that only the store's own steps made is
    /// packed first. If reading fails, the store may be to blame.
    pub fn read_blob<T>(&self, layer: &LayerRef, read: impl FnOnce(&File) -> Result<T, StepError>) -> Result<T, StepError> {
        let digest = match layer {
            LayerRef::Base { image, number, .. } => {
                self.base_packed(*image, *number, Packing { encoder: Encoder::None, clamp_secs: None })?.blob
            }
            LayerRef::Own { layer, .. } => self.any_packed(layer)?,
        };
        let file = self.store.blobs().open(&digest)?.ok_or_else(|| StepError::LostBlob { digest: digest.clone() })?;
        // To look takes as long as to read all of it: not for those who wait for the end of a build.
        let damage = || if self.is_given_up() { Ok(None) } else { self.store.blobs().damage(&digest) };
        read(&file).map_err(|error| match damage() {
            Ok(Some(damage)) => StepError::DamagedBlob { digest: digest.clone(), damage },
            _ => error,
        })
    }

    fn any_packed(&self, id: &LayerId) -> Result<OciDigest, StepError> {
        if let Some((_, packed)) = self.store.layers().any_packed(id)? {
            return Ok(packed.blob);
        }
        let is_of_others = self.store.layers().has_other_fs(id, &self.map_id()?)?;
        Err(if is_of_others { StepError::OtherIds { layer: *id } } else { StepError::LostLayer { layer: *id } })
    }

    fn base_packed(&self, image: BaseId, number: usize, packing: Packing) -> Result<Packed, StepError> {
        let resolved = &self.bases[image.0];
        let layer = &resolved.layers[number];
        if let (None, Some(own)) = (&layer.blob, &layer.layer) {
            let packed = self.own_packed(own, packing)?;
            if packed.diff_id != layer.diff_id {
                // It was exported with other times: they are part of the image.
                return Err(StepError::LostBlob { digest: layer.diff_id.0.clone() });
            }
            Ok(packed)
        } else {
            let blob = self.images.ensure_blob(resolved, number, self.progress)?;
            Ok(Packed { blob: blob.digest, size_bytes: blob.size_bytes, diff_id: layer.diff_id.clone(), media_type: blob.media_type })
        }
    }

    /// A layer packed for an export. Blobs of bases are exported untouched, unless `force` asks for one compression of all: then
    /// their tars stay as they are and are compressed anew.
    pub fn packed(&self, layer: &LayerRef, packing: Packing, force: bool) -> Result<Packed, StepError> {
        match layer {
            LayerRef::Base { image, number, .. } => {
                let packed = self.base_packed(*image, *number, Packing { clamp_secs: None, ..packing })?;
                if force { self.compressed_anew(*image, packed, packing.encoder) } else { Ok(packed) }
            }
            LayerRef::Own { layer, .. } => self.own_packed(layer, packing),
        }
    }

    /// The blob of a base's layer as its manifest describes it, wherever it is; `None` = the store has to pack the layer.
    pub fn described(&self, layer: &LayerRef) -> Option<Packed> {
        let LayerRef::Base { image, number, .. } = layer else { return None };
        let ImageLayer { diff_id, blob, .. } = &self.bases[image.0].layers[*number];
        let BlobRef { digest, size_bytes, media_type } = blob.clone()?;
        Some(Packed { blob: digest, size_bytes, diff_id: diff_id.clone(), media_type })
    }

    /// The same tar under another compression; as it is if it has that one already, whatever its level (BuildKit).
    fn compressed_anew(&self, image: BaseId, packed: Packed, encoder: Encoder) -> Result<Packed, StepError> {
        if media::oci_of(&packed.media_type) == media::oci_of(encoder.media_type()) {
            return Ok(packed);
        }
        let lost = || StepError::LostBlob { digest: packed.blob.clone() };
        let failed = || StepError::io("compress", packed.blob.to_string());
        let blob = self.store.blobs().open(&packed.blob)?.ok_or_else(lost)?;
        let writer = self.store.blobs().writer()?;
        let out = writer.file().try_clone().map_err(StepError::io("write", "a blob of the store"))?;
        let mut anew = PackWriter::new(BufWriter::new(out), encoder).map_err(failed())?;
        io::copy(&mut Decoder::new(blob).map_err(failed())?, &mut anew).map_err(failed())?;
        let (numbers, out) = anew.finish().map_err(failed())?;
        out.into_inner().map_err(|error| failed()(error.into_error()))?;
        if packed.diff_id != numbers.diff_id {
            return Err(self.wrong_diff_id(image, &packed.diff_id, numbers.diff_id));
        }
        writer.commit_as(&numbers.blob, numbers.size_bytes)?;
        Ok(Packed { blob: numbers.blob, size_bytes: numbers.size_bytes, media_type: encoder.media_type().into(), ..packed })
    }

    /// Packs a layer of ours, from its unpacked form or from another packed one.
    pub fn own_packed(&self, id: &LayerId, packing: Packing) -> Result<Packed, StepError> {
        let turn = self.turn(&pack_turn(id));
        let _turn = lock(&turn);
        if let Some(packed) = self.store.layers().packed(id, &pack_key(packing))? {
            return Ok(packed);
        }
        self.store.require_writable("pack a layer, which was never packed like this, into blobs/")?;
        let writer = self.store.blobs().writer()?;
        let out = writer.file().try_clone().map_err(StepError::io("write", "a blob of the store"))?;
        let numbers = self.pack_into(id, packing, out).map_err(|error| self.where_full(error))?;
        writer.commit_as(&numbers.blob, numbers.size_bytes)?;
        self.note_packed(id, packing, &numbers)
    }

    /// A full disk told as the store's, where the blob lies: the packer knows the file of the layer at which it stopped.
    fn where_full(&self, error: StepError) -> StepError {
        let kind = match fullness(&error) {
            None => return error,
            Some(Fullness::Disk) => io::ErrorKind::StorageFull,
            Some(Fullness::Quota) => io::ErrorKind::QuotaExceeded,
        };
        StoreError::Full { deed: "pack a layer into", path: self.store.root().join("blobs"), source: kind.into() }.into()
    }

    /// Remembers a packed form whose blob is in the store.
    pub fn note_packed(&self, id: &LayerId, packing: Packing, numbers: &PackNumbers) -> Result<Packed, StepError> {
        let packed = Packed {
            blob: numbers.blob.clone(),
            size_bytes: numbers.size_bytes,
            diff_id: numbers.diff_id.clone(),
            media_type: packing.encoder.media_type().to_owned(),
        };
        self.store.layers().put_packed(id, &pack_key(packing), &packed)?;
        self.note_diff_id(id, packing.clamp_secs, &numbers.diff_id)?;
        Ok(packed)
    }

    /// Remembers the digest of a layer's tar.
    pub fn note_diff_id(&self, id: &LayerId, clamp_secs: Option<i64>, diff_id: &DiffId) -> Result<(), StepError> {
        self.store.layers().set_diff_id(id, clamp_secs, diff_id)?;
        if clamp_secs.is_none() {
            // An image with this layer can be a base without being unpacked again.
            self.store.layers().set_by_diff(diff_id, id)?;
        }
        Ok(())
    }

    /// The digest of a layer's tar, without keeping the tar.
    pub fn diff_id(&self, layer: &LayerRef, clamp_secs: Option<i64>) -> Result<DiffId, StepError> {
        let id = match layer {
            LayerRef::Base { diff_id, .. } => return Ok(diff_id.clone()),
            LayerRef::Own { layer, .. } => layer,
        };
        self.own_diff_id(id, clamp_secs)
    }

    /// The same of a layer of ours.
    pub fn own_diff_id(&self, id: &LayerId, clamp_secs: Option<i64>) -> Result<DiffId, StepError> {
        let turn = self.turn(&pack_turn(id));
        let _turn = lock(&turn);
        if let Some(known) = self.store.layers().diff_id(id, clamp_secs)? {
            return Ok(known);
        }
        self.store.require_writable("note the DiffID of a layer in layers/")?;
        let null = File::options().write(true).open("/dev/null").map_err(StepError::io("open", "/dev/null"))?;
        let numbers = self.pack_into(id, Packing { encoder: Encoder::None, clamp_secs }, null)?;
        self.note_diff_id(id, clamp_secs, &numbers.diff_id)?;
        Ok(numbers.diff_id)
    }

    /// How many bytes the files of a layer hold.
    pub fn content_bytes(&self, id: &LayerId) -> Result<u64, StepError> {
        Ok(self.index_of(id)?.content_bytes())
    }

    /// Whether the build was cancelled, or failed.
    pub fn is_given_up(&self) -> bool {
        self.progress.is_cancelled()
    }

    fn pack_into(&self, id: &LayerId, packing: Packing, out: File) -> Result<PackNumbers, StepError> {
        let own = LayerRef::Own { layer: *id, created: (0, 0) };
        let index = self.index_of(id)?;
        let has_content = index.has_contents();
        // Where a tar is there, or nothing to read, nobody needs a worker for files of mapped ids.
        let is_easy = || Ok::<bool, StepError>(!has_content || self.store.layers().any_packed(id)?.is_some());
        let fs = match self.fs_if_there(&own)? {
            Some(_) if !self.reads_everything() && is_easy()? => None,
            fs => fs,
        };
        let Some(fs) = fs else {
            if !has_content {
                return self.pack(&index, &mut SameTar::new(std::io::empty()), packing, out);
            }
            return self.read_blob(&own, |blob| {
                let tar = Decoder::new(blob).map_err(StepError::io("read", id.to_string()))?;
                self.pack(&index, &mut SameTar::new(tar), packing, out)
            });
        };
        if self.reads_everything() {
            let root = open_dir(&fs).map_err(StepError::io("open", &fs))?;
            return self.pack(&index, &mut Directory::new(root), packing, out);
        }
        let request = WriteLayer { index: self.store.layers().index_path(id), from: From::Directory(fs), to: To::Packed(packing) };
        let numbers = self.worker()?.write_unless(request, Some(&out), None, &|| self.is_given_up());
        let numbers = numbers.map_err(|error| if self.is_given_up() { StepError::Cancelled } else { error.into() })?;
        Ok(numbers.expect("a packed form has numbers"))
    }

    fn pack(&self, index: &Index, contents: &mut dyn Contents, packing: Packing, out: File) -> Result<PackNumbers, StepError> {
        let packed = pack(index, &mut Abandoned { contents, forms: self }, packing, out);
        packed.map_err(|error| if self.is_given_up() { StepError::Cancelled } else { error.into() })
    }

    /// Whether this process can read unpacked layers itself: then no other one is needed for it.
    pub fn reads_everything(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn turn(&self, name: &str) -> Arc<Mutex<()>> {
        Arc::clone(lock(&self.making).entry(name.to_owned()).or_default())
    }
}

/// Contents that cannot be read any more when the build is given up.
struct Abandoned<'a, 'b> {
    contents: &'a mut dyn Contents,
    forms: &'a Forms<'b>,
}

impl Contents for Abandoned<'_, '_> {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(AbandonedFile { file: self.contents.open(entry)?, forms: self.forms }))
    }
}

struct AbandonedFile<'a, 'b> {
    file: Box<dyn Read + 'a>,
    forms: &'a Forms<'b>,
}

impl Read for AbandonedFile<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.forms.is_given_up() { Err(io::Error::other("the build was given up")) } else { self.file.read(buffer) }
    }
}

/// Who packs a layer holds up others who pack it, and nobody who unpacks it: that needs a form which is there.
fn pack_turn(id: &LayerId) -> String {
    format!("pack {id}")
}

fn pack_key(packing: Packing) -> PackKey {
    let Packing { encoder, clamp_secs } = packing;
    PackKey { compression: encoder.name().into(), level: encoder.level(), encoder: encoder.version().into(), clamp_secs }
}

/// A lock that a panicking thread held is still good: what it guards is complete at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
