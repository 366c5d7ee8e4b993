//! The one walker over a real directory.
//!
//! Everything is relative to open directories, nothing follows a symlink, and the order is that of
//! [`super::entry::cmp_paths`]: a directory first, then what it holds, names sorted as bytes.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};

use super::entry::{Mtime, join};
use super::{Node, NodeKind};

/// Why a walk ended early. Paths are relative to the walk's root.
#[derive(Debug, thiserror::Error)]
#[error("cannot {deed} {path}: {source}", path = if path.is_empty() { "the top directory".into() } else { String::from_utf8_lossy(path) })]
pub struct WalkError {
    /// What was tried (`open`, `stat`, `read the link`…).
    pub deed: &'static str,
    /// On what.
    pub path: Vec<u8>,
    /// Why it failed.
    pub source: io::Error,
}

impl WalkError {
    /// Joins an IO error to its path and deed.
    pub fn at<E: Into<io::Error>>(deed: &'static str, path: &[u8]) -> impl FnOnce(E) -> Self {
        let path = path.to_vec();
        move |source| Self { deed, path, source: source.into() }
    }
}

/// What a walk reads besides `statx`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Read the kept extended attributes (see [`is_kept_xattr`]) and overlayfs's markers.
    pub xattrs: bool,
}

/// What `statx` says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `S_IFMT` bits and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time.
    pub ctime: Mtime,
    /// Device that holds the inode, as `major << 32 | minor`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Number of names.
    pub nlink: u32,
    /// Major and minor of a device node.
    pub rdev: (u32, u32),
}

impl Stat {
    /// The file type.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }
}

impl From<Statx> for Stat {
    fn from(st: Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Mtime { secs: t.tv_sec, nanos: t.tv_nsec };
        Self {
            mode: u32::from(st.stx_mode),
            uid: st.stx_uid,
            gid: st.stx_gid,
            size: st.stx_size,
            mtime: time(st.stx_mtime),
            ctime: time(st.stx_ctime),
            dev: u64::from(st.stx_dev_major) << 32 | u64::from(st.stx_dev_minor),
            ino: st.stx_ino,
            nlink: st.stx_nlink,
            rdev: (st.stx_rdev_major, st.stx_rdev_minor),
        }
    }
}

/// One path found by [`walk`].
#[derive(Debug)]
pub struct Walked<'a> {
    /// Relative to the walk's root, never empty.
    pub path: Vec<u8>,
    /// The directory it is in, for `openat` with [`Self::name`].
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a CStr,
    /// What `statx` says.
    pub stat: Stat,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// Kept extended attributes, if asked for.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Carries `user.overlay.opaque="y"`.
    pub opaque: bool,
    /// An overlayfs whiteout: a character device 0:0, or an empty file with `user.overlay.whiteout`.
    pub whiteout: bool,
    /// Names of extended attributes that no layer keeps (overlayfs's own and ownership emulation's).
    pub internal_xattrs: Vec<Vec<u8>>,
}

impl Walked<'_> {
    /// Opens a regular file for reading, without following links.
    pub fn open(&self) -> Result<std::fs::File, WalkError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(self.dir, self.name, flags, Mode::empty()).map_err(WalkError::at("open", &self.path))?;
        Ok(fd.into())
    }

    /// The node it is; files with several names carry their inode.
    pub fn node(&self) -> Node {
        Node {
            path: self.path.clone(),
            kind: node_kind(&self.stat, &self.target),
            mode: self.stat.mode & 0o7777,
            uid: self.stat.uid,
            gid: self.stat.gid,
            mtime: self.stat.mtime,
            xattrs: self.xattrs.clone(),
        }
    }
}

/// What a stat says a node is.
pub fn node_kind(stat: &Stat, target: &[u8]) -> NodeKind {
    let (major, minor) = stat.rdev;
    match stat.file_type() {
        FileType::Directory => NodeKind::Dir,
        FileType::Symlink => NodeKind::Symlink { target: target.to_vec() },
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        FileType::CharacterDevice => NodeKind::CharDevice { major, minor },
        FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
        FileType::RegularFile | FileType::Unknown => {
            NodeKind::File { size: stat.size, inode: (stat.nlink > 1).then_some((stat.dev, stat.ino)) }
        }
    }
}

/// Opens a directory as the root of a walk.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Stats one path below an open directory, without following its last component.
pub fn stat_at(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(dir, path, flags, StatxFlags::BASIC_STATS)?.into())
}

/// Walks everything below `root`.
///
/// `prune` is asked first, with the path and whether it is a directory; what it says yes to is not even stat'ed, and a
/// directory's content is skipped with it.
pub fn walk<E: From<WalkError>>(
    root: BorrowedFd<'_>,
    options: Options,
    prune: &mut dyn FnMut(&[u8], bool) -> bool,
    visit: &mut dyn FnMut(Walked<'_>) -> Result<(), E>,
) -> Result<(), E> {
    // A descriptor of its own: the position in the directory belongs to the open file.
    let own = rustix::fs::openat(root, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(WalkError::at("open", &[]))?;
    Walker { options, prune, visit }.directory(own.as_fd(), &[])
}

struct Walker<'a, E> {
    options: Options,
    prune: &'a mut dyn FnMut(&[u8], bool) -> bool,
    visit: &'a mut dyn FnMut(Walked<'_>) -> Result<(), E>,
}

