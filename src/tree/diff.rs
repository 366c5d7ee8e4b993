//! An overlay's upper directory against what lies below it: the layer, and what to change on disk until the directory equals it.
//!
//! * A file that was copied up and is the same in everything is dropped; a directory stays only for a change of its own other than
//!   its mtime, or for what it holds.
//! * Opaque directories become explicit whiteouts; a whiteout of what is not there is dropped; sockets are dropped.
//! * The first path in order carries a hardlinked file. A link whose partners were dropped becomes a file.
//!
//! So `RUN chmod 755 /bin/busybox`, which changes nothing, is the empty layer on every base.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::entry::{Entry, Kind, file_name, join};
use super::graft::same_dir;
use super::index::{Index, IndexBuilder, is_below};
use super::view::{Level, View};

/// One path of an upper directory, as it was walked.
#[derive(Clone, Debug)]
pub struct Upper {
    /// Path and metadata; the kind of a socket is not looked at.
    pub entry: Entry,
    /// What all names of one inode share, where it has several.
    pub inode: Option<(u64, u64)>,
    /// Whether it is a socket.
    pub is_socket: bool,
    /// Attributes of overlay itself.
    pub internal_xattrs: Vec<Vec<u8>>,
}

/// What makes an upper directory equal to its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fix {
    /// Remove a file, or a directory that is empty by then.
    Remove(Vec<u8>),
    /// Make a whiteout.
    Whiteout(Vec<u8>),
    /// Take an attribute away.
    DropXattr(Vec<u8>, Vec<u8>),
}

/// A layer, and how the directory becomes it.
#[derive(Debug)]
pub struct Diff {
    /// The layer.
    pub index: Index,
    /// In the order in which they are to be done.
    pub fixes: Vec<Fix>,
}

/// Compares `upper`, sorted by path, with `parent`. `inline` holds the contents that an index carries, by path.
pub fn diff(upper: &[Upper], parent: &View, inline: &BTreeMap<Vec<u8>, Vec<u8>>) -> Diff {
    let mut work = Work { upper, parent, kept: Vec::new(), fixes: Vec::new() };
    let (mut next, top) = (0, parent.top());
    while next < upper.len() {
        next = work.visit(next, &top, false).0;
    }
    let Work { mut kept, fixes, .. } = work;
    name_links(&mut kept);
    let mut builder = IndexBuilder::new();
    for (entry, _) in kept {
        if let Some(bytes) = inline.get(&entry.path) {
            builder.inline(&entry.path, bytes);
        }
        builder.push(entry);
    }
    Diff { index: builder.build(), fixes }
}

struct Work<'a> {
    upper: &'a [Upper],
    parent: &'a View,
    kept: Vec<(Entry, Option<(u64, u64)>)>,
    fixes: Vec<Fix>,
}

