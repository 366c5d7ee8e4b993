//! Translates the regular expressions that moby's matcher makes of its patterns into the syntax of the `regex` crate.
//!
//! moby builds a Go (RE2) expression by string substitution and passes through what it does not know: `|`, `{2}`, `^`, a letter after
//! a backslash. Whoever wrote such a pattern gets what RE2 makes of it. The two syntaxes differ in classes (nesting and set operations
//! exist only in Rust), in `\d` and friends (ASCII only in Go), in octal and hex escapes, and in what counts as an error.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// The expression is not valid in Go either (or is one of the few that Rust cannot express).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadRegex;

/// The largest count that RE2 takes in `{n}`.
const MAX_REPEAT: u32 = 1000;

/// Rewrites a Go expression for the `regex` crate.
pub(super) fn translate(go: &str) -> Result<String, BadRegex> {
    let mut out = String::with_capacity(go.len() + 8);
    let mut chars = go.chars().peekable();
    let mut after_repeat = false;
    while let Some(c) = chars.next() {
        let repeats = match c {
            '\\' => {
                escape(&mut chars, &mut out)?;
                false
            }
            '[' => {
                class(&mut chars, &mut out)?;
                false
            }
            '*' | '?' | '+' => {
                out.push(c);
                true
            }
            '{' => match counted(&chars) {
                Some((_, _)) if after_repeat => return Err(BadRegex),
                Some((text, length)) => {
                    out.push_str(&text);
                    chars.nth(length - 1);
                    true
                }
                None => {
                    out.push_str(r"\{");
                    false
                }
            },
            ']' | '}' => {
                out.push('\\');
                out.push(c);
                false
            }
            _ => {
                out.push(c);
                false
            }
        };
        after_repeat = repeats;
    }
    Ok(out)
}

/// Reads `n}`, `n,}` or `n,m}` after an opening brace; anything else is a literal brace. Returns the text and how many characters it took.
fn counted(rest: &Peekable<Chars<'_>>) -> Option<(String, usize)> {
    let body: String = rest.clone().take_while(|c| *c != '}').collect();
    if rest.clone().nth(body.chars().count()) != Some('}') {
        return None;
    }
    let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n <= MAX_REPEAT && text.bytes().all(|b| b.is_ascii_digit()));
    let valid = match body.split_once(',') {
        None => number(&body).is_some(),
        Some((min, "")) => number(min).is_some(),
        Some((min, max)) => number(min).zip(number(max)).is_some_and(|(min, max)| min <= max),
    };
    valid.then(|| (format!("{{{body}}}"), body.chars().count() + 1))
}

/// An escape outside a class; the backslash is already read.
fn escape(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), BadRegex> {
    let c = *chars.peek().ok_or(BadRegex)?;
    if let Some(class) = perl_class(c) {
        chars.next();
        let _ = write!(out, "[{class}]");
        return Ok(());
    }
    match c {
        'b' | 'B' | 'A' | 'z' => {
            chars.next();
            out.push_str(match c {
                'b' => r"(?-u:\b)",
                'B' => r"\B",
                'A' => r"\A",
                _ => r"\z",
            });
        }
        'p' | 'P' => {
            chars.next();
            let _ = write!(out, "[{}]", unicode_class(c, chars)?);
        }
        'Q' => {
            chars.next();
            let rest: String = chars.clone().collect();
            let literal = rest.split_once(r"\E").map_or(rest.as_str(), |(head, _)| head);
            out.push_str(&regex::escape(literal));
            let taken = literal.chars().count() + if literal.len() < rest.len() { 2 } else { 0 };
            if taken > 0 {
                chars.nth(taken - 1);
            }
        }
        _ => push_literal(escaped_char(chars)?, out),
    }
    Ok(())
}

/// A bracket expression; the opening bracket is already read.
fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), BadRegex> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        let c = *chars.peek().ok_or(BadRegex)?;
        if c == ']' && !first {
            chars.next();
            out.push(']');
            return Ok(());
        }
        first = false;
        if c == '['
            && let Some(name) = posix_class(chars)?
        {
            out.push_str(&name);
            continue;
        }
        if c == '\\' {
            let mut ahead = chars.clone();
            ahead.next();
            match ahead.next() {
                Some(p @ ('p' | 'P')) => {
                    let class = unicode_class(p, &mut ahead)?;
                    *chars = ahead;
                    out.push_str(&class);
                    continue;
                }
                Some(letter) if perl_class(letter).is_some() => {
                    *chars = ahead;
                    let _ = write!(out, "[{}]", perl_class(letter).unwrap_or_default());
                    continue;
                }
                _ => {}
            }
        }
        range(chars, out)?;
    }
}

/// One character of a class, or a range of two.
fn range(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), BadRegex> {
    let low = class_char(chars)?;
    let mut ahead = chars.clone();
    let ranged = ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']');
    let high = if ranged {
        chars.next();
        class_char(chars)?
    } else {
        low
    };
    if high < low {
        return Err(BadRegex);
    }
    push_literal(low, out);
    if high > low {
        out.push('-');
        push_literal(high, out);
    }
    Ok(())
}

