//! Where a selection lands: the entries of the layer that COPY or ADD makes.
//!
//! The copy is played through on the parent's [`View`], in BuildKit's order and with its rules, without touching a disk:
//!
//! * Symlinks in the destination are resolved inside the root. Missing directories are made 0755 (or `--chmod`) for root (or `--chown`).
//! * A file goes into a destination that is a directory or ends in `/`; a directory's content goes into the destination itself.
//! * The destination directory keeps its mode and owner; directories *below* it take those of the source.
//! * A file over a directory and a directory over a file are errors; an archive's members replace whatever is there.
//! * Hard links hold within one matched path. A directory that stays as it was is emitted only above something new.
//!
//! Every look at the parent is written down. So the layer is a function of selection, options and those facts, which makes them the
//! second look's key: [`Graft::facts`].

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::accounts::Owner;
use super::chmod::Chmod;
use super::entry::{Entry, Kind, Mtime, join, parent};
use super::index::{INLINE_PATHS, Index, IndexBuilder};
use super::select::{Match, Selected, Selection, clean, escape};
use super::view::{Looped, View, resolve_in};
use super::{Node, NodeKind};

/// Why a copy is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraftError {
    /// A directory would replace something else.
    #[error("cannot copy to non-directory: {path}")]
    DirectoryOverFile {
        /// The path, absolute.
        path: String,
    },
    /// A file would replace a directory.
    #[error("cannot replace to directory {path} with file")]
    FileOverDirectory {
        /// The path, absolute.
        path: String,
    },
    /// A parent of the destination is no directory.
    #[error("mkdir {path}: not a directory")]
    NotADirectory {
        /// The path, absolute.
        path: String,
    },
    /// The destination leads in circles.
    #[error("too many links in {path}")]
    Loop {
        /// The path, absolute.
        path: String,
    },
}

/// How a selection is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Absolute destination; a trailing `/` says that it is a directory.
    pub destination: String,
    /// `--chown`; `None`: as the source has it, root for what is made.
    pub owner: Option<Owner>,
    /// `--chmod`, for everything but symlinks.
    pub chmod: Option<Chmod>,
    /// Time of directories that are made.
    pub created: Mtime,
}

/// One entry of the new layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grafted {
    /// The entry.
    pub entry: Entry,
    /// Of a regular file: where its bytes are, as match and item of the selection.
    pub from: Option<(usize, usize)>,
}

/// What a copy makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graft {
    /// The layer's entries in order.
    pub items: Vec<Grafted>,
    /// Everything that was asked of the parent, with the answers, as canonical bytes.
    pub facts: Vec<u8>,
}

impl Graft {
    /// Files among the entries whose content the index carries: the caller reads them for [`Self::index`].
    pub fn inline_files(&self) -> impl Iterator<Item = &Grafted> {
        self.items.iter().filter(|item| INLINE_PATHS.contains(&item.entry.path.as_slice()) && item.from.is_some())
    }

    /// The layer's index, given the content of [`Self::inline_files`].
    pub fn into_index(self, inline: &[(Vec<u8>, Vec<u8>)]) -> Index {
        // Collected where they lie: of a large context a second table takes tens of megabytes.
        let mut builder = IndexBuilder::of(self.items.into_iter().map(|item| item.entry).collect());
        for (path, content) in inline {
            builder.inline(path, content);
        }
        builder.build()
    }
}

/// Plays a copy through.
pub fn graft(parent: &View, selection: &Selection, options: &Options) -> Result<Graft, GraftError> {
    let mut stage = Stage { view: parent, options, slots: BTreeMap::new(), cleared: BTreeSet::new(), facts: BTreeMap::new() };
    for (number, matched) in selection.matches.iter().enumerate() {
        if matched.archive {
            stage.unpack(number, matched)?;
        } else {
            stage.copy(number, matched)?;
        }
    }
    Ok(stage.finish())
}

/// Makes a directory with its parents, as WORKDIR does. Nothing comes of one that exists.
pub fn make_dir(parent: &View, path: &str, owner: Owner, created: Mtime) -> Result<Graft, GraftError> {
    let options = Options { destination: path.to_owned(), owner: Some(owner), chmod: None, created };
    let mut stage = Stage { view: parent, options: &options, slots: BTreeMap::new(), cleared: BTreeSet::new(), facts: BTreeMap::new() };
    let resolved = stage.resolve(&[], path.as_bytes())?;
    stage.make_dirs(&resolved, 0o755, owner)?;
    Ok(stage.finish())
}

