//! login, push, pull and logout as people type them, against Debian's registry and other engines.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use support::registry::Registry;
use support::{Lab, Said, Who, as_everybody, has, skip};

/// Runs shale with a text on its standard input.
fn run_with(lab: &Lab, args: &[&str], input: &str) -> Said {
    let mut child = lab.shale(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shale starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("shale reads");
    Said::of(child.wait_with_output().expect("shale ends"))
}

fn registry(lab: &Lab) -> Option<Registry> {
    Registry::with_user(&lab.path("etc"))
}

/// The file that login writes.
fn login_file(lab: &Lab) -> std::path::PathBuf {
    lab.path("home/.docker/config.json")
}

/// Runs a tool with the credentials of the file; `None` where it is not installed.
fn peer(lab: &Lab, program: &str, args: &[&str]) -> Option<Said> {
    if !has(program) {
        skip(program, "not installed");
        return None;
    }
    let mut command = Command::new(program);
    command.args(args).env("REGISTRY_AUTH_FILE", login_file(lab)).current_dir(lab.path("work"));
    Some(Said::of(command.output().expect("the tool starts")))
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    as_everybody(|lab| {
        let Some(registry) = registry(lab) else { return };
        let host = &registry.host;
        lab.load_busybox();
        lab.context("app", &[("Dockerfile", "FROM busybox\nRUN echo made >/made\nCOPY file /\n"), ("file", "content\n")]);
        let name = format!("{host}/team/app:1");
        // The archive and the push are of the same build.
        let archive = lab.build("app", &["-t", &name]).image.digest;

        let said = lab.run(&["push", &name]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("unauthorized: authentication required") && said.stderr.contains("log in"), "{}", said.stderr);

        let said = run_with(lab, &["login", "-u", "user", "--password-stdin", &format!("http://{host}/v2/")], "secret\n");
        assert_eq!((said.code, said.stdout.as_str()), (0, "Login Succeeded\n"), "{}", said.stderr);
        assert!(said.stderr.contains("WARNING! Your credentials are stored unencrypted in"), "{}", said.stderr);

        let said = lab.run(&["push", &name]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let lines: Vec<&str> = said.stdout.lines().collect();
        assert_eq!(lines[0], format!("The push refers to repository [{host}/team/app]"));
        assert_eq!(lines.iter().filter(|l| l.ends_with(": Preparing")).count(), 3, "{}", said.stdout);
        assert_eq!(lines.iter().filter(|l| l.ends_with(": Pushed")).count(), 3, "{}", said.stdout);
        let last = lines.last().expect("lines");
        assert!(last.starts_with(&format!("1: digest: {archive} size: ")), "the archive's digest: {last}");

        let said = lab.run(&["push", &name]);
        assert_eq!(said.stdout.lines().filter(|l| l.ends_with(": Layer already exists")).count(), 3, "{}", said.stdout);
        let other = format!("{host}/other");
        assert!(lab.run(&["tag", &name, &other]).ok());
        let said = lab.run(&["push", &other]);
        assert_eq!(said.stdout.lines().next(), Some("Using default tag: latest"));
        assert_eq!(said.stdout.lines().filter(|l| l.ends_with(": Mounted from team/app")).count(), 3, "{}", said.stdout);
        assert_eq!(lab.run(&["image", "push", "-q", &name]).stdout, format!("{name}\n"));

        peers_see(lab, &name, &archive);
        pulled_back(lab, &name, &archive);
        let secrets = Command::new("grep").args(["-rlE", "dXNlcjpzZWNyZXQ|user:secret"]).arg(lab.store()).output().expect("grep runs");
        assert!(secrets.stdout.is_empty(), "the password is in the store: {}", String::from_utf8_lossy(&secrets.stdout));
    });
}

fn peers_see(lab: &Lab, name: &str, digest: &str) {
    let image = format!("docker://{name}");
    if let Some(said) = peer(lab, "skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image]) {
        assert_eq!(said.stdout.trim(), digest, "{}", said.stderr);
    }
    if lab.who() == Who::Caller && support::is_root() {
        let (root, run) = (lab.path("podman").display().to_string(), lab.path("podman-run").display().to_string());
        let own = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        if let Some(said) = peer(lab, "podman", &[&own[..], &["pull", "-q", "--tls-verify=false", name]].concat()) {
            assert!(said.ok(), "podman: {}", said.stderr);
            let said = peer(lab, "podman", &[&own[..], &["image", "inspect", "--format", "{{.Digest}}", name]].concat()).expect("podman");
            assert_eq!(said.stdout.trim(), digest, "{}", said.stderr);
        }
    }
}

/// Another store gets the image from the registry.
fn pulled_back(lab: &Lab, name: &str, digest: &str) {
    let other = lab.path("home/other-store");
    let run = |args: &[&str]| Said::of(lab.shale(args).env("SHALE_ROOT", &other).output().expect("shale starts"));
    let said = run(&["pull", name]);
    assert!(said.ok(), "{}", said.stderr);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines[0], "1: Pulling from team/app");
    assert_eq!(lines.iter().filter(|l| l.ends_with(": Pull complete")).count(), 3, "{}", said.stdout);
    let tail = [format!("Digest: {digest}"), format!("Status: Downloaded newer image for {name}"), name.to_owned()];
    assert_eq!(lines[lines.len() - 3..], tail);
    let said = run(&["pull", name]);
    let same = [
        "1: Pulling from team/app".to_owned(),
        format!("Digest: {digest}"),
        format!("Status: Image is up to date for {name}"),
        name.to_owned(),
    ];
    assert_eq!(said.stdout.lines().collect::<Vec<_>>(), same);
    assert_eq!(run(&["pull", "-q", name]).stdout, format!("{name}\n"));
    let repository = name.strip_suffix(":1").expect("a tag");
    let said = run(&["pull", "-a", repository]);
    assert_eq!(said.stdout.lines().last(), Some(repository), "{}", said.stderr);
    let by_digest = format!("{repository}@{digest}");
    let said = run(&["pull", &by_digest]);
    assert_eq!(said.stdout.lines().last(), Some(by_digest.as_str()), "{}", said.stderr);
    lab.context("again", &[("Dockerfile", &format!("FROM {name}\nRUN cat /made /file >/both\n"))]);
    assert!(run(&["build", "-q", "again"]).ok());
    // The digest is one name of the image, the tag another one.
    assert_eq!(run(&["rmi", &by_digest]).stdout, format!("Untagged: {by_digest}\n"));
    assert_eq!(run(&["inspect", "-f", "{{.RepoTags}} {{.RepoDigests}}", name]).stdout, format!("[{name}] []\n"));
    let said = run(&["pull", &format!("{repository}:none")]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains(":none: not found"), "{}", said.stderr);
}

#[test]
fn what_cannot_be_pushed_is_told_in_docker_s_words() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    assert!(lab.run(&["tag", "busybox", "localhost:1/app:1"]).ok());
    let digest = format!("localhost:1/app@sha256:{}", "a".repeat(64));
    for (args, text) in [
        (&["push", "localhost:1/nothing"][..], "An image does not exist locally with the tag: localhost:1/nothing"),
        (&["push", "localhost:1/app:2"], "tag does not exist: localhost:1/app:2"),
        (&["push", &digest], "cannot push a digest reference"),
        (&["push", "-a", "localhost:1/app:1"], "tag can't be used with --all-tags/-a"),
        (&["pull", "-a", "localhost:1/app:1"], "tag can't be used with --all-tags/-a"),
        (&["push", "localhost:1/app:1"], "cannot reach localhost:1: "),
        (&["push", "Up/App"], "must be lowercase"),
    ] {
        let said = lab.run(args);
        assert_eq!(said.code, 1, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(text), "{args:?}: {}", said.stderr);
    }
}

