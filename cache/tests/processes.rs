//! Several processes and one store. The children are this program again, running the test `child` alone.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use common::{files, map, open, record, tree};
use shale_cache::{LayerId, Lookup, Patience, Store, StoreError, Waiting};
use tempfile::tempdir;

const ROLE: &str = "SHALE_TEST_ROLE";
const STORE: &str = "SHALE_TEST_STORE";

/// A child that does not outlive its test: one that fails must leave none behind.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended, and have been waited for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Guarded {
    /// Waits until it has ended by itself.
    fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("waited")
    }
}

fn spawn(role: &str, store: &Path) -> Guarded {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(ROLE, role).env(STORE, store);
    Guarded(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child"))
}

/// Waits until the child says that it is where it should be.
fn wait_ready(child: &mut Guarded) {
    let mut lines = BufReader::new(child.0.stdout.as_mut().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("READY") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).expect("read"), 0, "the child ended early");
    }
}

fn say_ready_and_wait() {
    let mut out = std::io::stdout();
    out.write_all(b"\nREADY\n").and_then(|()| out.flush()).expect("written");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("read");
}

/// What the children do. Does nothing as a test of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let store = Store::open(Path::new(&std::env::var(STORE).expect("a store"))).expect("a store");
    let step = record(LayerId::of_index(b"index"), "make");
    match role.as_str() {
        "holder" => {
            let Lookup::Miss(lock) = store.steps().lookup(&step.key).expect("looked") else { panic!("a hit") };
            say_ready_and_wait();
            store.layers().put_index(b"index").expect("put");
            lock.commit(&step).expect("committed");
        }
        "scratch" => {
            let tmp = store.tmp().expect("a directory");
            tree(tmp.path(), "fs");
            let mut writer = store.blobs().writer().expect("a writer");
            writer.write_all(b"half").expect("written");
            say_ready_and_wait();
        }
        "user" => {
            let _lease = store.lease().expect("a lease");
            let used = record(LayerId::of_index(b"used"), "used");
            assert!(matches!(store.steps().lookup(&used.key), Ok(Lookup::Hit(_))));
            say_ready_and_wait();
        }
        "gate" => {
            let gate = fs::File::open(store.root().join("lease")).expect("a gate");
            rustix::fs::flock(&gate, rustix::fs::FlockOperation::LockShared).expect("held");
            say_ready_and_wait();
        }
        "pruner" => {
            std::io::stdout().write_all(b"\nREADY\n").and_then(|()| std::io::stdout().flush()).expect("written");
            // Its input ends with its parent, however that ends.
            let parent = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
            while !parent.is_finished() {
                store.gc().prune_all().expect("pruned");
            }
        }
        "committer" => commit_many(&store),
        "opener" => drop(store.blobs().put(b"opened").expect("put")),
        other => panic!("{other}"),
    }
}

fn commit_many(store: &Store) {
    for number in 0..30 {
        let index = format!("index {number}");
        let layer = store.layers().put_index(index.as_bytes()).expect("put");
        let tmp = store.tmp().expect("a directory");
        store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
        if let Lookup::Miss(lock) = store.steps().lookup(&record(layer, &index).key).expect("looked") {
            let path = store.root().join("builds").join(format!("{number}-{}", std::process::id()));
            fs::write(path, "").expect("written");
            lock.commit(&record(layer, &index)).expect("committed");
        }
        store.blobs().put(index.as_bytes()).expect("put");
        store.reap().expect("reaped");
    }
}

#[test]
fn processes_commit_the_same_things() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let children: Vec<Guarded> = (0..4).map(|_| spawn("committer", dir.path())).collect();
    commit_many(&store);
    for mut child in children {
        assert!(child.wait().success());
    }
    assert_eq!(files(&dir.path().join("builds")).len(), 30, "each step was made once");
    drop(store);
    assert_eq!(files(&dir.path().join("locks")), [""; 0]);
    let store = open(dir.path());
    for number in 0..30 {
        let index = format!("index {number}");
        let layer = LayerId::of_index(index.as_bytes());
        assert!(store.steps().peek(&record(layer, &index).key).expect("looked").is_some());
        assert!(store.layers().fs(&layer, &map()).expect("looked").is_some());
    }
    store.reap().expect("reaped");
    assert_eq!(files(&dir.path().join("trash")), [""; 0]);
}

#[test]
fn processes_make_one_store_together() {
    let dir = tempdir().expect("a directory");
    let root = dir.path().join("store");
    let children: Vec<Guarded> = (0..6).map(|_| spawn("opener", &root)).collect();
    for mut child in children {
        assert!(child.wait().success());
    }
    open(&root);
}

#[test]
fn a_step_in_flight_is_waited_for() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let mut child = spawn("holder", dir.path());
    wait_ready(&mut child);
    let pid = child.0.id();
    let mut stdin = child.0.stdin.take();
    let mut told = Vec::new();
    let key = record(LayerId::of_index(b"index"), "make").key;
    // The child goes on when it has been waited for long enough to be named.
    let mut on_wait = |waiting: &Waiting| {
        told.push(waiting.clone());
        drop(stdin.take());
    };
    let found = store.steps().lookup_with(&key, &mut Patience { on_wait: &mut on_wait, keep_waiting: &|| true }).expect("looked");
    assert!(matches!(found, Lookup::Hit(_)), "{found:?}");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].holder_pid, Some(pid));
    assert!(told[0].waited >= Duration::from_secs(1));
    assert!(child.wait().success());
}

