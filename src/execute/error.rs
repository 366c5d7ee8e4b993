//! Why a step failed. The sentences that scripts look for are BuildKit's; hints stand apart, in `cli::diagnostic`.

use std::io;
use std::path::PathBuf;

use shale_cache::StoreError;

use super::emulator::NoEmulator;
use super::room::Lack;
use crate::image::ImageError;
use crate::layer::LayerError;
use crate::sandbox::SandboxError;
use crate::source::cdi::CdiError;
use crate::source::context::ContextError;
use crate::source::git::GitError;
use crate::source::http::HttpError;
use crate::source::secret::SecretError;
use crate::tree::accounts::AccountError;
use crate::tree::graft::GraftError;
use crate::tree::index::IndexError;
use crate::tree::select::SelectError;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The command of a RUN ended with another code than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit {
        /// The command as it was run, words joined.
        command: String,
        /// Its exit code; 128 + signal if a signal ended it.
        code: i32,
        /// Its full log, if it printed anything.
        log: Option<PathBuf>,
        /// That it found no space on a disk, if it looks like it.
        lack: Option<Lack>,
        /// Flags that would have given what it mounts and can do without.
        absent: Vec<String>,
    },
    /// The sources of a COPY or ADD.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// A source that is not there, with what the context knows about it.
    #[error("failed to calculate checksum of ref: {path:?}: not found")]
    Missing {
        /// The source, absolute within the context.
        path: String,
        /// Whether an ignore pattern hides it, or what is spelled alike.
        why: Option<crate::source::context::Missing>,
    },
    /// What a COPY or ADD would write where.
    #[error(transparent)]
    Graft(#[from] GraftError),
    /// A user or group.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// A mount asks for a secret that nobody gave.
    #[error("secret {id}: not found")]
    NoSecret {
        /// Which.
        id: String,
    },
    /// A secret that is to be a variable.
    #[error("the secret {id} is not text, which a variable must be")]
    SecretNotText {
        /// Which.
        id: String,
    },
    /// A mount asks for an agent that nobody gave.
    #[error("no SSH key {id:?} forwarded from the client")]
    NoAgent {
        /// Which.
        id: String,
    },
    /// A secret that cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A source of ADD that is fetched.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A base image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A layer's bytes.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// An archive that is to be unpacked.
    #[error("cannot unpack {}: {source}", path.display())]
    Archive {
        /// Its path in the context.
        path: PathBuf,
        /// Why not.
        source: LayerError,
    },
    /// A layer's index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The build context.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The sandbox or the worker.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A COPY from a context where none was given: the Dockerfile came alone on standard input.
    #[error("there is no build context to copy from")]
    NoContext,
    /// The context could not be read; the cause says what and why.
    #[error("{0}")]
    ContextRead(#[source] io::Error),
    /// The name of an owner, where there is nothing yet that could name ids. The words in parentheses are BuildKit's.
    #[error("cannot look up {owner:?}: there are no files yet (invalid user index: -1)")]
    NoAccounts {
        /// As written.
        owner: String,
    },
    /// A base image's layer has other content than its config says.
    #[error("the image {image} is damaged or forged: a layer has the DiffID {found}, its config says {said}")]
    WrongDiffId {
        /// The base image.
        image: String,
        /// In the config.
        said: shale_cache::OciDigest,
        /// Of the bytes.
        found: shale_cache::OciDigest,
    },
    /// The bytes of a layer are not those that were stored.
    #[error("the layer {digest} is damaged in the store: {damage}")]
    DamagedBlob {
        /// The packed layer.
        digest: shale_cache::OciDigest,
        /// What is wrong with it.
        damage: String,
    },
    /// Every form of a layer is gone from the store.
    #[error("the layer {layer} has neither an unpacked nor a packed form in the store any more")]
    LostLayer {
        /// Which.
        layer: shale_cache::LayerId,
    },
    /// The only form of a layer belongs to ids that are not ours.
    #[error(
        "the layer {layer} was unpacked for other ids than ours: the range in /etc/subuid is another one now, or the store was another user's"
    )]
    OtherIds {
        /// Which.
        layer: shale_cache::LayerId,
    },
    /// A blob is gone from the store.
    #[error("the content {digest} is not in the store any more")]
    LostBlob {
        /// Which.
        digest: shale_cache::OciDigest,
    },
    /// Reading or writing a file.
    #[error("cannot {deed} {path}: {source}", path = path.display())]
    Io {
        /// What was tried (`read`, `write the log`).
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A device.
    #[error(transparent)]
    Device(#[from] CdiError),
    /// A command of another platform.
    #[error("exec format error: a RUN for {platform} does not run on {native}: {why}")]
    Foreign {
        /// The step's platform.
        platform: String,
        /// This machine's.
        native: String,
        /// What is missing.
        why: NoEmulator,
    },
    /// Two images have other files at one path, and both are written to one place.
    #[error("cannot overwrite {path} from {first} with {second} when split option is disabled")]
    Overlap {
        /// The path.
        path: String,
        /// The platform that has it already.
        first: String,
        /// The platform that brings it again.
        second: String,
    },
    /// The build was given up.
    #[error("context canceled")]
    Cancelled,
}

impl StepError {
    /// Joins an IO error to its path and deed.
    pub fn io(deed: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { deed, path, source }
    }
}
