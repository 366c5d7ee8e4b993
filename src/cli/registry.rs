//! `shale push` and `pull`, with the lines that Docker prints where it has no terminal.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shale_cache::{ImageLayer, Lease, OciDigest, Packed};

use crate::execute::forms::Forms;
use crate::image::{ImageError, ImageService, Outgoing, PushAs, short_id};
use crate::oci::manifest::runs_on;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::registry::{BlobState, Client, Progress, RegistryError};

use super::Failure;
use super::args::{PullArgs, PushArgs, RegistryArgs};
use super::console::{print, say, warn};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::{failure, open_store, store_failure};
use super::output::LayerOptions;
use super::request::registry_config_with;

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

/// Prints a line for each state that a layer comes to.
struct Lines<'a> {
    /// How a blob is called, by its digest.
    names: HashMap<&'a str, &'a str>,
    words: &'a Words,
    quiet: bool,
    /// Lines about what is there already: of an image that is whole and unchanged Docker says nothing.
    held: Option<Mutex<String>>,
}

impl Lines<'_> {
    /// Prints the lines that were held back.
    fn release(&self) {
        if let Some(held) = &self.held {
            let text = std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner));
            self.tell(&text);
        }
    }

    fn tell(&self, text: &str) {
        if !self.quiet && !text.is_empty() {
            // A reader that has gone away is noticed at the last line.
            drop(print(text));
        }
    }
}

/// The words for the states.
struct Words {
    present: &'static str,
    started: Option<&'static str>,
    done: &'static [&'static str],
}

const PUSHING: Words = Words { present: "Layer already exists", started: None, done: &["Pushed"] };
const PULLING: Words = Words {
    present: "Already exists",
    started: Some("Pulling fs layer"),
    done: &["Verifying Checksum", "Download complete", "Pull complete"],
};

impl Progress for Lines<'_> {
    fn on_blob(&self, digest: &str, state: &BlobState) {
        let own = digest.split_once(':').map_or(digest, |(_, hex)| &hex[..12.min(hex.len())]);
        let name = match self.names.get(digest) {
            Some(name) => name,
            // The config is pushed too; Docker does not speak of it.
            None if self.words.started.is_none() => return,
            None => own,
        };
        let mut text = String::new();
        let mut line = |words: &str| text = format!("{text}{name}: {words}\n");
        match state {
            BlobState::Present => line(self.words.present),
            BlobState::Started => self.words.started.into_iter().for_each(&mut line),
            BlobState::Done => self.words.done.iter().copied().for_each(&mut line),
            BlobState::Mounted(path) => line(&format!("Mounted from {path}")),
        }
        match &self.held {
            Some(held) if *state == BlobState::Present => held.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text),
            _ => {
                self.release();
                self.tell(&text);
            }
        }
    }

    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        RegistryNotes.on_wait(what, cause, delay);
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
    let name = tagged(reference(&args.name)?, args.all_tags, args.quiet)?;
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
        let outgoing = packed(&service, &target)?;
        check_platform(&outgoing, &target, wanted.as_ref())?;
        let layers = outgoing.layers();
        let names: HashMap<&str, &str> = layers.iter().map(|(diff_id, blob)| (blob.as_str(), short_id(diff_id))).collect();
        say_out(layers.iter().map(|(diff_id, _)| format!("{}: Preparing\n", short_id(diff_id))).collect())?;
        let lines = Lines { names, words: &PUSHING, quiet: args.quiet, held: None };
        let pushed = service.push(&outgoing, &target, PushAs::Tag, &lines).map_err(|error| failure(&error))?;
        say_out(format!("{}: digest: {} size: {}\n", target.tag().unwrap_or_default(), pushed.digest, pushed.size_bytes))?;
    }
    if args.quiet { print(format!("{name}\n")) } else { Ok(()) }
}

/// The image behind a name with every layer packed.
fn packed(service: &ImageService, name: &Reference) -> Result<Outgoing, Failure> {
    let nothing = ();
    let forms = Forms::new(service.store(), service, &[], &nothing);
    let packing = LayerOptions::default().packing(None);
    let mut pack = |layer: &ImageLayer| -> Result<Packed, ImageError> {
        let invalid = |detail: String| ImageError::Invalid { image: name.familiar(), detail };
        let id = layer.layer.ok_or_else(|| invalid(format!("the layer {} is gone from the store", layer.diff_id.0)))?;
        forms.own_packed(&id, packing).map_err(|error| invalid(error.to_string()))
    };
    service.outgoing(name, &mut pack).map_err(|error| failure(&error))
}

fn check_platform(outgoing: &Outgoing, name: &Reference, wanted: Option<&Platform>) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let offered = outgoing.platforms();
    // All of an index, or the one image that there is.
    if let [only] = &offered[..]
        && runs_on(only, wanted)
    {
        return Ok(());
    }
    let text = format!("image with reference {} was found but does not provide the specified platform ({wanted})", name.familiar());
    Err(Diagnostic::new(text).hint(format!("it is for {}", offered.iter().map(Platform::to_string).collect::<Vec<_>>().join(", "))).into())
}

/// `shale pull`
pub fn pull(args: &PullArgs, environment: &Environment) -> Result<(), Failure> {
    let name = tagged(reference(&args.name)?, args.all_tags, args.quiet)?;
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
        any_new |= pull_one(&service, tag, &platform, args.quiet)?;
    }
    if !args.quiet {
        let deed = if any_new { "Downloaded newer image" } else { "Image is up to date" };
        print(format!("Status: {deed} for {}\n", name.familiar()))?;
    }
    print(format!("{name}\n"))
}

/// Pulls one tag or digest. Returns whether the store had something else before.
fn pull_one(service: &ImageService, name: &Reference, platform: &Platform, quiet: bool) -> Result<bool, Failure> {
    let store_error = |error| store_failure(&error);
    let say_out = |text: String| if quiet { Ok(()) } else { print(text) };
    let what = name.digest().map(OciDigest::to_string).or_else(|| name.tag().map(str::to_owned)).unwrap_or_default();
    let before = service.store().images().resolve(&name.to_string()).map_err(store_error)?;
    say_out(format!("{what}: Pulling from {}\n", name.path()))?;
    let lines = Lines { names: HashMap::new(), words: &PULLING, quiet, held: Some(Mutex::default()) };
    let image = service.pull(&name.to_string(), platform, &lines).map_err(|error| failure(&error))?;
    let is_new = before.as_ref() != Some(&image.record.id);
    if is_new {
        lines.release();
    }
    let known_as = image.record.repo_digests.iter().filter_map(|text| Reference::parse(text).ok());
    if let Some(digest) = known_as.filter(|known| known.name() == name.name()).find_map(|known| known.digest().cloned()) {
        say_out(format!("Digest: {digest}\n"))?;
    }
    if !runs_on(&image.config.platform(), platform) {
        say(&format!("WARNING: the image is for {}, not for {platform}\n", image.config.platform()));
    }
    Ok(is_new)
}
