//! Pushing to a registry that asks for credentials, redirects, throttles, breaks off, forgets and lies.

mod image_support;

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use image_support::receiver::Receiver;
use image_support::{GZIP, Home, LayerBytes, MANIFEST, Reply, Seen, Server, join, layer, noise};
use shale::image::{ImageError, PushAs, Pushed};
use shale::oci::reference::Reference;
use shale::source::registry::{BlobState, Progress, RegistryConfig, RegistryError, UploadPolicy};
use shale_cache::{BlobRef, Built, DiffId, ImageLayer, ImageRecord, OciDigest};

/// Blobs from here on are sent in parts.
const SINGLE_BYTES: u64 = 100_000;

fn large() -> LayerBytes {
    layer("large", &noise(400_000))
}

fn small() -> LayerBytes {
    layer("small", b"content")
}

/// Puts an image into the store and names it; `known_as` are its repository digests.
fn keep(home: &Home, name: &str, layers: &[&LayerBytes], known_as: &[String]) -> Reference {
    let export = image_support::export_image(&home.store, &[], layers);
    let id = home.store.blobs().put(&export.config).expect("a config");
    let layers = export.layers.iter().map(|packed| ImageLayer {
        diff_id: DiffId(packed.diff_id.0.clone()),
        layer: None,
        blob: Some(BlobRef { digest: packed.blob.clone(), size_bytes: packed.size_bytes, media_type: GZIP.into() }),
    });
    let record = ImageRecord {
        id: id.clone(),
        manifest: None,
        layers: layers.collect(),
        repo_digests: known_as.to_vec(),
        stored_at_secs: 1,
        built: Built::default(),
    };
    home.store.images().put(&record).expect("a record");
    let name = Reference::parse(name).expect("a name").with_default_tag();
    home.store.images().tag(&name.to_string(), &record).expect("a name");
    name
}

fn config(registry: RegistryConfig) -> RegistryConfig {
    RegistryConfig {
        upload: UploadPolicy { single_bytes: SINGLE_BYTES, small_chunk_bytes: 150_000, ..UploadPolicy::default() },
        ..registry
    }
}

fn push_with(home: &Home, name: &Reference, registry: RegistryConfig, progress: &dyn Progress) -> Result<Pushed, RegistryError> {
    let service = home.service_with(config(registry));
    let mut pack = |_: &ImageLayer| panic!("every layer is packed");
    let outgoing = service.outgoing(name, None, &mut pack).expect("an image");
    service.push(&outgoing, name, PushAs::Tag, progress).map_err(|error| match error {
        ImageError::Registry(error) => error,
        other => panic!("not the registry's: {other}"),
    })
}

/// Pushes an image of two layers to a server and checks what has arrived.
fn push(server: &Server, receiver: &Receiver, registry: RegistryConfig) -> Pushed {
    let home = Home::new();
    let (a, b) = (small(), large());
    let name = keep(&home, &format!("{}/app:1", server.host), &[&a, &b], &[]);
    let pushed = push_with(&home, &name, registry, &()).expect("a push");
    for layer in [&a, &b] {
        let path = format!("/v2/app/blobs/{}", OciDigest::sha256_of(&layer.gzip));
        assert!(receiver.file(&path).as_ref() == Some(&layer.gzip), "{path} is not there as it was");
    }
    let manifest = receiver.file("/v2/app/manifests/1").expect("the manifest");
    assert_eq!(OciDigest::sha256_of(&manifest), pushed.digest);
    pushed
}

fn serve(receiver: &Receiver, fault: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let healthy = receiver.clone();
    Server::start(move |seen, repeats| fault(seen, repeats).unwrap_or_else(|| healthy.answer(seen)))
}

#[derive(Default)]
struct Log {
    blobs: Mutex<Vec<(String, BlobState)>>,
    waits: Mutex<Vec<(String, Duration)>>,
    bytes: Mutex<Vec<(u64, u64)>>,
}

