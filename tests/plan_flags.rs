//! Nothing that an instruction says is dropped: each flag of `testdata/flags/instructions.txt` changes the plan, or is refused by name.

use std::collections::BTreeSet;
use std::fs;

use shale::dockerfile::parse;
use shale::plan::{self, Allowed, AllowedDevices, BaseImages, PlanOptions};
use shale::span::SourceFile;

/// The plan of a file without what is only shown, or what was refused.
fn plan_of(instruction: &str) -> Result<String, String> {
    let text = match instruction.strip_prefix("FROM") {
        Some(_) => format!("{instruction}\nCOPY x /\n"),
        None => format!("FROM scratch AS a\nFROM scratch\n{instruction}\n"),
    };
    let source = SourceFile::new("Dockerfile", text);
    let dockerfile = match parse(&source) {
        (Some(dockerfile), _) => dockerfile,
        (None, errors) => return Err(errors.iter().map(shale::dockerfile::ParseError::sentence).collect()),
    };
    let allowed = Allowed { network_host: true, insecure: true, devices: AllowedDevices::All };
    let options = PlanOptions { allowed, ..PlanOptions::default() };
    match plan::lower(&dockerfile, &source, &options, &BaseImages::new()) {
        Ok(plan) => {
            let steps: Vec<_> = plan.graph.vertices.iter().map(|vertex| (&vertex.op, vertex.parent, &vertex.platform)).collect();
            Ok(format!("{steps:?}"))
        }
        Err(plan::LowerError::Errors(errors)) => Err(errors.iter().map(|error| format!("{error}\n")).collect()),
        Err(plan::LowerError::NeedsImages(images)) => Ok(images.iter().map(|image| format!("{:?}", image.key)).collect()),
    }
}

#[test]
fn every_flag_changes_the_plan_or_is_refused_by_name() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/flags/instructions.txt")).expect("the table");
    let mut seen = BTreeSet::new();
    for row in table.lines().filter(|row| !row.starts_with('#') && !row.is_empty()) {
        let [instruction, without, with, rest] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else { panic!("{row}") };
        let before = plan_of(&format!("{instruction} {without} {rest}"));
        let after = plan_of(&format!("{instruction} {with} {rest}"));
        let flag = with.split(['=', ' ']).next().unwrap_or_default();
        match (before, after) {
            (Ok(before), Ok(after)) => assert_ne!(before, after, "{row}: the plan has lost it"),
            (_, Err(error)) => assert!(error.contains(flag), "{row}: refused, but not by its name: {error}"),
            // What is wrong without the flag cannot tell.
            (Err(_), Ok(_)) => {}
        }
        seen.insert((instruction.to_owned(), flag.to_owned()));
    }
    let of = |instruction: &str| seen.iter().filter(|(own, _)| own == instruction).count();
    assert_eq!((of("FROM"), of("RUN"), of("COPY"), of("ADD")), (1, 4, 6, 7), "the table is not whole");
}
