//! What is on record of one build → text and JSON, under the names that `buildx history inspect` has.

use std::time::Duration;

use serde_json::{Map, json};
use shale_cache::{BuildRecord, BuildResult};

use super::Millis;
use super::rows::{Style, duration, name_of, secs};
use crate::cli::columns::{Widths, aligned};
use crate::cli::human;
use crate::cli::template::{Struct, Value};

/// One blank behind the longest name.
const WIDTHS: Widths = Widths { least: 1, padding: 1 };
/// What an error message says of a build that was killed: nobody was left to write one.
const KILLED: &str = "the build was killed, or the machine went down";

/// What is printed for people.
pub(super) fn render(record: &BuildRecord, now_ms: Millis) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        ("Name", name_of(record, Style::Buildx)),
        ("Ref", record.id.clone()),
        ("Context", record.context.clone()),
        ("Dockerfile", record.dockerfile.clone()),
        ("Target", record.target.clone().unwrap_or_default()),
        ("Platforms", record.platforms.join(", ")),
        ("Command", record.command.join(" ")),
        ("Image", record.image.clone().unwrap_or_default()),
        ("Tags", record.tags.join(", ")),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    let mut second: Vec<(&str, String)> = vec![("Started", human::moment(secs(record.started_ms)).unwrap_or_default())];
    let note = if record.result == BuildResult::Running { " (running)" } else { "" };
    second.push(("Duration", duration(record, now_ms).trim_end_matches('+').to_owned() + note));
    second.push(match record.result {
        BuildResult::Failed => ("Error", record.error.clone().unwrap_or_default().replace('\n', " ")),
        BuildResult::Interrupted => ("Error", KILLED.to_owned()),
        BuildResult::Cancelled => ("Status", "Canceled".to_owned()),
        BuildResult::Ok | BuildResult::Running => ("Status", word(record.result).to_owned()),
    });
    let (done, total) = (record.hits + record.misses, record.steps.len());
    let share = (record.hits * 100).checked_div(total).unwrap_or(0);
    second.push(("Build Steps", format!("{done}/{total} ({share}% cached)")));
    second.push(("Size", human::short_bytes(record.bytes)));
    second.retain(|(_, value)| !value.is_empty());
    format!("{}\n{}", table(&lines), table(&second))
}

fn table(lines: &[(&str, String)]) -> String {
    let text: String = lines.iter().map(|(name, value)| format!("{name}:\t{value}\n")).collect();
    aligned(&text, WIDTHS)
}

/// `completed`, `running`, `failed`, `canceled`. Docker knows no builds that were killed.
fn word(result: BuildResult) -> &'static str {
    match result {
        BuildResult::Running => "running",
        BuildResult::Ok => "completed",
        BuildResult::Failed | BuildResult::Interrupted => "failed",
        BuildResult::Cancelled => "canceled",
    }
}

fn error(record: &BuildRecord) -> Option<&str> {
    match record.result {
        BuildResult::Interrupted => Some(KILLED),
        _ => record.error.as_deref(),
    }
}

fn elapsed_ms(record: &BuildRecord, now_ms: Millis) -> Millis {
    if record.result == BuildResult::Running { now_ms.saturating_sub(record.started_ms) } else { record.duration_ms }
}

