//! Two selections compared: the lists that [`crate::tree::select::Selection::canonical`] writes.

use std::collections::BTreeMap;

use shale_cache::FileChange;

/// Directories that are only on the way and such that are selected, or owners on one side alone.
pub(super) const SELECTED: &str = "how it is selected";
/// Paths named in a summary.
const NAMED: usize = 3;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line<'a> {
    mode: &'a str,
    owner: Option<&'a str>,
    kind: &'a str,
    size: &'a str,
    digest: &'a str,
    /// Target of a symbolic link, first name of a hard link, numbers of a device.
    link: String,
    xattrs: Vec<&'a str>,
}

/// What differs, by path.
pub(super) fn changes(before: &[u8], after: &[u8]) -> Vec<FileChange> {
    let (before, after) = (String::from_utf8_lossy(before), String::from_utf8_lossy(after));
    let (old, new) = (parse(&before), parse(&after));
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut found = Vec::new();
    for path in paths {
        let what = match (old.get(path), new.get(path)) {
            (Some(then), Some(is)) if then == is => continue,
            (Some(then), Some(is)) => difference(then, is),
            (None, _) => "added".to_owned(),
            (_, None) => "removed".to_owned(),
        };
        found.push(FileChange { path: path.clone(), what });
    }
    found
}

/// `3 files changed: a, b, c (1 added: d, 1 removed: e)`
pub(super) fn summary(found: &[FileChange]) -> String {
    let of = |what: &str| found.iter().filter(|file| file.what == what).collect::<Vec<_>>();
    let (added, removed) = (of("added"), of("removed"));
    let changed: Vec<&FileChange> = found.iter().filter(|file| file.what != "added" && file.what != "removed").collect();
    let mut groups = Vec::new();
    for (group, what) in [(&changed, "changed"), (&added, "added"), (&removed, "removed")] {
        if !group.is_empty() {
            let files = if group.len() == 1 { "file" } else { "files" };
            let files = if groups.is_empty() { format!("{files} ") } else { String::new() };
            groups.push(format!("{} {files}{what}: {}", group.len(), names(group)));
        }
    }
    let first = groups.remove(0);
    if groups.is_empty() { first } else { format!("{first} ({})", groups.join(", ")) }
}

/// The first paths, with what changed of each unless it is the content.
fn names(files: &[&FileChange]) -> String {
    let one = |file: &&FileChange| match file.what.as_str() {
        "content" | "added" | "removed" => file.path.clone(),
        what => format!("{} ({what})", file.path),
    };
    let mut shown: Vec<String> = files.iter().take(NAMED).map(one).collect();
    if files.len() > NAMED {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

fn difference(then: &Line<'_>, is: &Line<'_>) -> String {
    let kind = |kind: &str| match kind {
        "dir" | "implied-dir" => "directory",
        "symlink" => "link",
        "char" | "block" => "device",
        "file" => "file",
        _ => "special file",
    };
    if kind(then.kind) != kind(is.kind) {
        return format!("{} → {}", kind(then.kind), kind(is.kind));
    }
    let mut what = Vec::new();
    if (then.size, then.digest) != (is.size, is.digest) {
        what.push("content".to_owned());
    }
    if then.mode != is.mode {
        what.push(format!("mode {} → {}", then.mode, is.mode));
    }
    if let (Some(before), Some(after)) = (then.owner, is.owner)
        && before != after
    {
        what.push(format!("owner {before} → {after}"));
    }
    if then.link != is.link {
        let shown = |link: &str| if link.is_empty() { "none".to_owned() } else { link.to_owned() };
        let of = match then.kind {
            "symlink" => "target",
            "file" => "hard link",
            _ => "device",
        };
        what.push(format!("{of} {} → {}", shown(&then.link), shown(&is.link)));
    }
    if then.xattrs != is.xattrs {
        what.push("extended attributes".to_owned());
    }
    if what.is_empty() {
        what.push(SELECTED.to_owned());
    }
    what.join(", ")
}

/// The entries by path. The matched path's own name stands before what is below it.
fn parse(text: &str) -> BTreeMap<String, Line<'_>> {
    let mut entries = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(first) = fields.next() else { continue };
        if matches!(first, "match" | "archive")
            && let (Some(number), Some(matched), None) = (fields.clone().next(), fields.clone().nth(1), fields.clone().nth(2))
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            name = unescape(matched);
            continue;
        }
        let target = unescape(first);
        let path = match (name.as_str(), target.as_str()) {
            ("", "") => ".".to_owned(),
            ("", target) => target.to_owned(),
            (name, "") => name.to_owned(),
            (name, target) => format!("{name}/{target}"),
        };
        if let Some(entry) = entry(fields) {
            entries.insert(path, entry);
        }
    }
    entries
}

fn entry<'a>(fields: impl Iterator<Item = &'a str>) -> Option<Line<'a>> {
    let mut fields = fields.peekable();
    let mode = fields.next()?;
    let owner = fields.next_if(|field| field.starts_with(|c: char| c.is_ascii_digit()));
    let kind = fields.next()?;
    let mut line = Line { mode, owner, kind, size: "", digest: "", link: String::new(), xattrs: Vec::new() };
    match kind {
        "file" => {
            (line.size, line.digest) = (fields.next()?, fields.next()?);
            if fields.next_if_eq(&"link").is_some() {
                line.link = unescape(fields.next()?);
            }
        }
        "symlink" => line.link = unescape(fields.next()?),
        "char" | "block" => fields.next()?.clone_into(&mut line.link),
        _ => {}
    }
    line.xattrs = fields.collect();
    Some(line)
}

/// The reverse of how lists escape blanks and line ends.
fn unescape(text: &str) -> String {
    if text == "\\" {
        return String::new();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            // What would break a line stays escaped.
            Some(byte) if byte >= b' ' && byte != 0x7f => out.push(char::from(byte)),
            _ => out.push_str(rest.get(at..at + 3).unwrap_or("\\")),
        }
        rest = rest.get(at + 3..).unwrap_or_default();
    }
    out + rest
}
