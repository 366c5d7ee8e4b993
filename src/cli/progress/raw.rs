//! `--progress=rawjson`: BuildKit's status messages, one JSON object per line, for programs that show builds.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use shale_cache::OciDigest;

use crate::image::assemble::rfc3339;
use crate::plan::graph::Warning;
use crate::solve::event::{Event, Stream, TaskId};
use crate::span::SourceFile;

/// The raw view.
#[derive(Debug)]
pub(super) struct Raw {
    /// When the display started.
    begun: SystemTime,
    vertexes: BTreeMap<TaskId, Vertex>,
    silenced: bool,
}

#[derive(Debug)]
struct Vertex {
    digest: String,
    name: String,
    started: String,
}

impl Raw {
    pub(super) fn new() -> Self {
        Self { begun: SystemTime::now(), vertexes: BTreeMap::new(), silenced: false }
    }

    /// Tells an event that was sent at `at`, since the display's start.
    pub(super) fn take(&mut self, event: &Event, at: Duration, out: &mut dyn Write) {
        let now = self.time(at);
        let message = match event {
            Event::Started { task, name } => {
                let digest = OciDigest::sha256_of(format!("{} {name}", task.0).as_bytes()).to_string();
                self.vertexes.insert(*task, Vertex { digest, name: name.clone(), started: now });
                json!({ "vertexes": [self.vertex(*task)] })
            }
            Event::Cached { task } => self.ended(*task, &now, &[("cached", json!(true))]),
            Event::Done { task, .. } => self.ended(*task, &now, &[]),
            Event::Failed { task, error } => self.ended(*task, &now, &[("error", json!(error))]),
            Event::Canceled { task } => self.ended(*task, &now, &[("error", json!("context canceled"))]),
            Event::Output { task, stream, bytes } => {
                let stream = if *stream == Stream::Stdout { 1 } else { 2 };
                let log = json!({ "vertex": self.digest(*task), "stream": stream, "data": BASE64.encode(bytes), "timestamp": now });
                json!({ "logs": [log] })
            }
            Event::Note { task, text } => {
                let status =
                    json!({ "id": text, "vertex": self.digest(*task), "current": 0, "timestamp": now, "started": now, "completed": now });
                json!({ "statuses": [status] })
            }
            Event::Progress { task, what, current_bytes, total_bytes } => {
                let mut status = json!({ "id": what, "vertex": self.digest(*task), "current": current_bytes, "timestamp": now });
                if let Some(total) = total_bytes {
                    status["total"] = json!(total);
                }
                json!({ "statuses": [status] })
            }
            Event::Warnings { source, warnings } => {
                let vertex = self.vertexes.values().next().map_or("", |vertex| vertex.digest.as_str());
                json!({ "warnings": warnings.iter().map(|warning| warning_json(source, warning, vertex)).collect::<Vec<_>>() })
            }
        };
        // Nobody can be told that standard error is closed; the build goes on without it.
        self.silenced = self.silenced || writeln!(out, "{message}").is_err();
    }

    fn time(&self, at: Duration) -> String {
        let since = (self.begun + at).duration_since(UNIX_EPOCH).unwrap_or_default();
        rfc3339((since.as_secs() as i64, since.subsec_nanos()))
    }

    fn digest(&self, task: TaskId) -> &str {
        self.vertexes.get(&task).map_or("", |vertex| vertex.digest.as_str())
    }

    fn vertex(&self, task: TaskId) -> Value {
        self.vertexes
            .get(&task)
            .map_or(Value::Null, |Vertex { digest, name, started }| json!({ "digest": digest, "name": name, "started": started }))
    }

    fn ended(&self, task: TaskId, now: &str, more: &[(&str, Value)]) -> Value {
        let mut vertex = match self.vertex(task) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        vertex.insert("completed".into(), json!(now));
        vertex.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        json!({ "vertexes": [vertex] })
    }
}

/// A warning as BuildKit sends it: texts as bytes, the whole file, lines from 1.
pub(in crate::cli) fn warning_json(source: &SourceFile, warning: &Warning, vertex: &str) -> Value {
    let mut json = json!({
        "vertex": vertex,
        "level": 1,
        "short": BASE64.encode(format!("{}: {}", warning.rule, warning.text)),
    });
    if let Some(span) = warning.span {
        let (first, last) = source.lines_of(span);
        json["sourceInfo"] = json!({ "filename": source.name(), "data": BASE64.encode(source.text()), "language": "Dockerfile" });
        json["range"] = json!([{ "start": { "line": first }, "end": { "line": last } }]);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(events: &[Event]) -> Vec<Value> {
        let (mut raw, mut out) = (Raw::new(), Vec::new());
        for event in events {
            raw.take(event, Duration::from_millis(5), &mut out);
        }
        out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[test]
    fn each_event_is_a_line_that_names_its_vertex() {
        let task = TaskId(3);
        let told = lines(&[
            Event::Started { task, name: "[2/2] RUN make".into() },
            Event::Output { task, stream: Stream::Stderr, bytes: b"hi\n".to_vec() },
            Event::Progress { task, what: "sha256:a".into(), current_bytes: 1, total_bytes: Some(2) },
            Event::Failed { task, error: "exit code: 1".into() },
        ]);
        let vertex = &told[0]["vertexes"][0];
        assert_eq!(vertex["name"], "[2/2] RUN make");
        assert!(vertex["digest"].as_str().unwrap().starts_with("sha256:") && vertex["completed"].is_null());
        assert_eq!((&told[1]["logs"][0]["stream"], &told[1]["logs"][0]["data"]), (&json!(2), &json!("aGkK")));
        assert_eq!(told[1]["logs"][0]["vertex"], vertex["digest"]);
        assert_eq!((&told[2]["statuses"][0]["current"], &told[2]["statuses"][0]["total"]), (&json!(1), &json!(2)));
        assert_eq!(told[3]["vertexes"][0]["error"], "exit code: 1");
        assert!(told[3]["vertexes"][0]["completed"].is_string());
    }
}
