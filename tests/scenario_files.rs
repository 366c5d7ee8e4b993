//! `type=local` and `type=tar`: the files of an image, without layers.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;

use support::image::{Image, Node, tar_entries};
use support::{Lab, Said, Who, as_everybody, skip};

const RICH: &str = "FROM busybox AS base\n\
    RUN mkdir -p /a/b /closed && echo x >/a/b/f && ln /a/b/f /a/b/g && ln -s ../b /a/s && chown 1000:50 /a/b/f && chmod 4755 /a/b/f \
    && echo y >/closed/y && chmod 555 /closed && mkfifo /a/p && rm /etc/group && echo gone >/a/gone\n\
    RUN rm /a/gone && chmod 600 /etc/passwd\n\
    FROM base\nCOPY --chown=7:8 words /words\n";

fn rich(lab: &Lab) {
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", RICH), ("words", "hello\n")]);
}

fn by_path(entries: Vec<(String, Node)>) -> BTreeMap<String, Node> {
    entries.into_iter().collect()
}

#[test]
fn a_tar_holds_what_the_layers_make_together() {
    as_everybody(|lab| {
        rich(lab);
        let said = lab.run(&["build", "--progress", "plain", "-o", "type=tar,dest=out.tar", "-o", "type=oci,dest=oci.tar", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let files = by_path(tar_entries(&fs::read(lab.work("out.tar")).unwrap()));
        let image = Image::read(&lab.work("oci.tar"));
        let names = |files: &BTreeMap<String, Node>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&files), names(&image.files), "{:?}", lab.who());
        for (path, node) in &image.files {
            let ours = &files[path];
            assert_eq!((ours.mode, ours.owner, ours.mtime), (node.mode, node.owner, node.mtime), "{path}");
            let content = if ours.kind == '1' { &files[&ours.link].content } else { &ours.content };
            assert_eq!(content, &node.content, "{path}");
        }
        assert_eq!((files["a/b/g"].kind, files["a/b/g"].link.as_str()), ('1', "a/b/f"));
        assert_eq!(files["words"].owner, (7, 8));
        // A second time the same bytes, now on standard output.
        let again = lab.shale(&["build", "-o", "-", "ctx"]).output().unwrap();
        assert!(again.stdout == fs::read(lab.work("out.tar")).unwrap(), "{:?}: not the same bytes", lab.who());
    });
}

