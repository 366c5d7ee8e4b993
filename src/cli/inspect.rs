//! `shale inspect`: what is known about images → text.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use super::template::{Struct, Template, TemplateError, Value};
use crate::image::{ContainerConfig, Inspect};

/// What a text is made of.
#[derive(Debug)]
pub enum Form {
    /// JSON, indented by four.
    Pretty,
    /// JSON on one line.
    Compact,
    /// A line of the template per object.
    Template(Template),
}

impl Form {
    /// Reads `--format`.
    pub fn parse(format: Option<&str>) -> Result<Self, TemplateError> {
        match format {
            None | Some("") => Ok(Self::Pretty),
            Some("json") => Ok(Self::Compact),
            Some(format) => Template::parse(format).map(Self::Template),
        }
    }

    /// The text for what was found, and what could not be filled.
    pub fn render(&self, found: &[Inspect]) -> (String, Vec<TemplateError>) {
        let template = match self {
            Self::Pretty => return (pretty(&found), vec![]),
            Self::Compact => return (serde_json::to_string(found).expect("it has text keys") + "\n", vec![]),
            Self::Template(template) => template,
        };
        let mut text = String::new();
        let mut errors = Vec::new();
        for image in found {
            match template.fill(&typed(image)) {
                Ok(line) => text.push_str(&(line + "\n")),
                Err(error) => errors.push(error),
            }
        }
        // Docker ends the line that it has not begun.
        (if text.is_empty() { "\n".into() } else { text }, errors)
    }
}

/// JSON indented by four, as Docker indents.
pub fn pretty(found: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
    found.serialize(&mut serializer).expect("values and a Vec cannot fail");
    bytes.push(b'\n');
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// The kinds of objects that Docker has.
const KINDS: &[&str] = &["config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"];

/// What is wrong with a `--type`, if anything: it must be one of Docker's.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let all = format!("must be one of \"{}\"", KINDS.join("\", \""));
    match kind {
        "" => Err(format!("type is empty: {all}")),
        kind if KINDS.contains(&kind) => Ok(()),
        _ => Err(format!("unknown type: {kind:?}: {all}")),
    }
}

