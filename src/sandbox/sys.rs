//! The system calls that no safe wrapper offers, and the only `unsafe` code of the crate.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; each block says why it is sound")]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// A file mapped into memory for reading; empty for an empty file.
#[derive(Debug)]
pub struct Mapping(Option<memmap2::Mmap>);

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// Maps a whole file read-only. Meant for the store's files, which are written once, under another name, and renamed.
pub fn map_file(file: &File) -> io::Result<Mapping> {
    if file.metadata()?.len() == 0 {
        return Ok(Mapping(None));
    }
    // SAFETY: the mapping is private to reading, and the store never changes or truncates a file after its rename into place,
    // so the bytes behind the slice do not change while it lives.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    Ok(Mapping(Some(map)))
}
