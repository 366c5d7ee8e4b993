//! Context and Dockerfile, opened.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use shale_cache::TmpDir;

use super::remote::{self, Fetched, Remotes};
use super::{BuildError, Services};
use crate::cli::request::{BuildRequest, ContextSource, DockerfileSource, NamedContext};
use crate::dockerfile::ast::Dockerfile;
use crate::execute::StepError;
use crate::image::NamedImage;
use crate::plan::graph::{Op, Plan, Vertex};
use crate::plan::{self, Dated, NamedContext as PlanContext, PlanOptions};
use crate::solve::event::Event;
use crate::source::cdi::{CdiError, Devices};
use crate::source::context::{self, BuildContext, DockerfileFrom, LoadedDockerfile, archive};
use crate::source::contexts::Contexts;
use crate::span::SourceFile;

/// What a `SOURCE_DATE_EPOCH` calls the main context.
const MAIN: &str = "context";

/// What the build reads from outside the store.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The Dockerfile.
    pub(super) source: SourceFile,
    /// Where it was found.
    pub(super) dockerfile: String,
    /// Local directories.
    pub(super) contexts: Contexts,
    /// Fetches files and from repositories.
    pub(super) remotes: Remotes,
    /// Times of contexts that were fetched, in seconds; the main one's is `context`.
    pub(super) times: BTreeMap<String, i64>,
    /// Hold the files of contexts that came as a stream.
    spooled: Vec<TmpDir>,
}

impl Inputs {
    /// Opens everything; hashes nothing.
    pub(super) fn open(request: &BuildRequest, services: Services<'_>) -> Result<Self, BuildError> {
        let started = std::time::Instant::now();
        let task = services.reporter.new_task();
        let inputs = Self::open_all(request, services);
        let name = inputs.as_ref().map_or_else(|_| wanted(request), |inputs| inputs.source.name().into());
        services.reporter.report(Event::Started { task, name: format!("[internal] load build definition from {name}") });
        match &inputs {
            Ok(inputs) => {
                let size = inputs.source.text().len();
                services.reporter.report(Event::Note { task, text: format!("transferring dockerfile: {size}B") });
                services.reporter.report(Event::Done { task, elapsed: started.elapsed() });
            }
            Err(error) => services.reporter.report(Event::Failed { task, error: error.to_string() }),
        }
        inputs
    }

    fn open_all(request: &BuildRequest, services: Services<'_>) -> Result<Self, BuildError> {
        let caches = services.store.root().join("contexts");
        let remotes = Remotes::new(request);
        let (mut spooled, mut times) = (Vec::new(), BTreeMap::new());
        let (loaded, main) = match &request.context {
            ContextSource::Dir(dir) => {
                let opened = context::open(dir, dockerfile_from(request, &remotes, services)?, Some(&caches))?;
                (opened.dockerfile, Some(opened.context))
            }
            ContextSource::Git(git) => {
                let (context, committed_secs) = remotes.main_git(git, services)?;
                times.insert(MAIN.into(), committed_secs);
                (context.load_dockerfile(dockerfile_from(request, &remotes, services)?)?, Some(context))
            }
            ContextSource::Http(url) => {
                let fetched = remotes.main_http(url, services)?;
                let made_secs = if fetched.is_archive { fetched.made_secs() } else { fetched.modified_secs };
                times.extend(made_secs.map(|secs| (MAIN.to_owned(), secs)));
                let Fetched { context, is_archive, place, .. } = fetched;
                let from = match dockerfile_from(request, &remotes, services)? {
                    DockerfileFrom::Default if !is_archive => DockerfileFrom::Inside(remote::FILE_NAME.into()),
                    DockerfileFrom::Inside(_) if !is_archive => return Err(BuildError::TwoDockerfiles { context: "context" }),
                    from => from,
                };
                spooled.push(place);
                (context.load_dockerfile(from)?, Some(context))
            }
            ContextSource::Stdin => from_stdin(request, &remotes, services, &mut spooled)?,
        };
        let LoadedDockerfile { source, path: dockerfile, .. } = loaded.utf8()?;
        let mut contexts = Contexts { main, named: BTreeMap::new() };
        for (name, named) in &request.contexts {
            if let NamedContext::Dir(dir) = named {
                contexts.named.insert(name.clone(), BuildContext::open_named(dir, Some(&caches))?);
            }
        }
        Ok(Self { source, dockerfile, contexts, remotes, times, spooled })
    }

    /// Fetches a named context, unless it is here: one that nobody reads costs nothing, and cannot fail.
    pub(super) fn fetch(&mut self, name: &str, request: &BuildRequest, services: Services<'_>) -> Result<(), BuildError> {
        if self.contexts.named.contains_key(name) {
            return Ok(());
        }
        let (context, made_secs) = match request.contexts.get(name) {
            Some(NamedContext::Git(git)) => {
                let (context, committed_secs) = self.remotes.named_git(name, git, services)?;
                (context, Some(committed_secs))
            }
            Some(NamedContext::Http(url)) => {
                let fetched = self.remotes.named_http(name, url, services)?;
                let made_secs = fetched.made_secs();
                self.spooled.push(fetched.place);
                (fetched.context, made_secs)
            }
            Some(NamedContext::Dir(_) | NamedContext::Image(_)) | None => return Ok(()),
        };
        self.times.extend(made_secs.map(|secs| (name.to_owned(), secs)));
        self.contexts.named.insert(name.to_owned(), context);
        Ok(())
    }

