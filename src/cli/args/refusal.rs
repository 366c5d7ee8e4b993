//! What is said to a command line that was not taken, in Docker's words.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory};

use super::super::flags;
use super::super::program::Program;
use super::{Cli, Command, Refusal, global};
use crate::dockerfile::suggest::distance;

/// `docker run` and its like answer with 125 for errors of their own.
const NO_CONTAINERS: &str = "shale builds images and runs no containers";

/// Commands of `docker` that shale does not have, with what to say.
const OTHER_COMMANDS: &[(&[&str], &str)] = &[
    (
        &[
            "run",
            "exec",
            "create",
            "start",
            "stop",
            "top",
            "port",
            "logs",
            "cp",
            "rm",
            "kill",
            "wait",
            "attach",
            "commit",
            "restart",
            "pause",
            "unpause",
            "rename",
            "stats",
            "diff",
            "update",
            "export",
            "connect",
            "disconnect",
        ],
        NO_CONTAINERS,
    ),
    (&["search"], "registries are not searched"),
    (&["compose", "stack"], "shale builds single images; build those of a compose file one by one"),
    (&["bake"], "targets of a bake file are built one by one with `build`"),
    (&["debug"], "builds are not stepped through; `build --explain` tells why steps run"),
    (&["dial-stdio", "events"], "there is no daemon to listen to; `builds` lists past builds"),
    (&["bud", "build-using-dockerfile"], "it is called `build` here"),
    (&["plugin"], "there is no daemon that has plugins"),
    (&["trust"], "images are neither signed nor is a signature checked"),
    (&["service", "swarm", "node", "secret", "config"], NO_CONTAINERS),
];

/// Why a command of `docker` is not there, if it is one.
fn why_not(path: &str, name: &str) -> Option<&'static str> {
    match name {
        "export" | "import" | "open" | "trace" if path.ends_with(" history") => {
            Some("records of builds stay in their store; `inspect` shows one")
        }
        _ => OTHER_COMMANDS.iter().find(|(names, _)| names.contains(&name)).map(|(_, why)| *why),
    }
}

/// Words a clap error as Docker would.
pub(super) fn refusal(error: &clap::Error, argv: &[OsString], program: Program) -> Refusal {
    let Named { path, command, .. } = named(argv.iter().skip(1));
    let usage = as_called(&usage_of(&path, command.clone()), program);
    let path = &as_called(&path, program);
    let tail = format!("\n\nUsage:  {usage}\n\nRun '{path} --help' for more information");
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.last().cloned(),
        _ => None,
    };
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let prefix = prefix(path, program);
    // Docker's client does not guess, and what it says is compared.
    let guess = |word: Option<String>| {
        let word = word.filter(|_| program == Program::Shale);
        word.map(|word| format!("\nDid you mean {word}?")).unwrap_or_default()
    };
    match error.kind() {
        ErrorKind::DisplayVersion => Refusal::Print(program.version_line()),
        ErrorKind::DisplayHelp => Refusal::Print(help(command, &usage)),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => Refusal::Help(help(command, &usage)),
        ErrorKind::UnknownArgument if arg.starts_with('-') && arg != "-" => {
            let name = arg.trim_start_matches('-');
            // Short forms of buildah and kaniko; Docker's client knows none of them.
            let long = match arg.as_str() {
                "-v" if program == Program::Shale => "volume",
                "-d" if program == Program::Shale => "destination",
                _ => name,
            };
            if path.ends_with("build")
                && (arg.starts_with("--") || long != name)
                && let Some(text) = flags::of_another_tool(long)
            {
                return Refusal::Flag(text);
            }
            let what = match arg.strip_prefix('-') {
                Some(letter) if !letter.starts_with('-') => format!("unknown shorthand flag: '{letter}' in {arg}"),
                _ => format!("unknown flag: {arg}"),
            };
            // What would be refused in its turn is no help.
            let takes = |flag: &String| !(path.ends_with("build") && flags::is_refused(flag));
            // Clap takes words for alike that share a few letters.
            let far = if name.len() < 5 { 1 } else { 2.max(name.len() / 3) };
            let is_near = |flag: &String| distance(name, flag.trim_start_matches('-')) <= far;
            let guess = guess(context(ContextKind::SuggestedArg).filter(takes).filter(is_near));
            Refusal::Flag(format!("{what}{guess}{tail}"))
        }
        ErrorKind::UnknownArgument if program == Program::Docker => Refusal::Usage(format!("{prefix}'{path}' {}{tail}", taken(&command))),
        ErrorKind::UnknownArgument => Refusal::Usage(format!("'{path}' does not take the argument {arg:?}{tail}")),
        ErrorKind::MissingRequiredArgument | ErrorKind::TooManyValues => {
            Refusal::Usage(format!("{prefix}'{path}' requires {}{tail}", wanted(&command)))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let flag = argv.last().and_then(|word| in_cluster(word.to_str()?)).unwrap_or_else(|| flag_name(&arg).into());
            Refusal::Flag(format!("flag needs an argument: {flag}{tail}"))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let allowed = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) if !values.is_empty() => Some(format!(": allowed are {}", values.join(", "))),
                _ => None,
            };
            let reason = std::error::Error::source(error).map(|e| format!(": {e}")).or(allowed).unwrap_or_default();
            Refusal::Flag(format!("invalid argument {value:?} for {:?} flag{reason}{tail}", flag_name(&arg)))
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            if let Some(why) = why_not(path, &name) {
                let prefix = if program == Program::Docker { "docker" } else { "ERROR" };
                let text = format!("{prefix}: '{path} {name}' is not supported: {why}");
                return if why == NO_CONTAINERS { Refusal::Flag(text) } else { Refusal::Usage(text) };
            }
            let guess = guess(context(ContextKind::SuggestedSubcommand));
            let usage = if path.contains(' ') { format!("\n\nUsage:  {path}") } else { String::new() };
            Refusal::Usage(format!("{prefix}unknown command: {path} {name}{guess}{usage}\n\nRun '{path} --help' for more information"))
        }
        _ => Refusal::Usage(as_called(error.render().to_string().trim_end(), program)),
    }
}

