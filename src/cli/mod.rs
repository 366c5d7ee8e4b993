//! The command line: the only part that reads arguments, environment and terminal, and the only one that prints.
//!
//! `args` (argv → typed flags) → `request` (flags + environment → plain data) → one file per command. `progress` shows builds,
//! `diagnostic` words errors, `console` holds the two streams.

pub mod args;
pub mod cache_filter;
pub mod config;
pub mod environment;
pub mod filter;
pub mod flags;
mod lent;
pub mod output;
mod platform;
pub mod request;
pub mod values;

pub mod program;

pub mod absent;
pub mod bench;
pub mod build;
pub mod builders;
pub mod builds;
pub mod call;
pub mod caps;
pub mod contexts;
pub mod doctor;
pub mod engine;
pub mod history;
pub mod image;
pub mod images;
pub mod imagetools;
pub mod import;
pub mod info;
pub mod inspect;
pub mod login;
pub mod manifest;
pub mod prune;
pub mod registry;
pub mod usage;
pub mod verify;
pub mod version;

pub mod columns;
pub mod console;
pub mod diagnostic;
pub mod human;
pub mod listing;
pub mod progress;
pub mod signals;
pub mod template;
mod transfer;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::sandbox::sys;
use args::{BuilderCommand, BuildxCommand, Command, ImageCommand, Refusal, StoreCommand, SystemCommand};
use console::{print, say, warn};
use diagnostic::Diagnostic;
use environment::Environment;
use program::Program;

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of a wrong flag, as Docker's.
const WRONG_FLAG: u8 = 125;
/// Exit code of a template that cannot be read, as Docker's.
const WRONG_TEMPLATE: u8 = 64;
/// Signals end in 128 plus their number.
const SIGNAL_BASE: u8 = 128;
const SIGPIPE: u8 = 13;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// An error to show.
    Shown(Box<Diagnostic>),
    /// An error to show that has an exit code of its own.
    Coded(u8, Box<Diagnostic>),
    /// An error that was shown already.
    Told,
    /// Standard output was closed by its reader: nobody is there to be told.
    ClosedPipe,
    /// A signal ended it.
    Signal(i32),
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Shown(Box::new(diagnostic))
    }
}

impl Failure {
    /// A template that cannot be read.
    fn template(error: &template::TemplateError) -> Self {
        Self::Coded(WRONG_TEMPLATE, Box::new(Diagnostic::of(error)))
    }

    /// The same from a command that is docker buildx' own.
    fn of_builder(self) -> Self {
        match self {
            Self::Shown(diagnostic) => Self::Shown(Box::new(Diagnostic { is_builder: true, ..*diagnostic })),
            other => other,
        }
    }

    /// Says what is left to say and names the exit code.
    fn exit_code(&self, program: Program) -> u8 {
        match self {
            Self::Shown(diagnostic) => {
                say(&diagnostic.render_as(program));
                FAILED
            }
            Self::Coded(code, diagnostic) => {
                say(&diagnostic.render_as(program));
                *code
            }
            Self::Told => FAILED,
            Self::ClosedPipe => SIGNAL_BASE + SIGPIPE,
            Self::Signal(signal) => Self::signal_code(*signal),
        }
    }

    /// The exit code of what a signal ended.
    fn signal_code(signal: i32) -> u8 {
        SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0))
    }
}

/// Runs a command line; `argv[0]` is the name to answer as.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    sys::return_large_allocations();
    sys::outlive(libc::SIGXFSZ);
    let argv: Vec<OsString> = argv.into_iter().collect();
    let program = argv.first().map_or(Program::default(), |argv0| Program::of(argv0));
    let cli = match args::parse(&argv, program) {
        Ok(cli) => cli,
        Err(Refusal::Print(text)) => return exit(print(text), program),
        Err(Refusal::Help(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(Refusal::Flag(text)) => {
            say(&(text + "\n"));
            return ExitCode::from(WRONG_FLAG);
        }
        Err(Refusal::Usage(text)) => {
            say(&(text + "\n"));
            return ExitCode::from(FAILED);
        }
    };
    let environment = Environment::current().with(&cli.global, program);
    if let Some(daemon) = environment.remote_daemon(&cli.global) {
        warn(&format!("{daemon} is not asked: this process is the engine, and images are in the local store"));
    }
    let done = dispatch(&cli.command, &environment);
    let is_builder =
        matches!(cli.command, Command::Build(_) | Command::Image(ImageCommand::Build(_)) | Command::Builder(_) | Command::Buildx(_));
    exit(done.map_err(|failure| if is_builder { failure.of_builder() } else { failure }), program)
}

fn exit(result: Result<(), Failure>, program: Program) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.exit_code(program)),
    }
}