#[test]
fn login_keeps_credentials_as_docker_does() {
    as_everybody(|lab| {
        let Some(registry) = registry(lab) else { return };
        let host = &registry.host;
        let file = login_file(lab);
        for (args, text) in [
            (&["login", "-u", "user", "-p", "wrong", host][..], "failed with status: 401 Unauthorized"),
            (&["login", host], "cannot perform an interactive login from a non-TTY device"),
            (&["login", "--password-stdin", host], "requires --username to be set"),
            (&["login", "-u", "", "-p", "x", host], "username is empty"),
        ] {
            let said = lab.run(args);
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{args:?}");
            assert!(said.stderr.contains(text), "{args:?}: {}", said.stderr);
            assert!(!file.exists(), "{args:?}: nothing is kept");
        }
        let url = format!("http://{host}/");
        let said = lab.run(&["login", "-u", "user", "-p", "secret", &url]);
        assert_eq!((said.code, said.stdout.as_str()), (0, "Login Succeeded\n"), "{}", said.stderr);
        assert!(said.stderr.starts_with("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n"), "{}", said.stderr);
        assert!(!said.stderr.contains("secret"), "{}", said.stderr);
        let text = fs::read_to_string(&file).expect("the file");
        assert_eq!(text, format!("{{\n\t\"auths\": {{\n\t\t\"{host}\": {{\n\t\t\t\"auth\": \"dXNlcjpzZWNyZXQ=\"\n\t\t}}\n\t}}\n}}"));
        assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
        let said = lab.run(&["login", host]);
        assert_eq!((said.code, said.stdout.as_str()), (0, "Login Succeeded\n"), "{}", said.stderr);
        assert!(said.stderr.starts_with("Authenticating with existing credentials..."), "{}", said.stderr);

        // Another folder, as Jenkins gives one for each build.
        let said = Said::of(
            lab.shale(&["login", "-u", "user", "-p", "secret", &url]).env("DOCKER_CONFIG", lab.work("config")).output().expect("shale"),
        );
        assert!(said.ok() && lab.work("config/config.json").exists(), "{}", said.stderr);
        let said = lab.run(&["logout", &url]);
        assert_eq!(said.stdout, format!("Removing login credentials for {host}\n"));
        assert!(!fs::read_to_string(&file).expect("the file").contains(host.as_str()));
        assert!(lab.run(&["logout", host]).ok(), "twice is no error");
    });
}

