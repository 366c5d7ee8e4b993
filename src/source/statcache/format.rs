//! The file of a stat cache.
//!
//! ```text
//! magic     8   "shalstat"
//! version   u32
//! count     u32
//! checksum  32  blake3 of all that follows
//! records   count × 88, sorted by path, little-endian:
//!             path_start u32 · path_len u16 · 0 u8 · age u8
//!             size u64 · mtime_secs i64 · ctime_secs i64 · mtime_nanos u32 · ctime_nanos u32
//!             inode u64 · dev u64 · digest 32
//! heap          the paths
//! ```
//! Mapped, and searched in place.

use std::cell::Cell;
use std::cmp::Ordering;

use super::{Fingerprint, Mtime};
use crate::sandbox::sys::Mapping;
use crate::tree::entry::ContentDigest;

const MAGIC: &[u8; 8] = b"shalstat";
const VERSION: u32 = 1;
const HEADER: usize = 48;
const RECORD: usize = 88;

/// One entry; borrows from the table or from what is about to be written.
#[derive(Clone, Debug)]
pub(super) struct Record<'a> {
    pub(super) path: &'a [u8],
    pub(super) seen: Fingerprint,
    pub(super) digest: ContentDigest,
    pub(super) age: u8,
}

/// A loaded file.
#[derive(Debug, Default)]
pub(super) struct Table {
    bytes: Mapping,
    count: usize,
}

thread_local! {
    /// The record that this thread found last. Files are asked for in order, so that the next one is mostly the next record.
    static LAST: Cell<usize> = const { Cell::new(0) };
}

impl Table {
    /// Checks everything that later reads rely on.
    pub(super) fn from_bytes(bytes: Mapping) -> Result<Self, &'static str> {
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return Err("it is no stat cache");
        }
        if u32_at(&bytes, 8) != VERSION {
            return Err("it is of another version");
        }
        if blake3::hash(&bytes[HEADER..]).as_bytes()[..] != bytes[16..HEADER] {
            return Err("its checksum does not hold");
        }
        let count = u32_at(&bytes, 12) as usize;
        let table = Self { bytes, count };
        let heap = count.checked_mul(RECORD).and_then(|size| table.bytes.len().checked_sub(HEADER + size)).ok_or("it is cut short")?;
        let inside = |i: usize| {
            let (start, path) = table.place(i);
            start + path <= heap
        };
        if (0..count).all(inside) { Ok(table) } else { Err("an entry points outside") }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Where a record's path starts in the heap, and its length.
    fn place(&self, i: usize) -> (usize, usize) {
        let at = HEADER + i * RECORD;
        let length = u16::from_le_bytes([self.bytes[at + 4], self.bytes[at + 5]]);
        (u32_at(&self.bytes, at) as usize, usize::from(length))
    }

    fn path(&self, i: usize) -> &[u8] {
        let (start, length) = self.place(i);
        &self.bytes[HEADER + self.count * RECORD + start..][..length]
    }

    /// The number of the record of `path`.
    pub(super) fn find(&self, path: &[u8]) -> Option<usize> {
        let last = LAST.get();
        let near = [last + 1, last].into_iter().find(|i| *i < self.count && self.path(*i) == path);
        let found = near.or_else(|| self.search(path))?;
        LAST.set(found);
        Some(found)
    }

    fn search(&self, path: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.path(middle).cmp(path) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    pub(super) fn record(&self, i: usize) -> Record<'_> {
        let at = HEADER + i * RECORD;
        let (start, length) = self.place(i);
        let heap = &self.bytes[HEADER + self.count * RECORD..];
        let time = |secs: usize, nanos: usize| Mtime { secs: u64_at(&self.bytes, secs) as i64, nanos: u32_at(&self.bytes, nanos) };
        let mut digest = [0; 32];
        digest.copy_from_slice(&self.bytes[at + 56..at + 88]);
        Record {
            path: &heap[start..start + length],
            seen: Fingerprint {
                size: u64_at(&self.bytes, at + 8),
                mtime: time(at + 16, at + 32),
                ctime: time(at + 24, at + 36),
                inode: u64_at(&self.bytes, at + 40),
                dev: u64_at(&self.bytes, at + 48),
            },
            digest,
            age: self.bytes[at + 7],
        }
    }
}

/// An encoded file and how many entries it holds.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: usize,
}

/// Encodes records that are sorted by path. One that does not fit the format (a path over 64 KiB) is left out.
pub(super) fn encode(mut records: Vec<Record<'_>>) -> Encoded {
    records.retain(|r| u16::try_from(r.path.len()).is_ok());
    let mut heap_size = 0usize;
    let fitting = records.iter().take_while(|r| {
        heap_size += r.path.len();
        u32::try_from(heap_size).is_ok()
    });
    records.truncate(fitting.count());
    let mut bytes = Vec::with_capacity(HEADER + records.len() * RECORD + heap_size);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(records.len() as u32).to_le_bytes());
    bytes.resize(HEADER, 0);
    let mut start = 0u32;
    for record in &records {
        bytes.extend_from_slice(&start.to_le_bytes());
        bytes.extend_from_slice(&(record.path.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&[0, record.age]);
        let seen = &record.seen;
        for word in [seen.size, seen.mtime.secs as u64, seen.ctime.secs as u64] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&seen.mtime.nanos.to_le_bytes());
        bytes.extend_from_slice(&seen.ctime.nanos.to_le_bytes());
        bytes.extend_from_slice(&seen.inode.to_le_bytes());
        bytes.extend_from_slice(&seen.dev.to_le_bytes());
        bytes.extend_from_slice(&record.digest);
        start += record.path.len() as u32;
    }
    for record in &records {
        bytes.extend_from_slice(record.path);
    }
    let checksum = blake3::hash(&bytes[HEADER..]);
    bytes[16..HEADER].copy_from_slice(checksum.as_bytes());
    Encoded { bytes, entries: records.len() }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were sliced"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were sliced"))
}
