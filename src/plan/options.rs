//! What the caller decides about a plan. Every default is resolved before it gets here.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{NetworkMode, PassedBy};
use crate::oci::platform::Platform;

/// The options of [`super::image_refs`] and [`super::lower`].
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `--build-arg`; a name without a value in the caller's environment is not in it.
    pub build_args: BTreeMap<String, String>,
    /// `--target`
    pub target: Option<String>,
    /// Every stage is lowered, not only those that the target reaches: a check looks at all of them.
    pub all_stages: bool,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// `--platform`; empty means the build platform, and that configs keep the platform of their base.
    pub platforms: Vec<Platform>,
    /// The platform that commands run on.
    pub build_platform: Platform,
    /// `--build-context`, by name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--no-cache`, `--no-cache-filter`
    pub no_cache: NoCache,
    /// `--allow`
    pub allowed: Allowed,
    /// `--network`: what a RUN without its own gets.
    pub network: NetworkMode,
    /// `--add-host` as (name, address).
    pub add_hosts: Vec<(String, String)>,
    /// `--shm-size` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit` as (name, soft, hard).
    pub ulimits: Vec<(String, u64, u64)>,
    /// `SOURCE_DATE_EPOCH` in seconds; the build argument of that name stands over it.
    pub source_date_epoch: Option<i64>,
    /// The times, in seconds, of what was fetched for contexts, for a `SOURCE_DATE_EPOCH` that names one: the main context's is
    /// `context`. A source that has no time sets none.
    pub source_times: BTreeMap<String, i64>,
}

/// The hostname of a RUN when nobody asks for another, as BuildKit has it.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// The name of the build argument that carries the epoch.
pub const EPOCH_ARG: &str = "SOURCE_DATE_EPOCH";

/// A `--build-context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory (or anything that the caller made one of): [`super::graph::CopySource::Context`] names it.
    Dir,
    /// An image, by a reference that the caller's resolver understands; `docker-image://` may stand before it.
    Image(String),
}

/// Which stages ignore the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Off,
    /// All.
    All,
    /// Those with these names.
    Stages(Vec<String>),
}

/// What the caller grants to steps that ask for it (`--allow`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `network.host`
    pub network_host: bool,
    /// `security.insecure`
    pub insecure: bool,
    /// `device`
    pub devices: AllowedDevices,
}

/// Which devices steps may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedDevices {
    /// All.
    All,
    /// Those with these names or classes.
    Named(BTreeSet<String>),
}

impl Default for AllowedDevices {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl NoCache {
    /// By which flag the stage with this `AS` name (empty if it has none) ignores the cache, if it does.
    pub fn covers(&self, stage: &str) -> Option<PassedBy> {
        match self {
            Self::Off => None,
            Self::All => Some(PassedBy::NoCache),
            Self::Stages(names) => names.iter().any(|n| n.eq_ignore_ascii_case(stage)).then_some(PassedBy::NoCacheFilter),
        }
    }
}

impl Default for PlanOptions {
    /// No arguments, the last stage, linux/amd64: the ground for tests and for callers that set what they know.
    fn default() -> Self {
        Self {
            build_args: BTreeMap::new(),
            target: None,
            all_stages: false,
            labels: BTreeMap::new(),
            platforms: Vec::new(),
            build_platform: Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() },
            contexts: BTreeMap::new(),
            no_cache: NoCache::Off,
            allowed: Allowed::default(),
            network: NetworkMode::Default,
            add_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            source_date_epoch: None,
            source_times: BTreeMap::new(),
        }
    }
}

impl PlanOptions {
    /// The platforms to make images for, each once.
    pub(crate) fn target_platforms(&self) -> Vec<Platform> {
        let mut out: Vec<Platform> = Vec::new();
        for platform in &self.platforms {
            if !out.contains(platform) {
                out.push(platform.clone());
            }
        }
        if out.is_empty() {
            out.push(self.build_platform.clone());
        }
        out
    }

    /// Whether progress names carry the platform.
    pub(crate) fn names_platforms(&self) -> bool {
        self.platforms.len() > 1
    }

    /// The build arguments, with the epoch among them.
    pub(crate) fn effective_build_args(&self) -> BTreeMap<String, String> {
        let mut args = self.build_args.clone();
        if let Some(epoch) = self.source_date_epoch {
            args.entry(EPOCH_ARG.into()).or_insert_with(|| epoch.to_string());
        }
        args
    }

    /// The hostname of every RUN.
    pub(crate) fn hostname(&self) -> &str {
        match self.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
            Some(name) if !name.is_empty() => name,
            _ => DEFAULT_HOSTNAME,
        }
    }
}
