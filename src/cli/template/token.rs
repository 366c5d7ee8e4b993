//! A template's text → tokens, with the rules of Go's `text/template`.

use super::TemplateError;
use super::value::Value;

/// A token and the line where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Where it begins, in bytes.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// What stands outside of braces.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// Blanks inside of braces: they separate what would else be a chain (`.A .B`, `.A.B`).
    Space,
    /// `if`, `end`, a function's name
    Word(String),
    /// `.Name`
    Field(String),
    /// `.`
    Dot,
    /// `$`, `$name`
    Variable(String),
    /// A text, number or boolean.
    Literal(Value),
    /// `nil`
    Nil,
    Pipe,
    LeftParen,
    RightParen,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
}

/// Go's blanks.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Splits a template.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    let mut trims = false;
    while let Some(open) = text[lexer.at..].find("{{").map(|n| lexer.at + n) {
        let inside = &text[open + 2..];
        let trims_before = inside.starts_with('-') && inside[1..].starts_with(BLANKS);
        lexer.push_text(open, trims, trims_before);
        lexer.at = open + 2 + 2 * usize::from(trims_before);
        trims = if text[lexer.at..].starts_with("/*") { lexer.comment()? } else { lexer.action(open)? };
    }
    lexer.push_text(text.len(), trims, false);
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn push_text(&mut self, end: usize, trims_start: bool, trims_end: bool) {
        let mut text = &self.text[self.at..end];
        if trims_start {
            text = text.trim_start_matches(BLANKS);
        }
        if trims_end {
            text = text.trim_end_matches(BLANKS);
        }
        if !text.is_empty() {
            self.tokens.push(Token { kind: Kind::Text(text.to_owned()), start: self.at, end });
        }
    }

    /// `/* … */` up to the braces; whether the text behind is trimmed.
    fn comment(&mut self) -> Result<bool, TemplateError> {
        let start = self.at;
        let unclosed = || TemplateError::parse(self.text, start, "unclosed comment");
        let end = self.rest().find("*/").ok_or_else(unclosed)? + start + 2;
        self.at = end;
        match self.closing() {
            Some((length, trims)) => {
                self.at += length;
                Ok(trims)
            }
            None => Err(TemplateError::parse(self.text, start, "comment ends before closing delimiter")),
        }
    }

    /// `}}` or ` -}}` here: its length, and whether it trims.
    fn closing(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with(BLANKS) && rest[1..].starts_with("-}}") {
            return Some((4, true));
        }
        rest.starts_with("}}").then_some((2, false))
    }

    fn push(&mut self, length: usize, kind: Kind) {
        self.tokens.push(Token { kind, start: self.at, end: self.at + length });
        self.at += length;
    }

    /// Everything up to the closing braces; whether the text behind is trimmed.
    fn action(&mut self, open: usize) -> Result<bool, TemplateError> {
        self.tokens.push(Token { kind: Kind::Open, start: open, end: self.at });
        loop {
            if let Some((length, trims)) = self.closing() {
                self.push(length, Kind::Close);
                return Ok(trims);
            }
            let rest = self.rest();
            let Some(c) = rest.chars().next() else { return Err(TemplateError::parse(self.text, open, "unclosed action")) };
            let next = rest[c.len_utf8()..].chars().next();
            match c {
                c if BLANKS.contains(&c) => {
                    // A trim marker needs one of the blanks before it.
                    let blanks = rest.find(|c| !BLANKS.contains(&c)).unwrap_or(rest.len());
                    let keeps = usize::from(rest[blanks..].starts_with("-}}"));
                    self.push(blanks - keeps, Kind::Space);
                }
                '|' => self.push(1, Kind::Pipe),
                '(' => self.push(1, Kind::LeftParen),
                ')' => self.push(1, Kind::RightParen),
                ',' => self.push(1, Kind::Comma),
                '=' => self.push(1, Kind::Assign),
                ':' if next == Some('=') => self.push(2, Kind::Declare),
                '"' | '`' | '\'' => self.quoted(c)?,
                '$' => {
                    let name = 1 + word_length(&rest[1..]);
                    let kind = Kind::Variable(rest[..name].to_owned());
                    self.push(name, kind);
                }
                '.' if !next.is_some_and(|c| c.is_ascii_digit()) => match word_length(&rest[1..]) {
                    0 => self.push(1, Kind::Dot),
                    length => {
                        let kind = Kind::Field(rest[1..=length].to_owned());
                        self.push(1 + length, kind);
                    }
                },
                c if c.is_ascii_digit() || c == '.' || (matches!(c, '-' | '+') && next.is_some_and(|c| c.is_ascii_digit())) => {
                    self.number()?;
                }
                c if word_length(rest) > 0 && !c.is_ascii_digit() => self.word(),
                c => return Err(TemplateError::parse(self.text, self.at, format!("unexpected {:?} in command", c.to_string()))),
            }
        }
    }

    fn word(&mut self) {
        let word = self.rest()[..word_length(self.rest())].to_owned();
        let kind = match word.as_str() {
            "true" => Kind::Literal(Value::Bool(true)),
            "false" => Kind::Literal(Value::Bool(false)),
            "nil" => Kind::Nil,
            _ => Kind::Word(word.clone()),
        };
        self.push(word.len(), kind);
    }

    fn number(&mut self) -> Result<(), TemplateError> {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        let digits = rest[..length].replace('_', "");
        let hex = digits.strip_prefix("0x").map(|hex| i64::from_str_radix(hex, 16));
        let value = match (hex, digits.parse::<i64>(), digits.parse::<f64>()) {
            (Some(Ok(value)), ..) | (None, Ok(value), _) => Value::Int(value),
            (None, Err(_), Ok(value)) => Value::Float(value),
            _ => return Err(TemplateError::parse(self.text, self.at, format!("bad number syntax: {:?}", &rest[..length]))),
        };
        self.push(length, Kind::Literal(value));
        Ok(())
    }

    /// A text in double quotes or backticks, or a character, which is its number.
    fn quoted(&mut self, quote: char) -> Result<(), TemplateError> {
        let what = match quote {
            '"' => "unterminated quoted string",
            '`' => "unterminated raw quoted string",
            _ => "unterminated character constant",
        };
        let mut text = String::new();
        let rest = self.rest();
        let mut chars = rest.char_indices().skip(1);
        while let Some((n, c)) = chars.next() {
            match c {
                c if c == quote => {
                    let value = match (quote, text.chars().next()) {
                        ('\'', Some(c)) => Value::Int(i64::from(u32::from(c))),
                        _ => Value::Text(text),
                    };
                    self.push(n + 1, Kind::Literal(value));
                    return Ok(());
                }
                '\n' if quote != '`' => break,
                '\\' if quote != '`' => {
                    let Some((_, escaped)) = chars.next() else { break };
                    text.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        '\\' | '"' | '\'' => escaped,
                        _ => return Err(TemplateError::parse(self.text, self.at, "invalid syntax")),
                    });
                }
                c => text.push(c),
            }
        }
        Err(TemplateError::parse(self.text, self.at, what))
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}
