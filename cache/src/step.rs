//! What steps made, by their keys.
//!
//! [`Steps::lookup`] either hits, or returns the lock of the key: whoever holds it is the only one that runs the step, and
//! everybody else with the same key waits, in this process or in another. A caller may hold one key's lock while it looks up
//! another, if all callers do so in the same order (first look before second look).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, ChainId, ContentId, LayerId};
use crate::durable::Trust;
use crate::entry::{self, Found};
use crate::error::StoreError;
use crate::key::{KeyParts, push_bytes};
use crate::last_use;
use crate::layer::Layers;
use crate::lock::{FileLock, Patience};
use crate::runs;
use crate::store::Inner;

/// The version of [`StepRecord`]; a record of another one is a miss.
pub const STEP_RECORD_VERSION: u32 = 1;

/// Where in a build a step stands: what "the same step, last time" means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepSite {
    /// The root of the context.
    pub context: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// The stage, by name or number.
    pub stage: String,
    /// The number of the step in its stage.
    pub ordinal: usize,
    /// The platform that it is built for.
    pub platform: String,
    /// A hash of what the instruction says, whatever it reads: it finds a step again that has moved.
    #[serde(default)]
    pub words: String,
}

/// In which sense another step is "the same one".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nearness {
    /// The same words in the same stage of the same build.
    Words,
    /// The same place in the same stage of the same build.
    Place,
    /// The same place of the last build, which was for another platform.
    Platform,
    /// The same words in any build.
    Anywhere,
}

impl Nearness {
    /// From the nearest on.
    pub const ALL: [Self; 4] = [Self::Words, Self::Place, Self::Platform, Self::Anywhere];
    /// Those by which the last run of a step is noted. Of another platform only the last build tells.
    const NOTED: [Self; 3] = [Self::Words, Self::Place, Self::Anywhere];
}

impl StepSite {
    fn name(&self, nearness: Nearness) -> String {
        let mut bytes = Vec::new();
        if nearness != Nearness::Anywhere {
            for field in [&self.context, &self.dockerfile, &self.stage, &self.platform] {
                push_bytes(&mut bytes, field.as_bytes());
            }
        }
        let context = match nearness {
            Nearness::Place | Nearness::Platform => {
                bytes.extend_from_slice(&(self.ordinal as u64).to_le_bytes());
                "shale step site v2"
            }
            Nearness::Words | Nearness::Anywhere => {
                push_bytes(&mut bytes, self.words.as_bytes());
                "shale step words v1"
            }
        };
        blake3::Hasher::new_derive_key(context).update(&bytes).finalize().to_hex()[..32].to_owned()
    }
}

/// The base image of the stage that a step stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepBase {
    /// As it is named in the Dockerfile.
    pub name: String,
    /// Digest of its manifest, or of its config where there is no manifest.
    pub digest: String,
    /// Its content.
    pub chain: ChainId,
}

/// What is known of an earlier run of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// In which sense it is the same step.
    pub nearness: Nearness,
    /// Its key.
    pub key: CacheKey,
    /// Its record; `None` if that was removed. Its layer may be gone too.
    pub record: Option<StepRecord>,
}

/// What a step made, and why its key is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// [`STEP_RECORD_VERSION`].
    pub version: u32,
    /// The hash of `parts`.
    pub key: CacheKey,
    /// The explanation of the key.
    pub parts: KeyParts,
    /// The layer that the step made or adopted.
    pub layer: LayerId,
    /// That layer's content.
    pub content: ContentId,
    /// When the layer was made: seconds since the epoch.
    pub created_secs: i64,
    /// And nanoseconds.
    pub created_nanos: u32,
    /// How long the step took.
    pub cost_ms: u64,
    /// Where it stands.
    pub site: StepSite,
    /// The base image below it; `None` if it stands on nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<StepBase>,
}

/// The answer to a lookup.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per step, and it is taken apart at once")]
pub enum Lookup {
    /// The step's layer is known, and its index is there.
    Hit(StepRecord),
    /// It is not, and the caller is the one to make it.
    Miss(KeyLock),
}

