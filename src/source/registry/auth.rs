//! Proving to a registry who we are: challenges, tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::Method;

use super::credentials::{self, Credential, Found};
use super::error::RegistryError;
use super::http::{Payload, Request, Response, Transport};
use super::retry::Fault;
use super::tls;
use crate::oci::json;
use crate::oci::reference::Reference;

const TOKEN_LIMIT_BYTES: u64 = 1 << 20;
const CLIENT_ID: &str = "shale";
const UNAUTHORIZED: &str = "unauthorized: authentication required";
/// Where the registry gives no reason.
pub(super) const NO_WORDS: &str = "authentication required";
const DENIED: &str = "denied: requested access to the resource is denied";

/// One challenge of a `WWW-Authenticate` header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Challenge {
    /// In lower case.
    scheme: String,
    /// Names in lower case.
    params: BTreeMap<String, String>,
}

/// What access is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// The repository.
    pub(super) reference: &'a Reference,
    /// Whether it is written to.
    pub(super) push: bool,
    /// Another repository of the same registry that blobs are taken from.
    pub(super) mount_from: Option<&'a str>,
}

impl<'a> Scope<'a> {
    /// Reading a repository.
    pub(super) fn pull(reference: &'a Reference) -> Self {
        Self { reference, push: false, mount_from: None }
    }

    /// Writing to a repository.
    pub(super) fn push(reference: &'a Reference) -> Self {
        Self { reference, push: true, mount_from: None }
    }

    /// The words that token servers know.
    fn words(&self) -> Vec<String> {
        let actions = if self.push { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{actions}", self.reference.path());
        std::iter::once(own).chain(self.mount_from.map(|path| format!("repository:{path}:pull"))).collect()
    }

    fn key(&self) -> String {
        format!("{} {}", self.reference.domain(), self.words().join(" "))
    }
}

/// The `Authorization` headers that worked, by what they are for.
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
    #[serde(default)]
    refresh_token: String,
}

impl Tokens {
    /// The header that the registry accepted last.
    pub(super) fn get(&self, scope: Scope<'_>) -> Option<String> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).get(&scope.key()).cloned()
    }

    /// Answers the challenges of a 401 with a header to try.
    pub(super) fn answer(&self, transport: &Transport, scope: Scope<'_>, refusal: Response) -> Result<String, Fault> {
        let found = self.find(transport, scope.reference)?;
        let challenges = challenges(&refusal);
        let by_scheme = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let header = match (&found.credential, by_scheme("bearer"), by_scheme("basic")) {
            (Some(Credential::Bearer(token)), _, _) => format!("Bearer {token}"),
            (_, Some(bearer), _) => Self::token(transport, scope, bearer, &found)?,
            (Some(Credential::Basic { user, password }), None, Some(_)) => basic(user, password),
            _ => return Err(refused(scope, &found, words(scope, refusal)).into()),
        };
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(scope.key(), header.clone());
        Ok(header)
    }

    /// The error for a repository that refuses us.
    pub(super) fn refusal(&self, transport: &Transport, scope: Scope<'_>, response: Response) -> RegistryError {
        let found = self.find(transport, scope.reference).unwrap_or_default();
        refused(scope, &found, words(scope, response))
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

    fn token(transport: &Transport, scope: Scope<'_>, bearer: &Challenge, found: &Found) -> Result<String, Fault> {
        let (scopes, host) = (&scopes(scope, bearer)[..], scope.reference.api_host());
        let question = Question { bearer, scopes, credential: found.credential.as_ref(), offline: false, host };
        if let Some(realm) = question.endangered(transport) {
            return Err(refused(scope, found, format!("the token server {realm} is not reached over HTTPS")).into());
        }
        match question.ask(transport)? {
            Ok(answer) => Ok(format!("Bearer {}", answer.token)),
            Err(refusal) => Err(refused(scope, found, words(scope, refusal)).into()),
        }
    }
}

/// What a token server gave.
struct Answer {
    token: String,
    /// `refresh_token`: stands for the password from now on.
    identity: Option<String>,
}

/// What a token server is asked.
struct Question<'a> {
    bearer: &'a Challenge,
    scopes: &'a [String],
    credential: Option<&'a Credential>,
    /// Whether an identity token is wanted, too.
    offline: bool,
    /// Who sends there.
    host: &'a str,
}

