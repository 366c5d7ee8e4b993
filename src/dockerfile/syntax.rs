//! Statements → nodes: keyword, flags and arguments in the form that the keyword asks for. What they say is not checked here.

use super::ast::{CommandLine, Heredoc, KeyValue};
use super::error::ErrorKind;
use super::flags::{self, Split};
use super::lines::{Part, Statement};
use super::word::{Lexer, WordError};
use crate::span::{Span, Spanned};

/// All instructions of the reference.
pub const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Arguments of a node.
#[derive(Clone, Debug)]
pub enum Arguments {
    /// Words, or elements of a JSON array.
    Words {
        /// In order.
        words: Vec<Spanned<String>>,
        /// Whether it was an array.
        json: bool,
    },
    /// All as one text; `None` if there is nothing.
    Text(Option<Spanned<String>>),
    /// Keys and values.
    Pairs(Vec<KeyValue>),
    /// `HEALTHCHECK`: the first word and the rest.
    Probe(Option<(Spanned<String>, Box<Arguments>)>),
    /// `ONBUILD`: a node of its own.
    Node(Option<Box<Node>>),
    /// Those of a keyword that does not exist.
    Unknown,
}

/// A statement, split.
#[derive(Clone, Debug)]
pub struct Node {
    /// The keyword as written.
    pub keyword: Spanned<String>,
    /// The keyword as the reference writes it; `None` for one that it does not have.
    pub name: Option<&'static str>,
    /// Flags without quotes.
    pub flags: Vec<Spanned<String>>,
    /// The rest.
    pub arguments: Arguments,
    /// Heredocs that the statement opens, in order.
    pub heredocs: Vec<Heredoc>,
    /// The joined text, blanks at its end included.
    pub text: String,
    /// All lines, heredoc bodies included.
    pub span: Span,
    /// Comments before it.
    pub comments: Vec<String>,
}

impl Node {
    /// Splits a statement. Heredocs are the caller's to read.
    pub fn new(statement: &Statement, escape: char) -> Result<Self, (ErrorKind, Span)> {
        let mut node = Self::of_part(statement.text.all(), escape)?;
        node.span = statement.span;
        node.comments.clone_from(&statement.comments);
        Ok(node)
    }

    fn of_part(part: Part<'_>, escape: char) -> Result<Self, (ErrorKind, Span)> {
        let Split { keyword, flags, rest } = flags::split(part, escape);
        let name = INSTRUCTIONS.into_iter().find(|name| name.eq_ignore_ascii_case(keyword.text()));
        let arguments = match name {
            Some("ADD" | "COPY" | "VOLUME") => words_or_json(rest)?,
            Some("EXPOSE" | "FROM") => Arguments::Words { words: rest.words().into_iter().map(Part::spanned).collect(), json: false },
            Some("ARG") => {
                Arguments::Words { words: quoted_words(rest, escape).into_iter().map(|w| rest.slice(w).spanned()).collect(), json: false }
            }
            Some("CMD" | "ENTRYPOINT" | "RUN" | "SHELL") => text_or_json(rest)?,
            Some("ENV") => Arguments::Pairs(pairs(rest, escape, "ENV")?),
            Some("LABEL") => Arguments::Pairs(pairs(rest, escape, "LABEL")?),
            Some("HEALTHCHECK") => probe(rest)?,
            Some("ONBUILD") if rest.text().is_empty() => Arguments::Node(None),
            Some("ONBUILD") => Arguments::Node(Some(Box::new(Self::of_part(rest, escape)?))),
            Some(_) => Arguments::Text(nonempty(rest)),
            None => Arguments::Unknown,
        };
        let text = part.text().to_owned();
        Ok(Self { keyword: keyword.spanned(), name, flags, arguments, heredocs: Vec::new(), text, span: part.span(), comments: Vec::new() })
    }

    /// Whether `<<` in it opens heredocs: in `RUN`, `COPY` and `ADD`, also after `ONBUILD`, unless in a JSON array.
    pub fn can_hold_heredocs(&self) -> bool {
        match (&self.arguments, self.name) {
            (Arguments::Node(Some(trigger)), _) => trigger.name != Some("ONBUILD") && trigger.can_hold_heredocs(),
            (Arguments::Words { json: true, .. }, _) => false,
            (_, Some("RUN" | "COPY" | "ADD")) => self.text.contains("<<"),
            _ => false,
        }
    }
}

fn nonempty(rest: Part<'_>) -> Option<Spanned<String>> {
    (!rest.text().is_empty()).then(|| rest.spanned())
}

/// A JSON array of strings; `None` if it is not JSON or no array.
fn json_array(rest: Part<'_>) -> Result<Option<Vec<Spanned<String>>>, (ErrorKind, Span)> {
    if !rest.text().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(rest.text()) else { return Ok(None) };
    let mut elements = Vec::with_capacity(values.len());
    let mut places = json_strings(rest.text()).into_iter();
    for value in values {
        let serde_json::Value::String(text) = value else { return Err((ErrorKind::JsonOfOthers, rest.span())) };
        let place = places.next().map_or(rest.span(), |(start, end)| rest.slice(start..end).span());
        elements.push(Spanned::new(text, place));
    }
    Ok(Some(elements))
}

