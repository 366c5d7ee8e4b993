//! The commands that remove: `builder prune`, `buildx prune`, `image prune`, `system prune`, with Docker's questions and answers.

use std::collections::BTreeSet;
use std::io::BufRead as _;

use shale_cache::{Caps, OciDigest, PruneOptions, PruneReport, Store};
use time::OffsetDateTime;

use super::Failure;
use super::args::{ImagePruneArgs, PruneArgs, SystemPruneArgs};
use super::cache_filter;
use super::console::{print, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::filter::Filters;
use super::image::{failure, open_store, service, store_failure};
use super::{human, usage};
use crate::image::ImageService;
use crate::oci::reference::Reference;
use crate::worker::Mapped;

/// Which of Docker's two commands for the same thing was called: they answer differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// `docker builder prune`
    Builder,
    /// `docker buildx prune`
    Buildx,
}

/// `shale builder prune`, `shale buildx prune`
pub fn cache(args: &PruneArgs, manner: Manner, environment: &Environment) -> Result<(), Failure> {
    let filter = cache_filter::of_cache(&args.filters).map_err(Diagnostic::new)?;
    let what = if args.all { "all build cache" } else { "all dangling build cache" };
    if !args.force && !confirmed(&format!("WARNING! This will remove {what}. Are you sure you want to continue?"))? {
        return Ok(());
    }
    if args.keep_storage.is_some() && manner == Manner::Buildx {
        warn("keep-storage flag has been changed to reserved-space");
    }
    let caps = Caps {
        reserved_bytes: args.reserved_space.or(args.keep_storage).unwrap_or(0),
        max_used_bytes: args.max_used_space.unwrap_or(0),
        min_free_bytes: args.min_free_space.unwrap_or(0),
        ..Caps::default()
    };
    let store = open_store(environment)?;
    let report = prune(&store, &PruneOptions { all: args.all, filter, caps })?;
    print(match manner {
        Manner::Builder => format!("{}{}", deleted_entries(&report), total(report.bytes)),
        Manner::Buildx => usage::pruned(&report, args.verbose, now_secs()),
    })
}

fn prune(store: &Store, options: &PruneOptions) -> Result<PruneReport, Failure> {
    let mut mapped = Mapped::new(store.root());
    let report = store.gc().prune(std::slice::from_ref(options), None, &mut |paths| mapped.measure(paths));
    let report = report.map_err(|error| store_failure(&error))?;
    remove_mapped(&mut mapped, &report);
    if report.in_use > 0 {
        warn(&format!("{} entries stay, for running builds use them", report.in_use));
    }
    Ok(report)
}

/// What mapped ids own can only be deleted under the same map.
fn remove_mapped(mapped: &mut Mapped, report: &PruneReport) {
    if let Err(error) = mapped.remove(&report.undeletable) {
        warn(&format!("{} directories of mapped users stay: {error}", report.undeletable.len()));
    }
}

fn deleted_entries(report: &PruneReport) -> String {
    let ids: String = report.removed.iter().map(|item| format!("{}\n", item.id())).collect();
    if ids.is_empty() { ids } else { format!("Deleted build cache objects:\n{ids}\n") }
}

fn total(bytes: u64) -> String {
    format!("Total reclaimed space: {}\n", human::size(bytes))
}

/// `shale image prune`
pub fn images(args: &ImagePruneArgs, environment: &Environment) -> Result<(), Failure> {
    let filter = image_filter(&args.filters, args.all)?;
    let what = if args.all { "all images without at least one container associated to them" } else { "all dangling images" };
    if !args.force && !confirmed(&format!("WARNING! This will remove {what}.\nAre you sure you want to continue?"))? {
        return Ok(());
    }
    let (bytes, text) = prune_images(&service(environment)?, &filter)?;
    print(text + &total(bytes))
}

/// Without `--all` only images without a name, as long as no filter says otherwise.
fn image_filter(filters: &[String], all: bool) -> Result<Filters, Failure> {
    if let Some(key) = ["reference", "before", "since"].into_iter().find(|key| filters.iter().any(|filter| filter.starts_with(*key))) {
        return Err(Diagnostic::new(format!("invalid filter '{key}'")).into());
    }
    let is_dangling = |filter: &&String| filter.starts_with("dangling=");
    let says_false = filters.iter().any(|filter| matches!(filter.as_str(), "dangling=false" | "dangling=0"));
    // `dangling=false` asks for all, not for those that have names.
    let implied = (!all && !says_false).then(|| "dangling=true".to_owned());
    let given: Vec<String> = filters.iter().filter(|filter| !is_dangling(filter)).cloned().chain(implied).collect();
    Filters::parse(&given, now_secs()).map_err(|error| Diagnostic::of(&error).into())
}

