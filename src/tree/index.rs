//! A layer's index: its entries as one sorted, canonical byte string that is searched without being parsed.
//!
//! ```text
//! header    "shaletix" | version u32 | 0 u32 | entry count n u64 | offset of the inline section u64 | total length u64
//! offsets   n + 1 × u64: record i lies at offsets[i]..offsets[i + 1]; the last one is the inline section's
//! records   sorted by `cmp_paths`, no path twice:
//!             kind u8 | flags u8 | mode u16 | uid u32 | gid u32 | mtime nanos u32 | mtime secs i64 | path length u32 | xattrs u32
//!             path
//!             file:    size u64 | blake3 [32] | with LINK: length u32 | path of the first name
//!             symlink: length u32 | target
//!             device:  major u32 | minor u32
//!             xattrs × (name length u32 | value length u32 | name | value), sorted by name
//! inline    count u32 | 0 u32 | count × (path length u32 | length u32 | path | bytes), sorted by path
//! ```
//! All numbers are little-endian. `flags`: OPAQUE (1), LINK (2): a further name of an inode, LINKED (4): the first name of an
//! inode that has more. The same entries give the same bytes, whatever the order they were pushed in, so the layer's id is the
//! hash of them. [`Index::from_bytes`] checks every bound and order once; afterwards no accessor can fail.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shale_cache::{ContentId, LayerId};

use super::entry::{Entry, Kind, Mtime, cmp_behind, cmp_paths, common_len};
use crate::sandbox::sys::{Mapping, map_file};

use super::record::{Cursor, LINKED, OPAQUE, RECORD, Record, encode_record, tag, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"shaletix";
const VERSION: u32 = 1;
const HEADER: usize = 40;

/// Files whose content an index carries, so that names of users are resolved without unpacking.
pub const INLINE_PATHS: [&[u8]; 2] = [b"etc/group", b"etc/passwd"];
/// The largest content that is carried inline.
pub const INLINE_LIMIT_BYTES: usize = 1 << 20;

/// Why an index could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file could not be read.
    #[error("cannot read the layer index {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bytes are not an index of this version.
    #[error("the layer index is not one this version can read")]
    Foreign,
    /// The bytes are not those of the layer.
    #[error("the index of layer {layer} is damaged")]
    Damaged {
        /// The layer.
        layer: LayerId,
    },
    /// The bytes break a rule of the format.
    #[error("the layer index is damaged at record {record}: {what}")]
    Corrupt {
        /// Number of the record, or of records for the sections after them.
        record: usize,
        /// The rule.
        what: &'static str,
    },
}

/// An opened index.
pub struct Index {
    bytes: Bytes,
    count: usize,
    inline_at: usize,
}

/// Where the bytes are.
enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mapping),
    Part(Arc<Mapping>, Range<usize>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Mapped(bytes) => bytes,
            Self::Part(bytes, part) => &bytes[part.clone()],
        }
    }
}

/// Maps a file of the store.
fn load(path: &Path) -> io::Result<Bytes> {
    File::open(path).and_then(|file| map_file(&file)).map(Bytes::Mapped)
}

/// A file of many indexes, one behind the other, which another process of this build has checked and adds to.
#[derive(Debug)]
pub struct Bundle(Arc<Mapping>);

impl Bundle {
    /// Maps it.
    pub fn of(file: &File) -> Result<Self, IndexError> {
        let mapped = map_file(file).map(|bytes| Self(Arc::new(bytes)));
        mapped.map_err(|source| IndexError::Read { path: "of small layers".into(), source })
    }

