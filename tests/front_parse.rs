//! The Dockerfile language on files of our own: `testdata/dockerfile/<name>.Dockerfile` beside what it must become in `<name>.tree`.
//!
//! `SNAPSHOTS=overwrite` rewrites the `.tree` files; read the difference before it is committed.

#![expect(clippy::unwrap_used, clippy::format_collect, reason = "tests read better so")]

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use shale::dockerfile::ast::{CommandLine, Copy, Dockerfile, Healthcheck, Heredoc, Instruction, InstructionKind, KeyValue, Run, Stage};
use shale::dockerfile::parse::{nodes, parse, parse_trigger};
use shale::dockerfile::{ParseError, lint};
use shale::span::{SourceFile, Span, Spanned};
use snapbox::IntoData as _;

/// Prints a tree so that everything which the parser decides is to be seen, and places where they matter.
struct Printer<'a> {
    source: &'a SourceFile,
    out: String,
}

impl Printer<'_> {
    fn lines(&self, span: Span) -> String {
        let (first, last) = self.source.lines_of(span);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    }

    fn line(&mut self, text: impl AsRef<str>) {
        self.out.push_str(text.as_ref().trim_end());
        self.out.push('\n');
    }

    fn file(&mut self, file: &Dockerfile) {
        let directives = &file.directives;
        for (name, value) in [("syntax", &directives.syntax), ("check", &directives.check)] {
            if let Some(value) = value {
                assert_eq!(self.source.slice(value.span), value.node);
                self.line(format!("{name} {}", value.node));
            }
        }
        if directives.escape != '\\' {
            self.line(format!("escape {}", directives.escape));
        }
        for arg in &file.global_args {
            self.instruction("", arg);
        }
        for stage in &file.stages {
            self.stage(stage);
        }
        for span in &file.empty_continuations {
            self.line(format!("empty continuation up to {}", self.lines(*span)));
        }
        for warning in lint(file, self.source) {
            let line = self.source.line_of(warning.span.unwrap_or_default().start);
            self.line(format!("warning {line} {}: {}", warning.rule, warning.text));
        }
    }

    fn stage(&mut self, stage: &Stage) {
        let mut text = format!("{} FROM {}", self.lines(stage.span), stage.base.node);
        for (key, value) in [("as", &stage.name), ("platform", &stage.platform)] {
            if let Some(value) = value {
                write!(text, " {key}={}", value.node).unwrap();
            }
        }
        self.line(text);
        for instruction in &stage.instructions {
            self.instruction("  ", instruction);
        }
    }

    fn instruction(&mut self, indent: &str, instruction: &Instruction) {
        let lines = self.lines(instruction.span);
        self.line(format!("{indent}{lines} {} {}", instruction.keyword.node, kind(&instruction.kind)));
        if instruction.original.contains("  ") || lines.contains('-') {
            self.line(format!("{indent}    original {:?}", instruction.original));
        }
        if !instruction.comments.is_empty() {
            self.line(format!("{indent}    comments {:?}", instruction.comments));
        }
        match &instruction.kind {
            InstructionKind::Run(Run { heredocs, .. })
            | InstructionKind::Copy(Copy { heredocs, .. })
            | InstructionKind::Add(Copy { heredocs, .. }) => heredocs.iter().for_each(|h| self.heredoc(indent, h)),
            InstructionKind::Onbuild(onbuild) => {
                if let Some(trigger) = &onbuild.instruction {
                    self.instruction(&format!("{indent}      "), trigger);
                }
            }
            _ => {}
        }
    }

    fn heredoc(&mut self, indent: &str, heredoc: &Heredoc) {
        assert_eq!(self.source.slice(heredoc.span), heredoc.raw);
        let Heredoc { name, fd, chomp, expand, content, .. } = heredoc;
        self.line(format!("{indent}    heredoc {name} fd={fd} chomp={chomp} expand={expand} {content:?}"));
    }
}

fn words(words: &[Spanned<String>]) -> String {
    format!("{:?}", words.iter().map(|w| w.node.as_str()).collect::<Vec<_>>())
}

fn pairs(pairs: &[KeyValue]) -> String {
    pairs.iter().map(|p| format!("{:?}{}{:?} ", p.key.node, if p.legacy { " legacy " } else { "=" }, p.value.node)).collect()
}

fn options(list: &[(&str, &Option<Spanned<String>>)]) -> String {
    list.iter().filter_map(|(key, value)| value.as_ref().map(|v| format!(" {key}={:?}", v.node))).collect()
}

fn command(line: &CommandLine) -> String {
    match line {
        CommandLine::Exec(words) => format!("exec {words:?}"),
        CommandLine::Shell(text) => format!("shell {text:?}"),
    }
}