/// Removes images and what only they need. Returns the freed bytes and what Docker says about it.
fn prune_images(service: &ImageService, filter: &Filters) -> Result<(u64, String), Failure> {
    let (mut ids, mut text) = (Vec::<(OciDigest, Vec<String>)>::new(), String::new());
    for image in service.list().map_err(|error| failure(&error))? {
        let Some(image) = filter.apply(image, None, None) else { continue };
        for name in image.names.iter().map(Reference::familiar).chain(image.repo_digests) {
            text.extend(["untagged: ", &name, "\n"]);
        }
        text.extend(["deleted: ", image.id.as_str(), "\n"]);
        ids.push((image.id, image.names.iter().map(ToString::to_string).collect()));
    }
    for part in parts_of(service, &ids)? {
        text.extend(["deleted: ", part.as_str(), "\n"]);
        ids.push((part, Vec::new()));
    }
    if ids.is_empty() {
        return Ok((0, text));
    }
    let store = service.store();
    let mut mapped = Mapped::new(store.root());
    let report = store.gc().remove_images(&ids, &mut |paths| mapped.measure(paths)).map_err(|error| store_failure(&error))?;
    remove_mapped(&mut mapped, &report);
    Ok((report.bytes, format!("Deleted Images:\n{text}\n")))
}

/// Of an image for several platforms one has the name. The others, which are not listed beside it, go with it, unless they have names of
/// their own or are part of one that stays.
fn parts_of(service: &ImageService, gone: &[(OciDigest, Vec<String>)]) -> Result<BTreeSet<OciDigest>, Failure> {
    let gone: BTreeSet<&OciDigest> = gone.iter().map(|(id, _)| id).collect();
    let tagged = service.store().images().tagged().map_err(|error| store_failure(&error))?;
    let (with, without): (Vec<_>, Vec<_>) = tagged.into_iter().map(|(_, record)| record).partition(|record| gone.contains(&record.id));
    let kept: BTreeSet<OciDigest> = without.into_iter().flat_map(|record| [vec![record.id], record.built.platforms].concat()).collect();
    let parts = with.into_iter().flat_map(|record| record.built.platforms);
    Ok(parts.filter(|part| !kept.contains(part) && !gone.contains(part)).collect())
}

/// `shale system prune`: images first, then the cache that is left.
pub fn system(args: &SystemPruneArgs, environment: &Environment) -> Result<(), Failure> {
    if args.volumes && args.filters.iter().any(|filter| filter.starts_with("until=")) {
        return Err(Diagnostic::new("The \"until\" filter is not supported with \"--volumes\"").into());
    }
    let images = image_filter(&args.filters, args.all)?;
    let cache = cache_filter::of_cache(&args.filters).map_err(Diagnostic::new)?;
    if !args.force && !confirmed(&warning(args))? {
        return Ok(());
    }
    let service = service(environment)?;
    let (image_bytes, text) = prune_images(&service, &images)?;
    let report = prune(service.store(), &PruneOptions { all: args.all, filter: cache, caps: Caps::default() })?;
    print(format!("{text}{}{}", deleted_entries(&report), total(image_bytes + report.bytes)))
}

fn warning(args: &SystemPruneArgs) -> String {
    let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
    lines.extend(args.volumes.then_some("all anonymous volumes not used by at least one container"));
    lines.push(if args.all { "all images without at least one container associated to them" } else { "all dangling images" });
    lines.push(if args.all { "all build cache" } else { "unused build cache" });
    let lines: String = lines.iter().map(|line| format!("\n  - {line}")).collect();
    let mut filters = args.filters.clone();
    filters.sort();
    let filters = if filters.is_empty() {
        String::new()
    } else {
        let filters: String = filters.iter().map(|filter| format!("\n  - {filter}")).collect();
        format!("\n  Items to be pruned will be filtered with:{filters}\n")
    };
    format!("WARNING! This will remove:{lines}\n{filters}\nAre you sure you want to continue?")
}

/// Asks, and takes nothing but `y` for a yes: a pipe that ends says no, as with Docker.
fn confirmed(question: &str) -> Result<bool, Failure> {
    print(format!("{question} [y/N] "))?;
    let mut answer = String::new();
    // What cannot be read is no yes.
    drop(std::io::stdin().lock().read_line(&mut answer));
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

pub(super) fn now_secs() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_of_system_prune_is_docker_s() {
        let mut args = SystemPruneArgs { all: false, force: false, volumes: false, filters: vec![] };
        insta::assert_snapshot!(warning(&args), @r"
        WARNING! This will remove:
          - all stopped containers
          - all networks not used by at least one container
          - all dangling images
          - unused build cache

        Are you sure you want to continue?
        ");
        args = SystemPruneArgs { all: true, volumes: true, filters: vec!["until=1h".into(), "label=a".into()], ..args };
        insta::assert_snapshot!(warning(&args), @r"
        WARNING! This will remove:
          - all stopped containers
          - all networks not used by at least one container
          - all anonymous volumes not used by at least one container
          - all images without at least one container associated to them
          - all build cache

          Items to be pruned will be filtered with:
          - label=a
          - until=1h

        Are you sure you want to continue?
        ");
    }
}
