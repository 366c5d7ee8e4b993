//! The tables of BuildKit's parser and instruction tests, where the corpus is at hand.

mod corpus;

use serde_json::{Value, json};
use shale::dockerfile::ast::{CommandLine, Copy, InstructionKind};
use shale::dockerfile::parse::{Arguments, nodes, parse};
use shale::dockerfile::syntax::{heredoc_word, heredoc_words};
use shale::span::SourceFile;

use corpus::{json as json_of, settle};

fn strings(value: &Value) -> Vec<String> {
    value.as_array().map(|a| a.iter().map(|s| s.as_str().expect("text").to_owned()).collect()).unwrap_or_default()
}

/// The arguments of the only instruction.
fn arguments(text: &str) -> Result<Arguments, String> {
    let mut split = nodes(&SourceFile::new("Dockerfile", text));
    match split.errors.first() {
        Some(error) => Err(error.to_string()),
        None => Ok(split.nodes.remove(0).arguments),
    }
}

#[test]
fn json_arrays() {
    let Some(cases) = corpus::find("json_arrays") else { return };
    let tables = &json_of(&cases.join("tables/buildkit-parser.json"))["package_tables"];
    let (mut total, mut wrong) = (0, Vec::new());
    for (array, expected) in tables["validJSONArraysOfStrings"].as_object().expect("rows") {
        total += 1;
        match arguments(&format!("RUN {array}")) {
            Ok(Arguments::Words { words, json: true }) if words.iter().map(|w| &w.node).eq(&strings(expected)) => {}
            other => wrong.push(format!("{array}: {other:?}")),
        }
    }
    for array in strings(&tables["invalidJSONArraysOfStrings"]) {
        total += 1;
        match arguments(&format!("RUN {array}")) {
            Err(error) if error.starts_with("when using JSON array syntax") => {}
            other => wrong.push(format!("{array}: {other:?}")),
        }
    }
    settle("JSON arrays", total, &wrong);
}

#[test]
fn heredoc_openings() {
    let Some(cases) = corpus::find("heredoc_openings") else { return };
    let tests = &json_of(&cases.join("tables/buildkit-parser.json"))["tests"];
    let (mut total, mut wrong) = (0, Vec::new());
    for row in tests["TestHeredocsFromLine"]["tables"]["srcs"].as_array().expect("rows") {
        total += 1;
        let got: Vec<_> = heredoc_words(row["line"].as_str().expect("line")).into_iter().flatten().map(|word| word.name).collect();
        // The test there looks at the names that are found, not at those that are not: `<<- EOF` opens none.
        if !strings(&row["heredocNames"]).starts_with(&got) {
            wrong.push(format!("{row}: {got:?}"));
        }
    }
    let helpers = &tests["TestParseHeredocHelpers"]["tables"];
    for (key, fits) in [
        ("validHeredocs", (|w| matches!(heredoc_word(w), Ok(Some(h)) if h.name == "EOF")) as fn(&str) -> bool),
        ("invalidHeredocs", |w| heredoc_word(w).is_err()),
        ("notHeredocs", |w| matches!(heredoc_word(w), Ok(None))),
    ] {
        for word in strings(&helpers[key]) {
            total += 1;
            if !fits(&word) {
                wrong.push(format!("{key} {word}: {:?}", heredoc_word(&word)));
            }
        }
    }
    settle("heredoc words", total, &wrong);
}

#[test]
fn heredoc_bodies() {
    let Some(cases) = corpus::find("heredoc_bodies") else { return };
    let test = json_of(&cases.join("tables/buildkit-parser.json"))["tests"]["TestParseExtractsHeredoc"].take();
    let text = test["literal_calls"]["NewBufferString"][0][0].as_str().expect("a file");
    let rows = test["tables"]["tests"].as_array().expect("rows");
    let split = nodes(&SourceFile::new("Dockerfile", text));
    assert_eq!(split.errors, []);
    // Rows and nodes do not match one to one where there is no heredoc: the line after `USER <<INVALID` is a node for itself.
    let rows: Vec<_> = rows.iter().filter(|row| !row.is_null()).collect();
    let with_heredocs: Vec<_> = split.nodes.iter().filter(|node| !node.heredocs.is_empty()).collect();
    assert_eq!(with_heredocs.len(), rows.len());
    let mut wrong = Vec::new();
    for (node, row) in with_heredocs.into_iter().zip(&rows) {
        let got: Vec<_> = node.heredocs.iter().map(|h| (h.name.clone(), h.raw.clone(), h.expand, h.chomp, h.fd)).collect();
        let expected: Vec<_> = row
            .as_array()
            .into_iter()
            .flatten()
            .map(|h| {
                let text = |key: &str| h[key].as_str().unwrap_or_default().to_owned();
                let fd = h["FileDescriptor"].as_u64().unwrap_or(0) as u32;
                (text("Name"), text("Content"), h["Expand"] == true, h["Chomp"] == true, fd)
            })
            .collect();
        if got != expected {
            wrong.push(format!("{}: {got:?}, recorded {expected:?}", node.text));
        }
    }
    settle("TestParseExtractsHeredoc", rows.len(), &wrong);
}

