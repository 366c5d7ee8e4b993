//! The command line as typed data: every command and flag, nothing resolved yet.
//!
//! The spelling is Docker's (pflag): boolean flags take `=true|false|1|0`, a value may start with a dash, a repeated
//! single-valued flag takes its last value, short flags cluster (`-qt name`).

mod absent;
mod bench;
mod build;
mod builds;
mod engine;
mod global;
mod groups;
mod image;
mod manifest;
mod refusal;
mod registry;
mod store;

use std::ffi::OsString;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::program::Program;

pub use absent::{
    AbsentInspectArgs, AbsentPruneArgs, ContainerCommand, NetworkCommand, NetworksArgs, PsArgs, VolumeCommand, VolumePruneArgs, VolumesArgs,
};
pub use bench::BenchArgs;
pub use build::BuildArgs;
pub use builds::{BuildInspectArgs, BuildLogsArgs, BuildsArgs, BuildsCommand, BuildsListArgs, BuildsRemoveArgs, ExplainArgs};
pub use engine::{BuilderArgs, BuilderListArgs, CreateBuilderArgs, FormatArgs, RemoveBuilderArgs, UseBuilderArgs};
pub use global::GlobalArgs;
pub use groups::{BuilderCommand, BuildxCommand, ContextCommand, ContextListArgs, ImageCommand, StoreCommand, SystemCommand};
pub use image::{HistoryArgs, ImageInspectArgs, ImagesArgs, ImportArgs, InspectArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
pub use manifest::{
    AnnotateManifestArgs, CreateIndexArgs, CreateManifestArgs, ImagetoolsCommand, InspectIndexArgs, InspectManifestArgs, ManifestCommand,
    PushManifestArgs, RemoveManifestArgs,
};
pub use registry::{LoginArgs, LogoutArgs, PullArgs, PushArgs, RegistryArgs};
pub use store::{DfArgs, DuArgs, ImagePruneArgs, PruneArgs, SystemPruneArgs, VerifyArgs, VersionArgs};

/// Builds OCI images from Dockerfiles, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(name = "shale", bin_name = "shale", version = "as the program's name asks")]
#[command(
    override_usage = "shale [OPTIONS] COMMAND [ARG...]",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true
)]
pub struct Cli<C: Subcommand = Command> {
    /// What to do.
    #[command(subcommand)]
    pub command: C,
    /// What stands before the command.
    #[command(flatten)]
    pub global: GlobalArgs,
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
    /// Show the steps that made an image.
    History(HistoryArgs),
    /// Remove images.
    Rmi(RmiArgs),
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
    /// Log in to a registry.
    Login(LoginArgs),
    /// Log out from a registry.
    Logout(LogoutArgs),
    /// Make lists of manifests, one for each platform of an image.
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Manage what builds left in the store.
    #[command(subcommand)]
    Builder(BuilderCommand),
    /// Docker's name for the build commands.
    #[command(subcommand, hide = true)]
    Buildx(BuildxCommand),
    /// Say why the steps of a past build ran, or did not have to.
    Explain(ExplainArgs),
    /// List past builds, and what they wrote.
    Builds(BuildsArgs),
    /// Measure what the layer cache is worth, for a Dockerfile and beside other builders.
    Bench(BenchArgs),
    /// Look after the store.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Say what this machine offers to builds, and what is missing.
    Doctor,
    /// Print what is known about this installation.
    Info(FormatArgs),
    /// What the store takes, and getting rid of it.
    #[command(subcommand)]
    System(SystemCommand),
    /// List containers: there are none.
    #[command(hide = true)]
    Ps(PsArgs),
    /// Docker's name for the commands about containers.
    #[command(subcommand, hide = true)]
    Container(ContainerCommand),
    /// Docker's name for the commands about volumes.
    #[command(subcommand, hide = true)]
    Volume(VolumeCommand),
    /// Docker's name for the commands about networks.
    #[command(subcommand, hide = true)]
    Network(NetworkCommand),
    /// Docker's name for the commands about daemons.
    #[command(subcommand, hide = true)]
    Context(ContextCommand),
    /// Print the version.
    Version(VersionArgs),
    /// Print the help of a command, as its `--help` does.
    Help(HelpArgs),
}

