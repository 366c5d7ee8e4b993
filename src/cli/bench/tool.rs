//! The builders that are measured: shale itself, and others that are on PATH.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::Failure;
use super::scenario::Scenario;
use super::subject::{Image, Subject};
use crate::cli::console::warn;
use crate::cli::diagnostic::Diagnostic;
use crate::cli::environment::Environment;
use crate::oci::reference::Reference;

/// This program, whatever its file is called and wherever it lies.
const OURSELVES: &str = "/proc/self/exe";

/// Lines that are shown of a program that failed.
const TAIL: usize = 20;

/// A kind of builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Shale,
    Docker,
    Buildah,
    Podman,
}

impl Kind {
    /// Reads a name of `--against`.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "docker" => Ok(Self::Docker),
            "buildah" => Ok(Self::Buildah),
            "podman" => Ok(Self::Podman),
            _ => Err(format!("--against knows docker, buildah and podman, not {name:?}")),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shale => "shale",
            Self::Docker => "docker",
            Self::Buildah => "buildah",
            Self::Podman => "podman",
        }
    }
}

/// A command line in the making.
#[derive(Clone, Debug)]
pub(super) struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    /// The store, where the program is shale.
    store: Option<PathBuf>,
    /// A variable that decides how another builder goes about it, with its value.
    variable: Option<(&'static str, &'static str)>,
}

/// Which builder `docker build` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DockerBuilder {
    /// The plugin, which can give images other names.
    Buildx,
    /// BuildKit in the daemon, asked by a client before 23.0.
    BuildKit,
    /// The one that later clients fall back on without the plugin.
    Legacy,
}

impl DockerBuilder {
    fn of(version: &str, help: &str) -> Self {
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match major {
            _ if help.contains("--build-context") => Self::Buildx,
            Some(..23) => Self::BuildKit,
            _ => Self::Legacy,
        }
    }

    fn variable(self) -> (&'static str, &'static str) {
        ("DOCKER_BUILDKIT", if self == Self::Legacy { "0" } else { "1" })
    }
}

/// A program that ended with an error.
#[derive(Debug)]
pub(super) struct Failed {
    what: String,
    output: String,
}

impl Failed {
    /// What it said last.
    pub(super) fn last_line(&self) -> &str {
        self.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or(&self.what).trim()
    }
}

impl Failed {
    /// What podman and buildah say of a container that does not start; `None` if a command failed by itself.
    fn container_error(&self) -> Option<&str> {
        let line = self.output.lines().find(|line| line.starts_with("error running container: "))?;
        line.rsplit_once("]: ").map(|(_, why)| why)
    }

    /// Its last lines.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.output.trim_end().lines().rev().take(TAIL).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        // The log lies in a store that is deleted, and what was said on the way to the error is no cause.
        let is_told = |line: &&str| !line.starts_with("full output of the step: ") && !line.starts_with("WARNING: ");
        let cause = failed.tail().lines().filter(is_told).collect::<Vec<_>>().join("\n");
        Diagnostic::new(format!("{} failed", failed.what)).because(cause.strip_prefix("ERROR: ").unwrap_or(&cause)).into()
    }
}

