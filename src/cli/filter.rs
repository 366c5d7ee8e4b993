//! `--filter` of the image list.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::dockerfile::duration::parse_duration;
use crate::image::ImageSummary;
use crate::oci::reference::Reference;
use crate::tree::glob;

use super::flags::parse_bool;

/// What an image must be to stay in the list. Values of one key are alternatives, keys are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    lacking: Vec<(String, Option<String>)>,
    references: Vec<String>,
    /// `before=IMAGE`
    pub before: Option<String>,
    /// `since=IMAGE`
    pub since: Option<String>,
    until_secs: Option<i64>,
}

/// A filter that cannot be used, in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No `=`.
    #[error("bad format of filter (expected name=value)")]
    Format,
    /// A key that images do not have.
    #[error("invalid filter '{key}'")]
    Key {
        /// The key.
        key: String,
    },
    /// A value that the key does not take.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
}

impl Filters {
    /// Reads the flags. `now_secs` is the present, from which `until=24h` counts back.
    pub fn parse(given: &[String], now_secs: i64) -> Result<Self, FilterError> {
        let mut filters = Self::default();
        for text in given {
            let (key, value) = text.split_once('=').ok_or(FilterError::Format)?;
            let (key, value) = (key.trim().to_lowercase(), value.trim());
            let wrong = || FilterError::Value { key: key.clone(), value: value.into() };
            let label = || value.split_once('=').map_or((value.to_owned(), None), |(k, v)| (k.to_owned(), Some(v.to_owned())));
            match key.as_str() {
                "dangling" => filters.dangling = Some(parse_bool(value).map_err(|_| wrong())?),
                "label" => filters.labels.push(label()),
                "label!" => filters.lacking.push(label()),
                "reference" => filters.references.push(value.into()),
                "before" => filters.before = Some(value.into()),
                "since" => filters.since = Some(value.into()),
                "until" => filters.until_secs = Some(moment(value, now_secs).ok_or_else(wrong)?),
                _ => return Err(FilterError::Key { key }),
            }
        }
        Ok(filters)
    }

    /// Adds the name that stands as an argument.
    #[must_use]
    pub fn named(mut self, name: Option<&str>) -> Self {
        self.references.extend(name.map(Into::into));
        self
    }

    /// The image with the names that were asked for; `None` if it is not wanted. `before_secs` and `since_secs` are the times of the
    /// images that `before` and `since` name.
    pub fn apply(&self, image: ImageSummary, before_secs: Option<i64>, since_secs: Option<i64>) -> Option<ImageSummary> {
        let created = image.created_secs().unwrap_or(0);
        let has = |(key, value): &(String, Option<String>)| has_label(&image.labels, key, value.as_deref());
        let is_dangling = image.names.is_empty();
        let stays = self.dangling.is_none_or(|wanted| wanted == is_dangling)
            && self.labels.iter().all(has)
            && !self.lacking.iter().any(has)
            && before_secs.is_none_or(|before| created < before)
            && since_secs.is_none_or(|since| created > since)
            && self.until_secs.is_none_or(|until| created < until);
        if !stays {
            return None;
        }
        if self.references.is_empty() {
            return Some(image);
        }
        let is_wanted = |name: &Reference| self.references.iter().any(|pattern| familiar_match(pattern, name));
        let digest_name = |text: &String| Reference::parse(text).is_ok_and(|name| is_wanted(&name));
        let (names, repo_digests): (Vec<_>, Vec<_>) = (
            image.names.iter().filter(|name| is_wanted(name)).cloned().collect(),
            image.repo_digests.iter().filter(|name| digest_name(name)).cloned().collect(),
        );
        (!names.is_empty() || !repo_digests.is_empty()).then_some(ImageSummary { names, repo_digests, ..image })
    }
}

fn has_label(labels: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> bool {
    labels.get(key).is_some_and(|found| value.is_none_or(|value| found == value))
}

/// A point in time as Docker takes it: a duration before now, seconds since 1970, a date or RFC 3339.
fn moment(text: &str, now_secs: i64) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds);
    }
    if let Ok(nanos) = parse_duration(text) {
        return Some(now_secs - nanos / 1_000_000_000);
    }
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    };
    OffsetDateTime::parse(&whole, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// Docker's match of names: the pattern is compared with the familiar name, with and without tag or digest, one path component
/// after the other.
fn familiar_match(pattern: &str, name: &Reference) -> bool {
    let matches = |text: &str| {
        let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), text.split('/').collect());
        patterns.len() == parts.len()
            && patterns.iter().zip(parts).all(|(pattern, part)| glob::matches(pattern.as_bytes(), part.as_bytes()))
    };
    matches(&name.familiar()) || matches(&name.familiar_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn image(names: &[&str]) -> ImageSummary {
        ImageSummary {
            id: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            names: names.iter().map(|name| Reference::parse(name).unwrap()).collect(),
            repo_digests: vec![],
            created: Some("2023-11-14T22:13:20Z".into()),
            size_bytes: 0,
            labels: [("team".to_owned(), "a".to_owned())].into(),
        }
    }

    fn names(filters: &[&str], image: ImageSummary) -> Option<Vec<String>> {
        let filters: Vec<String> = filters.iter().map(ToString::to_string).collect();
        let kept = Filters::parse(&filters, NOW).unwrap().apply(image, None, None)?;
        Some(kept.names.iter().map(Reference::familiar).collect())
    }

    #[test]
    fn names_match_as_docker_matches_them() {
        for (pattern, expected) in [
            ("app", Some(vec!["app:1", "app:2"])),
            ("app:1", Some(vec!["app:1"])),
            ("ap*", Some(vec!["app:1", "app:2"])),
            ("*:2", Some(vec!["app:2"])),
            ("*/*", Some(vec!["team/app:1"])),
            ("team/app", Some(vec!["team/app:1"])),
            ("nope", None),
        ] {
            let found = names(&[&format!("reference={pattern}")], image(&["app:1", "app:2", "team/app:1"]));
            assert_eq!(found, expected.map(|names| names.into_iter().map(Into::into).collect()), "{pattern}");
        }
    }

    #[test]
    fn other_keys() {
        for (filters, stays) in [
            (&["dangling=false"][..], true),
            (&["dangling=1"], false),
            (&["label=team"], true),
            (&["label=team=a"], true),
            (&["label=team=b"], false),
            (&["label=team", "label=x"], false),
            (&["label!=team"], false),
            (&["until=1s"], false),
            (&["until=2023-11-15"], true),
            (&["until=1700000000"], false),
        ] {
            assert_eq!(names(filters, image(&["app:1"])).is_some(), stays, "{filters:?}");
        }
        assert!(Filters::default().apply(image(&[]), Some(NOW), None).is_none());
        assert!(Filters::default().apply(image(&[]), Some(NOW + 1), Some(NOW - 1)).is_some());
    }

    #[test]
    fn mistakes() {
        for (text, error) in [
            ("dangling", "bad format of filter (expected name=value)"),
            ("foo=bar", "invalid filter 'foo'"),
            ("dangling=maybe", "invalid filter 'dangling=maybe'"),
            ("until=later", "invalid filter 'until=later'"),
        ] {
            assert_eq!(Filters::parse(&[text.into()], NOW).unwrap_err().to_string(), error);
        }
    }
}
