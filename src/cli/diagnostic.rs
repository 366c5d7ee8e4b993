//! The one place where errors and warnings become text.
//!
//! The shape is BuildKit's, because scripts and editors read it: the failed step with its last lines, the Dockerfile excerpt with
//! the lines marked, then `ERROR:`. What BuildKit does not have (causes, a hint, the path of the full log) follows.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::dockerfile::lint::find_rule;
use crate::plan::graph::Warning;
use crate::span::{SourceFile, Span};

use super::human;
use super::program::Program;
use super::progress::FailedStep;

/// How a failed build's message begins.
const BUILD_FAILED: &str = "ERROR: failed to build: failed to solve: ";
/// What hinders a program or thread that could not be started for EAGAIN (clone(2)).
pub const NO_MORE_PROCESSES: &str = "the limit of processes is reached (`ulimit -u`, or pids of the container)";
const RULE: &str = "--------------------";
const STEP_RULE: &str = "------";

/// An error, ready to be shown.
#[derive(Clone, Debug, Default)]
pub struct Diagnostic {
    /// The sentence.
    pub message: String,
    /// Whether a build failed (not the command line, not an image command).
    pub is_build: bool,
    /// Whether Docker's client would have heard it from the daemon.
    pub is_engine: bool,
    /// Whether docker buildx would say it, which is a program of its own.
    pub is_builder: bool,
    /// Whether it is about the name of an object of any kind.
    pub is_object: bool,
    /// What in the Dockerfile it is about.
    pub excerpt: Option<(SourceFile, Span)>,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What can be done.
    pub hint: Option<String>,
    /// Where the full output of the failed step is.
    pub log: Option<PathBuf>,
}

impl Diagnostic {
    /// An error outside builds.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// A name that nothing has. Docker's client says `Error: ` before it and nothing else.
    pub fn no_such_object(name: &str) -> Self {
        Self { is_object: true, ..Self::new(format!("No such object: {name}")) }
    }

    /// A failed build.
    pub fn build(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_build: true, ..Self::default() }
    }

    /// Any error with the chain of its sources.
    pub fn of(error: &dyn Error) -> Self {
        Self { causes: causes_of(error), ..Self::new(error.to_string()) }
    }

    /// A thread that could not be started.
    pub fn no_thread(error: &std::io::Error) -> Self {
        Self::new(format!("cannot start a thread: {error}")).hint(NO_MORE_PROCESSES)
    }

    /// Marks what Docker's client would have heard from the daemon.
    #[must_use]
    pub fn of_engine(mut self) -> Self {
        self.is_engine = true;
        self
    }

    /// Points into the Dockerfile.
    #[must_use]
    pub fn at(mut self, source: SourceFile, span: Span) -> Self {
        self.excerpt = Some((source, span));
        self
    }

    /// Adds the chain of an error's sources.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn Error) -> Self {
        self.causes.extend(causes_of(error));
        self
    }

    /// Adds one cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds what can be done.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds where the full output is.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// The text for standard error, with its line end.
    pub fn render(&self) -> String {
        self.render_as(Program::Shale)
    }

    /// The same in the words of the program that was called: outside of builds Docker's client has other ones.
    pub fn render_as(&self, program: Program) -> String {
        let mut text = String::new();
        if let Some((source, span)) = &self.excerpt {
            text.push_str(&excerpt(source, *span));
        }
        let prefix = match (self.is_build, program) {
            (true, _) => BUILD_FAILED,
            (false, Program::Shale) => "ERROR: ",
            (false, Program::Docker) if self.is_builder => "ERROR: ",
            (false, Program::Docker) if self.is_engine => "Error response from daemon: ",
            (false, Program::Docker) if self.is_object => "Error: ",
            (false, Program::Docker) => "",
        };
        push(&mut text, format_args!("{prefix}{}", self.message));
        for cause in &self.causes {
            push(&mut text, format_args!("  because: {cause}"));
        }
        if let Some(log) = &self.log {
            push(&mut text, format_args!("full output of the step: {}", log.display()));
        }
        if let Some(hint) = &self.hint {
            push(&mut text, format_args!("hint: {hint}"));
        }
        text
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}

/// The sources of an error, without those whose text the error already holds.
fn causes_of(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // The number that Rust adds to the system's words says nothing new.
        let words = text.split(" (os error ").next().unwrap_or_default().to_lowercase();
        if !told.to_lowercase().contains(&words) {
            causes.push(text.clone());
        }
        told = text;
        next = cause.source();
    }
    causes
}

/// The lines of a span with a little around them, the span's own marked.
pub(super) fn excerpt(source: &SourceFile, span: Span) -> String {
    let (first, last) = source.lines_of(span);
    let around = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(around).max(1);
    let to = (last + around).min(source.line_count());
    let mut text = format!("{}:{first}\n{RULE}\n", source.name());
    for number in from..=to {
        let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
        push(&mut text, format_args!(" {number:3} | {mark} {}", source.line(number)));
    }
    text.push_str(RULE);
    text.push('\n');
    text
}

/// The block about a failed step: its name and its last lines.
pub fn failed_step(step: &FailedStep) -> String {
    let mut text = format!("{STEP_RULE}\n > {}:\n", step.name);
    for line in &step.tail {
        push(&mut text, format_args!("{} {}", human::offset(line.at), String::from_utf8_lossy(&line.bytes)));
    }
    text.push_str(STEP_RULE);
    text.push('\n');
    text
}

