//! `shale bench`: the scenarios on shale and on another builder, in private.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::processes::{send, wait_at_most};
use support::{Lab, Said, Who, as_everybody};

/// Every path below a folder with size and time.
fn listing(lab: &Lab, dir: &str) -> String {
    let out = lab.command_of("find", &[dir, "-printf", "%p %s %T@\n"]).output().expect("find");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// shale with a folder of its own for what it makes.
fn bench(lab: &Lab, args: &[&str]) -> Command {
    let tmp = lab.work("tmp");
    if !tmp.exists() {
        lab.write("tmp/.keep", "");
    }
    let mut command = lab.shale(&["bench"]);
    command.args(args).env("TMPDIR", tmp);
    command
}

fn run(lab: &Lab, args: &[&str]) -> Said {
    Said::of(bench(lab, args).output().expect("shale starts"))
}

/// What lies in the folder for temporary files.
fn left_over(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.work("tmp")).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != ".keep").collect()
}

/// (scenario, hits, misses) of a builder.
fn figures(report: &Value, tool: usize) -> Vec<(&str, u64, u64)> {
    let of = |figures: &'_ Value, name: &str| figures[name].as_u64().expect("a number");
    let scenarios = report["tools"][tool]["scenarios"].as_array().expect("scenarios").iter();
    scenarios.map(|figures| (figures["scenario"].as_str().expect("a name"), of(figures, "hits"), of(figures, "misses"))).collect()
}

#[test]
fn the_sample_is_built_in_private() {
    as_everybody(|lab| {
        lab.load_busybox();
        let before = lab.run(&["images", "--no-trunc"]).stdout + &lab.run(&["builds", "-q"]).stdout;
        let rounds = if lab.who() == Who::Caller { 2 } else { 1 };
        let said = run(lab, &[&format!("--rounds={rounds}"), "--format=json", "--svg", "chart.svg"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!((&report["base"], &report["touched"]), (&"busybox:latest".into(), &"src/50.txt".into()), "{report}");
        let expected = [
            ("cold", 0, 6),
            ("unchanged", 6, 0),
            ("touched-file", 4, 2),
            // The early step alone: what it makes is the same.
            ("same-result", 5, 1),
            ("other-result", 3, 3),
            // What is copied stays.
            ("changed-base", 2, 4),
        ];
        assert_eq!(figures(&report, 0), expected, "{:?}", lab.who());
        let scenarios = &report["tools"][0]["scenarios"];
        assert_eq!(scenarios[0]["all_seconds"].as_array().map(Vec::len), Some(rounds));
        // The cold build has written something, and a process that nobody waits for writes that back.
        assert!(scenarios[0]["behind_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{scenarios}");
        assert!(scenarios[0]["bytes"].as_u64() > scenarios[2]["bytes"].as_u64() && scenarios[1]["bytes"] == 0, "{scenarios}");
        let chart = fs::read_to_string(lab.work("chart.svg")).expect("a chart");
        is_well_formed(&chart);
        assert!(chart.contains("<svg ") && chart.contains("an early step changed, same result"), "{chart}");
        assert_eq!(lab.run(&["images", "--no-trunc"]).stdout + &lab.run(&["builds", "-q"]).stdout, before);
        assert_eq!(left_over(lab), [""; 0], "{:?}", lab.who());
    });
}

/// Every element is closed by its name, and nothing stands bare that is markup elsewhere.
fn is_well_formed(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in xml.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{part}");
        let is_entity = |rest: &str| ["amp;", "lt;", "gt;", "quot;"].iter().any(|name| rest.starts_with(name));
        assert!(part.split('&').skip(1).all(is_entity), "{part}");
        let name = tag.split([' ', '/']).find(|name| !name.is_empty()).expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else if !tag.ends_with('/') && !tag.starts_with('?') {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
}

/// A buildah that finds every step but those of a cold build, and writes down how it was called.
const BUILDAH: &str = r#"#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
  --version) echo "buildah version 9.8.7 (image-spec 1.0, runtime-spec 1.0)" ;;
  *" bud "*)
    cache='--> Using cache 123'
    case "$*" in *--no-cache*) cache='--> 123' ;; esac
    printf 'STEP 1/4: FROM busybox\nSTEP 2/4: ENV A=1\n%s\nSTEP 3/4: COPY . /\n%s\nSTEP 4/4: RUN true\n%s\nCOMMIT x\n' "$cache" "$cache" "$cache" ;;
esac
"#;

/// A docker without a daemon.
const DOCKER: &str = r#"#!/bin/sh
case "$*" in
  --version) echo "Docker version 99.1.2, build abc" ;;
  *) echo "Cannot connect to the Docker daemon at unix:///run/x. Is the docker daemon running?" >&2; exit 1 ;;
