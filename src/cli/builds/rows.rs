//! The list of builds → text: shale's columns, and those of `buildx history ls`.

use std::collections::BTreeMap;

use serde_json::json;
use shale_cache::{BuildRecord, BuildResult};

use super::Millis;
use crate::cli::args::BuildsListArgs;
use crate::cli::human;
use crate::cli::listing::Listing;
use crate::cli::template::{Struct, TemplateError, Value};
use crate::oci::reference::Reference;

/// Whose words are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Shale,
    /// Those of `docker buildx history`.
    Buildx,
}

/// How one build is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) style: Style,
    /// Long names are cut.
    pub(super) is_short: bool,
}

const HEADS: &[(&str, &str)] = &[
    ("Ref", "BUILD ID"),
    ("Name", "NAME"),
    ("Status", "STATUS"),
    ("CreatedAt", "CREATED AT"),
    ("Duration", "DURATION"),
    ("Hits", "HITS"),
    ("Misses", "MISSES"),
    ("Size", "SIZE"),
    ("Context", "CONTEXT"),
    ("Image", "IMAGE"),
    ("Error", "ERROR"),
    ("StartedAt", "STARTED AT"),
    ("Link", ""),
];
const TABLE: &str = "{{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}\t{{.Hits}}\t{{.Misses}}\t{{.Size}}";
const BUILDX_TABLE: &str = "{{.Ref}}\t{{.Name}}\t{{.Status}}\t{{.CreatedAt}}\t{{.Duration}}\t{{.Link}}";

/// Characters of a name in a table.
const NAME_LIMIT: usize = 36;

/// All builds as text.
pub(super) fn render(records: &[BuildRecord], args: &BuildsListArgs, style: Style, now_ms: Millis) -> Result<String, TemplateError> {
    let format = args.format.as_deref();
    if style == Style::Buildx && matches!(format, Some("json" | "{{json .}}")) {
        return Ok(records.iter().map(|record| buildx_json(record) + "\n").collect());
    }
    let is_table = format.is_none_or(|format| format.starts_with("table"));
    let form = Form { style, is_short: is_table && !args.no_trunc };
    let table = if style == Style::Buildx { BUILDX_TABLE } else { TABLE };
    let rows = records.iter().map(|record| row(record, form, now_ms)).collect();
    Listing { heads: HEADS, table, quiet: "{{.Ref}}", raw: None }.render(rows, format, args.quiet)
}

/// The fields of one build.
pub(super) fn row(record: &BuildRecord, form: Form, now_ms: Millis) -> Struct {
    let name = name_of(record, form.style);
    let started_secs = secs(record.started_ms);
    let text = |text: &Option<String>| Value::text(text.as_deref().unwrap_or_default());
    let fields = [
        ("Ref", Value::text(&record.id)),
        ("Name", Value::Text(if form.is_short { without_beginning(&name) } else { name })),
        ("Status", Value::text(status(record.result, form.style))),
        ("CreatedAt", Value::Text(human::ago(started_secs, secs(now_ms)))),
        ("Duration", Value::Text(duration(record, now_ms))),
    ];
    let own = [
        ("Hits", Value::Text(record.hits.to_string())),
        ("Misses", Value::Text(record.misses.to_string())),
        ("Size", Value::Text(human::short_bytes(record.bytes))),
        ("Context", Value::text(&record.context)),
        ("Image", text(&record.image)),
        ("Error", text(&record.error)),
        ("StartedAt", Value::Text(human::rfc3339(started_secs).unwrap_or_default())),
    ];
    match form.style {
        Style::Shale => Struct::new("*builds.row", fields.into_iter().chain(own)),
        // The link opens Docker Desktop, which is not here.
        Style::Buildx => Struct::new("*history.lsContext", fields.into_iter().chain([("Link", Value::text(""))])),
    }
}

fn buildx_json(record: &BuildRecord) -> String {
    let date = |ms| human::rfc3339(secs(ms)).unwrap_or_default();
    let completed = (record.result != BuildResult::Running).then(|| ("completed_at", json!(date(record.started_ms + record.duration_ms))));
    let all = [
        ("cached_steps", json!(record.hits)),
        ("completed_steps", json!(record.hits + record.misses)),
        ("created_at", json!(date(record.started_ms))),
        ("name", json!(name_of(record, Style::Buildx))),
        ("ref", json!(format!("default/default/{}", record.id))),
        ("status", json!(status(record.result, Style::Buildx))),
        ("total_steps", json!(record.steps.len())),
    ];
    json!(all.into_iter().chain(completed).collect::<BTreeMap<_, _>>()).to_string()
}

/// Seconds since the epoch.
pub(super) fn secs(ms: Millis) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX)
}

/// How long it took; nothing for a build that was killed, for nobody saw its end.
pub(super) fn duration(record: &BuildRecord, now_ms: Millis) -> String {
    match record.result {
        BuildResult::Interrupted => String::new(),
        BuildResult::Running => human::duration_ms(now_ms.saturating_sub(record.started_ms)) + "+",
        BuildResult::Ok | BuildResult::Failed | BuildResult::Cancelled => human::duration_ms(record.duration_ms),
    }
}

