//! Physical lines → statements: directives, comments, continuations and heredoc bodies.

use std::ops::Range;

use super::ast::Directives;
use super::error::{ErrorKind, LINE_LIMIT_BYTES, ParseError};
use crate::span::{SourceFile, Span, Spanned};

/// Text joined from pieces of the source, which still knows where each byte stands there.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    text: String,
    /// (offset in `text`, offset in the source) of each piece, in order.
    pieces: Vec<(usize, usize)>,
}

impl Joined {
    fn push(&mut self, piece: &str, source_offset: usize) {
        self.pieces.push((self.text.len(), source_offset));
        self.text.push_str(piece);
    }

    /// All of it.
    pub fn all(&self) -> Part<'_> {
        Part { joined: self, start: 0, end: self.text.len() }
    }

    fn source_offset(&self, offset: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        self.pieces.get(piece).map_or(0, |(start, source)| source + (offset - start))
    }
}

/// A stretch of joined text.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    joined: &'a Joined,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    /// The text.
    pub fn text(self) -> &'a str {
        &self.joined.text[self.start..self.end]
    }

    /// The bytes `range` of this part.
    #[must_use]
    pub fn slice(self, range: Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && self.start + range.end <= self.end, "a part lies within its whole");
        Self { start: self.start + range.start, end: self.start + range.end, ..self }
    }

    /// From a byte offset to the end.
    #[must_use]
    pub fn from(self, start: usize) -> Self {
        self.slice(start..self.text().len())
    }

    /// Without blanks at both ends.
    #[must_use]
    pub fn trim(self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.slice(start..start.max(text.trim_end().len()))
    }

    /// Split at runs of blanks; nothing for an empty part.
    pub fn words(self) -> Vec<Self> {
        let text = self.text();
        let mut words = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let end = text[start..].find(is_blank).map_or(text.len(), |i| start + i);
            words.push(self.slice(start..end));
            start = text[end..].find(|c| !is_blank(c)).map_or(text.len(), |i| end + i);
        }
        words
    }

    /// The text up to the first run of blanks and what follows that run.
    pub fn split_first(self) -> (Self, Option<Self>) {
        let text = self.text();
        let Some(end) = text.find(is_blank) else { return (self, None) };
        let next = text[end..].find(|c| !is_blank(c)).map_or(text.len(), |i| end + i);
        (self.slice(0..end), Some(self.from(next)))
    }

    /// Where it stands in the source; it may cover more there, such as the end of a continued line.
    pub fn span(self) -> Span {
        let start = self.joined.source_offset(self.start);
        let end = if self.end > self.start { self.joined.source_offset(self.end - 1) + 1 } else { start };
        Span::new(start, end)
    }

    /// The text with its place.
    pub fn spanned(self) -> Spanned<String> {
        Spanned::new(self.text().to_owned(), self.span())
    }
}

/// The blanks that separate words of a statement.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// One statement with its lines joined.
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text, without what continues the lines.
    pub text: Joined,
    /// All of its lines, without bodies of heredocs.
    pub span: Span,
    /// Comments before it since the last statement or the last empty comment.
    pub comments: Vec<String>,
    /// The last line, if there was an empty line between two others.
    pub empty_continuation: Option<Span>,
}

/// A physical line.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// With its line end.
    raw: &'a str,
    /// Without.
    text: &'a str,
    offset: usize,
}

impl Line<'_> {
    /// An empty line is covered with its line end, so that a span that ends with it reaches it.
    fn span(&self) -> Span {
        let length = if self.text.is_empty() { self.raw.len() } else { self.text.len() };
        Span::new(self.offset, self.offset + length)
    }
}

/// Reads statements one after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    source: &'a SourceFile,
    offset: usize,
    /// Directives seen; no more are taken after anything else.
    directives: Directives,
    seen: Vec<String>,
    in_header: bool,
    comments: Vec<String>,
    errors: Vec<ParseError>,
}

impl<'a> Reader<'a> {
    /// Reads from the start. `syntax` and `check` are known at once, `escape` after the header was read.
    pub fn new(source: &'a SourceFile) -> Self {
        let offset = if source.text().starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let directives = Directives { syntax: detect_syntax(source), escape: '\\', check: detect(source, "check", "#") };
        Self { source, offset, directives, seen: Vec::new(), in_header: true, comments: Vec::new(), errors: Vec::new() }
    }

    /// The escape character as known so far.
    pub fn escape(&self) -> char {
        self.directives.escape
    }

    /// The end of reading: directives and errors.
    pub fn finish(self) -> (Directives, Vec<ParseError>) {
        (self.directives, self.errors)
    }

