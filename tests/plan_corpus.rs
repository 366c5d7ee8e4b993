//! Lowers every case of the conformance suites and compares config and history with what BuildKit made of it.
//!
//! The suites are other projects' data and not part of this repository: `SHALE_SHARED` names the folder that holds `conformance/`
//! and `bases/`, else `../shared` is tried. Without it the test says so and passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use shale::dockerfile;
use shale::oci::config::{HistoryEntry, ImageConfig};
use shale::plan::graph::{BaseId, Op, Plan};
use shale::plan::{self, BaseImage, BaseImages, LowerError, NamedContext, PlanOptions};
use shale::span::SourceFile;

const BASES: [(&str, &str); 3] = [
    ("docker.io/library/busybox:latest", "busybox.tar"),
    ("docker.io/library/alpine:latest", "alpine.tar"),
    ("docker.io/library/debian:bookworm-slim", "debian_bookworm-slim.tar"),
];

/// Config keys that are compared, as the suites' runner does.
const FIELDS: [&str; 12] = [
    "Env",
    "Cmd",
    "Entrypoint",
    "ExposedPorts",
    "Volumes",
    "User",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "OnBuild",
    "Healthcheck",
    "Shell",
];

enum Outcome {
    Equal,
    Different(Vec<String>),
    Failed(String),
}

