//! Bytes of a damaged store are an index or an error; every entry of what is accepted can be read and found.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::tree::index::Index;

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = Index::from_bytes(bytes.to_vec()) else { return };
    for (at, entry) in index.iter().enumerate() {
        assert_eq!(index.find(&entry.path), Some(at));
        drop(index.names_of(at));
        drop(index.inline(&entry.path));
    }
});
