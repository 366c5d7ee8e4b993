//! How much space the parts of a store take.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::entry::is_absent;
use crate::error::StoreError;
use crate::store::Inner;
use crate::tmp::names_in;

/// Allocated bytes, by part of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Configs, manifests and packed layers.
    pub blobs_bytes: u64,
    /// Indexes of layers and the notes about their packed forms.
    pub indexes_bytes: u64,
    /// Unpacked forms of layers.
    pub unpacked_bytes: u64,
    /// Step records, lists, pointers to layers, stat caches.
    pub records_bytes: u64,
    /// Image records and names.
    pub images_bytes: u64,
    /// RUN cache mounts.
    pub mounts_bytes: u64,
    /// Records and logs of builds.
    pub builds_bytes: u64,
    /// What is being made or deleted.
    pub transient_bytes: u64,
    /// Directories that this user cannot look into, for they belong to mapped ids. What is in them is not counted.
    pub unreadable_dirs: u64,
}

impl Usage {
    /// All of it together.
    pub fn total_bytes(&self) -> u64 {
        self.blobs_bytes
            + self.indexes_bytes
            + self.unpacked_bytes
            + self.records_bytes
            + self.images_bytes
            + self.mounts_bytes
            + self.builds_bytes
            + self.transient_bytes
    }

    pub(crate) fn of(store: &Inner) -> Result<Self, StoreError> {
        let root = store.root();
        let mut walk = Walk { unpacked: Vec::new(), seen: HashSet::new(), unreadable_dirs: 0 };
        let mut by_name = BTreeMap::new();
        for name in names_in(root)? {
            let path = root.join(&name);
            by_name.insert(name, walk.bytes_of(&path)?);
        }
        let mut take = |names: &[&str]| names.iter().filter_map(|name| by_name.remove(*name)).sum();
        let mut usage = Self {
            blobs_bytes: take(&["blobs"]),
            indexes_bytes: take(&["layers"]),
            unpacked_bytes: 0,
            records_bytes: take(&["steps", "lists", "by-diff", "by-content", "contexts"]),
            images_bytes: take(&["images"]),
            mounts_bytes: take(&["mounts"]),
            builds_bytes: take(&["builds"]),
            transient_bytes: take(&["tmp", "trash"]),
            unreadable_dirs: 0,
        };
        for path in std::mem::take(&mut walk.unpacked) {
            usage.unpacked_bytes += walk.bytes_of(&path)?;
        }
        usage.unreadable_dirs = walk.unreadable_dirs;
        Ok(usage)
    }
}

struct Walk {
    /// Unpacked forms met on the way, left for a count of their own.
    unpacked: Vec<PathBuf>,
    /// Files with several names that have been counted.
    seen: HashSet<(u64, u64)>,
    unreadable_dirs: u64,
}

impl Walk {
    fn bytes_of(&mut self, top: &Path) -> Result<u64, StoreError> {
        let (mut bytes, mut todo) = (0, vec![top.to_owned()]);
        while let Some(path) = todo.pop() {
            let meta = match std::fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // Other processes make and delete while this one counts.
                Err(error) if is_absent(&error) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.unreadable_dirs += 1;
                    continue;
                }
                Err(error) => return Err(StoreError::io("stat", &path, error)),
            };
            if meta.is_dir() || meta.nlink() == 1 || self.seen.insert((meta.dev(), meta.ino())) {
                bytes += meta.blocks() * 512;
            }
            if meta.is_dir() {
                self.push_children(top, &path, &mut todo)?;
            }
        }
        Ok(bytes)
    }

    fn push_children(&mut self, top: &Path, dir: &Path, todo: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        let is_layers = top.file_name().is_some_and(|name| name == "layers");
        match std::fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(|error| StoreError::io("list", dir, error))?.path();
                    // layers/<id>/fs
                    let is_fs = is_layers && path.file_name().is_some_and(|name| name == "fs") && dir.parent() == Some(top);
                    if is_fs { self.unpacked.push(path) } else { todo.push(path) }
                }
                Ok(())
            }
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.unreadable_dirs += 1;
                Ok(())
            }
            Err(error) => Err(StoreError::io("list", dir, error)),
        }
    }
}
