//! One compiled pattern and the lexical rules it is made by (Go's `filepath.Clean`, `filepath.Match` syntax, moby's generator).

use std::borrow::Cow;
use std::sync::OnceLock;

use regex::Regex;

use super::goregex;

/// The pattern cannot be compiled.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPattern;

/// One line of an ignore file, compiled.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As it matches: cleaned, without `!`.
    text: Vec<u8>,
    exclusion: bool,
    line: usize,
    shape: Shape,
}

/// How a pattern is matched. moby decides this while it walks over the pattern, and so do we: `**.txt` is a suffix, `**/*.txt` is not.
#[derive(Clone, Debug)]
enum Shape {
    /// The whole path.
    Exact,
    /// A path that starts with the pattern less its trailing `**`.
    Prefix,
    /// A path that ends with the pattern less its leading `**`, or equals that less its `/`.
    Suffix,
    /// An expression, and the literals that any match must have.
    Regex { regex: Expression, literals: Option<Literals> },
}

/// A regular expression, compiled when the first path comes that it may match: that takes 0.1 ms, and most of a usual ignore file are
/// never needed.
#[derive(Clone, Debug)]
struct Expression {
    text: String,
    compiled: OnceLock<Regex>,
}

/// Longer patterns are compiled at once: they might come to the limit of what an expression may take.
const MAX_LAZY_BYTES: usize = 512;

/// What any path must have to match; known only for patterns whose sole metacharacters are `*` and `?`.
#[derive(Clone, Debug)]
struct Literals {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// The longest piece between two metacharacters.
    inner: Vec<u8>,
    /// How many components a matching path has; `None` if `**` leaves that open.
    components: Option<usize>,
}

impl Pattern {
    /// Compiles a cleaned pattern (already without `!`).
    pub(super) fn compile(text: &[u8], exclusion: bool, line: usize) -> Result<Self, BadPattern> {
        check_syntax(text)?;
        Ok(Self { text: text.to_vec(), exclusion, line, shape: shape(text)? })
    }

    /// The pattern as cleaned, with `!` if it re-includes.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        if self.exclusion { format!("!{text}") } else { text.into_owned() }
    }

    /// Whether it re-includes (`!`).
    pub fn is_exclusion(&self) -> bool {
        self.exclusion
    }

    /// The 1-based line it stands on.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Whether it matches exactly this path; parents are the caller's business.
    pub(super) fn is_match(&self, path: &Subject<'_>) -> bool {
        match &self.shape {
            Shape::Exact => path.bytes == self.text,
            Shape::Prefix => path.bytes.starts_with(self.stem()),
            Shape::Suffix => {
                let suffix = &self.text[2..];
                path.bytes.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|name| name == path.bytes)
            }
            Shape::Regex { regex, literals } => {
                literals.as_ref().is_none_or(|literals| literals.are_in(path.bytes)) && regex.is_match(path.text())
            }
        }
    }

    /// Whether it might match some path below the directory `dir`. Errs on the side of yes.
    pub(super) fn may_match_below(&self, dir: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact => is_below(&self.text, dir),
            Shape::Prefix => heads_agree(self.stem(), dir),
            Shape::Suffix | Shape::Regex { literals: None, .. } => true,
            Shape::Regex { literals: Some(literals), .. } => {
                let depth = dir.split(|b| *b == b'/').count();
                heads_agree(&literals.head, dir) && literals.components.is_none_or(|n| n > depth)
            }
        }
    }

    /// A prefix pattern less its trailing `**`. (Of `a/**` that is `a/`, of `a**` it is `a`.)
    fn stem(&self) -> &[u8] {
        &self.text[..self.text.len() - 2]
    }
}

impl Expression {
    /// `is_plain`: nothing is in it that could be invalid.
    fn new(text: String, is_plain: bool) -> Result<Self, BadPattern> {
        let at_once = !is_plain || text.len() > MAX_LAZY_BYTES;
        let compiled = if at_once { Regex::new(&text).map_err(|_| BadPattern)?.into() } else { OnceLock::new() };
        Ok(Self { text, compiled })
    }

    fn is_match(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| Regex::new(&self.text).expect("stars and question marks are valid")).is_match(text)
    }
}

impl Literals {
    fn are_in(&self, path: &[u8]) -> bool {
        let inner = self.inner.as_slice();
        path.starts_with(&self.head) && path.ends_with(&self.tail) && (inner.is_empty() || path.windows(inner.len()).any(|at| at == inner))
    }
}

/// Whether `path` lies strictly below `dir`.
fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Whether a path below `dir` can begin with `head`.
fn heads_agree(head: &[u8], dir: &[u8]) -> bool {
    is_below(head, dir) || dir.starts_with(head)
}

