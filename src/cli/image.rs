//! The commands over the local image store: images, inspect, rmi, load, save, tag, builder prune.

use std::path::Path;

use serde_json::Value;
use shale_cache::{ImageLayer, PruneReport, Store, StoreError};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::execute::forms::Forms;
use crate::export::{Destination, Format};
use crate::image::{ImageError, ImageService, ImageSummary, Removal};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::archive::Input;
use crate::source::registry::Client;
use crate::worker::{Worker, WorkerConfig};

use super::args::{ImagesArgs, InspectArgs, LoadArgs, PruneArgs, RmiArgs, SaveArgs, TagArgs};
use super::console::{print, warn, write_failure};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::images::{self, Row, Style};
use super::output::LayerOptions;
use super::request::registry_config;
use super::{Failure, human, inspect};

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

/// Adds what can be done about a store error.
pub fn store_diagnostic(diagnostic: Diagnostic, error: &StoreError) -> Diagnostic {
    match error {
        StoreError::Full { .. } => diagnostic.hint(DISK_FULL),
        StoreError::Io { deed: "create the store", .. } | StoreError::Denied { .. } => {
            diagnostic.hint("set SHALE_ROOT to a directory that you may write")
        }
        StoreError::ForeignOwner { .. } => diagnostic.hint("each user has a store of their own: set SHALE_ROOT to another directory"),
        StoreError::Busy { .. } => diagnostic.hint("try again when no build runs"),
        StoreError::NotAStore { .. } => diagnostic.hint("set SHALE_ROOT to an empty directory or to one that does not exist yet"),
        _ => diagnostic,
    }
}

fn service(environment: &Environment) -> Result<ImageService, Failure> {
    Ok(ImageService::new(open_store(environment)?, Client::new(registry_config(environment))))
}

/// Words an image error.
pub(super) fn failure(error: &ImageError) -> Failure {
    let diagnostic = Diagnostic::of(error);
    match error.hint() {
        Some(hint) => diagnostic.hint(hint).into(),
        None => diagnostic.into(),
    }
}

/// `shale images`
pub fn list(args: &ImagesArgs, environment: &Environment) -> Result<(), Failure> {
    let wanted = match &args.name {
        None => None,
        Some(name) => Some(Reference::parse(name).map_err(|error| Diagnostic::of(&error))?),
    };
    let images = service(environment)?.list().map_err(|error| failure(&error))?;
    let rows: Vec<Row> =
        images.iter().flat_map(rows).filter(|(name, _)| is_wanted(name.as_ref(), wanted.as_ref())).map(|(_, row)| row).collect();
    let style = Style { quiet: args.quiet, no_trunc: args.no_trunc, format: args.format.clone() };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    print(images::render(&rows, &style, now).map_err(|error| Diagnostic::of(&error))?)
}

/// An image as lines of the list: one per name.
fn rows(image: &ImageSummary) -> Vec<(Option<Reference>, Row)> {
    let created_secs =
        image.created.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok()).map(OffsetDateTime::unix_timestamp);
    let row = Row { repository: None, tag: None, digest: None, id: image.id.to_string(), created_secs, size_bytes: image.size_bytes };
    if image.names.is_empty() {
        return vec![(None, row)];
    }
    let named = |name: &Reference| {
        let repository = name.familiar_name();
        let digest = image.repo_digests.iter().find_map(|known| known.strip_prefix(&repository)?.strip_prefix('@'));
        let row =
            Row { repository: Some(repository.clone()), tag: name.tag().map(Into::into), digest: digest.map(Into::into), ..row.clone() };
        (Some(name.clone()), row)
    };
    image.names.iter().map(named).collect()
}

fn is_wanted(name: Option<&Reference>, wanted: Option<&Reference>) -> bool {
    match (name, wanted) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(name), Some(wanted)) => name.name() == wanted.name() && wanted.tag().is_none_or(|tag| name.tag() == Some(tag)),
    }
}

