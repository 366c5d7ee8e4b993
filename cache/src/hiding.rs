//! Values that records must not hold in clear: only a hash under the store's own key, which tells whether they changed.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use crate::entry::is_absent;
use crate::error::StoreError;
use crate::store::Inner;
use crate::tmp::random_u64;

/// The store's key for values that look secret. Without it nobody can tell them from the hashes by trying.
#[derive(Clone, Copy)]
pub struct HidingKey([u8; 32]);

impl fmt::Debug for HidingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HidingKey")
    }
}

impl HidingKey {
    /// What stands for a value: 64 hexadecimal digits, others for every other value and in every other store.
    pub fn hide(&self, value: &str) -> String {
        blake3::keyed_hash(&self.0, value.as_bytes()).to_hex().to_string()
    }

    /// Reads the key of a store, or makes it.
    pub(crate) fn of(store: &Arc<Inner>) -> Result<Self, StoreError> {
        let path = store.root().join("hiding-key");
        for _ in 0..2 {
            match std::fs::read(&path) {
                Ok(bytes) if bytes.len() == 32 => return Ok(Self(bytes.try_into().expect("32 bytes"))),
                Ok(_) => drop(std::fs::remove_file(&path)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(StoreError::io("read", &path, error)),
            }
            store.require_writable(|| "make the key for values that look secret, hiding-key".into())?;
            // Two builds may make one at once: the first to give it its name wins, and the other reads that one.
            let (mut file, fresh) = store.scratch()?.file()?;
            let key: Vec<u8> = (0..4).flat_map(|_| random_u64().to_le_bytes()).collect();
            let made = file.write_all(&key).and_then(|()| match std::fs::hard_link(&fresh, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                other => other,
            });
            drop(std::fs::remove_file(&fresh));
            made.map_err(|error| StoreError::io("write", &path, error))?;
        }
        let bytes = std::fs::read(&path).map_err(|error| StoreError::io("read", &path, error))?;
        bytes.try_into().map(Self).map_err(|_| StoreError::io("read", &path, std::io::ErrorKind::InvalidData))
    }
}
