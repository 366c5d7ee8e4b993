//! Contents that lie in tars, made readable in any order: archives that ADD unpacks, and packed layers that COPY reads from.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use shale_cache::{Store, TmpDir};

use super::copy::Fetched;
use super::{BuildExecutor, StepError};
use crate::layer::LayerError;
use crate::layer::compress::{Decoder, Format};
use crate::layer::contents::SourceRef;
use crate::layer::hashing::Hashing;
use crate::layer::read::{Member, Members, clean};
use crate::plan::graph::{CopyOp, CopySource};
use crate::source::context::HeldFile;
use crate::source::context::archive::is_archive;
use crate::tree::entry::{ContentDigest, Entry, Kind};
use crate::tree::index::Index;
use crate::tree::select::{self, Match, Selected};
use crate::tree::view::resolve;
use crate::tree::{Node, NodeKind};

/// Plain files in a temporary directory, which is made for the first; removed with it.
#[derive(Debug)]
pub(super) struct Spool {
    store: Store,
    /// Made for the first file: most selections need none, and a read-only store has no place for it.
    tmp: OnceCell<TmpDir>,
    files: Vec<PathBuf>,
    /// Members of archives by match and item.
    members: HashMap<(usize, usize), SourceRef>,
}

impl Spool {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), tmp: OnceCell::new(), files: Vec::new(), members: HashMap::new() }
    }

    /// The directory that holds them.
    pub(super) fn path(&self) -> Result<&Path, StepError> {
        if let Some(tmp) = self.tmp.get() {
            return Ok(tmp.path());
        }
        // Steps that write were refused before: this one only reads.
        self.store.require_writable("lay out files in tmp/, which this export as files needs")?;
        let fresh = self.store.tmp()?;
        Ok(self.tmp.get_or_init(|| fresh).path())
    }

    /// The spool files that [`SourceRef::Spool`] names by number.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Where an archive's member lies.
    pub(super) fn member(&self, matched: usize, item: usize) -> Option<SourceRef> {
        self.members.get(&(matched, item)).cloned()
    }

    fn create(&mut self) -> Result<(usize, BufWriter<File>), StepError> {
        let path = self.path()?.join(format!("spool-{}", self.files.len()));
        let file = File::create(&path).map_err(StepError::io("make", &path))?;
        self.files.push(path);
        Ok((self.files.len() - 1, BufWriter::with_capacity(256 << 10, file)))
    }

    /// Notes where a fetched file lies, or replaces it by its members if it is an archive to be unpacked.
    pub(super) fn take_fetched(&mut self, fetched: &Fetched, files: &mut select::Selection) -> Result<(), StepError> {
        let Fetched { number, path, size_bytes, unpack } = fetched;
        if *unpack {
            let file = File::open(path).map_err(StepError::io("read", path))?;
            if is_tar(&file).map_err(StepError::io("read", path))? {
                let members = self.unpack(*number, file, &files.matches[*number])?;
                files.matches[*number] = members;
                return Ok(());
            }
        }
        self.files.push(path.clone());
        let place = SourceRef::Spool { spool: self.files.len() - 1, offset: 0, size_bytes: *size_bytes };
        self.members.insert((*number, 0), place);
        Ok(())
    }

    /// Where the copy of a file of the context lies.
    pub(super) fn take_held(&mut self, held: &HeldFile) -> SourceRef {
        self.files.push(held.path.clone());
        SourceRef::Spool { spool: self.files.len() - 1, offset: 0, size_bytes: held.size_bytes }
    }

    /// Replaces matches that are local archives by the archives' members.
    pub(super) fn unpack_archives(&mut self, archives: Vec<(usize, File)>, files: &mut select::Selection) -> Result<(), StepError> {
        for (number, file) in archives {
            files.matches[number] = self.unpack(number, file, &files.matches[number])?;
        }
        Ok(())
    }

    /// The members of the archive that the key names: one that was replaced since is told by its digest, whatever is wrong with it.
    fn unpack(&mut self, number: usize, file: File, matched: &Match) -> Result<Match, StepError> {
        let mut archive = Hashing::new(file);
        let members = self.unpack_from(number, &mut archive, matched);
        io::copy(&mut archive, &mut io::sink()).map_err(StepError::io("read", crate::layer::shown(&matched.name)))?;
        if matched.items[0].digest.is_some_and(|digest| digest != archive.read_so_far().0) {
            return Err(LayerError::Changed { path: crate::layer::shown(&matched.name) }.into());
        }
        members
    }

    fn unpack_from(&mut self, number: usize, archive: &mut Hashing<File>, matched: &Match) -> Result<Match, StepError> {
        let (spool, mut out) = self.create()?;
        let failed = |source| StepError::Archive { path: crate::layer::shown(&matched.name), source };
        let stream = |source| failed(LayerError::Stream { source });
        let mut members = Members::new(Decoder::new(archive).map_err(stream)?);
        let mut items: Vec<Selected> = Vec::new();
        let mut names: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut linked_last: HashMap<u64, Member> = HashMap::new();
        let mut offset = 0;
        while let Some(member) = members.advance().map_err(failed)? {
            let at = items.len();
            let item = match member.kind {
                _ if member.path.is_empty() => continue,
                tar::EntryType::Link => {
                    let first = linked(&member, &items, &names).map_err(failed)?;
                    if items[first].target() == member.path {
                        continue;
                    }
                    if let Some(source) = self.members.get(&(number, first)).cloned() {
                        self.members.insert((number, at), source);
                    }
                    let (item, inode) = hardlink(&member, first, &mut items[first]);
                    linked_last.extend(inode.map(|inode| (inode, member)));
                    item
                }
                _ => {
                    let mut item = selected(&member).map_err(failed)?;
                    if matches!(item.node.kind, NodeKind::File { .. }) {
                        item.digest = Some(copy_hashed(&mut members.content(), &mut out, &stream)?);
                        self.members.insert((number, at), SourceRef::Spool { spool, offset, size_bytes: member.size_bytes });
                        offset += member.size_bytes;
                    }
                    item
                }
            };
            names.insert(item.target().to_vec(), at);
            items.push(item);
        }
        out.flush().map_err(StepError::io("write", "a spool file"))?;
        agree(&mut items, &linked_last);
        Ok(Match { name: matched.name.clone(), items, archive: true })
    }

    /// Takes files out of a packed layer, in one pass. `wanted`: path in the new layer, entry in the packed one.
    pub(super) fn extract(
        &mut self,
        blob: &File,
        index: &Index,
        wanted: Vec<(Vec<u8>, Entry)>,
    ) -> Result<Vec<(Vec<u8>, SourceRef)>, StepError> {
        let (spool, mut out) = self.create()?;
        // A foreign tar may hold the content under any of a file's names.
        let mut targets: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        let mut linked: HashMap<usize, Vec<Vec<u8>>> = HashMap::new();
        let mut unfound: HashMap<Vec<u8>, (ContentDigest, u64)> = HashMap::new();
        for (target, entry) in wanted {
            if let Kind::File { digest, size, .. } = entry.kind {
                unfound.insert(target.clone(), (digest, size));
            }
            let Some(at) = index.find(&entry.path) else { continue };
            match index.link_group(at) {
                Some(first) => linked.entry(first).or_default().push(target),
                None => targets.entry(entry.path).or_default().push(target),
            }
        }
        let names = if linked.is_empty() { Vec::new() } else { index.link_names() };
        let mut group_of: HashMap<&[u8], usize> = HashMap::new();
        group_of.extend(names.into_iter().filter(|(_, first)| linked.contains_key(first)).map(|(name, first)| (index.path(name), first)));
        let mut sources = Vec::new();
        let mut offset = 0;
        let mut members = Members::new(Decoder::new(blob).map_err(StepError::io("read", "a layer"))?);
        while let Some(member) = members.advance()? {
            let is_file = matches!(member.kind, tar::EntryType::Regular | tar::EntryType::Continuous);
            let of_group = || linked.get(group_of.get(member.path.as_slice())?);
            let Some(found) = targets.get(&member.path).or_else(of_group).filter(|_| is_file) else { continue };
            copy_hashed(&mut members.content(), &mut out, &|source| LayerError::Stream { source }.into())?;
            sources.extend(found.iter().map(|t| (t.clone(), SourceRef::Spool { spool, offset, size_bytes: member.size_bytes })));
            offset += member.size_bytes;
        }
        for (target, _) in &sources {
            unfound.remove(target);
        }
        if !unfound.is_empty() {
            sources.extend(extract_by_content(blob, &unfound, &mut out, (spool, offset))?);
        }
        out.flush().map_err(StepError::io("write", "a spool file"))?;
        Ok(sources)
    }
}

