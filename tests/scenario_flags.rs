//! Every flag of Docker's build commands works, says that it has no effect, or is refused by name: `testdata/flags/build.txt`.

mod support;

use std::fs;

use support::{Lab, Said, Who};

#[test]
fn no_flag_is_ignored_in_silence() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch AS last\nARG A\nCOPY Dockerfile /\n")]);
    let _agent = std::os::unix::net::UnixListener::bind(lab.work("agent.sock")).expect("a socket");
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/flags/build.txt")).expect("the table");
    let rows: Vec<&str> = table.lines().filter(|row| !row.starts_with('#') && !row.is_empty()).collect();
    assert!(rows.len() > 70, "the table is not whole");
    let mut wrong = Vec::new();
    for row in rows {
        let (verdict, line) = row.split_once(" | ").expect("a verdict and a command line");
        let words: Vec<&str> = line.split(' ').collect();
        let mut build = lab.shale(&[&["build"][..], &words, &["ctx"]].concat());
        // No docker or podman that `--load` would fill.
        let said = Said::of(build.env("PATH", lab.path("home")).output().expect("shale starts"));
        let flag = words[0].split('=').next().unwrap_or_default();
        // A short flag is told by its long name, an attribute by its own.
        let names: Vec<&str> = match flag {
            "-m" => vec!["--memory"],
            "-c" => vec!["--cpu-shares"],
            "-D" => vec!["--debug"],
            // Without a name, in BuildKit's words.
            "--push" => vec!["pushing to registry"],
            "--load" => vec!["docker or podman"],
            "-o" => words[1].split(',').skip(1).map(|field| field.split('=').next().unwrap_or_default()).chain(["registry"]).collect(),
            flag => vec![flag],
        };
        let lines: Vec<&str> = said.stderr.lines().filter(|line| names.iter().any(|name| line.contains(name))).collect();
        let warned = said.ok() && lines.iter().filter(|line| line.contains("has no effect")).count() == 1;
        let refused = !said.ok() && !lines.is_empty() && !said.stderr.contains("unknown flag");
        let fits = match verdict {
            "works" => said.ok() && !said.stderr.contains("has no effect"),
            "warns" => warned,
            "refused" => refused,
            "unreachable" => !said.ok() && said.stderr.contains("cannot reach 127.0.0.1:1: Connection refused"),
            _ => panic!("{row}"),
        };
        if !fits {
            wrong.push(format!("{row}: exit {}\n{}", said.code, said.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