#[test]
fn words_with_quotes() {
    let Some(cases) = corpus::find("words_with_quotes") else { return };
    let tests = json_of(&cases.join("tables/buildkit-parser.json"))["tests"].take();
    let rows = tests["TestParseWords"]["tables"]["tests"].as_array().expect("rows");
    let mut wrong = Vec::new();
    for row in rows {
        match arguments(&format!("ARG {}", strings(&row["input"]).join(" "))) {
            Ok(Arguments::Words { words, .. }) if words.iter().map(|w| &w.node).eq(&strings(&row["expect"])) => {}
            other => wrong.push(format!("{row}: {other:?}")),
        }
    }
    settle("TestParseWords", rows.len(), &wrong);
}

fn instruction(dockerfile: &str) -> Result<InstructionKind, String> {
    match parse(&SourceFile::new("Dockerfile", format!("FROM scratch\n{dockerfile}"))) {
        (Some(mut file), _) => Ok(file.stages[0].instructions.remove(0).kind),
        (None, errors) => Err(errors[0].to_string()),
    }
}

fn sources_and_destination(copy: &Copy) -> Value {
    let mut form = json!({ "DestPath": copy.destination.as_ref().map(|d| &d.node) });
    if !copy.sources.is_empty() {
        form["SourcePaths"] = copy.sources.iter().map(|s| s.node.clone()).collect();
    }
    if !copy.heredocs.is_empty() {
        form["SourceContents"] = copy.heredocs.iter().map(|h| json!({ "Path": h.name, "Data": h.content, "Expand": h.expand })).collect();
    }
    form
}

#[test]
fn instructions_with_heredocs() {
    let Some(cases) = corpus::find("instructions_with_heredocs") else { return };
    let tests = json_of(&cases.join("tables/buildkit-instructions.json"))["tests"].take();
    let (mut total, mut wrong) = (0, Vec::new());
    for row in tests["TestCopyHeredoc"]["tables"]["cases"].as_array().expect("rows") {
        total += 1;
        match instruction(row["dockerfile"].as_str().expect("text")) {
            Ok(InstructionKind::Copy(copy)) if sources_and_destination(&copy) == row["sourcesAndDest"] => {}
            other => wrong.push(format!("{row}: {other:?}")),
        }
    }
    for row in tests["TestRunHeredoc"]["tables"]["cases"].as_array().expect("rows") {
        total += 1;
        let Ok(InstructionKind::Run(run)) = instruction(row["dockerfile"].as_str().expect("text")) else {
            wrong.push(row.to_string());
            continue;
        };
        let (command, shell) = match run.command {
            CommandLine::Exec(words) => (words, false),
            CommandLine::Shell(text) => (vec![text], true),
        };
        let files: Vec<_> = run.heredocs.iter().map(|h| (h.name.clone(), h.raw.clone(), h.chomp)).collect();
        let recorded: Vec<_> = row["files"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| (f["Name"].as_str().expect("name").to_owned(), f["Data"].as_str().expect("data").to_owned(), f["Chomp"] == true))
            .collect();
        if (&command, shell, &files) != (&strings(&row["command"]), row["shell"] == true, &recorded) {
            wrong.push(format!("{row}: {command:?} {shell} {files:?}"));
        }
    }
    settle("instructions with heredocs", total, &wrong);
}

#[test]
fn instruction_errors() {
    let Some(cases) = corpus::find("instruction_errors") else { return };
    let tests = json_of(&cases.join("tables/buildkit-instructions.json"))["tests"].take();
    let (mut total, mut wrong) = (0, Vec::new());
    let mut expect = |dockerfile: &str, sentence: &str| {
        total += 1;
        match instruction(dockerfile) {
            Err(error) if error.contains(sentence) => {}
            other => wrong.push(format!("{dockerfile:?}: {other:?}, recorded {sentence}")),
        }
    };
    for test in ["TestErrorCases", "TestErrorCasesHeredoc"] {
        for row in tests[test]["tables"]["cases"].as_array().expect("rows") {
            expect(row["dockerfile"].as_str().expect("text"), row["expectedError"].as_str().expect("text"));
        }
    }
    for (test, rest, sentence) in [
        ("TestCommandsAtLeastOneArgument", "", "requires at least one argument"),
        ("TestCommandsExactlyOneArgument", "", "requires exactly one argument"),
        ("TestCommandsNoDestinationArgument", " arg1", "requires at least two arguments, but only one was provided"),
        ("TestCommandsBlankNames", " =arg2", "names can not be blank"),
    ] {
        for name in strings(&tests[test]["tables"]["commands"]) {
            expect(&format!("{name}{rest}"), &format!("{name} {sentence}"));
        }
    }
    settle("instruction errors", total, &wrong);
}
