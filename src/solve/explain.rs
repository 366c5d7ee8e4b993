//! Why a step ran: the differences between its key's parts and those of the last run of the same step, the most useful first.
//!
//! Values that look secret are not here: their parts hold hashes, and only that they changed is told.

mod files;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use shale_cache::{Change, FileChange, KeyParts, KeyValue as Value, ListId, StepBase, StepRecord};

use words::{contrast, contrast_words, short};

/// Why no record fitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// The step was asked to ignore the cache.
    NoCache,
    /// Its stage was named, with this name, as one that ignores the cache.
    NoCacheFilter(String),
    /// No run of this step is on record.
    NeverBuilt,
    /// These parts differ from the last run's, the most useful first; never empty.
    Changed(Vec<Change>),
    /// Every part is the same: the record or its layer was removed.
    Evicted,
    /// It ran before, but what its key was made of was removed.
    Forgotten,
    /// The same words were run elsewhere, and these parts differ.
    Elsewhere {
        /// What is another one there: the context, the Dockerfile, or the stage.
        other: &'static str,
        /// What differs.
        changes: Vec<Change>,
    },
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What the key is made of.
    pub parts: &'a KeyParts,
    /// The base image of the stage.
    pub base: Option<&'a StepBase>,
}

impl<'a> Side<'a> {
    /// A run that is on record.
    pub fn of(record: &'a StepRecord) -> Self {
        Self { parts: &record.parts, base: record.base.as_ref() }
    }
}

/// Parts that are flags of COPY and ADD.
const FLAGS: [&str; 4] = ["chown", "chmod", "link", "parents"];

/// Where it is not known which ones.
const FILES_CHANGED: &str = "files changed";

/// Reads a list of the store; `None` if it was removed.
pub type ReadList<'a> = &'a dyn Fn(&ListId) -> Option<Vec<u8>>;

/// What made the filesystems another one that a step builds upon or mounts as a whole.
#[derive(Clone, Copy)]
pub struct Causes<'a> {
    /// Which step before this one made other files, if one is known.
    pub below: Option<&'a str>,
    /// The same of the stage or image that is mounted at a place.
    pub mounted: &'a dyn Fn(&str) -> Option<Arc<str>>,
}

impl fmt::Debug for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Causes").field("below", &self.below).finish_non_exhaustive()
    }
}

impl Causes<'_> {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self { below: None, mounted: &|_| None };
}

/// Every difference, the most useful first.
pub fn changes(before: Side<'_>, now: Side<'_>, causes: Causes<'_>, lists: ReadList<'_>) -> Vec<Change> {
    let (old, new) = (values(before.parts), values(now.parts));
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in now.parts.parts().iter().chain(before.parts.parts()) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    // Of a value that is secret on one side only, its hidden part tells.
    let hides = |side: &BTreeMap<&str, _>, name: &str| side.contains_key(format!("secret {name}").as_str());
    let is_hidden = |name: &str| hides(&old, name) || hides(&new, name);
    let has = |side: &BTreeMap<&str, _>, name: &str| side.contains_key(name) || hides(side, name);
    let flag_came_or_went = ["chown", "unpack"].iter().any(|flag| has(&old, flag) != has(&new, flag));
    let mut found: Vec<(u8, Change)> = Vec::new();
    for name in names.into_iter().filter(|name| old.get(name) != new.get(name) && !is_hidden(name)) {
        let (then, now_is) = (old.get(name).map_or(&[][..], Vec::as_slice), new.get(name).map_or(&[][..], Vec::as_slice));
        let changes = match name {
            "parent" => {
                found.push(below(before.base, now.base, causes.below));
                continue;
            }
            "files" if flag_came_or_went => files_but_flags(name, then, now_is, lists),
            _ if let ([Value::Text(_)], [Value::Text(_)], Some(place)) = (then, now_is, name.strip_prefix("files at ")) => {
                vec![whole_mount(name, (causes.mounted)(place).as_deref())]
            }
            // ADD does so, or its flag.
            "unpack" | "unpack-fetched" if now_is.is_empty() => vec![change(name, "archives are not unpacked any more".into(), None, None)],
            "unpack" | "unpack-fetched" => vec![change(name, "archives are unpacked now".into(), None, None)],
            _ => part(name, then, now_is, lists),
        };
        found.extend(changes.into_iter().map(|change| (rank(&change.part), change)));
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, change)| change).collect()
}

/// In how many parts two keys differ.
pub fn distance(before: &KeyParts, now: &KeyParts) -> usize {
    let (old, new) = (values(before), values(now));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).count()
}

