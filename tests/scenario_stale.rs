//! No stale hit: one change a row, and exactly the steps that see it run again. And the reverse: what nobody sees changes nothing.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::{Lab, Who, as_everybody};

const DOCKERFILE: &str = "FROM busybox AS src\nARG PLAIN=1\nRUN mkdir /made && echo m >/made/f\n\
    FROM busybox\nENV E=1\nWORKDIR /w\nCOPY dir/ /dst/\nRUN ls -l /dst\nCOPY --from=src /made /made/\nARG LATE\nRUN echo late\n";

fn fill(lab: &Lab) {
    lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("dir/a", "aaaa\n"), ("dir/sub/b", "bbbb\n"), ("outside", "o\n")]);
    symlink("a", lab.work("ctx/dir/link")).expect("symlink");
    fs::set_permissions(lab.work("ctx/dir/a"), fs::Permissions::from_mode(0o644)).expect("chmod");
}

/// The instructions that ran, without their places: `COPY dir/ /dst/`.
fn ran(lab: &Lab, args: &[&str]) -> Vec<String> {
    let built = lab.build("ctx", args);
    built.said.executed().iter().map(|name| name.split_once("] ").expect("a step's name").1.to_owned()).collect()
}

const COPY: &str = "COPY dir/ /dst/";
const LS: &str = "RUN ls -l /dst";
const FROM: &str = "COPY --from=src /made /made/";
const LATE: &str = "RUN echo late";
const MADE: &str = "RUN mkdir /made && echo m >/made/f";

type Change = fn(&Lab);

/// What changes, how, with which arguments, and what must run.
const SEEN: &[(&str, Change, &[&str], &[&str])] = &[
    ("content, size and mtime kept", keep_times, &[], &[COPY, LS, LATE]),
    ("chmod", |lab| chmod(lab, "ctx/dir/a", 0o600), &[], &[COPY, LS, LATE]),
    ("symlink retargeted", |lab| relink(lab, "sub/b"), &[], &[COPY, LS, LATE]),
    ("file becomes a directory", file_to_dir, &[], &[COPY, LS, LATE]),
    ("rename", |lab| fs::rename(lab.work("ctx/dir/a"), lab.work("ctx/dir/c")).expect("rename"), &[], &[COPY, LS, LATE]),
    ("ignore file", |lab| drop(lab.write("ctx/.dockerignore", "dir/sub\n")), &[], &[COPY, LS, LATE]),
    ("an ARG that the script does not name", |_| (), &["--build-arg", "LATE=2"], &[LATE]),
    ("an ARG of a source stage, same result", |_| (), &["--build-arg", "PLAIN=2"], &[MADE]),
    ("ENV", |lab| edit(lab, "ENV E=1", "ENV E=2"), &[], &[LS, LATE]),
    ("USER", |lab| edit(lab, "RUN ls", "USER 0:0\nRUN ls"), &[], &[LS, LATE]),
    ("WORKDIR", |lab| edit(lab, "WORKDIR /w", "WORKDIR /v"), &[], &["WORKDIR /v", LS, LATE]),
    ("SHELL", |lab| edit(lab, "RUN echo late", "SHELL [\"/bin/ash\", \"-c\"]\nRUN echo late"), &[], &[LATE]),
    ("network", |_| (), &["--network", "none"], &[MADE, LS, LATE]),
    (
        "owner in a source stage",
        |lab| edit(lab, ">/made/f", ">/made/f && chown 5 /made/f"),
        &[],
        &["RUN mkdir /made && echo m >/made/f && chown 5 /made/f", FROM, LATE],
    ),
    // A WORKDIR has no content that could be out of date: as BuildKit does, it is not made again.
    ("no cache", |_| (), &["--no-cache"], &[MADE, COPY, LS, FROM, LATE]),
];

/// What nobody sees.
const UNSEEN: &[(&str, Change)] = &[
    ("nothing", |_| ()),
    ("touch", |lab| set_mtime(lab, "ctx/dir/a", 1_500_000_000)),
    ("another file", |lab| drop(lab.write("ctx/outside", "other\n"))),
    ("a fresh checkout at another path", |lab| {
        fs::rename(lab.work("ctx"), lab.work("old")).expect("rename");
        fill(lab);
    }),
    ("reordered directory", |lab| {
        let bytes = fs::read(lab.work("ctx/dir/a")).expect("read");
        fs::remove_file(lab.work("ctx/dir/a")).expect("remove");
        lab.write("ctx/dir/zz", "z");
        lab.write("ctx/dir/a", bytes);
        fs::remove_file(lab.work("ctx/dir/zz")).expect("remove");
    }),
    ("a metadata instruction", |lab| edit(lab, "FROM busybox\nENV", "FROM busybox\nLABEL x=y\nENV")),
];

fn keep_times(lab: &Lab) {
    let path = lab.work("ctx/dir/a");
    let before = fs::metadata(&path).expect("stat").modified().expect("a time");
    fs::write(&path, "AAAA\n").expect("write");
    fs::File::options().write(true).open(&path).expect("open").set_modified(before).expect("utimes");
}

fn chmod(lab: &Lab, name: &str, mode: u32) {
    fs::set_permissions(lab.work(name), fs::Permissions::from_mode(mode)).expect("chmod");
}

