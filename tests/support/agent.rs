//! A Jenkins agent: steps are run by `sh -xe` without a terminal, and `docker` on PATH is shale.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Lab, Said};

/// An agent in a laboratory.
pub struct Agent<'a> {
    lab: &'a Lab,
    /// Variables that every step has.
    pub environment: Vec<(String, String)>,
}

impl<'a> Agent<'a> {
    /// The agent, with the tool folder that Jenkins puts before PATH.
    pub fn new(lab: &'a Lab) -> Self {
        let bin = lab.path("bin");
        fs::create_dir_all(&bin).expect("mkdir");
        symlink(lab.path("shale"), bin.join("docker")).expect("a link");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let environment = [
            ("PATH", path.as_str()),
            ("BUILD_NUMBER", "7"),
            ("BUILD_TAG", "jenkins-app-7"),
            ("JENKINS_NODE_COOKIE", "0f1e2d3c"),
            ("SOURCE_DATE_EPOCH", "1700000000"),
        ];
        Self { lab, environment: environment.map(|(name, value)| (name.into(), value.into())).to_vec() }
    }

    /// Sets a variable for all steps that follow.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Runs a step with variables of its own.
    pub fn step(&self, script: &str, variables: &[(String, String)]) -> Said {
        let file: PathBuf = self.lab.path("script.sh");
        fs::write(&file, script).expect("write");
        let mut command: Command = self.lab.command_of("sh", &["-xe", file.to_str().expect("text")]);
        command.envs(self.environment.iter().cloned()).envs(variables.iter().cloned()).stdin(Stdio::null());
        Said::of(command.output().expect("sh starts"))
    }
}
