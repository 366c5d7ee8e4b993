//! What signs for a step: the caller's agent, or key files that are served as an agent would.

mod forward;
mod keys;
mod pem;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use forward::Forwarded;
use keys::Key;
pub use keys::Keyring;

/// The answer "failure", as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// No key file is larger.
const KEY_LIMIT_BYTES: u64 = 100 << 10;

/// What `--ssh` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// The socket of an agent.
    Socket(PathBuf),
    /// Keys.
    Keys(Arc<Keyring>),
}

/// Why `--ssh` cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A path that is not there.
    #[error("failed to open {}: {source}", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no key.
    #[error("failed to parse {}: {source}", path.display())]
    Key {
        /// As given.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// Two agents under one name.
    #[error("only single socket allowed")]
    TwoSockets,
    /// An agent takes no further keys.
    #[error("invalid combination of keys and sockets")]
    Mixed,
}

/// Why a file is no key that can sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("ssh: no key found")]
    None,
    /// Nobody is asked for a passphrase.
    #[error("ssh: this private key is passphrase protected")]
    Encrypted,
    /// Of a kind that is not signed with.
    #[error("ssh: unsupported key type {0:?}")]
    Unsupported(String),
    /// Damaged.
    #[error("ssh: the key is malformed: {0}")]
    Malformed(String),
}

impl Agent {
    /// One socket, or key files.
    pub fn open(paths: &[PathBuf]) -> Result<Self, AgentError> {
        let mut socket: Option<&PathBuf> = None;
        let mut keys = Vec::new();
        for path in paths {
            if socket.is_some() {
                return Err(AgentError::TwoSockets);
            }
            let failed = |source| AgentError::Io { path: path.clone(), source };
            if fs::metadata(path).map_err(failed)?.file_type().is_socket() {
                socket = Some(path);
            } else {
                keys.push(read_key(path)?);
            }
        }
        match socket {
            Some(_) if !keys.is_empty() => Err(AgentError::Mixed),
            Some(path) => Ok(Self::Socket(path.clone())),
            None => Ok(Self::Keys(Arc::new(Keyring::new(keys)))),
        }
    }
}

fn read_key(path: &Path) -> Result<Key, AgentError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(KEY_LIMIT_BYTES).read_to_end(&mut text));
    read.map_err(|source| AgentError::Io { path: path.to_owned(), source })?;
    Key::parse(&text).map_err(|source| AgentError::Key { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
