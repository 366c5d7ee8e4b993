//! Images and the names they have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, LayerId, OciDigest};
use crate::entry::{self, is_absent};
use crate::error::StoreError;
use crate::inventory::blob_name;
use crate::last_use;
use crate::lock::FileLock;
use crate::store::Inner;
use crate::tmp::names_in;

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its digest.
    pub digest: OciDigest,
    /// Its size.
    pub size_bytes: u64,
    /// Its media type.
    pub media_type: String,
}

/// One layer of an image, in the forms that the image relies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// The layer in the store, if it was indexed.
    pub layer: Option<LayerId>,
    /// The packed layer, if it was packed.
    pub blob: Option<BlobRef>,
}

/// What an image consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its config.
    pub id: OciDigest,
    /// Its manifest, if it has one.
    pub manifest: Option<BlobRef>,
    /// Its layers, the lowest first.
    pub layers: Vec<ImageLayer>,
    /// Names with digests under which registries know it: `name@sha256:…`.
    pub repo_digests: Vec<String>,
    /// When it came into the store: seconds since the epoch.
    pub stored_at_secs: i64,
    /// What a build decided about manifests that are not made yet.
    #[serde(default)]
    pub built: Built,
}

impl ImageRecord {
    /// The image as it was when it got a name, with what was learnt since.
    fn tagged_as(self, tagged: Self) -> Self {
        let is_same = self.built == tagged.built && self.layers.iter().map(|l| &l.blob).eq(tagged.layers.iter().map(|l| &l.blob));
        if is_same || self.layers.len() != tagged.layers.len() {
            return self;
        }
        // What is in no other form any more stays in the one that there is.
        let packed = |now: &ImageLayer, then: ImageLayer| then.blob.or_else(|| now.blob.clone().filter(|_| now.layer.is_none()));
        let layers = self.layers.iter().zip(tagged.layers);
        let layers = layers.map(|(now, then)| ImageLayer { blob: packed(now, then), ..now.clone() }).collect();
        Self { layers, manifest: tagged.manifest, built: tagged.built, ..self }
    }

    /// Whether nothing would change for whoever reads the record if the other one took its place. That a packed layer was indexed meanwhile,
    /// as those of a base are that was loaded or pulled, changes nothing: it is found by its DiffID as well.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let needed = |layer: &ImageLayer| ImageLayer { layer: layer.layer.filter(|_| layer.blob.is_none()), ..layer.clone() };
        let compared = |record: &Self| Self { stored_at_secs: 0, layers: record.layers.iter().map(needed).collect(), ..record.clone() };
        compared(self) == compared(other)
    }
}

/// What a build decided about the manifest of an image, and about the index that it is part of, for whoever comes to make them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// The images that were built for several platforms under one name, itself among them, in the order of the index; empty
    /// for an image that stands alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<OciDigest>,
    /// Annotations of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Annotations of what points to the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub descriptor_annotations: BTreeMap<String, String>,
    /// Annotations of the index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index_annotations: BTreeMap<String, String>,
    /// Annotations of what points to the index.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub index_descriptor_annotations: BTreeMap<String, String>,
    /// Docker's media types instead of OCI's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub docker_media_types: bool,
}

/// The entry behind a name. The name is in it, for not every file name can be turned back.
#[derive(Serialize, Deserialize)]
pub(crate) struct Named {
    name: String,
    id: OciDigest,
    /// The image as it was when it got the name: another name of the same image may stand for other manifests of it. Older stores have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<Box<ImageRecord>>,
}

/// Held while it is decided whether an image has names left, and while it gets some.
#[derive(Debug)]
pub struct ImagesLock {
    _lock: FileLock,
}

