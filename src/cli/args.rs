//! The command line as typed data: every command and flag, nothing resolved yet.
//!
//! The spelling is Docker's (pflag): boolean flags take `=true|false|1|0`, a value may start with a dash, a repeated
//! single-valued flag takes its last value, short flags cluster (`-qt name`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::flags::{self, OtherFlags, parse_bool};

/// Builds OCI images from Dockerfiles, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(name = "shale", bin_name = "shale", version = concat!("version ", env!("CARGO_PKG_VERSION")))]
#[command(disable_version_flag = true, disable_help_subcommand = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print the version and exit.
    #[arg(short = 'v', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile.
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// List images.
    Images(ImagesArgs),
    /// Manage images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Print what is known about images as JSON.
    Inspect(InspectArgs),
    /// Remove images.
    Rmi(RmiArgs),
    /// Load images from a tar archive.
    Load(LoadArgs),
    /// Save images to a tar archive.
    Save(SaveArgs),
    /// Give an image another name.
    Tag(TagArgs),
    /// Manage what builds left in the store.
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Docker's name for the build commands.
    #[command(subcommand, hide = true)]
    Buildx(BuildxCommand),
    /// Say what this machine offers to builds, and what is missing.
    Doctor,
    /// Print the version.
    Version(VersionArgs),
}

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

/// `shale build`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale build [OPTIONS] PATH | -")]
pub struct BuildArgs {
    /// Add a host to /etc/hosts of RUN steps (`host:ip`).
    #[arg(long = "add-host", value_name = "HOST:IP")]
    pub add_hosts: Vec<String>,
    /// Set a build-time variable (`KEY=VALUE`, or `KEY` to take the value from the environment).
    #[arg(long = "build-arg", value_name = "KEY=VALUE")]
    pub build_args: Vec<String>,
    /// Add a named context (`name=path`, `name=docker-image://ref`, `name=oci-layout://path@digest`).
    #[arg(long = "build-context", value_name = "NAME=PATH")]
    pub build_contexts: Vec<String>,
    /// Name of the Dockerfile (default: `PATH/Dockerfile`; `-` reads standard input).
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Write the image id to a file.
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Set a label of the image.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Write digests and names of the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Network of RUN steps: default, host or none.
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// Do not use the cache.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub no_cache: bool,
    /// Where the result goes (`type=oci,dest=out.tar`, `type=docker`, `type=local,dest=dir`, `type=tar,dest=-`, `type=cacheonly`).
    #[arg(short = 'o', long = "output", value_name = "SPEC")]
    pub outputs: Vec<String>,
    /// Target platforms of the build.
    #[arg(long = "platform", value_name = "OS/ARCH")]
    pub platforms: Vec<String>,
    /// How progress is shown: auto, tty, plain or quiet.
    #[arg(long, value_name = "MODE")]
    pub progress: Option<String>,
    /// Always ask the registry for newer base images.
    #[arg(long, value_parser = parse_bool, action = ArgAction::Set)]
    pub pull: bool,
    /// Print nothing but the image id.
    #[arg(short = 'q', long, value_parser = parse_bool, action = ArgAction::Set)]
    pub quiet: bool,
    /// Lend a secret to RUN steps that mount it (`id=NAME,src=FILE`, `id=NAME,env=VARIABLE`).
    #[arg(long = "secret", value_name = "ID=…")]
    pub secrets: Vec<String>,
    /// Size of /dev/shm in RUN steps.
    #[arg(long, value_name = "BYTES", value_parser = super::values::parse_bytes)]
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
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = super::values::parse_ulimit)]
    pub ulimits: Vec<super::values::Ulimit>,
    /// Flags of other engines.
    #[command(flatten)]
    pub other: OtherFlags,
    /// The build context: a directory, or `-` for a tar archive or Dockerfile on standard input.
    #[arg(value_name = "PATH | -")]
    pub context: PathBuf,
}

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

/// `shale builder prune`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale builder prune --all --force")]
pub struct PruneArgs {
    /// Remove all of the build cache. Images stay.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub all: bool,
    /// Do not ask.
    #[arg(short, long, value_parser = parse_bool, action = ArgAction::Set)]
    pub force: bool,
}

/// `shale version`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale version [OPTIONS]")]
pub struct VersionArgs {
    /// `json` or a template such as `{{.Client.Version}}`.
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

/// Why a command line was not taken, or what it asked to print instead.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--help` and `--version`: the text for standard output, exit 0.
    Print(String),
    /// A wrong flag or flag value: text for standard error, exit 125 as Docker's.
    Flag(String),
    /// Anything else: text for standard error, exit 1.
    Usage(String),
}