#[test]
fn a_build_pushes_its_result() {
    as_everybody(|lab| {
        let Some(registry) = registry(lab) else { return };
        let host = &registry.host;
        assert!(run_with(lab, &["login", "-u", "user", "--password-stdin", host], "secret").ok());
        lab.load_busybox();
        lab.context("app", &[("Dockerfile", "FROM busybox\nRUN echo made >/made\n")]);
        let (one, two) = (format!("{host}/app:1"), format!("{host}/app:2"));
        let metadata = |name: &str| -> serde_json::Value {
            serde_json::from_str(&fs::read_to_string(lab.work(name)).expect("the metadata")).expect("JSON")
        };
        let remote = |name: &str| {
            let image = format!("docker://{name}");
            peer(lab, "skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image])
                .map(|said| said.stdout.trim().to_owned())
        };
        // Several results at once; the archive and the registries have the same manifest.
        let (archive, layout) = (lab.work("a.tar"), format!("type=oci,dest={}", lab.work("a.tar").display()));
        let said = lab.run(&["build", "--push", "-t", &one, "-t", &two, "-o", &layout, "--metadata-file", "m.json", "app"]);
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let digest = support::image::Image::read(&archive).digest;
        assert_eq!(metadata("m.json")["containerimage.digest"], digest.as_str());
        assert_eq!(metadata("m.json")["image.name"], format!("{one},{two}"));
        for name in [&one, &two] {
            assert!(said.stderr.contains(&format!("pushing manifest for {name}@{digest}")), "{}", said.stderr);
            assert!(remote(name).is_none_or(|found| found == digest), "{name}");
        }
        assert!(lab.run(&["inspect", "--format", "{{json .RepoDigests}}", &one]).stdout.contains(&digest));

        let said = lab.run(&["build", "-q", "-o", &format!("type=registry,name={host}/named:3,compression=zstd"), "app"]);
        assert!(
            said.ok() && remote(&format!("{host}/named:3")).is_none_or(|found| found != digest && found.starts_with("sha256:")),
            "{}",
            said.stderr
        );
        let by_digest = format!("type=image,name={host}/digest,push=true,push-by-digest=true,name-canonical=true");
        assert!(lab.run(&["build", "--output", &by_digest, "--metadata-file", "d.json", "app"]).ok());
        assert_eq!(metadata("d.json")["image.name"], format!("{host}/digest@{digest}"));
        assert!(lab.run(&["pull", "-q", &format!("{host}/digest@{digest}")]).ok());
        let said = lab.run(&["pull", "-q", &format!("{host}/digest")]);
        assert!(said.stderr.contains("/digest:latest: not found"), "there is no tag: {}", said.stderr);

        let said = lab.run(&["build", "--push", "app"]);
        assert_eq!(said.code, 1);
        assert!(said.stderr.contains("tag is needed when pushing to registry"), "{}", said.stderr);
        assert!(lab.run(&["logout", host]).ok());
        let said = lab.run(&["build", "--push", "-t", &format!("{host}/refused:1"), "app"]);
        assert_eq!(said.code, 1);
        let words = format!("failed to push {host}/refused:1: unauthorized: authentication required");
        assert!(said.stderr.contains(&words), "{}", said.stderr);
    });
}

#[test]
fn an_index_is_pushed_with_its_images() {
    let lab = Lab::new(Who::Caller);
    let Some(registry) = registry(&lab) else { return };
    let host = &registry.host;
    assert!(run_with(&lab, &["login", "-u", "user", "--password-stdin", host], "secret").ok());
    lab.context("app", &[("Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY file /\n"), ("file", "x")]);
    let name = format!("{host}/multi:1");
    let both = ["build", "--push", "--platform", "linux/amd64,linux/arm64", "-t", &name, "app"];
    let said = lab.run(&[&both[..], &["--metadata-file", "m.json", "--iidfile", "iid"]].concat());
    assert!(said.ok(), "{}", said.stderr);
    let text = fs::read_to_string(lab.work("m.json")).expect("the metadata");
    let digest =
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["containerimage.digest"].as_str().expect("a digest").to_owned();
    assert_eq!(fs::read_to_string(lab.work("iid")).expect("the id"), digest);
    let said = lab.run(&["push", &name]);
    assert!(
        said.stdout.contains(&format!("1: digest: {digest} size: ")),
        "the store's image is the same index: {}{}",
        said.stdout,
        said.stderr
    );
    // What the registry has already takes nothing from the name, and it is pushed as the same index.
    let said = lab.run(&["pull", &name]);
    assert!(said.stdout.contains(&format!("Digest: {digest}\nStatus: Image is up to date")), "{}{}", said.stdout, said.stderr);
    assert_eq!(lab.run(&["image", "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}}", &name]).stdout.trim(), "arm64");
    assert!(lab.run(&["push", &name]).stdout.contains(&digest));
    // One of them alone.
    let one = format!("{host}/multi:arm");
    assert!(lab.run(&["tag", &name, &one]).ok());
    let said = lab.run(&["push", "--platform", "linux/arm64", &one]);
    assert!(said.ok() && !said.stdout.contains(&digest), "{}{}", said.stdout, said.stderr);
    let said = lab.run(&["push", "--platform", "linux/s390x", &one]);
    assert!(said.stderr.contains("does not provide the specified platform (linux/s390x)"), "{}", said.stderr);
    assert!(said.stderr.contains("it is for linux/amd64, linux/arm64"), "{}", said.stderr);
    let other = lab.path("home").join("one");
    let said = Said::of(lab.shale(&["pull", "--platform", "linux/arm64", &one]).env("SHALE_ROOT", &other).output().expect("shale starts"));
    assert!(said.ok() && !said.stderr.contains("WARNING"), "{}", said.stderr);
    for architecture in ["amd64", "arm64"] {
        let other = lab.path("home").join(architecture);
        let pull = ["pull", "-q", "--platform", &format!("linux/{architecture}"), &name];
        assert!(Said::of(lab.shale(&pull).env("SHALE_ROOT", &other).output().expect("shale starts")).ok(), "{architecture}");
        let inspect = ["inspect", "--format", "{{.Architecture}}", &name];
        let said = Said::of(lab.shale(&inspect).env("SHALE_ROOT", &other).output().expect("shale starts"));
        assert_eq!(said.stdout.trim(), architecture, "{}", said.stderr);
    }
    if let Some(said) = peer(&lab, "skopeo", &["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")]) {
        assert!(said.stdout.contains("application/vnd.oci.image.index.v1+json") && said.stdout.contains("arm64"), "{}", said.stdout);
    }
}

