//! Commands that are groups of commands, as Docker has them.

use clap::Subcommand;

use super::build::BuildArgs;
use super::image::{ImagesArgs, InspectArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use super::registry::{PullArgs, PushArgs};
use super::store::PruneArgs;

/// `shale image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// List images.
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Print what is known about images as JSON.
    Inspect(InspectArgs),
    /// Remove images.
    #[command(visible_alias = "remove")]
    Rm(RmiArgs),
    /// Load images from a tar archive.
    Load(LoadArgs),
    /// Save images to a tar archive.
    Save(SaveArgs),
    /// Give an image another name.
    Tag(TagArgs),
    /// Upload an image to a registry.
    Push(PushArgs),
    /// Download an image from a registry.
    Pull(PullArgs),
}

/// `shale builder …`
#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    /// Build an image from a Dockerfile.
    Build(Box<BuildArgs>),
    /// Remove the build cache.
    Prune(PruneArgs),
}

/// `shale buildx …`
#[derive(Debug, Subcommand)]
pub enum BuildxCommand {
    /// Build an image from a Dockerfile.
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Remove the build cache.
    Prune(PruneArgs),
    /// Print the version.
    Version,
}
