//! Opening a store, and the handle to it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Access, FlockOperation};
use rustix::io::Errno;

use crate::blob::Blobs;
use crate::build::{Builds, holds_builds};
use crate::digest::OciDigest;
use crate::durable::{Durability, SyncJob, current_epoch};
use crate::entry::is_absent;
use crate::error::StoreError;
use crate::gc::Gc;
use crate::hiding::HidingKey;
use crate::image::Images;
use crate::inventory::Inventory;
use crate::layer::Layers;
use crate::lease::{Lease, Leased};
use crate::list::Lists;
use crate::lock::Leftover;
use crate::part::Parts;
use crate::policy::Growth;
use crate::runs::Known;
use crate::step::Steps;
use crate::tmp::{Scratch, TmpDir, make_dir, make_dirs, names_in, rename_dir};
use crate::usage::MeasureMapped;
use crate::verify::{self, Damage, Findings};

/// The version of the layout. Raise it when an older shale must not touch the store.
const VERSION: &str = "shale store 1";
const CACHEDIR_TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# The store of shale, an image builder. See https://bford.info/cachedir/\n";
const DIRECTORIES: &[&str] = &[
    "blobs",
    "builds",
    "by-content",
    "by-diff",
    "by-source",
    "contexts",
    "durable",
    "images",
    "layers",
    "leases",
    "lists",
    "locks",
    "mounts",
    "steps",
    "tmp",
    "trash",
];

/// A handle to a store. Clones share it; threads and processes may use one store at the same time.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in a directory, and makes it where there is none.
    ///
    /// Refuses a store of another user or of an unknown version, and a directory that holds something else.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_in_epoch(root, current_epoch())
    }

    /// Opens a store that is there, and makes nothing where it is not: for who comes behind a build, after which the store may be deleted.
    pub fn open_existing(root: &Path) -> Result<Self, StoreError> {
        if is_complete(root)? { Self::open(root) } else { Err(StoreError::io("open the store", root, std::io::ErrorKind::NotFound)) }
    }

    /// Opens a store as if in a given boot.
    pub(crate) fn open_in_epoch(root: &Path, epoch: String) -> Result<Self, StoreError> {
        must_be_text(root)?;
        make_dirs(root).map_err(|error| StoreError::io("create the store", root, error))?;
        let root = root.canonicalize().map_err(|error| StoreError::io("open the store", root, error))?;
        must_be_text(&root)?;
        let is_read_only = !check_access(&root)?;
        if !is_read_only {
            prepare(&root)?;
        } else if !read_version(&root)? {
            return Err(StoreError::io("write the store", &root, std::io::ErrorKind::PermissionDenied));
        }
        let inner = Inner {
            root,
            durability: Durability::new(epoch),
            scratch: OnceLock::new(),
            scratch_making: Mutex::new(()),
            has_left: AtomicBool::new(false),
            leaves_scratch: AtomicBool::new(false),
            leased: Mutex::default(),
            runs: Known::default(),
            is_read_only,
            survivors: Mutex::default(),
            growth: Growth::default(),
            leftover: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same store as one that cannot be written.
    #[cfg(test)]
    pub(crate) fn into_read_only(mut self) -> Self {
        Arc::get_mut(&mut self.inner).expect("nobody else has it").is_read_only = true;
        self
    }

    /// The store's directory, as an absolute path without symbolic links.
    pub fn root(&self) -> &Path {
        self.inner.root()
    }

    /// OCI content by digest.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs::new(&self.inner)
    }

    /// Layers in their forms.
    pub fn layers(&self) -> Layers<'_> {
        Layers::new(&self.inner)
    }

    /// The records of what steps made.
    pub fn steps(&self) -> Steps<'_> {
        Steps::new(&self.inner)
    }

    /// Long parts of keys.
    pub fn lists(&self) -> Lists<'_> {
        Lists::new(&self.inner)
    }

    /// What builds did.
    pub fn builds(&self) -> Builds<'_> {
        Builds::new(&self.inner)
    }

    /// The key under which values that look secret are hashed; made at the first call.
    pub fn hiding_key(&self) -> Result<HidingKey, StoreError> {
        HidingKey::of(&self.inner)
    }

    /// Images and their names.
    pub fn images(&self) -> Images<'_> {
        Images::new(&self.inner)
    }

    /// How much this process has written. Blobs count by themselves; of the rest others tell.
    pub fn growth(&self) -> &Growth {
        &self.inner.growth
    }

    /// Deleting what is still good.
    pub fn gc(&self) -> Gc<'_> {
        Gc::new(&self.inner)
    }

    /// Takes a lease: what this process looks up or makes from now on stays until it is dropped. Every build, load and save
    /// holds one; whoever writes gets one by itself, for as long as the store is open.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Lease::take(&self.inner)
    }

    /// Says that something below the root, which the store does not look up itself, is used by this process until its lease ends.
    /// To be called before it is looked whether it is there.
    pub fn rely_on(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.strip_prefix(self.root()).unwrap_or(path).display().to_string();
        self.inner.rely_on_file(name, path)
    }

    /// Whether the store is on a read-only file system or may not be written: then it can be read only.
    pub fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    /// Refuses to go on if the store is read-only: for callers that know best what they are about to write. `wanted` as in
    /// [`StoreError::ReadOnly`].
    pub fn require_writable(&self, wanted: &str) -> Result<(), StoreError> {
        self.inner.require_writable(|| wanted.to_owned())
    }

    /// Makes a fresh directory in `tmp/`, which the next process can tell to be dead when this one is.
    pub fn tmp(&self) -> Result<TmpDir, StoreError> {
        TmpDir::new(&self.inner)
    }

    /// Deletes what dead processes left in `tmp/`, `locks/` and `trash/`. To be called at the start of every build: cheap
    /// when nothing is there. Returns the paths in `trash/` with files of other ids, for a worker to delete.
    pub fn reap(&self) -> Result<Vec<PathBuf>, StoreError> {
        self.inner.reap().map(|(_, undeletable)| undeletable)
    }

    /// Whether the parts of the disk are known that builds are to use by turns.
    pub fn has_parts(&self) -> bool {
        Parts::of(&self.inner.root).are_found()
    }

    /// Finds them, once for a store: some hundredths of a second that no build should wait for. Nothing but time is lost without it.
    pub fn find_parts(&self, is_unwanted: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let spare = self.tmp()?;
        let found = Parts::of(&self.inner.root).find(spare.path(), is_unwanted);
        spare.leave();
        found
    }

    /// If something was [left](TmpDir::leave) for the end: says that somebody will call [`Self::reap`] after it, so that closing this store
    /// need not delete it. Whether that is so.
    pub fn leave_scratch(&self) -> bool {
        let has_left = self.inner.has_left.load(Ordering::Relaxed);
        self.inner.leaves_scratch.store(has_left, Ordering::Relaxed);
        has_left
    }

    /// Moves a file or tree of the store out of the way, for the next [`Self::reap`]. Returns where it is.
    pub fn move_to_trash(&self, path: &Path) -> Result<PathBuf, StoreError> {
        self.inner.move_to_trash(path)
    }

    /// Makes what was committed survive a power loss. Does nothing, and returns `false`, if this process committed nothing since.
    pub fn sync_after_commit(&self) -> Result<bool, StoreError> {
        self.take_sync_job().map_or(Ok(false), |job| job.run().map(|()| true))
    }

    /// What makes the commits of this process survive a power loss: to be run at the end of every build, a failed one too, after
    /// everything that the user waits for, by this process or another one. `None` if nothing was committed since the last call.
    pub fn take_sync_job(&self) -> Option<SyncJob> {
        self.inner.durability.take_job(self.inner.root())
    }

    /// Reads everything but unpacked forms and says what is damaged. `has_contents` says of an index whether its layer has files with
    /// contents: one that has none is whole without any form.
    pub fn verify(&self, has_contents: impl Fn(Vec<u8>) -> bool) -> Result<Findings, StoreError> {
        verify::verify(&self.inner, &has_contents)
    }

    /// Removes damaged things, so that they are made again when they are needed. Returns what had to stay: what running builds use, and
    /// images that lack something.
    pub fn repair(&self, damage: &[Damage]) -> Result<Vec<Damage>, StoreError> {
        verify::repair(&self.inner, damage)
    }

    /// Everything that the store holds, with what it takes.
    pub fn inventory(&self, mapped: &mut MeasureMapped<'_>) -> Result<Inventory, StoreError> {
        Inventory::of(&self.inner, mapped)
    }
}

