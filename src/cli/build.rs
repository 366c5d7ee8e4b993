//! `shale build`: the request runs through the pipeline; results go to standard output and files, talk to standard error.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, access};
use serde_json::{Map, Value, json};
use shale_cache::{Disk, Reason, Store};

use super::args::BuildArgs;
use super::console::{open_stdout, print, say, warn};
use super::diagnostic::{self, Diagnostic, NO_MORE_PROCESSES};
use super::environment::Environment;
use super::flags::parse_bool;
use super::output::{Destination, OutputKind};
use super::progress::{Display, FailedStep, Screen, Summary, warning_json};
use super::request::call::Call;
use super::request::{self, BuildRequest, NamedContext, ProgressMode};
use super::signals::Watch;
use super::{Failure, call, engine, human, image};
use crate::dockerfile::lint::is_secret_name;
use crate::execute::room::{self, Lack, Room};
use crate::execute::{NoEmulator, StepError};
use crate::export::ExportError;
use crate::image::{ImageError, ImageService};
use crate::layer::{LayerError, is_full};
use crate::oci::reference::Reference;
use crate::pipeline::{self, BuildError, BuildReport, Services, is_plain_file, write_file};
use crate::plan::Near;
use crate::plan::secret::without_user_info;
use crate::sandbox::{Cancel, SandboxError};
use crate::source::context::Missing;
use crate::source::registry::Client;
use crate::span::Span;
use crate::worker::{Abandoned, Afterwork, Collection, Successor};

/// The line `#0` of plain progress.
const OPENING: &str = "building with \"default\" instance using shale";

/// How a build ends that a signal has stopped.
const CANCELED: &str = "ERROR: failed to build: failed to solve: Canceled: context canceled\n";

/// What helps where commands of another platform do not run.
const EMULATOR: &str = "register qemu-user as root with the flag F (apt-get install qemu-user-static binfmt-support), or cross-compile in a stage \
     that begins with FROM --platform=$BUILDPLATFORM: stages that only COPY need no emulator";

/// What helps where they never will.
const NO_EMULATOR: &str =
    "cross-compile in a stage that begins with FROM --platform=$BUILDPLATFORM: stages of other platforms can only COPY";

/// What makes a shell refuse words that look right.
const WINDOWS_LINES: &str =
    "the lines of its heredoc end in CR LF, as on Windows, and the shell takes the CR for a part of each: save the file with LF";
/// Where else a file can come from.
const CLIMBS: &str = "sources begin at the context and cannot leave it, `../` stays at its top: build a directory further up, or add another one by \
     --build-context NAME=DIR and COPY --from=NAME";

/// Runs `shale build`.
pub fn run(args: &BuildArgs, environment: &Environment) -> Result<(), Failure> {
    let mut behind = Behind::default();
    let result = build(args, environment, &mut behind);
    // Now that the store is closed: a disk that is written back keeps whoever deletes something on it waiting.
    behind.leave();
    result
}

/// What is left to do when everything is let go of, and who does it.
#[derive(Default)]
struct Behind(Option<(Afterwork, Option<Successor>)>);

impl Behind {
    fn leave(&mut self) {
        if let Some((work, successor)) = self.0.take() {
            work.detach(successor);
        }
    }
}

