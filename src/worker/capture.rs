//! What a RUN left: the upper directory becomes a layer, and equal to its index on disk.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, mknodat, unlinkat, utimensat};

use crate::sandbox::{Deed, Failure, LowerLayer, SandboxError};
use crate::scoped::open_scoped;
use crate::tree::NodeKind;
use crate::tree::diff::{Diff, Fix, Upper, diff};
use crate::tree::entry::{Entry, Kind, file_name, parent};
use crate::tree::index::{Bundle, INLINE_LIMIT_BYTES, INLINE_PATHS, Index, IndexError};
use crate::tree::view::View;
use crate::tree::walk::{self, WalkError, Walked};

/// Bytes hashed at once.
const READ_BYTES: usize = 128 << 10;

impl From<WalkError> for Failure {
    fn from(error: WalkError) -> Self {
        Self::call(error.deed, Some(&crate::layer::shown(&error.path)), error.source)
    }
}

/// Compares an upper directory with the layers below it and brings it into the form of its index, which is returned.
/// `indexes` as in the request of the step.
pub(super) fn capture(upper: &Path, lowers: &[LowerLayer], indexes: Option<&File>) -> Result<Index, Failure> {
    let root = walk::open_dir(upper).deed_on("open", upper)?;
    let (found, inline) = walk_upper(&root)?;
    if found.is_empty() {
        return Ok(Index::empty());
    }
    let below = opened(lowers, indexes).map_err(|error| Failure::Other(error.to_string()))?;
    let made = diff(&found, &View::new(below), &inline);
    apply(&root, &made)?;
    Ok(made.index)
}

/// The indexes of the layers below, which the main process has checked. Most are small, and lie in one file.
fn opened(lowers: &[LowerLayer], indexes: Option<&File>) -> Result<Vec<Arc<Index>>, IndexError> {
    let small = indexes.map(Bundle::of).transpose()?;
    let open = |lower: &LowerLayer| match (&small, lower.part) {
        (Some(small), Some((offset, len))) => small.index(offset, len),
        _ => Index::open_checked(&lower.index),
    };
    lowers.iter().map(|lower| open(lower).map(Arc::new)).collect()
}

/// What is wrong with an unpacked layer. One that a pruning has taken meanwhile is not damaged, and one that cannot be read says nothing
/// of the others.
pub(super) fn found_difference(root: &Path, index: &Path) -> Option<String> {
    let found = difference(root, index).unwrap_or_else(|failure| Some(SandboxError::from(failure).to_string()));
    found.filter(|_| root.exists() && index.exists())
}

/// The first thing in which an unpacked layer differs from its index: names, types, modes, owners and contents.
fn difference(root: &Path, index: &Path) -> Result<Option<String>, Failure> {
    let index = Index::open(index).map_err(|error| Failure::Other(error.to_string()))?;
    let dir = walk::open_dir(root).deed_on("open", root)?;
    let (found, _) = walk_upper(&dir)?;
    let shown = |path: &[u8], what: &str| Some(format!("{} {what}", crate::layer::shown(path).display()));
    for upper in &found {
        let Some(at) = index.find(&upper.entry.path) else { return Ok(shown(&upper.entry.path, "is not in the index")) };
        let wanted = index.entry(at);
        let is_same_kind = match (&wanted.kind, &upper.entry.kind) {
            (Kind::File { size, digest, .. }, Kind::File { size: own_size, digest: own, .. }) => (size, digest) == (own_size, own),
            (wanted, own) => wanted == own,
        };
        if !is_same_kind {
            return Ok(shown(&wanted.path, "has another content"));
        }
        let own = &upper.entry;
        if wanted.kind != Kind::Whiteout && (wanted.mode, wanted.uid, wanted.gid) != (own.mode, own.uid, own.gid) {
            return Ok(shown(&wanted.path, "has another mode or owner"));
        }
    }
    if found.len() == index.len() {
        return Ok(None);
    }
    let here: HashSet<&[u8]> = found.iter().map(|upper| upper.entry.path.as_slice()).collect();
    // Device nodes are left out where the kernel lets nobody make them.
    let is_device = |entry: &Entry| matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
    let lost = index.iter().find(|entry| !is_device(entry) && !here.contains(entry.path.as_slice()));
    Ok(lost.and_then(|entry| shown(&entry.path, "is gone")))
}

type Inline = BTreeMap<Vec<u8>, Vec<u8>>;

