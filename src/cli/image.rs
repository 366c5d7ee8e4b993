//! The commands over the local image store: images, inspect, history, rmi, load, save, tag.

use std::path::Path;

use shale_cache::{ImageLayer, Packed, Store, StoreError};
use time::OffsetDateTime;

use crate::execute::StepError;
use crate::execute::forms::Forms;
use crate::execute::room::fullness;
use crate::export::{Destination, ExportError, Format};
use crate::image::{ImageError, ImageService, Removal};
use crate::layer::is_full;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::archive::{ArchiveError, Input};
use crate::source::context::go_words;
use crate::source::registry::Client;

use super::args::{HistoryArgs, ImageInspectArgs, ImagesArgs, InspectArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use super::console::{open_stdout, print, say, warn, write_failure};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::filter::{FilterError, Filters};
use super::flags::parse_bool;
use super::images::{self, Style};
use super::inspect::{self, Form};
use super::output::LayerOptions;
use super::request::registry_config;
use super::{Failure, absent, history, platform};

/// The store of this user.
pub fn open_store(environment: &Environment) -> Result<Store, Failure> {
    let (root, note) = environment.store_root();
    if let Some(note) = note {
        warn(&note);
    }
    Store::open(&root).map_err(|error| store_failure(&error))
}

/// Words a store error.
pub fn store_failure(error: &StoreError) -> Failure {
    store_diagnostic(Diagnostic::of(error), error).into()
}

/// What can be done when the store's disk is full.
pub const DISK_FULL: &str = "free some space, run `shale builder prune --all --force`, or set SHALE_ROOT to a larger disk";

/// The same for the disk that something is written to from the store.
pub const DESTINATION_FULL: &str = "free some space there, or write to another disk";

/// What can be done with a store that cannot be written, and without it.
const READ_ONLY: &str = "a read-only store can be looked at, saved from, and used by builds that find everything in it: for anything else make it \
     writable, or set SHALE_ROOT to a directory that you may write";

/// Adds what can be done about a store error.
pub fn store_diagnostic(diagnostic: Diagnostic, error: &StoreError) -> Diagnostic {
    match error {
        StoreError::Full { .. } => diagnostic.hint(DISK_FULL),
        StoreError::ReadOnly { .. } => diagnostic.hint(READ_ONLY),
        StoreError::Denied { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => diagnostic.hint(READ_ONLY),
        StoreError::Io { deed: "create the store", .. } | StoreError::Denied { .. } => {
            diagnostic.hint("set SHALE_ROOT to a directory that you may write")
        }
        StoreError::ForeignOwner { .. } => diagnostic.hint("each user has a store of their own: set SHALE_ROOT to another directory"),
        StoreError::Busy { .. } => diagnostic.hint("try again when it has ended"),
        StoreError::NotAStore { .. } => diagnostic.hint("set SHALE_ROOT to an empty directory or to one that does not exist yet"),
        _ => diagnostic,
    }
}

pub(super) fn service(environment: &Environment) -> Result<ImageService, Failure> {
    let config = registry_config(environment).map_err(|error| Diagnostic::of(&error))?;
    Ok(ImageService::new(open_store(environment)?, Client::new(config)))
}

/// Words an image error: Docker's client hears such errors from the daemon.
pub(super) fn failure(error: &ImageError) -> Failure {
    told_by_engine(error).into()
}

fn told_by_engine(error: &ImageError) -> Diagnostic {
    let diagnostic = Diagnostic::of(error).of_engine();
    match (error, error.hint()) {
        (ImageError::Store(cause) | ImageError::Export(ExportError::Store(cause)) | ImageError::Archive(ArchiveError::Store(cause)), _) => {
            store_diagnostic(diagnostic, cause)
        }
        (ImageError::Export(ExportError::Io { source, .. } | ExportError::Stream { source }), _) if is_full(source) => {
            diagnostic.hint(DESTINATION_FULL)
        }
        (error, _) if fullness(error).is_some() => diagnostic.hint(DISK_FULL),
        (_, Some(hint)) => diagnostic.hint(hint),
        (_, None) => diagnostic,
    }
}

fn now_secs() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Words that are commands of `docker image`: as the argument of `docker images` they are a slip.
const IMAGE_COMMANDS: &[&str] =
    &["build", "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push", "rm", "save", "tag"];

/// `shale images`: the newest first, as Docker sorts them.
pub fn list(args: &ImagesArgs, environment: &Environment) -> Result<(), Failure> {
    let filters = match Filters::parse(&args.filters, now_secs()) {
        Ok(filters) => filters.named(args.name.as_deref()),
        Err(error @ FilterError::Format) => {
            let text = format!("invalid argument {:?} for \"-f, --filter\" flag: {error}", args.filters.join(" "));
            return Err(Failure::Coded(super::WRONG_FLAG, Box::new(Diagnostic::new(text))));
        }
        Err(error) => return Err(Diagnostic::of(&error).of_engine().into()),
    };
    let service = service(environment)?;
    let created = |name: &Option<String>| match name {
        None => Ok(None),
        Some(name) => service.history(name).map(|steps| steps.last().and_then(|step| step.created_secs).or(Some(0))),
    };
    let before = created(&filters.before).map_err(|error| failure(&error))?;
    let since = created(&filters.since).map_err(|error| failure(&error))?;
    let mut images = service.list().map_err(|error| failure(&error))?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created_secs()));
    let style = Style { quiet: args.quiet, no_trunc: args.no_trunc, digests: args.digests, format: args.format.clone() };
    let kept = images.into_iter().filter_map(|image| filters.apply(image, before, since));
    let rows: Vec<_> = kept.flat_map(|image| images::rows(&image, &style)).collect();
    print(images::render(&rows, &style, now_secs()).map_err(|error| Diagnostic::of(&error))?)?;
    if let Some(name) = args.name.as_deref().filter(|name| rows.is_empty() && IMAGE_COMMANDS.contains(name)) {
        say(&format!("No images found matching {name:?}: did you mean \"{} image {name}\"?\n", environment.program.name()));
    }
    Ok(())
}

