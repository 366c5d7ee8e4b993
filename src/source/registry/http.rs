//! One HTTP request: connections, redirects and the sorting of failures.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{self, HeaderMap, Method, Uri};
use ureq::{Agent, Body};

use super::config::RegistryConfig;
use super::connect;
use super::error::RegistryError;
use super::retry::Fault;
use super::tls::{self, SystemRoots};

const REDIRECT_LIMIT: usize = 8;
const ERROR_BODY_LIMIT_BYTES: u64 = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const USER_AGENT: &str = concat!("shale/", env!("CARGO_PKG_VERSION"));

/// A request to send.
#[derive(Clone, Debug)]
pub(in crate::source) struct Request {
    pub(super) method: Method,
    pub(super) url: String,
    /// `Authorization`; sent to the host of `url` and to no other.
    pub(super) authorization: Option<String>,
    pub(super) accept: Vec<&'static str>,
    /// Offset of the first byte that is wanted.
    pub(super) from_byte: u64,
    /// Headers that make the answer depend on what is known already.
    pub(in crate::source) conditions: Vec<(&'static str, String)>,
    /// A form to post.
    pub(super) form: Option<String>,
}

impl Request {
    pub(in crate::source) fn get(url: String) -> Self {
        Self { method: Method::GET, url, authorization: None, accept: Vec::new(), from_byte: 0, conditions: Vec::new(), form: None }
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(in crate::source) struct Response {
    pub(in crate::source) status: u16,
    pub(super) headers: HeaderMap,
    /// The URL asked first, without its query: queries of storage hosts are secrets.
    pub(super) url: String,
    method: Method,
    body: Body,
}

/// Connections to all hosts.
#[derive(Debug, Default)]
pub(in crate::source) struct Transport {
    config: RegistryConfig,
    system_roots: SystemRoots,
    agents: Mutex<HashMap<(bool, String), Agent>>,
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
        let plain = if self.is_insecure(host) {
            // Docker's order: TLS without a check of the certificate, then none.
            let probe = Request { method: Method::HEAD, ..Request::get(format!("https://{host}/v2/")) };
            self.send(&probe).is_err()
        } else {
            tls::is_loopback(host) && !has_certs
        };
        let base = format!("{}://{host}", if plain { "http" } else { "https" });
        lock(&self.bases).insert(host.into(), base.clone());
        base
    }

    fn is_insecure(&self, host: &str) -> bool {
        self.config.insecure.iter().any(|h| h == host)
    }

    fn agent(&self, https: bool, host: &str) -> Result<Agent, RegistryError> {
        let key = (https, host.to_owned());
        if let Some(agent) = lock(&self.agents).get(&key) {
            return Ok(agent.clone());
        }
        let stall = self.config.retry.stall;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .accept("")
            .accept_encoding("identity")
            .proxy(tls::proxy(&self.config, https, host)?)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(stall)))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall))
            .build();
        let agent = if https {
            connect::agent(config, tls::settings(&self.config, &self.system_roots, host)?)
        } else {
            Agent::new_with_config(config)
        };
        lock(&self.agents).insert(key, agent.clone());
        Ok(agent)
    }

    /// Sends a request and follows redirects. A status is no failure here, except one that asks to come back.
    pub(in crate::source) fn send(&self, request: &Request) -> Result<Response, Fault> {
        let first = parse(&request.url)?;
        let shown = without_query(&request.url).to_owned();
        let mut url = first.clone();
        for _ in 0..=REDIRECT_LIMIT {
            let same_host = origin(&url) == origin(&first);
            let response = self.send_once(request, &url, same_host)?;
            let status = response.status().as_u16();
            let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok());
            match (status, location) {
                (301 | 302 | 303 | 307 | 308, Some(location)) if request.form.is_none() => {
                    let next = join(&url, location);
                    let refuse = |reason| RegistryError::Redirect { url: shown.clone(), location: without_query(&next).into(), reason };
                    let next_uri =
                        next.parse::<Uri>().ok().filter(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
                    let next_uri = next_uri.ok_or_else(|| refuse("not an HTTP address"))?;
                    self.check_downgrade(&url, &next_uri).map_err(refuse)?;
                    url = next_uri;
                }
                _ => {
                    let (parts, body) = response.into_parts();
                    let response = Response { status, headers: parts.headers, url: shown, method: request.method.clone(), body };
                    return if is_transient(status) { Err(response.into_fault()) } else { Ok(response) };
                }
            }
        }
        Err(RegistryError::Redirect { url: shown, location: without_query(&url.to_string()).into(), reason: "too many redirects" }.into())
    }

    fn check_downgrade(&self, from: &Uri, to: &Uri) -> Result<(), &'static str> {
        let host = to.authority().map_or("", http::uri::Authority::as_str);
        let downgrade = from.scheme_str() == Some("https") && to.scheme_str() == Some("http");
        if downgrade && !self.is_insecure(host) { Err("from HTTPS to plain HTTP") } else { Ok(()) }
    }

    fn send_once(&self, request: &Request, url: &Uri, same_host: bool) -> Result<http::Response<Body>, Fault> {
        let host = url.authority().map_or("", |a| a.as_str().rsplit('@').next().unwrap_or_default());
        let agent = self.agent(url.scheme_str() == Some("https"), host)?;
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
        let sent = match &request.form {
            Some(form) => {
                let builder = builder.header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                agent.run(builder.body(form.clone()).map_err(invalid)?)
            }
            None => agent.run(builder.body(()).map_err(invalid)?),
        };
        sent.map_err(|error| sort_failure(error, host, without_query(&url.to_string())))
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
            return Err(RegistryError::SizeMismatch { url, expected_bytes: limit_bytes, actual_bytes: bytes.len() as u64 }.into());
        }
        Ok(bytes)
    }

    /// The registry's words about its refusal: the messages of its JSON, or a short text. Control characters are taken out.
    pub(super) fn detail(self) -> String {
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
        let text = match serde_json::from_slice::<Errors>(&body) {
            Ok(parsed) if !parsed.errors.is_empty() => {
                let words = parsed.errors.into_iter().map(|e| if e.message.is_empty() { e.code } else { e.message });
                words.collect::<Vec<_>>().join("; ")
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

/// `Retry-After`: seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some((http_date(text)? - time::OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO))
}

/// A date as servers write it.
pub(in crate::source) fn http_date(text: &str) -> Option<time::OffsetDateTime> {
    let format = time::macros::format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    Some(time::PrimitiveDateTime::parse(text.trim(), format).ok()?.assume_utc())
}

fn unreachable(host: &str, detail: impl ToString) -> RegistryError {
    RegistryError::Unreachable { host: host.into(), detail: detail.to_string() }
}

/// Which failures of the transport are worth another try.
fn sort_failure(error: ureq::Error, host: &str, url: &str) -> Fault {
    let connecting = |detail: String| Fault::Retry { error: unreachable(host, detail), after: None, connecting: true };
    let interrupted = |detail: String| Fault::Retry {
        error: RegistryError::Interrupted { url: url.into(), detail, attempts: 1 },
        after: None,
        connecting: false,
    };
    match error {
        ureq::Error::HostNotFound => connecting("no such host".into()),
        ureq::Error::ConnectionFailed => connecting("connection failed".into()),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => connecting("timeout".into()),
        ureq::Error::Timeout(_) => interrupted("timeout".into()),
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
            // getaddrinfo's failures have no kind of their own.
            None if e.to_string().contains("failed to lookup address") => connecting(e.to_string()),
            None => interrupted(e.to_string()),
        },
        ureq::Error::Protocol(e) => interrupted(e.to_string()),
        other => unreachable(host, other).into(),
    }
}

fn tls_failure(host: &str, error: &rustls::Error) -> RegistryError {
    let plain_http = matches!(error, rustls::Error::InvalidMessage(_));
    let detail = if plain_http { "the server's answer is not TLS".into() } else { error.to_string() };
    RegistryError::Tls { host: host.into(), detail, plain_http }
}

fn parse(url: &str) -> Result<Uri, RegistryError> {
    url.parse().map_err(|_| unreachable(without_query(url), "not a usable address"))
}

fn origin(url: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    let port = url.port_u16().or(match url.scheme_str() {
        Some("https") => Some(443),
        _ => Some(80),
    });
    (url.scheme_str(), url.host(), port)
}

pub(in crate::source) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// A redirect's target, which may be relative.
fn join(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", http::uri::Authority::as_str);
    let location = location.split('#').next().unwrap_or(location);
    if location.contains("://") && !location.starts_with('/') {
        location.into()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
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
            ("/b#f", "https://r.io:5/b"),
        ] {
            assert_eq!(join(&base, location), expected, "{location}");
        }
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
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 21 Oct 2411 07:28:00 GMT").is_some_and(|d| d.as_secs() > 1 << 20));
        assert_eq!(retry_after("soon"), None);
    }
}