/// The step records of a store.
#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Looks a key up. While someone else is making it, waits and looks again.
    pub fn lookup(self, key: &CacheKey) -> Result<Lookup, StoreError> {
        self.lookup_with(key, &mut Patience { on_wait: &mut |_| {}, keep_waiting: &|| true })
    }

    /// Looks a key up, and tells when that takes long.
    pub fn lookup_with(self, key: &CacheKey, patience: &mut Patience<'_>) -> Result<Lookup, StoreError> {
        if let Some(record) = self.peek(key)? {
            return Ok(Lookup::Hit(record));
        }
        if self.store.is_read_only() {
            // Nobody writes there, so nobody has to be kept from running the step, too; what it makes cannot be kept.
            return Ok(Lookup::Miss(KeyLock { store: Arc::clone(self.store), key: *key, _lock: None }));
        }
        let lock = FileLock::take_with(&self.store.leftover, &self.store.lock_path(&format!("step-{key}")), patience)?;
        if let Some(record) = self.peek(key)? {
            return Ok(Lookup::Hit(record));
        }
        // Under the lock nobody else writes the record, so what is bad now is nobody's good one.
        let path = self.path(key);
        if self.store.read_entry::<StepRecord>(entry::STEP, &path)?.is_worthless() {
            drop(std::fs::remove_file(&path));
        }
        Ok(Lookup::Miss(KeyLock { store: Arc::clone(self.store), key: *key, _lock: Some(lock) }))
    }

    /// The record of a key, without waiting for anyone. One whose layer has no index any more is none.
    pub fn peek(self, key: &CacheKey) -> Result<Option<StepRecord>, StoreError> {
        let Found::Entry(record, trust) = self.store.read_entry::<StepRecord>(entry::STEP, &self.path(key))? else { return Ok(None) };
        if record.version != STEP_RECORD_VERSION || record.key != *key {
            return Ok(None);
        }
        let layers = Layers::new(self.store);
        let has_layer = match trust {
            // The index was whole when the record was written, and this boot has not ended since.
            Trust::ThisBoot => layers.has_index_file(&record.layer)?,
            Trust::Synced => layers.has_index(&record.layer)?,
            Trust::None => false,
        };
        if has_layer && self.store.has_lease() {
            last_use::note(&self.path(key));
        }
        Ok(has_layer.then_some(record))
    }

    /// Writes a record without having looked it up: for a key that was computed from what was written, and for second looks.
    /// Nobody is harmed if two do so at once, for both records are true.
    pub fn put(self, record: &StepRecord) -> Result<(), StoreError> {
        let actual = record.parts.key();
        if actual != record.key {
            return Err(StoreError::KeyMismatch { expected: record.key, actual });
        }
        Layers::new(self.store).require_index(&record.layer)?;
        // One that says the same needs no replacing: a step that passes the cache by mostly makes what it had made.
        let result = |record: &StepRecord| (record.layer, record.content, record.created_secs, record.created_nanos);
        let is_known = |known: &StepRecord| result(known) == result(record) && known.base == record.base;
        if !self.peek(&record.key)?.is_some_and(|known| is_known(&known)) {
            self.store.write_entry(entry::STEP, &self.path(&record.key), record)?;
        }
        self.note_last(&record.site, &record.key);
        Ok(())
    }

    /// The newest record of a site, for explanations only: its layer may be gone.
    pub fn last(self, site: &StepSite) -> Result<Option<StepRecord>, StoreError> {
        Ok(self.last_run(site, Nearness::Place)?.and_then(|run| run.record))
    }

    /// The newest run of the same step, also one whose record was removed since.
    pub fn last_run(self, site: &StepSite, nearness: Nearness) -> Result<Option<LastRun>, StoreError> {
        match runs::find(self.store, &site.name(nearness))? {
            Some(key) => Ok(Some(LastRun { nearness, key, record: self.any(&key)? })),
            None => Ok(None),
        }
    }

    /// The record of a key, for explanations only: its layer may be gone.
    pub fn any(self, key: &CacheKey) -> Result<Option<StepRecord>, StoreError> {
        Ok(self.store.read_entry::<StepRecord>(entry::STEP, &self.path(key))?.whole())
    }

    /// Makes a record the last of a site, if it can: what that explains is worth no build.
    fn note_last(self, site: &StepSite, key: &CacheKey) {
        let known = if site.words.is_empty() { &[Nearness::Place][..] } else { &Nearness::NOTED };
        for nearness in known {
            drop(runs::note(self.store, &site.name(*nearness), key));
        }
    }

    fn path(self, key: &CacheKey) -> PathBuf {
        let hex = key.to_hex();
        self.store.root().join("steps").join(&hex[..2]).join(hex)
    }
}

/// The right to make what a key stands for. Dropped without a commit, it lets the next one try.
#[derive(Debug)]
pub struct KeyLock {
    /// None in a read-only store. It goes before the store does, which removes what locks left.
    _lock: Option<FileLock>,
    store: Arc<Inner>,
    key: CacheKey,
}

impl KeyLock {
    /// The key that is locked.
    pub fn key(&self) -> CacheKey {
        self.key
    }

    /// Writes the record of the key, which must be the hash of its parts, and lets those who wait have it.
    pub fn commit(self, record: &StepRecord) -> Result<(), StoreError> {
        if record.key != self.key {
            return Err(StoreError::KeyMismatch { expected: self.key, actual: record.key });
        }
        Steps::new(&self.store).put(record)
    }
}
