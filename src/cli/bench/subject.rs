//! What is built: a private copy of the context, the Dockerfile's text, the base images as archives; and how each scenario changes it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;

use super::edit::{EarlyRun, blank_line, first_run, has_run};
use super::scenario::Scenario;
use super::tool::{Command, Tool};
use super::{Failure, io_failure, named_directories, sample};
use crate::cli::args::BenchArgs;
use crate::cli::build::{self, with_hint};
use crate::cli::console::say;
use crate::cli::diagnostic::Diagnostic;
use crate::cli::environment::Environment;
use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::parse;
use crate::oci::platform::Platform;
use crate::pipeline::BuildError;
use crate::plan::{Allowed, ImageReason, ImageRef, NamedContext, NoCache, PlanOptions, graph::NetworkMode, image_refs};
use crate::source::context::{self, DockerfileFrom};
use crate::span::SourceFile;
use crate::tree::NodeKind;
use crate::tree::walk::{self, WalkError};

/// The store that everything is prepared in.
pub(super) const PREPARED: &str = "prepared";

/// The project that is built, in private.
#[derive(Debug)]
pub(super) struct Subject {
    place: PathBuf,
    /// What the user named.
    pub(super) named: String,
    /// The copy of the context.
    pub(super) context: PathBuf,
    /// The Dockerfile beside it, with the change at hand.
    pub(super) dockerfile: PathBuf,
    /// The arguments that every build gets: `--build-arg`, `--target`, …
    pub(super) arguments: Vec<String>,
    /// The images that are built upon.
    pub(super) images: Vec<Image>,
    /// Which of them changes.
    base: Option<usize>,
    text: String,
    early: Option<EarlyRun>,
    /// Whether a stage that is built has a RUN at all.
    has_run: bool,
    touch: Option<PathBuf>,
    /// Makes what is changed new to caches that other runs filled.
    pub(super) nonce: u64,
    store: Command,
}

/// An image of the Dockerfile.
#[derive(Debug)]
pub(super) struct Image {
    /// As the Dockerfile has it.
    pub(super) written: String,
    /// `docker save` of it under that name.
    pub(super) archive: PathBuf,
    /// A name of its own, for stores that are not private.
    pub(super) own_name: String,
    /// `docker save` of it under its own name.
    pub(super) own_archive: PathBuf,
}

impl Subject {
    /// Copies context and images, and builds once to see that it can be built.
    pub(super) fn prepare(args: &BenchArgs, environment: &Environment, place: &Path, own: &Tool) -> Result<Self, Failure> {
        let store = own.command_in(&place.join(PREPARED));
        let user = own.command_in(&environment.store_root().0);
        let source_dir =
            args.context.as_ref().map_or_else(|| write_sample(args, place, &user), |context| Ok(environment.resolve(context)))?;
        let from = args.file.as_ref().map_or(DockerfileFrom::Default, |file| DockerfileFrom::Path(environment.resolve(file)));
        let opened = context::open(&source_dir, from, None).map_err(|error| with_hint(Diagnostic::of(&error), error.hint()))?;
        let loaded = opened.dockerfile.utf8().map_err(|error| with_hint(Diagnostic::of(&error), error.hint()))?;
        let context = place.join("context");
        copy(&store, place, &source_dir, &context, loaded.ignore.as_ref())?;
        let parsed = parsed(&loaded.source)?;
        let named = named_directories(args, environment)?;
        let refs = images_of(&parsed, &loaded.source, args, &named, environment)?;
        let base = refs.iter().rposition(|image| image.reason == ImageReason::From);
        let nonce = OffsetDateTime::now_utc().unix_timestamp_nanos() as u64;
        let images = refs.iter().enumerate().map(|(number, image)| fetch(&image.written, (number, nonce), place, &user, &store));
        let mut subject = Self {
            place: place.to_owned(),
            named: args.context.as_ref().map_or_else(|| "the built-in sample".to_owned(), |path| path.display().to_string()),
            dockerfile: place.join("Dockerfile"),
            arguments: arguments(args, &named),
            images: images.collect::<Result<_, _>>()?,
            base,
            text: loaded.source.text().to_owned(),
            early: None,
            has_run: false,
            touch: touch(args, &context)?,
            nonce,
            store,
            context,
        };
        subject.restore()?;
        let stages = subject.reached()?;
        let is_wanted = |number: usize| {
            let name = parsed.stages[number].name.as_ref().map(|name| name.node.to_lowercase());
            stages.contains(&number.to_string()) || name.is_some_and(|name| stages.contains(&name))
        };
        subject.has_run = has_run(&parsed, &is_wanted);
        subject.early = first_run(&loaded.source, &parsed, &is_wanted);
        Ok(subject)
    }