/// `shale inspect`: what is found is printed even if something else is missing, as Docker does.
pub fn inspect(args: &InspectArgs, environment: &Environment) -> Result<(), Failure> {
    if let Some(kind) = args.kind.as_deref().filter(|kind| *kind != "image") {
        return Err(Diagnostic::new(format!("there are no objects of type {kind:?}: shale has images only")).into());
    }
    let service = service(environment)?;
    let mut found: Vec<Value> = vec![];
    let mut missing = None;
    for name in &args.names {
        match service.inspect(name) {
            Ok(image) => found.push(serde_json::to_value(image).map_err(|error| Diagnostic::of(&error))?),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    print(inspect::render(&found, args.format.as_deref()).map_err(|error| Diagnostic::of(&error))?)?;
    missing.map_or(Ok(()), |error| Err(failure(&error)))
}

/// `shale rmi`: goes on after an error, as Docker does.
pub fn remove(args: &RmiArgs, environment: &Environment) -> Result<(), Failure> {
    let service = service(environment)?;
    let mut first_error = None;
    for name in &args.images {
        match service.remove(name, args.force) {
            Ok(removals) => print(removals.iter().map(removal_line).collect::<String>())?,
            Err(ImageError::NotFound { .. }) if args.force => {}
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), |error| Err(failure(&error)))
}

fn removal_line(removal: &Removal) -> String {
    match removal {
        Removal::Untagged(name) => format!("Untagged: {name}\n"),
        Removal::Deleted(id) => format!("Deleted: {id}\n"),
    }
}

/// `shale load`
pub fn load(args: &LoadArgs, environment: &Environment) -> Result<(), Failure> {
    let service = service(environment)?;
    let platform = Platform::native();
    let loaded = match args.input.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => service.load(Input::Path(&environment.resolve(path)), &platform),
        None => service.load(Input::Stream(&mut std::io::stdin().lock()), &platform),
    };
    for image in loaded.map_err(|error| failure(&error))? {
        for name in &image.names {
            print(format!("Loaded image: {}\n", name.familiar()))?;
        }
        if image.names.is_empty() {
            print(format!("Loaded image ID: {}\n", image.id))?;
        }
    }
    Ok(())
}

/// `shale save`: one archive that is OCI layout and docker-archive.
pub fn save(args: &SaveArgs, environment: &Environment) -> Result<(), Failure> {
    if args.output.is_none() && environment.stdout_is_terminal {
        return Err(Diagnostic::new("cowardly refusing to save to a terminal. Use the -o flag or redirect").into());
    }
    let service = service(environment)?;
    let names: Vec<&str> = args.images.iter().map(String::as_str).collect();
    // A layer that was built and never exported has no packed form yet.
    let nothing = ();
    let forms = Forms::new(service.store(), &service, &[], &nothing);
    let packing = LayerOptions::default().packing(None);
    let mut pack = |layer: &ImageLayer| {
        let invalid = |detail: String| ImageError::Invalid { image: names.join(" "), detail };
        let id = layer.layer.ok_or_else(|| invalid(format!("the layer {} is gone from the store", layer.diff_id.0)))?;
        forms.own_packed(&id, packing).map_err(|error| invalid(error.to_string()))
    };
    let result = match &args.output {
        Some(path) => service.save(&names, Format::Docker, Destination::File(&environment.resolve(path)), &mut pack),
        None => service.save(&names, Format::Docker, Destination::Stream(&mut std::io::stdout().lock()), &mut pack),
    };
    match result {
        Ok(_) => Ok(()),
        Err(ImageError::Export(crate::export::ExportError::Stream { source })) => Err(write_failure(&source)),
        Err(error) => Err(failure(&error)),
    }
}

/// `shale tag`
pub fn tag(args: &TagArgs, environment: &Environment) -> Result<(), Failure> {
    service(environment)?.tag(&args.source, &args.target).map(drop).map_err(|error| failure(&error))
}

/// `shale builder prune`
pub fn prune(args: &PruneArgs, environment: &Environment) -> Result<(), Failure> {
    if !args.all || !args.force {
        let error = Diagnostic::new("the build cache can only be removed as a whole, and without being asked");
        return Err(error.hint("shale builder prune --all --force").into());
    }
    let store = open_store(environment)?;
    let report = store.gc().prune_all().map_err(|error| store_failure(&error))?;
    if !report.undeletable.is_empty() {
        // What mapped ids own can only be deleted under the same map.
        let config = WorkerConfig { store_root: store.root().to_owned() };
        let removed = Worker::start(&config).and_then(|worker| worker.remove(&report.undeletable));
        if let Err(error) = removed {
            warn(&format!("{} directories of mapped users stay: {error}", report.undeletable.len()));
        }
    }
    print(prune_text(&report))
}

fn prune_text(report: &PruneReport) -> String {
    format!(
        "Removed: {} steps, {} layers, {} unpacked forms, {} blobs\nTotal reclaimed space: {}\n",
        report.steps,
        report.layers,
        report.unpacked,
        report.blobs,
        human::short_bytes(report.bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn summary(names: &[&str]) -> ImageSummary {
        ImageSummary {
            id: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            names: names.iter().map(|name| Reference::parse(name).unwrap()).collect(),
            repo_digests: vec![format!("app@{DIGEST}")],
            created: Some("2023-11-14T22:13:20.5Z".into()),
            size_bytes: 7,
        }
    }

    #[test]
    fn an_image_is_a_line_per_name() {
        let found: Vec<Row> = rows(&summary(&["app:1", "reg.example:5000/x/app:2"])).into_iter().map(|(_, row)| row).collect();
        let shown: Vec<_> = found.iter().map(|row| (row.repository.as_deref(), row.tag.as_deref(), row.digest.as_deref())).collect();
        assert_eq!(shown, [(Some("app"), Some("1"), Some(DIGEST)), (Some("reg.example:5000/x/app"), Some("2"), None)]);
        assert_eq!(found[0].created_secs, Some(1_700_000_000));
        assert_eq!(rows(&summary(&[]))[0].1.repository, None);
    }

    #[test]
    fn a_name_selects_its_tags() {
        let name = |text: &str| Reference::parse(text).unwrap();
        for (image, wanted, is) in [("app:1", "app", true), ("app:1", "app:1", true), ("app:1", "app:2", false), ("x/app:1", "app", false)]
        {
            assert_eq!(is_wanted(Some(&name(image)), Some(&name(wanted))), is, "{image} {wanted}");
        }
        assert!(!is_wanted(None, Some(&name("app"))) && is_wanted(None, None));
    }
}
