//! Small images and a registry that misbehaves on demand.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod receiver;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use shale::export::ExportImage;
use shale::image::{ImageError, ImageService};
use shale::oci::reference::Reference;
use shale::source::registry::{Client, RegistryConfig, RegistryError, RetryPolicy};
use shale_cache::{DiffId, OciDigest, Packed, Store};
use std::time::Duration;

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A store in a directory of its own.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        Self { dir, store }
    }

    pub fn service(&self) -> ImageService {
        self.service_with(RegistryConfig::default())
    }

    pub fn service_with(&self, config: RegistryConfig) -> ImageService {
        ImageService::new(self.store.clone(), Client::new(impatient(config)))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The same settings with delays that a test can wait for.
pub fn impatient(config: RegistryConfig) -> RegistryConfig {
    let retry =
        RetryPolicy { attempts: 4, first_delay: Duration::from_millis(5), budget: Duration::from_secs(3), stall: Duration::from_secs(2) };
    RegistryConfig { retry, ..config }
}

/// The bytes of a layer: its tar, and the tar in gzip.
pub struct LayerBytes {
    pub tar: Vec<u8>,
    pub gzip: Vec<u8>,
}

/// A layer with one file.
pub fn layer(name: &str, content: &[u8]) -> LayerBytes {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).expect("an entry");
    let tar = builder.into_inner().expect("a tar");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar).expect("memory");
    LayerBytes { gzip: encoder.finish().expect("memory"), tar }
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// The config of an image with such layers.
pub fn config(architecture: &str, layers: &[&LayerBytes]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| OciDigest::sha256_of(&l.tar).to_string()).collect();
    let history: Vec<_> = layers.iter().map(|_| json!({"created_by": "COPY x", "comment": "c"})).collect();
    let config = json!({
        "architecture": architecture,
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"a": "b"}},
        "created": "2024-02-03T04:05:06.789Z",
        "history": history,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    config.to_string().into_bytes()
}

/// An image ready to export, its layers in the store.
pub fn export_image(store: &Store, names: &[&str], layers: &[&LayerBytes]) -> ExportImage {
    let packed = layers.iter().map(|l| Packed {
        blob: store.blobs().put(&l.gzip).expect("a blob"),
        size_bytes: l.gzip.len() as u64,
        diff_id: DiffId(OciDigest::sha256_of(&l.tar)),
        media_type: GZIP.into(),
    });
    ExportImage {
        names: names.iter().map(|n| Reference::parse(n).expect("a name").with_default_tag()).collect(),
        config: config("amd64", layers),
        layers: packed.collect(),
        annotations: BTreeMap::new(),
        descriptor_annotations: BTreeMap::new(),
        manifest: None,
    }
}

/// Says that a test proves nothing here.
#[expect(clippy::print_stderr, reason = "a skipped test must say so")]
pub fn skip(tool: &str) {
    eprintln!("SKIP: {tool}: not installed");
}

/// Runs a tool; `None` if it is not installed.
pub fn tool(name: &str, args: &[&str]) -> Option<Result<String, String>> {
    // What root's podman leaves in /run/containers, an ordinary user's tools may not read and stumble over. podman wants a folder
    // that belongs to the user alone.
    let runtime = tempfile::tempdir().expect("a directory");
    let output = match Command::new(name).args(args).env("XDG_RUNTIME_DIR", runtime.path()).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            skip(name);
            return None;
        }
        Err(e) => panic!("{name}: {e}"),
    };
    // An ordinary user's podman leaves a process behind that holds its namespaces.
    if let Ok(pid) = std::fs::read_to_string(runtime.path().join("libpod/tmp/pause.pid")) {
        let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a process number");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it lives");
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Some(if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(stderr) })
}

/// A request as a server sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
    /// The bytes of the body that came: all, unless the server hung up.
    pub raw: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What a server answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    pub break_after: Option<usize>,
    /// The connection breaks without an answer.
    pub hang_up: bool,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// An HTTP server on the loopback device that answers by a function and remembers what it was asked.
pub struct Server {
    pub host: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_cutting(|_, _| None, answer)
    }

    /// The same with a function that says after how many bytes of a request's body the server stops to read. It then answers what
    /// it has read, or hangs up.
    pub fn start_cutting(
        cut: impl Fn(&Seen, usize) -> Option<usize> + Send + Sync + 'static,
        answer: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer, cut) = (Arc::clone(&seen), Arc::new(answer), Arc::new(cut));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer, cut) = (Arc::clone(&log), Arc::clone(&answer), Arc::clone(&cut));
                thread::spawn(move || serve(stream, &log, &*cut, &*answer));
            }
        });
        Self { host, seen }
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().expect("the log").iter().map(Seen::line).collect()
    }

    pub fn clear(&self) {
        self.seen.lock().expect("the log").clear();
    }
}

type Cut = dyn Fn(&Seen, usize) -> Option<usize> + Send + Sync;

