//! `shale explain`, `shale builds` and `buildx history`: what past builds did, and why.

mod choice;
mod filter;
mod inspect;
mod log;
mod reasons;
mod rows;

use std::path::PathBuf;

use serde_json::json;
use shale_cache::{BuildRecord, BuildResult, Store};
use time::OffsetDateTime;

use super::Failure;
use super::args::{BuildInspectArgs, BuildLogsArgs, BuildsArgs, BuildsCommand, BuildsListArgs, BuildsRemoveArgs, ExplainArgs};
use super::console::{print, say};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::{open_store, store_failure};
use super::template;
use choice::{Choice, choose};
use filter::Filter;
use rows::Style;

/// Milliseconds since the epoch.
type Millis = u64;

/// `shale builds …`
pub fn run(args: &BuildsArgs, environment: &Environment) -> Result<(), Failure> {
    match &args.command {
        None => list(&args.list, Style::Shale, environment),
        Some(command) => dispatch(command, Style::Shale, environment),
    }
}

/// `buildx history …`
pub fn history(command: &BuildsCommand, environment: &Environment) -> Result<(), Failure> {
    dispatch(command, Style::Buildx, environment)
}

fn dispatch(command: &BuildsCommand, style: Style, environment: &Environment) -> Result<(), Failure> {
    match command {
        BuildsCommand::Ls(args) => list(args, style, environment),
        BuildsCommand::Inspect(args) => inspected(args, style, environment),
        BuildsCommand::Logs(args) => logs(args, style, environment),
        BuildsCommand::Rm(args) => remove(args, environment),
    }
}

/// `shale explain`
pub fn explain(args: &ExplainArgs, environment: &Environment) -> Result<(), Failure> {
    let record = chosen(&open_store(environment)?, args.build.as_deref(), environment)?;
    match args.format.as_deref() {
        None | Some("table" | "pretty") => print(reasons::render(&record, now_ms())),
        Some("json") => print(whole_json(&record)),
        Some(format) => {
            let row = template::Value::Struct(rows::row(&record, rows::Form { style: Style::Shale, is_short: false }, now_ms()));
            print(template::render(format, &row).map_err(|error| Failure::template(&error))? + "\n")
        }
    }
}

fn whole_json(record: &BuildRecord) -> String {
    serde_json::to_string_pretty(&json!(record)).expect("a record serialises") + "\n"
}

fn list(args: &BuildsListArgs, style: Style, environment: &Environment) -> Result<(), Failure> {
    let now_ms = now_ms();
    let filters = args.filters.iter().map(|text| Filter::parse(text, now_ms)).collect::<Result<Vec<_>, _>>();
    let filters = filters.map_err(|error| Diagnostic::of(&error))?;
    let mut records = all(&open_store(environment)?)?;
    records.retain(|record| filters.iter().all(|filter| filter.takes(record)));
    if args.local {
        let repository = choice::repository_around(&environment.current_dir)
            .ok_or_else(|| Diagnostic::new("could not find git repository for local filter"))?;
        records.retain(|record| choice::context_of(record).is_some_and(|context| context.starts_with(&repository)));
    }
    // Those that run stand first.
    records.sort_by_key(|record| record.result != BuildResult::Running);
    print(rows::render(&records, args, style, now_ms).map_err(|error| Failure::template(&error))?)
}

fn inspected(args: &BuildInspectArgs, style: Style, environment: &Environment) -> Result<(), Failure> {
    let record = chosen(&open_store(environment)?, args.build.as_deref(), environment)?;
    match (args.format.as_deref(), style) {
        (None | Some("pretty"), _) => print(inspect::render(&record, now_ms())),
        (Some("json"), Style::Shale) => print(whole_json(&record)),
        (Some("json"), Style::Buildx) => print(inspect::json(&record, now_ms())),
        (Some(format), _) => {
            let facts = template::Value::Struct(inspect::facts(&record, now_ms()));
            print(template::render(format, &facts).map_err(|error| Failure::template(&error))? + "\n")
        }
    }
}

fn logs(args: &BuildLogsArgs, style: Style, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let record = chosen(&store, args.build.as_deref(), environment)?;
    let dir = store.builds().dir(&record.id);
    let mut written = |bytes: &[u8]| match style {
        Style::Shale => print(bytes),
        // Docker shows them as it shows a build.
        Style::Buildx => {
            say(&String::from_utf8_lossy(bytes));
            Ok(())
        }
    };
    log::render(&record, &dir, &mut written)
}

fn remove(args: &BuildsRemoveArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let failure = |error| store_failure(&error);
    if args.all && !args.builds.is_empty() {
        return Err(Diagnostic::new("rm requires either --all or at least one argument").into());
    }
    if args.all {
        for id in store.builds().ids().map_err(failure)? {
            store.builds().remove(&id).map_err(failure)?;
        }
        return Ok(());
    }
    if args.builds.is_empty() {
        return Err(Diagnostic::new("rm requires at least one argument").into());
    }
    // All names are read before the first build goes: `^1` means what it meant when it was typed.
    let named = args.builds.iter().map(|name| chosen(&store, Some(name), environment)).collect::<Result<Vec<_>, _>>()?;
    for record in named {
        if store.builds().remove(&record.id).map_err(failure)?.is_none() {
            return Err(Diagnostic::new(format!("the build {} still runs", record.id)).hint("stop it first").into());
        }
    }
    Ok(())
}

fn all(store: &Store) -> Result<Vec<BuildRecord>, Failure> {
    store.builds().list().map_err(|error| store_failure(&error))
}

/// The build that is meant; without a name the last one here.
fn chosen(store: &Store, name: Option<&str>, environment: &Environment) -> Result<BuildRecord, Failure> {
    let records = all(store)?;
    let directory = |name: &str| -> Option<PathBuf> { environment.resolve(name.as_ref()).canonicalize().ok().filter(|path| path.is_dir()) };
    let hint = "`shale builds` lists what is on record";
    match choose(&records, name, &environment.current_dir, &directory) {
        Choice::One(record) => Ok(record.clone()),
        Choice::None if name.is_none() => Err(Diagnostic::new("no records found").hint("`shale build` makes the first one").into()),
        Choice::None => Err(Diagnostic::new(format!("no record found for ref {:?}", name.unwrap_or_default())).hint(hint).into()),
        Choice::Several(count) => {
            Err(Diagnostic::new(format!("{:?} is the beginning of {count} ids", name.unwrap_or_default())).hint(hint).into())
        }
    }
}

fn now_ms() -> Millis {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).try_into().unwrap_or(0)
}
