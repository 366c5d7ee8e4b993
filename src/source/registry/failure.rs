//! What a failure of the transport means: which part of the way failed, and whether another try is worth it.

use std::io;

use rustls::{AlertDescription, CertificateError};

use super::error::{RegistryError, TlsFault};
use super::retry::Fault;

const TIMEOUT: &str = "timeout";

pub(super) fn unreachable(host: &str, detail: impl ToString) -> RegistryError {
    RegistryError::Unreachable { host: host.into(), detail: detail.to_string() }
}

/// Which failures of the transport are worth another try.
pub(super) fn sort(error: ureq::Error, host: &str, proxy: Option<&ureq::Proxy>, url: &str) -> Fault {
    let way = proxy.map_or_else(|| host.to_owned(), |proxy| format!("{host} by the proxy {}:{}", proxy.host(), proxy.port()));
    let is_socks = proxy.is_some_and(|proxy| proxy.protocol() == ureq::ProxyProtocol::Socks5h);
    let connecting = |detail: String| Fault::Retry { error: unreachable(&way, detail), after: None, connecting: true };
    let interrupted = |detail: String| Fault::Retry {
        error: RegistryError::Interrupted { url: url.into(), detail, attempts: 1 },
        after: None,
        connecting: false,
    };
    match error {
        ureq::Error::HostNotFound => connecting("no such host".into()),
        ureq::Error::ConnectionFailed => connecting("connection failed".into()),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => connecting(TIMEOUT.into()),
        ureq::Error::Timeout(_) => interrupted(TIMEOUT.into()),
        ureq::Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => tls_failure(host, tls).into(),
            None if matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::TimedOut
            ) =>
            {
                connecting(e.to_string())
            }
            // What a SOCKS proxy says of the way behind it.
            None if is_socks && e.kind() == io::ErrorKind::Other => connecting(e.to_string()),
            // getaddrinfo's failures have no kind of their own.
            None if e.to_string().contains("failed to lookup address") => connecting(e.to_string()),
            None => interrupted(e.to_string()),
        },
        ureq::Error::Protocol(e) => interrupted(e.to_string()),
        other => unreachable(&way, other).into(),
    }
}

/// Whether the other side hung up, as servers of TLS do that were greeted without.
pub(super) fn is_hang_up(fault: &Fault) -> bool {
    matches!(fault, Fault::Retry { error: RegistryError::Interrupted { detail, .. }, .. } if detail != TIMEOUT)
}

/// Whether there was an answer by TLS, if only a certificate that is not trusted.
pub(super) fn is_of_tls(fault: &Fault) -> bool {
    let (Fault::Retry { error, .. } | Fault::Fatal(error)) = fault;
    fault.is_answer() || matches!(error, RegistryError::Tls { fault, .. } if *fault != TlsFault::PlainHttp)
}

/// Nobody who is trusted has signed the certificate; with one that is a CA's own, webpki does not come to look who that was.
fn is_untrusted(cause: &CertificateError) -> bool {
    match cause {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(other) => other.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

pub(super) fn tls_failure(host: &str, error: &rustls::Error) -> RegistryError {
    let (fault, detail) = match error {
        rustls::Error::InvalidMessage(_) => (TlsFault::PlainHttp, "the server's answer is not TLS".to_owned()),
        // The words of Go's programs, which scripts look for.
        rustls::Error::InvalidCertificate(cause) if is_untrusted(cause) => {
            (TlsFault::Untrusted, "certificate signed by unknown authority".to_owned())
        }
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => (TlsFault::ClientCertificate, "the server wants a client certificate that it knows".to_owned()),
        other => (TlsFault::Other, other.to_string()),
    };
    RegistryError::Tls { host: host.into(), detail, fault }
}