/// The values of each name: some names may stand several times.
fn values(parts: &KeyParts) -> BTreeMap<&str, Vec<&Value>> {
    let mut all: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for (name, value) in parts.parts() {
        all.entry(name).or_default().push(value);
    }
    all
}

/// What a user wants to be told first. A moved base comes with other variables, so it stands before them.
fn rank(part: &str) -> u8 {
    match part.split(' ').next().unwrap_or_default() {
        "platform" => 0,
        "command" => 1,
        "heredoc" => 2,
        "arg" => 3,
        // What somebody wrote comes before what may follow from it.
        "chown" | "chmod" | "link" | "parents" | "unpack" => 4,
        "files" => 5,
        "destination" | "path" => 6,
        "mount" => 7,
        "base" => 8,
        "step" => 10,
        _ => 9,
    }
}

/// The filesystem below the step differs: because of the base, or because of a step before.
fn below(before: Option<&StepBase>, now: Option<&StepBase>, changed_by: Option<&str>) -> (u8, Change) {
    let moved = before.map(|base| (&base.name, base.chain)) != now.map(|base| (&base.name, base.chain));
    if !moved {
        let text = changed_by.unwrap_or("the steps before it are not those of the last time: one was added, moved, removed or changed");
        let text = text.to_owned();
        return (rank("step"), change("step", text, None, None));
    }
    let (then, is) = (before.map_or("scratch", |base| &base.name), now.map_or("scratch", |base| &base.name));
    let text = match (before, now) {
        (Some(before), Some(now)) if before.name == now.name => {
            format!("base image moved: {is} was {} is {}", short_digest(&before.digest), short_digest(&now.digest))
        }
        _ => format!("base image: {then} → {is}"),
    };
    let value = |base: Option<&StepBase>| base.map(|base| format!("{}@{}", base.name, base.digest));
    (rank("base"), change("base", text, value(before), value(now)))
}

/// An earlier step ran, and made other files than the last time.
pub fn made_others(step: &str) -> String {
    format!("an earlier step made other files (step {})", short(step))
}

/// A step reads an image that has other files than the last time.
pub fn another_image(name: &str) -> String {
    format!("another image than the last time ({name})")
}

/// An earlier step did not have to run, but its result is another one than `since` then. Both sides are named as progress shows them;
/// `first` is the first of the differences.
pub fn found_another(before: &str, now: &str, first: &str, since: &str) -> String {
    let instruction = |name: &str| name.split_once("] ").map_or(name, |(_, text)| text).to_owned();
    let (then, is) = (instruction(before), instruction(now));
    if then != is {
        return format!("an earlier step changed (step {}: {})", short(now), contrast_words(&then, &is));
    }
    format!("an earlier step made other files than {since} (step {}: {first})", short(now))
}

/// `sha256:` and twelve digits.
fn short_digest(digest: &str) -> &str {
    let end = digest.find(':').map_or(0, |colon| colon + 1) + 12;
    digest.get(..end).unwrap_or(digest)
}

fn change(part: impl Into<String>, text: String, before: Option<String>, after: Option<String>) -> Change {
    Change { part: part.into(), text, before, after, files: Vec::new() }
}

/// The differences of one part: ENV has one per variable, a mount one per option.
fn part(name: &str, before: &[&Value], after: &[&Value], lists: ReadList<'_>) -> Vec<Change> {
    let (kind, rest) = name.split_once(' ').unwrap_or((name, ""));
    let (then, is) = (text(before), text(after));
    match kind {
        "files" if !before.is_empty() && !after.is_empty() => {
            vec![files_change(name, found_files(before, after, lists).unwrap_or_default())]
        }
        "files" => vec![change(name, format!("{} {}", shown_files(name), if is.is_some() { "are new" } else { "are gone" }), None, None)],
        "command" => vec![command(then, is)],
        "env" => env(then.as_deref(), is.as_deref()),
        "arg" => vec![change(name, format!("build arg {rest}{}", turned(then.as_deref(), is.as_deref())), then, is)],
        // Of `secret PART` the value is a hash.
        "secret" => {
            let what = match rest.split_once(' ') {
                Some(("arg", name)) => format!("build arg {name}"),
                Some(("mount", _)) => "a mount with a secret in it".to_owned(),
                None if FLAGS.contains(&rest) => format!("--{rest}"),
                _ => rest.to_owned(),
            };
            vec![change(rest, format!("{what}: changed (value hidden)"), None, None)]
        }
        "heredoc" => {
            let text = match (&then, &is) {
                (Some(then), Some(is)) => format!(" changed: {}", contrast_words(then, is)),
                (None, _) => " is new".to_owned(),
                (_, None) => " is gone".to_owned(),
            };
            vec![change(name, format!("heredoc {rest}{text}"), then, is)]
        }
        "mount" => mount(name, rest, then.as_deref(), is.as_deref()),
        _ if FLAGS.contains(&name) => flag(name, then, is),
        "user" => {
            let root = |user: Option<String>| user.map(|user| if user.is_empty() { "root".to_owned() } else { user });
            let (then, is) = (root(then), root(is));
            vec![change(name, format!("user{}", turned(then.as_deref(), is.as_deref())), then, is)]
        }
        _ => vec![change(name, format!("{name}{}", turned(then.as_deref(), is.as_deref())), then, is)],
    }
}

