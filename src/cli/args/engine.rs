//! The flags of commands that ask about an engine: `info`, builders. Most answers are fixed.

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;

/// `shale info`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale info [OPTIONS]")]
pub struct FormatArgs {
    /// `json` or a template such as `{{.ServerVersion}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// `shale buildx create`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx create [OPTIONS] [CONTEXT|ENDPOINT]")]
pub struct CreateBuilderArgs {
    /// The name to print.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How a builder of Docker's runs.
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// A node of the builder.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Platforms of the node.
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// Options of the driver.
    #[arg(long, value_name = "KEY=VALUE")]
    pub driver_opt: Vec<String>,
    /// Flags of BuildKit's daemon.
    #[arg(long, value_name = "FLAGS")]
    pub buildkitd_flags: Option<String>,
    /// Settings of BuildKit's daemon.
    #[arg(long, visible_alias = "config", value_name = "FILE")]
    pub buildkitd_config: Option<String>,
    /// Start it at once.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub bootstrap: bool,
    /// Add a node.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub append: bool,
    /// Remove a node.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub leave: bool,
    /// Make it the current one.
    #[arg(long = "use", value_parser = parse_bool, action = ArgAction::Set)]
    pub uses: bool,
    /// How long its state is waited for.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Where it runs.
    #[arg(value_name = "CONTEXT|ENDPOINT")]
    pub endpoint: Option<String>,
}

/// `shale buildx use`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx use [OPTIONS] NAME")]
pub struct UseBuilderArgs {
    /// For all contexts.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub global: bool,
    /// For this context.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub default: bool,
    /// The name, as a flag.
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// The name.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `shale buildx inspect`, `shale buildx stop`
#[derive(Clone, Debug, Args)]
pub struct BuilderArgs {
    /// Start it first.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub bootstrap: bool,
    /// The name, as a flag.
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// How long its state is waited for.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// The name.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `shale buildx ls`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx ls")]
pub struct BuilderListArgs {
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// All platforms.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// How long their state is waited for.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
}

/// `shale buildx rm`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx rm [OPTIONS] [NAME...]")]
pub struct RemoveBuilderArgs {
    /// The name, as a flag.
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// All that do not run.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all_inactive: bool,
    /// Do not ask.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Keep its state.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub keep_state: bool,
    /// Keep its daemon.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub keep_daemon: bool,
    /// How long its state is waited for.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// Names.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}