#[test]
fn a_killed_process_holds_no_lock() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let key = record(LayerId::of_index(b"index"), "make").key;
    let mut child = spawn("holder", dir.path());
    wait_ready(&mut child);
    let patience = &mut Patience { on_wait: &mut |_| {}, keep_waiting: &|| false };
    assert!(matches!(store.steps().lookup_with(&key, patience), Err(StoreError::WaitCancelled { .. })), "the child holds the key");
    assert!(matches!(store.reap(), Ok(undeletable) if undeletable.is_empty()));
    assert_eq!(files(&dir.path().join("locks")).len(), 1, "a held lock is not reaped");
    drop(child);
    let found = store.steps().lookup_with(&key, &mut Patience { on_wait: &mut |_| {}, keep_waiting: &|| false });
    assert!(matches!(found, Ok(Lookup::Miss(_))), "{found:?}");
}

#[test]
fn what_a_killed_process_left_is_reaped() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let (mut scratch, mut holder) = (spawn("scratch", dir.path()), spawn("holder", dir.path()));
    wait_ready(&mut scratch);
    wait_ready(&mut holder);
    let before = files(&dir.path().join("tmp"));
    assert_eq!(before.len(), 3, "a lock, a file in a directory, half a blob: {before:?}");
    store.reap().expect("reaped");
    assert_eq!(files(&dir.path().join("tmp")), before, "its owner lives");
    drop(scratch);
    drop(holder);
    assert_eq!(store.reap().expect("reaped"), [""; 0].map(std::path::PathBuf::from));
    for gone in ["tmp", "trash", "locks"] {
        assert_eq!(fs::read_dir(dir.path().join(gone)).expect("listed").count(), 0, "{gone}");
    }
}

#[test]
fn a_pruning_leaves_what_another_process_uses_until_that_ends() {
    let dir = tempdir().expect("a directory");
    let made = [b"used", b"idle"].map(|index| {
        let store = open(dir.path());
        let layer = store.layers().put_index(index).expect("put");
        let record = record(layer, &String::from_utf8_lossy(index));
        store.steps().put(&record).expect("put");
        record
    });
    let has = |at: usize| open(dir.path()).steps().peek(&made[at].key).expect("looked").is_some();
    let mut child = spawn("user", dir.path());
    wait_ready(&mut child);
    let report = open(dir.path()).gc().prune_all().expect("pruned");
    assert_eq!((report.removed.len(), report.in_use), (1, 1), "{report:?}");
    assert!(has(0) && !has(1), "the layer that the child has looked up stays");
    drop(child);
    let report = open(dir.path()).gc().prune_all().expect("pruned");
    assert_eq!((report.removed.len(), report.in_use), (1, 0), "{report:?}");
    assert!(!has(0));
    assert_eq!(files(&dir.path().join("leases")), [""; 0]);
}

/// A version of shale that knows no lines in leases holds the gate for a whole build.
#[test]
fn a_pruning_names_the_build_that_keeps_it_off() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    store.blobs().put(b"a blob").expect("put");
    let store = {
        drop(store);
        open(dir.path())
    };
    let mut child = spawn("gate", dir.path());
    wait_ready(&mut child);
    let error = store.gc().prune_all().expect_err("the gate is held");
    assert!(matches!(&error, StoreError::Busy { holders, .. } if holders == &[child.0.id()]), "{error:?}");
    assert!(error.to_string().contains(&child.0.id().to_string()), "{error}");
    drop(child);
    store.gc().prune_all().expect("pruned");
}

/// What a build has found stays until it ends, however fast others delete.
#[test]
fn whoever_hits_has_the_layer_while_another_process_prunes() {
    let dir = tempdir().expect("a directory");
    let mut pruner = spawn("pruner", dir.path());
    wait_ready(&mut pruner);
    let mut hits = 0;
    for round in 0..400 {
        // A build of its own each time.
        let store = open(dir.path());
        let _lease = store.lease().expect("a lease");
        let step = record(LayerId::of_index(b"index"), "make");
        let found = store.steps().lookup(&step.key).expect("looked");
        if let Lookup::Miss(lock) = found {
            let layer = store.layers().put_index(b"index").expect("put");
            let tmp = store.tmp().expect("a directory");
            store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
            lock.commit(&step).expect("committed");
        } else {
            hits += 1;
        }
        std::thread::yield_now();
        assert!(store.layers().index_path(&step.layer).exists(), "round {round}");
        assert!(store.layers().fs(&step.layer, &map()).expect("looked").expect("there").join("file").exists(), "round {round}");
    }
    assert!((1..400).contains(&hits), "{hits} hits: neither or both sides had their turn");
    drop(pruner);
}
