//! What can go wrong with a registry, with a hint where the user can do something.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use shale_cache::OciDigest;

use crate::oci::manifest::ManifestError;

/// What is wrong with a TLS connection, as far as the user can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFault {
    /// The server seems to speak plain HTTP.
    PlainHttp,
    /// Nobody who is trusted has signed its certificate.
    Untrusted,
    /// The server takes no connection without a client certificate of its choice.
    ClientCertificate,
    /// Anything else: it has expired, or is that of another host.
    Other,
}

/// A failed registry operation.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry knows no such name or digest.
    #[error("{reference}: not found")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// The registry's host.
        host: String,
    },
    /// The registry has a manifest and lacks what it names.
    #[error("{reference}: blob {digest} of the image: not found")]
    BlobNotFound {
        /// The image.
        reference: String,
        /// The config or layer.
        digest: OciDigest,
        /// The registry's host.
        host: String,
    },
    /// The registry refuses access.
    #[error("{}", refusal(reference, *is_push, detail))]
    Unauthorized {
        /// What was asked for.
        reference: String,
        /// The registry's host.
        host: String,
        /// Whether it was to be written to.
        is_push: bool,
        /// Whether credentials were sent.
        with_credentials: bool,
        /// Why there were none, where that is known.
        note: Option<String>,
        /// The registry's words.
        detail: String,
    },
    /// The settings forbid it.
    #[error("registry {reference} is blocked by the place {prefix:?} of the settings")]
    Blocked {
        /// What was asked for.
        reference: String,
        /// The place.
        prefix: String,
    },
    /// No connection.
    #[error("cannot reach {host}: {detail}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The cause.
        detail: String,
    },
    /// Who answers is no registry.
    #[error("{reference}: {host} answers with a web page instead of a manifest")]
    WebPage {
        /// What was asked for.
        reference: String,
        /// Host and port.
        host: String,
    },
    /// The server's certificate is not trusted, or it speaks no TLS.
    #[error("cannot reach {host}: tls: {detail}")]
    Tls {
        /// Host and port.
        host: String,
        /// The cause.
        detail: String,
        /// Its kind, as far as something can be done about it.
        fault: TlsFault,
    },
    /// An answer that is not understood.
    #[error("unexpected status from {method} request to {url}: {status}{}", colon(detail))]
    Status {
        /// HTTP method.
        method: String,
        /// Without its query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's words.
        detail: String,
    },
    /// The registry asks for a longer pause than we are ready to make.
    #[error("{host} asks to wait {} s before the next request (status {status})", wait.as_secs())]
    RateLimited {
        /// The registry's host.
        host: String,
        /// HTTP status.
        status: u16,
        /// `Retry-After`.
        wait: Duration,
    },
    /// The connection broke or stood still, more often than we try.
    #[error("{url}: {detail}{}", tried(*attempts))]
    Interrupted {
        /// Without its query.
        url: String,
        /// The last cause.
        detail: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// What arrived is not what was asked for.
    #[error("{url}: content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// Without its query.
        url: String,
        /// The digest in the manifest.
        expected: OciDigest,
        /// The digest of the bytes.
        actual: OciDigest,
    },
    /// What arrived is longer or shorter than was announced.
    #[error("{url}: expected {expected_bytes} bytes, got {actual_bytes}")]
    SizeMismatch {
        /// Without its query.
        url: String,
        /// The size in the manifest.
        expected_bytes: u64,
        /// Bytes that came.
        actual_bytes: u64,
    },
    /// A manifest, a config or a list that is larger than any that is read.
    #[error("{url}: the answer is larger than {} MiB", limit_bytes >> 20)]
    TooLarge {
        /// Without its query.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// A redirect that is not followed.
    #[error("{url}: refused redirect to {location:?}: {reason}")]
    Redirect {
        /// Without its query.
        url: String,
        /// Where it points, without its query.
        location: String,
        /// Why not.
        reason: &'static str,
    },
    /// The index has no image for the platform.
    #[error("{reference}: no match for platform in manifest: not found")]
    NoPlatform {
        /// What was asked for.
        reference: String,
        /// The platform.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// The manifest cannot be used.
    #[error("{reference}: {source}")]
    Manifest {
        /// What was asked for.
        reference: String,
        /// Why.
        source: ManifestError,
    },
    /// A credential file that cannot be read.
    #[error("cannot read {}: {detail}", path.display())]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        detail: String,
    },
    /// A credential helper that fails.
    #[error("error {deed} credentials - docker-credential-{helper}: {detail}")]
    Helper {
        /// `getting`, `saving`, `erasing`
        deed: &'static str,
        /// Its suffix.
        helper: String,
        /// Its words.
        detail: String,
    },
    /// A file for credentials that cannot be written.
    #[error("error saving credentials: cannot write {}: {source}", path.display())]
    AuthWrite {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A login that was refused.
    #[error("{detail}")]
    Login {
        /// The registry's host.
        host: String,
        /// The registry's words.
        detail: String,
    },
    /// A certificate file that cannot be used.
    #[error("cannot use certificate {}: {detail}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        detail: String,
    },
    /// A proxy setting that cannot be used.
    #[error("invalid proxy {proxy:?}: http://, https:// and socks5:// can be used")]
    Proxy {
        /// The setting, without its password.
        proxy: String,
    },
    /// Our side cannot take the bytes.
    #[error("cannot store {what}: {source}")]
    Sink {
        /// The digest.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The caller gave up.
    #[error("context canceled")]
    Cancelled,
}

impl RegistryError {
    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { host, .. } => format!("check the name and the tag; {host} was asked"),
            Self::BlobNotFound { host, .. } => format!("{host} has the manifest without it: the image has to be pushed once more"),
            Self::Unauthorized { note: Some(note), .. } => note.clone(),
            Self::Unauthorized { host, with_credentials: false, is_push: true, .. } => {
                format!("log in with `shale login {host}`: no credentials were found for it")
            }
            Self::Unauthorized { host, with_credentials: true, is_push: true, .. } => {
                format!("{host} does not accept the credentials that were found, or they do not allow to push to this repository")
            }
            Self::Unauthorized { host, with_credentials: false, .. } => {
                format!("check the name, or log in: no credentials were found for {host}")
            }
            Self::Unauthorized { host, with_credentials: true, .. } => {
                format!("check the name; {host} does not accept the credentials that were found, or they give no access")
            }
            Self::Unreachable { .. } => "check the network, the proxy variables and the registry's name".into(),
            Self::WebPage { host, .. } => format!("is {host} a registry? A login page, a proxy or a firewall may answer in its place"),
            Self::Tls { host, fault: TlsFault::PlainHttp, .. } => {
                format!("the registry seems to speak plain HTTP; allow it with --insecure-registry={host}")
            }
            Self::Tls { host, fault: TlsFault::Untrusted, .. } => {
                format!("if the certificate is signed by your own CA, give it with --ca-cert or as /etc/docker/certs.d/{host}/ca.crt")
            }
            Self::Tls { host, fault: TlsFault::ClientCertificate, .. } => {
                format!("put it as client.cert, with its key as client.key, into /etc/docker/certs.d/{host}")
            }
            Self::Status { status: 429, .. } | Self::RateLimited { .. } => "log in for a higher limit, or use a mirror".into(),
            Self::NoPlatform { wanted, offered, .. } => format!("wanted {wanted}; the image has {}", offered.join(", ")),
            _ => return None,
        })
    }

    /// Whether the name or digest does not exist, as opposed to not being reachable.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Unauthorized { .. })
    }
}

/// Docker's sentence for a pull; for a push the registry's own words, which scripts look for.
fn refusal(reference: &str, is_push: bool, detail: &str) -> String {
    if is_push {
        return detail.into();
    }
    format!("{reference}: pull access denied, repository does not exist or may require authorization: {detail}")
}

fn tried(attempts: u32) -> String {
    if attempts > 1 { format!(" (tried {attempts} times)") } else { String::new() }
}

fn colon(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}
