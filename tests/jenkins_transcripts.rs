//! What Jenkins' Docker Pipeline plugin and plain Jenkinsfiles call, run as Jenkins runs it: what was said on which stream, and the exit
//! code. The transcripts lie in `testdata/jenkins`; `docker` in them is shale.
//!
//! A transcript is a list of steps, separated by empty lines:
//!
//! ```text
//! NAME=value      a variable of the step
//! $ command       a line of the step's script
//! > text          a line of standard output; all lines are told
//! ! text          a line of standard error; others may stand before, between and behind
//! ? 1             the exit code, if it is not 0
//! ```
//!
//! `…` in an expected line stands for any text, `REGISTRY` for the registry's address.

mod support;

use std::fs;
use std::path::Path;

use support::agent::Agent;
use support::registry::{PASSWORD, Registry, USER};
use support::{Lab, as_everybody};

#[derive(Debug, Default)]
struct Step {
    line: usize,
    variables: Vec<(String, String)>,
    script: String,
    stdout: Vec<String>,
    stderr: Vec<String>,
    code: i32,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut step = Step::default();
    for (number, line) in text.lines().chain([""]).enumerate() {
        let rest = line.get(2..).unwrap_or_default().to_owned();
        match line.chars().next() {
            None => {
                if !step.script.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
            }
            Some('#') => {}
            Some('$') => {
                step.line = number + 1;
                step.script.push_str(&rest);
                step.script.push('\n');
            }
            Some('>') => step.stdout.push(rest),
            Some('!') => step.stderr.push(rest),
            Some('?') => step.code = rest.parse().expect("a number"),
            Some(_) => {
                let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("line {}: {line}", number + 1));
                step.variables.push((name.into(), value.into()));
            }
        }
    }
    steps
}

/// Whether a line is the expected one, in which `…` is any text.
fn matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn play(lab: &Lab, agent: &Agent<'_>, registry: &str, text: &str) {
    for step in steps(text) {
        let said = agent.step(&step.script, &step.variables);
        let place = format!("{:?}, line {}: {}", lab.who(), step.line, step.script);
        let shown = format!("{place}\n-- exit code {}\n-- stdout\n{}-- stderr\n{}", said.code, said.stdout, said.stderr);
        assert_eq!(said.code, step.code, "{shown}");
        let known = |line: &String| line.replace("REGISTRY", registry);
        let stdout: Vec<&str> = said.stdout.lines().collect();
        let expected: Vec<String> = step.stdout.iter().map(known).collect();
        let all = stdout.len() == expected.len() && expected.iter().zip(&stdout).all(|(expected, line)| matches(expected, line));
        assert!(all, "expected on standard output:\n{}\n\n{shown}", expected.join("\n"));
        let mut stderr = said.stderr.lines();
        for expected in step.stderr.iter().map(known) {
            assert!(stderr.any(|line| matches(&expected, line)), "not on standard error, or not in this order:\n{expected}\n\n{shown}");
        }
    }
}

fn transcript(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/jenkins").join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn prepare(lab: &Lab) {
    lab.load_busybox();
    for (name, content) in [
        ("Dockerfile", "FROM busybox\nARG A=none\nRUN echo \"$A\" >/said\nCMD [\"cat\", \"/said\"]\n"),
        ("docker/Dockerfile", "FROM busybox AS t\nARG A\nRUN echo \"$A\" >/t\nFROM busybox\nRUN false\n"),
        ("secret/Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=npmrc wc -c </run/secrets/npmrc >/size\n"),
        ("fail/Dockerfile", "FROM busybox\nRUN exit 7\n"),
        ("empty/Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY Dockerfile /\n"),
        ("npmrc", "token\n"),
        ("config/config.json", "{}"),
    ] {
        lab.write(name, content);
    }
}

#[test]
fn images_without_a_registry() {
    as_everybody(|lab| {
        prepare(lab);
        play(lab, &Agent::new(lab), "", &transcript("local.txt"));
    });
}

#[test]
fn images_and_a_registry_that_asks_for_a_password() {
    as_everybody(|lab| {
        let Some(registry) = Registry::with_user(&lab.path("etc")) else { return };
        prepare(lab);
        let mut agent = Agent::new(lab);
        for (name, value) in [("REGISTRY", registry.host.as_str()), ("U", USER), ("PW", PASSWORD)] {
            agent.set(name, value);
        }
        for name in ["registry.txt", "manifests.txt"] {
            play(lab, &agent, &registry.host, &transcript(name));
        }
    });
}
