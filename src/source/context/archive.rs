//! A context that came as an archive.
//!
//! The tree lives in memory; only the contents of regular files go to disk, under the names they have in the archive, below a
//! directory of ours. Nothing else is ever made there: no symlink, so none can be followed out of it, and no device. Modes, times and
//! attributes are those of the archive, owners 0:0. Whiteout names mean nothing here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::ContextError;
use super::directory::open_regular;
use crate::layer::LayerError;
use crate::layer::compress::{Decoder, Format};
use crate::layer::read::{Member, Members};
use crate::scoped::open_scoped;
use crate::tree::entry::{ContentDigest, Mtime, file_name, join, parent};
use crate::tree::{Node, NodeKind};

/// Symlinks followed for one Dockerfile.
const LINK_LIMIT: usize = 40;

#[derive(Debug)]
pub(super) struct ArchiveTree {
    root: OwnedFd,
    nodes: HashMap<Vec<u8>, Node>,
    /// Names by directory.
    names: HashMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    digests: HashMap<Vec<u8>, ContentDigest>,
    /// Numbers the inodes that have several names.
    inodes: u64,
}

impl ArchiveTree {
    /// Takes an archive apart, compressed in any way that a layer may be.
    pub(super) fn read(reader: impl Read, tmp: &Path) -> Result<Self, ContextError> {
        let root = crate::tree::walk::open_dir(tmp).map_err(|source| ContextError::Io {
            deed: "open",
            path: tmp.as_os_str().as_encoded_bytes().to_vec(),
            source,
        })?;
        let root_node = Node { mode: 0o755, ..directory_node(Vec::new()) };
        let mut tree = Self {
            root,
            nodes: HashMap::from([(Vec::new(), root_node)]),
            names: HashMap::from([(Vec::new(), BTreeSet::new())]),
            digests: HashMap::new(),
            inodes: 0,
        };
        let plain = Decoder::new(reader).map_err(|source| ContextError::Archive(LayerError::Stream { source }))?;
        let mut members = Members::new(plain);
        while let Some(member) = members.advance().map_err(ContextError::Archive)? {
            tree.take(member, &mut members.content())?;
        }
        Ok(tree)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn node(&self, path: &[u8]) -> Option<Node> {
        self.nodes.get(path).cloned()
    }

    pub(super) fn children(&self, path: &[u8]) -> Result<Vec<Node>, ContextError> {
        let names = self.names.get(path).ok_or_else(|| ContextError::io("list", path)(rustix::io::Errno::NOENT.into()))?;
        Ok(names.iter().filter_map(|name| self.node(&join(path, name))).collect())
    }

    pub(super) fn digests(&self, paths: &[&[u8]]) -> Result<Vec<ContentDigest>, ContextError> {
        let digest = |path: &&[u8]| self.digests.get(*path).copied().ok_or_else(|| ContextError::NotRegular { path: path.to_vec() });
        paths.iter().map(digest).collect()
    }

    /// Opens a file by a path that may lead through symlinks of the archive.
    pub(super) fn open_through_links(&self, path: &[u8]) -> io::Result<File> {
        let mut todo: Vec<Vec<u8>> = path.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(component) = todo.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = parent(&at).to_vec();
                    continue;
                }
                _ => {}
            }
            let next = join(&at, &component);
            match self.nodes.get(&next).map(|node| &node.kind) {
                None => return Err(rustix::io::Errno::NOENT.into()),
                Some(NodeKind::Symlink { target }) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(Errno::LOOP.into());
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    todo.extend(target.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
                }
                Some(_) => at = next,
            }
        }
        match self.nodes.get(&at).map(|node| &node.kind) {
            Some(NodeKind::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Ok(open_regular(self.root(), &at)?),
        }
    }

    fn take(&mut self, member: Member, content: &mut dyn Read) -> Result<(), ContextError> {
        let kind = match member.kind {
            EntryType::Regular | EntryType::Continuous => NodeKind::File { size: member.size_bytes, inode: None },
            EntryType::Link => return self.link(&member),
            EntryType::Directory => NodeKind::Dir,
            EntryType::Symlink => NodeKind::Symlink { target: member.link.clone() },
            EntryType::Fifo => NodeKind::Fifo,
            EntryType::Char => NodeKind::CharDevice { major: member.device.0, minor: member.device.1 },
            EntryType::Block => NodeKind::BlockDevice { major: member.device.0, minor: member.device.1 },
            _ => return Err(invalid(&member.path, "a member of an unknown type")),
        };
        let xattrs = member.xattrs.into_iter().filter(|(name, _)| name == b"security.capability").collect();
        let node = Node { path: member.path, kind, mode: member.mode, uid: 0, gid: 0, mtime: member.mtime, xattrs };
        self.put(node, content)
    }

    /// Adds a node in the place of what was there under its name.
    fn put(&mut self, node: Node, content: &mut dyn Read) -> Result<(), ContextError> {
        let path = node.path.clone();
        if path.is_empty() {
            if node.kind == NodeKind::Dir {
                self.nodes.insert(path, node);
            }
            return Ok(());
        }
        self.make_parents(parent(&path))?;
        if node.kind == NodeKind::Dir {
            self.make_dir(&path)?;
        } else {
            self.remove(&path)?;
        }
        if let NodeKind::File { size, .. } = &node.kind {
            let (digest, written) = self.spool(&path, content)?;
            if written != *size {
                return Err(invalid(&path, "its content is cut off"));
            }
            self.digests.insert(path.clone(), digest);
        }
        self.names.entry(parent(&path).to_vec()).or_default().insert(file_name(&path).to_vec());
        self.nodes.insert(path, node);
        Ok(())
    }

    /// A further name for a file that came before; of a symlink, a copy of it.
    fn link(&mut self, member: &Member) -> Result<(), ContextError> {
        let target = crate::layer::read::clean(&member.link);
        let mut node = self.node(&target).ok_or_else(|| invalid(&member.path, "a hardlink to something that did not come before"))?;
        if target == member.path {
            return Ok(());
        }
        let NodeKind::File { size, inode } = node.kind else {
            if node.kind == NodeKind::Dir {
                return Err(invalid(&member.path, "a hardlink to a directory"));
            }
            node.path.clone_from(&member.path);
            return self.put(node, &mut io::empty());
        };
        self.make_parents(parent(&member.path))?;
        self.remove(&member.path)?;
        let (from, to) = (self.open_dir(parent(&target))?, self.open_dir(parent(&member.path))?);
        rustix::fs::linkat(&from, file_name(&target), &to, file_name(&member.path), AtFlags::empty())
            .map_err(|error| ContextError::io("unpack", &member.path)(error.into()))?;
        let inode = inode.unwrap_or_else(|| {
            self.inodes += 1;
            (0, self.inodes)
        });
        node.kind = NodeKind::File { size, inode: Some(inode) };
        self.nodes.insert(target.clone(), node.clone());
        node.path.clone_from(&member.path);
        self.digests.insert(member.path.clone(), self.digests[&target]);
        self.names.entry(parent(&member.path).to_vec()).or_default().insert(file_name(&member.path).to_vec());
        self.nodes.insert(member.path.clone(), node);
        Ok(())
    }

    /// Directories that the archive leaves out.
    fn make_parents(&mut self, mut dir: &[u8]) -> Result<(), ContextError> {
        let mut missing = Vec::new();
        loop {
            match self.nodes.get(dir).map(|node| &node.kind) {
                Some(NodeKind::Dir) => break,
                Some(_) => return Err(invalid(dir, "is no directory, but something lies below it")),
                None => missing.push(dir),
            }
            dir = parent(dir);
        }
        missing.into_iter().rev().try_for_each(|dir| self.put(directory_node(dir.to_vec()), &mut io::empty()))
    }

    fn make_dir(&mut self, path: &[u8]) -> Result<(), ContextError> {
        if matches!(self.nodes.get(path), Some(node) if node.kind == NodeKind::Dir) {
            return Ok(());
        }
        self.remove(path)?;
        let dir = self.open_dir(parent(path))?;
        rustix::fs::mkdirat(&dir, file_name(path), Mode::RWXU).map_err(|error| ContextError::io("unpack", path)(error.into()))?;
        self.names.insert(path.to_vec(), BTreeSet::new());
        Ok(())
    }

    /// Takes away what an earlier member left under the name. A directory must be empty.
    fn remove(&mut self, path: &[u8]) -> Result<(), ContextError> {
        let Some(old) = self.nodes.get(path) else { return Ok(()) };
        let flags = match old.kind {
            NodeKind::Dir if self.names.get(path).is_some_and(|names| !names.is_empty()) => {
                return Err(invalid(path, "takes the place of a directory that is not empty"));
            }
            NodeKind::Dir => Some(AtFlags::REMOVEDIR),
            NodeKind::File { .. } => Some(AtFlags::empty()),
            _ => None,
        };
        if let Some(flags) = flags {
            let dir = self.open_dir(parent(path))?;
            rustix::fs::unlinkat(&dir, file_name(path), flags).map_err(|error| ContextError::io("unpack", path)(error.into()))?;
        }
        self.nodes.remove(path);
        self.names.remove(path);
        self.digests.remove(path);
        if let Some(siblings) = self.names.get_mut(parent(path)) {
            siblings.remove(file_name(path));
        }
        Ok(())
    }

    /// Writes one file and hashes it on the way.
    fn spool(&self, path: &[u8], content: &mut dyn Read) -> Result<(ContentDigest, u64), ContextError> {
        let failed = |source| ContextError::io("unpack", path)(source);
        let dir = self.open_dir(parent(path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, file_name(path), flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        let mut tee = Tee { hasher: blake3::Hasher::new(), file: file.into() };
        let written = io::copy(content, &mut tee).map_err(failed)?;
        Ok((*tee.hasher.finalize().as_bytes(), written))
    }

    fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match open_scoped(&self.root, path, flags, resolve) {
            // No symlink was ever made below the root, so that the older call cannot leave it either.
            Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(&self.root, path, flags, Mode::empty()),
            other => other,
        };
        opened.map_err(|error| ContextError::io("open", path)(error.into()))
    }
}

/// Whether bytes from stdin are an archive rather than a Dockerfile's text: by the magic of a compression or a valid tar header.
/// To be asked with the first 512 bytes.
pub fn is_archive(start: &[u8]) -> bool {
    if Format::of(start) != Format::Plain {
        return true;
    }
    let Some(block) = start.first_chunk::<512>() else { return false };
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    let sum: u32 = block.iter().enumerate().map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) }).sum();
    block.iter().any(|byte| *byte != 0) && header.cksum().is_ok_and(|stored| stored == sum)
}

struct Tee {
    hasher: blake3::Hasher,
    file: File,
}

impl io::Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn directory_node(path: Vec<u8>) -> Node {
    Node { path, kind: NodeKind::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: BTreeMap::new() }
}

fn invalid(path: &[u8], what: &'static str) -> ContextError {
    ContextError::ArchiveMember { path: path.to_vec(), what }
}
