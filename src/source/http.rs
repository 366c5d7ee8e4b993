//! Files by URL, for ADD: fetched once and kept in the store; later builds ask the server only whether they changed.
//!
//! What is known about a URL lies in `contexts/` under the hash of the URL, since its query may be a secret; the bytes are a blob.
//! Either may be gone at any time: then the file is fetched again.

use std::fs;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use shale_cache::{OciDigest, Store, StoreError};
use ureq::http::StatusCode;

use super::registry::http::{Request, Response, Transport, broken, http_date, without_query};
use super::registry::retry::{Fault, with_retry};
use super::registry::{Progress, RegistryConfig, RegistryError};
use super::secret::{Lent, SecretError};
use crate::plan::git::redacted;
use crate::plan::url::percent_decoded;
use crate::tree::entry::ContentDigest;

/// Bytes read at once.
const READ_BYTES: usize = 128 << 10;
/// How often the one who waits is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Why a URL gave no file.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The server refuses.
    #[error("failed to load cache key: invalid response status {status}")]
    Status {
        /// Without its query.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The content is not the one that `--checksum` names.
    #[error("failed to load cache key: digest mismatch {actual}: {expected}")]
    Mismatch {
        /// What came.
        actual: OciDigest,
        /// What was to come.
        expected: OciDigest,
    },
    /// The server cannot be talked to.
    #[error("failed to load cache key: {0}")]
    Transport(RegistryError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret that cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret that no header can hold.
    #[error("the secret {0} is not text of one line")]
    SecretNotText(String),
    /// Something in the store cannot be read or written.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A file that was fetched, now or before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// Its blob in the store.
    pub blob: OciDigest,
    /// Its content as layers name it.
    pub content: ContentDigest,
    /// Its size.
    pub size_bytes: u64,
    /// `Last-Modified` in seconds since the epoch; 0 if the server does not say.
    pub mtime_secs: i64,
    /// What the server calls this version.
    etag: Option<String>,
    /// `Last-Modified` as it came.
    last_modified: Option<String>,
}

impl Download {
    /// `Last-Modified`, if the server says it.
    pub fn modified_secs(&self) -> Option<i64> {
        self.last_modified.as_ref().map(|_| self.mtime_secs)
    }
}

/// Fetches files.
#[derive(Debug)]
pub struct Downloads {
    transport: Transport,
    policy: super::registry::RetryPolicy,
    lent: Lent,
}

enum Answer {
    NotModified,
    Fresh(Download),
}

impl Downloads {
    /// With the certificates, proxies and patience that registries are talked to with, and the secrets that hosts ask for.
    pub fn new(config: RegistryConfig, lent: Lent) -> Self {
        Self { policy: config.retry, transport: Transport::new(config), lent }
    }

    /// The file at `url`. With a checksum that a known download has, nobody is asked.
    pub fn get(&self, store: &Store, url: &str, checksum: Option<&OciDigest>, progress: &dyn Progress) -> Result<Download, HttpError> {
        let record = Record::of(store, url);
        let known = record.read();
        if let Some(known) = known.as_ref().filter(|known| checksum == Some(&known.blob)) {
            return Ok(known.clone());
        }
        let shown = &without_secrets(url);
        let request = self.request(url, known.as_ref())?;
        let mut failure = None;
        let answer = with_retry(self.policy, shown, progress, || {
            let response = self.transport.send(&request)?;
            match StatusCode::from_u16(response.status) {
                Ok(StatusCode::NOT_MODIFIED) if !request.conditions.is_empty() => Ok(Answer::NotModified),
                Ok(status) if status.is_success() => take(store, response, shown, progress, &mut failure).map(Answer::Fresh),
                _ => Err(response.into_error().into()),
            }
        });
        let download = match (answer, failure, known) {
            (_, Some(failure), _) => return Err(failure),
            (Ok(Answer::NotModified), None, Some(known)) => known,
            (Ok(Answer::Fresh(download)), ..) => {
                record.write(store, &download)?;
                download
            }
            (Ok(Answer::NotModified), None, None) => return Err(HttpError::Status { url: shown.clone(), status: 304 }),
            (Err(RegistryError::Status { url, status, .. }), ..) => return Err(HttpError::Status { url, status }),
            (Err(error), ..) => return Err(HttpError::Transport(error)),
        };
        match checksum {
            Some(expected) if *expected != download.blob => Err(HttpError::Mismatch { actual: download.blob, expected: expected.clone() }),
            _ => Ok(download),
        }
    }
}

impl Downloads {
    fn request(&self, url: &str, known: Option<&Download>) -> Result<Request, HttpError> {
        let (url, own) = without_user(url);
        let mut request = Request::get(url);
        request.authorization = self.authorization(&request)?.or(own);
        // Only the version's name, as in BuildKit: its time has whole seconds, and a server may say that an older file is not newer.
        request.conditions.extend(known.and_then(|known| known.etag.clone()).map(|etag| ("if-none-match", etag)));
        Ok(request)
    }

    /// What the secrets of the host say; a token goes before a header, as in BuildKit.
    fn authorization(&self, request: &Request) -> Result<Option<String>, HttpError> {
        let Some(host) = request.host_name() else { return Ok(None) };
        for (id, scheme) in [(format!("HTTP_AUTH_TOKEN_{host}"), "Bearer "), (format!("HTTP_AUTH_HEADER_{host}"), "")] {
            let Some(value) = self.lent.secret(&id)? else { continue };
            let text = String::from_utf8(value).ok().map(|text| format!("{scheme}{}", text.trim_end()));
            let is_line = |text: &String| text.bytes().all(|byte| byte == b'\t' || (b' '..0x7f).contains(&byte));
            return text.filter(is_line).map(Some).ok_or(HttpError::SecretNotText(id));
        }
        Ok(None)
    }
}

/// A URL as it may be shown: without query and password.
pub fn without_secrets(url: &str) -> String {
    redacted(without_query(url))
}

/// A URL without user and password, and the header that they stand for.
fn without_user(url: &str) -> (String, Option<String>) {
    let split = || {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@')?;
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let pair = format!("{}:{}", percent_decoded(name), percent_decoded(password));
        let header = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        Some((format!("{scheme}://{host}{path}"), Some(header)))
    };
    split().unwrap_or_else(|| (url.to_owned(), None))
}

/// Takes the body into the store, decompressed where a `Content-Encoding: gzip` says how it travels (as BuildKit does). Failures of the store end the tries; they are left in `failure`.
fn take(
    store: &Store,
    response: Response,
    shown: &str,
    progress: &dyn Progress,
    failure: &mut Option<HttpError>,
) -> Result<Download, Fault> {
    let header = |name: &str| response.header(name).map(str::to_owned);
    let (etag, last_modified) = (header("etag"), header("last-modified"));
    let is_packed = header("content-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("gzip"));
    let total_bytes: Option<u64> = header("content-length").filter(|_| !is_packed).and_then(|length| length.parse().ok());
    let mut fail = |error: HttpError| {
        failure.get_or_insert(error);
        Fault::from(RegistryError::Cancelled)
    };
    let mut writer = store.blobs().writer().map_err(|error| fail(error.into()))?;
    let mut hash = blake3::Hasher::new();
    let body = response.into_reader();
    let mut body: Box<dyn io::Read> = if is_packed { Box::new(MultiGzDecoder::new(body)) } else { Box::new(body) };
    let mut buffer = vec![0; READ_BYTES];
    let (mut size_bytes, mut told) = (0_u64, std::time::Instant::now());
    loop {
        if progress.is_cancelled() {
            return Err(RegistryError::Cancelled.into());
        }
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(shown, &error)),
        };
        hash.update(&buffer[..read]);
        let written = writer.write_all(&buffer[..read]);
        written.map_err(|source| fail(HttpError::Io { deed: "write", path: "a blob of the store".into(), source }))?;
        size_bytes += read as u64;
        if told.elapsed() >= TELL_EVERY {
            told = std::time::Instant::now();
            progress.on_bytes(shown, size_bytes, total_bytes.unwrap_or(size_bytes));
        }
    }
    if let Some(total) = total_bytes.filter(|total| *total != size_bytes) {
        return Err(broken(shown, &io::Error::other(format!("{size_bytes} of {total} bytes came"))));
    }
    let (blob, _) = writer.commit(None).map_err(|error| fail(error.into()))?;
    let mtime_secs = last_modified.as_deref().and_then(http_date).map_or(0, time::OffsetDateTime::unix_timestamp);
    Ok(Download { blob, content: *hash.finalize().as_bytes(), size_bytes, mtime_secs, etag, last_modified })
}

