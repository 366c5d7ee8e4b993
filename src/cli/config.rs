//! Settings files: shale's own `config.toml`, and what podman's `registries.conf` says about registries.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000", "cache.example/hub"]   # asked first, in this order
//!
//! [registry."mirror.example:5000"]
//! http = true                 # plain HTTP
//! insecure = true             # the certificate is not checked
//! ca = ["/etc/ssl/own.pem"]   # a file or several
//! ```
//! The section `[gc]` is told in [`super::caps`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::source::registry::{Mirror, Place, RegistryConfig};

use super::caps::GcSection;
use super::console::warn;
use super::environment::Environment;

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The one that `SHALE_CONFIG` names is not there.
    #[error("SHALE_CONFIG names {}, which is not there", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It does not say what such a file says.
    #[error("cannot read {}: {detail}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
}

/// shale's `config.toml`. An unknown key is an error: what is written there shall count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[registry."HOST"]`
    pub registry: BTreeMap<String, RegistrySection>,
    /// `[gc]`
    pub gc: GcSection,
}

/// How one registry is reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySection {
    /// `HOST[:PORT][/PREFIX]` that are asked before it.
    pub mirrors: Vec<String>,
    /// It speaks plain HTTP.
    pub http: bool,
    /// Its certificate is not checked.
    pub insecure: bool,
    /// Files with CA certificates.
    pub ca: OneOrMany,
}

/// A text or a list of texts.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `ca = "file"`
    One(String),
    /// `ca = ["file", "file"]`
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// podman's file, as far as it is about how registries are reached; it belongs to others, so unknown keys pass.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RegistriesConf {
    registry: Vec<ConfRegistry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ConfRegistry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<ConfMirror>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ConfMirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

impl Config {
    /// Reads the user's file, or the machine's: `$SHALE_CONFIG`, `$XDG_CONFIG_HOME/shale/config.toml`, `/etc/shale/config.toml`; the
    /// first that is there. The one that `SHALE_CONFIG` names must be.
    pub fn load(environment: &Environment) -> Result<Self, ConfigError> {
        if let Some(path) = environment.non_empty("SHALE_CONFIG") {
            let path = environment.resolve(Path::new(path));
            return match read(&path)? {
                Some(text) => parse(&path, &text),
                None => Err(ConfigError::Absent { path }),
            };
        }
        let own = config_home(environment).map(|dir| dir.join("shale/config.toml"));
        for path in own.into_iter().chain([PathBuf::from("/etc/shale/config.toml")]) {
            match read(&path) {
                Ok(Some(text)) => return parse(&path, &text),
                Ok(None) => {}
                // `HOME` is often another user's where only the id was changed. Docker goes on without its own file, too.
                Err(ConfigError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                    warn(&format!("going on without {}: {source}", path.display()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self::default())
    }

    /// Adds what it says about registries. Relative file names are taken from the working directory.
    pub fn apply(&self, environment: &Environment, registry: &mut RegistryConfig) {
        for (host, section) in &self.registry {
            let host = bare(host);
            if section.http {
                registry.plain_http.push(host.to_owned());
            }
            if section.insecure {
                registry.insecure.push(host.to_owned());
            }
            let files = section.ca.texts().iter().map(|path| environment.resolve(Path::new(path)));
            registry.host_ca_files.entry(host.to_owned()).or_default().extend(files);
            let mirrors = section.mirrors.iter().map(|at| Mirror { location: bare(at).to_owned(), by_digest_only: false });
            let mirrors: Vec<Mirror> = mirrors.collect();
            for at in section.mirrors.iter().filter(|at| at.starts_with("http://")) {
                registry.plain_http.push(host_of(bare(at)).to_owned());
            }
            if !mirrors.is_empty() {
                registry.places.push(Place { prefix: host.to_owned(), location: None, mirrors, is_blocked: false });
            }
        }
    }
}

/// Adds what podman's files say: the user's or the machine's `registries.conf`, and the `*.conf` in the folder beside it.
pub fn apply_registries_conf(environment: &Environment, registry: &mut RegistryConfig) -> Result<(), ConfigError> {
    let named = environment.non_empty("CONTAINERS_REGISTRIES_CONF").map(|path| environment.resolve(Path::new(path)));
    let own = config_home(environment).map(|dir| dir.join("containers/registries.conf"));
    let machine = PathBuf::from("/etc/containers/registries.conf");
    let candidates: Vec<PathBuf> = named.into_iter().chain(own).chain([machine]).collect();
    let Some(path) = candidates.iter().find(|path| path.is_file()) else { return Ok(()) };
    for path in std::iter::once(path.clone()).chain(drop_ins(path)) {
        if let Some(text) = read(&path)? {
            let conf: RegistriesConf = parse(&path, &text)?;
            conf.registry.iter().for_each(|one| add(one, registry));
        }
    }
    Ok(())
}

fn add(conf: &ConfRegistry, registry: &mut RegistryConfig) {
    let prefix = if conf.prefix.is_empty() { &conf.location } else { &conf.prefix };
    if prefix.is_empty() {
        return;
    }
    let location = Some(conf.location.clone()).filter(|at| !at.is_empty() && at != prefix);
    if conf.insecure {
        registry.insecure.push(host_of(location.as_deref().unwrap_or(prefix)).to_owned());
    }
    let mut mirrors = Vec::new();
    for mirror in conf.mirror.iter().filter(|mirror| !mirror.location.is_empty() && mirror.pull_from_mirror != "tag-only") {
        if mirror.insecure {
            registry.insecure.push(host_of(&mirror.location).to_owned());
        }
        let by_digest_only = conf.mirror_by_digest_only || mirror.pull_from_mirror == "digest-only";
        mirrors.push(Mirror { location: mirror.location.clone(), by_digest_only });
    }
    registry.places.push(Place { prefix: prefix.clone(), location, mirrors, is_blocked: conf.blocked });
}

fn drop_ins(path: &Path) -> Vec<PathBuf> {
    let dir = path.with_extension("conf.d");
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|ext| ext == "conf")).collect();
    files.sort();
    files
}

fn config_home(environment: &Environment) -> Option<PathBuf> {
    let xdg = environment.absolute_path("XDG_CONFIG_HOME").map(Path::to_path_buf);
    xdg.or_else(|| environment.home().map(|home| home.join(".config")))
}

/// The text of a file that may be absent.
fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(ConfigError::Io { path: path.into(), source }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(String::new(), |span| format!("line {}: ", text[..span.start].matches('\n').count() + 1));
        ConfigError::Toml { path: path.into(), detail: format!("{line}{}", error.message()) }
    })
}

