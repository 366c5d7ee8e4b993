//! Several layers as one that shows the same: the kernel stacks only so many.
//!
//! The rules are those of [`super::view`]. What a layer removes stays removed from what lies below the merged layer, so whiteouts
//! are kept, and a directory that came to lie upon something else is opaque.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use super::entry::{Entry, Kind, Mtime, parent};
use super::index::{INLINE_PATHS, Index, IndexBuilder};

/// A merged layer.
#[derive(Debug)]
pub struct Merged {
    /// Its index.
    pub index: Index,
    /// The layer, by number, that a file's content lies in, under the file's own path.
    pub sources: HashMap<Vec<u8>, usize>,
}

/// What shows at a path so far.
struct Showing {
    /// The deciding layer and its entry; `None` for a directory that is only implied.
    own: Option<(usize, usize)>,
    is_dir: bool,
    /// Nothing of the layers below the merged one shows through.
    is_shut: bool,
}

/// Merges layers, the bottom one first.
pub fn merge(layers: &[Arc<Index>]) -> Merged {
    // In byte order everything below a path stands together.
    let mut showing: BTreeMap<Vec<u8>, Showing> = BTreeMap::new();
    for (number, index) in layers.iter().enumerate() {
        for i in 0..index.len() {
            let path = index.path(i);
            open_way(&mut showing, path);
            let is_dir = index.is_dir(i);
            let is_upon_dir = showing.get(path).map(|before| before.is_dir);
            if !is_dir || index.is_opaque(i) {
                remove_below(&mut showing, path);
            }
            let was_shut = showing.get(path).is_some_and(|before| before.is_shut);
            let is_shut = is_dir && (index.is_opaque(i) || is_upon_dir == Some(false) || was_shut);
            showing.insert(path.to_vec(), Showing { own: Some((number, i)), is_dir, is_shut });
        }
    }
    encode(layers, &showing)
}

/// Makes directories of what is none and lies above a path that a layer has, although the layer does not mention it.
fn open_way(showing: &mut BTreeMap<Vec<u8>, Showing>, path: &[u8]) {
    let mut above = parent(path);
    while !above.is_empty() {
        match showing.get_mut(above) {
            Some(found) if found.is_dir => return,
            Some(found) => {
                *found = Showing { own: None, is_dir: true, is_shut: true };
                return;
            }
            None => above = parent(above),
        }
    }
}

fn remove_below(showing: &mut BTreeMap<Vec<u8>, Showing>, path: &[u8]) {
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    let below: Vec<Vec<u8>> = showing.range(from..to).map(|(path, _)| path.clone()).collect();
    for path in below {
        showing.remove(&path);
    }
}