esac
"#;

fn fake(lab: &Lab, name: &str, script: &str) {
    let path = lab.write(&format!("bin/{name}"), script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn other_builders_get_the_same_and_nothing_of_the_user_s_changes() {
    as_everybody(|lab| {
        lab.load_busybox();
        fake(lab, "buildah", BUILDAH);
        fake(lab, "docker", DOCKER);
        let dockerfile = "FROM scratch AS other\nCOPY ignored /\nFROM busybox AS tools\nRUN --network=none \\\n  echo tool >/tool\nFROM busybox\n\
            ARG WHAT=x\nCOPY --from=tools /tool /tool\nCOPY --from=lib . /lib\nCOPY . /src\n\
            RUN --mount=type=secret,id=s,required grep -q vault /etc/hosts && echo $WHAT; cat /src/a >/b\n";
        lab.context("ctx", &[("Dockerfile", dockerfile), (".dockerignore", "ignored\n"), ("ignored", "i\n"), ("a", "1\n"), ("old", "o\n")]);
        let old = fs::File::options().write(true).open(lab.work("ctx/old")).expect("open");
        old.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
        let before = listing(lab, "ctx");
        let path = format!("{}:{}", lab.work("bin").display(), std::env::var("PATH").expect("a PATH"));
        let args = ["--rounds=1", "--against=buildah,docker,podman", "--format=json", "--build-arg", "WHAT=y", "--touch=a", "ctx"];
        lab.write("secret", "s\n");
        lab.context("libs", &[("l", "l\n")]);
        let args: Vec<&str> = args
            .into_iter()
            .chain(["--build-context=lib=libs", "--secret=id=s,src=secret", "--add-host=vault:10.1.2.3", "--network=none"])
            .collect();
        let mut command = bench(lab, &args);
        // There is no podman here, whatever the machine has.
        let bare = lab.work("bin");
        for tool in ["sh", "newuidmap", "newgidmap", "umount"] {
            let found = path.split(':').map(|dir| PathBuf::from(dir).join(tool)).find(|file| file.exists());
            if let Some(found) = found {
                std::os::unix::fs::symlink(found, bare.join(tool)).ok();
            }
        }
        command.env("CALLS", lab.work("calls"));
        let said = Said::of(with_path(lab, command, &bare).output().expect("shale starts"));
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
        let tools = report["tools"].as_array().expect("tools");
        assert_eq!((&tools[1]["name"], &tools[1]["version"]), (&"buildah".into(), &"9.8.7".into()), "{report}\n{}", said.stderr);
        assert_eq!(figures(&report, 1)[..2], [("cold", 0, 2), ("unchanged", 2, 0)], "{report}");
        assert_eq!(figures(&report, 0)[..3], [("cold", 0, 5), ("unchanged", 5, 0), ("touched-file", 3, 2)], "{report}");
        assert_eq!(figures(&report, 0)[3], ("same-result", 4, 1), "{report}");
        assert!(tools[1]["scenarios"][0]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{report}");
        assert!(tools[2]["not_compared"].as_str().is_some_and(|why| why.starts_with("its daemon is not reachable")), "{report}");
        assert_eq!(tools[3]["not_compared"], "it is not on PATH", "{report}");
        let calls = fs::read_to_string(lab.work("calls")).expect("calls");
        let builds: Vec<&str> = calls.lines().filter(|line| line.contains(" bud ")).collect();
        assert_eq!(builds.len(), 6, "{calls}");
        for part in [
            "--root ",
            "--runroot ",
            "--layers",
            "--build-arg WHAT=y",
            &format!("--build-context lib={}", lab.work("libs").display()),
            "--secret id=s,src=secret --network none --add-host vault:10.1.2.3",
            "-f ",
        ] {
            assert!(builds.iter().all(|line| line.contains(part)), "{part}: {calls}");
        }
        assert!(builds[0].contains("--no-cache") && !builds[1].contains("--no-cache"), "{calls}");
        assert!(
            calls.contains(" pull docker-archive:")
                && calls.lines().any(|line| line.contains(" tag ") && line.ends_with(" docker.io/library/busybox:latest")),
            "{calls}"
        );
        assert_eq!(listing(lab, "ctx"), before);
        assert_eq!(left_over(lab), [""; 0], "{:?}", lab.who());
    });
}

/// A docker of before buildx, which writes down what it builds upon.
const OLD_DOCKER: &str = r#"#!/bin/sh
case "$*" in
  --version) echo "Docker version 20.10.24, build abc" ;;
  "build --help") echo "      --build-arg list" ;;
  "build "*)
    while [ "$1" != -f ]; do shift; done
    while read -r line; do case "$line" in FROM*) echo "BuildKit $DOCKER_BUILDKIT: $line" >>"$CALLS" ;; esac; done <"$2"
    printf '#5 [2/2] RUN x\n#5 sha256:12\n#5 CACHED\n' ;;
  "image inspect"*) echo sha256:1234 ;;
  rmi*) echo "$@" >>"$CALLS" ;;
