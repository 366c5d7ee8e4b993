//! What goes wrong is said once: what, where, why, and what to do. The store and the outputs stay as they were.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Lab, Said, Who, as_everybody, is_root, skip};

/// Asserts the exit code, that there is one error, and that all of `words` are said.
fn fails(said: &Said, code: i32, words: &[&str], what: &str) {
    assert_eq!(said.code, code, "{what}: {}", said.stderr);
    let errors =
        said.stderr.lines().filter(|line| line.starts_with("ERROR:") || line.starts_with("unknown ") || line.starts_with("'shale"));
    assert_eq!(errors.count(), 1, "{what}: {}", said.stderr);
    for word in words {
        assert!(said.stderr.contains(word), "{what}: {word:?} is not said: {}", said.stderr);
    }
    assert!(!said.stderr.contains("panicked"), "{what}: {}", said.stderr);
    // The same cause twice, once in the system's words and once in ours, helps nobody.
    assert!(said.stderr.matches("because: No such file or directory").count() <= 1, "{what}: {}", said.stderr);
}

/// The names in the working folder and the images: what a failed build must not change.
fn state(lab: &Lab) -> (Vec<String>, String) {
    let mut names: Vec<String> =
        fs::read_dir(lab.path("work")).expect("there").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    (names, lab.run(&["images", "--no-trunc", "-q"]).stdout)
}

/// (what, Dockerfile, flags, exit code, what is said)
type Row = (&'static str, &'static str, &'static [&'static str], i32, &'static [&'static str]);

