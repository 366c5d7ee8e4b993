//! Any text is a syntax tree or a list of errors, never a panic; what parses without errors is linted without one too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shale::dockerfile::{lint, parse};
use shale::span::SourceFile;

fuzz_target!(|text: &str| {
    let source = SourceFile::new("Dockerfile", text);
    let (tree, errors) = parse(&source);
    assert!(tree.is_some() || !errors.is_empty(), "neither a tree nor an error");
    if let Some(tree) = tree.filter(|_| errors.is_empty()) {
        drop(lint(&tree, &source));
    }
});
