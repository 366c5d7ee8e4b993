//! Comparison with the recorded behaviour of BuildKit's frontend, where the corpus is at hand (see `SHALE_SHARED`).
//!
//! The corpus is not part of the repository: without it every test here says so and passes. What the language is, is tested from
//! our own tables in `tests/front_*.rs` and in the modules.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use shale::dockerfile::word::{self, Lexer};

/// The `cases` folder of the corpus: in `$SHALE_SHARED`, else beside the checkout.
fn corpus(test: &str) -> Option<PathBuf> {
    let shared =
        std::env::var_os("SHALE_SHARED").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let cases = shared.join("conformance/cases");
    if cases.is_dir() {
        return Some(cases);
    }
    println!("SKIP {test}: no conformance corpus at {} (SHALE_SHARED names its parent)", cases.display());
    None
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn table(cases: &std::path::Path, name: &str) -> Value {
    serde_json::from_str(&read(&cases.join("tables").join(name))).expect("a table is JSON")
}

fn lookup(env: &BTreeMap<String, String>) -> impl Fn(&str) -> Option<String> + '_ {
    |name| env.get(name).cloned()
}

/// Fails with every disagreement at once.
fn settle(what: &str, total: usize, wrong: &[String]) {
    println!("{what}: {} of {total} agree", total - wrong.len());
    assert!(total > 0, "{what}: the corpus holds nothing");
    assert!(wrong.is_empty(), "{what}: {} of {total} disagree:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn words_split_as_recorded() {
    let Some(cases) = corpus("words_split_as_recorded") else { return };
    let mut env = BTreeMap::new();
    let (mut total, mut wrong) = (0, Vec::new());
    for line in read(&cases.join("tables/wordsTest")).lines().filter(|l| !l.starts_with('#')) {
        if let Some(assignment) = line.strip_prefix("ENV ") {
            let (name, value) = assignment.trim_start().split_once('=').expect("NAME=value");
            env.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (input, expected) = line.split_once('|').expect("input | words");
        let got = word::expand_words(input.trim(), '\\', &lookup(&env)).map_or("error".to_owned(), |w| w.join(","));
        total += 1;
        if got != expected.trim_start_matches(' ') {
            wrong.push(format!("{input}: {got:?}, recorded {expected:?}"));
        }
    }
    settle("wordsTest", total, &wrong);
}

#[test]
fn variables_expand_as_recorded() {
    let Some(cases) = corpus("variables_expand_as_recorded") else { return };
    let env: BTreeMap<String, String> =
        [("PWD", "/home"), ("SHELL", "bash"), ("KOREAN", "한국어"), ("NULL", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let (mut total, mut wrong) = (0, Vec::new());
    for line in read(&cases.join("tables/envVarTest")).lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let fields: Vec<_> = line.trim().split('|').map(str::trim).collect();
        let [system, input, expected] = fields[..] else { panic!("three fields: {line}") };
        if system == "W" {
            continue;
        }
        let got = word::expand(input, '\\', &lookup(&env)).map_or("error".to_owned(), |e| e.text);
        total += 1;
        if got != expected {
            wrong.push(format!("{input}: {got:?}, recorded {expected:?}"));
        }
    }
    settle("envVarTest", total, &wrong);
}

#[test]
fn matches_are_reported_as_recorded() {
    let Some(cases) = corpus("matches_are_reported_as_recorded") else { return };
    let table = table(&cases, "buildkit-shell.json");
    let rows = table["tests"]["TestProcessWithMatches"]["tables"]["tc"].as_array().expect("rows");
    let names = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut wrong = Vec::new();
    for row in rows {
        let env = row["envs"].as_object().expect("envs").iter().map(|(k, v)| (k.clone(), v.as_str().expect("text").to_owned())).collect();
        let input = row["input"].as_str().expect("input");
        let problem = match (Lexer::new('\\').expand(input, &lookup(&env)), row["expectedErr"] == true) {
            (Err(_), true) => continue,
            (Ok(e), true) => format!("gave {:?}, recorded an error", e.text),
            (Err(e), false) => e.to_string(),
            (Ok(mut e), false) => {
                e.matched.sort();
                e.unmatched.sort();
                let (mut matched, mut unmatched) = (names(&row["matches"]), names(&row["unmatched"]));
                matched.sort();
                unmatched.sort();
                if (e.text.as_str(), &e.matched, &e.unmatched) == (row["expected"].as_str().expect("expected"), &matched, &unmatched) {
                    continue;
                }
                format!("{e:?}, recorded {row}")
            }
        };
        wrong.push(format!("{input}: {problem}"));
    }
    settle("TestProcessWithMatches", rows.len(), &wrong);
}
