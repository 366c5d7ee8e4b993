//! What COPY and ADD take: sources matched over any [`Tree`], with BuildKit's rules.
//!
//! * A source is cleaned and cannot leave the root. Symlinks in it are followed inside the root, those that a wildcard found too.
//! * A wildcard matches component by component ([`super::glob`]) and sees no path through a symlink; matching nothing is no error,
//!   a literal source that is not there is one, and so is a directory before a wildcard.
//! * A directory stands for what it holds. Below it symlinks are copied as they are. Sockets are left out.
//! * `--parents` takes everything that matches the pattern after the `/./` pivot, with its directories.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use super::entry::{ContentDigest, Mtime, cmp_paths, file_name, join};
use super::glob;
use super::view::{Looped, resolve_in};
use super::{Node, NodeKind, Tree};

/// Why sources could not be selected.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A source that is not there.
    #[error("\"{path}\": not found")]
    NotFound {
        /// The source, absolute.
        path: String,
    },
    /// A source that leads in circles.
    #[error("too many links in \"{path}\"")]
    Loop {
        /// The source, absolute.
        path: String,
    },
    /// A malformed `--exclude` or `--parents` pattern.
    #[error("invalid pattern {pattern:?}: {reason}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The tree could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The path, absolute.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Says whether a relative path matches a set of patterns, by itself or by one of its parents.
pub type Matcher = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;
/// Compiles patterns with the semantics of `.dockerignore`.
pub type Compile<'a> = &'a dyn Fn(&[&str]) -> Result<Matcher, String>;

/// Fewer directories beside each other are walked one after the other: to wake another core takes as long.
const MIN_DIRS_AT_ONCE: usize = 4;
/// On how many levels, one below the other, a walk is divided: each costs a copy, and a thread that waits takes up other parts upon its stack.
const MAX_SPLITS: usize = 3;

/// Bytes that [`Selection::canonical`] writes at once: they stay in the processor's cache.
const WRITE_BYTES: usize = 64 << 10;

/// What is asked for besides the sources.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// `--exclude` patterns, relative to each matched directory.
    pub exclude: &'a [String],
    /// `--parents`
    pub parents: bool,
    /// How patterns are compiled.
    pub compile: Compile<'a>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("exclude", &self.exclude).field("parents", &self.parents).finish_non_exhaustive()
    }
}

/// Everything that one COPY or ADD takes, in the order in which it is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One per matched path.
    pub matches: Vec<Match>,
}

/// One matched path with all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its name as matched (of a symlink the link's own): the name under which a file lands in a directory.
    pub name: Vec<u8>,
    /// The matched path itself comes first, with an empty `target`.
    pub items: Vec<Selected>,
    /// An archive's members in its order, to be unpacked into the destination, instead of files to be copied.
    pub archive: bool,
}

/// One path that is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// What it is, and where it lies in the source tree, links resolved: nowhere if it is inline. Its owner is the tree's: local contexts
    /// say 0:0.
    pub node: Node,
    /// Bytes of its path that lead to what was matched; what follows is its path below it.
    pub above: usize,
    /// blake3 of a regular file's content, once [`Selection::digest`] has run.
    pub digest: Option<ContentDigest>,
    /// A directory that is there only because something below it was selected.
    pub implied: bool,
    /// Number of the Dockerfile's own file that it is, instead of one of the tree.
    pub inline: Option<usize>,
}

impl Selected {
    /// What was matched itself.
    pub fn matched(node: Node) -> Self {
        let above = node.path.len();
        Self { node, above, digest: None, implied: false, inline: None }
    }

    /// Path in the source tree; empty for its root and for inline files.
    pub fn source(&self) -> &[u8] {
        &self.node.path
    }

    /// Path below the match; empty for the match itself.
    pub fn target(&self) -> &[u8] {
        &self.node.path[self.above..]
    }

