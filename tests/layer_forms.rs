//! The forms of a layer are functions of its index: packed, unpacked and back it stays what it was.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::fd::AsFd as _;

use proptest::prelude::*;
use shale::layer::LayerError;
use shale::layer::contents::{Contents, Directory};
use shale::layer::read::{index_of, read_layer};
use shale::layer::unpack::Unpacker;
use shale::layer::write::{Options, write_tar};
use shale::tree::NodeKind;
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::index::{Index, IndexBuilder};
use shale::tree::walk::{self, WalkError, walk};

const ALL: Options = Options { clamp_secs: None, user_xattrs: true };

/// Contents by path.
#[derive(Clone, Debug, Default)]
struct Memory(HashMap<Vec<u8>, Vec<u8>>);

impl Contents for Memory {
    fn open<'a>(&'a mut self, entry: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(self.0.get(&entry.path).map(Vec::as_slice).ok_or(io::ErrorKind::NotFound)?))
    }
}

#[derive(Clone, Debug)]
enum What {
    Dir { opaque: bool },
    File(Vec<u8>),
    Link(usize),
    Symlink(String),
    Fifo,
    Whiteout,
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => any::<bool>().prop_map(|opaque| What::Dir { opaque }),
        4 => prop_oneof![Just(0_usize), Just(511), Just(512), 1..40_usize, 1000..1100_usize]
            .prop_flat_map(|len| prop::collection::vec(any::<u8>(), len)).prop_map(What::File),
        2 => (0..8_usize).prop_map(What::Link),
        2 => prop_oneof!["[a-z/.]{1,20}", "[a-z]{101,120}", Just("ünï/→".to_owned())].prop_map(What::Symlink),
        1 => Just(What::Fifo),
        1 => Just(What::Whiteout),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[a-c]", 1 => Just("a.b".to_owned()), 1 => Just("é".to_owned()), 1 => Just("l".repeat(120)), 1 => Just(" x\n".to_owned())]
}

