//! What a machine allows is found out by doing, and what it refuses is said in words that help.

mod sandbox_common;

use sandbox_common::{Guise, ORDINARY, again, program};
use shale::sandbox::SandboxError;
use shale::sandbox::ladder::Rung;
use shale::worker::{Worker, WorkerConfig, probe_with};

const STORE: &str = "SHALE_TEST_STORE";
const RUNG: &str = "SHALE_TEST_RUNG";

/// Run by the other tests in their guises: compares what is found with what they expect.
#[test]
fn expected() {
    let Ok(expected) = std::env::var(RUNG) else { return };
    let (rung, words) = expected.split_once(',').unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store_root = std::env::var_os(STORE).map_or_else(|| dir.path().join("not/yet"), Into::into);
    let config = WorkerConfig { store_root, privileged: false };
    let report = probe_with(&program(), &config).unwrap();
    assert_eq!(format!("{:?}", report.rung), rung, "{report:?}");
    let Some(refusal) = report.refusal else {
        assert!(report.rung.is_executed() && report.features.len() >= 5, "{report:?}");
        drop(Worker::start_program(&program(), &config).unwrap());
        return;
    };
    assert!(refusal.to_string().contains(words), "{words} is not in: {refusal}");
    // Without a store the worker starts; what is wrong with that shows at the first step.
    if report.rung != Rung::CopySnapshots {
        match Worker::start_program(&program(), &config) {
            Err(SandboxError::Refused(same)) => assert_eq!(*same, refusal),
            other => panic!("{other:?}"),
        }
    }
}

fn expect(name: &str, rung: &str, words: &str, guise: Guise<'_>) {
    let env = format!("{RUNG}={rung},{words} {}", guise.env);
    again(name, Guise { env: &env, args: "--exact expected --nocapture", ..guise });
}

#[test]
fn a_user_with_subordinate_ids() {
    expect("a_user_with_subordinate_ids", "Mapped", "", ORDINARY);
}

#[test]
fn root() {
    expect("root", "Root", "", Guise { become_it: "", ..ORDINARY });
}

#[test]
fn root_without_mount_rights() {
    expect("root_without_mount_rights", "Nested", "", Guise { become_it: "setpriv --bounding-set -sys_admin", ..ORDINARY });
}

#[test]
fn a_user_without_a_range() {
    expect("a_user_without_a_range", "SingleId", "/etc/subuid", Guise { ranges: "", ..ORDINARY });
}

#[test]
fn a_user_who_can_gain_no_privileges() {
    let become_it = "setpriv --reuid 2000 --regid 2000 --clear-groups --no-new-privs";
    expect("a_user_who_can_gain_no_privileges", "SingleId", "no_new_privs", Guise { become_it, ..ORDINARY });
}

#[test]
fn a_machine_without_newuidmap() {
    // A PATH with what the start of the copy needs and nothing else.
    let before = "mkdir $1/bin; for p in setpriv env; do ln -s $(command -v $p) $1/bin/$p; done; PATH=$1/bin";
    expect("a_machine_without_newuidmap", "SingleId", "newuidmap", Guise { before, ..ORDINARY });
}

#[test]
fn root_of_a_namespace_with_one_id() {
    expect("root_of_a_namespace_with_one_id", "SingleId", "single", Guise { become_it: "unshare -r", ..ORDINARY });
}

#[test]
fn a_store_on_an_overlay() {
    let before = "mkdir $1/l $1/u $1/w $1/m && mount -t overlay overlay -o lowerdir=$1/l,upperdir=$1/u,workdir=$1/w $1/m || fail
        mkdir $1/m/store && chown 2000:2000 $1/m/store || fail";
    expect("a_store_on_an_overlay", "CopySnapshots", "SHALE_ROOT", Guise { before, env: "SHALE_TEST_STORE=$1/m/store", ..ORDINARY });
}
