//! One HTTP request: connections, redirects and the sorting of failures.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{self, HeaderMap, Method, Uri};
use ureq::{Agent, Body, SendBody};

use super::config::RegistryConfig;
use super::connect;
use super::error::RegistryError;
use super::failure::{self, unreachable};
use super::forward;
use super::retry::{Fault, retry_after};
use super::tls::{self, SystemRoots};
use crate::oci::json;

const REDIRECT_LIMIT: usize = 8;
const ERROR_BODY_LIMIT_BYTES: u64 = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A registry hashes and moves a blob before it answers: so many times as long as a read may stand still.
const ANSWER_TO_UPLOAD_FACTOR: u32 = 10;
const FORM: &str = "application/x-www-form-urlencoded";
const USER_AGENT: &str = concat!("shale/", env!("CARGO_PKG_VERSION"));

/// A request to send.
#[derive(Clone, Debug)]
pub(in crate::source) struct Request {
    pub(super) method: Method,
    pub(super) url: String,
    /// `Authorization`; sent to the host of `url` and to no other.
    pub(in crate::source) authorization: Option<String>,
    pub(super) accept: Vec<&'static str>,
    /// Offset of the first byte that is wanted.
    pub(super) from_byte: u64,
    /// Headers that make the answer depend on what is known already.
    pub(in crate::source) conditions: Vec<(&'static str, String)>,
    /// A form to post.
    pub(super) form: Option<String>,
    /// The registry whose token server is asked: how the user trusts it (CA, client certificate, `insecure`) goes for that server, too.
    pub(super) registry: Option<String>,
}

impl Request {
    pub(in crate::source) fn get(url: String) -> Self {
        let (accept, conditions) = (Vec::new(), Vec::new());
        Self { method: Method::GET, url, authorization: None, accept, from_byte: 0, conditions, form: None, registry: None }
    }

    /// The host without its port; of an IPv6 address without brackets.
    pub(in crate::source) fn host_name(&self) -> Option<String> {
        let uri: Uri = self.url.parse().ok()?;
        Some(uri.host()?.trim_matches(['[', ']']).to_owned())
    }
}

/// The body of a request. It can be sent several times: after a redirect, after a challenge.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// None.
    Nothing,
    /// Bytes with their media type; none at all for an empty upload.
    Bytes(&'a [u8], &'a str),
    /// A part of a file.
    Piece(Piece<'a>),
}

/// A part of a file on its way to a registry.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The file.
    pub(super) file: &'a File,
    /// Where the part begins.
    pub(super) offset: u64,
    /// How long it is.
    pub(super) len_bytes: u64,
    /// Told the offset that has been sent.
    pub(super) on_sent: &'a dyn Fn(u64),
    /// Whether to break off.
    pub(super) is_cancelled: &'a dyn Fn() -> bool,
}

/// Reads a piece without moving the file's own position.
struct PieceReader<'a> {
    piece: Piece<'a>,
    at: u64,
}

impl Read for PieceReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.piece.is_cancelled)() {
            return Err(io::Error::other("canceled"));
        }
        let left = self.piece.offset + self.piece.len_bytes - self.at;
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let len = self.piece.file.read_at(&mut buffer[..want], self.at)?;
        if len == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += len as u64;
        (self.piece.on_sent)(self.at);
        Ok(len)
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(in crate::source) struct Response {
    pub(in crate::source) status: u16,
    pub(super) headers: HeaderMap,
    /// The URL asked first, or that of another host which a redirect led to, without its query: queries of storage hosts are secrets.
    pub(super) url: String,
    /// Whether a redirect led to another host: it is told nothing that is the first one's, whatever it asks for.
    pub(super) is_foreign: bool,
    method: Method,
    body: Body,
}

/// Connections to all hosts.
#[derive(Debug, Default)]
pub(in crate::source) struct Transport {
    config: RegistryConfig,
    system_roots: SystemRoots,
    agents: Mutex<HashMap<(bool, String, String), Agent>>,
    bases: Mutex<HashMap<String, String>>,
}

