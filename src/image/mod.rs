//! The local image store's verbs: resolve a base, list, inspect, tag, remove, load, save, pull, push.
//!
//! An image is a record in the store: config, layers in whatever form they exist, and the names it has. Functions here return
//! data; `cli` prints it.
//!
//! A base is looked for as a named context, then in the store, then in the registry. Resolving fetches manifest and config
//! only; a layer's blob comes when somebody needs it ([`ImageService::ensure_blob`]).

pub mod assemble;
mod combine;
mod copy;
mod drafts;
mod error;
mod fetch;
mod history;
mod import;
mod inspect;
mod lookup;
mod push;
mod resolve;
mod size;
mod transfer;
mod verbs;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use shale_cache::{ImageRecord, OciDigest, Store};

pub use combine::{CombineError, Combined, Ingredient, Wish, combine};
pub use copy::Remote;
pub use drafts::{DraftError, Drafts};
pub use error::ImageError;
pub use history::HistoryStep;
pub use inspect::{ContainerConfig, GraphDriver, Inspect, InspectMetadata, InspectRootFs};
pub use lookup::short_id;
pub use push::{Outgoing, PushAs, Pushed};
/// A layer of a base: its DiffID, and its blob or its layer in the store where they are known.
pub use shale_cache::ImageLayer as BaseLayer;
pub use transfer::Loaded;
pub use verbs::{ImageSummary, Removal};

use crate::oci::config::ImageConfig;
use crate::oci::reference::Reference;
use crate::source::registry::Client;

/// The images of a store, and the registries behind it. Cheap to clone, used from many threads.
#[derive(Clone, Debug)]
pub struct ImageService {
    store: Store,
    client: Arc<Client>,
    named: BTreeMap<String, NamedImage>,
    in_flight: Arc<InFlight>,
}

/// The blobs that some thread is fetching.
#[derive(Debug, Default)]
struct InFlight {
    digests: Mutex<HashSet<OciDigest>>,
    ended: Condvar,
}

/// When the registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the store has no such image.
    #[default]
    Missing,
    /// Always (`--pull`): the store's image is used only if the registry has the same one.
    Always,
    /// Never.
    Never,
}

/// What a named context (`--build-context NAME=…`) stands for, where it is an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedImage {
    /// `docker-image://REFERENCE`
    Image(String),
    /// `oci-layout://PATH[:TAG][@DIGEST]`
    Layout(LayoutName),
}

/// An image in an OCI layout directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutName {
    /// The directory.
    pub path: PathBuf,
    /// The tag to look for.
    pub tag: Option<String>,
    /// The manifest to take.
    pub digest: Option<OciDigest>,
}

/// A base image, ready to be planned with: its config is here, its layers may still be far away.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// The name that was asked for.
    pub name: String,
    /// The store's record; for a layout directory one that is not in the store.
    pub record: ImageRecord,
    /// The config.
    pub config: ImageConfig,
    /// The config as it is written and hashed.
    pub config_bytes: Vec<u8>,
    /// The layers, bottom first. `layer` is filled where there is no blob and the store knows the DiffID.
    pub layers: Vec<BaseLayer>,
    /// Where absent blobs come from.
    pub origin: Origin,
}

/// Where the blobs of an image come from when the store has them not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Only the store has it.
    Store,
    /// Repositories that have it, best first.
    Registry(Vec<Reference>),
    /// An OCI layout directory.
    Layout(PathBuf),
}

impl NamedImage {
    /// Reads `docker-image://…` or `oci-layout://…`; `None` = another kind of context.
    pub fn parse(text: &str) -> Result<Option<Self>, ImageError> {
        if let Some(name) = text.strip_prefix("docker-image://") {
            return Ok(Some(Self::Image(name.into())));
        }
        let Some(rest) = text.strip_prefix("oci-layout://") else { return Ok(None) };
        let invalid = |detail: &str| ImageError::NamedContext { text: text.into(), detail: detail.into() };
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| invalid("not a digest after @"))?)),
            None => (rest, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if path.is_empty() {
            return Err(invalid("no path"));
        }
        Ok(Some(Self::Layout(LayoutName { path: path.into(), tag, digest })))
    }
}

impl fmt::Display for LayoutName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci-layout://{}", self.path.display())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageService {
    /// The service over a store and a registry client.
    pub fn new(store: Store, client: Client) -> Self {
        Self { store, client: Arc::new(client), named: BTreeMap::new(), in_flight: Arc::default() }
    }

    /// The same with named contexts that are images. The keys are names as the user gave them.
    #[must_use]
    pub fn with_named_contexts(mut self, named: BTreeMap<String, NamedImage>) -> Self {
        self.named = named;
        self
    }

    /// The registries behind it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}