impl<E: From<WalkError>> Walker<'_, E> {
    fn directory(&mut self, dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), E> {
        for (name, file_type) in list(dir).map_err(WalkError::at("list", path))?.iter() {
            let child = join(path, name.to_bytes());
            let (is_dir, early) = match file_type {
                FileType::Unknown => {
                    let stat = stat_at(dir, name).map_err(WalkError::at("stat", &child))?;
                    (stat.is_dir(), Some(stat))
                }
                known => (known == FileType::Directory, None),
            };
            if (self.prune)(&child, is_dir) {
                continue;
            }
            let stat = match early {
                Some(stat) => stat,
                None => stat_at(dir, name).map_err(WalkError::at("stat", &child))?,
            };
            if !stat.is_dir() {
                let walked = self.describe(dir, child, name, stat)?;
                (self.visit)(walked)?;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(WalkError::at("open", &child))?;
            let walked = self.describe(dir, child.clone(), name, stat)?;
            (self.visit)(walked)?;
            self.directory(below.as_fd(), &child)?;
        }
        Ok(())
    }

    fn describe<'d>(&self, dir: BorrowedFd<'d>, path: Vec<u8>, name: &'d CStr, stat: Stat) -> Result<Walked<'d>, WalkError> {
        let mut walked = Walked {
            path,
            dir,
            name,
            stat,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            opaque: false,
            whiteout: false,
            internal_xattrs: Vec::new(),
        };
        match stat.file_type() {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, walked.name, Vec::new());
                walked.target = target.map_err(WalkError::at("read the link", &walked.path))?.into_bytes();
            }
            FileType::CharacterDevice => walked.whiteout = stat.rdev == (0, 0),
            // Only on these may `user.*` attributes stand; the kernel allows no others overlayfs needs.
            FileType::Directory | FileType::RegularFile if self.options.xattrs => read_xattrs(&mut walked)?,
            _ => {}
        }
        Ok(walked)
    }
}

/// The names in a directory, sorted, all in one piece of memory.
#[derive(Debug, Default)]
pub struct Names {
    /// Each with the NUL behind it.
    bytes: Vec<u8>,
    places: Vec<(Range<usize>, FileType)>,
}

impl Names {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Each name with its type, as far as the directory knows it.
    pub fn iter(&self) -> impl Iterator<Item = (&CStr, FileType)> {
        self.places.iter().map(|(place, file_type)| {
            let name = CStr::from_bytes_with_nul(&self.bytes[place.clone()]);
            (name.expect("names are kept as the kernel gave them"), *file_type)
        })
    }
}

/// The names in a directory.
pub fn list(dir: BorrowedFd<'_>) -> io::Result<Names> {
    let mut names = Names::default();
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = RawDir::new(dir, &mut buffer);
    while let Some(entry) = reader.next() {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            let start = names.bytes.len();
            names.bytes.extend_from_slice(name.to_bytes_with_nul());
            names.places.push((start..names.bytes.len(), entry.file_type()));
        }
    }
    let Names { bytes, places } = &mut names;
    // A NUL is less than anything in a name, so that a name comes before those that it begins.
    places.sort_unstable_by(|(a, _), (b, _)| bytes[a.clone()].cmp(&bytes[b.clone()]));
    Ok(names)
}

/// Whether layers keep the extended attribute.
pub fn is_kept_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !is_internal_xattr(name))
}

/// Whether it belongs to overlayfs or to the emulation of ownership.
pub fn is_internal_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.") || name == b"user.rootlesscontainers" || name.starts_with(b"trusted.")
}

fn read_xattrs(walked: &mut Walked<'_>) -> Result<(), WalkError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(walked.dir, walked.name, flags, Mode::empty()) {
        Ok(fd) => fd,
        // What the owner of the mapped ids cannot open here has no attributes that it could keep.
        Err(rustix::io::Errno::ACCESS) => return Ok(()),
        Err(error) => return Err(WalkError::at("open", &walked.path)(error)),
    };
    for name in list_xattrs(&fd).map_err(WalkError::at("list attributes of", &walked.path))? {
        if is_internal_xattr(&name) {
            let value = get_xattr(&fd, &name).unwrap_or_default();
            walked.opaque |= name == b"user.overlay.opaque" && value == b"y" && walked.stat.is_dir();
            walked.whiteout |= name == b"user.overlay.whiteout" && walked.stat.is_file() && walked.stat.size == 0;
            walked.internal_xattrs.push(name);
        } else if is_kept_xattr(&name) {
            let value = get_xattr(&fd, &name).map_err(WalkError::at("read attributes of", &walked.path))?;
            walked.xattrs.insert(name, value);
        }
    }
    Ok(())
}

/// The names of a file's extended attributes, sorted; none where the file system has none.
fn list_xattrs(fd: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 1024];
    loop {
        match rustix::fs::flistxattr(fd, &mut buffer[..]) {
            Ok(len) => {
                let mut names: Vec<_> = buffer[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
                names.sort_unstable();
                return Ok(names);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn get_xattr(fd: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match rustix::fs::fgetxattr(fd, name, &mut buffer[..]) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(rustix::io::Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error.into()),
        }
    }
}
