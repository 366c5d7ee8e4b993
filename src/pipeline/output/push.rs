//! Images on their way to registries: `--push`, `type=registry`, `push=true`.

use shale_cache::OciDigest;

use super::super::BuildError;
use super::super::bases::Pulling;
use super::image::Kept;
use super::{Output, Outputs};
use crate::cli::output::Push;
use crate::export::MediaTypes;
use crate::image::{ImageError, Outgoing, PushAs};
use crate::oci::manifest::Descriptor;
use crate::oci::reference::Reference;

/// A result that is ready to be pushed.
pub(super) struct Prepared {
    outgoing: Outgoing,
    targets: Vec<Reference>,
    push: Push,
    /// The image ids, in the order of the platforms.
    pub(super) configs: Vec<OciDigest>,
}

/// What a registry has got.
pub(super) struct Arrived {
    pub(super) digest: OciDigest,
    pub(super) descriptor: Descriptor,
    /// `name@digest` where that was asked for.
    pub(super) canonical: Vec<String>,
}

impl Outputs<'_> {
    /// Packs what is to be pushed, before the store keeps the image: it then knows the packed layers.
    pub(super) fn prepare_pushes(&self, names: &[Reference], kept: &mut Option<Vec<Kept>>) -> Result<Vec<Prepared>, BuildError> {
        let mut prepared = Vec::new();
        for output in &self.request.outputs {
            let Some(push) = output.push else { continue };
            let (outgoing, configs) = self.task("exporting layers", |_| {
                let (one, made) = self.exportable(output, names, true)?;
                let configs = made.iter().map(|image| OciDigest::sha256_of(&image.config)).collect();
                kept.get_or_insert(made);
                let types = if output.docker_media_types { MediaTypes::Docker } else { MediaTypes::Oci };
                Ok((Outgoing::of(one, types)?.upon(self.images[0].bases.images()), configs))
            })?;
            prepared.push(Prepared { outgoing, targets: targets(output, names)?, push, configs });
        }
        Ok(prepared)
    }

    /// Pushes a result under all its names.
    pub(super) fn push(&self, prepared: &Prepared) -> Result<Arrived, BuildError> {
        let Prepared { outgoing, targets, push, configs } = prepared;
        let (images, mut canonical) = (self.services.images, Vec::new());
        for target in targets {
            let known_as = self.task(&format!("pushing {}", target.name()), |task| {
                self.note(task, "pushing layers");
                let name = if push.by_digest { PushAs::Digest } else { PushAs::Tag };
                let progress = Pulling::of(self.services, task);
                let pushed = images.push(outgoing, target, name, &progress).map_err(|error| self.push_failed(target, error))?;
                self.note(task, format!("pushing manifest for {target}@{}", pushed.digest));
                Ok(target.at_digest(&pushed.digest).to_string())
            })?;
            for id in configs {
                images.note_pushed(id, std::slice::from_ref(&known_as))?;
            }
            canonical.extend(push.canonical.then_some(known_as));
        }
        let descriptor = outgoing.descriptor();
        Ok(Arrived { digest: descriptor.digest.clone(), descriptor, canonical })
    }

    fn push_failed(&self, target: &Reference, cause: ImageError) -> BuildError {
        match cause {
            _ if self.services.cancel.is_cancelled() => BuildError::Cancelled,
            // What is wrong here has nothing to do with the registry.
            ImageError::Store(_) => BuildError::Keep(cause),
            cause => BuildError::Push { name: target.to_string(), cause: cause.into() },
        }
    }
}

/// The names that an output is pushed to: its own, else those of the image.
fn targets(output: &Output, names: &[Reference]) -> Result<Vec<Reference>, BuildError> {
    if output.names.is_empty() {
        return Ok(names.to_vec());
    }
    let name = |text: &String| {
        let parsed = Reference::parse(text).map_err(|source| ImageError::Reference { text: text.clone(), source })?;
        Ok(parsed.with_default_tag())
    };
    output.names.iter().map(name).collect()
}
