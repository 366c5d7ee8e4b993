//! Arguments and environment → one build request. Every default is resolved here, once; what follows works on plain data.

mod allow;
mod annotations;
pub mod call;
mod context;
mod control;
mod error;
mod proxies;
mod registry;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::export::annotation::Annotations;
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, ReferenceError};
use crate::plan::graph::NetworkMode;
use crate::plan::secret::without_user_info;
use crate::plan::{Allowed, NoCache};
use crate::source::git::GitConfig;
use crate::source::registry::RegistryConfig;
use crate::source::secret::Lent;

use super::args::BuildArgs;
use super::caps::GcSection;
use super::config::Config;
use super::environment::Environment;
use super::flags::parse_bool;
use super::lent;
use super::output::{Output, OutputError, OutputKind, unique};
use super::values::{Ulimit, parse_add_host};
pub(super) use annotations::annotations;
use context::dockerfile_source;
pub use context::{ContextSource, DockerfileSource, NamedContext};
pub(super) use context::{context_source, named_context};
pub use error::RequestError;
use registry::git_config;
use registry::registry_config_of;
pub use registry::{docker_config_file, registry_config, registry_config_with};

/// What a build is asked to do.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Where COPY takes its files.
    pub context: ContextSource,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Names of the image, each once and with a tag.
    pub tags: Vec<Reference>,
    /// `--build-arg`, with SOURCE_DATE_EPOCH of the environment; the last of a name counts.
    pub build_args: BTreeMap<String, String>,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// The stage to build; `None` is the last.
    pub target: Option<String>,
    /// Platforms to build for; never empty.
    pub platforms: Vec<Platform>,
    /// The result is an index: of several platforms, or because BUILDKIT_MULTI_PLATFORM asks for one.
    pub multi_platform: bool,
    /// `--annotation`
    pub annotations: Annotations,
    /// `--allow`
    pub allowed: Allowed,
    /// Where specifications of devices lie, the most important directory last.
    pub device_dirs: Vec<PathBuf>,
    /// Results to write; never empty.
    pub outputs: Vec<Output>,
    /// Named contexts by name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--iidfile`, absolute.
    pub iidfile: Option<PathBuf>,
    /// `--metadata-file`, absolute.
    pub metadata_file: Option<PathBuf>,
    /// `-q`: the image id is printed on standard output.
    pub quiet: bool,
    /// `BUILDX_METADATA_WARNINGS`: the metadata file tells warnings.
    pub metadata_warnings: bool,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// `-D`: warnings are shown with their reasons and places.
    pub debug: bool,
    /// `--call`: a question in place of a build.
    pub call: Option<call::Call>,
    /// Whether the progress display may use colours.
    pub colour: bool,
    /// `--no-cache`, `--no-cache-filter`
    pub no_cache: NoCache,
    /// `--pull`
    pub pull: bool,
    /// Network of RUN steps.
    pub network: NetworkMode,
    /// `--add-host` as (name, address), sorted.
    pub add_hosts: Vec<(String, String)>,
    /// `--secret`, `--ssh`
    pub lent: Lent,
    /// `--shm-size` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit` as (name, soft, hard), sorted; the last of a name counts.
    pub ulimits: Vec<(String, u64, u64)>,
    /// SOURCE_DATE_EPOCH in seconds, from `--build-arg` or the environment.
    pub source_date_epoch: Option<i64>,
    /// `--explain`: every reason is told in full.
    pub explain: bool,
    /// The context for the record of the build: as it was written, without the password that it may have.
    pub context_name: String,
    /// The command line for the record of the build, without values that look secret.
    pub command: Vec<String>,
    /// The store.
    pub store_root: PathBuf,
    /// What talking to registries depends on.
    pub registry: RegistryConfig,
    /// What fetching from git repositories depends on.
    pub git: GitConfig,
    /// What the store keeps to.
    pub gc: GcSection,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Lines that are never taken back.
    Plain,
    /// BuildKit's status messages as lines of JSON.
    RawJson,
    /// A view that is redrawn.
    Tty,
    /// Nothing.
    Quiet,
}