#[test]
fn configs_and_history_are_those_of_buildkit() {
    let Some(corpus) = Corpus::open() else {
        eprintln!("SKIP: plan_corpus: no conformance suites beside the repository (set SHALE_SHARED)");
        return;
    };
    let (mut equal, mut wrong) = (0, Vec::new());
    for case in corpus.cases() {
        let oracle = &case.json["oracle"];
        if oracle["result"] != "ok" {
            continue;
        }
        match corpus.judge(&case) {
            Outcome::Equal => equal += 1,
            Outcome::Different(differences) => wrong.push(format!("{}: {}", case.name, differences.join("\n    "))),
            Outcome::Failed(error) => wrong.push(format!("{}: refused: {error}", case.name)),
        }
    }
    eprintln!("plan_corpus: {equal} equal, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(equal > 0, "no case was compared");
}

#[test]
fn what_buildkit_refuses_before_building_is_refused() {
    let Some(corpus) = Corpus::open() else {
        eprintln!("SKIP: plan_corpus: no conformance suites beside the repository (set SHALE_SHARED)");
        return;
    };
    let mut wrong = Vec::new();
    let mut checked = 0;
    for case in corpus.cases() {
        let error = case.json["oracle"]["error"].as_str().unwrap_or_default();
        let Some((_, sentence)) = error.rsplit_once("error: failed to solve: ") else { continue };
        let later = [
            "did not complete successfully",
            "failed to compute cache key",
            "lint violation",
            "not found",
            "cannot replace",
            "cannot copy to",
        ];
        if later.iter().any(|l| sentence.contains(l))
            || sentence.starts_with("dockerfile parse error")
            || sentence.contains("exclusion pattern")
        {
            continue;
        }
        checked += 1;
        match corpus.lower(&case) {
            Err(Refused::Plan(errors)) if errors.iter().any(|said| same_but_cause(said, sentence)) => {}
            Err(Refused::Plan(errors)) => wrong.push(format!("{}: {errors:?}, not {sentence}", case.name)),
            Err(Refused::Other(said)) if said == sentence => {}
            Err(Refused::Other(said)) => wrong.push(format!("{}: {said}, not {sentence}", case.name)),
            Ok(_) => wrong.push(format!("{}: planned, but BuildKit says {sentence}", case.name)),
        }
    }
    eprintln!("plan_corpus: {checked} refusals, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With every image at hand there is a plan in good shape or a refusal, for files without a recording too.
#[test]
fn every_file_is_planned_or_refused() {
    let Some(corpus) = Corpus::open() else {
        eprintln!("SKIP: plan_corpus: no conformance suites beside the repository (set SHALE_SHARED)");
        return;
    };
    let (mut planned, mut refused) = (0, 0);
    for case in corpus.cases() {
        let source = SourceFile::new("Dockerfile", read_dockerfile(&case.dir.join(case.json["dockerfile"].as_str().expect("a path"))));
        let (Some(parsed), _) = dockerfile::parse(&source) else { continue };
        let mut options = options_of(&case.json["options"]);
        options.platforms.extend(["linux/arm64".parse().expect("a platform"), "linux/amd64".parse().expect("a platform")]);
        let mut bases = corpus.bases.clone();
        let outcome = loop {
            match plan::lower(&parsed, &source, &options, &bases) {
                Err(LowerError::NeedsImages(refs)) => {
                    for image in refs {
                        let (id, config) = (BaseId(bases.len()), ImageConfig::scratch(&image.key.platform));
                        assert!(bases.insert(image.key, BaseImage { id, config, digest: None }).is_none(), "{}: asked twice", case.name);
                    }
                }
                Err(LowerError::Errors(errors)) => break Err(errors),
                Ok(plan) => break Ok(plan),
            }
        };
        match outcome {
            Ok(plan) => {
                check_shape(&plan);
                planned += 1;
            }
            Err(errors) => {
                assert!(!errors.is_empty(), "{}", case.name);
                refused += 1;
            }
        }
    }
    eprintln!("plan_corpus: {planned} planned, {refused} refused");
    assert!(planned > 0, "nothing was planned");
}

/// The rules that `plan` knows; the others are the parser's.
const RULES: [&str; 4] = ["UndefinedArgInFrom", "UndefinedVar", "InvalidDefaultArgInFrom", "InvalidBaseImagePlatform"];

#[test]
fn warnings_are_those_of_buildkit() {
    let Some(corpus) = Corpus::open() else {
        eprintln!("SKIP: plan_corpus: no conformance suites beside the repository (set SHALE_SHARED)");
        return;
    };
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for case in corpus.cases() {
        let Some(lint) = case.json["lint"]["warnings"].as_array() else { continue };
        let Ok(plan) = corpus.lower(&case) else { continue };
        compared += 1;
        let source = SourceFile::new("Dockerfile", read_dockerfile(&case.dir.join(case.json["dockerfile"].as_str().expect("a path"))));
        let line = |w: &plan::graph::Warning| w.span.map_or(0, |s| source.lines_of(s).0);
        let have: BTreeSet<String> = plan.warnings.iter().map(|w| format!("{} line {}: {}", w.rule, line(w), w.text)).collect();
        let known = lint.iter().filter(|l| RULES.contains(&l["rule"].as_str().unwrap_or_default()));
        let text = |l: &Value, key: &str| l[key].as_str().unwrap_or_default().to_string();
        let want: BTreeSet<String> = known.map(|l| format!("{} line {}: {}", text(l, "rule"), l["line"], text(l, "detail"))).collect();
        if have != want {
            wrong.push(format!("{}: {have:?}, want {want:?}", case.name));
        }
    }
    eprintln!("plan_corpus: warnings of {compared} files, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 0, "no file was compared");
}

/// The platform parser has words of its own for the cause.
fn same_but_cause(said: &str, wanted: &str) -> bool {
    let head = |text: &str| text.split(": ").next().unwrap_or_default().to_string();
    said == wanted || (wanted.starts_with("failed to parse platform") && head(said) == head(wanted))
}

struct Case {
    name: String,
    dir: PathBuf,
    json: Value,
}

struct Corpus {
    cases: PathBuf,
    bases: BaseImages,
}

enum Refused {
    Plan(Vec<String>),
    Other(String),
}

impl Corpus {
    fn open() -> Option<Self> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
        let shared = std::env::var_os("SHALE_SHARED").map_or(beside, PathBuf::from);
        let cases = shared.join("conformance/cases");
        cases.is_dir().then(|| {
            let mut bases = BaseImages::new();
            for (index, (name, file)) in BASES.into_iter().enumerate() {
                let config = base_config(&shared.join("bases").join(file));
                let key = plan::ImageKey { name: name.into(), platform: config.platform() };
                bases.insert(key, BaseImage { id: BaseId(index), config, digest: None });
            }
            Self { cases, bases }
        })
    }

    fn cases(&self) -> Vec<Case> {
        let index: Value = read_json(&self.cases.join("index.json"));
        let names = index["cases"].as_array().expect("a list").iter().map(|c| c["case"].as_str().expect("a name").to_string());
        names.map(|name| self.case(name)).collect()
    }

    fn case(&self, name: String) -> Case {
        let dir = self.cases.join(&name);
        Case { json: read_json(&dir.join("case.json")), dir, name }
    }

    fn judge(&self, case: &Case) -> Outcome {
        let plan = match self.lower(case) {
            Ok(done) => done,
            Err(Refused::Plan(errors)) => {
                return Outcome::Failed(errors.join("; "));
            }
            Err(Refused::Other(error)) => return Outcome::Failed(error),
        };
        check_shape(&plan);
        let (config, history) = assembled(&plan);
        let mut differences = Vec::new();
        let (have, want) = (normalised(&config), &case.json["oracle"]["config"]);
        if have != *want {
            differences.push(format!("config {have}\n      want {want}"));
        }
        let have: Vec<Value> = history.iter().map(compared_entry).collect();
        let want: Vec<Value> = case.json["oracle"]["history"].as_array().into_iter().flatten().map(without_address).collect();
        if have.len() != want.len() {
            differences.push(format!("{} history entries, want {}: {have:?} want {want:?}", have.len(), want.len()));
        }
        differences.extend(have.iter().zip(&want).filter(|(h, w)| h != w).map(|(h, w)| format!("history {h}\n      want {w}")));
        if differences.is_empty() { Outcome::Equal } else { Outcome::Different(differences) }
    }

    fn lower(&self, case: &Case) -> Result<Plan, Refused> {
        let source = SourceFile::new("Dockerfile", read_dockerfile(&case.dir.join(case.json["dockerfile"].as_str().expect("a path"))));
        let (parsed, errors) = dockerfile::parse(&source);
        let Some(parsed) = parsed else {
            return Err(Refused::Other(errors.iter().map(dockerfile::ParseError::sentence).collect::<Vec<_>>().join("; ")));
        };
        let mut bases = self.bases.clone();
        let mut options = options_of(&case.json["options"]);
        self.add_prebuilt(case, &mut options, &mut bases)?;
        let refused = |errors: Vec<plan::PlanError>| Refused::Plan(errors.iter().map(ToString::to_string).collect());
        let refs = plan::image_refs(&parsed, &options).map_err(refused)?;
        if let Some(unknown) = refs.iter().find(|r| !bases.contains_key(&r.key)) {
            return Err(Refused::Other(format!("no such base: {}", unknown.key.name)));
        }
        match plan::lower(&parsed, &source, &options, &bases) {
            Ok(plan) => Ok(plan),
            Err(LowerError::Errors(errors)) => Err(refused(errors)),
            Err(LowerError::NeedsImages(refs)) => Err(Refused::Other(format!("needs {refs:?}"))),
        }
    }

    /// Images of other cases that this one is built on.
    fn add_prebuilt(&self, case: &Case, options: &mut PlanOptions, bases: &mut BaseImages) -> Result<(), Refused> {
        for built in case.json["prebuild"].as_array().into_iter().flatten() {
            let parent = self.case(built["case"].as_str().expect("a name").to_string());
            let plan = self.lower(&parent)?;
            let (mut config, history) = assembled(&plan);
            config.history = history;
            let tag = built["tag"].as_str().expect("a tag");
            let key = plan::ImageKey { name: format!("docker.io/library/{tag}:latest"), platform: config.platform() };
            options.contexts.insert(tag.into(), NamedContext::Image(tag.into()));
            bases.insert(key, BaseImage { id: BaseId(bases.len()), config, digest: None });
        }
        Ok(())
    }
}

fn options_of(json: &Value) -> PlanOptions {
    let map = |key: &str| -> BTreeMap<String, String> {
        let pairs = json[key].as_object().into_iter().flatten();
        pairs.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
    };
    let contexts = map("build_contexts").into_iter().map(|(name, value)| {
        let context = if value.starts_with("docker-image://") { NamedContext::Image(value) } else { NamedContext::Dir };
        (name, context)
    });
    let platforms = json["platform"].as_str().into_iter().flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok());
    PlanOptions {
        build_args: map("build_args"),
        labels: map("labels"),
        target: json["target"].as_str().map(Into::into),
        contexts: contexts.collect(),
        platforms: platforms.collect(),
        ..PlanOptions::default()
    }
}

/// What `image::assemble` will make of a plan, without layers and times.
fn assembled(plan: &Plan) -> (ImageConfig, Vec<HistoryEntry>) {
    let image = &plan.images[0];
    let mut history = image.config.history.clone();
    history.extend(image.history.iter().map(|h| h.entry.clone()));
    (image.config.clone(), history)
}

/// Vertices stand in order, and history names the vertices of the root's own chain.
fn check_shape(plan: &Plan) {
    for (index, vertex) in plan.graph.vertices.iter().enumerate() {
        assert!(vertex.inputs().iter().all(|input| input.0 < index), "{} refers forward", vertex.name);
        assert_eq!(vertex.parent.is_none(), matches!(vertex.op, Op::Scratch | Op::Image(_)), "{}", vertex.name);
    }
    let image = &plan.images[0];
    let mut chain = Vec::new();
    let mut at = image.root;
    while let Some(parent) = plan.graph.vertices[at.0].parent {
        chain.push(at);
        at = parent;
    }
    chain.reverse();
    let told: Vec<_> = image.history.iter().filter_map(|h| h.vertex).collect();
    assert_eq!(told, chain, "history and chain differ");
    assert!(image.history.iter().all(|h| h.entry.empty_layer == h.vertex.is_none()));
}

fn compared_entry(entry: &HistoryEntry) -> Value {
    let mut out = Map::new();
    if !entry.created_by.is_empty() {
        out.insert("created_by".into(), json!(entry.created_by));
    }
    if entry.empty_layer {
        out.insert("empty_layer".into(), json!(true));
    }
    Value::Object(out)
}

fn normalised(config: &ImageConfig) -> Value {
    let json = serde_json::to_value(config).expect("a config serialises");
    let mut out = Map::new();
    for field in FIELDS {
        let value = match (&json["config"][field], field) {
            (Value::Null, _) => continue,
            (Value::Array(a), _) if a.is_empty() => continue,
            (Value::Object(o), _) if o.is_empty() => continue,
            (Value::String(s), _) if s.is_empty() => continue,
            (Value::Object(o), "ExposedPorts" | "Volumes") => json!(o.keys().collect::<BTreeSet<_>>()),
            (value, _) => value.clone(),
        };
        out.insert(field.into(), value);
    }
    out.insert("os".into(), json!(config.os));
    out.insert("architecture".into(), json!(config.architecture));
    Value::Object(out)
}

/// A symbolic link of the original suite stands there as a file that holds its target.
fn read_dockerfile(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).expect("a Dockerfile")).into_owned();
    let linked = path.with_file_name(&text);
    if !text.contains('\n') && linked.is_file() { read_dockerfile(&linked) } else { text }
}