const OK: &str = "FROM scratch\nCOPY f /f\n";

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("wrong flag", OK, &["--taget", "x"], 125, &["unknown flag: --taget", "Did you mean --target?", "Usage:  shale build"]),
    ("unknown instruction", "FROM scratch\nCOPPY f /\n", &[], 1, &["Dockerfile:2", ">>> COPPY f /", "line 2: unknown instruction: COPPY (did you mean COPY?)"]),
    ("unknown flag of an instruction", "FROM scratch\nCOPY --chwon=1 f /\n", &[], 1, &["Dockerfile:2", "--chwon", "did you mean"]),
    ("no FROM", "RUN true\n", &[], 1, &["Dockerfile:1", ">>> RUN true"]),
    ("empty", "", &[], 1, &["the Dockerfile cannot be empty", "hint: "]),
    ("only comments", "# nothing\n", &[], 1, &["file with no instructions", "hint: "]),
    ("another frontend", "# syntax=example/pack:1\nFROM scratch\n", &[], 1, &["Dockerfile:1", "frontend example/pack:1 cannot be run", "hint: "]),
    ("another frontend by argument", OK, &["--build-arg", "BUILDKIT_SYNTAX=example/pack --x"], 1, &["frontend example/pack cannot be run"]),
    ("bad check", "# check=error=x\nFROM scratch\nCOPY f /\n", &[], 1, &["failed to parse check options: failed to parse check option \"error=x\": strconv.ParseBool: parsing \"x\": invalid syntax"]),
    ("bad check by argument", OK, &["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=warn=a"], 1, &["failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: invalid check option \"warn\""]),
    ("a tag without a value", "ARG V\nFROM busybox:$V\n", &[], 1, &["Dockerfile:2", "busybox:", "hint: part of it is empty: give its variable a default"]),
    ("misspelt image", "FROM apline:3.99\n", &["--build-context", "docker.io/library/apline:3.99=oci-layout://none"], 1, &["Dockerfile:1", "(did you mean alpine?)"]),
    ("unknown question", OK, &["--call", "outlien"], 1, &["unsupported request frontend.outlien", "outline"]),
    ("unknown target", "FROM scratch AS build\nCOPY f /\n", &["--target", "biuld"], 1, &["target stage \"biuld\" could not be found", "hint: ", "build"]),
    ("unknown stage", "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld /f /\n", &["--build-context", "docker.io/library/biuld=oci-layout://none"], 1, &["Dockerfile:3", "hint: is the stage \"build\" meant?"]),
    ("nobody listens", "FROM 127.0.0.1:1/x\n", &[], 1, &["Dockerfile:1", "127.0.0.1:1", "Connection refused", "hint: "]),
    ("no such host", "FROM shale.invalid/x\n", &[], 1, &["Dockerfile:1", "cannot reach shale.invalid", "hint: "]),
    ("bad image name", "FROM a/UPPER\n", &[], 1, &["Dockerfile:1", "invalid reference format"]),
    ("missing layout", "FROM b\n", &["--build-context", "b=oci-layout://none"], 1, &["Dockerfile:1", "/work/none"]),
    ("absent source", "FROM scratch\nCOPY nothing /\n", &[], 1, &["Dockerfile:2", "\"/nothing\": not found"]),
    ("misspelt source", "FROM scratch\nCOPY secrt /\n", &["-f", "ctx/Dockerfile"], 1, &["\"/secrt\": not found"]),
    ("ignored source", "FROM scratch\nCOPY secret /\n", &[], 1, &["\"/secret\": not found", "\"secret\" in line 2 of .dockerignore"]),
    ("not UTF-8", "FROM scratch\nCOPY f\u{1} /\n", &[], 1, &["line 2 of ", "is not UTF-8", "iconv"]),
    ("bad digest", "FROM b@sha256:00\n", &[], 1, &["Dockerfile:1", "b@sha256:00", "hint: a digest is sha256: with 64 hexadecimal digits"]),
    ("heredoc without an end", "FROM scratch\nCOPY <<E\nx\n", &[], 1, &["Dockerfile:2", "unterminated heredoc", "hint: no line after it"]),
    ("bad build argument", OK, &["--build-arg", "=x"], 1, &["\"=x\"", "--build-arg", "KEY=VALUE"]),
    ("bad label", OK, &["--label", "=x"], 1, &["\"=x\"", "--label"]),
    ("bad platform", OK, &["--platform", "a/b/c/d"], 1, &["a/b/c/d"]),
    ("bad output", OK, &["-o", "type=bogus"], 1, &["\"bogus\"", "known are oci"]),
    ("bad output attribute", OK, &["-o", "type=oci,compresion=gzip,dest=o.tar"], 1, &["compresion"]),
    ("bad tag", OK, &["-t", "A:b:c"], 1, &["invalid tag \"A:b:c\""]),
    ("bad epoch", OK, &["--build-arg", "SOURCE_DATE_EPOCH=yesterday"], 1, &["SOURCE_DATE_EPOCH", "yesterday"]),
    ("missing Dockerfile", OK, &["-f", "nofile"], 1, &["open nofile: no such file or directory", "hint: ", "-f"]),
    ("output in a missing folder", OK, &["-o", "type=oci,dest=no/o.tar"], 1, &["cannot write o.tar into ", "/work/no", "No such file"]),
    ("output is a folder", OK, &["-o", "type=oci,dest=ctx"], 1, &["cannot write ", "/work/ctx", "directory"]),
    ("output in no folder", OK, &["-o", "type=oci,dest=ctx/f/o.tar"], 1, &["ctx/f", "ot a directory"]),
    ("iidfile in a missing folder", OK, &["--iidfile", "no/iid"], 1, &["cannot write iid into ", "/work/no"]),
    ("metadata in a missing folder", OK, &["--metadata-file", "no/meta"], 1, &["cannot write meta into ", "/work/no"]),
];

#[test]
fn bad_builds_say_what_is_wrong_once_and_change_nothing() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n"), ("secret", "s\n"), (".dockerignore", "# no\nsecret\n")]);
        let before = state(lab);
        for (what, dockerfile, flags, code, words) in TABLE {
            lab.write("ctx/Dockerfile", dockerfile.replace('\u{1}', "\u{ff}").chars().map(|c| c as u8).collect::<Vec<u8>>());
            let said = lab.run(&[&["build", "--progress", "plain"], *flags, &["ctx"]].concat());
            let what = format!("{:?}: {what}", lab.who());
            fails(&said, *code, words, &what);
            assert_eq!(state(lab), before, "{what}");
            lab.assert_tidy(&what);
        }
    });
}

