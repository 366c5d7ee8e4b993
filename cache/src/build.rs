//! What builds did: a record each, beside the logs of its steps.
//!
//! ```text
//! builds/<id>/record       the record, an entry like the others; written when the build begins and again when it ends
//! builds/<id>/steps        steps of a build that runs or was killed: a line of JSON each, the last one of a step counts
//! builds/<id>/<n>.log      what step n wrote, never clipped; written by others
//! locks/build-<id>         held while it runs: without it, a record that says "running" is of a build that was killed
//! steps/last/build-<hash>  the newest build of a context and Dockerfile
//! ```
//!
//! An id is 16 hexadecimal digits that sort by the time of the build's begin.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::CacheKey;
use crate::entry;
use crate::error::StoreError;
use crate::key::push_bytes;
use crate::lock::FileLock;
use crate::remove::Removed;
use crate::step::{Nearness, StepSite};
use crate::store::Inner;
use crate::tmp::{make_dirs, names_in, random_u64};

/// The journal's name in the folder of a build.
const STEPS: &str = "steps";

/// How a build ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildResult {
    /// It runs.
    #[default]
    Running,
    /// It has an image, or whatever else was asked for.
    Ok,
    /// A step or something around the steps failed.
    Failed,
    /// The user stopped it.
    Cancelled,
    /// It was killed, or the machine went down.
    Interrupted,
}

/// How a step came to its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStatus {
    /// Its result was found.
    Hit,
    /// Its result was found although a step before it ran: that one made what it had made before.
    CutOffHit,
    /// It ran.
    Executed,
    /// It ran and failed.
    Failed,
    /// It runs, or ran when its build was killed.
    Running,
    /// It was stopped.
    #[default]
    Cancelled,
}

/// One difference between the key of a step and that of its last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The part of the key.
    pub part: String,
    /// The difference in words, one line.
    pub text: String,
    /// The value then, if it had one that can be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The value now, if it has one that can be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Of a list of files: which of them, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileChange>,
}

/// One file that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Its path.
    pub path: String,
    /// `added`, `removed`, or what of it changed: `content`, `mode 644 → 755`.
    pub what: String,
}

/// One step of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildStep {
    /// Its display name.
    pub name: String,
    /// Its stage.
    pub stage: String,
    /// Its number in the stage.
    pub ordinal: usize,
    /// Its number in the build, which names its log.
    pub number: usize,
    /// The platform it was built for.
    pub platform: String,
    /// How it came to its result.
    pub status: StepStatus,
    /// Why it ran, or why it did not have to, in words.
    pub reason: String,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Everything that differed from its last run, the most useful first.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// How long it took.
    pub duration_ms: u64,
    /// Bytes of files in the layer that it made; 0 for a hit.
    pub bytes: u64,
    /// Its key; `None` if it came to none.
    pub key: Option<CacheKey>,
    /// Its site's hash of words ([`StepSite::words`]).
    #[serde(default)]
    pub words: String,
}

/// One build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Its name.
    pub id: String,
    /// The process that ran it.
    pub pid: u32,
    /// When it began: milliseconds since the epoch.
    pub started_ms: u64,
    /// The command line, without values that look secret.
    pub command: Vec<String>,
    /// The context as it was given.
    pub context: String,
    /// Identity of the context, as in [`StepSite::context`].
    pub context_id: String,
    /// The Dockerfile.
    pub dockerfile: String,
    /// The stage that was asked for.
    pub target: Option<String>,
    /// Names of the image.
    pub tags: Vec<String>,
    /// Platforms that were asked for.
    pub platforms: Vec<String>,
    /// How it ended.
    pub result: BuildResult,
    /// Why it failed.
    pub error: Option<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// Its steps in the order of the graph, as far as it came.
    pub steps: Vec<BuildStep>,
    /// Steps whose result was found.
    pub hits: usize,
    /// Steps that ran, also those that failed.
    pub misses: usize,
    /// Bytes of files in the layers that were made.
    pub bytes: u64,
    /// The image id.
    pub image: Option<String>,
}

