//! A local directory and an archive as what COPY selects from.

#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use shale::source::context::archive::is_archive;
use shale::source::context::{BuildContext, ContextError, DockerfileFrom, Missing, open};
use shale::tree::{NodeKind, Tree};
use tempfile::TempDir;

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn context(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "Dockerfile", "FROM scratch\n");
    for (path, text) in files {
        write(dir.path(), path, text);
    }
    dir
}

/// Every visible path, directories with a slash.
fn visible(tree: &dyn Tree, dir: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for node in tree.children(dir).unwrap() {
        let name = String::from_utf8_lossy(&node.path).into_owned();
        assert_eq!(tree.node(&node.path).unwrap().as_ref(), Some(&node), "node() and children() agree on {name}");
        if node.kind == NodeKind::Dir {
            all.push(format!("{name}/"));
            all.extend(visible(tree, &node.path));
        } else {
            all.push(name);
        }
    }
    all
}

#[test]
fn ignore_rules_decide_what_is_visible() {
    let dir = context(&[
        (".dockerignore", "*\n!src\nsrc/*.o\n!vendor/**/LICENSE\nvendor/b/LICENSE\n!gone/x\n"),
        ("src/a.c", ""),
        ("src/a.o", ""),
        ("src/sub/b.o", ""),
        ("vendor/a/LICENSE", ""),
        ("vendor/a/code", ""),
        ("vendor/b/LICENSE", ""),
        ("vendor/c/deep/er/x", ""),
        ("gone/y", ""),
        ("other", ""),
    ]);
    fs::set_permissions(dir.path().join("vendor"), fs::Permissions::from_mode(0o750)).unwrap();
    let opened = open(dir.path(), DockerfileFrom::Default, None).unwrap();
    let context = &opened.context;
    // An ignored directory shows for the sake of what it holds, and only then.
    assert_eq!(visible(context, b""), ["src/", "src/a.c", "src/sub/", "src/sub/b.o", "vendor/", "vendor/a/", "vendor/a/LICENSE"]);
    assert_eq!(context.node(b"vendor").unwrap().unwrap().mode, 0o750);
    for hidden in ["other", "gone", "gone/y", "vendor/b", "vendor/a/code", "Dockerfile", ".dockerignore", "src/a.o"] {
        assert!(context.node(hidden.as_bytes()).unwrap().is_none(), "{hidden}");
    }
}

#[test]
fn the_ignore_file_beside_the_dockerfile_comes_first() {
    let dir = context(&[(".dockerignore", "a"), ("a", ""), ("b", ""), ("docker/app.Dockerfile", "FROM scratch")]);
    let root = dir.path();
    let named = || DockerfileFrom::Path(root.join("docker/app.Dockerfile"));
    let sees = |from: DockerfileFrom, path: &str| open(root, from, None).unwrap().context.node(path.as_bytes()).unwrap().is_some();
    assert!(!sees(DockerfileFrom::Default, "a") && sees(DockerfileFrom::Default, "b"));
    assert!(!sees(named(), "a") && sees(named(), "b"));
    write(root, "docker/app.Dockerfile.dockerignore", "b");
    assert!(sees(named(), "a") && !sees(named(), "b"));
    write(root, "docker/app.Dockerfile.dockerignore", "");
    assert!(sees(named(), "a") && sees(named(), "b"), "an empty one counts too");
    write(root, "Dockerfile.dockerignore", "b");
    assert!(sees(DockerfileFrom::Default, "a") && !sees(DockerfileFrom::Default, "b"));
    assert!(!sees(DockerfileFrom::Text(b"FROM scratch".to_vec()), "a"));

    write(root, ".dockerignore", "x\n\n![\n");
    let error = open(root, named(), None).map(|_| ()).and(BuildContext::open_named(root, None).map(|_| ())).unwrap_err();
    assert_eq!(error.to_string(), ".dockerignore:3: syntax error in pattern \"![\"");
}