    /// Its line in [`Selection::canonical`]; `first` are the names that others of the same file are links to.
    fn put_line(&self, with_owners: bool, first: &HashMap<(u64, u64), &Self>, out: &mut Vec<u8>) {
        escape(out, self.target());
        let node = &self.node;
        out.push(b' ');
        digits(out, node.mode.into(), 8);
        if with_owners {
            out.push(b' ');
            digits(out, node.uid.into(), 10);
            out.push(b':');
            digits(out, node.gid.into(), 10);
        }
        match &node.kind {
            NodeKind::Dir => out.extend(if self.implied { &b" implied-dir"[..] } else { b" dir" }),
            NodeKind::File { size, inode } => {
                out.extend(b" file ");
                digits(out, *size, 10);
                out.push(b' ');
                if let Some(digest) = self.digest {
                    out.extend_from_slice(blake3::Hash::from(digest).to_hex().as_bytes());
                }
                if let Some(first) = inode.and_then(|inode| first.get(&inode)).filter(|first| !std::ptr::eq(**first, self)) {
                    out.extend(b" link ");
                    escape(out, first.target());
                }
            }
            NodeKind::Symlink { target } => {
                out.extend(b" symlink ");
                escape(out, target);
            }
            NodeKind::Fifo => out.extend(b" fifo"),
            NodeKind::Socket => out.extend(b" socket"),
            NodeKind::CharDevice { major, minor } => put(out, format_args!(" char {major}:{minor}")),
            NodeKind::BlockDevice { major, minor } => put(out, format_args!(" block {major}:{minor}")),
        }
        for (name, value) in &node.xattrs {
            out.push(b' ');
            escape(out, name);
            out.push(b'=');
            escape(out, value);
        }
        out.push(b'\n');
    }
}

impl Match {
    /// The first of the names of each file that may have several.
    fn first_names(&self) -> HashMap<(u64, u64), &Selected> {
        let mut first = HashMap::new();
        for item in &self.items {
            if let NodeKind::File { inode: Some(inode), .. } = item.node.kind {
                first.entry(inode).or_insert(item);
            }
        }
        first
    }

    /// A file that the Dockerfile itself holds.
    pub fn inline(number: usize, name: &str, content: &[u8], mtime: Mtime) -> Self {
        let kind = NodeKind::File { size: content.len() as u64, inode: None };
        let node = Node { path: Vec::new(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: std::collections::BTreeMap::new() };
        let digest = Some(*blake3::hash(content).as_bytes());
        let item = Selected { digest, inline: Some(number), ..Selected::matched(node) };
        Self { name: file_name(name.as_bytes()).to_vec(), items: vec![item], archive: false }
    }
}

/// Matches `sources` over `tree`.
pub fn select(tree: &dyn Tree, sources: &[String], options: &Options<'_>) -> Result<Selection, SelectError> {
    let compile =
        |patterns: &[&str]| (options.compile)(patterns).map_err(|reason| SelectError::Pattern { pattern: patterns.join(" "), reason });
    let exclude = match options.exclude {
        [] => None,
        some => Some(compile(&some.iter().map(String::as_str).collect::<Vec<_>>())?),
    };
    let mut selection = Selection::default();
    for source in sources {
        let mut pattern = source.as_str();
        let mut include = None;
        let mut only = Vec::new();
        if options.parents {
            let (pivot, rest) = source.split_once("/./").unwrap_or(("/", source));
            let rest = String::from_utf8_lossy(&clean(rest.as_bytes()).join(&b"/"[..])).into_owned();
            only = literal_prefix(&rest);
            if !clean(pivot.as_bytes()).iter().any(|c| glob::has_wildcard(c)) && !glob::has_wildcard(rest.as_bytes()) {
                must_exist(tree, &[pivot.as_bytes(), b"/", rest.as_bytes()].concat())?;
                must_be_walked(tree, pivot.as_bytes(), rest.as_bytes())?;
            }
            // Nothing after the pivot selects nothing, which BuildKit tells in these words.
            if rest.is_empty() {
                return Err(SelectError::NotFound { path: shown(&clean(pivot.as_bytes()).join(&b"/"[..])) });
            }
            include = Some(compile(&[rest.as_str()])?);
            pattern = pivot;
        }
        let walk = Walk { tree, include: include.as_ref(), exclude: exclude.as_ref(), only: &only };
        for path in expand(tree, pattern.as_bytes())? {
            selection.matches.push(walk.take(&path)?);
        }
    }
    Ok(selection)
}

/// The paths that a source stands for, links not yet resolved, in walking order.
fn expand(tree: &dyn Tree, source: &[u8]) -> Result<Vec<Vec<u8>>, SelectError> {
    let names = clean(source);
    let literal = names.iter().position(|name| glob::has_wildcard(name)).unwrap_or(names.len());
    let base = names[..literal].join(&b"/"[..]);
    if literal == names.len() {
        return Ok(vec![base]);
    }
    if let Some(malformed) = names[literal..].iter().find(|name| !glob::is_well_formed(name)) {
        let pattern = String::from_utf8_lossy(malformed).into_owned();
        return Err(SelectError::Pattern { pattern, reason: "syntax error in pattern".to_owned() });
    }
    let mut found = vec![must_exist(tree, &base)?];
    for (depth, pattern) in names[literal..].iter().enumerate() {
        let last = literal + depth + 1 == names.len();
        let mut next = Vec::new();
        for (dir, node) in found {
            // What lies behind a link is not searched.
            if node.kind != NodeKind::Dir {
                continue;
            }
            for child in children(tree, &dir)? {
                if glob::matches(pattern, file_name(&child.path)) && (last || child.kind == NodeKind::Dir) {
                    next.push((child.path.clone(), child));
                }
            }
        }
        found = next;
    }
    let mut paths: Vec<_> = found.into_iter().map(|(path, _)| path).collect();
    paths.sort_by(|a, b| cmp_paths(a, b));
    Ok(paths)
}

/// Resolves a path and gives its node.
fn must_exist(tree: &dyn Tree, path: &[u8]) -> Result<(Vec<u8>, Node), SelectError> {
    let shown = || shown(&clean(path).join(&b"/"[..]));
    let mut missing = false;
    let link = |at: &[u8]| {
        let node = tree.node(at)?;
        missing |= node.is_none();
        Ok(node.and_then(|node| match node.kind {
            NodeKind::Symlink { target } => Some(target),
            _ => None,
        }))
    };
    // `..` is taken off as text first, as BuildKit cleans sources.
    let resolved = resolve_in(&clean(path).join(&b"/"[..]), true, link).map_err(|error| match error {
        Looped::Loop => SelectError::Loop { path: shown() },
        Looped::Other(source) => SelectError::Read { path: shown(), source },
    })?;
    let node = if missing { None } else { tree.node(&resolved).map_err(|source| SelectError::Read { path: shown(), source })? };
    node.map(|node| (resolved, node)).ok_or_else(|| SelectError::NotFound { path: shown() })
}

/// Whether no link stands between a pivot and a path below it: what lies behind one is not walked, and not found by BuildKit either.
fn must_be_walked(tree: &dyn Tree, pivot: &[u8], rest: &[u8]) -> Result<(), SelectError> {
    let (mut path, _) = must_exist(tree, pivot)?;
    let names = clean(rest);
    for name in names.iter().take(names.len().saturating_sub(1)) {
        path = join(&path, name);
        let node = tree.node(&path).map_err(|source| SelectError::Read { path: shown(&path), source })?;
        if matches!(node, Some(Node { kind: NodeKind::Symlink { .. }, .. })) {
            return Err(SelectError::NotFound { path: shown(&clean(&[pivot, b"/", rest].concat()).join(&b"/"[..])) });
        }
    }
    Ok(())
}

fn children(tree: &dyn Tree, dir: &[u8]) -> Result<Vec<Node>, SelectError> {
    tree.children(dir).map_err(|source| SelectError::Read { path: shown(dir), source })
}

struct Walk<'a> {
    tree: &'a dyn Tree,
    include: Option<&'a Matcher>,
    exclude: Option<&'a Matcher>,
    /// The part of the include pattern without wildcards: nothing beside it needs to be looked at.
    only: &'a [Vec<u8>],
}

