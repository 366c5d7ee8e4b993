//! Where `login` puts credentials: Docker's `config.json`, or the helper that it names.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize as _;
use serde_json::{Map, Value, json};

use super::credentials::{Credential, normal_key, run_helper};
use super::error::RegistryError;

/// The place of a user's credentials.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// Docker's `config.json`; it need not exist.
    pub file: PathBuf,
    /// `PATH` for credential helpers; `None` = the process's own.
    pub helper_path: Option<OsString>,
}

/// Where a credential has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Into the file, readable for who can read the file.
    InFile {
        /// Whether it is a password, and not a token made for the purpose.
        is_password: bool,
    },
    /// To a helper.
    ByHelper,
}

impl Keyring {
    /// Keeps the credential of a registry (`localhost:5000`, `https://index.docker.io/v1/`). `user` is the name that was logged in with.
    pub fn keep(&self, key: &str, user: &str, credential: &Credential) -> Result<Kept, RegistryError> {
        self.change(|root| {
            let helper = helper_of(root, key);
            let (entry, kept) = match &helper {
                Some(helper) => {
                    self.tell(helper, "store", "saving", &for_helper(key, credential))?;
                    // Docker leaves an empty entry as a trace.
                    (json!({}), Kept::ByHelper)
                }
                None => (for_file(user, credential), Kept::InFile { is_password: matches!(credential, Credential::Basic { .. }) }),
            };
            let auths = auths_of(root, &self.file)?;
            auths.retain(|other, _| other == key || normal_key(other) != normal_key(key));
            auths.insert(key.into(), entry);
            Ok(kept)
        })
    }

    /// Forgets the credential of a registry, under every spelling of its address. Returns whether there was one in the file.
    pub fn forget(&self, key: &str) -> Result<bool, RegistryError> {
        if !self.file.exists() {
            return Ok(false);
        }
        self.change(|root| {
            if let Some(helper) = helper_of(root, key) {
                self.tell(&helper, "erase", "erasing", key.as_bytes())?;
            }
            let auths = auths_of(root, &self.file)?;
            let before = auths.len();
            auths.retain(|other, _| normal_key(other) != normal_key(key));
            Ok(auths.len() < before)
        })
    }