/// A registry's address without scheme and without a slash at its end.
fn bare(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/')
}

fn host_of(address: &str) -> &str {
    address.split('/').next().unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::super::environment::test_environment;
    use super::*;

    #[test]
    fn registries_of_the_own_file() {
        let text = "[registry.\"docker.io\"]\nmirrors = [\"http://m.example:5000\", \"c.example/hub/\"]\n\
                    [registry.\"m.example:5000\"]\ninsecure = true\nca = \"own.pem\"\n[registry.\"p.example\"]\nhttp = true\nca = [\"/a\", \"/b\"]\n";
        let config: Config = parse(Path::new("c"), text).unwrap();
        let mut registry = RegistryConfig::default();
        config.apply(&test_environment(&[]), &mut registry);
        assert_eq!(registry.plain_http, ["m.example:5000", "p.example"]);
        assert_eq!(registry.insecure, ["m.example:5000"]);
        assert_eq!(registry.host_ca_files["m.example:5000"], [PathBuf::from("/work dir/own.pem")]);
        assert_eq!(registry.host_ca_files["p.example"].len(), 2);
        let mirrors: Vec<_> = registry.places[0].mirrors.iter().map(|m| m.location.as_str()).collect();
        assert_eq!((registry.places[0].prefix.as_str(), mirrors), ("docker.io", vec!["m.example:5000", "c.example/hub"]));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        for text in ["[registry.\"docker.io\"]\nmirors = []\n", "[registies]\n"] {
            let error = parse::<Config>(Path::new("c.toml"), text).unwrap_err().to_string();
            assert!(error.starts_with("cannot read c.toml: ") && error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn registries_conf_of_podman() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.conf");
        let text = "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"enforcing\"\n\
                    [[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"m.example/hub\"\ninsecure = true\n\
                    [[registry.mirror]]\nlocation = \"d.example\"\npull-from-mirror = \"digest-only\"\n\
                    [[registry]]\nprefix = \"old.example/team\"\nlocation = \"new.example/x\"\ninsecure = true\n";
        fs::write(&file, text).unwrap();
        fs::create_dir(dir.path().join("registries.conf.d")).unwrap();
        fs::write(dir.path().join("registries.conf.d/1.conf"), "[[registry]]\nprefix = \"*.bad.example\"\nblocked = true\n").unwrap();
        let environment = test_environment(&[("CONTAINERS_REGISTRIES_CONF", file.to_str().unwrap())]);
        let mut registry = RegistryConfig::default();
        apply_registries_conf(&environment, &mut registry).unwrap();
        assert_eq!(registry.insecure, ["m.example", "new.example"]);
        let [hub, old, bad] = &registry.places[..] else { panic!("{:?}", registry.places) };
        assert_eq!(hub.mirrors.iter().map(|m| m.by_digest_only).collect::<Vec<_>>(), [false, true]);
        assert_eq!((old.prefix.as_str(), old.location.as_deref()), ("old.example/team", Some("new.example/x")));
        assert!(bad.is_blocked && bad.location.is_none());
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let error = Config::load(&test_environment(&[("SHALE_CONFIG", "absent.toml")])).unwrap_err();
        assert_eq!(error.to_string(), "SHALE_CONFIG names /work dir/absent.toml, which is not there");
    }
}
