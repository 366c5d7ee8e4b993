//! The command line: the only part that reads arguments, environment and terminal, and the only one that prints.
//!
//! `args` (argv → typed flags) → `request` (flags + environment → plain data) → one file per command. `progress` shows builds,
//! `diagnostic` words errors, `console` holds the two streams.

pub mod args;
pub mod environment;
pub mod flags;
mod lent;
pub mod output;
pub mod request;
pub mod values;

pub mod build;
pub mod doctor;
pub mod image;
pub mod images;
pub mod inspect;
pub mod login;
pub mod registry;
pub mod version;

pub mod console;
pub mod diagnostic;
pub mod human;
pub mod progress;
pub mod signals;
pub mod template;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{BuilderCommand, BuildxCommand, Command, ImageCommand, Refusal};
use console::{print, say};
use diagnostic::Diagnostic;
use environment::Environment;

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of a wrong flag, as Docker's.
const WRONG_FLAG: u8 = 125;
/// Signals end in 128 plus their number.
const SIGNAL_BASE: u8 = 128;
const SIGPIPE: u8 = 13;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// An error to show.
    Shown(Box<Diagnostic>),
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
    /// Says what is left to say and names the exit code.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Shown(diagnostic) => {
                say(&diagnostic.render());
                FAILED
            }
            Self::Told => FAILED,
            Self::ClosedPipe => SIGNAL_BASE + SIGPIPE,
            Self::Signal(signal) => SIGNAL_BASE.saturating_add(u8::try_from(*signal).unwrap_or(0)),
        }
    }
}

/// Runs a command line; `argv[0]` is not looked at.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match args::parse(argv) {
        Ok(cli) => cli.command,
        Err(Refusal::Print(text)) => return exit(print(text)),
        Err(Refusal::Flag(text)) => {
            say(&(text + "\n"));
            return ExitCode::from(WRONG_FLAG);
        }
        Err(Refusal::Usage(text)) => {
            say(&(text + "\n"));
            return ExitCode::from(FAILED);
        }
    };
    let environment =
        Environment::current().map_err(|error| Diagnostic::new("cannot read the working directory").because(error.to_string()));
    exit(environment.map_err(Into::into).and_then(|environment| dispatch(&command, &environment)))
}

fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(failure.exit_code()),
    }
}

fn dispatch(command: &Command, environment: &Environment) -> Result<(), Failure> {
    match command {
        Command::Build(args)
        | Command::Image(ImageCommand::Build(args))
        | Command::Builder(BuilderCommand::Build(args))
        | Command::Buildx(BuildxCommand::Build(args)) => build::run(args, environment),
        Command::Images(args) | Command::Image(ImageCommand::Ls(args)) => image::list(args, environment),
        Command::Inspect(args) | Command::Image(ImageCommand::Inspect(args)) => image::inspect(args, environment),
        Command::Rmi(args) | Command::Image(ImageCommand::Rm(args)) => image::remove(args, environment),
        Command::Load(args) | Command::Image(ImageCommand::Load(args)) => image::load(args, environment),
        Command::Save(args) | Command::Image(ImageCommand::Save(args)) => image::save(args, environment),
        Command::Tag(args) | Command::Image(ImageCommand::Tag(args)) => image::tag(args, environment),
        Command::Push(args) | Command::Image(ImageCommand::Push(args)) => registry::push(args, environment),
        Command::Pull(args) | Command::Image(ImageCommand::Pull(args)) => registry::pull(args, environment),
        Command::Login(args) => login::login(args, environment),
        Command::Logout(args) => login::logout(args, environment),
        Command::Builder(BuilderCommand::Prune(args)) | Command::Buildx(BuildxCommand::Prune(args)) => image::prune(args, environment),
        Command::Doctor => {
            let checks = doctor::examine(environment);
            print(doctor::render(&checks))?;
            let is_bad = checks.iter().any(|check| check.verdict == doctor::Verdict::Bad);
            if is_bad { Err(Failure::Told) } else { Ok(()) }
        }
        Command::Version(args) => print(version::render(args.format.as_deref()).map_err(|error| Diagnostic::of(&error))?),
        Command::Buildx(BuildxCommand::Version) => print(version::render(None).map_err(|error| Diagnostic::of(&error))?),
    }
}
