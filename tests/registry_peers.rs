//! Pulling from a real registry that another tool has pushed to. Skipped, by name, where a tool is missing.

mod image_support;
#[path = "support/registry.rs"]
mod registry;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::{fs, thread};

use image_support::{Home, Reply, Server, export_image, join, layer, noise, tool};
use registry::Registry;
use shale::export::{Destination, Format, MediaTypes, export};
use shale::image::{ImageError, PullPolicy};
use shale::oci::platform::Platform;
use shale::source::registry::{RegistryConfig, RegistryError, TlsFault};

fn amd64() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

/// Debian's registry; `None` where it is not installed, which is said.
fn start(home: &Home, http: &str, auth: &str) -> Option<Registry> {
    Registry::start(home.path(), http, auth)
}

/// An archive with our image; its DiffIDs.
fn archive(home: &Home) -> (PathBuf, Vec<String>) {
    let image = export_image(&home.store, &["app:1"], &[&layer("a", b"first"), &layer("b", &noise(3_000_000))]);
    let diff_ids = image.layers.iter().map(|l| l.diff_id.to_string()).collect();
    let path = home.path().join("image.tar");
    export(&home.store, &[image], Format::Docker, MediaTypes::Oci, Destination::File(&path)).expect("an archive");
    (path, diff_ids)
}

/// Copies the archive into the registry as `app:1`; whether there is a tool for it.
fn push(archive: &Path, host: &str, extra: &[&str]) -> bool {
    let (source, target) = (format!("oci-archive:{}", archive.display()), format!("docker://{host}/app:1"));
    let args = [&["copy", "--insecure-policy", "-q", "--dest-tls-verify=false"], extra, &[&source, &target]].concat();
    tool("skopeo", &args).map(|done| done.expect("skopeo pushes")).is_some()
}

#[test]
fn images_of_both_kinds_are_pulled() {
    let home = Home::new();
    let Some(registry) = start(&home, "", "") else { return };
    let (archive, diff_ids) = archive(&home);
    for format in ["oci", "v2s2"] {
        if !push(&archive, &registry.host, &["--format", format]) {
            return;
        }
        let other = Home::new();
        let service = other.service();
        let name = format!("{}/app:1", registry.host);
        let image = service.pull(&name, &amd64(), &()).unwrap_or_else(|e| panic!("{format}: {e}"));
        assert_eq!(image.config.rootfs.diff_ids, diff_ids, "{format}");
        let kind = image.record.manifest.as_ref().expect("a manifest").media_type.clone();
        assert_eq!(kind.contains("docker"), format == "v2s2", "{kind}");
        // What was pulled can be saved, with the registry's manifest, and read by others.
        let saved = other.path().join("saved.tar");
        let mut pack = |_: &_| panic!("every layer is packed");
        let exported = service.save(&[&name], None, Format::Oci, Destination::File(&saved), &mut pack).expect("an archive");
        assert_eq!(exported[0].descriptor.digest, image.record.manifest.expect("a manifest").digest);
        tool("skopeo", &["inspect", &format!("oci-archive:{}", saved.display())]).expect("skopeo").expect("it reads it");
    }
    let error = home.service().resolve(&format!("{}/app:2", registry.host), &amd64(), PullPolicy::Missing, &()).expect_err("no tag");
    assert!(error.to_string().ends_with("app:2: not found"), "{error}");
}

