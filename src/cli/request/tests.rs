use super::super::args::{Command, parse};
use super::super::environment::test_environment;
use super::super::program::Program;
use super::*;
use crate::cli::output::{Destination, OutputKind};
use crate::image::{LayoutName, NamedImage};
use crate::plan::git::GitRef;

fn resolve_in(line: &str, environment: &Environment) -> Result<(BuildRequest, Vec<String>), RequestError> {
    let argv: Vec<_> = ["shale", "build"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    match parse(&argv, Program::Shale).map(|cli| cli.command) {
        Ok(Command::Build(args)) => resolve(&args, environment),
        other => panic!("{line}: {other:?}"),
    }
}

fn request(line: &str, variables: &[(&str, &str)]) -> BuildRequest {
    let home = [("HOME", "/home/u")];
    resolve_in(line, &test_environment(&[&home, variables].concat())).unwrap_or_else(|e| panic!("{line}: {e}")).0
}

fn refused(line: &str) -> String {
    match resolve_in(line, &test_environment(&[("HOME", "/home/u")])) {
        Ok(_) => panic!("{line} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_bare_build_has_every_default() {
    let request = request(".", &[]);
    assert_eq!(request.context, ContextSource::Dir("/work dir/.".into()));
    assert_eq!(request.dockerfile, DockerfileSource::Default);
    assert_eq!(request.platforms, [Platform::native()]);
    assert_eq!(request.outputs, [Output::to_store()]);
    assert_eq!(request.progress, ProgressMode::Plain);
    assert_eq!(request.network, NetworkMode::Default);
    assert_eq!(request.store_root, PathBuf::from("/home/u/.local/share/shale"));
    assert!(request.no_cache == NoCache::Off && !request.pull && !request.quiet && request.colour);
}

#[test]
fn the_dockerfile_and_the_context_come_from_where_docker_looks() {
    for (line, dockerfile) in [
        ("-f x/D ctx", DockerfileSource::File("/work dir/x/D".into())),
        ("-f /a/D ctx", DockerfileSource::File("/a/D".into())),
        ("-f - ctx", DockerfileSource::Stdin),
        ("-f sub/D -", DockerfileSource::InContext("sub/D".into())),
        ("-", DockerfileSource::Default),
    ] {
        assert_eq!(request(line, &[]).dockerfile, dockerfile, "{line}");
    }
    assert_eq!(request("-", &[]).context, ContextSource::Stdin);
}

#[test]
fn contexts_that_are_fetched() {
    let git = |text: &str| GitRef::parse(text).expect("a repository").expect("good");
    for (line, context, dockerfile) in [
        ("-f sub/D https://h/a.git#main:x", ContextSource::Git(git("https://h/a.git#main:x")), DockerfileSource::InContext("sub/D".into())),
        ("-f /abs/D github.com/a/b", ContextSource::Git(git("github.com/a/b")), DockerfileSource::File("/abs/D".into())),
        ("-f - git@h:a", ContextSource::Git(git("git@h:a")), DockerfileSource::Stdin),
        ("https://h/a.tgz", ContextSource::Http("https://h/a.tgz".into()), DockerfileSource::Default),
        ("-f http://h/D .", ContextSource::Dir("/work dir/.".into()), DockerfileSource::Url("http://h/D".into())),
    ] {
        let request = request(line, &[]);
        assert_eq!((request.context, request.dockerfile), (context, dockerfile), "{line}");
    }
    let named = request("--build-context a=https://h/a.git#x --build-context b=https://h/b --build-context c=git@h:c .", &[]).contexts;
    assert_eq!(named["a"], NamedContext::Git(git("https://h/a.git#x")));
    assert_eq!(named["b"], NamedContext::Http("https://h/b".into()));
    assert_eq!(named["c"], NamedContext::Git(git("git@h:c")));
}

#[test]
fn build_args_fall_back_to_the_environment() {
    let request = request("--build-arg A=1 --build-arg A=2 --build-arg B --build-arg C --build-arg D= .", &[("B", "b"), ("D", "no")]);
    let want = [("A", "2"), ("B", "b"), ("D", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(request.build_args, BTreeMap::from(want));
}

#[test]
fn the_epoch_comes_from_the_flag_or_the_environment() {
    let environment = [("SOURCE_DATE_EPOCH", "17")];
    assert_eq!(request(".", &environment).source_date_epoch, Some(17));
    assert_eq!(request(".", &environment).build_args["SOURCE_DATE_EPOCH"], "17");
    assert_eq!(request("--build-arg SOURCE_DATE_EPOCH=5 .", &environment).source_date_epoch, Some(5));
    assert_eq!(request("--build-arg SOURCE_DATE_EPOCH= .", &environment).source_date_epoch, None);
}

#[test]
fn progress_follows_the_flag_then_the_environment_then_the_terminal() {
    let on_terminal = |variables: &[(&str, &str)]| Environment { stderr_is_terminal: true, ..test_environment(variables) };
    for (line, environment, mode) in [
        (".", on_terminal(&[]), ProgressMode::Tty),
        (".", on_terminal(&[("TERM", "dumb")]), ProgressMode::Plain),
        (".", on_terminal(&[("BUILDKIT_PROGRESS", "plain")]), ProgressMode::Plain),
        ("--progress=tty .", on_terminal(&[("BUILDKIT_PROGRESS", "plain")]), ProgressMode::Tty),
        ("--progress=tty .", test_environment(&[]), ProgressMode::Plain),
        ("--progress=quiet .", test_environment(&[]), ProgressMode::Quiet),
        ("-q .", on_terminal(&[("BUILDKIT_PROGRESS", "plain")]), ProgressMode::Quiet),
    ] {
        assert_eq!(resolve_in(line, &environment).unwrap().0.progress, mode, "{line} {environment:?}");
    }
}

#[test]
fn platforms_are_read_once_each() {
    let names = |request: BuildRequest| request.platforms.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(request("--platform linux/amd64,linux/arm64 --platform amd64 .", &[])), ["linux/amd64", "linux/arm64"]);
    assert_eq!(names(request(".", &[("DOCKER_DEFAULT_PLATFORM", "linux/arm/v7")])), ["linux/arm/v7"]);
}

#[test]
fn names_of_outputs_are_tags_too() {
    let request = request("-t a:1 -t docker.io/library/a:1 -o type=oci,dest=x.tar,name=b -o type=image .", &[]);
    assert_eq!(request.tags.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:1", "b:latest"]);
    assert_eq!(request.outputs.iter().map(|o| o.kind).collect::<Vec<_>>(), [OutputKind::Oci, OutputKind::Store]);
    assert_eq!(request.outputs[0].destination, Destination::Path("/work dir/x.tar".into()));
}

#[test]
fn named_contexts_have_three_kinds() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let request = request(
        &format!(
            "--build-context a=dir --build-context b=docker-image://x:y --build-context c:latest=oci-layout://l/p:t --build-context docker.io/library/d=oci-layout:///l@{digest} ."
        ),
        &[],
    );
    let layout = |path: &str, tag: Option<&str>, digest: Option<&str>| {
        let digest = digest.map(|digest| digest.parse().unwrap());
        NamedContext::Image(NamedImage::Layout(LayoutName { path: path.into(), tag: tag.map(Into::into), digest }))
    };
    let want = [
        ("a", NamedContext::Dir("/work dir/dir".into())),
        ("b", NamedContext::Image(NamedImage::Image("x:y".into()))),
        ("c", layout("/work dir/l/p", Some("t"), None)),
        ("d", layout("/l", None, Some(&digest))),
    ];
    assert_eq!(request.contexts, want.map(|(name, context)| (name.to_owned(), context)).into());
}

#[test]
fn registry_inputs_are_plain_values() {
    let registry = request(
        ".",
        &[
            ("DOCKER_CONFIG", "dc"),
            ("REQUEST_METHOD", "GET"),
            ("HTTP_PROXY", "http://cgi"),
            ("ALL_PROXY", "http://p"),
            ("DOCKER_AUTH_CONFIG", "{\"a\":\"pw\"}"),
        ],
    )
    .registry;
    assert_eq!(registry.auth_files, [PathBuf::from("/work dir/dc/config.json"), "/home/u/.config/containers/auth.json".into()]);
    assert_eq!((registry.http_proxy.as_deref(), registry.https_proxy.as_deref()), (Some("http://p"), Some("http://p")));
    assert_eq!(registry.auth_json.as_deref(), Some("{\"a\":\"pw\"}"));
    // A file that is named stands before those that are there anyway.
    let registry = request(".", &[("REGISTRY_AUTH_FILE", "own.json"), ("HTTP_PROXY", "http://p")]).registry;
    assert_eq!(registry.auth_files[0], PathBuf::from("/work dir/own.json"));
    assert_eq!((registry.http_proxy.as_deref(), registry.https_proxy), (Some("http://p"), None));
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    for (line, message) in [
        ("--allow x .", "unknown entitlement x"),
        ("--progress loud .", "invalid progress mode \"loud\": it is one of auto, tty, plain, quiet, none, rawjson"),
        ("-q --progress plain .", "progress=plain and quiet cannot be used together"),
        ("--network bridge .", "network mode \"bridge\" not supported by shale: it is one of default, host, none"),
        ("--platform plan9 .", "failed to parse platform \"plan9\": unknown operating system or architecture: invalid argument"),
        ("-f - -", "invalid argument: can't use stdin for both build context and dockerfile"),
        ("-o - -o type=oci .", "only one output can be written to stdout"),
        ("https://u:pw@h/x.git?a=b", "invalid build context \"https://u:xxxxx@h/x.git?a=b\": unexpected query \"a\""),
        ("-t Bad:1 .", "failed to build: invalid tag \"Bad:1\": invalid reference format: repository name (library/Bad) must be lowercase"),
        ("-t a: .", "failed to build: invalid tag \"a:\": invalid reference format"),
        ("--label =x .", "invalid key-value pair \"=x\": empty key"),
        (
            "--build-context x=ftp://a/b .",
            "invalid build context \"x=ftp://a/b\": only directories, docker-image://, oci-layout://, git and http(s) URLs are contexts",
        ),
        ("--build-context x=target:y .", "unsupported context source target for x: only a bake file has targets to name"),
    ] {
        assert_eq!(refused(line), message, "{line}");
    }
}

#[test]
fn flags_of_other_engines_are_noted() {
    let (_, notes) = resolve_in("--rm --memory 1g .", &test_environment(&[("HOME", "/h")])).unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn limits_of_run_steps_are_carried_sorted() {
    let request = request(
        "--ulimit nproc=5 --ulimit nofile=1:2 --ulimit nproc=7 --shm-size 1m --add-host b:1.1.1.1 --add-host a=::1 --network none .",
        &[],
    );
    assert_eq!(request.ulimits, [("nofile".to_owned(), 1, 2), ("nproc".to_owned(), 7, 7)]);
    assert_eq!(request.shm_size_bytes, Some(1 << 20));
    assert_eq!(request.add_hosts, [("a".to_owned(), "::1".to_owned()), ("b".to_owned(), "1.1.1.1".to_owned())]);
    assert_eq!(request.network, NetworkMode::None);
}