fn flag(name: &str, then: Option<String>, is: Option<String>) -> Vec<Change> {
    let shown = |value: &Option<String>| match value.as_deref() {
        None => "none".to_owned(),
        Some(value) => short(value),
    };
    vec![change(name, format!("--{name}: {} → {}", shown(&then), shown(&is)), then, is)]
}

/// The values of a name as one text.
fn text(values: &[&Value]) -> Option<String> {
    let one = |value: &&Value| match value {
        Value::Text(text) => text.clone(),
        Value::List(id) => id.to_string(),
    };
    (!values.is_empty()).then(|| values.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// `: 1 → 2`, ` is new: 2`, ` is gone (was 1)`.
fn turned(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!(": {}", contrast(before, after)),
        (None, Some(after)) => format!(" is new: {}", short(after)),
        (Some(before), None) => format!(" is gone (was {})", short(before)),
        (None, None) => String::new(),
    }
}

/// Another shell is another change than another script.
fn command(before: Option<String>, after: Option<String>) -> Change {
    let words = |text: &Option<String>| text.as_deref().and_then(|text| serde_json::from_str::<Vec<String>>(text).ok()).unwrap_or_default();
    let (then, is) = (words(&before), words(&after));
    let text = match (then.split_last(), is.split_last()) {
        (Some((script, shell)), Some((same, other))) if script == same => {
            format!("shell: {} → {}", short(&shell.join(" ")), short(&other.join(" ")))
        }
        (Some((script, shell)), Some((other, same))) if shell == same => format!("command changed: {}", contrast_words(script, other)),
        _ => format!("command changed: {}", contrast_words(&then.join(" "), &is.join(" "))),
    };
    change("command", text, before, after)
}

/// One change per variable; the order counts too.
fn env(before: Option<&str>, after: Option<&str>) -> Vec<Change> {
    let list = |text: Option<&str>| text.and_then(|text| serde_json::from_str::<Vec<String>>(text).ok()).unwrap_or_default();
    let (then, is) = (list(before), list(after));
    // A name without a value stands for one that is hidden.
    let split =
        |entry: &str| entry.split_once('=').map_or((entry.to_owned(), None), |(name, value)| (name.to_owned(), Some(value.to_owned())));
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (then.iter().map(|e| split(e)).collect(), is.iter().map(|e| split(e)).collect());
    let mut names: Vec<&String> = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name))).collect();
    names.retain(|name| old.get(*name) != new.get(*name));
    if names.is_empty() {
        return vec![change("env", "the order of ENV changed".to_owned(), None, None)];
    }
    // What is hidden on one side only is told by its hash.
    let turned_hidden = |name: &str| old.get(name).zip(new.get(name)).is_some_and(|(then, is)| then.is_none() || is.is_none());
    names.retain(|name| !turned_hidden(name));
    let one = |name: &String| {
        let (then, is) = (old.get(name), new.get(name));
        let (before, after) = (then.cloned().flatten(), is.cloned().flatten());
        let text = match (then, is) {
            (Some(None), None) => format!("env {name} is gone"),
            (None, Some(None)) => format!("env {name} is new"),
            _ => format!("env {name}{}", turned(before.as_deref(), after.as_deref())),
        };
        change(format!("env {name}"), text, before, after)
    };
    names.into_iter().map(one).collect()
}