#[test]
fn bad_command_lines_and_contexts() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n")]);
        lab.write("empty/f", "");
        lab.write("buildahs/Containerfile", OK);
        lab.write("garbage.tar", "garbage");
        lab.write("zeros.tar", [0; 2048]);
        let before = state(lab);
        let rows: &[(&[&str], i32, &[&str])] = &[
            (&["bild", "ctx"], 1, &["unknown command: shale bild", "Did you mean build?"]),
            (&["build"], 1, &["'shale build' requires 1 argument", "Usage:"]),
            (&["build", "no"], 1, &["/work/no\" not found"]),
            (&["build", "ctx/f"], 1, &["must be a directory", "ctx/f"]),
            (&["build", "empty"], 1, &["open Dockerfile: no such file or directory", "hint: "]),
            (&["build", "buildahs"], 1, &["open Dockerfile: no such file or directory", "hint: there is a Containerfile instead"]),
            (&["build", "--jobs", "2", "ctx"], 125, &["--jobs is not supported yet", "hint: stages run side by side"]),
            (&["build", "-v", "/a:/b", "ctx"], 125, &["--volume is not supported yet", "hint: RUN --mount"]),
            (&["build", "-d", "r/app", "ctx"], 125, &["--destination is not supported yet", "hint: `--tag NAME --push`"]),
            (&["build", "-f", "-", "-"], 1, &["can't use stdin for both"]),
            (&["load", "-i", "garbage.tar"], 1, &["garbage.tar is no image archive: it is no tar"]),
            (&["load", "-i", "zeros.tar"], 1, &["zeros.tar is no image archive"]),
            (&["load", "-i", "no.tar"], 1, &["open no.tar: no such file or directory"]),
            (&["inspect", "none"], 1, &["No such object: none"]),
            (&["rmi", "none"], 1, &["No such image: none:latest"]),
            (&["save", "-o", "s.tar", "none"], 1, &["No such image: none:latest"]),
            (&["tag", "none", "a"], 1, &["No such image: none:latest"]),
            (&["builder", "prune", "-f", "--filter", "colour=red"], 1, &["invalid filter 'colour'"]),
        ];
        for (args, code, words) in rows {
            let what = format!("{:?}: {args:?}", lab.who());
            fails(&lab.run(args), *code, words, &what);
            assert_eq!(state(lab), before, "{what}");
        }
    });
}

#[test]
fn a_misspelt_exception_of_the_ignore_file_is_pointed_at() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY config.yml /\n"), ("config.yml", "c\n"), (".dockerignore", "*\n!confg.yml\n")]);
    let said = lab.run(&["build", "--progress", "plain", "ctx"]);
    fails(&said, 1, &["\"*\" in line 1 of .dockerignore", "is \"!confg.yml\" in line 2 meant to keep it?"], "exception");
}

#[test]
fn an_ignore_file_that_is_too_large_is_refused_and_not_cut() {
    let lab = Lab::new(Who::Caller);
    let rules = format!("{}secret\n", "x\n".repeat(9 << 20));
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("secret", "s\n"), (".dockerignore", &rules)]);
    fails(&lab.run(&["build", "ctx"]), 1, &[".dockerignore", "larger than 16 MiB"], "ignore file");
}

#[test]
fn a_comment_in_another_encoding_is_nobodys_error() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("f", "f\n")]);
    lab.write("ctx/Dockerfile", b"# Jos\xe9\nFROM scratch\nCOPY f /\n");
    assert!(lab.run(&["build", "-q", "ctx"]).ok());
}

