//! Which certificates a host is trusted by, and through which proxy it is reached.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use ureq::ProxyProtocol;

use super::config::RegistryConfig;
use super::connect::Verifier;
use super::error::{RegistryError, TlsFault};

/// The system's certificates, read once and only when the first TLS connection is made.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(OnceLock<Vec<CertificateDer<'static>>>);

impl SystemRoots {
    fn get(&self, config: &RegistryConfig) -> &[CertificateDer<'static>] {
        self.0.get_or_init(|| {
            let (file, dir) = (config.system_ca_file.as_deref(), config.system_ca_dir.as_deref());
            let found = match (file, dir) {
                (None, None) => rustls_native_certs::load_native_certs(),
                _ => rustls_native_certs::load_certs_from_paths(file, dir),
            };
            // Single unreadable files among a hundred are normal in a system's folder; a missing issuer shows at the handshake.
            found.certs
        })
    }
}

/// Whether the host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host without port and brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

/// The folders of a host under the `certs.d` folders that exist.
pub(super) fn cert_dirs(config: &RegistryConfig, host: &str) -> Vec<PathBuf> {
    config.cert_dirs.iter().map(|dir| dir.join(host)).filter(|dir| dir.is_dir()).collect()
}

/// The TLS settings of a host to which a registry leads, or of the registry itself. What the user said of the registry goes for its token
/// server and its storage, as with Docker: they have certificates of the same house.
pub(super) fn settings(
    config: &RegistryConfig,
    system: &SystemRoots,
    host: &str,
    registry: &str,
) -> Result<Arc<ClientConfig>, RegistryError> {
    let hosts = if host == registry { vec![host] } else { vec![registry, host] };
    let insecure = hosts.iter().any(|host| config.is_insecure(host));
    let mut trusted = Vec::new();
    for path in config.ca_files.iter().chain(hosts.iter().filter_map(|host| config.host_ca_files.get(*host)).flatten()) {
        trusted.extend(certificates(path)?);
    }
    let mut client = None;
    for dir in hosts.iter().flat_map(|host| cert_dirs(config, host)) {
        for path in files(&dir)? {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => trusted.extend(certificates(&path)?),
                Some("cert") => client = Some(path),
                _ => {}
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    if !insecure {
        trusted.extend(system.get(config).iter().cloned());
        roots.add_parsable_certificates(trusted.iter().cloned());
        if roots.is_empty() {
            // A minimal container has no bundle at all; the compiled-in one is better than none.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let inner = if insecure { None } else { Some(inner.build().map_err(|e| unusable(host, e))?) };
    let verifier = Verifier::new(Arc::clone(&provider), inner, trusted);
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| unusable(host, e))?.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let settings = match client {
        None => builder.with_no_client_auth(),
        Some(cert) => {
            let key = private_key(&cert.with_extension("key"))?;
            builder.with_client_auth_cert(certificates(&cert)?, key).map_err(|e| bad(&cert, &e))?
        }
    };
    Ok(Arc::new(settings))
}

fn unusable(host: &str, error: impl ToString) -> RegistryError {
    RegistryError::Tls { host: host.into(), detail: error.to_string(), fault: TlsFault::Other }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|e| bad(path, &e))
}

fn bad(path: &Path, detail: &impl ToString) -> RegistryError {
    RegistryError::Certificate { path: path.into(), detail: detail.to_string() }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries: io::Result<Vec<_>> = fs::read_dir(dir).and_then(Iterator::collect);
    let mut paths: Vec<_> = entries.map_err(|e| bad(dir, &e))?.into_iter().map(|e| e.path()).collect();
    paths.sort();
    Ok(paths)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let pem = read(path)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certs = certs.map_err(|e| bad(path, &e))?;
    if certs.is_empty() {
        return Err(bad(path, &"no certificate in it"));
    }
    Ok(certs)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, RegistryError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| bad(path, &e))
}

/// The proxy of a host, after `no_proxy`. This machine is never reached through one.
pub(super) fn proxy(config: &RegistryConfig, https: bool, host: &str) -> Result<Option<ureq::Proxy>, RegistryError> {
    let setting = if https { &config.https_proxy } else { &config.http_proxy };
    let Some(text) = setting.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    if is_loopback(host) || bypasses(config.no_proxy.as_deref().unwrap_or_default(), host) {
        return Ok(None);
    }
    let shown = || text.rsplit('@').next().unwrap_or(text).to_owned();
    // Go's programs leave it to the proxy to find the host, whichever of the two is written; curl only with the second.
    let by_name = text.strip_prefix("socks5://").map_or_else(|| text.to_owned(), |rest| format!("socks5h://{rest}"));
    let is_known = |proxy: &ureq::Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https | ProxyProtocol::Socks5h);
    ureq::Proxy::new(&by_name).ok().filter(is_known).map(Some).ok_or_else(|| RegistryError::Proxy { proxy: shown() })
}

