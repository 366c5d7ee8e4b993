//! Why COPY found nothing.

use std::collections::VecDeque;

use super::BuildContext;
use crate::layer::read::clean;
use crate::source::ignore::Ignore;
use crate::tree::entry::{file_name, join, parent};
use crate::tree::{Node, NodeKind, Tree as _};

/// How many names are suggested.
const SUGGESTIONS: usize = 3;

/// How many directories are searched for a path of the same name.
const DIRS_LIMIT: usize = 1_000;

/// Why a path is not there for COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It exists, and a pattern of the ignore file hides it.
    Ignored {
        /// The ignore file.
        file: String,
        /// The pattern that said the last word.
        pattern: String,
        /// Its 1-based line.
        line: usize,
        /// A `!` pattern with a similar name, and its line: it may have been meant to keep the path.
        exception: Option<(String, usize)>,
    },
    /// It is a link that leads to nothing in the context.
    Dangling {
        /// The link's own path.
        link: String,
        /// Where it leads, as it says.
        target: String,
    },
    /// It does not exist.
    Absent {
        /// Visible paths with a similar name, the likeliest first; if there are none, those of the same name further up or down.
        similar: Vec<String>,
    },
}

pub(super) fn why(context: &BuildContext, path: &[u8]) -> Missing {
    let path = clean(path);
    if let Some(ignore) = context.ignore()
        && context.exists(&path)
        && let Some(pattern) = ignore.ignored_by(&path)
    {
        let exception = near_exception(ignore, &String::from_utf8_lossy(&path));
        return Missing::Ignored { file: ignore.file().to_owned(), pattern: pattern.text(), line: pattern.line(), exception };
    }
    if let Ok(Some(Node { kind: NodeKind::Symlink { target }, .. })) = context.node(&path) {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return Missing::Dangling { link: shown(&path), target: shown(&target) };
    }
    let mut similar = similar(context, &path);
    if similar.is_empty() {
        similar = elsewhere(context, &path);
    }
    Missing::Absent { similar }
}

/// The path without its first directories, as for a context that is one of them, or below others, as for one that is above: the nearest
/// to the top first.
fn elsewhere(context: &BuildContext, path: &[u8]) -> Vec<String> {
    let exists = |path: &[u8]| !path.is_empty() && matches!(context.node(path), Ok(Some(_)));
    let shorter = std::iter::successors(Some(path), |rest| rest.iter().position(|byte| *byte == b'/').map(|slash| &rest[slash + 1..]));
    let mut found: Vec<Vec<u8>> = shorter.skip(1).filter(|rest| exists(rest)).map(<[u8]>::to_vec).take(1).collect();
    let mut dirs = VecDeque::from([Vec::new()]);
    let mut looked_at = 0;
    while let Some(dir) = dirs.pop_front()
        && found.len() < SUGGESTIONS
        && looked_at < DIRS_LIMIT
    {
        looked_at += 1;
        let below = context.children(&dir).unwrap_or_default().into_iter().filter(|node| node.kind == NodeKind::Dir);
        for node in below {
            let candidate = join(&node.path, path);
            if found.len() < SUGGESTIONS && exists(&candidate) {
                found.push(candidate);
            }
            dirs.push_back(node.path);
        }
    }
    found.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

/// The `!` pattern that is nearest to a path which it does not match.
fn near_exception(ignore: &Ignore, path: &str) -> Option<(String, usize)> {
    let exceptions = ignore.patterns().iter().filter(|pattern| pattern.is_exclusion());
    let exceptions = exceptions.map(|pattern| (pattern.text().trim_start_matches('!').to_owned(), pattern.line()));
    let near = exceptions.filter_map(|(text, line)| Some((likeness(path, &text)?, text, line)));
    near.min().map(|(_, text, line)| (format!("!{text}"), line))
}

/// Looks for the first component that is not there among its neighbours, and for the rest below each that is like it.
fn similar(context: &BuildContext, path: &[u8]) -> Vec<String> {
    let mut dir = path;
    let mut wanted = path;
    while !dir.is_empty() {
        wanted = dir;
        dir = parent(dir);
        if matches!(context.node(dir), Ok(Some(node)) if node.kind == NodeKind::Dir) {
            break;
        }
    }
    let name = String::from_utf8_lossy(file_name(wanted)).into_owned();
    let rest = path[wanted.len()..].strip_prefix(b"/").unwrap_or_default();
    let mut found: Vec<(usize, String)> = Vec::new();
    for node in context.children(dir).unwrap_or_default() {
        let neighbour = String::from_utf8_lossy(file_name(&node.path)).into_owned();
        let Some(distance) = likeness(&name, &neighbour) else { continue };
        let full = join(&node.path, rest);
        let exists = rest.is_empty() || matches!(context.node(&full), Ok(Some(_)));
        let suggestion = if rest.is_empty() || !exists { &node.path } else { &full };
        found.push((distance + usize::from(!exists) * 100, String::from_utf8_lossy(suggestion).into_owned()));
    }
    found.sort();
    found.truncate(SUGGESTIONS);
    found.into_iter().map(|(_, path)| path).collect()
}

/// How far a name is from the wanted one; `None` if it is too far to be meant.
fn likeness(wanted: &str, name: &str) -> Option<usize> {
    let (wanted_lower, name_lower) = (wanted.to_lowercase(), name.to_lowercase());
    if wanted_lower == name_lower {
        return Some(0);
    }
    let longest = wanted.chars().count().max(name.chars().count());
    // A long directory listing must not cost a second.
    if longest > 255 {
        return None;
    }
    let distance = edits(&wanted_lower, &name_lower);
    (distance <= (longest / 3).max(1) && distance < longest).then_some(distance)
}

/// Insertions, deletions, changes and swaps of neighbours that turn one word into the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut last): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_alike() {
        for (a, b, want) in [
            ("src", "scr", Some(1)),
            ("package.json", "pakage.json", Some(1)),
            ("README", "readme", Some(0)),
            ("app", "lib", None),
            ("a", "b", None),
            ("requirements.txt", "requirement.txt", Some(1)),
        ] {
            assert_eq!(likeness(a, b), want, "{a} {b}");
        }
    }

    #[test]
    fn cleaned_by_text() {
        assert_eq!(clean(b"/a/./b/../c/"), b"a/c");
        assert_eq!(clean(b"../.."), b"");
    }
}
