//! `shale build --call`: answers as text in the tables of buildx, or as its JSON.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::diagnostic::{self, Diagnostic};
use super::request::call::{Call, Method};
use crate::dockerfile::Dockerfile;
use crate::dockerfile::lint::{Rule, find_rule};
use crate::pipeline::{Answer, BuildError};
use crate::plan::graph::Warning;
use crate::plan::outline::{self, Outline};
use crate::span::{SourceFile, Span};

/// An answer as it is printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// For standard output.
    pub result: String,
    /// Errors of the Dockerfile, for standard error.
    pub errors: String,
    /// Whether the exit code says that something is wrong.
    pub is_bad: bool,
}

/// Puts an answer into text.
pub fn render(answer: &Answer, call: Call) -> Printed {
    let plain = |result: String| Printed { result, ..Printed::default() };
    match answer {
        Answer::Check { source, warnings, error } => checked(source, warnings, error.as_deref(), call),
        Answer::Outline { source, outline } if call.json => plain(outline_json(source, outline)),
        Answer::Outline { outline, .. } => plain(outline_text(outline)),
        Answer::Targets { source, dockerfile } if call.json => plain(targets_json(source, dockerfile)),
        Answer::Targets { dockerfile, .. } => plain(targets_text(dockerfile)),
        Answer::Describe if call.json => plain(describe_json()),
        Answer::Describe => plain(describe_text()),
    }
}

fn checked(source: &SourceFile, warnings: &[Warning], error: Option<&BuildError>, call: Call) -> Printed {
    let is_bad = error.is_some() || (!warnings.is_empty() && !call.ignore_status);
    let errors = error.map(error_text).unwrap_or_default();
    if call.json {
        return Printed { result: check_json(source, warnings, error), errors, is_bad };
    }
    let mut result = match warnings.len() {
        0 if error.is_none() => "Check complete, no warnings found.\n".to_owned(),
        0 => String::new(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        many => format!("Check complete, {many} warnings have been found!\n"),
    };
    for warning in warnings {
        let url = find_rule(warning.rule).map(Rule::url).filter(|url| !url.is_empty());
        let url = url.map(|url| format!(" - {url}")).unwrap_or_default();
        let excerpt = warning.span.map(|span| diagnostic::excerpt(source, span)).unwrap_or_default();
        write!(result, "\nWARNING: {}{url}\n{}\n{excerpt}", warning.rule, warning.text).expect("a String takes everything");
    }
    if error.is_some() && !warnings.is_empty() {
        result.push('\n');
    }
    Printed { result, errors, is_bad }
}

/// The sentence before the excerpt, as warnings have it.
fn error_text(error: &BuildError) -> String {
    let mut text = String::new();
    for found in super::build::diagnostics(error) {
        let bare = Diagnostic { is_build: false, excerpt: None, ..found.clone() };
        text += &bare.render();
        text += &found.excerpt.map(|(source, span)| diagnostic::excerpt(&source, span)).unwrap_or_default();
    }
    text
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    let mut add = |heads: &[&str], rows: Vec<Vec<&str>>, gap| {
        if !rows.is_empty() {
            let heads = std::iter::once(heads.to_vec()).filter(|heads| !heads.is_empty());
            text += &columns(&heads.chain(rows).collect::<Vec<_>>(), gap);
            text.push('\n');
        }
    };
    let mut target = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        target.push(vec!["TARGET:", if outline.name.is_empty() { "(default)" } else { &outline.name }]);
    }
    if !outline.description.is_empty() {
        target.push(vec!["DESCRIPTION:", &outline.description]);
    }
    add(&[], target, 1);
    let args = outline.args.iter().map(|arg| vec![arg.name.as_str(), &arg.value, &arg.description]);
    add(&["BUILD ARG", "VALUE", "DESCRIPTION"], args.collect(), 3);
    for (head, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let rows = mounts.iter().map(|mount| vec![mount.id.as_str(), if mount.required { "true" } else { "" }]);
        add(&[head, "REQUIRED"], rows.collect(), 3);
    }
    text
}

fn targets_text(dockerfile: &Dockerfile) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for (number, stage) in dockerfile.stages.iter().enumerate() {
        let name = outline::stage_name(stage);
        let description = outline::description(&stage.comments, &name);
        let shown = match (name.as_str(), number + 1 == dockerfile.stages.len()) {
            ("", true) => "(default)".to_owned(),
            (_, true) => format!("{name} (default)"),
            (_, false) => name,
        };
        rows.push(vec![shown, description]);
    }
    columns(&rows, 1)
}

/// Name, version and description of each question that can be described.
const REQUESTS: [(Method, &str, &str); 3] = [
    (Method::Outline, "outline", "List all parameters current build target supports"),
    (Method::Targets, "targets", "List all targets current build supports"),
    (Method::Describe, "subrequests.describe", "List available subrequest types"),
];
const REQUEST_VERSION: &str = "1.0.0";

fn describe_text() -> String {
    let heads = vec!["NAME", "VERSION", "DESCRIPTION"];
    let rows = REQUESTS.iter().map(|(_, name, description)| vec![*name, REQUEST_VERSION, *description]);
    columns(&std::iter::once(heads).chain(rows).collect::<Vec<_>>(), 1)
}

/// Rows with all but their last cell padded to the widest of the column and a gap.
fn columns<S: AsRef<str>>(rows: &[Vec<S>], gap: usize) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.as_ref().chars().count()).max();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text += cell.as_ref();
            if column + 1 < row.len() {
                let fill = width(column).unwrap_or(0) + gap - cell.as_ref().chars().count();
                text.extend(std::iter::repeat_n(' ', fill));
            }
        }
        text.push('\n');
    }
    text
}

