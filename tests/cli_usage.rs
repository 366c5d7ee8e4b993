//! The binary's manners: exit codes, streams, closed pipes. Nothing here needs a store with images.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

fn shale(home: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shale"));
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin").env("SHALE_ROOT", home.path().join("store")).current_dir(home.path());
    command.stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let Output { status, stdout, stderr } = shale(&home, args).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

#[test]
fn results_go_to_stdout_and_talk_goes_to_stderr() {
    let version = format!("shale version {}\n", env!("CARGO_PKG_VERSION"));
    for args in [&["-v"][..], &["--version"], &["version"]] {
        assert_eq!(run(args), (0, version.clone(), String::new()), "{args:?}");
    }
    let (code, out, err) = run(&["build", "--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for flag in ["--tag", "--file", "--build-arg", "--target", "--no-cache", "--output", "--iidfile", "--progress"] {
        assert!(out.contains(flag), "{flag} is not in the help:\n{out}");
    }
    assert!(!out.contains("--cpu-quota"), "flags of other engines are not advertised:\n{out}");
}

#[test]
fn mistakes_exit_as_docker_s_do() {
    for (args, code, part) in [
        (&["build", "--bogus", "."][..], 125, "unknown flag: --bogus\n"),
        (&["build", "-t"], 125, "flag needs an argument: 't' in -t\n"),
        (&["run", "--rm", "alpine"], 125, "ERROR: 'shale run' is not supported"),
        (&["build"], 1, "'shale build' requires 1 argument\n"),
        (&["build", ""], 1, "ERROR: unable to prepare context: path \"\" not found\n"),
        (&["build", "--allow", "x", "."], 1, "ERROR: unknown entitlement x\n"),
        (&["build", "-o", "type=floppy", "."], 1, "ERROR: unknown output type \"floppy\""),
        (&["build", "-t", "Bad", "."], 1, "ERROR: failed to build: invalid tag \"Bad\": invalid reference format"),
        (&["frobnicate"], 1, "unknown command: shale frobnicate\n"),
        (
            &["system", "prune", "-f", "--volumes", "--filter", "until=1h"],
            1,
            "ERROR: The \"until\" filter is not supported with \"--volumes\"\n",
        ),
        (&["version", "--format", "{{if .x}}{{end}}"], 1, "can't evaluate field x in type system.versionInfo"),
        (&["version", "--format", "{{.x"], 64, "template parsing error: template: version:1: unclosed action"),
        (&["inspect", "-f", "{{.x", "y"], 64, "template parsing error: template: :1: unclosed action"),
    ] {
        let (exit, out, err) = run(args);
        assert_eq!((exit, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}:\n{err}");
    }
}

#[test]
fn help_is_there_for_every_command_by_every_name() {
    for (words, asked) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "build"], &["build", "--help"]),
        (&["-D", "help", "image", "ls"], &["image", "ls", "--help"]),
        (&["help", "buildx", "imagetools"], &["buildx", "imagetools", "--help"]),
        (&["help", "help"], &["help", "--help"]),
    ] {
        let said = run(words);
        assert_eq!(said, run(asked), "{words:?}");
        let path: Vec<&str> = words.iter().filter(|word| !word.starts_with('-')).skip(1).copied().collect();
        assert!(said.0 == 0 && said.1.contains(&format!("Usage: shale {}", path.join(" "))), "{words:?}: {said:?}");
    }
    assert_eq!(run(&["help", "image", "nope"]), (1, String::new(), "unknown help topic: nope\n".into()));
    assert_eq!(run(&["help", "run"]).0, 125);
    let (_, out, _) = run(&["build", "--help"]);
    assert!(out.contains("      --no-cache  ") && out.contains("  -q, --quiet  ") && out.contains("--tls-verify[=<BOOL>]"), "{out}");
}

#[test]
fn usage_lines_name_the_command_that_was_called() {
    for (args, usage) in [
        (&["image", "rm"][..], "Usage:  shale image rm [OPTIONS] IMAGE [IMAGE...]"),
        (&["rmi"], "Usage:  shale rmi [OPTIONS] IMAGE [IMAGE...]"),
        (&["image", "ls", "a", "b"], "Usage:  shale image ls [OPTIONS] [REPOSITORY[:TAG]]"),
        (&["builder", "build"], "Usage:  shale builder build [OPTIONS] PATH | URL | -"),
        (&["--hepl"], "Usage:  shale [OPTIONS] COMMAND [ARG...]"),
    ] {
        let (_, _, err) = run(args);
        assert_eq!(err.lines().find(|line| line.starts_with("Usage:")), Some(usage), "{args:?}: {err}");
    }
}

#[test]
fn what_docker_has_and_shale_has_not_is_refused_with_the_reason() {
    for (args, code, why) in [
        (&["events"][..], 1, "there is no daemon"),
        (&["trust", "sign"], 1, "images are neither signed"),
        (&["plugin", "ls"], 1, "there is no daemon"),
        (&["export", "x"], 125, "shale builds images and runs no containers"),
    ] {
        let (exit, _, err) = run(args);
        assert!(exit == code && err.contains(&format!("is not supported: {why}")), "{args:?}: {exit} {err}");
    }
}

