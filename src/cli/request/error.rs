//! What is wrong with a command line of a build. Where scripts know the sentence of docker buildx it stands alone; the flag is in the hint.

use crate::cli::config::ConfigError;
use crate::cli::flags::RefusedFlag;
use crate::cli::output::OutputError;
use crate::oci::platform::PlatformError;
use crate::oci::reference::ReferenceError;
use crate::plan::git::GitRefError;

use super::allow;

/// A request that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A flag of Docker's that shale does not carry out.
    #[error("{} is not supported yet", .0.flag)]
    Refused(RefusedFlag),
    /// An empty context, which is not the working directory.
    #[error("unable to prepare context: path \"\" not found")]
    NoContext,
    /// A context that is meant as a git repository.
    #[error("invalid build context {text:?}: {cause}")]
    Git {
        /// The argument, without a password.
        text: String,
        /// What is wrong with it.
        cause: GitRefError,
    },
    /// Standard input cannot be both.
    #[error("invalid argument: can't use stdin for both build context and dockerfile")]
    StdinTwice,
    /// Two outputs cannot share standard output.
    #[error("only one output can be written to stdout")]
    StdoutTwice,
    /// A name that no image can have.
    #[error("failed to build: invalid tag {text:?}: {source}")]
    Tag {
        /// The name.
        text: String,
        /// Why.
        source: ReferenceError,
    },
    /// A `key=value` without a key.
    #[error("invalid key-value pair {text:?}: empty key")]
    KeyValue {
        /// The flag with its dashes.
        flag: &'static str,
        /// The value.
        text: String,
    },
    /// A platform that cannot be read.
    #[error("failed to parse platform {0}")]
    Platform(#[from] PlatformError),
    /// An output that cannot be served.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A variable of docker buildx that is neither true nor false.
    #[error("invalid {name}: {text:?} is neither true nor false")]
    Variable {
        /// Its name.
        name: &'static str,
        /// Its value.
        text: String,
    },
    /// BUILDKIT_MULTI_PLATFORM is neither true nor false.
    #[error("invalid boolean value for multi-platform: {text}")]
    MultiPlatform {
        /// Its value.
        text: String,
    },
    /// `--annotation` that cannot be read.
    #[error("{0}")]
    Annotation(String),
    /// `--allow` of something unknown.
    #[error("{0}")]
    Allow(String),
    /// A progress mode nobody has.
    #[error("invalid progress mode {text:?}: it is one of auto, tty, plain, quiet, none, rawjson")]
    Progress {
        /// The mode.
        text: String,
    },
    /// `-q` and another display.
    #[error("progress={text} and quiet cannot be used together")]
    QuietProgress {
        /// The mode.
        text: String,
    },
    /// A `--call` that cannot be read.
    #[error("invalid argument {text:?} for \"--call\" flag: {reason}")]
    Call {
        /// The flag's value.
        text: String,
        /// Why, in buildx' words.
        reason: String,
    },
    /// A question that nobody answers.
    #[error("unsupported request frontend.{name}: it is one of build, check, outline, targets, subrequests.describe")]
    UnknownCall {
        /// Its name.
        name: String,
    },
    /// A network that a RUN cannot have.
    #[error("network mode {text:?} not supported by shale: it is one of default, host, none")]
    Network {
        /// The mode.
        text: String,
    },
    /// A host entry that cannot be read.
    #[error("{0}")]
    AddHost(String),
    /// `--secret` or `--ssh` that cannot be read.
    #[error("{reason}")]
    Lent {
        /// The flag with its dashes.
        flag: &'static str,
        /// Its value.
        text: String,
        /// What is wrong, in buildx' words.
        reason: String,
    },
    /// A named context that only a bake file can have.
    #[error("unsupported context source target for {0}: only a bake file has targets to name")]
    Target(String),
    /// Nowhere to push to.
    #[error("failed to build: tag is needed when pushing to registry")]
    PushWithoutName,
    /// A settings file that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A named context that cannot be read.
    #[error("invalid build context {text:?}: {reason}")]
    NamedContext {
        /// The flag's value.
        text: String,
        /// Why.
        reason: String,
    },
}

impl RequestError {
    /// The flag that it is about, and what it takes.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refused) => Some(refused.reason.to_owned()),
            Self::KeyValue { flag, .. } => Some(format!("{flag} takes KEY=VALUE")),
            Self::Allow(_) => Some(format!("--allow takes {}", allow::KNOWN)),
            Self::Lent { flag, text, .. } => {
                let forms = match *flag {
                    "--ssh" => "default, ID=SOCKET or ID=KEY[,KEY]",
                    _ => "id=NAME,src=FILE or id=NAME,env=VARIABLE",
                };
                Some(format!("the flag is {flag} {text}; it takes {forms}"))
            }
            Self::PushWithoutName => Some("--push and --output type=registry take the name from --tag, or from name= of the output".into()),
            _ => None,
        }
    }
}