impl Progress for Log {
    fn on_blob(&self, digest: &str, state: &BlobState) {
        self.blobs.lock().expect("the log").push((digest.into(), state.clone()));
    }

    fn on_bytes(&self, _digest: &str, done_bytes: u64, total_bytes: u64) {
        self.bytes.lock().expect("the log").push((done_bytes, total_bytes));
    }

    fn on_wait(&self, _what: &str, cause: &str, delay: Duration) {
        self.waits.lock().expect("the log").push((cause.into(), delay));
    }
}

#[test]
fn blobs_go_first_and_each_only_once() {
    let receiver = Receiver::default();
    let server = serve(&receiver, |_, _| None);
    let home = Home::new();
    let (a, b) = (small(), large());
    let name = keep(&home, &format!("{}/app:1", server.host), &[&a, &b], &[]);
    let log = Log::default();
    let pushed = push_with(&home, &name, RegistryConfig::default(), &log).expect("a push");
    let lines = server.lines();
    assert_eq!(lines.last().map(String::as_str), Some("PUT /v2/app/manifests/1"), "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.starts_with("PATCH")).count(), 1, "only the large blob goes in a part of its own: {lines:?}");
    assert_eq!(receiver.stock.lock().expect("the stock").types["/v2/app/manifests/1"], MANIFEST);
    assert_eq!(log.bytes.lock().expect("the log").iter().max(), Some(&(b.gzip.len() as u64, b.gzip.len() as u64)));
    let done = log.blobs.lock().expect("the log").iter().filter(|(_, state)| *state == BlobState::Done).count();
    assert_eq!(done, 3, "two layers and the config");

    // The store knows now under which digest the registry has it, and a second push asks for each blob and sends none.
    let record = home.store.images().list().expect("images").remove(0).0;
    assert_eq!(record.repo_digests, [format!("{}/app@{}", server.host, pushed.digest)]);
    assert_eq!(record.manifest.expect("a manifest").digest, pushed.digest);
    server.clear();
    let again = push_with(&home, &name, RegistryConfig::default(), &()).expect("a push");
    assert_eq!(again, pushed);
    let mut methods: Vec<String> = server.lines().iter().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect();
    methods.sort();
    assert_eq!(methods, ["HEAD", "HEAD", "HEAD", "PUT"]);
}

#[test]
fn a_blob_is_taken_from_the_repository_that_it_came_from() {
    let receiver = Receiver::default();
    let server = serve(&receiver, |_, _| None);
    let home = Home::new();
    let (a, b) = (small(), large());
    let digest = OciDigest::sha256_of(&a.gzip);
    receiver.stock.lock().expect("the stock").files.insert(format!("/v2/base/blobs/{digest}"), a.gzip.clone());
    // The base was pulled from there; another registry's repositories are of no use.
    let known_as =
        ["127.0.0.1:1/else@", &format!("{}/base@", server.host), &format!("{}/gone@", server.host)].map(|r| format!("{r}{digest}"));
    keep(&home, "base", &[&a], &known_as);
    let name = keep(&home, &format!("{}/app:1", server.host), &[&a, &b], &[]);
    let log = Log::default();
    push_with(&home, &name, RegistryConfig::default(), &log).expect("a push");
    let states = log.blobs.lock().expect("the log");
    assert!(states.contains(&(digest.to_string(), BlobState::Mounted("base".into()))), "{states:?}");
    let lines = server.lines();
    assert!(lines.contains(&format!("POST /v2/app/blobs/uploads/?mount=sha256%3A{}&from=base", digest.hex())), "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains("from=else")), "{lines:?}");
    drop(states);

    // A registry that mounts nothing opens an upload instead, which is used.
    receiver.stock.lock().expect("the stock").files.retain(|path, _| path.contains("/v2/base/"));
    receiver.stock.lock().expect("the stock").files.clear();
    server.clear();
    push_with(&home, &name, RegistryConfig::default(), &()).expect("a push");
    let mounts = server.lines().iter().filter(|l| l.contains("mount=")).count();
    let posts = server.lines().iter().filter(|l| l.starts_with("POST")).count();
    assert_eq!((mounts, posts), (2, 4), "two sources, and a plain upload for config and the other layer: {:?}", server.lines());
    assert!(receiver.stock.lock().expect("the stock").uploads.is_empty(), "no upload is left open");

    // One that fails over it may take the blob all the same.
    let receiver = Receiver::default();
    let failing = serve(&receiver, |seen, _| seen.path.contains("mount=").then(|| Reply::new(500)));
    keep(&home, "base", &[&a], &[format!("{}/base@{digest}", failing.host)]);
    let name = keep(&home, &format!("{}/app:1", failing.host), &[&a, &b], &[]);
    push_with(&home, &name, RegistryConfig::default(), &()).expect("a push");
    assert_eq!(failing.lines().iter().filter(|l| l.contains("mount=")).count(), 1, "{:?}", failing.lines());
}

#[test]
fn an_interrupted_upload_is_resumed_where_it_stopped() {
    for prefix in ["", "http"] {
        let receiver = Receiver::default();
        let healthy = receiver.clone();
        let cut = |seen: &Seen, repeats: usize| (seen.method == "PATCH" && repeats < 3).then_some(90_000);
        let server = Server::start_cutting(cut, move |seen, _| healthy.answer(seen));
        if !prefix.is_empty() {
            *receiver.prefix.lock().expect("the prefix") = format!("http://{}", server.host);
        }
        push(&server, &receiver, RegistryConfig::default());
        let seen = server.seen.lock().expect("the log");
        let ranges: Vec<_> = seen
            .iter()
            .filter(|s| s.method == "PATCH")
            .map(|s| s.header("content-range").map(|r| r.split('-').next().unwrap().to_owned()))
            .collect();
        assert_eq!(ranges, [None, Some("90000".into()), Some("180000".into()), Some("270000".into())]);
        assert_eq!(seen.iter().filter(|s| s.method == "GET" && s.path.starts_with("/uploads/")).count(), 3);
    }
}

#[test]
fn a_registry_that_takes_no_long_bodies_gets_parts() {
    // Once with its words, once by hanging up.
    for says_so in [true, false] {
        let receiver = Receiver::default();
        let healthy = receiver.clone();
        let is_long = |seen: &Seen| seen.header("content-length").is_some_and(|len| len.parse::<usize>().expect("a number") > 200_000);
        let cut = move |seen: &Seen, _| is_long(seen).then_some(0);
        let server = Server::start_cutting(cut, move |seen, _| match is_long(seen) {
            true if says_so => Reply::new(413),
            true => Reply { hang_up: true, ..Reply::default() },
            false => healthy.answer(seen),
        });
        push(&server, &receiver, RegistryConfig::default());
        let seen = server.seen.lock().expect("the log");
        let parts = seen.iter().filter(|s| s.method == "PATCH" && s.header("content-range").is_some()).count();
        assert_eq!(parts, 3, "{says_so}");
    }
}

#[test]
fn transient_failures_are_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let receiver = Receiver::default();
        let server = serve(&receiver, move |_, repeats| (repeats == 0).then(|| Reply::new(status)));
        push(&server, &receiver, RegistryConfig::default());
    }
    // Every answer is lost once.
    let receiver = Receiver::default();
    let healthy = receiver.clone();
    let server = Server::start(move |seen, repeats| {
        let reply = healthy.answer(seen);
        Reply { hang_up: repeats == 0, ..reply }
    });
    push(&server, &receiver, RegistryConfig::default());

    let receiver = Receiver::default();
    let server = serve(&receiver, |seen, repeats| (seen.method == "PUT" && repeats == 0).then(|| Reply::new(503).with("retry-after", "1")));
    let home = Home::new();
    let name = keep(&home, &format!("{}/app:1", server.host), &[&small()], &[]);
    let log = Log::default();
    push_with(&home, &name, RegistryConfig::default(), &log).expect("a push");
    let waits = log.waits.lock().expect("the log");
    assert_eq!(waits.len(), 3, "config, layer, manifest: {waits:?}");
    assert!(waits.iter().all(|(cause, delay)| *delay == Duration::from_secs(1) && cause.contains("503")), "{waits:?}");

    let server = serve(&receiver, |_, _| Some(Reply::new(429).with("retry-after", "3600")));
    let name = keep(&home, &format!("{}/app:1", server.host), &[&small()], &[]);
    let error = push_with(&home, &name, RegistryConfig::default(), &()).expect_err("an hour is too long");
    assert!(matches!(error, RegistryError::RateLimited { status: 429, .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn a_forgotten_upload_is_begun_anew() {
    let receiver = Receiver::default();
    let healthy = receiver.clone();
    let is_first = AtomicBool::new(true);
    let server = Server::start(move |seen, _| {
        if seen.method == "PATCH" && is_first.swap(false, Ordering::Relaxed) {
            healthy.forget_uploads();
        }
        healthy.answer(seen)
    });
    push(&server, &receiver, RegistryConfig::default());
}

#[test]
fn lies_about_digests_are_not_believed() {
    let wrong = OciDigest::sha256_of(b"other").to_string();
    for part in ["/uploads/", "/manifests/"] {
        let receiver = Receiver::default();
        let (healthy, wrong) = (receiver.clone(), wrong.clone());
        let server = Server::start(move |seen, _| {
            let reply = healthy.answer(seen);
            if seen.method != "PUT" || !seen.path.contains(part) {
                return reply;
            }
            Reply::new(201).with("docker-content-digest", wrong.clone())
        });
        let home = Home::new();
        let name = keep(&home, &format!("{}/app:1", server.host), &[&small()], &[]);
        let error = push_with(&home, &name, RegistryConfig::default(), &()).expect_err("a lie");
        assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{part}: {error}");
        assert!(home.store.images().list().expect("images")[0].0.repo_digests.is_empty(), "{part}");
    }
}

/// A registry with a token server: tokens are `T<n>:<scopes>` and hold for so many requests.
fn token_server(receiver: &Receiver, requests: usize) -> (Server, Arc<Mutex<Vec<Seen>>>) {
    let asked: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let (log, healthy, host) = (Arc::clone(&asked), receiver.clone(), Arc::new(Mutex::new(String::new())));
    let realm = Arc::clone(&host);
    let used = Mutex::new(std::collections::HashMap::<String, usize>::new());
    let server = Server::start(move |seen, _| {
        if seen.path.starts_with("/token") {
            let mut log = log.lock().expect("the log");
            log.push(seen.clone());
            return Reply::ok(format!(r#"{{"token":"T{}"}}"#, log.len()));
        }
        let token = seen.header("authorization").and_then(|a| a.strip_prefix("Bearer T")).unwrap_or_default().to_owned();
        let mut used = used.lock().expect("the count");
        let count = used.entry(token.clone()).or_default();
        *count += 1;
        if token.is_empty() || *count > requests {
            let challenge = format!(r#"Bearer realm="http://{}/token",service="r""#, realm.lock().expect("set"));
            return Reply::new(401).with("www-authenticate", challenge);
        }
        healthy.answer(seen)
    });
    host.lock().expect("unset").clone_from(&server.host);
    (server, asked)
}

#[test]
fn tokens_are_asked_for_pushing_and_fetched_again_when_they_expire() {
    let receiver = Receiver::default();
    let (server, asked) = token_server(&receiver, 3);
    push(&server, &receiver, RegistryConfig::default());
    let asked = asked.lock().expect("the log");
    assert!(asked.len() > 2, "tokens of three requests are not enough for one: {}", asked.len());
    assert!(asked.iter().all(|s| s.path == "/token?service=r&scope=repository%3Aapp%3Apull%2Cpush"), "{:?}", asked[0]);
}

#[test]
fn a_mount_asks_for_the_right_to_read_its_source() {
    let receiver = Receiver::default();
    let (server, asked) = token_server(&receiver, 100);
    let home = Home::new();
    let a = small();
    let digest = OciDigest::sha256_of(&a.gzip);
    receiver.stock.lock().expect("the stock").files.insert(format!("/v2/base/blobs/{digest}"), a.gzip.clone());
    keep(&home, "base", &[&a], &[format!("{}/base@{digest}", server.host)]);
    let name = keep(&home, &format!("{}/app:1", server.host), &[&a, &large()], &[]);
    let registry = RegistryConfig {
        auth_json: Some(format!(r#"{{"auths":{{"{}":{{"identitytoken":"I D"}}}}}}"#, server.host)),
        ..RegistryConfig::default()
    };
    push_with(&home, &name, registry, &()).expect("a push");
    let bodies: Vec<String> = asked.lock().expect("the log").iter().map(|s| format!("{} {}", s.method, s.body)).collect();
    let tail = "grant_type=refresh_token&client_id=shale&refresh_token=I%20D";
    assert_eq!(
        bodies,
        [
            format!("POST service=r&scope=repository%3Aapp%3Apull%2Cpush&{tail}"),
            format!("POST service=r&scope=repository%3Aapp%3Apull%2Cpush%20repository%3Abase%3Apull&{tail}")
        ]
    );
}

#[test]
fn another_host_gets_the_bytes_but_no_credentials() {
    // Once a Location names the other host, once a redirect leads there.
    for is_redirect in [false, true] {
        let receiver = Receiver::default();
        let storage_side = receiver.clone();
        let storage = Server::start(move |seen, _| storage_side.answer(seen));
        let registry_side = receiver.clone();
        if !is_redirect {
            *receiver.prefix.lock().expect("the prefix") = format!("http://{}", storage.host);
        }
        let to = storage.host.clone();
        let server = Server::start(move |seen, _| {
            if seen.header("authorization") != Some("Basic dTpwOng=") {
                return Reply::new(401).with("www-authenticate", "Basic realm=r");
            }
            if is_redirect && seen.path.starts_with("/uploads/") {
                return Reply::new(307).with("location", format!("http://{to}{}", seen.path));
            }
            registry_side.answer(seen)
        });
        let auth = format!(r#"{{"auths":{{"{}":{{"auth":"dTpwOng="}}}}}}"#, server.host);
        push(&server, &receiver, RegistryConfig { auth_json: Some(auth), ..RegistryConfig::default() });
        let seen = storage.seen.lock().expect("the log");
        assert!(seen.iter().any(|s| s.method == "PATCH" && !s.raw.is_empty()), "{is_redirect}");
        assert!(seen.iter().all(|s| s.header("authorization").is_none()), "{is_redirect}");
    }
}

#[test]
fn refusals_are_told_in_the_registry_s_words() {
    let body = |code: &str, message: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#).into_bytes();
    let cases = [
        (403, body("DENIED", "requested access to the resource is denied"), "denied: requested access to the resource is denied"),
        (403, Vec::new(), "denied: requested access to the resource is denied"),
        (401, body("UNAUTHORIZED", "authentication required"), "unauthorized: authentication required"),
        (401, Vec::new(), "unauthorized: authentication required"),
    ];
    for (status, body, message) in cases {
        let receiver = Receiver::default();
        let server = serve(&receiver, move |seen, _| (seen.method == "POST").then(|| Reply { body: body.clone(), ..Reply::new(status) }));
        let home = Home::new();
        let name = keep(&home, &format!("{}/app:1", server.host), &[&small()], &[]);
        let error = push_with(&home, &name, RegistryConfig::default(), &()).expect_err("a refusal");
        assert_eq!(error.to_string(), message);
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_proxy_is_asked_for_plain_http_without_a_tunnel() {
    let receiver = Receiver::default();
    let registry = receiver.clone();
    // As Squid by its own settings: no tunnels but to port 443.
    let proxy = Server::start(move |seen, _| {
        if seen.header("proxy-authorization") != Some("Basic dTpwQA==") {
            return Reply::new(407);
        }
        match seen.path.strip_prefix("http://registry.invalid:5000") {
            Some(path) if seen.header("host") == Some("registry.invalid:5000") => {
                registry.answer(&Seen { path: path.into(), ..seen.clone() })
            }
            _ => Reply::new(403),
        }
    });
    let settings = || RegistryConfig {
        http_proxy: Some(format!("http://u:p%40@{}", proxy.host)),
        plain_http: vec!["registry.invalid:5000".into()],
        ..RegistryConfig::default()
    };
    let home = Home::new();
    let (a, b) = (small(), large());
    let name = keep(&home, "registry.invalid:5000/app:1", &[&a, &b], &[]);
    let pushed = push_with(&home, &name, settings(), &()).expect("a push");
    for layer in [&a, &b] {
        let path = format!("/v2/app/blobs/{}", OciDigest::sha256_of(&layer.gzip));
        assert!(receiver.file(&path).as_ref() == Some(&layer.gzip), "{path} is not there as it was");
    }
    let platform = "linux/amd64".parse().expect("a platform");
    let image = Home::new().service_with(settings()).pull(&name.to_string(), &platform, &()).expect("a pull");
    assert_eq!(image.record.repo_digests, [format!("registry.invalid:5000/app@{}", pushed.digest)]);
}

/// A SOCKS5 proxy with a password (RFC 1928, 1929) that knows one host, by its name.
fn socks_proxy(known: &'static str, there: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let greet = move |client: &mut TcpStream| -> io::Result<bool> {
        let mut greeting = [0; 4];
        client.read_exact(&mut greeting)?;
        client.write_all(&[5, 2])?;
        let mut login = [0; 6];
        client.read_exact(&mut login)?;
        client.write_all(&[1, u8::from(login != *b"\x01\x01u\x02p@")])?;
        let mut request = [0; 5];
        client.read_exact(&mut request)?;
        let mut name = vec![0; usize::from(request[4]) + 2];
        client.read_exact(&mut name)?;
        let is_known = request[..4] == [5, 1, 0, 3] && name == [known.as_bytes(), &5000_u16.to_be_bytes()].concat();
        client.write_all(&[5, if is_known { 0 } else { 4 }, 0, 1, 0, 0, 0, 0, 0, 0])?;
        Ok(is_known)
    };
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            if greet(&mut client).is_ok_and(|is_known| is_known) {
                join(&client, &TcpStream::connect(&there).expect("the registry"));
            }
        }
    });
    host
}

#[test]
fn a_socks_proxy_finds_the_registry_by_its_name() {
    let receiver = Receiver::default();
    let server = serve(&receiver, |_, _| None);
    let proxy = socks_proxy("registry.invalid", server.host.clone());
    let settings = |proxy: String| RegistryConfig {
        http_proxy: Some(proxy),
        plain_http: vec!["registry.invalid:5000".into(), "other.invalid:5000".into()],
        ..RegistryConfig::default()
    };
    let home = Home::new();
    let name = keep(&home, "registry.invalid:5000/app:1", &[&small(), &large()], &[]);
    push_with(&home, &name, settings(format!("socks5://u:p%40@{proxy}")), &()).expect("a push");
    assert!(receiver.has("/v2/app/manifests/1"));
    let other = keep(&home, "other.invalid:5000/app:1", &[&small()], &[]);
    let error = push_with(&home, &other, settings(format!("socks5h://u:p%40@{proxy}")), &()).expect_err("an unknown host").to_string();
    assert_eq!(error, format!("cannot reach other.invalid:5000 by the proxy {proxy}: host unreachable"));
}