/// The images of a store.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Images<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Keeps an image, without a name. Replaces the record of the same id. What the store has already is written again once an hour, for its
    /// time, and not to a read-only one: a build that finds everything leaves the disk alone.
    pub fn put(self, record: &ImageRecord) -> Result<(), StoreError> {
        let is_recent = |known: &ImageRecord| self.store.is_read_only() || !last_use::is_due(known.stored_at_secs, record.stored_at_secs);
        if self.read(&record.id)?.is_some_and(|known| known.is_as_good_as(record) && is_recent(&known)) {
            return Ok(());
        }
        self.store.require_writable(|| format!("keep the image {} in images/", record.id))?;
        self.store.write_entry(entry::IMAGE, &self.record_path(&record.id), record)
    }

    /// The record of an image. Under a lease, what it names stays from now on, even if the image is removed.
    pub fn get(self, id: &OciDigest) -> Result<Option<ImageRecord>, StoreError> {
        let record = self.read(id)?;
        match &record {
            Some(known) if self.store.has_lease() => {
                self.store.rely_on(parts_of(known))?;
                // Only if it is still there was everything still there.
                self.read(id)
            }
            _ => Ok(record),
        }
    }

    fn read(self, id: &OciDigest) -> Result<Option<ImageRecord>, StoreError> {
        self.store.read_entry(entry::IMAGE, &self.record_path(id)).map(entry::Found::whole)
    }

    /// Keeps others from naming and removing images until it is dropped; nothing in a store that cannot be written.
    pub fn lock(self) -> Result<Option<ImagesLock>, StoreError> {
        if self.store.is_read_only() {
            return Ok(None);
        }
        let lock = FileLock::take_quietly(&self.store.root().join("locks/images"))?;
        Ok(Some(ImagesLock { _lock: lock }))
    }

    /// Gives an image a name, a full reference with its tag, that stands for it as it is here. An image that had the name stays, without it.
    pub fn tag(self, name: &str, image: &ImageRecord) -> Result<(), StoreError> {
        if self.get(&image.id)?.is_none() {
            return Err(StoreError::NoImage { id: image.id.clone() });
        }
        if self.is_tagged(name, image)? {
            return Ok(());
        }
        self.store.require_writable(|| format!("write the name {name} into images/"))?;
        let named = Named { name: name.to_owned(), id: image.id.clone(), image: Some(Box::new(image.clone())) };
        self.store.write_entry(entry::NAME, &self.name_path(name), &named)
    }

    /// Whether a name stands for an image as it is here already.
    fn is_tagged(self, name: &str, image: &ImageRecord) -> Result<bool, StoreError> {
        let known = self.store.read_entry::<Named>(entry::NAME, &self.name_path(name))?.whole();
        let is_same = |known: &Named| known.image.as_ref().is_some_and(|known| known.is_as_good_as(image)) || self.store.is_read_only();
        Ok(known.is_some_and(|known| known.name == name && known.id == image.id && is_same(&known)))
    }

    /// Keeps an image, joined with what was known of it before, and gives it names, which stand for it as it is here.
    pub fn put_named(
        self,
        tagged: &ImageRecord,
        names: &[String],
        join: fn(ImageRecord, ImageRecord) -> ImageRecord,
    ) -> Result<(), StoreError> {
        let joined = || -> Result<ImageRecord, StoreError> {
            Ok(self.get(&tagged.id)?.map_or_else(|| tagged.clone(), |known| join(tagged.clone(), known)))
        };
        let image = joined()?;
        // A name goes before its image does: where all names are there after the record was, nobody removes either.
        let is_kept = self.read(&image.id)?.is_some_and(|known| known.is_as_good_as(&image));
        let is_done =
            is_kept && names.iter().map(|name| self.is_tagged(name, tagged)).collect::<Result<Vec<_>, _>>()?.into_iter().all(|is| is);
        if is_done {
            return self.put(&image);
        }
        let _lock = self.lock()?;
        // Others may have learnt something about it meanwhile.
        self.put(&joined()?)?;
        names.iter().try_for_each(|name| self.tag(name, tagged))
    }

    /// The image with a name, as it was when it got it.
    pub fn named(self, name: &str) -> Result<Option<ImageRecord>, StoreError> {
        let Some(id) = self.resolve(name)? else { return Ok(None) };
        let Some(record) = self.get(&id)? else { return Ok(None) };
        let named = self.store.read_entry::<Named>(entry::NAME, &self.name_path(name))?.whole();
        let tagged = match named {
            Some(Named { image: Some(tagged), .. }) if tagged.id == id => record.tagged_as(*tagged),
            _ => record,
        };
        if self.store.has_lease() {
            self.store.rely_on(parts_of(&tagged))?;
        }
        Ok(Some(tagged))
    }

    /// All names, sorted, each with its image as it was when it got it.
    pub fn tagged(self) -> Result<Vec<(String, ImageRecord)>, StoreError> {
        let mut all = Vec::new();
        for Named { name, id, image } in self.names()? {
            let Some(record) = self.read(&id)? else { continue };
            all.push((name, image.map_or_else(|| record.clone(), |tagged| record.clone().tagged_as(*tagged))));
        }
        Ok(all)
    }

    /// Takes a name away, and returns the image that had it.
    pub fn untag(self, name: &str) -> Result<Option<OciDigest>, StoreError> {
        self.store.require_writable(|| format!("remove the name {name} from images/"))?;
        let path = self.name_path(name);
        let named = self.store.read_entry::<Named>(entry::NAME, &path)?.whole();
        remove_file(&path)?;
        Ok(named.map(|named| named.id))
    }

    /// The image with a name: a reference with its tag, or `name@digest` as some registry knows it.
    pub fn resolve(self, name: &str) -> Result<Option<OciDigest>, StoreError> {
        let named = self.store.read_entry::<Named>(entry::NAME, &self.name_path(name))?.whole();
        if let Some(Named { id, .. }) = named.filter(|named| named.name == name)
            && self.get(&id)?.is_some()
        {
            return Ok(Some(id));
        }
        if !name.contains('@') {
            return Ok(None);
        }
        let mut records = self.records()?;
        records.retain(|record| record.repo_digests.iter().any(|own| own == name));
        // A manifest list can bring several images under one digest; the newest is the one last asked for.
        Ok(records.into_iter().max_by_key(|record| (record.stored_at_secs, record.id.clone())).map(|record| record.id))
    }

    /// The names of an image, sorted.
    pub fn names_of(self, id: &OciDigest) -> Result<Vec<String>, StoreError> {
        Ok(self.names()?.into_iter().filter(|named| named.id == *id).map(|named| named.name).collect())
    }

    /// All images with their names, the newest first.
    pub fn list(self) -> Result<Vec<(ImageRecord, Vec<String>)>, StoreError> {
        let mut names = self.names_by_id()?;
        let mut records = self.records()?;
        records.sort_by(|a, b| b.stored_at_secs.cmp(&a.stored_at_secs).then_with(|| a.id.cmp(&b.id)));
        let with_names = |record: ImageRecord| {
            let names = names.remove(&record.id).unwrap_or_default();
            (record, names)
        };
        Ok(records.into_iter().map(with_names).collect())
    }

    /// The images whose id starts with some digits, with or without `sha256:` in front; sorted. None for no digits at all.
    pub fn find_by_id_prefix(self, prefix: &str) -> Result<Vec<OciDigest>, StoreError> {
        let starts = |id: &OciDigest| match prefix.split_once(':') {
            Some((algorithm, hex)) => algorithm == id.algorithm() && !hex.is_empty() && id.hex().starts_with(hex),
            None => !prefix.is_empty() && id.hex().starts_with(prefix),
        };
        Ok(self.ids()?.into_iter().filter(starts).collect())
    }

    /// Removes an image with all its names. What it consists of stays until it is pruned. Returns whether it was there.
    pub fn remove(self, id: &OciDigest) -> Result<bool, StoreError> {
        self.store.require_writable(|| format!("remove the image {id} from images/"))?;
        self.remove_named(id, &self.names_of(id)?)
    }

    /// Removes an image whose names are known, for who removes many: it reads none. Returns whether it was there.
    pub fn remove_named(self, id: &OciDigest, names: &[String]) -> Result<bool, StoreError> {
        for name in names {
            remove_file(&self.name_path(name))?;
        }
        remove_file(&self.record_path(id))
    }

    /// The names of all images that have some, sorted: for who asks for many.
    pub(crate) fn names_by_id(self) -> Result<BTreeMap<OciDigest, Vec<String>>, StoreError> {
        let mut all: BTreeMap<OciDigest, Vec<String>> = BTreeMap::new();
        for Named { id, name, .. } in self.names()? {
            all.entry(id).or_default().push(name);
        }
        Ok(all)
    }

    /// The ids of all images, sorted.
    fn ids(self) -> Result<Vec<OciDigest>, StoreError> {
        let names = names_in(&self.store.root().join("images/records"))?;
        let mut ids: Vec<OciDigest> = names.iter().filter_map(|name| OciDigest::from_file_name(name)).collect();
        ids.sort();
        Ok(ids)
    }

    pub(crate) fn records(self) -> Result<Vec<ImageRecord>, StoreError> {
        self.ids()?.iter().filter_map(|id| self.read(id).transpose()).collect()
    }

    fn names(self) -> Result<Vec<Named>, StoreError> {
        let dir = self.store.root().join("images/names");
        let mut names: Vec<Named> = Vec::new();
        for file in names_in(&dir)? {
            names.extend(self.store.read_entry::<Named>(entry::NAME, &dir.join(file))?.whole());
        }
        names.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(names)
    }

    fn record_path(self, id: &OciDigest) -> PathBuf {
        self.store.root().join("images/records").join(id.file_name())
    }

    fn name_path(self, name: &str) -> PathBuf {
        self.store.root().join("images/names").join(escape(name))
    }
}

