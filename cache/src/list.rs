//! Long parts of keys, such as the selection of a COPY: stored once, read only to explain a miss.

use std::io::Write as _;
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
        let id = ListId::of(bytes);
        let path = self.path(&id);
        if file_len(&path)? != Some(bytes.len() as u64) && !self.store.is_read_only() {
            self.store.replace_file(&path, |file| file.write_all(bytes))?;
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