#[test]
fn the_id_of_an_image_is_known_where_a_name_should_be() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n")]);
    lab.build("ctx", &["-t", "app:1"]);
    let short = lab.run(&["images", "-q", "app"]).stdout.trim().to_owned();
    lab.write("ctx/Dockerfile", format!("FROM {short}\n"));
    // Nobody need be asked for it.
    let absent = format!("docker.io/library/{short}=oci-layout://none");
    let said = |hint: &str| {
        let said = lab.run(&["build", "--build-context", &absent, "ctx"]);
        assert!(!said.ok() && said.stderr.contains(hint), "{}", said.stderr);
    };
    said("(did you mean app:1?)\nhint: that is the id of app:1 in the store");
    lab.context("other", &[("Dockerfile", OK), ("f", "g\n")]);
    lab.build("other", &["-t", "app:1"]);
    said("hint: that is the id of an image in the store: give it a name with `shale tag`");
}

#[test]
fn a_damaged_archive_is_refused_and_changes_nothing() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", &"f\n".repeat(1000))]);
        let archive = fs::read(lab.build("ctx", &[]).archive).expect("there");
        assert!(lab.run(&["rmi", "-f", lab.run(&["images", "-q"]).stdout.trim()]).ok());
        let before = state(lab).1;
        for (what, bytes) in [
            ("half", archive[..archive.len() / 2].to_vec()),
            ("changed", {
                let mut bytes = archive.clone();
                let at = bytes.windows(9).position(|w| w == b"mediaType").expect("a manifest");
                bytes[at] = b'M';
                bytes
            }),
        ] {
            lab.write("bad.tar", bytes);
            fails(&lab.run(&["load", "-i", "bad.tar"]), 1, &["bad.tar"], what);
            assert_eq!(state(lab).1, before, "{what}");
        }
    });
}

#[test]
fn a_run_that_cannot_be_run_says_what_it_lacks() {
    as_everybody(|lab| {
        lab.load_busybox();
        let rows: &[(&str, &[&str])] = &[
            ("RUN nosuch --flag", &["/bin/sh: nosuch: not found", "exit code: 127", "full output of the step: "]),
            ("RUN [\"nosuch\"]", &["exec: \"nosuch\": executable file not found in $PATH"]),
            ("RUN [\"/etc/passwd\"]", &["/etc/passwd", "permission denied"]),
            ("SHELL [\"/bin/bash\", \"-c\"]\nRUN true", &["/bin/bash", "no such file or directory"]),
            ("RUN exit 42", &["exit code: 42"]),
            ("RUN sh -c 'kill -9 $$'; exit $?", &["exit code: 137"]),
            ("USER nobody-knows\nRUN true", &["nobody-knows"]),
        ];
        for (text, words) in rows {
            lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\n{text}\n"))]);
            let what = format!("{:?}: {text}", lab.who());
            let said = lab.run(&["build", "--progress", "plain", "ctx"]);
            fails(&said, 1, words, &what);
            assert!(said.stderr.contains(">>> RUN"), "{what}: {}", said.stderr);
            lab.assert_tidy(&what);
        }
    });
}

#[test]
fn a_store_that_cannot_be_used_is_named() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n")]);
        let run = |root: &str| Said::of(lab.shale(&["build", "ctx"]).env("SHALE_ROOT", root).output().expect("shale starts"));
        lab.write("full/of/things", "");
        for (root, words) in [
            ("full", &["/work/full is no store", "hint: set SHALE_ROOT"][..]),
            ("ctx/f", &["cannot create the store ", "ctx/f", "hint: set SHALE_ROOT"]),
            ("/proc/shale", &["/proc/shale", "hint: set SHALE_ROOT"]),
        ] {
            fails(&run(root), 1, words, root);
        }
        if !is_root() {
            return;
        }
        let foreign = lab.work("foreign");
        fs::create_dir(&foreign).expect("mkdir");
        chown(&foreign, Some(1234), Some(1234)).expect("chown");
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).expect("chmod");
        fails(&run("foreign"), 1, &["/work/foreign belongs to uid 1234", "hint: "], "foreign");
        if lab.who() == Who::Played {
            let closed = lab.work("closed");
            fs::create_dir(&closed).expect("mkdir");
            fails(&run("closed/store"), 1, &["not allowed to create the store", "hint: set SHALE_ROOT"], "closed");
            for (flag, value) in [("-o", "type=oci,dest=closed/o"), ("--iidfile", "closed/o"), ("--metadata-file", "closed/o")] {
                fails(&lab.run(&["build", flag, value, "ctx"]), 1, &["cannot write o into ", "/closed", "Permission denied"], flag);
            }
        }
    });
}

