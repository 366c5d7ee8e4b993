//! Words: quotes, escapes and variables, as the Dockerfile language has them.
//!
//! The language looks like a shell's but is its own: patterns know `*` and `?` only, a modifier may follow `:` for the empty
//! case, quotes may be kept, and an unset variable is an empty text that the caller hears about. [`Lexer`] holds the switches; the
//! free functions are its four uses.

mod pattern;

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use self::pattern::Pattern;

/// Why a word cannot be expanded; prints as `failed to process "<word>": <reason>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {reason}", quote(.word))]
pub struct WordError {
    /// The whole word as it was given.
    pub word: String,
    /// What is wrong with it.
    pub reason: WordFault,
}

/// What a word may expand to: 64 times what the kernel takes for a variable of a command. Ten lines of `ENV A=$A$A` multiply a text by a
/// thousand, and thirty would take all memory.
pub const MAX_BYTES: usize = 8 << 20;

/// The single faults of a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordFault {
    /// `'…` without its end.
    #[error("unexpected end of statement while looking for matching single-quote")]
    OpenSingleQuote,
    /// `"…` without its end.
    #[error("unexpected end of statement while looking for matching double-quote")]
    OpenDoubleQuote,
    /// `${…` without its end.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${v/pattern` without the second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…}` or `${{…}`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// `${v=…}`, `${v:#…}` and others that the language does not have.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${v?message}` or `${v:?message}` of a variable that has no value.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message of the file, or one that says what is missing.
        message: String,
    },
    /// More text than [`MAX_BYTES`].
    #[error("the expanded text is longer than {} MB", MAX_BYTES >> 20)]
    TooLong,
    /// A pattern with an escape that means nothing.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{character}'")]
    InvalidPattern {
        /// The pattern, read from its end for `%`.
        pattern: String,
        /// What follows the backslash; U+FFFD at the end of the pattern.
        character: char,
    },
}

/// An expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text after expansion.
    pub text: String,
    /// Names that had no value, each once, in order of first use.
    pub unmatched: Vec<String>,
    /// Names that had a value, each once, in order of first use.
    pub matched: Vec<String>,
}

/// Looks a variable up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Tells something of a variable by its name.
pub type Test<'a> = &'a dyn Fn(&str) -> bool;

/// Expands one word: variables are replaced, quotes and escapes removed, blanks stay.
pub fn expand(word: &str, escape: char, env: Lookup<'_>) -> Result<Expanded, WordError> {
    Lexer::new(escape).expand(word, env)
}

/// Expands a text and splits the result at blanks outside quotes; a variable's value is split too, unless quoted.
pub fn expand_words(word: &str, escape: char, env: Lookup<'_>) -> Result<Vec<String>, WordError> {
    Lexer::new(escape).words(word, env)
}

/// Expands the body of a heredoc file: variables and backslash escapes, while quotes are plain characters. The escape character of
/// the file plays no part in it.
pub fn expand_raw(body: &str, env: Lookup<'_>) -> Result<Expanded, WordError> {
    Lexer { plain_quotes: true, ..Lexer::new('\\') }.expand(body, env)
}

/// Expands a text for people, such as a step's name: quotes stay, and what has no value stays as written.
pub fn expand_display(text: &str, escape: char, env: Lookup<'_>) -> Result<Expanded, WordError> {
    Lexer::for_display(escape).expand(text, env)
}

/// The switches of an expansion.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    /// The escape character.
    pub escape: char,
    /// Quotes work, and stay in the result.
    pub keep_quotes: bool,
    /// Escapes work, and stay in the result.
    pub keep_escapes: bool,
    /// Quotes are plain characters.
    pub plain_quotes: bool,
    /// References without a value stay as written instead of becoming empty.
    pub keep_unset: bool,
}

impl Lexer {
    /// The usual expansion: quotes and escapes removed, unset variables empty.
    pub fn new(escape: char) -> Self {
        Self { escape, keep_quotes: false, keep_escapes: false, plain_quotes: false, keep_unset: false }
    }

    /// The expansion of [`expand_display`].
    pub fn for_display(escape: char) -> Self {
        Self { keep_quotes: true, keep_unset: true, ..Self::new(escape) }
    }

    /// Expands into one text.
    pub fn expand(self, word: &str, env: Lookup<'_>) -> Result<Expanded, WordError> {
        self.expand_but(word, env, &|_| false)
    }