/// Takes files out of a packed layer that stand under none of their names in it: it had another file of the name that they were linked to
/// before. `place` is where their contents come to lie in `out`.
fn extract_by_content(
    blob: &File,
    wanted: &HashMap<Vec<u8>, (ContentDigest, u64)>,
    out: &mut impl Write,
    place: (usize, u64),
) -> Result<Vec<(Vec<u8>, SourceRef)>, StepError> {
    let unread = StepError::io("read", "a layer");
    let mut blob = blob;
    blob.rewind().map_err(unread)?;
    let (spool, mut offset) = place;
    let mut sources = Vec::new();
    let mut members = Members::new(Decoder::new(blob).map_err(StepError::io("read", "a layer"))?);
    while let Some(member) = members.advance()? {
        let size_bytes = member.size_bytes;
        let is_file = matches!(member.kind, tar::EntryType::Regular | tar::EntryType::Continuous);
        if !is_file || !wanted.values().any(|(_, size)| *size == size_bytes) {
            continue;
        }
        let found = copy_hashed(&mut members.content(), out, &|source| LayerError::Stream { source }.into())?;
        let targets = wanted.iter().filter(|(_, (digest, _))| *digest == found).map(|(target, _)| target);
        sources.extend(targets.map(|target| (target.clone(), SourceRef::Spool { spool, offset, size_bytes })));
        offset += size_bytes;
    }
    Ok(sources)
}

