//! Credentials: Docker's and podman's files, and the credential helpers that they name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::config::RegistryConfig;
use super::error::RegistryError;
use crate::oci::json;
use crate::oci::reference::{Reference, api_host, credential_key};

/// What proves who we are. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User and password.
    Basic {
        /// User name.
        user: String,
        /// Password or access token.
        password: String,
    },
    /// An OAuth refresh token.
    Identity(String),
    /// A bearer token, ready to send.
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { user, .. } => write!(f, "Basic({user:?}, …)"),
            Self::Identity(_) => f.write_str("Identity(…)"),
            Self::Bearer(_) => f.write_str("Bearer(…)"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What was found for a repository.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// `None` = go on without.
    pub(super) credential: Option<Credential>,
    /// Why there is none, where a user would wonder.
    pub(super) note: Option<String>,
}

/// Finds the credentials for a repository.
pub(super) fn lookup(config: &RegistryConfig, reference: &Reference) -> Result<Found, RegistryError> {
    find(config, keys_of(reference), reference.credential_key())
}

/// Finds the credentials for a whole registry.
pub(super) fn lookup_host(config: &RegistryConfig, registry: &str) -> Result<Found, RegistryError> {
    find(config, hosts_of(registry).into_iter().map(Into::into).collect(), credential_key(registry))
}

fn find(config: &RegistryConfig, keys: Vec<String>, helper_key: &str) -> Result<Found, RegistryError> {
    let mut search = Search { config, keys, helper_key, note: None };
    let credential = search.run()?;
    Ok(Found { credential, note: search.note })
}

struct Search<'a> {
    config: &'a RegistryConfig,
    /// The keys that fit, best first.
    keys: Vec<String>,
    /// What a helper is asked for.
    helper_key: &'a str,
    note: Option<String>,
}

impl Search<'_> {
    fn run(&mut self) -> Result<Option<Credential>, RegistryError> {
        let config = self.config;
        if let Some(json) = &config.auth_json {
            let path = Path::new("DOCKER_AUTH_CONFIG");
            if let Some(found) = self.in_file(&parse(json, path)?, path)? {
                return Ok(Some(found));
            }
        }
        for path in &config.auth_files {
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                // Of another user's home, or a folder, as a mount of a file that is not there makes one: public images must still be pulled.
                Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory) => {
                    self.note = Some(format!("the credential file {} cannot be read: {e}", path.display()));
                    continue;
                }
                Err(e) => return Err(RegistryError::AuthFile { path: path.clone(), detail: e.to_string() }),
            };
            if let Some(found) = self.in_file(&parse(&text, path)?, path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn in_file(&mut self, file: &AuthFile, path: &Path) -> Result<Option<Credential>, RegistryError> {
        let keys = self.keys.clone();
        let by_key = |map_key: &str| keys.iter().position(|k| *k == normal_key(map_key));
        let helper = file.cred_helpers.iter().filter_map(|(key, h)| Some((by_key(key)?, h))).min().map(|(_, h)| h.as_str());
        let helper = helper.or((!file.creds_store.is_empty()).then_some(file.creds_store.as_str()));
        if let Some(helper) = helper
            && let Some(found) = self.ask_helper(helper)?
        {
            return Ok(Some(found));
        }
        let entry = file.auths.iter().filter_map(|(key, e)| Some((by_key(key)?, e))).min_by_key(|(rank, _)| *rank);
        entry.map_or(Ok(None), |(_, entry)| from_entry(entry, path))
    }

    /// Runs `docker-credential-<helper> get`.
    fn ask_helper(&mut self, helper: &str) -> Result<Option<Credential>, RegistryError> {
        let error = |detail: String| RegistryError::Helper { deed: "getting", helper: helper.into(), detail };
        let output = match run_helper(helper, "get", self.helper_key.as_bytes(), self.config.helper_path.as_deref()) {
            Ok(output) => output,
            // Desktop tools leave such entries behind; public images must still be pulled. A folder of PATH that is closed to this user, such
            // as root's, makes a refusal of what is nowhere.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                let or = if e.kind() == io::ErrorKind::NotFound { "" } else { ", or may not be run" };
                self.note = Some(format!("the credential helper docker-credential-{helper} is configured but not in PATH{or}"));
                return Ok(None);
            }
            Err(e) => return Err(error(e.to_string())),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            if said.contains("credentials not found") {
                return Ok(None);
            }
            let detail = format!("{} {}", said.trim(), String::from_utf8_lossy(&output.stderr).trim());
            return Err(error(format!("{}: {}", output.status, detail.trim())));
        }
        let answer: HelperAnswer = json::read(&output.stdout).map_err(|_| error("its answer is not the JSON that was expected".into()))?;
        Ok(match (answer.username.as_str(), answer.secret) {
            (_, secret) if secret.is_empty() => None,
            ("<token>", secret) => Some(Credential::Identity(secret)),
            (user, password) => Some(Credential::Basic { user: user.into(), password }),
        })
    }
}

/// Runs `docker-credential-<helper> <verb>`; what it must know goes to its standard input, never onto a command line.
pub(super) fn run_helper(helper: &str, verb: &str, input: &[u8], search_path: Option<&OsStr>) -> io::Result<Output> {
    if helper.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a helper's name"));
    }
    let mut command = Command::new(format!("docker-credential-{helper}"));
    command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(path) = search_path {
        command.env("PATH", path);
    }
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("stdin was piped");
    // A helper that has not read its input has failed, which its exit status tells better.
    drop(stdin.write_all(input));
    drop(stdin);
    child.wait_with_output()
}