/// A path as patterns see it: bytes for the literal shapes, text for expressions. Go decodes each byte that is no UTF-8 as one U+FFFD.
pub(super) struct Subject<'a> {
    pub(super) bytes: &'a [u8],
    text: std::cell::OnceCell<Cow<'a, str>>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, text: std::cell::OnceCell::new() }
    }

    fn text(&self) -> &str {
        self.text.get_or_init(|| go_text(self.bytes))
    }
}

/// Decodes as Go does: one U+FFFD per byte that is no part of UTF-8.
fn go_text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(out)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

fn shape(pattern: &[u8]) -> Result<Shape, BadPattern> {
    Ok(match generate(&go_text(pattern)) {
        (Found::Exact, _) => Shape::Exact,
        (Found::Prefix, _) => Shape::Prefix,
        (Found::Suffix, _) => Shape::Suffix,
        (Found::Regex, go) => {
            let literals = literals(pattern);
            let rust = goregex::translate(&go).map_err(|_| BadPattern)?;
            Shape::Regex { regex: Expression::new(rust, literals.is_some())?, literals }
        }
    })
}

/// Decides the shape while it builds the Go expression, in moby's order of cases, so that every odd pattern means the same as there.
fn generate(pattern: &str) -> (Found, String) {
    let mut chars = pattern.chars().peekable();
    chars.next_if_eq(&'\u{feff}'); // Go's scanner drops a byte order mark
    let (mut found, mut go, mut start) = (Found::Exact, String::from("^"), true);
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    go.push_str("(.*/)?");
                    found = Found::Regex;
                } else if found == Found::Exact {
                    found = Found::Prefix;
                } else {
                    go.push_str(".*");
                    found = Found::Regex;
                }
                if start {
                    found = Found::Suffix;
                }
            }
            '*' | '?' => {
                go.push_str(if c == '*' { "[^/]*" } else { "[^/]" });
                found = Found::Regex;
            }
            // `{`, `|` and `}` are meant to be here in moby too, but its table of bytes ends before them.
            '.' | '+' | '(' | ')' | '$' => {
                go.push('\\');
                go.push(c);
            }
            '\\' => {
                go.push('\\');
                if let Some(next) = chars.next() {
                    go.push(next);
                    found = Found::Regex;
                }
            }
            '[' | ']' => {
                go.push(c);
                found = Found::Regex;
            }
            _ => go.push(c),
        }
        start = false;
    }
    go.push('$');
    (found, go)
}

fn literals(pattern: &[u8]) -> Option<Literals> {
    if std::str::from_utf8(pattern).is_err()
        || pattern.iter().any(|b| b"\\[]{}|^".contains(b))
        || pattern.starts_with("\u{feff}".as_bytes())
    {
        return None;
    }
    let meta = |b: &u8| matches!(b, b'*' | b'?');
    let head = pattern.iter().position(meta).map_or(pattern, |i| &pattern[..i]);
    let tail = pattern.iter().rposition(meta).map_or(pattern, |i| &pattern[i + 1..]);
    // The `/` of `**/` goes with the stars: `a**/b` matches `ab`.
    let swallowed = pattern[..pattern.len() - tail.len()].ends_with(b"**");
    let tail = if swallowed { tail.strip_prefix(b"/").unwrap_or(tail) } else { tail };
    let components = (!pattern.windows(2).any(|w| w == b"**")).then(|| pattern.split(|b| *b == b'/').count());
    let pieces = pattern.split(meta).map(|piece| piece.strip_prefix(b"/").unwrap_or(piece));
    let inner = pieces.max_by_key(|piece| piece.len()).unwrap_or_default();
    Some(Literals { head: head.to_vec(), tail: tail.to_vec(), inner: inner.to_vec(), components })
}

/// Refuses what Go's `filepath.Match` refuses: unclosed or empty classes, a bare `-` in one, a trailing backslash.
fn check_syntax(pattern: &[u8]) -> Result<(), BadPattern> {
    let mut rest = pattern;
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'[' => check_class(tail)?,
            b'\\' => tail.split_first().ok_or(BadPattern)?.1,
            _ => tail,
        };
    }
    Ok(())
}

fn check_class(class: &[u8]) -> Result<&[u8], BadPattern> {
    let mut rest = class.strip_prefix(b"^").unwrap_or(class);
    let mut ranges = 0;
    loop {
        if ranges > 0
            && let Some(after) = rest.strip_prefix(b"]")
        {
            return Ok(after);
        }
        rest = class_char(rest)?;
        if let Some(high) = rest.strip_prefix(b"-") {
            rest = class_char(high)?;
        }
        ranges += 1;
    }
}