/// Docker's JSON, as far as it has counterparts.
pub(super) fn json(record: &BuildRecord, now_ms: Millis) -> String {
    let date = |ms| json!(human::rfc3339(secs(ms)).unwrap_or_default());
    let mut all = Map::new();
    all.insert("Name".into(), json!(name_of(record, Style::Buildx)));
    all.insert("Ref".into(), json!(record.id));
    all.insert("Context".into(), json!(record.context));
    if !record.dockerfile.is_empty() {
        all.insert("Dockerfile".into(), json!(record.dockerfile));
    }
    if let Some(target) = &record.target {
        all.insert("Target".into(), json!(target));
    }
    if !record.platforms.is_empty() {
        all.insert("Platform".into(), json!(record.platforms));
    }
    all.insert("StartedAt".into(), date(record.started_ms));
    if record.result != BuildResult::Running {
        all.insert("CompletedAt".into(), date(record.started_ms + record.duration_ms));
    }
    all.insert("Duration".into(), json!(nanos(elapsed_ms(record, now_ms))));
    all.insert("Status".into(), json!(word(record.result)));
    if let Some(message) = error(record) {
        all.insert("Error".into(), json!({ "Message": message }));
    }
    all.insert("NumCompletedSteps".into(), json!(record.hits + record.misses));
    all.insert("NumTotalSteps".into(), json!(record.steps.len()));
    all.insert("NumCachedSteps".into(), json!(record.hits));
    serde_json::to_string_pretty(&all).expect("a map of texts serialises") + "\n"
}

/// The fields for templates.
pub(super) fn facts(record: &BuildRecord, now_ms: Millis) -> Struct {
    let number = |count: usize| Value::Int(count as i64);
    let error =
        error(record).map_or(Value::Nil, |message| Value::Struct(Struct::new("*history.errorOutput", [("Message", Value::text(message))])));
    Struct::new(
        "history.inspectOutput",
        [
            ("Name", Value::Text(name_of(record, Style::Buildx))),
            ("Ref", Value::text(&record.id)),
            ("Context", Value::text(&record.context)),
            ("Dockerfile", Value::text(&record.dockerfile)),
            ("Target", Value::text(record.target.as_deref().unwrap_or_default())),
            ("Platform", Value::texts(&record.platforms)),
            ("StartedAt", Value::Text(human::rfc3339(secs(record.started_ms)).unwrap_or_default())),
            ("Duration", Value::Text(format!("{:?}", Duration::from_millis(elapsed_ms(record, now_ms))))),
            ("Status", Value::text(word(record.result))),
            ("Error", error),
            ("NumCompletedSteps", number(record.hits + record.misses)),
            ("NumTotalSteps", number(record.steps.len())),
            ("NumCachedSteps", number(record.hits)),
            ("Image", Value::text(record.image.as_deref().unwrap_or_default())),
            ("Tags", Value::texts(&record.tags)),
            ("Command", Value::texts(&record.command)),
        ],
    )
}

fn nanos(ms: Millis) -> u64 {
    ms.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::rows::example;
    use super::*;

    const NOW_MS: Millis = 1_700_000_120_000;

    #[test]
    fn a_build_is_inspected_as_by_buildx() {
        insta::assert_snapshot!(render(&example("00c0000000000003"), NOW_MS), @r"
        Name:       app
        Ref:        00c0000000000003
        Context:    /w/app
        Dockerfile: Dockerfile
        Command:    shale build .
        Tags:       docker.io/library/app:2

        Started:     2023-11-14 22:13:20 +0000 UTC
        Duration:    2.0s
        Status:      completed
        Build Steps: 2/2 (50% cached)
        Size:        2kB
        ");
        insta::assert_snapshot!(json(&example("00c0000000000003"), NOW_MS), @r#"
        {
          "Name": "app",
          "Ref": "00c0000000000003",
          "Context": "/w/app",
          "Dockerfile": "Dockerfile",
          "StartedAt": "2023-11-14T22:13:20Z",
          "CompletedAt": "2023-11-14T22:13:22Z",
          "Duration": 2000000000,
          "Status": "completed",
          "NumCompletedSteps": 2,
          "NumTotalSteps": 2,
          "NumCachedSteps": 1
        }
        "#);
    }

    #[test]
    fn killed_and_cancelled_are_told_apart() {
        for (result, line) in
            [(BuildResult::Interrupted, KILLED), (BuildResult::Cancelled, "Canceled"), (BuildResult::Running, "(running)")]
        {
            let text = render(&BuildRecord { result, ..example("00c0000000000003") }, NOW_MS);
            assert!(text.contains(line), "{text}");
        }
    }
}
