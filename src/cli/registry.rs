//! `shale push` and `pull`, in Docker's words.

use std::collections::HashMap;
use std::time::Duration;

use shale_cache::{Lease, OciDigest};

use crate::execute::forms::Forms;
use crate::image::{ImageError, ImageService, Outgoing, PushAs, short_id};
use crate::oci::manifest::runs_on;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::registry::{Client, Progress, RegistryError};

use super::Failure;
use super::args::{PullArgs, PushArgs, RegistryArgs};
use super::console::{print, say, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::{failure, open_store, pack, store_failure};
use super::platform::not_provided;
use super::request::registry_config_with;
use super::transfer::{Direction, Transfer};

/// Words a registry's error.
pub(super) fn registry_failure(error: &RegistryError) -> Failure {
    let diagnostic = Diagnostic::of(error);
    match error.hint() {
        Some(hint) => diagnostic.hint(hint).into(),
        None => diagnostic.into(),
    }
}

/// Tells of waits, and of nothing else.
#[derive(Debug)]
pub(super) struct RegistryNotes;

impl Progress for RegistryNotes {
    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        warn(&format!("{what}: {cause}; trying again in {:.1}s", delay.as_secs_f64()));
    }
}

/// The images of this user, and the right to use the store until the value ends.
pub(super) fn images(environment: &Environment, args: &RegistryArgs) -> Result<(ImageService, Lease), Failure> {
    let store = open_store(environment)?;
    let lease = store.lease().map_err(|error| store_failure(&error))?;
    Ok((ImageService::new(store, Client::new(registry_config_with(environment, args).map_err(|error| Diagnostic::of(&error))?)), lease))
}

fn reference(text: &str) -> Result<Reference, Failure> {
    Ok(Reference::parse(text).map_err(|error| Diagnostic::of(&error))?)
}

/// The name with its tag; what has none gets the default, which is told. `all` forbids a tag.
fn tagged(name: Reference, all: bool, quiet: bool) -> Result<Reference, Failure> {
    let bare = name.tag().is_none() && name.digest().is_none();
    if all && !bare {
        return Err(Diagnostic::new("tag can't be used with --all-tags/-a").into());
    }
    if all || !bare {
        return Ok(name);
    }
    if !quiet {
        print("Using default tag: latest\n")?;
    }
    Ok(name.with_default_tag())
}

pub(super) fn platform(text: Option<&str>, environment: &Environment) -> Result<Option<Platform>, Failure> {
    let text = text.or_else(|| environment.non_empty("DOCKER_DEFAULT_PLATFORM"));
    let platform = text.filter(|text| !text.is_empty()).map(str::parse::<Platform>).transpose();
    Ok(platform.map_err(|error| Diagnostic::new(format!("failed to parse platform {error}")))?)
}

/// `shale push`
pub fn push(args: &PushArgs, environment: &Environment) -> Result<(), Failure> {
    let PushArgs { transfer: args, name } = args;
    let name = tagged(reference(name)?, args.all_tags, args.quiet)?;
    if name.digest().is_some() {
        return Err(Diagnostic::new("cannot push a digest reference").into());
    }
    let (service, _lease) = images(environment, &args.registry)?;
    let say_out = |text: String| if args.quiet { Ok(()) } else { print(text) };
    say_out(format!("The push refers to repository [{}]\n", name.name()))?;
    let known = service.tags_of(&name).map_err(|error| failure(&error))?;
    if known.is_empty() {
        return Err(failure(&ImageError::NoRepository { repository: name.familiar_name() }));
    }
    let wanted = args.platform.as_deref().map(|text| platform(Some(text), environment)).transpose()?.flatten();
    let targets = if args.all_tags { known } else { vec![name.clone()] };
    for target in targets {
        check_platform(&service, &target, wanted.as_ref())?;
        let outgoing = packed(&service, &target, wanted.as_ref())?;
        let layers = outgoing.layers();
        let names: HashMap<String, String> =
            layers.iter().map(|(diff_id, blob)| (blob.to_string(), short_id(diff_id).to_owned())).collect();
        let transfer = Transfer::new(Direction::Push { names }, args.quiet, environment);
        for (diff_id, _) in &layers {
            transfer.prepare(short_id(diff_id));
        }
        let pushed = service.push(&outgoing, &target, PushAs::Tag, &transfer);
        transfer.finish();
        let pushed = pushed.map_err(|error| failure(&error))?;
        say_out(format!("{}: digest: {} size: {}\n", target.tag().unwrap_or_default(), pushed.digest, pushed.size_bytes))?;
    }
    if args.quiet { print(format!("{name}\n")) } else { Ok(()) }
}