    fn tell(&self, helper: &str, verb: &str, deed: &'static str, input: &[u8]) -> Result<(), RegistryError> {
        let error = |detail: String| RegistryError::Helper { deed, helper: helper.into(), detail };
        let output = run_helper(helper, verb, input, self.helper_path.as_deref()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => error("it is configured but not in PATH".into()),
            _ => error(e.to_string()),
        })?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() || verb == "erase" && said.contains("credentials not found") {
            return Ok(());
        }
        Err(error(format!("{}: {said} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// Reads the file, changes it and writes it beside its place. Keys that nobody here knows stay.
    fn change<T>(&self, deed: impl FnOnce(&mut Map<String, Value>) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let failed = |source| RegistryError::AuthWrite { path: self.file.clone(), source };
        // A link stays a link: what it points to is replaced.
        let path = fs::canonicalize(&self.file).unwrap_or_else(|_| self.file.clone());
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        // Two logins at the same time would each write back what the other has not seen.
        let lock = File::open(dir).map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        let mut root = match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Map::new(),
            // serde's message may quote a value, and values here are secrets: only the place is passed on.
            Ok(text) => serde_json::from_str(&text).map_err(|e| RegistryError::AuthFile {
                path: path.clone(),
                detail: format!("not a JSON object (line {}, column {})", e.line(), e.column()),
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(failed(e)),
        };
        let before = root.clone();
        let done = deed(&mut root)?;
        if root != before {
            write(&path, &root).map_err(failed)?;
        }
        Ok(done)
    }
}

/// The helper that keeps a registry's credentials.
fn helper_of(root: &Map<String, Value>, key: &str) -> Option<String> {
    let by_host = root.get("credHelpers").and_then(Value::as_object).into_iter().flatten();
    let named = by_host.filter(|(host, _)| normal_key(host) == normal_key(key)).find_map(|(_, helper)| helper.as_str());
    let helper = named.or_else(|| root.get("credsStore").and_then(Value::as_str));
    helper.filter(|helper| !helper.is_empty()).map(Into::into)
}

fn auths_of<'a>(root: &'a mut Map<String, Value>, file: &Path) -> Result<&'a mut Map<String, Value>, RegistryError> {
    let auths = root.entry("auths").or_insert_with(|| json!({}));
    if auths.is_null() {
        *auths = json!({});
    }
    let error = || RegistryError::AuthFile { path: file.into(), detail: "\"auths\" is not an object".into() };
    auths.as_object_mut().ok_or_else(error)
}

fn for_helper(key: &str, credential: &Credential) -> Vec<u8> {
    let (user, secret) = match credential {
        Credential::Basic { user, password } => (user.as_str(), password),
        Credential::Identity(token) | Credential::Bearer(token) => ("<token>", token),
    };
    json!({ "ServerURL": key, "Username": user, "Secret": secret }).to_string().into_bytes()
}

fn for_file(user: &str, credential: &Credential) -> Value {
    match credential {
        Credential::Basic { user, password } => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
        Credential::Identity(token) => json!({ "auth": STANDARD.encode(format!("{user}:")), "identitytoken": token }),
        Credential::Bearer(token) => json!({ "registrytoken": token }),
    }
}

/// Writes the file with tabs, as Docker does, for nobody else to read.
fn write(path: &Path, root: &Map<String, Value>) -> io::Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    root.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter)).map_err(io::Error::other)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let beside = path.with_file_name(format!(".{name}.shale-{}", std::process::id()));
    drop(fs::remove_file(&beside));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    if let (true, Ok(old)) = (written.is_ok(), fs::metadata(path)) {
        // Root that logs in for a user must not take the file away from them. Others cannot give it away, and need not.
        drop(std::os::unix::fs::chown(&beside, Some(old.uid()), Some(old.gid())));
    }
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        drop(fs::remove_file(&beside));
    }
    renamed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn basic() -> Credential {
        Credential::Basic { user: "u".into(), password: "p:x".into() }
    }

    #[test]
    fn the_file_is_docker_s_and_keeps_what_others_wrote() {
        let dir = tempfile::tempdir().expect("a directory");
        let keyring = Keyring { file: dir.path().join("new/config.json"), helper_path: None };
        assert_eq!(keyring.keep("r.io", "u", &basic()).expect("kept"), Kept::InFile { is_password: true });
        let read = || fs::read_to_string(&keyring.file).expect("the file");
        assert_eq!(read(), "{\n\t\"auths\": {\n\t\t\"r.io\": {\n\t\t\t\"auth\": \"dTpwOng=\"\n\t\t}\n\t}\n}");
        assert_eq!(fs::metadata(&keyring.file).expect("the file").permissions().mode() & 0o777, 0o600);

        fs::write(&keyring.file, r#"{"z":1,"proxies":{"b":2,"a":{"x":[]}},"auths":{"https://r.io/v2/":{"auth":"eDp5"}},"HttpHeaders":{}}"#)
            .expect("a file");
        keyring.keep("r.io", "u", &Credential::Identity("T".into())).expect("kept");
        let expected = json!({"z": 1, "proxies": {"b": 2, "a": {"x": []}}, "auths": {"r.io": {"auth": "dTo=", "identitytoken": "T"}}, "HttpHeaders": {}});
        assert_eq!(serde_json::from_str::<Value>(&read()).expect("JSON"), expected);
        assert!(read().starts_with("{\n\t\"z\""), "the order stays: {}", read());
        assert!(keyring.forget("https://r.io").expect("forgotten"));
        assert!(!keyring.forget("r.io").expect("nothing to forget"));
        assert!(!read().contains("r.io") && read().contains("HttpHeaders"));
        assert_eq!(fs::read_dir(dir.path().join("new")).expect("the folder").count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_helper_gets_the_secret_on_its_standard_input() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("docker-credential-test");
        let script = "#!/bin/sh\necho \"$@\" >>\"${0%/*}/calls\"; cat >>\"${0%/*}/calls\"; echo >>\"${0%/*}/calls\"\n";
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let file = dir.path().join("config.json");
        fs::write(&file, r#"{"credsStore":"absent","credHelpers":{"r.io":"test"}}"#).expect("a file");
        let path = format!("{}:/bin:/usr/bin", dir.path().display());
        let keyring = Keyring { file: file.clone(), helper_path: Some(path.into()) };
        assert_eq!(keyring.keep("r.io", "u", &basic()).expect("kept"), Kept::ByHelper);
        keyring.keep("r.io", "u", &Credential::Identity("T".into())).expect("kept");
        keyring.forget("r.io").expect("forgotten");
        let calls = fs::read_to_string(dir.path().join("calls")).expect("the calls");
        let said = "store\n{\"ServerURL\":\"r.io\",\"Username\":\"u\",\"Secret\":\"p:x\"}\nstore\n\
                    {\"ServerURL\":\"r.io\",\"Username\":\"<token>\",\"Secret\":\"T\"}\nerase\nr.io\n";
        assert_eq!(calls, said);
        assert!(!fs::read_to_string(&file).expect("the file").contains("p:x"));
        let error = keyring.keep("other.io", "u", &basic()).expect_err("no such helper").to_string();
        assert_eq!(error, "error saving credentials - docker-credential-absent: it is configured but not in PATH");
    }

    #[test]
    fn a_broken_file_is_left_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("config.json");
        for text in ["{\"auths\": \"secret\"}", "[\"secret\"]", "{\"auths\":"] {
            fs::write(&file, text).expect("a file");
            let keyring = Keyring { file: file.clone(), helper_path: None };
            let error = keyring.keep("r.io", "u", &basic()).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
            assert_eq!(fs::read_to_string(&file).expect("the file"), text);
        }
    }
}
