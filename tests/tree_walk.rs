//! The walker over real directories.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use shale::tree::NodeKind;
use shale::tree::entry::cmp_paths;
use shale::tree::walk::{Options, WalkError, open_dir, stat_at, walk};

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = |p: &str| dir.path().join(p);
    for sub in ["a", "a/b", "skip", "skip/deep", "a.b"] {
        fs::create_dir(at(sub)).expect(sub);
    }
    for file in ["a/x", "a/b/y", "skip/deep/z", "a.b/w", "a-", "~"] {
        fs::write(at(file), file).expect(file);
    }
    fs::hard_link(at("a/x"), at("a/link")).expect("a hard link");
    symlink("a", at("to-a")).expect("a symlink");
    symlink("nowhere", at("a/gone")).expect("a symlink");
    drop(std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket"));
    fs::set_permissions(at("a-"), fs::Permissions::from_mode(0o4711)).expect("permissions");
    dir
}

fn paths(root: &Path, prune: &mut dyn FnMut(&[u8], bool) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let root = open_dir(root).expect("a directory");
    walk::<WalkError>(root.as_fd(), Options::default(), prune, &mut |walked| {
        found.push(String::from_utf8(walked.path).expect("UTF-8"));
        Ok(())
    })
    .expect("walks");
    found
}

#[test]
fn finds_everything_in_order_and_follows_nothing() {
    let dir = sample();
    let found = paths(dir.path(), &mut |_, _| false);
    let expected =
        ["a", "a/b", "a/b/y", "a/gone", "a/link", "a/x", "a-", "a.b", "a.b/w", "skip", "skip/deep", "skip/deep/z", "socket", "to-a", "~"];
    let mut sorted: Vec<_> = found.clone();
    sorted.sort_by(|a, b| cmp_paths(a.as_bytes(), b.as_bytes()));
    assert_eq!(found, sorted);
    assert_eq!(found, expected);
    // A second walk of the same descriptor starts over.
    let root = open_dir(dir.path()).expect("a directory");
    for _ in 0..2 {
        let mut count = 0;
        walk::<WalkError>(root.as_fd(), Options::default(), &mut |_, _| false, &mut |_| {
            count += 1;
            Ok(())
        })
        .expect("walks");
        assert_eq!(count, expected.len());
    }
}

#[test]
fn what_is_pruned_is_not_looked_at() {
    let dir = sample();
    let mut asked = Vec::new();
    let found = paths(dir.path(), &mut |path, is_dir| {
        asked.push((String::from_utf8_lossy(path).into_owned(), is_dir));
        path == b"skip" || path == b"a/x"
    });
    assert!(!found.iter().any(|p| p.starts_with("skip") || p == "a/x"), "{found:?}");
    assert!(asked.contains(&("skip".into(), true)) && asked.contains(&("to-a".into(), false)), "{asked:?}");
    assert!(!asked.iter().any(|(p, _)| p.starts_with("skip/")), "{asked:?}");
}

#[test]
fn nodes_say_what_they_are() {
    let dir = sample();
    let root = open_dir(dir.path()).expect("a directory");
    let mut nodes = Vec::new();
    walk::<WalkError>(root.as_fd(), Options::default(), &mut |_, _| false, &mut |walked| {
        nodes.push((walked.node(), walked.stat));
        Ok(())
    })
    .expect("walks");
    let get = |path: &str| nodes.iter().find(|(n, _)| n.path == path.as_bytes()).expect(path);
    assert_eq!(get("to-a").0.kind, NodeKind::Symlink { target: b"a".to_vec() });
    assert_eq!(get("a-").0.mode, 0o4711);
    assert_eq!(get("socket").0.kind, NodeKind::Socket);
    let (NodeKind::File { inode: one, size: 3 }, NodeKind::File { inode: two, .. }) = (&get("a/x").0.kind, &get("a/link").0.kind) else {
        panic!("files")
    };
    assert!(one.is_some() && one == two);
    assert!(matches!(get("a/b/y").0.kind, NodeKind::File { inode: None, size: 5 }));
    let stat = stat_at(&root, "a/x").expect("stat");
    assert_eq!((stat, stat.nlink), (get("a/x").1, 2));
    assert!(stat.ctime.secs > 1_000_000_000 && stat.ino > 0);
}

#[test]
fn errors_name_path_and_deed_and_the_visitor_can_stop() {
    let dir = sample();
    let root = open_dir(dir.path()).expect("a directory");
    let stop = walk(root.as_fd(), Options::default(), &mut |_, _| false, &mut |walked| {
        Err(WalkError::at("read", &walked.path)(std::io::Error::other("enough")))
    });
    let error: WalkError = stop.expect_err("it was told to stop");
    assert_eq!(error.to_string(), "cannot read a: enough");
    // A link in place of a directory is not entered, whatever the directory listing said.
    let mut found = Vec::new();
    walk::<WalkError>(root.as_fd(), Options::default(), &mut |_, _| false, &mut |walked| {
        if walked.path == b"a" {
            fs::rename(dir.path().join("skip"), dir.path().join("moved")).expect("renames");
            symlink("/etc", dir.path().join("skip")).expect("a symlink");
        }
        found.push(walked.path);
        Ok(())
    })
    .expect("walks");
    assert!(!found.iter().any(|p| p.starts_with(b"skip/")));
}

#[test]
fn overlay_markers_and_attributes_are_read_when_asked() {
    let dir = sample();
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(dir.path().join(path), name, value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    if !set("a", "user.kept", b"1") {
        // No attributes on this file system: nothing to read.
        return;
    }
    assert!(
        set("a", "user.overlay.opaque", b"y") && set("a.b", "user.overlay.opaque", b"x") && set("a/x", "user.rootlesscontainers", b"r")
    );
    fs::write(dir.path().join("hidden"), "").expect("writes");
    assert!(set("hidden", "user.overlay.whiteout", b""));
    let root = open_dir(dir.path()).expect("a directory");
    let mut seen = Vec::new();
    walk::<WalkError>(root.as_fd(), Options { xattrs: true }, &mut |_, _| false, &mut |walked| {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        if walked.opaque || walked.whiteout || !walked.xattrs.is_empty() || !walked.internal_xattrs.is_empty() {
            let kept: Vec<_> = walked.xattrs.keys().map(|k| text(k)).collect();
            let internal: Vec<_> = walked.internal_xattrs.iter().map(|k| text(k)).collect();
            seen.push(format!("{} {} {} {kept:?} {internal:?}", text(&walked.path), walked.opaque, walked.whiteout));
        }
        Ok(())
    })
    .expect("walks");
    assert_eq!(
        seen,
        [
            r#"a true false ["user.kept"] ["user.overlay.opaque"]"#,
            r#"a/link false false [] ["user.rootlesscontainers"]"#,
            r#"a/x false false [] ["user.rootlesscontainers"]"#,
            r#"a.b false false [] ["user.overlay.opaque"]"#,
            r#"hidden false true [] ["user.overlay.whiteout"]"#,
        ]
    );
}