/// The block of warnings at the end of a build; empty without warnings. In detail each has its reason, address and place.
pub fn warnings(all: &[(SourceFile, Vec<Warning>)], in_detail: bool) -> String {
    let (found, remarks): (Vec<_>, Vec<_>) = all
        .iter()
        .flat_map(|(source, warnings)| warnings.iter().map(move |w| (source, w)))
        .partition(|(_, warning)| warning.is_violation());
    let mut text = String::new();
    for (_, remark) in &remarks {
        push(&mut text, format_args!("\n{}", remark.text));
    }
    if found.is_empty() {
        return text;
    }
    let plural = if found.len() == 1 { "" } else { "s" };
    let more = if in_detail { "" } else { " (use --debug to expand)" };
    push(&mut text, format_args!("\n {} warning{plural} found{more}:", found.len()));
    for (source, warning) in found {
        let line = warning.span.map(|span| format!(" (line {})", source.lines_of(span).0)).unwrap_or_default();
        push(&mut text, format_args!(" - {}: {}{line}", warning.rule, warning.text));
        if let Some(rule) = find_rule(warning.rule).filter(|_| in_detail) {
            push(&mut text, format_args!("{}", rule.description));
            if !rule.page.is_empty() {
                push(&mut text, format_args!("More info: {}", rule.url()));
            }
            text += &warning.span.map(|span| excerpt(source, span)).unwrap_or_default();
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::progress::LogLine;
    use super::*;

    fn dockerfile(text: &str, marked: &str) -> (SourceFile, Span) {
        let start = text.find(marked).expect("the marked text is in the file");
        (SourceFile::new("Dockerfile", text), Span::new(start, start + marked.len()))
    }

    #[test]
    fn a_failed_build_reads_like_buildkit_s() {
        let (source, span) = dockerfile("FROM alpine\nRUN true\nRUN false", "RUN false");
        let step = FailedStep {
            name: "[3/3] RUN false".into(),
            tail: vec![LogLine { at: Duration::from_millis(123), bytes: b"last line".to_vec() }],
        };
        let error = Diagnostic::build("process \"/bin/sh -c false\" did not complete successfully: exit code: 1")
            .at(source, span)
            .log("/store/builds/7/3.log");
        insta::assert_snapshot!(failed_step(&step) + &error.render(), @r#"
        ------
         > [3/3] RUN false:
        0.123 last line
        ------
        Dockerfile:3
        --------------------
           1 |     FROM alpine
           2 |     RUN true
           3 | >>> RUN false
        --------------------
        ERROR: failed to build: failed to solve: process "/bin/sh -c false" did not complete successfully: exit code: 1
        full output of the step: /store/builds/7/3.log
        "#);
    }

    #[test]
    fn the_excerpt_has_two_lines_around_one_and_one_around_many() {
        let text = "1\n2\n3\n4\n5\n6\n7";
        for (marked, lines) in [("4", 2..=6), ("1", 1..=3), ("7", 5..=7), ("3\n4", 2..=5), ("1\n2", 1..=3), ("2", 1..=4)] {
            let (source, span) = dockerfile(text, marked);
            let shown = excerpt(&source, span);
            let numbers: Vec<usize> = shown.lines().filter_map(|line| line.split_once(" | ")?.0.trim().parse().ok()).collect();
            assert_eq!(numbers, lines.collect::<Vec<_>>(), "{marked:?}\n{shown}");
            assert_eq!(shown.matches(">>>").count(), marked.lines().count(), "{shown}");
        }
    }

    #[test]
    fn causes_and_hints_stand_apart() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the store")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        insta::assert_snapshot!(Diagnostic::of(&error).hint("set SHALE_ROOT").render(), @r"
        ERROR: cannot open the store
          because: disk on fire
        hint: set SHALE_ROOT
        ");
    }

    #[test]
    fn under_docker_s_name_the_prefixes_are_docker_s() {
        let error = Diagnostic::new("No such image: x:latest");
        assert_eq!(error.render_as(Program::Docker), "No such image: x:latest\n");
        assert_eq!(error.of_engine().render_as(Program::Docker), "Error response from daemon: No such image: x:latest\n");
        assert_eq!(Diagnostic::build("x").render_as(Program::Docker), Diagnostic::build("x").render());
        assert_eq!(Diagnostic { is_builder: true, ..Diagnostic::new("x") }.render_as(Program::Docker), "ERROR: x\n");
    }

    #[test]
    fn warnings_have_their_lines() {
        let (source, span) = dockerfile("from x\nRUN a", "from");
        let warning = |span| Warning { rule: "FromAsCasing", text: "odd".into(), span };
        let remark = Warning { rule: "UnconsumedBuildArg", text: "[Warning] left".into(), span: None };
        assert_eq!(warnings(&[(source.clone(), vec![])], false), "");
        assert_eq!(warnings(&[(source.clone(), vec![remark.clone()])], true), "\n[Warning] left\n");
        assert_eq!(
            warnings(&[(source.clone(), vec![remark, warning(Some(span))])], false),
            "\n[Warning] left\n\n 1 warning found (use --debug to expand):\n - FromAsCasing: odd (line 1)\n"
        );
        assert_eq!(
            warnings(&[(source.clone(), vec![warning(None), warning(None)])], false).lines().nth(1),
            Some(" 2 warnings found (use --debug to expand):")
        );
        assert_eq!(
            warnings(&[(source, vec![warning(Some(span))])], true),
            "\n 1 warning found:\n - FromAsCasing: odd (line 1)\nThe 'as' keyword should match the case of the 'from' keyword\n\
             More info: https://docs.docker.com/go/dockerfile/rule/from-as-casing/\nDockerfile:1\n--------------------\n   \
             1 | >>> from x\n   2 |     RUN a\n--------------------\n\n"
        );
    }
}
