//! `.dockerignore`: text in, matcher out. Pure.
//!
//! The rules are those of moby's `patternmatcher`, to the letter, because they decide what reaches an image: last match wins; `!`
//! re-includes; a path also counts as matched by what matched one of its parents. The last rule is applied on the way down from the
//! root ([`MatchState`]), as BuildKit's walk does it, which differs from asking all parents at once: a `!` pattern that matched a
//! directory while nothing excluded that directory is not remembered for the files below it.

mod goregex;
mod pattern;

use std::io;

pub use pattern::Pattern;
use pattern::{Subject, clean, trim};

/// An ignore file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A `!` with nothing after it.
    #[error("{file}:{line}: illegal exclusion pattern: \"!\"")]
    LoneExclamation {
        /// The ignore file, as named to [`Ignore::parse`].
        file: String,
        /// 1-based.
        line: usize,
    },
    /// A pattern that Go's `filepath.Match` or its regular expressions refuse.
    #[error("{file}:{line}: syntax error in pattern {pattern:?}")]
    BadPattern {
        /// The ignore file, as named to [`Ignore::parse`].
        file: String,
        /// 1-based.
        line: usize,
        /// The pattern as cleaned.
        pattern: String,
    },
}

impl From<IgnoreError> for io::Error {
    fn from(error: IgnoreError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The compiled patterns of one ignore file, or of `COPY --exclude`.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    file: String,
    patterns: Vec<Pattern>,
    exclusions: bool,
}

/// What is known of one directory on the way down: which patterns it or a parent of it matched, and the verdict.
#[derive(Clone, Debug, Default)]
pub struct MatchState {
    matched: Vec<bool>,
    verdict: Verdict,
}

impl MatchState {
    /// Whether the directory itself is ignored.
    pub fn is_ignored(&self) -> bool {
        self.verdict.ignored
    }
}

/// Whether a path is ignored, and which pattern said the last word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    ignored: bool,
    by: Option<usize>,
}

impl Ignore {
    /// A matcher that ignores nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Compiles the text of an ignore file; `file` is the name that errors print.
    pub fn parse(file: impl Into<String>, text: &[u8]) -> Result<Self, IgnoreError> {
        Self::compile(file.into(), read_patterns(text))
    }

    /// Compiles patterns that stand for themselves, such as those of `--exclude`; line numbers count them.
    pub fn from_patterns<'a>(name: impl Into<String>, patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let numbered = patterns.into_iter().enumerate().map(|(i, p)| (i + 1, p.as_bytes().to_vec()));
        Self::compile(name.into(), numbered.collect())
    }

    fn compile(file: String, lines: Vec<(usize, Vec<u8>)>) -> Result<Self, IgnoreError> {
        let mut patterns = Vec::with_capacity(lines.len());
        for (line, text) in lines {
            let text = trim(&text);
            if text.is_empty() {
                continue;
            }
            let text = clean(text);
            if text == b"!" {
                return Err(IgnoreError::LoneExclamation { file, line });
            }
            let (exclusion, body) = text.strip_prefix(b"!").map_or((false, text.as_slice()), |body| (true, body));
            match Pattern::compile(body, exclusion, line) {
                Ok(pattern) => patterns.push(pattern),
                Err(_) => return Err(IgnoreError::BadPattern { file, line, pattern: String::from_utf8_lossy(&text).into_owned() }),
            }
        }
        let exclusions = patterns.iter().any(Pattern::is_exclusion);
        Ok(Self { file, patterns, exclusions })
    }

    /// The name of the ignore file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The patterns in their order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether no pattern is there, so that nothing can be ignored.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The state of the root, which no pattern ignores.
    pub fn root(&self) -> MatchState {
        MatchState { matched: vec![false; self.patterns.len()], verdict: Verdict::default() }
    }

    /// The state of the directory at `path`, a child of the directory that `parent` describes.
    pub fn enter(&self, parent: &MatchState, path: &[u8]) -> MatchState {
        let mut matched = vec![false; self.patterns.len()];
        let verdict = self.judge(parent, path, |i| matched[i] = true);
        MatchState { matched, verdict }
    }

    /// Whether `path`, a child of the directory that `parent` describes, is ignored. The same as [`Ignore::enter`], but keeps nothing.
    pub fn ignores_child(&self, parent: &MatchState, path: &[u8]) -> bool {
        !self.patterns.is_empty() && self.judge(parent, path, |_| ()).ignored
    }

    /// Whether nothing below the directory at `path`, which `state` describes, can be visible: it is ignored, and no `!` pattern
    /// that could still take effect can match anything below it. Sound, not complete.
    pub fn can_prune(&self, state: &MatchState, path: &[u8]) -> bool {
        if !state.is_ignored() || path.is_empty() {
            return false;
        }
        if !self.exclusions {
            return true;
        }
        // What matched the directory matches all below it, so only `!` patterns after the last such pattern can change the verdict.
        let last = state.matched.iter().rposition(|m| *m).map_or(0, |i| i + 1);
        !self.patterns[last..].iter().any(|p| p.is_exclusion() && p.may_match_below(path))
    }

    /// Whether `path` (relative, clean) is ignored. Walks down its parents; a walker asks [`Ignore::ignores_child`] instead.
    pub fn is_ignored(&self, path: &[u8]) -> bool {
        self.state_of(path).verdict.ignored
    }

    /// Whether `path` (as COPY names it, clean) is left out for certain: with `!` patterns something below it may still be there, and
    /// the root itself is only gone if everything in it is.
    pub fn surely_ignores(&self, path: &str) -> bool {
        let takes_all = |pattern: &Pattern| matches!(pattern.text().as_str(), "*" | "**" | "**/*");
        match path {
            _ if self.exclusions => false,
            "." | "/" => self.patterns.iter().any(takes_all),
            path => self.is_ignored(path.as_bytes()),
        }
    }

    /// [`Ignore::can_prune`] for a path alone.
    pub fn can_prune_dir(&self, path: &[u8]) -> bool {
        self.can_prune(&self.state_of(path), path)
    }

    /// The pattern that makes `path` ignored, `None` if it is not.
    pub fn ignored_by(&self, path: &[u8]) -> Option<&Pattern> {
        let verdict = self.state_of(path).verdict;
        verdict.by.filter(|_| verdict.ignored).map(|i| &self.patterns[i])
    }

    /// The state of any path, from the root down.
    pub fn state_of(&self, path: &[u8]) -> MatchState {
        let mut state = self.root();
        if path.is_empty() {
            return state;
        }
        for (i, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            state = self.enter(&state, &path[..i]);
        }
        self.enter(&state, path)
    }

    /// Runs over the patterns; calls `record` with each that matched the path or, on the way here, a parent of it.
    fn judge(&self, parent: &MatchState, path: &[u8], mut record: impl FnMut(usize)) -> Verdict {
        let subject = Subject::new(path);
        let mut verdict = Verdict::default();
        for (i, pattern) in self.patterns.iter().enumerate() {
            // A pattern that cannot change the verdict is not asked, and so not remembered either.
            let inherited = parent.matched.get(i).copied().unwrap_or(false);
            if inherited || (pattern.is_exclusion() == verdict.ignored && pattern.is_match(&subject)) {
                record(i);
                verdict = Verdict { ignored: !pattern.is_exclusion(), by: Some(i) };
            }
        }
        verdict
    }
}

