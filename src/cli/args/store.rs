//! The flags of the commands that manage the store.

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;
use super::super::values::parse_bytes;

/// `shale builder prune`, `shale buildx prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builder prune [OPTIONS]")]
pub struct PruneArgs {
    /// Remove all unused build cache, not just dangling ones.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Do not prompt for confirmation.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Only what a filter takes (`until=24h`, `type=exec.cachemount`, `id=…`).
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Amount of disk space to keep for cache; an older name of --reserved-space.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub keep_storage: Option<u64>,
    /// Amount of disk space always allowed to keep for cache.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub reserved_space: Option<u64>,
    /// Maximum amount of disk space allowed to keep for cache.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_used_space: Option<u64>,
    /// Target amount of free disk space after pruning.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub min_free_space: Option<u64>,
    /// Tell all about each entry.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub verbose: bool,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
}

/// `shale image prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale image prune [OPTIONS]")]
pub struct ImagePruneArgs {
    /// Remove all images, not just dangling ones.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Do not prompt for confirmation.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Only what a filter takes (`until=24h`, `label=KEY[=VALUE]`, `label!=…`, `dangling=true`).
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

/// `shale system prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale system prune [OPTIONS]")]
pub struct SystemPruneArgs {
    /// Remove all images and all build cache, not just what is dangling.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Do not prompt for confirmation.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Prune anonymous volumes; there are none.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub volumes: bool,
    /// Only what a filter takes (`until=24h`, `label=KEY[=VALUE]`).
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
}

/// `shale system df`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale system df [OPTIONS]")]
pub struct DfArgs {
    /// `json`, `table` or a template such as `{{.Type}} {{.Size}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show each image and each entry of the build cache.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub verbose: bool,
}

/// `shale buildx du`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx du [OPTIONS]")]
pub struct DuArgs {
    /// Only what a filter takes.
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Tell all about each entry.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub verbose: bool,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
}

/// `shale store verify`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale store verify [OPTIONS]")]
pub struct VerifyArgs {
    /// Remove what is damaged, so that the next build makes it again.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub repair: bool,
}

/// `shale version`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale version [OPTIONS]")]
pub struct VersionArgs {
    /// `json` or a template such as `{{.Client.Version}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}
