//! Takes a layer's tar apart without trusting it.
//!
//! Headers are the `tar` crate's; extended headers are read by their lengths here. Paths are cleaned so that none leaves the root,
//! whiteout names are checked, and attributes that belong to the storage are dropped. A link's target is kept as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};

use tar::{EntryType, Header};

pub use super::digested::{Digested, index_of, read_digested, read_index};
use super::pax::{Records, number, pax_record, pax_time};
use super::sparse::{self, Holes, Piece};
use super::write::{OPAQUE_MARKER, WHITEOUT_PREFIX};
use super::{LayerError, shown};
use crate::tree::entry::{Entry, Kind, Mtime, cmp_paths, file_name, join, parent};
use crate::tree::index::{INLINE_LIMIT_BYTES, INLINE_PATHS, Index, IndexBuilder, is_below};

/// Records that stand for fields of a header.
const HEADER_KEYS: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
/// The fields of mode, owner, group, size and time. What is blank is 0, as in Go's reader.
const NUMBERS: [std::ops::Range<usize>; 5] = [100..108, 108..116, 116..124, 124..136, 136..148];
/// Where a header has its type.
const TYPE_AT: usize = 156;
const BLOCK_BYTES: u64 = 512;
/// The kernel takes no longer path (`PATH_MAX`, path_resolution(7)).
const MAX_PATH_BYTES: usize = 4096;
/// Extended headers larger than this are no honest layer's.
const EXTENDED_LIMIT_BYTES: u64 = 16 << 20;

/// One member of a tar, its content still in the stream.
#[derive(Clone, Debug)]
pub struct Member {
    /// Cleaned path, empty for the root itself.
    pub path: Vec<u8>,
    /// Type flag.
    pub kind: EntryType,
    /// `0o7777` bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Content bytes that follow.
    pub size_bytes: u64,
    /// Where the content begins in the stream.
    pub offset: u64,
    /// Link target as stored.
    pub link: Vec<u8>,
    /// Device numbers.
    pub device: (u32, u32),
    /// Kept extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The members of a plain tar, one after the other.
pub struct Members<R: Read> {
    source: R,
    offset: u64,
    /// Content of the current member that was not read.
    left: u64,
    /// Padding after it.
    padding: u64,
    /// The rest of the current member, if not all of it is stored.
    holes: Option<Holes>,
}

impl<R: Read> std::fmt::Debug for Members<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Members at {}", self.offset)
    }
}

/// Offset and length of each piece that is stored, and the size of the file.
type Sparse = (Vec<(u64, u64)>, u64);

