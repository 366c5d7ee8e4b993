//! What a plan refuses. The sentences are BuildKit's where scripts know them.

use super::ImageRef;
use super::epoch::EpochFault;
use super::git::GitRefError;
use crate::dockerfile::word::{WordError, quote};
use crate::oci::platform::PlatformError;
use crate::oci::reference::ReferenceError;
use crate::span::Span;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// Images whose configs are not there yet: resolve them and come back.
    #[error("{} more images are needed", .0.len())]
    NeedsImages(Vec<ImageRef>),
    /// What is wrong with the Dockerfile or the options, in order of place.
    #[error("{}", sentences(.0))]
    Errors(Vec<PlanError>),
}

impl From<Vec<PlanError>> for LowerError {
    fn from(errors: Vec<PlanError>) -> Self {
        Self::Errors(errors)
    }
}

fn sentences(errors: &[PlanError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct PlanError {
    /// What is wrong.
    pub kind: PlanErrorKind,
    /// Where in the Dockerfile; `None` when an option is wrong.
    pub span: Option<Span>,
}

impl PlanError {
    pub(crate) fn at(span: Span, kind: impl Into<PlanErrorKind>) -> Self {
        Self { kind: kind.into(), span: Some(span) }
    }

    pub(crate) fn of_option(kind: impl Into<PlanErrorKind>) -> Self {
        Self { kind: kind.into(), span: None }
    }

    /// What to do about it, if there is something to say.
    pub fn hint(&self) -> Option<String> {
        self.kind.hint()
    }
}

/// The kinds of refusals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanErrorKind {
    /// A word that cannot be expanded.
    #[error(transparent)]
    Word(#[from] WordError),
    /// A `FROM --platform=` that cannot be expanded.
    #[error("failed to process arguments for platform : {0}")]
    PlatformWord(WordError),
    /// `FROM ${X}` where `X` is empty.
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    /// `FROM --platform=$X` where `X` is empty.
    #[error("empty platform value from expression {expression}{}", did_you_mean(.suggestion.as_ref()))]
    EmptyPlatform {
        /// As written.
        expression: String,
        /// A name that is declared.
        suggestion: Option<String>,
    },
    /// `FROM --platform=` with something that is no platform.
    #[error("failed to parse platform {expression}: {cause}{}", did_you_mean(.suggestion.as_ref()))]
    BadPlatform {
        /// As written.
        expression: String,
        /// What the platform parser says.
        cause: PlatformError,
        /// A name that is declared.
        suggestion: Option<String>,
    },
    /// A base or `--from` that is no stage and no possible image name.
    #[error("failed to parse stage name {}: {cause}", quote(.name))]
    BadImageName {
        /// After expansion.
        name: String,
        /// What the reference grammar says.
        cause: ReferenceError,
    },
    /// `--build-context` with a name that no stage or image could have.
    #[error("invalid context name {name}: {cause}")]
    BadContextName {
        /// As given.
        name: String,
        /// What the reference grammar says.
        cause: ReferenceError,
    },
    /// `--target` names no stage.
    #[error("target stage {} could not be found{}", quote(.target), did_you_mean(.suggestion.as_ref()))]
    NoTarget {
        /// As given.
        target: String,
        /// A stage with a similar name.
        suggestion: Option<String>,
        /// Every named stage.
        known: Vec<String>,
    },
    /// `COPY --from=$X`
    #[error("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")]
    VariableInFrom,
    /// `COPY --from=7` in a file with fewer stages.
    #[error("invalid stage index {0}")]
    BadStageIndex(i64),
    /// Stages that need each other.
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    /// `COPY --from` of a stage further down.
    #[error("cannot copy from stage {}, it needs to be defined before current stage {}", quote(.from), quote(.stage))]
    CopyFromLater {
        /// As written.
        from: String,
        /// The stage with the COPY.
        stage: String,
    },
    /// `RUN --mount=from=` of a stage further down.
    #[error("cannot mount from stage {} to {}, stage needs to be defined before current command", quote(.from), quote(.target))]
    MountFromLater {
        /// As written.
        from: String,
        /// Where it is mounted.
        target: String,
    },
    /// A RUN asks for more than its sandbox gives, and nobody granted it.
    #[error("failed to load LLB: {0} is not allowed")]
    NotAllowed(&'static str),
    /// `--chmod` that is neither octal nor symbolic.
    #[error("invalid chmod parameter: '{}'. it should be octal string and between 0 and 07777{}", .0, symbolic_fault(.0))]
    BadChmod(String),
    /// COPY of a URL.
    #[error("source can't be a URL for COPY")]
    CopyUrl,
    /// ADD of something that is meant as a git repository.
    #[error(transparent)]
    Git(#[from] GitRefError),
    /// COPY of a git repository.
    #[error("source can't be a git ref for COPY")]
    CopyGit,
    /// `ADD --checksum` that is no sha256.
    #[error("{0}")]
    BadChecksum(&'static str),
    /// `ADD --checksum` with several sources.
    #[error("checksum can't be specified for multiple sources")]
    ChecksumOfMany,
    /// `ADD --checksum` of something local.
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumOfLocal,
    /// `RUN --mount` that cannot be.
    #[error("{0}")]
    BadMount(String),
    /// `RUN []`
    #[error("failed to marshal LLB definition: arguments are required")]
    EmptyRun,
    /// STOPSIGNAL with an unknown signal.
    #[error("invalid signal: {0}")]
    BadSignal(String),
    /// VOLUME with an empty word.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    /// EXPOSE with something that is no port.
    #[error("{0}")]
    BadPort(String),
    /// An ONBUILD trigger of the base that does not parse.
    #[error("{cause}")]
    BadTrigger {
        /// The trigger's text.
        trigger: String,
        /// What the parser says.
        cause: String,
    },
    /// `SOURCE_DATE_EPOCH` that is no number of seconds.
    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    BadEpoch(String),
    /// `SOURCE_DATE_EPOCH` that names a stage which does more than fetch.
    #[error(transparent)]
    EpochStage(#[from] EpochFault),
    /// A file without a FROM.
    #[error("dockerfile contains no stages to build")]
    NoStages,
}

/// What BuildKit says of a mode that does not begin with a digit.
fn symbolic_fault(mode: &str) -> &'static str {
    if mode.starts_with(|c: char| c.is_ascii_digit()) { "" } else { ": invalid syntax" }
}

fn did_you_mean(suggestion: Option<&String>) -> String {
    suggestion.map(|s| format!(" (did you mean {s}?)")).unwrap_or_default()
}

impl PlanErrorKind {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BlankBase(base) => format!(
                "give the variable a default with ARG before the first FROM, or a value with --build-arg, so that {base} names an image"
            ),
            Self::VariableInFrom => "FROM image:${VERSION} AS name, and then COPY --from=name".into(),
            Self::NoTarget { known, .. } if known.is_empty() => "no stage of this file has a name: give it one with FROM … AS name".into(),
            Self::NoTarget { known, .. } => format!("stages of this file: {}", known.join(", ")),
            Self::CopyFromLater { from, .. } => format!("move the stage {from} up, above the one that copies from it"),
            Self::NotAllowed(entitlement) => format!("add --allow {entitlement} to the command line"),
            // What a variable without a value leaves.
            Self::BadImageName { name, .. }
                if name.ends_with([':', '@', '/']) || name.starts_with([':', '@', '/']) || name.contains("/:") =>
            {
                "part of it is empty: give its variable a default with ARG before the first FROM, or a value with --build-arg".into()
            }
            Self::BadImageName { name, .. } if name.contains('@') => "a digest is sha256: with 64 hexadecimal digits".into(),
            Self::BadImageName { .. } => {
                "a name of an earlier stage is written as in its AS (lower case); an image name is lower case too".into()
            }
            Self::BadChmod(_) => "for example 755, 0644 or 4755".into(),
            Self::BadTrigger { trigger, .. } => format!("the base image says ONBUILD {trigger}"),
            Self::BadEpoch(_) => "seconds since 1970, for example $(git log -1 --format=%ct)".into(),
            _ => return None,
        })
    }
}