    /// The index at a place. Looks at its header alone, as [`Index::open_checked`].
    pub fn index(&self, offset: u64, len: u64) -> Result<Index, IndexError> {
        let part = offset as usize..offset.saturating_add(len) as usize;
        if self.0.get(part.clone()).is_none() {
            return Err(IndexError::Foreign);
        }
        Index::framed(Bytes::Part(Arc::clone(&self.0), part))
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("entries", &self.count).field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl PartialEq for Index {
    fn eq(&self, other: &Self) -> bool {
        *self.bytes == *other.bytes
    }
}
impl Eq for Index {}

impl Index {
    /// Opens an index file.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let bytes = load(path).map_err(|source| IndexError::Read { path: path.to_owned(), source })?;
        Self::check(bytes)
    }

    /// Opens the index file of a layer. That the bytes hash to the layer's id says that they are what an [`IndexBuilder`] made, in a third of
    /// the time that looking at each record takes.
    pub fn of_layer(path: &Path, layer: LayerId) -> Result<Self, IndexError> {
        let index = Self::open_checked(path)?;
        if index.layer_id() == layer { Ok(index) } else { Err(IndexError::Damaged { layer }) }
    }

    /// Opens an index file that another process of this build has checked with [`Self::of_layer`]: this one looks at its header alone.
    /// A step's process opens every layer below it, and must not read all of a large base for that.
    ///
    /// # Panics
    /// In accessors, if the file was never an index.
    pub fn open_checked(path: &Path) -> Result<Self, IndexError> {
        let bytes = load(path).map_err(|source| IndexError::Read { path: path.to_owned(), source })?;
        Self::framed(bytes)
    }

    /// Takes encoded bytes, checking all of them.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, IndexError> {
        Self::check(Bytes::Owned(bytes))
    }

    /// The index without entries.
    pub fn empty() -> Self {
        IndexBuilder::new().build()
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The path of entry `i`.
    pub fn path(&self, i: usize) -> &[u8] {
        let at = self.offset(i);
        let len = u32_at(&self.bytes, at + 24) as usize;
        &self.bytes[at + RECORD..at + RECORD + len]
    }

    /// Entry `i`.
    pub fn entry(&self, i: usize) -> Entry {
        self.record(i).entry()
    }

    /// Whether entry `i` is a directory, without decoding it.
    pub fn is_dir(&self, i: usize) -> bool {
        self.bytes[self.offset(i)] == tag::DIR
    }

    /// Whether entry `i` is a whiteout, without decoding it.
    pub fn is_whiteout(&self, i: usize) -> bool {
        self.bytes[self.offset(i)] == tag::WHITEOUT
    }

    /// Whether entry `i` is an opaque directory, without decoding it.
    pub fn is_opaque(&self, i: usize) -> bool {
        self.bytes[self.offset(i) + 1] & OPAQUE != 0
    }

    /// For a file that has more than one name: the number of the entry with its first name.
    pub fn link_group(&self, i: usize) -> Option<usize> {
        let record = self.record(i);
        if record.flags & LINKED != 0 {
            return Some(i);
        }
        record.link.map(|first| self.find(first).expect("links are checked when the index is opened"))
    }

    /// All entries of files that have more than one name, in order, each with the number of its inode's first name.
    pub fn link_names(&self) -> Vec<(usize, usize)> {
        (0..self.count).filter_map(|i| Some((i, self.link_group(i)?))).collect()
    }

    /// The number of the entry at `path`.
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        self.search(path).ok()
    }

    /// Like a slice's `binary_search`: the entry at `path`, or where it would stand.
    pub fn search(&self, path: &[u8]) -> Result<usize, usize> {
        self.search_in(path, 0..self.count)
    }

