//! What no step needs to wait for: a layer that will be exported is packed as soon as it is there, where the next step works is made, and
//! what a step's mounts leave is deleted.
//!
//! One thing at a time, and packing with low priority, so that it takes what steps leave of the machine. Whoever exports finds the
//! packed form, or waits for the rest of it, or packs what nobody came to: the bytes are the same.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use shale_cache::{LayerId, MapId, TmpDir};

use super::forms::Forms;
use crate::sandbox::sys::become_batch_job;
use crate::worker::Packing;

/// Layers of less content than this are packed when they are exported: it takes less time than to ask for it.
const WORTH_BYTES: u64 = 1 << 20;
/// Steps by which a thread that packs is nicer than others.
const NICENESS: i32 = 10;

/// What a layer is made into ahead of its export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A blob.
    Packed(Packing),
    /// The digest of its tar: the store keeps images without packing them.
    DiffId,
}

#[derive(Debug)]
enum Job {
    Pack(LayerId),
    Delete(TmpDir),
    Make(MapId),
}

/// Where work goes in.
#[derive(Debug)]
pub struct Ahead(Mutex<Sender<Job>>);

/// Where it comes out.
#[derive(Debug)]
pub struct Queue(Receiver<Job>);

/// A queue for one build. It ends when the first half is dropped.
pub fn queue() -> (Ahead, Queue) {
    let (sender, receiver) = channel();
    (Ahead(Mutex::new(sender)), Queue(receiver))
}

impl Ahead {
    /// Takes a layer of a step that just ran.
    pub(super) fn push(&self, layer: LayerId) {
        self.send(Job::Pack(layer));
    }

    /// Takes a directory that is not needed any more.
    pub(super) fn delete(&self, dir: TmpDir) {
        self.send(Job::Delete(dir));
    }

    /// Has a place made for the next step.
    pub(super) fn make_place(&self, map: MapId) {
        self.send(Job::Make(map));
    }

    fn send(&self, job: Job) {
        // Nobody listens where nobody could start the thread for it: then a directory is deleted by being dropped.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).send(job).ok();
    }
}

impl Queue {
    /// Does what comes until nothing more can come. What fails to be packed fails again, and is told, when it is exported; what
    /// cannot be deleted lies in `trash/` for the next build.
    pub fn work(self, forms: &Forms<'_>, wanted: Option<Wanted>) {
        become_batch_job();
        let mut threads = None;
        while let Ok(job) = self.0.recv() {
            let layer = match job {
                Job::Pack(layer) => layer,
                Job::Delete(dir) => {
                    let left: Vec<_> = dir.close().into_iter().collect();
                    drop(forms.remove(&left));
                    continue;
                }
                Job::Make(map) => {
                    forms.make_place(&map);
                    continue;
                }
            };
            let Some(wanted) = wanted.filter(|_| !forms.is_given_up()) else { continue };
            if !forms.content_bytes(&layer).is_ok_and(|bytes| bytes >= WORTH_BYTES) {
                continue;
            }
            // Threads of its own: those of other work are not to become slow.
            let threads = threads.get_or_insert_with(|| {
                let nice = |_| {
                    rustix::process::nice(NICENESS).ok();
                };
                rayon::ThreadPoolBuilder::new().thread_name(|_| "pack".into()).start_handler(nice).build()
            });
            let Ok(threads) = threads else { continue };
            threads.install(|| match wanted {
                Wanted::Packed(packing) => drop(forms.own_packed(&layer, packing)),
                Wanted::DiffId => drop(forms.own_diff_id(&layer, None)),
            });
        }
    }
}