#[test]
fn standard_output_that_is_full_or_closed() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", &"f\n".repeat(100_000))]);
        let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").expect("a device"));
        for args in [&["build", "-q", "ctx"][..], &["build", "--progress", "plain", "-o", "type=oci,dest=-", "ctx"], &["images"]] {
            let said = Said::of(lab.shale(args).stdout(full()).output().expect("shale starts"));
            fails(&said, 1, &["No space left on device"], &format!("{args:?}"));
        }
        fails(&lab.run(&["build", "-o", "type=oci,dest=/dev/full", "ctx"]), 1, &["cannot write /dev/full", "No space left"], "a device");
        // The limit that a pipeline sets itself is an error like a full disk.
        let program = lab.path("shale").to_str().expect("text").to_owned();
        let limited = ["-c", "ulimit -f 100; exec \"$@\"", "sh", &program, "build", "-o", "type=tar,dest=o.tar", "ctx"];
        let said = Said::of(lab.command_of("sh", &limited).output().expect("sh starts"));
        fails(&said, 1, &["File too large"], "a limit");
        // A reader that has seen enough is no error to talk about.
        let mut child = lab.shale(&["build", "-q", "-o", "type=oci,dest=-,compression=uncompressed", "ctx"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shale starts");
        drop(child.stdout.take());
        let said = Said::of(child.wait_with_output().expect("it ends"));
        assert_eq!((said.code, said.stderr.as_str()), (141, ""), "a closed pipe");
        lab.assert_tidy("output");
    });
}

/// `>&-`: what is written there would be lost, and whoever asks for the exit code would not know.
#[test]
fn a_closed_standard_output_is_an_error_for_whoever_has_something_to_write() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n")]);
        assert!(lab.run(&["build", "-q", "-t", "app", "ctx"]).ok());
        let closed = |args: &[&str]| {
            let binary = lab.path("shale");
            let all = [&["-c", "exec \"$@\" >&-", "sh", binary.to_str().expect("text")], args].concat();
            Said::of(lab.command_of("sh", &all).output().expect("sh starts"))
        };
        for args in
            [&["images"][..], &["inspect", "app"], &["save", "app"], &["--version"], &["build", "-q", "ctx"], &["build", "-o", "-", "ctx"]]
        {
            fails(&closed(args), 1, &["cannot write to standard output", "Bad file descriptor"], &format!("{args:?}"));
        }
        for args in [&["tag", "app", "app:2"][..], &["build", "ctx"], &["save", "-o", "app.tar", "app"]] {
            let said = closed(args);
            assert!(said.ok(), "{:?}: {args:?}: {}", lab.who(), said.stderr);
        }
        // Not one that somebody opened, for reading as well.
        let null = fs::File::options().read(true).write(true).open("/dev/null").expect("a device");
        assert!(lab.shale(&["images"]).stdout(null).status().expect("shale starts").success());
    });
}

#[test]
fn what_is_no_date_and_no_archive_is_said_in_a_line() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", OK), ("f", "f\n")]);
        for epoch in ["99999999999999", "-99999999999999", "-99999999999"] {
            let said = lab.run(&["build", "--progress", "plain", "--build-arg", &format!("SOURCE_DATE_EPOCH={epoch}"), "ctx"]);
            fails(&said, 1, &[&format!("invalid SOURCE_DATE_EPOCH: {epoch}"), "hint: seconds since 1970"], epoch);
        }
        // Lines of the file are nobody's to read.
        lab.write("passwd", "root:x:0:0:root\x1b:/root:/bin/bash\ndaemon:x:1:1:\n".repeat(40));
        for args in [&["load", "-i", "passwd"][..], &["import", "passwd"]] {
            let said = lab.run(args);
            assert_ne!(said.code, 0, "{args:?}");
            assert!(!said.stderr.contains("daemon") && !said.stderr.contains('\x1b'), "{args:?}: {}", said.stderr);
        }
    });
}