    /// The same among a range of entries.
    pub(super) fn search_in(&self, path: &[u8], range: Range<usize>) -> Result<usize, usize> {
        let (mut low, mut high) = (range.start, range.end);
        while low < high {
            let middle = usize::midpoint(low, high);
            match cmp_paths(self.path(middle), path) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The entries below `path`, without the one at `path` itself. The empty path is the root.
    pub fn subtree(&self, path: &[u8]) -> Range<usize> {
        if path.is_empty() {
            return 0..self.count;
        }
        let start = match self.search(path) {
            Ok(i) => i + 1,
            Err(i) => i,
        };
        start..self.subtree_end(path, start..self.count)
    }

    /// The end of the descendants of `dir` that begin at `within.start`. Small subtrees are the rule, so it gallops.
    pub(super) fn subtree_end(&self, dir: &[u8], within: Range<usize>) -> usize {
        let inside = |i: usize| is_below(self.path(i), dir);
        let (mut low, mut step) = (within.start, 1);
        while low + step <= within.end && inside(low + step - 1) {
            low += step;
            step *= 2;
        }
        let mut high = within.end.min(low + step - 1).max(low);
        while low < high {
            let middle = usize::midpoint(low, high);
            if inside(middle) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.count).map(|i| self.entry(i))
    }

    /// Whether there is a file whose content is kept elsewhere: a layer without one is its index.
    pub fn has_contents(&self) -> bool {
        self.iter().any(|entry| matches!(entry.kind, Kind::File { hardlink: None, .. }))
    }

    /// How many bytes the files hold, each inode counted once.
    pub fn content_bytes(&self) -> u64 {
        let size = |record: Record<'_>| if record.link.is_none() { record.size.unwrap_or(0) } else { 0 };
        (0..self.count).map(|i| size(self.record(i))).sum()
    }

    /// The content of one of [`INLINE_PATHS`], if the layer has that file.
    pub fn inline(&self, path: &[u8]) -> Option<&[u8]> {
        self.inlines().find(|(p, _)| *p == path).map(|(_, bytes)| bytes)
    }

    fn inlines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let count = u32_at(&self.bytes, self.inline_at);
        let mut at = self.inline_at + 8;
        (0..count).map(move |_| {
            let path_at = at + 8;
            let bytes_at = path_at + u32_at(&self.bytes, at) as usize;
            let end = bytes_at + u32_at(&self.bytes, at + 4) as usize;
            at = end;
            (&self.bytes[path_at..bytes_at], &self.bytes[bytes_at..end])
        })
    }

    /// The layer's id: the hash of the encoded form with its true times.
    pub fn layer_id(&self) -> LayerId {
        LayerId::of_index(&self.bytes)
    }

    /// The id of what the layer holds, with each mtime inside `window` (both ends included) taken as "now".
    pub fn content_id(&self, window: Option<(Mtime, Mtime)>) -> ContentId {
        self.hash_content("shale 2026 layer content, fresh times as now", |mtime| {
            let fresh = window.is_some_and(|(from, to)| from <= mtime && mtime <= to);
            (!fresh).then_some(mtime)
        })
    }

    /// The id of what the layer holds, whatever its times.
    pub fn content_id_without_mtimes(&self) -> ContentId {
        self.hash_content("shale 2026 layer content, without times", |_| None)
    }

    /// The modification times, in the entries' order.
    pub fn mtimes(&self) -> impl Iterator<Item = Mtime> {
        (0..self.count).map(|i| {
            let record = &self.bytes[self.offset(i)..];
            Mtime { secs: u64_at(record, 16) as i64, nanos: u32_at(record, 12) }
        })
    }

    /// Hashes every record; `keep` says which time enters. The inline section is a function of the records.
    fn hash_content(&self, domain: &str, keep: impl Fn(Mtime) -> Option<Mtime>) -> ContentId {
        let mut hasher = blake3::Hasher::new_derive_key(domain);
        for (i, mtime) in self.mtimes().enumerate() {
            let record = &self.bytes[self.offset(i)..self.offset(i + 1)];
            hasher.update(&(record.len() as u64).to_le_bytes());
            hasher.update(&record[..12]);
            hasher.update(&[0; 12]);
            if let Some(mtime) = keep(mtime) {
                hasher.update(&[1]).update(&mtime.secs.to_le_bytes()).update(&mtime.nanos.to_le_bytes());
            } else {
                hasher.update(&[0]);
            }
            hasher.update(&record[24..]);
        }
        ContentId::from_bytes(*hasher.finalize().as_bytes())
    }

    fn offset(&self, i: usize) -> usize {
        u64_at(&self.bytes, HEADER + 8 * i) as usize
    }

    fn record(&self, i: usize) -> Record<'_> {
        Record::parse(&self.bytes[self.offset(i)..self.offset(i + 1)]).expect("records are checked when the index is opened")
    }

    /// Checks the header alone.
    fn framed(bytes: Bytes) -> Result<Self, IndexError> {
        if bytes.len() < HEADER || &bytes[..8] != MAGIC || u32_at(&bytes, 8) != VERSION {
            return Err(IndexError::Foreign);
        }
        let corrupt = |record, what| Err(IndexError::Corrupt { record, what });
        let (count, inline_at, total) = (u64_at(&bytes, 16), u64_at(&bytes, 24), u64_at(&bytes, 32));
        if u32_at(&bytes, 12) != 0 || total != bytes.len() as u64 || count > total / 8 || inline_at > total {
            return corrupt(0, "the header does not fit the file");
        }
        let count = count as usize;
        let records_at = HEADER + 8 * (count + 1);
        if records_at > inline_at as usize {
            return corrupt(0, "the offset table does not fit the file");
        }
        Ok(Self { bytes, count, inline_at: inline_at as usize })
    }

