//! The difference of an upper directory, put on top of what is below, is what the overlay showed.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use shale::tree::diff::{Fix, Upper, diff};
use shale::tree::entry::{Entry, Kind, Mtime, cmp_paths, parent};
use shale::tree::index::{Index, IndexBuilder};
use shale::tree::view::View;

fn one(kind: u32, path: &str, variant: u32) -> Entry {
    let secs = i64::from(variant % 2);
    let entry = |kind, mode| Entry::new(path, kind, mode, 0, 0, Mtime { secs, nanos: 0 });
    match kind {
        0..=3 => Entry { opaque: kind == 0, ..entry(Kind::Dir, 0o700 + variant) },
        4 => Entry::whiteout(path),
        5 => entry(Kind::Symlink { target: vec![b'a' + variant as u8] }, 0o777),
        _ => entry(Kind::File { size: 1, digest: [variant as u8; 32], hardlink: None }, 0o644),
    }
}

/// Entries whose parents are there and are directories.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "a.b"]), 1..4).prop_map(|v| v.join("/"));
    prop::collection::vec((0..9_u32, path, 0..3_u32), 0..10).prop_map(|all| {
        let mut chosen: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for (kind, path, variant) in all {
            chosen.insert(path.clone().into_bytes(), one(kind, &path, variant));
            let mut up = parent(path.as_bytes());
            while !up.is_empty() {
                if !chosen.get(up).is_some_and(Entry::is_dir) {
                    chosen.insert(up.to_vec(), one(1, std::str::from_utf8(up).expect("ASCII"), 0));
                }
                up = parent(up);
            }
        }
        let mut builder = IndexBuilder::new();
        for entry in chosen.into_values() {
            builder.push(entry);
        }
        builder.build().iter().collect()
    })
}

fn index(entries: impl IntoIterator<Item = Entry>) -> Arc<Index> {
    let mut builder = IndexBuilder::new();
    entries.into_iter().for_each(|entry| builder.push(entry));
    Arc::new(builder.build())
}

fn upper(entries: &[Entry]) -> Vec<Upper> {
    let make = |entry: &Entry| Upper {
        entry: entry.clone(),
        inode: None,
        is_socket: false,
        internal_xattrs: if entry.opaque { vec![b"user.overlay.opaque".to_vec()] } else { Vec::new() },
    };
    entries.iter().map(make).collect()
}

/// What shows, without the times of directories: one whose time alone changed is left out.
fn shown(view: &View) -> Vec<Entry> {
    let plain = |mut entry: Entry| {
        if entry.is_dir() {
            entry.mtime = Mtime::default();
        }
        entry.opaque = false;
        entry
    };
    view.walk(b"").into_iter().map(|found| plain(found.entry)).collect()
}

/// Carries the fixes out on the upper's entries.
fn fixed(entries: &[Entry], fixes: &[Fix]) -> Vec<Entry> {
    let mut disk: BTreeMap<Vec<u8>, Entry> = entries.iter().map(|e| (e.path.clone(), e.clone())).collect();
    for fix in fixes {
        match fix {
            Fix::Remove(path) => {
                let below = [path.as_slice(), b"/"].concat();
                assert!(!disk.keys().any(|other| other.starts_with(&below)), "only empty directories are removed");
                assert!(disk.remove(path).is_some(), "what is removed is there");
            }
            Fix::Whiteout(path) => {
                assert!(disk.insert(path.clone(), Entry::whiteout(path.clone())).is_none(), "a whiteout replaces nothing");
            }
            Fix::DropXattr(path, name) => {
                assert_eq!(name, b"user.overlay.opaque");
                disk.get_mut(path).expect("it is there").opaque = false;
            }
        }
    }
    let mut all: Vec<_> = disk.into_values().collect();
    all.sort_by(|a, b| cmp_paths(&a.path, &b.path));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn applied_it_shows_the_same(layers in prop::collection::vec(entries(), 0..4), top in entries()) {
        let base = View::new(layers.into_iter().map(index).collect());
        let made = diff(&upper(&top), &base, &BTreeMap::new());
        let overlay = base.with(index(top.clone()));
        let applied = base.with(Arc::new(Index::from_bytes(made.index.as_bytes().to_vec()).expect("well-formed")));
        prop_assert_eq!(shown(&applied), shown(&overlay));
        // The directory on disk becomes what the index says.
        prop_assert_eq!(fixed(&top, &made.fixes), made.index.iter().collect::<Vec<_>>());
        // Nothing in it is without need: compared again it stays, and what shows already makes nothing.
        let again: Vec<Entry> = made.index.iter().collect();
        let twice = diff(&upper(&again), &base, &BTreeMap::new());
        prop_assert_eq!(twice.index.iter().collect::<Vec<_>>(), again);
        prop_assert!(twice.fixes.is_empty());
        let unchanged: Vec<Entry> = base.walk(b"").into_iter().map(|found| Entry { opaque: false, ..found.entry }).collect();
        prop_assert!(diff(&upper(&unchanged), &base, &BTreeMap::new()).index.is_empty());
    }
}
