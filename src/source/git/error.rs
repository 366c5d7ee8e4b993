//! Why a repository gave no files. The sentences that scripts look for are BuildKit's.

use std::io;
use std::path::PathBuf;

use shale_cache::StoreError;

use crate::source::context::ContextError;
use crate::source::secret::SecretError;
use crate::tree::walk::WalkError;

/// Why a repository gave no files.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git, or it cannot be started.
    #[error("failed to find git binary: {0}")]
    NoProgram(io::Error),
    /// Git failed.
    #[error("failed to load cache key: {deed}: git stderr: {said}")]
    Command {
        /// What was tried, with the repository.
        deed: String,
        /// Git's words, in one line.
        said: String,
    },
    /// The repository has no branch that is meant without a name.
    #[error("failed to load cache key: could not find default branch for repository: {remote}")]
    NoDefault {
        /// Without a password.
        remote: String,
    },
    /// The repository has no such branch or tag.
    #[error("failed to load cache key: repository does not contain ref {reference}, output: {output:?}")]
    NoRef {
        /// What was asked for.
        reference: String,
        /// What git said instead.
        output: String,
    },
    /// The commit is another one.
    #[error("failed to load cache key: expected checksum to match {expected}, got {found}")]
    Checksum {
        /// What `--checksum` says.
        expected: String,
        /// What the repository says.
        found: String,
    },
    /// The commit went away between two questions.
    #[error("fetched ref {reference} does not match expected commit {commit} and commit can not be found in the repository")]
    Moved {
        /// What was asked for.
        reference: String,
        /// What it was before.
        commit: String,
    },
    /// The directory is not there, or leads elsewhere.
    #[error("failed to open subdir {subdir}: {source}")]
    Subdir {
        /// As asked for.
        subdir: String,
        /// Why.
        source: io::Error,
    },
    /// A secret that cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret that no header can hold.
    #[error("the secret {0} is not text of one line")]
    SecretNotText(String),
    /// The checkout as a tree of files.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A file of the checkout.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The store cannot take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something in the store cannot be read or written.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The build was given up.
    #[error("context canceled")]
    Cancelled,
}

impl GitError {
    pub(super) fn io(deed: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { deed, path, source }
    }

    /// What the user can do, if anything.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoProgram(_) => "repositories are fetched by the program git: install it, or put its directory into PATH",
            Self::NoRef { reference, .. } if reference.len() < 40 && reference.len() > 5 && is_hex(reference) => {
                "a commit is named by its full hash of 40 digits; a shorter one can be its --checksum"
            }
            Self::NoRef { .. } => "a branch, a tag or a full commit hash is written behind #",
            Self::Command { said, .. } if said.contains("could not read Username") || said.contains("Authentication failed") => {
                "give --secret id=GIT_AUTH_TOKEN,env=VARIABLE with an access token"
            }
            Self::Command { said, .. } if said.contains("Permission denied (publickey") => "give --ssh default, or --ssh default=KEYFILE",
            _ => return None,
        };
        Some(text.into())
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}
