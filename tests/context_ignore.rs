//! The ignore rules against our tables (`testdata/ignore`), moby's, and the definition of pruning.

#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]
#![expect(clippy::print_stderr, reason = "skips are for whoever runs the test")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use shale::source::ignore::{Ignore, read_patterns};

/// moby's tables: `SHALE_SHARED`, else `../shared` next to the repository. `None` says on stderr what is skipped.
fn shared_table(name: &str) -> Option<Value> {
    let root = std::env::var_os("SHALE_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join("conformance/cases/tables").join(name);
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("SKIP: conformance table {name}: no shared folder with the cases (SHALE_SHARED)");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}

/// Go's table asks with a trailing slash now and then, which the oldest of moby's three matchers passes to the pattern as it is.
fn without_slash(text: &str) -> &[u8] {
    text.strip_suffix('/').unwrap_or(text).as_bytes()
}

#[test]
fn moby_match_table() {
    let Some(json) = shared_table("patternmatcher.json") else { return };
    let rows = json["package_tables"]["matchTests"].as_array().unwrap();
    assert!(rows.len() >= 54);
    for row in rows {
        let (pattern, path) = (row["pattern"].as_str().unwrap(), row["s"].as_str().unwrap());
        match Ignore::from_patterns("t", [pattern]) {
            Err(_) => assert_eq!(row["err"], "ErrBadPattern", "{pattern}"),
            Ok(ignore) => {
                assert!(row["err"].is_null(), "{pattern}");
                assert_eq!(ignore.is_ignored(path.as_bytes()), row["match"].as_bool().unwrap(), "{pattern} {path}");
            }
        }
    }
}

#[test]
fn moby_matches_tables() {
    let Some(json) = shared_table("patternmatcher.json") else { return };
    let tables = &json["tests"]["TestMatches"]["tables"];
    let single = tables["tests"].as_array().unwrap();
    assert!(single.len() >= 68);
    for row in single {
        let (pattern, path) = (row["pattern"].as_str().unwrap(), row["text"].as_str().unwrap());
        if path == "/" {
            continue; // no path of a context
        }
        let ignore = Ignore::from_patterns("t", [pattern]).unwrap();
        assert_eq!(ignore.is_ignored(without_slash(path)), row["pass"].as_bool().unwrap(), "{pattern} {path}");
    }
    for row in tables["multiPatternTests"].as_array().unwrap() {
        let ignore = Ignore::from_patterns("t", strings(&row["patterns"])).unwrap();
        assert_eq!(ignore.is_ignored(row["text"].as_str().unwrap().as_bytes()), row["pass"].as_bool().unwrap(), "{row}");
    }
}

#[test]
fn moby_ignorefile_table() {
    let Some(json) = shared_table("ignorefile.json") else { return };
    let text = b"test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n!\n! ";
    let read: Vec<String> = read_patterns(text).into_iter().map(|(_, p)| String::from_utf8(p).unwrap()).collect();
    assert_eq!(read, strings(&json["tests"]["TestReadAll"]["tables"]["expected"]));
}

#[test]
fn own_tables() {
    let mut files = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/ignore")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        files += 1;
        let text = fs::read_to_string(&path).unwrap();
        let (_, rest) = text.split_once("-- ignore --\n").unwrap();
        let (patterns, paths) = rest.split_once("-- paths --\n").unwrap();
        let ignore = Ignore::parse("t", patterns.as_bytes()).unwrap();
        for line in paths.lines() {
            let (sign, subject) = line.split_once(' ').unwrap();
            let bytes = subject.as_bytes();
            let (got, want) = match sign {
                "-" => (ignore.is_ignored(bytes), true),
                "+" => (ignore.is_ignored(bytes), false),
                "p" => (ignore.can_prune_dir(bytes), true),
                "w" => (ignore.can_prune_dir(bytes), false),
                _ => panic!("{}: {line}", path.display()),
            };
            assert_eq!(got, want, "{}: {line}", path.display());
        }
    }
    assert!(files >= 7);
}

#[test]
fn line_ends_and_marks() {
    let read = read_patterns(b"\xef\xbb\xbf#c\r\n\xef\xbb\xbfa\r\n\tb \r\n");
    assert_eq!(read, [(2, b"\xef\xbb\xbfa".to_vec()), (3, b"b".to_vec())]);
}

/// Names and depths are few, so that patterns meet paths often.
fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![Just("a"), Just("b"), Just("*"), Just("**"), Just("a*"), Just("?"), Just("[ab]"), Just("**b"), Just("a**")];
    (any::<bool>(), prop::collection::vec(part, 1..4))
        .prop_map(|(bang, parts)| format!("{}{}", if bang { "!" } else { "" }, parts.join("/")))
}

fn all_paths() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut level = vec![String::new()];
    for _ in 0..4 {
        level = level
            .iter()
            .flat_map(|dir| ["a", "b", "ab"].map(|name| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }))
            .collect();
        all.extend(level.iter().cloned());
    }
    all
}

proptest! {
    /// A directory that may be skipped has nothing visible below it.
    #[test]
    fn pruning_is_sound(patterns in prop::collection::vec(pattern(), 1..5)) {
        let ignore = Ignore::from_patterns("t", patterns.iter().map(String::as_str)).unwrap();
        let paths = all_paths();
        for dir in &paths {
            if ignore.can_prune_dir(dir.as_bytes()) {
                let below = format!("{dir}/");
                for path in paths.iter().filter(|p| p.starts_with(&below)) {
                    prop_assert!(ignore.is_ignored(path.as_bytes()), "{patterns:?}: {dir} is pruned but {path} is visible");
                }
            }
        }
    }

    /// Any bytes are an ignore file or an error, never a panic.
    #[test]
    fn any_text_is_read(text in prop::collection::vec(prop_oneof![4 => prop::sample::select(b"ab*?[]\\!/.{}|^$()-:,12 \n#\xff".to_vec()), 1 => any::<u8>()], 0..40)) {
        if let Ok(ignore) = Ignore::parse("t", &text) {
            ignore.is_ignored(b"a/b");
            ignore.can_prune_dir(b"a");
        }
    }
}