impl Command {
    fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), store: None, variable: None }
    }

    pub(super) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(super) fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    fn process(&self) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        if let Some(store) = &self.store {
            command.arg0(Kind::Shale.name()).env("SHALE_ROOT", store);
        }
        command.envs(self.variable);
        command
    }

    /// Runs it and returns its standard output.
    pub(super) fn run(&self) -> Result<String, Failed> {
        let mut process = self.process();
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        let out = super::process::run(&mut process, Child::wait_with_output).map_err(|error| self.failed(error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if out.status.success() { Ok(text(&out.stdout)) } else { Err(self.failed(text(&out.stdout) + &text(&out.stderr))) }
    }

    /// Runs it with both streams into a file, for as long as it takes. What shale left behind before, a load as well as a build, ends first.
    fn timed(&self, log: &Path) -> Result<Timed, Failed> {
        let open = || File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = open().map_err(|error| self.failed(error.to_string()))?;
        let mut process = self.process();
        process.stdout(out).stderr(err);
        super::process::await_afterwork();
        let start = Instant::now();
        let status = super::process::run(&mut process, |mut child| child.wait()).map_err(|error| self.failed(error.to_string()))?;
        let seconds = start.elapsed().as_secs_f64();
        let behind = self.store.is_some().then(|| super::process::await_afterwork().as_secs_f64());
        let said = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        if status.success() { Ok(Timed { seconds, behind, said }) } else { Err(self.failed(said)) }
    }

    fn failed(&self, output: String) -> Failed {
        let name = if self.store.is_some() { Kind::Shale.name().into() } else { self.program.to_string_lossy() };
        let deed = self.args.iter().find(|arg| !arg.as_encoded_bytes().starts_with(b"-")).map(|arg| arg.to_string_lossy());
        Failed { what: format!("{name} {}", deed.unwrap_or_default()), output }
    }

    /// Empties shale's store, layers of mapped ids included.
    pub(super) fn empty(&self) {
        let Some(store) = &self.store else { return };
        if !store.exists() {
            return;
        }
        let emptied = self.clone().args(["system", "prune", "--all", "--force"]).run();
        if let Err(failed) = emptied {
            warn(&format!("{} could not be emptied: {}", store.display(), failed.last_line()));
        }
        super::process::await_afterwork();
        drop(fs::remove_dir_all(store));
    }
}

/// A program that was measured.
struct Timed {
    seconds: f64,
    /// How long what it left behind went on after it, if it is shale.
    behind: Option<f64>,
    said: String,
}

/// What one build took and found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) seconds: f64,
    /// How long shale then went on to write the disk back, behind the build.
    pub(super) behind: Option<f64>,
    /// Steps that were found in the cache.
    pub(super) hits: usize,
    /// Steps that ran.
    pub(super) misses: usize,
    /// Bytes of the layers that were made, where the builder says so.
    pub(super) bytes: Option<u64>,
}

/// A builder with stores of its own, if it can have such.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) kind: Kind,
    program: PathBuf,
    /// Its private folder.
    place: PathBuf,
    /// Names in a store that is not private.
    lent: Vec<String>,
    /// Of docker.
    builder: DockerBuilder,
    /// Of podman and buildah: commands only get a root directory, for their containers do not start here.
    in_chroot: bool,
}

impl Tool {
    /// This program.
    pub(super) fn own(place: &Path) -> Self {
        Self {
            kind: Kind::Shale,
            program: OURSELVES.into(),
            place: place.join("shale"),
            lent: Vec::new(),
            builder: DockerBuilder::Buildx,
            in_chroot: false,
        }
    }

    /// A program of PATH with its version, or why it cannot take part.
    pub(super) fn found(kind: Kind, environment: &Environment, place: &Path) -> Result<(Self, String), String> {
        let path = environment.get("PATH").unwrap_or_default();
        let files = std::env::split_paths(path).map(|dir| dir.join(kind.name()));
        let program = files.into_iter().find(|file| file.is_file()).ok_or("it is not on PATH")?;
        let said = Command::new(&program).arg("--version").run().map_err(|failed| failed.last_line().to_owned())?;
        if said.contains("shale") {
            return Err("it is shale under another name".into());
        }
        if kind == Kind::Docker {
            let asked = Command::new(&program).args(["version", "--format", "{{.Server.Version}}"]).run();
            asked.map_err(|failed| format!("its daemon is not reachable ({})", failed.last_line()))?;
        }
        let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let version = said.split([' ', ',', '\n']).find(is_number).unwrap_or_default().to_owned();
        let mut builder = DockerBuilder::Buildx;
        if kind == Kind::Docker {
            let help = Command::new(&program).args(["build", "--help"]).run().map_err(|failed| failed.last_line().to_owned())?;
            builder = DockerBuilder::of(&version, &help);
        }
        Ok((Self { kind, program, place: place.join(kind.name()), lent: Vec::new(), builder, in_chroot: false }, version))
    }

