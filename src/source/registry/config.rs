//! What the registry client is told from outside. It reads no environment itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the registry client; every path and variable was looked up by the caller.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// The text of `DOCKER_AUTH_CONFIG`; it stands before every file.
    pub auth_json: Option<String>,
    /// Credential files, first match wins: Docker's `config.json`, then podman's `auth.json` files. Absent ones are no error.
    pub auth_files: Vec<PathBuf>,
    /// `PATH` for credential helpers; `None` = the process's own.
    pub helper_path: Option<OsString>,
    /// Folders that hold `HOST[:PORT]/*.crt`, `*.cert` and `*.key` (`/etc/docker/certs.d`, …).
    pub cert_dirs: Vec<PathBuf>,
    /// Extra CA certificates for every registry (`--ca-cert`).
    pub ca_files: Vec<PathBuf>,
    /// `SSL_CERT_FILE`: instead of the system's bundle.
    pub system_ca_file: Option<PathBuf>,
    /// `SSL_CERT_DIR`: instead of the system's folder.
    pub system_ca_dir: Option<PathBuf>,
    /// Hosts (`HOST[:PORT]`) whose certificate is not checked and that may speak plain HTTP.
    pub insecure: Vec<String>,
    /// Every host is (`--tls-verify=false`).
    pub insecure_all: bool,
    /// `http_proxy`
    pub http_proxy: Option<String>,
    /// `https_proxy`
    pub https_proxy: Option<String>,
    /// `no_proxy`
    pub no_proxy: Option<String>,
    /// When and how long to try again.
    pub retry: RetryPolicy,
    /// How blobs are cut when they are pushed.
    pub upload: UploadPolicy,
}

impl RegistryConfig {
    /// Whether a host's certificate is not checked and it may speak plain HTTP.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        self.insecure_all || self.insecure.iter().any(|h| h == host)
    }
}

/// How patient the client is.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Tries of one request, the first included.
    pub attempts: u32,
    /// The wait before the second try; it doubles each time.
    pub first_delay: Duration,
    /// The sum of all waits for one request. A longer `Retry-After` is an error at once.
    pub budget: Duration,
    /// How long one read or the connection may stand still.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 6, first_delay: Duration::from_millis(300), budget: Duration::from_secs(90), stall: Duration::from_secs(60) }
    }
}

/// How blobs are cut when they are pushed.
#[derive(Clone, Copy, Debug)]
pub struct UploadPolicy {
    /// Up to this size a blob goes in one request that cannot be resumed.
    pub single_bytes: u64,
    /// The longest part of a larger one. Not every registry takes more than one part, so it is a whole blob until one is refused as
    /// too large.
    pub chunk_bytes: u64,
    /// The longest part after that.
    pub small_chunk_bytes: u64,
}

impl Default for UploadPolicy {
    fn default() -> Self {
        Self { single_bytes: 4 << 20, chunk_bytes: u64::MAX, small_chunk_bytes: 16 << 20 }
    }
}

/// What becomes of a blob that is pulled or pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// It is already where it shall go.
    Present,
    /// Its bytes begin to move.
    Started,
    /// All bytes have moved.
    Done,
    /// The registry took it from another of its repositories, by this path.
    Mounted(String),
}

/// Told what a pull or push does; asked whether to go on. Called from several threads.
pub trait Progress: Sync {
    /// A blob comes to another state.
    fn on_blob(&self, digest: &str, state: &BlobState) {
        let _ = (digest, state);
    }

    /// Bytes of a blob that have moved.
    fn on_bytes(&self, digest: &str, done_bytes: u64, total_bytes: u64) {
        let _ = (digest, done_bytes, total_bytes);
    }

    /// The client waits before it tries again.
    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        let _ = (what, cause, delay);
    }

    /// Whether to give up.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Says nothing and never gives up.
impl Progress for () {}