impl Work<'_> {
    /// Decides about the entry at `at` and everything below it. Returns the next position and whether anything was kept.
    /// `level` belongs to the directory that holds it; `cut`: the layers below were hidden there.
    fn visit(&mut self, at: usize, level: &Level, cut: bool) -> (usize, bool) {
        let Upper { entry, inode, is_socket, .. } = &self.upper[at];
        let (below, below_level) = self.parent.step(level, &entry.path);
        if entry.is_dir() && !is_socket {
            return self.visit_dir(at, below.filter(Entry::is_dir), &below_level, cut);
        }
        let keep = match &entry.kind {
            _ if *is_socket => false,
            Kind::Whiteout => below.is_some(),
            _ => below.is_none_or(|below| !is_same(entry, &below)),
        };
        if keep && entry.kind == Kind::Whiteout && !self.upper[at].internal_xattrs.is_empty() {
            // A whiteout in the form of a file: without its attribute it would only be an empty one.
            self.fixes.extend([Fix::Remove(entry.path.clone()), Fix::Whiteout(entry.path.clone())]);
            self.kept.push((entry.clone(), None));
        } else if keep {
            self.drop_internal(at);
            self.kept.push((entry.clone(), *inode));
        } else {
            self.fixes.push(Fix::Remove(entry.path.clone()));
        }
        (at + 1, keep)
    }

    fn visit_dir(&mut self, at: usize, below: Option<Entry>, level: &Level, cut: bool) -> (usize, bool) {
        let entry = &self.upper[at].entry;
        let cut = cut || entry.opaque;
        let place = self.kept.len();
        let mut names: HashSet<&[u8]> = HashSet::new();
        let (mut next, mut holds) = (at + 1, false);
        while next < self.upper.len() && is_below(&self.upper[next].entry.path, &entry.path) {
            if !self.upper[next].is_socket {
                names.insert(file_name(&self.upper[next].entry.path));
            }
            let (after, kept) = self.visit(next, level, cut);
            (next, holds) = (after, holds || kept);
        }
        if cut && below.is_some() {
            holds |= self.hide_children(&entry.path, level, &names);
        }
        let changed = below.is_none_or(|below| !same_dir(&below, entry));
        if changed || holds {
            self.drop_internal(at);
            self.kept.insert(place, (Entry { opaque: false, ..entry.clone() }, None));
        } else {
            self.fixes.push(Fix::Remove(entry.path.clone()));
        }
        (next, changed || holds)
    }

    /// Whiteouts for what the layers below hold in a directory and the upper one has not.
    fn hide_children(&mut self, dir: &[u8], level: &Level, present: &HashSet<&[u8]>) -> bool {
        let mut any = false;
        for child in self.parent.children_of(dir, level) {
            let name = file_name(&child.entry.path);
            if !present.contains(name) {
                let path = join(dir, name);
                self.kept.push((Entry::whiteout(path.clone()), None));
                self.fixes.push(Fix::Whiteout(path));
                any = true;
            }
        }
        any
    }

    fn drop_internal(&mut self, at: usize) {
        let upper = &self.upper[at];
        self.fixes.extend(upper.internal_xattrs.iter().map(|name| Fix::DropXattr(upper.entry.path.clone(), name.clone())));
    }
}

/// Whether a copied-up path is what it was, times included.
fn is_same(entry: &Entry, below: &Entry) -> bool {
    let kind = match (&entry.kind, &below.kind) {
        // Which other names an inode has is no property of the file itself.
        (Kind::File { size, digest, .. }, Kind::File { size: below_size, digest: below_digest, .. }) => {
            size == below_size && digest == below_digest
        }
        (kind, below) => kind == below,
    };
    // Bases carry whole seconds only: what was copied up from one has no more.
    kind && (entry.mode, entry.uid, entry.gid, entry.mtime, &entry.xattrs) == (below.mode, below.uid, below.gid, below.mtime, &below.xattrs)
}

