//! `shale bench`: what the layer cache is worth. A Dockerfile is built cold, unchanged, and after one change at a time, in a private
//! store from a private copy of the context; other builders do the same in the same run.
//!
//! Every build is a process of its own, shale's too: what is measured is what a user waits for.

mod chart;
mod edit;
mod process;
mod report;
mod sample;
mod scenario;
mod subject;
mod tool;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::Failure;
use super::args::BenchArgs;
use super::build::with_hint;
use super::console::{print, say, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::human;
use super::output::unique;
use super::request::{ContextSource, NamedContext, RequestError, context_source, named_context};
use report::{Report, ToolReport};
use scenario::Scenario;
use subject::Subject;
use tool::{Kind, Tool};

/// `shale bench`
pub fn run(args: &BenchArgs, environment: &Environment) -> Result<(), Failure> {
    if args.base.is_some() && args.context.is_some() {
        return Err(Diagnostic::new("--base is the base of the built-in sample, which is built without a context").into());
    }
    if let Some(context) = &args.context {
        check_context(context, environment)?;
    }
    let against = unique(args.against.clone());
    let kinds = against.iter().map(|name| Kind::parse(name)).collect::<Result<Vec<_>, _>>().map_err(Diagnostic::new)?;
    if args.svg.as_deref() == Some(Path::new("-")) {
        return Err(Diagnostic::new("--svg writes a file: standard output has the figures").hint("a file of that name is ./-").into());
    }
    if let Some(path) = &args.svg {
        check_place(&environment.resolve(path))?;
    }
    process::watch().map_err(|error| Diagnostic::of(&error))?;
    let place = Place::make(environment)?;
    let bench = Bench { args, environment, place: &place.0 };
    let report = bench.report(&kinds);
    process::tidy();
    place.clear();
    if let Some(signal) = process::caught() {
        say("ERROR: the benchmark was canceled\n");
        return Err(Failure::Signal(signal));
    }
    let report = report?;
    if let Some(path) = &args.svg {
        let path = environment.resolve(path);
        fs::write(&path, chart::render(&report)).map_err(|error| io_failure("write", &path, &error))?;
    }
    match args.format.as_str() {
        "json" => print(serde_json::to_string_pretty(&report).expect("figures serialise") + "\n"),
        _ => print(report.table()),
    }
}

/// Fails if a signal came.
fn stopped() -> Result<(), Failure> {
    process::caught().map_or(Ok(()), |signal| Err(Failure::Signal(signal)))
}

fn io_failure(deed: &str, path: &Path, error: &io::Error) -> Failure {
    Diagnostic::new(format!("cannot {deed} {}", path.display())).because(error.to_string()).into()
}

/// What `shale build` would read or fetch is refused: files are changed here from build to build.
fn check_context(context: &Path, environment: &Environment) -> Result<(), Failure> {
    let what = match context_source(context, environment) {
        Ok(ContextSource::Stdin) => "standard input",
        Ok(ContextSource::Git(_) | ContextSource::Http(_)) | Err(RequestError::Git { .. }) => "a URL",
        Ok(ContextSource::Dir(_)) | Err(_) => return Ok(()),
    };
    Err(Diagnostic::new(format!("shale bench takes a directory, not {what}")).hint("fetch or unpack it, and name the folder").into())
}

/// The directories of `--build-context`, which are read where they are.
fn named_directories(args: &BenchArgs, environment: &Environment) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let one = |text: &String| match named_context(text, environment) {
        Ok((name, NamedContext::Dir(dir))) => Ok((name, dir)),
        Ok((name, _)) => {
            let error = Diagnostic::new(format!("shale bench takes a directory for --build-context {name}"));
            Err(error.hint("an image can be named by the Dockerfile, and its name be a --build-arg").into())
        }
        Err(error) => Err(with_hint(Diagnostic::of(&error), error.hint()).into()),
    };
    args.build_contexts.iter().map(one).collect()
}

