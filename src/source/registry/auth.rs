//! Proving to a registry who we are: challenges, tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Method;

use super::credentials::{self, Credential, Found};
use super::error::RegistryError;
use super::http::{Request, Response, Transport};
use super::retry::Fault;
use super::tls;
use crate::oci::reference::Reference;

const TOKEN_LIMIT_BYTES: u64 = 1 << 20;

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Challenge {
    /// In lower case.
    scheme: String,
    /// Names in lower case.
    params: BTreeMap<String, String>,
}

/// The `Authorization` headers that worked, by repository.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    headers: Mutex<HashMap<String, String>>,
    found: Mutex<HashMap<String, Found>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Tokens {
    /// The header that the repository accepted last.
    pub(super) fn get(&self, reference: &Reference) -> Option<String> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).get(&reference.name()).cloned()
    }

    /// Answers the challenges of a 401 with a header to try.
    pub(super) fn answer(&self, transport: &Transport, reference: &Reference, refusal: Response) -> Result<String, Fault> {
        let found = self.find(transport, reference)?;
        let challenges: Vec<Challenge> =
            refusal.headers.get_all("www-authenticate").iter().filter_map(|h| h.to_str().ok()).flat_map(parse).collect();
        let by_scheme = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let header = match (&found.credential, by_scheme("bearer"), by_scheme("basic")) {
            (Some(Credential::Bearer(token)), _, _) => format!("Bearer {token}"),
            (_, Some(bearer), _) => Self::token(transport, reference, bearer, &found)?,
            (Some(Credential::Basic { user, password }), None, Some(_)) => basic(user, password),
            _ => return Err(refused(reference, &found, refusal.detail()).into()),
        };
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.name(), header.clone());
        Ok(header)
    }

    /// The error for a repository that refuses us.
    pub(super) fn refusal(&self, transport: &Transport, reference: &Reference, response: Response) -> RegistryError {
        let found = self.find(transport, reference).unwrap_or_default();
        refused(reference, &found, response.detail())
    }

    fn find(&self, transport: &Transport, reference: &Reference) -> Result<Found, RegistryError> {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&reference.name()) {
            return Ok(found.clone());
        }
        let found = credentials::lookup(transport.config(), reference)?;
        known.insert(reference.name(), found.clone());
        Ok(found)
    }

    fn token(transport: &Transport, reference: &Reference, bearer: &Challenge, found: &Found) -> Result<String, Fault> {
        let param = |name: &str| bearer.params.get(name).map(String::as_str).unwrap_or_default();
        let realm = param("realm");
        if found.credential.is_some() && !may_send_secrets(transport, reference, realm) {
            return Err(refused(reference, found, format!("the token server {realm} is not reached over HTTPS")).into());
        }
        let scope = format!("repository:{}:pull", reference.path());
        let mut fields = vec![("service", param("service")), ("scope", &scope)];
        fields.retain(|(_, value)| !value.is_empty());
        let request = match &found.credential {
            Some(Credential::Identity(refresh)) => {
                fields.extend([("grant_type", "refresh_token"), ("client_id", "shale"), ("refresh_token", refresh)]);
                Request { method: Method::POST, form: Some(form(&fields)), ..Request::get(realm.into()) }
            }
            credential => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut request = Request::get(format!("{realm}{separator}{}", form(&fields)));
                if let Some(Credential::Basic { user, password }) = credential {
                    request.authorization = Some(basic(user, password));
                }
                request
            }
        };
        let response = transport.send(&request)?;
        match response.status {
            200 => {}
            400 | 401 | 403 | 404 => return Err(refused(reference, found, response.detail()).into()),
            _ => return Err(response.into_error().into()),
        }
        let url = response.url.clone();
        let answer: Option<TokenAnswer> = serde_json::from_slice(&response.read(TOKEN_LIMIT_BYTES)?).ok();
        let token = answer.map(|a| if a.token.is_empty() { a.access_token } else { a.token }).filter(|t| !t.is_empty());
        let no_token = || RegistryError::Status { method: "GET".into(), url, status: 200, detail: "no token in the answer".into() };
        Ok(format!("Bearer {}", token.ok_or_else(no_token)?))
    }
}

/// Secrets travel over TLS, or where the user or the loopback device vouches for the way.
fn may_send_secrets(transport: &Transport, reference: &Reference, realm: &str) -> bool {
    let host = realm.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or(rest));
    match host {
        None => realm.starts_with("https://"),
        Some(host) => {
            let insecure = &transport.config().insecure;
            tls::is_loopback(host) || insecure.iter().any(|h| h == host || h == reference.api_host())
        }
    }
}

fn refused(reference: &Reference, found: &Found, detail: String) -> RegistryError {
    RegistryError::Unauthorized {
        reference: reference.familiar_name(),
        host: reference.api_host().into(),
        with_credentials: found.credential.is_some(),
        note: found.note.clone(),
        detail: if detail.is_empty() { "authentication required".into() } else { detail },
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Fields as `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(key, value)| format!("{key}={}", escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn escape(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Reads `Scheme key="value", key=value, Scheme …`. What does not fit ends the reading.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        rest = if let Some(after) = after.strip_prefix('=') {
            let (value, after) = value(after);
            if let Some(challenge) = challenges.last_mut() {
                challenge.params.insert(word.to_ascii_lowercase(), value);
            }
            after
        } else {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), params: BTreeMap::new() });
            after
        };
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    challenges
}

/// A quoted or bare value, and what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].into(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let show = |header: &str| {
            let shown = parse(header).into_iter().map(|c| {
                let params: Vec<_> = c.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{}[{}]", c.scheme, params.join(";"))
            });
            shown.collect::<Vec<_>>().join(" ")
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/t",service="r.io",scope="repository:a/b:pull,push""#,
                "bearer[realm=https://a/t;scope=repository:a/b:pull,push;service=r.io]",
            ),
            (r#"Basic realm="x y""#, "basic[realm=x y]"),
            (r#"BASIC Realm=x, Bearer realm="t" , error="a\"b""#, "basic[realm=x] bearer[error=a\"b;realm=t]"),
            ("Negotiate, Basic realm=r", "negotiate[] basic[realm=r]"),
            (r#"Bearer realm="open"#, "bearer[realm=open]"),
            ("=x", ""),
            ("", ""),
        ] {
            assert_eq!(show(header), expected, "{header}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(form(&[("a", "x y&z"), ("b", "r:é")]), "a=x%20y%26z&b=r%3A%C3%A9");
    }
}