impl Transport {
    pub(in crate::source) fn new(config: RegistryConfig) -> Self {
        Self { config, ..Self::default() }
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// `https://HOST` or `http://HOST`: plain HTTP is spoken with this machine only, and with hosts that the user calls insecure.
    pub(super) fn base(&self, host: &str) -> String {
        if let Some(base) = lock(&self.bases).get(host) {
            return base.clone();
        }
        let has_certs = !tls::cert_dirs(&self.config, host).is_empty();
        let plain = if self.config.plain_http.iter().any(|h| h == host) {
            true
        } else if self.config.is_insecure(host) {
            // Docker's order: TLS without a check of the certificate, then none.
            !self.speaks_tls(host)
        } else {
            // One that speaks TLS all the same is found out when it refuses ([`Self::send_home`]).
            tls::is_loopback(host) && !has_certs && !self.config.host_ca_files.contains_key(host)
        };
        let base = format!("{}://{host}", if plain { "http" } else { "https" });
        lock(&self.bases).insert(host.into(), base.clone());
        base
    }

    /// Sends a request to a registry's own address. One on this machine was taken for one of plain HTTP; if it speaks TLS, it is spoken to
    /// by TLS from now on.
    pub(super) fn send_home(&self, host: &str, request: &mut Request, payload: Payload<'_>) -> Result<Response, Fault> {
        let sent = self.send_with(request, payload);
        let is_doubtful = match &sent {
            Ok(response) => response.status == 400,
            Err(fault) => failure::is_hang_up(fault),
        };
        if !is_doubtful || !request.url.starts_with("http:") || !self.turns_to_tls(host) {
            return sent;
        }
        request.url = request.url.replacen("http://", "https://", 1);
        self.send_with(request, payload)
    }

    /// Whether a host is wrongly taken for one of plain HTTP. Servers say so in the body of a 400 (Go's, nginx), or they hang up.
    fn turns_to_tls(&self, host: &str) -> bool {
        if !tls::is_loopback(host) || self.config.plain_http.iter().any(|h| h == host) {
            return false;
        }
        // Another thread may have found it out.
        if self.base(host).starts_with("https:") {
            return true;
        }
        let is_tls = match self.send(&Request::get(format!("http://{host}/v2/"))) {
            Ok(response) => response.status == 400 && response.detail().contains("HTTPS"),
            Err(fault) => failure::is_hang_up(&fault) && self.speaks_tls(host),
        };
        if is_tls {
            lock(&self.bases).insert(host.into(), format!("https://{host}"));
        }
        is_tls
    }

    /// Whether a host answers by TLS, be it with a certificate that nobody trusts.
    fn speaks_tls(&self, host: &str) -> bool {
        let probe = Request { method: Method::HEAD, ..Request::get(format!("https://{host}/v2/")) };
        self.send(&probe).map_or_else(|fault| failure::is_of_tls(&fault), |_| true)
    }

    fn agent(&self, https: bool, host: &str, registry: &str) -> Result<Agent, RegistryError> {
        let key = (https, host.to_owned(), registry.to_owned());
        if let Some(agent) = lock(&self.agents).get(&key) {
            return Ok(agent.clone());
        }
        let stall = self.config.retry.stall;
        let proxy = tls::proxy(&self.config, https, host)?;
        let forwards = !https && proxy.as_ref().is_some_and(forward::forwards);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("")
            .accept_encoding("identity")
            .proxy(proxy)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(stall)))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall));
        let agent = if https {
            connect::agent(config.build(), tls::settings(&self.config, &self.system_roots, host, registry)?)
        } else if forwards {
            forward::agent(config.max_idle_connections(0).build())
        } else {
            connect::plain_agent(config.build())
        };
        lock(&self.agents).insert(key, agent.clone());
        Ok(agent)
    }

    /// Sends a request and follows redirects. A status is no failure here, except one that asks to come back.
    pub(in crate::source) fn send(&self, request: &Request) -> Result<Response, Fault> {
        let payload = request.form.as_ref().map_or(Payload::Nothing, |form| Payload::Bytes(form.as_bytes(), FORM));
        self.send_with(request, payload)
    }

    /// The same with a body, which is sent again where a redirect says so.
    pub(super) fn send_with(&self, request: &Request, payload: Payload<'_>) -> Result<Response, Fault> {
        let is_upload = !matches!(payload, Payload::Nothing);
        let first = parse(&request.url)?;
        let shown = without_query(&request.url).to_owned();
        let registry = request.registry.clone().unwrap_or_else(|| authority(&first).to_owned());
        let mut url = first.clone();
        for _ in 0..=REDIRECT_LIMIT {
            let same_host = origin(&url) == origin(&first);
            let response = self.send_once(request, payload, &url, (same_host, &registry))?;
            let status = response.status().as_u16();
            let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
            match (status, location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) if request.form.is_none() && (!is_upload || matches!(status, 307 | 308)) => {
                    let next = join(&url, location);
                    let refuse = |reason| RegistryError::Redirect { url: shown.clone(), location: without_query(&next).into(), reason };
                    let next_uri =
                        next.parse::<Uri>().ok().filter(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
                    let next_uri = next_uri.ok_or_else(|| refuse("not an HTTP address"))?;
                    self.check_downgrade(&url, &next_uri, &registry).map_err(refuse)?;
                    url = next_uri;
                }
                _ => {
                    let (parts, body) = response.into_parts();
                    let (headers, method) = (parts.headers, request.method.clone());
                    let shown = if same_host { shown } else { without_query(&url.to_string()).to_owned() };
                    let response = Response { status, headers, url: shown, is_foreign: !same_host, method, body };
                    return if is_transient(status) { Err(response.into_fault()) } else { Ok(response) };
                }
            }
        }
        Err(RegistryError::Redirect { url: shown, location: without_query(&url.to_string()).into(), reason: "too many redirects" }.into())
    }

    fn check_downgrade(&self, from: &Uri, to: &Uri, registry: &str) -> Result<(), &'static str> {
        let downgrade = from.scheme_str() == Some("https") && to.scheme_str() == Some("http");
        if downgrade && !self.config.is_insecure(authority(to)) && !self.config.is_insecure(registry) {
            Err("from HTTPS to plain HTTP")
        } else {
            Ok(())
        }
    }

    fn send_once(
        &self,
        request: &Request,
        payload: Payload<'_>,
        url: &Uri,
        (same_host, registry): (bool, &str),
    ) -> Result<http::Response<Body>, Fault> {
        let host = authority(url);
        let agent = self.agent(url.scheme_str() == Some("https"), host, registry)?;
        let mut builder = http::Request::builder().method(request.method.clone()).uri(url.clone());
        for accept in &request.accept {
            builder = builder.header(http::header::ACCEPT, *accept);
        }
        if let Some(authorization) = request.authorization.as_ref().filter(|_| same_host) {
            builder = builder.header(http::header::AUTHORIZATION, authorization);
        }
        if request.from_byte > 0 {
            builder = builder.header(http::header::RANGE, format!("bytes={}-", request.from_byte));
        }
        for (name, value) in &request.conditions {
            builder = builder.header(*name, value);
        }
        let invalid = |_| Fault::Fatal(unreachable(host, "not a usable address"));
        let patience = self.config.retry.stall * ANSWER_TO_UPLOAD_FACTOR;
        let sent = match payload {
            Payload::Nothing => agent.run(builder.body(()).map_err(invalid)?),
            Payload::Bytes(bytes, media_type) => {
                let typed = if media_type.is_empty() { builder } else { builder.header(http::header::CONTENT_TYPE, media_type) };
                agent.run(typed.body(bytes).map_err(invalid)?)
            }
            Payload::Piece(piece) => {
                let mut reader = PieceReader { piece, at: piece.offset };
                let builder = builder.header(http::header::CONTENT_TYPE, "application/octet-stream");
                let builder = builder.header(http::header::CONTENT_LENGTH, piece.len_bytes);
                let request = builder.body(SendBody::from_reader(&mut reader)).map_err(invalid)?;
                agent.run(agent.configure_request(request).timeout_recv_response(Some(patience)).build())
            }
        };
        sent.map_err(|error| failure::sort(error, host, agent.config().proxy(), without_query(&url.to_string())))
    }
}

