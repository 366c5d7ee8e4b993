//! Builds that end before they are done: killed at any moment, or asked to stop.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::image::Image;
use support::processes::{send, wait_at_most};
use support::random::{Random, number};
use support::{Lab, Who, as_everybody};

const EPOCH: &str = "1700000000";
/// What "at once" may take on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(3);

const THREE_STAGES: &str = "FROM busybox AS one\nCOPY a /a\nRUN cat /a >/one && mkdir -p /d/e && echo x >/d/e/f && chown 5:6 /d/e/f\n\
    FROM busybox AS two\nWORKDIR /w\nCOPY b /b\nRUN cat /b >two && chmod 700 .\n\
    FROM busybox\nCOPY --from=one /one /d /\nCOPY --from=two /w /w\nRUN cat /one /w/two >/all && rm -r /e\n";

/// Contexts that a kill test takes by turns; they differ in one file.
const CONTEXTS: [&str; 3] = ["c0", "c1", "c2"];

/// A reproducible build of a context into an archive of that name.
fn build(lab: &Lab, context: &str, archive: &str) -> Command {
    let output = format!("type=oci,dest={archive},rewrite-timestamp=true");
    let mut command = lab.shale(&["build", "--progress", "plain", "-o", &output, context]);
    command.env("SOURCE_DATE_EPOCH", EPOCH).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How many builds are killed, by both users together.
const KILLS: u64 = 200;
/// A number that another machine's failure is played again with; where it is not set every run has another one.
const SEED: &str = "SHALE_KILL_SEED";
/// Another number of kills.
const COUNT: &str = "SHALE_KILLS";

/// Builds undisturbed, two at once; gives each context's archive and how long a pair takes.
fn undisturbed(lab: &Lab) -> ([Vec<u8>; 3], Duration) {
    let mut length = Duration::MAX;
    let archives = CONTEXTS.map(|context| {
        lab.run(&["builder", "prune", "-a", "-f"]);
        let start = Instant::now();
        let both = ["one.tar", "two.tar"].map(|archive| build(lab, context, archive).spawn().expect("shale starts"));
        for mut child in both {
            assert!(wait_at_most(&mut child, Duration::from_secs(60), "the undisturbed build").success());
        }
        length = length.min(start.elapsed());
        let bytes = fs::read(lab.work("one.tar")).expect("an archive");
        assert!(bytes == fs::read(lab.work("two.tar")).expect("an archive"), "{context}: two archives");
        Image::read(&lab.work("one.tar"));
        bytes
    });
    lab.assert_tidy("undisturbed");
    (archives, length)
}

/// What the store says of itself is what is there: nothing is damaged, and every block is counted.
fn is_sound(lab: &Lab, when: &str) {
    let verified = lab.run(&["store", "verify"]);
    assert!(verified.ok() && verified.stdout.ends_with("Damaged: 0\n"), "{:?}: {when}: {}{}", lab.who(), verified.stdout, verified.stderr);
    // Who is not root cannot count files of mapped ids with du.
    if support::is_root() {
        let counted = || {
            let rows = lab.run(&["system", "df", "--format", "{{.SizeBytes}}"]).stdout;
            (rows.lines().map(|row| row.parse::<u64>().expect("a number")).sum::<u64>(), support::du(&lab.store()))
        };
        let (mut told, mut there) = counted();
        if told != there {
            // A mark came between the two. A busy disk takes seconds to be written back, so nobody waits for that without need.
            lab.wait_for_sync(when);
            (told, there) = counted();
        }
        assert_eq!(told, there, "{:?}: {when}", lab.who());
    }
}

fn survives_kills(lab: &Lab) {
    lab.own_binary();
    lab.load_busybox();
    for context in CONTEXTS {
        lab.context(context, &[("Dockerfile", THREE_STAGES), ("a", &"a\n".repeat(50_000)), ("b", &context.repeat(100_000))]);
    }
    let (expected, length) = undisturbed(lab);
    let seed = number(SEED).unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64));
    let kills = number(COUNT).unwrap_or(KILLS) / 2;
    let mut moments = Random(seed);
    let mut killed = 0;
    while killed < kills {
        let at = length * moments.below(1000) as u32 / 1000;
        let when = format!("{SEED}={seed}: after {killed} kills, at {at:?} of {length:?}");
        // Sometimes both, sometimes one of two that may just share a step; sometimes in a cache that is empty but for the base.
        let (chosen, is_both, is_empty) = (moments.below(3) as usize, moments.below(4) > 0, moments.below(3) > 0);
        let (context, expected) = (CONTEXTS[chosen], &expected[chosen]);
        if is_empty {
            assert!(lab.run(&["builder", "prune", "-a", "-f"]).ok(), "{when}");
        }
        for archive in ["one.tar", "two.tar", "next.tar"] {
            drop(fs::remove_file(lab.work(archive)));
        }
        let mut one = build(lab, context, "one.tar").spawn().expect("shale starts");
        let said = fs::File::create(lab.path("two.log")).expect("a log");
        let mut two = build(lab, context, "two.tar").stderr(said).spawn().expect("shale starts");
        std::thread::sleep(at);
        drop(one.kill());
        if is_both {
            drop(two.kill());
        }
        killed += 1 + u64::from(is_both);
        let (_, second) = (one.wait(), wait_at_most(&mut two, Duration::from_secs(60), &when));
        let said = fs::read_to_string(lab.path("two.log")).expect("a log");
        assert!(is_both || second.success(), "{when}: the other build failed:\n{said}");
        lab.assert_no_process(&when);
        for archive in ["one.tar", "two.tar"].iter().filter(|archive| lab.work(archive).exists()) {
            assert!(&fs::read(lab.work(archive)).expect("an archive") == expected, "{:?}: {when}: {archive} differs", lab.who());
        }
        is_sound(lab, &when);
        let next = build(lab, context, "next.tar").stderr(Stdio::piped()).output().expect("shale starts");
        assert!(next.status.success(), "{:?}: {when}: {}", lab.who(), String::from_utf8_lossy(&next.stderr));
        assert!(&fs::read(lab.work("next.tar")).expect("an archive") == expected, "{:?}: {when}: the next differs", lab.who());
        lab.assert_tidy(&when);
        lab.assert_no_mount(&when);
    }
}