/// What Docker's client says before such a mistake; builds are a program of their own there.
fn prefix(path: &str, program: Program) -> &'static str {
    match program {
        Program::Shale => "",
        Program::Docker if path.ends_with("build") || path.contains(" buildx") => "ERROR: docker: ",
        Program::Docker => "docker: ",
    }
}

/// A text that begins with the program's name, under the name that it was called by.
fn as_called(text: &str, program: Program) -> String {
    match text.strip_prefix("shale") {
        Some(rest) => format!("{}{rest}", program.name()),
        None => text.to_owned(),
    }
}

/// What `help TOPIC...` answers: what the command says to `--help`.
pub(super) fn topic(words: &[OsString], program: Program) -> Refusal {
    let Named { path, command, rest } = named(words.iter());
    match rest.split_first() {
        None => Refusal::Print(help(command.clone(), &as_called(&usage_of(&path, command), program))),
        // What Docker has and shale has not is told as the command itself would.
        Some((word, [])) if OTHER_COMMANDS.iter().any(|(names, _)| names.contains(&word.as_str())) => {
            let argv = [&["shale".into()], words].concat();
            super::parse(&argv, program).err().unwrap_or_else(|| Refusal::Usage(format!("unknown help topic: {word}")))
        }
        Some(_) => Refusal::Usage(format!("unknown help topic: {}", rest.join(" "))),
    }
}

fn help(command: clap::Command, usage: &str) -> String {
    command.override_usage(usage.to_owned()).render_help().to_string()
}

/// `--tag <NAME>` → `--tag`.
fn flag_name(arg: &str) -> &str {
    arg.split([' ', '[', '=']).next().unwrap_or(arg)
}

/// `-qo` → `'o' in -o`, as Docker's flag library calls the flag that stands there without its value.
fn in_cluster(word: &str) -> Option<String> {
    let letters = word.strip_prefix('-').filter(|letters| !letters.starts_with('-'))?;
    letters.chars().next_back().map(|letter| format!("'{letter}' in -{letter}"))
}

/// What a command line without its arguments lacks.
fn wanted(command: &clap::Command) -> &'static str {
    match (positionals(command), has_many(command)) {
        (_, true) if has_few(command) => "at least 1 and at most 2 arguments",
        (2, true) => "at least 2 arguments",
        (_, true) => "at least 1 argument",
        (2, _) if command.get_positionals().any(|arg| !arg.is_required_set()) => "at least 1 and at most 2 arguments",
        (2, _) => "2 arguments",
        _ => "1 argument",
    }
}

/// Whether it takes one argument or two.
fn has_few(command: &clap::Command) -> bool {
    command.get_positionals().any(|arg| arg.get_num_args().is_some_and(|count| count.max_values() == 2))
}

/// How many arguments a command takes, to a command line with more of them.
fn taken(command: &clap::Command) -> String {
    let is_optional = command.get_positionals().all(|arg| !arg.is_required_set());
    match positionals(command) {
        0 => "accepts no arguments".into(),
        n if is_optional => format!("requires at most {n} argument{}", if n == 1 { "" } else { "s" }),
        _ => format!("requires {}", wanted(command)),
    }
}

fn positionals(command: &clap::Command) -> usize {
    command.get_positionals().count()
}

fn has_many(command: &clap::Command) -> bool {
    command.get_positionals().any(|arg| matches!(arg.get_action(), clap::ArgAction::Append))
}

/// A usage line. Commands have several names (`rmi`, `image rm`): it has the one that was called.
fn usage_of(path: &str, mut command: clap::Command) -> String {
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).trim();
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
    let rest = usage.split(' ').skip_while(is_name);
    std::iter::once(path).chain(rest).collect::<Vec<_>>().join(" ")
}

/// The command that a command line names.
struct Named {
    /// `shale image ls`
    path: String,
    command: clap::Command,
    /// The words behind the name, as far as they are text.
    rest: Vec<String>,
}

/// Finds the command in a command line without its program.
fn named<'a>(words: impl Iterator<Item = &'a OsString>) -> Named {
    let mut command = as_shown(Cli::<Command>::command());
    // What holds for all commands is handed down.
    command.build();
    let mut path = String::from("shale");
    let mut words = words.filter_map(|word| word.to_str()).peekable();
    while let Some(word) = words.peek() {
        // Global flags stand before the first command only.
        if word.starts_with('-') && path == "shale" {
            if global::WITH_VALUE.contains(word) {
                words.next();
            }
            words.next();
            continue;
        }
        let Some(found) = command.find_subcommand(word).cloned() else { break };
        words.next();
        path = format!("{path} {}", found.get_name());
        command = found.bin_name(path.clone());
    }
    Named { path, command, rest: words.map(str::to_owned).collect() }
}

/// The commands as help shows them: that a switch takes `=true` or `=false` is left out, as Docker leaves it out.
fn as_shown(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if super::is_switch(&arg) { arg.required(false).action(ArgAction::SetTrue) } else { arg });
    command.mut_subcommands(as_shown)
}
