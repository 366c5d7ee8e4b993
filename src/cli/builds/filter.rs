//! `--filter` of the list of builds, with the keys and sentences of `buildx history ls`.

use shale_cache::{BuildRecord, BuildResult};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Millis;
use crate::dockerfile::duration::parse_duration;

/// The signs, the longer ones first.
const SIGNS: &[&str] = &["!=", "<=", ">=", "=", "<", ">"];

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    key: Key,
    sign: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Ref(String),
    Status(Vec<BuildResult>),
    StartedMs(Millis),
    CompletedMs(Millis),
    DurationMs(Millis),
}

/// A filter that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    #[error("invalid filter {0:?}")]
    Format(String),
    #[error("invalid separator for {text:?}, expected {expected}")]
    Sign { text: String, expected: &'static str },
    #[error("unsupported filter {0:?}")]
    Key(String),
    #[error("invalid status {0:?}: it is completed, failed, canceled, interrupted or running")]
    Status(String),
    #[error("invalid time {0}")]
    Time(String),
    #[error("invalid duration {0}")]
    Duration(String),
}

impl Filter {
    /// Reads a flag. `now_ms` is the present, from which `startedAt>24h` counts back.
    pub(super) fn parse(text: &str, now_ms: Millis) -> Result<Self, FilterError> {
        let place = |sign: &&'static str| text.find(*sign).map(|at| (at, *sign));
        // Of signs that begin at the same place the longer one stands first in the table, and the first one wins.
        let first = SIGNS.iter().filter_map(place).min_by_key(|(at, _)| *at);
        let (at, sign) = first.ok_or_else(|| FilterError::Format(text.to_owned()))?;
        let (name, value) = (&text[..at], &text[at + sign.len()..]);
        let is_equation = matches!(sign, "=" | "!=");
        let wrong_sign = |expected| Err(FilterError::Sign { text: text.to_owned(), expected });
        let key = match name {
            "ref" | "status" if !is_equation => return wrong_sign("= or !="),
            "startedAt" | "completedAt" | "duration" if is_equation => return wrong_sign("<=, <, >= or >"),
            "ref" => Key::Ref(value.to_owned()),
            "status" => Key::Status(results(value).ok_or_else(|| FilterError::Status(value.to_owned()))?),
            "startedAt" => Key::StartedMs(moment(value, now_ms)?),
            "completedAt" => Key::CompletedMs(moment(value, now_ms)?),
            "duration" => Key::DurationMs(millis(value).ok_or_else(|| FilterError::Duration(value.to_owned()))?),
            _ => return Err(FilterError::Key(text.to_owned())),
        };
        Ok(Self { key, sign })
    }

    /// Whether a build meets it.
    pub(super) fn takes(&self, record: &BuildRecord) -> bool {
        let has_ended = record.result != BuildResult::Running;
        match &self.key {
            Key::Ref(text) if self.sign == "=" => record.id.contains(text.as_str()),
            Key::Ref(text) => record.id != *text,
            Key::Status(wanted) => wanted.contains(&record.result) == (self.sign == "="),
            Key::StartedMs(limit) => self.compare(record.started_ms, *limit),
            Key::CompletedMs(limit) => has_ended && self.compare(record.started_ms + record.duration_ms, *limit),
            Key::DurationMs(limit) => has_ended && self.compare(record.duration_ms, *limit),
        }
    }

    fn compare(&self, value: Millis, limit: Millis) -> bool {
        match self.sign {
            ">=" => value >= limit,
            "<=" => value <= limit,
            ">" => value > limit,
            _ => value < limit,
        }
    }
}

/// Docker's words and ours. Docker knows no build that was killed; it counts as an error.
fn results(value: &str) -> Option<Vec<BuildResult>> {
    Some(match value.to_lowercase().as_str() {
        "completed" => vec![BuildResult::Ok],
        "failed" => vec![BuildResult::Failed],
        "error" => vec![BuildResult::Failed, BuildResult::Interrupted],
        "canceled" | "cancelled" => vec![BuildResult::Cancelled],
        "interrupted" | "killed" => vec![BuildResult::Interrupted],
        "running" => vec![BuildResult::Running],
        _ => return None,
    })
}

fn millis(text: &str) -> Option<Millis> {
    (parse_duration(text).ok()? / 1_000_000).try_into().ok()
}

/// A duration before now, or a time in RFC 3339.
fn moment(text: &str, now_ms: Millis) -> Result<Millis, FilterError> {
    let date =
        || OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|time| Millis::try_from(time.unix_timestamp_nanos() / 1_000_000).ok());
    millis(text).map(|before| now_ms.saturating_sub(before)).or_else(date).ok_or_else(|| FilterError::Time(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::rows::example;
    use super::*;

    #[test]
    fn builds_are_filtered_as_buildx_does() {
        // It began at 1,700,000,000 s, failed, and took 2 s.
        let record = BuildRecord { result: BuildResult::Failed, ..example("00c0000000000003") };
        for (text, takes) in [
            ("ref=00c0", true),
            ("ref!=00c0000000000003", false),
            ("status=error", true),
            ("status=failed", true),
            ("status=completed", false),
            ("status!=completed", true),
            ("status=killed", false),
            ("startedAt>1h", true),
            ("startedAt>10s", false),
            ("startedAt<=2023-11-14T22:13:20Z", true),
            ("completedAt>2023-11-14T22:13:21Z", true),
            ("duration>=2s", true),
            ("duration<2s", false),
        ] {
            assert_eq!(Filter::parse(text, 1_700_000_120_000).unwrap().takes(&record), takes, "{text}");
        }
        for (text, error) in [
            ("status", "invalid filter \"status\""),
            ("status>error", "invalid separator for \"status>error\", expected = or !="),
            ("duration=1s", "invalid separator for \"duration=1s\", expected <=, <, >= or >"),
            ("repository=x", "unsupported filter \"repository=x\""),
            ("status=ok", "invalid status \"ok\": it is completed, failed, canceled, interrupted or running"),
            ("startedAt>later", "invalid time later"),
            ("duration>long", "invalid duration long"),
        ] {
            assert_eq!(Filter::parse(text, 0).unwrap_err().to_string(), error);
        }
    }
}