    /// Fetches the named contexts that the plan reads.
    pub(super) fn fetch_read(&mut self, plan: &Plan, request: &BuildRequest, services: Services<'_>) -> Result<(), BuildError> {
        plan.graph.named_contexts().into_iter().try_for_each(|name| self.fetch(name, request, services))
    }

    /// What the plan is made with. What `SOURCE_DATE_EPOCH` names is fetched for its time.
    pub(super) fn dated(
        &mut self,
        mut options: PlanOptions,
        dockerfile: &Dockerfile,
        request: &BuildRequest,
        services: Services<'_>,
    ) -> Result<PlanOptions, BuildError> {
        let failed = |errors| BuildError::Plan { file: self.source.clone(), errors };
        match plan::dated(dockerfile, &options).map_err(failed)? {
            Some(Dated::Context(name)) => self.fetch(&name, request, services)?,
            Some(Dated::Stage(stage)) => {
                let secs = self.remotes.made_secs(&stage, services)?;
                self.times.extend(secs.map(|secs| (stage.name, secs)));
            }
            None => {}
        }
        options.source_times.clone_from(&self.times);
        Ok(options)
    }

    /// Names the context, for records of the same step.
    pub(super) fn identity(&self) -> String {
        self.contexts.main.as_ref().map_or_else(|| "-".into(), |context| context.identity().to_owned())
    }
}

/// Standard input is an archive or a Dockerfile alone: its first bytes tell.
fn from_stdin(
    request: &BuildRequest,
    remotes: &Remotes,
    services: Services<'_>,
    spooled: &mut Vec<TmpDir>,
) -> Result<(LoadedDockerfile, Option<BuildContext>), BuildError> {
    let mut stdin = io::stdin().lock();
    let mut start = Vec::new();
    stdin.by_ref().take(512).read_to_end(&mut start).map_err(stdin_error)?;
    let is_archive = archive::is_archive(&start);
    let mut all = start.as_slice().chain(stdin);
    let from = dockerfile_from(request, remotes, services)?;
    if is_archive {
        let tmp = services.store.tmp()?;
        let context = BuildContext::from_tar(all, tmp.path())?;
        let loaded = context.load_dockerfile(from)?;
        spooled.push(tmp);
        return Ok((loaded, Some(context)));
    }
    if from != DockerfileFrom::Default {
        return Err(BuildError::TwoDockerfiles { context: "stdin" });
    }
    let mut text = Vec::new();
    all.read_to_end(&mut text).map_err(stdin_error)?;
    Ok((LoadedDockerfile::alone("Dockerfile", &text), None))
}

/// The name of a Dockerfile that could not be read.
fn wanted(request: &BuildRequest) -> Cow<'_, str> {
    let path = match &request.dockerfile {
        DockerfileSource::File(path) => path,
        DockerfileSource::InContext(name) => Path::new(name),
        DockerfileSource::Default | DockerfileSource::Url(_) | DockerfileSource::Stdin => return "Dockerfile".into(),
    };
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn dockerfile_from(request: &BuildRequest, remotes: &Remotes, services: Services<'_>) -> Result<DockerfileFrom, BuildError> {
    Ok(match &request.dockerfile {
        DockerfileSource::Default => DockerfileFrom::Default,
        DockerfileSource::File(path) => DockerfileFrom::Path(path.clone()),
        DockerfileSource::InContext(name) => DockerfileFrom::Inside(name.into()),
        DockerfileSource::Url(url) => DockerfileFrom::Text(remotes.text(url, services)?),
        DockerfileSource::Stdin => {
            let mut text = Vec::new();
            io::stdin().lock().read_to_end(&mut text).map_err(stdin_error)?;
            DockerfileFrom::Text(text)
        }
    })
}

fn stdin_error(source: io::Error) -> BuildError {
    BuildError::Io { deed: "read", path: "standard input".into(), source }
}

/// Named contexts as the plan sees them.
pub(super) fn plan_contexts(request: &BuildRequest) -> BTreeMap<String, PlanContext> {
    let plan = |(name, context): (&String, &NamedContext)| {
        let context = match context {
            NamedContext::Dir(_) | NamedContext::Git(_) | NamedContext::Http(_) => PlanContext::Dir,
            NamedContext::Image(NamedImage::Image(reference)) => PlanContext::Image(reference.clone()),
            // The image service finds the layout by the context's own name.
            NamedContext::Image(NamedImage::Layout(_)) => PlanContext::Image(name.clone()),
        };
        (name.clone(), context)
    };
    request.contexts.iter().map(plan).collect()
}

/// The devices of this machine, read if a step wants one. What nobody granted is refused, wherever its result would come from.
pub(super) fn devices(request: &BuildRequest, plan: &Plan) -> Result<Devices, BuildError> {
    let wanting = plan.graph.vertices.iter().filter_map(|vertex| match &vertex.op {
        Op::Run(run) if !run.devices.is_empty() => Some((vertex, &run.devices)),
        _ => None,
    });
    let wanting: Vec<_> = wanting.collect();
    if wanting.is_empty() {
        return Ok(Devices::default());
    }
    let step = |vertex: &Vertex, cause: CdiError| BuildError::Step {
        at: vertex.source.clone(),
        name: vertex.name.clone(),
        cause: StepError::Device(cause),
    };
    let devices = Devices::read(&request.device_dirs).map_err(|cause| step(wanting[0].0, cause))?;
    for (vertex, wishes) in wanting {
        devices.check(wishes, &request.allowed.devices).map_err(|cause| step(vertex, cause))?;
    }
    Ok(devices)
}
