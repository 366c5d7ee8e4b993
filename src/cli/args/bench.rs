//! The flags of `shale bench`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// `shale bench`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale bench [OPTIONS] [CONTEXT]")]
pub struct BenchArgs {
    /// The Dockerfile (default: that of the context).
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The base of the built-in sample, which is built when no context is given (default: an image of the store, or busybox).
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<String>,
    /// How often everything is built; the medians are shown.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// The file of the context that is edited (default: the one that was changed last).
    #[arg(long, value_name = "FILE")]
    pub touch: Option<PathBuf>,
    /// Other builders on PATH to compare with: docker, buildah, podman.
    #[arg(long, value_name = "TOOL,…", value_delimiter = ',')]
    pub against: Vec<String>,
    /// `table` or `json`.
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"], hide_possible_values = true)]
    pub format: String,
    /// Where to write a chart.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// As for `shale build`.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", action = ArgAction::Append)]
    pub build_args: Vec<String>,
    /// As for `shale build`, of a directory. It is read where it is.
    #[arg(long = "build-context", value_name = "NAME=DIR")]
    pub build_contexts: Vec<String>,
    /// As for `shale build`.
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// As for `shale build`.
    #[arg(long = "secret", value_name = "ID=…")]
    pub secrets: Vec<String>,
    /// As for `shale build`.
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    pub agents: Vec<String>,
    /// As for `shale build`.
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// As for `shale build`.
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// A directory. It is copied; nothing in it changes.
    #[arg(value_name = "CONTEXT")]
    pub context: Option<PathBuf>,
}
