//! Things to put into a store under test.

use std::path::{Path, PathBuf};

use crate::{ContentId, KeyParts, KnownLayer, LayerId, MapId, STEP_RECORD_VERSION, StepRecord, StepSite, Store};

/// Puts an index of one byte.
pub(crate) fn index(store: &Store, byte: u8) -> LayerId {
    store.layers().put_index(&[byte]).expect("an index")
}

pub(crate) fn map() -> MapId {
    MapId("map-1".to_owned())
}

pub(crate) fn known(layer: LayerId) -> KnownLayer {
    KnownLayer { layer }
}

/// Makes a directory with a file in it.
pub(crate) fn tree(parent: &Path, name: &str) -> PathBuf {
    let path = parent.join(name);
    std::fs::create_dir(&path).expect("a directory");
    std::fs::write(path.join("file"), name).expect("a file");
    path
}

/// A record whose key depends on the number.
pub(crate) fn record(layer: LayerId, number: u8) -> StepRecord {
    let mut parts = KeyParts::new("run");
    parts.push_text("argv", format!("make {number}"));
    StepRecord {
        version: STEP_RECORD_VERSION,
        key: parts.key(),
        parts,
        layer,
        content: ContentId::from_bytes([number; 32]),
        created_secs: 1_700_000_000,
        created_nanos: 5,
        cost_ms: 100,
        site: StepSite {
            context: "/src".to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            stage: "0".to_owned(),
            ordinal: 2,
            platform: "linux/amd64".to_owned(),
            words: String::new(),
        },
        base: None,
    }
}
