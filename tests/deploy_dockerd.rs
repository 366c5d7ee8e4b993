//! The way to a server: an image of shale's, pushed, pulled by dockerd and run as a container and as a swarm's service.

mod support;

use std::process::Command;

use support::{Lab, Said, Who, has, is_root, skip};

/// dockerd and its registry live in namespaces of their own.
fn run_alone(lab: &Lab) -> Said {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/deploy/dockerd.sh");
    let (folder, group) = (lab.path("docker"), format!("shale-deploy-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--propagation", "private", "sh", script]).arg(lab.path("shale")).arg(folder).arg(group);
    command.env("SHALE_ROOT", lab.store()).env("HOME", lab.path("home")).env_remove("DOCKER_CONFIG").env_remove("DOCKER_HOST");
    Said::of(command.output().expect("unshare starts"))
}

#[test]
fn what_was_pushed_is_deployed_by_dockerd() {
    for program in ["dockerd", "docker", "docker-registry", "ip", "unshare", "wget"] {
        if !has(program) {
            return skip("dockerd", &format!("{program} is not installed"));
        }
    }
    if !is_root() {
        return skip("dockerd", "only root starts it");
    }
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let dockerfile = "FROM busybox\nRUN mkdir /www && echo deployed >/www/index.html\nEXPOSE 8080\n\
                      CMD [\"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n";
    lab.context("web", &[("Dockerfile", dockerfile)]);
    let built = lab.run(&["build", "-q", "-t", "web:1", lab.work("web").to_str().expect("text")]);
    assert!(built.ok(), "{}", built.stderr);

    let said = run_alone(&lab);
    assert!(said.ok(), "{}{}", said.stdout, said.stderr);
    let mut lines = said.stdout.lines();
    let mut next = |what: &str| {
        let line = lines.next().unwrap_or_else(|| panic!("nothing about {what}:\n{}{}", said.stdout, said.stderr)).to_owned();
        match line.strip_prefix("SKIP: ").and_then(|line| line.split_once(": ")) {
            Some((what, why)) => {
                skip(what, why);
                None
            }
            None => Some(line.strip_prefix(what).unwrap_or_else(|| panic!("{what}: {line}\n{}", said.stderr)).trim().to_owned()),
        }
    };
    let Some(pushed) = next("pushed") else { return };
    assert_eq!(next("pulled").as_ref(), Some(&pushed), "dockerd has what was pushed");
    assert_eq!(next("id").as_deref(), Some(built.stdout.trim()), "the image id is the same");
    for deed in ["run", "service"] {
        let Some(answer) = next(deed) else { return };
        assert_eq!(answer, "deployed", "{deed}: {}", said.stderr);
    }
}
