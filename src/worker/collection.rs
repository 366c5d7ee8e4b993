//! The garbage collection by itself: in a process of its own, which shares nothing with a build but the store.

use std::io;
use std::path::PathBuf;
use std::process::Child;

use serde::{Deserialize, Serialize};
use shale_cache::{Policy, Reason, Store, Urgency};

use super::Mapped;
use super::after::{Afterwork, Successor};

/// By how much a collection that nobody waits for is nicer than builds.
const NICER: i32 = 10;

/// What is to be kept to in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// The store.
    pub store_root: PathBuf,
    /// Its caps.
    pub policy: Policy,
    /// Why now.
    pub reason: Reason,
}

impl Collection {
    /// Does it here. Returns the freed bytes.
    pub(super) fn run(&self) -> Option<u64> {
        if self.reason.urgency == Urgency::Routine {
            // Where priorities cannot be set it is not nicer than others.
            let nice = rustix::process::getpriority_process(None).map_or(NICER, |nice| nice + NICER);
            rustix::process::setpriority_process(None, nice.min(19)).ok();
        }
        let store = Store::open_existing(&self.store_root).ok()?;
        let mut mapped = Mapped::new(store.root());
        let report = store.gc().collect(&self.policy, self.reason, &mut |paths| mapped.measure(paths)).ok()??;
        // What stays is tried again by the next build.
        mapped.remove(&report.undeletable).ok();
        Some(report.bytes)
    }

    /// Starts it in a process that goes on even if this one ends.
    pub fn start(&self) -> io::Result<Child> {
        let work = Afterwork { store_root: self.store_root.clone(), collection: Some(self.clone()), ..Afterwork::default() };
        Successor::start(&self.store_root)?.take_over(&work)
    }

    /// The same, and waits for it. Whether it freed anything.
    pub fn wait(&self) -> bool {
        self.start().and_then(|mut child| child.wait()).is_ok_and(|status| status.success())
    }
}
