//! `--flags` between an instruction and its arguments, and the comma-separated values of some.

use super::error::ErrorKind;
use super::lines::Part;
use super::suggest::suggest;
use crate::span::{Span, Spanned};

/// A statement in three: keyword, flags and the rest.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    /// The instruction's name as written.
    pub keyword: Part<'a>,
    /// Words that begin with `--`, quotes and escapes removed.
    pub flags: Vec<Spanned<String>>,
    /// What follows, without blanks at its ends.
    pub rest: Part<'a>,
}

/// Splits a statement. Flags end at the first word without `--`, or after a `--` of its own, which belongs to neither.
pub fn split(statement: Part<'_>, escape: char) -> Split<'_> {
    let (keyword, rest) = statement.trim().split_first();
    let Some(mut rest) = rest else { return Split { keyword, flags: Vec::new(), rest: keyword.from(keyword.text().len()) } };
    let mut flags = Vec::new();
    loop {
        let text = rest.text();
        rest = rest.from(text.len() - text.trim_start().len());
        if !rest.text().starts_with("--") {
            break;
        }
        let (flag, length) = take_flag(rest.text(), escape);
        let place = rest.slice(0..length);
        rest = rest.from(length);
        if flag == "--" {
            break;
        }
        flags.push(Spanned::new(flag, place.span()));
    }
    Split { keyword, flags, rest: rest.trim() }
}

/// A flag without quotes and escapes, and how many bytes of the text it takes.
fn take_flag(text: &str, escape: char) -> (String, usize) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (flag, at),
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => flag.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => flag.push(c),
        }
    }
    (flag, text.len())
}

/// What values a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// `--link`, `--link=true`, `--link=false`
    Switch,
    /// `--from=x`, once
    Text,
    /// `--mount=x`, any number of times
    Texts,
}

/// A flag that an instruction has.
pub type FlagSpec = (&'static str, FlagKind);

/// The flags of one instruction after the check.
#[derive(Debug, Default)]
pub struct Flags {
    given: Vec<(&'static str, Spanned<String>)>,
}

impl Flags {
    /// Checks flags against those that the instruction has; every wrong one is an error of its own.
    pub fn check(instruction: &'static str, given: &[Spanned<String>], known: &[FlagSpec]) -> Result<Self, Vec<(ErrorKind, Span)>> {
        let mut flags = Self::default();
        let mut errors = Vec::new();
        for flag in given {
            match flags.check_one(instruction, flag, known) {
                Ok(entry) => flags.given.push(entry),
                Err(kind) => errors.push((kind, flag.span)),
            }
        }
        if errors.is_empty() { Ok(flags) } else { Err(errors) }
    }

    fn check_one(
        &self,
        instruction: &'static str,
        flag: &Spanned<String>,
        known: &[FlagSpec],
    ) -> Result<(&'static str, Spanned<String>), ErrorKind> {
        let (written, value) = flag.node.split_once('=').map_or((flag.node.as_str(), None), |(f, v)| (f, Some(v)));
        let wanted = written.strip_prefix("--").unwrap_or(written);
        let Some((name, kind)) = known.iter().find(|(name, _)| *name == wanted).copied() else {
            let known: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            let suggestion = suggest(wanted, known.iter().copied(), true);
            return Err(ErrorKind::UnknownFlag { flag: written.to_owned(), suggestion, instruction, known });
        };
        if kind != FlagKind::Texts && self.given.iter().any(|(given, _)| *given == name) {
            return Err(ErrorKind::DuplicateFlag(written.to_owned()));
        }
        let value = match (kind, value) {
            (FlagKind::Switch, None) => "true".to_owned(),
            (FlagKind::Switch, Some(value)) if !value.is_empty() => match value.to_lowercase() {
                lower if lower == "true" || lower == "false" => lower,
                _ => return Err(ErrorKind::FlagNotBoolean { flag: written.to_owned(), value: value.to_owned() }),
            },
            (FlagKind::Text | FlagKind::Texts, Some(value)) => value.to_owned(),
            _ => return Err(ErrorKind::FlagWithoutValue(written.to_owned())),
        };
        Ok((name, Spanned::new(value, flag.span)))
    }

    /// The value of a flag, even if it is empty.
    pub fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone())
    }

    /// The value of a flag for which empty means that it is not there.
    pub fn nonempty(&self, name: &str) -> Option<Spanned<String>> {
        self.text(name).filter(|value| !value.node.is_empty())
    }

    /// All values of a flag in order.
    pub fn texts(&self, name: &str) -> Vec<Spanned<String>> {
        self.given.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }

    /// A switch, if it is there.
    pub fn switch(&self, name: &str) -> Option<Spanned<bool>> {
        self.text(name).map(|value| Spanned::new(value.node == "true", value.span))
    }
}

/// Why a value is no row of fields, in the words of Go's `csv` package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    /// A quote within a field that does not begin with one.
    #[error("parse error on line 1, column {0}: bare \" in non-quoted field")]
    BareQuote(usize),
    /// A quoted field that does not end, or goes on after its end.
    #[error("parse error on line 1, column {0}: extraneous or missing \" in quoted-field")]
    Quote(usize),
}

/// The fields of `a,b="c","d,e"`-like values: separated by commas, quoted as a whole if they hold one.
pub fn csv_fields(row: &str) -> Result<Vec<String>, CsvError> {
    let mut fields = Vec::new();
    let mut rest = row;
    if row.is_empty() {
        return Ok(fields);
    }
    loop {
        let column = |left: &str| row.len() - left.len() + 1;
        let next = if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut left = quoted;
            loop {
                let end = left.find('"').ok_or(CsvError::Quote(row.len() + 1))?;
                field.push_str(&left[..end]);
                left = &left[end + 1..];
                match left.chars().next() {
                    Some('"') => {
                        field.push('"');
                        left = &left[1..];
                    }
                    Some(',') | None => break,
                    Some(_) => return Err(CsvError::Quote(column(left) - 1)),
                }
            }
            fields.push(field);
            left.strip_prefix(',')
        } else {
            let (field, next) = rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if let Some(at) = field.find('"') {
                return Err(CsvError::BareQuote(column(rest) + at));
            }
            fields.push(field.to_owned());
            next
        };
        match next {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_split_into_fields() {
        let table: &[(&str, Result<&[&str], CsvError>)] = &[
            ("", Ok(&[])),
            ("a", Ok(&["a"])),
            ("type=cache,target=/x", Ok(&["type=cache", "target=/x"])),
            ("a,,b,", Ok(&["a", "", "b", ""])),
            ("\"a,b\",c", Ok(&["a,b", "c"])),
            ("\"a\"\"b\"", Ok(&["a\"b"])),
            ("a\"b", Err(CsvError::BareQuote(2))),
            ("x,\"a", Err(CsvError::Quote(5))),
            ("\"a\"b,c", Err(CsvError::Quote(3))),
        ];
        for (row, expected) in table {
            let expected = expected.clone().map(|f| f.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(csv_fields(row), expected, "{row}");
        }
    }
}