/// The matches of an ADD that are archives of the context, opened. Those that were `fetched` have a rule of their own.
pub(super) fn archives(
    executor: &BuildExecutor<'_>,
    op: &CopyOp,
    files: &select::Selection,
    fetched: &[Fetched],
) -> Result<Vec<(usize, File)>, StepError> {
    let CopySource::Context(name) = &op.source else { return Ok(Vec::new()) };
    let context = executor.contexts.get(name.as_deref()).ok_or(StepError::NoContext)?;
    let mut found = Vec::new();
    for (number, matched) in files.matches.iter().enumerate() {
        let [Selected { node: Node { path: source, kind: NodeKind::File { .. }, .. }, inline: None, .. }] = matched.items.as_slice() else {
            continue;
        };
        if fetched.iter().any(|file| file.number == number) {
            continue;
        }
        let file = context.open_file(source)?;
        if is_tar(&file).map_err(StepError::io("read", crate::layer::shown(source)))? {
            found.push((number, file));
        }
    }
    Ok(found)
}

/// Whether a file is a tar, whatever it is compressed with: its content tells, as in BuildKit.
fn is_tar(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut start = [0; 512];
    let read = file.read_at(&mut start, 0)?;
    if Format::of(&start[..read]) == Format::Plain {
        return Ok(is_archive(&start[..read]));
    }
    // A compressed file is an archive only if a tar is inside: a .gz of something else is copied as it is.
    let mut plain = [0; 512];
    let mut filled = 0;
    let mut decoder = Decoder::new(file.try_clone()?)?;
    while filled < plain.len() {
        match decoder.read(&mut plain[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(read) => filled += read,
        }
    }
    io::Seek::rewind(&mut &*file)?;
    Ok(Format::of(&plain[..filled]) == Format::Plain && is_archive(&plain[..filled]))
}

/// `unread` is what a failure to read means.
fn copy_hashed(from: &mut dyn Read, to: &mut dyn Write, unread: &dyn Fn(io::Error) -> StepError) -> Result<[u8; 32], StepError> {
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer).map_err(unread)? {
            0 => return Ok(*hash.finalize().as_bytes()),
            read => {
                hash.update(&buffer[..read]);
                to.write_all(&buffer[..read]).map_err(StepError::io("write", "a spool file"))?;
            }
        }
    }
}

