//! Where the command of a RUN works, and where its layer comes to be.
//!
//! On some file systems a directory costs as much as ten files. A place has four, so each is made while the step before runs.

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
    /// For what the step has mounted, and the overlay's own work.
    tmp: TmpDir,
    /// For its changes, which become a layer where they are.
    layer: LayerRoom,
}

impl Place {
    /// Makes it in the store's `tmp/`.
    pub(super) fn make(store: &Store, map: &MapId) -> Result<Self, StepError> {
        let place = Self { tmp: store.tmp()?, layer: store.layers().room(map)? };
        for dir in [place.upper(), place.path().join("work")] {
            let made = DirBuilder::new().mode(MODE).create(&dir);
            // Our umask may have taken something away.
            made.and_then(|()| std::fs::set_permissions(&dir, Permissions::from_mode(MODE)))
                .map_err(StepError::io("make the directory", &dir))?;
        }
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        self.tmp.path()
    }

    /// Where the changes go: [`RunRequest::upper`](crate::worker::RunRequest::upper).
    pub(super) fn upper(&self) -> PathBuf {
        self.layer.root()
    }

    /// The changes, and the rest, which nobody needs.
    pub(super) fn apart(self) -> (LayerRoom, TmpDir) {
        (self.layer, self.tmp)
    }

    /// Deletes it now. Returns where in `trash/` the rest of it is, if files of other ids are in it.
    pub(super) fn close(self) -> Vec<PathBuf> {
        [self.layer.close(), self.tmp.close()].into_iter().flatten().collect()
    }
}