fn build(args: &BuildArgs, environment: &Environment, behind: &mut Behind) -> Result<(), Failure> {
    check_buildkit(environment)?;
    let (mut request, notes) = request::resolve(args, environment).map_err(|error| with_hint(Diagnostic::of(&error), error.hint()))?;
    request.command = called(std::env::args_os());
    for note in &notes {
        warn(note);
    }
    check_places(&request)?;
    if request.quiet || request.outputs.iter().any(|output| output.destination == Destination::Stdout) {
        drop(open_stdout()?);
    }
    let engine = if args.load { engine::wanted(environment)? } else { None };
    // A device is nobody's old result, and nor is what a link leads to: /dev/stdout is one.
    if let Some(path) = request.iidfile.as_ref().filter(|path| is_plain_file(path))
        && let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(Diagnostic::new(format!("cannot remove {}", path.display())).because(error.to_string()).into());
    }
    let store = Store::open(&request.store_root).map_err(|error| image::store_failure(&error))?;
    let policy = request.gc.policy(Disk::of(store.root()).map_err(|error| image::store_failure(&error))?);
    let room = Room::new(&store, Some(policy.clone()).filter(|_| request.gc.is_enabled()));
    let images = ImageService::new(store.clone(), Client::new(request.registry.clone())).with_named_contexts(named_images(&request));
    let cancel = Cancel::new().map_err(|error| Diagnostic::of(&error))?;
    let watch = Watch::start(cancel.clone(), give_up(&store, &request)).map_err(|error| Diagnostic::no_thread(&error))?;
    let display = Display::start(request.progress, request.colour, OPENING, Screen::stderr());
    let services = Services { store: &store, images: &images, reporter: &display, cancel: &cancel, room: &room };
    if let Some(asked) = request.call {
        let answer = pipeline::call(&request, asked.method, services);
        watch.is_over();
        display.finish();
        return answered(answer, asked, watch.caught());
    }
    let built = pipeline::build(&request, services);
    watch.is_over();
    let summary = display.finish();
    let reason = Reason::routine(store.growth().bytes(), store.growth().has_mounts());
    let sync = store.take_sync_job();
    if sync.is_some() || reason.grown_bytes > 0 {
        let store_root = store.root().to_owned();
        let collection = Some(Collection { store_root: store_root.clone(), policy, reason });
        // With an engine to load into the store stays open.
        let scratch = engine.is_none() && store.leave_scratch();
        behind.0 = Some((Afterwork { store_root, scratch, sync, collection }, room.successor()));
    } else if policy.keep_builds != 0 {
        // Nobody looks after the store behind a build that found everything, or failed early: only its record is new. The next one
        // tries again.
        drop(store.builds().keep_about(policy.keep_builds));
    }
    if !matches!(request.progress, ProgressMode::Quiet | ProgressMode::RawJson) {
        say(&diagnostic::warnings(&summary.warnings, request.debug));
    }
    match built {
        Ok(report) => {
            finish(&request, &report, &summary, environment)?;
            let names: Vec<String> = report.id.iter().map(ToString::to_string).filter(|_| report.names.is_empty()).collect();
            let names: Vec<&str> = report.names.iter().chain(&names).map(String::as_str).collect();
            engine.map_or(Ok(()), |engine| {
                // That may take long.
                behind.leave();
                engine.load(&images, &names)
            })
        }
        Err(BuildError::Export(ExportError::Stream { source })) if source.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ClosedPipe),
        Err(error) => {
            // Whatever it failed with then, this is why.
            if let Some(signal) = watch.caught() {
                say(CANCELED);
                return Err(Failure::Signal(signal));
            }
            let is_run = |step: &&FailedStep| step.name.contains("] RUN ");
            // One that failed twice, as on a full disk, is told once.
            let is_last = |at: usize, step: &FailedStep| summary.failed[at + 1..].iter().all(|later| later.name != step.name);
            let failed = summary.failed.iter().enumerate().filter(|(at, step)| is_last(*at, step)).map(|(_, step)| step);
            failed.filter(is_run).for_each(|step| say(&diagnostic::failed_step(step)));
            tell(&error);
            Err(Failure::Told)
        }
    }
}

