//! Stacked indexes as one filesystem, without unpacking or mounting anything.
//!
//! The rules are overlayfs's: the top-most layer that has a path decides; a whiteout removes it, an opaque directory or anything
//! that is not a directory hides what lies below it. A directory that a layer only implies (it has entries below the path but
//! none for it) takes its metadata from a lower layer, or is 0755 and root's.

mod table;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::entry::{ContentDigest, Entry, Kind, Mtime, join, parent};
use super::index::{Index, is_below};
use super::{Node, NodeKind, Tree};
use table::Memory;

/// How many symlinks one resolution follows before it counts as a loop (as Linux does).
const SYMLINK_LIMIT: usize = 40;

/// Why a path could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Too many symlinks.
    #[error("too many levels of symbolic links in {}", String::from_utf8_lossy(path))]
    Loop {
        /// The path asked for.
        path: Vec<u8>,
    },
}

/// A stack of layers.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Bottom first.
    layers: Vec<Arc<Index>>,
    /// What a high stack has been asked already.
    memory: Arc<Memory>,
}

/// One path of a [`View`]: the layer that decides, and its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the layer, 0 is the bottom.
    pub layer: usize,
    /// The entry; its path is the full one.
    pub entry: Entry,
}

/// What the layers hold below one directory: the part of each layer that still shows, top first.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    members: Vec<(usize, Range<usize>)>,
}

/// A child during a merge.
#[derive(Debug, Default)]
struct Child {
    /// The deciding entry; `None` for a directory that is only implied so far.
    own: Option<(usize, usize)>,
    /// Nothing is here.
    removed: bool,
    /// No lower layer shows through.
    closed: bool,
    level: Level,
}

impl View {
    /// Stacks indexes, the bottom one first.
    pub fn new(layers: Vec<Arc<Index>>) -> Self {
        Self { layers, memory: Arc::default() }
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> &[Arc<Index>] {
        &self.layers
    }

    /// The same stack with one more layer on top.
    #[must_use]
    pub fn with(&self, top: Arc<Index>) -> Self {
        let mut layers = self.layers.clone();
        layers.push(top);
        Self::new(layers)
    }

    /// What is at `path`, and the number of the layer that it comes from. Follows no symlink; the root has no entry.
    pub fn get(&self, path: &[u8]) -> Option<(usize, Entry)> {
        if path.is_empty() {
            return None;
        }
        if let Some(table) = self.table() {
            return table.get(self, path);
        }
        let mut implied = None;
        for (number, index) in self.layers.iter().enumerate().rev() {
            let at = match index.search(path) {
                Ok(i) if index.is_whiteout(i) => break,
                Ok(i) if implied.is_some() && !index.is_dir(i) => break,
                Ok(i) => return Some((number, index.entry(i))),
                Err(at) => at,
            };
            if at < index.len() && is_below(index.path(at), path) {
                implied.get_or_insert(number);
            }
            if at > 0 && hides(index, at - 1, path) {
                break;
            }
        }
        implied.map(|layer| (layer, implied_dir(path.to_vec())))
    }

    /// The children of the directory at `path`, sorted by name; nothing if it is no directory. Symlinks are not followed.
    pub fn children(&self, path: &[u8]) -> Vec<Found> {
        let level = self.level(path);
        self.merge(path, &level).into_iter().map(|(path, child)| self.found(path, &child)).collect()
    }

    /// Everything below `path`, in [`super::entry::cmp_paths`] order, without the entry at `path` itself. `visit` says of a
    /// directory whether to go in.
    pub fn walk_with(&self, path: &[u8], visit: &mut dyn FnMut(Found) -> bool) {
        self.walk_level(path, &self.level(path), visit);
    }

    /// Everything below `path`, in order.
    pub fn walk(&self, path: &[u8]) -> Vec<Found> {
        let mut all = Vec::new();
        self.walk_with(path, &mut |found| {
            all.push(found);
            true
        });
        all
    }

    /// Resolves the symlinks of a path inside the root, as a process chrooted there would; `..` above the root stays there, and
    /// what does not exist is taken literally. With `follow_last` the last component's link is followed too.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>, ResolveError> {
        resolve_in(path, follow_last, |p| {
            Ok(match self.get(p) {
                Some((_, Entry { kind: Kind::Symlink { target }, .. })) => Some(target),
                _ => None,
            })
        })
        .map_err(|_: Looped<std::convert::Infallible>| ResolveError::Loop { path: path.to_vec() })
    }