/// Resolves a command line. The second value holds notes for the user, each one line.
pub fn resolve(args: &BuildArgs, environment: &Environment) -> Result<(BuildRequest, Vec<String>), RequestError> {
    let mut notes = args.other.judge().map_err(RequestError::Refused)?;
    let context = context_source(&args.context, environment)?;
    let dockerfile = dockerfile_source(args.file.as_deref(), &context, environment)?;
    let mut build_args = build_args(&args.build_args, environment)?;
    notes.extend(proxies::add(&mut build_args, environment));
    notes.extend(variables_without_effect(environment)?);
    notes.extend(control::notes(&build_args));
    // What is no number may name a context, which the plan knows.
    let source_date_epoch = build_args.get("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    let platforms = platforms(&args.platforms, environment)?;
    let is_multi_platform = platforms.len() > 1 || forced_index(&build_args)?;
    let mut outputs = outputs(&args.outputs, args.push, &args.tags, environment)?;
    // What is loaded elsewhere is an image of the store first.
    if args.load && outputs.iter().all(|output| output.kind != OutputKind::Store) {
        outputs.push(Output::to_store());
    }
    let allowed = allow::allowed(&args.allow)?;
    allow::check_deletions(&outputs, &args.allow, environment)?;
    let tags = args.tags.iter().cloned().chain(outputs.iter().flat_map(|output| output.own_names().to_vec()));
    let tags = unique(tags.map(|text| image_name(&text)).collect::<Result<_, _>>()?);
    let (progress, progress_note) = progress_mode(args.progress.as_deref(), args.quiet, environment)?;
    let (store_root, store_note) = environment.store_root();
    notes.extend(progress_note.into_iter().chain(store_note));
    let mut add_hosts =
        args.add_hosts.iter().map(|text| parse_add_host(text)).collect::<Result<Vec<_>, _>>().map_err(RequestError::AddHost)?;
    add_hosts.sort();
    let config = Config::load(environment)?;
    let registry = registry_for(args, environment, &config, &outputs, &tags)?;
    let request = BuildRequest {
        context,
        dockerfile,
        tags,
        labels: key_values("--label", &args.labels)?,
        build_args,
        target: args.target.clone().filter(|target| !target.is_empty()),
        multi_platform: is_multi_platform,
        platforms,
        annotations: annotations(&args.annotations)?,
        allowed,
        device_dirs: device_dirs(environment),
        outputs,
        contexts: args.build_contexts.iter().map(|text| named_context(text, environment)).collect::<Result<_, _>>()?,
        iidfile: args.iidfile.as_deref().map(|path| environment.resolve(path)),
        metadata_file: args.metadata_file.as_deref().map(|path| environment.resolve(path)),
        metadata_warnings: environment.non_empty("BUILDX_METADATA_WARNINGS").is_some_and(|text| parse_bool(text) == Ok(true)),
        quiet: args.quiet,
        progress,
        debug: args.debug || environment.debug,
        call: call::call(args)?,
        colour: environment.non_empty("NO_COLOR").is_none(),
        no_cache: match (args.no_cache, &args.no_cache_filter[..]) {
            (true, _) => NoCache::All,
            (false, []) => NoCache::Off,
            (false, stages) => NoCache::Stages(stages.iter().map(|stage| stage.trim().to_owned()).collect()),
        },
        pull: args.pull,
        network: network(args.network.as_deref())?,
        add_hosts,
        lent: lent::lent(&args.secrets, &args.agents, environment)?,
        shm_size_bytes: args.shm_size.filter(|bytes| *bytes > 0),
        ulimits: ulimits(&args.ulimits),
        source_date_epoch,
        explain: args.explain,
        context_name: without_user_info(&args.context.to_string_lossy()).into_owned(),
        command: Vec::new(),
        store_root,
        git: git_config(environment),
        gc: config.gc,
        registry,
    };
    Ok((request, notes))
}

fn build_args(given: &[String], environment: &Environment) -> Result<BTreeMap<String, String>, RequestError> {
    let mut args = BTreeMap::new();
    for text in given {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), environment.get(text)),
        };
        if key.is_empty() {
            return Err(RequestError::KeyValue { flag: "--build-arg", text: text.clone() });
        }
        match value {
            Some(value) => args.insert(key.to_owned(), value.to_owned()),
            None => args.remove(key),
        };
    }
    if let Some(epoch) = environment.non_empty("SOURCE_DATE_EPOCH") {
        args.entry("SOURCE_DATE_EPOCH".into()).or_insert_with(|| epoch.to_owned());
    }
    Ok(args)
}