    /// Expands into one text in which references to some variables stay as written, whatever their values.
    pub fn expand_but(self, word: &str, env: Lookup<'_>, is_kept: Test<'_>) -> Result<Expanded, WordError> {
        let (expanded, _) = self.run(word, env, is_kept)?;
        Ok(expanded)
    }

    /// Expands into words, split at blanks outside quotes.
    pub fn words(self, word: &str, env: Lookup<'_>) -> Result<Vec<String>, WordError> {
        let (_, words) = self.run(word, env, &|_| false)?;
        Ok(words)
    }

    fn run(self, word: &str, env: Lookup<'_>, is_kept: Test<'_>) -> Result<(Expanded, Vec<String>), WordError> {
        let rest = word.strip_prefix('\u{feff}').unwrap_or(word).chars().peekable();
        let (keep_escapes, matched, unmatched) = (self.keep_escapes, Vec::new(), Vec::new());
        let mut scan = Scan { lexer: self, keep_escapes, rest, env, is_kept, matched, unmatched };
        match scan.until(None, self.keep_escapes) {
            Ok((text, words)) => Ok((Expanded { text, unmatched: scan.unmatched, matched: scan.matched }, words)),
            Err(reason) => Err(WordError { word: word.to_owned(), reason }),
        }
    }
}

/// Splits at blanks while text arrives.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// Text that blanks split.
    fn push_split(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.current.push(c);
            }
        }
    }

    /// An empty word is none, quoted or not.
    fn end_word(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.done
    }
}

fn push_value(text: &mut String, value: &str) -> Result<(), WordFault> {
    if text.len() + value.len() > MAX_BYTES {
        return Err(WordFault::TooLong);
    }
    text.push_str(value);
    Ok(())
}

struct Scan<'a> {
    lexer: Lexer,
    keep_escapes: bool,
    rest: Peekable<Chars<'a>>,
    env: Lookup<'a>,
    is_kept: Test<'a>,
    matched: Vec<String>,
    unmatched: Vec<String>,
}