/// What leases call the parts of an image.
fn parts_of(record: &ImageRecord) -> Vec<String> {
    let layers = record.layers.iter().filter_map(|layer| layer.layer.map(|id| format!("layers/{id}")));
    let packed = record.layers.iter().filter_map(|layer| layer.blob.as_ref());
    let blobs = packed.chain(&record.manifest).map(|blob| &blob.digest).chain([&record.id]).map(blob_name);
    layers.chain(blobs).collect()
}

/// Whether there was such a file.
fn remove_file(path: &std::path::Path) -> Result<bool, StoreError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(StoreError::io("remove", path, error)),
    }
}

/// Longer file names are replaced by a hash; 255 is the limit of the file systems.
const LONGEST_NAME: usize = 200;

/// Turns any text into a file name, different texts into different ones. Letters, digits, `_`, `-` and `.` stay, but for a
/// leading `.`; any other byte becomes `%` and two digits; what gets too long becomes `%~` and a hash.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for (at, byte) in text.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || byte == b'.' && at > 0;
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
        }
    }
    match out.len() {
        0 => "%".to_owned(),
        len if len > LONGEST_NAME => format!("%~{}", blake3::hash(text.as_bytes()).to_hex()),
        _ => out,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_file_names() {
        let table = [
            ("alpine", "alpine"),
            ("docker.io/library/alpine:3.20", "docker.io%2Flibrary%2Falpine%3A3.20"),
            ("a@sha256:00", "a%40sha256%3A00"),
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E."),
            ("../x", "%2E.%2Fx"),
            ("%2F", "%252F"),
            ("ü", "%C3%BC"),
        ];
        for (name, file) in table {
            assert_eq!(escape(name), file);
        }
        let long = "x".repeat(300);
        assert!(escape(&long).len() < 255 && escape(&long).starts_with("%~"));
    }

    fn unescape(file: &str) -> Vec<u8> {
        let (mut out, mut rest) = (Vec::new(), file.as_bytes());
        while let Some((first, tail)) = rest.split_first() {
            if *first == b'%' && tail.len() >= 2 {
                let digits = std::str::from_utf8(&tail[..2]).expect("ASCII");
                out.push(u8::from_str_radix(digits, 16).expect("digits"));
                rest = &tail[2..];
            } else {
                out.extend((*first != b'%').then_some(*first));
                rest = tail;
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_name_can_be_read_back(name in "\\PC{0,20}") {
            prop_assert_eq!(unescape(&escape(&name)), name.as_bytes());
            prop_assert!(!escape(&name).contains('/') && !escape(&name).starts_with('.'));
        }
    }
}
