//! A layer from anybody is an index or an error. What is read can be checked again: its encoded form is an index too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::layer::compress::Decoder;
use shale::layer::read::index_of;
use shale::tree::index::Index;

fuzz_target!(|bytes: &[u8]| {
    let Ok(tar) = Decoder::new(std::io::Cursor::new(bytes.to_vec())) else { return };
    // A bomb is a matter of the store's free space, not of the reader: 16 MiB are enough to find a mistake in it.
    if let Ok(index) = index_of(std::io::Read::take(tar, 16 << 20)) {
        let again = Index::from_bytes(index.as_bytes().to_vec()).expect("an index that was just made is one");
        assert_eq!(again.layer_id(), index.layer_id());
    }
});