fn relink(lab: &Lab, target: &str) {
    fs::remove_file(lab.work("ctx/dir/link")).expect("remove");
    symlink(target, lab.work("ctx/dir/link")).expect("symlink");
}

fn file_to_dir(lab: &Lab) {
    fs::remove_file(lab.work("ctx/dir/a")).expect("remove");
    fs::create_dir(lab.work("ctx/dir/a")).expect("mkdir");
}

fn edit(lab: &Lab, from: &str, to: &str) {
    let text = fs::read_to_string(lab.work("ctx/Dockerfile")).expect("read");
    assert!(text.contains(from), "{from:?} is not in the Dockerfile");
    lab.write("ctx/Dockerfile", text.replacen(from, to, 1));
}

fn set_mtime(lab: &Lab, name: &str, secs: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs);
    fs::File::options().write(true).open(lab.work(name)).expect("open").set_modified(time).expect("utimes");
}

#[test]
fn each_change_runs_exactly_the_steps_that_see_it() {
    as_everybody(|lab| {
        lab.load_busybox();
        for (what, change, args, expected) in SEEN {
            fill(lab);
            ran(lab, &[]);
            change(lab);
            let mut got = ran(lab, args);
            let mut expected: Vec<String> = expected.iter().map(|s| (*s).to_owned()).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{:?}: {what}", lab.who());
            fs::remove_dir_all(lab.work("ctx")).expect("remove");
        }
    });
}

#[test]
fn what_nobody_sees_runs_nothing() {
    as_everybody(|lab| {
        lab.load_busybox();
        for (what, change) in UNSEEN {
            fill(lab);
            ran(lab, &[]);
            change(lab);
            assert_eq!(ran(lab, &[]), Vec::<String>::new(), "{:?}: {what}", lab.who());
            fs::remove_dir_all(lab.work("ctx")).expect("remove");
        }
    });
}

#[test]
fn a_heredoc_body_is_part_of_its_step() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    for (body, runs) in [("echo 1", 1), ("echo 1", 0), ("echo 2", 1)] {
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN <<EOF\n{body}\nEOF\n"))]);
        assert_eq!(lab.build("ctx", &[]).said.executed().len(), runs, "{body}");
    }
}

#[test]
fn a_base_tag_that_moves_is_seen_and_a_copy_layer_survives_it() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("base", &[("Dockerfile", "FROM busybox\nRUN echo 1 >/v\n")]);
    assert!(lab.run(&["build", "-q", "-t", "base", "base"]).ok());
    lab.context("ctx", &[("Dockerfile", "FROM base\nCOPY f /new/f\nRUN cat /v\n"), ("f", "f\n")]);
    assert_eq!(lab.build("ctx", &[]).said.executed().len(), 2);
    lab.context("base", &[("Dockerfile", "FROM busybox\nRUN echo 2 >/v\n")]);
    assert!(lab.run(&["build", "-q", "-t", "base", "base"]).ok());
    let built = lab.build("ctx", &[]);
    assert_eq!(built.said.executed(), ["[3/3] RUN cat /v"], "{}", built.said.stderr);
}

#[test]
fn a_copy_layer_never_carries_what_another_base_has_at_its_destination() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let files = [("Dockerfile", "FROM base\nCOPY etc/ /etc/\n"), ("etc/ssl/cert", "c\n")];
    lab.context("ctx", &files);
    // The destination itself keeps its mode; directories below it take those of the source, as BuildKit has it.
    let bases = ["RUN true", "RUN chmod 700 /etc", "RUN mkdir /real && ln -s /real /etc/ssl"];
    for (number, base) in bases.iter().enumerate() {
        lab.context("base", &[("Dockerfile", &format!("FROM busybox\n{base}\n"))]);
        assert!(lab.run(&["build", "-q", "-t", "base", "base"]).ok());
        let said = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=o.tar", "ctx"]);
        if number == 2 {
            // A directory over a link that is no directory is refused, as BuildKit does.
            assert!(!said.ok(), "{}", said.stderr);
            continue;
        }
        let image = support::image::Image::read(&lab.work("o.tar"));
        assert_eq!(image.files["etc"].mode, [0o755, 0o700][number], "{base}");
        assert_eq!(image.files["etc/ssl"].mode, 0o755, "{base}");
        assert_eq!(image.text("etc/ssl/cert"), "c\n");
    }
}

#[test]
fn chmod_to_the_same_mode_is_an_empty_layer_on_every_base() {
    as_everybody(|lab| {
        lab.load_busybox();
        for extra in ["RUN true", "RUN cp /bin/busybox /b && mv /b /bin/busybox"] {
            lab.context("base", &[("Dockerfile", &format!("FROM busybox\n{extra}\n"))]);
            assert!(lab.run(&["build", "-q", "-t", "base", "base"]).ok());
            lab.context("ctx", &[("Dockerfile", "FROM base\nRUN chmod 755 /bin/busybox\n")]);
            let built = lab.build("ctx", &[]);
            assert_eq!(built.image.layers.last().expect("a layer"), &Vec::new(), "{:?}: {extra}", lab.who());
        }
    });
}
