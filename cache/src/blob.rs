//! OCI content, by its digest.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::OciDigest;
use crate::durable::Trust;
use crate::entry::{self, Found, is_absent};
use crate::error::StoreError;
use crate::inventory::blob_name;
use crate::store::Inner;
use crate::tmp::rename_dir;

/// The entry next to a large file: what it was when it was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) size_bytes: u64,
}

/// The blobs of a store.
#[derive(Clone, Copy, Debug)]
pub struct Blobs<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Blobs<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Where the blob is, if it is there.
    pub fn path(self, digest: &OciDigest) -> PathBuf {
        self.store.root().join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Opens a blob for reading.
    pub fn open(self, digest: &OciDigest) -> Result<Option<File>, StoreError> {
        if self.size(digest)?.is_none() {
            return Ok(None);
        }
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::io("open", &path, error)),
        }
    }

    /// Reads a whole blob; for configs and manifests.
    pub fn read(self, digest: &OciDigest) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut file) = self.open(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| StoreError::io("read", &self.path(digest), error))?;
        Ok(Some(bytes))
    }

    /// The size of a blob that is there and whole.
    pub fn size(self, digest: &OciDigest) -> Result<Option<u64>, StoreError> {
        self.rely_on(digest)?;
        let found = self.store.read_entry::<Made>(entry::MADE, &self.made_path(digest))?;
        let Found::Entry(Made { size_bytes }, trust) = found else { return Ok(None) };
        let path = self.path(digest);
        if file_len(&path)? != Some(size_bytes) {
            return Ok(None);
        }
        let is_whole = trust != Trust::None || self.has_survived(digest, size_bytes)?;
        Ok(is_whole.then_some(size_bytes))
    }

    /// Whether a blob of another boot is what its name says: the bytes themselves tell. Noting that they are saves the next one the work;
    /// where nothing can be noted, this process does it once.
    fn has_survived(self, digest: &OciDigest, size_bytes: u64) -> Result<bool, StoreError> {
        if !self.store.is_read_only() {
            let is_whole = is_as_named(digest, &self.path(digest))?;
            return if is_whole { self.mark_made(digest, size_bytes).map(|()| true) } else { Ok(false) };
        }
        let mut survivors = self.store.survivors.lock().unwrap_or_else(PoisonError::into_inner);
        if !survivors.contains(digest) {
            if !is_as_named(digest, &self.path(digest))? {
                return Ok(false);
            }
            survivors.insert(digest.clone());
        }
        Ok(true)
    }

    /// Whether a blob seems to be there, for those who delete: nothing is hashed, and it does not count as used.
    pub(crate) fn is_there(self, digest: &OciDigest) -> Result<bool, StoreError> {
        let made = self.store.read_entry::<Made>(entry::MADE, &self.made_path(digest))?.whole();
        Ok(made.is_some() && file_len(&self.path(digest))? == made.map(|made| made.size_bytes))
    }

    /// Reads a blob that a note says to be there; what is wrong with it. One that is gone is not damaged.
    pub(crate) fn damage_of(self, digest: &OciDigest, size_bytes: u64) -> Result<Option<String>, StoreError> {
        let path = self.path(digest);
        Ok(match file_len(&path)? {
            None => None,
            Some(len) if len != size_bytes => Some(format!("it has {len} bytes of {size_bytes}")),
            Some(_) => (!is_as_named(digest, &path)?).then(|| "its bytes have another digest".to_owned()),
        })
    }

    /// Reads a blob that is there; what is wrong with it, if anything.
    pub fn damage(self, digest: &OciDigest) -> Result<Option<String>, StoreError> {
        let made = self.store.read_entry::<Made>(entry::MADE, &self.made_path(digest))?.whole();
        made.map_or(Ok(None), |made| self.damage_of(digest, made.size_bytes))
    }

    fn rely_on(self, digest: &OciDigest) -> Result<(), StoreError> {
        if self.store.has_lease() { self.store.rely_on_file(blob_name(digest), &self.path(digest)) } else { Ok(()) }
    }

    /// Keeps some bytes. Those that are there already are not written again, so this can be done to a read-only store, too.
    pub fn put(self, bytes: &[u8]) -> Result<OciDigest, StoreError> {
        let digest = OciDigest::sha256_of(bytes);
        if self.size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).map_err(|error| StoreError::io("write", &writer.path, error))?;
        writer.commit(None).map(|(digest, _)| digest)
    }

    /// Starts a blob whose digest is not known yet.
    pub fn writer(self) -> Result<BlobWriter, StoreError> {
        self.store.require_writable(|| "write into blobs/".into())?;
        let (file, path) = self.store.scratch()?.file()?;
        Ok(BlobWriter { store: Arc::clone(self.store), file, path, hasher: Sha256::new(), size_bytes: 0 })
    }

    pub(crate) fn made_path(self, digest: &OciDigest) -> PathBuf {
        self.store.root().join("blobs/made").join(digest.file_name())
    }

    fn mark_made(self, digest: &OciDigest, size_bytes: u64) -> Result<(), StoreError> {
        self.store.write_entry(entry::MADE, &self.made_path(digest), &Made { size_bytes })
    }

    /// Moves a complete file to its place, unless a whole one is there.
    fn settle(self, digest: &OciDigest, size_bytes: u64, from: &Path) -> Result<(), StoreError> {
        if self.size(digest)? == Some(size_bytes) {
            return Ok(());
        }
        let to = self.path(digest);
        rename_dir(from, &to).map_err(|error| StoreError::io("write", &to, error))?;
        self.store.growth.add(size_bytes);
        self.mark_made(digest, size_bytes)
    }
}

