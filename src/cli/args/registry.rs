//! The flags of the commands that talk to registries.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;

/// How registries are reached, for every command that does.
#[derive(Clone, Debug, Default, Args)]
pub struct RegistryArgs {
    /// A registry that may speak plain HTTP and whose certificate is not checked (`HOST[:PORT]`).
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_hosts: Vec<String>,
    /// A file with CA certificates that are trusted besides the system's.
    #[arg(long = "registry-ca", visible_alias = "ca-cert", value_name = "FILE")]
    pub ca_files: Vec<PathBuf>,
    /// A file with credentials that is read before all others.
    #[arg(long = "authfile", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// `--tls-verify=false`: no registry's certificate is checked, and plain HTTP will do.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls_verify: Option<Switch>,
}

/// A switch whose absence is not `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bool(text).map(Self)
    }
}

/// The flags that push and pull share.
#[derive(Clone, Debug, Args)]
pub struct TransferArgs {
    /// Every tag of the repository.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all_tags: bool,
    /// Print nothing but the name.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Accepted for Docker's sake: nothing is signed, and no signature is checked.
    #[arg(long, hide = true, value_parser = parse_bool, action = ArgAction::Set)]
    pub disable_content_trust: bool,
    /// The image of this platform.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `shale push`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale push [OPTIONS] NAME[:TAG]")]
pub struct PushArgs {
    /// The flags.
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// The name.
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

/// `shale pull`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale pull [OPTIONS] NAME[:TAG|@DIGEST]")]
pub struct PullArgs {
    /// The flags.
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// The name.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub name: String,
}

/// `shale login`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale login [OPTIONS] [SERVER]")]
pub struct LoginArgs {
    /// User name.
    #[arg(short, long, value_name = "USER")]
    pub username: Option<String>,
    /// Password or access token; `-` reads it from standard input.
    #[arg(short, long, value_name = "PASSWORD")]
    pub password: Option<String>,
    /// Read the password from standard input.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub password_stdin: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The registry (default: Docker Hub).
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `shale logout`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale logout [SERVER]")]
pub struct LogoutArgs {
    /// The registry (default: Docker Hub).
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}
