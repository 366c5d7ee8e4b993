//! Where the bytes of a layer's files lie while it is written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};

use super::{LayerError, shown};
use crate::tree::entry::Entry;

/// Gives the content of an index's files. Asked in the index's order, once per file.
pub trait Contents {
    /// Opens the content of a regular file of the index.
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>>;

    /// The directory in which the file itself lies under its path in the index, if it may get one more name instead of being copied.
    fn shared(&self, _entry: &Entry) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// An unpacked layer, or any directory laid out like the index.
#[derive(Debug)]
pub struct Directory {
    root: OwnedFd,
}

impl Directory {
    /// Files below an open directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }
}

impl Contents for Directory {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(open_beneath(&self.root, &entry.path)?))
    }
}

/// Opens a file for reading without ever leaving `root` or following a link.
pub fn open_beneath(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(File::from(openat2(root, path, flags, Mode::empty(), resolve)?))
}

/// Unpacked layers that become one. Their files are what the merged layer's are to be, and nobody changes either.
#[derive(Debug)]
pub struct Shared {
    /// The layers' directories.
    pub roots: Vec<OwnedFd>,
    /// In which of them a file lies, by its path.
    pub sources: HashMap<Vec<u8>, usize>,
}

impl Shared {
    fn root(&self, entry: &Entry) -> Option<BorrowedFd<'_>> {
        Some(self.roots[*self.sources.get(&entry.path)?].as_fd())
    }
}

impl Contents for Shared {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        let root = self.root(entry).ok_or_else(|| io::Error::other("no layer was given for the file"))?;
        Ok(Box::new(open_beneath(root, &entry.path)?))
    }

    fn shared(&self, entry: &Entry) -> Option<BorrowedFd<'_>> {
        self.root(entry)
    }
}

/// Where one file's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceRef {
    /// A file below one of the roots that the writer is given.
    Root {
        /// Which root.
        root: usize,
        /// Path below it.
        #[serde(with = "path_text")]
        path: Vec<u8>,
    },
    /// Bytes of one of the spool files that the writer is given.
    Spool {
        /// Which spool file.
        spool: usize,
        /// Where they begin.
        offset: u64,
        /// How many there are.
        size_bytes: u64,
    },
    /// The bytes themselves: a heredoc.
    Inline(Vec<u8>),
}

/// Paths in JSON: a character of Latin-1 for each byte. As a list of numbers the paths of a large context take hundreds of megabytes.
pub mod path_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes a path.
    pub fn serialize<S: Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&path.iter().map(|byte| char::from(*byte)).collect::<String>())
    }

    /// Reads a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.chars().map(|c| u8::try_from(u32::from(c)).map_err(|_| D::Error::custom("a path of more than bytes"))).collect()
    }
}

/// The same for paths of the machine's, as of contexts: they need not be text.
pub mod paths_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::path_text;

    #[derive(Serialize)]
    struct Written<'a>(#[serde(with = "path_text")] &'a [u8]);

    #[derive(Deserialize)]
    struct Read(#[serde(with = "path_text")] Vec<u8>);

    /// Writes them.
    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| Written(path.as_os_str().as_bytes())))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let read = Vec::<Read>::deserialize(deserializer)?;
        Ok(read.into_iter().map(|Read(path)| OsString::from_vec(path).into()).collect())
    }
}

/// Files of a layer, by their paths, and where their bytes lie.
pub mod sources_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{SourceRef, path_text};

    #[derive(Serialize)]
    struct Written<'a>(#[serde(with = "path_text")] &'a [u8], &'a SourceRef);

    #[derive(Deserialize)]
    struct Read(#[serde(with = "path_text")] Vec<u8>, SourceRef);

    /// Writes them.
    pub fn serialize<S: Serializer>(sources: &[(Vec<u8>, SourceRef)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(sources.iter().map(|(path, source)| Written(path, source)))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Vec<u8>, SourceRef)>, D::Error> {
        let read = Vec::<Read>::deserialize(deserializer)?;
        Ok(read.into_iter().map(|Read(path, source)| (path, source)).collect())
    }
}

/// Files from many places: what COPY and ADD write.
#[derive(Debug)]
pub struct Gathered {
    /// Context directories and unpacked layers.
    pub roots: Vec<OwnedFd>,
    /// Plain files that hold many contents: unpacked archives, packed layers.
    pub spools: Vec<File>,
    /// By path in the new layer.
    pub sources: HashMap<Vec<u8>, SourceRef>,
}

impl Gathered {
    /// As [`Contents::open`], in any order and by any number of threads.
    pub fn open_any<'a>(&'a self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        let source = self.sources.get(&entry.path).ok_or_else(|| io::Error::other("no source was given for the file"))?;
        Ok(match source {
            SourceRef::Root { root, path } => {
                Box::new(open_beneath(&self.roots[*root], path).map_err(|error| match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => io::Error::other(Vanished),
                    _ => error,
                })?)
            }
            SourceRef::Spool { spool, offset, size_bytes } => {
                Box::new(Part { file: &self.spools[*spool], offset: *offset }.take(*size_bytes))
            }
            SourceRef::Inline(bytes) => Box::new(Cursor::new(bytes.as_slice())),
        })
    }
}

impl Contents for Gathered {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        self.open_any(entry)
    }
}

/// A file that was there when it was selected. Now nothing is, or a link.
#[derive(Debug, thiserror::Error)]
#[error("it has vanished")]
struct Vanished;

/// Why the content of an entry could not be opened. What has vanished has changed, like what has other bytes than were hashed.
pub(super) fn unopened(entry: &Entry) -> impl FnOnce(io::Error) -> LayerError {
    let path = shown(&entry.path);
    move |source| match source.downcast::<Vanished>() {
        Ok(Vanished) => LayerError::Changed { path },
        Err(source) => LayerError::Io { deed: "read", path, source },
    }
}

/// A file from an offset on, whoever else reads it.
struct Part<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Another tar of the same index: its files come in the index's order, so one pass serves.
pub struct SameTar<R: Read> {
    tar: super::read::Members<R>,
}

impl<R: Read> std::fmt::Debug for SameTar<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SameTar")
    }
}

impl<R: Read> SameTar<R> {
    /// Reads a plain tar that [`super::write`] made.
    pub fn new(tar: R) -> Self {
        Self { tar: super::read::Members::new(tar) }
    }
}

impl<R: Read> Contents for SameTar<R> {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        while let Some(member) = self.tar.advance().map_err(io::Error::other)? {
            if member.path == entry.path {
                return Ok(Box::new(self.tar.content()));
            }
        }
        Err(io::Error::other("the packed form lacks a file of its index"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_survives_the_way_to_the_worker() {
        #[derive(Serialize, Deserialize)]
        struct Sent(#[serde(with = "sources_text")] Vec<(Vec<u8>, SourceRef)>);
        let all: Vec<u8> = (1..=255).collect();
        let sources = vec![
            (b"plain/path".to_vec(), SourceRef::Root { root: 1, path: all.clone() }),
            (all, SourceRef::Spool { spool: 0, offset: 7, size_bytes: 9 }),
            ("\u{e4}\"\\".as_bytes().to_vec(), SourceRef::Inline(b"text".to_vec())),
        ];
        let text = serde_json::to_string(&Sent(sources.clone())).expect("JSON");
        assert!(text.contains("plain/path"), "{text}");
        assert_eq!(serde_json::from_str::<Sent>(&text).expect("JSON").0, sources);
    }
}