/// `shale inspect`: what is found is printed even if something else is missing, as Docker does.
pub fn inspect(args: &InspectArgs, environment: &Environment) -> Result<(), Failure> {
    let form = Form::parse(args.format.as_deref()).map_err(|error| Failure::template(&error))?;
    if let Some(kind) = args.kind.as_deref() {
        inspect::check_kind(kind).map_err(Diagnostic::new)?;
    }
    match args.kind.as_deref() {
        None => inspect_names(&args.names, &form, Kinds::All, None, environment)?,
        Some("image") => inspect_names(&args.names, &form, Kinds::Images, None, environment)?,
        Some(kind) => return absent::inspect_all(kind, &args.names, &form, environment),
    }
    if args.size {
        warn("--size ignored for image");
    }
    Ok(())
}

/// `shale image inspect`
pub fn inspect_images(args: &ImageInspectArgs, environment: &Environment) -> Result<(), Failure> {
    let form = Form::parse(args.format.as_deref()).map_err(|error| Failure::template(&error))?;
    let wanted = platform::wanted(args.platform.as_deref())?;
    inspect_names(&args.names, &form, Kinds::Images, wanted.as_ref(), environment)
}

/// Among which kinds of objects names are looked for.
#[derive(Clone, Copy, Debug)]
enum Kinds {
    /// All that Docker has.
    All,
    Images,
}

fn inspect_names(names: &[String], form: &Form, kinds: Kinds, wanted: Option<&Platform>, environment: &Environment) -> Result<(), Failure> {
    let mut found = Vec::new();
    let mut wrong: Vec<Diagnostic> = Vec::new();
    let service = service(environment)?;
    for name in names {
        let found_as = match platform::variant(&service, name, wanted) {
            Ok(found_as) => found_as,
            Err(other) => {
                wrong.push(other);
                continue;
            }
        };
        match (kinds, service.inspect(&found_as)) {
            (_, Ok(image)) => found.push(image),
            (Kinds::All, Err(ImageError::NotFound { .. } | ImageError::Reference { .. })) => {
                wrong.push(Diagnostic::no_such_object(name));
            }
            (_, Err(error)) => wrong.push(told_by_engine(&error)),
        }
    }
    let (text, errors) = form.render(&found);
    print(text)?;
    wrong.extend(errors.iter().map(|error| Diagnostic::of(error)));
    told(wrong, environment)
}