/// What extended headers say about the member after them.
#[derive(Default)]
struct Extended {
    records: Records,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Members<R> {
    /// Reads from the start of a plain tar.
    pub fn new(source: R) -> Self {
        Self { source, offset: 0, left: 0, padding: 0, holes: None }
    }

    /// The next member; what is left of the current one's content is skipped. `None` at the end marker or the end of the stream.
    pub fn advance(&mut self) -> Result<Option<Member>, LayerError> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding, self.holes) = (0, 0, None);
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| self.invalid("a header without a size"))?;
            match header.entry_type() {
                EntryType::XHeader => self.pax(size, &mut extended)?,
                EntryType::XGlobalHeader => drop(self.extended_content(size)?),
                EntryType::GNULongName => self.long(size, b"path", &mut extended)?,
                EntryType::GNULongLink => self.long(size, b"linkpath", &mut extended)?,
                kind => return self.member(&header, kind, size, extended).map(Some),
            }
        }
    }

    /// The content of the current member.
    pub fn content(&mut self) -> Content<'_, R> {
        Content { members: self }
    }

    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let mut block = [0; BLOCK_BYTES as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.invalid("a header that is cut off")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Stream { source }),
            }
        }
        self.offset += BLOCK_BYTES;
        if block.iter().all(|byte| *byte == 0) {
            // The rest is padding; it is drained so that the digest of the whole stream can be taken.
            io::copy(&mut self.source, &mut io::sink()).map_err(|source| LayerError::Stream { source })?;
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let sum = header.cksum().map_err(|_| self.invalid("a header without a checksum"))?;
        let actual: u32 = block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        if sum != actual {
            return Err(self.invalid("a header with a wrong checksum"));
        }
        for field in NUMBERS {
            let field = &mut header.as_mut_bytes()[field];
            if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
                field[0] = b'0';
            }
        }
        Ok(Some(header))
    }

    fn member(&mut self, header: &Header, kind: EntryType, size: u64, extended: Extended) -> Result<Member, LayerError> {
        let Extended { records, xattrs } = extended;
        let id = |key: &str, field: io::Result<u64>| number(&records, key).or(field.ok()).and_then(|id| u32::try_from(id).ok());
        let uid = id("uid", header.uid()).ok_or_else(|| self.invalid("an owner that is no number"))?;
        let gid = id("gid", header.gid()).ok_or_else(|| self.invalid("a group that is no number"))?;
        let path = records.get(b"GNU.sparse.name".as_slice()).or_else(|| records.get(b"path".as_slice()));
        let path = path.cloned().unwrap_or_else(|| header.path_bytes().into_owned());
        let link = records.get(b"linkpath".as_slice()).cloned();
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let mtime = match records.get(b"mtime".as_slice()) {
            Some(text) => pax_time(text).ok_or_else(|| self.invalid("a time that is no number"))?,
            None => Mtime { secs: header.mtime().unwrap_or(0) as i64, nanos: 0 },
        };
        if path.len() >= MAX_PATH_BYTES {
            return Err(self.invalid("a path that is too long"));
        }
        // Old tars, whose files have the type NUL, mark a directory by the slash alone.
        let is_old = header.as_bytes()[TYPE_AT] == 0;
        let kind = if is_old && path.ends_with(b"/") { EntryType::Directory } else { kind };
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        let stored = if is_file { number(&records, "size").unwrap_or(size) } else { 0 };
        let skipped = if stored == 0 { size } else { stored };
        self.left = skipped;
        self.padding = (BLOCK_BYTES - skipped % BLOCK_BYTES) % BLOCK_BYTES;
        let sparse = match kind {
            EntryType::GNUSparse => Some(self.own_sparse(header)?),
            _ if is_file => self.pax_sparse(&records)?,
            _ => None,
        };
        if let Some((pairs, size_bytes)) = sparse {
            self.holes = Some(Holes::new(&pairs, size_bytes, self.left).ok_or_else(|| self.invalid(sparse::BROKEN))?);
        }
        let kind = if kind == EntryType::GNUSparse { EntryType::Regular } else { kind };
        let size_bytes = self.holes.as_ref().map_or(stored, Holes::size_bytes);
        let device = (header.device_major().ok().flatten().unwrap_or(0), header.device_minor().ok().flatten().unwrap_or(0));
        let mode = header.mode().map_err(|_| self.invalid("a mode that is no number"))? & 0o7777;
        Ok(Member { path: clean(&path), kind, mode, uid, gid, mtime, size_bytes, offset: self.offset, link, device, xattrs })
    }

    /// Offset and length of each piece of a sparse file in GNU's own form, and the file's size.
    fn own_sparse(&mut self, header: &Header) -> Result<Sparse, LayerError> {
        let (mut pairs, size_bytes, mut more) = sparse::of_header(header).ok_or_else(|| self.invalid(sparse::BROKEN))?;
        while more {
            let mut block = [0; BLOCK_BYTES as usize];
            self.source.read_exact(&mut block).map_err(|source| LayerError::Stream { source })?;
            self.offset += BLOCK_BYTES;
            let (further, is_extended) = sparse::of_block(&block).ok_or_else(|| self.invalid(sparse::BROKEN))?;
            pairs.extend(further);
            more = is_extended && pairs.len() <= sparse::PIECE_LIMIT;
        }
        Ok((pairs, size_bytes))
    }

    /// The same in the forms of extended headers; `None` if the file is not sparse.
    fn pax_sparse(&mut self, records: &Records) -> Result<Option<Sparse>, LayerError> {
        let (pairs, size_bytes) = if let Some(map) = records.get(b"GNU.sparse.map".as_slice()) {
            (sparse::of_text(map), number(records, "GNU.sparse.size").or_else(|| number(records, "GNU.sparse.realsize")))
        } else if number(records, "GNU.sparse.major") == Some(1) {
            // The list fills whole blocks.
            let mut block = [0; BLOCK_BYTES as usize];
            let mut at = block.len();
            let pairs = sparse::of_lines(|| {
                let mut digits = String::new();
                loop {
                    if at == block.len() {
                        if self.left < BLOCK_BYTES {
                            return Ok(None);
                        }
                        self.content().read_exact(&mut block).map_err(|source| LayerError::Stream { source })?;
                        at = 0;
                    }
                    at += 1;
                    match block[at - 1] {
                        b'\n' => return Ok::<_, LayerError>(digits.parse().ok()),
                        byte if digits.len() < 20 => digits.push(char::from(byte)),
                        _ => return Ok(None),
                    }
                }
            })?;
            (pairs, number(records, "GNU.sparse.realsize"))
        } else {
            return Ok(None);
        };
        pairs.zip(size_bytes).map(Some).ok_or_else(|| self.invalid(sparse::BROKEN))
    }

    fn pax(&mut self, size: u64, extended: &mut Extended) -> Result<(), LayerError> {
        let bytes = self.extended_content(size)?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value, after) = pax_record(rest).ok_or_else(|| self.invalid("an extended header that breaks its own lengths"))?;
            match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) if is_kept_xattr(name) => drop(extended.xattrs.insert(name.to_vec(), value.to_vec())),
                Some(_) => {}
                // The first form repeats its keys.
                None if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") => {
                    let map = extended.records.entry(b"GNU.sparse.map".to_vec()).or_default();
                    map.extend([value, b","].concat());
                }
                // Nothing instead of a value means that of the header (POSIX, pax interchange format).
                None if value.is_empty() && HEADER_KEYS.contains(&key) => drop(extended.records.remove(key)),
                None => drop(extended.records.insert(key.to_vec(), value.to_vec())),
            }
            rest = after;
        }
        Ok(())
    }

    fn long(&mut self, size: u64, key: &[u8], extended: &mut Extended) -> Result<(), LayerError> {
        let mut name = self.extended_content(size)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        extended.records.entry(key.to_vec()).or_insert(name);
        Ok(())
    }

    fn extended_content(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > EXTENDED_LIMIT_BYTES {
            return Err(self.invalid(format!("an extended header of {size} bytes")));
        }
        self.left = size;
        self.padding = (BLOCK_BYTES - size % BLOCK_BYTES) % BLOCK_BYTES;
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(|source| LayerError::Stream { source })?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), LayerError> {
        let skipped = io::copy(&mut (&mut self.source).take(bytes), &mut io::sink()).map_err(|source| LayerError::Stream { source })?;
        self.offset += skipped;
        // Some writers leave out the padding at the very end.
        if skipped + self.padding < bytes { Err(self.invalid("a file that is cut off")) } else { Ok(()) }
    }

    fn invalid(&self, what: impl Into<String>) -> LayerError {
        LayerError::Invalid { what: what.into(), offset: self.offset }
    }
}