/// Reads the lines of an ignore file into cleaned patterns with their 1-based line numbers. A byte order mark, comments (`#` in the
/// first column) and blank lines are dropped; a leading `/` means the root of the context, which is where patterns start anyway.
pub fn read_patterns(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut patterns = Vec::new();
    for (i, line) in text.split(|b| *b == b'\n').enumerate() {
        if line.starts_with(b"#") {
            continue;
        }
        let line = trim(line);
        if line.is_empty() {
            continue;
        }
        let (bang, body) = line.strip_prefix(b"!").map_or((&b""[..], line), |rest| (b"!", trim(rest)));
        let mut body = if body.is_empty() { Vec::new() } else { clean(body) };
        if body.len() > 1 && body[0] == b'/' {
            body.remove(0);
        }
        patterns.push((i + 1, [bang, &body].concat()));
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(".dockerignore", text.as_bytes()).unwrap()
    }

    #[test]
    fn errors_carry_their_line() {
        for (text, want) in [
            ("a\n#c\n!\n", ".dockerignore:3: illegal exclusion pattern: \"!\""),
            ("\n! \n", ".dockerignore:2: illegal exclusion pattern: \"!\""),
            ("a\n\n  b[", ".dockerignore:3: syntax error in pattern \"b[\""),
            (r"src\main", r#".dockerignore:1: syntax error in pattern "src\\main""#),
        ] {
            assert_eq!(Ignore::parse(".dockerignore", text.as_bytes()).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn the_deciding_pattern_is_named() {
        let ignore = ignore("# all logs\n*.log\n!keep.log\nkeep.*\n");
        let by = ignore.ignored_by(b"keep.log").unwrap();
        assert_eq!((by.text(), by.line()), ("keep.*".to_owned(), 4));
        assert_eq!(ignore.ignored_by(b"a.log").map(Pattern::line), Some(2));
        assert!(ignore.ignored_by(b"a.txt").is_none());
    }

    #[test]
    fn an_exclusion_of_a_clean_directory_is_not_remembered() {
        // Asking all parents at once would re-include it; BuildKit's walk does not.
        let ignore = ignore("**/*.log\n!keep\n");
        assert!(ignore.is_ignored(b"keep/a.log"));
        // Here the directory itself is excluded first, so that its re-inclusion counts for what is below.
        assert!(!self::ignore("*\n!keep\n").is_ignored(b"keep/a.log"));
    }

    #[test]
    fn bytes_that_are_no_text_are_one_character_each() {
        let ignore = Ignore::parse("x", b"a?b\nraw\xff\n").unwrap();
        assert!(ignore.is_ignored(b"a\xffb"));
        assert!(!ignore.is_ignored(b"a\xff\xfeb"));
        assert!(ignore.is_ignored(b"raw\xff"));
        assert!(!ignore.is_ignored(b"raw\xfe"));
    }
}
