//! What the store keeps to by itself, without anybody who prunes it.

mod support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::processes::{send, wait_at_most};
use support::{Lab, as_everybody};

const MB: u64 = 1 << 20;

/// A laboratory's settings file.
fn configure(lab: &Lab, text: &str) {
    lab.write("config.toml", text);
}

/// shale with these settings.
fn shale(lab: &Lab, args: &[&str]) -> Command {
    let mut command = lab.shale(args);
    command.env("SHALE_CONFIG", lab.work("config.toml"));
    command
}

fn build(lab: &Lab, name: &str) -> Vec<String> {
    let said =
        support::Said::of(shale(lab, &["build", "--progress", "plain", "-o", "type=cacheonly", name]).output().expect("shale starts"));
    assert!(said.ok(), "{:?}: {name}: {}", lab.who(), said.stderr);
    lab.wait_for_sync(name);
    said.executed()
}

fn cache_bytes(lab: &Lab) -> u64 {
    let said = support::Said::of(shale(lab, &["system", "df", "--format", "json"]).output().expect("shale starts"));
    let row: Value = serde_json::from_str(said.stdout.lines().last().expect("a row")).expect("JSON");
    row["SizeBytes"].as_u64().expect("a number")
}

#[test]
fn builds_keep_the_cache_below_its_cap_and_what_was_used_last_stays() {
    as_everybody(|lab| {
        lab.own_binary();
        configure(lab, "[gc]\nmax-size = \"8MB\"\nmin-free = 0\nkeep-builds = 3\n");
        for number in 0..6 {
            let content = vec![b'a' + number; 2 * MB as usize];
            lab.write(&format!("{number}/f"), content);
            lab.context(&number.to_string(), &[("Dockerfile", "FROM scratch\nCOPY f /f\n")]);
            assert_eq!(build(lab, &number.to_string()).len(), 1, "{:?}", lab.who());
            assert!(cache_bytes(lab) <= 8 * MB, "{:?}: {number}: {}", lab.who(), cache_bytes(lab));
        }
        assert_eq!(lab.names_in_store("builds").len(), 3);
        assert!(build(lab, "5").is_empty() && build(lab, "4").is_empty(), "{:?}: the newest stay", lab.who());
        assert_eq!(build(lab, "0").len(), 1, "{:?}: the oldest went", lab.who());
        lab.assert_tidy("collected");
        let said = support::Said::of(shale(lab, &["store", "verify"]).output().expect("shale starts"));
        assert!(said.stdout.ends_with("Damaged: 0\n"), "{:?}: {}", lab.who(), said.stdout);
        // Who wants no caps has none.
        configure(lab, "[gc]\nenabled = false\nmax-size = 1\n");
        build(lab, "1");
        assert!(build(lab, "0").is_empty() && cache_bytes(lab) > 6 * MB);
    });
}

#[test]
fn a_build_that_writes_makes_room_while_it_runs_and_keeps_what_it_uses() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        configure(lab, "[gc]\nmax-size = \"40MB\"\nmin-free = 0\n");
        lab.write("old/f", vec![b'o'; 16 * MB as usize]);
        lab.context("old", &[("Dockerfile", "FROM scratch\nCOPY f /old\n")]);
        build(lab, "old");
        assert!(build(lab, "old").is_empty(), "{:?}", lab.who());
        let old = lab.names_in_store("layers");
        // Whatever others delete meanwhile, at last it has written more than that.
        lab.context(
            "new",
            &[(
                "Dockerfile",
                "FROM busybox\nRUN for i in $(seq 50); do dd if=/dev/zero of=/big$i bs=1M count=20 2>&1; sleep 0.2; done; sleep 1000\n",
            )],
        );
        let mut command = shale(lab, &["build", "--progress", "plain", "-o", "type=cacheonly", "new"]);
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("shale starts");
        let start = Instant::now();
        while old.iter().all(|name| lab.names_in_store("layers").contains(name)) {
            let ended = running.try_wait().expect("wait");
            assert!(ended.is_none() && start.elapsed() < Duration::from_secs(60), "{:?}: nothing went: {ended:?}", lab.who());
            std::thread::sleep(Duration::from_millis(20));
        }
        send(&running, Signal::TERM);
        wait_at_most(&mut running, Duration::from_secs(20), "a stopped build");
        lab.assert_no_process("stopped");
        lab.wait_for_sync("stopped");
        assert_eq!(build(lab, "old").len(), 1, "{:?}: it was what was used least recently", lab.who());
    });
}

#[test]
fn what_commands_write_into_cache_mounts_counts_though_the_disk_has_no_less() {
    as_everybody(|lab| {
        lab.own_binary();
        lab.load_busybox();
        configure(lab, "[gc]\nmax-size = \"20MB\"\nmin-free = 0\n");
        // Somebody else deletes more than the command writes.
        lab.write("other", vec![b'x'; 40 * MB as usize]);
        let dockerfile =
            |mib: u32| format!("FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/{mib} bs=1M count={mib} 2>&1\n");
        lab.context("ctx", &[("Dockerfile", &dockerfile(1))]);
        build(lab, "ctx");
        assert!(cache_bytes(lab) > MB, "{:?}: the mount stays", lab.who());
        fs::remove_file(lab.work("other")).expect("removed");
        lab.context("ctx", &[("Dockerfile", &dockerfile(30))]);
        build(lab, "ctx");
        assert!(cache_bytes(lab) < 20 * MB, "{:?}: {}", lab.who(), cache_bytes(lab));
    });
}

#[test]
fn the_caps_are_told() {
    let lab = Lab::new(support::Who::Caller);
    configure(&lab, "[gc]\nmax-size = \"7GB\"\nmin-free = 0\nkeep-duration = 0\nreserved = 0\nmax-checkouts = 0\n");
    let said = |args: &[&str]| support::Said::of(shale(&lab, args).output().expect("shale starts")).stdout;
    let doctor = said(&["doctor"]);
    assert!(doctor.lines().any(|line| line.starts_with("ok ") && line.ends_with("  at most 7.516GB")), "{doctor}");
    assert!(said(&["system", "df", "-v"]).contains("\nBuild cache caps: at most 7.516GB\n"));
    fs::write(lab.work("config.toml"), "[gc]\nmax-size = \"much\"\n").expect("written");
    let refused = support::Said::of(shale(&lab, &["build", "."]).output().expect("shale starts"));
    assert!(refused.code == 1 && refused.stderr.contains("invalid size: \"much\""), "{}", refused.stderr);
}
