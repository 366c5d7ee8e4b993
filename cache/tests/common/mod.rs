//! Things that several test programs put into stores.
#![allow(dead_code, unreachable_pub, reason = "each test program uses some of it")]

use std::path::{Path, PathBuf};

use shale_cache::{ContentId, KeyParts, KnownLayer, LayerId, MapId, STEP_RECORD_VERSION, StepRecord, StepSite, Store};

pub fn map() -> MapId {
    MapId("map-1".to_owned())
}

pub fn site(ordinal: usize) -> StepSite {
    StepSite {
        context: "/src".to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        stage: "0".to_owned(),
        ordinal,
        words: String::new(),
        platform: "linux/amd64".to_owned(),
    }
}

/// A record whose key depends on the command.
pub fn record(layer: LayerId, command: &str) -> StepRecord {
    let mut parts = KeyParts::new("run");
    parts.push_text("argv", command);
    StepRecord {
        version: STEP_RECORD_VERSION,
        key: parts.key(),
        parts,
        layer,
        content: ContentId::from_bytes([9; 32]),
        created_secs: 1_700_000_000,
        created_nanos: 5,
        cost_ms: 100,
        site: site(2),
        base: None,
    }
}

pub fn known(layer: LayerId) -> KnownLayer {
    KnownLayer { layer }
}

/// Makes a directory with a file in it.
pub fn tree(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    std::fs::create_dir(&path).expect("a directory");
    std::fs::write(path.join("file"), name).expect("a file");
    path
}

/// All files below a directory, relative and sorted.
pub fn files(root: &Path) -> Vec<String> {
    let (mut out, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else {
                out.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    out.sort();
    out
}

pub fn open(root: &Path) -> Store {
    Store::open(root).expect("a store")
}
