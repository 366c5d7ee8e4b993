//! A Jenkinsfile with the stages pull, build, tag and push, run with shale as `docker` against a registry that asks for a password; and
//! what was pushed is deployed by another engine.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::agent::Agent;
use support::jenkinsfile::{Call, calls, run};
use support::registry::{PASSWORD, Registry, USER};
use support::{Lab, Who, as_everybody, has, is_root, skip};

/// A base in the registry and the sources of an app.
fn prepare(lab: &Lab, registry: &Registry) {
    lab.load_busybox();
    lab.context(
        "app",
        &[
            ("Dockerfile", "FROM base:1\nARG REVISION=none\nLABEL revision=$REVISION\nCOPY page.txt /\nRUN cat /page.txt >/shown\nCMD [\"cat\", \"/shown\"]\n"),
            ("page.txt", "it answers\n"),
        ],
    );
    let base = format!("{}/base:1", registry.host);
    let config = lab.write("setup/config.json", "{}");
    let script = format!(
        "shale login -u {USER} --password-stdin {} <pw; shale tag busybox {base}; shale push -q {base}; shale rmi {base}",
        registry.host
    );
    lab.write("pw", PASSWORD);
    let mut command = lab.command_of("sh", &["-ec", &script]);
    let path = format!("{}:{}", lab.path("").display(), std::env::var("PATH").unwrap_or_default());
    let done = command.env("PATH", path).env("DOCKER_CONFIG", config.parent().expect("a folder")).output().expect("sh starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn agent<'a>(lab: &'a Lab, registry: &Registry) -> Agent<'a> {
    let mut agent = Agent::new(lab);
    for (name, value) in [("REGISTRY", registry.host.as_str()), ("USERNAME", USER), ("PASSWORD", PASSWORD)] {
        agent.set(name, value);
    }
    agent
}

fn pipeline(agent: &Agent<'_>) -> Vec<Call> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/jenkins/Jenkinsfile");
    let value = |name: &str| {
        let found = agent.environment.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name} is not set")).1.clone()
    };
    calls(&fs::read_to_string(file).expect("the Jenkinsfile"), &value)
}

fn play(lab: &Lab, registry: &Registry) {
    let mut agent = agent(lab, registry);
    let calls = pipeline(&agent);
    assert!(calls.len() > 20 && calls.contains(&Call::EndOfRegistry), "{calls:#?}");
    let done = run(lab, &mut agent, &calls);
    for (stage, script, said) in &done {
        assert!(said.ok(), "{:?}: stage {stage}: {script}\nexit code {}\n{}{}", lab.who(), said.code, said.stdout, said.stderr);
    }
}

#[test]
fn a_jenkinsfile_runs_unchanged() {
    as_everybody(|lab| {
        let Some(registry) = Registry::with_user(&lab.path("etc")) else { return };
        prepare(lab, &registry);
        play(lab, &registry);
        assert_eq!(fs::read_to_string(lab.work("revision")).expect("written by a step"), "7\n");
        let tags = fs::read_to_string(lab.work("tags")).expect("written by a step");
        assert_eq!(tags, format!("{0}/team/app:7\n{0}/team/app:latest\n", registry.host));
        assert!(!lab.work("registry-secrets").exists());
        let config = fs::read_to_string(lab.path("home/.docker/config.json")).unwrap_or_default();
        assert!(!config.contains(&registry.host), "logged out: {config}");
        if !has("skopeo") {
            return skip("pushed images", "skopeo is not installed");
        }
        for name in ["team/app:7", "team/app:latest", "plugin/app:7", "plugin/app:stable"] {
            let image = format!("docker://{}/{name}", registry.host);
            let credentials = format!("{USER}:{PASSWORD}");
            let said = Command::new("skopeo").args(["inspect", "--tls-verify=false", "--creds", &credentials, "--config", &image]).output();
            let said = said.expect("skopeo starts");
            let config: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{name}: {said:?}"));
            assert_eq!(config["config"]["Cmd"][0], "cat", "{name}");
        }
    });
}

/// podman with a storage of its own, and with one cgroup tree where the machine has an old and a new one.
fn podman(lab: &Lab, args: &[&str]) -> Output {
    let script = "[ -e /sys/fs/cgroup/cgroup.controllers ] || { umount -R -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; }
        root=$1; shift; exec podman --root $root --runroot $root --cgroup-manager cgroupfs --storage-driver vfs --events-backend none \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(lab.path("podman")).args(args);
    command.env("HOME", lab.path("home")).env_remove("DOCKER_HOST").stdin(Stdio::null()).output().expect("unshare starts")
}

/// What a container here needs: the machine may forbid to raise limits and to make cgroups.
const RUN: &[&str] =
    &["run", "--rm", "--network", "host", "--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// Why podman runs no containers here, whoever made the image.
fn podman_runs_nothing(lab: &Lab) -> Option<String> {
    if !is_root() || ["podman", "crun", "unshare"].iter().any(|program| !has(program)) {
        return Some("it needs root, podman, crun and unshare".into());
    }
    let rootfs = lab.path("rootfs");
    fs::create_dir_all(rootfs.join("bin")).expect("mkdir");
    tar::Archive::new(support::busybox_rootfs().as_slice()).unpack(&rootfs).expect("a root");
    let said = podman(lab, &[RUN, &["--rootfs", rootfs.to_str().expect("text"), "/bin/true"]].concat());
    (!said.status.success()).then(|| String::from_utf8_lossy(&said.stderr).trim().to_owned())
}

#[test]
fn what_was_pushed_is_run_by_podman() {
    let lab = Lab::new(Who::Caller);
    if let Some(why) = podman_runs_nothing(&lab) {
        return skip("podman run", &why);
    }
    let Some(registry) = Registry::with_user(&lab.path("etc")) else { return };
    prepare(&lab, &registry);
    play(&lab, &registry);
    let name = format!("{}/plugin/app:stable", registry.host);
    let pulled = podman(&lab, &["pull", "-q", "--tls-verify=false", "--creds", &format!("{USER}:{PASSWORD}"), &name]);
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let pulled_id = String::from_utf8_lossy(&pulled.stdout).trim().to_owned();
    let own = lab.run(&["inspect", "-f", "{{.Id}}", &name]);
    assert_eq!(own.stdout.trim(), format!("sha256:{pulled_id}"), "the same image under the same id");
    let ran = podman(&lab, &[RUN, &[name.as_str()]].concat());
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "it answers\n", "{}", String::from_utf8_lossy(&ran.stderr));
}