    /// Shale with a store.
    pub(super) fn command_in(&self, store: &Path) -> Command {
        Command { store: Some(store.to_owned()), ..Command::new(&self.program) }
    }

    /// The program with what keeps it away from the user's stores.
    fn command(&self) -> Command {
        match self.kind {
            Kind::Shale => self.command_in(&self.place),
            Kind::Docker => Command { variable: Some(self.builder.variable()), ..Command::new(&self.program) },
            Kind::Buildah | Kind::Podman => {
                let variable = self.in_chroot.then_some(("BUILDAH_ISOLATION", "chroot"));
                let mut command = Command { variable, ..Command::new(&self.program) };
                command.arg("--root").arg(self.place.join("root")).arg("--runroot").arg(self.place.join("run"));
                command
            }
        }
    }

    /// Builds the subject as it is. Where the first container of podman or buildah does not start, as in many containers and on machines
    /// with both versions of control groups, they go on without.
    pub(super) fn build(&mut self, subject: &Subject, scenario: Scenario, round: u32) -> Result<Run, Failed> {
        let built = self.build_once(subject, scenario, round);
        let Err(failed) = &built else { return built };
        let may_change = matches!(self.kind, Kind::Buildah | Kind::Podman) && scenario == Scenario::Cold && round == 1 && !self.in_chroot;
        let Some(why) = failed.container_error().filter(|_| may_change) else { return built };
        warn(&format!("{} runs its commands without containers (BUILDAH_ISOLATION=chroot): {why}", self.kind.name()));
        self.in_chroot = true;
        // Two results of one step confuse their caches.
        drop(self.command().args(["rmi", "--all", "--force"]).run());
        self.build_once(subject, scenario, round)
    }

    fn build_once(&mut self, subject: &Subject, scenario: Scenario, round: u32) -> Result<Run, Failed> {
        self.ready(subject, scenario, round)?;
        let (log, metadata) = (self.place.with_extension("log"), self.place.with_extension("json"));
        let (mut command, mut dockerfile) = (self.command(), subject.dockerfile.clone());
        match self.kind {
            Kind::Shale => drop(command.args(["build", "--progress", "plain", "--metadata-file"]).arg(&metadata)),
            Kind::Docker => {
                command.arg("build");
                if self.builder != DockerBuilder::Legacy {
                    command.args(["--progress", "plain"]);
                }
                let name = |(number, image): (usize, &Image)| {
                    let is_changed = scenario == Scenario::ChangedBase && subject.is_base(number);
                    (image.written.clone(), if is_changed { subject.variant_name(round) } else { image.own_name.clone() })
                };
                let names: Vec<(String, String)> = subject.images.iter().enumerate().map(name).collect();
                if self.builder == DockerBuilder::Buildx {
                    let given = |(written, name): &(String, String)| format!("{written}=docker-image://{name}");
                    command.args(names.iter().flat_map(|names| ["--build-context".to_owned(), given(names)]));
                } else {
                    dockerfile = subject.renamed(&names).map_err(|why| command.failed(why))?;
                }
            }
            Kind::Buildah => drop(command.args(["bud", "--layers"])),
            Kind::Podman => drop(command.args(["build", "--layers"])),
        }
        // Shale begins with an empty store; the others make everything anew, which is the same work.
        if scenario == Scenario::Cold && self.kind != Kind::Shale {
            command.arg("--no-cache");
        }
        let name = format!("shale-bench-{:x}", subject.nonce);
        command.args(["-t", &name]).args(&subject.arguments);
        let Timed { seconds, behind, said } = command.arg("-f").arg(&dockerfile).arg(&subject.context).timed(&log)?;
        if self.kind == Kind::Docker {
            // The next build takes the name away, and the image would stay.
            let id = self.command().args(["image", "inspect", "--format", "{{.Id}}", &name]).run();
            self.lent.extend(id.map(|id| id.trim().to_owned()));
        }
        Ok(match self.kind {
            Kind::Shale => Run { behind, ..own_run(seconds, &metadata) },
            Kind::Docker if self.builder == DockerBuilder::Legacy => counted(seconds, &buildah_steps(&said)),
            Kind::Docker => counted(seconds, &buildkit_steps(&said)),
            Kind::Buildah | Kind::Podman => counted(seconds, &buildah_steps(&said)),
        })
    }