/// The bytes of one member.
pub struct Content<'a, R: Read> {
    members: &'a mut Members<R>,
}

impl<R: Read> std::fmt::Debug for Content<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content of {} stored bytes", self.members.left)
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut want = buffer.len().min(usize::try_from(self.members.left).unwrap_or(usize::MAX));
        if let Some(holes) = &mut self.members.holes {
            match holes.next(buffer.len()) {
                Some(Piece::Data(bytes)) => want = bytes,
                Some(Piece::Hole(bytes)) => {
                    buffer[..bytes].fill(0);
                    holes.pass(bytes);
                    return Ok(bytes);
                }
                None => return Ok(0),
            }
        }
        let read = self.members.source.read(&mut buffer[..want])?;
        if read == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(holes) = &mut self.members.holes {
            holes.pass(read);
        }
        self.members.left -= read as u64;
        self.members.offset += read as u64;
        Ok(read)
    }
}

/// Where the entries of a layer go besides the index. Paths are clean, parents come before their children.
pub trait Sink {
    /// A regular file; `content` must be read to its end.
    fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError>;
    /// A further name of a file of this layer that was given before.
    fn link(&mut self, path: &[u8], existing: &[u8]) -> Result<(), LayerError>;
    /// Anything else, whiteouts included. A directory may come again with other metadata.
    fn other(&mut self, entry: &Entry) -> Result<(), LayerError>;
    /// Everything was given; the entries are final.
    fn end(&mut self, index: &Index) -> Result<(), LayerError>;
}

/// Reads a plain tar to its end, gives every entry to `sink`, and makes the index. Beside it come the directories, in order, that the tar
/// has no members of but members below: they are 0755 and root's here, upon other layers [`crate::tree::implied`] says what they are.
pub fn read_layer(tar: impl Read, sink: &mut dyn Sink) -> Result<(Index, Vec<Vec<u8>>), LayerError> {
    let mut members = Members::new(tar);
    let mut layer = Layer { entries: HashMap::new(), implied: BTreeSet::new(), inodes: HashMap::new(), inline: BTreeMap::new(), sink };
    while let Some(member) = members.advance()? {
        layer.take(member, &mut members)?;
    }
    layer.finish()
}

