//! Reading a layer's tar for its index and its digest alone.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use shale_cache::{DiffId, OciDigest};

use super::read::{Sink, read_layer};
use super::{LayerError, shown};
use crate::tree::entry::Entry;
use crate::tree::index::Index;

/// Keeps nothing but the index.
struct IndexOnly;

impl Sink for IndexOnly {
    fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        io::copy(content, &mut io::sink()).map(drop).map_err(LayerError::io("read", shown(&entry.path)))
    }

    fn link(&mut self, _: &[u8], _: &[u8]) -> Result<(), LayerError> {
        Ok(())
    }

    fn other(&mut self, _: &Entry) -> Result<(), LayerError> {
        Ok(())
    }

    fn end(&mut self, _: &Index) -> Result<(), LayerError> {
        Ok(())
    }
}

/// The index of a plain tar.
pub fn index_of(tar: impl Read) -> Result<Index, LayerError> {
    read_layer(tar, &mut IndexOnly).map(|(index, _)| index)
}

/// A layer whose tar was read to its end.
#[derive(Debug)]
pub struct Digested {
    /// Its index.
    pub index: Index,
    /// Its directories without members: see [`read_layer`].
    pub implied: Vec<Vec<u8>>,
    /// The digest of the tar itself.
    pub diff_id: DiffId,
}

/// [`read_digested`] for nothing but the index and the digest.
pub fn read_index(tar: impl Read) -> Result<Digested, LayerError> {
    read_digested(tar, &mut IndexOnly)
}

/// [`read_layer`], with the digest of the whole stream: what an image says about its layers is believed only after it was compared.
pub fn read_digested(tar: impl Read, sink: &mut dyn Sink) -> Result<Digested, LayerError> {
    let mut tar = Hashed { source: tar, hash: Sha256::new() };
    let (index, implied) = read_layer(&mut tar, sink)?;
    // A tar may end without an end marker, or with more behind it.
    io::copy(&mut tar, &mut io::sink()).map_err(|source| LayerError::Stream { source })?;
    Ok(Digested { index, implied, diff_id: DiffId(OciDigest::of_sha256(tar.hash)) })
}

struct Hashed<R> {
    source: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
