//! ADD of archives: links of every kind, files with holes, and what cannot be unpacked.

mod support;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::process::Command;

use support::{Lab, as_everybody};
use tar::EntryType;

/// A member: type, path, target or content.
type Member<'a> = (EntryType, &'a str, &'a str);

fn archive(members: &[Member<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, said) in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        if *kind == EntryType::Char {
            // Not 0:0, which is a whiteout.
            header.set_device_major(5).expect("ustar");
            header.set_device_minor(1).expect("ustar");
        }
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            tar.append_link(&mut header, path, said).expect("memory");
        } else {
            header.set_size(said.len() as u64);
            tar.append_data(&mut header, path, said.as_bytes()).expect("memory");
        }
    }
    tar.into_inner().expect("memory")
}

#[test]
fn a_name_that_a_layer_gives_twice_leaves_its_first_content_to_its_links() {
    as_everybody(|lab: &Lab| {
        let [first, second] = ["1\n", "22\n"].map(|content| (EntryType::Regular, "a", content));
        lab.write("twice.tar", archive(&[first, (EntryType::Link, "b", "a"), second]));
        let said = lab.run(&["import", "twice.tar", "twice:1"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY --from=twice:1 /a /b /h/\nCOPY --from=twice:1 /b /alone\n")]);
        let image = lab.build("ctx", &[]).image;
        let texts = ["h/a", "h/b", "alone"].map(|path| image.text(path));
        assert_eq!(texts, ["22\n", "1\n", "1\n"], "{:?}", lab.who());
    });
}

/// As with BuildKit, which sets them where it makes the link.
#[test]
fn what_a_hardlink_says_of_mode_owner_and_time_is_said_of_the_file() {
    let lab = Lab::new(support::Who::Caller);
    let mut tar = tar::Builder::new(Vec::new());
    for (kind, path, mode, id) in
        [(EntryType::Regular, "a", 0o644, 0), (EntryType::Link, "h", 0o755, 5), (EntryType::Regular, "z", 0o600, 1)]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(id);
        header.set_gid(id + 1);
        header.set_mtime(1_600_000_000 + id);
        header.set_size(0);
        if kind == EntryType::Link {
            header.set_link_name("a").expect("short");
        }
        tar.append_data(&mut header, path, &b""[..]).expect("memory");
    }
    lab.write("ctx/a.tar", tar.into_inner().expect("memory"));
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nADD a.tar /\n")]);
    let files = lab.build("ctx", &[]).image.files;
    let said = |path: &str| (files[path].mode, files[path].owner, files[path].mtime);
    assert_eq!([said("a"), said("h")], [(0o755, (5, 6), 1_600_000_005); 2]);
    assert_eq!((files["h"].link.as_str(), said("z")), ("a", (0o600, (1, 2), 1_600_000_001)));
}

#[test]
fn a_hardlink_is_one_more_name_of_whatever_it_names() {
    as_everybody(|lab: &Lab| {
        lab.write(
            "ctx/a.tar",
            archive(&[
                (EntryType::Directory, "d", ""),
                (EntryType::Regular, "d/f", "hello\n"),
                (EntryType::Symlink, "ld", "d"),
                (EntryType::Link, "plain", "d/f"),
                (EntryType::Link, "led", "./ld/f"),
                (EntryType::Symlink, "l", "nowhere"),
                (EntryType::Link, "l2", "l"),
                (EntryType::Fifo, "p", ""),
                (EntryType::Link, "p2", "p"),
                (EntryType::Link, "l", "l"),
            ]),
        );
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nADD a.tar /\n")]);
        let files = lab.build("ctx", &[]).image.files;
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["d", "d/f", "l", "l2", "ld", "led", "p", "p2", "plain"], "{:?}", lab.who());
        for name in ["led", "plain"] {
            assert_eq!((files[name].kind, files[name].link.as_str()), ('1', "d/f"), "{name}");
        }
        for (name, first) in [("l2", "l"), ("p2", "p")] {
            assert_eq!((files[name].kind, &files[name].link), (files[first].kind, &files[first].link), "{name}");
        }
    });
}

#[test]
fn device_nodes_that_only_root_can_make_are_kept_and_not_missed() {
    as_everybody(|lab: &Lab| {
        lab.load_busybox();
        lab.write("ctx/a.tar", archive(&[(EntryType::Char, "console", ""), (EntryType::Regular, "f", "f\n")]));
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nADD a.tar /d/\nRUN cat /d/f\n")]);
        assert_eq!(lab.build("ctx", &[]).image.files["d/console"].kind, '3', "{:?}", lab.who());
        lab.wait_for_sync("built");
        let verify = lab.run(&["store", "verify"]);
        assert!(verify.ok(), "{:?}: {}{}", lab.who(), verify.stdout, verify.stderr);
    });
}

