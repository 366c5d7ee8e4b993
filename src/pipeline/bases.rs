//! Base images: resolved for the plan, in as many rounds as ONBUILD asks for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::inputs::Inputs;
use super::{BuildError, Services};
use crate::cli::request::BuildRequest;
use crate::dockerfile::ast::Dockerfile;
use crate::image::{ImageError, PullPolicy, ResolvedImage};
use crate::oci::reference::Reference;
use crate::plan::graph::{BaseId, Plan};
use crate::plan::{BaseImage, BaseImages, ImageRef, LowerError, Near, PlanOptions, image_refs, lower};
use crate::solve::Base;
use crate::solve::event::{Event, TaskId};
use crate::source::registry::Progress;

/// Rounds of ONBUILD that name new images; more than this is a circle.
const ROUND_LIMIT: usize = 16;

/// The resolved images of a build.
#[derive(Debug)]
pub(super) struct Bases<'a> {
    services: Services<'a>,
    policy: PullPolicy,
    known: BaseImages,
    images: Vec<ResolvedImage>,
}

impl<'a> Bases<'a> {
    pub(super) fn new(request: &BuildRequest, services: Services<'a>) -> Self {
        let policy = if request.pull { PullPolicy::Always } else { PullPolicy::Missing };
        Self { services, policy, known: BTreeMap::new(), images: Vec::new() }
    }

    /// The images by [`BaseId`].
    pub(super) fn images(&self) -> &[ResolvedImage] {
        &self.images
    }

    /// The images as the steps see them, by [`BaseId`].
    pub(super) fn solved(&self) -> Vec<Base> {
        let one = |image: &ResolvedImage| Base {
            name: Reference::parse(&image.name).map_or_else(|_| image.name.clone(), |name| name.familiar()),
            digest: image.record.manifest.as_ref().map_or_else(|| image.record.id.to_string(), |manifest| manifest.digest.to_string()),
            diff_ids: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        };
        self.images.iter().map(one).collect()
    }

    /// Resolves what the Dockerfile names and lowers it, again for every image that an ONBUILD adds.
    pub(super) fn plan(&mut self, dockerfile: &Dockerfile, inputs: &Inputs, options: &PlanOptions) -> Result<Plan, BuildError> {
        let failed = |errors| BuildError::Plan { file: inputs.source.clone(), errors };
        let mut wanted = image_refs(dockerfile, options).map_err(failed)?;
        for _ in 0..ROUND_LIMIT {
            self.resolve(&wanted, inputs)?;
            match lower(dockerfile, &inputs.source, options, &self.known) {
                Ok(plan) => return Ok(plan),
                Err(LowerError::NeedsImages(more)) => wanted = more,
                Err(LowerError::Errors(errors)) => return Err(failed(errors)),
            }
        }
        Err(BuildError::Unsupported { what: format!("a chain of more than {ROUND_LIMIT} ONBUILD images") })
    }

    /// The image of the store whose id was written for a name, as `docker build` took it before BuildKit.
    fn id_in_store(&self, written: &str) -> Option<Near> {
        let names = self.services.images.names_by_id(written).ok().flatten()?;
        Some(Near::Id(names.first().map(Reference::familiar)))
    }

    fn resolve(&mut self, wanted: &[ImageRef], inputs: &Inputs) -> Result<(), BuildError> {
        for image in wanted {
            let resolved = self.resolve_one(image).map_err(|cause| match cause {
                _ if self.services.cancel.is_cancelled() => BuildError::Cancelled,
                cause => BuildError::Image {
                    name: image.written.clone(),
                    at: (inputs.source.clone(), image.span),
                    did_you_mean: image.did_you_mean.clone().or_else(|| self.id_in_store(&image.written)),
                    cause,
                },
            })?;
            let digest = resolved.record.manifest.as_ref().map(|manifest| manifest.digest.to_string());
            let base = BaseImage { id: BaseId(self.images.len()), config: resolved.config.clone(), digest };
            self.known.insert(image.key.clone(), base);
            self.images.push(resolved);
        }
        Ok(())
    }

    fn resolve_one(&self, image: &ImageRef) -> Result<ResolvedImage, ImageError> {
        let Services { images, reporter, .. } = self.services;
        let (task, started) = (reporter.new_task(), Instant::now());
        reporter.report(Event::Started { task, name: format!("[internal] load metadata for {}", image.key.name) });
        let progress = Pulling::of(self.services, task);
        let resolved = images.resolve(&image.key.name, &image.key.platform, self.policy, &progress);
        reporter.report(match &resolved {
            Ok(_) => Event::Done { task, elapsed: started.elapsed() },
            Err(error) => Event::Failed { task, error: error.to_string() },
        });
        resolved
    }
}

/// Shows downloads and ends them with the build.
#[derive(Debug)]
pub(super) struct Pulling<'a> {
    services: Services<'a>,
    task: Option<TaskId>,
}

impl<'a> Pulling<'a> {
    /// What is fetched is shown as part of a task.
    pub(super) fn of(services: Services<'a>, task: TaskId) -> Self {
        Self { services, task: Some(task) }
    }

    /// Layers are fetched within steps, whose lines the display shows already.
    pub(super) fn quiet(services: Services<'a>) -> Self {
        Self { services, task: None }
    }
}

impl Progress for Pulling<'_> {
    fn on_bytes(&self, digest: &str, done_bytes: u64, total_bytes: u64) {
        if let Some(task) = self.task {
            let event = Event::Progress { task, what: digest.to_owned(), current_bytes: done_bytes, total_bytes: Some(total_bytes) };
            self.services.reporter.report(event);
        }
    }

    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        if let Some(task) = self.task {
            let text = format!("{what}: {cause}; trying again in {:.1}s", delay.as_secs_f64());
            self.services.reporter.report(Event::Note { task, text });
        }
    }

    fn is_cancelled(&self) -> bool {
        self.services.cancel.is_cancelled()
    }
}