fn key_values(flag: &'static str, given: &[String]) -> Result<BTreeMap<String, String>, RequestError> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(RequestError::KeyValue { flag, text: text.clone() });
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    given.iter().map(pair).collect()
}

fn platforms(given: &[String], environment: &Environment) -> Result<Vec<Platform>, RequestError> {
    let texts: Vec<&str> = match given {
        [] => environment.non_empty("DOCKER_DEFAULT_PLATFORM").into_iter().collect(),
        given => given.iter().flat_map(|text| text.split(',')).collect(),
    };
    let mut platforms = Vec::new();
    for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
        let platform: Platform = text.parse()?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::native());
    }
    Ok(platforms)
}

/// Variables of docker buildx that mean nothing here, with the reason; those that ask for what would not be done anyway stay silent.
fn variables_without_effect(environment: &Environment) -> Result<Option<String>, RequestError> {
    for name in ["BUILDX_NO_DEFAULT_ATTESTATIONS", "BUILDX_METADATA_WARNINGS", "BUILDX_NO_DEFAULT_OCI_ARTIFACT"] {
        if let Some(text) = environment.non_empty(name) {
            parse_bool(text).map_err(|_| RequestError::Variable { name, text: text.into() })?;
        }
    }
    Ok(environment.non_empty("BUILDKIT_COLORS").map(|_| "BUILDKIT_COLORS has no effect: the colours of the display are fixed".into()))
}

/// Where CDI looks for specifications.
fn device_dirs(environment: &Environment) -> Vec<PathBuf> {
    let given = environment.non_empty("CDI_SPEC_DIRS").unwrap_or("/etc/cdi:/var/run/cdi");
    given.split([':', ',']).filter(|dir| !dir.is_empty()).map(|dir| environment.resolve(dir.as_ref())).collect()
}

/// `BUILDKIT_MULTI_PLATFORM`: an index for a single platform too.
fn forced_index(build_args: &BTreeMap<String, String>) -> Result<bool, RequestError> {
    let Some(text) = build_args.get("BUILDKIT_MULTI_PLATFORM").filter(|text| !text.is_empty()) else { return Ok(false) };
    parse_bool(text).map_err(|_| RequestError::MultiPlatform { text: text.clone() })
}

/// How registries are reached, with what single outputs say about theirs.
fn registry_for(
    args: &BuildArgs,
    environment: &Environment,
    config: &Config,
    outputs: &[Output],
    tags: &[Reference],
) -> Result<RegistryConfig, RequestError> {
    let mut registry = registry_config_of(environment, &args.registry, config)?;
    for output in outputs.iter().filter(|output| output.push.is_some_and(|push| push.insecure)) {
        let own = output.names.iter().filter_map(|name| Reference::parse(name).ok()).collect::<Vec<_>>();
        let names = if own.is_empty() { tags } else { &own };
        registry.insecure.extend(names.iter().map(|name| name.api_host().to_owned()));
    }
    Ok(registry)
}

