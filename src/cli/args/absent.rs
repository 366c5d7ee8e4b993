//! The commands about what Docker has beside images: containers, volumes, networks. There are none, which is what lists and prunings say.

use clap::{ArgAction, Args, Subcommand};

use super::super::flags::parse_bool;

/// `shale container …`
#[derive(Debug, Subcommand)]
pub enum ContainerCommand {
    /// List containers: there are none.
    #[command(visible_aliases = ["ps", "list"])]
    Ls(PsArgs),
    /// Print what is known about containers: there are none.
    #[command(override_usage = "shale container inspect [OPTIONS] CONTAINER [CONTAINER...]")]
    Inspect(AbsentInspectArgs),
    /// Remove stopped containers: there are none.
    #[command(override_usage = "shale container prune [OPTIONS]")]
    Prune(AbsentPruneArgs),
}

/// `shale volume …`
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes: there are none.
    #[command(visible_alias = "list")]
    Ls(VolumesArgs),
    /// Print what is known about volumes: there are none.
    #[command(override_usage = "shale volume inspect [OPTIONS] VOLUME [VOLUME...]")]
    Inspect(AbsentInspectArgs),
    /// Remove unused volumes: there are none.
    Prune(VolumePruneArgs),
}

/// `shale network …`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// List networks: there are none.
    #[command(visible_alias = "list")]
    Ls(NetworksArgs),
    /// Print what is known about networks: there are none.
    #[command(override_usage = "shale network inspect [OPTIONS] NETWORK [NETWORK...]")]
    Inspect(AbsentInspectArgs),
    /// Remove unused networks: there are none.
    #[command(override_usage = "shale network prune [OPTIONS]")]
    Prune(AbsentPruneArgs),
}

/// `shale ps`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale ps [OPTIONS]")]
pub struct PsArgs {
    /// Stopped ones too.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Only some.
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only the last ones.
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<String>,
    /// Only the last one.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub latest: bool,
    /// Whole ids.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// Ids only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Sizes too.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub size: bool,
}

/// `shale volume ls`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale volume ls [OPTIONS]")]
pub struct VolumesArgs {
    /// Only volumes of a cluster.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub cluster: bool,
    /// Only some.
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Names only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
}

/// `shale network ls`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale network ls [OPTIONS]")]
pub struct NetworksArgs {
    /// Only some.
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Whole ids.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// Ids only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
}

/// `shale container prune`, `shale network prune`
#[derive(Clone, Debug, Args)]
pub struct AbsentPruneArgs {
    /// Do not ask.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Only some.
    #[arg(long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
}

/// `shale volume prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale volume prune [OPTIONS]")]
pub struct VolumePruneArgs {
    /// Those with a name, too.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Like every pruning.
    #[command(flatten)]
    pub prune: AbsentPruneArgs,
}

/// `shale container inspect`, `shale volume inspect`, `shale network inspect`
#[derive(Clone, Debug, Args)]
pub struct AbsentInspectArgs {
    /// `json` or a template.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Sizes too.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub size: bool,
    /// Tell more.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub verbose: bool,
    /// Names or ids.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
