//! The files of an archive, readable in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shale_cache::{Store, TmpDir};

use super::{ArchiveError, Input};
use crate::layer::compress::{Decoder, Format};

const ENTRY_LIMIT: usize = 200_000;
const LINK_DEPTH_LIMIT: usize = 8;

/// A directory, or a tar and where its entries lie.
#[derive(Debug)]
pub(super) enum Files {
    /// A directory.
    Dir(PathBuf),
    /// A tar.
    Tar(Tar),
}

/// An indexed tar.
#[derive(Debug)]
pub(super) struct Tar {
    path: PathBuf,
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
    /// Where it was spooled to; removed with it.
    _spool: Option<TmpDir>,
}

#[derive(Clone, Debug)]
enum Entry {
    Data {
        offset: u64,
        size_bytes: u64,
    },
    /// Docker links layers that an archive holds twice.
    Link(String),
}

/// A piece of a file.
#[derive(Clone, Debug)]
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    end: u64,
}

impl Section {
    pub(super) fn size_bytes(&self) -> u64 {
        self.end - self.offset
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = (self.end - self.offset).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..len], self.offset)?;
        if read == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += read as u64;
        Ok(read)
    }
}

/// Bytes that tell a compression.
const MAGIC_BYTES: usize = 6;

/// The first bytes of a reader, as many as there are.
pub(super) fn peek(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut magic = Vec::new();
    reader.take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    Ok(magic)
}

impl Files {
    /// Opens an archive or a directory.
    pub(super) fn open(store: &Store, input: Input<'_>) -> Result<Self, ArchiveError> {
        match input {
            Input::Path(path) => {
                let failed = |deed| move |source| ArchiveError::Io { deed, path: path.into(), source };
                let mut file = File::open(path).map_err(failed("open"))?;
                let meta = file.metadata().map_err(failed("stat"))?;
                if meta.is_dir() {
                    return Ok(Self::Dir(path.into()));
                }
                if !meta.is_file() {
                    return spool(store, path, &mut file);
                }
                let magic = peek(&mut file).map_err(failed("read"))?;
                file.rewind().map_err(failed("read"))?;
                if Format::of(&magic) == Format::Plain { index(path.into(), file, None) } else { spool(store, path, &mut file) }
            }
            Input::Stream(stream) => spool(store, Path::new("-"), stream),
        }
    }

    /// The archive's name, for errors.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Dir(path) => path,
            Self::Tar(tar) => &tar.path,
        }
    }

    pub(super) fn corrupt(&self, detail: impl ToString) -> ArchiveError {
        ArchiveError::Corrupt { path: self.path().into(), detail: detail.to_string() }
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, ArchiveError> {
        Ok(self.find(name)?.is_some())
    }

    /// A file of the archive, which must be there.
    pub(super) fn section(&self, name: &str) -> Result<Section, ArchiveError> {
        self.find(name)?.ok_or_else(|| self.corrupt(format!("{name} is missing")))
    }

    /// A whole file of the archive, up to a limit.
    pub(super) fn read(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut section = self.section(name)?;
        if section.size_bytes() > limit_bytes {
            return Err(self.corrupt(format!("{name} is longer than {limit_bytes} bytes")));
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(|e| self.corrupt(format!("{name}: {e}")))?;
        Ok(bytes)
    }

    fn find(&self, name: &str) -> Result<Option<Section>, ArchiveError> {
        let Some(mut name) = normal(name) else { return Ok(None) };
        match self {
            Self::Dir(dir) => {
                let path = dir.join(&name);
                let failed = |source: io::Error| ArchiveError::Io { deed: "open", path: path.clone(), source };
                match File::open(&path) {
                    Ok(file) => {
                        let meta = file.metadata().map_err(failed)?;
                        Ok(meta.is_file().then(|| Section { file: Arc::new(file), offset: 0, end: meta.len() }))
                    }
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
                    Err(e) => Err(failed(e)),
                }
            }
            Self::Tar(tar) => {
                for _ in 0..LINK_DEPTH_LIMIT {
                    match tar.entries.get(&name) {
                        Some(Entry::Data { offset, size_bytes }) => {
                            return Ok(Some(Section { file: Arc::clone(&tar.file), offset: *offset, end: offset + size_bytes }));
                        }
                        Some(Entry::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Err(self.corrupt(format!("{name}: too many links")))
            }
        }
    }
}

/// Copies an archive to a file of the store, uncompressed.
fn spool(store: &Store, path: &Path, reader: &mut dyn Read) -> Result<Files, ArchiveError> {
    let broken = |e: io::Error| ArchiveError::Corrupt { path: path.into(), detail: e.to_string() };
    let mut decoder = Decoder::new(reader).map_err(|source| ArchiveError::Io { deed: "read", path: path.into(), source })?;
    let dir = store.tmp()?;
    let spooled = dir.path().join("archive.tar");
    let failed = |source| ArchiveError::Io { deed: "write", path: spooled.clone(), source };
    let mut file = File::options().read(true).write(true).create_new(true).open(&spooled).map_err(failed)?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        match decoder.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => file.write_all(&chunk[..len]).map_err(failed)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(broken(e)),
        }
    }
    file.rewind().map_err(failed)?;
    index(path.into(), file, Some(dir))
}

/// Notes where the entries of a tar lie.
fn index(path: PathBuf, file: File, spool: Option<TmpDir>) -> Result<Files, ArchiveError> {
    let corrupt = |detail: String| ArchiveError::Corrupt { path: path.clone(), detail };
    // The reader's errors quote what should have been a header.
    let broken = |e: io::Error| corrupt(e.to_string().lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect());
    let len = file.metadata().map_err(broken)?.len();
    if len == 0 {
        return Err(ArchiveError::Empty { path });
    }
    let mut entries = BTreeMap::new();
    let mut archive = tar::Archive::new(&file);
    for (number, entry) in archive.entries_with_seek().map_err(broken)?.enumerate() {
        if number == 0 && entry.is_err() {
            return Err(ArchiveError::NotATar { path });
        }
        let entry = entry.map_err(broken)?;
        let raw_name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(name) = normal(&raw_name) else { continue };
        let kind = entry.header().entry_type();
        let link = || entry.link_name_bytes().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        let found = if kind.is_file() {
            let (offset, size_bytes) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size_bytes).is_none_or(|end| end > len) {
                return Err(corrupt(format!("it ends in the middle of {name}")));
            }
            Some(Entry::Data { offset, size_bytes })
        } else if kind.is_symlink() {
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            normal(&format!("{folder}/{}", link())).map(Entry::Link)
        } else if kind.is_hard_link() {
            normal(&link()).map(Entry::Link)
        } else {
            None
        };
        if let Some(found) = found {
            entries.insert(name, found);
        }
        if entries.len() > ENTRY_LIMIT {
            return Err(corrupt(format!("it has more than {ENTRY_LIMIT} entries")));
        }
    }
    Ok(Files::Tar(Tar { path, file: Arc::new(file), entries, _spool: spool }))
}

/// A relative path without `.` and `..`; `None` where it leaves the archive.
fn normal(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (name, expected) in [
            ("a/b", Some("a/b")),
            ("./a//b/", Some("a/b")),
            ("/a", Some("a")),
            ("x/../a", Some("a")),
            ("../a", None),
            ("a/../../b", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(normal(name).as_deref(), expected, "{name}");
        }
    }
}