impl Scan<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    /// Expands up to `stop` (taken, not returned) or to the end.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>), WordFault> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.until_inner(stop);
        self.keep_escapes = outer;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), WordFault> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.rest.next() {
            if Some(c) == stop {
                return Ok((text, words.finish()));
            }
            let from = text.len();
            match c {
                '$' => {
                    push_value(&mut text, &self.dollar()?)?;
                    words.push_split(&text[from..]);
                }
                '\'' | '"' if !self.lexer.plain_quotes => {
                    if c == '"' {
                        self.double_quoted(&mut text)?;
                    } else {
                        self.single_quoted(&mut text)?;
                    }
                    words.current.push_str(&text[from..]);
                }
                '<' => {
                    self.heredoc_operator(&mut text);
                    words.current.push_str(&text[from..]);
                }
                c if c == self.lexer.escape => {
                    if self.keep_escapes {
                        text.push(c);
                    }
                    text.extend(self.rest.next());
                    words.current.push_str(&text[from..]);
                }
                c => {
                    text.push(c);
                    words.push_split(&text[from..]);
                }
            }
        }
        match stop {
            // Which end is missing depends on what the caller looks for.
            Some(_) => Err(WordFault::MissingBrace),
            None => Ok((text, words.finish())),
        }
    }

    /// `<<` keeps the blanks that follow it in its word, so that `<< EOF` is one.
    fn heredoc_operator(&mut self, text: &mut String) {
        text.push('<');
        if self.rest.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(blank) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
                text.push(blank);
            }
        }
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), WordFault> {
        let keep = self.lexer.keep_quotes.then_some('\'');
        text.extend(keep);
        loop {
            match self.rest.next().ok_or(WordFault::OpenSingleQuote)? {
                '\'' => {
                    text.extend(keep);
                    return Ok(());
                }
                c => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self, text: &mut String) -> Result<(), WordFault> {
        let keep = self.lexer.keep_quotes.then_some('"');
        let escape = self.lexer.escape;
        text.extend(keep);
        loop {
            match self.rest.next().ok_or(WordFault::OpenDoubleQuote)? {
                '"' => {
                    text.extend(keep);
                    return Ok(());
                }
                '$' => {
                    push_value(text, &self.dollar()?)?;
                }
                c if c == escape => {
                    if self.keep_escapes {
                        text.push(c);
                    }
                    match self.rest.next_if(|n| matches!(n, '"' | '$') || *n == escape) {
                        Some(escaped) => text.push(escaped),
                        // Before anything else it is a plain character; at the end the missing quote is the error.
                        None => text.push(c),
                    }
                }
                c => text.push(c),
            }
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self) -> Result<String, WordFault> {
        if self.rest.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.value_of(&name);
            return Ok(if self.keeps(&name, value.as_ref()) { format!("${name}") } else { value.unwrap_or_default() });
        }
        match self.peek() {
            None => return Err(WordFault::MissingBrace),
            Some('{' | '}' | ':') => return Err(WordFault::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err(WordFault::MissingBrace),
            Some('}') => {
                let value = self.value_of(&name);
                Ok(if self.keeps(&name, value.as_ref()) { format!("${{{name}}}") } else { value.unwrap_or_default() })
            }
            Some(':') => {
                let modifier = self.rest.next().ok_or(WordFault::MissingBrace)?;
                self.modified(&name, modifier, true)
            }
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, modifier, false),
            Some('/') => self.replaced(&name),
            Some(other) => Err(WordFault::UnsupportedModifier(other.to_string())),
        }
    }

    /// `${name<modifier>word}`, with or without the colon.
    fn modified(&mut self, name: &str, modifier: char, colon: bool) -> Result<String, WordFault> {
        let spelled = if colon { format!(":{modifier}") } else { modifier.to_string() };
        let is_pattern = matches!(modifier, '#' | '%');
        if colon && is_pattern {
            return Err(WordFault::UnsupportedModifier(spelled));
        }
        let (word, _) = self.until(Some('}'), is_pattern).map_err(|e| self.at_end(e, WordFault::MissingBrace))?;
        let value = self.value_of(name);
        if self.keeps(name, value.as_ref()) {
            return Ok(format!("${{{name}{spelled}{word}}}"));
        }
        let has_value = value.as_ref().is_some_and(|v| !(colon && v.is_empty()));
        match modifier {
            '-' | '?' if has_value => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if has_value => Ok(word),
            '+' => Ok(String::new()),
            '?' => {
                let state = if value.is_some() { "is not allowed to be empty" } else { "is not allowed to be unset" };
                let message = if word.is_empty() { state.to_owned() } else { word };
                Err(WordFault::Required { name: name.to_owned(), message })
            }
            '#' | '%' => {
                let doubled = word.strip_prefix(modifier);
                let (word, greedy) = doubled.map_or((word.as_str(), false), |rest| (rest, true));
                let value = value.unwrap_or_default();
                if modifier == '%' { pattern::trim_suffix(word, &value, greedy) } else { pattern::trim_prefix(word, &value, greedy) }
            }
            _ => Err(WordFault::UnsupportedModifier(spelled)),
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Result<String, WordFault> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let (pattern, _) = self.until(Some('/'), true).map_err(|e| self.at_end(e, WordFault::MissingSlash))?;
        let (replacement, _) = self.until(Some('}'), true).map_err(|e| self.at_end(e, WordFault::MissingBrace))?;
        let value = self.value_of(name);
        if self.keeps(name, value.as_ref()) {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        Pattern::floating(&pattern)?.replace(&value.unwrap_or_default(), &replacement, all)
    }

    /// An error that reached the end of the text is about the missing end, whatever it was inside.
    fn at_end(&mut self, fault: WordFault, missing: WordFault) -> WordFault {
        if self.peek().is_none() { missing } else { fault }
    }

    /// A name: a run of digits, one special character, or letters, digits and `_`; empty if none starts here.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if self.peek().is_some_and(is_digit) {
            while let Some(c) = self.rest.next_if(|c| is_digit(*c)) {
                name.push(c);
            }
        } else if let Some(special) = self.rest.next_if(|c| matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!')) {
            name.push(special);
        } else {
            while let Some(c) = self.rest.next_if(|c| *c == '_' || is_letter(*c) || is_digit(*c)) {
                name.push(c);
            }
        }
        name
    }

    /// Whether a reference stays as it was written.
    fn keeps(&self, name: &str, value: Option<&String>) -> bool {
        value.map_or(self.lexer.keep_unset, |_| (self.is_kept)(name))
    }

    fn value_of(&mut self, name: &str) -> Option<String> {
        let value = (self.env)(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !seen.iter().any(|s| s == name) {
            seen.push(name.to_owned());
        }
        value
    }
}

fn is_letter(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphabetic() } else { pattern::is_in_class(c, &pattern::LETTER) }
}

fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { pattern::is_in_class(c, &pattern::DIGIT) }
}

/// A text in double quotes with Go's escapes, as BuildKit's sentences quote (`%q`).
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if c.is_ascii() && c.is_control() => write!(out, "\\x{:02x}", u32::from(c)).expect("a String takes every write"),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