/// The builds of a store.
#[derive(Clone, Copy, Debug)]
pub struct Builds<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Builds<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Begins a build: gives it an id and writes its record as running.
    pub fn begin(self, mut record: BuildRecord) -> Result<OpenBuild, StoreError> {
        record.started_ms = now_ms();
        record.pid = std::process::id();
        record.result = BuildResult::Running;
        if self.store.is_read_only() {
            // What is cached can be built there all the same, without a record.
            let dir = self.dir("read-only");
            return Ok(OpenBuild { store: Arc::clone(self.store), id: record.id, started_ms: record.started_ms, dir, lock: None });
        }
        let (dir, lock) = loop {
            record.id = format!("{:011x}{:05x}", record.started_ms & 0xfff_ffff_ffff, random_u64() & 0xf_ffff);
            let Some(lock) = FileLock::try_take(&self.lock_path(&record.id))? else { continue };
            let dir = self.dir(&record.id);
            if !dir.exists() {
                break (dir, lock);
            }
        };
        make_dirs(&dir).map_err(|error| StoreError::io("create", &dir, error))?;
        self.store.write_entry(entry::BUILD, &dir.join("record"), &record)?;
        Ok(OpenBuild { store: Arc::clone(self.store), id: record.id.clone(), started_ms: record.started_ms, dir, lock: Some(lock) })
    }

    /// The record of a build. One that says "running" of a build that does not is told as interrupted. Both have the steps that
    /// were noted so far.
    pub fn get(self, id: &str) -> Result<Option<BuildRecord>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let read = || Ok(self.store.read_entry::<BuildRecord>(entry::BUILD, &self.dir(id).join("record"))?.whole());
        let Some(mut record) = read()? else { return Ok(None) };
        if record.result == BuildResult::Running && !self.is_running(id)? {
            // It may have ended between the two looks.
            record = match read()? {
                Some(again) => again,
                None => return Ok(None),
            };
            if record.result == BuildResult::Running {
                record.result = BuildResult::Interrupted;
            }
        }
        if matches!(record.result, BuildResult::Running | BuildResult::Interrupted) {
            record.steps = noted(&self.dir(id));
            record.count();
        }
        Ok(Some(record))
    }

    /// Writes down that the user stopped the build of a process that has ended without saying so: the newest one of the process
    /// id that began at `since_ms` or later.
    pub fn end_cancelled(self, pid: u32, since_ms: u64) -> Result<(), StoreError> {
        for id in self.ids()? {
            let Some(mut record) = self.get(&id)? else { continue };
            if record.started_ms < since_ms {
                break;
            }
            if record.pid != pid || record.result != BuildResult::Interrupted {
                continue;
            }
            record.result = BuildResult::Cancelled;
            record.duration_ms = now_ms().saturating_sub(record.started_ms);
            for step in record.steps.iter_mut().filter(|step| step.status == StepStatus::Running) {
                step.status = StepStatus::Cancelled;
            }
            return self.store.write_entry(entry::BUILD, &self.dir(&id).join("record"), &record);
        }
        Ok(())
    }

    /// The ids of all builds, the newest first; also of those without a readable record.
    pub fn ids(self) -> Result<Vec<String>, StoreError> {
        let mut ids: Vec<String> = names_in(&self.all())?.into_iter().filter(|name| is_id(name)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// All records, the newest first.
    pub fn list(self) -> Result<Vec<BuildRecord>, StoreError> {
        self.ids()?.iter().filter_map(|id| self.get(id).transpose()).collect()
    }

    /// The newest build of a context and Dockerfile that has ended.
    pub fn last_of(self, context_id: &str, dockerfile: &str) -> Result<Option<BuildRecord>, StoreError> {
        match self.store.read_entry::<String>(entry::LAST, &self.last_path(context_id, dockerfile))?.whole() {
            Some(id) => self.get(&id),
            None => Ok(None),
        }
    }

    /// Where the logs of a build are.
    pub fn dir(self, id: &str) -> PathBuf {
        self.all().join(id)
    }

    /// Whether the build's process still holds its lock.
    pub fn is_running(self, id: &str) -> Result<bool, StoreError> {
        let path = self.lock_path(id);
        Ok(path.exists() && FileLock::try_take_existing(&path)?.is_none() && path.exists())
    }

    /// Deletes record and logs of a build; `None` if it still runs.
    pub fn remove(self, id: &str) -> Result<Option<u64>, StoreError> {
        let dir = self.dir(id);
        if !is_id(id) || self.is_running(id)? {
            return Ok(None);
        }
        self.store.require_writable(|| format!("remove the build {id} from builds/"))?;
        let (Removed { bytes, .. }, _) = self.store.discard(&dir);
        Ok(Some(bytes))
    }

    /// The same for those who delete: what a clock that was wrong has put into the future counts as the oldest.
    fn ids_to_keep(self) -> Result<Vec<String>, StoreError> {
        let (future, mut ids): (Vec<String>, Vec<String>) = self.ids()?.into_iter().partition(|id| began_ms(id) > now_ms());
        ids.extend(future);
        Ok(ids)
    }

    /// Deletes all but the newest builds; returns how many went.
    pub fn keep_newest(self, count: usize) -> Result<usize, StoreError> {
        let mut removed = 0;
        for id in self.ids_to_keep()?.iter().skip(count) {
            removed += usize::from(self.remove(id)?.is_some());
        }
        Ok(removed)
    }

    /// The same, but only once there are a quarter more, so that hardly a build pays for it: it asks for the folder's count of links,
    /// and lists it only where the file system does not say how many folders it holds.
    pub fn keep_about(self, count: usize) -> Result<usize, StoreError> {
        let all = self.all();
        let links = fs::metadata(&all).map_err(|error| StoreError::io("stat", &all, error))?.nlink();
        let is_many = |found: usize| found > count + count / 4;
        // Two of the links are its own.
        let is_due = if links > 2 { is_many(links as usize - 2) } else { is_many(self.ids()?.len()) };
        if is_due && !self.store.is_read_only() { self.keep_newest(count) } else { Ok(0) }
    }

    /// Deletes the oldest builds until records and logs have at most `bytes` of content; the newest build stays whatever it has.
    /// Returns how many went.
    pub fn keep_bytes(self, bytes: u64) -> Result<usize, StoreError> {
        let (mut sum, mut removed) = (0, 0);
        for (place, id) in self.ids_to_keep()?.iter().enumerate() {
            sum += content_bytes(&self.dir(id));
            if place > 0 && sum > bytes {
                removed += usize::from(self.remove(id)?.is_some());
            }
        }
        Ok(removed)
    }

    fn all(self) -> PathBuf {
        self.store.root().join("builds")
    }

    fn lock_path(self, id: &str) -> PathBuf {
        self.store.lock_path(&format!("build-{id}"))
    }

    fn last_path(self, context: &str, dockerfile: &str) -> PathBuf {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, context.as_bytes());
        push_bytes(&mut bytes, dockerfile.as_bytes());
        let hash = blake3::Hasher::new_derive_key("shale build site v1").update(&bytes).finalize().to_hex();
        self.store.root().join(format!("steps/last/build-{}", &hash[..32]))
    }
}