/// The command that is called most, by itself: to make the flags of all the others takes a millisecond.
#[derive(Debug, Subcommand)]
enum Foremost {
    Build(Box<BuildArgs>),
}

/// `shale help`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "shale help [COMMAND]")]
pub struct HelpArgs {
    /// The words of the command.
    #[arg(value_name = "COMMAND")]
    pub words: Vec<OsString>,
}

/// Why a command line was not taken, or what it asked to print instead.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--help` and `--version`: the text for standard output, exit 0.
    Print(String),
    /// A group without a command: the help for standard error, exit 0 as Docker's.
    Help(String),
    /// A wrong flag or flag value: text for standard error, exit 125 as Docker's.
    Flag(String),
    /// Anything else: text for standard error, exit 1.
    Usage(String),
}

/// Reads a command line. `argv[0]` is not looked at: `program` is the name to answer with.
pub fn parse(argv: &[OsString], program: Program) -> Result<Cli, Refusal> {
    if argv.get(1).is_some_and(|word| word == "build")
        && let Ok(Cli { command: Foremost::Build(args), global, version }) = read(argv)
    {
        return Ok(Cli { command: Command::Build(args), global, version });
    }
    match read(argv) {
        Ok(Cli { command: Command::Help(args), .. }) => Err(refusal::topic(&args.words, program)),
        parsed => parsed.map_err(|error| refusal::refusal(&error, argv, program)),
    }
}

fn read<C: Subcommand>(argv: &[OsString]) -> Result<Cli<C>, clap::Error> {
    as_pflag(Cli::<C>::command()).try_get_matches_from(argv).and_then(|matches| Cli::from_arg_matches(&matches))
}