/// Skips one character of a class; there must be something after it.
fn class_char(rest: &[u8]) -> Result<&[u8], BadPattern> {
    let rest = match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => &rest[1..],
        Some(_) => rest,
    };
    let chunk = rest.utf8_chunks().next().ok_or(BadPattern)?;
    let width = chunk.valid().chars().next().ok_or(BadPattern)?.len_utf8();
    if width == rest.len() { Err(BadPattern) } else { Ok(&rest[width..]) }
}

/// Go's `filepath.Clean`: the shortest path that means the same, by the text alone. `.` for nothing.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(last) if *last != b".." => {
                    kept.pop();
                }
                _ if rooted => {}
                _ => kept.push(component),
            },
            _ => kept.push(component),
        }
    }
    let joined = kept.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Trims Unicode white space at both ends of bytes that need not be UTF-8.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    if let Some(first) = bytes.utf8_chunks().next() {
        let valid = first.valid();
        bytes = &bytes[valid.len() - valid.trim_start().len()..];
    }
    if let Some(last) = bytes.utf8_chunks().last().filter(|chunk| chunk.invalid().is_empty()) {
        let valid = last.valid();
        bytes = &bytes[..bytes.len() - (valid.len() - valid.trim_end().len())];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_literals_rule_out_is_never_compiled() {
        let is_compiled = |pattern: &Pattern| matches!(&pattern.shape, Shape::Regex { regex, .. } if regex.compiled.get().is_some());
        for (text, no, yes) in
            [("**/*.o", "a/x.c", "a/x.o"), ("**/.env*", "a/env", "a/.env.local"), ("a?/**/b*c/d", "ax/y/bc/e", "ax/y/bc/d")]
        {
            let pattern = Pattern::compile(text.as_bytes(), false, 1).unwrap();
            assert!(!pattern.is_match(&Subject::new(no.as_bytes())) && !is_compiled(&pattern), "{text} {no}");
            assert!(pattern.is_match(&Subject::new(yes.as_bytes())) && is_compiled(&pattern), "{text} {yes}");
        }
        // What could be too large is found as it is read, not later.
        assert!(is_compiled(&Pattern::compile("?*".repeat(300).as_bytes(), false, 1).unwrap()));
    }

    #[test]
    fn clean_is_lexical() {
        for (path, want) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("a/b/../..", "."),
            ("!./a", "!./a"),
        ] {
            assert_eq!(String::from_utf8_lossy(&clean(path.as_bytes())), want, "{path}");
        }
    }

    #[test]
    fn shapes_and_expressions() {
        for (pattern, found, go) in [
            ("*", Found::Regex, "^[^/]*$"),
            ("a*/b", Found::Regex, "^a[^/]*/b$"),
            ("**", Found::Suffix, ""),
            ("**/**", Found::Regex, "^(.*/)?.*$"),
            ("dir/**", Found::Prefix, ""),
            ("**/dir", Found::Suffix, ""),
            ("**/dir2/*", Found::Regex, "^(.*/)?dir2/[^/]*$"),
            ("**file", Found::Suffix, ""),
            ("a[b-d]e", Found::Regex, "^a[b-d]e$"),
            (".*", Found::Regex, r"^\.[^/]*$"),
            ("abc.def", Found::Exact, ""),
            ("a.|)$(}+{bc", Found::Exact, ""),
            ("a|b*", Found::Regex, "^a|b[^/]*$"),
        ] {
            let (shape, expression) = generate(pattern);
            assert_eq!(shape, found, "{pattern}");
            assert!(found != Found::Regex || expression == go, "{pattern}: {expression}");
        }
    }

    /// moby's own table, where it is at hand (`SHALE_SHARED`, else `../shared` next to the repository).
    #[test]
    fn moby_compile_table() {
        let root = std::env::var_os("SHALE_SHARED")
            .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared").into(), std::path::PathBuf::from);
        let Ok(text) = std::fs::read_to_string(root.join("conformance/cases/tables/patternmatcher.json")) else {
            std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIP: moby_compile_table: no shared folder with the cases (SHALE_SHARED)\n",
            )
            .unwrap();
            return;
        };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let rows = json["package_tables"]["compileTests"].as_array().unwrap();
        assert!(rows.len() >= 21);
        for row in rows {
            let (pattern, want) = (row["pattern"].as_str().unwrap(), row["compiledRegexp"].as_str().unwrap());
            let (found, go) = generate(pattern);
            assert_eq!(if found == Found::Regex { go.as_str() } else { "" }, want, "{pattern}");
        }
    }

    #[test]
    fn trim_knows_unicode_space_and_tolerates_any_bytes() {
        assert_eq!(trim("\u{a0} a b\t\u{2003}".as_bytes()), b"a b");
        assert_eq!(trim(b" \xff a \xfe"), b"\xff a \xfe");
        assert_eq!(trim(b"\xff  "), b"\xff");
        assert_eq!(trim(b"  "), b"");
    }
}