/// The recording has the address of the server that answered it.
fn without_address(entry: &Value) -> Value {
    let mut entry = entry.clone();
    if let Some(text) = entry["created_by"].as_str()
        && let Some((before, rest)) = text.split_once("http://127.")
        && let Some((_, after)) = rest.split_once('/')
    {
        entry["created_by"] = json!(format!("{before}http://@HTTP@/{after}"));
    }
    entry
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a readable file");
    // Bytes that are no UTF-8 stand in the recordings as lone surrogates, which JSON here does not take.
    serde_json::from_str(&text).or_else(|_| serde_json::from_str(&text.replace("\\udc", "\\u00"))).expect("JSON")
}

/// The config of the one image in an OCI layout tar.
fn base_config(path: &Path) -> ImageConfig {
    let mut small = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(path).expect("a base archive"));
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        if entry.size() < 1 << 20 {
            let name = entry.path().expect("a path").to_string_lossy().trim_start_matches("./").to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("content");
            small.insert(name, bytes);
        }
    }
    let blob = |descriptor: &Value| small[&format!("blobs/{}", descriptor["digest"].as_str().expect("a digest").replace(':', "/"))].clone();
    let index: Value = serde_json::from_slice(&small["index.json"]).expect("JSON");
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).expect("JSON");
    ImageConfig::from_json(&blob(&manifest["config"])).expect("a config")
}