    /// Names of the stages that a build comes to.
    fn reached(&self) -> Result<Vec<String>, Failure> {
        let metadata = self.place.join("reached.json");
        let mut build = self.store.clone();
        build.args(["build", "--progress", "plain", "-o", "type=cacheonly", "--metadata-file"]).arg(&metadata).args(&self.arguments);
        build.arg("-f").arg(&self.dockerfile).arg(&self.context).run()?;
        let text = fs::read(&metadata).map_err(|error| io_failure("read", &metadata, &error))?;
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let steps = value["shale.build"]["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().filter_map(|step| step["stage"].as_str().map(str::to_lowercase)).collect())
    }

    /// The base image that changes, as the Dockerfile has it.
    pub(super) fn base(&self) -> Option<&str> {
        self.base.map(|base| self.images[base].written.as_str())
    }

    /// The file that is edited.
    pub(super) fn touched(&self) -> Option<String> {
        self.touch.as_ref().map(|path| path.display().to_string())
    }

    /// Why a scenario cannot be had.
    pub(super) fn lacks(&self, scenario: Scenario) -> Option<&'static str> {
        match scenario {
            Scenario::TouchedFile if self.touch.is_none() => Some("the context has no file but the Dockerfile"),
            Scenario::SameResult | Scenario::OtherResult if !self.has_run => Some("there is no RUN"),
            Scenario::SameResult | Scenario::OtherResult if self.early.is_none() => Some("the first RUN is not a command line for a shell"),
            Scenario::ChangedBase => match self.base() {
                None => Some("there is no base image"),
                Some(base) if base.contains('@') => Some("the base image is named by its digest"),
                Some(_) => None,
            },
            _ => None,
        }
    }

    /// Makes the Dockerfile as it was.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        self.write(&self.text)
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        fs::write(&self.dockerfile, text).map_err(|error| io_failure("write", &self.dockerfile, &error))
    }

    /// Changes what the scenario is about.
    pub(super) fn change(&self, scenario: Scenario, round: u32) -> Result<(), Failure> {
        let mark = format!("{:x}-{round}", self.nonce);
        match (scenario, &self.early, &self.touch) {
            (Scenario::TouchedFile, _, Some(file)) => {
                let path = self.context.join(file);
                let line = blank_line(self.nonce.wrapping_add(round.into()));
                // Another file takes its place: whoever shares its bytes keeps them.
                let part = self.place.join("touched");
                let edit = || {
                    fs::write(&part, [fs::read(&path)?.as_slice(), line.as_bytes()].concat())?;
                    fs::set_permissions(&part, fs::metadata(&path)?.permissions())?;
                    fs::rename(&part, &path)
                };
                edit().map_err(|error| io_failure("change", &path, &error))
            }
            (Scenario::SameResult, Some(early), _) => self.write(&early.before(&self.text, &format!(": {mark} &&"))),
            (Scenario::OtherResult, Some(early), _) => {
                self.write(&early.before(&self.text, &format!("mkdir -p /tmp && echo {mark} >/tmp/shale-bench &&")))
            }
            (Scenario::ChangedBase, ..) => self.make_variant(round, &mark),
            _ => Ok(()),
        }
    }

    /// The Dockerfile with other names for its images, for builders that cannot be told of them by a flag: pairs of what is written and
    /// what is to stand there. Where it lies, or why that cannot be.
    pub(super) fn renamed(&self, names: &[(String, String)]) -> Result<PathBuf, String> {
        let text = fs::read_to_string(&self.dockerfile).map_err(|error| error.to_string())?;
        let dockerfile = parse(&SourceFile::new("Dockerfile", text.as_str())).0.ok_or("the Dockerfile cannot be read")?;
        let renamed = renamed(text, &dockerfile, names)?;
        let path = self.place.join("Dockerfile.renamed");
        fs::write(&path, renamed).map_err(|error| error.to_string())?;
        Ok(path)
    }

    /// The name of a changed base.
    pub(super) fn variant_name(&self, round: u32) -> String {
        format!("shale-bench-{:x}-base:{round}", self.nonce)
    }

    /// `docker save` of the changed base that was made last.
    pub(super) fn variant_archive(&self) -> PathBuf {
        self.place.join("variant.tar")
    }

    /// The number of the image that changes.
    pub(super) fn is_base(&self, number: usize) -> bool {
        self.base == Some(number)
    }

    fn make_variant(&self, round: u32, mark: &str) -> Result<(), Failure> {
        let (Some(base), dir) = (self.base(), self.place.join("variant")) else { return Ok(()) };
        let write = || {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("mark"), format!("{mark}\n"))?;
            fs::write(dir.join("Dockerfile"), format!("FROM {base}\nCOPY mark /.shale-bench\n"))
        };
        write().map_err(|error| io_failure("write", &dir, &error))?;
        let name = self.variant_name(round);
        self.store.clone().args(["build", "-q", "-t", &name]).arg(&dir).run()?;
        self.store.clone().args(["save", "-o"]).arg(self.variant_archive()).arg(&name).run()?;
        Ok(())
    }
}