/// A path of the new layer.
#[derive(Clone, Debug)]
struct Slot {
    /// Its path is the slot's key while it is in the map.
    entry: Entry,
    from: Option<(usize, usize)>,
    /// Names of one inode.
    inode: Option<Box<Inode>>,
    /// Nothing but its time changed: emitted only above something new.
    weak: bool,
}

/// The filesystem while the copy is played through.
struct Stage<'a> {
    view: &'a View,
    options: &'a Options,
    /// Boxed: what is added in order leaves the nodes of the map half empty.
    slots: BTreeMap<Vec<u8>, Box<Slot>>,
    /// Directories of the parent that were removed: nothing below them shows any more.
    cleared: BTreeSet<Vec<u8>>,
    /// The questions to the parent and its answers.
    facts: BTreeMap<Vec<u8>, Cow<'static, [u8]>>,
}

impl Stage<'_> {
    fn lookup(&mut self, path: &[u8]) -> Option<Entry> {
        if path.is_empty() {
            return Some(Entry::new(&b""[..], Kind::Dir, 0o755, 0, 0, Mtime::default()));
        }
        if let Some(slot) = self.slots.get(path) {
            return Some(Entry { path: path.to_vec(), ..slot.entry.clone() });
        }
        if self.is_cleared(path) {
            return None;
        }
        self.below(path)
    }

    fn is_cleared(&self, path: &[u8]) -> bool {
        !self.cleared.is_empty()
            && std::iter::successors(Some(path), |at| Some(parent(at)).filter(|up| !up.is_empty())).any(|at| self.cleared.contains(at))
    }

    /// Asks the parent and writes the answer down.
    fn below(&mut self, path: &[u8]) -> Option<Entry> {
        let found = self.view.get(path).map(|(_, entry)| entry);
        if !self.facts.contains_key(path) {
            let fact = found.as_ref().map_or(Cow::Borrowed(&b"absent"[..]), fact);
            self.facts.insert(path.to_vec(), fact);
        }
        found
    }

    /// Resolves a path's symlinks, its last one too, with the directory `root` as the root.
    fn resolve(&mut self, root: &[u8], path: &[u8]) -> Result<Vec<u8>, GraftError> {
        let inside = resolve_in(&clean(path).join(&b"/"[..]), true, |at| {
            Ok::<_, std::convert::Infallible>(match self.lookup(&join(root, at)).map(|e| e.kind) {
                Some(Kind::Symlink { target }) => Some(target),
                _ => None,
            })
        });
        match inside {
            Ok(inside) if inside.is_empty() => Ok(root.to_vec()),
            Ok(inside) => Ok(join(root, &inside)),
            Err(Looped::Loop) => Err(GraftError::Loop { path: shown(&join(root, &clean(path).join(&b"/"[..]))) }),
            Err(Looped::Other(never)) => match never {},
        }
    }

    /// Makes the directory and its parents where they are missing.
    fn make_dirs(&mut self, path: &[u8], mode: u32, owner: Owner) -> Result<(), GraftError> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i).chain([path.len()]);
        for end in ends.collect::<Vec<_>>() {
            let dir = &path[..end];
            match self.lookup(dir) {
                Some(entry) if entry.is_dir() => {}
                Some(_) => return Err(GraftError::NotADirectory { path: shown(dir) }),
                None => {
                    let entry = Entry::new(dir, Kind::Dir, mode, owner.uid, owner.gid, self.options.created);
                    self.put(Slot { entry, from: None, inode: None, weak: false });
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, number: usize, matched: &Match) -> Result<(), GraftError> {
        let Some(top) = matched.items.first() else { return Ok(()) };
        let options = self.options;
        let destination = options.destination.as_bytes();
        let mode = options.chmod.as_ref().map_or(0o755, Chmod::of_made_directories);
        let as_dir = destination.ends_with(b"/") || destination.ends_with(b"/.");
        let text = clean(destination).join(&b"/"[..]);
        let first = if as_dir { self.resolve(&[], &text)? } else { self.resolve(&[], parent(&text))? };
        let owner = options.owner.unwrap_or_default();
        self.make_dirs(&first, mode, owner)?;

        let mut base = self.resolve(&[], &text)?;
        let there = self.lookup(&base);
        let is_dir = top.node.kind == NodeKind::Dir;
        if !is_dir && there.as_ref().is_some_and(Entry::is_dir) {
            base = join(&base, &matched.name);
        }
        let above = if is_dir && there.is_none() { base.clone() } else { parent(&base).to_vec() };
        self.make_dirs(&above, mode, owner)?;
        for (i, item) in matched.items.iter().enumerate() {
            let path = if item.target().is_empty() { base.clone() } else { join(&base, item.target()) };
            self.copy_one(&path, number, i, item)?;
        }
        Ok(())
    }

    fn copy_one(&mut self, path: &[u8], number: usize, i: usize, item: &Selected) -> Result<(), GraftError> {
        if path.is_empty() {
            return Ok(());
        }
        let there = self.lookup(path);
        if item.node.kind != NodeKind::Dir {
            if there.is_some_and(|e| e.is_dir()) {
                return Err(GraftError::FileOverDirectory { path: shown(path) });
            }
            let slot = self.slot(path, number, i, item, self.options.chmod.as_ref());
            self.put(slot);
            return Ok(());
        }
        let Some(there) = there else {
            let slot = self.slot(path, number, i, item, self.options.chmod.as_ref());
            self.put(slot);
            return Ok(());
        };
        if !there.is_dir() {
            return Err(GraftError::DirectoryOverFile { path: shown(path) });
        }
        let mut entry = there.clone();
        if item.target().is_empty() {
            entry.mtime = item.node.mtime;
        } else if item.implied {
            entry.mode = item.node.mode;
        } else {
            let new = self.slot(path, number, i, item, self.options.chmod.as_ref()).entry;
            entry = Entry { xattrs: there.xattrs.iter().map(|(k, v)| (k.clone(), v.clone())).chain(new.xattrs).collect(), ..entry };
            (entry.mode, entry.uid, entry.gid, entry.mtime) = (new.mode, new.uid, new.gid, new.mtime);
        }
        let weak = same_dir(&there, &entry) && self.slots.get(path).is_none_or(|slot| slot.weak);
        self.put(Slot { entry, from: None, inode: None, weak });
        Ok(())
    }

    /// Unpacks an archive's members into the destination, as `tar -x` in a chroot there would. `--chmod` does not concern them, and `--chown`
    /// no directories that the archive does not have, as in BuildKit.
    fn unpack(&mut self, number: usize, matched: &Match) -> Result<(), GraftError> {
        let root = self.resolve(&[], self.options.destination.clone().as_bytes())?;
        self.make_dirs(&root, 0o755, self.options.owner.unwrap_or_default())?;
        for (i, item) in matched.items.iter().enumerate().filter(|(_, item)| !item.target().is_empty()) {
            let above = self.resolve(&root, parent(item.target()))?;
            self.make_dirs(&above, 0o755, Owner::default())?;
            let path = join(&above, super::entry::file_name(item.target()));
            let there = self.lookup(&path);
            let mut slot = self.slot(&path, number, i, item, None);
            if let Some(there) = there.filter(Entry::is_dir) {
                if slot.entry.is_dir() {
                    slot.weak = same_dir(&there, &slot.entry) && self.slots.get(&path).is_none_or(|slot| slot.weak);
                } else {
                    self.remove_dir(&path);
                }
            }
            self.put(slot);
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: &[u8]) {
        // In byte order everything below a path stands together.
        let below = self.slots.range([path, b"/"].concat()..[path, b"0"].concat());
        for gone in below.map(|(at, _)| at.clone()).collect::<Vec<_>>() {
            self.slots.remove(&gone);
        }
        self.cleared.insert(path.to_vec());
    }

    fn put(&mut self, mut slot: Slot) {
        let path = std::mem::take(&mut slot.entry.path);
        self.slots.insert(path, Box::new(slot));
    }

    /// The new path for an item, with owner and mode as asked.
    fn slot(&self, path: &[u8], number: usize, i: usize, item: &Selected, chmod: Option<&Chmod>) -> Slot {
        let node = &item.node;
        let owner = self.options.owner.unwrap_or(Owner { uid: node.uid, gid: node.gid });
        let mode = match (&node.kind, chmod) {
            (NodeKind::Symlink { .. }, _) => 0o777,
            (kind, Some(chmod)) => chmod.apply(node.mode, *kind == NodeKind::Dir),
            (_, None) => node.mode & 0o7777,
        };
        let (kind, inode) = kind_of(node, item);
        let from = matches!(kind, Kind::File { .. }).then_some((number, i));
        let mut entry = Entry::new(path, kind, mode, owner.uid, owner.gid, node.mtime);
        entry.xattrs.clone_from(&node.xattrs);
        Slot { entry, from, inode: inode.map(|inode| Box::new((number, inode))), weak: false }
    }

    /// The layer: what changed, with the directories above it. Takes the slots apart one by one: of a large context they are many.
    fn finish(mut self) -> Graft {
        let mut above: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (path, _) in self.slots.iter().filter(|(_, slot)| !slot.weak) {
            let mut up = parent(path);
            while !up.is_empty() && !above.contains(up) {
                above.insert(up.to_vec());
                up = parent(up);
            }
        }
        let mut items = Vec::new();
        self.hide_cleared(&mut items, &above);
        // Parents that the copy did not touch, as the parent filesystem has them.
        for path in above.iter().filter(|path| !self.slots.contains_key(*path)).cloned().collect::<Vec<_>>() {
            if let Some(mut entry) = self.below(&path).filter(Entry::is_dir) {
                entry.opaque = false;
                items.push(Grafted { entry, from: None });
            }
        }
        // Before there are items: each of the two takes tens of megabytes.
        let facts = written(std::mem::take(&mut self.facts));
        items.reserve_exact(self.slots.len());
        let mut inodes = HashMap::new();
        for (path, slot) in std::mem::take(&mut self.slots) {
            if !slot.weak || above.contains(&path) {
                inodes.extend(slot.inode.map(|inode| (path.clone(), *inode)));
                items.push(Grafted { entry: Entry { path, ..slot.entry }, from: slot.from });
            }
        }
        // No path is there twice, and a stable sort takes half as much memory again.
        items.sort_unstable_by(|a, b| super::entry::cmp_paths(&a.entry.path, &b.entry.path));
        settle_links(&inodes, &mut items);
        Graft { items, facts }
    }

    /// Directories in the place of removed ones must not show what those held.
    fn hide_cleared(&mut self, items: &mut Vec<Grafted>, above: &BTreeSet<Vec<u8>>) {
        let dirs = self.slots.iter().filter(|(path, slot)| slot.entry.is_dir() && self.is_cleared(path));
        for dir in dirs.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            let names = self.view.children(&dir);
            let mut fact = b"holds".to_vec();
            for found in &names {
                fact.push(b' ');
                escape(&mut fact, found.entry.name());
                let path = &found.entry.path;
                if !above.contains(path) && self.slots.get(path).is_none_or(|slot| slot.weak) {
                    items.push(Grafted { entry: Entry::whiteout(found.entry.path.clone()), from: None });
                }
            }
            self.facts.insert(join(&dir, b"/"), fact.into());
        }
    }
}

/// The questions and answers as canonical bytes.
fn written(facts: BTreeMap<Vec<u8>, Cow<'static, [u8]>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, fact) in facts {
        escape(&mut out, &path);
        out.push(b' ');
        out.extend_from_slice(&fact);
        out.push(b'\n');
    }
    out
}

