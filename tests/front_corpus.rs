//! Comparison with the recorded behaviour of BuildKit's frontend, where the corpus is at hand (see `SHALE_SHARED`).
//!
//! The corpus is not part of the repository: without it every test here says so and passes. What the language is, is tested from
//! our own tables in `tests/front_*.rs` and in the modules.

mod corpus;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use shale::dockerfile::error::{ErrorKind, ParseError};
use shale::dockerfile::lint::{CheckOptions, StageFacts, find_rule, lint_stages};
use shale::dockerfile::parse::{Arguments, Node, nodes, parse};
use shale::dockerfile::word::{self, Lexer};
use shale::span::SourceFile;

use corpus::{json as json_of, read, settle};

fn lookup(env: &BTreeMap<String, String>) -> impl Fn(&str) -> Option<String> + '_ {
    |name| env.get(name).cloned()
}

#[test]
fn words_split_as_recorded() {
    let Some(cases) = corpus::find("words_split_as_recorded") else { return };
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
    let Some(cases) = corpus::find("variables_expand_as_recorded") else { return };
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
    let Some(cases) = corpus::find("matches_are_reported_as_recorded") else { return };
    let table = json_of(&cases.join("tables/buildkit-shell.json"));
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

/// A node in the form of the recording. The inner node of an `ONBUILD` has no lines there.
fn recorded_form(node: &Node, lines: (usize, usize)) -> Value {
    let mut form = json!({ "cmd": node.keyword.node.to_lowercase(), "start": lines.0, "end": lines.1 });
    let mut put = |key: &str, value: Value| {
        if value.as_array().is_none_or(|a| !a.is_empty()) {
            form[key] = value;
        }
    };
    put("flags", node.flags.iter().map(|f| f.node.clone()).collect());
    put("heredoc_names", node.heredocs.iter().map(|h| h.name.clone()).collect());
    put("heredocs", node.heredocs.iter().map(|h| h.raw.clone()).collect());
    if is_json(&node.arguments) {
        put("json", Value::Bool(true));
    }
    match &node.arguments {
        Arguments::Node(Some(inner)) => put("onbuild", recorded_form(inner, (0, 0))),
        arguments => put("args", flat(arguments).into_iter().map(Value::String).collect()),
    }
    form
}

fn is_json(arguments: &Arguments) -> bool {
    match arguments {
        Arguments::Words { json, .. } => *json,
        Arguments::Probe(Some((_, rest))) => is_json(rest),
        _ => false,
    }
}

fn flat(arguments: &Arguments) -> Vec<String> {
    match arguments {
        Arguments::Words { words, .. } => words.iter().map(|w| w.node.clone()).collect(),
        Arguments::Text(text) => text.iter().map(|t| t.node.clone()).collect(),
        Arguments::Pairs(pairs) => pairs
            .iter()
            .flat_map(|p| [p.key.node.clone(), p.value.node.clone(), if p.legacy { String::new() } else { "=".to_owned() }])
            .collect(),
        Arguments::Probe(Some((kind, rest))) => std::iter::once(kind.node.clone()).chain(flat(rest)).collect(),
        Arguments::Probe(None) | Arguments::Node(_) => Vec::new(),
        Arguments::Unknown => vec![String::new()],
    }
}

/// What BuildKit would say first: an error of splitting wherever it stands, else the first of an instruction.
fn first_error(errors: &[ParseError]) -> Option<&ParseError> {
    errors.iter().find(|e| !e.kind.is_about_instruction() && e.kind != ErrorKind::NoStageYet).or_else(|| errors.first())
}

#[test]
fn files_split_as_recorded() {
    let Some(cases) = corpus::find("files_split_as_recorded") else { return };
    let recorded = json_of(&cases.join("parser/nodes.json"));
    let recorded = recorded.as_object().expect("a map by path");
    let (mut total, mut wrong) = (0, Vec::new());
    for (path, expected) in recorded {
        // A part of the corpus is kept aside; its recordings are still in the list.
        let Ok(bytes) = std::fs::read(cases.join(path)) else {
            continue;
        };
        total += 1;
        let source = SourceFile::new("Dockerfile", String::from_utf8_lossy(&bytes));
        let (_, errors) = parse(&source);
        let said = first_error(&errors);
        if let Some(error) = expected["error"].as_str() {
            // The recordings are of BuildKit's parser, which says of an empty file what it says of one with comments only. Its frontend
            // has looked for empty files before that, and has a sentence of its own.
            let said = said.map(|e| if e.kind == ErrorKind::Empty { ErrorKind::NoInstructions.to_string() } else { e.sentence() });
            if said.as_deref() != Some(error) {
                wrong.push(format!("{path}: {said:?}, recorded {error}"));
            }
            continue;
        }
        let said = said.filter(|e| e.kind != ErrorKind::NoStages).map(ParseError::sentence);
        if said.as_deref() != expected["instructions_error"].as_str() {
            wrong.push(format!("{path}: {said:?}, recorded {}", expected["instructions_error"]));
        }
        let split = nodes(&source);
        let got: Vec<_> = split.nodes.iter().map(|n| recorded_form(n, source.lines_of(n.span))).collect();
        let nodes = expected["nodes"].as_array().expect("nodes");
        if got != *nodes {
            let differs = got.iter().zip(nodes).find(|(g, n)| g != n);
            wrong.push(format!("{path}: {} nodes, recorded {}; first difference {differs:#?}", got.len(), nodes.len()));
        }
    }
    assert!(total * 10 > recorded.len() * 9, "most files are there");
    settle(&format!("nodes.json, with {} files not at hand", recorded.len() - total), total, &wrong);
}

/// A node as the `result` files write it.
fn dump(node: &Node) -> String {
    let quoted = |words: Vec<String>| words.iter().map(|w| word::quote(w)).collect::<Vec<_>>().join(" ");
    let mut out = node.keyword.node.to_lowercase();
    if !node.flags.is_empty() {
        write!(out, " [{}]", quoted(node.flags.iter().map(|f| f.node.clone()).collect())).expect("a String takes every write");
    }
    match &node.arguments {
        Arguments::Node(Some(inner)) => write!(out, " ({})", dump(inner)).expect("a String takes every write"),
        arguments => {
            let arguments = flat(arguments);
            if !arguments.is_empty() {
                write!(out, " {}", quoted(arguments)).expect("a String takes every write");
            }
        }
    }
    out
}

#[test]
fn testfiles_dump_as_recorded() {
    let Some(cases) = corpus::find("testfiles_dump_as_recorded") else { return };
    let (mut total, mut wrong) = (0, Vec::new());
    for folder in std::fs::read_dir(cases.join("parser/testfiles")).expect("testfiles") {
        let folder = folder.expect("an entry").path();
        let source = SourceFile::new("Dockerfile", read(&folder.join("Dockerfile")));
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(").replace(" )", ")");
        let got: Vec<_> = nodes(&source).nodes.iter().map(|n| format!("({})", dump(n))).collect();
        total += 1;
        let (got, expected) = (squeeze(&got.join("\n")), squeeze(&read(&folder.join("result"))));
        if got != expected {
            wrong.push(format!("{}:\n{got}\nrecorded\n{expected}", folder.display()));
        }
    }
    settle("testfiles", total, &wrong);
}