// The JSON has BuildKit's names, order and omissions.

#[derive(Serialize)]
struct Location {
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Clone, Copy, Serialize)]
struct Position {
    line: usize,
}

/// One range for each line.
fn location(source: &SourceFile, span: Span) -> Location {
    let (first, last) = source.lines_of(span);
    Location { ranges: (first..=last).map(|line| Range { start: Position { line }, end: Position { line } }).collect() }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("strings and numbers serialise") + "\n"
}

fn encoded(source: &SourceFile) -> String {
    STANDARD.encode(source.text())
}

fn check_json(source: &SourceFile, warnings: &[Warning], error: Option<&BuildError>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Found {
        rule_name: &'static str,
        #[serde(skip_serializing_if = "str::is_empty")]
        description: &'static str,
        #[serde(skip_serializing_if = "String::is_empty")]
        url: String,
        detail: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        location: Option<Location>,
    }
    #[derive(Serialize)]
    struct Source {
        filename: String,
        data: String,
        language: &'static str,
    }
    #[derive(Serialize)]
    struct Failed {
        message: String,
        location: Option<Location>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All {
        warnings: Option<Vec<Found>>,
        sources: Vec<Source>,
        #[serde(skip_serializing_if = "Option::is_none")]
        build_error: Option<Failed>,
    }
    let found = |warning: &Warning| {
        let rule = find_rule(warning.rule);
        Found {
            rule_name: warning.rule,
            description: rule.map_or("", |rule| rule.description),
            url: rule.map(Rule::url).unwrap_or_default(),
            detail: warning.text.clone(),
            location: warning.span.map(|span| location(source, span)),
        }
    };
    let failed = error
        .and_then(|error| super::build::diagnostics(error).into_iter().next())
        .map(|first| Failed { message: first.message, location: first.excerpt.map(|(file, span)| location(&file, span)) });
    let sources = vec![Source { filename: source.name().to_owned(), data: encoded(source), language: "Dockerfile" }];
    let warnings = (!warnings.is_empty()).then(|| warnings.iter().map(found).collect());
    to_json(&All { warnings, sources, build_error: failed })
}

fn outline_json(source: &SourceFile, outline: &Outline) -> String {
    #[derive(Serialize)]
    struct Arg<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        description: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        value: &'a str,
        location: Location,
    }
    #[derive(Serialize)]
    struct Mount<'a> {
        name: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        required: bool,
        location: Location,
    }
    #[derive(Serialize)]
    struct All<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        name: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        description: &'a str,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<Arg<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<Mount<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        ssh: Vec<Mount<'a>>,
        sources: [String; 1],
    }
    fn mounts<'a>(source: &SourceFile, list: &'a [outline::OutlineMount]) -> Vec<Mount<'a>> {
        list.iter().map(|m| Mount { name: &m.id, required: m.required, location: location(source, m.span) }).collect()
    }
    let args = outline.args.iter().map(|arg| Arg {
        name: &arg.name,
        description: &arg.description,
        value: &arg.value,
        location: location(source, arg.span),
    });
    to_json(&All {
        name: &outline.name,
        description: &outline.description,
        args: args.collect(),
        secrets: mounts(source, &outline.secrets),
        ssh: mounts(source, &outline.ssh),
        sources: [encoded(source)],
    })
}

fn targets_json(source: &SourceFile, dockerfile: &Dockerfile) -> String {
    #[derive(Serialize)]
    struct Target {
        #[serde(skip_serializing_if = "String::is_empty")]
        name: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        default: bool,
        #[serde(skip_serializing_if = "String::is_empty")]
        description: String,
        base: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        platform: Option<String>,
        location: Location,
    }
    #[derive(Serialize)]
    struct All {
        targets: Vec<Target>,
        sources: [String; 1],
    }
    let target = |(number, stage): (usize, &crate::dockerfile::ast::Stage)| {
        let name = outline::stage_name(stage);
        Target {
            default: number + 1 == dockerfile.stages.len(),
            description: outline::description(&stage.comments, &name),
            base: stage.base.node.clone(),
            platform: stage.platform.as_ref().map(|platform| platform.node.clone()),
            location: location(source, stage.span),
            name,
        }
    };
    to_json(&All { targets: dockerfile.stages.iter().enumerate().map(target).collect(), sources: [encoded(source)] })
}

fn describe_json() -> String {
    #[derive(Serialize)]
    struct Named {
        name: &'static str,
        description: &'static str,
    }
    #[derive(Serialize)]
    struct Request {
        name: String,
        version: &'static str,
        r#type: &'static str,
        description: &'static str,
        opts: Option<Vec<Named>>,
        inputs: Option<Vec<Named>>,
        metadata: Vec<Named>,
        refs: Option<Vec<Named>>,
    }
    let opts = |method: Method| match method {
        Method::Outline => Some(vec![Named { name: "target", description: "Target build stage" }]),
        Method::Targets => Some(Vec::new()),
        Method::Check | Method::Describe => None,
    };
    let requests = REQUESTS.iter().map(|(method, name, description)| Request {
        name: format!("frontend.{name}"),
        version: REQUEST_VERSION,
        r#type: "rpc",
        description,
        opts: opts(*method),
        inputs: None,
        metadata: ["result.json", "result.txt"].map(|name| Named { name, description: "" }).into(),
        refs: None,
    });
    to_json(&requests.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
