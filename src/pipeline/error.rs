//! Why a build failed, with what its excerpt needs.

use std::io;
use std::path::PathBuf;

use shale_cache::StoreError;

use crate::dockerfile::ParseError;
use crate::execute::StepError;
use crate::execute::room::{Fullness, fullness};
use crate::export::ExportError;
use crate::export::annotation::AnnotationError;
use crate::image::ImageError;
use crate::plan::{Near, PlanError};
use crate::source::context::ContextError;
use crate::source::git::GitError;
use crate::source::http::HttpError;
use crate::span::{SourceFile, Span};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The context or the Dockerfile cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A context cannot be fetched from its repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A context cannot be fetched.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// `-f`, and the context is a Dockerfile by itself.
    #[error("ambiguous Dockerfile source: both {context} and flag correspond to Dockerfiles")]
    TwoDockerfiles {
        /// What the context is.
        context: &'static str,
    },
    /// The Dockerfile is not one.
    #[error("{}", errors.first().map(ParseError::sentence).unwrap_or_default())]
    Parse {
        /// The text.
        file: SourceFile,
        /// All errors, in the order of the file; never empty.
        errors: Vec<ParseError>,
    },
    /// The Dockerfile asks for what cannot be.
    #[error("{}", errors.first().map(ToString::to_string).unwrap_or_default())]
    Plan {
        /// The text.
        file: SourceFile,
        /// All errors; never empty.
        errors: Vec<PlanError>,
    },
    /// The value of a `check` directive cannot be read.
    #[error("{text}")]
    Check {
        /// BuildKit's sentence.
        text: String,
    },
    /// `# check=error=true`, and there were warnings.
    #[error("lint violation found for rules: {}", .0.join(", "))]
    Lint(Vec<&'static str>),
    /// `# syntax=` names a program that shale is not.
    #[error("frontend {name} cannot be run: only docker/dockerfile and docker/dockerfile-upstream are built in")]
    Frontend {
        /// Its image.
        name: String,
        /// Where it is named; nowhere if a build argument did it.
        at: Option<(SourceFile, Span)>,
    },
    /// A base image cannot be had.
    #[error("{name}: {cause}")]
    Image {
        /// The name after expansion.
        name: String,
        /// Where it is asked for.
        at: (SourceFile, Span),
        /// What may have been meant.
        did_you_mean: Option<Near>,
        /// Why.
        cause: ImageError,
    },
    /// A step failed.
    #[error("{cause}")]
    Step {
        /// Where it was written.
        at: Option<(SourceFile, Span)>,
        /// Its display name.
        name: String,
        /// Why.
        cause: StepError,
    },
    /// An image could not be kept.
    #[error(transparent)]
    Keep(#[from] ImageError),
    /// An image does not arrive at its registry.
    #[error("failed to push {name}: {cause}")]
    Push {
        /// Where it should go.
        name: String,
        /// Why it did not.
        cause: Box<ImageError>,
    },
    /// An output could not be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// An annotation that the result has no place for.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// One archive of Docker's holds one platform.
    #[error("docker exporter does not currently support exporting manifest lists")]
    DockerIndex,
    /// A file of the request could not be written or read.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A feature that this version has not.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// The user gave it up.
    #[error("context canceled")]
    Cancelled,
}

impl BuildError {
    /// Whether a full disk is at the bottom of it.
    pub fn fullness(&self) -> Option<Fullness> {
        match self {
            // What a command wrote counts as what shale writes: a step may always be run again.
            Self::Step { cause: StepError::Exit { lack: Some(lack), .. }, .. } => lack.is_full.then_some(Fullness::Disk),
            Self::Step { cause, .. } => fullness(cause),
            Self::Image { cause, .. } => fullness(cause),
            error => fullness(error),
        }
    }
}
