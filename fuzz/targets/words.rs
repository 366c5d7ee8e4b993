//! Expanding any word gives a text or an error; splitting gives words that lie inside of what expanding gives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::dockerfile::word::{expand, expand_display, expand_raw, expand_words};

fuzz_target!(|text: &str| {
    let env = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some(String::new()),
        _ => Some(format!("a {name} \\\" b")),
    };
    for escape in ['\\', '`'] {
        let whole = expand(text, escape, &env);
        let words = expand_words(text, escape, &env);
        assert_eq!(whole.is_ok(), words.is_ok(), "one of the two ways refuses the word");
        drop(expand_display(text, escape, &env));
    }
    drop(expand_raw(text, &env));
});
