//! `shale buildx imagetools`: images in registries, looked at and joined without pulling them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use shale_cache::OciDigest;

use crate::image::{Combined, ImageError, ImageService, Ingredient, Remote, Wish, combine};
use crate::oci::manifest::{Descriptor, DescriptorPlatform, Document, Index, Manifest};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::solve::event::{Event, Reporter as _};

use super::Failure;
use super::args::{CreateIndexArgs, ImagetoolsCommand, InspectIndexArgs};
use super::columns::{Widths, aligned};
use super::console::print;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::progress::{Display, Screen};
use super::registry::{RegistryNotes, images, registry_failure};
use super::request::{annotations, progress_mode};
use super::template::{Struct, Template, Value};

/// The table of `inspect` without a template.
const TABLE: Widths = Widths { least: 0, padding: 1 };

/// Runs one of the commands.
pub fn run(command: &ImagetoolsCommand, environment: &Environment) -> Result<(), Failure> {
    match command {
        ImagetoolsCommand::Create(args) => create(args, environment),
        ImagetoolsCommand::Inspect(args) => inspect(args, environment),
    }
}

fn failed(text: impl Into<String>) -> Failure {
    Diagnostic::new(text).into()
}

fn remote_failure(error: &ImageError) -> Failure {
    match error {
        ImageError::Registry(error) => registry_failure(error),
        error => Diagnostic::of(error).into(),
    }
}

fn parsed(text: &str) -> Result<Reference, Failure> {
    Ok(Reference::parse(text).map(Reference::with_default_tag).map_err(|error| Diagnostic::of(&error))?)
}

/// A source as it was written.
#[derive(Debug)]
enum Source {
    Name(Reference),
    Digest(OciDigest),
    Descriptor(Given),
}

/// A descriptor of which only the digest must be there.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    digest: Option<OciDigest>,
    #[serde(default, rename = "size")]
    size_bytes: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<DescriptorPlatform>,
}

fn source(text: &str) -> Result<Source, Failure> {
    let text = text.trim();
    let invalid = |why: &dyn std::fmt::Display| {
        failed(format!("failed to parse source {text:?}, valid sources are digests, references and descriptors: {why}"))
    };
    if let Ok(digest) = text.parse() {
        return Ok(Source::Digest(digest));
    }
    if !text.starts_with('{') {
        return Reference::parse(text).map(|name| Source::Name(name.with_default_tag())).map_err(|error| invalid(&error));
    }
    let given: Given = serde_json::from_str(text).map_err(|error| invalid(&error))?;
    if given.schema_version != 0 {
        let version = given.schema_version;
        return Err(invalid(&format!("expected an OCI content descriptor, got a manifest or index (schemaVersion {version})")));
    }
    if given.digest.is_none() {
        return Err(invalid(&"invalid descriptor: digest is required"));
    }
    Ok(Source::Descriptor(given))
}

