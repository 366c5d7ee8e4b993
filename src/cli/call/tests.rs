use super::*;
use crate::dockerfile::parse;
use crate::plan::outline::{OutlineArg, OutlineMount};

const FILE: &str = "\
# base has the tools
FROM --platform=$BUILDPLATFORM busybox AS Base
# VERSION is what is built
ARG VERSION=1
RUN --mount=type=secret,id=token \\
  true
from base
";

fn source() -> SourceFile {
    SourceFile::new("Dockerfile", FILE)
}

fn span_of(text: &str) -> Span {
    let start = FILE.find(text).expect("the text is in the file");
    Span::new(start, start + text.len())
}

fn asked(method: Method, json: bool) -> Call {
    Call { method, json, ignore_status: false }
}

fn warning() -> Warning {
    Warning {
        rule: "ConsistentInstructionCasing",
        text: "Command 'from' should match the case of the command majority (uppercase)".into(),
        span: Some(span_of("from base")),
    }
}

fn check(warnings: Vec<Warning>, error: Option<BuildError>) -> Answer {
    Answer::Check { source: source(), warnings, error: error.map(Box::new) }
}

fn outline() -> Answer {
    let run = span_of("RUN --mount=type=secret,id=token \\\n  true");
    let outline = Outline {
        name: "base".into(),
        description: "has the tools".into(),
        args: vec![OutlineArg {
            name: "VERSION".into(),
            description: "is what is built".into(),
            value: "1".into(),
            span: span_of("ARG VERSION=1"),
        }],
        secrets: vec![OutlineMount { id: "token".into(), required: false, span: run }],
        ssh: vec![OutlineMount { id: "default".into(), required: true, span: run }],
    };
    Answer::Outline { source: source(), outline: Box::new(outline) }
}

fn targets() -> Answer {
    Answer::Targets { source: source(), dockerfile: Box::new(parse(&source()).0.expect("it parses")) }
}

#[test]
fn a_check_without_violations_says_so() {
    let printed = render(&check(vec![], None), asked(Method::Check, false));
    assert_eq!(printed, Printed { result: "Check complete, no warnings found.\n".into(), ..Printed::default() });
}

#[test]
fn violations_have_address_and_place() {
    let printed = render(&check(vec![warning()], None), asked(Method::Check, false));
    assert!(printed.is_bad && printed.errors.is_empty());
    assert_eq!(
        printed.result,
        "Check complete, 1 warning has been found!\n\
         \n\
         WARNING: ConsistentInstructionCasing - https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/\n\
         Command 'from' should match the case of the command majority (uppercase)\n\
         Dockerfile:7\n\
         --------------------\n\
         \x20  5 |     RUN --mount=type=secret,id=token \\\n\
         \x20  6 |       true\n\
         \x20  7 | >>> from base\n\
         \x20  8 |     \n\
         --------------------\n"
    );
    let two = render(&check(vec![warning(), warning()], None), asked(Method::Check, false));
    assert!(two.result.starts_with("Check complete, 2 warnings have been found!\n"), "{}", two.result);
    let ignored = Call { ignore_status: true, ..asked(Method::Check, false) };
    assert!(!render(&check(vec![warning()], None), ignored).is_bad);
}

#[test]
fn an_error_of_the_file_is_part_of_the_answer() {
    let file = SourceFile::new("Dockerfile", "FROM scratch\nBOGUS x\n");
    let errors = parse(&file).1;
    let failed = |warnings| check(warnings, Some(BuildError::Parse { file: file.clone(), errors: errors.clone() }));
    let printed = render(&failed(vec![]), asked(Method::Check, false));
    assert!(printed.is_bad && printed.result.is_empty());
    assert!(
        printed.errors.starts_with("ERROR: dockerfile parse error on line 2: unknown instruction: BOGUS\nhint: "),
        "{}",
        printed.errors
    );
    assert!(printed.errors.ends_with("   2 | >>> BOGUS x\n   3 |     \n--------------------\n"), "{}", printed.errors);
    let both = render(&failed(vec![warning()]), asked(Method::Check, false));
    assert!(both.result.ends_with("--------------------\n\n"), "{}", both.result);
    let json: serde_json::Value = serde_json::from_str(&render(&failed(vec![]), asked(Method::Check, true)).result).expect("JSON");
    assert_eq!(json["warnings"], serde_json::Value::Null);
    assert_eq!(json["buildError"]["message"], "dockerfile parse error on line 2: unknown instruction: BOGUS");
    assert_eq!(json["buildError"]["location"]["ranges"], serde_json::json!([{ "start": { "line": 2 }, "end": { "line": 2 } }]));
}