// Two tests, for they can run side by side.
#[test]
fn after_a_kill_at_any_moment_nothing_lives_and_the_next_build_is_the_same() {
    survives_kills(&Lab::in_memory(Who::Caller));
}

#[test]
fn the_same_for_an_ordinary_user() {
    if support::has_other() {
        survives_kills(&Lab::in_memory(Who::Played));
    }
}

/// A build that runs, and what it has said so far.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("shale starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr, said: String::new() }
    }

    /// Reads until the build has said something.
    fn wait_for(&mut self, text: &str) {
        let from = self.said.len();
        while !self.said[from..].contains(text) {
            let read = self.stderr.read_line(&mut self.said).expect("text");
            assert_ne!(read, 0, "the build ended before it said {text:?}:\n{}", self.said);
        }
    }

    /// Waits for the end; returns the exit code and everything that was said.
    fn end(mut self, limit: Duration, what: &str) -> (i32, String) {
        let status = wait_at_most(&mut self.child, limit, what);
        self.stderr.read_to_string(&mut self.said).expect("text");
        (status.code().expect("it ends by itself"), self.said)
    }

    /// Sends a signal and expects the end at once, with the signal's code and one error.
    fn stop(self, signal: Signal, what: &str) -> String {
        send(&self.child, signal);
        let (code, said) = self.end(SOON, what);
        assert_eq!(code, 128 + signal.as_raw(), "{what}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("ERROR:")).collect();
        assert_eq!(errors.len(), 1, "{what}: {said}");
        assert!(errors[0].contains("canceled"), "{what}: {said}");
        said
    }
}

fn nothing_is_left(lab: &Lab, what: &str) {
    lab.assert_no_process(what);
    lab.assert_tidy(what);
    lab.assert_no_mount(what);
}

fn plain(lab: &Lab, args: &[&str]) -> Command {
    let mut all = vec!["build", "--progress", "plain"];
    all.extend(args);
    lab.shale(&all)
}

#[test]
fn a_signal_ends_steps_at_once_and_nothing_stays() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        let sleep = "echo \"now $((40+2))\"; mkdir /left; chown 7:7 /left; sleep 1000";
        let one = format!("FROM busybox\nRUN {sleep}\n");
        let two = format!("FROM busybox AS a\nRUN {sleep}\nFROM busybox AS b\nRUN true; {sleep}\nFROM a\nCOPY --from=b /left /l\n");
        for (text, steps) in [(&one, 1), (&two, 2)] {
            for signal in [Signal::INT, Signal::TERM] {
                lab.context("ctx", &[("Dockerfile", text)]);
                let mut build = Running::start(plain(lab, &["ctx"]));
                for _ in 0..steps {
                    build.wait_for("now 42");
                }
                let what = format!("{:?}: {signal:?} with {steps} steps", lab.who());
                build.stop(signal, &what);
                nothing_is_left(lab, &what);
            }
        }
    });
}