fn outputs(given: &[String], push: bool, tags: &[String], environment: &Environment) -> Result<Vec<Output>, RequestError> {
    let mut outputs = given.iter().map(|text| Output::parse(text, environment)).collect::<Result<Vec<_>, _>>()?;
    let clash = outputs.iter().enumerate().any(|(i, a)| outputs[..i].iter().any(|b| a.shares_stdout_with(b)));
    if clash {
        return Err(RequestError::StdoutTwice);
    }
    if push {
        // As in buildx: every image that was asked for is pushed, and one is if none was.
        if !outputs.iter().any(|output| output.kind == OutputKind::Store) {
            outputs.push(Output::to_store());
        }
        for output in outputs.iter_mut().filter(|output| output.kind == OutputKind::Store) {
            output.push.get_or_insert_default();
        }
    }
    if outputs.iter().any(|output| output.push.is_some() && output.names.is_empty()) && tags.is_empty() {
        return Err(RequestError::PushWithoutName);
    }
    for output in outputs.iter().filter(|output| output.push.is_some_and(|push| push.by_digest)) {
        let names = if output.names.is_empty() { tags } else { &output.names };
        if let Some(name) = names.iter().find(|name| Reference::parse(name).is_ok_and(|name| name.tag().is_some())) {
            return Err(OutputError::TagByDigest { name: name.clone() }.into());
        }
    }
    Ok(if outputs.is_empty() { vec![Output::to_store()] } else { outputs })
}

/// How progress is shown, and what is to be said about that.
pub(super) fn progress_mode(
    asked: Option<&str>,
    quiet: bool,
    environment: &Environment,
) -> Result<(ProgressMode, Option<String>), RequestError> {
    let asked = asked.filter(|mode| !mode.is_empty()).unwrap_or("auto");
    if quiet {
        return match asked {
            "auto" | "quiet" | "none" => Ok((ProgressMode::Quiet, None)),
            _ => Err(RequestError::QuietProgress { text: asked.into() }),
        };
    }
    let asked = if asked == "auto" { environment.non_empty("BUILDKIT_PROGRESS").unwrap_or("auto") } else { asked };
    let terminal = environment.stderr_is_terminal;
    match asked {
        "auto" if terminal && environment.get("TERM") != Some("dumb") => Ok((ProgressMode::Tty, None)),
        "auto" | "plain" => Ok((ProgressMode::Plain, None)),
        "tty" if terminal => Ok((ProgressMode::Tty, None)),
        "tty" => Ok((ProgressMode::Plain, Some("progress is shown plain: standard error is not a terminal".into()))),
        "quiet" | "none" => Ok((ProgressMode::Quiet, None)),
        "rawjson" => Ok((ProgressMode::RawJson, None)),
        _ => Err(RequestError::Progress { text: asked.into() }),
    }
}

fn ulimits(given: &[Ulimit]) -> Vec<(String, u64, u64)> {
    let by_name: BTreeMap<&str, &Ulimit> = given.iter().map(|limit| (limit.name.as_str(), limit)).collect();
    by_name.into_values().map(|limit| (limit.name.clone(), limit.soft, limit.hard)).collect()
}

fn network(mode: Option<&str>) -> Result<NetworkMode, RequestError> {
    match mode {
        None | Some("" | "default") => Ok(NetworkMode::Default),
        Some("host") => Ok(NetworkMode::Host),
        Some("none") => Ok(NetworkMode::None),
        Some(text) => Err(RequestError::Network { text: text.into() }),
    }
}

/// A name for the result. What has no tag is `latest`; a digest cannot be chosen.
fn image_name(text: &str) -> Result<Reference, RequestError> {
    let error = |source| RequestError::Tag { text: text.into(), source };
    let name = Reference::parse(text).map_err(error)?;
    match name.digest() {
        Some(_) => Err(error(ReferenceError::Format { text: text.into() })),
        None => Ok(name.with_default_tag()),
    }
}

#[cfg(test)]
mod tests;
