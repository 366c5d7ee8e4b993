//! The flags of the commands about past builds.

use clap::{ArgAction, Args, Subcommand};

use super::super::flags::parse_bool;

/// `shale explain`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale explain [OPTIONS] [BUILD]")]
pub struct ExplainArgs {
    /// `json` prints everything that is on record.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Its id or the beginning of it, `^1` for the one before the last, an image or a context (default: the last one here).
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
}

/// `shale builds`
#[derive(Debug, Args)]
#[command(override_usage = "shale builds [OPTIONS] [COMMAND]", args_conflicts_with_subcommands = true)]
pub struct BuildsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: Option<BuildsCommand>,
    /// Without a command they are listed.
    #[command(flatten)]
    pub list: BuildsListArgs,
}

/// What can be done with past builds.
#[derive(Debug, Subcommand)]
pub enum BuildsCommand {
    /// List builds.
    #[command(visible_alias = "list")]
    Ls(BuildsListArgs),
    /// Print what is on record of a build.
    Inspect(BuildInspectArgs),
    /// Print what the steps of a build wrote.
    Logs(BuildLogsArgs),
    /// Remove records and logs of builds.
    #[command(visible_alias = "remove")]
    Rm(BuildsRemoveArgs),
}

/// `shale builds ls`
#[derive(Clone, Debug, Default, Args)]
#[command(override_usage = "shale builds ls [OPTIONS]")]
pub struct BuildsListArgs {
    /// `table`, `json` or a template such as `{{.Ref}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only some (`status=failed`, `ref=…`, `startedAt>24h`, `duration>1m`).
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Print whole values.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// Print ids only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Only builds of the Git repository around the working directory.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub local: bool,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
}

/// `shale builds inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builds inspect [OPTIONS] [BUILD]")]
pub struct BuildInspectArgs {
    /// `pretty`, `json` or a template such as `{{.Status}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// As for `shale explain`.
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
}

/// `shale builds logs`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builds logs [OPTIONS] [BUILD]")]
pub struct BuildLogsArgs {
    /// `plain`; there is no other.
    #[arg(long, value_name = "TYPE", default_value = "plain", value_parser = ["plain", "auto"], hide_possible_values = true)]
    pub progress: String,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// As for `shale explain`.
    #[arg(value_name = "BUILD")]
    pub build: Option<String>,
}

/// `shale builds rm`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builds rm [OPTIONS] [BUILD...]")]
pub struct BuildsRemoveArgs {
    /// Remove all that do not run.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// As for `shale explain`.
    #[arg(value_name = "BUILD")]
    pub builds: Vec<String>,
}
