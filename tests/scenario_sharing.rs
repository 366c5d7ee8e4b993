//! Many builds and prunes on one store, what pruning leaves, and what a cached build does not do.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::processes::wait_at_most;
use support::{Lab, Said, as_everybody, has, skip};

fn start(lab: &Lab, args: &[&str]) -> Child {
    let mut all = vec!["build", "--progress", "plain"];
    all.extend(args);
    lab.shale(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shale starts")
}

fn end(mut child: Child) -> Said {
    wait_at_most(&mut child, Duration::from_secs(60), "a build");
    Said::of(child.wait_with_output().expect("it has ended"))
}

/// Waits until the store has a lock for a step: somebody works on one.
fn wait_for_a_step(lab: &Lab) {
    let start = Instant::now();
    while !lab.names_in_store("locks").iter().any(|name| name.starts_with("step-")) {
        assert!(start.elapsed() < Duration::from_secs(20), "no step is begun");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_builds_share_one_steps_work_and_others_go_their_way() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("slow", &[("Dockerfile", "FROM busybox\nRUN sleep 5; cat /proc/sys/kernel/random/uuid >/once\n")]);
        lab.context("other", &[("Dockerfile", "FROM busybox\nRUN echo other >/o\n")]);
        let mut first = start(lab, &["-o", "type=oci,dest=one.tar", "slow"]);
        wait_for_a_step(lab);
        let second = start(lab, &["-o", "type=oci,dest=two.tar", "slow"]);
        let other = end(start(lab, &["other"]));
        assert!(other.ok(), "{}", other.stderr);
        assert!(first.try_wait().expect("asked").is_none(), "{:?}: another step waited", lab.who());
        let pid = first.id();
        let (first, second) = (end(first), end(second));
        assert!(first.ok() && second.ok(), "{}\n{}", first.stderr, second.stderr);
        assert_eq!((first.executed().len(), second.executed().len()), (1, 0), "{}", second.stderr);
        assert!(second.stderr.contains(&format!("waiting for the build of process {pid}, which runs the same step")), "{}", second.stderr);
        let digest = |name: &str| support::image::Image::read(&lab.work(name)).text("once");
        assert_eq!(digest("one.tar"), digest("two.tar"));
        lab.assert_tidy("two builds");
    });
}

#[test]
fn a_waiting_build_takes_over_from_one_that_dies_and_ends_when_asked_to() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN sleep 1; echo done >/f\n")]);
        let mut first = start(lab, &["ctx"]);
        wait_for_a_step(lab);
        let (second, third) = (start(lab, &["ctx"]), start(lab, &["ctx"]));
        std::thread::sleep(Duration::from_millis(300));
        support::processes::send(&third, rustix::process::Signal::INT);
        assert_eq!(end(third).code, 130, "a build that waits can be stopped");
        first.kill().expect("it runs");
        first.wait().expect("dead");
        let second = end(second);
        assert!(second.ok(), "{}", second.stderr);
        assert_eq!(second.executed().len(), 1, "{}", second.stderr);
    });
}

#[test]
fn pruning_leaves_a_running_build_alone_and_does_not_wait_for_it() {
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile =
            "FROM busybox\nCOPY f /f\nRUN --mount=type=cache,target=/m sleep 2.5; cat /f >/m/made; cp /m/made /made\nRUN cat /made\n";
        lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "f\n")]);
        lab.context("other", &[("Dockerfile", "FROM busybox\nRUN echo other >/o\n")]);
        assert!(lab.run(&["build", "other"]).ok());
        let build = start(lab, &["-o", "type=oci,dest=o.tar", "ctx"]);
        wait_for_a_step(lab);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let prune = lab.run(&["system", "prune", "--all", "--force"]);
            assert!(prune.ok(), "{:?}: {}", lab.who(), prune.stderr);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it waited for the build");
        let said = end(build);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(support::image::Image::read(&lab.work("o.tar")).text("made"), "f\n");
        let last = lab.run(&["system", "prune", "--all", "--force"]).stdout;
        assert!(last.contains("Deleted build cache objects:\n"), "{last}");
        assert_eq!((lab.names_in_store("steps"), lab.names_in_store("layers")), (vec![], vec![]), "{:?}", lab.who());
    });
}