/// What all handles of one opened store share.
#[derive(Debug)]
pub(crate) struct Inner {
    root: PathBuf,
    pub(crate) durability: Durability,
    scratch: OnceLock<Scratch>,
    scratch_making: Mutex<()>,
    /// Whether something was left in `scratch` for the end.
    pub(crate) has_left: AtomicBool,
    /// Whether the end leaves `scratch` to others.
    leaves_scratch: AtomicBool,
    pub(crate) leased: Mutex<Leased>,
    pub(crate) runs: Known,
    is_read_only: bool,
    /// Blobs of another boot that were read and are whole, where that cannot be noted.
    pub(crate) survivors: Mutex<BTreeSet<OciDigest>>,
    pub(crate) growth: Growth,
    /// Of the locks of steps.
    pub(crate) leftover: Arc<Leftover>,
}

impl Inner {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    pub(crate) fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    pub(crate) fn lease_path(&self) -> PathBuf {
        self.root.join("lease")
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    pub(crate) fn require_writable(&self, wanted: impl FnOnce() -> String) -> Result<(), StoreError> {
        if self.is_read_only { Err(StoreError::ReadOnly { path: self.root.clone(), wanted: wanted() }) } else { Ok(()) }
    }

    /// This process's directory in `tmp/`, made at the first call: a build that only hits makes none.
    pub(crate) fn scratch(&self) -> Result<&Scratch, StoreError> {
        if let Some(scratch) = self.scratch.get() {
            return Ok(scratch);
        }
        self.require_writable(|| "make a file in tmp/".into())?;
        let _making = self.scratch_making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scratch) = self.scratch.get() {
            return Ok(scratch);
        }
        // What it makes must not be deleted before somebody says what it is for.
        self.begin_lease()?;
        let fresh = Scratch::new(&self.tmp(), Parts::of(&self.root))?;
        Ok(self.scratch.get_or_init(|| fresh))
    }