    /// Brings the images that the build needs into the store; not part of what is measured.
    fn ready(&mut self, subject: &Subject, scenario: Scenario, round: u32) -> Result<(), Failed> {
        match scenario {
            Scenario::Cold => {
                if self.kind == Kind::Shale {
                    self.command().empty();
                }
                for image in &subject.images {
                    let (archive, name) =
                        if self.kind == Kind::Docker { (&image.own_archive, &image.own_name) } else { (&image.archive, &image.written) };
                    self.load(archive, name)?;
                }
                Ok(())
            }
            Scenario::ChangedBase => {
                let name = subject.variant_name(round);
                self.load(&subject.variant_archive(), &name)?;
                match subject.base() {
                    // By the full name: what podman calls `busybox` is another image than the one that it builds upon by that name.
                    Some(base) if self.kind != Kind::Docker => self.command().args(["tag", &name, &full(base)]).run().map(drop),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn load(&mut self, archive: &Path, name: &str) -> Result<(), Failed> {
        let mut command = self.command();
        match self.kind {
            Kind::Shale | Kind::Docker | Kind::Podman => drop(command.args(["load", "-i"]).arg(archive)),
            Kind::Buildah => drop(command.arg("pull").arg(format!("docker-archive:{}", archive.display()))),
        }
        if self.kind == Kind::Docker {
            self.lent.push(name.to_owned());
        }
        command.run().map(drop)
    }

    /// Removes what it made.
    pub(super) fn clear(&self, nonce: u64) {
        match self.kind {
            Kind::Shale => self.command().empty(),
            Kind::Docker => {
                // The build cache is the daemon's own to keep.
                let mut names = self.lent.clone();
                names.push(format!("shale-bench-{nonce:x}"));
                drop(self.command().args(["rmi", "-f"]).args(&names).run());
            }
            Kind::Buildah | Kind::Podman => {
                drop(self.command().args(["rmi", "--all", "--force"]).run());
                // A rootless store has files of mapped ids; root's is mounted upon itself.
                drop(Command::new(&self.program).args(["unshare", "rm", "-rf"]).arg(&self.place).run());
                drop(Command::new("umount").arg("-l").arg(self.place.join("root/overlay")).run());
            }
        }
    }
}

fn own_run(seconds: f64, metadata: &Path) -> Run {
    let value: Value = fs::read(metadata).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let build = &value["shale.build"];
    let number = |name: &str| build[name].as_u64().unwrap_or_default();
    Run { seconds, behind: None, hits: number("hits") as usize, misses: number("misses") as usize, bytes: Some(number("bytes")) }
}

fn counted(seconds: f64, steps: &[bool]) -> Run {
    let hits = steps.iter().filter(|is_hit| **is_hit).count();
    Run { seconds, behind: None, hits, misses: steps.len() - hits, bytes: None }
}

fn full(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |parsed| parsed.with_default_tag().to_string())
}

/// Whether an instruction makes a layer: what shale counts as a step.
fn is_step(instruction: &str) -> bool {
    matches!(instruction.split_whitespace().next().unwrap_or_default(), "RUN" | "COPY" | "ADD" | "WORKDIR")
}

/// For each step of BuildKit's plain progress, whether it was found.
fn buildkit_steps(said: &str) -> Vec<bool> {
    let heading = |line: &str| -> Option<String> {
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        let (_, instruction) = rest.strip_prefix('[')?.split_once("] ")?;
        is_step(instruction).then(|| number.to_owned())
    };
    let mut numbers: Vec<String> = Vec::new();
    for number in said.lines().filter_map(heading) {
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers.iter().map(|number| said.lines().any(|line| line == format!("#{number} CACHED"))).collect()
}

/// For each step of buildah's output, or of Docker's first builder, whether it was found.
fn buildah_steps(said: &str) -> Vec<bool> {
    let mut steps: Vec<(bool, bool)> = Vec::new();
    for line in said.lines() {
        // Of several stages the line begins with `[1/2] `.
        let line = line.split_once("] ").filter(|(head, _)| head.starts_with('[')).map_or(line, |(_, rest)| rest);
        let heading = line.strip_prefix("STEP ").or_else(|| line.strip_prefix("Step "));
        if let Some((_, instruction)) = heading.and_then(|rest| rest.split_once(": ")) {
            steps.push((is_step(instruction), false));
        } else if let Some((_, is_hit)) = steps.last_mut().filter(|_| line.trim_start_matches([' ', '-']).starts_with("> Using cache")) {
            *is_hit = true;
        }
    }
    steps.into_iter().filter(|(is_step, _)| *is_step).map(|(_, is_hit)| is_hit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_other_builders_are_counted_as_shale_s() {
        let buildkit = "#1 [internal] load build definition from Dockerfile\n#4 [1/4] FROM docker.io/library/busybox\n#4 CACHED\n\
            #5 [2/4] WORKDIR /app\n#5 CACHED\n#6 [build 3/4] RUN make\n#6 0.1 x\n#6 [build 3/4] RUN make\n#6 DONE 0.1s\n";
        assert_eq!(buildkit_steps(buildkit), [true, false]);
        let buildah = "STEP 1/4: FROM busybox\nSTEP 2/4: WORKDIR /app\n--> Using cache 12ab\n--> 12ab\nSTEP 3/4: ENV A=1\n--> Using cache 3\n\
            [2/2] STEP 4/4: RUN make\n--> 56cd\nCOMMIT x\n";
        assert_eq!(buildah_steps(buildah), [true, false]);
        let legacy = "Step 1/3 : FROM busybox\n ---> 12ab\nStep 2/3 : COPY a /\n ---> Using cache\n ---> 34cd\nStep 3/3 : RUN make\n ---> Running in 5\n";
        assert_eq!(buildah_steps(legacy), [true, false]);
    }

    #[test]
    fn a_container_that_does_not_start_is_told_from_a_command_that_fails() {
        let error = |output: &str| Failed { what: "podman build".into(), output: output.into() }.container_error().map(str::to_owned);
        let crun = "STEP 3/8: RUN a\nerror running container: from /usr/bin/crun creating container for [/bin/sh -c a]: cgroups in hybrid mode not \
            supported\n: exit status 1\nError: building at STEP \"RUN a\"\n";
        assert_eq!(error(crun).as_deref(), Some("cgroups in hybrid mode not supported"));
        assert_eq!(error("STEP 2/2: RUN false\nError: building at STEP \"RUN false\": while running runtime: exit status 1\n"), None);
    }

    #[test]
    fn docker_s_builder_is_told_by_its_help_and_version() {
        assert_eq!(DockerBuilder::of("28.2.2", "      --build-context stringArray"), DockerBuilder::Buildx);
        assert_eq!(DockerBuilder::of("20.10.24+dfsg1", "      --build-arg list"), DockerBuilder::BuildKit);
        assert_eq!(DockerBuilder::of("28.2.2", "      --build-arg list"), DockerBuilder::Legacy);
    }

    #[test]
    fn only_builders_that_are_known_are_compared_with() {
        assert_eq!(Kind::parse("buildah"), Ok(Kind::Buildah));
        assert_eq!(Kind::parse("kaniko").unwrap_err(), "--against knows docker, buildah and podman, not \"kaniko\"");
    }
}
