//! The flags of the commands that manage images.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;

/// `shale images`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale images [OPTIONS] [REPOSITORY[:TAG]]")]
pub struct ImagesArgs {
    /// Accepted for Docker's sake: there are no intermediate images to show.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Print ids only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Print whole ids.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// `json`, `table` or a template such as `{{.Repository}}:{{.Tag}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show only images of this name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `shale inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale inspect [OPTIONS] NAME|ID...")]
pub struct InspectArgs {
    /// `json` or a template such as `{{.Id}}` or `{{json .Config}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only objects of this kind; there are only images.
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<String>,
    /// Names or ids.
    #[arg(required = true, value_name = "NAME|ID")]
    pub names: Vec<String>,
}

/// `shale rmi`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale rmi [OPTIONS] IMAGE...")]
pub struct RmiArgs {
    /// Remove an id with all its names; say nothing about what does not exist.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `shale load`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale load [OPTIONS]")]
pub struct LoadArgs {
    /// The archive (default: standard input).
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Print only what was loaded.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
}

/// `shale save`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale save [OPTIONS] IMAGE...")]
pub struct SaveArgs {
    /// The archive (default: standard output).
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `shale tag`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale tag SOURCE[:TAG] TARGET[:TAG]")]
pub struct TagArgs {
    /// A name or id.
    #[arg(value_name = "SOURCE[:TAG]")]
    pub source: String,
    /// The new name.
    #[arg(value_name = "TARGET[:TAG]")]
    pub target: String,
}