#[test]
fn a_directory_holds_the_files_as_the_caller_s_own() {
    as_everybody(|lab| {
        rich(lab);
        let said = lab.run(&["build", "--progress", "plain", "-o", "out", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let meta = |name: &str| fs::symlink_metadata(lab.work("out").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let owner = meta("a/b/f");
        assert_eq!(owner.uid(), meta(".").uid(), "{:?}", lab.who());
        assert_eq!((owner.mode() & 0o7777, owner.nlink(), owner.ino()), (0o4755, 2, meta("a/b/g").ino()));
        assert_eq!(meta("closed").mode() & 0o7777, 0o555);
        assert!(meta("a/p").mode() & 0o170_000 == 0o010_000);
        assert_eq!(fs::read_link(lab.work("out/a/s")).unwrap().to_str(), Some("../b"));
        assert!(!lab.work("out/a/gone").exists() && !lab.work("out/etc/group").exists());
        assert_eq!(fs::read_to_string(lab.work("out/closed/y")).unwrap(), "y\n");
        // Over itself, with a stranger in it that stays.
        lab.write("out/stranger", "stays");
        let again = lab.run(&["build", "-o", "type=local,dest=out", "ctx"]);
        assert!(again.ok(), "{:?}: {}", lab.who(), again.stderr);
        assert!(lab.work("out/stranger").exists() && lab.work("out/words").exists());
        let mirrored = lab.run(&["build", "-o", "type=local,dest=out,mode=delete", "ctx"]);
        assert!(mirrored.ok(), "{:?}: {}", lab.who(), mirrored.stderr);
        assert!(!lab.work("out/stranger").exists() && lab.work("out/words").exists());
        // So that whoever the caller is can delete it.
        fs::set_permissions(lab.work("out/closed"), fs::Permissions::from_mode(0o755)).unwrap();
        // No image comes of it.
        assert_eq!(lab.run(&["images", "-q"]).stdout.lines().count(), 1);
    });
}

#[test]
fn nothing_is_written_outside_of_the_directory() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY tree /\n"), ("tree/dir/file", "new"), ("tree/plain", "new")]);
        lab.write("outside/file", "old");
        lab.write("victim", "old");
        lab.write("out/keep", "kept");
        // What lies in the way are links to the outside, and a folder where a file goes.
        symlink(lab.work("outside"), lab.work("out/dir")).unwrap();
        symlink(lab.work("victim"), lab.work("out/plain")).unwrap();
        let said = lab.run(&["build", "-o", "out", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(fs::read_to_string(lab.work("outside/file")).unwrap(), "old");
        assert_eq!(fs::read_to_string(lab.work("victim")).unwrap(), "old");
        assert_eq!(fs::read_to_string(lab.work("out/dir/file")).unwrap(), "new");
        assert_eq!(fs::read_to_string(lab.work("out/plain")).unwrap(), "new");
        assert!(lab.work("out/keep").exists());
        // A folder gives way to a file.
        fs::remove_file(lab.work("out/plain")).unwrap();
        lab.write("out/plain/deep/er", "x");
        let said = lab.run(&["build", "-o", "out", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(fs::read_to_string(lab.work("out/plain")).unwrap(), "new");
    });
}

/// The worker sends what only it can read: that nobody takes it any more is not what went wrong.
#[test]
fn a_directory_that_cannot_be_written_is_what_is_told() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox\nRUN head -c 300000 /dev/zero >/z && chown 7 /z && chmod 600 /z\n";
        lab.context("ctx", &[("Dockerfile", dockerfile), ("file", "")]);
        for (place, why) in [("ctx/file", "File exists"), ("/proc/1/out", "No such file or directory"), ("/dev/null/x", "Not a directory")]
        {
            let said = lab.run(&["build", "--progress", "plain", "-o", place, "ctx"]);
            assert_eq!(said.code, 1, "{place}: {}", said.stderr);
            assert!(said.stderr.contains(why) && !said.stderr.contains("worker process"), "{:?} {place}: {}", lab.who(), said.stderr);
        }
    });
}

#[test]
fn deleting_outside_of_the_working_directory_needs_leave() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "")]);
    for place in [".", "..", "/tmp/shale-no-such-place"] {
        let output = format!("type=local,dest={place},mode=delete");
        let said = lab.run(&["build", "-o", &output, "ctx"]);
        assert_eq!(said.code, 1);
        let sentence = "local output mode=delete for destination";
        assert!(said.stderr.contains(sentence) && said.stderr.contains("requires --allow=buildx.local.delete"), "{}", said.stderr);
    }
    lab.write("home/out/old", "");
    let elsewhere = lab.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("old"), "").unwrap();
    let output = format!("type=local,dest={},mode=delete", elsewhere.display());
    let said = lab.run(&["build", "--allow", "buildx.local.delete", "-o", &output, "ctx"]);
    assert!(said.ok(), "{}", said.stderr);
    assert!(!elsewhere.join("old").exists() && elsewhere.join("f").exists());
}

#[test]
fn the_epoch_is_the_time_of_every_file() {
    as_everybody(|lab| {
        rich(lab);
        let build = |args: &[&str]| {
            let mut command = lab.shale(&[&["build", "-o", "-"], args, &["ctx"]].concat());
            command.env("SOURCE_DATE_EPOCH", "1600000000");
            command.output().unwrap().stdout
        };
        let first = build(&[]);
        let entries = tar_entries(&first);
        assert!(entries.len() > 20 && entries.iter().all(|(_, node)| node.mtime == 1_600_000_000), "{:?}", lab.who());
        assert!(first == build(&["--no-cache"]), "{:?}: another run, other bytes", lab.who());
    });
}

#[test]
fn files_that_were_only_copied_need_no_namespace() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY a /x/\nCOPY --chown=5:6 b /x/\n"), ("a", "1"), ("b", "2")]);
        let binary = lab.path("shale");
        let script = "echo 0 >/proc/sys/user/max_user_namespaces && echo 0 >/proc/sys/user/max_mnt_namespaces && exec \"$@\"";
        let build = [binary.to_str().expect("text"), "build", "-o", "type=tar,dest=out.tar", "-o", "out", "ctx"];
        let args = [&["-Ur", "sh", "-c", script, "sh"], &build[..]].concat();
        let said = Said::of(lab.command_of("unshare", &args).output().expect("unshare starts"));
        if said.stderr.contains("unshare:") {
            return skip("no namespaces", &said.stderr);
        }
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let files = by_path(tar_entries(&fs::read(lab.work("out.tar")).unwrap()));
        assert_eq!((files["x/a"].owner, files["x/b"].owner), ((0, 0), (5, 6)));
        assert_eq!(fs::read_to_string(lab.work("out/x/b")).unwrap(), "2");
    });
}