#[test]
fn nodes_say_what_is_there() {
    let dir = context(&[("f", "hello"), ("sub/x", "")]);
    let root = dir.path();
    fs::set_permissions(root.join("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(root.join("f"), root.join("g")).unwrap();
    symlink("../../etc/passwd", root.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(root.join("sock")).unwrap();
    let context = open(root, DockerfileFrom::Default, None).unwrap().context;

    let f = context.node(b"f").unwrap().unwrap();
    let g = context.node(b"g").unwrap().unwrap();
    assert_eq!((f.mode, f.uid, f.gid), (0o4751, 0, 0));
    assert!(matches!(f.kind, NodeKind::File { size: 5, inode: Some(_) }) && f.kind == g.kind, "{f:?} {g:?}");
    assert!(matches!(context.node(b"sub/x").unwrap().unwrap().kind, NodeKind::File { size: 0, inode: None }));
    assert_eq!(context.node(b"link").unwrap().unwrap().kind, NodeKind::Symlink { target: b"../../etc/passwd".to_vec() });
    assert_eq!(context.node(b"pipe").unwrap().unwrap().kind, NodeKind::Fifo);
    // As BuildKit transfers it: an empty file, which nobody needs to open.
    assert_eq!(context.node(b"sock").unwrap().unwrap().kind, NodeKind::File { size: 0, inode: None });
    assert_eq!(context.digests(&[b"sock"]).unwrap(), [*blake3::hash(b"").as_bytes()]);
    let top = context.node(b"").unwrap().unwrap();
    assert!(top.kind == NodeKind::Dir && top.path.is_empty());
    assert!(context.node(b"nope/x").unwrap().is_none() && context.node(b"f/x").unwrap().is_none());

    let digests = context.digests(&[b"g", b"sub/x", b"f"]).unwrap();
    assert_eq!(digests, [b"hello".as_slice(), b"", b"hello"].map(|b| *blake3::hash(b).as_bytes()));
    for bad in ["pipe", "sub"] {
        let error = context.digests(&[bad.as_bytes()]).unwrap_err();
        assert!(matches!(ContextError::of(&error), Some(ContextError::NotRegular { .. })), "{bad}: {error}");
    }
}

#[test]
fn nothing_leaves_the_root() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "secret", "s");
    let dir = context(&[("d/f", "x")]);
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("direct")).unwrap();
    symlink("d", dir.path().join("inside")).unwrap();
    let context = open(dir.path(), DockerfileFrom::Default, None).unwrap().context;
    for path in ["out/secret", "inside/f"] {
        assert!(context.node(path.as_bytes()).unwrap().is_none(), "{path}");
        assert!(context.open_file(path.as_bytes()).is_err(), "{path}");
    }
    assert!(context.children(b"out").is_err());
    assert!(matches!(context.open_file(b"direct"), Err(ContextError::NotRegular { .. })));
    for path in ["../secret", "/etc/passwd", "d/../../x", "d//f"] {
        assert!(matches!(context.open_file(path.as_bytes()), Err(ContextError::BadPath { .. })), "{path}");
        assert!(context.node(path.as_bytes()).is_err(), "{path}");
    }
    // Neither do the Dockerfile and the ignore file, whose author need not be the one who builds.
    fs::remove_file(dir.path().join("Dockerfile")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("Dockerfile")).unwrap();
    assert!(matches!(open(dir.path(), DockerfileFrom::Default, None), Err(ContextError::Dockerfile { .. })));
    write(dir.path(), "d/Dockerfile", "FROM scratch");
    fs::remove_file(dir.path().join("Dockerfile")).unwrap();
    symlink("d/Dockerfile", dir.path().join("Dockerfile")).unwrap();
    assert_eq!(open(dir.path(), DockerfileFrom::Default, None).unwrap().dockerfile.source.text(), "FROM scratch");
}

#[test]
fn dockerfiles_are_found_as_docker_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let load = |from| open(dir.path(), from, None).map(|opened| opened.dockerfile);
    let missing = load(DockerfileFrom::Default).unwrap_err();
    assert_eq!(missing.to_string(), "failed to read dockerfile: open Dockerfile: no such file or directory");
    let named = load(DockerfileFrom::Path(dir.path().join("x/app.Dockerfile"))).unwrap_err();
    assert_eq!(named.to_string(), "failed to read dockerfile: open app.Dockerfile: no such file or directory");

    write(dir.path(), "dockerfile", "FROM lower");
    let lower = load(DockerfileFrom::Default).unwrap();
    assert_eq!((lower.source.name(), lower.source.text()), ("dockerfile", "FROM lower"));
    write(dir.path(), "Dockerfile", b"FROM a\nLABEL x=\xff\xfe\n");
    let bytes = load(DockerfileFrom::Default).unwrap();
    assert_eq!((bytes.source.text(), bytes.not_utf8_line), ("FROM a\nLABEL x=\u{fffd}\u{fffd}\n", Some(2)));
    let text = load(DockerfileFrom::Text(b"FROM stdin".to_vec())).unwrap();
    assert_eq!((text.source.name(), text.source.text(), text.not_utf8_line), ("-", "FROM stdin", None));
    assert!(matches!(load(DockerfileFrom::Path("/dev/zero".into())), Err(ContextError::DockerfileTooLarge { .. })));

    let gone = open(&dir.path().join("nope"), DockerfileFrom::Default, None).unwrap_err().to_string();
    assert!(gone.starts_with("unable to prepare context: path ") && gone.ends_with(" not found"), "{gone}");
    let file = open(&dir.path().join("Dockerfile"), DockerfileFrom::Default, None).unwrap_err().to_string();
    assert!(file.starts_with("unable to prepare context: context must be a directory"), "{file}");
}

