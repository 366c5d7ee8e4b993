//! Lists of objects → text: Docker's `--format` with its words `table`, `json` and templates.

use super::columns::{LIST, aligned};
use super::template::{Struct, Template, TemplateError, Value};

/// What prints a row's fields as JSON.
const JSON: &str = "{{json .}}";

/// A kind of list.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    /// The column heads by field.
    pub heads: &'a [(&'a str, &'a str)],
    /// The template behind `table` alone.
    pub table: &'a str,
    /// The template of `-q`.
    pub quiet: &'a str,
    /// The template of `raw`, where there is one.
    pub raw: Option<&'a str>,
}

impl Listing<'_> {
    /// The rows as text. Without a format it is a table.
    pub fn render(&self, rows: Vec<Struct>, format: Option<&str>, is_quiet: bool) -> Result<String, TemplateError> {
        let format = match (format.unwrap_or(""), self.raw) {
            ("" | "table", _) if is_quiet => self.quiet.to_owned(),
            ("" | "table", _) => format!("table {}", self.table),
            ("raw", Some(raw)) => raw.to_owned(),
            ("json", _) => JSON.to_owned(),
            (format, _) => format.to_owned(),
        };
        let is_table = format.starts_with("table");
        let columns = format.strip_prefix("table").unwrap_or(&format).trim_matches(' ').replace("\\t", "\t").replace("\\n", "\n");
        let template = Template::parse(&columns)?;
        let mut text = String::new();
        for row in rows {
            // What Docker prints of a row as JSON is sorted and safe inside of HTML.
            text.push_str(&template.fill(&Value::Struct(Struct { escapes_html: true, ..row }))?);
            text.push('\n');
        }
        if !is_table {
            return Ok(text);
        }
        Ok(aligned(&format!("{}\n{text}", template.heads(self.heads)), LIST))
    }
}