impl Question<'_> {
    fn param(&self, name: &str) -> &str {
        self.bearer.params.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The address of a server that must not be told secrets, if there are any to tell.
    fn endangered(&self, transport: &Transport) -> Option<&str> {
        let realm = self.param("realm");
        (self.credential.is_some() && !may_send_secrets(transport, self.host, realm)).then_some(realm)
    }

    /// Asks. The inner error is a server that does not want to.
    fn ask(&self, transport: &Transport) -> Result<Result<Answer, Response>, Fault> {
        let realm = self.param("realm");
        let joined = self.scopes.join(" ");
        let mut fields = vec![("service", self.param("service"))];
        fields.retain(|(_, value)| !value.is_empty());
        let mut request = match self.credential {
            Some(Credential::Identity(refresh)) => {
                fields.push(("scope", &joined));
                fields.retain(|(_, value)| !value.is_empty());
                fields.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", refresh)]);
                Request { method: Method::POST, form: Some(form(&fields)), ..Request::get(realm.into()) }
            }
            credential => {
                fields.extend(self.scopes.iter().map(|scope| ("scope", scope.as_str())));
                if let (true, Some(Credential::Basic { user, .. })) = (self.offline, credential) {
                    fields.extend([("account", user.as_str()), ("client_id", CLIENT_ID), ("offline_token", "true")]);
                }
                let separator = if realm.contains('?') { '&' } else { '?' };
                let mut request = Request::get(format!("{realm}{separator}{}", form(&fields)));
                if let Some(Credential::Basic { user, password }) = credential {
                    request.authorization = Some(basic(user, password));
                }
                request
            }
        };
        request.registry = Some(self.host.to_owned());
        let response = transport.send(&request)?;
        match response.status {
            200 => {}
            400 | 401 | 403 | 404 => return Ok(Err(response)),
            _ => return Err(response.into_error().into()),
        }
        let url = response.url.clone();
        let answer: Option<TokenAnswer> = json::read(&response.read(TOKEN_LIMIT_BYTES)?).ok();
        let (token, identity) = match answer {
            Some(a) => (if a.token.is_empty() { a.access_token } else { a.token }, a.refresh_token),
            None => Default::default(),
        };
        if token.is_empty() {
            return Err(RegistryError::Status { method: "GET".into(), url, status: 200, detail: "no token in the answer".into() }.into());
        }
        Ok(Ok(Answer { token, identity: Some(identity).filter(|t| !t.is_empty()) }))
    }
}

/// Tries a credential on a registry's front door. Gives the identity token that the registry wants to be known by from now on.
pub(super) fn try_login(transport: &Transport, host: &str, credential: &Credential) -> Result<Option<String>, Fault> {
    let mut door = Request::get(format!("{}/v2/", transport.base(host)));
    let refusal = transport.send_home(host, &mut door, Payload::Nothing)?;
    let url = door.url;
    if refusal.status != 401 || refusal.is_foreign {
        return front_door(&url, refusal).map(|()| None);
    }
    let challenges = challenges(&refusal);
    let by_scheme = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
    let (authorization, identity) = match (by_scheme("bearer"), by_scheme("basic"), credential) {
        (Some(bearer), _, _) => {
            let question = Question { bearer, scopes: &[], credential: Some(credential), offline: true, host };
            if let Some(realm) = question.endangered(transport) {
                let detail = format!("Get \"{url}\": the token server {realm} is not reached over HTTPS");
                return Err(RegistryError::Login { host: host.into(), detail }.into());
            }
            match question.ask(transport)? {
                Ok(answer) => (format!("Bearer {}", answer.token), answer.identity),
                Err(refusal) => {
                    let detail = refusal.coded_detail();
                    let detail = if detail.is_empty() { "unauthorized: incorrect username or password" } else { &detail };
                    return Err(RegistryError::Login { host: host.into(), detail: format!("Get \"{url}\": {detail}") }.into());
                }
            }
        }
        (None, Some(_), Credential::Basic { user, password }) => (basic(user, password), None),
        _ => return Err(refusal.into_error().into()),
    };
    let request = Request { authorization: Some(authorization), ..Request::get(url.clone()) };
    front_door(&url, transport.send(&request)?).map(|()| identity)
}

fn front_door(url: &str, response: Response) -> Result<(), Fault> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches("/v2/");
    match response.status {
        200..=204 => Ok(()),
        status @ (401 | 403) => {
            let reason = if status == 401 { "Unauthorized" } else { "Forbidden" };
            let detail = format!("login attempt to {url} failed with status: {status} {reason}");
            Err(RegistryError::Login { host: host.into(), detail }.into())
        }
        _ => Err(response.into_error().into()),
    }
}

fn challenges(response: &Response) -> Vec<Challenge> {
    response.headers.get_all("www-authenticate").iter().filter_map(|h| h.to_str().ok()).flat_map(parse).collect()
}

