//! `store verify`: reads the whole store, says what is damaged and, if asked to, removes it.

use std::path::PathBuf;

use shale_cache::Damage;

use super::Failure;
use super::args::VerifyArgs;
use super::console::{print, warn};
use super::environment::Environment;
use super::image::{open_store, store_failure};
use crate::worker::Mapped;

/// `shale store verify`. Exit code 1 if anything is damaged, or stays so after a repair.
pub fn run(args: &VerifyArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let findings = store.verify().map_err(|error| store_failure(&error))?;
    let mut damage = findings.damage;
    let forms: Vec<(PathBuf, PathBuf)> = findings.unpacked.iter().map(|form| (form.root.clone(), form.index.clone())).collect();
    let mut mapped = Mapped::new(store.root());
    match mapped.compare(&forms) {
        Ok(differences) => {
            for (form, what) in findings.unpacked.iter().zip(differences) {
                damage.extend(what.map(|what| Damage { path: form.path.clone(), what, is_removable: true }));
            }
        }
        Err(error) => warn(&format!("{} unpacked layers were not read: {error}", forms.len())),
    }
    let lines: String = damage.iter().map(|damage| format!("{}: {}\n", damage.path.display(), damage.what)).collect();
    print(lines)?;
    print(format!("Checked: {} entries, {} unpacked layers\nDamaged: {}\n", findings.checked, forms.len(), damage.len()))?;
    if damage.is_empty() {
        return Ok(());
    }
    if !args.repair {
        return Err(Failure::Told);
    }
    let left = store.repair(&damage).map_err(|error| store_failure(&error))?;
    // Parts of removed trees may belong to mapped ids.
    let undeletable = store.reap().map_err(|error| store_failure(&error))?;
    if let Err(error) = mapped.remove(&undeletable) {
        warn(&format!("{} directories of mapped users stay: {error}", undeletable.len()));
    }
    print(format!("Removed: {}\n", damage.len() - left.len()))?;
    for damage in &left {
        warn(&damage.what);
    }
    if left.is_empty() { Ok(()) } else { Err(Failure::Told) }
}
