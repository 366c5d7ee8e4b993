//! `shale history`: the steps of an image → text, as `docker history` prints them.

use super::human;
use super::listing::Listing;
use super::template::{Struct, TemplateError, Value};
use crate::image::HistoryStep;

/// How the list is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    /// Ids only.
    pub quiet: bool,
    /// Whole ids and instructions.
    pub no_trunc: bool,
    /// Sizes and times for people.
    pub human: bool,
    /// `--format`
    pub format: Option<String>,
}

const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
const TABLE: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const TABLE_OF_NUMBERS: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// Characters of an instruction in the table.
const SHORT_INSTRUCTION: usize = 45;

/// The list as text, the newest step first. `now_secs` is the present.
pub fn render(steps: &[HistoryStep], style: &Style, now_secs: i64) -> Result<String, TemplateError> {
    let table = if style.human { TABLE } else { TABLE_OF_NUMBERS };
    let listing = Listing { heads: HEADS, table, quiet: "{{.ID}}", raw: None };
    let rows = steps.iter().rev().map(|step| fields(step, style, now_secs)).collect();
    listing.render(rows, style.format.as_deref(), style.quiet)
}

fn fields(step: &HistoryStep, style: &Style, now_secs: i64) -> Struct {
    let id = step.id.as_ref().map(ToString::to_string);
    let id = match &id {
        Some(id) if style.no_trunc => id,
        Some(id) => human::short_id(id),
        None => "<missing>",
    };
    let created_at = step.created_secs.and_then(human::rfc3339).unwrap_or_else(|| "N/A".into());
    let created_since = match step.created_secs {
        _ if !style.human => created_at.clone(),
        None => "N/A".into(),
        Some(created) => human::ago(created, now_secs),
    };
    let text = step.created_by.replace('\t', " ");
    let created_by = if style.no_trunc { text } else { human::shortened(&text, SHORT_INSTRUCTION) };
    let size = if style.human { human::short_bytes(step.size_bytes) } else { step.size_bytes.to_string() };
    Struct::new(
        "*image.historyContext",
        [
            ("Comment", Value::text(&step.comment)),
            ("CreatedAt", Value::Text(created_at)),
            ("CreatedBy", Value::Text(created_by)),
            ("CreatedSince", Value::Text(created_since)),
            ("ID", Value::text(id)),
            ("Size", Value::Text(size)),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn steps() -> Vec<HistoryStep> {
        let step = |created_by: &str, size_bytes| HistoryStep {
            id: None,
            created_secs: Some(NOW - 7200),
            created_by: created_by.into(),
            size_bytes,
            comment: String::new(),
        };
        let top = HistoryStep {
            id: Some(format!("sha256:{}", "0123456789abcdef".repeat(4)).parse().unwrap()),
            comment: "buildkit.dockerfile.v0".into(),
            ..step("CMD [\"/bin/sh\" \"-c\" \"echo this is a long command line\"]", 0)
        };
        vec![step("ADD x / # buildkit", 4_210_000), top]
    }

    fn text(quiet: bool, no_trunc: bool, human: bool, format: Option<&str>) -> String {
        render(&steps(), &Style { quiet, no_trunc, human, format: format.map(Into::into) }, NOW).unwrap()
    }

    #[test]
    fn the_table_has_docker_s_columns() {
        let expected = [
            "IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT",
            "0123456789ab   2 hours ago   CMD [\"/bin/sh\" \"-c\" \"echo this is a long com…   0B        buildkit.dockerfile.v0",
            "<missing>      2 hours ago   ADD x / # buildkit                              4.21MB    ",
            "",
        ];
        assert_eq!(text(false, false, true, None), expected.join("\n"));
        let numbers = text(false, false, false, None);
        assert!(numbers.starts_with("IMAGE          CREATED AT             CREATED BY"), "{numbers}");
        assert!(
            numbers.ends_with("\n<missing>      2023-11-14T20:13:20Z   ADD x / # buildkit                              4210000   \n"),
            "{numbers}"
        );
    }

    #[test]
    fn quiet_whole_and_formats() {
        assert_eq!(text(true, false, true, None), "0123456789ab\n<missing>\n");
        assert!(text(false, true, true, None).contains("command line\"]   0B"));
        assert_eq!(text(false, false, true, Some("{{.ID}} {{.Size}}")), "0123456789ab 0B\n<missing> 4.21MB\n");
        assert_eq!(
            text(false, false, true, Some("json")).lines().last(),
            Some(concat!(
                r#"{"Comment":"","CreatedAt":"2023-11-14T20:13:20Z","CreatedBy":"ADD x / # buildkit","#,
                r#""CreatedSince":"2 hours ago","ID":"\u003cmissing\u003e","Size":"4.21MB"}"#
            ))
        );
    }
}