impl Response {
    /// A header as text.
    pub(in crate::source) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The body as a stream.
    pub(in crate::source) fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }

    /// The whole body, up to a limit.
    pub(super) fn read(self, limit_bytes: u64) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let url = self.url;
        if let Err(e) = self.body.into_reader().take(limit_bytes + 1).read_to_end(&mut bytes) {
            return Err(broken(&url, &e));
        }
        if bytes.len() as u64 > limit_bytes {
            return Err(RegistryError::TooLarge { url, limit_bytes }.into());
        }
        Ok(bytes)
    }

    /// The registry's words about its refusal: the messages of its JSON, or a short text. Control characters are taken out.
    pub(super) fn detail(self) -> String {
        self.words(|code, message| if message.is_empty() { code.to_owned() } else { message.to_owned() })
    }

    /// The same as Docker prints it: `denied: requested access to the resource is denied`.
    pub(super) fn coded_detail(self) -> String {
        self.words(|code, message| {
            let code = code.to_lowercase().replace('_', " ");
            match (code.as_str(), message) {
                ("", message) => message.to_owned(),
                (_, "") => code,
                (_, message) => format!("{code}: {message}"),
            }
        })
    }

    fn words(self, word: impl Fn(&str, &str) -> String) -> String {
        #[derive(Deserialize)]
        struct Errors {
            #[serde(default)]
            errors: Vec<Item>,
            #[serde(default)]
            details: String,
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let mut body = Vec::new();
        // Half an explanation is better than none.
        drop(self.body.into_reader().take(ERROR_BODY_LIMIT_BYTES).read_to_end(&mut body));
        let text = match json::read::<Errors>(&body) {
            Ok(parsed) if !parsed.errors.is_empty() => {
                parsed.errors.iter().map(|e| word(&e.code, &e.message)).collect::<Vec<_>>().join("; ")
            }
            Ok(parsed) => parsed.details,
            Err(_) if body.trim_ascii_start().starts_with(b"<") => String::new(),
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect::<String>().trim().to_owned()
    }

    /// The error for a status that nobody expected.
    pub(in crate::source) fn into_error(self) -> RegistryError {
        let (method, url, status) = (self.method.to_string(), self.url.clone(), self.status);
        RegistryError::Status { method, url, status, detail: self.detail() }
    }

    fn into_fault(self) -> Fault {
        let after = self.header("retry-after").and_then(retry_after);
        Fault::Retry { error: self.into_error(), after, connecting: false }
    }
}

/// A body that broke off.
pub(in crate::source) fn broken(url: &str, error: &io::Error) -> Fault {
    let error = RegistryError::Interrupted { url: url.into(), detail: error.to_string(), attempts: 1 };
    Fault::Retry { error, after: None, connecting: false }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps are only ever inserted into: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=530)
}

