//! The build context: what COPY and ADD may select from.
//!
//! A local directory is read in place and lazily: a directory is listed when somebody asks for it, a file is read when its digest is
//! asked for and the stat cache does not vouch for it. Everything goes through one open directory, and no path leaves it: symlinks are
//! reported, never followed. An archive on stdin is spooled instead ([`archive`]).
//!
//! As in BuildKit, every owner is 0:0, the mode is the true one, and extended attributes are left behind, a capability too: a program
//! that is privileged on this machine is not so in the image. An ignored directory that holds something re-included is visible, with
//! its true mode. The rules of the ignore file apply to local
//! directories only: BuildKit applies none to archives.

pub mod archive;
mod directory;
pub mod dockerfile;
mod held;
mod missing;
pub mod sizes;

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::ignore::{Ignore, IgnoreError};
use super::statcache::{LoadNote, Saved};
use crate::layer::LayerError;
use crate::tree::entry::ContentDigest;
use crate::tree::{Node, Tree};

use archive::ArchiveTree;
use directory::Directory;
pub use dockerfile::{DockerfileFrom, LoadedDockerfile};
pub use held::HeldFile;
pub use missing::Missing;

/// The name of the ignore file at a context's root.
pub const IGNORE_FILE: &str = ".dockerignore";

/// What can go wrong with a context. The methods of [`Tree`] give it wrapped in an [`io::Error`]; see [`ContextError::of`].
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// There is no such directory.
    #[error("unable to prepare context: path {path:?} not found")]
    NotFound {
        /// As given.
        path: PathBuf,
    },
    /// It is a file.
    #[error("unable to prepare context: context must be a directory: {}", path.display())]
    NotADirectory {
        /// As given.
        path: PathBuf,
    },
    /// Something in it cannot be read.
    #[error("cannot {deed} {} in the build context: {source}", shown(path))]
    Io {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what, relative to the root.
        path: Vec<u8>,
        /// Why it failed.
        source: io::Error,
    },
    /// A file changed while it was read, twice.
    #[error("{} changed during the build", shown(path))]
    Changed {
        /// Relative to the root.
        path: Vec<u8>,
    },
    /// Content was asked of something that has none.
    #[error("{} in the build context is not a regular file", shown(path))]
    NotRegular {
        /// Relative to the root.
        path: Vec<u8>,
    },
    /// A path that is absolute, not clean, or leaves the root: a mistake of the caller.
    #[error("{} is not a path inside the build context", shown(path))]
    BadPath {
        /// As given.
        path: Vec<u8>,
    },
    /// The Dockerfile cannot be read.
    #[error("failed to read dockerfile: open {name}: {}", go_words(source))]
    Dockerfile {
        /// Its name without directories, as BuildKit prints it.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// That is in the context, not on this machine.
        is_inside: bool,
        /// Beside it is one of buildah's name, which nobody asked for.
        has_containerfile: bool,
        /// Why.
        source: io::Error,
    },
    /// The Dockerfile is in another encoding.
    #[error("failed to read dockerfile: line {line} of {name} is not UTF-8")]
    NotUtf8 {
        /// Its name.
        name: String,
        /// The first such line that is no comment.
        line: usize,
    },
    /// The Dockerfile is larger than any is.
    #[error("failed to read dockerfile: {name} is larger than {limit_bytes} bytes")]
    DockerfileTooLarge {
        /// Its name.
        name: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The ignore file cannot be read.
    #[error("failed to read dockerignore patterns: open {name}: {}", go_words(source))]
    IgnoreFile {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The ignore file has a bad pattern.
    #[error(transparent)]
    Ignore(#[from] IgnoreError),
    /// The archive cannot be read.
    #[error("failed to read the build context from the archive: {0}")]
    Archive(#[source] LayerError),
    /// The archive holds something that no context may hold.
    #[error("invalid build context archive: {}: {what}", shown(path))]
    ArchiveMember {
        /// The member.
        path: Vec<u8>,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl ContextError {
    /// Joins an IO error to its deed and path.
    fn io(deed: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_vec();
        move |source| Self::Io { deed, path, source }
    }

    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dockerfile { has_containerfile: true, .. } => Some("there is a Containerfile instead, which is named with -f".into()),
            Self::Dockerfile { name, path, is_inside, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                let absent = format!("there is no {}", path.display());
                Some(match (name.as_str(), is_inside) {
                    ("Dockerfile", true) => "is the context the right one? A Dockerfile elsewhere in it is named with -f".into(),
                    ("Dockerfile", false) => {
                        format!("{absent}: is the context the right directory? A Dockerfile elsewhere is named with -f")
                    }
                    (_, true) => "the path after -f begins at the root of the context, for that is no directory of this machine".into(),
                    (_, false) => format!("{absent}: the path after -f begins at the working directory, not at the context"),
                })
            }
            Self::NotUtf8 { .. } => Some("save it as UTF-8, say with iconv -f latin1 -t utf-8".into()),
            _ => None,
        }
    }

    /// The context's error inside an IO error that a [`Tree`] method gave.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<ContextError> for io::Error {
    fn from(error: ContextError) -> Self {
        let kind = match &error {
            ContextError::Io { source, .. } => source.kind(),
            ContextError::BadPath { .. } | ContextError::NotRegular { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn shown(path: &[u8]) -> std::borrow::Cow<'_, str> {
    if path.is_empty() { "the root".into() } else { String::from_utf8_lossy(path) }
}

/// An error in the words that Go's programs print, without the number that Rust adds.
pub fn go_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        io::ErrorKind::CrossesDevices => "a link on its way is absolute or leads out of the directory".to_owned(),
        _ => error.to_string(),
    }
}

/// A build context, open for the time of a build. Shared by its threads.
#[derive(Debug)]
pub struct BuildContext {
    place: Place,
    identity: String,
}

#[derive(Debug)]
enum Place {
    Directory(Box<Directory>),
    Archive(ArchiveTree),
}

/// A context together with the Dockerfile that came with it.
#[derive(Debug)]
pub struct Opened {
    /// Ignore rules read, nothing listed or hashed yet.
    pub context: BuildContext,
    /// The Dockerfile's text.
    pub dockerfile: LoadedDockerfile,
}

/// Opens a local directory, its Dockerfile, and the ignore file that goes with them: `<Dockerfile>.dockerignore` if it exists, even
/// empty, else `.dockerignore` at the root. `stat_caches` is the store's directory of stat caches; without it every build hashes anew.
pub fn open(dir: &Path, dockerfile: DockerfileFrom, stat_caches: Option<&Path>) -> Result<Opened, ContextError> {
    let mut context = BuildContext::open_dir(dir, stat_caches)?;
    let dockerfile = context.load_dockerfile(dockerfile)?;
    match &dockerfile.ignore {
        Some((name, text)) => context.set_ignore(Ignore::parse(name.clone(), text)?),
        None => context.read_ignore_file()?,
    }
    Ok(Opened { context, dockerfile })
}

impl BuildContext {
    /// Opens a local directory without ignore rules. The store that the stat caches lie in is no part of it: each build would copy what the
    /// builds before it have left there.
    pub fn open_dir(dir: &Path, stat_caches: Option<&Path>) -> Result<Self, ContextError> {
        let root = crate::tree::walk::open_dir(dir).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContextError::NotFound { path: dir.to_owned() },
            io::ErrorKind::NotADirectory => ContextError::NotADirectory { path: dir.to_owned() },
            _ => ContextError::Io { deed: "open", path: dir.as_os_str().as_bytes().to_vec(), source },
        })?;
        let canonical = dir.canonicalize().map_err(ContextError::io("resolve", dir.as_os_str().as_bytes()))?;
        let identity = identity_of(&canonical);
        let cache_file = stat_caches.map(|caches| caches.join(&identity));
        let mut directory = Directory::new(root, cache_file);
        if let Some(store) =
            stat_caches.and_then(Path::parent).and_then(|store| store.strip_prefix(&canonical).ok()).filter(|path| *path != Path::new(""))
        {
            directory.leave_out(store.as_os_str().as_bytes().to_vec());
        }
        Ok(Self { place: Place::Directory(Box::new(directory)), identity })
    }

    /// Opens a named context (`--build-context name=dir`): the ignore file at its root applies, Dockerfiles do not matter.
    pub fn open_named(dir: &Path, stat_caches: Option<&Path>) -> Result<Self, ContextError> {
        let mut context = Self::open_dir(dir, stat_caches)?;
        context.read_ignore_file()?;
        Ok(context)
    }

    /// Reads an archive (plain or compressed tar) to its end and keeps its files below `tmp`, a fresh directory of the caller's that
    /// must outlive the context.
    pub fn from_tar(reader: impl io::Read, tmp: &Path) -> Result<Self, ContextError> {
        Ok(Self { place: Place::Archive(ArchiveTree::read(reader, tmp)?), identity: identity_of(Path::new("-")) })
    }

    /// Calls the context's place by another name: for what was fetched, whose directory of today says nothing.
    #[must_use]
    pub fn known_as(self, name: &str) -> Self {
        Self { identity: identity_of(Path::new(name)), ..self }
    }

    /// Names the context's place: the same for every build of one directory. For a step's site and the stat cache's file name.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Applies ignore rules. They do nothing to an archive.
    pub fn set_ignore(&mut self, ignore: Ignore) {
        if let Place::Directory(directory) = &mut self.place {
            directory.set_ignore(ignore);
        }
    }

    fn read_ignore_file(&mut self) -> Result<(), ContextError> {
        let Place::Directory(directory) = &mut self.place else { return Ok(()) };
        if let Some(text) = dockerfile::read_ignore(directory.root(), IGNORE_FILE)? {
            directory.set_ignore(Ignore::parse(IGNORE_FILE, &text)?);
        }
        Ok(())
    }

    /// Whether files changed since this build looked at them that are not held yet. Those of an archive are the build's own.
    pub fn has_changed(&self) -> bool {
        matches!(&self.place, Place::Directory(directory) if directory.has_changed())
    }

    /// Copies them into an empty directory, which must stay as long as files are read, and says whether there were any. Every look sees
    /// the copies then. For one caller at a time.
    pub fn hold_changed(&self, dir: &Path) -> Result<bool, ContextError> {
        match &self.place {
            Place::Directory(directory) => directory.hold_changed(dir),
            Place::Archive(_) => Ok(false),
        }
    }

    /// The copy of a file that is held.
    pub fn held(&self, path: &[u8]) -> Option<HeldFile> {
        match &self.place {
            Place::Directory(directory) => directory.held(path),
            Place::Archive(_) => None,
        }
    }

    /// The path of the store in it, which is left out although the rules do not say so.
    pub fn left_out(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Directory(directory) => directory.left_out(),
            Place::Archive(_) => None,
        }
    }

    /// The rules in force.
    pub fn ignore(&self) -> Option<&Ignore> {
        match &self.place {
            Place::Directory(directory) => Some(directory.ignore()),
            Place::Archive(_) => None,
        }
    }

    /// Reads the Dockerfile and the ignore file beside it.
    pub fn load_dockerfile(&self, from: DockerfileFrom) -> Result<LoadedDockerfile, ContextError> {
        dockerfile::load(self, from)
    }

    /// The open directory under which [`Tree`]'s paths name the same regular files: for readers that open many.
    pub fn root(&self) -> BorrowedFd<'_> {
        match &self.place {
            Place::Directory(directory) => directory.root(),
            Place::Archive(archive) => archive.root(),
        }
    }

    /// Opens a regular file for reading, never through a symlink. The ignore rules are not asked: who knows a path selected it.
    pub fn open_file(&self, path: &[u8]) -> Result<File, ContextError> {
        if let Some(held) = self.held(path) {
            return File::open(&held.path).map_err(ContextError::io("open", path));
        }
        directory::open_regular(self.root(), path)
    }

    /// Says why COPY found nothing at `path`.
    pub fn why_missing(&self, path: &[u8]) -> Missing {
        missing::why(self, path)
    }

    /// Stores what this build learned for the next one. To be called when everything is hashed.
    pub fn save_stat_cache(&self) -> io::Result<Saved> {
        match &self.place {
            Place::Directory(directory) => directory.save_stat_cache(),
            Place::Archive(_) => Ok(Saved::default()),
        }
    }

    /// Why the last build's stat cache was not used, for the debug log.
    pub fn stat_cache_note(&self) -> Option<&LoadNote> {
        match &self.place {
            Place::Directory(directory) => directory.stat_cache_note(),
            Place::Archive(_) => None,
        }
    }

    /// How many files this build has read to hash them.
    pub fn hashed_files(&self) -> usize {
        match &self.place {
            Place::Directory(directory) => directory.hashed_files(),
            Place::Archive(_) => 0,
        }
    }

    /// Whether something is at `path` on disk, whatever the ignore rules say.
    fn exists(&self, path: &[u8]) -> bool {
        match &self.place {
            Place::Directory(directory) => directory.exists(path),
            Place::Archive(archive) => archive.node(path).is_some(),
        }
    }
}

impl Tree for BuildContext {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        Ok(match &self.place {
            Place::Directory(directory) => directory.node(path)?,
            Place::Archive(archive) => archive.node(path),
        })
    }

    fn children(&self, path: &[u8]) -> io::Result<Vec<Node>> {
        Ok(match &self.place {
            Place::Directory(directory) => directory.children(path)?,
            Place::Archive(archive) => archive.children(path)?,
        })
    }

    fn at_once(&self, count: usize, look: &(dyn Fn(usize) + Sync)) {
        match &self.place {
            Place::Directory(_) => (0..count).into_par_iter().for_each(look),
            Place::Archive(_) => (0..count).for_each(look),
        }
    }

    fn digests(&self, paths: &[&[u8]]) -> io::Result<Vec<ContentDigest>> {
        Ok(match &self.place {
            Place::Directory(directory) => directory.digests(paths)?,
            Place::Archive(archive) => archive.digests(paths)?,
        })
    }
}

/// The name of a context's place.
fn identity_of(canonical: &Path) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("shale 1 build context's place");
    hasher.update(canonical.as_os_str().as_bytes());
    hasher.finalize().to_hex().to_string()
}