/// Secrets travel over TLS, or where the user or the loopback device vouches for the way.
fn may_send_secrets(transport: &Transport, api_host: &str, realm: &str) -> bool {
    let host = realm.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or(rest));
    match host {
        None => realm.starts_with("https://"),
        Some(host) => {
            let config = transport.config();
            let is_vouched_for = |host: &str| config.is_insecure(host) || config.plain_http.iter().any(|plain| plain == host);
            tls::is_loopback(host) || is_vouched_for(host) || is_vouched_for(api_host)
        }
    }
}

/// The registry's words: for a push as Docker prints them.
fn words(scope: Scope<'_>, response: Response) -> String {
    let by_status = if response.status == 403 { DENIED } else { UNAUTHORIZED };
    let detail = if scope.push { response.coded_detail() } else { response.detail() };
    if scope.push && !detail.contains(": ") {
        return if detail.is_empty() { by_status.into() } else { format!("{}: {detail}", by_status.split(':').next().unwrap_or_default()) };
    }
    detail
}

fn refused(scope: Scope<'_>, found: &Found, detail: String) -> RegistryError {
    let Scope { reference, push, .. } = scope;
    RegistryError::Unauthorized {
        reference: reference.familiar_name(),
        host: reference.api_host().into(),
        is_push: push,
        with_credentials: found.credential.is_some(),
        note: found.note.clone(),
        detail: if detail.is_empty() { NO_WORDS.into() } else { detail },
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What a token server is asked for: what we need, and what else the registry names, which may know the repository by another path.
fn scopes(scope: Scope<'_>, bearer: &Challenge) -> Vec<String> {
    let own = scope.words();
    let has = |named: &str| {
        let Some((what, actions)) = named.rsplit_once(':') else { return false };
        let ours = own.iter().filter_map(|own| own.rsplit_once(':')).find(|(own, _)| *own == what);
        ours.is_some_and(|(_, ours)| actions.split(',').all(|action| ours.split(',').any(|own| own == action)))
    };
    let named = bearer.params.get("scope").map(String::as_str).unwrap_or_default();
    let more: Vec<String> = named.split_whitespace().filter(|named| !has(named)).map(str::to_owned).collect();
    own.into_iter().chain(more).collect()
}

/// Fields as `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let pairs = fields.iter().map(|(key, value)| format!("{key}={}", escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

pub(super) fn escape(text: &str) -> String {
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
    fn secrets_go_where_somebody_vouches_for_the_way() {
        use crate::source::registry::RegistryConfig;
        let config = RegistryConfig { plain_http: vec!["r.lan:5000".into()], insecure: vec!["i.lan".into()], ..RegistryConfig::default() };
        let transport = Transport::new(config);
        for (registry, realm, expected) in [
            ("r.io", "https://t.io/token", true),
            ("r.io", "http://t.io/token", false),
            ("r.lan:5000", "http://r.lan:5000/token", true),
            ("r.lan:5000", "http://t.lan/token", true),
            ("i.lan", "http://t.lan/token", true),
            ("r.io", "http://127.0.0.1:1/token", true),
            ("r.io", "ftp://t.io", false),
        ] {
            assert_eq!(may_send_secrets(&transport, registry, realm), expected, "{registry} {realm}");
        }
    }

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
    fn what_the_registry_names_is_asked_for_as_well() {
        let reference = Reference::parse("r.io/a/b").expect("a reference");
        let of = |scope: Scope<'_>, header: &str| scopes(scope, &parse(header)[0]).join(" ");
        for (named, pull, push) in [
            ("", "repository:a/b:pull", "repository:a/b:pull,push"),
            (r#",scope="repository:a/b:pull""#, "repository:a/b:pull", "repository:a/b:pull,push"),
            (r#",scope="repository:a/b:push,pull""#, "repository:a/b:pull repository:a/b:push,pull", "repository:a/b:pull,push"),
            (
                r#",scope="repository:up/b:pull aws""#,
                "repository:a/b:pull repository:up/b:pull aws",
                "repository:a/b:pull,push repository:up/b:pull aws",
            ),
        ] {
            let header = format!(r#"Bearer realm="https://r.io/t"{named}"#);
            assert_eq!(of(Scope::pull(&reference), &header), pull, "{named}");
            assert_eq!(of(Scope::push(&reference), &header), push, "{named}");
        }
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(form(&[("a", "x y&z"), ("b", "r:é")]), "a=x%20y%26z&b=r%3A%C3%A9");
    }
}
