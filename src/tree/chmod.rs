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
            Self::Symbolic(text) => {
                let before = (mode & 0o7777, is_dir);
                text.split(',').fold(before.0, |mode, clause| apply_clause(clause, mode, before))
            }
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

const STICKY: u32 = 0o1000;
const OPERATORS: [char; 3] = ['+', '-', '='];

/// `[ugoa…][+-=][rwxXst… or ugo]`, operators as often as one likes.
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(OPERATORS) && actions.chars().all(|c| "+-=rwxXstugo".contains(c))
}

/// The bits for set-id and permissions that a class may have.
fn class(who: char) -> u32 {
    match who {
        'u' => 0o4700,
        'g' => 0o2070,
        'o' => 0o0007,
        _ => 0o6777,
    }
}

/// The rules are those of BSD's setmode(3), which BuildKit's library follows; where they differ from GNU's:
///
/// * The sticky bit belongs to no class: `=` leaves it alone, and only a `t` in the same words changes it.
/// * `s` and `t` say nothing of `o` alone.
/// * `u`, `g` and `o` behind the operator copy permissions and nothing else.
/// * `X` asks for the mode as it was `before` all clauses; behind `-` it is `x`.
fn apply_clause(clause: &str, mut mode: u32, before: (u32, bool)) -> u32 {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    // Nobody named means everybody: there is no umask in a build.
    let named = clause[..clause.len() - actions.len()].chars().map(class).fold(0, |a, b| a | b);
    let mut rest = actions;
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(OPERATORS).map_or(rest.len(), |at| at + 1);
        mode = apply_words(operator, &rest[1..end], named, mode, before);
        rest = &rest[end..];
    }
    mode
}

fn apply_words(operator: char, words: &str, named: u32, mut mode: u32, before: (u32, bool)) -> u32 {
    let (mut who, mut bits, mut execute, mut has_set) = (named, 0, 0, false);
    let is_others_alone = named == class('o');
    for word in words.chars() {
        match word {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            'X' if operator == '-' => bits |= 0o111,
            'X' => execute = 0o111,
            's' if !is_others_alone => bits |= 0o6000,
            't' if !is_others_alone => {
                who |= STICKY;
                bits |= STICKY;
            }
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    mode = apply(operator, who, bits, mode);
                }
                mode = copy(operator, who, word, apply_execute(who, execute, mode, before));
                (bits, execute, has_set) = (0, 0, true);
            }
            _ => {}
        }
    }
    if bits != 0 || operator == '=' && !has_set {
        mode = apply(operator, who, bits, mode);
    }
    apply_execute(who, execute, mode, before)
}

fn or_all(who: u32) -> u32 {
    if who == 0 { 0o7777 } else { who }
}

fn apply(operator: char, who: u32, bits: u32, mode: u32) -> u32 {
    match operator {
        '+' => mode | bits & or_all(who),
        '-' => mode & !(bits & or_all(who)),
        _ => mode & !if who == 0 { class('a') } else { who } | bits & or_all(who),
    }
}

/// Adds what `X` stands for.
fn apply_execute(who: u32, execute: u32, mode: u32, (before, is_dir): (u32, bool)) -> u32 {
    if is_dir || before & 0o111 != 0 { apply('+', who, execute, mode) } else { mode }
}

/// Gives the permissions of one class to others.
fn copy(operator: char, who: u32, from: char, mode: u32) -> u32 {
    let value = match from {
        'u' => mode >> 6 & 7,
        'g' => mode >> 3 & 7,
        _ => mode & 7,
    } * 0o111;
    let asked = or_all(who);
    let classes = [0o700, 0o070, 0o007].into_iter().filter(|class| asked & class & 0o444 != 0).fold(0, |a, b| a | b);
    match operator {
        '+' => mode | value & classes,
        '-' => mode & !(value & classes),
        _ => mode & !classes | value & classes,
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
            ("=", 0o1777, false, 0o1000),
            ("a=r", 0o1777, true, 0o1444),
            ("=t", 0o4755, false, 0o5755),
            ("u=rwxt", 0o644, false, 0o1744),
            ("o+t,o+s", 0o644, false, 0o644),
            ("g=u", 0o2750, false, 0o2770),
            ("u=g", 0o4755, false, 0o4555),
            ("g=uw", 0o644, false, 0o624),
            ("u+x,g+X", 0o644, false, 0o744),
            ("a-X", 0o755, false, 0o644),
            ("a-X", 0o644, false, 0o644),
            ("u+x,a-X", 0o644, false, 0o644),
            ("g=Xu", 0o641, false, 0o661),
            ("4755", 0o600, false, 0o4755),
        ] {
            let chmod = Chmod::parse(text).expect("a mode");
            assert_eq!(format!("{:o}", chmod.apply(mode, is_dir)), format!("{want:o}"), "{text} on {mode:o}");
        }
    }
}