/// The rules that `lint` finds.
const SYNTACTIC: [&str; 17] = [
    "StageNameCasing",
    "FromAsCasing",
    "NoEmptyContinuation",
    "ConsistentInstructionCasing",
    "DuplicateStageName",
    "ReservedStageName",
    "JSONArgsRecommended",
    "MaintainerDeprecated",
    "WorkdirRelativePath",
    "MultipleInstructionsDisallowed",
    "LegacyKeyValueFormat",
    "RedundantTargetPlatform",
    "SecretsUsedInArgOrEnv",
    "FromPlatformFlagConstDisallowed",
    "InvalidDefinitionDescription",
    "ExposeProtoCasing",
    "ExposeInvalidFormat",
];

#[test]
fn warnings_are_as_recorded() {
    let Some(cases) = corpus::find("warnings_are_as_recorded") else { return };
    let (mut total, mut wrong) = (0, Vec::new());
    for folder in std::fs::read_dir(cases.join("buildkit-lint")).expect("buildkit-lint") {
        let folder = folder.expect("an entry").path();
        let case = json_of(&folder.join("case.json"));
        let source = SourceFile::new("Dockerfile", read(&folder.join(case["dockerfile"].as_str().expect("dockerfile"))));
        let (Some(file), _) = parse(&source) else {
            wrong.push(format!("{}: does not parse", folder.display()));
            continue;
        };
        let given = case["options"]["build_args"]["BUILDKIT_DOCKERFILE_CHECK"].as_str();
        let options = given.map_or_else(|| CheckOptions::of(&file), CheckOptions::parse).expect("options");
        // The recording holds each warning once; what is not reachable is not in it.
        let mut got: Vec<_> = lint_stages(&file, &options, &StageFacts::of_text(&file))
            .into_iter()
            .map(|w| (source.line_of(w.span.expect("a place").start) as u64, w.rule.to_owned(), w.text))
            .collect();
        got.sort();
        let mut expected: Vec<_> = case["lint"]["warnings"]
            .as_array()
            .expect("warnings")
            .iter()
            .map(|w| {
                let text = |key: &str| w[key].as_str().expect("text").to_owned();
                let rule = find_rule(w["rule"].as_str().expect("rule")).expect("a rule that we know");
                assert_eq!((rule.description, rule.url()), (text("description").as_str(), text("url")));
                (w["line"].as_u64().expect("line"), text("rule"), text("detail"))
            })
            .filter(|(_, rule, _)| SYNTACTIC.contains(&rule.as_str()))
            .collect();
        expected.sort();
        total += 1;
        if got != expected {
            wrong.push(format!("{}:\n  {got:?}\n  recorded {expected:?}", folder.display()));
        }
    }
    settle("buildkit-lint", total, &wrong);
}

#[test]
fn examples_of_the_rules_warn() {
    let Some(cases) = corpus::find("examples_of_the_rules_warn") else { return };
    let (mut total, mut wrong) = (0, Vec::new());
    for example in json_of(&cases.join("tables/lint-docs.json")).as_array().expect("examples") {
        let text = |key: &str| example[key].as_str().expect("text");
        if !SYNTACTIC.contains(&text("rule")) {
            continue;
        }
        let source = SourceFile::new("Dockerfile", text("dockerfile"));
        let (Some(file), errors) = parse(&source) else { continue };
        let options = CheckOptions { experimental_all: true, ..CheckOptions::of(&file).expect("options") };
        // BuildKit itself does otherwise than its documentation says: an empty line does not part a comment from what follows,
        // and `ARG` has no legacy form.
        if ["VERSION=1\n", "ARG foo bar\n"].iter().any(|end| text("dockerfile").ends_with(end)) {
            continue;
        }
        total += 1;
        let warns = lint_stages(&file, &options, &StageFacts::of_text(&file)).iter().any(|w| w.rule == text("rule"));
        if warns != (text("kind") == "bad") {
            wrong.push(format!("{example}: warns: {warns} {errors:?}"));
        }
    }
    settle("lint-docs.json", total, &wrong);
}
