//! Two other parsers as oracles: where they can read a file, they must find the same instructions.

mod corpus;

use std::path::{Path, PathBuf};

use shale::dockerfile::parse::{Node, nodes, parse};
use shale::span::SourceFile;

/// Our own files, and those of the corpus if it is at hand.
fn files() -> Vec<(PathBuf, String)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile");
    let mut paths: Vec<_> = std::fs::read_dir(own).expect("our files").map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "Dockerfile"));
    if let Some(cases) = corpus::find("differential: the corpus's files") {
        let recorded = corpus::json(&cases.join("parser/nodes.json"));
        paths.extend(recorded.as_object().expect("a map by path").keys().map(|path| cases.join(path)));
    }
    paths.sort();
    paths.into_iter().filter_map(|path| std::fs::read_to_string(&path).ok().map(|text| (path, text))).collect()
}

/// Names of the instructions that we find, in a file without errors.
fn ours(text: &str) -> Option<(Vec<String>, Vec<Node>)> {
    let source = SourceFile::new("Dockerfile", text);
    parse(&source).0?;
    let nodes = nodes(&source).nodes;
    Some((nodes.iter().map(|node| node.keyword.node.to_lowercase()).collect(), nodes))
}

fn variant(debug: String) -> String {
    debug.split('(').next().unwrap_or_default().to_lowercase()
}

#[test]
fn parse_dockerfile_agrees() {
    let (mut both, mut wrong) = (0, Vec::new());
    for (path, text) in files() {
        let (Some((ours, _)), Ok(theirs)) = (ours(&text), parse_dockerfile::parse(&text)) else { continue };
        // It takes the second of two escape characters at the end of a line as one that continues it; BuildKit does not.
        if text.lines().any(|line| line.trim_end().ends_with("\\\\")) {
            continue;
        }
        let theirs: Vec<_> = theirs.instructions.iter().map(|i| variant(format!("{i:?}"))).collect();
        both += 1;
        if ours != theirs {
            wrong.push(format!("{}: {ours:?}, theirs {theirs:?}", path.display()));
        }
    }
    corpus::settle("parse-dockerfile", both, &wrong);
}

#[test]
fn dockerfile_parser_agrees() {
    use dockerfile_parser::Instruction;
    let (mut both, mut wrong) = (0, Vec::new());
    for (path, text) in files() {
        let Some((ours, nodes)) = ours(&text) else { continue };
        // It knows neither heredocs nor the escape directive.
        if nodes.iter().any(|node| !node.heredocs.is_empty()) || text.to_lowercase().contains("escape") {
            continue;
        }
        let Ok(theirs) = dockerfile_parser::Dockerfile::parse(&text) else { continue };
        let theirs: Vec<_> = theirs
            .instructions
            .iter()
            .map(|i| match i {
                Instruction::Misc(other) => other.instruction.content.to_lowercase(),
                known => variant(format!("{known:?}")),
            })
            .collect();
        both += 1;
        if ours != theirs {
            wrong.push(format!("{}: {ours:?}, theirs {theirs:?}", path.display()));
        }
    }
    corpus::settle("dockerfile-parser", both, &wrong);
}

#[test]
fn bases_and_names_agree() {
    let (mut both, mut wrong) = (0, Vec::new());
    for (path, text) in files() {
        let source = SourceFile::new("Dockerfile", text.as_str());
        let (Some(ours), Ok(theirs)) = (parse(&source).0, parse_dockerfile::parse(&text)) else { continue };
        let text_of = |node: &shale::span::Spanned<String>| node.node.clone();
        let ours_from: Vec<_> = ours.stages.iter().map(|s| (text_of(&s.base), s.name.as_ref().map(text_of))).collect();
        let theirs_from: Vec<_> = theirs
            .stages()
            .map(|s| (s.from.image.value.to_string(), s.from.as_.as_ref().map(|(_, name)| name.value.to_string())))
            .collect();
        both += 1;
        if ours_from != theirs_from {
            wrong.push(format!("{}: {ours_from:?}, theirs {theirs_from:?}", path.display()));
        }
    }
    corpus::settle("bases and names", both, &wrong);
}