/// Puts other names in the place of images: after FROM, and in `--from=` and `from=`.
fn renamed(mut text: String, dockerfile: &Dockerfile, names: &[(String, String)]) -> Result<String, String> {
    let mut is_found = vec![false; names.len()];
    for stage in dockerfile.stages.iter().rev() {
        if let Some(at) = names.iter().position(|(written, _)| *written == stage.base.node) {
            is_found[at] = true;
            text.replace_range(stage.base.span.start as usize..stage.base.span.end as usize, &names[at].1);
        }
    }
    for ((written, name), is_found) in names.iter().zip(&mut is_found) {
        for end in [' ', '\t', '\n', ','] {
            let place = format!("from={written}{end}");
            *is_found |= text.contains(&place);
            text = text.replace(&place, &format!("from={name}{end}"));
        }
    }
    match names.iter().zip(is_found).find(|(_, is_found)| !is_found) {
        None => Ok(text),
        Some(((written, _), _)) => {
            Err(format!("its build has no --build-context, and the Dockerfile does not name {written} by that word"))
        }
    }
}

/// Writes the sample and says where.
fn write_sample(args: &BenchArgs, place: &Path, user: &Command) -> Result<PathBuf, Failure> {
    let dir = place.join("sample");
    let base = match &args.base {
        Some(base) => base.clone(),
        None => base_of(user)?.unwrap_or_else(|| {
            say("The store has no image: the sample is built upon busybox, which is pulled. Another base is named by --base.\n");
            "busybox".to_owned()
        }),
    };
    sample::write(&dir, &base).map_err(|error| io_failure("write", &dir, &error))?;
    Ok(dir)
}

/// An image of the user's store that has a shell for sure, else its newest one with a name.
fn base_of(user: &Command) -> Result<Option<String>, Failure> {
    let listed = user.clone().args(["images", "--filter", "dangling=false", "--format", "{{.Repository}}:{{.Tag}}"]).run()?;
    let names: Vec<&str> = listed.lines().filter(|line| !line.contains('<')).collect();
    let known = ["busybox", "alpine", "debian", "ubuntu"];
    let first = known.iter().find_map(|wanted| names.iter().find(|name| name.rsplit_once(':').is_some_and(|(name, _)| name == *wanted)));
    Ok(first.or(names.first()).map(|name| (*name).to_owned()))
}

/// Copies what a build would take of a context, by a build of just that.
fn copy(store: &Command, place: &Path, from: &Path, to: &Path, ignore: Option<&(String, Vec<u8>)>) -> Result<(), Failure> {
    let file = place.join("copy");
    let write = || {
        fs::write(&file, "FROM scratch\nCOPY . /\n")?;
        ignore.map_or(Ok(()), |(_, text)| fs::write(place.join("copy.dockerignore"), text))
    };
    write().map_err(|error| io_failure("write", &file, &error))?;
    let output = format!("type=local,\"dest={}\"", to.display());
    store.clone().args(["build", "-q", "-o", &output, "-f"]).arg(&file).arg(from).run()?;
    fs::create_dir_all(to).map_err(|error| io_failure("create", to, &error))?;
    if ignore.is_some() {
        // The Dockerfile has ignore rules of its own, and they are applied now.
        drop(fs::remove_file(to.join(".dockerignore")));
    }
    Ok(())
}

fn parsed(source: &SourceFile) -> Result<Dockerfile, Failure> {
    let (dockerfile, errors) = parse(source);
    dockerfile.ok_or_else(|| told(BuildError::Parse { file: source.clone(), errors }))
}

/// The first of a Dockerfile's errors.
fn told(error: BuildError) -> Failure {
    build::diagnostics(&error).into_iter().next().map_or(Failure::Told, Into::into)
}

fn images_of(
    dockerfile: &Dockerfile,
    source: &SourceFile,
    args: &BenchArgs,
    named: &BTreeMap<String, PathBuf>,
    environment: &Environment,
) -> Result<Vec<ImageRef>, Failure> {
    let value = |arg: &String| match arg.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => environment.get(arg).map(|value| (arg.clone(), value.to_owned())),
    };
    let options = PlanOptions {
        build_args: args.build_args.iter().filter_map(value).collect(),
        target: args.target.clone(),
        all_stages: false,
        labels: BTreeMap::new(),
        platforms: Vec::new(),
        build_platform: Platform::native(),
        contexts: named.keys().map(|name| (name.clone(), NamedContext::Dir)).collect(),
        no_cache: NoCache::Off,
        allowed: Allowed::default(),
        network: NetworkMode::default(),
        add_hosts: Vec::new(),
        shm_size_bytes: None,
        ulimits: Vec::new(),
        source_date_epoch: None,
        source_times: BTreeMap::new(),
    };
    image_refs(dockerfile, &options).map_err(|errors| told(BuildError::Plan { file: source.clone(), errors }))
}

