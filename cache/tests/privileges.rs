//! Stores and trees of other users, and a full disk. Root makes the situations, a child without privileges meets them; for any
//! other user these tests are skipped.
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod common;
#[path = "../../tests/support/program.rs"]
mod program;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{map, tree};
use program::copy_program;
use shale_cache::{OciDigest, Store, StoreError};
use tempfile::{TempDir, tempdir};

const ROLE: &str = "SHALE_TEST_ROLE";
const STORE: &str = "SHALE_TEST_STORE";
/// A user that is nobody, and that owns nothing.
const PLAIN: u32 = 61_234;

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIP: {test}: only root can make files of two users, or mount a small disk");
    }
    is_root
}

/// Runs a role of [`child`] as the plain user.
fn run_as_plain(role: &str, store: &Path) {
    // The build directory may not be open to that user: the program is copied to where it is.
    let dir = tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let program = dir.path().join("child");
    copy_program(&std::env::current_exe().expect("this program"), &program);
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture"]).env(ROLE, role).env(STORE, store).current_dir("/");
    let output = command.uid(PLAIN).gid(PLAIN).output();
    let output = output.expect("a child");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

fn plain_dir() -> (TempDir, PathBuf) {
    let dir = tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let root = dir.path().join("store");
    fs::create_dir(&root).expect("a directory");
    chown(&root, Some(PLAIN), Some(PLAIN)).expect("given away");
    (dir, root)
}

/// What the plain user does. Does nothing as a test of its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let root = PathBuf::from(std::env::var(STORE).expect("a store"));
    match role.as_str() {
        "foreign" => {
            let error = Store::open(&root).expect_err("root's store");
            assert!(matches!(&error, StoreError::ForeignOwner { path, owner: 0, uid: PLAIN } if path == &root), "{error:?}");
        }
        "unwritable" => {
            let error = Store::open(&root).expect_err("no store, and no place for one");
            assert!(matches!(&error, StoreError::Denied { path, .. } if path == &root), "{error:?}");
        }
        "read only" => {
            let store = Store::open(&root).expect("a store that can be read");
            let _lease = store.lease().expect("nothing to write");
            assert_eq!(store.blobs().read(&OciDigest::sha256_of(b"a blob")).expect("read"), Some(b"a blob".to_vec()));
            assert_eq!(store.reap().expect("nothing to do"), Vec::<PathBuf>::new());
            let error = store.blobs().put(b"another").expect_err("nothing can be written");
            assert!(matches!(&error, StoreError::ReadOnly { path, .. } if path == &root), "{error:?}");
            assert_eq!(error.to_string(), format!("the store {} is read-only: cannot write into blobs/", root.display()));
            store.blobs().put(b"a blob").expect("it is there already");
            assert!(matches!(store.gc().prune_all(), Err(StoreError::ReadOnly { .. })));
        }
        "uncreatable" => {
            let error = Store::open(&root.join("new")).expect_err("no place for a store");
            assert!(matches!(&error, StoreError::Denied { path, .. } if path == &root.join("new")), "{error:?}");
        }
        "own trees" => own_trees_go(Store::open(&root).expect("a store")),
        "fill" => drop(Store::open(&root).expect("a store").blobs().put(b"a blob").expect("put")),
        "cover" => {
            let (store, other) = (Store::open(&root).expect("a store"), Store::open(&root).expect("the same store"));
            let lease = store.lease().expect("a lease");
            let file = fs::read_dir(root.join("leases")).expect("listed").next().expect("a lease").expect("an entry").path();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("changed");
            other.blobs().put(b"a blob").expect("put");
            assert_eq!(other.reap().expect("others build"), Vec::<PathBuf>::new());
            other.gc().prune_all().expect("pruned");
            assert!(other.blobs().size(&OciDigest::sha256_of(b"a blob")).expect("looked").is_some(), "everything is covered");
            drop(lease);
            // One that its process did not live to remove.
            fs::write(&file, "1\n").expect("a lease");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("changed");
            assert_eq!(other.reap().expect("others build"), Vec::<PathBuf>::new());
            assert!(!file.exists());
        }
        "make" => {
            let store = Store::open(&root).expect("a store");
            let tmp = store.tmp().expect("a directory");
            tree(tmp.path(), "fs");
            // As if killed: nothing is dropped.
            std::mem::forget((tmp, store));
        }
        "reap" => {
            let store = Store::open(&root).expect("a store");
            let undeletable = store.reap().expect("reaped");
            assert_eq!(undeletable.len(), 1, "{undeletable:?}");
            assert!(undeletable[0].starts_with(root.join("trash")));
            assert_eq!(store.reap().expect("reaped again"), undeletable);
            assert_eq!(fs::read_dir(root.join("tmp")).expect("listed").count(), 0);
            let mut asked = Vec::new();
            let inventory = store.inventory(&mut |paths| {
                asked.extend_from_slice(paths);
                vec![Some(12345); paths.len()]
            });
            assert_eq!(asked, [root.join("trash")], "what a worker is asked for");
            assert!(inventory.expect("counted").overhead_bytes > 12345);
        }
        other => panic!("{other}"),
    }
}