/// The files of a store that are longer than a config or a manifest.
fn long_blobs(lab: &Lab) -> Vec<std::path::PathBuf> {
    let said = Command::new("find").arg(lab.store().join("blobs")).args(["-type", "f", "-size", "+64k"]).output().expect("find runs");
    String::from_utf8_lossy(&said.stdout).lines().map(Into::into).collect()
}

#[test]
fn layers_of_a_base_that_nobody_reads_stay_in_their_registry() {
    as_everybody(|lab| {
        let Some(registry) = Registry::start(&lab.path("etc"), "", "") else { return };
        fs::create_dir(lab.path("etc/other")).expect("a folder");
        let other = Registry::start(&lab.path("etc/other"), "", "").expect("a second registry");
        lab.load_busybox();
        let (base, app) = (format!("{}/base:1", registry.host), format!("{}/team/app:1", registry.host));
        assert!(lab.run(&["tag", "busybox", &base]).ok() && lab.run(&["push", "-q", &base]).ok());
        let fresh = |args: &[&str]| {
            let said = lab.run(args);
            assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
            said
        };
        fresh(&["rmi", "-f", "busybox", &base]);
        fresh(&["builder", "prune", "-af"]);
        assert_eq!(long_blobs(lab), Vec::<std::path::PathBuf>::new(), "an empty store");

        lab.context("app", &[("Dockerfile", &format!("FROM {base}\nLABEL a=b\n"))]);
        fresh(&["build", "--push", "-t", &app, "app"]);
        assert_eq!(long_blobs(lab), Vec::<std::path::PathBuf>::new(), "the registry has taken the layer from its own repository");
        // A registry that has it not gets it, by way of the store.
        let elsewhere = format!("{}/app:1", other.host);
        fresh(&["build", "--push", "-t", &elsewhere, "app"]);
        assert_eq!(long_blobs(lab).len(), 1, "the layer came for the other registry");
        for name in [&app, &elsewhere] {
            let run = |args: &[&str]| Said::of(lab.shale(args).env("SHALE_ROOT", lab.path("home/other-store")).output().expect("shale"));
            let said = run(&["pull", "-q", name]);
            assert!(said.ok(), "{}", said.stderr);
            assert_eq!(run(&["inspect", "-f", "{{.Config.Labels.a}} {{len .RootFS.Layers}}", name]).stdout, "b 1\n");
        }
    });
}