/// What every builder is called with, in words that all of them know.
fn arguments(args: &BenchArgs, named: &BTreeMap<String, PathBuf>) -> Vec<String> {
    let BenchArgs { build_args, target, secrets, agents, network, add_hosts, .. } = args;
    let (target, network) = (target.as_slice(), network.as_slice());
    let named: Vec<String> = named.iter().map(|(name, dir)| format!("{name}={}", dir.display())).collect();
    let flags = [
        ("--build-arg", build_args.as_slice()),
        ("--build-context", &named),
        ("--target", target),
        ("--secret", secrets),
        ("--ssh", agents),
        ("--network", network),
        ("--add-host", add_hosts),
    ];
    flags.into_iter().flat_map(|(flag, values)| values.iter().flat_map(move |value| [flag.to_owned(), value.clone()])).collect()
}

/// Brings an image into the private store: from the user's store, where it stays as it is, or from its registry.
fn fetch(written: &str, (number, nonce): (usize, u64), place: &Path, user: &Command, store: &Command) -> Result<Image, Failure> {
    let archive = place.join(format!("image-{number}.tar"));
    let is_there = user.clone().args(["image", "inspect", "-f", "{{.Id}}", written]).run().is_ok();
    if is_there {
        user.clone().args(["save", "-o"]).arg(&archive).arg(written).run()?;
        store.clone().args(["load", "-q", "-i"]).arg(&archive).run()?;
    } else {
        store.clone().args(["pull", "-q", written]).run()?;
        store.clone().args(["save", "-o"]).arg(&archive).arg(written).run()?;
    }
    let (own_name, own_archive) = (format!("shale-bench-{nonce:x}-{number}:0"), place.join(format!("image-{number}-own.tar")));
    store.clone().args(["tag", written, &own_name]).run()?;
    store.clone().args(["save", "-o"]).arg(&own_archive).arg(&own_name).run()?;
    Ok(Image { written: written.to_owned(), archive, own_name, own_archive })
}

/// The file to edit: that of `--touch`, that of the sample, or the one that was changed last.
fn touch(args: &BenchArgs, context: &Path) -> Result<Option<PathBuf>, Failure> {
    if let Some(file) = &args.touch {
        if !context.join(file).is_file() || file.is_absolute() {
            let hint = "its path begins at the context's root, and no ignore rule may leave it out";
            return Err(Diagnostic::new(format!("the context has no file {}", file.display())).hint(hint).into());
        }
        return Ok(Some(file.clone()));
    }
    if args.context.is_none() {
        return Ok(Some(sample::TOUCHED.into()));
    }
    let mut newest = None;
    let mut find = || -> Result<(), WalkError> {
        let root = walk::open_dir(context).map_err(WalkError::at("open", &[]))?;
        walk::walk(std::os::fd::AsFd::as_fd(&root), walk::Options::default(), &mut |_, _| false, &mut |found| {
            let node = found.node();
            let name = node.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let is_own = name.ends_with(b"Dockerfile") || name == b".dockerignore";
            if matches!(node.kind, NodeKind::File { .. }) && !is_own {
                newest = newest.take().max(Some((node.mtime, node.path)));
            }
            Ok(())
        })
    };
    find().map_err(|error| Diagnostic::of(&error))?;
    Ok(newest.map(|(_, path)| PathBuf::from(OsStr::from_bytes(&path))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(text: &str, names: &[(&str, &str)]) -> Result<String, String> {
        let dockerfile = parse(&SourceFile::new("Dockerfile", text)).0.expect("a Dockerfile");
        let names: Vec<(String, String)> = names.iter().map(|(written, name)| ((*written).to_owned(), (*name).to_owned())).collect();
        renamed(text.to_owned(), &dockerfile, &names)
    }

    #[test]
    fn images_get_other_names_wherever_they_stand() {
        let text = "FROM a AS a1\nFROM --platform=linux/amd64 b:1\nCOPY --from=c /c /c\nRUN --mount=from=c,target=/x --mount=from=a1 true # a b:1\nFROM a\n";
        let expected = "FROM x AS a1\nFROM --platform=linux/amd64 y\nCOPY --from=z /c /c\nRUN --mount=from=z,target=/x --mount=from=a1 true # a b:1\nFROM x\n";
        assert_eq!(other(text, &[("a", "x"), ("b:1", "y"), ("c", "z")]).as_deref(), Ok(expected));
        let why = other("ARG V=1\nFROM a:$V\n", &[("a:1", "x")]).expect_err("a variable");
        assert_eq!(why, "its build has no --build-context, and the Dockerfile does not name a:1 by that word");
    }
}