impl Walk<'_> {
    fn take(&self, path: &[u8]) -> Result<Match, SelectError> {
        let (source, node) = must_exist(self.tree, path)?;
        let name = file_name(path).to_vec();
        let is_dir = node.kind == NodeKind::Dir;
        let mut items = Vec::new();
        if node.kind != NodeKind::Socket {
            items.push(Selected::matched(Node { path: source.clone(), ..node }));
        }
        if is_dir {
            let above = if source.is_empty() { 0 } else { source.len() + 1 };
            self.below(&source, above, MAX_SPLITS, &mut items)?;
        }
        Ok(Match { name, items, archive: false })
    }

    /// Takes what lies below a directory, in walking order. A directory that was not asked for itself comes along with what was below it.
    fn below(&self, dir: &[u8], above: usize, splits: usize, items: &mut Vec<Selected>) -> Result<(), SelectError> {
        let depth = dir.get(above..).map_or(0, |target| clean(target).len());
        let mut nodes = children(self.tree, dir)?;
        nodes.retain(|node| {
            let is_beside = || self.only.get(depth).is_some_and(|only| only != file_name(&node.path));
            node.kind != NodeKind::Socket && !is_beside()
        });
        let mut walked = self.at_once(&nodes, above, splits)?.map(Vec::into_iter);
        items.reserve(nodes.len());
        for node in nodes {
            let target = &node.path[above..];
            let wanted = self.include.is_none_or(|f| f(target)) && self.exclude.is_none_or(|f| !f(target));
            let dir = (node.kind == NodeKind::Dir).then(|| node.path.clone());
            if !wanted && dir.is_none() {
                continue;
            }
            items.push(Selected { node, above, digest: None, implied: !wanted, inline: None });
            let Some(dir) = dir else { continue };
            let before = items.len();
            match walked.as_mut().and_then(Iterator::next) {
                Some(walked) => items.extend(walked),
                None => self.below(&dir, above, splits, items)?,
            }
            if !wanted && items.len() == before {
                items.pop();
            }
        }
        Ok(())
    }

    /// What lies below each directory among `nodes`, if there are enough of them to be walked at once.
    fn at_once(&self, nodes: &[Node], above: usize, splits: usize) -> Result<Option<Vec<Vec<Selected>>>, SelectError> {
        let dirs: Vec<&Node> = nodes.iter().filter(|node| node.kind == NodeKind::Dir).collect();
        if dirs.len() < MIN_DIRS_AT_ONCE || splits == 0 {
            return Ok(None);
        }
        let walked: Vec<_> = dirs.iter().map(|_| OnceLock::new()).collect();
        self.tree.at_once(dirs.len(), &|number| {
            let mut items = Vec::new();
            let below = self.below(&dirs[number].path, above, splits - 1, &mut items);
            drop(walked[number].set(below.map(|()| items)));
        });
        // Of several errors the first in walking order is told, whoever met one first.
        walked.into_iter().map(|walked| walked.into_inner().expect("each number was looked at")).collect::<Result<_, _>>().map(Some)
    }
}