/// buildx' sentence, which scripts know, and below it the flag.
#[test]
fn a_value_that_cannot_be_read_is_told_with_its_flag() {
    for (args, sentence, hint) in [
        (&["--secret", "src=/etc/passwd"][..], "secret missing ID", "the flag is --secret src=/etc/passwd; it takes id=NAME,src=FILE or"),
        (&["--secret", "foo=bar"], "unexpected key 'foo' in 'foo=bar'", "the flag is --secret foo=bar; "),
        (&["--secret", "id"], "invalid field 'id' must be a key=value pair", "the flag is --secret id; "),
        (
            &["--secret", "id=foo,src=/nonexist"],
            "failed to stat /nonexist: no such file or directory",
            "the flag is --secret id=foo,src=/nonexist; ",
        ),
        (
            &["--ssh", "x"],
            "invalid empty ssh agent socket for x: make sure SSH_AUTH_SOCK is set",
            "the flag is --ssh x; it takes default, ",
        ),
        (&["--allow", "foo"], "unknown entitlement foo", "--allow takes network.host, security.insecure, device[=NAME] and buildx.local"),
        (&["--build-arg", "=x"], "invalid key-value pair \"=x\": empty key", "--build-arg takes KEY=VALUE"),
        (&["--attest", "type=sbom"], "--attest is not supported yet", "no attestations are made: build without them, and attach them"),
        (&["--sbom=true"], "--sbom is not supported yet", "no attestations are made: build without them, and attach them"),
        (&["--squash"], "--squash is not supported yet", "each step is a layer of its own: "),
        (
            &["--push"],
            "failed to build: tag is needed when pushing to registry",
            "--push and --output type=registry take the name from --tag",
        ),
    ] {
        let (code, out, err) = run(&[&["build"], args, &["."]].concat());
        let start = format!("ERROR: {sentence}\nhint: {hint}");
        assert!((code, out.as_str(), err.starts_with(&start)) == (1, "", true), "{args:?}: {code} {out} {err}");
    }
}

/// docker buildx is a program of its own, and says so before its errors; Docker's client does not.
#[test]
fn errors_of_builds_begin_with_error_under_docker_s_name() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for (line, start) in [
        ("build -t FOO .", "ERROR: failed to build: invalid tag \"FOO\": "),
        ("build --progress foo .", "ERROR: invalid progress mode "),
        ("buildx build -o type=foo .", "ERROR: unknown output type \"foo\""),
        ("image build --build-arg =x .", "ERROR: invalid key-value pair \"=x\": empty key\n"),
        ("build --push .", "ERROR: failed to build: tag is needed when pushing to registry\n"),
        ("build --iidfile /no/where .", "ERROR: cannot write where into /no\n"),
        ("buildx imagetools inspect FOO", "ERROR: invalid reference format"),
        ("builder prune --filter x=y -f", "ERROR: "),
        ("image inspect FOO", "Error response from daemon: invalid reference format"),
        ("images --format {{.x", "template parsing error: "),
    ] {
        let said = shale(&home, &line.split(' ').collect::<Vec<_>>()).arg0("docker").output().expect("the binary starts");
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(err.starts_with(start), "{line}: {err}");
    }
    let said = shale(&home, &["build", "."]).arg0("docker").env("DOCKER_BUILDKIT", "x").output().expect("the binary starts");
    assert!(said.stderr.starts_with(b"DOCKER_BUILDKIT environment variable expects boolean value: "), "{said:?}");
}

#[test]
fn an_ignored_flag_is_one_warning_line() {
    let (_, _, err) = run(&["build", "--rm", "--memory=1g", "no-such-directory"]);
    let warnings: Vec<&str> = err.lines().filter(|line| line.starts_with("WARNING: ")).collect();
    assert_eq!(warnings.len(), 2, "{err}");
    assert!(warnings[0].starts_with("WARNING: --rm has no effect: "), "{err}");
}

#[test]
fn a_reader_that_leaves_is_no_error_to_talk_about() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let mut child = shale(&home, &["build", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
    let code = child.wait().expect("it ends").code();
    // It may have written everything before the pipe was closed.
    assert!(matches!(code, Some(0 | 141)), "{code:?}");
    assert_eq!(err, "");
}

/// What is refused in its turn is not what was meant.
#[test]
fn flags_that_are_refused_are_not_suggested() {
    for (flag, near) in
        [("--roott", None), ("--attesst", None), ("--taget", Some("--target")), ("--gpus", None), ("--memry", Some("--memory"))]
    {
        let (code, _, err) = run(&["build", flag, "x", "."]);
        assert!(code == 125 && err.starts_with(&format!("unknown flag: {flag}\n")), "{flag}: {err}");
        let told = err.lines().find_map(|line| line.strip_prefix("Did you mean ")?.strip_suffix('?'));
        assert_eq!(told, near, "{err}");
    }
}

#[test]
fn doctor_says_how_things_stand() {
    let (code, out, err) = run(&["doctor"]);
    assert!(matches!(code, 0 | 1) && err.is_empty(), "{code} {err}");
    for line in ["store", "sandbox", "overlayfs", "seccomp"] {
        assert!(out.contains(line), "{out}");
    }
}