/// Commands of `docker` that shale does not have, with what to say.
const OTHER_COMMANDS: &[(&[&str], &str)] = &[
    (
        &["run", "exec", "create", "start", "stop", "top", "port", "ps", "logs", "cp", "rm", "kill", "wait", "attach", "commit"],
        "shale builds images and runs no containers",
    ),
    (&["pull", "push", "login", "logout", "search", "manifest"], "registries are read by builds only so far"),
    (
        &["history", "import", "export", "info", "system", "context", "compose", "bake", "buildx bake", "imagetools"],
        "it is not supported yet",
    ),
];

/// Reads a command line; `argv[0]` is not looked at.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, Refusal> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let parsed = as_pflag(Cli::command()).try_get_matches_from(&argv).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| refusal(&error, &argv))
}

/// Gives every flag the manners of Docker's flag library: switches take `=value`, and what follows another flag is its value.
fn as_pflag(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        if arg.is_positional() || matches!(arg.get_action(), ArgAction::Version | ArgAction::Help) {
            arg
        } else if arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>() {
            // `required` was set by the derive, which saw no default.
            arg.required(false)
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .hide_default_value(true)
        } else {
            arg.allow_hyphen_values(true)
        }
    });
    command.mut_subcommands(as_pflag)
}

/// Words a clap error as Docker would.
fn refusal(error: &clap::Error, argv: &[OsString]) -> Refusal {
    let path = command_path(argv);
    let usage = usage_of(argv);
    let tail = format!("\n\nUsage:  {usage}\n\nRun '{path} --help' for more information");
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Refusal::Print(error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Refusal::Usage(error.render().to_string().trim_end().into())
        }
        ErrorKind::UnknownArgument if arg.starts_with('-') && arg != "-" => {
            let name = arg.trim_start_matches('-');
            if path.ends_with("build") && arg.starts_with("--") && flags::is_of_another_tool(name) {
                return Refusal::Usage(format!("ERROR: {arg} is not supported yet"));
            }
            let what = if arg.starts_with("--") { format!("unknown flag: {arg}") } else { format!("unknown shorthand flag: {arg}") };
            let guess = context(ContextKind::SuggestedArg).map(|s| format!("\nDid you mean {s}?")).unwrap_or_default();
            Refusal::Flag(format!("{what}{guess}{tail}"))
        }
        ErrorKind::UnknownArgument => Refusal::Usage(format!("'{path}' does not take the argument {arg:?}{tail}")),
        ErrorKind::MissingRequiredArgument => Refusal::Usage(format!("'{path}' requires {}{tail}", wanted(&path))),
        ErrorKind::InvalidValue if value.is_empty() => Refusal::Flag(format!("flag needs an argument: {}{tail}", flag_name(&arg))),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let reason = std::error::Error::source(error).map(|e| format!(": {e}")).unwrap_or_default();
            Refusal::Flag(format!("invalid argument {value:?} for {:?} flag{reason}{tail}", flag_name(&arg)))
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            if let Some((_, why)) = OTHER_COMMANDS.iter().find(|(names, _)| names.contains(&name.as_str())) {
                let text = format!("ERROR: '{path} {name}' is not supported: {why}");
                // `docker run` and its like answer with 125 for errors of their own.
                return if why.contains("containers") { Refusal::Flag(text) } else { Refusal::Usage(text) };
            }
            let guess = context(ContextKind::SuggestedSubcommand).map(|s| format!("\nDid you mean {s}?")).unwrap_or_default();
            Refusal::Usage(format!("unknown command: {path} {name}{guess}\n\nRun '{path} --help' for more information"))
        }
        _ => Refusal::Usage(error.render().to_string().trim_end().into()),
    }
}

/// `--tag <NAME>` → `--tag`.
fn flag_name(arg: &str) -> &str {
    arg.split([' ', '[', '=']).next().unwrap_or(arg)
}

/// What a command line without its arguments lacks.
fn wanted(path: &str) -> &'static str {
    match path {
        "shale tag" | "shale image tag" => "2 arguments",
        _ if path.ends_with("build") => "1 argument",
        _ => "at least 1 argument",
    }
}

/// The commands that a command line names: `shale image ls`.
fn command_path(argv: &[OsString]) -> String {
    let (path, _) = deepest(argv);
    path
}