impl Selection {
    /// Reads the digests of all selected files that have none yet.
    pub fn digest(&mut self, tree: &dyn Tree) -> io::Result<()> {
        let wanted = |item: &Selected| matches!(item.node.kind, NodeKind::File { .. }) && item.digest.is_none();
        let items = || self.matches.iter().flat_map(|m| &m.items).filter(|item| wanted(item));
        let paths: Vec<&[u8]> = items().map(Selected::source).collect();
        let mut digests = tree.digests(&paths)?.into_iter();
        for item in self.matches.iter_mut().flat_map(|m| &mut m.items) {
            if wanted(item) {
                item.digest = digests.next();
            }
        }
        Ok(())
    }

    /// Whether nothing was selected.
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty()
    }

    /// The files to read, in order: match and item.
    pub fn files(&self) -> impl Iterator<Item = (usize, usize, &Selected)> {
        let numbered = self.matches.iter().enumerate();
        numbered
            .flat_map(|(m, matched)| matched.items.iter().enumerate().map(move |(i, item)| (m, i, item)))
            .filter(|(_, _, item)| matches!(item.node.kind, NodeKind::File { .. }))
    }

    /// Writes what enters a key, one line per path: everything that reaches the layer but times, and where the files lie. Without owners
    /// if `--chown` replaces them. Digests must have been read.
    pub fn canonical(&self, with_owners: bool, to: &mut dyn io::Write) -> io::Result<()> {
        let mut out = Vec::with_capacity(2 * WRITE_BYTES);
        for (number, matched) in self.matches.iter().enumerate() {
            let what = if matched.archive { "archive" } else { "match" };
            put(&mut out, format_args!("{what} {number} "));
            escape(&mut out, &matched.name);
            out.push(b'\n');
            let first = matched.first_names();
            for item in &matched.items {
                item.put_line(with_owners, &first, &mut out);
                if out.len() >= WRITE_BYTES {
                    to.write_all(&out)?;
                    out.clear();
                }
            }
        }
        to.write_all(&out)
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

/// Writes a number. [`write!`] takes several times as long, and a large context has many.
fn digits(out: &mut Vec<u8>, mut number: u64, radix: u64) {
    let mut text = [0; 22];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % radix) as u8;
        number /= radix;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

/// Writes bytes so that neither blanks nor line ends are left, and nothing is ambiguous.
pub(super) fn escape(out: &mut Vec<u8>, mut bytes: &[u8]) {
    if bytes.is_empty() {
        out.push(b'\\');
    }
    while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\\' | b'=' | 0..=0x20 | 0x7f)) {
        out.extend_from_slice(&bytes[..at]);
        put(out, format_args!("\\{:02x}", bytes[at]));
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}

/// The components of a source; `..` goes up as text and stops at the root.
pub(super) fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|b| *b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

/// The leading components of a pattern that hold nothing special, but for the last one, below which all is taken.
fn literal_prefix(pattern: &str) -> Vec<Vec<u8>> {
    let special = |name: &&[u8]| name.iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\' | b'!'));
    clean(pattern.as_bytes()).into_iter().take_while(|name| !special(name)).map(<[u8]>::to_vec).collect()
}