/// A chart that cannot be written is known before the first build.
fn check_place(path: &Path) -> Result<(), Failure> {
    let open = fs::File::options().create(true).append(true).open(path);
    open.map(drop).map_err(|error| io_failure("write", path, &error))
}

/// The private folder: stores, contexts, archives.
struct Place(PathBuf);

impl Place {
    fn make(environment: &Environment) -> Result<Self, Failure> {
        let parent = environment.absolute_path("TMPDIR").unwrap_or(Path::new("/var/tmp"));
        let name = format!("shale-bench-{}-{}", std::process::id(), OffsetDateTime::now_utc().unix_timestamp());
        let path = parent.join(name);
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| io_failure("create", &path, &error))?;
        Ok(Self(path))
    }

    fn clear(self) {
        Tool::own(&self.0).command_in(&self.0.join(subject::PREPARED)).empty();
        if let Err(error) = fs::remove_dir_all(&self.0) {
            warn(&format!("{} stays: {error}", self.0.display()));
        }
    }
}

#[derive(Clone, Copy)]
struct Bench<'a> {
    args: &'a BenchArgs,
    environment: &'a Environment,
    place: &'a Path,
}

impl Bench<'_> {
    fn report(self, kinds: &[Kind]) -> Result<Report, Failure> {
        let own = Tool::own(self.place);
        let mut subject = Subject::prepare(self.args, self.environment, self.place, &own)?;
        let mut tools = vec![ToolReport::new(own)];
        for kind in kinds {
            tools.push(ToolReport::found(*kind, self.environment, self.place));
        }
        // What was stopped while it was asked says nothing about itself.
        stopped()?;
        for other in tools.iter().filter_map(|tool| Some((tool.name, tool.not_compared.as_deref()?))) {
            warn(&format!("{} is not compared: {}", other.0, other.1));
        }
        let done = self.rounds(&mut subject, &mut tools);
        process::tidy();
        tools.iter().for_each(ToolReport::clear);
        done?;
        let started = human::rfc3339(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
        Ok(Report::new(&subject, started, self.args.rounds, tools))
    }

    fn rounds(self, subject: &mut Subject, tools: &mut [ToolReport]) -> Result<(), Failure> {
        for round in 1..=self.args.rounds {
            subject.restore()?;
            for scenario in Scenario::ALL {
                if let Some(why) = subject.lacks(scenario) {
                    if round == 1 {
                        warn(&format!("{} is left out: {why}", scenario.title()));
                    }
                    continue;
                }
                subject.change(scenario, round)?;
                for tool in tools.iter_mut().filter(|tool| tool.not_compared.is_none()) {
                    self.once(subject, tool, scenario, round)?;
                }
            }
        }
        Ok(())
    }

    /// One build of one tool. That another tool fails is told and stops nothing.
    fn once(self, subject: &Subject, report: &mut ToolReport, scenario: Scenario, round: u32) -> Result<(), Failure> {
        let Some(built) = report.build(subject, scenario, round) else { return Ok(()) };
        stopped()?;
        match built {
            Ok(run) => {
                let seconds = report::seconds(run.seconds);
                say(&format!("{round}/{} {}: {}: {seconds}\n", self.args.rounds, report.name, scenario.title()));
                if report.is_own() && scenario == Scenario::TouchedFile && run.misses == 0 {
                    let name = subject.touched().unwrap_or_default();
                    warn(&format!("no step copies {name}: name another file with --touch"));
                }
                report.add(scenario, run);
                Ok(())
            }
            Err(failed) if report.is_own() => Err(failed.into()),
            Err(failed) => {
                let why = format!("{}: {}", scenario.title(), failed.last_line());
                say(&(failed.tail() + "\n"));
                warn(&format!("{} is not compared: {why}", report.name));
                report.not_compared = Some(why);
                Ok(())
            }
        }
    }
}
