//! Runs a Jenkinsfile as far as images go: its `sh` steps as they stand, and for the calls of the Docker Pipeline plugin the commands
//! that the plugin runs (docker-workflow-plugin: `Docker.groovy`, `RegistryEndpointStep`).

use std::fs;

use super::agent::Agent;
use super::{Lab, Said};

/// One thing that the pipeline does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `stage('…') {`
    Stage(String),
    /// `sh '…'`
    Shell(String),
    /// `docker.withRegistry(url, …) {`
    Registry(String),
    /// The brace that ends it.
    EndOfRegistry,
    /// `docker.build(image, arguments)`
    Build(String, String),
    /// `docker.image(name).pull()`
    Pull(String),
    /// `image.push()`, `image.push(tag)`
    Push(Option<String>),
}

/// Reads the calls of a Jenkinsfile; `value` gives what `${NAME}` stands for in Groovy's double quotes.
pub fn calls(text: &str, value: &dyn Fn(&str) -> String) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut registries: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let words = |line: &str| quoted(line, value);
        let first = |line: &str| words(line).into_iter().next().unwrap_or_else(|| panic!("no text in {line}"));
        if line.starts_with("sh '''") {
            let script: Vec<&str> = lines.by_ref().take_while(|line| *line != "'''").collect();
            calls.push(Call::Shell(script.join("\n")));
            continue;
        }
        if line.starts_with("sh ") {
            calls.push(Call::Shell(first(line)));
        } else if line.starts_with("stage(") {
            calls.push(Call::Stage(first(line)));
        } else if line.starts_with("docker.withRegistry(") {
            calls.push(Call::Registry(first(line)));
            registries.push(depth);
        } else if line.contains("docker.build(") {
            let words = words(line);
            calls.push(Call::Build(words[0].clone(), words.get(1).cloned().unwrap_or_else(|| ".".into())));
        } else if line.contains(").pull()") {
            calls.push(Call::Pull(first(line)));
        } else if line.contains(".push(") {
            calls.push(Call::Push(words(line).into_iter().next()));
        } else if line == "}" && registries.last() == Some(&(depth - 1)) {
            registries.pop();
            calls.push(Call::EndOfRegistry);
        }
        depth += usize::from(line.ends_with('{'));
        depth -= usize::from(line == "}");
    }
    calls
}

/// The texts in quotes of a line; Groovy fills those in double quotes.
fn quoted(line: &str, value: &dyn Fn(&str) -> String) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = &rest[start..=start];
        let Some(end) = rest[start + 1..].find(quote) else { break };
        let text = &rest[start + 1..start + 1 + end];
        texts.push(if quote == "\"" { filled(text, value) } else { text.to_owned() });
        rest = &rest[start + end + 2..];
    }
    texts
}

fn filled(text: &str, value: &dyn Fn(&str) -> String) -> String {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').expect("a closing brace");
        out += &(value(name) + rest);
    }
    out
}

/// Runs the calls in order. Returns what each shell said, with its stage and script; it ends with the first failure.
pub fn run(lab: &Lab, agent: &mut Agent<'_>, calls: &[Call]) -> Vec<(String, String, Said)> {
    let mut done: Vec<(String, String, Said)> = Vec::new();
    let mut stage = String::new();
    let mut image = String::new();
    let var = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    for call in calls {
        let steps: Vec<(String, Vec<(String, String)>)> = match call {
            Call::Stage(name) => {
                stage.clone_from(name);
                vec![]
            }
            Call::Shell(script) => vec![(script.clone(), vec![])],
            Call::Registry(url) => {
                // The credentials of the home stay out of the configuration that the block gets.
                let config = lab.write("registry-secrets/config.json", "{}\n");
                agent.set("DOCKER_CONFIG", config.parent().and_then(|dir| dir.to_str()).expect("text"));
                vec![(format!("docker login -u \"$USERNAME\" -p \"$PASSWORD\" {url}"), vec![])]
            }
            Call::EndOfRegistry => {
                fs::remove_dir_all(lab.work("registry-secrets")).expect("the folder is there");
                agent.environment.retain(|(name, _)| name != "DOCKER_CONFIG");
                vec![]
            }
            Call::Build(name, arguments) => {
                image.clone_from(name);
                vec![(format!("docker build -t \"$JD_IMAGE\" {arguments}"), var("JD_IMAGE", name))]
            }
            Call::Pull(name) => vec![("docker pull \"$JD_TO_PULL\"".into(), var("JD_TO_PULL", name))],
            Call::Push(tag) => {
                let bare = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image.as_str(), |(bare, _)| bare);
                let target = tag.as_ref().map_or_else(|| image.clone(), |tag| format!("{bare}:{tag}"));
                let both = [var("JD_ID", &image), var("JD_TAGGED_IMAGE_NAME", &target)].concat();
                vec![
                    ("docker tag \"$JD_ID\" \"$JD_TAGGED_IMAGE_NAME\"".into(), both),
                    ("docker push \"$JD_TAGGED_IMAGE_NAME\"".into(), var("JD_TAGGED_IMAGE_NAME", &target)),
                ]
            }
        };
        for (script, variables) in steps {
            let said = agent.step(&script, &variables);
            let ok = said.ok();
            done.push((stage.clone(), script, said));
            if !ok {
                return done;
            }
        }
    }
    done
}