fn class_char(chars: &mut Peekable<Chars<'_>>) -> Result<char, BadRegex> {
    match chars.next().ok_or(BadRegex)? {
        '\\' => escaped_char(chars),
        c => Ok(c),
    }
}

/// `[:name:]` inside a class; `None` if it is not one, an error for a name that Go does not know.
fn posix_class(chars: &mut Peekable<Chars<'_>>) -> Result<Option<String>, BadRegex> {
    const NAMES: [&str; 14] =
        ["alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit"];
    let rest: String = chars.clone().collect();
    let Some(body) = rest.strip_prefix("[:") else { return Ok(None) };
    let Some((name, _)) = body.split_once(":]") else { return Ok(None) };
    if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
        return Err(BadRegex);
    }
    chars.nth(name.chars().count() + 3);
    Ok(Some(format!("[:{name}:]")))
}

/// The inside of the class that a Perl escape stands for: ASCII only, as in Go.
fn perl_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "0-9",
        'D' => "^0-9",
        's' => r"\t\n\f\r ",
        'S' => r"^\t\n\f\r ",
        'w' => "0-9A-Za-z_",
        'W' => "^0-9A-Za-z_",
        _ => return None,
    })
}

/// `\pL` with a one-letter category. A braced name cannot occur: moby's generator never leaves one intact.
fn unicode_class(p: char, chars: &mut Peekable<Chars<'_>>) -> Result<String, BadRegex> {
    match chars.next() {
        Some(category @ ('L' | 'M' | 'N' | 'P' | 'S' | 'Z' | 'C')) => Ok(format!("\\{p}{category}")),
        _ => Err(BadRegex),
    }
}

/// The character that an escape stands for; the backslash is already read.
fn escaped_char(chars: &mut Peekable<Chars<'_>>) -> Result<char, BadRegex> {
    let octal = |c: &char| ('0'..='7').contains(c);
    let c = chars.next().ok_or(BadRegex)?;
    match c {
        // A lone digit would be a backreference, which RE2 refuses.
        '1'..='7' if !chars.peek().is_some_and(octal) => Err(BadRegex),
        '0'..='7' => {
            let mut value = c as u32 - '0' as u32;
            for _ in 0..2 {
                let Some(digit) = chars.next_if(octal) else { break };
                value = value * 8 + (digit as u32 - '0' as u32);
            }
            char::from_u32(value).ok_or(BadRegex)
        }
        'x' => {
            let mut digit = || chars.next().and_then(|c| c.to_digit(16)).ok_or(BadRegex);
            char::from_u32(digit()? * 16 + digit()?).ok_or(BadRegex)
        }
        'a' => Ok('\x07'),
        'f' => Ok('\x0c'),
        'n' => Ok('\n'),
        'r' => Ok('\r'),
        't' => Ok('\t'),
        'v' => Ok('\x0b'),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Ok(c),
        _ => Err(BadRegex),
    }
}

/// A character by its number, which means the same in and outside of a class.
fn push_literal(c: char, out: &mut String) {
    let _ = write!(out, "\\x{{{:X}}}", c as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_syntax_becomes_rust_syntax() {
        for (go, yes, no) in [
            (r"^a[^/]*$", "ab", "a/b"),
            (r"^[a[^/]*]$", "/^a]", "x]"),
            (r"^[&&a]$", "&", "b"),
            (r"^[a-c~~]$", "~", "d"),
            (r"^[]a]$", "]", "b"),
            (r"^[[:digit:]x]$", "7", "y"),
            (r"^\d$", "7", "٧"),
            (r"^\.{js,ts}$", ".{js,ts}", ".js"),
            (r"^x{2}$", "xx", "x{2}"),
            (r"^x{2$", "x{2", "xx"),
            (r"^\101\x42$", "AB", "ab"),
            (r"^\Qa.b\Ec$", "a.bc", "axbc"),
            (r"^\Qa.b", "a.b", "axb"),
            (r"^a]}$", "a]}", "a"),
            (r"^[\]a]$", "]", "b"),
            (r"^foo\bar$", "foo", "foobar"),
        ] {
            let rust = translate(go).unwrap_or_else(|_| panic!("{go}"));
            let regex = regex::Regex::new(&rust).unwrap_or_else(|e| panic!("{go} -> {rust}: {e}"));
            // A word boundary between two word characters never holds, which is what moby makes of a Windows path.
            if go != r"^foo\bar$" {
                assert!(regex.is_match(yes), "{go} -> {rust} must match {yes}");
            }
            assert!(!regex.is_match(no), "{go} -> {rust} must not match {no}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for go in [r"^src\main", r"^\1", r"^\8", r"^[z-a]", r"^[[:nope:]]", r"^\pr", r"^[^/]*{2}", r"^[a", r"^\é", "^a\\"] {
            assert_eq!(translate(go), Err(BadRegex), "{go}");
        }
    }
}
