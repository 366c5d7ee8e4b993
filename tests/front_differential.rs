//! Two other parsers as oracles: where they can read a file, they must find the same instructions.

mod corpus;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shale::dockerfile::parse::{Arguments, Node, nodes, parse};
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

/// One instruction of a made-up file: its text, and what everybody has to find in it.
#[derive(Clone, Debug)]
struct Made {
    text: String,
    name: &'static str,
    words: Vec<String>,
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_.]{0,6}"
}

fn pair() -> impl Strategy<Value = String> {
    ("[A-Z][A-Z0-9_]{0,4}", "[a-z0-9./:-]{1,6}").prop_map(|(key, value)| format!("{key}={value}"))
}

/// Words with what may stand between them: blanks, or the end of a line that goes on, with a comment on its way.
fn line(name: &'static str, words: Vec<String>, gaps: &[u8], lower: bool) -> Made {
    let mut text = if lower { name.to_lowercase() } else { name.to_owned() };
    for (word, gap) in words.iter().zip(gaps.iter().cycle()) {
        text += match gap % 8 {
            0 => "  ",
            1 => "\t",
            2 if !matches!(name, "FROM" | "USER" | "WORKDIR" | "STOPSIGNAL" | "MAINTAINER") => " \\\n  ",
            3 if matches!(name, "RUN" | "COPY" | "ENV") => " \\\n  # a comment\n  ",
            _ => " ",
        };
        text += word;
    }
    Made { text, name, words }
}

