//! One record of an [`super::index::Index`]: how an entry is encoded, and its checked decoding.

use super::entry::{ContentDigest, Entry, Kind, Mtime};
use super::index::is_clean;

/// Length of a record's fixed part.
pub(super) const RECORD: usize = 32;
/// An opaque directory.
pub(super) const OPAQUE: u8 = 1;
/// A further name of an inode.
pub(super) const LINK: u8 = 2;
/// The first name of an inode that has more.
pub(super) const LINKED: u8 = 4;

/// The kinds' numbers on disk.
pub(super) mod tag {
    pub(in crate::tree) const DIR: u8 = 1;
    pub(in crate::tree) const FILE: u8 = 2;
    pub(in crate::tree) const SYMLINK: u8 = 3;
    pub(in crate::tree) const FIFO: u8 = 4;
    pub(in crate::tree) const CHAR: u8 = 5;
    pub(in crate::tree) const BLOCK: u8 = 6;
    pub(in crate::tree) const WHITEOUT: u8 = 7;
}

pub(super) fn encode_record(out: &mut Vec<u8>, entry: &Entry, linked: bool) {
    assert!(is_clean(&entry.path), "unclean path in an index: {:?}", String::from_utf8_lossy(&entry.path));
    if entry.kind == Kind::Whiteout {
        let mut header = [0; RECORD];
        header[0] = tag::WHITEOUT;
        header[24..28].copy_from_slice(&(entry.path.len() as u32).to_le_bytes());
        out.extend(header);
        out.extend_from_slice(&entry.path);
        return;
    }
    let (kind, link_flag) = match &entry.kind {
        Kind::Dir => (tag::DIR, if entry.opaque { OPAQUE } else { 0 }),
        Kind::File { hardlink: Some(_), .. } => (tag::FILE, LINK),
        Kind::File { .. } => (tag::FILE, if linked { LINKED } else { 0 }),
        Kind::Symlink { .. } => (tag::SYMLINK, 0),
        Kind::Fifo => (tag::FIFO, 0),
        Kind::CharDevice { .. } => (tag::CHAR, 0),
        Kind::BlockDevice { .. } => (tag::BLOCK, 0),
        Kind::Whiteout => unreachable!("handled above"),
    };
    out.extend([kind, link_flag]);
    out.extend(((entry.mode & 0o7777) as u16).to_le_bytes());
    out.extend(entry.uid.to_le_bytes());
    out.extend(entry.gid.to_le_bytes());
    out.extend(entry.mtime.nanos.min(999_999_999).to_le_bytes());
    out.extend(entry.mtime.secs.to_le_bytes());
    out.extend((entry.path.len() as u32).to_le_bytes());
    out.extend((entry.xattrs.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.path);
    match &entry.kind {
        Kind::File { size, digest, hardlink } => {
            out.extend(size.to_le_bytes());
            out.extend(digest);
            if let Some(first) = hardlink {
                out.extend((first.len() as u32).to_le_bytes());
                out.extend_from_slice(first);
            }
        }
        Kind::Symlink { target } => {
            out.extend((target.len() as u32).to_le_bytes());
            out.extend_from_slice(target);
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            out.extend(major.to_le_bytes());
            out.extend(minor.to_le_bytes());
        }
        Kind::Dir | Kind::Fifo | Kind::Whiteout => {}
    }
    for (name, value) in &entry.xattrs {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
    }
}

/// A decoded record that borrows from the index.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Mtime,
    pub(super) path: &'a [u8],
    pub(super) size: Option<u64>,
    digest: ContentDigest,
    pub(super) link: Option<&'a [u8]>,
    target: &'a [u8],
    device: (u32, u32),
    xattrs: Cursor<'a>,
    xattr_count: u32,
}

impl<'a> Record<'a> {
    /// Decodes and checks all but the path's names; `None` if it breaks a rule.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        let head = cursor.take(RECORD)?;
        let (kind, flags) = (head[0], head[1]);
        let mtime = Mtime { secs: u64_at(head, 16) as i64, nanos: u32_at(head, 12) };
        let path = cursor.take(u32_at(head, 24) as usize)?;
        let mut record = Self {
            kind,
            flags,
            mode: u32::from(u16::from_le_bytes([head[2], head[3]])),
            uid: u32_at(head, 4),
            gid: u32_at(head, 8),
            mtime,
            path,
            size: None,
            digest: [0; 32],
            link: None,
            target: &[],
            device: (0, 0),
            xattrs: Cursor(&[]),
            xattr_count: u32_at(head, 28),
        };
        let allowed = match kind {
            tag::DIR => OPAQUE,
            tag::FILE => LINK | LINKED,
            tag::SYMLINK | tag::FIFO | tag::CHAR | tag::BLOCK | tag::WHITEOUT => 0,
            _ => return None,
        };
        if flags & !allowed != 0 || flags == LINK | LINKED || record.mode > 0o7777 || mtime.nanos > 999_999_999 {
            return None;
        }
        match kind {
            tag::FILE => {
                record.size = Some(cursor.u64()?);
                record.digest.copy_from_slice(cursor.take(32)?);
                if flags & LINK != 0 {
                    let len = cursor.u32()? as usize;
                    record.link = Some(cursor.take(len)?);
                }
            }
            tag::SYMLINK => {
                let len = cursor.u32()? as usize;
                record.target = cursor.take(len)?;
            }
            tag::CHAR | tag::BLOCK => record.device = (cursor.u32()?, cursor.u32()?),
            tag::WHITEOUT if head[1..24].iter().any(|b| *b != 0) || record.xattr_count != 0 => return None,
            _ => {}
        }
        record.xattrs = cursor;
        let mut previous: Option<&[u8]> = None;
        for _ in 0..record.xattr_count {
            let (name, _) = cursor.xattr()?;
            if previous.is_some_and(|p| p >= name) {
                return None;
            }
            previous = Some(name);
        }
        cursor.0.is_empty().then_some(record)
    }

    pub(super) fn same_inode(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid, self.mtime, self.size, self.digest, self.xattrs.0)
            == (other.mode, other.uid, other.gid, other.mtime, other.size, other.digest, other.xattrs.0)
    }

    pub(super) fn entry(&self) -> Entry {
        let (major, minor) = self.device;
        let kind = match self.kind {
            tag::DIR => Kind::Dir,
            tag::FILE => Kind::File { size: self.size.unwrap_or_default(), digest: self.digest, hardlink: self.link.map(<[u8]>::to_vec) },
            tag::SYMLINK => Kind::Symlink { target: self.target.to_vec() },
            tag::FIFO => Kind::Fifo,
            tag::CHAR => Kind::CharDevice { major, minor },
            tag::BLOCK => Kind::BlockDevice { major, minor },
            _ => Kind::Whiteout,
        };
        let mut cursor = self.xattrs;
        let xattrs = (0..self.xattr_count).filter_map(|_| cursor.xattr()).map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        Entry {
            path: self.path.to_vec(),
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
            xattrs,
            opaque: self.flags & OPAQUE != 0,
        }
    }
}

/// Takes bytes off the front, never more than there are.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32_at(b, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| u64_at(b, 0))
    }

    fn xattr(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (name, value) = (self.u32()? as usize, self.u32()? as usize);
        Some((self.take(name)?, self.take(value)?))
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