esac
"#;

/// A podman whose containers do not start.
const PODMAN: &str = r#"#!/bin/sh
case "$*" in
  --version) echo "podman version 4.3.1" ;;
  *" build "*)
    [ "$BUILDAH_ISOLATION" = chroot ] || { echo "error running container: from /crun creating container for [x y]: no control groups" >&2; exit 1; }
    printf 'STEP 1/2: FROM busybox\nSTEP 2/2: RUN x\n--> Using cache 123\nCOMMIT x\n' ;;
esac
"#;

#[test]
fn a_docker_without_buildx_and_a_podman_without_containers_take_part() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    fake(&lab, "docker", OLD_DOCKER);
    fake(&lab, "podman", PODMAN);
    lab.context("ctx", &[("Dockerfile", "FROM busybox AS tools\nRUN true\n")]);
    for tool in ["sh", "newuidmap", "newgidmap", "umount"] {
        let found = std::env::var("PATH").expect("a PATH").split(':').map(|dir| PathBuf::from(dir).join(tool)).find(|file| file.exists());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, lab.work("bin").join(tool)).expect("a link");
        }
    }
    let mut command = bench(&lab, &["--rounds=1", "--against=docker,podman", "--format=json", "ctx"]);
    command.env("CALLS", lab.work("calls"));
    let said = Said::of(with_path(&lab, command, &lab.work("bin")).output().expect("shale starts"));
    assert!(said.ok(), "{}", said.stderr);
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    for tool in [1, 2] {
        assert_eq!(figures(&report, tool)[..2], [("cold", 1, 0), ("unchanged", 1, 0)], "{report}");
        assert_eq!(report["tools"][tool]["not_compared"], Value::Null, "{report}");
    }
    let why = "podman runs its commands without containers (BUILDAH_ISOLATION=chroot): no control groups\n";
    assert_eq!(said.stderr.matches(why).count(), 1, "{}", said.stderr);
    let calls = fs::read_to_string(lab.work("calls")).expect("calls");
    let upon: Vec<&str> = calls.lines().filter_map(|line| line.strip_prefix("BuildKit 1: FROM shale-bench-")).collect();
    assert!(upon.len() == 5 && upon[..4].iter().all(|name| name.ends_with("-0:0 AS tools")), "{calls}");
    assert!(upon[4].ends_with("-base:1 AS tools"), "{calls}");
    let removed = calls.lines().find(|line| line.starts_with("rmi ")).expect("what it made goes");
    assert!(removed.contains("-0:0 ") && removed.contains("-base:1 ") && removed.contains(" sha256:1234"), "{removed}");
}