/// A build that runs. Dropped without [`OpenBuild::end`], it is told as interrupted.
#[derive(Debug)]
pub struct OpenBuild {
    store: Arc<Inner>,
    id: String,
    started_ms: u64,
    dir: PathBuf,
    /// Held while it runs; a store that cannot be written has no records.
    lock: Option<FileLock>,
}

impl OpenBuild {
    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its logs go.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes its steps as they begin and end.
    pub fn journal(&self) -> Journal {
        Journal { path: self.dir.join(STEPS), file: Mutex::new(None) }
    }

    /// A record with the id, the process and the begin of this build.
    pub fn own(&self, record: BuildRecord) -> BuildRecord {
        BuildRecord { id: self.id.clone(), pid: std::process::id(), started_ms: self.started_ms, ..record }
    }

    /// Writes how it ended.
    pub fn end(&self, record: BuildRecord) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let record = self.own(record);
        self.store.write_entry(entry::BUILD, &self.dir.join("record"), &record)?;
        // The record has them all; one that stays does no harm.
        drop(fs::remove_file(self.dir.join(STEPS)));
        if record.steps.is_empty() {
            // It came to no step: nothing to compare the next one with.
            return Ok(());
        }
        let last = Builds::new(&self.store).last_path(&record.context_id, &record.dockerfile);
        self.store.write_entry(entry::LAST, &last, &self.id)
    }
}