#[test]
fn basic_auth() {
    let home = Home::new();
    let Some(registry) = Registry::with_user(home.path()) else { return };
    let (archive, _) = archive(&home);
    if !push(&archive, &registry.host, &["--dest-creds", "user:secret"]) {
        return;
    }
    let name = format!("{}/app:1", registry.host);
    // base64 of user:secret and user:wrong
    for (secret, fits) in [("dXNlcjpzZWNyZXQ=", true), ("dXNlcjp3cm9uZw==", false)] {
        let file = home.path().join("config.json");
        fs::write(&file, format!(r#"{{"auths":{{"http://{}/v2/":{{"auth":"{secret}"}}}}}}"#, registry.host)).expect("a file");
        let absent = home.path().join("absent.json");
        let config = RegistryConfig { auth_files: vec![absent, file], ..RegistryConfig::default() };
        let pulled = Home::new();
        let result = pulled.service_with(config).pull(&name, &amd64(), &());
        assert_eq!(result.is_ok(), fits, "{result:?}");
    }
}

/// A certificate that is its own issuer; once an ordinary one, once a CA at the same time, as Docker's instructions make it.
#[test]
fn tls_with_a_private_ca() {
    for is_ca in ["FALSE", "TRUE"] {
        tls_with(is_ca);
    }
}

/// A key and its certificate for 127.0.0.1; `None` where there is no tool for it.
fn certificate(home: &Home, is_ca: &str) -> Option<(String, String)> {
    let path = |name: &str| home.path().join(name).display().to_string();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let constraint = format!("basicConstraints=critical,CA:{is_ca}");
    let args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"];
    let subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", &constraint, "-keyout", &key, "-out", &cert];
    tool("openssl", &[&args[..], &subject].concat())?.expect("a certificate");
    Some((key, cert))
}

fn tls_with(is_ca: &str) {
    let home = Home::new();
    let Some((key, cert)) = certificate(&home, is_ca) else { return };
    let tls = format!("  tls:\n    certificate: {cert}\n    key: {key}\n");
    let Some(registry) = start(&home, &tls, "") else { return };
    let (archive, _) = archive(&home);
    if !push(&archive, &registry.host, &[]) {
        return;
    }
    let name = format!("{}/app:1", registry.host);
    let pull = |config: RegistryConfig| {
        let other = Home::new();
        other.service_with(config).pull(&name, &amd64(), &()).map(|image| image.record.id)
    };
    // A folder for the host says that this loopback registry speaks TLS; empty, it names no CA.
    let (certs, empty) = (home.path().join("certs.d"), home.path().join("empty.d"));
    fs::create_dir_all(certs.join(&registry.host)).expect("a directory");
    fs::create_dir_all(empty.join(&registry.host)).expect("a directory");
    fs::copy(&cert, certs.join(&registry.host).join("ca.crt")).expect("a copy");
    pull(RegistryConfig { cert_dirs: vec![certs], ..RegistryConfig::default() }).expect("the CA of the host");
    let with_ca = RegistryConfig { cert_dirs: vec![empty.clone()], ca_files: vec![cert.clone().into()], ..RegistryConfig::default() };
    pull(with_ca).expect("an extra CA");
    let system = RegistryConfig { cert_dirs: vec![empty.clone()], system_ca_file: Some(cert.clone().into()), ..RegistryConfig::default() };
    pull(system).expect("SSL_CERT_FILE");
    pull(RegistryConfig { insecure: vec![registry.host.clone()], ..RegistryConfig::default() }).expect("no check");

    // What is said of a registry goes for whom it leads to.
    let host = registry.host.clone();
    let leading = Server::start(move |seen, _| Reply::new(307).with("location", format!("https://{host}{}", seen.path)));
    let led = |config: RegistryConfig| {
        let name = format!("{}/app:1", leading.host);
        Home::new().service_with(config).pull(&name, &amd64(), &()).map(|image| image.record.id)
    };
    led(RegistryConfig { insecure: vec![leading.host.clone()], ..RegistryConfig::default() }).expect("no check there, either");
    assert!(led(RegistryConfig::default()).is_err(), "an unknown issuer");

    let error = pull(RegistryConfig { cert_dirs: vec![empty], ..RegistryConfig::default() }).expect_err("an unknown issuer");
    let ImageError::Registry(error @ RegistryError::Tls { fault: TlsFault::Untrusted, .. }) = error else { panic!("{error}") };
    assert!(error.hint().expect("a hint").contains(&format!("/etc/docker/certs.d/{}/ca.crt", registry.host)));
    assert!(error.to_string().ends_with(": tls: certificate signed by unknown authority"), "{error}");
    // Without such a folder a loopback registry is taken for one of plain HTTP until it says otherwise.
    let unknown = pull(RegistryConfig::default()).expect_err("an unknown issuer");
    assert!(matches!(unknown, ImageError::Registry(RegistryError::Tls { fault: TlsFault::Untrusted, .. })), "{unknown}");
    let with_ca = || RegistryConfig { ca_files: vec![cert.clone().into()], ..RegistryConfig::default() };
    pull(with_ca()).expect("found out");
    let front = format!("{}/app:1", hanging_up_on_plain_http(&registry.host));
    Home::new().service_with(with_ca()).pull(&front, &amd64(), &()).expect("found out by silence");
    // By several threads at once, too.
    for _ in 0..5 {
        let lazy = Home::new();
        let image = lazy.service_with(with_ca()).resolve(&name, &amd64(), PullPolicy::Missing, &()).expect("a manifest and a config");
        lazy.service_with(with_ca()).ensure_blobs(&image, &()).expect("its layers");
    }
}

/// A front of a registry that hangs up on whoever does not begin with TLS.
fn hanging_up_on_plain_http(registry: &str) -> String {
    const TLS_HANDSHAKE: u8 = 22;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (host, registry) = (listener.local_addr().expect("an address").to_string(), registry.to_owned());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut first = [0];
            if client.peek(&mut first).is_err() || first != [TLS_HANDSHAKE] {
                continue;
            }
            let behind = TcpStream::connect(&registry).expect("the registry");
            join(&client, &behind);
        }
    });
    host
}

