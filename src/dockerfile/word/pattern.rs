//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*`, `?` and backslash escapes, nothing else.

use std::sync::LazyLock;

use regex::Regex;

use super::{MAX_BYTES, WordFault};

/// Letters of any script.
pub(super) static LETTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{L}$").expect("the class is well-formed"));
/// Decimal digits of any script.
pub(super) static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").expect("the class is well-formed"));

/// Whether a character is in one of the two classes above.
pub(super) fn is_in_class(c: char, class: &Regex) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]))
}

/// A translated pattern.
pub(super) struct Pattern(Regex);

impl Pattern {
    /// Matches anywhere, with `*` as long as possible.
    pub(super) fn floating(pattern: &str) -> Result<Self, WordFault> {
        compile(&translate(pattern, true, false)?, pattern)
    }

    /// Matches at the start only.
    fn anchored(pattern: &str, greedy: bool) -> Result<Self, WordFault> {
        compile(&translate(pattern, greedy, true)?, pattern)
    }

    /// Replaces the first match with the text, or all of them with the text as a template: there `$1` and the like stand for groups,
    /// which a pattern does not have.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, WordFault> {
        if !all {
            return Ok(self.0.replacen(value, 1, regex::NoExpand(replacement)).into_owned());
        }
        let (mut out, mut end) = (String::new(), 0);
        for found in self.0.captures_iter(value) {
            let whole = found.get(0).expect("group 0 is the match");
            out.push_str(&value[end..whole.start()]);
            found.expand(replacement, &mut out);
            end = whole.end();
            if out.len() > MAX_BYTES {
                return Err(WordFault::TooLong);
            }
        }
        out.push_str(&value[end..]);
        Ok(out)
    }
}

fn compile(translated: &str, pattern: &str) -> Result<Pattern, WordFault> {
    // Every special character is escaped, so what can fail is the size limit, for a pattern of megabytes.
    Regex::new(translated).map(Pattern).map_err(|_| WordFault::InvalidPattern { pattern: pattern.to_owned(), character: '\u{fffd}' })
}

/// `value` without what `pattern` matches at its start.
pub(super) fn trim_prefix(pattern: &str, value: &str, greedy: bool) -> Result<String, WordFault> {
    let found = Pattern::anchored(pattern, greedy)?.0.find(value).map_or(0, |m| m.end());
    Ok(value[found..].to_owned())
}

/// `value` without what `pattern` matches at its end. A regular expression finds the leftmost match, so both are read backwards.
pub(super) fn trim_suffix(pattern: &str, value: &str, greedy: bool) -> Result<String, WordFault> {
    let backwards: String = value.chars().rev().collect();
    let rest = trim_prefix(&reverse_pattern(pattern), &backwards, greedy)?;
    Ok(rest.chars().rev().collect())
}

/// Reads a pattern backwards and keeps each backslash before the character that it escapes.
pub(super) fn reverse_pattern(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let mut unit = c.to_string();
        if c == '\\' {
            unit.extend(chars.next());
        }
        units.push(unit);
    }
    units.into_iter().rev().collect()
}

/// The regular expression for a pattern.
pub(super) fn translate(pattern: &str, greedy: bool, anchored: bool) -> Result<String, WordFault> {
    let mut out = String::from(if anchored { "^" } else { "" });
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(if greedy { ".*" } else { ".*?" }),
            '?' => out.push('.'),
            // `}` and `/` are escaped for the sake of `${…}`; the pattern has the plain character.
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '?' | '\\')) => out.extend(['\\', escaped]),
                other => {
                    return Err(WordFault::InvalidPattern { pattern: pattern.to_owned(), character: other.unwrap_or('\u{fffd}') });
                }
            },
            '[' | ']' | '{' | '}' | '.' | '+' | '(' | ')' | '|' | '^' | '$' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    Ok(out)
}
