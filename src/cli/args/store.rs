//! The flags of the commands that manage the store.

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;

/// `shale builder prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builder prune --all --force")]
pub struct PruneArgs {
    /// Remove all of the build cache. Images stay.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Do not ask.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
}

/// `shale version`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale version [OPTIONS]")]
pub struct VersionArgs {
    /// `json` or a template such as `{{.Client.Version}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}
