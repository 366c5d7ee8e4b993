//! `build --load`: the image goes into the engine that answers, and into none that is shale itself.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use support::{Lab, Said, as_everybody};

const APP: &[(&str, &str)] = &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "x\n")];

/// An engine that answers and keeps what it is given.
const ENGINE: &str =
    "#!/bin/sh\ncase $1 in\nversion) echo 28.0.0 ;;\nload) /bin/cat >loaded.tar && echo 'Loaded image: app:1' ;;\n*) exit 1 ;;\nesac\n";

fn build(lab: &Lab, program: &str, dir: &str) -> Said {
    // Only this folder: an engine of this machine is not to be filled by tests.
    let path = format!("PATH={}", lab.work(dir).display());
    let mut command = lab.command_of("env", &[&path, program, "build", "--load", "-t", "app:1", "app"]);
    Said::of(command.output().expect("it starts"))
}

#[test]
fn the_image_is_streamed_into_the_engine_that_answers() {
    as_everybody(|lab| {
        lab.context("app", APP);
        let engine = lab.write("engine/docker", ENGINE);
        fs::set_permissions(engine, fs::Permissions::from_mode(0o755)).expect("chmod");
        let shale = lab.path("shale");
        let said = build(lab, shale.to_str().expect("text"), "engine");
        assert!(said.ok() && said.stdout.is_empty() && said.stderr.contains("docker load: Loaded image: app:1\n"), "{}", said.stderr);
        let mut archive = tar::Archive::new(fs::File::open(lab.work("loaded.tar")).expect("the engine was given an archive"));
        let manifest = archive
            .entries()
            .expect("a tar")
            .map(|entry| entry.expect("an entry"))
            .find(|entry| entry.path().is_ok_and(|path| path.as_ref() == std::path::Path::new("manifest.json")));
        let manifest: serde_json::Value = serde_json::from_reader(manifest.expect("docker load reads it")).expect("JSON");
        assert_eq!(manifest[0]["RepoTags"][0], "app:1");
    });
}

#[test]
fn without_an_engine_nothing_is_built_and_under_docker_s_name_the_store_is_meant() {
    as_everybody(|lab| {
        lab.context("app", APP);
        lab.write("none/readme", "");
        fs::create_dir_all(lab.path("links")).expect("mkdir");
        symlink(lab.path("shale"), lab.path("links/docker")).expect("a link");
        let shale = lab.path("shale");
        let said = build(lab, shale.to_str().expect("text"), "none");
        assert_eq!(said.code, 1);
        assert!(said.stderr.starts_with("ERROR: --load needs docker or podman, and neither is here\n"), "{}", said.stderr);
        let docker = lab.path("links/docker");
        let said = build(lab, docker.to_str().expect("text"), "none");
        assert!(said.ok(), "{}", said.stderr);
        assert_eq!(lab.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).stdout, "app:1\n");
    });
}
