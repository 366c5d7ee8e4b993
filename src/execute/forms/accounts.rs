//! The users of a filesystem, for the commands that run in it.

use std::io::Read as _;
use std::sync::{Arc, Mutex};

use super::{Forms, lock};
use crate::execute::StepError;
use crate::execute::copy::Places;
use crate::execute::spool::Spool;
use crate::solve::snapshot::{LayerRef, Snapshot};
use crate::tree::accounts::{AccountFiles, Accounts, Owner, ProcessUser};
use crate::tree::view::View;

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
            _ => Arc::new(self.account_files(snapshot, &self.view(snapshot)?)?),
        };
        *lock(&self.accounts.0) = Some((Arc::clone(&snapshot.layers), Arc::clone(&files)));
        Ok(files.accounts().process(spec)?)
    }

    /// The owner of files under `--chown=SPEC`, or of directories under `USER SPEC`. `view` is the snapshot's, merged or not.
    pub fn owner(&self, snapshot: &Snapshot, view: &View, spec: &str) -> Result<Owner, StepError> {
        Ok(if Accounts::owner_needs_files(spec) {
            self.account_files(snapshot, view)?.accounts().owner(spec)
        } else {
            Accounts::default().owner(spec)
        })
    }

    fn account_files(&self, snapshot: &Snapshot, view: &View) -> Result<AccountFiles, StepError> {
        AccountFiles::of(view, |path| self.content(snapshot, path))
    }

    /// The content of a file that no index carries.
    fn content(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Vec<u8>, StepError> {
        let Some((layer, entry)) = self.view(snapshot)?.get(path) else { return Ok(Vec::new()) };
        let layer = &snapshot.layers[layer];
        let (mut places, mut spool) = (Places::default(), Spool::new(self.store));
        places.add_layer(self, layer, self.fs_if_needed(layer)?, vec![(path.to_vec(), entry.clone())], &mut spool)?;
        let Some(contents) = places.open_here()? else {
            return Ok(self.worker()?.read(places.source(), &[path.to_vec()])?.concat());
        };
        let mut bytes = Vec::new();
        let read = contents.open_any(&entry).and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(StepError::io("read", crate::layer::shown(path)))?;
        Ok(bytes)
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