/// Directories that their owner may not write, search or read are deleted all the same.
fn own_trees_go(store: Store) {
    let tmp = store.tmp().expect("a directory");
    for mode in [0o000, 0o500, 0o300, 0o600] {
        let dir = tree(tmp.path(), &format!("mode {mode:o}"));
        fs::create_dir(dir.join("inner")).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).expect("changed");
    }
    assert_eq!(tmp.close(), None);

    // And one can become an unpacked form, with its mode as it was.
    let layer = store.layers().put_index(b"index").expect("put");
    let tmp = store.tmp().expect("a directory");
    let dir = tree(tmp.path(), "fs");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).expect("changed");
    let at = store.layers().commit_fs(&layer, &map(), &dir).expect("committed");
    assert_eq!(fs::metadata(at).expect("there").permissions().mode() & 0o777, 0o555);
    drop(tmp);
    let root = store.root().to_owned();
    drop(store);
    let store = Store::open(&root).expect("a store");
    assert!(store.gc().prune_all().expect("pruned").undeletable.is_empty());
    assert_eq!(fs::read_dir(store.root().join("trash")).expect("listed").count(), 0);
}

#[test]
fn a_store_of_another_user_is_refused() {
    if !is_root("a_store_of_another_user_is_refused") {
        return;
    }
    let dir = tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let root = dir.path().join("store");
    Store::open(&root).expect("a store");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("opened");
    run_as_plain("foreign", &root);

    chown(&root, Some(PLAIN), None).expect("given away");
    let error = Store::open(&root).expect_err("another's store");
    assert!(matches!(&error, StoreError::ForeignOwner { owner: PLAIN, uid: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("61234") && error.to_string().contains("store"), "{error}");
}

#[test]
fn a_lease_that_covers_everything_is_in_nobodys_way() {
    if !is_root("a_lease_that_covers_everything_is_in_nobodys_way") {
        return;
    }
    run_as_plain("cover", &plain_dir().1);
}

#[test]
fn an_unwritable_store_is_named() {
    if !is_root("an_unwritable_store_is_named") {
        return;
    }
    let (_dir, root) = plain_dir();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("changed");
    run_as_plain("unwritable", &root);
    run_as_plain("uncreatable", &root);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("changed");
    run_as_plain("fill", &root);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o555)).expect("changed");
    run_as_plain("read only", &root);
}

#[test]
fn trees_of_the_owner_go_whatever_their_modes() {
    if !is_root("trees_of_the_owner_go_whatever_their_modes") {
        return;
    }
    let (_dir, root) = plain_dir();
    run_as_plain("own trees", &root);
}

#[test]
fn trees_of_others_are_reported() {
    if !is_root("trees_of_others_are_reported") {
        return;
    }
    let (_dir, root) = plain_dir();
    run_as_plain("make", &root);
    let scratch = fs::read_dir(root.join("tmp")).expect("listed").map(|entry| entry.expect("an entry").path());
    let scratch = scratch.into_iter().find(|path| path.is_dir()).expect("a directory");
    // What a RUN step leaves under a mapped id.
    let foreign = scratch.join("0/fs/foreign");
    fs::create_dir(&foreign).expect("a directory");
    fs::write(foreign.join("file"), "").expect("a file");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).expect("closed");
    run_as_plain("reap", &root);
}

/// A mount that goes with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        use rustix::mount::{MountFlags, mount};
        mount("none", at, "tmpfs", MountFlags::empty(), c"size=512k").ok().map(|()| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    if !is_root("a_full_disk_is_named_and_leaves_nothing") {
        return;
    }
    let dir = tempdir().expect("a directory");
    let Some(_disk) = SmallDisk::mount(dir.path()) else {
        eprintln!("SKIP: a_full_disk_is_named_and_leaves_nothing: no tmpfs can be mounted here");
        return;
    };
    let store = Store::open(dir.path()).expect("a store");
    let fits = store.blobs().put(&[1; 1024]).expect("put");
    let big = vec![2; 1 << 20];
    let error = store.blobs().put(&big).expect_err("too big");
    assert!(matches!(&error, StoreError::Full { deed: "write", source, .. } if source.raw_os_error() == Some(28)), "{error:?}");
    assert!(matches!(store.lists().put(&big), Err(StoreError::Full { .. })));
    assert!(matches!(store.layers().put_index(&big), Err(StoreError::Full { .. })));
    let mut writer = store.blobs().writer().expect("a writer");
    assert_eq!(writer.write_all(&big).expect_err("too big").kind(), std::io::ErrorKind::StorageFull);
    drop(writer);
    assert_eq!(store.blobs().size(&fits).expect("looked"), Some(1024));
    store.blobs().put(&vec![3; 100_000]).expect("what failed left its space");
}