    /// Writes a file in `tmp/` and renames it to its place.
    pub(crate) fn replace_file(&self, to: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), StoreError> {
        self.require_writable(|| format!("write {}", to.strip_prefix(&self.root).unwrap_or(to).display()))?;
        let (mut file, from) = self.scratch()?.file()?;
        let written = write(&mut file).and_then(|()| rename_dir(&from, to));
        written.map_err(|error| {
            drop(std::fs::remove_file(&from));
            StoreError::io("write", to, error)
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without its lock it is anybody's to delete.
        if let Some(scratch) = self.scratch.take()
            && !*self.leaves_scratch.get_mut()
        {
            self.discard(scratch.path());
        }
    }
}

/// Refuses a store of another user. Returns whether it can be written.
fn check_access(root: &Path) -> Result<bool, StoreError> {
    let meta = std::fs::metadata(root).map_err(|error| StoreError::io("open the store", root, error))?;
    let uid = rustix::process::geteuid().as_raw();
    if meta.uid() != uid {
        return Err(StoreError::ForeignOwner { path: root.to_owned(), owner: meta.uid(), uid });
    }
    rustix::fs::access(root, Access::READ_OK | Access::EXEC_OK).map_err(|error| StoreError::io("read the store", root, error))?;
    match rustix::fs::access(root, Access::WRITE_OK) {
        Ok(()) => Ok(true),
        Err(Errno::ROFS | Errno::ACCESS) => Ok(false),
        Err(error) => Err(StoreError::io("write the store", root, error)),
    }
}

/// Checks the version, and makes what is missing.
fn prepare(root: &Path) -> Result<(), StoreError> {
    if is_complete(root)? {
        return Ok(());
    }
    let dir = File::open(root).map_err(|error| StoreError::io("open the store", root, error))?;
    // Best effort, for some network file systems cannot lock a directory: only two that start a new store at once need it.
    let _ = rustix::fs::flock(&dir, FlockOperation::LockExclusive);
    let made = make_layout(root);
    let _ = rustix::fs::flock(&dir, FlockOperation::Unlock);
    made
}

/// Paths in the store are told to other processes, and to people, as text.
fn must_be_text(root: &Path) -> Result<(), StoreError> {
    let refused =
        || StoreError::io("use as the store", root, std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not valid UTF-8"));
    if root.to_str().is_some() { Ok(()) } else { Err(refused()) }
}

/// CACHEDIR.TAG is written last, so a store that has it has everything; a copy of one may lack what was empty, and without this one
/// directory nothing would survive a power loss.
fn is_complete(root: &Path) -> Result<bool, StoreError> {
    Ok(read_version(root)? && root.join("CACHEDIR.TAG").exists() && root.join("durable").is_dir())
}

fn make_layout(root: &Path) -> Result<(), StoreError> {
    if !read_version(root)? {
        // A volume's own lost+found is no sign of somebody else's data, nor is what a process that was still building or collecting wrote
        // while the store was deleted; anything else is, and reap() would delete in its tmp/.
        let is_cut_off = root.join("version").exists();
        let is_foreign = |name: &String| match name.as_str() {
            "lost+found" | "version.new" | "gc" | "lease" => false,
            "version" | "CACHEDIR.TAG" | "hiding-key" => !is_cut_off,
            "builds" if holds_builds(&root.join("builds")) => false,
            name => !(is_cut_off && DIRECTORIES.contains(&name)),
        };
        if let Some(found) = names_in(root)?.into_iter().filter(is_foreign).min() {
            return Err(StoreError::NotAStore { path: root.to_owned(), found });
        }
        write_in_root(root, "version", &format!("{VERSION}\n"))?;
    }
    for name in DIRECTORIES {
        let path = root.join(name);
        if !path.is_dir() {
            make_dir(&path)?;
        }
    }
    write_in_root(root, "CACHEDIR.TAG", CACHEDIR_TAG)
}

/// Whether there is a version file; an error if it names another version.
fn read_version(root: &Path) -> Result<bool, StoreError> {
    let path = root.join("version");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim_end() == VERSION => Ok(true),
        // A power loss in the first seconds of a store can leave nothing of it.
        Ok(text) if text.trim_matches('\0').is_empty() => Ok(false),
        Ok(text) => {
            let found = text.trim_end().chars().take(80).collect();
            Err(StoreError::Version { path: root.to_owned(), found, supported: VERSION.to_owned() })
        }
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(StoreError::io("read", &path, error)),
    }
}

fn write_in_root(root: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    let (fresh, path) = (root.join("version.new"), root.join(name));
    std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path)).map_err(|error| StoreError::io("write", &path, error))
}