/// `DOCKER_BUILDKIT` chooses between Docker's two builders; it is checked as Docker checks it.
fn check_buildkit(environment: &Environment) -> Result<(), Failure> {
    let Some(text) = environment.non_empty("DOCKER_BUILDKIT") else { return Ok(()) };
    match parse_bool(text) {
        Ok(true) => {}
        Ok(false) => warn("DOCKER_BUILDKIT=0 has no effect: there is one builder"),
        Err(_) => {
            let why = format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
            let error = Diagnostic::new(format!("DOCKER_BUILDKIT environment variable expects boolean value: {why}"));
            // Docker's client says that, before it calls the builder.
            return Err(Failure::Coded(super::FAILED, Box::new(error)));
        }
    }
    Ok(())
}

/// The command line as it may be written down: what a variable with a secret's name is set to is left out, and so are the names
/// and passwords of URLs.
fn called(argv: impl Iterator<Item = OsString>) -> Vec<String> {
    let tell = |word: OsString| {
        let word = word.to_string_lossy().into_owned();
        let mut start = 0;
        for (at, _) in word.match_indices('=') {
            if is_secret_name(&word[start..at]) {
                return format!("{}=***", &word[..at]);
            }
            start = at + 1;
        }
        without_user_info(&word).into_owned()
    };
    argv.map(tell).collect()
}

/// Prints the answer to `--call`.
fn answered(answer: Result<pipeline::Answer, BuildError>, asked: Call, signal: Option<i32>) -> Result<(), Failure> {
    match (answer, signal) {
        (_, Some(signal)) => {
            say(CANCELED);
            Err(Failure::Signal(signal))
        }
        (Ok(answer), None) => {
            let printed = call::render(&answer, asked);
            print(printed.result)?;
            say(&printed.errors);
            if printed.is_bad { Err(Failure::Told) } else { Ok(()) }
        }
        (Err(error), None) => {
            tell(&error);
            Err(Failure::Told)
        }
    }
}

