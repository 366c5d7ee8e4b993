//! A view's answers against a model that applies the layers one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use shale::tree::Tree;
use shale::tree::entry::{Entry, Kind, Mtime, cmp_paths, parent};
use shale::tree::index::{Index, IndexBuilder};
use shale::tree::view::{ResolveError, View};

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    Entry::new(path, kind, mode, 0, 0, Mtime { secs: 1, nanos: 0 })
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, Kind::File { size, digest: [size as u8; 32], hardlink: None }, 0o644)
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, Kind::Symlink { target: target.into() }, 0o777)
}

fn index(entries: &[Entry]) -> Arc<Index> {
    let mut builder = IndexBuilder::new();
    for e in entries {
        builder.push(e.clone());
    }
    Arc::new(builder.build())
}

/// What the layers make together, applied bottom up to a map.
fn model(layers: &[Arc<Index>]) -> BTreeMap<Vec<u8>, Entry> {
    let mut all: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let below = |p: &[u8], d: &[u8]| p.len() > d.len() && p.starts_with(d) && p[d.len()] == b'/';
    for layer in layers {
        for e in layer.iter() {
            if matches!(e.kind, Kind::Whiteout) || !e.is_dir() || e.opaque {
                all.retain(|p, _| !below(p, &e.path));
            }
            let mut up = parent(&e.path);
            while !up.is_empty() {
                if !all.get(up).is_some_and(Entry::is_dir) && e.kind != Kind::Whiteout {
                    all.insert(up.to_vec(), Entry::new(up, Kind::Dir, 0o755, 0, 0, Mtime::default()));
                }
                up = parent(up);
            }
            if matches!(e.kind, Kind::Whiteout) {
                all.remove(&e.path);
            } else {
                all.insert(e.path.clone(), e);
            }
        }
    }
    all
}

fn arbitrary_layer() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "a.b", "c"]), 1..4).prop_map(|v| v.join("/"));
    let one = (path, 0..6u32, 1..5u64).prop_map(|(path, kind, size)| match kind {
        0 | 1 => entry(&path, Kind::Dir, 0o700 + size as u32),
        2 => Entry { opaque: true, ..entry(&path, Kind::Dir, 0o711) },
        3 => Entry::whiteout(path),
        4 => link(&path, "x"),
        _ => file(&path, size),
    });
    prop::collection::vec(one, 0..8)
}

/// Adds the whiteouts' and implied directories' effects that a model cannot order: implied parents are made explicit.
fn with_parents(mut entries: Vec<Entry>, keep_implied: bool) -> Vec<Entry> {
    if keep_implied {
        return entries.into_iter().filter(|e| e.kind != Kind::Whiteout || parent(&e.path).is_empty()).collect();
    }
    let mut more = Vec::new();
    for e in &entries {
        let mut up = parent(&e.path);
        while !up.is_empty() {
            more.push(entry(std::str::from_utf8(up).expect("utf8"), Kind::Dir, 0o755));
            up = parent(up);
        }
    }
    more.append(&mut entries);
    more
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_the_model(layers in prop::collection::vec(arbitrary_layer(), 1..6), implied in any::<bool>()) {
        let layers: Vec<_> = layers.into_iter().map(|l| index(&with_parents(l, implied))).collect();
        let view = View::new(layers.clone());
        let model = model(&layers);
        let mut expected: Vec<_> = model.values().cloned().collect();
        expected.sort_by(|a, b| cmp_paths(&a.path, &b.path));
        let walked: Vec<_> = view.walk(b"").into_iter().map(|f| f.entry).collect();
        prop_assert_eq!(&walked, &expected);
        for found in view.walk(b"") {
            prop_assert_eq!(view.get(&found.entry.path), Some((found.layer, found.entry.clone())));
            let children: Vec<_> = view.children(&found.entry.path).into_iter().map(|f| f.entry).collect();
            let direct: Vec<_> = expected.iter().filter(|e| parent(&e.path) == found.entry.path).cloned().collect();
            prop_assert_eq!(children, direct);
        }
        for layer in &layers {
            for e in layer.iter() {
                prop_assert_eq!(view.get(&e.path).map(|(_, e)| e), model.get(&e.path).cloned());
            }
        }
    }
}

#[test]
fn resolves_links_inside_the_root() {
    let view = View::new(vec![index(&[
        entry("usr", Kind::Dir, 0o755),
        entry("usr/bin", Kind::Dir, 0o755),
        file("usr/bin/sh", 1),
        link("bin", "usr/bin"),
        link("abs", "/usr/bin/sh"),
        link("out", "../../../usr"),
        link("usr/up", ".."),
        link("x", "y"),
        link("y", "x"),
    ])]);
    let cases = [
        ("bin/sh", true, "usr/bin/sh"),
        ("bin", false, "bin"),
        ("bin/", true, "usr/bin"),
        ("abs", true, "usr/bin/sh"),
        ("out/bin/sh", true, "usr/bin/sh"),
        ("../../bin/../lib", true, "usr/lib"),
        ("usr/up/usr/up/bin/sh", true, "usr/bin/sh"),
        ("/nothing/./here//at", true, "nothing/here/at"),
        ("", true, ""),
        ("x", false, "x"),
    ];
    for (path, follow, expected) in cases {
        let got = view.resolve(path.as_bytes(), follow).map(|p| String::from_utf8(p).expect("utf8"));
        assert_eq!(got, Ok(expected.to_owned()), "{path}");
    }
    assert_eq!(view.resolve(b"x/z", true), Err(ResolveError::Loop { path: b"x/z".to_vec() }));
}

#[test]
fn groups_hard_links_and_shows_inline_files() {
    let passwd = b"root:x:0:0::/root:/bin/sh\n";
    let kind = |hardlink| Kind::File { size: passwd.len() as u64, digest: *blake3::hash(passwd).as_bytes(), hardlink };
    let mut builder = IndexBuilder::new();
    builder.push(entry("etc", Kind::Dir, 0o755));
    builder.push(entry("etc/passwd", kind(None), 0o644));
    builder.push(entry("etc/passwd-", kind(Some(b"etc/passwd".to_vec())), 0o644));
    builder.inline(b"etc/passwd", passwd);
    let base = Arc::new(builder.build());
    let view = View::new(vec![base.clone(), index(&[])]);
    assert_eq!(view.file(b"etc/passwd"), Some((b"etc/passwd".to_vec(), Some(&passwd[..]))));
    let nodes = Tree::children(&view, b"etc").expect("in memory");
    assert_eq!(nodes[0].kind, nodes[1].kind);
    assert_eq!(view.digests(&[b"etc/passwd-"]).expect("a file"), [*blake3::hash(passwd).as_bytes()]);
    assert!(view.digests(&[b"etc"]).is_err());
    let gone = view.with(index(&[Entry::whiteout("etc")]));
    assert_eq!(gone.file(b"etc/passwd"), None);
    assert_eq!(gone.get(b"etc/passwd"), None);
}