/// Where the string literals of a JSON text stand, quotes included.
fn json_strings(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some((start, byte)) = bytes.next() {
        if byte != b'"' {
            continue;
        }
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'"' => {
                    found.push((start, at + 1));
                    break;
                }
                _ => {}
            }
        }
    }
    found
}

fn words_or_json(rest: Part<'_>) -> Result<Arguments, (ErrorKind, Span)> {
    Ok(match json_array(rest)? {
        Some(words) => Arguments::Words { words, json: true },
        None => Arguments::Words { words: rest.words().into_iter().map(Part::spanned).collect(), json: false },
    })
}

fn text_or_json(rest: Part<'_>) -> Result<Arguments, (ErrorKind, Span)> {
    Ok(match json_array(rest)? {
        Some(words) => Arguments::Words { words, json: true },
        None => Arguments::Text(nonempty(rest)),
    })
}

fn probe(rest: Part<'_>) -> Result<Arguments, (ErrorKind, Span)> {
    let text = rest.text();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    if end == 0 {
        return Ok(Arguments::Probe(None));
    }
    Ok(Arguments::Probe(Some((rest.slice(0..end).spanned(), Box::new(text_or_json(rest.from(end).trim())?)))))
}

/// Words split at blanks outside quotes; quotes and escapes stay. An escape character at the very end is dropped.
fn quoted_words(rest: Part<'_>, escape: char) -> Vec<std::ops::Range<usize>> {
    let text = rest.text();
    let mut words = Vec::new();
    let (mut start, mut quote) = (None, None);
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if start.is_none() {
            if c.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        match quote {
            None if c.is_whitespace() => {
                words.extend(start.take().map(|s| s..at));
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        // Nothing can be escaped within single quotes.
        if c == escape && quote != Some('\'') && chars.next().is_none() {
            end = at;
        }
    }
    words.extend(start.filter(|s| *s < end).map(|s| s..end));
    words
}

/// `k=v k=v`, or the legacy `k anything`, whichever the first word says.
fn pairs(rest: Part<'_>, escape: char, instruction: &'static str) -> Result<Vec<KeyValue>, (ErrorKind, Span)> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !rest.text()[first.clone()].contains('=') {
        let (key, value) = rest.split_first();
        let value = value.ok_or((ErrorKind::TwoArguments(instruction), rest.span()))?;
        return Ok(vec![KeyValue { key: key.spanned(), value: value.spanned(), legacy: true }]);
    }
    words
        .into_iter()
        .map(|range| {
            let word = rest.slice(range);
            let at = word.text().find('=').ok_or_else(|| (ErrorKind::NotNameValue(word.text().to_owned()), word.span()))?;
            Ok(KeyValue { key: word.slice(0..at).spanned(), value: word.from(at + 1).spanned(), legacy: false })
        })
        .collect()
}

/// A node's arguments as a command: the words of an array, or a text for the shell.
pub fn command_line(arguments: &Arguments) -> CommandLine {
    match arguments {
        Arguments::Words { words, json: true } => CommandLine::Exec(words.iter().map(|w| w.node.clone()).collect()),
        Arguments::Text(Some(text)) => CommandLine::Shell(text.node.clone()),
        _ => CommandLine::Shell(String::new()),
    }
}

/// A heredoc's opening word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeredocWord {
    /// The delimiter without quotes.
    pub name: String,
    /// The file descriptor.
    pub fd: u32,
    /// `<<-`
    pub chomp: bool,
    /// No part of the delimiter was quoted.
    pub expand: bool,
}

/// Reads `3<<-"EOF"`; `None` for any other word.
pub fn heredoc_word(word: &str) -> Result<Option<HeredocWord>, WordError> {
    let Some((fd, rest)) = word.split_once("<<").filter(|(fd, _)| fd.bytes().all(|b| b.is_ascii_digit())) else { return Ok(None) };
    let unchomped = rest.strip_prefix('-');
    let delimiter = unchomped.unwrap_or(rest).trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if delimiter.contains('<') {
        return Ok(None);
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let words = lexer.words(delimiter, &|_| None)?;
    let [name] = &words[..] else { return Ok(None) };
    let raw = Lexer { keep_quotes: true, ..lexer }.words(delimiter, &|_| None)?.concat();
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(HeredocWord {
        name: name.clone(),
        fd: fd.parse().unwrap_or(if fd.is_empty() { 0 } else { u32::MAX }),
        chomp: unchomped.is_some(),
        expand: quotes(name) == quotes(&raw),
    }))
}

/// The heredocs that a statement opens. A statement whose quotes do not match opens none: the shell will say what is wrong.
pub fn heredoc_words(text: &str) -> Result<Vec<HeredocWord>, WordError> {
    let lexer = Lexer { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    let words = lexer.words(text, &|_| None).unwrap_or_default();
    words.iter().filter_map(|word| heredoc_word(word).transpose()).collect()
}