    /// The path of the file that shows at `path`, if one does, and its content if its layer's index carries it. Symlinks are followed
    /// inside the root.
    pub fn file(&self, path: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
        let at = self.resolve(path, true).ok()?;
        let (layer, entry) = self.get(&at)?;
        let content = self.layers[layer].inline(&at);
        matches!(entry.kind, Kind::File { .. }).then_some((at, content))
    }

    /// The root's level, to go down from by [`Self::step`].
    pub(super) fn top(&self) -> Level {
        self.level(&[])
    }

    /// What is at `path`, a child of the directory that `level` belongs to, and its own level. Only the layers that have that
    /// directory are asked, so a descent through many layers costs little.
    pub(super) fn step(&self, level: &Level, path: &[u8]) -> (Option<Entry>, Level) {
        let mut child = Child::default();
        for (number, range) in &level.members {
            let index = &self.layers[*number];
            let (start, own) = match index.search_in(path, range.clone()) {
                Ok(i) => (i + 1, Some(i)),
                Err(i) => (i, None),
            };
            let end = index.subtree_end(path, start..range.end);
            if own.is_some() || start < end {
                child.add(*number, index, own, start..end);
            }
            if child.closed {
                break;
            }
        }
        if child.removed || (child.own.is_none() && child.level.members.is_empty()) {
            return (None, Level::default());
        }
        (Some(self.found(path.to_vec(), &child).entry), child.level)
    }

    /// The children of the directory `dir` with this level.
    pub(super) fn children_of(&self, dir: &[u8], level: &Level) -> Vec<Found> {
        self.merge(dir, level).into_iter().map(|(path, child)| self.found(path, &child)).collect()
    }

    fn level(&self, path: &[u8]) -> Level {
        if let Some(level) = self.memory.level(path) {
            return level;
        }
        let mut members = Vec::new();
        for (number, index) in self.layers.iter().enumerate().rev() {
            let (start, own) = match index.search(path) {
                _ if path.is_empty() => (0, None),
                Ok(i) => (i + 1, Some(i)),
                Err(i) => (i, None),
            };
            if own.is_some_and(|i| !index.is_dir(i)) {
                break;
            }
            let end = index.subtree_end(path, start..index.len());
            if start < end {
                members.push((number, start..end));
            }
            let shut = match own {
                Some(i) => index.is_opaque(i) || (i > 0 && hides(index, i - 1, path)),
                None => start > 0 && hides(index, start - 1, path),
            };
            if shut {
                break;
            }
        }
        Level { members }
    }

    /// The children that the members of a level make together, by path.
    fn merge(&self, dir: &[u8], level: &Level) -> BTreeMap<Vec<u8>, Child> {
        let mut children: BTreeMap<Vec<u8>, Child> = BTreeMap::new();
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        for (number, range) in &level.members {
            let index = &self.layers[*number];
            let mut at = range.start;
            while at < range.end {
                let full = index.path(at);
                let name_len = full[skip..].iter().position(|b| *b == b'/');
                let path = &full[..name_len.map_or(full.len(), |n| skip + n)];
                let own = name_len.is_none().then_some(at);
                let start = at + usize::from(own.is_some());
                let end = if start < range.end { index.subtree_end(path, start..range.end) } else { start };
                if let Some(child) = children.get_mut(path) {
                    child.add(*number, index, own, start..end);
                } else {
                    let mut child = Child::default();
                    child.add(*number, index, own, start..end);
                    children.insert(path.to_vec(), child);
                }
                at = end;
            }
        }
        children.retain(|_, child| !child.removed);
        self.remember(&children);
        children
    }

    fn found(&self, path: Vec<u8>, child: &Child) -> Found {
        match child.own {
            Some((layer, i)) => Found { layer, entry: self.layers[layer].entry(i) },
            None => Found { layer: child.level.members[0].0, entry: implied_dir(path) },
        }
    }

    fn walk_level(&self, dir: &[u8], level: &Level, visit: &mut dyn FnMut(Found) -> bool) {
        for (path, child) in self.merge(dir, level) {
            let found = self.found(path.clone(), &child);
            if visit(found) && !child.level.members.is_empty() {
                self.walk_level(&path, &child.level, visit);
            }
        }
    }