/// What people know a build by: the image's name, else the folder's. Docker has the folder's, with Dockerfile and stage.
pub(super) fn name_of(record: &BuildRecord, style: Style) -> String {
    let familiar = |tag: &String| Reference::parse(tag).map_or_else(|_| tag.clone(), |name| name.familiar());
    let folder = || record.context.rsplit('/').find(|name| !name.is_empty()).unwrap_or("-").to_owned();
    if let (Style::Shale, Some(tag)) = (style, record.tags.first()) {
        return familiar(tag);
    }
    let file = record.dockerfile.rsplit('/').next().filter(|file| !file.is_empty() && *file != "Dockerfile");
    let place = file.map_or_else(folder, |file| format!("{}/{file}", folder()));
    record.target.as_ref().map_or_else(|| place.clone(), |target| format!("{place} ({target})"))
}

/// Docker's list has three words; which kind of error it was tells `inspect`.
pub(super) fn status(result: BuildResult, style: Style) -> &'static str {
    match (result, style) {
        (BuildResult::Running, _) => "Running",
        (BuildResult::Ok, _) => "Completed",
        (_, Style::Buildx) => "Error",
        (BuildResult::Failed, _) => "Failed",
        (BuildResult::Cancelled, _) => "Cancelled",
        (BuildResult::Interrupted, _) => "Killed",
    }
}

/// A long name without its beginning, as Docker cuts it.
fn without_beginning(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_LIMIT { name.to_owned() } else { format!("..{}", name.chars().skip(count - NAME_LIMIT + 2).collect::<String>()) }
}

/// A build of two seconds that ran one step.
#[cfg(test)]
pub(super) fn example(id: &str) -> BuildRecord {
    use shale_cache::{BuildStep, Change, FileChange, StepStatus};
    let change = |text: &str| Change { part: "x".into(), text: text.into(), before: None, after: None, files: vec![] };
    let file = FileChange { path: "src/a.rs".into(), what: "content".into() };
    let files = Change { files: vec![file], ..change("1 file changed: src/a.rs (mounted at /src)") };
    let step = |name: &str, number, status, reason: &str| BuildStep {
        name: name.into(),
        number,
        status,
        reason: reason.into(),
        ..BuildStep::default()
    };
    let ran = BuildStep {
        changes: vec![change("build arg V: 1 → 2"), files, change("user: root → app")],
        duration_ms: 1500,
        bytes: 2000,
        ..step("[2/3] RUN make", 1, StepStatus::Executed, "build arg V: 1 → 2")
    };
    let cut_off = "cut-off: a step before it ran and made what it had made before";
    let mut record = BuildRecord {
        id: id.into(),
        context: "/w/app".into(),
        dockerfile: "Dockerfile".into(),
        tags: vec!["docker.io/library/app:2".into()],
        started_ms: 1_700_000_000_000,
        result: BuildResult::Ok,
        duration_ms: 2000,
        steps: vec![ran, step("[3/3] COPY x /y", 2, StepStatus::CutOffHit, cut_off)],
        command: ["shale", "build", "."].map(Into::into).to_vec(),
        ..BuildRecord::default()
    };
    record.count();
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: Millis = 1_700_000_120_000;

    fn records() -> [BuildRecord; 4] {
        let ended = |id, result| BuildRecord { result, ..example(id) };
        [
            BuildRecord { tags: vec![], target: Some("test".into()), ..ended("00c0000000000003", BuildResult::Running) },
            ended("00c0000000000002", BuildResult::Interrupted),
            BuildRecord { dockerfile: "/w/app/ci.Dockerfile".into(), ..ended("00c0000000000001", BuildResult::Cancelled) },
            BuildRecord { duration_ms: 65_000, ..ended("00c0000000000000", BuildResult::Ok) },
        ]
    }

    fn listed(format: Option<&str>, style: Style) -> String {
        let args = BuildsListArgs { format: format.map(Into::into), ..BuildsListArgs::default() };
        render(&records(), &args, style, NOW_MS).unwrap()
    }

    #[test]
    fn builds_are_listed_with_what_they_found_and_made() {
        insta::assert_snapshot!(listed(None, Style::Shale), @r"
        BUILD ID           NAME         STATUS      CREATED AT      DURATION   HITS      MISSES    SIZE
        00c0000000000003   app (test)   Running     2 minutes ago   2m  0s+    1         1         2kB
        00c0000000000002   app:2        Killed      2 minutes ago              1         1         2kB
        00c0000000000001   app:2        Cancelled   2 minutes ago   2.0s       1         1         2kB
        00c0000000000000   app:2        Completed   2 minutes ago   1m  5s     1         1         2kB
        ");
    }

    #[test]
    fn builds_are_listed_as_buildx_lists_them() {
        insta::assert_snapshot!(listed(None, Style::Buildx).replace(" \n", "|\n"), @r"
        BUILD ID           NAME                STATUS      CREATED AT      DURATION  |
        00c0000000000003   app (test)          Running     2 minutes ago   2m  0s+   |
        00c0000000000002   app                 Error       2 minutes ago             |
        00c0000000000001   app/ci.Dockerfile   Error       2 minutes ago   2.0s      |
        00c0000000000000   app                 Completed   2 minutes ago   1m  5s    |
        ");
        let json = listed(Some("json"), Style::Buildx);
        insta::assert_snapshot!(json.lines().last().unwrap(), @r#"{"cached_steps":1,"completed_at":"2023-11-14T22:14:25Z","completed_steps":2,"created_at":"2023-11-14T22:13:20Z","name":"app","ref":"default/default/00c0000000000000","status":"Completed","total_steps":2}"#);
    }

    #[test]
    fn long_names_lose_their_beginning() {
        assert_eq!(without_beginning(&"x".repeat(36)), "x".repeat(36));
        assert_eq!(without_beginning(&format!("{}end", "x".repeat(40))), format!("..{}end", "x".repeat(31)));
    }
}