/// A date as servers write it.
pub(in crate::source) fn http_date(text: &str) -> Option<time::OffsetDateTime> {
    let format = time::macros::format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    Some(time::PrimitiveDateTime::parse(text.trim(), format).ok()?.assume_utc())
}

fn parse(url: &str) -> Result<Uri, RegistryError> {
    url.parse().map_err(|_| unreachable(without_query(url), "not a usable address"))
}

/// Host and port, without a user.
pub(super) fn authority(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default())
}

fn origin(url: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    let port = url.port_u16().or(match url.scheme_str() {
        Some("https") => Some(443),
        _ => Some(80),
    });
    (url.scheme_str(), url.host(), port)
}

/// Whether two URLs are of the same scheme, host and port: only then do credentials of one belong to the other.
pub(super) fn is_same_origin(a: &str, b: &str) -> bool {
    match (a.parse::<Uri>(), b.parse::<Uri>()) {
        (Ok(a), Ok(b)) => origin(&a) == origin(&b),
        _ => false,
    }
}

/// The same path at another host.
pub(super) fn moved_to(base: &str, url: &str) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    format!("{base}/{path}")
}

/// Where a `Location` header points, seen from the URL that was asked.
///
/// A proxy that ends TLS for a registry often leaves `http://` in it: for the same host the scheme stays.
pub(super) fn follow(asked: &str, location: &str) -> Option<String> {
    let base: Uri = asked.parse().ok()?;
    let next = join(&base, location);
    let uri: Uri = next.parse().ok()?;
    let same_host = uri.authority().is_some() && uri.authority() == base.authority();
    match (same_host, next.strip_prefix("http://")) {
        (true, Some(rest)) if base.scheme_str() == Some("https") => Some(format!("https://{rest}")),
        _ => Some(next),
    }
}

