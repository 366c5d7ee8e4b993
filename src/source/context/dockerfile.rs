//! Reads the Dockerfile and the ignore file that goes with it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{BuildContext, ContextError, Place};
use crate::scoped::open_scoped;
use crate::span::SourceFile;

const DEFAULT_NAME: &str = "Dockerfile";
/// No honest Dockerfile is as large; `-f /dev/zero` is.
const LIMIT_BYTES: u64 = 16 << 20;

/// Where the Dockerfile is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DockerfileFrom {
    /// `Dockerfile` at the context's root, else `dockerfile`.
    #[default]
    Default,
    /// `-f PATH`: relative to the working directory; inside the archive, if the context is one.
    Path(PathBuf),
    /// A path inside the context, whatever that is.
    Inside(PathBuf),
    /// `-f -`: its bytes, read from stdin.
    Text(Vec<u8>),
}

/// A Dockerfile's text and what came with it.
#[derive(Clone, Debug)]
pub struct LoadedDockerfile {
    /// The text under the name that errors print: as in BuildKit, without directories.
    pub source: SourceFile,
    /// Where it was found, to tell it from others of its name.
    pub path: String,
    /// The first line that is no UTF-8 and no comment, from 1 on. What is none was replaced by U+FFFD.
    pub not_utf8_line: Option<usize>,
    /// Name and text of `<Dockerfile>.dockerignore`, if it exists.
    pub ignore: Option<(String, Vec<u8>)>,
}

impl LoadedDockerfile {
    /// A Dockerfile alone, as it came on standard input.
    pub fn alone(name: &str, bytes: &[u8]) -> Self {
        loaded(name, "-", bytes, None)
    }

    /// Refuses a text in another encoding: a command with replaced characters would be another command.
    pub fn utf8(self) -> Result<Self, ContextError> {
        match self.not_utf8_line {
            Some(line) => Err(ContextError::NotUtf8 { name: self.source.name().to_owned(), line }),
            None => Ok(self),
        }
    }
}

pub(super) fn load(context: &BuildContext, from: DockerfileFrom) -> Result<LoadedDockerfile, ContextError> {
    match from {
        DockerfileFrom::Text(bytes) => Ok(loaded("-", "-", &bytes, None)),
        DockerfileFrom::Default => load_by_name(&Reader::Inside(context), Path::new(DEFAULT_NAME)),
        DockerfileFrom::Inside(path) => load_by_name(&Reader::Inside(context), &path),
        DockerfileFrom::Path(path) => match &context.place {
            Place::Archive(_) => load_by_name(&Reader::Inside(context), &path),
            Place::Directory(_) => load_by_name(&Reader::Anywhere, &path),
        },
    }
}

/// Whom a name is asked of.
enum Reader<'a> {
    /// The context: symlinks may point within it, not out of it, because its author need not be the one who builds.
    Inside(&'a BuildContext),
    /// The file system, as the user named it.
    Anywhere,
}

impl Reader<'_> {
    fn open(&self, path: &Path) -> io::Result<File> {
        match self {
            Reader::Anywhere => File::open(path),
            Reader::Inside(context) => match &context.place {
                Place::Directory(directory) => open_inside(directory.root(), path),
                Place::Archive(archive) => archive.open_through_links(path.as_os_str().as_bytes()),
            },
        }
    }

    fn read(&self, path: &Path, name: &str) -> Result<Vec<u8>, ContextError> {
        let is_inside = matches!(self, Reader::Inside(_));
        let failed = |source| {
            let (name, path) = (name.to_owned(), path.to_owned());
            ContextError::Dockerfile { name, path, is_inside, has_containerfile: false, source }
        };
        let mut bytes = Vec::new();
        self.open(path).and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
        if bytes.len() as u64 > LIMIT_BYTES {
            return Err(ContextError::DockerfileTooLarge { name: name.to_owned(), limit_bytes: LIMIT_BYTES });
        }
        Ok(bytes)
    }
}

fn load_by_name(reader: &Reader<'_>, path: &Path) -> Result<LoadedDockerfile, ContextError> {
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let (path, bytes) = match reader.read(path, &name(path)) {
        Ok(bytes) => (path.to_owned(), bytes),
        // Docker takes the lower-case name too, but complains about the other one.
        Err(mut error) if is_not_found(&error) && name(path) == DEFAULT_NAME => {
            let lower = path.with_file_name(DEFAULT_NAME.to_lowercase());
            let Ok(bytes) = reader.read(&lower, &name(&lower)) else {
                if let ContextError::Dockerfile { has_containerfile, .. } = &mut error {
                    *has_containerfile = reader.open(&path.with_file_name("Containerfile")).is_ok();
                }
                return Err(error);
            };
            (lower, bytes)
        }
        Err(error) => return Err(error),
    };
    let mut beside = OsString::from(&path);
    beside.push(super::IGNORE_FILE);
    let beside = PathBuf::from(beside);
    let ignore = match reader.open(&beside).and_then(read_all) {
        Ok(text) => Some((name(&beside), text)),
        Err(error) if is_absent(&error) => None,
        Err(source) => return Err(ContextError::IgnoreFile { name: name(&beside), source }),
    };
    Ok(loaded(&name(&path), &path.to_string_lossy(), &bytes, ignore))
}

fn loaded(name: &str, path: &str, bytes: &[u8], ignore: Option<(String, Vec<u8>)>) -> LoadedDockerfile {
    let text = String::from_utf8_lossy(bytes);
    let is_bad = |line: &[u8]| !line.trim_ascii_start().starts_with(b"#") && std::str::from_utf8(line).is_err();
    let not_utf8_line = bytes.split(|b| *b == b'\n').position(is_bad).map(|number| number + 1);
    LoadedDockerfile { source: SourceFile::new(name, text), path: path.to_owned(), not_utf8_line, ignore }
}

/// The text of an ignore file at a context's root, `None` if there is none.
pub(super) fn read_ignore(root: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, ContextError> {
    match open_inside(root, Path::new(name)).and_then(read_all) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        // BuildKit goes on without rules here. A file that cannot be read may be all that keeps a secret out of the image.
        Err(source) => Err(ContextError::IgnoreFile { name: name.to_owned(), source }),
    }
}

fn read_all(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {} MiB", LIMIT_BYTES >> 20)));
    }
    Ok(bytes)
}

fn is_not_found(error: &ContextError) -> bool {
    matches!(error, ContextError::Dockerfile { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// A directory by that name is no ignore file, as in BuildKit.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory)
}

/// Opens a file below `root`; symlinks may lead anywhere inside.
fn open_inside(root: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match open_scoped(root, path, flags, resolve) {
        // Without openat2 links in the last place are refused; the names asked for here have no other place.
        Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::openat(root, path, flags | OFlags::NOFOLLOW, Mode::empty())?.into()),
        other => Ok(other?.into()),
    }
}
