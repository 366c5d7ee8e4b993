//! Pulling from a registry that asks for credentials, redirects, throttles, breaks off and lies.

mod image_support;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image_support::{Home, INDEX, LayerBytes, Reply, Repository, Seen, Server, layer, noise, one_layer, registry_error, server};
use shale::image::{ImageError, Origin, PullPolicy};
use shale::oci::platform::Platform;
use shale::source::registry::{Mirror, Place, Progress, RegistryConfig, RegistryError};
use shale_cache::OciDigest;

fn amd64() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

/// Resolves and fetches everything.
fn pull(home: &Home, server: &Server, config: RegistryConfig) -> Result<OciDigest, RegistryError> {
    let service = home.service_with(config);
    let name = format!("{}/app", server.host);
    service.pull(&name, &amd64(), &()).map(|image| image.record.id).map_err(registry_error)
}

fn auth(host: &str, entry: &str) -> RegistryConfig {
    RegistryConfig { auth_json: Some(format!(r#"{{"auths":{{"{host}":{entry}}}}}"#)), ..RegistryConfig::default() }
}

#[test]
fn only_manifest_and_config_are_fetched_before_a_layer_is_needed() {
    let (a, b) = (one_layer(), layer("b", b"b"));
    let repository = Repository::new(&[("amd64", &[&a, &b])]);
    let (top, layers) = (repository.top.clone(), repository.layers.clone());
    let server = server(repository, |_, _| None);
    let home = Home::new();
    let service = home.service();
    let name = format!("{}/app:latest", server.host);
    let image = service.resolve(&name, &amd64(), PullPolicy::Missing, &()).expect("an image");
    let config = OciDigest::sha256_of(&image.config_bytes);
    assert_eq!(
        server.lines(),
        ["HEAD /v2/app/manifests/latest".into(), format!("GET /v2/app/manifests/{top}"), format!("GET /v2/app/blobs/{config}")]
    );
    assert_eq!(image.record.repo_digests, [format!("{}/app@{top}", server.host)]);
    assert!(matches!(&image.origin, Origin::Registry(r) if r.len() == 1));
    assert_eq!(image.config.architecture, "amd64");

    server.clear();
    let blob = service.ensure_blob(&image, 1, &()).expect("a layer");
    assert_eq!((blob.digest.clone(), blob.size_bytes), (layers[1].clone(), b.gzip.len() as u64));
    service.ensure_blob(&image, 1, &()).expect("the same layer");
    assert_eq!(server.lines(), [format!("GET /v2/app/blobs/{}", layers[1])]);

    // Another process: the store answers, and knows where the rest comes from.
    server.clear();
    let service = home.service();
    let again = service.resolve(&name, &amd64(), PullPolicy::Missing, &()).expect("the same image");
    assert_eq!((again.record.id.clone(), server.lines().len()), (image.record.id, 0));
    assert_eq!(service.list().expect("a list")[0].repo_digests, again.record.repo_digests);
    let inspected = service.inspect(&name).expect("it stays inspectable by its tag");
    assert_eq!(inspected.repo_tags, std::slice::from_ref(&name));
    service.ensure_blobs(&again, &()).expect("all layers");
    assert_eq!(server.lines(), [format!("GET /v2/app/blobs/{}", layers[0])]);

    // --pull: one free question, for nothing has changed.
    server.clear();
    service.resolve(&name, &amd64(), PullPolicy::Always, &()).expect("the same image");
    assert_eq!(server.lines(), ["HEAD /v2/app/manifests/latest"]);
    assert!(matches!(service.resolve("nowhere.invalid/x", &amd64(), PullPolicy::Never, &()), Err(ImageError::NotFound { .. })));
}

#[test]
fn the_platform_decides_and_its_absence_is_told() {
    let (a, b) = (layer("a", b"a"), layer("b", b"b"));
    let server = server(Repository::new(&[("amd64", &[&a]), ("arm64", &[&b])]), |_, _| None);
    let home = Home::new();
    let service = home.service();
    let name = format!("{}/app", server.host);
    let resolve = |platform: &str| service.resolve(&name, &platform.parse().expect("a platform"), PullPolicy::Missing, &());
    let amd = resolve("linux/amd64").expect("amd64");
    let arm = resolve("linux/arm64").expect("arm64");
    assert_eq!((amd.config.architecture.as_str(), arm.config.architecture.as_str()), ("amd64", "arm64"));
    // Both came from one index: the name stays, and neither needs the registry again.
    server.clear();
    assert_eq!(service.inspect(&name).expect("an image").architecture, "amd64");
    assert_eq!(resolve("linux/arm64").expect("arm64").record.id, arm.record.id);
    assert_eq!(server.lines(), [""; 0]);

    let error = registry_error(resolve("linux/s390x").expect_err("no such platform"));
    assert!(error.to_string().ends_with("app:latest: no match for platform in manifest: not found"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("wanted linux/s390x; the image has linux/amd64, linux/arm64"));
}

#[test]
fn the_architecture_before_it_stands_in_and_the_store_knows() {
    let a = one_layer();
    let server = server(Repository::new(&[("386", &[&a]), ("s390x", &[&a])]), |_, _| None);
    let service = Home::new().service();
    let name = format!("{}/app", server.host);
    let resolve = || service.resolve(&name, &amd64(), PullPolicy::Missing, &()).expect("what an amd64 runs, too");
    let first = resolve();
    assert_eq!(first.config.architecture, "386");
    server.clear();
    assert_eq!((resolve().record.id, server.lines().len()), (first.record.id, 0));
    // For others it is no image of theirs.
    let error = registry_error(
        service.resolve(&name, &"linux/arm64".parse().expect("a platform"), PullPolicy::Missing, &()).expect_err("no such platform"),
    );
    assert_eq!(error.hint().as_deref(), Some("wanted linux/arm64; the image has linux/386, linux/s390x"));
}

#[test]
fn a_token_is_fetched_without_credentials_and_kept() {
    let a = one_layer();
    let host: Arc<Mutex<String>> = Arc::default();
    let realm = Arc::clone(&host);
    let server = server(Repository::new(&[("amd64", &[&a])]), move |seen, _| {
        if seen.path.starts_with("/token") {
            return Some(Reply::ok(r#"{"token":"T1","expires_in":300}"#));
        }
        let challenge = format!(r#"Bearer realm="http://{}/token",service="reg istry""#, realm.lock().expect("set"));
        (seen.header("authorization") != Some("Bearer T1")).then(|| Reply::new(401).with("www-authenticate", challenge))
    });
    host.lock().expect("unset").clone_from(&server.host);
    pull(&Home::new(), &server, RegistryConfig::default()).expect("an image");
    let lines = server.lines();
    assert_eq!(lines[1], "GET /token?service=reg%20istry&scope=repository%3Aapp%3Apull");
    assert_eq!(lines.iter().filter(|l| l.contains("/token")).count(), 1, "{lines:?}");
    let seen = server.seen.lock().expect("the log");
    assert_eq!(seen[1].header("authorization"), None, "an anonymous token needs no secret");
}

#[test]
fn credentials_of_every_kind() {
    // (entry, whether the registry asks for Basic, what it must see)
    let basic = "Basic dTpwOng=";
    for (entry, is_basic, expected) in [
        (r#"{"auth":"dTpwOng="}"#, true, basic),
        (r#"{"username":"u","password":"p:x"}"#, true, basic),
        (r#"{"auth":"dTpwOng="}"#, false, "Bearer for-basic"),
        (r#"{"identitytoken":"I D"}"#, false, "Bearer for-identity"),
        (r#"{"registrytoken":"RT"}"#, false, "Bearer RT"),
    ] {
        let host: Arc<Mutex<String>> = Arc::default();
        let realm = Arc::clone(&host);
        let server = server(Repository::new(&[("amd64", &[&one_layer()])]), move |seen, _| {
            if seen.path.starts_with("/token") {
                let is_form = seen.body.contains("grant_type=refresh_token") && seen.body.contains("refresh_token=I%20D");
                let token = match (seen.method.as_str(), seen.header("authorization")) {
                    ("GET", Some(a)) if a == basic => "for-basic",
                    ("POST", None) if is_form => "for-identity",
                    _ => return Some(Reply { body: br#"{"details":"bad user"}"#.into(), ..Reply::new(401) }),
                };
                return Some(Reply::ok(format!(r#"{{"access_token":"{token}"}}"#)));
            }
            let realm = realm.lock().expect("set");
            let challenge = if is_basic { r#"Basic realm="r""#.into() } else { format!(r#"Bearer realm="http://{realm}/token""#) };
            (seen.header("authorization") != Some(expected)).then(|| Reply::new(401).with("www-authenticate", challenge))
        });
        host.lock().expect("unset").clone_from(&server.host);
        let config = auth(&server.host, entry);
        pull(&Home::new(), &server, config).unwrap_or_else(|e| panic!("{entry}: {e}"));
    }
}

#[test]
fn refusals_say_what_to_do() {
    let deny = |body: &'static str| {
        server(Repository::new(&[("amd64", &[&one_layer()])]), move |_, _| {
            Some(Reply { body: body.into(), ..Reply::new(401) }.with("www-authenticate", "Basic realm=r"))
        })
    };
    let server = deny(r#"{"errors":[{"code":"UNAUTHORIZED","message":"go \u001b[31maway"}]}"#);
    let error = pull(&Home::new(), &server, RegistryConfig::default()).expect_err("denied");
    let host = &server.host;
    let start = format!("{host}/app: pull access denied, repository does not exist or may require authorization: ");
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(!error.to_string().contains('\u{1b}'), "control characters reach the terminal");
    assert_eq!(error.hint(), Some(format!("check the name, or log in: no credentials were found for {host}")));

    let error = pull(&Home::new(), &server, auth(host, r#"{"auth":"dTpwOng="}"#)).expect_err("denied");
    assert!(error.hint().expect("a hint").contains("does not accept the credentials"), "{error}");
    assert!(!format!("{error:?}").contains("dTpw") && !format!("{error:?}").contains("p:x"));
}

#[test]
fn a_credential_helper_is_asked_and_a_missing_one_is_no_error() {
    let home = Home::new();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).expect("a directory");
    let helper = bin.join("docker-credential-good");
    // The registry's name arrives on stdin.
    std::fs::write(&helper, "#!/bin/sh\nread host\nprintf '{\"ServerURL\":\"%s\",\"Username\":\"u\",\"Secret\":\"p:x\"}' \"$host\"\n")
        .expect("a script");
    let absent = bin.join("docker-credential-absent");
    std::fs::write(&absent, "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n").expect("a script");
    let broken = bin.join("docker-credential-broken");
    std::fs::write(&broken, "#!/bin/sh\necho locked >&2\nexit 3\n").expect("a script");
    for path in [&helper, &absent, &broken] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let server = server(Repository::new(&[("amd64", &[&one_layer()])]), |seen, _| {
        (seen.header("authorization") != Some("Basic dTpwOng=")).then(|| Reply::new(401).with("www-authenticate", "Basic realm=r"))
    });
    let host = &server.host;
    let try_with = |json: String| {
        let path = Some(format!("{}:/bin:/usr/bin", bin.display()).into());
        pull(&Home::new(), &server, RegistryConfig { auth_json: Some(json), helper_path: path, ..RegistryConfig::default() })
    };
    try_with(format!(r#"{{"credHelpers":{{"{host}":"good"}},"credsStore":"broken"}}"#)).expect("a helper for the host");
    try_with(r#"{"credsStore":"good"}"#.into()).expect("a store");
    try_with(format!(r#"{{"credsStore":"absent","auths":{{"{host}":{{"auth":"dTpwOng="}}}}}}"#)).expect("the file after the store");
    let error = try_with(r#"{"credsStore":"gone"}"#.into()).expect_err("anonymous is not enough");
    assert_eq!(error.hint().as_deref(), Some("the credential helper docker-credential-gone is configured but not in PATH"));
    // So does a refusal, which a closed folder of PATH gives as well.
    std::fs::write(bin.join("docker-credential-closed"), "").expect("a file");
    let error = try_with(r#"{"credsStore":"closed"}"#.into()).expect_err("anonymous is not enough");
    assert!(error.hint().is_some_and(|hint| hint.ends_with("docker-credential-closed is configured but not in PATH, or may not be run")));
    // A folder where a file should be is what a mount makes of one that is not there.
    let folder = RegistryConfig { auth_files: vec![bin.clone()], ..RegistryConfig::default() };
    let error = pull(&Home::new(), &server, folder).expect_err("anonymous is not enough");
    assert!(error.hint().is_some_and(|hint| hint.contains("/bin cannot be read: Is a directory")), "{error}");
    let error = try_with(r#"{"credsStore":"broken"}"#.into()).expect_err("a broken helper");
    assert!(matches!(&error, RegistryError::Helper { detail, .. } if detail.contains("locked")), "{error}");
}

#[test]
fn a_redirect_takes_no_credentials_along() {
    let a = one_layer();
    let repository = Repository::new(&[("amd64", &[&a])]);
    let blob = repository.layers[0].clone();
    let bytes = a.gzip.clone();
    let storage = Server::start(move |_, _| Reply::ok(bytes.clone()));
    let location = format!("http://{}/signed?secret=1", storage.host);
    let path = format!("/v2/app/blobs/{blob}");
    let server = server(repository, move |seen, _| {
        if seen.header("authorization").is_none() {
            return Some(Reply::new(401).with("www-authenticate", "Basic realm=r"));
        }
        if seen.path == path {
            return Some(Reply::new(307).with("location", "/moved"));
        }
        (seen.path == "/moved").then(|| Reply::new(302).with("location", location.clone()))
    });
    pull(&Home::new(), &server, auth(&server.host, r#"{"auth":"dTpwOng="}"#)).expect("an image");
    let moved = server.seen.lock().expect("the log").iter().find(|s| s.path == "/moved").cloned().expect("the same host");
    assert_eq!(moved.header("authorization"), Some("Basic dTpwOng="));
    let seen = storage.seen.lock().expect("the log");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
}

/// Who a redirect leads to may ask for credentials: it gets none, and no token of its making is taken for the registry's.
#[test]
fn who_a_redirect_leads_to_is_told_no_password() {
    let repository = Repository::new(&[("amd64", &[&one_layer()])]);
    let blob = format!("/v2/app/blobs/{}", repository.layers[0]);
    let thief = Server::start(|seen, _| match seen.path.as_str() {
        "/blob" => {
            let host = seen.header("host").expect("a host");
            Reply::new(401).with("www-authenticate", format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
        }
        _ => Reply::ok(r#"{"token":"theirs"}"#),
    });
    let location = format!("http://{}/blob", thief.host);
    let server = server(repository, move |seen, _| (seen.path == blob).then(|| Reply::new(307).with("location", location.clone())));
    let error = pull(&Home::new(), &server, auth(&server.host, r#"{"auth":"dTpwOng="}"#)).expect_err("no blob");
    assert!(error.to_string().contains(&thief.host), "{error}");
    assert!(thief.seen.lock().expect("the log").iter().all(|seen| seen.header("authorization").is_none() && seen.path == "/blob"));
    assert!(server.seen.lock().expect("the log").iter().all(|seen| seen.header("authorization") != Some("Bearer theirs")));
}

#[test]
fn redirects_end() {
    let server = server(Repository::new(&[("amd64", &[&one_layer()])]), |seen, _| {
        seen.path.contains("/blobs/").then(|| Reply::new(302).with("location", seen.path.clone()))
    });
    let error = pull(&Home::new(), &server, RegistryConfig::default()).expect_err("a circle");
    assert!(matches!(error, RegistryError::Redirect { reason: "too many redirects", .. }), "{error}");
}

#[derive(Default)]
struct Log {
    waits: Mutex<Vec<(String, Duration)>>,
    bytes: AtomicUsize,
    cancel_on_wait: bool,
    is_cancelled: AtomicBool,
}

impl Progress for Log {
    fn on_bytes(&self, _digest: &str, done_bytes: u64, total_bytes: u64) {
        assert!(done_bytes <= total_bytes);
        self.bytes.fetch_max(done_bytes as usize, Ordering::Relaxed);
    }

    fn on_wait(&self, _what: &str, cause: &str, delay: Duration) {
        self.waits.lock().expect("the log").push((cause.into(), delay));
        self.is_cancelled.store(self.cancel_on_wait, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }
}

#[test]
fn transient_failures_are_tried_again_and_retry_after_is_honoured() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let server = server(Repository::new(&[("amd64", &[&one_layer()])]), move |_, repeats| (repeats == 0).then(|| Reply::new(status)));
        pull(&Home::new(), &server, RegistryConfig::default()).unwrap_or_else(|e| panic!("{status}: {e}"));
    }
    let server = server(Repository::new(&[("amd64", &[&one_layer()])]), |_, repeats| {
        (repeats == 0).then(|| Reply::new(429).with("retry-after", "1"))
    });
    let home = Home::new();
    let log = Log::default();
    let name = format!("{}/app", server.host);
    home.service().resolve(&name, &amd64(), PullPolicy::Missing, &log).expect("an image");
    let waits = log.waits.lock().expect("the log");
    assert_eq!(waits.len(), 3, "HEAD, manifest, config: {waits:?}");
    assert!(waits.iter().all(|(cause, delay)| *delay == Duration::from_secs(1) && cause.contains("429")), "{waits:?}");
}

#[test]
fn patience_ends() {
    let started = Instant::now();
    let server_a = server(Repository::new(&[("amd64", &[&one_layer()])]), |_, _| Some(Reply::new(429).with("retry-after", "3600")));
    let error = pull(&Home::new(), &server_a, RegistryConfig::default()).expect_err("an hour is too long");
    assert!(matches!(error, RegistryError::RateLimited { status: 429, wait, .. } if wait.as_secs() == 3600), "{error}");
    let server_c = server(Repository::new(&[("amd64", &[&one_layer()])]), |_, repeats| {
        Some(Reply::new(429).with("retry-after", if repeats == 0 { "1" } else { "18446744073709551615" }))
    });
    let error = pull(&Home::new(), &server_c, RegistryConfig::default()).expect_err("until the end of time");
    assert!(matches!(error, RegistryError::RateLimited { wait, .. } if wait.as_secs() == u64::MAX), "{error}");
    let server_b =
        server(Repository::new(&[("amd64", &[&one_layer()])]), |_, _| Some(Reply { body: b"overload".into(), ..Reply::new(503) }));
    let error = pull(&Home::new(), &server_b, RegistryConfig::default()).expect_err("never well");
    assert!(matches!(error, RegistryError::Status { status: 503, .. }), "{error}");
    assert_eq!(server_b.lines().len(), 5, "HEAD, and GET as often as patience lasts");
    assert!(started.elapsed() < Duration::from_secs(5));

    let log = Log { cancel_on_wait: true, ..Log::default() };
    let name = format!("{}/app", server_b.host);
    let home = Home::new();
    let error = home.service().resolve(&name, &amd64(), PullPolicy::Missing, &log).expect_err("cancelled");
    assert!(matches!(registry_error(error), RegistryError::Cancelled));
}

#[test]
fn a_broken_download_is_resumed() {
    for knows_ranges in [true, false] {
        let a = layer("file", &noise(900_000));
        let repository = Repository::new(&[("amd64", &[&a])]);
        let blob = repository.layers[0].clone();
        let (path, gzip) = (format!("/v2/app/blobs/{blob}"), a.gzip.clone());
        let breaks = 4;
        let server = server(repository, move |seen, repeats| {
            if seen.path != path {
                return None;
            }
            let whole = Reply::ok(gzip.clone());
            match (knows_ranges, repeats < breaks) {
                (true, true) => {
                    let start = seen.header("range").map_or(0, |r| r["bytes=".len()..r.len() - 1].parse().expect("a range"));
                    let status = if start > 0 { 206 } else { 200 };
                    let range = format!("bytes {start}-{}/{}", gzip.len() - 1, gzip.len());
                    Some(Reply { status, break_after: Some(200_000), ..Reply::ok(&gzip[start..]) }.with("content-range", range))
                }
                (true, false) => None,
                (false, true) => Some(Reply { break_after: Some(200_000 * (repeats + 1)), ..whole }),
                (false, false) => Some(whole),
            }
        });
        let home = Home::new();
        let log = Log::default();
        let service = home.service();
        let image = service.resolve(&format!("{}/app", server.host), &amd64(), PullPolicy::Missing, &()).expect("an image");
        service.ensure_blob(&image, 0, &log).expect("the layer");
        assert_eq!(log.bytes.load(Ordering::Relaxed), a.gzip.len());
        let seen = server.seen.lock().expect("the log");
        let ranges: Vec<_> = seen.iter().filter(|s| s.path.ends_with(blob.hex())).map(|s| s.header("range")).collect();
        assert_eq!(ranges.len(), breaks + 1);
        assert_eq!(ranges[1], Some("bytes=200000-"), "{ranges:?}");
    }
}

#[test]
fn who_misunderstands_ranges_is_asked_for_everything() {
    for status in [416, 206] {
        let a = layer("file", &noise(900_000));
        let repository = Repository::new(&[("amd64", &[&a])]);
        let (path, gzip) = (format!("/v2/app/blobs/{}", repository.layers[0]), a.gzip.clone());
        let server = server(repository, move |seen, repeats| {
            (seen.path == path).then(|| match (seen.header("range"), repeats) {
                (Some(_), _) => Reply { status, ..Reply::ok("no such range") }.with("content-range", "bytes 7-19/20"),
                (None, 0) => Reply { break_after: Some(200_000), ..Reply::ok(gzip.clone()) },
                (None, _) => Reply::ok(gzip.clone()),
            })
        });
        pull(&Home::new(), &server, RegistryConfig::default()).unwrap_or_else(|error| panic!("{status}: {error}"));
    }
}

#[test]
fn lies_are_not_believed_and_leave_nothing() {
    type Lie = Box<dyn Fn(&Seen, &LayerBytes) -> Option<Reply> + Send + Sync>;
    let cases: [(&str, Lie); 5] = [
        ("content does not match its digest", Box::new(|seen, a| is_layer(seen, a).then(|| Reply::ok(vec![0; a.gzip.len()])))),
        ("expected", Box::new(|seen, a| is_layer(seen, a).then(|| Reply::ok([&a.gzip[..], b"x"].concat())))),
        ("tried 4 times", Box::new(|seen, a| is_layer(seen, a).then(|| Reply::ok(&a.gzip[..9])))),
        (
            "content does not match its digest",
            Box::new(|seen, _| {
                (seen.line().contains("GET /v2/app/manifests/sha256")).then(|| Reply::ok(r#"{"schemaVersion":2,"config":{}}"#))
            }),
        ),
        (
            "content does not match its digest",
            Box::new(|seen, a| (seen.path.contains("/blobs/") && !is_layer(seen, a)).then(|| Reply::ok("{}"))),
        ),
    ];
    for (n, (message, lie)) in cases.into_iter().enumerate() {
        let a = Arc::new(layer("file", b"content"));
        let repository = Repository::new(&[("amd64", &[&a])]);
        let blob = repository.layers[0].clone();
        let bytes = Arc::clone(&a);
        let server = server(repository, move |seen, _| lie(seen, &bytes));
        let home = Home::new();
        let error = pull(&home, &server, RegistryConfig::default()).expect_err("a lie");
        assert!(error.to_string().contains(message), "{n}: {error}");
        assert_eq!(home.store.blobs().size(&blob).expect("a store"), None, "{n}");
    }
}

fn is_layer(seen: &Seen, layer: &LayerBytes) -> bool {
    seen.path.ends_with(OciDigest::sha256_of(&layer.gzip).hex())
}

#[test]
fn a_transfer_that_went_wrong_once_is_made_again() {
    let a = layer("file", b"content");
    let repository = Repository::new(&[("amd64", &[&a])]);
    let len = a.gzip.len();
    let server = server(repository, move |seen, repeats| (is_layer(seen, &a) && repeats == 0).then(|| Reply::ok(vec![0; len])));
    pull(&Home::new(), &server, RegistryConfig::default()).expect("the second time");
}

#[test]
fn what_is_not_there_is_named() {
    let server_a = server(Repository::new(&[("amd64", &[&one_layer()])]), |_, _| None);
    let home = Home::new();
    let service = home.service();
    let error = service.resolve(&format!("{}/app:gone", server_a.host), &amd64(), PullPolicy::Missing, &()).expect_err("no tag");
    let error = registry_error(error);
    assert_eq!(error.to_string(), format!("{}/app:gone: not found", server_a.host));
    assert!(error.is_not_found() && error.hint().is_some());

    let schema1 = Reply::ok(r#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#)
        .with("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws");
    let server_b = server(Repository::new(&[("amd64", &[&one_layer()])]), move |_, _| Some(schema1.clone()));
    let error = pull(&Home::new(), &server_b, RegistryConfig::default()).expect_err("too old");
    assert!(error.to_string().contains("schema 1 is not supported"), "{error}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let started = Instant::now();
    let error = service.resolve(&format!("{nobody}/app"), &amd64(), PullPolicy::Missing, &()).expect_err("nobody listens");
    let error = registry_error(error);
    assert!(error.to_string().starts_with(&format!("cannot reach {nobody}: ")) && error.hint().is_some(), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    // It is not the registry that cannot be reached.
    let config = RegistryConfig { https_proxy: Some(format!("http://{nobody}")), ..RegistryConfig::default() };
    let service = home.service_with(config);
    let error = service.resolve("registry.invalid/app", &amd64(), PullPolicy::Missing, &()).expect_err("nobody listens");
    let error = registry_error(error).to_string();
    assert!(error.starts_with(&format!("cannot reach registry.invalid by the proxy {nobody}: ")), "{error}");
}

#[test]
fn a_web_page_is_called_one() {
    let page = Reply::ok("<html>log in</html>").with("content-type", "text/html; charset=utf-8");
    let server =
        server(Repository::new(&[("amd64", &[&one_layer()])]), move |seen, _| seen.path.contains("/manifests/").then(|| page.clone()));
    let error = pull(&Home::new(), &server, RegistryConfig::default()).expect_err("no registry");
    assert!(error.to_string().ends_with("answers with a web page instead of a manifest") && error.hint().is_some(), "{error}");
}

#[test]
fn registries_that_know_no_head_are_asked_by_get() {
    for status in [405, 500] {
        let head = move |seen: &Seen, _| (seen.method == "HEAD").then(|| Reply::new(status));
        let server = server(Repository::new(&[("amd64", &[&one_layer()])]), head);
        pull(&Home::new(), &server, RegistryConfig::default()).expect("an image");
    }
}

#[test]
fn an_index_in_an_index_is_followed_but_not_for_ever() {
    let mut repository = Repository::new(&[("amd64", &[&one_layer()]), ("arm64", &[&layer("b", b"b")])]);
    for (depth, fits) in [(1, true), (2, false)] {
        let (_, inner) = repository.files[&format!("/v2/app/manifests/{}", repository.top)].clone();
        let outer = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{"mediaType": INDEX, "digest": repository.top, "size": inner.len()}]});
        repository.top = repository.manifest(INDEX, outer.to_string().into_bytes());
        repository.tag("latest");
        let files = repository.files.clone();
        let copy = Repository { files, top: repository.top.clone(), layers: Vec::new() };
        let pulled = pull(&Home::new(), &server(copy, |_, _| None), RegistryConfig::default());
        assert_eq!(pulled.is_ok(), fits, "{depth}: {pulled:?}");
    }
}

#[test]
fn one_blob_is_fetched_once_however_many_threads_want_it() {
    let repository = Repository::new(&[("amd64", &[&one_layer()])]);
    let server = server(repository, |seen, _| {
        if seen.path.contains("/blobs/") {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    let home = Home::new();
    let service = home.service();
    let image = service.resolve(&format!("{}/app", server.host), &amd64(), PullPolicy::Missing, &()).expect("an image");
    server.clear();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| service.ensure_blob(&image, 0, &()).expect("the layer"));
        }
    });
    assert_eq!(server.lines().len(), 1);
}

#[test]
fn a_digest_is_pulled_by_and_found_again() {
    let repository = Repository::new(&[("amd64", &[&one_layer()]), ("arm64", &[&layer("b", b"b")])]);
    let (top, name) = (repository.top.clone(), |host: &str| format!("{host}/app"));
    let server = server(repository, |_, _| None);
    let home = Home::new();
    let service = home.service();
    let pinned = format!("{}:ignored@{top}", name(&server.host));
    let image = service.resolve(&pinned, &amd64(), PullPolicy::Always, &()).expect("an image");
    assert_eq!(server.lines()[0], format!("GET /v2/app/manifests/{top}"));
    server.clear();
    // A digest cannot have changed.
    assert_eq!(service.resolve(&pinned, &amd64(), PullPolicy::Always, &()).expect("the same").record.id, image.record.id);
    let by_manifest = format!("{}@{}", name(&server.host), image.record.manifest.as_ref().expect("a manifest").digest);
    assert_eq!(service.resolve(&by_manifest, &amd64(), PullPolicy::Missing, &()).expect("the same").record.id, image.record.id);
    let short = image.record.id.hex()[..12].to_owned();
    assert_eq!(service.resolve(&short, &amd64(), PullPolicy::Missing, &()).expect("the same").record.id, image.record.id);
    assert_eq!(service.resolve(image.record.id.as_str(), &amd64(), PullPolicy::Never, &()).expect("the same").record.id, image.record.id);
    assert_eq!(server.lines().len(), 0);
}

#[test]
fn mirrors_are_asked_first_and_none_of_them_is_needed() {
    let mirror_of = |host: &str, location: &str| Place {
        prefix: host.into(),
        mirrors: vec![Mirror { location: location.into(), by_digest_only: false }],
        ..Place::default()
    };
    let with = |place: Place, auth_json: Option<String>| RegistryConfig { places: vec![place], auth_json, ..RegistryConfig::default() };
    let image = || Repository::new(&[("amd64", &[&one_layer()])]);

    // What a mirror has, its registry is not asked for. The store knows the image by the name that was asked for.
    let (mirror, home_server) = (server(image(), |_, _| None), server(image(), |_, _| Some(Reply::new(500))));
    let home = Home::new();
    let secret = format!(r#"{{"auths":{{"{}":{{"auth":"dTpwOng="}}}}}}"#, home_server.host);
    pull(&home, &home_server, with(mirror_of(&home_server.host, &mirror.host), Some(secret))).expect("an image");
    assert!(home_server.lines().is_empty(), "{:?}", home_server.lines());
    assert!(mirror.seen.lock().expect("the log").iter().all(|s| s.header("authorization").is_none()));
    let record = home.store.images().list().expect("images").remove(0).0;
    assert!(record.repo_digests[0].starts_with(&format!("{}/app@", home_server.host)), "{:?}", record.repo_digests);

    // A mirror that is dead is given up, one that has nothing is passed by, one that breaks off is continued.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    let empty = server(image(), |_, _| Some(Reply::new(404)));
    let breaking = server(image(), move |seen, _| {
        let is_blob = seen.path.contains("/blobs/") && seen.header("range").is_none();
        is_blob
            .then(|| Reply { break_after: Some(100_000), ..image().answer(seen) })
            .or_else(|| seen.header("range").map(|_| Reply::new(503)))
    });
    for location in [&dead, &empty.host, &breaking.host] {
        let home_server = server(image(), |_, _| None);
        pull(&Home::new(), &home_server, with(mirror_of(&home_server.host, location), None)).expect("an image");
        assert!(!home_server.lines().is_empty());
    }
    // One that is out of order is tried twice, not for each blob, and one that throttles is not waited for.
    for reply in [Reply::new(503), Reply::new(429).with("retry-after", "60")] {
        let (broken, home_server) = (server(image(), move |_, _| Some(reply.clone())), server(image(), |_, _| None));
        pull(&Home::new(), &home_server, with(mirror_of(&home_server.host, &broken.host), None)).expect("an image");
        assert!(broken.lines().len() <= 3, "{:?}", broken.lines());
    }
    let blocked = Place { prefix: "127.0.0.1:1".into(), is_blocked: true, ..Place::default() };
    let error = Home::new().service_with(with(blocked, None)).pull("127.0.0.1:1/app", &amd64(), &()).expect_err("blocked");
    assert!(error.to_string().contains("is blocked"), "{error}");
}
