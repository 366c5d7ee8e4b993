//! What the registry client is told from outside. It reads no environment itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::error::RegistryError;
use crate::oci::reference::Reference;

/// Settings of the registry client; every path and variable was looked up by the caller.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// The text of `DOCKER_AUTH_CONFIG`; it stands before every file.
    pub auth_json: Option<String>,
    /// Credential files, first match wins: the one that a variable names, Docker's `config.json`, podman's `auth.json` files. Absent ones
    /// are no error.
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
    /// Hosts (`HOST[:PORT]`, `*.DOMAIN`) whose certificate is not checked and that may speak plain HTTP.
    pub insecure: Vec<String>,
    /// Every host is (`--tls-verify=false`).
    pub insecure_all: bool,
    /// Hosts that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// CA certificates for single hosts.
    pub host_ca_files: BTreeMap<String, Vec<PathBuf>>,
    /// Where registries really are, and their mirrors. Of several that fit the one with the longest prefix counts, of equal ones the
    /// first.
    pub places: Vec<Place>,
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

/// Where the images of a registry, or of a part of it, are to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// How the names begin: `docker.io`, `docker.io/library`, `*.example.com`.
    pub prefix: String,
    /// What stands for the prefix; `None` = itself.
    pub location: Option<String>,
    /// Asked before it, in this order, for what is read.
    pub mirrors: Vec<Mirror>,
    /// Nothing may be read from it or written to it.
    pub is_blocked: bool,
}

/// A copy of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// `HOST[:PORT][/PREFIX]`: what stands for the prefix of the place.
    pub location: String,
    /// It is not asked for tags.
    pub by_digest_only: bool,
}

impl RegistryConfig {
    /// The place of a repository.
    fn place(&self, reference: &Reference) -> Option<&Place> {
        let fits = self.places.iter().rev().filter(|place| rest_of(place, reference).is_some());
        fits.max_by_key(|place| place.prefix.len())
    }

    /// Where a name is read from, best first.
    pub(super) fn sources(&self, reference: &Reference) -> Result<Vec<Reference>, RegistryError> {
        let home = self.home(reference)?;
        let Some((place, rest)) = self.place(reference).and_then(|place| Some((place, rest_of(place, reference)?))) else {
            return Ok(vec![home]);
        };
        let mirrors = place.mirrors.iter().filter(|mirror| !mirror.by_digest_only || reference.digest().is_some());
        Ok(mirrors.map(|mirror| reference.moved(&mirror.location, rest)).chain([home]).collect())
    }

    /// Where a name is written to.
    pub(super) fn home(&self, reference: &Reference) -> Result<Reference, RegistryError> {
        let Some((place, rest)) = self.place(reference).and_then(|place| Some((place, rest_of(place, reference)?))) else {
            return Ok(reference.clone());
        };
        if place.is_blocked {
            return Err(RegistryError::Blocked { reference: reference.familiar_name(), prefix: place.prefix.clone() });
        }
        Ok(place.location.as_deref().map_or_else(|| reference.clone(), |location| reference.moved(location, rest)))
    }

    /// Whether a host's certificate is not checked and it may speak plain HTTP.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let name = host.split(':').next().unwrap_or(host);
        let below = |parent: &str| host.ends_with(parent) || name.ends_with(parent);
        self.insecure_all || self.insecure.iter().any(|known| known == host || known.strip_prefix('*').is_some_and(below))
    }
}

/// What of a repository's path follows a place's prefix.
fn rest_of<'a>(place: &Place, reference: &'a Reference) -> Option<&'a str> {
    if let Some(parent) = place.prefix.strip_prefix("*.") {
        let is_below = reference.domain().strip_suffix(parent).is_some_and(|sub| sub.ends_with('.'));
        return is_below.then(|| reference.path());
    }
    let (host, path) = place.prefix.split_once('/').unwrap_or((&place.prefix, ""));
    let rest = reference.path().strip_prefix(path)?;
    let ends_a_name = path.is_empty() || rest.is_empty() || rest.starts_with('/');
    (host == reference.domain() && ends_a_name).then(|| rest.trim_start_matches('/'))
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

impl RetryPolicy {
    /// The same for a mirror: its registry has everything, too, and waiting for a mirror gains nothing (containerd does not).
    pub(super) fn with_others_to_ask(self) -> Self {
        Self { attempts: self.attempts.min(2), budget: self.budget.min(Duration::from_secs(5)), ..self }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_places() {
        let place = |prefix: &str, location: Option<&str>, mirrors: &[&str]| Place {
            prefix: prefix.into(),
            location: location.map(Into::into),
            mirrors: mirrors.iter().map(|m| Mirror { location: (*m).into(), by_digest_only: m.starts_with("digest") }).collect(),
            is_blocked: prefix.contains("blocked"),
        };
        let places = vec![
            place("docker.io", None, &["m1:5000", "m2.example/hub", "digest.example"]),
            place("docker.io/library", None, &["official.example/o"]),
            place("old.example/team", Some("new.example/x/y"), &[]),
            place("*.blocked.example", None, &[]),
        ];
        let config = RegistryConfig { places, ..RegistryConfig::default() };
        let shown = |name: &str| match config.sources(&Reference::parse(name).expect(name)) {
            Ok(sources) => sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, expected) in [
            ("user/app:1", "m1:5000/user/app:1 m2.example/hub/user/app:1 docker.io/user/app:1"),
            ("alpine", "official.example/o/alpine docker.io/library/alpine"),
            ("old.example/team/app:2", "new.example/x/y/app:2"),
            ("old.example/teams/app", "old.example/teams/app"),
            ("r.blocked.example/app", "registry r.blocked.example/app is blocked by the place \"*.blocked.example\" of the settings"),
            ("blocked.example/app", "blocked.example/app"),
        ] {
            assert_eq!(shown(name), expected, "{name}");
        }
        assert!(shown(&format!("user/app@{digest}")).contains(&format!("digest.example/user/app@{digest}")));
    }

    #[test]
    fn a_whole_domain_can_be_insecure() {
        let config = RegistryConfig { insecure: vec!["*.lan".into(), "r:5000".into()], ..RegistryConfig::default() };
        for (host, expected) in
            [("a.lan", true), ("a.b.lan:443", true), ("r:5000", true), ("lan", false), ("a.lan.example", false), ("r", false)]
        {
            assert_eq!(config.is_insecure(host), expected, "{host}");
        }
    }
}