/// A registry that wants to know who asks.
#[test]
fn a_client_certificate_is_shown() {
    let home = Home::new();
    let Some((key, cert)) = certificate(&home, "TRUE") else { return };
    let tls = format!("  tls:\n    certificate: {cert}\n    key: {key}\n    clientcas:\n      - {cert}\n");
    let Some(registry) = start(&home, &tls, "") else { return };
    let certs = home.path().join("certs.d");
    let dir = certs.join(&registry.host);
    fs::create_dir_all(&dir).expect("a directory");
    fs::copy(&cert, dir.join("ca.crt")).expect("a copy");
    let ask = || {
        let config = RegistryConfig { cert_dirs: vec![certs.clone()], ..RegistryConfig::default() };
        let asked = Home::new().service_with(config).pull(&format!("{}/app:1", registry.host), &amd64(), &());
        let ImageError::Registry(error) = asked.expect_err("nothing was pushed") else { panic!("not the registry's") };
        (error.to_string(), error.hint().unwrap_or_default())
    };
    let (message, hint) = ask();
    assert!(message.ends_with(": tls: the server wants a client certificate that it knows"), "{message}");
    assert!(hint.ends_with(&format!("certs.d/{}", registry.host)), "{hint}");
    for (file, name) in [(&cert, "client.cert"), (&key, "client.key")] {
        fs::copy(file, dir.join(name)).expect("a copy");
    }
    assert_eq!(ask().0, format!("{}/app:1: not found", registry.host));
}

#[test]
fn an_insecure_host_may_speak_plain_http() {
    let home = Home::new();
    let Some(registry) = start(&home, "", "") else { return };
    let (archive, _) = archive(&home);
    if !push(&archive, &registry.host, &[]) {
        return;
    }
    let name = format!("{}/app:1", registry.host);
    let insecure = RegistryConfig { insecure: vec![registry.host.clone()], ..RegistryConfig::default() };
    home.service_with(insecure).pull(&name, &amd64(), &()).expect("after TLS has failed");
    let certs = home.path().join("certs.d");
    fs::create_dir_all(certs.join(&registry.host)).expect("a directory");
    let config = RegistryConfig { cert_dirs: vec![certs], ..RegistryConfig::default() };
    let other = Home::new();
    let error = other.service_with(config).pull(&name, &amd64(), &()).expect_err("no TLS");
    let ImageError::Registry(error @ RegistryError::Tls { fault: TlsFault::PlainHttp, .. }) = error else { panic!("{error:?}") };
    assert!(error.hint().expect("a hint").contains("--insecure-registry"));
}
