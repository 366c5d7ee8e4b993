//! What is left to do when a build is over: the disk is written back by a process that nobody waits for, and a build that does
//! not end when it is asked to is replaced by one that tidies up behind it.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{WaitOptions, setsid, wait};
use serde::{Deserialize, Serialize};
use shale_cache::{Store, SyncJob};

use super::{NAME, OURSELVES, Worker, WorkerConfig};
use crate::sandbox::sys;

pub(super) const SYNC: &str = "sync";
pub(super) const TIDY: &str = "tidy";

/// How long the worker may take to end once its sockets are closed.
const BURIAL: Duration = Duration::from_secs(5);

/// Starts a process that does the job and is waited for by nobody. It holds no descriptor of ours, and of the store's locks none
/// but that of the marks' folder. If it cannot be started the job is done here.
pub fn sync_detached(job: &SyncJob) {
    let started = serde_json::to_string(job).map_err(io::Error::from).and_then(|text| {
        let mut command = Command::new(OURSELVES);
        command.arg0(NAME).args([SYNC, &text]).env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    });
    if started.is_err() {
        // Without the mark a power loss costs cache entries, nothing else.
        drop(job.run());
    }
}

/// Does not return.
pub(super) fn sync_main() -> ! {
    // The terminal's signals are not for it.
    let done = setsid().is_ok() | argument::<SyncJob>().is_some_and(|job| job.run().is_ok());
    sys::exit_now(i32::from(!done))
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
    /// What was committed before.
    pub sync: Option<SyncJob>,
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
        let Ok(store) = Store::open(&self.store_root) else { return };
        // The process id is still that of the build. Without the note it would be told as killed.
        drop(store.builds().end_cancelled(std::process::id(), self.began_ms));
        let left = store.reap().unwrap_or_default();
        if !left.is_empty() {
            let config = WorkerConfig { store_root: self.store_root.clone() };
            drop(Worker::start(&config).and_then(|worker| worker.remove(&left)));
        }
        if let Some(job) = &self.sync {
            sync_detached(job);
        }
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
