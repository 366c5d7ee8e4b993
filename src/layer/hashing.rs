//! A reader that knows what went through it.

use std::io::{self, Read};

use crate::tree::entry::ContentDigest;

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    source: R,
    hash: blake3::Hasher,
    size_bytes: u64,
}

impl<R> Hashing<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, hash: blake3::Hasher::new(), size_bytes: 0 }
    }

    /// blake3 of what was read, and its size.
    pub(crate) fn read_so_far(&self) -> (ContentDigest, u64) {
        (*self.hash.finalize().as_bytes(), self.size_bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.size_bytes += read as u64;
        Ok(read)
    }
}