/// Every path of the store below these folders, but the folders themselves.
fn paths(lab: &Lab, folders: &[&str]) -> Vec<String> {
    fn collect(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().map(|e| e.expect("an entry")) {
            found.push(entry.path().display().to_string());
            if entry.file_type().expect("a type").is_dir() {
                collect(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        collect(&lab.store().join(folder), &mut found);
    }
    found.sort();
    found
}

/// What an image needs, and what builds fill.
const KEPT: &[&str] = &["blobs", "images", "layers", "by-diff"];
const BUILT: &[&str] = &["steps", "lists", "by-content", "by-source", "contexts", "mounts", "tmp", "trash", "locks"];

#[test]
fn pruning_after_rmi_leaves_nothing_of_the_build() {
    as_everybody(|lab| {
        lab.load_busybox();
        let ok = |args: &[&str]| {
            let said = lab.run(args);
            assert!(said.ok() && said.stderr.is_empty(), "{:?}: {args:?}: {}", lab.who(), said.stderr);
        };
        let prune = || ok(&["builder", "prune", "--all", "--force"]);
        // A base that was loaded, as most are.
        ok(&["save", "-o", "busybox.tar", "busybox"]);
        ok(&["rmi", "busybox"]);
        prune();
        assert_eq!(lab.run(&["images", "-q"]).stdout, "");
        ok(&["load", "-i", "busybox.tar"]);
        prune();
        let before = paths(lab, KEPT);
        lab.context(
            "ctx",
            &[
                ("Dockerfile", "FROM busybox AS a\nWORKDIR /w\nCOPY f .\nRUN chown 7:8 f && mkdir -m 700 /closed && chown -R 9:9 /closed && echo x >/closed/x\nFROM busybox\nCOPY --from=a /closed /c\nRUN true\n"),
                ("f", "f\n"),
            ],
        );
        lab.build("ctx", &["-t", "app"]);
        assert!(lab.run(&["rmi", "app"]).ok());
        prune();
        assert_eq!(paths(lab, KEPT), before, "{:?}", lab.who());
        // Behind the first build somebody looks for the parts of the disk.
        lab.wait_for_sync("pruned");
        assert_eq!(paths(lab, BUILT), Vec::<String>::new(), "{:?}", lab.who());
        // What stays is good for another build, and that for another one.
        let again = lab.build("ctx", &["-t", "app"]);
        assert_eq!(again.said.cached(), Vec::<String>::new());
        prune();
        ok(&["save", "-o", "app.tar", "app"]);
        lab.context("more", &[("Dockerfile", "FROM app\nRUN cat /c/x >/more\n")]);
        assert_eq!(lab.build("more", &["-t", "more"]).image.text("more"), "x\n");
        // Kept in the store alone it has no blob of its own: one form of each layer stays.
        ok(&["build", "-q", "-t", "kept", "more"].map(|arg| arg));
        ok(&["rmi", "-f", "more", "app"]);
        prune();
        lab.context("last", &[("Dockerfile", "FROM kept\nRUN cat /more /more >/twice\n")]);
        assert_eq!(lab.build("last", &[]).image.text("twice"), "x\nx\n");
    });
}

/// The lines of a trace in which a process does something that a cached build must not.
fn forbidden(trace: &str) -> Vec<&str> {
    let is_thread = |line: &str| line.contains("clone") && line.contains("CLONE_THREAD");
    let is_failed_look = |line: &str| line.contains("connect(") && line.contains("/nscd/socket");
    let calls = ["unshare(", "setns(", "mount(", "fsopen(", "move_mount(", "connect(", "clone(", "clone3(", "fork("];
    trace.lines().filter(|line| calls.iter().any(|call| line.contains(call)) && !is_thread(line) && !is_failed_look(line)).collect()
}

#[test]
fn a_cached_build_enters_no_namespace_mounts_nothing_and_connects_nowhere() {
    if !has("strace") {
        return skip("system calls of a cached build", "strace is not installed");
    }
    as_everybody(|lab| {
        lab.load_busybox();
        let dockerfile = "FROM busybox\nWORKDIR /w\nCOPY f .\nRUN cat f >g\nFROM busybox\nCOPY --from=0 /w /w\n";
        lab.context("cached", &[("Dockerfile", dockerfile), ("f", "f\n")]);
        lab.context("copied", &[("Dockerfile", "FROM busybox\nCOPY f /\nADD f /g\nWORKDIR /w\n"), ("f", "f\n")]);
        lab.build("cached", &["-t", "cached"]);
        let again = ("cached", "type=image");
        let builds = [("copied", "type=docker,dest=o.tar"), ("cached", "type=oci,dest=o.tar"), again, again];
        for (turn, (name, output)) in builds.into_iter().enumerate() {
            let trace = lab.work("trace");
            let calls = "trace=unshare,clone,clone3,fork,vfork,setns,mount,fsopen,move_mount,connect";
            let binary = lab.path("shale");
            let args = ["-f", "-qq", "-e", calls, "-o", trace.to_str().expect("text"), binary.to_str().expect("text")];
            let args = [&args[..], &["build", "--progress", "plain", "-t", "t", "-o", output, name]].concat();
            let said = Said::of(lab.command_of("strace", &args).output().expect("strace starts"));
            assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
            assert_eq!(said.executed().is_empty(), name == "cached", "{}", said.stderr);
            let trace = fs::read_to_string(trace).expect("a trace");
            let mut found = forbidden(&trace);
            // The process that writes the disk back: nothing of a worker. None where image and name are there already.
            if turn < 3
                && let Some(at) = found.iter().position(|line| line.contains("CLONE_VFORK") || line.contains("vfork("))
            {
                found.remove(at);
            }
            assert_eq!(found, Vec::<&str>::new(), "{:?}: {name} to {output}", lab.who());
        }
    });
}
