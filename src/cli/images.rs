//! `shale images`: rows → text.

use std::fmt::Display;

use serde_json::{Value, json};

use super::human;
use super::template::{self, TemplateError};

/// One line of the list: an image under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Familiar name without tag; `None` for an image without a name.
    pub repository: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// `sha256:…` of the manifest in a registry, if known.
    pub digest: Option<String>,
    /// The image id, `sha256:…`.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created_secs: Option<i64>,
    /// What its layers take.
    pub size_bytes: u64,
}

/// How the list is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Ids only.
    pub quiet: bool,
    /// Whole ids.
    pub no_trunc: bool,
    /// `--format`
    pub format: Option<String>,
}

/// The column heads by template field.
const HEADS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

const DEFAULT_TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// The list as text. `now_secs` is the present, for "3 weeks ago".
pub fn render(rows: &[Row], style: &Style, now_secs: i64) -> Result<String, TemplateError> {
    if style.quiet && style.format.is_none() {
        // An image with several names is one id.
        let mut ids: Vec<&str> = vec![];
        for row in rows {
            let id = shown_id(row, style.no_trunc);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        return Ok(lines(&ids));
    }
    let fields = rows.iter().map(|row| fields(row, style.no_trunc, now_secs));
    let format = style.format.as_deref().unwrap_or("table").replace("\\t", "\t").replace("\\n", "\n");
    if format == "json" {
        return Ok(lines(&fields.collect::<Vec<_>>()));
    }
    let Some(columns) = format.strip_prefix("table") else {
        return fields.map(|row| template::render(&format, &row).map(|line| line + "\n")).collect();
    };
    let columns = if columns.trim().is_empty() { DEFAULT_TABLE } else { columns.trim_start() };
    let heads: Value = HEADS.iter().map(|(field, head)| ((*field).to_owned(), json!(head))).collect();
    let lines = std::iter::once(heads).chain(fields).map(|row| template::render(columns, &row)).collect::<Result<Vec<_>, _>>()?;
    Ok(aligned(&lines))
}

fn lines(rows: &[impl Display]) -> String {
    rows.iter().fold(String::new(), |text, row| text + &row.to_string() + "\n")
}

fn shown_id(row: &Row, no_trunc: bool) -> &str {
    if no_trunc { &row.id } else { human::short_id(&row.id) }
}

fn fields(row: &Row, no_trunc: bool, now_secs: i64) -> Value {
    let none = || "<none>".to_owned();
    let age = row.created_secs.map(|created| format!("{} ago", human::span(now_secs.saturating_sub(created).max(0) as u64)));
    let created = row.created_secs.and_then(|secs| time::OffsetDateTime::from_unix_timestamp(secs).ok());
    let layout = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 UTC");
    let created = created.and_then(|time| time.format(layout).ok());
    json!({
        "CreatedAt": created.unwrap_or_else(|| "N/A".into()),
        "CreatedSince": age.unwrap_or_else(|| "N/A".into()),
        "Digest": row.digest.clone().unwrap_or_else(none),
        "ID": shown_id(row, no_trunc),
        "Repository": row.repository.clone().unwrap_or_else(none),
        "Size": human::short_bytes(row.size_bytes),
        "Tag": row.tag.clone().unwrap_or_else(none),
    })
}

/// Lines with tabs → columns three blanks apart.
pub(super) fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn rows() -> Vec<Row> {
        let id = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let named = Row {
            repository: Some("app".into()),
            tag: Some("latest".into()),
            digest: None,
            id: id.into(),
            created_secs: Some(NOW - 3 * 7 * 24 * 3600),
            size_bytes: 4_210_000,
        };
        vec![
            named.clone(),
            Row { repository: Some("localhost:5000/team/application".into()), tag: Some("v1".into()), ..named.clone() },
            Row { repository: None, tag: None, id: id.replace('0', "f"), created_secs: None, size_bytes: 0, ..named },
        ]
    }

    fn text(style: Style) -> String {
        render(&rows(), &style, NOW).unwrap()
    }

    #[test]
    fn the_table_has_docker_s_columns() {
        insta::assert_snapshot!(text(Style::default()), @r"
        REPOSITORY                        TAG      IMAGE ID       CREATED       SIZE
        app                               latest   0123456789ab   3 weeks ago   4.21MB
        localhost:5000/team/application   v1       0123456789ab   3 weeks ago   4.21MB
        <none>                            <none>   f123456789ab   N/A           0B
        ");
    }

    #[test]
    fn quiet_prints_each_id_once() {
        assert_eq!(text(Style { quiet: true, ..Style::default() }), "0123456789ab\nf123456789ab\n");
        assert!(text(Style { quiet: true, no_trunc: true, ..Style::default() }).starts_with("sha256:0123456789abcdef0"));
    }

    #[test]
    fn formats() {
        let format = |format: &str| text(Style { format: Some(format.into()), ..Style::default() });
        assert!(format("{{.Repository}}:{{.Tag}}").starts_with("app:latest\nlocalhost:5000/team/application:v1\n"));
        assert!(format("table {{.ID}}\\t{{.Size}}").starts_with("IMAGE ID       SIZE\n0123456789ab   4.21MB\n"));
        let first: Value = serde_json::from_str(format("json").lines().next().unwrap()).unwrap();
        assert_eq!(first["CreatedAt"], "2023-10-24 22:13:20 +0000 UTC");
        assert!(render(&rows(), &Style { format: Some("{{bogus}}".into()), ..Style::default() }, NOW).is_err());
    }
}
