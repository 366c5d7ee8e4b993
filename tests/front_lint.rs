//! Every rule of BuildKit's linter with good and bad examples of our own: `testdata/front/lint.txt`.

use std::path::Path;

use shale::dockerfile;
use shale::dockerfile::lint::{CheckOptions, RULES, find_rule, lint_stages};
use shale::oci::config::ImageConfig;
use shale::plan::{self, BaseImage, BaseImages, PlanOptions};
use shale::source::ignore::Ignore;
use shale::span::SourceFile;

/// What a name says of the image: `example/shell` has a SHELL, `example/arm` another platform, the tag of `example/onbuild` is a trigger.
fn base(name: &str, options: &PlanOptions) -> ImageConfig {
    let mut config = ImageConfig::scratch(&options.build_platform);
    if name.contains("example/shell") {
        config.config.shell = Some(vec!["/bin/bash".into(), "-c".into()]);
    } else if name.contains("example/arm") {
        config.architecture = "arm64".into();
    } else if let Some((_, trigger)) = name.split_once("example/onbuild:") {
        config.config.on_build = Some(vec![trigger.replace('-', " ")]);
    }
    config
}

/// What a check says of a Dockerfile: (line, rule, detail).
fn warnings(text: &str, options: &PlanOptions, ignore: &Ignore) -> Vec<(usize, &'static str, String)> {
    let source = SourceFile::new("Dockerfile", text);
    let (parsed, errors) = dockerfile::parse(&source);
    let parsed = parsed.unwrap_or_else(|| panic!("{text}: {errors:?}"));
    let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let check = given.map_or_else(|| CheckOptions::of(&parsed), |text| CheckOptions::parse(text)).expect("options");
    let mut bases = BaseImages::new();
    for image in plan::image_refs(&parsed, options).expect("a table of stages") {
        let config = base(&image.key.name, options);
        bases.insert(image.key, BaseImage { id: plan::graph::BaseId(bases.len()), config, digest: None });
    }
    let plan = plan::lower(&parsed, &source, options, &bases).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut all = lint_stages(&parsed, &check, &plan.stages);
    all.extend(plan.warnings.iter().filter(|warning| warning.is_violation()).cloned());
    all.extend(plan.copies_of(|path| ignore.surely_ignores(path)));
    let line = |span| source.lines_of(span).0;
    let mut all: Vec<_> = all.into_iter().map(|w| (line(w.span.expect("every rule has a place")), w.rule, w.text)).collect();
    all.sort();
    all
}

/// `{arg A=b} FROM …` → options, ignore file and text.
fn row(line: &str) -> (PlanOptions, Ignore, String) {
    let (given, text) = line.strip_prefix('{').and_then(|rest| rest.split_once("} ")).unwrap_or(("", line));
    let (mut options, mut ignore) = (PlanOptions::default(), Ignore::none());
    match given.split_once(' ') {
        Some(("arg", arg)) => {
            let (name, value) = arg.split_once('=').expect("NAME=value");
            options.build_args.insert(name.into(), value.into());
        }
        Some(("ignore", patterns)) => {
            ignore = Ignore::parse(".dockerignore", patterns.replace(' ', "\n").as_bytes()).expect("patterns");
        }
        _ => options.all_stages = given == "all",
    }
    (options, ignore, text.replace("\\n", "\n"))
}

#[test]
fn every_rule_has_good_and_bad_examples() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/front/lint.txt");
    let table = std::fs::read_to_string(table).expect("our table");
    let mut lines = table.lines().peekable();
    let mut rule = "";
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix("= ") {
            let (name, page) = head.split_once(' ').expect("a name and a page");
            let known = find_rule(name).unwrap_or_else(|| panic!("no rule {name}"));
            let url = if page == "-" { String::new() } else { format!("https://docs.docker.com/go/dockerfile/rule/{page}/") };
            assert_eq!(known.url(), url, "{name}");
            rule = known.name;
            continue;
        }
        let mut expected = Vec::new();
        while let Some(said) = lines.peek().and_then(|next| next.strip_prefix("  ")) {
            expected.push(said.to_owned());
            lines.next();
        }
        if expected.is_empty() {
            continue;
        }
        let (options, ignore, text) = row(line);
        let of_rule = warnings(&text, &options, &ignore).into_iter().filter(|(_, found, _)| *found == rule);
        let mut said: Vec<_> = of_rule.map(|(line, _, detail)| format!("{line} {detail}")).collect();
        if said.is_empty() {
            said.push("none".into());
        }
        seen.push((rule, said == ["none"]));
        if said != expected {
            wrong.push(format!("{rule}: {line}\n  said     {said:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for rule in RULES {
        assert!(seen.contains(&(rule.name, true)) && seen.contains(&(rule.name, false)), "{} lacks a good or a bad example", rule.name);
    }
}
