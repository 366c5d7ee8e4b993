use super::*;

fn file(path: &str, hardlink: Option<&str>) -> Entry {
    let kind = Kind::File { size: 3, digest: *blake3::hash(b"abc").as_bytes(), hardlink: hardlink.map(Into::into) };
    Entry::new(path, kind, 0o644, 1, 2, Mtime { secs: 7, nanos: 8 })
}

fn dir(path: &str) -> Entry {
    Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime { secs: -1, nanos: 9 })
}

fn build(entries: &[Entry]) -> Index {
    let mut builder = IndexBuilder::new();
    for entry in entries {
        builder.push(entry.clone());
    }
    builder.inline(b"etc/passwd", b"abc");
    builder.build()
}

fn sample() -> Vec<Entry> {
    let mut caps = file("etc/passwd", None);
    caps.xattrs.insert(b"security.capability".to_vec(), vec![0, 1, b'\n']);
    vec![
        dir("etc"),
        caps,
        dir("a"),
        file("a/b", Some("a.b")),
        file("a.b", None),
        Entry::new("l", Kind::Symlink { target: b"../x".to_vec() }, 0o777, 0, 0, Mtime::default()),
        Entry::new("n", Kind::CharDevice { major: 1, minor: 3 }, 0o666, 0, 0, Mtime::default()),
        Entry::whiteout("gone"),
    ]
}

#[test]
fn is_canonical_and_round_trips() {
    let mut entries = sample();
    let one = build(&entries);
    entries.reverse();
    let two = build(&entries);
    assert_eq!(one.as_bytes(), two.as_bytes());
    let read = Index::from_bytes(one.as_bytes().to_vec()).expect("valid");
    assert_eq!(read, one);
    let paths: Vec<_> = read.iter().map(|e| String::from_utf8(e.path).expect("utf8")).collect();
    assert_eq!(paths, ["a", "a/b", "a.b", "etc", "etc/passwd", "gone", "l", "n"]);
    assert_eq!(read.inline(b"etc/passwd"), Some(&b"abc"[..]));
    assert_eq!(read.inline(b"etc/group"), None);
    assert_eq!(read.subtree(b"a"), 1..2);
    assert_eq!(read.subtree(b"zzz"), 8..8);
    assert_eq!(read.subtree(b""), 0..8);
    assert_eq!(read.find(b"etc/passwd"), Some(4));
    assert_eq!(read.find(b"etc/nothing"), None);
    let again = build(&read.iter().collect::<Vec<_>>());
    assert_eq!(again, one);
}

#[test]
fn settles_hard_links_on_the_first_path() {
    let index = build(&[file("z", None), file("m", Some("z")), file("k", Some("m")), file("single", Some("missing"))]);
    let links: Vec<_> = index
        .iter()
        .map(|e| match e.kind {
            Kind::File { hardlink, .. } => hardlink.map(|l| String::from_utf8(l).expect("utf8")),
            _ => None,
        })
        .collect();
    assert_eq!(links, [None, Some("k".into()), None, Some("k".into())]);
    assert_eq!(index.link_group(1), Some(0));
    assert_eq!(index.link_group(0), Some(0));
    assert_eq!(index.link_group(2), None);
    assert_eq!(index.link_names(), [(0, 0), (1, 0), (3, 0)]);
}

#[test]
fn ids_see_what_they_should() {
    let at = |secs| {
        let mut entry = file("x", None);
        entry.mtime.secs = secs;
        build(&[entry])
    };
    let t = |secs| Mtime { secs, nanos: 8 };
    let window = Some((t(5), t(10)));
    assert_ne!(at(5).layer_id(), at(6).layer_id());
    assert_eq!(at(5).content_id(window), at(10).content_id(window));
    assert_ne!(at(5).content_id(window), at(11).content_id(window));
    assert_ne!(at(5).content_id(None), at(6).content_id(None));
    assert_eq!(at(5).content_id_without_mtimes(), at(99).content_id_without_mtimes());
    assert_ne!(at(5).content_id_without_mtimes(), build(&[file("y", None)]).content_id_without_mtimes());
}

#[test]
fn later_duplicates_win_and_impossible_children_go() {
    let index = build(&[dir("a"), file("a/b", None), file("a", None)]);
    assert_eq!(index.iter().collect::<Vec<_>>(), [file("a", None)]);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let good = build(&sample()).as_bytes().to_vec();
    for len in 0..good.len() {
        Index::from_bytes(good[..len].to_vec()).expect_err("truncated");
    }
    for at in 0..good.len() {
        for bit in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            let Ok(index) = Index::from_bytes(bad) else { continue };
            for (i, entry) in index.iter().enumerate() {
                assert_eq!(index.find(&entry.path), Some(i));
                assert_eq!(index.link_group(i).is_some(), index.link_group(i).is_some());
            }
            assert!(index.inline(b"etc/passwd").is_none_or(|b| b.len() == 3));
        }
    }
}

#[test]
fn indexes_behind_each_other_are_read_from_one_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("indexes");
    let indexes = [build(&sample()), build(&[file("x", None)]), Index::empty()];
    std::fs::write(&path, indexes.iter().flat_map(|index| index.as_bytes().to_vec()).collect::<Vec<u8>>()).expect("written");
    let bundle = Bundle::of(&File::open(&path).expect("opened")).expect("mapped");
    let mut offset = 0;
    for index in &indexes {
        let len = index.as_bytes().len() as u64;
        let found = bundle.index(offset, len).expect("there");
        assert_eq!((found.len(), &found), (index.len(), index));
        offset += len;
    }
    for (at, len) in [(0, offset + 1), (1, offset - 1), (u64::MAX, 2), (3, 1)] {
        assert!(bundle.index(at, len).is_err(), "{len} bytes at {at}");
    }
}
