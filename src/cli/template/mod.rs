//! The part of Go's `text/template` that `--format` needs, with the functions that Docker adds.
//!
//! `token` (text → tokens) → `tree` (tokens → nodes) → `run` (nodes and a value → text); `function` holds the functions and
//! `verb` what `printf` knows. Left out: templates in templates (`define`, `template`, `block`), methods and Go's escaping
//! functions (`html`, `js`, `urlquery`).

mod function;
mod run;
mod token;
mod tree;
mod value;
mod verb;

use std::collections::BTreeMap;

use function::Context;
pub use value::{Field, Struct, Value};

/// A template that cannot be read or does not fit its data, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be read.
    #[error("template parsing error: template: {name}:{line}: {detail}")]
    Parse {
        /// Go's name of the template; `docker version` gives one.
        name: &'static str,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// It can be read, but not filled with this value.
    #[error("template parsing error: template: {name}:{line}:{column}: executing {name:?} at <{source_text}>: {detail}")]
    Run {
        /// Go's name of the template.
        name: &'static str,
        /// The line, from 1.
        line: usize,
        /// The byte in the line, from 0.
        column: usize,
        /// The operand.
        source_text: String,
        /// What is wrong.
        detail: String,
    },
}

impl TemplateError {
    fn parse(text: &str, at: usize, detail: impl Into<String>) -> Self {
        Self::Parse { name: "", line: line_of(text, at), detail: detail.into() }
    }

    /// The same error of a template with a name.
    #[must_use]
    pub fn named(mut self, new: &'static str) -> Self {
        match &mut self {
            Self::Parse { name, .. } | Self::Run { name, .. } => *name = new,
        }
        self
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at.min(text.len())].matches('\n').count() + 1
}

/// A template that was read and can be filled many times.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    nodes: Vec<tree::Node>,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.to_owned(), nodes: tree::parse(text)? })
    }

    /// Fills it with a value.
    pub fn fill(&self, data: &Value) -> Result<String, TemplateError> {
        run::run(&self.nodes, &self.text, data, Context::default())
    }

    /// The same with JSON on several lines, as `docker buildx imagetools` writes it.
    pub fn fill_indented(&self, data: &Value) -> Result<String, TemplateError> {
        run::run(&self.nodes, &self.text, data, Context { indents_json: true, ..Context::default() })
    }

    /// Fills it with the heads of a table: functions leave the words as they are. What cannot be filled is empty, as in Docker.
    pub fn heads(&self, heads: &[(&str, &str)]) -> String {
        let heads: BTreeMap<String, Value> = heads.iter().map(|(field, head)| ((*field).to_owned(), Value::text(*head))).collect();
        run::run(&self.nodes, &self.text, &Value::Map(Some(heads)), Context { is_heads: true, ..Context::default() }).unwrap_or_default()
    }
}

/// Reads a template and fills it with a value.
pub fn render(template: &str, data: &Value) -> Result<String, TemplateError> {
    Template::parse(template)?.fill(data)
}

#[cfg(test)]
mod tests;
