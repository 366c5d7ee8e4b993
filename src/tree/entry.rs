//! One path of a layer.
//!
//! Paths are bytes, relative to the root, without leading or trailing `/`, never empty (the root itself has no entry: BuildKit
//! never emits it either). They sort by component ([`cmp_paths`]), so a directory's descendants follow it directly.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtime {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, below 10⁹.
    pub nanos: u32,
}

/// A blake3 digest of a file's content.
pub type ContentDigest = [u8; 32];

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// blake3 of the content.
        digest: ContentDigest,
        /// Path, in the same layer, of the first name of the same inode; `None` for that first name and for single names.
        hardlink: Option<Vec<u8>>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target as stored.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
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
    /// The path is removed from the layers below.
    Whiteout,
}

/// One path of a layer with its metadata. For a whiteout all metadata is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path, see the module's doc.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes: `security.capability` and `user.*` (never `user.overlay.*`, `user.rootlesscontainers`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A directory that hides what the layers below hold at its path (only in foreign layers; ours use explicit whiteouts).
    pub opaque: bool,
}

impl Entry {
    /// A whiteout at `path`.
    pub fn whiteout(path: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Whiteout,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Mtime::default(),
            xattrs: BTreeMap::new(),
            opaque: false,
        }
    }

    /// A plain entry without extended attributes.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind, mode: u32, uid: u32, gid: u32, mtime: Mtime) -> Self {
        Self { path: path.into(), kind, mode, uid, gid, mtime, xattrs: BTreeMap::new(), opaque: false }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        file_name(&self.path)
    }
}

/// Orders paths by component: `/` sorts below every other byte, so a subtree is contiguous.
pub fn cmp_paths(a: &[u8], b: &[u8]) -> Ordering {
    cmp_behind(a, b, common_len(a, b))
}

/// The same of two paths that are equal for just so many bytes.
pub(super) fn cmp_behind(a: &[u8], b: &[u8], common: usize) -> Ordering {
    match (a.get(common), b.get(common)) {
        (Some(one), Some(other)) if *one != b'/' && *other != b'/' => one.cmp(other),
        // What ends comes first, and then a directory's descendants.
        (None, _) => a.len().cmp(&b.len()),
        (_, None) => Ordering::Greater,
        (Some(b'/'), _) => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// For how many bytes two paths are equal.
pub(super) fn common_len(a: &[u8], b: &[u8]) -> usize {
    let words = |bytes| <[u8]>::as_chunks::<8>(bytes).0;
    let same = words(a).iter().zip(words(b)).take_while(|(one, other)| one == other).count() * 8;
    same + a[same..].iter().zip(&b[same..]).take_while(|(one, other)| one == other).count()
}

/// The directory part of a path, empty for a top-level name.
pub fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(&[], |i| &path[..i])
}

/// The last component of a path.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|b| *b == b'/').map_or(path, |i| &path[i + 1..])
}

/// Joins with `/`, treating an empty side as the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    let mut out = Vec::with_capacity(dir.len() + 1 + name.len());
    out.extend_from_slice(dir);
    out.push(b'/');
    out.extend_from_slice(name);
    out
}