/// `nohup shale build &` in a script, as Jenkins starts its steps.
#[test]
fn signals_that_were_ignored_stay_ignored_but_sigterm_does_not() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN echo now $((40+2)); sleep 1\n")]);
        let start = || {
            let binary = lab.path("shale");
            let script = "trap '' HUP INT TERM; exec \"$@\"";
            let args = ["-c", script, "sh", binary.to_str().expect("text"), "build", "--no-cache", "--progress", "plain", "ctx"];
            let mut build = Running::start(lab.command_of("sh", &args));
            build.wait_for("now 42");
            build
        };
        let build = start();
        send(&build.child, Signal::HUP);
        send(&build.child, Signal::INT);
        let (code, said) = build.end(Duration::from_secs(60), "ignored signals");
        assert_eq!(code, 0, "{:?}: {said}", lab.who());
        start().stop(Signal::TERM, "SIGTERM");
        nothing_is_left(lab, "SIGTERM");
    });
}

/// How many wishes a step must have got before it said anything, and how many are made for that.
const EARLY: usize = 10;
const WISHES: usize = 200;

/// A wish may come when a step is announced and its command does not run yet: while the worker starts, namespaces and mounts are made.
/// One that got lost there would be missed, for the command goes on for long.
fn survives_signals_in_set_up(lab: &Lab) {
    lab.own_binary();
    lab.load_busybox();
    let layers: String = (0..20).map(|n| format!("COPY <<E /l{n}\n{n}\nE\n")).collect();
    let mounts: String = (0..40).map(|n| format!("--mount=type=tmpfs,target=/t/{n} ")).collect();
    let mounts = mounts + "--mount=type=cache,target=/c --mount=type=bind,from=busybox,target=/b";
    lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\n{layers}RUN {mounts} echo \"now $((40+2))\"; sleep 1000\n"))]);
    let announced = || {
        let mut build = Running::start(plain(lab, &["ctx"]));
        build.wait_for("] RUN ");
        (build, Instant::now())
    };
    // The first one also unpacks the layers.
    let lengths = [0; 3].map(|_| {
        let (mut build, start) = announced();
        build.wait_for("now 42");
        let length = start.elapsed().as_micros() as u64;
        build.stop(Signal::INT, "not in set-up");
        length
    });
    let length = lengths[1].min(lengths[2]);
    let seed = number(SEED).unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64));
    let mut moments = Random(seed);
    let mut early = 0;
    for round in 0..WISHES {
        if early == EARLY {
            break;
        }
        let (signal, pause) = ([Signal::INT, Signal::TERM][round % 2], Duration::from_micros(moments.below(length)));
        let what = format!("{:?}: {SEED}={seed}: round {round}: {signal:?} after {pause:?} of {length} µs", lab.who());
        let (build, _) = announced();
        std::thread::sleep(pause);
        let said = build.stop(signal, &what);
        nothing_is_left(lab, &what);
        early += usize::from(!said.contains("now 42"));
    }
    assert_eq!(early, EARLY, "{:?}: {SEED}={seed}: wishes before the command spoke", lab.who());
    is_sound(lab, "after many signals");
}

#[test]
fn a_signal_while_a_step_is_set_up_ends_the_build_as_well() {
    survives_signals_in_set_up(&Lab::in_memory(Who::Caller));
    if support::has_other() {
        survives_signals_in_set_up(&Lab::in_memory(Who::Played));
    }
}

/// As a pipeline does that keeps its store in the workspace: nothing is at work there that would make files again.
#[test]
fn a_store_can_be_deleted_as_soon_as_its_build_is_over() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nWORKDIR /w\nCOPY f .\n"), ("f", "f\n")]);
        let other = lab.work("moved");
        for turn in 0..6 {
            assert!(lab.run(&["build", "-q", "ctx"]).ok());
            // A program of its own, as it is there: the mapped files of an ordinary user are none of these.
            let (program, args) = if turn % 2 == 0 { ("rm", vec!["-rf"]) } else { ("mv", vec![]) };
            let mut command = Command::new(program);
            command.args(args).arg(lab.store()).args((turn % 2 == 1).then_some(&other));
            let done = command.output().expect("it starts");
            assert!(done.status.success(), "{:?}: {}", lab.who(), String::from_utf8_lossy(&done.stderr));
            std::thread::sleep(Duration::from_millis(150));
            assert!(!lab.store().exists(), "{:?}: {program}: it is there again", lab.who());
            drop(fs::remove_dir_all(&other));
        }
    });
}

