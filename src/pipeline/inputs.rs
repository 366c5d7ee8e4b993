//! Context and Dockerfile, opened.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use shale_cache::TmpDir;

use super::{BuildError, Services};
use crate::cli::request::{BuildRequest, ContextSource, DockerfileSource, NamedContext};
use crate::image::NamedImage;
use crate::plan::NamedContext as PlanContext;
use crate::solve::event::Event;
use crate::source::context::{self, BuildContext, DockerfileFrom, LoadedDockerfile, archive};
use crate::source::contexts::Contexts;
use crate::span::SourceFile;

/// What the build reads from outside the store.
#[derive(Debug)]
pub(super) struct Inputs {
    /// The Dockerfile.
    pub(super) source: SourceFile,
    /// Where it was found.
    pub(super) dockerfile: String,
    /// Local directories.
    pub(super) contexts: Contexts,
    /// Holds an archive that came on standard input.
    _spooled: Option<TmpDir>,
}

impl Inputs {
    /// Opens everything; hashes nothing.
    pub(super) fn open(request: &BuildRequest, services: Services<'_>) -> Result<Self, BuildError> {
        let started = std::time::Instant::now();
        let task = services.reporter.new_task();
        let inputs = Self::open_all(request, services);
        let name = inputs.as_ref().map_or("Dockerfile", |inputs| inputs.source.name());
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
        let mut inputs = match &request.context {
            ContextSource::Dir(dir) => {
                let opened = context::open(dir, dockerfile_from(&request.dockerfile)?, Some(&caches))?;
                Self::with(opened.dockerfile.utf8()?, Some(opened.context), None)
            }
            ContextSource::Stdin => Self::from_stdin(request, services)?,
        };
        for (name, named) in &request.contexts {
            if let NamedContext::Dir(dir) = named {
                inputs.contexts.named.insert(name.clone(), BuildContext::open_named(dir, Some(&caches))?);
            }
        }
        Ok(inputs)
    }

    fn with(loaded: LoadedDockerfile, main: Option<BuildContext>, spooled: Option<TmpDir>) -> Self {
        let LoadedDockerfile { source, path: dockerfile, .. } = loaded;
        Self { source, dockerfile, contexts: Contexts { main, named: BTreeMap::new() }, _spooled: spooled }
    }

    /// Standard input is an archive or a Dockerfile alone: its first bytes tell.
    fn from_stdin(request: &BuildRequest, services: Services<'_>) -> Result<Self, BuildError> {
        let mut stdin = io::stdin().lock();
        let mut start = Vec::new();
        stdin.by_ref().take(512).read_to_end(&mut start).map_err(stdin_error)?;
        let is_archive = archive::is_archive(&start);
        let mut all = start.as_slice().chain(stdin);
        if is_archive {
            let tmp = services.store.tmp()?;
            let context = BuildContext::from_tar(all, tmp.path())?;
            let loaded = context.load_dockerfile(dockerfile_from(&request.dockerfile)?)?.utf8()?;
            return Ok(Self::with(loaded, Some(context), Some(tmp)));
        }
        let mut text = Vec::new();
        all.read_to_end(&mut text).map_err(stdin_error)?;
        Ok(Self::with(LoadedDockerfile::alone("Dockerfile", &text).utf8()?, None, None))
    }

    /// Names the context, for records of the same step.
    pub(super) fn identity(&self) -> String {
        self.contexts.main.as_ref().map_or_else(|| "-".into(), |context| context.identity().to_owned())
    }

    /// A name for this build that sorts by time.
    #[expect(clippy::unused_self, reason = "a build is known by what it reads and when")]
    pub(super) fn build_id(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{:012}-{:09}-{}", now.as_secs(), now.subsec_nanos(), std::process::id())
    }
}

fn dockerfile_from(source: &DockerfileSource) -> Result<DockerfileFrom, BuildError> {
    Ok(match source {
        DockerfileSource::Default => DockerfileFrom::Default,
        DockerfileSource::File(path) => DockerfileFrom::Path(path.clone()),
        DockerfileSource::InContext(name) => DockerfileFrom::Path(name.into()),
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
            NamedContext::Dir(_) => PlanContext::Dir,
            NamedContext::Image(NamedImage::Image(reference)) => PlanContext::Image(reference.clone()),
            // The image service finds the layout by the context's own name.
            NamedContext::Image(NamedImage::Layout(_)) => PlanContext::Image(name.clone()),
        };
        (name.clone(), context)
    };
    request.contexts.iter().map(plan).collect()
}
