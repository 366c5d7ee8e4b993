//! Where the command of a RUN works, and where its layer comes to be.
//!
//! On some file systems a directory costs as much as ten files. A place has eight, so each is made while the step before runs.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shale_cache::{LayerRoom, MapId, Store, TmpDir};

use super::StepError;

/// As [`RunRequest::tmp`](crate::worker::RunRequest::tmp) wants it: it is what a step sees of `/`.
const MODE: u32 = 0o755;

/// Directories for one step.
#[derive(Debug)]
pub struct Place {
    /// For what the step has mounted and writes.
    tmp: TmpDir,
    /// For its layer, until there is one.
    pub(super) layer: Option<LayerRoom>,
}

impl Place {
    /// Makes it in the store's `tmp/`.
    pub(super) fn make(store: &Store, map: &MapId) -> Result<Self, StepError> {
        let tmp = store.tmp()?;
        for name in ["upper", "work"] {
            let dir = tmp.path().join(name);
            let made = DirBuilder::new().mode(MODE).create(&dir);
            // Our umask may have taken something away.
            made.and_then(|()| std::fs::set_permissions(&dir, Permissions::from_mode(MODE)))
                .map_err(StepError::io("make the directory", &dir))?;
        }
        Ok(Self { tmp, layer: Some(store.layers().room(map)?) })
    }

    pub(super) fn path(&self) -> &Path {
        self.tmp.path()
    }

    /// Whether what the step wrote is still there.
    pub(super) fn holds_changes(&self) -> bool {
        self.path().join("upper").exists()
    }

    /// Deletes it now. Returns where in `trash/` the rest of it is, if files of other ids are in it.
    pub(super) fn close(self) -> Option<PathBuf> {
        self.tmp.close()
    }
}