    fn check(bytes: Bytes) -> Result<Self, IndexError> {
        let corrupt = |record, what| Err(IndexError::Corrupt { record, what });
        let index = Self::framed(bytes)?;
        let (count, records_at) = (index.count, HEADER + 8 * (index.count + 1));
        let mut links = HashMap::new();
        let mut previous: Option<Record<'_>> = None;
        for i in 0..count {
            let range = (index.offset(i), index.offset(i + 1));
            if (i == 0 && range.0 != records_at) || range.0 > range.1 || range.1 > index.inline_at {
                return corrupt(i, "offset out of order");
            }
            let Some(record) = Record::parse(&index.bytes[range.0..range.1]) else { return corrupt(i, "malformed record") };
            let common = previous.map_or(0, |p| common_len(p.path, record.path));
            if previous.is_some_and(|p| cmp_behind(p.path, record.path, common) != Ordering::Less) {
                return corrupt(i, "path out of order");
            }
            if previous.is_some_and(|p| p.kind != tag::DIR && common == p.path.len() && is_below(record.path, p.path)) {
                return corrupt(i, "entry below something that is no directory");
            }
            // The names that it shares with the path before it were looked at there.
            let fresh = record.path[..common].iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
            if !is_clean(&record.path[fresh..]) {
                return corrupt(i, "malformed path");
            }
            if record.flags & LINKED != 0 {
                links.insert(record.path, (i, false));
            }
            if let Some(first) = record.link {
                let Some((number, used)) = links.get_mut(first) else { return corrupt(i, "hard link to nothing") };
                *used = true;
                if !index.record(*number).same_inode(&record) {
                    return corrupt(i, "hard link that differs from its file");
                }
            }
            previous = Some(record);
        }
        if index.offset(count) != index.inline_at || (count == 0 && index.inline_at != records_at) {
            return corrupt(count, "the records do not end at the inline section");
        }
        if links.values().any(|(_, used)| !used) {
            return corrupt(count, "a file that counts as linked has no other name");
        }
        index.check_inline()?;
        Ok(index)
    }

    fn check_inline(&self) -> Result<(), IndexError> {
        let corrupt = Err(IndexError::Corrupt { record: self.count, what: "malformed inline section" });
        let mut cursor = Cursor(&self.bytes[self.inline_at..]);
        let (Some(count), Some(0)) = (cursor.u32(), cursor.u32()) else { return corrupt };
        let mut previous: &[u8] = &[];
        for _ in 0..count {
            let (Some(path_len), Some(len)) = (cursor.u32(), cursor.u32()) else { return corrupt };
            let (Some(path), Some(content)) = (cursor.take(path_len as usize), cursor.take(len as usize)) else { return corrupt };
            let size = self.find(path).and_then(|i| self.record(i).size);
            if !INLINE_PATHS.contains(&path) || path <= previous || size != Some(content.len() as u64) {
                return corrupt;
            }
            previous = path;
        }
        if cursor.0.is_empty() { Ok(()) } else { corrupt }
    }
}

/// Whether `path` lies below `dir`; everything lies below the empty path.
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || (path.len() > dir.len() && path[dir.len()] == b'/' && path.starts_with(dir))
}