fn dispatch(command: &Command, environment: &Environment) -> Result<(), Failure> {
    match command {
        Command::Build(args)
        | Command::Image(ImageCommand::Build(args))
        | Command::Builder(BuilderCommand::Build(args))
        | Command::Buildx(BuildxCommand::Build(args)) => build::run(args, environment),
        Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => image::list(args, environment),
        Command::Inspect(args) => image::inspect(args, environment),
        Command::Image(ImageCommand::Inspect(args)) => image::inspect_images(args, environment),
        Command::History(args) | Command::Image(ImageCommand::History(args)) => image::history(args, environment),
        Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => image::remove(args, environment),
        Command::Load(args) | Command::Image(ImageCommand::Load(args)) => image::load(args, environment),
        Command::Save(args) | Command::Image(ImageCommand::Save(args)) => image::save(args, environment),
        Command::Import(args) | Command::Image(ImageCommand::Import(args)) => import::run(args, environment),
        Command::Tag(args) | Command::Image(ImageCommand::Tag(args)) => image::tag(args, environment),
        Command::Push(args) | Command::Image(ImageCommand::Push(args)) => registry::push(args, environment),
        Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => registry::pull(args, environment),
        Command::Login(args) => login::login(args, environment),
        Command::Logout(args) => login::logout(args, environment),
        Command::Manifest(command) => manifest::run(command, environment),
        Command::Buildx(BuildxCommand::Imagetools(command)) => imagetools::run(command, environment),
        Command::Image(ImageCommand::Prune(args)) => prune::images(args, environment),
        Command::Builder(BuilderCommand::Prune(args)) => prune::cache(args, prune::Manner::Builder, environment),
        Command::Buildx(BuildxCommand::Prune(args)) => prune::cache(args, prune::Manner::Buildx, environment),
        Command::Builder(BuilderCommand::Du(args)) | Command::Buildx(BuildxCommand::Du(args)) => usage::du(args, environment),
        Command::Explain(args) => builds::explain(args, environment),
        Command::Bench(args) => bench::run(args, environment),
        Command::Builds(args) => builds::run(args, environment),
        Command::Buildx(BuildxCommand::History(command)) => builds::history(command, environment),
        Command::Store(StoreCommand::Verify(args)) => verify::run(args, environment),
        Command::System(SystemCommand::Df(args)) => usage::df(args, environment),
        Command::System(SystemCommand::Prune(args)) => prune::system(args, environment),
        Command::Doctor => {
            let checks = doctor::examine(environment);
            print(doctor::render(&checks))?;
            let is_bad = checks.iter().any(|check| check.verdict == doctor::Verdict::Bad);
            if is_bad { Err(Failure::Told) } else { Ok(()) }
        }
        Command::Version(args) => version::run(args, environment),
        Command::Info(args) | Command::System(SystemCommand::Info(args)) => info::run(args, environment),
        Command::Ps(args) => absent::containers(args),
        Command::Container(command) => absent::container(command, environment),
        Command::Volume(command) => absent::volume(command, environment),
        Command::Network(command) => absent::network(command, environment),
        Command::Context(command) => contexts::run(command),
        Command::Buildx(BuildxCommand::Version) => print(builders::VERSION_LINE),
        Command::Buildx(BuildxCommand::Create(args)) => builders::create(args),
        Command::Buildx(BuildxCommand::Use(args)) => builders::switch(args),
        Command::Buildx(BuildxCommand::Ls(args)) => builders::list(args),
        Command::Buildx(BuildxCommand::Inspect(args)) => print(builders::described(args)),
        Command::Buildx(BuildxCommand::Rm(args)) => builders::remove(args),
        Command::Help(_) => unreachable!("what reads the command line answers it"),
        Command::Buildx(BuildxCommand::Stop(_) | BuildxCommand::Install | BuildxCommand::Uninstall) => Ok(()),
    }
}
