//! The flags of the commands that join the images of several platforms: `manifest …` and `buildx imagetools …`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::super::flags::parse_bool;
use super::registry::{RegistryArgs, Switch};

/// `shale manifest …`
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Change what a list says about one of its manifests.
    Annotate(AnnotateManifestArgs),
    /// Begin a list of manifests that are in a registry.
    Create(CreateManifestArgs),
    /// Print a manifest or a list.
    Inspect(InspectManifestArgs),
    /// Push a list to its repository.
    Push(PushManifestArgs),
    /// Remove lists that were not pushed.
    Rm(RemoveManifestArgs),
}

/// `shale manifest annotate`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale manifest annotate [OPTIONS] MANIFEST_LIST MANIFEST")]
pub struct AnnotateManifestArgs {
    /// The architecture.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub arch: String,
    /// The operating system.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub os: String,
    /// What the operating system must have.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub os_features: Vec<String>,
    /// The version of the operating system.
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,
    /// The variant of the architecture.
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// The list.
    #[arg(value_name = "MANIFEST_LIST")]
    pub list: String,
    /// The manifest, by the name that it was taken by.
    #[arg(value_name = "MANIFEST")]
    pub member: String,
}

/// `shale manifest create`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale manifest create MANIFEST_LIST MANIFEST [MANIFEST...]")]
pub struct CreateManifestArgs {
    /// Add to a list that exists.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub amend: bool,
    /// The registry may speak plain HTTP, and its certificate is not checked.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub insecure: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The list.
    #[arg(value_name = "MANIFEST_LIST")]
    pub list: String,
    /// Its manifests.
    #[arg(required = true, value_name = "MANIFEST")]
    pub members: Vec<String>,
}

/// `shale manifest inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale manifest inspect [OPTIONS] [MANIFEST_LIST] MANIFEST")]
pub struct InspectManifestArgs {
    /// The registry may speak plain HTTP, and its certificate is not checked.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub insecure: bool,
    /// Print names, platforms and bytes too.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub verbose: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// A list that was not pushed and one of its manifests, or a name.
    #[arg(required = true, num_args = 1..=2, value_name = "MANIFEST")]
    pub names: Vec<String>,
}

/// `shale manifest push`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale manifest push [OPTIONS] MANIFEST_LIST")]
pub struct PushManifestArgs {
    /// The registry may speak plain HTTP, and its certificate is not checked.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub insecure: bool,
    /// Remove the list when it is pushed.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub purge: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The list.
    #[arg(value_name = "MANIFEST_LIST")]
    pub list: String,
}

/// `shale manifest rm`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale manifest rm MANIFEST_LIST [MANIFEST_LIST...]")]
pub struct RemoveManifestArgs {
    /// The lists.
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    pub lists: Vec<String>,
}

/// `shale buildx imagetools …`
#[derive(Debug, Subcommand)]
pub enum ImagetoolsCommand {
    /// Join images that are in registries.
    Create(CreateIndexArgs),
    /// Print what a registry has under a name.
    Inspect(InspectIndexArgs),
}

/// `shale buildx imagetools create`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx imagetools create [OPTIONS] [SOURCE...]")]
pub struct CreateIndexArgs {
    /// Annotate the result (`index:KEY=VALUE`, `manifest-descriptor[PLATFORM]:KEY=VALUE`).
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Keep what the first --tag points to, and add to it.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub append: bool,
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// Print the result instead of pushing it.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub dry_run: bool,
    /// Read a source from a file: a reference, a digest or the JSON of a descriptor.
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Write what was made to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Only these platforms of the sources.
    #[arg(short, long = "platform", value_name = "OS/ARCH")]
    pub platforms: Vec<String>,
    /// Make an index of a single manifest, too (default); `=false` copies it as it is.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub prefer_index: Option<Switch>,
    /// How progress is shown: auto, none, plain, rawjson, tty.
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// A name for the result.
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub tags: Vec<String>,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// References, digests, or descriptors as JSON.
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

/// `shale buildx imagetools inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale buildx imagetools inspect [OPTIONS] NAME")]
pub struct InspectIndexArgs {
    /// There is one builder; its name is taken as it comes.
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    /// A template such as `{{json .Manifest}}` or `{{.Manifest.Digest}}`.
    #[arg(long, value_name = "FORMAT", default_value = "", hide_default_value = true)]
    pub format: String,
    /// Print the manifest or index as the registry has it.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub raw: bool,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// The name.
    #[arg(value_name = "NAME")]
    pub name: String,
}