fn walk_upper(root: &OwnedFd) -> Result<(Vec<Upper>, Inline), Failure> {
    let (mut found, mut inline) = (Vec::new(), Inline::new());
    let mut buffer = vec![0; READ_BYTES];
    let options = walk::Options { xattrs: true };
    walk::walk(std::os::fd::AsFd::as_fd(root), options, &mut |_, _| false, &mut |walked: Walked<'_>| {
        let upper = upper_of(&walked, &mut inline, &mut buffer)?;
        found.push(upper);
        Ok::<(), Failure>(())
    })?;
    Ok((found, inline))
}

fn upper_of(walked: &Walked<'_>, inline: &mut Inline, buffer: &mut [u8]) -> Result<Upper, Failure> {
    let node = walked.node();
    let (mut inode, mut is_socket) = (None, false);
    let kind = match node.kind {
        _ if walked.whiteout => Kind::Whiteout,
        NodeKind::Dir => Kind::Dir,
        NodeKind::File { size, inode: group } => {
            inode = group;
            Kind::File { size, digest: digest(walked, inline, buffer)?, hardlink: None }
        }
        NodeKind::Symlink { target } => Kind::Symlink { target },
        NodeKind::Fifo => Kind::Fifo,
        NodeKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
        NodeKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
        NodeKind::Socket => {
            is_socket = true;
            Kind::Fifo
        }
    };
    let entry = if kind == Kind::Whiteout {
        Entry::whiteout(node.path)
    } else {
        Entry { xattrs: node.xattrs, opaque: walked.opaque, ..Entry::new(node.path, kind, node.mode, node.uid, node.gid, node.mtime) }
    };
    Ok(Upper { entry, inode, is_socket, internal_xattrs: walked.internal_xattrs.clone() })
}

fn digest(walked: &Walked<'_>, inline: &mut Inline, buffer: &mut [u8]) -> Result<[u8; 32], Failure> {
    let shown = crate::layer::shown(&walked.path);
    let mut file = walked.open()?;
    if INLINE_PATHS.contains(&walked.path.as_slice()) && walked.stat.size <= INLINE_LIMIT_BYTES as u64 {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).deed_on("read", &shown)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        inline.insert(walked.path.clone(), bytes);
        return Ok(digest);
    }
    let mut hash = blake3::Hasher::new();
    loop {
        let read = file.read(buffer).deed_on("read", &shown)?;
        if read == 0 {
            return Ok(*hash.finalize().as_bytes());
        }
        hash.update(&buffer[..read]);
    }
}

/// Does what the difference asks for, then gives directories back the times that their children's changes took.
fn apply(root: &OwnedFd, made: &Diff) -> Result<(), Failure> {
    let mut touched: Vec<&[u8]> = Vec::new();
    for fix in &made.fixes {
        let path = match fix {
            Fix::Remove(path) | Fix::Whiteout(path) | Fix::DropXattr(path, _) => path,
        };
        let shown = crate::layer::shown(path);
        let dir = open_dir(root, parent(path)).deed_on("open the directory of", &shown)?;
        let name = file_name(path);
        match fix {
            Fix::Remove(_) => {
                let removed = match unlinkat(&dir, name, AtFlags::empty()) {
                    Err(rustix::io::Errno::ISDIR) => unlinkat(&dir, name, AtFlags::REMOVEDIR),
                    other => other,
                };
                removed.deed_on("remove", &shown)?;
            }
            Fix::Whiteout(_) => mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), 0).deed_on("make a whiteout at", &shown)?,
            Fix::DropXattr(_, xattr) => drop_xattr(&dir, name, xattr).deed_on("take an attribute from", &shown)?,
        }
        touched.push(parent(path));
    }
    touched.sort_unstable();
    touched.dedup();
    for path in touched {
        let Some(at) = made.index.find(path) else { continue };
        let mtime = made.index.entry(at).mtime;
        let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let dir = open_dir(root, parent(path)).deed_on("open the directory of", crate::layer::shown(path))?;
        utimensat(&dir, file_name(path), &times, AtFlags::SYMLINK_NOFOLLOW).deed_on("set the time of", crate::layer::shown(path))?;
    }
    Ok(())
}

fn open_dir(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    open_scoped(root, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// `user.*` attributes exist on files and directories only, so the path can be opened.
fn drop_xattr(dir: &OwnedFd, name: &[u8], xattr: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open_scoped(dir, name, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    match rustix::fs::fremovexattr(&file, xattr) {
        Err(rustix::io::Errno::NODATA) => Ok(()),
        other => other,
    }
}