struct Layer<'a> {
    entries: HashMap<Vec<u8>, Entry>,
    /// Directories of which no member came so far.
    implied: BTreeSet<Vec<u8>>,
    /// The names that hard links made, each with a number of its inode. A name that is made anew leaves its inode.
    inodes: HashMap<Vec<u8>, usize>,
    inline: BTreeMap<Vec<u8>, Vec<u8>>,
    sink: &'a mut dyn Sink,
}

impl Layer<'_> {
    fn take<R: Read>(&mut self, member: Member, members: &mut Members<R>) -> Result<(), LayerError> {
        let invalid =
            |what: &str| LayerError::Invalid { what: format!("{what}: {}", shown(&member.path).display()), offset: member.offset };
        if member.path.is_empty() {
            return Ok(());
        }
        if member.path.contains(&0) || member.link.contains(&0) {
            return Err(invalid("a name with a NUL byte"));
        }
        self.parents(parent(&member.path), &invalid)?;
        let name = file_name(&member.path);
        if name == OPAQUE_MARKER {
            if parent(&member.path).is_empty() {
                // An overlay does not look at the mark of a whole layer.
                return Err(invalid("a mark that hides all layers below, which no layer of an overlay can do"));
            }
            return self.opaque(parent(&member.path));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return match hidden {
                b"" | b"." | b".." => Err(invalid("a whiteout of no name")),
                // Notes that AUFS left for itself.
                _ if hidden.starts_with(WHITEOUT_PREFIX) => Ok(()),
                _ => self.whiteout(join(parent(&member.path), hidden)),
            };
        }
        let kind = match member.kind {
            EntryType::Regular | EntryType::Continuous => return self.file(&member, members),
            EntryType::Link => return self.link(&member, &invalid),
            EntryType::Directory => Kind::Dir,
            EntryType::Symlink => Kind::Symlink { target: member.link.clone() },
            EntryType::Fifo => Kind::Fifo,
            // An overlay's own form of a whiteout.
            EntryType::Char if member.device == (0, 0) => return self.whiteout(member.path),
            EntryType::Char => Kind::CharDevice { major: member.device.0, minor: member.device.1 },
            EntryType::Block => Kind::BlockDevice { major: member.device.0, minor: member.device.1 },
            other => return Err(invalid(&format!("a member of type {:?}", char::from(other.as_byte())))),
        };
        self.put(entry(&member, kind))
    }

    /// Directories that the tar leaves out are made as an extracting tar makes them.
    fn parents(&mut self, mut dir: &[u8], invalid: &dyn Fn(&str) -> LayerError) -> Result<(), LayerError> {
        let mut missing = Vec::new();
        while !dir.is_empty() {
            match self.entries.get(dir).map(|entry| &entry.kind) {
                Some(Kind::Dir) => break,
                None | Some(Kind::Whiteout) => missing.push(dir),
                Some(_) => return Err(invalid("a path below something that is no directory")),
            }
            dir = parent(dir);
        }
        for dir in missing.into_iter().rev() {
            self.put(Entry::new(dir, Kind::Dir, 0o755, 0, 0, Mtime::default()))?;
            self.implied.insert(dir.to_vec());
        }
        Ok(())
    }

    /// A whiteout is about the layers below: what this layer itself has at the path stays, and a directory hides theirs.
    fn whiteout(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        match self.entries.get(&path) {
            Some(entry) if entry.is_dir() => self.opaque(&path),
            Some(_) => Ok(()),
            None => self.put(Entry::whiteout(path)),
        }
    }

    fn opaque(&mut self, dir: &[u8]) -> Result<(), LayerError> {
        let Some(entry) = self.entries.get_mut(dir) else { return Ok(()) };
        entry.opaque = true;
        let entry = entry.clone();
        self.sink.other(&entry)
    }

    fn put(&mut self, mut entry: Entry) -> Result<(), LayerError> {
        let before = self.entries.get(&entry.path);
        entry.opaque = entry.is_dir() && before.is_some_and(|before| before.opaque || before.kind == Kind::Whiteout);
        self.sink.other(&entry)?;
        if !entry.is_dir() {
            self.forget_below(&entry.path);
        }
        self.inodes.remove(&entry.path);
        self.implied.remove(&entry.path);
        self.entries.insert(entry.path.clone(), entry);
        Ok(())
    }

    /// What a directory of this layer held, when something else takes its place.
    fn forget_below(&mut self, path: &[u8]) {
        if self.entries.get(path).is_some_and(Entry::is_dir) {
            self.entries.retain(|other, _| !is_below(other, path));
            self.inodes.retain(|other, _| !is_below(other, path));
            self.inline.retain(|other, _| !is_below(other, path));
        }
    }

    fn file<R: Read>(&mut self, member: &Member, members: &mut Members<R>) -> Result<(), LayerError> {
        let keep = INLINE_PATHS.contains(&member.path.as_slice()) && member.size_bytes <= INLINE_LIMIT_BYTES as u64;
        let mut content = Hashing { source: members.content(), hash: blake3::Hasher::new(), kept: keep.then(Vec::new) };
        let mut entry = entry(member, Kind::File { size: member.size_bytes, digest: [0; 32], hardlink: None });
        self.sink.file(&entry, &mut content)?;
        if content.source.members.left > 0 {
            return Err(LayerError::Invalid { what: "a file that was not read".into(), offset: member.offset });
        }
        let digest = *content.hash.finalize().as_bytes();
        if let Some(bytes) = content.kept {
            self.inline.insert(member.path.clone(), bytes);
        }
        entry.kind = Kind::File { size: member.size_bytes, digest, hardlink: None };
        self.forget_below(&entry.path);
        self.inodes.remove(&entry.path);
        self.entries.insert(entry.path.clone(), entry);
        Ok(())
    }

    fn link(&mut self, member: &Member, invalid: &dyn Fn(&str) -> LayerError) -> Result<(), LayerError> {
        let existing = clean(&member.link);
        let Some(target) = self.entries.get(&existing).filter(|e| matches!(e.kind, Kind::File { .. } | Kind::Symlink { .. } | Kind::Fifo))
        else {
            return Err(invalid("a hardlink to a path that is not in the layer before it"));
        };
        if existing == member.path {
            return Ok(());
        }
        let entry = Entry { path: member.path.clone(), ..target.clone() };
        self.sink.link(&entry.path, &existing)?;
        self.forget_below(&entry.path);
        self.inodes.remove(&entry.path);
        if matches!(entry.kind, Kind::File { .. }) {
            let fresh = member.offset as usize;
            let inode = *self.inodes.entry(existing.clone()).or_insert(fresh);
            self.inodes.insert(entry.path.clone(), inode);
        }
        if let Some(bytes) = self.inline.get(&existing).filter(|_| INLINE_PATHS.contains(&entry.path.as_slice())).cloned() {
            self.inline.insert(entry.path.clone(), bytes);
        }
        self.entries.insert(entry.path.clone(), entry);
        Ok(())
    }

    fn finish(mut self) -> Result<(Index, Vec<Vec<u8>>), LayerError> {
        self.name_links();
        self.implied.retain(|path| self.entries.get(path).is_some_and(Entry::is_dir));
        let mut builder = IndexBuilder::new();
        for entry in self.entries.into_values() {
            builder.push(entry);
        }
        for (path, bytes) in &self.inline {
            builder.inline(path, bytes);
        }
        let index = builder.build();
        self.sink.end(&index)?;
        Ok((index, self.implied.into_iter().collect()))
    }

    /// The first path in order carries the file, the others name it.
    fn name_links(&mut self) {
        let mut groups: HashMap<usize, Vec<Vec<u8>>> = HashMap::new();
        for (name, inode) in std::mem::take(&mut self.inodes) {
            groups.entry(inode).or_default().push(name);
        }
        for names in groups.into_values() {
            let Some(first) = names.iter().min_by(|a, b| cmp_paths(a, b)).cloned() else { continue };
            for name in &names {
                if let Some(Entry { kind: Kind::File { hardlink, .. }, .. }) = self.entries.get_mut(name) {
                    *hardlink = (*name != first).then(|| first.clone());
                }
            }
        }
    }
}

/// A symlink's mode is always 0777, as it is on disk.
fn entry(member: &Member, kind: Kind) -> Entry {
    let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { member.mode };
    Entry { xattrs: member.xattrs.clone(), ..Entry::new(member.path.clone(), kind, mode, member.uid, member.gid, member.mtime) }
}

struct Hashing<R> {
    source: R,
    hash: blake3::Hasher,
    kept: Option<Vec<u8>>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hash.update(&buffer[..read]);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&buffer[..read]);
        }
        Ok(read)
    }
}

/// Drops `.`, empty parts and every `..` that would leave the root.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Attributes that are content; the others are the storage's or the system's.
fn is_kept_xattr(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && name != b"user.rootlesscontainers")
}