#[test]
fn what_cannot_be_unpacked_is_named_with_its_archive() {
    as_everybody(|lab: &Lab| {
        for (members, words) in [
            (&[(EntryType::Link, "a/h", "etc/passwd")][..], "a/h: a hardlink to etc/passwd, which is not in the archive before it"),
            (&[(EntryType::Directory, "d", ""), (EntryType::Link, "h", "d")], "h: a hardlink to a directory"),
            (&[(EntryType::new(b'V'), "label", "")], "label: a member of type 'V'"),
        ] {
            lab.write("ctx/some.tar", archive(members));
            lab.context("ctx", &[("Dockerfile", "FROM scratch\nADD some.tar /\n")]);
            let said = lab.run(&["build", "--progress", "plain", "ctx"]);
            assert_eq!(said.code, 1, "{:?}: {}", lab.who(), said.stderr);
            assert!(said.stderr.contains(&format!("cannot unpack some.tar: not a valid tar: {words}")), "{:?}: {}", lab.who(), said.stderr);
        }
        // Cut off in the middle of a member, as by a download that ended early.
        let mut cut = archive(&[(EntryType::Regular, "big", &"line\n".repeat(1000))]);
        cut.truncate(1000);
        lab.write("ctx/some.tar", cut);
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert_eq!(said.code, 1, "{:?}: {}", lab.who(), said.stderr);
        assert!(
            said.stderr.contains("cannot unpack some.tar: cannot read the tar: unexpected end of file"),
            "{:?}: {}",
            lab.who(),
            said.stderr
        );
    });
}

#[test]
fn files_with_holes_are_read_in_all_their_forms() {
    as_everybody(|lab: &Lab| {
        fs::create_dir_all(lab.work("holes")).expect("mkdir");
        let mut file = fs::File::create(lab.work("holes/sparse")).expect("create");
        // More pieces than a header has room for, and a hole at the end.
        for piece in 0..40_u64 {
            file.seek(SeekFrom::Start(piece << 17)).expect("seek");
            file.write_all(format!("piece {piece}\n").as_bytes()).expect("write");
        }
        file.set_len(6 << 20).expect("truncate");
        fs::write(lab.work("holes/whole"), "after\n").expect("write");
        let content = fs::read(lab.work("holes/sparse")).expect("read");
        let old = &["--format=gnu"][..];
        for form in [old, &["--format=posix", "--sparse-version=0.0"], &["--format=posix", "--sparse-version=0.1"], &["--format=posix"]] {
            let tar = |to: &str, what: &[&str]| {
                let made = Command::new("tar")
                    .args(form)
                    .args(["-S", "-C"])
                    .arg(lab.work("holes"))
                    .arg("-cf")
                    .arg(lab.work(to))
                    .args(what)
                    .status();
                assert!(made.expect("tar starts").success(), "{form:?}");
            };
            fs::create_dir_all(lab.work("ctx")).expect("mkdir");
            tar("ctx/holes.tar", &["sparse", "whole"]);
            assert!(fs::metadata(lab.work("ctx/holes.tar")).expect("there").len() < 1 << 20, "{form:?} has no holes");
            lab.context("ctx", &[("Dockerfile", "FROM scratch\nADD holes.tar /\n")]);
            let files = lab.build("ctx", &[]).image.files;
            assert!(files["sparse"].content == content && files["whole"].content == b"after\n", "{:?}: {form:?}", lab.who());
            // As a context.
            lab.write("holes/Dockerfile", "FROM scratch\nCOPY sparse whole /\n");
            tar("context.tar", &["Dockerfile", "sparse", "whole"]);
            let stdin = fs::File::open(lab.work("context.tar")).expect("open");
            let said = lab.shale(&["build", "-q", "-o", "type=tar,dest=out.tar", "-"]).stdin(stdin).output().expect("shale starts");
            assert!(said.status.success(), "{:?}: {form:?}: {}", lab.who(), String::from_utf8_lossy(&said.stderr));
            let out = support::image::tar_entries(&fs::read(lab.work("out.tar")).expect("read"));
            let out: std::collections::BTreeMap<_, _> = out.into_iter().collect();
            assert!(out["sparse"].content == content && out["whole"].content == b"after\n", "{:?}: {form:?}", lab.who());
        }
    });
}