fn parse(text: &str, path: &Path) -> Result<AuthFile, RegistryError> {
    if text.trim().is_empty() {
        return Ok(AuthFile::default());
    }
    // serde's message may quote a value, and values here are secrets: only the place is passed on.
    json::read(text.as_bytes()).map_err(|e| RegistryError::AuthFile {
        path: path.into(),
        detail: format!("not valid JSON of a credential file (line {}, column {})", e.line(), e.column()),
    })
}

/// The keys under which a repository's credentials can stand, most specific first: podman's files name repositories too.
fn keys_of(reference: &Reference) -> Vec<String> {
    let hosts = hosts_of(reference.domain());
    let mut keys = Vec::new();
    let mut path = Some(reference.path());
    while let Some(p) = path {
        keys.extend(hosts.iter().map(|host| format!("{host}/{p}")));
        path = p.rsplit_once('/').map(|(parent, _)| parent);
    }
    keys.extend(hosts.into_iter().map(String::from));
    keys
}

/// The names of a registry.
fn hosts_of(registry: &str) -> Vec<&str> {
    let host = api_host(registry);
    if host == registry { vec![registry] } else { vec![registry, "index.docker.io", host] }
}

/// A key of a file without its scheme, and without the API path that goes with a scheme.
pub(super) fn normal_key(key: &str) -> &str {
    if let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) {
        return rest.split('/').next().unwrap_or(rest);
    }
    let key = key.trim_end_matches('/');
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

fn from_entry(entry: &AuthEntry, path: &Path) -> Result<Option<Credential>, RegistryError> {
    if !entry.registrytoken.is_empty() {
        return Ok(Some(Credential::Bearer(entry.registrytoken.clone())));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credential::Identity(entry.identitytoken.clone())));
    }
    if entry.auth.is_empty() {
        let known = !entry.username.is_empty() && !entry.password.is_empty();
        return Ok(known.then(|| Credential::Basic { user: entry.username.clone(), password: entry.password.clone() }));
    }
    let decoded = STANDARD.decode(entry.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
        return Err(RegistryError::AuthFile { path: path.into(), detail: "an \"auth\" is not the base64 of user:password".into() });
    };
    // Some tools have written the base64 of a zero-padded buffer.
    let password = password.trim_end_matches('\0');
    Ok(Some(Credential::Basic { user: user.into(), password: password.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "what a lookup returns")]
    fn basic(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic { user: user.into(), password: password.into() })
    }

    fn find(json: &str, name: &str) -> Result<Option<Credential>, RegistryError> {
        let config = RegistryConfig { auth_json: Some(json.into()), ..RegistryConfig::default() };
        lookup(&config, &Reference::parse(name).expect("a name")).map(|found| found.credential)
    }

    #[test]
    fn entries_are_found_under_every_spelling_of_the_host() {
        let entry = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOng="}}}}}}"#);
        let cases = [
            ("https://index.docker.io/v1/", "alpine", true),
            ("https://index.docker.io/v2/", "user/app", true),
            ("index.docker.io", "alpine", true),
            ("docker.io", "alpine", true),
            ("registry-1.docker.io", "alpine", true),
            ("https://localhost:5000", "localhost:5000/a", true),
            ("http://localhost:5000/v2/", "localhost:5000/a", true),
            ("localhost:5000/v1/", "localhost:5000/a", true),
            ("localhost:5000", "localhost:5000/a/b", true),
            ("localhost", "localhost:5000/a", false),
            ("gcr.io/project", "gcr.io/project/image", true),
            ("gcr.io/project/image", "gcr.io/project/image", true),
            ("gcr.io/other", "gcr.io/project/image", false),
            ("gcr.io/proj", "gcr.io/project/image", false),
            ("evil.io", "gcr.io/project/image", false),
        ];
        for (key, name, found) in cases {
            let expected = found.then(|| basic("u", "p:x").expect("some"));
            assert_eq!(find(&entry(key), name).expect(key), expected, "{key} for {name}");
        }
    }

    #[test]
    fn the_most_specific_entry_wins_and_every_kind_is_read() {
        let json = r#"{"auths":{
            "r.io":{"username":"host","password":"1"},
            "r.io/team":{"username":"team","password":"2"},
            "id.io":{"auth":"","identitytoken":"T"},
            "tok.io":{"registrytoken":"R"},
            "nul.io":{"auth":"dTpwAAA="},
            "empty.io":{}
        },"HttpHeaders":{"X":"y"}}"#;
        let cases = [
            ("r.io/a", basic("host", "1")),
            ("r.io/team/a", basic("team", "2")),
            ("r.io/teams/a", basic("host", "1")),
            ("id.io/a", Some(Credential::Identity("T".into()))),
            ("tok.io/a", Some(Credential::Bearer("R".into()))),
            ("nul.io/a", basic("u", "p")),
            ("empty.io/a", None),
            ("other.io/a", None),
        ];
        for (name, expected) in cases {
            assert_eq!(find(json, name).expect(name), expected, "{name}");
        }
    }

    #[test]
    fn errors_show_no_secret() {
        for json in [r#"{"auths":{"r.io":{"auth":"c2VjcmV0"}}}"#, r#"{"auths":{"r.io":"secret"}}"#] {
            let message = find(json, "r.io/a").expect_err(json).to_string();
            assert!(message.contains("DOCKER_AUTH_CONFIG") && !message.contains("secret") && !message.contains("c2Vj"), "{message}");
        }
        assert!(!format!("{:?}", basic("u", "secret")).contains("secret"));
    }
}
