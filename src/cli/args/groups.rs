//! Commands that are groups of commands, as Docker has them.

use clap::{ArgAction, Args, Subcommand};

use super::super::flags::parse_bool;

use super::build::BuildArgs;
use super::builds::BuildsCommand;
use super::engine::{BuilderArgs, BuilderListArgs, CreateBuilderArgs, FormatArgs, RemoveBuilderArgs, UseBuilderArgs};
use super::image::{HistoryArgs, ImageInspectArgs, ImagesArgs, ImportArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use super::manifest::ImagetoolsCommand;
use super::registry::{PullArgs, PushArgs};
use super::store::{DfArgs, DuArgs, ImagePruneArgs, PruneArgs, SystemPruneArgs, VerifyArgs};

/// `shale image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// List images.
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Print what is known about images as JSON.
    Inspect(ImageInspectArgs),
    /// Show the steps that made an image.
    History(HistoryArgs),
    /// Remove images.
    #[command(visible_aliases = ["remove", "rmi"])]
    Rm(RmiArgs),
    /// Load images from a tar archive.
    Load(LoadArgs),
    /// Save images to a tar archive.
    Save(SaveArgs),
    /// Make an image of a tar of files.
    Import(ImportArgs),
    /// Give an image another name.
    Tag(TagArgs),
    /// Upload an image to a registry.
    Push(PushArgs),
    /// Download an image from a registry.
    Pull(PullArgs),
    /// Remove unused images.
    Prune(ImagePruneArgs),
}

/// `shale store …`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Read the whole store and say what in it is damaged.
    Verify(VerifyArgs),
}

/// `shale builder …`
#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// Remove the build cache.
    Prune(PruneArgs),
    /// Show what the build cache takes.
    Du(DuArgs),
}

/// `shale buildx …`
#[derive(Debug, Subcommand)]
pub enum BuildxCommand {
    /// Build an image from a Dockerfile.
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Remove the build cache.
    Prune(PruneArgs),
    /// Show what the build cache takes.
    Du(DuArgs),
    /// Docker's name for the commands about past builds.
    #[command(subcommand)]
    History(BuildsCommand),
    /// Look at images in registries, and join them.
    #[command(subcommand)]
    Imagetools(ImagetoolsCommand),
    /// Print the version.
    Version,
    /// Accepted for Docker's sake: this process is the builder.
    Create(CreateBuilderArgs),
    /// Accepted for Docker's sake: there is one builder.
    Use(UseBuilderArgs),
    /// List the one builder.
    Ls(BuilderListArgs),
    /// Print what is known about the builder.
    Inspect(BuilderArgs),
    /// Accepted for Docker's sake: there is nothing to remove.
    Rm(RemoveBuilderArgs),
    /// Accepted for Docker's sake: there is nothing to stop.
    Stop(BuilderArgs),
    /// Accepted for Docker's sake: `docker build` is this builder already.
    Install,
    /// Accepted for Docker's sake.
    Uninstall,
}

/// `shale system …`
#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    /// Print what is known about this installation.
    Info(FormatArgs),
    /// Show what the store takes.
    Df(DfArgs),
    /// Remove unused data.
    Prune(SystemPruneArgs),
}

/// `shale context …`: there is one, the machine itself.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the one context.
    #[command(visible_alias = "list")]
    Ls(ContextListArgs),
    /// Print the name of the context.
    Show,
    /// Accepted for Docker's sake, for the context `default`.
    Use {
        /// The name.
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
    /// Print what is known about the context.
    Inspect {
        /// `json` or a template.
        #[arg(short, long, value_name = "FORMAT")]
        format: Option<String>,
        /// Names.
        #[arg(value_name = "CONTEXT")]
        names: Vec<String>,
    },
}

/// `shale context ls`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale context ls [OPTIONS]")]
pub struct ContextListArgs {
    /// `json`, `table` or a template.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print names only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
}
