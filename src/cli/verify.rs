//! `store verify`: reads the whole store, says what is damaged and, if asked to, removes it.

use std::path::PathBuf;

use shale_cache::Damage;

use super::Failure;
use super::args::VerifyArgs;
use super::console::{print, say, warn};
use super::environment::Environment;
use super::image::{open_store, store_failure};
use crate::tree::index::Index;
use crate::worker::Mapped;

const TAKE_AWAY: &str =
    "`shale store verify --repair` takes away what is damaged; builds make it again, and images are loaded or pulled again";
const GET_AGAIN: &str = "load, pull or build these images again, or remove them with `shale rmi`";

/// Whether the layer of an index needs more than that.
fn has_contents(index: Vec<u8>) -> bool {
    Index::from_bytes(index).is_ok_and(|index| index.has_contents())
}

/// `shale store verify`. Exit code 1 if anything is damaged, or stays so after a repair.
pub fn run(args: &VerifyArgs, environment: &Environment) -> Result<(), Failure> {
    let store = open_store(environment)?;
    let findings = store.verify(has_contents).map_err(|error| store_failure(&error))?;
    let mut damage = findings.damage;
    let forms: Vec<(PathBuf, PathBuf)> = findings.unpacked.iter().map(|form| (form.root.clone(), form.index.clone())).collect();
    let mut mapped = Mapped::new(store.root());
    let mut is_complete = true;
    match mapped.compare(&forms) {
        Ok(differences) => {
            for (form, what) in findings.unpacked.iter().zip(differences) {
                damage.extend(what.map(|what| Damage::removable(store.root(), form.path.clone(), what)));
            }
        }
        Err(error) => {
            warn(&format!("{} unpacked layers were not read: {error}", forms.len()));
            is_complete = false;
        }
    }
    let lines: String = damage.iter().map(|damage| format!("{}: {}\n", damage.path.display(), damage.what)).collect();
    print(lines)?;
    print(format!("Checked: {} entries, {} unpacked layers\nDamaged: {}\n", findings.checked, forms.len(), damage.len()))?;
    if damage.is_empty() {
        return if is_complete { Ok(()) } else { Err(Failure::Told) };
    }
    if !args.repair {
        let what = if damage.iter().any(|damage| damage.is_removable) { TAKE_AWAY } else { GET_AGAIN };
        say(&format!("hint: {what}\n"));
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
    if left.is_empty() {
        return if is_complete { Ok(()) } else { Err(Failure::Told) };
    }
    say(&format!("hint: {GET_AGAIN}\n"));
    Err(Failure::Told)
}
