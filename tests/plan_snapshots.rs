//! Plans as text, compared with `testdata/plan/*.txt`. A file holds options, a Dockerfile and the plan that is expected of them;
//! `SHALE_UPDATE=1` writes the plans anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use shale::dockerfile;
use shale::oci::config::{ImageConfig, RunConfig};
use shale::plan::graph::{BaseId, CopySource, NetworkMode, Op, Plan, RunOp, Vertex};
use shale::plan::{self, BaseImage, BaseImages, ImageKey, ImageRef, LowerError, NamedContext, Near, NoCache, PlanError, PlanOptions};
use shale::span::SourceFile;

#[test]
fn plans_are_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/plan");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).expect("testdata/plan").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", folder.display());
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable case");
        let (given, expected) = text.split_once("--- plan\n").unwrap_or((&text, ""));
        let (options, dockerfile) = given.split_once("--- Dockerfile\n").expect("a line --- Dockerfile");
        let made = plan_text(options, dockerfile);
        if std::env::var_os("SHALE_UPDATE").is_some() {
            std::fs::write(&file, format!("{given}--- plan\n{made}")).expect("a writable case");
        } else if made != expected {
            wrong.push(format!("{}:\n{}", file.display(), first_difference(&made, expected)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn first_difference(made: &str, expected: &str) -> String {
    let mut lines = made.lines().map(Some).chain([None]).zip(expected.lines().map(Some).chain([None]));
    let (made, expected) = lines.find(|(m, e)| m != e).unwrap_or_default();
    format!("  made     {}\n  expected {}", made.unwrap_or("(the end)"), expected.unwrap_or("(the end)"))
}

fn plan_text(options: &str, dockerfile: &str) -> String {
    let options = options_of(options);
    let source = SourceFile::new("Dockerfile", dockerfile);
    let (parsed, errors) = dockerfile::parse(&source);
    let Some(parsed) = parsed else { return format!("not parsed: {errors:?}\n") };
    let bases = bases(&options);
    let mut out = String::new();
    match plan::image_refs(&parsed, &options) {
        Ok(refs) => out.extend(refs.iter().map(|r| image_text(r, &source))),
        Err(errors) => return errors_text(&errors, &source),
    }
    match plan::lower(&parsed, &source, &options, &bases) {
        Ok(plan) => out.push_str(&render(&plan, &source)),
        Err(LowerError::NeedsImages(refs)) => {
            out.push_str("needs more\n");
            out.extend(refs.iter().map(|r| image_text(r, &source)));
        }
        Err(LowerError::Errors(errors)) => out.push_str(&errors_text(&errors, &source)),
    }
    out
}

fn image_text(image: &ImageRef, source: &SourceFile) -> String {
    let near = image.did_you_mean.as_ref().and_then(Near::name).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
    let line = source.lines_of(image.span).0;
    format!("image {} {} as {:?} in line {line}{near}\n", image.key.name, image.key.platform, image.reason)
}

fn errors_text(errors: &[PlanError], source: &SourceFile) -> String {
    let mut out = String::new();
    for error in errors {
        let place = error.span.map_or("options".into(), |s| format!("line {} {:?}", source.lines_of(s).0, source.slice(s)));
        writeln!(out, "error {place}: {error}").expect("a String takes all");
        if let Some(hint) = error.hint() {
            writeln!(out, "  hint: {hint}").expect("a String takes all");
        }
    }
    out
}

fn options_of(text: &str) -> PlanOptions {
    let mut options = PlanOptions::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').expect("an option and its value");
        let pair = || value.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).expect("name=value");
        match key {
            "build-arg" => drop(options.build_args.insert(pair().0, pair().1)),
            "label" => drop(options.labels.insert(pair().0, pair().1)),
            "target" => options.target = Some(value.into()),
            "platform" => options.platforms.push(value.parse().expect("a platform")),
            "context" if pair().1 == "dir" => drop(options.contexts.insert(pair().0, NamedContext::Dir)),
            "context" => drop(options.contexts.insert(pair().0, NamedContext::Image(pair().1))),
            "no-cache" if value == "all" => options.no_cache = NoCache::All,
            "no-cache" => options.no_cache = NoCache::Stages(vec![value.into()]),
            "network" if value == "none" => options.network = NetworkMode::None,
            "add-host" => options.add_hosts.push(pair()),
            "allow" => options.allowed.network_host |= value == "network.host",
            "epoch" => options.source_date_epoch = Some(value.parse().expect("seconds")),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// Images for the cases: `alpine` with little in its config, `rich` with much, `trigger` with ONBUILD, `asks` with an ONBUILD that
/// names one more image.
fn bases(options: &PlanOptions) -> BaseImages {
    let rich = RunConfig {
        user: "app".into(),
        env: Some(vec!["PATH=/opt/bin:/bin".into(), "LANG=C".into()]),
        entrypoint: Some(vec!["/init".into()]),
        cmd: Some(vec!["serve".into()]),
        working_dir: "/srv".into(),
        shell: Some(vec!["/bin/bash".into(), "-ec".into()]),
        ..RunConfig::default()
    };
    let onbuild = |texts: &[&str]| RunConfig { on_build: Some(texts.iter().map(ToString::to_string).collect()), ..RunConfig::default() };
    let trigger = onbuild(&["ARG WHO=you", "COPY . /src", "RUN echo $WHO"]);
    let asks = onbuild(&["COPY --from=alpine:3 /etc/passwd /p"]);
    let mut out = BaseImages::new();
    let platforms = if options.platforms.is_empty() { vec![options.build_platform.clone()] } else { options.platforms.clone() };
    for platform in platforms.iter().chain([&options.build_platform]) {
        for (name, config) in [
            ("alpine:latest", RunConfig::default()),
            ("rich:1", rich.clone()),
            ("trigger:latest", trigger.clone()),
            ("asks:latest", asks.clone()),
        ] {
            let key = ImageKey { name: format!("docker.io/library/{name}"), platform: platform.clone() };
            let config =
                ImageConfig { config, os: platform.os.clone(), architecture: platform.architecture.clone(), ..ImageConfig::default() };
            let id = BaseId(out.len());
            out.entry(key).or_insert(BaseImage { id, config, digest: (name == "rich:1").then(|| "sha256:d1".into()) });
        }
    }
    out
}

fn render(plan: &Plan, source: &SourceFile) -> String {
    let mut out = String::new();
    for (index, vertex) in plan.graph.vertices.iter().enumerate() {
        let on = vertex.parent.map(|p| format!(" on v{}", p.0)).unwrap_or_default();
        let no_cache = if vertex.no_cache.is_some() { " no-cache" } else { "" };
        writeln!(out, "v{index}{on} {} [{}#{}]{no_cache}", vertex.name, vertex.stage, vertex.ordinal).expect("a String takes all");
        out.push_str(&op_text(vertex));
    }
    for image in &plan.images {
        let config = serde_json::to_string(&image.config.config).expect("a config serialises");
        writeln!(out, "image {} = v{} {config}", image.platform, image.root.0).expect("a String takes all");
        if let Some(author) = &image.config.author {
            writeln!(out, "  author {author}").expect("a String takes all");
        }
        for entry in &image.history {
            let vertex = entry.vertex.map_or("-".into(), |v| format!("v{}", v.0));
            writeln!(out, "  {vertex} {:?}", entry.entry.created_by).expect("a String takes all");
        }
    }
    for warning in &plan.warnings {
        let line = warning.span.map_or(0, |s| source.lines_of(s).0);
        writeln!(out, "warning {} line {line}: {}", warning.rule, warning.text).expect("a String takes all");
    }
    if let Some(epoch) = plan.source_date_epoch {
        writeln!(out, "epoch {epoch}").expect("a String takes all");
    }
    out
}

fn op_text(vertex: &Vertex) -> String {
    match &vertex.op {
        Op::Scratch | Op::Image(_) => String::new(),
        Op::Run(run) => run_text(run),
        Op::Workdir(op) => format!("  mkdir {} user {:?}\n", op.path, op.user),
        Op::Copy(copy) => {
            let from = match &copy.source {
                CopySource::Context(None) => "context".into(),
                CopySource::Context(Some(name)) => format!("context {name}"),
                CopySource::Vertex(v) => format!("v{}", v.0),
            };
            let mut out = format!("  {} {:?} from {from} to {}\n", copy.instruction, copy.sources, copy.destination);
            for file in &copy.inline {
                writeln!(out, "  file {} {:?}", file.name, file.content).expect("a String takes all");
            }
            if copy.chown.is_some() || copy.chmod.is_some() {
                writeln!(out, "  chown {:?} chmod {}", copy.chown, copy.chmod.as_ref().map_or_else(|| "0".into(), ToString::to_string))
                    .expect("a String takes all");
            }
            if copy.unpack_archives {
                out.push_str("  unpacks archives\n");
            }
            out
        }
    }
}

fn run_text(run: &RunOp) -> String {
    let mut out = format!("  {:?}\n  env {:?} in {} user {:?}\n", run.argv, run.env, run.workdir, run.user);
    if !run.args.is_empty() || !run.proxy_env.is_empty() {
        writeln!(out, "  args {:?} proxy {:?}", run.args, run.proxy_env).expect("a String takes all");
    }
    if run.network != NetworkMode::Default || !run.add_hosts.is_empty() || run.hostname != "buildkitsandbox" {
        writeln!(out, "  network {:?} hosts {:?} hostname {}", run.network, run.add_hosts, run.hostname).expect("a String takes all");
    }
    for file in &run.heredoc_files {
        writeln!(out, "  file {} {:?}", file.name, file.content).expect("a String takes all");
    }
    out
}