pub(in crate::source) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// A redirect's target, which may be relative.
fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", http::uri::Authority::as_str);
    let location = location.split('#').next().unwrap_or(location);
    if location.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some()) {
        location.into()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let base: Uri = "https://r.io:5/v2/a/blobs/x?q=1".parse().expect("a URI");
        for (location, expected) in [
            ("https://s3.io/b?sig=1", "https://s3.io/b?sig=1"),
            ("//s3.io/b", "https://s3.io/b"),
            ("/b?u=http://x", "https://r.io:5/b?u=http://x"),
            ("y", "https://r.io:5/v2/a/blobs/y"),
            ("y?u=http://x", "https://r.io:5/v2/a/blobs/y?u=http://x"),
            ("?u=1", "https://r.io:5/v2/a/blobs/x?u=1"),
            ("/b#f", "https://r.io:5/b"),
        ] {
            assert_eq!(join(&base, location), expected, "{location}");
        }
    }

    #[test]
    fn uploads_are_found_where_the_registry_says() {
        for (location, expected) in [
            ("/v2/a/blobs/uploads/1?_state=x", "https://r.io/v2/a/blobs/uploads/1?_state=x"),
            ("https://r.io/u/1", "https://r.io/u/1"),
            ("http://r.io/u/1?s=http://r.io", "https://r.io/u/1?s=http://r.io"),
            ("http://other.io/u/1", "http://other.io/u/1"),
            ("2?x=y", "https://r.io/v2/a/blobs/uploads/2?x=y"),
        ] {
            assert_eq!(follow("https://r.io/v2/a/blobs/uploads/", location).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(follow("http://r.io/v2/", "http://r.io/u").as_deref(), Some("http://r.io/u"));
        assert!(is_same_origin("https://r.io/v2/", "https://r.io:443/u") && !is_same_origin("https://r.io/", "http://r.io/"));
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let uri = |text: &str| text.parse::<Uri>().expect("a URI");
        assert_eq!(origin(&uri("https://a.io/x")), origin(&uri("https://a.io:443/y")));
        for other in ["http://a.io/", "https://b.io/", "https://a.io:444/"] {
            assert_ne!(origin(&uri("https://a.io/x")), origin(&uri(other)), "{other}");
        }
    }

    #[test]
    fn a_registry_that_names_itself_without_tls_is_asked_with_it() {
        for url in ["http://r.io:80/v2/u?s=1", "http://r.io/v2/u?s=1"] {
            assert!(is_same_origin("http://r.io", url));
            assert_eq!(moved_to("https://r.io", url), "https://r.io/v2/u?s=1");
        }
    }

    #[test]
    fn what_a_server_says_is_an_answer() {
        let status = |status| RegistryError::Status { method: "HEAD".into(), url: String::new(), status, detail: String::new() };
        assert!(Fault::Retry { error: status(503), after: None, connecting: false }.is_answer());
        assert!(!Fault::from(unreachable("h", "refused")).is_answer());
        assert!(!Fault::from(failure::tls_failure("h", &rustls::Error::DecryptError)).is_answer());
    }
}