#[test]
fn the_json_of_a_check_has_buildkit_s_names() {
    let printed = render(&check(vec![warning()], None), asked(Method::Check, true));
    assert!(printed.is_bad);
    let json: serde_json::Value = serde_json::from_str(&printed.result).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "warnings": [{
                "ruleName": "ConsistentInstructionCasing",
                "description": "All commands within the Dockerfile should use the same casing (either upper or lower)",
                "url": "https://docs.docker.com/go/dockerfile/rule/consistent-instruction-casing/",
                "detail": "Command 'from' should match the case of the command majority (uppercase)",
                "location": { "ranges": [{ "start": { "line": 7 }, "end": { "line": 7 } }] },
            }],
            "sources": [{ "filename": "Dockerfile", "data": STANDARD.encode(FILE), "language": "Dockerfile" }],
        })
    );
}

#[test]
fn outlines() {
    assert_eq!(
        render(&outline(), asked(Method::Outline, false)).result,
        "TARGET:      base\n\
         DESCRIPTION: has the tools\n\
         \n\
         BUILD ARG   VALUE   DESCRIPTION\n\
         VERSION     1       is what is built\n\
         \n\
         SECRET   REQUIRED\n\
         token    \n\
         \n\
         SSH       REQUIRED\n\
         default   true\n\
         \n"
    );
    let json: serde_json::Value = serde_json::from_str(&render(&outline(), asked(Method::Outline, true)).result).expect("JSON");
    let line = |line: usize| serde_json::json!({ "start": { "line": line }, "end": { "line": line } });
    assert_eq!(
        json,
        serde_json::json!({
            "name": "base",
            "description": "has the tools",
            "args": [{ "name": "VERSION", "description": "is what is built", "value": "1", "location": { "ranges": [line(4)] } }],
            "secrets": [{ "name": "token", "location": { "ranges": [line(5), line(6)] } }],
            "ssh": [{ "name": "default", "required": true, "location": { "ranges": [line(5), line(6)] } }],
            "sources": [STANDARD.encode(FILE)],
        })
    );
}

#[test]
fn targets_are_listed_in_order() {
    assert_eq!(
        render(&targets(), asked(Method::Targets, false)).result,
        "TARGET    DESCRIPTION\n\
         base      has the tools\n\
         (default) \n"
    );
    let json: serde_json::Value = serde_json::from_str(&render(&targets(), asked(Method::Targets, true)).result).expect("JSON");
    let line = |line: usize| serde_json::json!({ "ranges": [{ "start": { "line": line }, "end": { "line": line } }] });
    assert_eq!(
        json["targets"],
        serde_json::json!([
            { "name": "base", "description": "has the tools", "base": "busybox", "platform": "$BUILDPLATFORM", "location": line(2) },
            { "default": true, "base": "base", "location": line(7) },
        ])
    );
}

#[test]
fn questions_describe_themselves() {
    let text = render(&Answer::Describe, asked(Method::Describe, false)).result;
    assert_eq!(text.lines().next(), Some("NAME                 VERSION DESCRIPTION"));
    assert!(text.contains("outline              1.0.0   List all parameters"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&render(&Answer::Describe, asked(Method::Describe, true)).result).expect("JSON");
    assert_eq!(json[2]["name"], "frontend.subrequests.describe");
}