fn copy(copy: &Copy) -> String {
    let mut text = format!("{} to {:?}", words(&copy.sources), copy.destination.as_ref().expect("a destination").node);
    text += &options(&[("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod), ("checksum", &copy.checksum)]);
    for (key, switch) in [("link", &copy.link), ("parents", &copy.parents), ("keep-git-dir", &copy.keep_git_dir), ("unpack", &copy.unpack)]
    {
        if let Some(switch) = switch {
            write!(text, " {key}={}", switch.node).unwrap();
        }
    }
    if !copy.exclude.is_empty() {
        write!(text, " exclude={}", words(&copy.exclude)).unwrap();
    }
    text
}

fn kind(kind: &InstructionKind) -> String {
    match kind {
        InstructionKind::Add(c) | InstructionKind::Copy(c) => copy(c),
        InstructionKind::Arg(declared) => declared
            .iter()
            .map(|a| format!("{:?}{} ", a.name.node, a.default.as_ref().map_or(String::new(), |d| format!("={:?}", d.node))))
            .collect(),
        InstructionKind::Cmd(line) | InstructionKind::Entrypoint(line) => command(line),
        InstructionKind::Env(list) | InstructionKind::Label(list) => pairs(list),
        InstructionKind::Expose(list) | InstructionKind::Volume(list) => words(list),
        InstructionKind::Healthcheck(Healthcheck::None) => "none".to_owned(),
        InstructionKind::Healthcheck(Healthcheck::Cmd {
            command: line,
            interval_ns,
            timeout_ns,
            start_period_ns,
            start_interval_ns,
            retries,
        }) => format!("{} {:?}", command(line), [interval_ns, timeout_ns, start_period_ns, start_interval_ns, retries]),
        InstructionKind::Maintainer(word)
        | InstructionKind::Stopsignal(word)
        | InstructionKind::User(word)
        | InstructionKind::Workdir(word) => {
            format!("{:?}", word.node)
        }
        InstructionKind::Onbuild(onbuild) => format!("{:?}", onbuild.text),
        InstructionKind::Run(run) => {
            let mut text = command(&run.command) + &options(&[("network", &run.network), ("security", &run.security)]);
            for (key, list) in [("mounts", &run.mounts), ("devices", &run.devices)] {
                if !list.is_empty() {
                    write!(text, " {key}={}", words(list)).unwrap();
                }
            }
            text
        }
        InstructionKind::Shell(words) => format!("{words:?}"),
    }
}

fn print_error(source: &SourceFile, error: &ParseError) -> String {
    let mut text = format!("{} | {}", source.line_of(error.span.start), error.sentence());
    write!(text, "\n    marks {:?}", source.slice(error.span)).unwrap();
    if let Some(hint) = &error.hint {
        write!(text, "\n    hint: {hint}").unwrap();
    }
    text
}

fn print(source: &SourceFile) -> String {
    let mut printer = Printer { source, out: String::new() };
    let (file, errors) = parse(source);
    assert_eq!(file.is_some(), errors.is_empty(), "a tree if and only if there are no errors");
    if let Some(file) = file {
        printer.file(&file);
    }
    for error in &errors {
        printer.line(print_error(source, error));
    }
    printer.out
}

#[test]
fn files_become_their_trees() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/dockerfile");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "Dockerfile"));
    files.sort();
    assert!(files.len() > 10);
    for path in files {
        let source = SourceFile::new("Dockerfile", std::fs::read_to_string(&path).unwrap());
        let expected = snapbox::Data::read_from(&path.with_extension("tree"), Some(snapbox::data::DataFormat::Text)).raw();
        snapbox::Assert::new().action_env("SNAPSHOTS").eq(print(&source).into_data().raw(), expected);
    }
}

/// The keywords of a text's instructions with their lines, and the errors.
fn outline(text: &str) -> Vec<String> {
    let source = SourceFile::new("Dockerfile", text);
    let split = nodes(&source);
    let nodes = split.nodes.iter().map(|node| {
        let (first, last) = source.lines_of(node.span);
        format!("{first}-{last} {}", node.text)
    });
    nodes.chain(split.errors.iter().map(ParseError::sentence)).collect()
}

#[test]
fn lines_join() {
    for (text, expected) in [
        ("\u{feff}FROM a\r\nRUN b \\\r\n c\r\n", &["1-1 FROM a", "2-3 RUN b  c"][..]),
        ("FROM a\n\n\nRUN b", &["1-1 FROM a", "4-4 RUN b"]),
        ("FROM a\nRUN b \\\n\n", &["1-1 FROM a", "2-3 RUN b "]),
        ("FROM a\nRUN b \\\n# c\n", &["1-1 FROM a", "2-3 RUN b "]),
        ("FROM a\nRUN b \\\\\nRUN c", &["1-1 FROM a", "2-2 RUN b \\\\", "3-3 RUN c"]),
        ("FROM a\nRUN <<E\r\nx\r\nE\r\nRUN b", &["1-1 FROM a", "2-4 RUN <<E", "5-5 RUN b"]),
        ("\\\nFROM a", &["1-2 FROM a"]),
        ("FROM a\nRUN x <<E\n", &["1-1 FROM a", "unterminated heredoc"]),
        ("", &[]),
    ] {
        assert_eq!(outline(text), expected, "{text:?}");
    }
}

#[test]
fn directives_are_found() {
    let read = |text: &str| {
        let split = nodes(&SourceFile::new("Dockerfile", text));
        let word = |d: Option<Spanned<String>>| d.map(|d| d.node).unwrap_or_default();
        (word(split.directives.syntax), split.directives.escape, word(split.directives.check), split.errors.len())
    };
    for (text, syntax, escape, check, errors) in [
        ("# syntax=a/b:1\nFROM x", "a/b:1", '\\', "", 0),
        ("#SynTax = a b c\n# escape=`\nFROM x", "a", '`', "", 0),
        ("\u{feff}# syntax=a\r\nFROM x", "a", '\\', "", 0),
        ("// syntax=a\nFROM x", "a", '\\', "", 0),
        ("{\"syntax\": \"a\"}", "a", '\\', "", 0),
        ("#!/usr/bin/env thing\n# syntax=a\n# check=skip=all\nFROM x", "a", '\\', "skip=all", 0),
        ("# check=error=true # why\nFROM x", "", '\\', "error=true", 0),
        ("\n# syntax=a\nFROM x", "", '\\', "", 0),
        ("# unknown=1\n# syntax=a\nFROM x", "", '\\', "", 0),
        ("# escape=`\n# escape=`\nFROM x", "", '`', "", 1),
        ("# escape=x\nFROM x", "", '\\', "", 1),
        ("# syntax=\nFROM x", "", '\\', "", 0),
    ] {
        assert_eq!(read(text), (syntax.to_owned(), escape, check.to_owned(), errors), "{text:?}");
    }
}

#[test]
fn triggers_parse_by_themselves() {
    let trigger = |text: &str| parse_trigger(&SourceFile::new("ONBUILD", text));
    let run = trigger("RUN <<E\nx\nE").unwrap();
    assert!(matches!(run.kind, InstructionKind::Run(Run { heredocs, .. }) if heredocs[0].content == "x\n"));
    for (text, sentence) in [
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("COPY --what a b", "dockerfile parse error on line 1: unknown flag: --what"),
        ("", "onbuild trigger should be a single expression"),
    ] {
        assert_eq!(trigger(text).unwrap_err()[0].sentence(), sentence, "{text:?}");
    }
}

proptest! {
    /// Nothing that a file can hold stops the parser, and every place it names is one in the file.
    #[test]
    fn any_text_parses_or_fails(text in r#"(FROM|RUN|COPY|ENV|ARG|LABEL|ONBUILD|HEALTHCHECK CMD|[a-z$ "'\\\[\]=#<\-\n\tè]|\r\n|<<E\n|E\n|--[a-z]=?| |\\\n){0,40}"#) {
        let source = SourceFile::new("Dockerfile", text.clone());
        let (file, errors) = parse(&source);
        prop_assert_eq!(file.is_some(), errors.is_empty());
        for error in errors {
            prop_assert!(text.get(error.span.start as usize..error.span.end as usize).is_some(), "{:?}", error);
        }
        if let Some(file) = file {
            let _trees_print = { let mut p = Printer { source: &source, out: String::new() }; p.file(&file); p.out };
            for stage in &file.stages {
                for instruction in &stage.instructions {
                    prop_assert!(text.get(instruction.span.start as usize..instruction.span.end as usize).is_some());
                }
            }
        }
    }

    /// A text without special characters is what it becomes, and any other ends in a text or an error.
    #[test]
    fn any_word_expands_or_fails(plain in "[a-z /.:=è]{0,20}", wild in r#"[a-b$ {}:?+#%/*"'\\<\-]{0,20}"#) {
        let env = |name: &str| (name == "a").then(|| "ab/ba".to_owned());
        prop_assert_eq!(shale::dockerfile::word::expand(&plain, '\\', &env).unwrap().text, plain);
        drop(shale::dockerfile::word::expand(&wild, '\\', &env));
        drop(shale::dockerfile::word::expand_words(&wild, '`', &env));
    }
}
