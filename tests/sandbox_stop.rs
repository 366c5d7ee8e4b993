//! Ending steps: by wish, and by the death of any process around them.

#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

mod sandbox_common;

use std::fs;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sandbox_common::{Bench, Ran};
use shale::sandbox::{Cancel, SandboxError};
use shale::solve::event::Stream;
use shale::worker::Exit;

/// Less than the ten seconds that a step has to tidy up, and enough for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(8);
/// What did not happen by then does not happen.
const LONG: Duration = Duration::from_secs(60);

/// Runs the script, and does `then` once it has printed something.
fn interrupted(bench: &Bench, script: &str, then: impl FnOnce(&Cancel) + Send) -> (Result<Ran, SandboxError>, Duration) {
    let cancel = Cancel::new().unwrap();
    let (ready, wait) = mpsc::channel();
    thread::scope(|scope| {
        let cancel = &cancel;
        let started = scope.spawn(move || {
            // A failing test must not wait for a step that sleeps.
            let _end = EndStep(cancel);
            wait.recv_timeout(LONG).expect("the step says that it runs");
            let start = Instant::now();
            then(cancel);
            start
        });
        let (mut stdout, mut ready) = (Vec::new(), Some(ready));
        let done = bench.worker.run(
            bench.sh_request(script),
            &mut |stream, bytes| {
                if stream == Stream::Stdout {
                    stdout.extend(bytes);
                    ready.take().map(|r| r.send(()));
                }
            },
            cancel,
        );
        let took = started.join().unwrap().elapsed();
        let ran = done.map(|done| Ran { exit: done.exit, stdout: String::from_utf8(stdout).unwrap(), stderr: String::new(), done });
        (ran, took)
    })
}

struct EndStep<'a>(&'a Cancel);

impl Drop for EndStep<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.cancel();
            self.0.cancel();
        }
    }
}

#[test]
fn a_command_that_does_not_handle_sigterm_ends_at_once() {
    let Some(bench) = Bench::new() else { return };
    for script in ["echo; sleep 1000; echo went on", "echo; exec sleep 1000", "echo; trap '' TERM; sleep 1000", "echo; sleep 1000 & wait"] {
        let (ran, took) = interrupted(&bench, script, Cancel::cancel);
        let ran = ran.unwrap();
        assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Cancelled, "\n"), "{script}");
        assert!(took < AT_ONCE, "{script}: {took:?}");
    }
}

#[test]
fn one_that_handles_it_may_tidy_up() {
    let Some(bench) = Bench::new() else { return };
    let (ran, took) = interrupted(&bench, "trap 'echo tidy; sleep 0.3; echo tidied; exit 0' TERM; echo; sleep 1000", |cancel| {
        thread::sleep(Duration::from_millis(300));
        cancel.cancel();
    });
    let ran = ran.unwrap();
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Cancelled, "\ntidy\ntidied\n"));
    assert!(took < AT_ONCE, "{took:?}");
    // Not PID 1 but a process of it: its end is waited for, then nothing is left that handles the signal.
    let script = "sh -c 'trap \"echo child tidied; exit 0\" TERM; echo; sleep 1000; true' & while true; do sleep 1000; done";
    let (ran, took) = interrupted(&bench, script, |cancel| {
        // A shell that is asked between two commands runs its trap after the second.
        thread::sleep(Duration::from_millis(300));
        cancel.cancel();
    });
    let ran = ran.unwrap();
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Cancelled, "\nchild tidied\n"));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_second_wish_waits_for_nothing() {
    let Some(bench) = Bench::new() else { return };
    let (ran, took) = interrupted(&bench, "trap 'echo stubborn' TERM; echo; while true; do sleep 0.2; done", |cancel| {
        cancel.cancel();
        thread::sleep(Duration::from_millis(700));
        cancel.cancel();
    });
    let ran = ran.unwrap();
    assert_eq!(ran.exit, Exit::Cancelled);
    assert!(ran.stdout.contains("stubborn"), "{ran:?}");
    assert!(took > Duration::from_millis(600) && took < AT_ONCE, "{took:?}");
}

