//! Patterns of an ignore file against a path: reading them ends, asking about a path ends, and a directory is pruned only if nothing below it is kept.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::source::ignore::Ignore;

fuzz_target!(|input: (&[u8], &str)| {
    let (file, path) = input;
    let Ok(ignore) = Ignore::parse(".dockerignore", file) else { return };
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let mut pruned = false;
    for end in 1..=parts.len() {
        let path = parts[..end].join("/");
        assert!(!pruned || ignore.is_ignored(path.as_bytes()), "{path:?} is kept below a directory that is not read");
        pruned = pruned || ignore.can_prune_dir(path.as_bytes());
    }
});