/// What is written down of an entry of the parent.
fn fact(found: &Entry) -> Cow<'static, [u8]> {
    let mut fact = Vec::new();
    match found {
        Entry { kind: Kind::Symlink { target }, .. } => {
            fact.extend(b"symlink ");
            escape(&mut fact, target);
        }
        dir if dir.is_dir() => {
            fact.extend(format!("dir {:o} {}:{}", dir.mode, dir.uid, dir.gid).into_bytes());
            for (name, value) in &dir.xattrs {
                fact.push(b' ');
                escape(&mut fact, name);
                fact.push(b'=');
                escape(&mut fact, value);
            }
        }
        _ => return Cow::Borrowed(b"other"),
    }
    fact.into()
}

/// Whether two directories differ in nothing but their time.
pub(super) fn same_dir(a: &Entry, b: &Entry) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

fn kind_of(node: &Node, item: &Selected) -> (Kind, Option<(u64, u64)>) {
    match &node.kind {
        NodeKind::Dir => (Kind::Dir, None),
        NodeKind::File { size, inode } => (Kind::File { size: *size, digest: item.digest.unwrap_or_default(), hardlink: None }, *inode),
        NodeKind::Symlink { target } => (Kind::Symlink { target: target.clone() }, None),
        // Selections hold no sockets; a stray one counts as a pipe.
        NodeKind::Fifo | NodeKind::Socket => (Kind::Fifo, None),
        NodeKind::CharDevice { major, minor } => (Kind::CharDevice { major: *major, minor: *minor }, None),
        NodeKind::BlockDevice { major, minor } => (Kind::BlockDevice { major: *major, minor: *minor }, None),
    }
}

/// A match and one of its inodes.
type Inode = (usize, (u64, u64));

/// Makes the names of one inode links to the first of them. `items` are sorted, `inodes` tells those of files that may have several.
fn settle_links(inodes: &HashMap<Vec<u8>, Inode>, items: &mut [Grafted]) {
    let mut first: HashMap<&Inode, Vec<u8>> = HashMap::new();
    for item in items {
        let Some(inode) = inodes.get(&item.entry.path) else { continue };
        let Kind::File { hardlink, .. } = &mut item.entry.kind else { continue };
        match first.get(inode) {
            Some(path) => *hardlink = Some(path.clone()),
            None => {
                first.insert(inode, item.entry.path.clone());
            }
        }
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