fn instruction() -> impl Strategy<Value = Made> {
    let words = |count| prop::collection::vec(word(), count);
    let gaps = prop::collection::vec(any::<u8>(), 1..4);
    let many = prop_oneof![Just("COPY"), Just("ADD")].prop_flat_map(move |name| (Just(name), words(2..5)));
    let words = |count| prop::collection::vec(word(), count);
    let free =
        prop_oneof![Just("RUN"), Just("CMD"), Just("ENTRYPOINT"), Just("VOLUME")].prop_flat_map(move |name| (Just(name), words(1..5)));
    let one = prop_oneof![Just("USER"), Just("WORKDIR"), Just("STOPSIGNAL"), Just("MAINTAINER")]
        .prop_flat_map(|name| (Just(name), word().prop_map(|word| vec![word])));
    let set = prop_oneof![Just("ENV"), Just("LABEL")].prop_flat_map(|name| (Just(name), prop::collection::vec(pair(), 1..4)));
    let arg = pair().prop_map(|pair| ("ARG", vec![pair]));
    let ports = prop::collection::vec(1u16.., 1..4).prop_map(|ports| {
        // BuildKit sorts them.
        let mut ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        ports.sort();
        ("EXPOSE", ports)
    });
    (prop_oneof![many, free, one, set, arg, ports], gaps, any::<bool>())
        .prop_map(|((name, words), gaps, lower): ((&'static str, Vec<String>), Vec<u8>, bool)| line(name, words, &gaps, lower))
}

/// `["a", "b"]` in place of words.
fn array() -> impl Strategy<Value = Made> {
    let name = prop_oneof![Just("RUN"), Just("CMD"), Just("ENTRYPOINT"), Just("SHELL")];
    (name, prop::collection::vec("[a-z0-9 ./=$-]{1,8}", 1..4)).prop_map(|(name, words)| {
        let text = format!("{name} {}", serde_json::to_string(&words).expect("strings serialise"));
        Made { text, name, words }
    })
}

fn from() -> impl Strategy<Value = Made> {
    (word(), prop::option::of(word())).prop_map(|(image, name)| {
        let words: Vec<String> = [Some(image), name].into_iter().flatten().collect();
        Made { text: format!("FROM {}", words.join(" AS ")), name: "FROM", words }
    })
}

fn whole_file() -> impl Strategy<Value = Vec<Made>> {
    let rest = prop::collection::vec(prop_oneof![8 => instruction(), 2 => array(), 1 => from()], 0..8);
    (from(), rest).prop_map(|(first, rest)| [vec![first], rest].concat())
}

/// Our words of a node, without what only says how they were written.
fn our_words(node: &Node) -> Vec<String> {
    match &node.arguments {
        Arguments::Words { words, .. } if node.name == Some("FROM") => {
            words.iter().map(|w| w.node.clone()).enumerate().filter(|(at, _)| *at != 1).map(|(_, word)| word).collect()
        }
        Arguments::Words { words, .. } => words.iter().map(|w| w.node.clone()).collect(),
        Arguments::Text(text) => text.iter().flat_map(|text| text.node.split_whitespace()).map(Into::into).collect(),
        Arguments::Pairs(pairs) => pairs.iter().map(|pair| format!("{}={}", pair.key.node, pair.value.node)).collect(),
        Arguments::Probe(_) | Arguments::Node(_) | Arguments::Unknown => Vec::new(),
    }
}

/// The words of a raw text, which may go on over several lines.
fn raw_words(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(str::split_whitespace).filter(|word| *word != "\\").map(Into::into).collect()
}

fn words_of_parse_dockerfile(instruction: &parse_dockerfile::Instruction<'_>) -> Vec<String> {
    use parse_dockerfile::{Command, Instruction as I, JsonOrStringArray, Source};
    let command = |command: &Command<'_>| match command {
        Command::Exec(words) => words.value.iter().map(|word| word.value.to_string()).collect(),
        Command::Shell(text) => raw_words(text.value),
        _ => Vec::new(),
    };
    let copy = |sources: &[Source<'_>], destination: &str| -> Vec<String> {
        let paths = sources.iter().filter_map(|source| if let Source::Path(path) = source { Some(path.value.to_string()) } else { None });
        paths.chain([destination.to_owned()]).collect()
    };
    match instruction {
        I::From(i) => [Some(&i.image), i.as_.as_ref().map(|(_, name)| name)].into_iter().flatten().map(|w| w.value.to_string()).collect(),
        I::Copy(i) => copy(&i.src, &i.dest.value),
        I::Add(i) => copy(&i.src, &i.dest.value),
        I::Run(i) => command(&i.arguments),
        I::Cmd(i) => command(&i.arguments),
        I::Entrypoint(i) => command(&i.arguments),
        I::Env(i) => raw_words(&i.arguments.value),
        I::Label(i) => raw_words(&i.arguments.value),
        I::Arg(i) => raw_words(&i.arguments.value),
        I::User(i) => raw_words(&i.arguments.value),
        I::Workdir(i) => raw_words(&i.arguments.value),
        I::Stopsignal(i) => raw_words(&i.arguments.value),
        I::Maintainer(i) => raw_words(&i.name.value),
        I::Shell(i) => i.arguments.iter().map(|word| word.value.to_string()).collect(),
        I::Expose(i) => i.arguments.iter().map(|word| word.value.to_string()).collect(),
        I::Volume(i) => match &i.arguments {
            JsonOrStringArray::Json(words) => words.value.iter().map(|word| word.value.to_string()).collect(),
            JsonOrStringArray::String(words) => words.iter().map(|word| word.value.to_string()).collect(),
        },
        _ => Vec::new(),
    }
}

/// Nothing for instructions of which it keeps the text only.
fn words_of_dockerfile_parser(instruction: &dockerfile_parser::Instruction) -> Option<Vec<String>> {
    use dockerfile_parser::{Instruction as I, ShellOrExecExpr};
    let expression = |expression: &ShellOrExecExpr| match expression {
        ShellOrExecExpr::Exec(words) => words.as_str_vec().into_iter().map(Into::into).collect(),
        ShellOrExecExpr::Shell(text) => raw_words(&text.to_string()),
    };
    Some(match instruction {
        I::From(i) => [Some(&i.image), i.alias.as_ref()].into_iter().flatten().map(|word| word.content.clone()).collect(),
        I::Copy(i) => i.sources.iter().chain([&i.destination]).map(|word| word.content.clone()).collect(),
        I::Run(i) => expression(&i.expr),
        I::Cmd(i) => expression(&i.expr),
        I::Entrypoint(i) => expression(&i.expr),
        I::Env(i) => i.vars.iter().map(|var| format!("{}={}", var.key.content, var.value)).collect(),
        I::Label(i) => i.labels.iter().map(|label| format!("{}={}", label.name.content, label.value.content)).collect(),
        I::Arg(i) => vec![format!("{}={}", i.name.content, i.value.as_ref().map(|value| value.content.as_str()).unwrap_or_default())],
        I::Misc(_) => return None,
    })
}

proptest! {
    /// Whatever is put into a file, all three find it there.
    #[test]
    fn made_up_files_are_read_alike(made in whole_file()) {
        let text: String = made.iter().map(|made| made.text.clone() + "\n").collect();
        let ours = nodes(&SourceFile::new("Dockerfile", text.as_str()));
        prop_assert_eq!(&ours.errors, &[]);
        let expected: Vec<_> = made.iter().map(|made| (made.name, made.words.clone())).collect();
        let found: Vec<_> = ours.nodes.iter().map(|node| (node.name.unwrap_or_default(), our_words(node))).collect();
        prop_assert_eq!(&found, &expected, "{}", text);
        if let Ok(theirs) = parse_dockerfile::parse(&text) {
            let theirs: Vec<_> = theirs.instructions.iter().map(words_of_parse_dockerfile).collect();
            prop_assert_eq!(theirs, made.iter().map(|made| made.words.clone()).collect::<Vec<_>>(), "{}", text);
        }
        if let Ok(theirs) = dockerfile_parser::Dockerfile::parse(&text) {
            prop_assert_eq!(theirs.instructions.len(), made.len(), "{}", text);
            for (theirs, made) in theirs.instructions.iter().zip(&made) {
                if let Some(theirs) = words_of_dockerfile_parser(theirs) {
                    prop_assert_eq!(&theirs, &made.words, "{}", text);
                }
            }
        }
    }
}