#[test]
fn a_command_that_floods_its_output_can_be_stopped() {
    let Some(bench) = Bench::new() else { return };
    let (ran, took) = interrupted(&bench, "yes", Cancel::cancel);
    assert_eq!(ran.unwrap().exit, Exit::Cancelled);
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn a_wish_from_before_the_start_counts() {
    let Some(bench) = Bench::new() else { return };
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let start = Instant::now();
    assert_eq!(bench.try_run(bench.sh_request("sleep 1000"), &cancel).unwrap().exit, Exit::Cancelled);
    assert!(start.elapsed() < AT_ONCE);
    assert_eq!(bench.sh("echo the worker lives").stdout, "the worker lives\n");
}

/// A length that marks the sleep of one test among all processes of the machine.
fn sleeps_of(mark: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == format!("sleep\0{mark}\0").as_bytes())).collect()
}

fn children_of(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_ascii_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>()).collect()
}

/// The two sleeps of a script are there.
fn wait_for_sleeps(mark: &str) {
    let start = Instant::now();
    while sleeps_of(mark).len() < 2 {
        assert!(start.elapsed() < LONG, "the step does not start");
        thread::sleep(Duration::from_millis(5));
    }
}

fn all_gone(mark: &str) -> bool {
    let start = Instant::now();
    while start.elapsed() < LONG {
        if sleeps_of(mark).is_empty() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn the_death_of_the_worker_ends_everything() {
    let Some(bench) = Bench::new() else { return };
    let mark = format!("1{}.5", std::process::id());
    let script = format!("sleep {mark} & trap '' TERM HUP; echo; sleep {mark}");
    let (ran, took) = interrupted(&bench, &script, |_| {
        wait_for_sleeps(&mark);
        kill(bench.worker.process_id());
    });
    assert!(matches!(ran, Err(SandboxError::Gone(_))), "{ran:?}");
    assert!(took < AT_ONCE, "{took:?}");
    assert!(all_gone(&mark), "{:?}", sleeps_of(&mark));
    assert!(matches!(bench.try_run(bench.sh_request("true"), &Cancel::new().unwrap()), Err(SandboxError::Gone(_))));
}

#[test]
fn the_death_of_a_handler_ends_its_step_only() {
    let Some(bench) = Bench::new() else { return };
    let mark = format!("2{}.5", std::process::id());
    let (ran, _) = interrupted(&bench, &format!("echo; sleep {mark}; true"), |_| {
        kill(children_of(bench.worker.process_id())[0]);
    });
    assert!(matches!(ran, Err(SandboxError::Gone(_))), "{ran:?}");
    assert!(all_gone(&mark));
    assert_eq!(bench.sh("echo the worker lives").stdout, "the worker lives\n");
}

/// Started by the next test as the main process of a build, which is then killed.
#[test]
fn as_a_main_process() {
    let Ok(mark) = std::env::var("SHALE_TEST_SLEEP") else { return };
    let Some(bench) = Bench::new() else { return };
    bench.sh(&format!("sleep {mark} & trap '' TERM HUP; sleep {mark}"));
}

#[test]
fn the_death_of_the_main_process_ends_everything() {
    if Bench::new().is_none() {
        return;
    }
    let mark = format!("3{}.5", std::process::id());
    let mut main = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_a_main_process"])
        .env("SHALE_TEST_SLEEP", &mark)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for_sleeps(&mark);
    let worker = children_of(main.id())[0];
    main.kill().unwrap();
    main.wait().unwrap();
    assert!(all_gone(&mark), "{:?}", sleeps_of(&mark));
    let start = Instant::now();
    while fs::exists(format!("/proc/{worker}")).unwrap() {
        assert!(start.elapsed() < LONG, "the worker is left");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn dropping_the_worker_leaves_no_process() {
    let Some(bench) = Bench::new() else { return };
    let worker = bench.worker.process_id();
    let handler = children_of(worker)[0];
    assert_eq!(bench.sh("echo x").stdout, "x\n");
    drop(bench);
    assert!(!fs::exists(format!("/proc/{worker}")).unwrap() && !fs::exists(format!("/proc/{handler}")).unwrap());
}

#[test]
fn many_steps_at_the_same_time() {
    let Some(bench) = Bench::new() else { return };
    thread::scope(|scope| {
        for n in 0..8 {
            let bench = &bench;
            scope.spawn(move || {
                for _ in 0..5 {
                    assert_eq!(bench.sh(&format!("echo {n}; exit {n}")).exit, Exit::Code(n));
                }
            });
        }
    });
}

#[test]
fn as_an_ordinary_user() {
    sandbox_common::again_as_an_ordinary_user();
}
