//! Copies of files that change while a build reads them, such as its own log: from then on every step sees the copy. BuildKit has a
//! copy of all files, since a build's context is sent to it once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::layer::hashing::Hashing;
use crate::source::seldom::Seldom;
use crate::tree::entry::{ContentDigest, Mtime};

/// The copies of one context.
#[derive(Debug, Default)]
pub(super) struct Held(Seldom<BTreeMap<Vec<u8>, HeldFile>>);

/// A copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// When the file had last been modified.
    pub mtime: Mtime,
    /// blake3 of the content.
    pub digest: ContentDigest,
}

impl Held {
    pub(super) fn get(&self, path: &[u8]) -> Option<HeldFile> {
        self.0.read()?.get(path).cloned()
    }

    pub(super) fn put(&self, path: Vec<u8>, file: HeldFile) {
        self.0.write().insert(path, file);
    }
}

impl HeldFile {
    /// Copies as much as the file had when it was looked at: whoever writes may be faster.
    pub(super) fn copy(file: File, size_bytes: u64, mtime: Mtime, to: &Path) -> io::Result<Self> {
        let mut content = Hashing::new(file.take(size_bytes));
        io::copy(&mut content, &mut File::create_new(to)?)?;
        let (digest, size_bytes) = content.read_so_far();
        Ok(Self { path: to.to_owned(), size_bytes, mtime, digest })
    }
}
