//! Which certificates a host is trusted by, and through which proxy it is reached.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::config::RegistryConfig;
use super::error::RegistryError;

/// The system's certificates, read once and only when the first TLS connection is made.
#[derive(Debug, Default)]
pub(super) struct SystemRoots(OnceLock<Vec<Certificate<'static>>>);

impl SystemRoots {
    fn get(&self, config: &RegistryConfig) -> &[Certificate<'static>] {
        self.0.get_or_init(|| {
            let (file, dir) = (config.system_ca_file.as_deref(), config.system_ca_dir.as_deref());
            let found = match (file, dir) {
                (None, None) => rustls_native_certs::load_native_certs(),
                _ => rustls_native_certs::load_certs_from_paths(file, dir),
            };
            // Single unreadable files among a hundred are normal in a system's folder; a missing issuer shows at the handshake.
            found.certs.iter().map(|c| Certificate::from_der(c).to_owned()).collect()
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

/// The TLS settings of a host.
pub(super) fn settings(config: &RegistryConfig, system: &SystemRoots, host: &str) -> Result<TlsConfig, RegistryError> {
    let insecure = config.insecure.iter().any(|h| h == host);
    let mut extra = Vec::new();
    for path in &config.ca_files {
        extra.extend(certificates(path)?);
    }
    let mut client = None;
    for dir in cert_dirs(config, host) {
        for path in files(&dir)? {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => extra.extend(certificates(&path)?),
                Some("cert") => client = Some(ClientCert::new_with_certs(&certificates(&path)?, private_key(&path.with_extension("key"))?)),
                _ => {}
            }
        }
    }
    let builder = TlsConfig::builder().client_cert(client);
    if insecure {
        return Ok(builder.disable_verification(true).build());
    }
    let mut roots = system.get(config).to_vec();
    roots.extend(extra);
    // A minimal container has no bundle at all; the compiled-in one is better than none.
    let roots = if roots.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&roots) };
    Ok(builder.root_certs(roots).build())
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

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let pem = read(path)?;
    let items: Result<Vec<_>, _> = parse_pem(&pem).collect();
    let items = items.map_err(|e| bad(path, &e))?;
    let certs: Vec<_> = items.into_iter().filter_map(|item| if let PemItem::Certificate(c) = item { Some(c) } else { None }).collect();
    if certs.is_empty() {
        return Err(bad(path, &"no certificate in it"));
    }
    Ok(certs)
}

fn private_key(path: &Path) -> Result<PrivateKey<'static>, RegistryError> {
    PrivateKey::from_pem(&read(path)?).map_err(|e| bad(path, &e))
}

/// The proxy of a host, after `no_proxy`. This machine is never reached through one.
pub(super) fn proxy(config: &RegistryConfig, https: bool, host: &str) -> Result<Option<ureq::Proxy>, RegistryError> {
    let setting = if https { &config.https_proxy } else { &config.http_proxy };
    let Some(text) = setting.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    if is_loopback(host) || bypasses(config.no_proxy.as_deref().unwrap_or_default(), host) {
        return Ok(None);
    }
    let shown = || text.rsplit('@').next().unwrap_or(text).to_owned();
    ureq::Proxy::new(text).map(Some).map_err(|_| RegistryError::Proxy { proxy: shown() })
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
