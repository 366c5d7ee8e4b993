//! Finds the processes and mounts that a laboratory's shale has started, wherever they hide.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, copy_program};

/// How the process that writes the disk back after a build is called.
const SYNC: &[u8] = b"shale-worker\0sync\0";

impl Lab {
    /// Gives the laboratory a program file that no other one shares, by which its processes are known.
    pub fn own_binary(&self) {
        let fresh = self.path("shale.fresh");
        copy_program(&self.binary, &fresh);
        fs::rename(&fresh, &self.binary).expect("rename");
    }

    /// The processes of this laboratory: those that run its program, and those that have its path in their environment, their working
    /// folder or the overlay that is their root. The one that writes the disk back after a build is none of them.
    pub fn processes(&self) -> Vec<String> {
        let binary = fs::metadata(&self.binary).expect("the binary is there");
        let is_ours = |pid: &str| {
            let at = |name: &str| Path::new("/proc").join(pid).join(name);
            let holds = |name: &str, text: &[u8]| fs::read(at(name)).is_ok_and(|bytes| contains(&bytes, text));
            let dir = self.dir.path().as_os_str().as_bytes();
            let runs_it = fs::metadata(at("exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) == (binary.dev(), binary.ino()));
            let is_in_it = fs::read_link(at("cwd")).is_ok_and(|cwd| contains(cwd.as_os_str().as_bytes(), dir));
            let has_root = || fs::read(at("mountinfo")).is_ok_and(|all| all.split(|b| *b == b'\n').any(|line| is_overlay(line, dir)));
            (runs_it || is_in_it || holds("environ", dir) || has_root()) && !holds("cmdline", SYNC)
        };
        let shown = |pid: String| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
        };
        pids().filter(|pid| is_ours(pid)).map(shown).collect()
    }

    /// Waits until the store is looked after and the disk written back: then nothing changes it any more, not even a mark.
    pub fn wait_for_sync(&self, when: &str) {
        let start = Instant::now();
        while !self.syncing().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(120), "{:?}: {when}: {:?} does not end", self.who, self.syncing());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processes that write the disk back for this store, which their argument names.
    fn syncing(&self) -> Vec<String> {
        let store = self.store();
        let is_ours = |line: &[u8]| contains(line, SYNC) && contains(line, store.as_os_str().as_bytes());
        pids().filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_ours(&line))).collect()
    }

    /// Asserts that no process of the laboratory is left; the kernel is given a moment to bury them.
    pub fn assert_no_process(&self, when: &str) {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {when}: left behind: {left:#?}", self.who);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asserts that the machine has no mount of the laboratory.
    pub fn assert_no_mount(&self, when: &str) {
        let mounts = fs::read("/proc/self/mountinfo").expect("procfs");
        assert!(!contains(&mounts, self.dir.path().as_os_str().as_bytes()), "{:?}: {when}: a mount is left", self.who);
    }

    /// The names in a folder of the store.
    pub fn names_in_store(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.store().join(folder)) else { return Vec::new() };
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    /// Asserts that the store holds nothing that is unfinished, once who looks after it behind a build is done.
    pub fn assert_tidy(&self, when: &str) {
        self.wait_for_sync(when);
        for folder in ["tmp", "trash", "locks"] {
            assert_eq!(self.names_in_store(folder), Vec::<String>::new(), "{:?}: {when}: {folder}/", self.who);
        }
    }
}

fn pids() -> impl Iterator<Item = String> {
    let names = fs::read_dir("/proc").expect("procfs").filter_map(|e| e.ok()?.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

fn is_overlay(line: &[u8], dir: &[u8]) -> bool {
    contains(line, b" - overlay ") && contains(line, dir)
}

/// Sends a signal to a process of ours.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it lives");
}

/// Sends a signal to a process by its number, of which nobody waits for it as its parent.
pub fn send_to(pid: &str, signal: Signal) {
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process number");
    kill_process(pid, signal).expect("it lives");
}

/// Waits for a process, but not forever: one that does not end is killed and named.
pub fn wait_at_most(child: &mut Child, limit: Duration, what: &str) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if start.elapsed() > limit {
            drop(child.kill());
            drop(child.wait());
            panic!("{what}: not over after {limit:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