fn name_links(kept: &mut [(Entry, Option<(u64, u64)>)]) {
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|a, b| super::entry::cmp_paths(&kept[*a].0.path, &kept[*b].0.path));
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for at in order {
        let (entry, inode) = &mut kept[at];
        let (Some(inode), Kind::File { hardlink, .. }) = (*inode, &mut entry.kind) else { continue };
        *hardlink = first.get(&inode).cloned();
        if hardlink.is_none() {
            first.insert(inode, entry.path.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tree::entry::Mtime;

    fn file(path: &str, content: u8, secs: i64) -> Entry {
        Entry::new(path, Kind::File { size: 1, digest: [content; 32], hardlink: None }, 0o644, 0, 0, Mtime { secs, nanos: 0 })
    }

    fn dir(path: &str, secs: i64) -> Entry {
        Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime { secs, nanos: 0 })
    }

    fn view(entries: &[Entry]) -> View {
        let mut builder = IndexBuilder::new();
        for entry in entries {
            builder.push(entry.clone());
        }
        View::new(vec![Arc::new(builder.build())])
    }

    fn upper(entries: Vec<Entry>) -> Vec<Upper> {
        entries.into_iter().map(|entry| Upper { entry, inode: None, is_socket: false, internal_xattrs: Vec::new() }).collect()
    }

    fn shown(diff: &Diff) -> Vec<String> {
        let mark = |e: &Entry| match &e.kind {
            Kind::Whiteout => "-",
            Kind::Dir => "/",
            Kind::File { hardlink: Some(_), .. } => "=",
            _ => "",
        };
        diff.index.iter().map(|e| format!("{}{}", mark(&e), String::from_utf8_lossy(&e.path))).collect()
    }

    fn base() -> View {
        view(&[dir("a", 1), file("a/f", 1, 1), dir("a/s", 1), file("a/s/x", 1, 1), file("b", 1, 1)])
    }

    #[test]
    fn what_was_copied_up_and_is_the_same_is_dropped_with_its_directories() {
        let diff = diff(&upper(vec![dir("a", 9), file("a/f", 1, 1), file("b", 1, 1)]), &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), Vec::<String>::new());
        assert_eq!(diff.fixes, ["a/f", "a", "b"].map(|p| Fix::Remove(p.into())));
    }

    #[test]
    fn a_change_keeps_its_parents_and_a_new_time_is_a_change_of_files_only() {
        let changed = upper(vec![dir("a", 9), file("a/f", 1, 2), dir("a/s", 9)]);
        let diff = diff(&changed, &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["/a", "a/f"]);
        assert_eq!(diff.fixes, [Fix::Remove(b"a/s".to_vec())]);
    }

    #[test]
    fn an_opaque_directory_hides_each_child_by_name_at_every_depth() {
        let mut replaced = dir("a", 9);
        replaced.opaque = true;
        let mut walked = upper(vec![replaced, dir("a/s", 9), file("a/s/y", 2, 9)]);
        walked[0].internal_xattrs = vec![b"user.overlay.opaque".to_vec()];
        let diff = diff(&walked, &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["/a", "-a/f", "/a/s", "-a/s/x", "a/s/y"]);
        assert!(diff.fixes.contains(&Fix::DropXattr(b"a".to_vec(), b"user.overlay.opaque".to_vec())));
        assert!(diff.fixes.contains(&Fix::Whiteout(b"a/f".to_vec())) && diff.fixes.contains(&Fix::Whiteout(b"a/s/x".to_vec())));
    }

    #[test]
    fn whiteouts_of_nothing_and_sockets_go() {
        let mut walked = upper(vec![Entry::whiteout("b"), Entry::whiteout("c"), file("d", 1, 1)]);
        walked[2].is_socket = true;
        let diff = diff(&walked, &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["-b"]);
        assert_eq!(diff.fixes, ["c", "d"].map(|p| Fix::Remove(p.into())));
    }

    #[test]
    fn a_whiteout_in_the_form_of_a_file_becomes_a_device() {
        let mut walked = upper(vec![Entry::whiteout("b"), Entry::whiteout("c")]);
        for one in &mut walked {
            one.internal_xattrs = vec![b"user.overlay.whiteout".to_vec()];
        }
        let diff = diff(&walked, &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["-b"]);
        assert_eq!(diff.fixes, [Fix::Remove(b"b".to_vec()), Fix::Whiteout(b"b".to_vec()), Fix::Remove(b"c".to_vec())]);
    }

    #[test]
    fn links_are_named_after_the_first_that_stays() {
        let mut walked = upper(vec![dir("a", 9), file("a/f", 1, 1), file("a/g", 1, 1), file("h", 1, 1)]);
        for one in &mut walked[1..4] {
            one.inode = Some((1, 7));
        }
        let diff = diff(&walked, &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["/a", "a/g", "=h"]);
    }

    #[test]
    fn a_directory_in_place_of_a_file_is_new() {
        let diff = diff(&upper(vec![dir("b", 1), file("b/n", 1, 1)]), &base(), &BTreeMap::new());
        assert_eq!(shown(&diff), ["/b", "b/n"]);
        assert_eq!(diff.fixes, []);
    }
}
