//! The flags of `shale build`.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{ArgAction, Args};

use super::super::flags::{OtherFlags, parse_bool, parse_pull};
use super::super::values::{Ulimit, parse_bytes, parse_ulimit};
use super::registry::RegistryArgs;

/// `shale build`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale build [OPTIONS] PATH | URL | -")]
pub struct BuildArgs {
    /// Add a host to /etc/hosts of RUN steps (`host:ip`).
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// Grant RUN steps what they get only when it is allowed (`security.insecure`, `network.host`, `device[=NAME]`).
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Annotate the manifest of the image (`[TYPE[PLATFORM]:]KEY=VALUE`).
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub annotations: Vec<String>,
    /// Set a build-time variable (`KEY=VALUE`, or `KEY` to take the value from the environment).
    #[arg(long = "build-arg", value_name = "KEY=VALUE")]
    pub build_args: Vec<String>,
    /// Add a named context (`name=path`, `name=docker-image://ref`, `name=oci-layout://path@digest`).
    #[arg(long = "build-context", value_name = "NAME=PATH")]
    pub build_contexts: Vec<String>,
    /// Ask about the Dockerfile instead of building it: check, outline or targets (`,format=json`).
    #[arg(long, value_name = "METHOD")]
    pub call: Option<String>,
    /// Look for violations of the rules of the language: `--call=check`.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub check: bool,
    /// Show warnings with their reasons and places.
    #[arg(short = 'D', long, value_parser = parse_bool, action = ArgAction::Set)]
    pub debug: bool,
    /// Tell every reason why a step ran, and why the others did not have to.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub explain: bool,
    /// Name of the Dockerfile (default: `PATH/Dockerfile`; `-` reads standard input).
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Write the image id to a file.
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Set a label of the image.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Load the result into the docker or podman of this machine. Called as `docker`, the local store is that place.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub load: bool,
    /// Write digests and names of the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Network of RUN steps: default, host or none.
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// Do not use the cache.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_cache: bool,
    /// Do not use the cache for these stages.
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Where the result goes (`type=oci,dest=out.tar`, `type=docker`, `type=local,dest=dir`, `type=tar,dest=-`, `type=cacheonly`).
    #[arg(short = 'o', long = "output", value_name = "SPEC")]
    pub outputs: Vec<String>,
    /// Target platforms of the build.
    #[arg(long = "platform", value_name = "OS/ARCH")]
    pub platforms: Vec<String>,
    /// The first name of `--call`.
    #[arg(long, value_name = "METHOD", hide = true)]
    pub print: Option<String>,
    /// How progress is shown: auto, tty, plain, quiet or rawjson.
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Always ask the registry for newer base images.
    #[arg(long, value_parser = parse_pull, action = ArgAction::Set)]
    pub pull: bool,
    /// Push the image to the registry that its names say, as `--output type=registry` does.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub push: bool,
    /// Print nothing but the image id.
    #[arg(short = 'q', long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Lend a secret to RUN steps that mount it (`id=NAME,src=FILE`, `id=NAME,env=VARIABLE`).
    #[arg(long = "secret", value_name = "ID=…")]
    pub secrets: Vec<String>,
    /// Size of /dev/shm in RUN steps.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub shm_size: Option<u64>,
    /// Lend an SSH agent to RUN steps that mount it (`default`, `id=SOCKET`).
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    pub agents: Vec<String>,
    /// Name of the image (`name:tag`).
    #[arg(short = 't', long = "tag", value_name = "NAME")]
    pub tags: Vec<String>,
    /// The stage to build.
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Resource limits of RUN steps (`name=soft[:hard]`).
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit)]
    pub ulimits: Vec<Ulimit>,
    /// Flags of other engines.
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub other: OtherFlags,
    /// The build context: a directory, a Git repository or an archive by its URL, or `-` for a tar archive or Dockerfile on standard input.
    // An empty one is no missing value, as clap would have it.
    #[arg(value_name = "PATH | URL | -", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub context: PathBuf,
}
