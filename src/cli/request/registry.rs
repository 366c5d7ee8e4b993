//! How registries and repositories are reached: credentials, proxies, certificates.

use std::path::{Path, PathBuf};

use crate::cli::args::RegistryArgs;
use crate::cli::config::{Config, ConfigError, apply_registries_conf};
use crate::cli::environment::Environment;
use crate::source::git::GitConfig;
use crate::source::registry::RegistryConfig;

/// Docker's `config.json`, wherever there is a place for one.
pub fn docker_config_file(environment: &Environment) -> Option<PathBuf> {
    let dir = environment.non_empty("DOCKER_CONFIG").map(|path| environment.resolve(Path::new(path)));
    Some(dir.or_else(|| environment.home().map(|home| home.join(".docker")))?.join("config.json"))
}

/// What talking to registries depends on, with a command's flags.
pub fn registry_config_with(environment: &Environment, args: &RegistryArgs) -> Result<RegistryConfig, ConfigError> {
    registry_config_of(environment, args, &Config::load(environment)?)
}

/// The same with a configuration that was read before.
pub(super) fn registry_config_of(environment: &Environment, args: &RegistryArgs, user: &Config) -> Result<RegistryConfig, ConfigError> {
    let mut config = without_flags(environment, user)?;
    if let Some(path) = &args.auth_file {
        config.auth_files.insert(0, environment.resolve(path));
    }
    config.insecure.extend(args.insecure_hosts.iter().cloned());
    config.ca_files.extend(args.ca_files.iter().map(|path| environment.resolve(path)));
    config.insecure_all = args.tls_verify.is_some_and(|verify| !verify.0);
    Ok(config)
}

/// What talking to registries depends on.
pub fn registry_config(environment: &Environment) -> Result<RegistryConfig, ConfigError> {
    without_flags(environment, &Config::load(environment)?)
}

fn without_flags(environment: &Environment, user: &Config) -> Result<RegistryConfig, ConfigError> {
    let own = |name: &str| environment.non_empty(name).map(str::to_owned);
    let proxy = |names: &[&str]| names.iter().find_map(|name| own(name));
    let path = |name| environment.non_empty(name).map(|path| environment.resolve(Path::new(path)));
    // A CGI server makes HTTP_PROXY of a request's header: there it is not read, as Go's programs do.
    let http_proxy = || if own("REQUEST_METHOD").is_some() { own("http_proxy") } else { proxy(&["http_proxy", "HTTP_PROXY"]) };
    let all_proxy = || proxy(&["all_proxy", "ALL_PROXY"]);
    let podman = [
        environment.absolute_path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        environment.home().map(|home| home.join(".config/containers/auth.json")),
    ];
    let home_certs = environment.home().map(|home| home.join(".docker/certs.d"));
    let mut config = RegistryConfig {
        auth_json: own("DOCKER_AUTH_CONFIG"),
        // Whoever names a file means it.
        auth_files: [path("REGISTRY_AUTH_FILE"), docker_config_file(environment)].into_iter().chain(podman).flatten().collect(),
        helper_path: own("PATH").map(Into::into),
        https_proxy: proxy(&["https_proxy", "HTTPS_PROXY"]).or_else(all_proxy),
        http_proxy: http_proxy().or_else(all_proxy),
        no_proxy: proxy(&["no_proxy", "NO_PROXY"]),
        system_ca_file: path("SSL_CERT_FILE"),
        system_ca_dir: path("SSL_CERT_DIR"),
        cert_dirs: ["/etc/docker/certs.d", "/etc/containers/certs.d"].into_iter().map(PathBuf::from).chain(home_certs).collect(),
        ..RegistryConfig::default()
    };
    user.apply(environment, &mut config);
    apply_registries_conf(environment, &mut config)?;
    Ok(config)
}

/// What fetching from git repositories depends on. Proxies are those that git itself reads.
pub(super) fn git_config(environment: &Environment) -> GitConfig {
    let own = |name: &str| environment.non_empty(name).map(str::to_owned);
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"];
    GitConfig {
        path: own("PATH"),
        proxies: proxies.iter().filter_map(|name| Some(((*name).to_owned(), own(name)?))).collect(),
        ssh_command: own("GIT_SSH_COMMAND"),
        agent: own("SSH_AUTH_SOCK").map(|path| environment.resolve(Path::new(&path))),
        is_guarded: true,
    }
}