#[test]
fn a_step_that_handles_the_signal_may_tidy_up_but_not_after_a_second_one() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        let polite = "trap 'echo tidied $((40+2)); exit 0' TERM; echo now $((40+2)); while true; do sleep 0.1; done";
        let stubborn = "trap 'echo tidied $((40+2))' TERM; echo now $((40+2)); while true; do sleep 0.1; done";
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN {polite}\n"))]);
        let mut build = Running::start(plain(lab, &["ctx"]));
        build.wait_for("now 42");
        let said = build.stop(Signal::TERM, "polite");
        assert!(said.contains("tidied 42"), "{said}");
        nothing_is_left(lab, "polite");
        // One that ends at once does not take the other's grace.
        let polite = "trap 'sleep 0.5; echo tidied $((40+2)); exit 0' TERM; echo now $((40+2)); while true; do sleep 0.1; done";
        let two =
            format!("FROM busybox AS a\nRUN {polite}\nFROM busybox AS b\nRUN echo now $((40+2)); sleep 1000\nFROM a\nCOPY --from=b / /b\n");
        lab.context("ctx", &[("Dockerfile", &two)]);
        let mut build = Running::start(plain(lab, &["ctx"]));
        build.wait_for("now 42");
        build.wait_for("now 42");
        let said = build.stop(Signal::TERM, "one of two polite");
        assert!(said.contains("tidied 42"), "{said}");
        nothing_is_left(lab, "one of two polite");
        lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN {stubborn}\n"))]);
        let mut build = Running::start(plain(lab, &["ctx"]));
        build.wait_for("now 42");
        send(&build.child, Signal::INT);
        build.wait_for("tidied 42");
        assert!(build.child.try_wait().expect("wait").is_none(), "the grace period is not over");
        build.stop(Signal::INT, "stubborn");
        nothing_is_left(lab, "stubborn");
    });
}

/// A build without a base, which needs no worker, is stopped while `doing` is said or after a while.
fn stopped_after(lab: &Lab, build: Running, pause: Duration, what: &str) {
    std::thread::sleep(pause);
    build.stop(Signal::INT, what);
    nothing_is_left(lab, what);
}

#[test]
fn hashing_copying_and_exporting_stop_as_well() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        // Holes take no space, and nobody reads a terabyte in time.
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
        let big = fs::File::options().write(true).open(lab.write("ctx/big", "")).expect("open");
        big.set_len(1 << 40).expect("a hole");
        let mut build = Running::start(plain(lab, &["ctx"]));
        build.wait_for("] COPY");
        stopped_after(lab, build, Duration::from_millis(300), "hashing");
        // Hashing two GB is a matter of seconds, packing them of more.
        big.set_len(2 << 30).expect("a hole");
        for (base, what) in [("scratch", "packing a COPY"), ("busybox", "unpacking a COPY")] {
            lab.context(
                "ctx",
                &[("Dockerfile", &format!("FROM {base}\nCOPY big /\n{}", if base == "scratch" { "" } else { "RUN true\n" }))],
            );
            let mut build = Running::start(plain(lab, &["-o", "type=oci,dest=out.tar", "ctx"]));
            build.wait_for("cache miss");
            stopped_after(lab, build, Duration::from_millis(300), what);
            assert!(!lab.work("out.tar").exists());
        }
    });
}

#[test]
fn an_export_that_is_stopped_leaves_no_part_of_it() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN truncate -s 600M /big\n")]);
        lab.write("out/other", "");
        let mut build = Running::start(plain(lab, &["-o", "type=oci,dest=out/o.tar", "ctx"]));
        build.wait_for("exporting layers");
        stopped_after(lab, build, Duration::from_millis(100), "packing for an export");
        let names: Vec<_> = fs::read_dir(lab.work("out")).expect("there").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names, ["other"]);
        // Nobody reads the other end.
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", &"x".repeat(1 << 20))]);
        let mut command = plain(lab, &["-o", "type=oci,dest=-,compression=uncompressed", "ctx"]);
        command.stdout(Stdio::piped());
        let mut build = Running::start(command);
        build.wait_for("exporting layers");
        stopped_after(lab, build, Duration::from_millis(300), "a full pipe");
    });
}

#[test]
fn waiting_for_a_registry_ends_with_a_signal() {
    let lab = Lab::new(Who::Caller);
    lab.own_binary();
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    lab.context("ctx", &[("Dockerfile", &format!("FROM 127.0.0.1:{port}/x\n"))]);
    let mut build = Running::start(plain(&lab, &["ctx"]));
    build.wait_for("load metadata");
    stopped_after(&lab, build, Duration::from_millis(200), "a silent registry");
}
