//! Every sentence that BuildKit refuses a Dockerfile with, and the line that it is about: `testdata/front/errors.txt`.

use std::path::Path;

use shale::dockerfile;
use shale::oci::config::{ImageConfig, RunConfig};
use shale::plan::{self, BaseImage, BaseImages, LowerError, PlanError, PlanOptions};
use shale::span::SourceFile;

/// An image of any name. The tag of `example/onbuild` is its trigger.
fn base(name: &str, options: &PlanOptions) -> ImageConfig {
    let mut config = ImageConfig::scratch(&options.build_platform);
    if let Some((_, trigger)) = name.split_once("example/onbuild:") {
        config.config = RunConfig { on_build: Some(vec![trigger.replace('-', " ")]), ..config.config };
    }
    config
}

/// All errors as (line, sentence); none for a Dockerfile that can be built.
fn errors(text: &str, options: &PlanOptions) -> Vec<(usize, String)> {
    let source = SourceFile::new("Dockerfile", text);
    let (parsed, errors) = dockerfile::parse(&source);
    let Some(parsed) = parsed else {
        return errors.iter().map(|error| (error.line, error.sentence())).collect();
    };
    let told = |errors: Vec<PlanError>| -> Vec<(usize, String)> {
        let line = |error: &PlanError| error.span.map_or(0, |span| source.lines_of(span).0);
        errors.iter().map(|error| (line(error), error.to_string())).collect()
    };
    let refs = match plan::image_refs(&parsed, options) {
        Ok(refs) => refs,
        Err(errors) => return told(errors),
    };
    let mut bases = BaseImages::new();
    for image in refs {
        let config = base(&image.key.name, options);
        bases.insert(image.key, BaseImage { id: plan::graph::BaseId(bases.len()), config, digest: None });
    }
    match plan::lower(&parsed, &source, options, &bases) {
        Ok(_) => Vec::new(),
        Err(LowerError::Errors(errors)) => told(errors),
        Err(LowerError::NeedsImages(images)) => panic!("{text}: {images:?}"),
    }
}

/// `{target x} FROM …` → options and text.
fn row(line: &str) -> (PlanOptions, String) {
    let mut options = PlanOptions::default();
    let (given, text) = line.strip_prefix('{').and_then(|rest| rest.split_once("} ")).unwrap_or(("", line));
    if let Some(target) = given.strip_prefix("target ") {
        options.target = Some(target.into());
    }
    let text = if text == "(nothing)" { String::new() } else { text.replace("\\n", "\n").replace("\\t", "\t") };
    (options, text)
}

#[test]
fn sentences_and_lines_are_buildkit_s() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/front/errors.txt");
    let table = std::fs::read_to_string(table).expect("our table");
    let mut lines = table.lines().peekable();
    let (mut rows, mut wrong) = (0, Vec::new());
    while let Some(line) = lines.next() {
        let Some(expected) = lines.peek().and_then(|next| next.strip_prefix("  ")) else { continue };
        let (options, text) = row(line);
        let (number, sentence) = expected.split_once(' ').expect("a line and a sentence");
        let expected = match number.strip_suffix('!') {
            Some(number) => (number.parse().expect("a line"), format!("dockerfile parse error on line {number}: {sentence}")),
            None => (number.parse().expect("a line"), sentence.to_owned()),
        };
        let said = errors(&text, &options);
        rows += 1;
        if said.first() != Some(&expected) {
            wrong.push(format!("{line}\n  said     {:?}\n  expected {expected:?}", said.first()));
        }
    }
    assert!(rows > 150, "only {rows} rows");
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_line_may_have_65535_bytes() {
    let file = |length: usize, end: &str| format!("FROM scratch\nLABEL a={}{end}", "x".repeat(length - "LABEL a=".len()));
    for (length, end, is_read) in [(65_535, "\n", true), (65_535, "", true), (65_536, "\n", false), (65_536, "", false)] {
        let said = errors(&file(length, end), &PlanOptions::default());
        let expected = (2, "dockerfile line greater than max allowed size of 65535".to_owned());
        assert_eq!(said, if is_read { vec![] } else { vec![expected] }, "{length} {end:?}");
    }
}

#[test]
fn every_error_is_told_at_once() {
    let said = errors("FROM scratch\nCOPPY a b\nCOPY a\n\nSTOPSIGNAL\n", &PlanOptions::default());
    let lines: Vec<usize> = said.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 3, 5]);
    let said = errors("FROM scratch\nWORKDIR ${\nSTOPSIGNAL SIGFOO\n", &PlanOptions::default());
    assert_eq!(said.len(), 2, "{said:?}");
}
