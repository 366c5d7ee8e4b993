//! The flags that stand before the command.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;

/// Docker's global flags. All but `--config` are about reaching a daemon, which there is none of.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// The directory of config.json, with the credentials of registries (default: `$DOCKER_CONFIG`, `~/.docker`).
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// The daemon to talk to.
    #[arg(short = 'H', long, hide = true, value_name = "HOST")]
    pub host: Vec<String>,
    /// The context to use.
    #[arg(short, long, hide = true, value_name = "NAME")]
    pub context: Option<String>,
    /// How much the client says.
    #[arg(short, long, hide = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Debug mode.
    #[arg(short = 'D', long, hide = true, value_parser = parse_bool, action = ArgAction::Set)]
    pub debug: bool,
    /// TLS to the daemon.
    #[arg(long, hide = true, value_parser = parse_bool, action = ArgAction::Set)]
    pub tls: bool,
    /// TLS to the daemon, verified.
    #[arg(long, hide = true, value_parser = parse_bool, action = ArgAction::Set)]
    pub tlsverify: bool,
    /// The authority of the daemon's certificate.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// The client's certificate.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// The client's key.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
}

/// The global flags that take a value, by every spelling.
pub(super) const WITH_VALUE: &[&str] =
    &["--config", "-H", "--host", "-c", "--context", "-l", "--log-level", "--tlscacert", "--tlscert", "--tlskey"];
