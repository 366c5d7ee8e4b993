//! Source text and places in it.

use std::fmt;
use std::sync::Arc;

/// A half-open byte range `[start, end)` of a [`SourceFile`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset past the last byte.
    pub end: u32,
}

impl Span {
    /// A span over `[start, end)`, in bytes.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub node: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value to its place.
    pub fn new(node: T, span: Span) -> Self {
        Self { node, span }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.node
    }
}

/// One text that spans point into, with its line table. Cheap to clone.
#[derive(Clone)]
pub struct SourceFile {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    text: String,
    line_starts: Vec<u32>,
}

impl SourceFile {
    /// Takes a text under the name that errors print (`Dockerfile`, `-`, `build/app.Dockerfile`).
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let mut line_starts = vec![0];
        line_starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i as u32 + 1));
        Self { inner: Arc::new(Inner { name: name.into(), text, line_starts }) }
    }

    /// The name that errors print.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.inner.text
    }

    /// The text under a span.
    pub fn slice(&self, span: Span) -> &str {
        &self.inner.text[span.start as usize..span.end as usize]
    }

    /// The 1-based line of a byte offset.
    pub fn line_of(&self, offset: u32) -> usize {
        self.inner.line_starts.partition_point(|s| *s <= offset)
    }

    /// The 1-based first and last line that a span touches.
    pub fn lines_of(&self, span: Span) -> (usize, usize) {
        let last = if span.end > span.start { span.end - 1 } else { span.start };
        (self.line_of(span.start), self.line_of(last))
    }

    /// A 1-based line without its line end; empty past the last line.
    pub fn line(&self, number: usize) -> &str {
        let starts = &self.inner.line_starts;
        let Some(start) = number.checked_sub(1).and_then(|i| starts.get(i)) else { return "" };
        let end = starts.get(number).map_or(self.inner.text.len(), |e| *e as usize);
        self.inner.text[*start as usize..end].trim_end_matches(['\n', '\r'])
    }

    /// How many lines the text has.
    pub fn line_count(&self) -> usize {
        self.inner.line_starts.len()
    }
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFile").field("name", &self.inner.name).field("bytes", &self.inner.text.len()).finish()
    }
}
