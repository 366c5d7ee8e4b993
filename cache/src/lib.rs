//! The store of shale: layers, step records, blobs and image names, as plain files that many processes share.
//!
//! It knows no Dockerfile. What it keeps, and where:
//!
//! ```text
//! <root>/                      0700, owned by the one user
//!   version                    "shale store 1"
//!   CACHEDIR.TAG               backup programs skip the directory
//!   lease  leases/<id>         what running builds rely on                                lease
//!   durable/<epoch>            until when the entries of a boot are on the disk           durable
//!   blobs/<algorithm>/<hex>    OCI content: configs, manifests, packed layers             blob
//!   blobs/made/<alg>-<hex>     its size and stamp
//!   layers/<LayerId>/index     the sorted index; its blake3 is the name                   layer
//!                    made      its size and stamp, and of what it was born with: map, DiffID
//!                    born/root/                    the unpacked form that it was born with
//!                    packed/<hash of PackKey>      blob, size, diff id, media type
//!                    diff/as-is, diff/clamp-<secs>  DiffID of its tar
//!                    fs/<MapId>/root/              an unpacked form that was made later
//!                               made               its stamp
//!   by-diff/<alg>-<hex>        DiffId → LayerId
//!   by-content/<hex>           ContentId → LayerId, of layers that were merged from others
//!   by-source/<hex>            words and ChainId → ListId, of what was selected from a step's files
//!   steps/<aa>/<CacheKey>      step records                                               step
//!   steps/last/runs-<0 to f>   the newest key of a step, by words, place, and words anywhere      runs
//!   lists/<ListId>             long parts of keys                                         list
//!   images/records/<alg>-<hex> what an image consists of                                  image
//!   images/names/<escaped>     reference → image id, and the image as it was then
//!   locks/<name>               flock; there only while held                               lock
//!   tmp/<id>/  tmp/<id>.lock   unfinished things of one process                           tmp
//!   trash/                     what is being deleted                                      remove
//!   mounts/<MapId>/<id>        kept here, written by others: RUN cache mounts,
//!   contexts/                  stat caches, git checkouts
//!   builds/<id>/record         what a build did; its logs are written by others           build
//!   gc                         what the last automatic collection found; its lock        policy
//!   hiding-key                 for hashes of values that look secret                      hiding
//! ```
//!
//! **Writing.** A file is written in `tmp/` and renamed to its place, so no reader ever sees half of one, and nobody locks to
//! read. Small files are *entries*: a line with kind, stamp and checksum, then JSON (`entry`). Nothing is fsynced; stamps and
//! marks tell what survived a power loss (`durable`):
//!
//! | what | torn | of another boot, without its mark |
//! |---|---|---|
//! | blob, index | size or hash tell | hashed again; kept if it is whole |
//! | unpacked form | – | dropped: there is nothing to check it against |
//! | record, packed, by-diff, by-content | checksum tells | dropped |
//! | list | hash tells | hash tells |
//! | by-source | checksum tells | kept: a ListId stands for itself |
//! | image and its names | checksum tells | kept; what they point to is checked |
//!
//! **Deleting.** Only [`Gc`] deletes what is still good, and nothing that a [`Lease`] covers or an image needs.

mod digest;
mod durable;
mod entry;
mod error;
mod key;
mod lock;
mod part;
mod store;
mod tmp;

mod ancestry;
mod blob;
mod build;
mod hiding;
mod image;
mod layer;
mod list;
mod runs;
mod step;

mod gc;
mod inventory;
mod last_use;
mod lease;
mod needed;
mod policy;
mod remove;
mod usage;
mod verify;

#[cfg(test)]
mod testing;

pub use blob::{BlobWriter, Blobs};
pub use build::{BuildRecord, BuildResult, BuildStep, Builds, Change, FileChange, Journal, OpenBuild, StepStatus};
pub use digest::{CacheKey, ChainId, ContentId, DiffId, DigestError, LayerId, ListId, OciDigest};
pub use durable::SyncJob;
pub use error::StoreError;
pub use gc::{Caps, Gc, ItemFilter, PruneOptions, PruneReport};
pub use hiding::HidingKey;
pub use image::{BlobRef, Built, ImageLayer, ImageRecord, Images, ImagesLock};
pub use inventory::{ImageUsage, Inventory, Item, ItemKind};
pub use key::{KEY_FORMAT, KeyParts, KeyValue};
pub use layer::{KnownLayer, LayerRoom, Layers, MapId, PackKey, Packed};
pub use lease::Lease;
pub use list::Lists;
pub use lock::{Patience, Waiting};
pub use policy::{Disk, Growth, Policy, Reason, Urgency};
pub use step::{KeyLock, LastRun, Lookup, Nearness, STEP_RECORD_VERSION, StepBase, StepRecord, StepSite, Steps};
pub use store::Store;
pub use tmp::TmpDir;
pub use usage::{MeasureMapped, tree_bytes};
pub use verify::{Damage, Findings, UnpackedForm};