fn create(args: &CreateIndexArgs, environment: &Environment) -> Result<(), Failure> {
    if args.sources.is_empty() && args.files.is_empty() {
        return Err(failed("no sources specified"));
    }
    if args.tags.is_empty() && !args.dry_run {
        return Err(failed("can't push with no tags specified, please set --tag or --dry-run"));
    }
    let mut texts = Vec::new();
    for file in &args.files {
        let path = environment.resolve(file);
        let text = fs::read_to_string(&path);
        texts.push(text.map_err(|error| Diagnostic::new(format!("cannot read {}", path.display())).because(error.to_string()))?);
    }
    let tags = args.tags.iter().map(|tag| parsed(tag)).collect::<Result<Vec<_>, _>>()?;
    texts.extend(args.sources.iter().cloned());
    if let (true, Some(first)) = (args.append, args.tags.first()) {
        texts.insert(0, first.clone());
    }
    let sources = texts.iter().map(|text| source(text)).collect::<Result<Vec<_>, _>>()?;
    let mut platforms = Vec::new();
    for text in args.platforms.iter().flat_map(|list| list.split(',')) {
        platforms.push(text.parse::<Platform>().map_err(|error| Diagnostic::new(format!("invalid platform {text:?}: {error}")))?);
    }
    let annotations = annotations(&args.annotations).map_err(|error| Diagnostic::new(format!("failed to parse annotations: {error}")))?;
    let (mode, note) = progress_mode(args.progress.as_deref(), false, environment).map_err(|error| Diagnostic::of(&error))?;
    let default = default_repository(&tags, &sources, &texts)?;
    let (service, _lease) = images(environment, &args.registry)?;
    let ingredients = sources.iter().map(|source| ingredient(&service, source, default.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let wish = Wish { annotations, prefers_index: args.prefer_index.is_none_or(|switch| switch.0), platforms };
    let combined = combine(&ingredients, &wish).map_err(|error| Diagnostic::of(&error))?;
    if args.dry_run {
        return print([&combined.bytes[..], b"\n"].concat());
    }
    if let Some(note) = note {
        super::console::warn(&note);
    }
    let display = Display::start(mode, environment.non_empty("NO_COLOR").is_none(), "", Screen::stderr());
    let pushed = push_all(&service, &combined, &tags, &display);
    display.finish();
    pushed?;
    match &args.metadata_file {
        Some(file) => write_metadata(&environment.resolve(file), &combined.descriptor, &tags),
        None => Ok(()),
    }
}

/// The repository of sources that are only digests: the one that is spoken of. `texts` are the sources as they were written.
fn default_repository(tags: &[Reference], sources: &[Source], texts: &[String]) -> Result<Option<Reference>, Failure> {
    let named = sources.iter().filter_map(|source| if let Source::Name(name) = source { Some(name) } else { None });
    let all: Vec<&Reference> = named.chain(tags).collect();
    let Some(first) = all.first() else {
        return Err(failed("no repositories specified, please set a reference in tag or source"));
    };
    if all.iter().all(|name| name.name() == first.name()) {
        return Ok(Some((*first).clone()));
    }
    match sources.iter().position(|source| !matches!(source, Source::Name(_))) {
        Some(bare) => Err(failed(format!("multiple repositories specified, cannot infer repository for {:?}", texts[bare]))),
        None => Ok(None),
    }
}

/// Looks a source up; of a manifest its platform, too.
fn ingredient(service: &ImageService, source: &Source, default: Option<&Reference>) -> Result<Ingredient, Failure> {
    let in_default = |digest: &OciDigest| default.expect("it was looked for").at_digest(digest);
    let (name, given) = match source {
        Source::Name(name) => (name.clone(), None),
        Source::Digest(digest) => (in_default(digest), None),
        Source::Descriptor(given) => (in_default(given.digest.as_ref().expect("it was looked for")), Some(given)),
    };
    let Remote { mut descriptor, document, bytes, .. } = service.remote(&name, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    if let Some(given) = given {
        if given.size_bytes != 0 && given.size_bytes != descriptor.size_bytes {
            let (digest, own) = (&descriptor.digest, descriptor.size_bytes);
            return Err(failed(format!("invalid size mismatch for {digest}, {} != {own}", given.size_bytes)));
        }
        if !given.media_type.is_empty() {
            descriptor.media_type.clone_from(&given.media_type);
        }
        descriptor.annotations.clone_from(&given.annotations);
        descriptor.platform.clone_from(&given.platform);
    }
    if let Document::Manifest(manifest) = &document {
        descriptor.platform = Some(platform_of(service, &name, manifest, descriptor.platform.take())?);
    }
    Ok(Ingredient { source: name, descriptor, document, bytes })
}

/// The platform that was given, with what it lacks from the config.
fn platform_of(
    service: &ImageService,
    name: &Reference,
    manifest: &Manifest,
    given: Option<DescriptorPlatform>,
) -> Result<DescriptorPlatform, Failure> {
    let mut platform = given.unwrap_or_default();
    if !platform.os.is_empty() && !platform.architecture.is_empty() {
        return Ok(platform);
    }
    let own = service.remote_platform(name, manifest, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    let own = own.normal().map_or(own, |normal| DescriptorPlatform::from(&normal));
    if platform.architecture.is_empty() {
        platform.architecture = own.architecture;
        if platform.variant.is_empty() {
            platform.variant = own.variant;
        }
    }
    if platform.os.is_empty() {
        platform.os = own.os;
    }
    Ok(platform)
}

/// Brings the result and all it needs into the repositories of the tags, one after the other.
fn push_all(service: &ImageService, combined: &Combined, tags: &[Reference], display: &Display) -> Result<(), Failure> {
    let repositories: BTreeSet<String> = tags.iter().map(Reference::name).collect();
    for repository in repositories {
        let own: Vec<&Reference> = tags.iter().filter(|tag| tag.name() == repository).collect();
        let (task, started) = (display.new_task(), Instant::now());
        display.report(Event::Started { task, name: format!("[internal] pushing {repository}") });
        let note = |text: String| display.report(Event::Note { task, text });
        let pushed = push_into(service, combined, &repository, &own, &note);
        display.report(match &pushed {
            Ok(()) => Event::Done { task, elapsed: started.elapsed() },
            Err(error) => Event::Failed { task, error: error.to_string() },
        });
        pushed.map_err(|error| remote_failure(&error))?;
    }
    Ok(())
}

fn push_into(
    service: &ImageService,
    combined: &Combined,
    repository: &str,
    tags: &[&Reference],
    note: &dyn Fn(String),
) -> Result<(), ImageError> {
    let home = service.home(tags[0])?;
    for (digest, from) in &combined.parts {
        note(format!("copying {digest} from {from} to {repository}"));
        service.copy_image(from, digest, tags[0], &RegistryNotes)?;
    }
    let Descriptor { digest, media_type, .. } = &combined.descriptor;
    for tag in tags {
        note(format!("pushing {digest} to {tag}"));
        let name = tag.digest().map_or_else(|| tag.tag().unwrap_or_default().to_owned(), ToString::to_string);
        service.send_manifest(&home, &name, &combined.bytes, media_type, &RegistryNotes)?;
    }
    Ok(())
}

fn write_metadata(path: &std::path::Path, descriptor: &Descriptor, tags: &[Reference]) -> Result<(), Failure> {
    let names: BTreeSet<String> = tags.iter().map(Reference::name).collect();
    let names: Vec<String> = names.into_iter().collect();
    let text = serde_json::to_string_pretty(&json!({"containerimage.descriptor": descriptor, "image.name": names.join(",")}));
    crate::pipeline::write_file(path, text.expect("it has text keys").as_bytes()).map_err(|error| Diagnostic::of(&error).into())
}

fn inspect(args: &InspectIndexArgs, environment: &Environment) -> Result<(), Failure> {
    if args.raw && !args.format.is_empty() {
        return Err(failed("format and raw cannot be used together"));
    }
    let is_table = args.format.is_empty() || is_whole_manifest(&args.format);
    let template = Template::parse(if is_table { "" } else { &args.format }).map_err(|error| Failure::template(&error))?;
    let name = parsed(&args.name)?;
    let (service, _lease) = images(environment, &args.registry)?;
    let found = service.remote(&name, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    if args.raw {
        // Without a line end: it has the digest.
        return print(&found.bytes);
    }
    if is_table {
        return print(table(&found));
    }
    let (manifest, image) = match &found.document {
        Document::Manifest(manifest) => (described(&found.descriptor), config(&service, &name, manifest)?),
        Document::Index(index) => (listed(&found.descriptor, index), configs(&service, &name, index)?),
    };
    let fields = [("Name", Value::text(&args.name)), ("Manifest", manifest), ("Image", image)];
    let data = ["name", "manifest", "image"].into_iter().zip(["Name", "Manifest", "Image"]);
    let data = data.fold(Struct::new("imagetools.tplInput", fields), |data, (key, field)| data.renamed(field, key));
    print(template.fill_indented(&Value::Struct(data)).map_err(|error| Diagnostic::of(&error))?)
}

/// `{{.Manifest}}` alone means the table.
fn is_whole_manifest(format: &str) -> bool {
    let inner = format.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    inner.is_some_and(|inner| inner.trim() == ".Manifest")
}

/// The table, with the blanks that Docker's has at the ends of lines.
fn table(found: &Remote) -> String {
    let Remote { reference, descriptor, document, .. } = found;
    let head = format!("Name:\t{reference}\nMediaType:\t{}\nDigest:\t{}\n", descriptor.media_type, descriptor.digest);
    let mut text = aligned(&head, TABLE);
    let Document::Index(index) = document else { return text };
    text.push_str(&aligned("\t\nManifests:\t\n", TABLE));
    let mut block = String::new();
    let line = |block: &mut String, key: &str, value: &str| writeln!(block, "  {key}:\t{value}").expect("a String takes everything");
    for (n, entry) in index.manifests.iter().enumerate() {
        if n > 0 {
            block.push_str("\t\n");
        }
        line(&mut block, "Name", &reference.with_digest(&entry.digest).to_string());
        line(&mut block, "MediaType", &entry.media_type);
        let Some(platform) = &entry.platform else { continue };
        line(&mut block, "Platform", &written(platform));
        for (key, value) in
            [("OSVersion", platform.os_version.clone()), ("OSFeatures", platform.os_features.join(", ")), ("URLs", entry.urls.join(", "))]
        {
            if !value.is_empty() {
                line(&mut block, key, &value);
            }
        }
        if !entry.annotations.is_empty() {
            line(&mut block, "Annotations", "");
            text.push_str(&aligned(&std::mem::take(&mut block), TABLE));
            let pairs: String = entry.annotations.iter().map(|(key, value)| format!("    {key}:\t{value}\n")).collect();
            text.push_str(&aligned(&pairs, TABLE));
        }
    }
    text + &aligned(&block, TABLE)
}

fn written(platform: &DescriptorPlatform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("/")
}

/// A record whose fields have Go's names in templates and `keys` in JSON.
fn record(type_name: &'static str, fields: Vec<(&'static str, &'static str, Value)>, omitted: &[&str]) -> Value {
    let keys: Vec<_> = fields.iter().map(|(name, key, _)| (*name, *key)).collect();
    let record = Struct::new(type_name, fields.into_iter().map(|(name, _, value)| (name, value)));
    Value::Struct(keys.into_iter().fold(record, |record, (name, key)| record.renamed(name, key)).omitting(omitted))
}

fn texts(map: &BTreeMap<String, String>) -> Value {
    Value::Map(Some(map.iter().map(|(key, value)| (key.clone(), Value::text(value))).collect()))
}

fn described(descriptor: &Descriptor) -> Value {
    let platform = descriptor.platform.as_ref().map_or(Value::Nil, |platform| {
        let fields = vec![
            ("Architecture", "architecture", Value::text(&platform.architecture)),
            ("OS", "os", Value::text(&platform.os)),
            ("OSVersion", "os.version", Value::text(&platform.os_version)),
            ("OSFeatures", "os.features", Value::texts(&platform.os_features)),
            ("Variant", "variant", Value::text(&platform.variant)),
        ];
        record("v1.Platform", fields, &["OSVersion", "OSFeatures", "Variant"])
    });
    let fields = vec![
        ("MediaType", "mediaType", Value::text(&descriptor.media_type)),
        ("Digest", "digest", Value::text(descriptor.digest.to_string())),
        ("Size", "size", Value::Int(descriptor.size_bytes as i64)),
        ("URLs", "urls", Value::texts(&descriptor.urls)),
        ("Annotations", "annotations", texts(&descriptor.annotations)),
        ("Platform", "platform", platform),
        ("ArtifactType", "artifactType", Value::text(&descriptor.artifact_type)),
    ];
    record("v1.Descriptor", fields, &["URLs", "Annotations", "Platform", "ArtifactType"])
}

fn listed(descriptor: &Descriptor, index: &Index) -> Value {
    let fields = vec![
        ("SchemaVersion", "schemaVersion", Value::Int(i64::from(index.schema_version))),
        ("MediaType", "mediaType", Value::text(&index.media_type)),
        ("Digest", "digest", Value::text(descriptor.digest.to_string())),
        ("Size", "size", Value::Int(descriptor.size_bytes as i64)),
        ("Manifests", "manifests", Value::List(Some(index.manifests.iter().map(described).collect()))),
        ("Annotations", "annotations", texts(&index.annotations)),
    ];
    record("struct", fields, &["MediaType", "Annotations"])
}

/// The configs by platform; that of the only platform without it.
fn configs(service: &ImageService, name: &Reference, index: &Index) -> Result<Value, Failure> {
    let mut all = BTreeMap::new();
    for entry in index.manifests.iter().filter(|entry| !entry.is_attestation()) {
        let found = service.remote(&name.at_digest(&entry.digest), &RegistryNotes).map_err(|error| remote_failure(&error))?;
        let Document::Manifest(manifest) = &found.document else { continue };
        let platform = platform_of(service, name, manifest, entry.platform.clone())?;
        let platform = platform.normal().map_or_else(|| written(&platform), |normal| normal.to_string());
        all.insert(platform, config(service, name, manifest)?);
    }
    if all.len() == 1 {
        return Ok(all.into_values().next().unwrap_or_default());
    }
    Ok(Value::Map(Some(all)))
}

/// An image config under the names of Go's fields, in the order of its struct.
fn config(service: &ImageService, name: &Reference, manifest: &Manifest) -> Result<Value, Failure> {
    let bytes = service.remote_config(name, manifest, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    let json: Json = serde_json::from_slice(&bytes).map_err(|error| Diagnostic::of(&error))?;
    Ok(image_value(&json))
}

fn image_value(json: &Json) -> Value {
    let run = &json["config"];
    let pick = |from: &Json, keys: &[(&'static str, &'static str)]| {
        let field = |(name, key): &(&'static str, &'static str)| (*name, *key, Value::from(from.get(*key).cloned().unwrap_or(Json::Null)));
        keys.iter().map(field).collect::<Vec<_>>()
    };
    let run_keys = [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "ArgsEscaped",
        "Healthcheck",
        "OnBuild",
        "Shell",
    ];
    let run = record("v1.ImageConfig", pick(run, &run_keys.map(|key| (key, key))), &run_keys);
    let rootfs = record("v1.RootFS", pick(&json["rootfs"], &[("Type", "type"), ("DiffIDs", "diff_ids")]), &[]);
    let step_keys =
        [("Created", "created"), ("CreatedBy", "created_by"), ("Author", "author"), ("Comment", "comment"), ("EmptyLayer", "empty_layer")];
    let steps = json["history"].as_array().into_iter().flatten();
    let steps = steps.map(|step| record("v1.History", pick(step, &step_keys), &step_keys.map(|(name, _)| name))).collect();
    let mut fields = pick(json, &[("Created", "created"), ("Author", "author"), ("Architecture", "architecture"), ("OS", "os")]);
    fields.extend(pick(json, &[("OSVersion", "os.version"), ("OSFeatures", "os.features"), ("Variant", "variant")]));
    fields.extend([("Config", "config", run), ("RootFS", "rootfs", rootfs), ("History", "history", Value::List(Some(steps)))]);
    record("v1.Image", fields, &["Created", "Author", "OSVersion", "OSFeatures", "Variant", "History"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Remote {
        let document = Document::parse(text.as_bytes(), None).unwrap();
        let descriptor = Descriptor::new(document.media_type(), OciDigest::sha256_of(text.as_bytes()), text.len() as u64);
        Remote { reference: parsed("r.io/app").unwrap(), descriptor, document, bytes: text.into() }
    }

    #[test]
    fn the_table_is_docker_s() {
        let (a, b) = (OciDigest::sha256_of(b"a"), OciDigest::sha256_of(b"b"));
        let text = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
            {"mediaType": "m", "digest": a, "size": 1, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"mediaType": "m", "digest": b, "size": 1, "annotations": {"k": "v"}, "platform": {"os": "unknown", "architecture": "unknown"}},
        ]});
        let found = remote(&text.to_string());
        let digest = &found.descriptor.digest;
        let expected = format!(
            "Name:      r.io/app:latest\nMediaType: application/vnd.oci.image.index.v1+json\nDigest:    {digest}\n           \nManifests: \n  \
             Name:        r.io/app:latest@{a}\n  MediaType:   m\n  Platform:    linux/arm64/v8\n               \n  Name:        r.io/app:latest@{b}\n  \
             MediaType:   m\n  Platform:    unknown/unknown\n  Annotations: \n    k: v\n"
        );
        assert_eq!(table(&found), expected);
    }

    #[test]
    fn sources_are_names_digests_and_descriptors() {
        let digest = OciDigest::sha256_of(b"a");
        assert!(matches!(source("app").unwrap(), Source::Name(name) if name.to_string() == "docker.io/library/app:latest"));
        assert!(matches!(source(&format!("{digest}\n")).unwrap(), Source::Digest(found) if found == digest));
        assert!(matches!(source(&json!({"digest": digest}).to_string()).unwrap(), Source::Descriptor(given) if given.size_bytes == 0));
        let message = |text: &str| match source(text) {
            Err(Failure::Shown(diagnostic)) => diagnostic.message,
            other => panic!("{other:?}"),
        };
        assert!(message("{}").ends_with("invalid descriptor: digest is required"));
        assert!(
            message(r#"{"schemaVersion":2}"#).ends_with("expected an OCI content descriptor, got a manifest or index (schemaVersion 2)")
        );
        assert!(message("Bad").starts_with("failed to parse source \"Bad\", valid sources are digests, references and descriptors: "));
    }

    #[test]
    fn templates_see_go_s_fields_and_write_docker_s_keys() {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"]}, "rootfs": {"type": "layers", "diff_ids": []},
            "history": [{"created_by": "x"}]});
        let data = Value::Struct(Struct::new("t", [("Image", image_value(&config))]));
        let fill = |text: &str| Template::parse(text).unwrap().fill_indented(&data).unwrap();
        assert_eq!(fill("{{index .Image.Config.Env 0}} {{.Image.OS}}/{{.Image.Architecture}}"), "A=b linux/amd64");
        assert_eq!(fill("{{json .Image.Config}}"), "{\n  \"Env\": [\n    \"A=b\"\n  ]\n}");
        assert_eq!(fill("{{(index .Image.History 0).CreatedBy}}"), "x");
    }
}