#[test]
fn names_that_an_image_cannot_hold_are_told() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox\nCOPY f /d/.wh.f\nRUN touch /etc/.wh.a /etc/.wh.b\nRUN touch /etc/a.wh.b\n";
        lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "x")]);
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let told: Vec<_> = said.stderr.lines().filter_map(|line| line.split_once("warning: ")).map(|(_, text)| text).collect();
        let text = |what: &str| format!("{what} is no file in an image, where names that begin with .wh. stand for what was removed");
        assert_eq!(told, [text("/d/.wh.f"), text("/etc/.wh.a (and 1 more)")], "{:?}: {}", lab.who(), said.stderr);
    });
}

#[test]
fn accounts_are_found_where_links_lead() {
    as_everybody(|lab| {
        lab.load_busybox();
        let base = "FROM busybox\n\
            RUN mkdir /nix && echo build:x:1001:1002::/home/b:/bin/sh >/nix/passwd && ln -sf ../nix/passwd /etc/passwd && rm /etc/group\n";
        lab.context("base", &[("Dockerfile", base)]);
        let said = lab.run(&["build", "-t", "based", "base"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let save = lab.run(&["save", "-o", "base.tar", "based"]);
        assert!(save.ok(), "{:?}: {}", lab.who(), save.stderr);
        let copied = "COPY --chown=build words /words\nUSER build\nWORKDIR /made\n";
        for (context, run) in [("packed", ""), ("unpacked", "RUN [ $(id -u):$(id -g) = 1001:1002 ] && touch /tmp/x\n")] {
            // Nothing but tars is left of the base the first time.
            for done in [lab.run(&["image", "prune", "-af"]), lab.run(&["builder", "prune", "-af"]), lab.run(&["load", "-i", "base.tar"])] {
                assert!(done.ok(), "{:?}: {}", lab.who(), done.stderr);
            }
            lab.context(context, &[("Dockerfile", &format!("FROM based\n{copied}{run}")), ("words", "hello\n")]);
            let said = lab.run(&["build", "--progress", "plain", "-o", "type=oci,dest=oci.tar", context]);
            assert!(said.ok(), "{:?} {context}: {}", lab.who(), said.stderr);
            let files = Image::read(&lab.work("oci.tar")).files;
            assert_eq!((files["words"].owner, files["made"].owner), ((1001, 1002), (1001, 1002)), "{:?} {context}", lab.who());
            assert_eq!(files.get("tmp/x").map(|node| node.owner), Some((1001, 1002)).filter(|_| !run.is_empty()), "{context}");
        }
    });
}

#[test]
fn builds_that_add_to_one_layout_at_once_lose_nothing_and_mend_what_is_damaged() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nARG N\nCOPY f /f\nLABEL n=$N\n"), ("f", "content\n")]);
        let args = |n: usize| {
            let output = format!("type=oci,tar=false,dest=layout,name=example.com/a:{n}");
            ["build", "-q", "-o", &output, "--build-arg", &format!("N={n}"), "ctx"].map(str::to_owned)
        };
        let children: Vec<_> = (0..6)
            .map(|n| lab.shale(&args(n).each_ref().map(String::as_str)).stdout(Stdio::null()).spawn().expect("shale starts"))
            .collect();
        assert!(children.into_iter().all(|mut child| child.wait().expect("it ends").success()));
        let index: serde_json::Value = serde_json::from_slice(&fs::read(lab.work("layout/index.json")).expect("there")).expect("JSON");
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(6), "{:?}: {index}", lab.who());
        // A power loss can leave a blob of the right length.
        let blobs = || fs::read_dir(lab.work("layout/blobs/sha256")).expect("there").map(|entry| entry.expect("there").path());
        let is_whole = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
            shale_cache::OciDigest::sha256_of(&fs::read(path).expect("read")).hex() == name
        };
        for blob in blobs() {
            let zeros = vec![0; fs::metadata(&blob).expect("there").len() as usize];
            fs::write(&blob, zeros).expect("written");
        }
        for n in 0..6 {
            assert!(lab.run(&args(n).each_ref().map(String::as_str)).ok());
        }
        assert!(blobs().all(|blob| is_whole(&blob)), "{:?}", lab.who());
        let hidden =
            fs::read_dir(lab.work("layout")).expect("there").filter(|e| e.as_ref().expect("there").file_name().as_bytes()[0] == b'.');
        assert_eq!(hidden.count(), 0, "{:?}", lab.who());
    });
}