/// The command with another PATH for shale, and the machine's own for what makes it another user's.
fn with_path(lab: &Lab, command: Command, path: &std::path::Path) -> Command {
    let mut outer = lab.command_of("env", &[&format!("PATH={}", path.display())]);
    let args: Vec<_> = command.get_args().collect();
    // What stands before shale's own name makes another user of it.
    let own = args.iter().position(|arg| *arg == "bench").expect("the command");
    if lab.who() == Who::Caller {
        outer.arg(command.get_program());
    } else {
        outer.arg(args[own - 1]);
    }
    outer.args(&args[own..]);
    for (name, value) in command.get_envs().filter(|(name, _)| *name != "PATH") {
        value.map(|value| outer.env(name, value));
    }
    outer
}

#[test]
fn what_cannot_be_measured_is_said_before_and_what_fails_is_shown() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("bad", &[("Dockerfile", "FROM busybox\nCOPY f /\nRUN echo said; exit 3\n"), ("f", "1\n")]);
    lab.context("scratch", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "1\n")]);
    lab.context("far", &[("Dockerfile", "FROM 127.0.0.1:1/x\nCOPY f /\n"), ("f", "1\n")]);
    for (args, part) in [
        (&["--against=kaniko"][..], "--against knows docker, buildah and podman, not \"kaniko\""),
        (&["--base=alpine", "scratch"], "--base is the base of the built-in sample"),
        (&["--touch=none", "scratch"], "the context has no file none"),
        (&["--svg=/nowhere/x.svg", "scratch"], "cannot write /nowhere/x.svg"),
        (&["--svg=-", "scratch"], "--svg writes a file: standard output has the figures"),
        (&["-f", "nofile", "scratch"], "nofile: the path after -f begins at the working directory"),
        (&["far"], "ERROR: shale pull failed\n  because: cannot reach 127.0.0.1:1"),
        (&["bad"], "exit code: 3"),
        (&["--build-context=b=docker-image://x", "scratch"], "shale bench takes a directory for --build-context b\nhint: "),
        (&["--build-context=b", "scratch"], "expected name=value"),
        (&["nowhere"], "nowhere"),
        (&["-"], "shale bench takes a directory, not standard input\nhint: "),
        (&["https://example.com/x.tar"], "shale bench takes a directory, not a URL\nhint: "),
        (&["https://example.com/x.git#main"], "shale bench takes a directory, not a URL\nhint: "),
    ] {
        let said = run(&lab, args);
        assert!(said.code == 1 && said.stderr.contains(part), "{args:?}: {}", said.stderr);
        assert_eq!(left_over(&lab), [""; 0], "{args:?}");
        // Nothing is pointed to that is gone.
        assert!(!said.stderr.contains("shale-bench-"), "{args:?}: {}", said.stderr);
        assert!(said.stderr.lines().filter(|line| line.contains("cannot reach")).count() <= 1, "{args:?}: {}", said.stderr);
    }
    let said = run(&lab, &["--format=xml", "scratch"]);
    assert!(said.stderr.contains("invalid argument \"xml\" for \"--format\" flag: allowed are table, json\n"), "{}", said.stderr);
    let said = run(&lab, &["--against=docker,docker", "--rounds=1", "scratch"]);
    assert!(said.stderr.matches("docker is not compared").count() <= 1, "{}", said.stderr);
    let said = run(&lab, &["--rounds=1", "scratch"]);
    assert!(said.ok(), "{}", said.stderr);
    for part in ["the base image changed is left out: there is no base image", "an early step changed is left out: there is no RUN\n"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    assert_eq!(
        said.stdout.lines().skip(3).take(3).map(|line| line.split("  ").next().unwrap_or_default()).collect::<Vec<_>>(),
        ["cold", "unchanged", "a file changed"]
    );
    let notes: Vec<&str> = said.stdout.lines().skip(6).collect();
    assert!(notes.len() == 1 && notes[0].starts_with("not in shale's times: behind a build the disk is written back"), "{notes:?}");
}