/// Whether `path` may stand in an index: relative, clean, not empty.
pub fn is_clean(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|b| *b == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

/// Collects entries in any order.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    entries: Vec<Entry>,
    inline: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl IndexBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with these entries, as if each were pushed.
    pub fn of(entries: Vec<Entry>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Adds an entry. Of several with one path the last one wins.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Gives the content of a file that is carried inline. What is not among [`INLINE_PATHS`], is too large, or has no file
    /// entry in the end is left out, so that the bytes stay a function of the entries.
    pub fn inline(&mut self, path: &[u8], content: &[u8]) {
        if INLINE_PATHS.contains(&path) && content.len() <= INLINE_LIMIT_BYTES {
            self.inline.insert(path.to_vec(), content.to_vec());
        }
    }

    /// Sorts, settles hard links and encodes. What lies below an entry that is no directory is left out.
    ///
    /// # Panics
    /// If a path is not clean (a mistake of the caller: readers validate names).
    pub fn build(self) -> Index {
        let mut entries = self.entries;
        // Who pushes in order needs no sort, which takes half as much memory again.
        if !entries.is_sorted_by(|a, b| cmp_paths(&a.path, &b.path) == Ordering::Less) {
            entries.sort_by(|a, b| cmp_paths(&a.path, &b.path));
            entries.reverse();
            entries.dedup_by(|later, kept| later.path == kept.path);
            entries.reverse();
        }
        let mut shut: Option<Vec<u8>> = None;
        entries.retain(|entry| {
            if shut.as_deref().is_some_and(|dir| is_below(&entry.path, dir)) {
                return false;
            }
            shut = (!entry.is_dir()).then(|| entry.path.clone());
            true
        });
        let linked = settle_links(&mut entries);
        let inline: Vec<_> = self
            .inline
            .into_iter()
            .filter(|(path, content)| {
                let found = entries.binary_search_by(|e| cmp_paths(&e.path, path)).ok();
                found.is_some_and(|i| {
                    matches!(&entries[i].kind, Kind::File { size, digest, .. }
                    if *size == content.len() as u64 && *digest == *blake3::hash(content).as_bytes())
                })
            })
            .collect();
        encode(&entries, &linked, &inline)
    }
}

/// Makes the smallest path of each inode its first name and gives all names the same metadata. Returns which entries are first
/// names of several.
fn settle_links(entries: &mut [Entry]) -> Vec<bool> {
    let mut groups: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (i, entry) in entries.iter().enumerate() {
        if let Kind::File { hardlink: Some(first), .. } = &entry.kind {
            let mut root = first.as_slice();
            // A link to a link is followed, at most as often as there are entries.
            for _ in 0..entries.len() {
                match entries.binary_search_by(|e| cmp_paths(&e.path, root)).map(|i| &entries[i].kind) {
                    Ok(Kind::File { hardlink: Some(next), .. }) if next != root => root = next,
                    _ => break,
                }
            }
            groups.entry(root.to_vec()).or_default().push(i);
        }
    }
    let mut linked = vec![false; entries.len()];
    for (root, mut members) in groups {
        let holder = entries.binary_search_by(|e| cmp_paths(&e.path, &root)).ok().filter(|i| matches!(entries[*i].kind, Kind::File { .. }));
        members.extend(holder);
        members.sort_unstable();
        members.dedup();
        let model = entries[holder.unwrap_or(members[0])].clone();
        let Kind::File { size, digest, .. } = model.kind else { continue };
        let first = entries[members[0]].path.clone();
        linked[members[0]] = members.len() > 1;
        for (nth, i) in members.into_iter().enumerate() {
            let path = std::mem::take(&mut entries[i].path);
            let hardlink = (nth > 0).then(|| first.clone());
            entries[i] = Entry { path, kind: Kind::File { size, digest, hardlink }, ..model.clone() };
        }
    }
    linked
}

fn encode(entries: &[Entry], linked: &[bool], inline: &[(Vec<u8>, Vec<u8>)]) -> Index {
    let records_at = HEADER + 8 * (entries.len() + 1);
    let mut out = vec![0; records_at];
    out.reserve(entries.len() * 128);
    for (i, entry) in entries.iter().enumerate() {
        let at = out.len() as u64;
        out[HEADER + 8 * i..][..8].copy_from_slice(&at.to_le_bytes());
        encode_record(&mut out, entry, linked[i]);
    }
    let inline_at = out.len();
    out[records_at - 8..records_at].copy_from_slice(&(inline_at as u64).to_le_bytes());
    out.extend((inline.len() as u32).to_le_bytes());
    out.extend([0; 4]);
    for (path, content) in inline {
        out.extend((path.len() as u32).to_le_bytes());
        out.extend((content.len() as u32).to_le_bytes());
        out.extend_from_slice(path);
        out.extend_from_slice(content);
    }
    let total = out.len() as u64;
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&(entries.len() as u64).to_le_bytes());
    out[24..32].copy_from_slice(&(inline_at as u64).to_le_bytes());
    out[32..40].copy_from_slice(&total.to_le_bytes());
    Index { bytes: Bytes::Owned(out), count: entries.len(), inline_at }
}

#[cfg(test)]
mod tests;