/// A range that an administrator gives anew makes what was unpacked before unreadable: who needs it hears what to do.
#[test]
fn layers_of_another_range_of_ids_are_told() {
    if !support::has_other() {
        return;
    }
    let lab = Lab::new(Who::Played);
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN chown 5:5 /etc/passwd\n")]);
    assert!(lab.run(&["build", "-q", "-t", "own", "ctx"]).ok());
    for file in ["subuid", "subgid"] {
        let path = lab.path(&format!("etc/{file}"));
        let text = fs::read_to_string(&path).expect("accounts").replace(":65536", ":65000");
        fs::write(&path, text).expect("accounts");
    }
    let said = lab.run(&["save", "-o", "own.tar", "own"]);
    assert!(!said.ok() && said.stderr.contains("was unpacked for other ids than ours"), "{}", said.stderr);
    let said = lab.run(&["build", "-o", "type=oci,dest=o.tar", "ctx"]);
    assert!(!said.ok() && said.stderr.contains("for other ids") && said.stderr.contains("shale builder prune --all"), "{}", said.stderr);
    assert!(lab.run(&["builder", "prune", "--all", "--force"]).ok());
    lab.build("ctx", &[]);
}

/// A store on a file system of its own.
struct OwnDisk {
    path: std::path::PathBuf,
}

impl OwnDisk {
    /// One of a few megabytes.
    fn small(lab: &Lab) -> Self {
        Self::mount(lab, &["-t", "tmpfs", "-o", "size=20m,mode=777", "shale-test"])
    }

