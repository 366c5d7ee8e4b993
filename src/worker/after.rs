//! What is left to do when a build is over: the disk is written back and the store kept to its caps by a process that nobody waits
//! for, and a build that does not end when it is asked to is replaced by one that tidies up behind it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, setsid, wait};
use serde::{Deserialize, Serialize};
use shale_cache::{Store, SyncJob, Urgency};

use super::{Collection, NAME, OURSELVES, Worker, WorkerConfig};
use crate::sandbox::sys;

pub(super) const SYNC: &str = "sync";
pub(super) const TIDY: &str = "tidy";

/// How long the worker may take to end once its sockets are closed.
const BURIAL: Duration = Duration::from_secs(5);

/// What is left to do behind a build.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Afterwork {
    /// Of which store.
    pub store_root: PathBuf,
    /// Deletes what the build left in `tmp/`, if that is anything.
    pub scratch: bool,
    /// Writes the disk back, if something was committed.
    pub sync: Option<SyncJob>,
    /// Keeps to the caps.
    pub collection: Option<Collection>,
}

impl Afterwork {
    /// Leaves it to a process that is waited for by nobody, the successor if there is one. It holds no descriptor of ours, and while it
    /// syncs of the store's locks none but that of the marks' folder. If it cannot be started the disk is written back here.
    pub fn detach(&self, successor: Option<Successor>) {
        if !self.scratch && self.sync.is_none() && self.collection.is_none() {
            return;
        }
        // One that has waited may have been killed meanwhile.
        let is_taken = successor.is_some_and(|successor| successor.take_over(self).is_ok());
        if !is_taken && Successor::start(&self.store_root).and_then(|successor| successor.take_over(self)).is_err() {
            self.delete_scratch();
            // Without the mark a power loss costs cache entries, nothing else.
            drop(self.sync.as_ref().map(SyncJob::run));
        }
    }

    /// What fails, or belongs to other ids, is left to the next build.
    fn delete_scratch(&self) {
        if self.scratch {
            drop(Store::open_existing(&self.store_root).and_then(|store| store.reap().map(drop)));
        }
    }
}

/// Whether a command line, as `/proc` has it, is that of a process that a build leaves behind.
pub fn is_afterwork(command_line: &[u8]) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    words.next() == Some(NAME.as_bytes()) && words.next() == Some(SYNC.as_bytes())
}

/// A process that waits to be told what is left to do: to start one takes longer than what a build does at its end. It ends with this one
/// if it is told nothing.
#[derive(Debug)]
pub struct Successor(Child);

impl Successor {
    /// Starts it. It holds no descriptor of ours. The store is named for who lists processes.
    pub fn start(store_root: &Path) -> io::Result<Self> {
        let mut command = Command::new(OURSELVES);
        command.arg0(NAME).arg(SYNC).arg(store_root).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// Says what is to be done.
    pub(super) fn take_over(mut self, work: &Afterwork) -> io::Result<Child> {
        if let Some(mut pipe) = self.0.stdin.take() {
            pipe.write_all(&serde_json::to_vec(work)?)?;
        }
        Ok(self.0)
    }
}

/// Does not return. Ends with 0 if the disk was written back and, if a full disk asked for it, something was freed.
pub(super) fn sync_main() -> ! {
    // The terminal's signals are not for it.
    let is_alone = setsid().is_ok();
    let Ok(work) = serde_json::from_reader::<_, Afterwork>(io::stdin().lock()) else { sys::exit_now(64) };
    work.delete_scratch();
    let Afterwork { sync, collection, .. } = work;
    let is_synced = sync.is_none_or(|job| job.run().is_ok());
    let freed = collection.as_ref().and_then(Collection::run);
    let is_freed = collection.is_none_or(|asked| asked.reason.urgency == Urgency::Routine || freed.is_some_and(|bytes| bytes > 0));
    sys::exit_now(i32::from(!(is_alone && is_synced && is_freed)))
}

/// What has to be cleared away behind a build that is given up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Abandoned {
    /// The store.
    pub store_root: PathBuf,
    /// Where outputs were to be written: files beside them that this process has begun are deleted.
    pub outputs: Vec<PathBuf>,
    /// The code to end with.
    pub code: u8,
    /// What else is left to do.
    pub after: Afterwork,
    /// When the build began at the earliest: milliseconds since the epoch.
    pub began_ms: u64,
}

impl Abandoned {
    /// Ends every thread of this process at once, wherever it waits, by becoming another program that tidies up and then ends
    /// with the code. The kernel closes what is not to be inherited: locks are free, and the worker ends with its sockets.
    /// Returns only on failure.
    pub fn tidy_up(&self) -> io::Error {
        match serde_json::to_string(self) {
            Ok(text) => Command::new(OURSELVES).arg0(NAME).args([TIDY, &text]).env_clear().current_dir("/").exec(),
            Err(error) => error.into(),
        }
    }

    fn clear(&self) {
        bury();
        let ours = format!(".shale-{}", std::process::id());
        for output in &self.outputs {
            let layout = ["", "blobs", "blobs/sha256", "blobs/sha512"].map(|name| output.join(name));
            for dir in layout.iter().map(PathBuf::as_path).chain(output.parent()) {
                remove_ending(dir, &ours);
            }
        }
        // What cannot be deleted now is deleted by the next build.
        let Ok(store) = Store::open_existing(&self.store_root) else { return };
        // The process id is still that of the build. Without the note it would be told as killed.
        drop(store.builds().end_cancelled(std::process::id(), self.began_ms));
        let left = store.reap().unwrap_or_default();
        if !left.is_empty() {
            let config = WorkerConfig { store_root: self.store_root.clone(), privileged: false };
            drop(Worker::start(&config).and_then(|worker| worker.remove(&left)));
        }
        self.after.detach(None);
    }
}

/// Does not return.
pub(super) fn tidy_main() -> ! {
    let Some(abandoned) = argument::<Abandoned>() else { sys::exit_now(64) };
    abandoned.clear();
    sys::exit_now(abandoned.code.into())
}

fn argument<T: serde::de::DeserializeOwned>() -> Option<T> {
    serde_json::from_str(&std::env::args().nth(2)?).ok()
}

/// Waits until no process is left that could write to the store.
fn bury() {
    let start = Instant::now();
    while let Ok(ended) = wait(WaitOptions::NOHANG)
        && start.elapsed() < BURIAL
    {
        if ended.is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn remove_ending(dir: &Path, ending: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().ends_with(ending) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            drop(fs::remove_file(entry.path()));
        }
    }
}