/// One connection, one request. `cut` and `answer` are told how often the same request came before.
fn serve(mut stream: TcpStream, log: &Mutex<Vec<Seen>>, cut: &Cut, answer: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync)) {
    let repeats_of = |request: &Seen| log.lock().expect("the log").iter().filter(|s| s.line() == request.line()).count();
    let Some(request) = read_request(&mut stream, &|head| cut(head, repeats_of(head))) else { return };
    let repeats = repeats_of(&request);
    log.lock().expect("the log").push(request.clone());
    let reply = answer(&request, repeats);
    if reply.hang_up {
        return;
    }
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head = format!("{head}{name}: {value}\r\n");
    }
    head = format!("{head}content-length: {}\r\n\r\n", reply.body.len());
    let end = reply.break_after.unwrap_or(reply.body.len()).min(reply.body.len());
    let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..end] };
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
}

fn read_request(stream: &mut TcpStream, cut: &dyn Fn(&Seen) -> Option<usize>) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut seen = Seen { method, path, headers, body: String::new(), raw: Vec::new() };
    let mut raw = vec![0; cut(&seen).unwrap_or(len).min(len)];
    reader.read_exact(&mut raw).ok()?;
    seen.body = String::from_utf8_lossy(&raw).into_owned();
    seen.raw = raw;
    Some(seen)
}

/// Joins two connections until both sides have ended, in threads of their own.
pub fn join(a: &TcpStream, b: &TcpStream) {
    for (from, to) in [(a, b), (b, a)] {
        let (mut from, mut to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
        thread::spawn(move || std::io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write)));
    }
}

/// A repository `app` with one image per platform, as path → content.
pub struct Repository {
    pub files: HashMap<String, (String, Vec<u8>)>,
    /// Digest of what `latest` points to.
    pub top: OciDigest,
    /// Digests of the layers' blobs, of all platforms.
    pub layers: Vec<OciDigest>,
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Repository {
    pub fn new(platforms: &[(&str, &[&LayerBytes])]) -> Self {
        let mut repository = Self { files: HashMap::new(), top: OciDigest::sha256_of(b""), layers: Vec::new() };
        let mut entries = Vec::new();
        for (architecture, layers) in platforms {
            let config = config(architecture, layers);
            let config_digest = repository.blob(config.clone());
            let layers: Vec<_> = layers
                .iter()
                .map(|l| {
                    let digest = repository.blob(l.gzip.clone());
                    repository.layers.push(digest.clone());
                    json!({"mediaType": GZIP, "digest": digest, "size": l.gzip.len()})
                })
                .collect();
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()}, "layers": layers});
            let size = manifest.to_string().len();
            let digest = repository.manifest(MANIFEST, manifest.to_string().into_bytes());
            entries.push(
                json!({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"architecture": architecture, "os": "linux"}}),
            );
            repository.top = digest;
        }
        if platforms.len() > 1 {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
            repository.top = repository.manifest(INDEX, index.to_string().into_bytes());
        }
        repository.tag("latest");
        repository
    }

    pub fn blob(&mut self, bytes: Vec<u8>) -> OciDigest {
        let digest = OciDigest::sha256_of(&bytes);
        self.files.insert(format!("/v2/app/blobs/{digest}"), ("application/octet-stream".into(), bytes));
        digest
    }

    pub fn manifest(&mut self, media_type: &str, bytes: Vec<u8>) -> OciDigest {
        let digest = OciDigest::sha256_of(&bytes);
        self.files.insert(format!("/v2/app/manifests/{digest}"), (media_type.into(), bytes));
        digest
    }

    pub fn tag(&mut self, tag: &str) {
        let top = self.files[&format!("/v2/app/manifests/{}", self.top)].clone();
        self.files.insert(format!("/v2/app/manifests/{tag}"), top);
    }

    /// What a healthy registry answers.
    pub fn answer(&self, request: &Seen) -> Reply {
        let Some((media_type, bytes)) = self.files.get(&request.path) else {
            return Reply { body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#.into(), ..Reply::new(404) };
        };
        let start = request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let reply = match start {
            Some(start) => Reply { status: 206, ..Reply::ok(&bytes[start..]) }
                .with("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
            None => Reply::ok(bytes.clone()),
        };
        reply.with("content-type", media_type).with("docker-content-digest", OciDigest::sha256_of(bytes).to_string())
    }
}

/// A layer of one file.
pub fn one_layer() -> LayerBytes {
    layer("file", &noise(300_000))
}

/// A server that answers as a registry, but for what `fault` says first.
pub fn server(repository: Repository, fault: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) -> Server {
    Server::start(move |seen, repeats| fault(seen, repeats).unwrap_or_else(|| repository.answer(seen)))
}

/// The registry's error.
pub fn registry_error(error: ImageError) -> RegistryError {
    match error {
        ImageError::Registry(error) => error,
        other => panic!("not the registry's: {other}"),
    }
}
