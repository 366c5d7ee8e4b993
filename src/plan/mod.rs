//! Syntax tree and base configs → graph. Pure.
//!
//! [`image_refs`] says which images a build needs, [`lower`] makes the [`graph::Plan`] once their configs are known. Between the two
//! stands only the resolver. A base whose ONBUILD names further images makes `lower` ask again ([`LowerError::NeedsImages`]).

pub mod epoch;
pub mod error;
pub mod git;
pub mod graph;
pub mod image_config;
pub mod options;
pub mod outline;
pub mod scope;
pub mod secret;
pub mod stage;

mod copy;
mod lint;
mod mount;
mod names;
mod paths;
mod ports;
mod reach;
mod run;
mod stages;
pub(crate) mod url;

use std::collections::BTreeMap;

use crate::dockerfile::ast::Dockerfile;
use crate::oci::config::ImageConfig;
use crate::oci::platform::Platform;
use crate::span::{SourceFile, Span};

pub use self::epoch::{Dated, DatedStage, dated};
pub use self::error::{LowerError, PlanError, PlanErrorKind};
use self::graph::{BaseId, Plan, Warning};
pub use self::options::{Allowed, AllowedDevices, NamedContext, NoCache, PlanOptions};
use self::reach::Reach;
use self::stage::Lowering;
use self::stages::StageTable;

/// Which image, for which platform: what the resolver is asked and what [`BaseImages`] is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey {
    /// The full reference with a tag or digest (`docker.io/library/alpine:3.20`), or what a named context gave for it.
    pub name: String,
    /// The platform that is wanted.
    pub platform: Platform,
}

/// An image that the build needs, and where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Which image.
    pub key: ImageKey,
    /// The name as the Dockerfile has it after expansion (`alpine:3.20`).
    pub written: String,
    /// What asks for it; the first of several.
    pub reason: ImageReason,
    /// Where.
    pub span: Span,
    /// What may have been meant, for when the image does not exist.
    pub did_you_mean: Option<Near>,
}

/// A name that is near to the one of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Near {
    /// A stage of the file.
    Stage(String),
    /// An image that everybody knows.
    Image(&'static str),
    /// An image of the store whose id was written, by its name; it need not have one.
    Id(Option<String>),
}

impl Near {
    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Stage(name) | Self::Id(Some(name)) => Some(name),
            Self::Image(name) => Some(name),
            Self::Id(None) => None,
        }
    }

    /// What to say of it; of an image that everybody knows the question alone says it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Stage(name) => Some(format!("is the stage {name:?} meant?")),
            Self::Id(Some(name)) => Some(format!("that is the id of {name} in the store: a Dockerfile takes images by their names")),
            Self::Id(None) => {
                Some("that is the id of an image in the store: give it a name with `shale tag`, which a Dockerfile can take".into())
            }
            Self::Image(_) => None,
        }
    }
}

/// What an image is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageReason {
    /// `FROM image`
    From,
    /// `COPY --from=image`
    CopyFrom,
    /// `RUN --mount=from=image`
    MountFrom,
}

/// A resolved base image: its place in the build's list, and its config.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// What [`graph::Op::Image`] will name.
    pub id: BaseId,
    /// The config as it was pulled.
    pub config: ImageConfig,
    /// Digest of what the name stands for, `sha256:…`: shown behind the name, part of no key.
    pub digest: Option<String>,
}

/// The resolved images, by what they were asked as.
pub type BaseImages = BTreeMap<ImageKey, BaseImage>;

/// The distinct images that the target needs, in order of first use: `FROM`, `COPY --from` and `RUN --mount=from` of the stages that
/// it reaches, for every platform.
pub fn image_refs(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<Vec<ImageRef>, Vec<PlanError>> {
    let none = BaseImages::new();
    let mut refs: Vec<ImageRef> = Vec::new();
    for platform in options.target_platforms() {
        let table = StageTable::build(dockerfile, options, &platform)?;
        let reach = Reach::from_target(&table, &none)?;
        push_new(&mut refs, reach.missing);
    }
    Ok(refs)
}

/// What is to be said about arguments in the FROMs of a file, whether or not a plan can be made of it.
pub fn warnings_of_bases(dockerfile: &Dockerfile, options: &PlanOptions) -> Vec<Warning> {
    let table = options.target_platforms().first().map(|platform| StageTable::with_errors(dockerfile, options, platform));
    table.and_then(Result::ok).map(|(table, _)| table.warnings).unwrap_or_default()
}

/// Makes the plan: one graph for all platforms, with one image for each.
pub fn lower(dockerfile: &Dockerfile, source: &SourceFile, options: &PlanOptions, bases: &BaseImages) -> Result<Plan, LowerError> {
    let mut lowering = Lowering::new(source, options, bases);
    let mut missing = Vec::new();
    for platform in options.target_platforms() {
        let table = StageTable::build(dockerfile, options, &platform)?;
        let reach = Reach::from_target(&table, bases)?;
        push_new(&mut missing, reach.missing.clone());
        if missing.is_empty() {
            lowering.platform(&table, &reach, &platform);
        }
    }
    if missing.is_empty() { lowering.finish().map_err(LowerError::Errors) } else { Err(LowerError::NeedsImages(missing)) }
}

fn push_new(refs: &mut Vec<ImageRef>, more: Vec<ImageRef>) {
    for image in more {
        if !refs.iter().any(|known| known.key == image.key) {
            refs.push(image);
        }
    }
}