#[test]
fn missing_sources_are_explained() {
    let dir = context(&[
        (".dockerignore", "# secrets\n*.key\nbuild\n!build/keep\nbuild/keep/no\n"),
        ("id.key", ""),
        ("build/out", ""),
        ("build/keep/no", ""),
        ("src/main.rs", ""),
        ("src/mian.rs.bak", ""),
        ("package.json", ""),
    ]);
    let context = open(dir.path(), DockerfileFrom::Default, None).unwrap().context;
    let ignored = |path: &str| match context.why_missing(path.as_bytes()) {
        Missing::Ignored { file, pattern, line, .. } => format!("{file}:{line} {pattern}"),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(ignored("/id.key"), ".dockerignore:2 *.key");
    assert_eq!(ignored("./build/out"), ".dockerignore:3 build");
    assert_eq!(ignored("build/keep/no"), ".dockerignore:5 build/keep/no");
    for (path, want) in [
        ("scr/main.rs", vec!["src/main.rs"]),
        ("src/mian.rs", vec!["src/main.rs"]),
        ("Package.json", vec!["package.json"]),
        ("pakage.json", vec!["package.json"]),
        ("sr", vec!["src"]),
        ("src/main.rs/x", vec!["src/main.rs"]),
        ("main.rs", vec!["src/main.rs"]),
        ("app/src/main.rs", vec!["src/main.rs"]),
        ("out", vec![]),
        ("zzz", vec![]),
        ("other.key", vec![]),
    ] {
        let similar = want.into_iter().map(str::to_owned).collect();
        assert_eq!(context.why_missing(path.as_bytes()), Missing::Absent { similar }, "{path}");
    }
}

#[test]
fn identity_is_the_place_itself() {
    let (a, b) = (context(&[]), context(&[]));
    symlink(a.path(), b.path().join("way")).unwrap();
    let identity = |path: &Path| BuildContext::open_dir(path, None).unwrap().identity().to_owned();
    assert_eq!(identity(a.path()), identity(&b.path().join("way")));
    assert_ne!(identity(a.path()), identity(b.path()));
}

fn header(kind: tar::EntryType, path: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    // By the bytes, since the crate refuses what a hostile archive holds.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(size);
    header.set_mode(0o640);
    header.set_uid(1234);
    header.set_gid(1234);
    header.set_mtime(1_000_000);
    header
}

fn archive(members: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (kind, path, text) in members {
        let is_link = matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink);
        let mut header = header(*kind, path, if is_link { 0 } else { text.len() as u64 });
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, if is_link { &[][..] } else { text.as_bytes() }).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn an_archive_is_a_context() {
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    let plain = archive(&[
        (Directory, "./", ""),
        (Regular, "./dir/sub/f", "one"),
        (Regular, "Dockerfile", "FROM old"),
        (Regular, "Dockerfile", "FROM scratch"),
        (Regular, "Dockerfile.dockerignore", "dir"),
        (Regular, ".dockerignore", "dir"),
        (Link, "twin", "dir/sub/f"),
        (Symlink, "abs", "/dir/sub"),
        (Fifo, "pipe", ""),
        (Char, "null", ""),
        (Regular, "dir/.wh.x", "no whiteout here"),
    ]);
    assert!(is_archive(&plain) && !is_archive(b"FROM scratch\nRUN true\n") && !is_archive(&[0; 1024]));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::stream::encode_all(plain.as_slice(), 1).unwrap();
    for bytes in [plain, gzip, zstd] {
        assert!(is_archive(&bytes));
        let tmp = tempfile::tempdir().unwrap();
        let context = BuildContext::from_tar(bytes.as_slice(), tmp.path()).unwrap();
        let want = [
            ".dockerignore",
            "Dockerfile",
            "Dockerfile.dockerignore",
            "abs",
            "dir/",
            "dir/.wh.x",
            "dir/sub/",
            "dir/sub/f",
            "null",
            "pipe",
            "twin",
        ];
        assert_eq!(visible(&context, b""), want, "BuildKit applies no ignore rules to archives");
        let f = context.node(b"dir/sub/f").unwrap().unwrap();
        assert_eq!((f.mode, f.uid, f.gid, f.mtime.secs), (0o640, 0, 0, 1_000_000));
        assert_eq!(f.kind, context.node(b"twin").unwrap().unwrap().kind);
        assert!(matches!(f.kind, NodeKind::File { size: 3, inode: Some(_) }));
        assert_eq!(context.digests(&[b"twin"]).unwrap(), [*blake3::hash(b"one").as_bytes()]);
        assert_eq!(std::io::read_to_string(context.open_file(b"twin").unwrap()).unwrap(), "one");
        assert!(context.open_file(b"abs/f").is_err());
        let loaded = context.load_dockerfile(DockerfileFrom::Default).unwrap();
        assert_eq!(loaded.source.text(), "FROM scratch");
        let through = context.load_dockerfile(DockerfileFrom::Path("abs/../../twin".into())).unwrap();
        assert_eq!(through.source.text(), "one");
        let missing = context.load_dockerfile(DockerfileFrom::Path("no/Dockerfile".into())).unwrap_err();
        assert_eq!(missing.to_string(), "failed to read dockerfile: open Dockerfile: no such file or directory");
    }
}

#[test]
fn a_deep_archive_takes_no_stack_and_a_deeper_one_is_refused() {
    let long = |depth: usize| {
        let mut builder = tar::Builder::new(Vec::new());
        let path = format!("{}f", "d/".repeat(depth));
        builder.append_pax_extensions([("path", path.as_bytes())]).unwrap();
        let mut header = header(tar::EntryType::Regular, "f", 0);
        header.set_cksum();
        builder.append(&header, &[][..]).unwrap();
        builder.into_inner().unwrap()
    };
    let tmp = tempfile::tempdir().unwrap();
    // The kernel's longest path, as it would be below a directory.
    let context = BuildContext::from_tar(long(2000).as_slice(), tmp.path()).unwrap();
    assert!(context.node(format!("{}f", "d/".repeat(2000)).as_bytes()).unwrap().is_some());
    let tmp = tempfile::tempdir().unwrap();
    let error = BuildContext::from_tar(long(20_000).as_slice(), tmp.path()).unwrap_err();
    assert!(format!("{error:?}").contains("a path that is too long"), "{error:?}");
}

#[test]
fn a_hostile_archive_stays_inside() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let tmp = outside.path().join("tmp");
    let read = |members: &[(tar::EntryType, &str, &str)]| {
        fs::create_dir(&tmp).unwrap();
        let result = BuildContext::from_tar(archive(members).as_slice(), &tmp).map(|context| visible(&context, b""));
        fs::remove_dir_all(&tmp).unwrap();
        let left: BTreeSet<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        result
    };
    assert_eq!(read(&[(Regular, "../../up", "x"), (Regular, "/abs", "x")]).unwrap(), ["abs", "up"]);
    assert!(matches!(read(&[(Symlink, "d", target), (Regular, "d/f", "x")]), Err(ContextError::ArchiveMember { .. })));
    assert_eq!(read(&[(Symlink, "d", target), (Regular, "d", "x")]).unwrap(), ["d"], "a link is replaced, not followed");
    assert!(read(&[(Link, "l", "/etc/passwd")]).is_err());
    assert!(read(&[(Directory, "d", ""), (Link, "l", "d")]).is_err());
    assert!(read(&[(Regular, "d/f", ""), (Regular, "d", "")]).is_err());
    assert_eq!(read(&[(Regular, "a", "1"), (Link, "b", "a"), (Regular, "a", "22"), (Link, "a", "a")]).unwrap(), ["a", "b"]);
    let mut cut = archive(&[(Regular, "f", &"x".repeat(2000))]);
    cut.truncate(1000);
    fs::create_dir(&tmp).unwrap();
    assert!(BuildContext::from_tar(cut.as_slice(), &tmp).is_err());
}