/// What a build that runs writes down of its steps, so that one that is killed leaves more than its begin.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

impl Journal {
    /// Adds steps. A journal that cannot be written is of no use and does no harm: the build has its own account.
    pub fn add(&self, steps: &[BuildStep]) {
        let line = |step: &BuildStep| serde_json::to_string(step).expect("a step serialises") + "\n";
        let lines: String = steps.iter().map(line).collect();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = File::options().create(true).append(true).open(&self.path).ok();
        }
        drop(file.as_mut().map(|file| file.write_all(lines.as_bytes())));
    }
}

/// What the journal of a build says of each step, in the order of the graph. A torn last line is none.
fn noted(dir: &Path) -> Vec<BuildStep> {
    let text = fs::read(dir.join(STEPS)).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<BuildStep>(line).ok());
    lines.map(|step| (step.number, step)).collect::<BTreeMap<_, _>>().into_values().collect()
}

fn content_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|meta| meta.len()).sum()
}

/// When a build began, in milliseconds since the epoch, as its id says.
fn began_ms(id: &str) -> u64 {
    id.get(..11).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

impl BuildRecord {
    /// Counts hits, misses and bytes of its steps. What failed before it had a key, as a `COPY` of what is not there, was looked up
    /// nowhere and is neither.
    pub fn count(&mut self) {
        let count = |wanted: fn(&BuildStep) -> bool| self.steps.iter().filter(|step| wanted(step)).count();
        let is_hit = |step: &BuildStep| matches!(step.status, StepStatus::Hit | StepStatus::CutOffHit);
        let is_miss = |step: &BuildStep| match step.status {
            StepStatus::Executed => true,
            StepStatus::Failed => step.key.is_some(),
            _ => false,
        };
        (self.hits, self.misses) = (count(is_hit), count(is_miss));
        self.bytes = self.steps.iter().map(|step| step.bytes).sum();
    }

    /// The key under which this build found or made the result of a step, by its words or its place.
    pub fn key_at(&self, site: &StepSite, nearness: Nearness) -> Option<CacheKey> {
        let here = |step: &&BuildStep| {
            let is_solved = matches!(step.status, StepStatus::Hit | StepStatus::CutOffHit | StepStatus::Executed);
            let is_near = match nearness {
                Nearness::Words => step.stage == site.stage && step.words == site.words,
                Nearness::Place => step.stage == site.stage && step.ordinal == site.ordinal && step.platform == site.platform,
                Nearness::Platform => step.stage == site.stage && step.ordinal == site.ordinal && step.platform != site.platform,
                Nearness::Anywhere => step.words == site.words,
            };
            is_solved && is_near
        };
        self.steps.iter().find(here)?.key
    }
}

/// Whether a directory holds builds and nothing else.
pub(crate) fn holds_builds(dir: &Path) -> bool {
    dir.is_dir() && names_in(dir).is_ok_and(|names| names.iter().all(|name| is_id(name)))
}

fn is_id(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
