//! Finds the conformance corpus: tables of other projects, which are not part of the repository.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so, and one that ran says how much it saw")]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The `cases` folder of the corpus: in `$SHALE_SHARED`, else beside the checkout.
pub(crate) fn find(test: &str) -> Option<PathBuf> {
    let shared =
        std::env::var_os("SHALE_SHARED").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let cases = shared.join("conformance/cases");
    if cases.is_dir() {
        return Some(cases);
    }
    println!("SKIP: {test}: no conformance corpus at {} (SHALE_SHARED names its parent)", cases.display());
    None
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fails with every disagreement at once.
pub(crate) fn settle(what: &str, total: usize, wrong: &[String]) {
    println!("{what}: {} of {total} agree", total - wrong.len());
    assert!(total > 0, "{what}: the corpus holds nothing");
    assert!(wrong.is_empty(), "{what}: {} of {total} disagree:\n{}", wrong.len(), wrong.join("\n"));
}
