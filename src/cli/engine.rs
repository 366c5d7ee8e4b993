//! `--load`: the built image into a container engine of this machine.
//!
//! With buildx the flag says "into the local `docker images`". If this program itself is called `docker`, the local store is that place
//! and nothing is left to do. Otherwise it is the docker or podman on PATH that answers; without one the flag cannot be carried out, and
//! the build does not begin.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use rustix::fs::{Access, access};

use super::Failure;
use super::console::say;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::write_archive;
use super::program::Program;
use crate::export::Destination;
use crate::image::ImageService;

/// The engines that are asked, best first, each with the question that only a living one answers.
const ENGINES: &[(&str, &[&str])] =
    &[("docker", &["version", "--format", "{{.Server.Version}}"]), ("podman", &["info", "--format", "{{.Host.Arch}}"])];

/// What tells a docker that is a copy of this program.
const OWN_MARK: &str = ", build shale-";

/// An engine that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    name: &'static str,
    program: PathBuf,
}

/// The engine that `--load` means; `None` if the local store is meant.
pub fn wanted(environment: &Environment) -> Result<Option<Engine>, Failure> {
    if environment.program == Program::Docker {
        return Ok(None);
    }
    let own = std::env::current_exe().ok().and_then(|path| identity(&path));
    let mut silent = Vec::new();
    for (name, question) in ENGINES {
        for program in on_path(name, environment.get("PATH").unwrap_or_default()) {
            if identity(&program) == own || is_copy(&program) {
                continue;
            }
            match ask(&program, question) {
                Ok(()) => return Ok(Some(Engine { name, program })),
                Err(reason) => silent.push(format!("{}: {reason}", program.display())),
            }
        }
    }
    let mut error = Diagnostic::new("--load needs docker or podman, and neither is here");
    if !silent.is_empty() {
        error = Diagnostic::new("--load needs docker or podman, and neither answers");
        error.causes = silent;
    }
    let hint = "without --load the image is in the local store (`shale images`); `--output type=docker,dest=FILE` writes it to a file";
    Err(error.hint(hint).into())
}

/// The programs of a name on PATH, in its order.
fn on_path(name: &str, path: &str) -> Vec<PathBuf> {
    let dirs = path.split(':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| Path::new(dir).join(name)).filter(|program| program.is_file() && access(program, Access::EXEC_OK).is_ok()).collect()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

fn is_copy(program: &Path) -> bool {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(OWN_MARK))
}

/// Whether it answers; else what it says.
fn ask(program: &Path, question: &[&str]) -> Result<(), String> {
    let said = Command::new(program).args(question).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr);
    Err(text.trim().lines().last().map_or_else(|| said.status.to_string(), str::to_owned))
}

impl Engine {
    /// Streams images of the store into the engine.
    pub fn load(&self, service: &ImageService, names: &[&str]) -> Result<(), Failure> {
        let failed =
            |error: io::Error| Failure::from(Diagnostic::new(format!("cannot start {} load", self.name)).because(error.to_string()));
        let mut child = Command::new(&self.program)
            .arg("load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        // It is listened to while it reads: its own pipes are short.
        let heard = thread::spawn(move || child.wait_with_output());
        let written = write_archive(service, names, None, Destination::Stream(&mut stdin));
        drop(stdin);
        let said = heard.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(failed)?;
        if !said.status.success() {
            let error = Diagnostic::new(format!("{} load failed: {}", self.name, said.status));
            let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(if text.is_empty() { error } else { error.because(text) }.into());
        }
        written?;
        say(&format!("{} load: {}", self.name, String::from_utf8_lossy(&said.stdout)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::test_environment;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn script(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn the_engine_that_answers_is_taken_and_our_own_copy_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let environment = test_environment(&[("PATH", dir.path().to_str().unwrap())]);
        let message = || match wanted(&environment) {
            Err(Failure::Shown(error)) => error.render(),
            other => panic!("{other:?}"),
        };
        assert!(message().starts_with("ERROR: --load needs docker or podman, and neither is here\n"), "{}", message());
        script(dir.path(), "docker", "echo 'Docker version 28.5.2, build shale-0.1.0'");
        assert!(message().contains("neither is here"), "a copy of shale is no engine: {}", message());
        script(dir.path(), "docker", "echo 'Cannot connect' >&2; exit 1");
        assert!(message().contains("neither answers\n  because: ") && message().contains("/docker: Cannot connect\n"), "{}", message());
        script(dir.path(), "podman", "exit 0");
        assert_eq!(wanted(&environment).unwrap().map(|engine| engine.name), Some("podman"));
        let as_docker = Environment { program: Program::Docker, ..environment };
        assert_eq!(wanted(&as_docker).unwrap(), None, "the store is where docker's images are");
    }
}
