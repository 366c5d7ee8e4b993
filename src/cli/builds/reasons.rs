//! The steps of a build with their reasons → text.

use shale_cache::{BuildRecord, BuildResult, BuildStep, StepStatus};

use super::Millis;
use super::rows::{Style, duration, name_of, secs, status};
use crate::cli::columns::{LIST, aligned};
use crate::cli::human;

/// Characters of a step's name.
const NAME_LIMIT: usize = 60;

/// What `shale explain` prints.
pub(super) fn render(record: &BuildRecord, now_ms: Millis) -> String {
    let (ago, took) = (human::ago(secs(record.started_ms), secs(now_ms)), duration(record, now_ms));
    let within = if took.is_empty() { String::new() } else { format!(" in {took}") };
    let mut text = format!(
        "Build {} of {}, {ago}: {}{within}, {}, {}, {}\nCommand: {}\n",
        record.id,
        name_of(record, Style::Shale),
        status(record.result, Style::Shale).to_lowercase(),
        counted(record.hits, "hit", "hits"),
        counted(record.misses, "miss", "misses"),
        human::short_bytes(record.bytes),
        record.command.join(" "),
    );
    if let Some(error) = record.error.as_ref().filter(|_| record.result == BuildResult::Failed) {
        text.extend(["Error: ", &error.lines().collect::<Vec<_>>().join(" "), "\n"]);
    }
    if record.steps.is_empty() {
        return text + "\nNo step is on record.\n";
    }
    let lines: String = record.steps.iter().map(|step| line(step, record.result)).collect();
    format!("{text}\n{}", aligned(&format!("STEP\tSTATUS\tTIME\tSIZE\tWHY\n{lines}"), LIST))
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A step and below it what else differed.
fn line(step: &BuildStep, result: BuildResult) -> String {
    let has_run = matches!(step.status, StepStatus::Executed | StepStatus::Failed | StepStatus::Cancelled);
    let time = if has_run { human::duration_ms(step.duration_ms) } else { String::new() };
    let size = if step.status == StepStatus::Executed { human::short_bytes(step.bytes) } else { String::new() };
    let (name, why) = (human::shortened(&step.name, NAME_LIMIT), step.reason.replace(['\n', '\t'], " "));
    let mut lines = vec![format!("{name}\t{}\t{time}\t{size}\t{why}\n", told(step.status, result))];
    for (number, change) in step.changes.iter().enumerate() {
        lines.extend((number > 0).then(|| format!("\t\t\t\talso: {}\n", change.text)));
        lines.extend(change.files.iter().map(|file| format!("\t\t\t\t  {} ({})\n", file.path, file.what)));
    }
    lines.concat()
}

fn told(status: StepStatus, result: BuildResult) -> &'static str {
    match status {
        StepStatus::Hit => "hit",
        StepStatus::CutOffHit => "cut-off hit",
        StepStatus::Executed => "executed",
        StepStatus::Failed => "failed",
        StepStatus::Running if result == BuildResult::Running => "running",
        StepStatus::Running => "killed",
        StepStatus::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::example;
    use super::*;

    #[test]
    fn a_build_is_explained_step_by_step() {
        insta::assert_snapshot!(render(&example("00c0000000000003"), 1_700_000_120_000), @r"
        Build 00c0000000000003 of app:2, 2 minutes ago: completed in 2.0s, 1 hit, 1 miss, 2kB
        Command: shale build .

        STEP              STATUS        TIME      SIZE      WHY
        [2/3] RUN make    executed      1.5s      2kB       build arg V: 1 → 2
                                                            also: 1 file changed: src/a.rs (mounted at /src)
                                                              src/a.rs (content)
                                                            also: user: root → app
        [3/3] COPY x /y   cut-off hit                       cut-off: a step before it ran and made what it had made before
        ");
    }

    #[test]
    fn a_build_that_came_to_no_step_has_its_error() {
        let error = Some("dockerfile parse error on line 1:\nunknown instruction: FORM".into());
        let record = BuildRecord { result: BuildResult::Failed, error, steps: vec![], ..example("00c0000000000003") };
        let text = render(&record, 1_700_000_120_000);
        assert!(
            text.ends_with("\nError: dockerfile parse error on line 1: unknown instruction: FORM\n\nNo step is on record.\n"),
            "{text}"
        );
    }
}
