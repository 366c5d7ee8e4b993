//! Details for which there is no better reason than that BuildKit 0.32.2 was seen to have them so.

mod support;

use std::collections::BTreeMap;

use support::image::Node;
use support::{Lab, as_everybody};

fn built(lab: &Lab, dockerfile: &str) -> BTreeMap<String, Node> {
    lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "f\n"), ("d/g", "g\n")]);
    lab.build("ctx", &[]).image.files
}

fn refused(lab: &Lab, dockerfile: &str) -> String {
    lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "f\n")]);
    let said = lab.run(&["build", "--progress", "plain", "ctx"]);
    assert!(!said.ok(), "{:?}: {dockerfile} is built: {}", lab.who(), said.stderr);
    said.stderr
}

#[test]
fn flags_of_add_concern_only_some_of_what_an_archive_makes() {
    as_everybody(|lab| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_size(0);
        header.set_uid(1);
        header.set_gid(1);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, "p/q/f", &b""[..]).expect("memory");
        lab.write("ctx/t.tar", tar.into_inner().expect("memory"));
        let files = built(lab, "FROM scratch\nADD --chmod=755 --chown=5:6 t.tar /o/\n");
        let seen = ["o", "o/p", "o/p/q", "o/p/q/f"].map(|path| (files[path].owner, files[path].mode));
        assert_eq!(seen, [((5, 6), 0o755), ((0, 0), 0o755), ((0, 0), 0o755), ((5, 6), 0o640)], "{:?}", lab.who());
    });
}

#[test]
fn a_directory_before_a_wildcard_must_be_there() {
    as_everybody(|lab| {
        for source in ["nope/*", "nope/**", "nope/*/*", "nope/x*", "nope/?", "nope/*/x", "--from=s nope/*"] {
            let said = refused(lab, &format!("FROM scratch AS s\nCOPY f /o/\nFROM scratch\nCOPY f /o/\nCOPY {source} /o/\n"));
            assert!(said.contains("\"/nope\": not found"), "{:?}: {source}: {said}", lab.who());
        }
        std::os::unix::fs::symlink("d", lab.work("ctx/link")).expect("a link");
        lab.write("ctx/d/g", "g\n");
        let said = refused(lab, "FROM scratch\nCOPY --parents link/g /o/\n");
        assert!(said.contains("\"/link/g\": not found"), "{:?}: {said}", lab.who());
        let files = built(lab, "FROM scratch\nCOPY f /o/\nCOPY nope* f*/* f/* /o/\n");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["o", "o/f"], "{:?}", lab.who());
        for source in ["a[", "d/[f", "*["] {
            let said = refused(lab, &format!("FROM scratch\nCOPY f {source} /o/\n"));
            assert!(said.contains("syntax error in pattern"), "{:?}: {source}: {said}", lab.who());
        }
    });
}

#[test]
fn owners_without_a_group_or_without_accounts() {
    as_everybody(|lab| {
        let files = built(lab, "FROM scratch\nCOPY --chown=5: f /a\nCOPY --chown=5 f /b\n");
        assert_eq!([files["a"].owner, files["b"].owner], [(5, 0), (5, 5)], "{:?}", lab.who());
        for text in ["COPY --chown=nope f /o/", "COPY --chown=5:grp f /o/", "USER a\nWORKDIR /a"] {
            let said = refused(lab, &format!("FROM scratch\n{text}\n"));
            assert!(said.contains("invalid user index: -1"), "{:?}: {text}: {said}", lab.who());
        }
    });
}

#[test]
fn the_root_of_a_stage_is_copied_with_a_time_of_now() {
    as_everybody(|lab| {
        let files = built(lab, "FROM scratch AS s\nCOPY f /\nFROM scratch\nCOPY --from=s / /x\n");
        assert!(files["x"].mtime > 1_700_000_000, "{:?}: {:?}", lab.who(), files["x"]);
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nARG U\nEXPOSE $U\nCOPY f /\n"), ("f", "f\n")]);
        let config = lab.build("ctx", &[]).image.config;
        assert!(config["config"].get("ExposedPorts").is_none(), "{:?}: {config}", lab.who());
    });
}

#[test]
fn the_sandbox_has_its_name_and_the_last_of_several_mounts_at_a_target() {
    as_everybody(|lab| {
        lab.load_busybox();
        let text = "FROM busybox\nRUN --mount=type=tmpfs,target=/m --mount=type=bind,target=/m,source=f cat /m /etc/hosts >/out\n";
        lab.context("ctx", &[("Dockerfile", text), ("f", "f\n")]);
        let image = lab.build("ctx", &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=foo"]).image;
        assert!(image.text("out").starts_with("f\n127.0.0.1\tlocalhost foo\n"), "{:?}: {}", lab.who(), image.text("out"));
    });
}

/// Found by the step's key: a cached step is no answer for who asks for a secret now.
#[test]
fn a_secret_that_becomes_required_is_asked_for() {
    as_everybody(|lab| {
        lab.load_busybox();
        for kind in ["secret,id=nosuch", "ssh"] {
            built(lab, &format!("FROM busybox\nRUN --mount=type={kind} echo 1\n"));
            let said = refused(lab, &format!("FROM busybox\nRUN --mount=type={kind},required=true echo 1\n"));
            assert!(said.contains("not found") || said.contains("forwarded from the client"), "{:?}: {said}", lab.who());
        }
    });
}

/// What a step sees of a layer that it lies upon is what the image has.
#[test]
fn a_step_sees_the_owners_that_the_image_has() {
    as_everybody(|lab| {
        let dockerfile = "FROM busybox\nCOPY f /plain\nCOPY --chown=3:4 d /owned\nUSER 7:8\nWORKDIR /w/d\n\
            RUN stat -c '%n %u:%g' /plain /owned /owned/g /w /w/d >/tmp/seen\n";
        lab.load_busybox();
        let files = built(lab, &dockerfile.replace("COPY f", "RUN mkdir -p -m 777 /tmp\nCOPY f"));
        let seen = String::from_utf8(files["tmp/seen"].content.clone()).expect("text");
        for line in seen.lines() {
            let (path, owner) = line.split_once(' ').expect("two words");
            let (uid, gid) = files[&path[1..]].owner;
            assert_eq!(owner, format!("{uid}:{gid}"), "{:?}: {path}", lab.who());
        }
        assert!(seen.contains("/w/d 7:8\n") && seen.contains("/owned/g 3:4\n") && seen.contains("/plain 0:0\n"), "{seen}");
    });
}