/// Shows errors that did not stop a command; it fails if there is one.
pub(super) fn told(wrong: Vec<Diagnostic>, environment: &Environment) -> Result<(), Failure> {
    for diagnostic in &wrong {
        say(&diagnostic.render_as(environment.program));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

/// `shale history`
pub fn history(args: &HistoryArgs, environment: &Environment) -> Result<(), Failure> {
    let human = match args.human.as_deref().map(parse_bool) {
        None => true,
        Some(Ok(human)) => human,
        Some(Err(reason)) => {
            let text = format!("invalid argument {:?} for \"-H, --human\" flag: {reason}", args.human.as_deref().unwrap_or_default());
            return Err(Failure::Coded(super::WRONG_FLAG, Box::new(Diagnostic::new(text))));
        }
    };
    let wanted = platform::wanted(args.platform.as_deref())?;
    let service = service(environment)?;
    let steps = service.history(&platform::variant(&service, &args.image, wanted.as_ref())?).map_err(|error| failure(&error))?;
    let style = history::Style { quiet: args.quiet, no_trunc: args.no_trunc, human, format: args.format.clone() };
    print(history::render(&steps, &style, now_secs()).map_err(|error| Diagnostic::of(&error))?)
}

/// `shale rmi`: goes on after an error, as Docker does.
pub fn remove(args: &RmiArgs, environment: &Environment) -> Result<(), Failure> {
    let service = service(environment)?;
    let mut wrong = Vec::new();
    let mut is_fatal = false;
    for name in &args.images {
        match service.remove(name, args.force) {
            Ok(removals) => print(removals.iter().map(removal_line).collect::<String>())?,
            Err(error) => {
                is_fatal |= !args.force || !matches!(error, ImageError::NotFound { .. });
                wrong.push(told_by_engine(&error));
            }
        }
    }
    // With `-f` what does not exist is told and no failure.
    told(wrong, environment).or_else(|failure| if is_fatal { Err(failure) } else { Ok(()) })
}

fn removal_line(removal: &Removal) -> String {
    match removal {
        Removal::Untagged(name) => format!("Untagged: {name}\n"),
        Removal::Deleted(id) => format!("Deleted: {id}\n"),
    }
}

/// `shale load`
pub fn load(args: &LoadArgs, environment: &Environment) -> Result<(), Failure> {
    if args.input.is_none() && environment.stdin_is_terminal {
        return Err(Diagnostic::new("requested load from stdin, but stdin is empty").into());
    }
    let wanted = platform::wanted(args.platform.as_deref())?;
    let service = service(environment)?;
    let loaded = match args.input.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file = environment.resolve(path);
            file.metadata().map_err(|error| Diagnostic::new(format!("open {}: {}", path.display(), go_words(&error))))?;
            service.load(Input::Path(&file), wanted.as_ref())
        }
        None => service.load(Input::Stream(&mut std::io::stdin().lock()), wanted.as_ref()),
    };
    for image in loaded.map_err(|error| failure(&error))? {
        platform::variant(&service, image.id.as_str(), wanted.as_ref())?;
        for name in &image.names {
            print(format!("Loaded image: {}\n", name.familiar()))?;
        }
        if image.names.is_empty() {
            print(format!("Loaded image ID: {}\n", image.id))?;
        }
        if !image.left_out.is_empty() {
            let one = image.names.first().map_or_else(|| image.id.to_string(), Reference::familiar);
            warn(&format!("{one} was loaded without {}: the archive names what it does not hold", image.left_out.join(", ")));
        }
    }
    Ok(())
}

/// `shale save`: one archive that is OCI layout and docker-archive.
pub fn save(args: &SaveArgs, environment: &Environment) -> Result<(), Failure> {
    if args.output.is_none() && environment.stdout_is_terminal {
        return Err(Diagnostic::new("cowardly refusing to save to a terminal. Use the -o flag or redirect").into());
    }
    if let Some(dir) = args.output.as_deref().and_then(Path::parent).filter(|dir| !dir.as_os_str().is_empty())
        && let Err(error) = environment.resolve(dir).metadata()
    {
        let why = format!("stat {}: {}", dir.display(), go_words(&error));
        return Err(Diagnostic::new(format!("failed to save image: invalid output path: {why}")).into());
    }
    let wanted = platform::wanted(args.platform.as_deref())?;
    let service = service(environment)?;
    let names: Vec<&str> = args.images.iter().map(String::as_str).collect();
    for name in &names {
        platform::variant(&service, name, wanted.as_ref())?;
    }
    match &args.output {
        Some(path) => write_archive(&service, &names, wanted.as_ref(), Destination::File(&environment.resolve(path))),
        None => write_archive(&service, &names, wanted.as_ref(), Destination::Stream(&mut open_stdout()?)),
    }
}

/// Packs a layer that was built and never exported.
pub(super) fn pack(forms: &Forms<'_>, image: &str, layer: &ImageLayer) -> Result<Packed, ImageError> {
    let invalid = |detail: String| ImageError::Invalid { image: image.to_owned(), detail };
    let id = layer.layer.ok_or_else(|| invalid(format!("the layer {} is gone from the store", layer.diff_id.0)))?;
    forms.own_packed(&id, LayerOptions::default().packing(None)).map_err(|error| match error {
        StepError::Store(error) => ImageError::Store(error),
        error => invalid(error.to_string()),
    })
}

/// Writes images as one archive that is OCI layout and docker-archive.
pub fn write_archive(
    service: &ImageService,
    names: &[&str],
    platform: Option<&Platform>,
    destination: Destination<'_>,
) -> Result<(), Failure> {
    // A layer that was built and never exported has no packed form yet.
    let nothing = ();
    let forms = Forms::new(service.store(), service, &[], &nothing);
    let image = names.join(" ");
    let mut pack = |layer: &ImageLayer| pack(&forms, &image, layer);
    match service.save(names, platform, Format::Docker, destination, &mut pack) {
        Ok(_) => Ok(()),
        Err(ImageError::Export(crate::export::ExportError::Stream { source })) => Err(write_failure(&source)),
        Err(error) => Err(failure(&error)),
    }
}

/// `shale tag`
pub fn tag(args: &TagArgs, environment: &Environment) -> Result<(), Failure> {
    let tagged = service(environment)?.tag(&args.source, &args.target);
    tagged.map(drop).map_err(|error| match error {
        // What is a name, Docker's client knows itself.
        ImageError::Reference { text, source } => {
            Diagnostic::new(format!("Error parsing reference: {text:?} is not a valid repository/tag: {source}")).into()
        }
        ImageError::DigestTag { .. } => Diagnostic::of(&error).into(),
        error => failure(&error),
    })
}