    /// One as the root of a container is.
    fn overlay(lab: &Lab) -> Self {
        let part = |name: &str| {
            let path = lab.path(&format!("home/{name}"));
            fs::create_dir(&path).expect("mkdir");
            // The overlay has the mode of the upper directory.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
            path.display().to_string()
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", part("l"), part("u"), part("w"));
        Self::mount(lab, &["-t", "overlay", "-o", &options, "shale-test"])
    }

    fn mount(lab: &Lab, args: &[&str]) -> Self {
        let path = lab.path("home/disk");
        fs::create_dir(&path).expect("mkdir");
        assert!(Command::new("mount").args(args).arg(&path).status().expect("mount starts").success());
        Self { path }
    }
}

impl Drop for OwnDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

#[test]
fn a_store_that_cannot_hold_an_overlay_is_told() {
    if !is_root() {
        return skip("store on an overlay", "only root can mount one");
    }
    as_everybody(|lab| {
        let disk = OwnDisk::overlay(lab);
        let run = |args: &[&str]| {
            let said = lab.shale(args).env("SHALE_ROOT", disk.path.join("store")).output();
            Said::of(said.expect("shale starts"))
        };
        lab.write("ctx/rootfs.tar", support::busybox_rootfs());
        lab.write("ctx/Dockerfile", "FROM scratch\nADD rootfs.tar /\nRUN true\n");
        let said = run(&["build", "ctx"]);
        assert!(!said.ok() && said.stderr.contains("is on overlayfs") && said.stderr.contains("set SHALE_ROOT"), "{}", said.stderr);
        let said = run(&["doctor"]);
        assert!(said.stdout.contains("is on overlayfs") && said.stdout.contains("set SHALE_ROOT"), "{}{}", said.stdout, said.stderr);
        lab.write("ctx/Dockerfile", "FROM scratch\nADD rootfs.tar /\n");
        assert!(run(&["build", "ctx"]).ok(), "{:?}: nothing runs", lab.who());
    });
}

#[test]
fn a_full_disk_is_said_and_survived() {
    if !is_root() {
        return skip("full disk", "only root can mount a small one");
    }
    as_everybody(|lab| {
        let disk = OwnDisk::small(lab);
        let root = disk.path.join("store");
        let run = |args: &[&str]| Said::of(lab.shale(args).env("SHALE_ROOT", &root).output().expect("shale starts"));
        let is_empty = |name: &str| fs::read_dir(root.join(name)).expect("there").next().is_none();
        let tidy = |what: &str| {
            let start = Instant::now();
            // Behind a build that did something another process looks after the store.
            while !["tmp", "trash", "locks"].into_iter().all(is_empty) {
                assert!(start.elapsed() < Duration::from_secs(30), "{:?}: {what}: something is left", lab.who());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        lab.write("busybox/rootfs.tar", support::busybox_rootfs());
        lab.write("busybox/Dockerfile", "FROM scratch\nADD rootfs.tar /\n");
        assert!(run(&["build", "-q", "-t", "busybox", "busybox"]).ok());
        let big: Vec<u8> = (0..40_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        lab.write("ctx/big", &big);
        for (text, words) in [
            ("RUN dd if=/dev/zero of=/big bs=1M count=40", &["No space left on device", "exit code: 1"][..]),
            ("COPY big /\nRUN true", &["No space left on device", "hint: free some space"]),
            ("COPY big /", &["No space left on device", "hint: free some space"]),
        ] {
            lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\n{text}\n"))]);
            fails(&run(&["build", "--progress", "plain", "ctx"]), 1, words, text);
            tidy(text);
        }
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo fits >/f\n")]);
        let said = run(&["build", "-q", "ctx"]);
        assert!(said.ok(), "the store works on: {}", said.stderr);
        let output = format!("type=oci,dest={}", disk.path.join("o.tar").display());
        let mut fill = fs::File::create(disk.path.join("fill")).expect("create");
        while fill.write_all(&[1; 4 << 10]).is_ok() {}
        // What is named is the file that was asked for, or the store, and nothing empty is left for whoever looks for it.
        lab.context("plain", &[("Dockerfile", "FROM scratch\nCOPY big /dir/big\n"), ("big", &"big\n".repeat(100_000))]);
        let place = |name: &str| disk.path.join(name).display().to_string();
        for (flag, value, name) in [
            ("-o", format!("type=tar,dest={}", place("x.tar")), "x.tar"),
            ("--iidfile", place("iid"), "iid"),
            ("--metadata-file", place("m"), "m"),
        ] {
            fails(&lab.run(&["build", flag, &value, "plain"]), 1, &[&format!("cannot write {}: No space left", place(name))], flag);
            assert!(!disk.path.join(name).exists(), "{:?}: {flag}", lab.who());
        }
        fails(&run(&["save", "-o", "saved.tar", "busybox"]), 1, &["o space left to ", "/store/", "hint: free some space"], "save");
        // Nothing is wrong with what is read.
        assert!(lab.run(&["build", "-q", "-o", "type=docker,compression=gzip,name=plain,dest=plain.tar", "plain"]).ok());
        for args in [&["import", "busybox/rootfs.tar"][..], &["load", "-i", "plain.tar"]] {
            let said = run(args);
            fails(&said, 1, &["o space left", "hint: free some space"], args[0]);
            assert!(!said.stderr.contains("invalid"), "{}", said.stderr);
        }
        fails(&run(&["build", "--progress", "plain", "-o", &output, "ctx"]), 1, &["o space left"], "export");
        assert!(!disk.path.join("o.tar").exists());
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo more >/f\n")]);
        fails(&run(&["build", "--progress", "plain", "ctx"]), 1, &["o space left"], "a full disk");
        drop(fill);
        fs::remove_file(disk.path.join("fill")).expect("rm");
        let said = run(&["build", "-q", "-o", &output, "ctx"]);
        assert!(said.ok(), "the store works on: {}", said.stderr);
        tidy("after all");
    });
}

#[test]
fn what_nobody_gave_is_asked_for_when_a_step_fails_without_it() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile =
            "FROM busybox AS one\nRUN --mount=type=secret,id=token --mount=type=ssh cat /run/secrets/token\nFROM busybox\nRUN false\n";
        lab.context("ctx", &[("Dockerfile", dockerfile)]);
        let said = lab.run(&["build", "--target", "one", "ctx"]);
        let hint = "\nhint: the step mounts what nobody gave: is --ssh default --secret id=token,src=FILE missing?\n";
        assert!(said.code == 1 && said.stderr.contains(hint), "{:?}: {}", lab.who(), said.stderr);
        let said = lab.run(&["build", "--no-cache-filter", "One,onne", "ctx"]);
        assert!(said.code == 1 && !said.stderr.contains("hint:"), "{:?}: {}", lab.who(), said.stderr);
        let warned = "\n[Warning] --no-cache-filter names stages that are not in the file: onne (did you mean one?)\n";
        assert!(said.stderr.contains(warned), "{:?}: {}", lab.who(), said.stderr);
        let said = lab.run(&["build", "--no-cache-filter", "stage-1", "ctx"]);
        assert!(said.stderr.contains("not in the file: stage-1 (stages of this file: one)\n"), "{:?}: {}", lab.who(), said.stderr);
        std::os::unix::fs::symlink("/etc/passwd", lab.work("ctx/out")).expect("a link");
        lab.write("ctx/Dockerfile", "FROM scratch\nCOPY out /\n");
        let said = lab.run(&["build", "ctx"]);
        let hint = "\nhint: out is a link to /etc/passwd, which the context does not have\n";
        assert!(said.code == 1 && said.stderr.contains(hint), "{:?}: {}", lab.who(), said.stderr);
        let said = lab.run(&["build", "-f", "ctx/none", "ctx"]);
        let hint =
            format!("\nhint: there is no {}: the path after -f begins at the working directory, not at", lab.work("ctx/none").display());
        assert!(said.code == 1 && said.stderr.contains(&hint), "{:?}: {}", lab.who(), said.stderr);
        lab.write("ctx/Dockerfile", "FROM scratch\nCOPY ../above /\n");
        let said = lab.run(&["build", "ctx"]);
        assert!(said.stderr.contains("\nhint: sources begin at the context and cannot leave it"), "{:?}: {}", lab.who(), said.stderr);
        for (mount, hint) in [("secret,id=tok", "--secret id=tok,src=FILE"), ("ssh", "--ssh default (the agent of SSH_AUTH_SOCK)")] {
            lab.write("ctx/Dockerfile", format!("FROM busybox\nRUN --mount=type={mount},required true\n"));
            let said = lab.run(&["build", "ctx"]);
            assert!(said.stderr.contains(&format!("\nhint: give it with {hint}")), "{:?}: {}", lab.who(), said.stderr);
        }
    });
}

/// It is written beside the next step, when its own is over.
#[test]
fn a_record_that_cannot_be_written_fails_the_build() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("first", &[("Dockerfile", "FROM busybox\nRUN echo 0 >/f\n")]);
        assert!(lab.run(&["build", "-q", "first"]).ok());
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo 1 >/f\nRUN echo 2 >/g\n")]);
        let steps = lab.store().join("steps");
        let taken: Vec<_> = (0..=255).map(|byte| steps.join(format!("{byte:02x}"))).filter(|path| !path.exists()).collect();
        for path in &taken {
            fs::write(path, "").expect("written");
        }
        let said = lab.run(&["build", "-t", "app", "ctx"]);
        fails(&said, 1, &["/steps/", "Not a directory"], &format!("{:?}", lab.who()));
        assert_eq!(lab.run(&["images", "-q", "app"]).stdout, "", "{:?}", lab.who());
        for path in &taken {
            fs::remove_file(path).expect("removed");
        }
        let said = lab.run(&["build", "-t", "app", "ctx"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
    });
}