/// A signal to it alone reaches what it runs, and nothing is left of either.
#[test]
fn it_stops_when_it_is_asked_to() {
    as_everybody(|lab| {
        lab.load_busybox();
        let mark = format!("7{}.25", std::process::id());
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN sleep {mark}\n")), ("f", "")]);
        let child = bench(lab, &["ctx"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shale starts");
        let runs = || {
            let of = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let lines = fs::read_dir("/proc").expect("processes").filter_map(Result::ok).map(of);
            lines.filter(|line| line.starts_with(format!("sleep\0{mark}").as_bytes())).count()
        };
        let wait_until = |is: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !is() {
                assert!(start.elapsed() < Duration::from_secs(60), "{:?}: nothing happens", lab.who());
                thread::sleep(Duration::from_millis(5));
            }
        };
        wait_until(&|| runs() > 0);
        let Some(pid) = shale_process(child.id()) else { panic!("{:?}: no shale", lab.who()) };
        kill_process(pid, Signal::TERM).expect("a signal");
        let said = Said::of(child.wait_with_output().expect("its end"));
        assert_eq!(said.code, 143, "{:?}: {}", lab.who(), said.stderr);
        assert!(said.stderr.ends_with("ERROR: the benchmark was canceled\n"), "{}", said.stderr);
        wait_until(&|| runs() == 0);
        assert_eq!(left_over(lab), Vec::<String>::new(), "{:?}", lab.who());
    });
}

/// The benchmark itself, which another program may have started as another user.
fn shale_process(started: u32) -> Option<Pid> {
    let line = fs::read(format!("/proc/{started}/cmdline")).ok()?;
    if line.split(|byte| *byte == 0).nth(1) == Some(b"bench") {
        return Pid::from_raw(started.cast_signed());
    }
    let children = fs::read_to_string(format!("/proc/{started}/task/{started}/children")).ok()?;
    children.split_ascii_whitespace().find_map(|pid| shale_process(pid.parse().ok()?))
}

/// A buildah that is slow at what `SLOW` names, and has another program take the time.
const SLOW_BUILDAH: &str = r#"#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in *"$SLOW"*) sleep 62; echo ended >>"$CALLS" ;; esac
echo "buildah version 9.8.7"
"#;

#[test]
fn after_a_signal_no_other_builder_goes_on_and_nothing_is_begun() {
    for (slow, signal, code) in [("--version", Signal::INT, 130), (" pull ", Signal::TERM, 143), (" bud ", Signal::TERM, 143)] {
        let lab = Lab::new(Who::Caller);
        lab.own_binary();
        lab.load_busybox();
        fake(&lab, "buildah", SLOW_BUILDAH);
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY a /\n"), ("a", "1\n")]);
        let mut command = bench(&lab, &["--against=buildah", "ctx"]);
        let path = format!("{}:{}", lab.work("bin").display(), std::env::var("PATH").expect("a PATH"));
        command.env("PATH", path).env("CALLS", lab.work("calls")).env("SLOW", slow);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shale starts");
        let start = Instant::now();
        while !lab.processes().iter().any(|process| process.ends_with("sleep 62 ")) {
            assert!(start.elapsed() < Duration::from_secs(60), "{slow}: it does not run");
            thread::sleep(Duration::from_millis(5));
        }
        send(&child, signal);
        wait_at_most(&mut child, Duration::from_secs(10), "a canceled benchmark");
        let said = Said::of(child.wait_with_output().expect("its output"));
        assert!(said.code == code && said.stderr.ends_with("ERROR: the benchmark was canceled\n"), "{slow}: {} {}", said.code, said.stderr);
        assert!(!said.stderr.contains("WARNING") && said.stdout.is_empty(), "{slow}: {}{}", said.stdout, said.stderr);
        lab.assert_no_process("a canceled benchmark");
        assert_eq!(left_over(&lab), [""; 0], "{slow}");
        let calls = fs::read_to_string(lab.work("calls")).expect("calls");
        // What it took is given back.
        let is_last = |line: &str| line.contains(slow.trim()) || line.contains(" rmi ") || line.starts_with("unshare ");
        assert!(calls.lines().skip_while(|line| !line.contains(slow.trim())).all(is_last), "{slow}: {calls}");
        // Shale is measured first: no build of it begins when the other is stopped before.
        assert_eq!(said.stderr.contains("shale: "), slow != "--version", "{slow}: {}", said.stderr);
    }
}
