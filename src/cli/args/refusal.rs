//! What is said to a command line that was not taken, in Docker's words.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::super::flags;
use super::{Cli, Refusal};

/// Commands of `docker` that shale does not have, with what to say.
const OTHER_COMMANDS: &[(&[&str], &str)] = &[
    (
        &["run", "exec", "create", "start", "stop", "top", "port", "ps", "logs", "cp", "rm", "kill", "wait", "attach", "commit"],
        "shale builds images and runs no containers",
    ),
    (&["search"], "registries are not searched"),
    (
        &["manifest", "history", "import", "export", "info", "system", "context", "compose", "bake", "buildx bake", "imagetools"],
        "it is not supported yet",
    ),
];

/// Words a clap error as Docker would.
pub(super) fn refusal(error: &clap::Error, argv: &[OsString]) -> Refusal {
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
        _ if ["build", "push", "pull"].iter().any(|name| path.ends_with(name)) => "1 argument",
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