/// The image as Docker's types have it: a list or map that is absent is an empty one, not a missing key.
fn typed(image: &Inspect) -> Value {
    let text = |text: &String| Value::text(text);
    let data = image.graph_driver.data.clone().map(|data| data.into_iter().map(|(key, value)| (key, Value::Text(value))).collect());
    let driver = Struct::new("", [("Data", Value::Map(data)), ("Name", Value::text(image.graph_driver.name))]);
    let layers = Struct::new("", [("Type", text(&image.root_fs.r#type)), ("Layers", Value::texts(image.root_fs.layers.clone()))]);
    let fields = [
        ("Id", text(&image.id)),
        ("RepoTags", Value::texts(image.repo_tags.clone())),
        ("RepoDigests", Value::texts(image.repo_digests.clone())),
        ("Parent", text(&image.parent)),
        ("Comment", text(&image.comment)),
        ("Created", text(&image.created)),
        ("DockerVersion", text(&image.docker_version)),
        ("Author", text(&image.author)),
        ("Config", Value::Struct(config(&image.config))),
        ("Architecture", text(&image.architecture)),
        ("Variant", text(&image.variant)),
        ("Os", text(&image.os)),
        ("Size", Value::Int(image.size as i64)),
        ("GraphDriver", Value::Struct(driver)),
        ("RootFS", Value::Struct(layers)),
        ("Metadata", Value::Struct(Struct::new("", [("LastTagTime", text(&image.metadata.last_tag_time))]))),
    ];
    Value::Struct(Struct::new("", fields).omitting(&["Variant"]))
}

fn config(config: &ContainerConfig) -> Struct {
    let list = |list: &Option<Vec<String>>| Value::List(list.as_ref().map(|list| list.iter().map(Value::text).collect()));
    let map = |map: &Option<BTreeMap<String, Json>>| {
        Value::Map(map.as_ref().map(|map| map.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()))
    };
    let labels = config.labels.as_ref().map(|labels| labels.iter().map(|(key, value)| (key.clone(), Value::text(value))).collect());
    let health = config.healthcheck.as_ref().map(|health| serde_json::to_value(health).expect("it has text keys"));
    let fields = [
        ("Hostname", Value::text(&config.hostname)),
        ("Domainname", Value::text(&config.domainname)),
        ("User", Value::text(&config.user)),
        ("ExposedPorts", map(&config.exposed_ports)),
        ("Env", list(&config.env)),
        ("Cmd", list(&config.cmd)),
        ("Healthcheck", health.map_or(Value::Nil, Value::from)),
        ("ArgsEscaped", Value::Bool(config.args_escaped)),
        ("Image", Value::text(&config.image)),
        ("Volumes", map(&config.volumes)),
        ("WorkingDir", Value::text(&config.working_dir)),
        ("Entrypoint", list(&config.entrypoint)),
        ("OnBuild", list(&config.on_build)),
        ("Labels", Value::Map(labels)),
        ("StopSignal", Value::text(&config.stop_signal)),
        ("Shell", list(&config.shell)),
    ];
    Struct::new("", fields).omitting(&["ExposedPorts", "Healthcheck", "ArgsEscaped", "StopSignal", "Shell"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{GraphDriver, InspectMetadata, InspectRootFs};
    use crate::oci::config::RunConfig;

    fn image() -> Inspect {
        let config = RunConfig { env: Some(vec!["A=1".into()]), user: "app".into(), ..RunConfig::default() };
        Inspect {
            id: "sha256:ab".into(),
            repo_tags: vec!["app:latest".into()],
            repo_digests: vec![],
            parent: String::new(),
            comment: "buildkit.dockerfile.v0".into(),
            created: "2023-11-14T22:13:20Z".into(),
            docker_version: String::new(),
            author: String::new(),
            config: config.into(),
            architecture: "amd64".into(),
            variant: String::new(),
            os: "linux".into(),
            size: 42,
            graph_driver: GraphDriver { data: None, name: "shale" },
            root_fs: InspectRootFs { r#type: "layers".into(), layers: vec!["sha256:aa".into()] },
            metadata: InspectMetadata { last_tag_time: "2023-11-14T22:13:20Z".into() },
        }
    }

    fn line(format: &str) -> String {
        let (text, errors) = Form::parse(Some(format)).unwrap().render(&[image()]);
        assert_eq!(errors, [], "{format}");
        text
    }

    #[test]
    fn templates_and_json_say_the_same() {
        assert_eq!(line("{{json .}}"), serde_json::to_string(&image()).unwrap() + "\n");
        assert_eq!(line("json"), serde_json::to_string(&[image()]).unwrap() + "\n");
        assert!(Form::Pretty.render(&[image()]).0.starts_with("[\n    {\n        \"Id\": \"sha256:ab\",\n"));
        assert_eq!(Form::Pretty.render(&[]).0, "[]\n");
    }

    #[test]
    fn what_the_plugin_for_jenkins_asks() {
        for (format, text) in [
            (".", ".\n"),
            ("{{.Id}}", "sha256:ab\n"),
            ("{{.Config.Hostname}}", "\n"),
            ("{{json .Created}}", "\"2023-11-14T22:13:20Z\"\n"),
            ("{{.Parent}}|{{.Size}}|{{.Architecture}}|{{.GraphDriver.Name}}", "|42|amd64|shale\n"),
            ("{{.Config.ExposedPorts}} {{.Config.Labels}} {{.Config.Cmd}} {{.Config.Healthcheck}}", "map[] map[] [] <no value>\n"),
            ("{{index .Config.Labels \"nope\"}}", "\n"),
            ("{{range .RootFS.Layers}}{{println .}}{{end}}", "sha256:aa\n\n"),
        ] {
            assert_eq!(line(format), text, "{format}");
        }
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error_and_an_empty_line() {
        let (text, errors) = Form::parse(Some("{{.Name}}")).unwrap().render(&[image()]);
        assert_eq!(text, "\n");
        assert!(errors[0].to_string().ends_with("executing \"\" at <.Name>: map has no entry for key \"Name\""), "{errors:?}");
    }

    #[test]
    fn kinds_are_docker_s() {
        assert_eq!(check_kind("image"), Ok(()));
        assert!(check_kind("bogus").unwrap_err().starts_with("unknown type: \"bogus\": must be one of \"config\", \"container\", "));
    }
}