prop_compose! {
    fn one()(
        path in prop::collection::vec(name(), 1..4),
        what in what(),
        mode in 0..0o10000_u32,
        ids in prop_oneof![Just((0, 0)), Just((1000, 65_534)), Just((3_000_000, 0))],
        secs in prop_oneof![Just(0_i64), Just(-77), 1..2_000_000_000_i64],
        nanos in 0..1_000_000_000_u32,
        user in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        caps in any::<bool>(),
    ) -> (String, What, Entry) {
        let path = path.join("/");
        let mut entry = Entry::new(path.as_str(), Kind::Fifo, mode, ids.0, ids.1, Mtime { secs, nanos });
        if let (Some(value), What::Dir { .. } | What::File(_)) = (user, &what) {
            entry.xattrs.insert(b"user.note".to_vec(), value);
        }
        if let (true, What::File(_)) = (caps, &what) {
            let value = [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat();
            entry.xattrs.insert(b"security.capability".to_vec(), value);
        }
        (path, what, entry)
    }
}

/// A well-formed layer with its contents: parents are there, links point to files.
fn layer() -> impl Strategy<Value = (Index, Memory)> {
    prop::collection::vec(one(), 0..14).prop_map(|all| {
        let mut chosen: BTreeMap<String, (What, Entry)> = BTreeMap::new();
        for (path, what, entry) in all {
            let blocked = path.match_indices('/').any(|(i, _)| chosen.get(&path[..i]).is_some_and(|(w, _)| !matches!(w, What::Dir { .. })));
            let holds = chosen.keys().any(|other| other.starts_with(&format!("{path}/")));
            if blocked || (holds && !matches!(what, What::Dir { .. })) {
                continue;
            }
            for (i, _) in path.match_indices('/') {
                let dir = Entry::new(&path.as_bytes()[..i], Kind::Dir, 0o751, 1, 2, Mtime { secs: 3, nanos: 4 });
                chosen.entry(path[..i].to_owned()).or_insert((What::Dir { opaque: false }, dir));
            }
            chosen.insert(path, (what, entry));
        }
        build(&chosen)
    })
}

fn build(chosen: &BTreeMap<String, (What, Entry)>) -> (Index, Memory) {
    let files: Vec<(&String, &Vec<u8>)> =
        chosen.iter().filter_map(|(path, (what, _))| if let What::File(bytes) = what { Some((path, bytes)) } else { None }).collect();
    let (mut builder, mut memory) = (IndexBuilder::new(), Memory::default());
    for (path, (what, entry)) in chosen {
        let mut entry = entry.clone();
        let file = |bytes: &[u8], hardlink| Kind::File { size: bytes.len() as u64, digest: *blake3::hash(bytes).as_bytes(), hardlink };
        entry.kind = match what {
            What::Dir { opaque } => {
                entry.opaque = *opaque;
                Kind::Dir
            }
            What::File(bytes) => {
                memory.0.insert(path.clone().into_bytes(), bytes.clone());
                file(bytes, None)
            }
            What::Link(_) if files.is_empty() => Kind::Fifo,
            What::Link(n) => {
                let (first, bytes) = files[n % files.len()];
                memory.0.insert(path.clone().into_bytes(), bytes.clone());
                entry = Entry { path: entry.path, ..chosen[first].1.clone() };
                file(bytes, Some(first.clone().into_bytes()))
            }
            What::Symlink(target) => {
                entry.mode = 0o777;
                Kind::Symlink { target: target.clone().into_bytes() }
            }
            What::Fifo => Kind::Fifo,
            What::Whiteout => Kind::Whiteout,
        };
        builder.push(entry);
    }
    (builder.build(), memory)
}

fn whole_seconds(index: &Index) -> Index {
    let mut builder = IndexBuilder::new();
    for mut entry in index.iter() {
        entry.mtime.nanos = 0;
        builder.push(entry);
    }
    builder.build()
}

fn pack(index: &Index, contents: &mut dyn Contents, options: Options) -> Vec<u8> {
    let mut tar = Vec::new();
    write_tar(index, contents, options, &mut tar).expect("memory");
    tar
}

/// The index of a directory on disk, by nothing but the walker.
fn index_of_directory(root: &std::path::Path) -> Index {
    let (mut builder, mut inodes) = (IndexBuilder::new(), HashMap::new());
    let root = walk::open_dir(root).expect("a directory");
    walk::<WalkError>(root.as_fd(), walk::Options { xattrs: true }, &mut |_, _| false, &mut |walked| {
        let node = walked.node();
        let mut entry = Entry::new(node.path.clone(), Kind::Fifo, node.mode, node.uid, node.gid, node.mtime);
        entry.xattrs = node.xattrs;
        entry.opaque = walked.opaque;
        entry.kind = match node.kind {
            _ if walked.whiteout => Kind::Whiteout,
            NodeKind::Dir => Kind::Dir,
            NodeKind::File { size, inode } => {
                let mut bytes = Vec::new();
                walked.open()?.read_to_end(&mut bytes).map_err(WalkError::at("read", &walked.path))?;
                let hardlink = inode.and_then(|inode| inodes.get(&inode).cloned());
                if let Some(inode) = inode {
                    inodes.entry(inode).or_insert(node.path);
                }
                Kind::File { size, digest: *blake3::hash(&bytes).as_bytes(), hardlink }
            }
            NodeKind::Symlink { target } => Kind::Symlink { target },
            NodeKind::Fifo | NodeKind::Socket => Kind::Fifo,
            NodeKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            NodeKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
        };
        builder.push(entry);
        Ok(())
    })
    .expect("walks");
    builder.build()
}

fn unpack(tar: &[u8]) -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut unpacker = Unpacker::new(walk::open_dir(dir.path()).expect("a directory"));
    let (index, _) = read_layer(tar, &mut unpacker).expect("reads");
    (dir, index)
}