/// Whether `no_proxy` names the host: itself, a parent domain, an address, a network, or `*`.
fn bypasses(no_proxy: &str, host: &str) -> bool {
    let name = host_name(host).to_ascii_lowercase();
    no_proxy.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" || entry == host {
            return true;
        }
        if let (Some((network, bits)), Ok(ip)) = (entry.split_once('/'), name.parse::<IpAddr>()) {
            return in_network(network, bits, ip);
        }
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        name == domain || name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

fn in_network(network: &str, bits: &str, ip: IpAddr) -> bool {
    let to_number = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    let ((a, width), (b, other_width)) = (to_number(network), to_number(ip));
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(width)) };
    width == other_width && a & mask == b & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_another_kind_is_refused_by_name() {
        let with = |text: &str| proxy(&RegistryConfig { https_proxy: Some(text.into()), ..RegistryConfig::default() }, true, "r.io");
        assert!(["http://p:1", "socks5://p:1", "socks5h://p:1"].iter().all(|text| with(text).is_ok_and(|proxy| proxy.is_some())));
        assert!(with("").is_ok_and(|proxy| proxy.is_none()));
        let error = with("socks4://user:secret@p:1").expect_err("it would be passed by").to_string();
        assert!(error.contains("p:1") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn loopback_hosts() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:80", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::2]:5000", false),
            ("localhost.evil.io", false),
            ("127.0.0.1.evil.io", false),
            ("gcr.io", false),
        ] {
            assert_eq!(is_loopback(host), expected, "{host}");
        }
    }

    #[test]
    fn no_proxy_as_go_reads_it() {
        for (list, host, expected) in [
            ("example.com", "example.com", true),
            ("example.com", "r.example.com:5000", true),
            (".example.com", "r.example.com", true),
            ("*.example.com", "r.example.com", true),
            ("example.com", "badexample.com", false),
            ("a, Example.com ", "example.com", true),
            ("10.0.0.0/8", "10.2.3.4:5000", true),
            ("10.0.0.0/8", "11.2.3.4", false),
            ("0.0.0.0/0", "11.2.3.4", true),
            ("fd00::/8", "[fd12::1]:5000", true),
            ("10.1.1.1", "10.1.1.1:5", true),
            ("*", "x.io", true),
            ("", "x.io", false),
            (",", "x.io", false),
        ] {
            assert_eq!(bypasses(list, host), expected, "{list} {host}");
        }
    }

    #[test]
    fn a_proxy_password_is_not_shown() {
        let config = RegistryConfig { https_proxy: Some("bad://u:secret@:x".into()), ..RegistryConfig::default() };
        let message = proxy(&config, true, "gcr.io").expect_err("no proxy").to_string();
        assert!(!message.contains("secret"), "{message}");
        assert!(proxy(&config, true, "localhost:5000").expect("not used").is_none());
    }
}