#[test]
fn archives_change_nothing_about_what_a_push_sends() {
    as_everybody(|lab| {
        let Some(registry) = Registry::start(&lab.path("etc"), "", "") else { return };
        lab.load_busybox();
        lab.context("app", &[("Dockerfile", "FROM busybox\nRUN head -c 300000 /dev/zero >/zeros\n")]);
        let name = format!("{}/app:1", registry.host);
        let run = |args: &[&str]| {
            let said = lab.run(args);
            assert!(said.ok(), "{:?}: {args:?}: {}", lab.who(), said.stderr);
            said.stdout
        };
        let push = || run(&["push", &name]).lines().last().expect("lines").to_owned();
        run(&["build", "-q", "-t", &name, "app"]);
        let first = push();
        for (other, output) in
            [(name.as_str(), "type=oci,compression=zstd,dest=z.tar"), ("else:1", "type=docker,compression=uncompressed,dest=plain.tar")]
        {
            run(&["build", "-q", "-t", other, "-o", output, "app"]);
            assert_eq!(push(), first, "after {output}");
        }
        run(&["load", "-q", "-i", "plain.tar"]);
        assert_eq!(push(), first, "the image was there already");
        run(&["build", "-q", "-t", &name, "--annotation", "k=v", "app"]);
        assert_ne!(push(), first, "the manifest that was pushed before has no such annotation");
        assert!(run(&["buildx", "imagetools", "inspect", "--raw", &name]).contains("\"k\": \"v\""));

        // Elsewhere it is as large as here.
        let elsewhere = |args: &[&str]| {
            let said = Said::of(lab.shale(args).env("SHALE_ROOT", lab.path("home/other-store")).output().expect("shale starts"));
            assert!(said.ok(), "{args:?}: {}", said.stderr);
            said.stdout
        };
        run(&["save", "-o", "packed.tar", &name]);
        elsewhere(&["load", "-q", "-i", "packed.tar"]);
        let size = |text: String| text.trim().parse::<u64>().expect("a number");
        let known = size(run(&["inspect", "-f", "{{.Size}}", &name]));
        let told = size(elsewhere(&["inspect", "-f", "{{.Size}}", &name]));
        // By files here, by their tars there.
        assert!(told >= known && told < known + known / 5, "{told} for {known}");
    });
}