/// Gives every flag the manners of Docker's flag library: switches take `=value`, and what follows another flag is its value.
fn as_pflag(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        if arg.is_positional() || matches!(arg.get_action(), ArgAction::Version | ArgAction::Help) {
            arg
        } else if is_switch(&arg) {
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

/// Whether a flag takes nothing but `=true` and `=false`.
fn is_switch(arg: &clap::Arg) -> bool {
    arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn cli(line: &str) -> Result<Cli, Refusal> {
        cli_as(line, Program::Shale)
    }

    fn cli_as(line: &str, program: Program) -> Result<Cli, Refusal> {
        let argv: Vec<OsString> = std::iter::once("x").chain(line.split_whitespace()).map(OsString::from).collect();
        parse(&argv, program)
    }

    fn build(line: &str) -> BuildArgs {
        match cli(line).map(|cli| cli.command) {
            Ok(Command::Build(args) | Command::Image(ImageCommand::Build(args)) | Command::Buildx(BuildxCommand::Build(args))) => *args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::<Command>::command().debug_assert();
        Cli::<Foremost>::command().debug_assert();
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
    fn buildahs_words_for_pulling_are_known() {
        for (line, pull) in
            [("--pull", true), ("--pull=newer", true), ("--pull=always", true), ("--pull=missing", false), ("--pull=0", false)]
        {
            assert_eq!(build(&format!("build {line} .")).pull, pull, "{line}");
        }
    }

    #[test]
    fn a_wrong_flag_is_refused_as_docker_refuses_it() {
        for (line, start) in [
            (
                "build --ttag x .",
                "unknown flag: --ttag\nDid you mean --tag?\n\nUsage:  shale build [OPTIONS] PATH | URL | -\n\nRun 'shale build --help' for more information",
            ),
            ("build --destination x .", "ERROR: --destination is not supported yet\nhint: `--tag NAME --push`"),
            ("build --dockerfile x .", "ERROR: --dockerfile is not supported yet\nhint: --file FILE"),
            ("build --sign-by x .", "ERROR: --sign-by is not supported yet"),
            ("images --sort x", "unknown flag: --sort\n\nUsage:"),
            ("build -z .", "unknown shorthand flag: 'z' in -z\n\nUsage:"),
            ("build --tag", "flag needs an argument: --tag\n"),
            ("build --no-cache=maybe .", "invalid argument \"maybe\" for \"--no-cache\" flag: \"maybe\" is neither true nor false\n"),
            ("build --pull=never .", "invalid argument \"never\" for \"--pull\" flag: a base that the store has is taken from there"),
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
            ("build", "'shale build' requires 1 argument\n\nUsage:  shale build [OPTIONS] PATH | URL | -\n"),
            ("build -t a . extra", "'shale build' does not take the argument \"extra\"\n"),
            ("tag a", "'shale tag' requires 2 arguments\n"),
            ("bud .", "ERROR: 'shale bud' is not supported: it is called `build` here"),
            ("bild .", "unknown command: shale bild\nDid you mean build?\n"),
            ("push", "'shale push' requires 1 argument\n"),
            ("search x", "ERROR: 'shale search' is not supported: registries are not searched"),
            (
                "buildx history export x",
                "ERROR: 'shale buildx history export' is not supported: records of builds stay in their store; `inspect` shows one",
            ),
        ] {
            match cli(line) {
                Err(Refusal::Usage(text)) => assert!(text.starts_with(start), "{line}:\n{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_version_reads_like_docker_s() {
        for line in ["-v", "--version", "--config dir -v"] {
            assert_eq!(cli(line).unwrap_err(), Refusal::Print(format!("shale version {}\n", env!("CARGO_PKG_VERSION"))));
            let Err(Refusal::Print(text)) = cli_as(line, Program::Docker) else { panic!("{line}") };
            assert!(text.starts_with("Docker version 28.") && text.contains(", build shale-"), "{text}");
        }
    }

    #[test]
    fn under_docker_s_name_the_words_are_docker_s() {
        for (line, start) in [
            ("bogus", "docker: unknown command: docker bogus\n\nRun 'docker --help' for more information"),
            ("image bogus", "docker: unknown command: docker image bogus\n\nUsage:  docker image\n\nRun 'docker image --help' for"),
            (
                "tag a",
                "docker: 'docker tag' requires 2 arguments\n\nUsage:  docker tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]\n\nRun 'docker tag --help' for",
            ),
            ("-D --config d tag a", "docker: 'docker tag' requires 2 arguments\n"),
            ("rmi", "docker: 'docker rmi' requires at least 1 argument\n\nUsage:  docker rmi [OPTIONS] IMAGE [IMAGE...]\n"),
            ("images a b", "docker: 'docker images' requires at most 1 argument\n\nUsage:  docker images [OPTIONS] [REPOSITORY[:TAG]]\n"),
            ("ps x", "docker: 'docker ps' accepts no arguments\n\nUsage:  docker ps [OPTIONS]\n"),
            ("build", "ERROR: docker: 'docker build' requires 1 argument\n\nUsage:  docker build [OPTIONS] PATH | URL | -\n"),
        ] {
            match cli_as(line, Program::Docker) {
                Err(Refusal::Usage(text)) => assert!(text.starts_with(start), "{line}:\n{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        for (line, start) in [
            ("--config", "flag needs an argument: --config\n\nUsage:  docker [OPTIONS] COMMAND [ARG...]\n\nRun 'docker --help' for"),
            ("tag -f a b", "unknown shorthand flag: 'f' in -f\n\nUsage:  docker tag "),
            ("run --rm x", "docker: 'docker run' is not supported: shale builds images and runs no containers"),
        ] {
            match cli_as(line, Program::Docker) {
                Err(Refusal::Flag(text)) => assert!(text.starts_with(start), "{line}:\n{text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        assert!(matches!(cli_as("image", Program::Docker), Err(Refusal::Help(text)) if text.contains("Usage: docker image")));
    }

    #[test]
    fn what_stands_before_the_command_is_read() {
        let cli = cli("--config dir -H tcp://x:1 -l debug --tlsverify -c ctx -D images -q").unwrap();
        assert_eq!((cli.global.config, cli.global.host.as_slice()), (Some("dir".into()), &["tcp://x:1".to_owned()][..]));
        assert!(matches!(cli.command, Command::Images(ImagesArgs { quiet: true, .. })));
    }
}