/// A blob being written. Dropped without a commit, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: Arc<Inner>,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    size_bytes: u64,
}

impl BlobWriter {
    /// The file behind it, to be handed to another process that writes and hashes; then [`Self::commit_as`] ends it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Ends the blob, and returns its digest and size. With an expected digest, bytes that do not have it are refused.
    pub fn commit(self, expected: Option<&OciDigest>) -> Result<(OciDigest, u64), StoreError> {
        let actual = match expected {
            // Written data is hashed by sha256, which is what images name. The few of sha512 are read once more.
            Some(expected) if expected.algorithm() == "sha512" => {
                let again = (&self.file).rewind().and_then(|()| OciDigest::of_reader(&self.file, "sha512"));
                again.map_err(|error| StoreError::io("read", &self.path, error))?
            }
            _ => OciDigest::of_sha256(self.hasher.clone()),
        };
        if let Some(expected) = expected.filter(|expected| **expected != actual) {
            return Err(StoreError::DigestMismatch { expected: expected.clone(), actual, size_bytes: self.size_bytes });
        }
        Blobs::new(&self.store).settle(&actual, self.size_bytes, &self.path)?;
        Ok((actual, self.size_bytes))
    }

    /// Ends a blob whose bytes another process wrote into [`Self::file`] and hashed. Only the size is checked.
    pub fn commit_as(self, digest: &OciDigest, size_bytes: u64) -> Result<(), StoreError> {
        let actual = self.file.metadata().map_err(|error| StoreError::io("stat", &self.path, error))?.len();
        if actual != size_bytes {
            return Err(StoreError::SizeMismatch { digest: digest.clone(), expected: size_bytes, actual });
        }
        Blobs::new(&self.store).settle(digest, size_bytes, &self.path)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a commit it has been renamed, or another's was kept.
        drop(std::fs::remove_file(&self.path));
    }
}

/// The length of a regular file.
pub(crate) fn file_len(path: &Path) -> Result<Option<u64>, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(StoreError::io("stat", path, error)),
    }
}

fn is_as_named(digest: &OciDigest, path: &Path) -> Result<bool, StoreError> {
    let hashed = File::open(path).and_then(|file| OciDigest::of_reader(file, digest.algorithm()));
    hashed.map(|actual| actual == *digest).map_err(|error| StoreError::io("read", path, error))
}