/// The image behind a name with every layer packed; of several platforms those of one, if that is wanted.
fn packed(service: &ImageService, name: &Reference, platform: Option<&Platform>) -> Result<Outgoing, Failure> {
    let nothing = ();
    let forms = Forms::new(service.store(), service, &[], &nothing);
    let image = name.familiar();
    service.outgoing(name, platform, &mut |layer| pack(&forms, &image, layer)).map_err(|error| failure(&error))
}

fn check_platform(service: &ImageService, name: &Reference, wanted: Option<&Platform>) -> Result<(), Failure> {
    // A name that nothing has is told by whoever looks for it.
    let (Some(wanted), Ok(variants)) = (wanted, service.variants(&name.to_string())) else { return Ok(()) };
    let offered: Vec<Platform> = variants.into_iter().map(|(_, platform)| platform).collect();
    let has_it = offered.iter().any(|offered| runs_on(offered, wanted));
    if has_it { Ok(()) } else { Err(not_provided(&name.familiar(), wanted, &offered).into()) }
}

/// `shale pull`
pub fn pull(args: &PullArgs, environment: &Environment) -> Result<(), Failure> {
    let PullArgs { transfer: args, name } = args;
    let name = tagged(reference(name)?, args.all_tags, args.quiet)?;
    let platform = platform(args.platform.as_deref(), environment)?.unwrap_or_else(Platform::native);
    let (service, _lease) = images(environment, &args.registry)?;
    let tags = if args.all_tags {
        let tags = service.remote_tags(&name, &RegistryNotes).map_err(|error| failure(&error))?;
        tags.iter().map(|tag| reference(&format!("{}:{tag}", name.name()))).collect::<Result<Vec<_>, _>>()?
    } else {
        vec![name.clone()]
    };
    let mut any_new = false;
    for tag in &tags {
        any_new |= pull_one(&service, tag, &platform, args.quiet, environment)?;
    }
    if !args.quiet {
        let deed = if any_new { "Downloaded newer image" } else { "Image is up to date" };
        print(format!("Status: {deed} for {}\n", name.familiar()))?;
    }
    print(format!("{name}\n"))
}

/// Pulls one tag or digest. Returns whether the store had something else before.
fn pull_one(
    service: &ImageService,
    name: &Reference,
    platform: &Platform,
    quiet: bool,
    environment: &Environment,
) -> Result<bool, Failure> {
    let store_error = |error| store_failure(&error);
    let say_out = |text: String| if quiet { Ok(()) } else { print(text) };
    let what = name.digest().map(OciDigest::to_string).or_else(|| name.tag().map(str::to_owned)).unwrap_or_default();
    let before = service.store().images().resolve(&name.to_string()).map_err(store_error)?;
    say_out(format!("{what}: Pulling from {}\n", name.path()))?;
    let transfer = Transfer::new(Direction::Pull, quiet, environment);
    let image = service.pull(&name.to_string(), platform, &transfer);
    let is_new = image.as_ref().is_ok_and(|image| before.as_ref() != Some(&image.record.id));
    if is_new {
        transfer.release();
    }
    transfer.finish();
    let image = image.map_err(|error| failure(&error))?;
    let known_as = image.record.repo_digests.iter().filter_map(|text| Reference::parse(text).ok());
    if let Some(digest) = known_as.filter(|known| known.name() == name.name()).find_map(|known| known.digest().cloned()) {
        say_out(format!("Digest: {digest}\n"))?;
    }
    if !runs_on(&image.config.platform(), platform) {
        say(&format!("WARNING: the image is for {}, not for {platform}\n", image.config.platform()));
    }
    Ok(is_new)
}
