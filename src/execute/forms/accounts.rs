//! The users of a filesystem, for the commands that run in it.

use std::sync::{Arc, Mutex};

use super::{Forms, lock};
use crate::execute::StepError;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::tree::accounts::{AccountFiles, ProcessUser};

/// The files that the last step asked for, and the layers that they were found in.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<(Arc<[LayerRef]>, Arc<AccountFiles>)>>);

impl Forms<'_> {
    /// The user that a command runs as under `USER spec`.
    pub fn process_user(&self, snapshot: &Snapshot, spec: &str) -> Result<ProcessUser, StepError> {
        let known = lock(&self.accounts.0).clone();
        // A step looks at the layer of the one before it, and not for two files in each layer of a high stack.
        let files = match known {
            Some((layers, files)) if self.stay(&layers, &files, snapshot)? => files,
            _ => Arc::new(AccountFiles::of(&self.view(snapshot)?)),
        };
        *lock(&self.accounts.0) = Some((Arc::clone(&snapshot.layers), Arc::clone(&files)));
        Ok(files.accounts().process(spec)?)
    }

    /// Whether files that were found in `layers` are those of a filesystem that stands on them.
    fn stay(&self, layers: &[LayerRef], files: &AccountFiles, snapshot: &Snapshot) -> Result<bool, StepError> {
        let Some(above) = snapshot.layers.strip_prefix(layers) else { return Ok(false) };
        for layer in above {
            if !matches!(layer, LayerRef::Own { .. }) || !files.stay_under(self.index(layer)?.as_ref()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
