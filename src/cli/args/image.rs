//! The flags of the commands that manage images.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::super::flags::parse_bool;
use super::registry::RegistryArgs;

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
    /// Print digests too.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub digests: bool,
    /// Show only some: `dangling=true`, `label=KEY[=VALUE]`, `reference=PATTERN`, `before=IMAGE`, `since=IMAGE`, `until=TIME`.
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    pub filters: Vec<String>,
    /// `json`, `table`, `table TEMPLATE` or a template such as `{{.Repository}}:{{.Tag}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show only images of this name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `shale inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale inspect [OPTIONS] NAME|ID [NAME|ID...]")]
pub struct InspectArgs {
    /// `json` or a template such as `{{.Id}}` or `{{json .Config}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only objects of this kind; there are only images.
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<String>,
    /// Accepted for Docker's sake: it is about containers.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub size: bool,
    /// Names or ids.
    #[arg(required = true, value_name = "NAME|ID")]
    pub names: Vec<String>,
}

/// `shale image inspect`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale image inspect [OPTIONS] IMAGE [IMAGE...]")]
pub struct ImageInspectArgs {
    /// `json` or a template such as `{{.Id}}` or `{{json .Config}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only for an image of this platform; it must be one of those that the image is for.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    pub names: Vec<String>,
}

/// `shale history`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale history [OPTIONS] IMAGE")]
pub struct HistoryArgs {
    /// Print ids only.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Print whole ids and instructions.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_trunc: bool,
    /// Print sizes and times for people (default; `--human=false` prints numbers).
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub human: Option<String>,
    /// `json`, `table`, `table TEMPLATE` or a template such as `{{.CreatedBy}}`.
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only for an image of this platform; it must be one of those that the image is for.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// A name or id.
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `shale rmi`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale rmi [OPTIONS] IMAGE [IMAGE...]")]
pub struct RmiArgs {
    /// Remove an id with all its names; exit with 0 although something does not exist.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
    /// Accepted for Docker's sake: there are no untagged parents.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_prune: bool,
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
    /// Of an archive for several platforms only the image of this one (default: all that it holds).
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Print only what was loaded.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
}

/// `shale import`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]")]
pub struct ImportArgs {
    /// Apply an instruction of a Dockerfile to the image (`CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`,
    /// `STOPSIGNAL`, `USER`, `VOLUME`, `WORKDIR`).
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    pub changes: Vec<String>,
    /// The comment of the image's history (default: where it came from).
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// What the files are for.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// How registries, and so web servers, are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// A tar, compressed or not; `-` is standard input.
    #[arg(value_name = "file|URL|-")]
    pub source: String,
    /// The name of the image.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}

/// `shale save`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale save [OPTIONS] IMAGE [IMAGE...]")]
pub struct SaveArgs {
    /// The archive (default: standard output).
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only for an image of this platform; it must be one of those that the image is for.
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Names or ids.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// `shale tag`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]")]
pub struct TagArgs {
    /// A name or id.
    #[arg(value_name = "SOURCE[:TAG]")]
    pub source: String,
    /// The new name.
    #[arg(value_name = "TARGET[:TAG]")]
    pub target: String,
}
