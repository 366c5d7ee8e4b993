//! Long parts of keys, such as the selection of a COPY: stored once, read only to explain a miss.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::blob::file_len;
use crate::digest::{CacheKey, ListId};
use crate::entry::{self, is_absent};
use crate::error::StoreError;
use crate::store::Inner;

/// The lists of a store.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Lists<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Keeps a list. [`ListId::of`] gives its id without keeping it. A read-only store does without: only what is written there
    /// later would be explained by it.
    pub fn put(self, bytes: &[u8]) -> Result<ListId, StoreError> {
        self.put_from(&|to| to.write_all(bytes))
    }

    /// The same for what `write` writes: once for its id, and once more where the store does not have it. So a long list is never in
    /// memory as a whole.
    pub fn put_from(self, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> Result<ListId, StoreError> {
        let mut counted = Counted { hasher: ListId::hasher(), len: 0 };
        write(&mut counted).map_err(|error| StoreError::io("hash what is to be kept in", &self.store.root().join("lists"), error))?;
        let id = counted.hasher.finalize().into();
        let path = self.path(&id);
        if file_len(&path)? != Some(counted.len) && !self.store.is_read_only() {
            self.store.replace_file(&path, |file| write(file))?;
        }
        Ok(id)
    }

    /// Reads a list. One whose bytes do not have the id is removed, and not there.
    pub fn get(self, id: &ListId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(id);
        match std::fs::read(&path) {
            Ok(bytes) if ListId::of(&bytes) == *id => Ok(Some(bytes)),
            Ok(_) => {
                drop(std::fs::remove_file(&path));
                Ok(None)
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// The list that was made of a source, whose key says all that decides it.
    pub fn by_source(self, source: &CacheKey) -> Result<Option<ListId>, StoreError> {
        Ok(self.store.read_entry::<ListId>(entry::TAKEN, &self.by_source_path(source))?.whole())
    }

    /// Says which list a source gives. A read-only store does without.
    pub fn set_by_source(self, source: &CacheKey, list: &ListId) -> Result<(), StoreError> {
        if self.store.is_read_only() {
            return Ok(());
        }
        self.store.write_entry(entry::TAKEN, &self.by_source_path(source), list)
    }

    fn path(self, id: &ListId) -> PathBuf {
        self.store.root().join("lists").join(id.to_hex())
    }

    fn by_source_path(self, source: &CacheKey) -> PathBuf {
        self.store.root().join("by-source").join(source.to_hex())
    }
}

/// Takes bytes for the id and the length that they have.
struct Counted {
    hasher: blake3::Hasher,
    len: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