/// What is wrong with a member.
fn invalid(member: &Member, what: impl std::fmt::Display) -> LayerError {
    LayerError::Invalid { what: format!("{}: {what}", crate::layer::shown(&member.path).display()), offset: member.offset }
}

/// Which of the items a hardlink names. As on a disk the way there may lead over links of the archive, but ends at no directory.
fn linked(member: &Member, items: &[Selected], names: &HashMap<Vec<u8>, usize>) -> Result<usize, LayerError> {
    let find = |path: &[u8]| names.get(path).copied();
    let symlink = |path: &[u8]| match find(path).map(|at| &items[at].node.kind) {
        Some(NodeKind::Symlink { target }) => Some(target.clone()),
        _ => None,
    };
    let path = clean(&member.link);
    let found = find(&path).or_else(|| find(&resolve(&path, symlink)?));
    match found {
        Some(at) if !matches!(items[at].node.kind, NodeKind::Dir) => Ok(at),
        Some(_) => Err(invalid(member, "a hardlink to a directory")),
        None => {
            let target = crate::layer::shown(&member.link);
            Err(invalid(member, format!("a hardlink to {}, which is not in the archive before it", target.display())))
        }
    }
}

/// One more name of an item, with the number that all names of a file share.
fn hardlink(member: &Member, first: usize, item: &mut Selected) -> (Selected, Option<u64>) {
    let number = match &mut item.node.kind {
        NodeKind::File { inode, .. } => Some(inode.get_or_insert((u64::MAX, first as u64)).1),
        _ => None,
    };
    (Selected { node: Node { path: member.path.clone(), ..item.node.clone() }, ..item.clone() }, number)
}

/// What the last link to a file says of mode, owner and time is said of the file, and so of all its names, as with BuildKit.
fn agree(items: &mut [Selected], linked_last: &HashMap<u64, Member>) {
    for Selected { node, .. } in items {
        if let NodeKind::File { inode: Some((_, number)), .. } = node.kind
            && let Some(last) = linked_last.get(&number)
        {
            (node.mode, node.uid, node.gid, node.mtime) = (last.mode, last.uid, last.gid, last.mtime);
        }
    }
}

/// A member as something that is copied.
fn selected(member: &Member) -> Result<Selected, LayerError> {
    use tar::EntryType;
    let kind = match member.kind {
        EntryType::Directory => NodeKind::Dir,
        EntryType::Regular | EntryType::Continuous => NodeKind::File { size: member.size_bytes, inode: None },
        EntryType::Symlink => NodeKind::Symlink { target: member.link.clone() },
        EntryType::Fifo => NodeKind::Fifo,
        EntryType::Char => NodeKind::CharDevice { major: member.device.0, minor: member.device.1 },
        EntryType::Block => NodeKind::BlockDevice { major: member.device.0, minor: member.device.1 },
        other => return Err(invalid(member, format!("a member of type {:?}", char::from(other.as_byte())))),
    };
    let node = Node {
        path: member.path.clone(),
        kind,
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: member.xattrs.clone(),
    };
    Ok(Selected { above: 0, ..Selected::matched(node) })
}
