//! `--chmod`: a mode in octal, or changes in the words of chmod(1).

use std::fmt;

/// What `--chmod` makes of a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// These bits, whatever the source has.
    Octal(u32),
    /// Clauses such as `u=rwX,go-w`, applied to what the source has.
    Symbolic(String),
}

impl Chmod {
    /// Reads either form; `None` is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777).map(Self::Octal);
        }
        text.split(',').all(is_clause).then(|| Self::Symbolic(text.into()))
    }

    /// The mode of a file or directory that has `mode` at its source.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(bits) => bits & 0o7777,
            Self::Symbolic(text) => text.split(',').fold(mode & 0o7777, |mode, clause| apply_clause(clause, mode, is_dir)),
        }
    }

    /// The mode of directories that are made on the way to the destination: they have none that could be changed.
    pub fn of_made_directories(&self) -> u32 {
        match self {
            Self::Octal(bits) => bits & 0o777,
            Self::Symbolic(_) => 0o755,
        }
    }
}

impl fmt::Display for Chmod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(bits) => write!(f, "{bits:o}"),
            Self::Symbolic(text) => f.write_str(text),
        }
    }
}

const OPERATORS: [char; 3] = ['+', '-', '='];

/// `[ugoa…][+-=][rwxXst… or ugo]`, operators as often as one likes.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(OPERATORS) && actions.chars().all(|c| "+-=rwxXstugo".contains(c))
}

fn apply_clause(clause: &str, mut mode: u32, is_dir: bool) -> u32 {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    let who = clause[..clause.len() - actions.len()].chars().map(|who| match who {
        'u' => 0o4700,
        'g' => 0o2070,
        'o' => 0o1007,
        _ => 0o7777,
    });
    // Nobody named means everybody: there is no umask in a build.
    let who = who.reduce(|a, b| a | b).unwrap_or(0o7777);
    let mut rest = actions;
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(OPERATORS).map_or(rest.len(), |at| at + 1);
        let bits = rest[1..end].chars().fold(0, |bits, word| bits | meaning(word, mode, is_dir)) & who;
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => mode & !who | bits,
        };
        rest = &rest[end..];
    }
    mode
}

fn meaning(word: char, mode: u32, is_dir: bool) -> u32 {
    match word {
        'r' => 0o444,
        'w' => 0o222,
        'x' => 0o111,
        'X' if is_dir || mode & 0o111 != 0 => 0o111,
        's' => 0o6000,
        't' => 0o1000,
        'u' => (mode >> 6 & 7) * 0o111,
        'g' => (mode >> 3 & 7) * 0o111,
        'o' => (mode & 7) * 0o111,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let symbolic = |text: &str| Some(Chmod::Symbolic(text.into()));
        for (text, want) in [
            ("755", Some(Chmod::Octal(0o755))),
            ("04711", Some(Chmod::Octal(0o4711))),
            ("7777", Some(Chmod::Octal(0o7777))),
            ("10000", None),
            ("64a", None),
            ("89", None),
            ("u=rwX,go=rX", symbolic("u=rwX,go=rX")),
            ("a+x", symbolic("a+x")),
            ("+x", symbolic("+x")),
            ("u", None),
            ("u+q", None),
        ] {
            assert_eq!(Chmod::parse(text), want, "{text}");
        }
    }

    #[test]
    fn clauses_change_what_is_there() {
        for (text, mode, is_dir, want) in [
            ("go-w", 0o666, false, 0o644),
            ("u=rw,g=r,o=r", 0o777, false, 0o644),
            ("a+X", 0o666, false, 0o666),
            ("a+X", 0o124, true, 0o135),
            ("u+rw,g+r,o-x,o+w", 0o124, true, 0o766),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o100, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("g=u-w", 0o640, false, 0o640),
            ("u+s,+t", 0o755, false, 0o5755),
            ("g=u", 0o704, false, 0o774),
            ("=", 0o777, false, 0),
            ("4755", 0o600, false, 0o4755),
        ] {
            let chmod = Chmod::parse(text).expect("a mode");
            assert_eq!(format!("{:o}", chmod.apply(mode, is_dir)), format!("{want:o}"), "{text} on {mode:o}");
        }
    }
}