/// The usage line of the command that a command line names.
fn usage_of(argv: &[OsString]) -> String {
    let (_, mut command) = deepest(argv);
    let usage = command.render_usage().to_string();
    usage.strip_prefix("Usage: ").unwrap_or(&usage).trim().to_owned()
}

fn deepest(argv: &[OsString]) -> (String, clap::Command) {
    let mut command = Cli::command();
    let mut path = String::from("shale");
    for word in argv.iter().skip(1).filter_map(|word| word.to_str()) {
        let Some(found) = command.find_subcommand(word).cloned() else { break };
        path = format!("{path} {}", found.get_name());
        command = found.bin_name(path.clone());
    }
    (path, command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(line: &str) -> Result<Cli, Refusal> {
        parse(std::iter::once("shale").chain(line.split_whitespace()).map(OsString::from))
    }

    fn build(line: &str) -> BuildArgs {
        match cli(line).map(|cli| cli.command) {
            Ok(Command::Build(args) | Command::Image(ImageCommand::Build(args)) | Command::Buildx(BuildxCommand::Build(args))) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_spelled_as_docker_spells_them() {
        let args = build(
            "build -qt a:b --no-cache=1 --pull=false --pull -t=c --tag d --label -x=1 --build-arg=A=b=c -f - --progress plain --progress tty .",
        );
        assert_eq!(args.tags, ["a:b", "c", "d"]);
        assert!(args.quiet && args.no_cache && args.pull);
        assert_eq!(args.labels, ["-x=1"]);
        assert_eq!(args.build_args, ["A=b=c"]);
        assert_eq!(args.file, Some("-".into()));
        assert_eq!(args.progress.as_deref(), Some("tty"));
        assert_eq!(args.context, PathBuf::from("."));
        assert!(!build("build --no-cache=false -q=0 -").no_cache);
    }

    #[test]
    fn build_has_docker_s_other_names() {
        for line in ["build .", "image build .", "buildx build .", "builder build .", "buildx b ."] {
            assert!(cli(line).is_ok(), "{line}: {:?}", cli(line));
        }
    }

    #[test]
    fn the_context_may_stand_first_or_after_dashes() {
        assert_eq!(build("build ctx -t a").tags, ["a"]);
        assert_eq!(build("build -t a -- ctx").context, PathBuf::from("ctx"));
    }

    #[test]
    fn a_wrong_flag_is_refused_as_docker_refuses_it() {
        for (line, start) in [
            (
                "build --ttag x .",
                "unknown flag: --ttag\nDid you mean --tag?\n\nUsage:  shale build [OPTIONS] PATH | -\n\nRun 'shale build --help' for more information",
            ),
            ("build -z .", "unknown shorthand flag: -z\n\nUsage:"),
            ("build --tag", "flag needs an argument: --tag\n"),
            ("build --no-cache=maybe .", "invalid argument \"maybe\" for \"--no-cache\" flag: \"maybe\" is neither true nor false\n"),
            ("build --shm-size=x .", "invalid argument \"x\" for \"--shm-size\" flag: invalid size: \"x\"\n"),
            (
                "build --ulimit=nofile=5:3 .",
                "invalid argument \"nofile=5:3\" for \"--ulimit\" flag: ulimit soft limit must be less than or equal to hard limit: 5 > 3\n",
            ),
            ("images --bogus", "unknown flag: --bogus\n\nUsage:  shale images [OPTIONS] [REPOSITORY[:TAG]]\n"),
            ("run --rm x", "ERROR: 'shale run' is not supported: shale builds images and runs no containers"),
        ] {
            match cli(line) {
                Err(Refusal::Flag(text)) => assert!(text.starts_with(start), "{line}:\n{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn other_mistakes_have_their_own_words() {
        for (line, start) in [
            ("build", "'shale build' requires 1 argument\n\nUsage:  shale build [OPTIONS] PATH | -\n"),
            ("build -t a . extra", "'shale build' does not take the argument \"extra\"\n"),
            ("build --squash-all .", "ERROR: --squash-all is not supported yet"),
            ("tag a", "'shale tag' requires 2 arguments\n"),
            ("bild .", "unknown command: shale bild\nDid you mean build?\n"),
            ("push x", "ERROR: 'shale push' is not supported: registries are read by builds only so far"),
        ] {
            match cli(line) {
                Err(Refusal::Usage(text)) => assert!(text.starts_with(start), "{line}:\n{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_version_reads_like_docker_s() {
        for line in ["-v", "--version"] {
            assert_eq!(cli(line).unwrap_err(), Refusal::Print(format!("shale version {}\n", env!("CARGO_PKG_VERSION"))));
        }
    }
}
