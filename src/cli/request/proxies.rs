//! `proxies` of Docker's `config.json`: build arguments that nobody gave, as docker buildx adds them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::registry::docker_config_file;
use crate::cli::environment::Environment;
use crate::oci::json;

/// The daemon that is meant when nobody names one: its entry may stand in the file.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    proxies: BTreeMap<String, Proxies>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Proxies {
    #[serde(rename = "httpProxy")]
    http: String,
    #[serde(rename = "httpsProxy")]
    https: String,
    #[serde(rename = "noProxy")]
    none: String,
    #[serde(rename = "ftpProxy")]
    ftp: String,
    #[serde(rename = "allProxy")]
    all: String,
}

/// Adds the proxies of the configured host, else those of `default`, each under both cases of its name, where no argument has it.
/// Returns a note if the file cannot be read.
pub(super) fn add(build_args: &mut BTreeMap<String, String>, environment: &Environment) -> Option<String> {
    let path = docker_config_file(environment)?;
    let text = std::fs::read(&path).ok()?;
    let file: ConfigFile = match json::read(&text) {
        Ok(file) => file,
        Err(error) => return Some(format!("no proxies are taken from {}: {error}", path.display())),
    };
    let host = environment.non_empty("DOCKER_HOST").unwrap_or(DEFAULT_HOST);
    add_from(build_args, &file, host);
    None
}

fn add_from(build_args: &mut BTreeMap<String, String>, file: &ConfigFile, host: &str) {
    let Some(proxies) = file.proxies.get(host).or_else(|| file.proxies.get("default")) else { return };
    let given: Vec<String> = build_args.keys().map(|name| name.to_ascii_lowercase()).collect();
    for (name, value) in [
        ("HTTP_PROXY", &proxies.http),
        ("HTTPS_PROXY", &proxies.https),
        ("NO_PROXY", &proxies.none),
        ("FTP_PROXY", &proxies.ftp),
        ("ALL_PROXY", &proxies.all),
    ] {
        let lower = name.to_ascii_lowercase();
        if !value.is_empty() && !given.contains(&lower) {
            build_args.insert(name.into(), value.clone());
            build_args.insert(lower, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(host: &str, given: &[(&str, &str)]) -> Vec<String> {
        let text = r#"{"auths": {}, "proxies": {"default": {"httpProxy": "h", "noProxy": "n"}, "tcp://far:1": {"httpsProxy": "s"}}}"#;
        let mut args = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        add_from(&mut args, &serde_json::from_str(text).unwrap(), host);
        args.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn the_host_s_own_entry_goes_before_the_default() {
        assert_eq!(with("unix:///x", &[]), ["HTTP_PROXY=h", "NO_PROXY=n", "http_proxy=h", "no_proxy=n"]);
        assert_eq!(with("tcp://far:1", &[]), ["HTTPS_PROXY=s", "https_proxy=s"]);
    }

    #[test]
    fn a_given_argument_of_any_case_stays_alone() {
        assert_eq!(with("unix:///x", &[("Http_Proxy", "mine")]), ["Http_Proxy=mine", "NO_PROXY=n", "no_proxy=n"]);
    }
}