/// One change per option of a mount. Its text is a JSON object.
fn mount(part: &str, target: &str, before: Option<&str>, after: Option<&str>) -> Vec<Change> {
    let object = |text: Option<&str>| text.and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    let target = if target.is_empty() { String::new() } else { format!(" at {target}") };
    let (Some(then), Some(is)) = (object(before), object(after)) else {
        let of_type = object(before).or_else(|| object(after)).and_then(|mount| mount.get("type").cloned()).unwrap_or_default();
        let what = match (before, after) {
            (Some(_), Some(_)) => "changed",
            (None, _) => "is new",
            (_, None) => "was taken out of the instruction",
        };
        return vec![change(part, format!("mount {of_type}{target} {what}"), None, None)];
    };
    if then.get("type") != is.get("type") {
        let of_type = |mount: &BTreeMap<String, String>| mount.get("type").cloned().unwrap_or_default();
        return vec![change(part, format!("mount{target}: type {} → {}", of_type(&then), of_type(&is)), None, None)];
    }
    let of_type = is.get("type").cloned().unwrap_or_default();
    let names = is.keys().chain(then.keys().filter(|name| !is.contains_key(*name)));
    let one = |name: &String| {
        // Ids of caches begin with their namespace, which is nothing by default.
        let value = |mount: &BTreeMap<String, String>| {
            mount.get(name).map(|value| value.strip_prefix('/').filter(|_| name == "id").unwrap_or(value).to_owned())
        };
        let (before, after) = (value(&then), value(&is));
        let shown = |value: &Option<String>| value.as_deref().map_or_else(|| "none".to_owned(), short);
        let text = format!("mount {of_type} {name} {} → {}{target}", shown(&before), shown(&after));
        change(part, text, before, after)
    };
    names.filter(|name| then.get(*name) != is.get(*name)).map(one).collect()
}

/// `files`, or `files mounted at /src`.
fn shown_files(name: &str) -> String {
    match name.strip_prefix("files at ") {
        None => "files".to_owned(),
        Some(target) if target.starts_with('/') => format!("files mounted at {target}"),
        // Where it is mounted is hidden.
        Some(_) => "files of a mount with a secret in it".to_owned(),
    }
}

/// The files of a COPY that itself selects them otherwise now: under `--chown` their owners are not looked at. What differs by that alone is
/// no change of a file.
fn files_but_flags(name: &str, before: &[&Value], after: &[&Value], lists: ReadList<'_>) -> Vec<Change> {
    let Some(mut found) = found_files(before, after, lists) else { return Vec::new() };
    found.retain(|file| file.what != files::SELECTED);
    if found.is_empty() { Vec::new() } else { vec![files_change(name, found)] }
}

/// Which files differ; `None` if a list is gone.
fn found_files(before: &[&Value], after: &[&Value], lists: ReadList<'_>) -> Option<Vec<FileChange>> {
    let read = |values: &[&Value]| match values {
        [Value::List(id)] => lists(id),
        _ => None,
    };
    Some(files::changes(&read(before)?, &read(after)?))
}

fn files_change(name: &str, found: Vec<FileChange>) -> Change {
    let text = if found.is_empty() { FILES_CHANGED.to_owned() } else { files::summary(&found) };
    Change { files: found, ..change(name, text + &mounted_at(name), None, None) }
}

/// A stage or an image that is mounted as a whole: its files are not listed one by one.
fn whole_mount(name: &str, cause: Option<&str>) -> Change {
    change(name, cause.unwrap_or(FILES_CHANGED).to_owned() + &mounted_at(name), None, None)
}

/// ` (mounted at /src)`, for files that are.
fn mounted_at(name: &str) -> String {
    match name.strip_prefix("files at ") {
        None => String::new(),
        Some(target) if target.starts_with('/') => format!(" (mounted at {target})"),
        Some(_) => " (mounted where a secret stands)".to_owned(),
    }
}

impl MissReason {
    /// Everything that differs.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Changed(changes) | Self::Elsewhere { changes, .. } => changes,
            Self::NoCache | Self::NoCacheFilter(_) | Self::NeverBuilt | Self::Evicted | Self::Forgotten => &[],
        }
    }

    /// All of it, a line each: what the first line leaves out.
    pub fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, change) in self.changes().iter().enumerate() {
            if number > 0 {
                lines.push(format!("also: {}", change.text));
            }
            let told = |file: &FileChange| format!("{} ({})", file.path, file.what);
            lines.extend(change.files.iter().map(|file| format!("  {}", told(file))));
        }
        lines
    }
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => f.write_str("--no-cache"),
            Self::NoCacheFilter(stage) => write!(f, "--no-cache-filter={stage}"),
            Self::NeverBuilt => f.write_str("never built here"),
            Self::Evicted => f.write_str("evicted: its record or its layer was removed from the store"),
            Self::Forgotten => f.write_str("the record of its last run was evicted"),
            Self::Changed(changes) => f.write_str(changes.first().map_or("changed", |change| &change.text)),
            Self::Elsewhere { other, changes } => {
                let text = changes.first().map_or("the same, but its layer was removed", |change| &change.text);
                write!(f, "never built here; against a build of another {other}: {text}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