/// Refuses places that cannot be written before the build, not an hour later.
fn check_places(request: &BuildRequest) -> Result<(), Failure> {
    let outputs = request.outputs.iter().filter(|output| !output.as_directory && output.kind != OutputKind::Local);
    let files = outputs.filter_map(|output| match &output.destination {
        Destination::Path(path) => Some(path),
        Destination::None | Destination::Stdout => None,
    });
    for path in files.chain(&request.iidfile).chain(&request.metadata_file) {
        let parent = path.parent().unwrap_or(path);
        let problem = |what: String, error: io::Error| Err(Diagnostic::new(what).because(error.to_string()).into());
        // A special file (`/dev/stdout`, a pipe) is written to, everything else is made beside its place.
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return problem(format!("cannot write {}", path.display()), io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => {}
            Ok(_) if request.metadata_file.as_ref() == Some(path) && access(path, Access::WRITE_OK).is_ok() => {}
            _ => match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
                _ if parent.is_file() => return problem(format!("cannot write {}", path.display()), io::ErrorKind::NotADirectory.into()),
                Ok(()) => {}
                Err(error) => return problem(format!("cannot write {} into {}", name_of(path), parent.display()), error.into()),
            },
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Ends the process without waiting for anything that the build does.
fn give_up(store: &Store, request: &BuildRequest) -> impl Fn(i32) + Send + 'static {
    let store = store.clone();
    let path = |output: &super::output::Output| match &output.destination {
        Destination::Path(path) => Some(path.clone()),
        Destination::None | Destination::Stdout => None,
    };
    let outputs: Vec<PathBuf> = request.outputs.iter().filter_map(path).collect();
    let began_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    move |signal| {
        say(CANCELED);
        let after = Afterwork { store_root: store.root().to_owned(), sync: store.take_sync_job(), ..Afterwork::default() };
        let (store_root, outputs) = (store.root().to_owned(), outputs.clone());
        let code = Failure::signal_code(signal);
        let error = Abandoned { store_root, outputs, code, after, began_ms }.tidy_up();
        warn(&format!("the build goes on: {error}"));
    }
}

fn named_images(request: &BuildRequest) -> BTreeMap<String, crate::image::NamedImage> {
    let named = request.contexts.iter().filter_map(|(name, context)| match context {
        NamedContext::Image(image) => Some((name.clone(), image.clone())),
        NamedContext::Dir(_) | NamedContext::Git(_) | NamedContext::Http(_) => None,
    });
    named.collect()
}

/// Set to 1, a build ends with the lines that Docker's old builder wrote to standard output; scripts look for them.
const LEGACY_OUTPUT: &str = "SHALE_LEGACY_OUTPUT";

/// The last lines of Docker's old builder.
fn legacy_lines(report: &BuildReport) -> String {
    let built = report.id.iter().map(|id| format!("Successfully built {}\n", human::short_id(&id.to_string())));
    let familiar = |name: &String| Reference::parse(name).map_or_else(|_| name.clone(), |name| name.familiar());
    let tagged = report.names.iter().map(|name| format!("Successfully tagged {}\n", familiar(name)));
    built.chain(tagged).collect()
}

/// Writes the small results: `-q`, `--iidfile`, `--metadata-file`.
fn finish(request: &BuildRequest, report: &BuildReport, summary: &Summary, environment: &Environment) -> Result<(), Failure> {
    let written = || -> Result<(), BuildError> {
        match (&request.iidfile, &report.id) {
            (Some(path), Some(id)) => write_file(path, id.to_string().as_bytes())?,
            (Some(_), None) => warn("--iidfile: not written, for these outputs make no image"),
            (None, _) => {}
        }
        if let Some(path) = &request.metadata_file {
            let text = serde_json::to_string_pretty(&metadata(request, report, summary)).expect("a map of strings serialises");
            write_file(path, (text + "\n").as_bytes())?;
        }
        Ok(())
    };
    written().map_err(|error| Diagnostic::of(&error))?;
    match &report.id {
        Some(id) if request.quiet => print(format!("{id}\n")),
        Some(_) if environment.non_empty(LEGACY_OUTPUT).is_some_and(|value| parse_bool(value) == Ok(true)) => print(legacy_lines(report)),
        _ => Ok(()),
    }
}

/// What docker buildx writes, under its keys.
fn metadata(request: &BuildRequest, report: &BuildReport, summary: &Summary) -> Value {
    let mut all = Map::new();
    all.insert("buildx.build.ref".into(), json!(format!("default/default/{}", report.record.id)));
    let warnings: Vec<Value> =
        summary.warnings.iter().flat_map(|(source, warnings)| warnings.iter().map(|warning| warning_json(source, warning, ""))).collect();
    if request.metadata_warnings && !warnings.is_empty() {
        all.insert("buildx.build.warnings".into(), json!(warnings));
    }
    if let Some(id) = report.id.as_ref().filter(|_| !request.multi_platform) {
        all.insert("containerimage.config.digest".into(), json!(id.to_string()));
    }
    if let Some(written) = report.written.first() {
        if let Some(descriptor) = &written.descriptor {
            all.insert("containerimage.descriptor".into(), json!(descriptor));
        }
        all.insert("containerimage.digest".into(), json!(written.digest.to_string()));
    }
    if !report.names.is_empty() {
        all.insert("image.name".into(), json!(report.names.join(",")));
    }
    all.insert("shale.cache".into(), json!({ "hits": report.tally.hits, "misses": report.tally.misses }));
    all.insert("shale.build".into(), json!(report.record));
    Value::Object(all)
}

/// Shows an error, or every one of a Dockerfile.
fn tell(error: &BuildError) {
    for diagnostic in diagnostics(error) {
        say(&diagnostic.render());
    }
}

/// An error as it is shown; a Dockerfile may have several.
pub(super) fn diagnostics(error: &BuildError) -> Vec<Diagnostic> {
    let one = match error {
        BuildError::Parse { file, errors } => {
            let shown = errors.iter().map(|error| {
                let diagnostic = Diagnostic::build(error.sentence()).at(file.clone(), error.span);
                // BuildKit's sentence asks it already.
                let hint = error.hint.clone().filter(|hint| !hint.starts_with("did you mean"));
                with_hint(diagnostic, hint)
            });
            return shown.collect();
        }
        BuildError::Plan { file, errors } => {
            let shown = errors.iter().map(|error| {
                let diagnostic = Diagnostic::build(error.to_string());
                with_hint(at(diagnostic, error.span.map(|span| (file.clone(), span))), error.hint())
            });
            return shown.collect();
        }
        BuildError::Image { name, at: (file, span), did_you_mean, cause } => {
            let hint = did_you_mean.as_ref().and_then(Near::hint).or_else(|| cause.hint());
            let better = did_you_mean.as_ref().and_then(Near::name).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            let diagnostic = Diagnostic::build(format!("{name}: failed to resolve source metadata: {cause}{better}"));
            with_hint(diagnostic.caused_by(cause).at(file.clone(), *span), hint)
        }
        BuildError::Frontend { at: place, .. } => at(Diagnostic::build(error.to_string()), place.clone())
            .hint("remove the line if the file is a Dockerfile; else build it with the tool that runs this frontend"),
        BuildError::Step { at: place, cause, .. } => step(cause, place.clone()),
        BuildError::Keep(ImageError::Store(cause) | ImageError::Export(ExportError::Store(cause)))
        | BuildError::Export(ExportError::Store(cause)) => {
            image::store_diagnostic(Diagnostic::build(cause.to_string()).caused_by(cause), cause)
        }
        BuildError::Export(ExportError::Io { source, .. } | ExportError::Stream { source }) if is_full(source) => {
            Diagnostic::build(error.to_string()).caused_by(error).hint(image::DESTINATION_FULL)
        }
        BuildError::Keep(cause) => with_hint(Diagnostic::build(cause.to_string()).caused_by(cause), cause.hint()),
        BuildError::Push { cause, .. } => with_hint(Diagnostic::build(error.to_string()).caused_by(&**cause), cause.hint()),
        BuildError::Store(cause) => image::store_diagnostic(Diagnostic::build(cause.to_string()).caused_by(cause), cause),
        BuildError::Git(cause) => with_hint(Diagnostic::build(cause.to_string()).caused_by(cause), cause.hint()),
        BuildError::Context(cause) => with_hint(Diagnostic::build(cause.to_string()).caused_by(cause), cause.hint()),
        error => Diagnostic::build(error.to_string()).caused_by(error),
    };
    vec![one]
}

fn step(cause: &StepError, place: Option<(crate::span::SourceFile, Span)>) -> Diagnostic {
    let is_of_windows = place.as_ref().is_some_and(|(file, span)| is_windows_heredoc(file.slice(*span)));
    let diagnostic = at(Diagnostic::build(cause.to_string()).caused_by(cause), place);
    match cause {
        StepError::Exit { log, lack, absent, .. } => {
            let not_given = || format!("the step mounts what nobody gave: is {} missing?", absent.join(" "));
            let hint = lack.map(no_space).or_else(|| (!absent.is_empty()).then(not_given));
            let diagnostic = with_hint(diagnostic, hint.or_else(|| is_of_windows.then(|| WINDOWS_LINES.to_owned())));
            log.iter().fold(diagnostic, |diagnostic, log| diagnostic.log(log.clone()))
        }
        StepError::Missing { why: Some(Missing::Ignored { file, pattern, line, exception }), .. } => {
            let kept = exception.as_ref().map(|(text, line)| format!("; is {text:?} in line {line} meant to keep it?")).unwrap_or_default();
            diagnostic.hint(format!("it exists, but the pattern {pattern:?} in line {line} of {file} leaves it out of the context{kept}"))
        }
        StepError::Missing { why: Some(Missing::Dangling { link, target }), .. } => {
            diagnostic.hint(format!("{link} is a link to {target}, which the context does not have"))
        }
        StepError::Missing { why: Some(Missing::Absent { similar }), .. } if !similar.is_empty() => {
            diagnostic.hint(format!("the context has {}", similar.join(", ")))
        }
        StepError::Missing { why: Some(Missing::Absent { .. }), .. } if climbs(&diagnostic) => diagnostic.hint(CLIMBS),
        StepError::NoSecret { id } => diagnostic.hint(format!("give it with --secret id={id},src=FILE or --secret id={id},env=NAME")),
        StepError::NoAgent { id } => diagnostic.hint(format!("give it with --ssh {id} (the agent of SSH_AUTH_SOCK) or --ssh {id}=KEYFILE")),
        StepError::Sandbox(SandboxError::Refused(_)) => diagnostic.hint("`shale doctor` tells what this machine allows and what to change"),
        StepError::Sandbox(SandboxError::Call { source, .. } | SandboxError::Worker { source, .. })
            if source.kind() == std::io::ErrorKind::WouldBlock =>
        {
            diagnostic.hint(NO_MORE_PROCESSES)
        }
        StepError::Layer(LayerError::Changed { .. }) | StepError::Sandbox(SandboxError::Changed { .. }) => diagnostic.hint(
            "that is where the image would have it; something writes to what it is copied from: build again when that has ended, or leave it \
             out by .dockerignore",
        ),
        StepError::OtherIds { .. } | StepError::LostLayer { .. } => {
            diagnostic.hint("`shale builder prune --all --force` drops what is left of it, and the next build makes it again")
        }
        StepError::DamagedBlob { .. } => diagnostic.hint("`shale store verify --repair` takes it away; load or pull the image again then"),
        StepError::Git(cause) => with_hint(diagnostic, cause.hint()),
        StepError::Device(cause) => with_hint(diagnostic, cause.hint()),
        StepError::Foreign { why: NoEmulator::Impossible, .. } => diagnostic.hint(NO_EMULATOR),
        StepError::Foreign { .. } => diagnostic.hint(EMULATOR),
        StepError::Image(ImageError::Store(cause)) | StepError::Store(cause) => image::store_diagnostic(diagnostic, cause),
        StepError::Image(cause) if room::fullness(cause).is_none() => with_hint(diagnostic, cause.hint()),
        cause if room::fullness(cause).is_some() => diagnostic.hint(image::DISK_FULL),
        _ => diagnostic,
    }
}

/// Whether an instruction names something above the context.
fn climbs(diagnostic: &Diagnostic) -> bool {
    let instruction = diagnostic.excerpt.as_ref().map_or("", |(file, span)| file.slice(*span));
    instruction.split_whitespace().any(|word| word.starts_with("../"))
}

/// What can be done for a command that found no space.
fn no_space(lack: Lack) -> String {
    let free = human::size(lack.free_bytes);
    if lack.is_full {
        let left = if lack.lacks_inodes { format!("next to no inodes left for files, and {free},") } else { format!("{free} left") };
        return format!("the disk of the store had {left} when the command ended: {}", image::DISK_FULL);
    }
    format!(
        "the command says that it found no space; the disk of the store has {free} left now. What a command writes lies there, but for \
         /dev/shm (--shm-size) and mounts of type tmpfs (size=)"
    )
}

/// Whether a shell is given lines that end in CR LF: of an instruction itself they are taken off, of its heredocs they are content.
fn is_windows_heredoc(instruction: &str) -> bool {
    instruction.contains("<<") && instruction.trim_end().contains("\r\n")
}

fn at(diagnostic: Diagnostic, place: Option<(crate::span::SourceFile, Span)>) -> Diagnostic {
    match place {
        Some((file, span)) => diagnostic.at(file, span),
        None => diagnostic,
    }
}

pub(super) fn with_hint(diagnostic: Diagnostic, hint: Option<String>) -> Diagnostic {
    match hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}