    /// A [`Node`] of an entry; names of one inode share the (layer, first entry) pair.
    fn node_of(&self, found: Found) -> Node {
        let Found { layer, entry } = found;
        let kind = match entry.kind {
            Kind::Dir | Kind::Whiteout => NodeKind::Dir,
            Kind::File { size, .. } => {
                let index = &self.layers[layer];
                let group = index.find(&entry.path).and_then(|i| index.link_group(i));
                NodeKind::File { size, inode: group.map(|first| (layer as u64, first as u64)) }
            }
            Kind::Symlink { target } => NodeKind::Symlink { target },
            Kind::Fifo => NodeKind::Fifo,
            Kind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
        };
        Node { path: entry.path, kind, mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs: entry.xattrs }
    }
}

impl Child {
    /// Adds what the next lower layer has at this path: its own entry, if any, and what lies below it.
    fn add(&mut self, number: usize, index: &Index, own: Option<usize>, below: Range<usize>) {
        if self.closed {
            return;
        }
        let Some(i) = own else {
            self.level.members.push((number, below));
            return;
        };
        if !index.is_dir(i) {
            self.closed = true;
            // Below a directory of an upper layer it is only hidden.
            if self.level.members.is_empty() && self.own.is_none() {
                self.removed = index.is_whiteout(i);
                self.own = Some((number, i));
            }
            return;
        }
        self.own.get_or_insert((number, i));
        if !below.is_empty() {
            self.level.members.push((number, below));
        }
        self.closed = index.is_opaque(i);
    }
}

/// Whether an ancestor of `path` in this layer hides lower layers' `path`. The deepest ancestor that the layer has stands among
/// the ancestors of the entry before the place of `path`, which keeps the search short.
fn hides(index: &Index, before: usize, path: &[u8]) -> bool {
    let mut ancestor = parent(path);
    let neighbour = index.path(before);
    while !ancestor.is_empty() {
        if (neighbour == ancestor || is_below(neighbour, ancestor))
            && let Some(i) = index.find(ancestor)
            && (!index.is_dir(i) || index.is_opaque(i))
        {
            return true;
        }
        ancestor = parent(ancestor);
    }
    false
}

fn implied_dir(path: Vec<u8>) -> Entry {
    Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime::default())
}

/// Why [`resolve_in`] gave up.
#[derive(Debug)]
pub(super) enum Looped<E> {
    Loop,
    Other(E),
}

/// Resolves the symlinks on the way to a path through `link` (the target, if there is a symlink), inside the root. `None` if they lead round.
pub fn resolve(path: &[u8], link: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    resolve_in(path, false, |path| Ok::<_, std::convert::Infallible>(link(path))).ok()
}

/// Resolves a path's symlinks through `link` (the target, if there is a symlink), inside the root.
pub(super) fn resolve_in<E>(
    path: &[u8],
    follow_last: bool,
    mut link: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<u8>, Looped<E>> {
    let mut todo: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
    let mut done: Vec<u8> = Vec::new();
    let mut followed = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            done.truncate(parent(&done).len());
            continue;
        }
        let here = join(&done, &name);
        let target = if todo.is_empty() && !follow_last { None } else { link(&here).map_err(Looped::Other)? };
        let Some(target) = target else {
            done = here;
            continue;
        };
        followed += 1;
        if followed > SYMLINK_LIMIT {
            return Err(Looped::Loop);
        }
        if target.first() == Some(&b'/') {
            done.clear();
        }
        todo.extend(names(&target).rev().map(<[u8]>::to_vec));
    }
    Ok(done)
}

/// The components of a path that mean something.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// The root directory as a node.
pub(super) fn root_node() -> Node {
    Node { path: Vec::new(), kind: NodeKind::Dir, mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: BTreeMap::new() }
}

impl Tree for View {
    fn node(&self, path: &[u8]) -> io::Result<Option<Node>> {
        if path.is_empty() {
            return Ok(Some(root_node()));
        }
        Ok(self.get(path).map(|(layer, entry)| self.node_of(Found { layer, entry })))
    }

    fn children(&self, path: &[u8]) -> io::Result<Vec<Node>> {
        Ok(Self::children(self, path).into_iter().map(|found| self.node_of(found)).collect())
    }

    fn digests(&self, paths: &[&[u8]]) -> io::Result<Vec<ContentDigest>> {
        paths
            .iter()
            .map(|path| match self.get(path) {
                Some((_, Entry { kind: Kind::File { digest, .. }, .. })) => Ok(digest),
                _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is no file", String::from_utf8_lossy(path)))),
            })
            .collect()
    }
}