    fn line(&mut self) -> Option<Line<'a>> {
        let rest = &self.source.text()[self.offset..];
        if rest.is_empty() {
            return None;
        }
        let raw = &rest[..rest.find('\n').map_or(rest.len(), |i| i + 1)];
        let line = Line { raw, text: raw.trim_end_matches(['\r', '\n']), offset: self.offset };
        self.offset += raw.len();
        if raw.trim_end_matches('\n').len() > LINE_LIMIT_BYTES {
            self.errors.push(ParseError::new(ErrorKind::LongLine, line.span(), self.source));
        }
        Some(line)
    }

    /// The next statement, `None` at the end.
    pub fn statement(&mut self) -> Option<Statement> {
        loop {
            let first = self.line()?;
            if self.note_comment(first) {
                continue;
            }
            self.in_header = false;
            let indent = first.text.len() - first.text.trim_start().len();
            let (piece, mut goes_on) = self.cut_continuation(&first.text[indent..]);
            if piece.is_empty() && !goes_on {
                continue;
            }
            let mut text = Joined::default();
            text.push(piece, first.offset + indent);
            let (mut last, mut empty) = (first, false);
            while goes_on {
                let Some(line) = self.line() else { break };
                last = line;
                let trimmed = line.text.trim_start();
                if trimmed.starts_with('#') {
                    continue;
                }
                if trimmed.is_empty() {
                    empty = true;
                    continue;
                }
                let (piece, more) = self.cut_continuation(line.text);
                text.push(piece, line.offset);
                goes_on = more;
            }
            let start = Span::new(first.offset + indent, first.offset + indent);
            return Some(Statement {
                text,
                span: start.to(last.span()),
                comments: std::mem::take(&mut self.comments),
                empty_continuation: empty.then(|| last.span()),
            });
        }
    }

    /// Takes a comment line, which may be a directive.
    fn note_comment(&mut self, line: Line<'_>) -> bool {
        let Some(comment) = line.text.trim_start().strip_prefix('#') else { return false };
        if self.in_header && self.directive(comment, line) {
            return true;
        }
        self.in_header = false;
        // BuildKit cuts the first character of the line, not of the comment.
        let comment = line.text.get(1..).unwrap_or(comment).trim();
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
        true
    }

    fn directive(&mut self, comment: &str, line: Line<'_>) -> bool {
        let Some((name, value)) = directive_of(comment) else { return false };
        let mut fail = |kind| self.errors.push(ParseError::new(kind, line.span(), self.source));
        if self.seen.contains(&name) {
            fail(ErrorKind::RepeatedDirective(name.clone()));
        } else if name == "escape" {
            match value {
                "\\" => self.directives.escape = '\\',
                "`" => self.directives.escape = '`',
                other => fail(ErrorKind::EscapeToken(other.to_owned())),
            }
        }
        self.seen.push(name);
        true
    }

    /// Whether the line goes on, and its text without the escape character and the blanks after it. An escape character after
    /// another one does not continue a line.
    fn cut_continuation<'t>(&self, line: &'t str) -> (&'t str, bool) {
        let escape = self.directives.escape;
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(kept) if !kept.ends_with(escape) => (kept, true),
            _ => (line, false),
        }
    }

    /// The body of a heredoc up to its terminator; `None` if the file ends first.
    pub fn body(&mut self, terminator: &str, chomp: bool) -> Option<Body> {
        let (mut text, start) = (String::new(), self.offset);
        while let Some(line) = self.line() {
            let candidate = if chomp { line.text.trim_start_matches('\t') } else { line.text };
            if candidate == terminator {
                return Some(Body { text, span: Span::new(start, line.offset), terminator: line.span() });
            }
            text.push_str(line.raw);
        }
        None
    }
}

/// The lines of a heredoc.
#[derive(Clone, Debug)]
pub struct Body {
    /// The text as written.
    pub text: String,
    /// Where it stands.
    pub span: Span,
    /// The line that ends it.
    pub terminator: Span,
}

/// The leading tabs of every line taken away, as `<<-` wants.
pub(super) fn chomp(body: &str) -> String {
    body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// `name = value` of a known directive, from the text after the comment sign.
fn directive_of(comment: &str) -> Option<(String, &str)> {
    let (name, value) = comment.trim_start().split_once('=')?;
    let name = name.trim_end().to_ascii_lowercase();
    let value = value.trim();
    (matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty()).then_some((name, value))
}

/// A directive's first word, read from a header whose comments begin with `sign`. A `#!` line may stand before it.
fn detect(source: &SourceFile, wanted: &str, sign: &str) -> Option<Spanned<String>> {
    let text = source.text();
    let mut offset = text.len() - text.trim_start_matches('\u{feff}').len();
    if text[offset..].starts_with("#!") {
        offset += text[offset..].find('\n')? + 1;
    }
    let mut seen = Vec::new();
    for raw in text[offset..].split_inclusive('\n') {
        let (name, value) = directive_of(raw.strip_prefix(sign)?)?;
        if name == wanted {
            let word = value.split(' ').next().unwrap_or(value);
            let at = offset + (value.as_ptr() as usize - raw.as_ptr() as usize);
            return Some(Spanned::new(word.to_owned(), Span::new(at, at + word.len())));
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        offset += raw.len();
    }
    None
}

/// The frontend that a file asks for, in any of the ways it may: `# syntax=`, `// syntax=`, or a JSON file with a `syntax` key.
pub fn detect_syntax(source: &SourceFile) -> Option<Spanned<String>> {
    detect(source, "syntax", "#").or_else(|| detect(source, "syntax", "//")).or_else(|| {
        let text = source.text().trim_start_matches('\u{feff}');
        let json = if text.starts_with("#!") { text.split_once('\n')?.1 } else { text };
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
        let value = object.get("syntax")?.as_str()?.to_owned();
        let at = source.text().find(&value).unwrap_or(0);
        Some(Spanned::new(value.clone(), Span::new(at, at + value.len())))
    })
}