/// Owners, whiteouts and capabilities need root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_index_of_a_packed_layer_is_the_index((index, mut memory) in layer()) {
        let tar = pack(&index, &mut memory, ALL);
        prop_assert_eq!(tar.len() % 512, 0);
        let read = index_of(tar.as_slice()).expect("reads");
        prop_assert_eq!(read.iter().collect::<Vec<_>>(), whole_seconds(&index).iter().collect::<Vec<_>>());
        prop_assert_eq!(read.layer_id(), whole_seconds(&index).layer_id());
    }

    #[test]
    fn unpacked_by_root_it_is_the_same_and_packs_to_the_same_bytes((index, mut memory) in layer()) {
        if !is_root() {
            return Ok(());
        }
        let tar = pack(&index, &mut memory, ALL);
        let (dir, read) = unpack(&tar);
        let walked = index_of_directory(dir.path());
        prop_assert_eq!(walked.iter().collect::<Vec<_>>(), read.iter().collect::<Vec<_>>());
        let mut directory = Directory::new(walk::open_dir(dir.path()).expect("a directory"));
        prop_assert!(pack(&walked, &mut directory, ALL) == tar);
    }

    /// What GNU tar and Go write with `GNU.sparse.*`: a list that fits gives the file with its zeros, any other is an error.
    #[test]
    fn a_file_with_holes_is_what_its_list_says(
        steps in prop::collection::vec((0..700_u64, 0..700_u64), 0..12),
        behind in 0..700_u64,
        wrong in prop::option::weighted(0.3, (any::<prop::sample::Index>(), 1..u64::MAX)),
        is_first_form in any::<bool>(),
    ) {
        let (mut numbers, mut whole, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        for (hole, data) in steps {
            whole.resize(whole.len() + hole as usize, 0);
            numbers.extend([whole.len() as u64, data]);
            let bytes: Vec<u8> = (0..data).map(|i| (i % 251) as u8 + 1).collect();
            whole.extend(&bytes);
            stored.extend(bytes);
        }
        whole.resize(whole.len() + behind as usize, 0);
        let is_wrong = wrong.filter(|_| !numbers.is_empty()).map(|(at, by)| {
            let at = at.index(numbers.len());
            numbers[at] = numbers[at].wrapping_add(by);
        }).is_some();
        let shown: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        let size = whole.len().to_string();
        let mut content = Vec::new();
        let mut records = vec![("GNU.sparse.name", "f".as_bytes())];
        let map = shown.join(",");
        if is_first_form {
            records.extend([("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())]);
        } else {
            records.extend([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", size.as_bytes())]);
            let lines = std::iter::once((numbers.len() / 2).to_string()).chain(shown);
            content.extend(lines.flat_map(|number| (number + "\n").into_bytes()));
            content.resize(content.len().next_multiple_of(512), 0);
        }
        content.extend(&stored);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_pax_extensions(records).expect("memory");
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        tar.append_data(&mut header, "GNUSparseFile.0/f", content.as_slice()).expect("memory");
        header.set_size(2);
        tar.append_data(&mut header, "g", &b"g\n"[..]).expect("memory");
        let read = index_of(tar.into_inner().expect("memory").as_slice());
        if !is_wrong {
            let index = read.expect("a right list");
            let file = |content: &[u8]| Kind::File { size: content.len() as u64, digest: *blake3::hash(content).as_bytes(), hardlink: None };
            let found: Vec<_> = index.iter().map(|entry| (entry.path, entry.kind)).collect();
            prop_assert_eq!(found, [(b"f".to_vec(), file(&whole)), (b"g".to_vec(), file(b"g\n"))]);
        } else if let Ok(index) = read {
            // Pieces that moved into a hole are as good as any.
            prop_assert_eq!(index.len(), 2);
        }
    }

    #[test]
    fn damaged_tars_never_panic((index, mut memory) in layer(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut tar = pack(&index, &mut memory, ALL);
        for (at, byte) in flips {
            let at = at.index(tar.len());
            tar[at] = byte;
            // Headers stay plausible: with a right checksum the damage gets further.
            let block = at / 512 * 512;
            let sum: u32 = tar[block..block + 512].iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
            if tar[block + 257..block + 262] == *b"ustar" {
                tar[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok(index) = index_of(tar.as_slice()) {
            Index::from_bytes(index.as_bytes().to_vec()).expect("what was read is well-formed");
        }
    }
}

/// A tar of `(type, path, link or content)` members.
fn tar_of(members: &[(char, &str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, path, text) in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let content = if *kind == '0' || *kind == 'x' { text.as_bytes() } else { &[] };
        if content.is_empty() {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.as_mut_bytes()[156] = *kind as u8;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(7);
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn shown(index: &Index) -> Vec<String> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    index
        .iter()
        .map(|e| {
            let path = text(&e.path);
            match e.kind {
                Kind::Dir if e.opaque => format!("{path}/ opaque"),
                Kind::Dir => format!("{path}/"),
                Kind::File { hardlink: Some(first), .. } => format!("{path} = {}", text(&first)),
                Kind::File { size, .. } => format!("{path} {size}"),
                Kind::Symlink { target } => format!("{path} -> {}", text(&target)),
                Kind::Whiteout => format!("-{path}"),
                other => format!("{path} {other:?}"),
            }
        })
        .collect()
}

#[test]
fn foreign_tars_are_put_right() {
    let cases: &[(&[(char, &str, &str)], &[&str])] = &[
        (&[('0', "./../../etc/x", "abc"), ('5', "/abs/", "")], &["abs/", "etc/", "etc/x 3"]),
        (&[('0', "a/.wh.b", ""), ('0', "c/.wh..wh..opq", ""), ('0', "d/.wh..wh.plnk", "")], &["a/", "-a/b", "c/ opaque", "d/"]),
        // A whiteout is about what is below, wherever it stands.
        (&[('0', ".wh.a", ""), ('5', "a/", ""), ('0', "a/n", "1")], &["a/ opaque", "a/n 1"]),
        (&[('5', "a/", ""), ('0', "a/n", "1"), ('0', ".wh.a", "")], &["a/ opaque", "a/n 1"]),
        (&[('0', ".wh.a", ""), ('0', "a/n", "1")], &["a/ opaque", "a/n 1"]),
        (&[('0', ".wh.a", ""), ('0', "a", "1")], &["a 1"]),
        (&[('0', "a", "1"), ('0', ".wh.a", "")], &["a 1"]),
        // A name that is made anew leaves its inode.
        (&[('0', "a", "1"), ('1', "b", "a"), ('1', "c", "/b"), ('0', "a", "22")], &["a 2", "b 1", "c = b"]),
        (&[('0', "b", "1"), ('1', "a", "b")], &["a 1", "b = a"]),
        (&[('0', "a", "1"), ('1', "a", "a")], &["a 1"]),
        (&[('0', "a", "1"), ('2', "a", "elsewhere")], &["a -> elsewhere"]),
        (&[('2', "l", "../../outside")], &["l -> ../../outside"]),
        (&[('x', "p", "16 path=long/er\n"), ('0', "short", "1")], &["long/", "long/er 1"]),
        (&[('g', "p", ""), ('0', "a", "1")], &["a 1"]),
        // Nothing instead of a value is that of the header.
        (&[('x', "p", "8 path=\n"), ('0', "a", "1")], &["a 1"]),
        (&[('x', "p", "9 mtime=\n"), ('0', "a", "1")], &["a 1"]),
        // A slash alone makes a directory of what has the oldest type.
        (&[('\0', "d/", ""), ('0', "f/", "1")], &["d/", "f 1"]),
        // What takes the place of a directory takes what was in it.
        (&[('5', "d/", ""), ('0', "d/x", "1"), ('0', "d", "22")], &["d 2"]),
        (&[('5', "d/e/", ""), ('0', "d/e/x", "1"), ('2', "d", "to")], &["d -> to"]),
        (&[('0', "a", "1"), ('0', "d/x", "1"), ('1', "d", "a")], &["a 1", "d = a"]),
        (&[('0', "d/x", "1"), ('1', "y", "d/x"), ('0', "d", "22")], &["d 2", "y 1"]),
        (&[], &[]),
    ];
    for (members, expected) in cases {
        let tar = tar_of(members);
        assert_eq!(shown(&index_of(tar.as_slice()).expect("reads")), *expected, "{members:?}");
        if is_root() {
            let (dir, index) = unpack(&tar);
            assert_eq!(index_of_directory(dir.path()).iter().collect::<Vec<_>>(), index.iter().collect::<Vec<_>>(), "{members:?}");
        }
    }
}

#[test]
fn what_no_layer_may_say_is_refused() {
    let cases: &[(&[(char, &str, &str)], &str)] = &[
        (&[('1', "b", "nothing")], "hardlink"),
        (&[('0', ".wh.", "")], "whiteout"),
        (&[('0', ".wh...", "")], "whiteout"),
        (&[('2', "l", "/etc"), ('0', "l/x", "1")], "no directory"),
        (&[('0', ".wh..wh..opq", "")], "hides all layers below"),
        (&[('S', "sparse", "")], "sparse"),
        (&[('x', "p", "22 GNU.sparse.major=1\n"), ('0', "a", "1")], "sparse"),
        (&[('x', "p", "99 path=x\n"), ('0', "a", "1")], "lengths"),
        (&[('x', "p", "12 path=a\0b\n"), ('0', "a", "1")], "NUL"),
        (&[('x', "p", "12 mtime=no\n"), ('0', "a", "1")], "time"),
        (&[('K', "what", "")], ""),
        (&[('Q', "what", "")], "type"),
    ];
    for (members, word) in cases {
        match index_of(tar_of(members).as_slice()) {
            Err(LayerError::Invalid { what, .. }) => assert!(what.contains(word), "{members:?}: {what}"),
            Ok(_) if word.is_empty() => {}
            other => panic!("{members:?}: {other:?}"),
        }
    }
    let tar = tar_of(&[('0', "a", "content")]);
    index_of(&tar[..100]).expect_err("a cut header");
    index_of(&tar[..515]).expect_err("cut content");
    index_of(&tar[..519]).expect("padding may lack at the end");
    let mut wrong = tar;
    wrong[0] = b'b';
    index_of(wrong.as_slice()).expect_err("a wrong checksum");
}

#[test]
fn attributes_of_the_storage_are_dropped() {
    let record = |key: &str, value: &str| {
        let rest = key.len() + value.len() + 3;
        let len = (rest + 1..rest + 9).find(|len| len.to_string().len() + rest == *len).expect("a length");
        format!("{len} {key}={value}\n")
    };
    let records: String = [
        "user.overlay.opaque",
        "user.overlay.redirect",
        "user.rootlesscontainers",
        "trusted.overlay.opaque",
        "security.selinux",
        "user.kept",
    ]
    .map(|name| record(&format!("SCHILY.xattr.{name}"), "a\nb"))
    .concat();
    let index = index_of(tar_of(&[('x', "p", &records), ('0', "a", "1")]).as_slice()).expect("reads");
    assert_eq!(index.entry(0).xattrs, BTreeMap::from([(b"user.kept".to_vec(), b"a\nb".to_vec())]));
}

#[test]
fn a_file_that_changed_is_noticed() {
    let kind = |bytes: &[u8]| Kind::File { size: bytes.len() as u64, digest: *blake3::hash(bytes).as_bytes(), hardlink: None };
    let mut builder = IndexBuilder::new();
    builder.push(Entry::new("a", kind(b"before"), 0o644, 0, 0, Mtime::default()));
    let index = builder.build();
    for (content, same) in [("before", true), ("behind", false), ("befor", false), ("before!", false)] {
        let mut memory = Memory(HashMap::from([(b"a".to_vec(), content.as_bytes().to_vec())]));
        match write_tar(&index, &mut memory, Options::default(), &mut io::sink()) {
            Ok(()) => assert!(same, "{content}"),
            Err(LayerError::Changed { path }) => assert!(!same && path.as_os_str() == "a", "{content}"),
            Err(other) => panic!("{content}: {other}"),
        }
    }
}

#[test]
fn times_are_clamped_and_attributes_left_out_when_asked() {
    let mut builder = IndexBuilder::new();
    for (path, secs) in [("old", 5), ("new", 500)] {
        let mut entry = Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime { secs, nanos: 9 });
        entry.xattrs.insert(b"user.note".to_vec(), b"x".to_vec());
        builder.push(entry);
    }
    let index = builder.build();
    let tar = pack(&index, &mut Memory::default(), Options { clamp_secs: Some(100), user_xattrs: false });
    let read: Vec<_> = index_of(tar.as_slice()).expect("reads").iter().map(|e| (e.mtime.secs, e.xattrs.len())).collect();
    assert_eq!(read, [(100, 0), (5, 0)]);
}