#[test]
fn a_pull_that_fails_leaves_the_store_as_it_was() {
    as_everybody(|lab| {
        let Some(registry) = Registry::start(&lab.path("etc"), "", "") else { return };
        lab.load_busybox();
        lab.context("app", &[("Dockerfile", "FROM busybox\nCOPY file /\n"), ("file", "content\n")]);
        let name = format!("{}/app:1", registry.host);
        assert!(lab.run(&["build", "-q", "-t", &name, "app"]).ok() && lab.run(&["push", "-q", &name]).ok());
        let raw = lab.run(&["buildx", "imagetools", "inspect", "--raw", &name]).stdout;
        let manifest: serde_json::Value = serde_json::from_str(&raw).unwrap_or_else(|e| panic!("{e}: {raw}"));
        let digest = manifest["layers"][1]["digest"].as_str().expect("a digest").to_owned();
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        let blobs = Command::new("find").arg(lab.path("etc")).args(["-type", "d", "-name", hex]).output().expect("find runs");
        for dir in String::from_utf8_lossy(&blobs.stdout).lines() {
            fs::remove_dir_all(dir).expect("removed");
        }

        let other = |args: &[&str]| Said::of(lab.shale(args).env("SHALE_ROOT", lab.path("home/other-store")).output().expect("shale"));
        assert!(lab.run(&["save", "-o", "busybox.tar", "busybox"]).ok());
        assert!(other(&["load", "-i", "busybox.tar"]).ok() && other(&["tag", "busybox", &name]).ok());
        let before = other(&["images", "-a", "--no-trunc"]).stdout;
        let said = other(&["pull", &name]);
        assert_eq!(said.code, 1, "{}", said.stdout);
        assert!(said.stderr.contains(&digest) && said.stderr.contains("pushed once more"), "{}", said.stderr);
        assert_eq!(other(&["images", "-a", "--no-trunc"]).stdout, before);
    });
}