/// What is known about a URL.
struct Record<'a> {
    store: &'a Store,
    path: PathBuf,
}

impl<'a> Record<'a> {
    fn of(store: &'a Store, url: &str) -> Self {
        let name = format!("url-{}.json", blake3::hash(url.as_bytes()).to_hex());
        Self { store, path: store.root().join("contexts").join(name) }
    }

    /// A record that cannot be read, or whose blob is gone, only costs a download.
    fn read(&self) -> Option<Download> {
        let known: Download = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let size_bytes = self.store.blobs().size(&known.blob).ok()??;
        (size_bytes == known.size_bytes).then_some(known)
    }

    fn write(&self, store: &Store, download: &Download) -> Result<(), HttpError> {
        let io = |deed, path: &PathBuf| {
            let path = path.clone();
            move |source| HttpError::Io { deed, path, source }
        };
        let tmp = store.tmp()?;
        let fresh = tmp.path().join("record");
        let text = serde_json::to_vec(download).expect("strings and numbers serialise");
        fs::write(&fresh, text).map_err(io("write", &fresh))?;
        fs::create_dir_all(store.root().join("contexts")).map_err(io("make the directory of", &self.path))?;
        fs::rename(&fresh, &self.path).map_err(io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Serves `answers` one after the other and keeps what was asked.
    fn serve(answers: Vec<impl AsRef<[u8]> + Send + 'static>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&asked);
        std::thread::spawn(move || {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                let text: Vec<String> = lines.map(|line| line.to_lowercase()).collect();
                kept.lock().expect("no panic").push(text.join("\n"));
                stream.write_all(answer.as_ref()).expect("the client listens");
            }
        });
        (format!("http://{address}/dir/file?token=secret"), asked)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\nETag: \"v1\"\r\n\
        Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\nhello";
    const SAME: &str = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n";
    const GONE: &str = "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn an_unchanged_file_is_not_fetched_again_and_a_known_checksum_asks_nobody() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let (url, asked) = serve(vec![OK, SAME]);
        let downloads = Downloads::new(RegistryConfig::default(), Lent::default());
        let first = downloads.get(&store, &url, None, &()).expect("served");
        assert_eq!((first.size_bytes, first.mtime_secs), (5, 1_700_000_000));
        assert_eq!(store.blobs().read(&first.blob).expect("a store"), Some(b"hello".to_vec()));
        assert_eq!(downloads.get(&store, &url, None, &()).expect("unchanged"), first);
        assert!(asked.lock().expect("no panic")[1].contains("if-none-match: \"v1\""));
        // The server is gone by now.
        assert_eq!(downloads.get(&store, &url, Some(&first.blob.clone()), &()).expect("known"), first);
        let record = fs::read_dir(store.root().join("contexts")).expect("there").flatten().next().expect("one");
        assert!(!fs::read_to_string(record.path()).expect("text").contains("secret"));
    }

    #[test]
    fn a_file_that_travels_compressed_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"hello").expect("memory");
        let packed = gzip.finish().expect("memory");
        let answer = |encoding: &str| {
            let length = packed.len();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n{encoding}\r\n");
            [head.as_bytes(), &packed].concat()
        };
        let (url, _) = serve(vec![answer("Content-Encoding: GZip\r\n"), answer("Content-Type: application/gzip\r\n")]);
        let downloads = Downloads::new(RegistryConfig::default(), Lent::default());
        for (name, content) in [("1", b"hello".as_slice()), ("2", &packed)] {
            let got = downloads.get(&store, &format!("{url}{name}"), None, &()).expect("served");
            assert_eq!(store.blobs().read(&got.blob).expect("a store").as_deref(), Some(content), "{name}");
        }
    }

    #[test]
    fn secrets_of_a_host_and_users_of_a_url_go_to_that_host_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let (elsewhere, other) = serve(vec![OK]);
        let moved = format!("HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
        let (url, asked) = serve(vec![OK, OK, moved.leak(), OK]);
        let secret = |id: &str, text: &str| (id.to_owned(), super::super::secret::SecretSource::Value(text.into()));
        let with =
            |secrets: Vec<_>| Downloads::new(RegistryConfig::default(), Lent { secrets: secrets.into_iter().collect(), ..Lent::default() });
        let get = |downloads: &Downloads, url: &str| downloads.get(&store, url, None, &());
        get(&with(vec![secret("HTTP_AUTH_HEADER_127.0.0.1", "Basic abc\n")]), &format!("{url}1")).expect("served");
        let both = with(vec![secret("HTTP_AUTH_HEADER_127.0.0.1", "x"), secret("HTTP_AUTH_TOKEN_127.0.0.1", "tok")]);
        get(&both, &format!("{url}2")).expect("served");
        get(&both, &format!("{url}3")).expect("served from elsewhere");
        get(&with(Vec::new()), &url.replace("http://", "http://u:p%40@").replace("secret", "4")).expect("served");
        let asked = asked.lock().expect("no panic");
        for (number, header) in
            ["authorization: basic abc", "authorization: bearer tok", "authorization: bearer tok", "authorization: basic dtpwqa=="]
                .iter()
                .enumerate()
        {
            assert!(asked[number].contains(header), "{number}: {}", asked[number]);
        }
        assert!(!other.lock().expect("no panic")[0].contains("authorization"));
        let error = get(&with(vec![secret("HTTP_AUTH_TOKEN_127.0.0.1", "a\r\nb: c")]), &url).expect_err("two lines");
        assert!(matches!(error, HttpError::SecretNotText(_)));
    }

    #[test]
    fn refusals_read_like_buildkit_s() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let downloads = Downloads::new(RegistryConfig::default(), Lent::default());
        let (url, _) = serve(vec![GONE, OK]);
        let error = downloads.get(&store, &url, None, &()).expect_err("404");
        assert_eq!(error.to_string(), "failed to load cache key: invalid response status 404");
        let wanted = OciDigest::sha256_of(b"other");
        let error = downloads.get(&store, &url, Some(&wanted), &()).expect_err("another content");
        let came = OciDigest::sha256_of(b"hello");
        assert_eq!(error.to_string(), format!("failed to load cache key: digest mismatch {came}: {wanted}"));
    }
}
