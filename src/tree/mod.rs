//! The filesystem as a value: entries, indexes, stacked views, selections and differences.
//!
//! Nothing here does IO but `walk`. A [`Tree`] is anything COPY can select from.

pub mod accounts;
pub mod chmod;
pub mod diff;
pub mod entry;
pub mod glob;
pub mod graft;
pub mod implied;
pub mod index;
pub mod merge;
mod record;
pub mod select;
pub mod view;
pub mod walk;

use std::collections::BTreeMap;
use std::io;

use entry::Mtime;

/// What a node is, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A regular file of `size` bytes; `inode` groups hardlinks (`None`: a single name).
    File {
        /// Size in bytes.
        size: u64,
        /// An id that all names of one inode share.
        inode: Option<(u64, u64)>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket: never copied.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// One path of a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path relative to the root, as in [`entry::Entry`]; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// `0o7777` bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Kept extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Something COPY selects from: a build context (ignore rules applied) or a [`view::View`]. Never follows symlinks itself.
pub trait Tree: Sync {
    /// The node at `path`, `None` if nothing is there. The empty path is the root directory.
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>>;
    /// The children of the directory at `path`, sorted by name.
    fn children(&self, path: &[u8]) -> io::Result<Vec<Node>>;
    /// The blake3 content digests of regular files, in the order asked for. May hash in parallel.
    fn digests(&self, paths: &[&[u8]]) -> io::Result<Vec<entry::ContentDigest>>;
    /// Calls `look`, which asks for other parts of the tree each time, with every number below `count`: on several cores, where the
    /// answers take time.
    fn at_once(&self, count: usize, look: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(look);
    }
}