fn encode(layers: &[Arc<Index>], showing: &BTreeMap<Vec<u8>, Showing>) -> Merged {
    let mut builder = IndexBuilder::new();
    let mut sources = HashMap::new();
    // Names of one inode: the first that still shows holds the content.
    let mut holders: HashMap<(usize, usize), &[u8]> = HashMap::new();
    for (path, shown) in showing {
        let Some((number, i)) = shown.own else {
            builder.push(Entry { opaque: shown.is_shut, ..Entry::new(path.clone(), Kind::Dir, 0o755, 0, 0, Mtime::default()) });
            continue;
        };
        let index = &layers[number];
        let mut entry = index.entry(i);
        entry.opaque = shown.is_shut;
        if let Kind::File { hardlink, .. } = &mut entry.kind {
            let holder = index.link_group(i).map_or(path.as_slice(), |group| holders.entry((number, group)).or_insert(path));
            *hardlink = (holder != path.as_slice()).then(|| holder.to_vec());
            sources.insert(path.clone(), number);
        }
        builder.push(entry);
    }
    for path in INLINE_PATHS {
        let own = showing.get(path).and_then(|shown| shown.own);
        if let Some(content) = own.and_then(|(number, _)| layers[number].inline(path)) {
            builder.inline(path, content);
        }
    }
    Merged { index: builder.build(), sources }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::view::View;

    fn file(path: &str, content: &str) -> Entry {
        let kind = Kind::File { size: content.len() as u64, digest: *blake3::hash(content.as_bytes()).as_bytes(), hardlink: None };
        Entry::new(path, kind, 0o644, 0, 0, Mtime { secs: 7, nanos: 0 })
    }

    fn dir(path: &str, opaque: bool) -> Entry {
        Entry { opaque, ..Entry::new(path, Kind::Dir, 0o700, 1, 1, Mtime { secs: 8, nanos: 0 }) }
    }

    fn link(path: &str, to: &str, content: &str) -> Entry {
        let Entry { kind: Kind::File { size, digest, .. }, .. } = file(path, content) else { unreachable!() };
        Entry { kind: Kind::File { size, digest, hardlink: Some(to.into()) }, ..file(path, content) }
    }

    fn layer(entries: Vec<Entry>) -> Arc<Index> {
        let mut builder = IndexBuilder::new();
        for entry in entries {
            builder.push(entry);
        }
        Arc::new(builder.build())
    }

    /// What shows, without what names its layers.
    fn shown(layers: &[Arc<Index>]) -> Vec<Entry> {
        let view = View::new(layers.to_vec());
        let entries = view.walk(b"").into_iter().map(|found| {
            let mut entry = Entry { opaque: false, ..found.entry };
            if let Kind::File { hardlink, .. } = &mut entry.kind {
                *hardlink = None;
            }
            entry
        });
        entries.collect()
    }

    /// Every way to cut a stack must show what the stack shows.
    fn check(layers: &[Arc<Index>]) {
        let want = shown(layers);
        for from in 0..layers.len() {
            for to in from + 1..=layers.len() {
                let merged = Arc::new(merge(&layers[from..to]).index);
                let stack = [&layers[..from], &[Arc::clone(&merged)], &layers[to..]].concat();
                assert_eq!(shown(&stack), want, "{from}..{to}");
                assert_eq!(*merged, merge(std::slice::from_ref(&merged)).index, "merged again it stays as it is");
            }
        }
    }

    #[test]
    fn a_merged_layer_shows_what_its_layers_showed() {
        check(&[
            layer(vec![dir("a", false), file("a/x", "1"), file("a/y", "1"), file("b", "1"), dir("c", false), file("c/deep/z", "1")]),
            layer(vec![Entry::whiteout("a/x"), file("b", "2"), dir("c", true), file("c/new", "2")]),
            layer(vec![dir("b", false), file("b/in", "3"), Entry::whiteout("a"), file("d/e/f", "3")]),
            layer(vec![file("a/again", "4"), Entry::whiteout("c"), file("d/e", "4")]),
            layer(vec![dir("c", false), dir("d/e", false), file("d/e/g", "5"), Entry::whiteout("nothing")]),
            layer(vec![file("a/x", "6"), dir("a", false), Entry::whiteout("b/in")]),
        ]);
    }

    #[test]
    fn names_of_an_inode_stay_together_where_they_still_show() {
        let layers = [
            layer(vec![file("a", "one"), link("b", "a", "one"), link("c", "a", "one")]),
            layer(vec![file("a", "other")]),
            layer(vec![Entry::whiteout("b"), file("d", "one")]),
        ];
        check(&layers);
        let two = merge(&layers[..2]);
        let at = |path: &str| two.index.entry(two.index.find(path.as_bytes()).expect("it shows")).kind;
        assert!(matches!(at("b"), Kind::File { hardlink: None, .. }));
        assert!(matches!(at("c"), Kind::File { hardlink: Some(first), .. } if first == b"b"));
        assert_eq!(two.sources[b"a".as_slice()], 1);
        assert_eq!(two.sources[b"b".as_slice()], 0);
        let all = merge(&layers).index;
        assert!(matches!(all.entry(all.find(b"c").expect("it shows")).kind, Kind::File { hardlink: None, .. }));
    }

    #[test]
    fn the_accounts_that_show_are_carried_on() {
        let with = |content: &str| {
            let mut builder = IndexBuilder::new();
            builder.push(file("etc/passwd", content));
            builder.inline(b"etc/passwd", content.as_bytes());
            Arc::new(builder.build())
        };
        let merged = merge(&[with("root"), with("root and more"), layer(vec![file("x", "")])]).index;
        assert_eq!(merged.inline(b"etc/passwd"), Some(b"root and more".as_slice()));
    }
}
