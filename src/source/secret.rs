//! What the caller lends to steps: secrets (`--secret`) and agents (`--ssh`). Values are read when a step asks for them, and kept
//! nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::agent::Agent;

/// As in Docker: what is larger is no secret.
pub const LIMIT_BYTES: u64 = 500 * 1024;

/// Where a secret's value comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the caller's environment, by its value.
    Value(Vec<u8>),
    /// A file.
    File(PathBuf),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => f.write_str("Value(…)"),
            Self::File(path) => write!(f, "File({path:?})"),
        }
    }
}

/// A secret that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file.
    #[error("cannot read the secret {id} from {}: {source}", path.display())]
    Io {
        /// Which.
        id: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large.
    #[error("invalid secret size: {id} has more than {LIMIT_BYTES} bytes")]
    TooLarge {
        /// Which.
        id: String,
    },
}

/// What steps of a build may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lent {
    /// `--secret` by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `--ssh`: agents by id.
    pub agents: BTreeMap<String, Agent>,
}

impl Lent {
    /// The value of a secret; `None` if nobody gave one of this id.
    pub fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let value = match self.secrets.get(id) {
            None => return Ok(None),
            Some(SecretSource::Value(value)) => value.clone(),
            Some(SecretSource::File(path)) => {
                let mut value = Vec::new();
                let read = File::open(path).and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut value));
                read.map_err(|source| SecretError::Io { id: id.into(), path: path.clone(), source })?;
                value
            }
        };
        if value.len() as u64 > LIMIT_BYTES { Err(SecretError::TooLarge { id: id.into() }) } else { Ok(Some(value)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_late_and_never_shown() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("s");
        let sources = [("a", SecretSource::Value(b"geheim".to_vec())), ("b", SecretSource::File(file.clone()))];
        let lent = Lent { secrets: sources.map(|(id, source)| (id.to_owned(), source)).into(), ..Lent::default() };
        assert!(!format!("{lent:?}").contains("geheim"));
        assert!(matches!(lent.secret("b"), Err(SecretError::Io { .. })));
        std::fs::write(&file, "later\n").expect("written");
        assert_eq!(lent.secret("b").expect("there"), Some(b"later\n".to_vec()));
        assert_eq!((lent.secret("a").expect("there"), lent.secret("c").expect("no error")), (Some(b"geheim".to_vec()), None));
        std::fs::write(&file, vec![0; LIMIT_BYTES as usize + 1]).expect("written");
        assert!(matches!(lent.secret("b"), Err(SecretError::TooLarge { .. })));
    }
}
