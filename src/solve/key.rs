//! What a step's result depends on, as named parts. The hash of the parts is the cache key, so an explanation of a miss and the
//! key can never disagree.
//!
//! | op | parts |
//! |---|---|
//! | all | format version and op kind (in the hash's frame), `parent` |
//! | RUN | `platform`, `command`, `env` (image ENV in order), one `arg NAME` per ARG in scope, `secret env NAME` per variable of ENV that is secret, `user`, `workdir`, `network`, `security`, one `device NAME` per wish, `hostname`, `add-host`, `ulimit`, `shm-size`, per mount `mount TARGET` and `files at TARGET`, `heredoc NAME` |
//! | COPY, ADD | `destination`, `chown`, `chmod`, `unpack`, `heredoc NAME`, `files` (the selection's list: never an mtime) |
//! | WORKDIR | `path`, `user`, `SOURCE_DATE_EPOCH` if there is one |
//!
//! A part with a secret in it is called `secret PART` and has a hash for its value, under the store's own key. Of a mount the target may be secret, too: it is
//! `secret mount N` and `files at mount N`.
//!
//! The second look of COPY and ADD replaces `parent` by `below`: what the parent holds where the step writes.
//! ADD that unpacks archives keeps `parent`: what it writes is known only after reading the archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use shale_cache::{ChainId, HidingKey, KeyParts, KeyValue, ListId};

use crate::plan::graph::{
    CopyOp, CopySource, FileOwner, InlineFile, MountSharing, NetworkMode, Op, Remote, RunMount, RunOp, Vertex, WorkdirOp, secret_mount,
};

/// What a step reads that its text does not say: digests of long parts, put in the store by the caller.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// COPY and ADD: the selection.
    pub files: Option<ListId>,
    /// RUN: what each mount reads.
    pub mounts: Vec<Option<MountInput>>,
}

/// What a mount of a RUN reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountInput {
    /// Everything that a stage or image holds.
    Whole(ChainId),
    /// These files.
    Files(ListId),
}

impl fmt::Display for MountInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(chain) => chain.fmt(f),
            Self::Files(list) => list.fmt(f),
        }
    }
}

/// The parts of the first look: text and ids only. `hiding` is there where [`Vertex::has_secrets`].
///
/// # Panics
/// For vertices that are no steps (`Scratch`, `Image`): they have no key.
pub fn first_look(vertex: &Vertex, parent: &ChainId, inputs: &Inputs, hiding: Option<&HidingKey>) -> KeyParts {
    let parts = match &vertex.op {
        Op::Run(run) => run_parts(vertex, run, parent, inputs),
        Op::Copy(copy) => {
            let mut parts = KeyParts::new("copy");
            parts.push_text("parent", parent.to_string());
            copy_parts(&mut parts, copy, inputs);
            parts
        }
        Op::Workdir(workdir) => workdir_parts(workdir, parent),
        Op::Scratch | Op::Image(_) => unreachable!("only steps have keys"),
    };
    hide(parts, vertex, hiding)
}

/// The parent-independent parts of COPY: `below` is the canonical list of what the parent holds at every path that the step writes.
pub fn second_look(vertex: &Vertex, copy: &CopyOp, inputs: &Inputs, below: ListId, hiding: Option<&HidingKey>) -> KeyParts {
    let mut parts = KeyParts::new("copy onto");
    parts.push_list("below", below);
    copy_parts(&mut parts, copy, inputs);
    hide(parts, vertex, hiding)
}

/// The parts with hashes for those that have a secret in them. Whatever makes parts says them in clear, and nobody else sees those.
fn hide(parts: KeyParts, vertex: &Vertex, hiding: Option<&HidingKey>) -> KeyParts {
    if !vertex.has_secrets() {
        return parts;
    }
    let hiding = hiding.expect("a vertex with secrets comes with a key");
    let mut hidden = KeyParts::new(parts.kind());
    for (name, value) in parts.parts() {
        match value {
            KeyValue::Text(text) if is_secret(vertex, name) => hidden.push_text(format!("secret {name}"), hiding.hide(text)),
            KeyValue::Text(text) => hidden.push_text(name, text),
            KeyValue::List(list) => hidden.push_list(name, *list),
        };
    }
    hidden
}

/// Variables are secret by their names, other parts by theirs.
fn is_secret(vertex: &Vertex, part: &str) -> bool {
    let names = if let Op::Run(run) = &vertex.op { Some(&run.secret_names) } else { None };
    let variable = part.strip_prefix("arg ").or_else(|| part.strip_prefix("env "));
    let is_in = |names: &BTreeSet<String>| variable.is_some_and(|variable| names.contains(variable));
    vertex.secret_parts.contains(part) || names.is_some_and(is_in)
}

fn run_parts(vertex: &Vertex, run: &RunOp, parent: &ChainId, inputs: &Inputs) -> KeyParts {
    let mut parts = KeyParts::new("run");
    parts.push_text("parent", parent.to_string());
    parts.push_text("platform", vertex.platform.to_string());
    parts.push_text("command", lines(&run.argv));
    env_parts(&mut parts, run);
    parts.push_text("user", run.user.clone());
    parts.push_text("workdir", run.workdir.clone());
    let network = match run.network {
        // The default is the host's network, but may come to mean another one: they are different keys.
        NetworkMode::Default => "default",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    };
    parts.push_text("network", network);
    if run.insecure {
        parts.push_text("security", "insecure");
    }
    for device in &run.devices {
        parts.push_text(format!("device {}", device.name), if device.required { "required" } else { "optional" });
    }
    parts.push_text("hostname", run.hostname.clone());
    for (name, address) in &run.add_hosts {
        parts.push_text("add-host", format!("{name}:{address}"));
    }
    for (name, soft, hard) in &run.ulimits {
        parts.push_text("ulimit", format!("{name}={soft}:{hard}"));
    }
    if let Some(bytes) = run.shm_size_bytes {
        parts.push_text("shm-size", bytes.to_string());
    }
    let inputs = inputs.mounts.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    for (at, (mount, input)) in run.mounts.iter().zip(inputs).enumerate() {
        let hidden = Some(secret_mount(at)).filter(|name| vertex.secret_parts.contains(name));
        mount_parts(&mut parts, mount, input, hidden);
    }
    inline_parts(&mut parts, &run.heredoc_files);
    parts
}

/// Variables. One of ENV that is secret is a part by itself, and its name keeps its place in the list.
fn env_parts(parts: &mut KeyParts, run: &RunOp) {
    let secret = |entry: &str| {
        entry.split_once('=').filter(|(name, _)| run.secret_names.contains(*name)).map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let shown = |entry: &String| secret(entry).map_or_else(|| entry.clone(), |(name, _)| name);
    parts.push_text("env", lines(&run.env.iter().map(shown).collect::<Vec<_>>()));
    for (name, value) in run.env.iter().filter_map(|entry| secret(entry)) {
        parts.push_text(format!("env {name}"), value);
    }
    for (name, value) in &run.args {
        parts.push_text(format!("arg {name}"), value.clone());
    }
}

/// What a mount is, and what it begins with. Of secrets and agents their names only. `hidden` is its name where its target must not be told.
fn mount_parts(parts: &mut KeyParts, mount: &RunMount, input: Option<&MountInput>, hidden: Option<String>) {
    let target = mount.target().unwrap_or_default();
    let mut text: BTreeMap<&str, String> = BTreeMap::new();
    if hidden.is_some() {
        text.insert("target", target.to_owned());
    }
    let name = hidden.clone().unwrap_or_else(|| format!("mount {target}"));
    let place = hidden.unwrap_or_else(|| target.to_owned());
    let owned = |text: &mut BTreeMap<&str, String>, owner: &FileOwner| {
        text.insert("mode", format!("{:o}", owner.mode));
        text.insert("owner", format!("{}:{}", owner.uid, owner.gid));
    };
    match mount {
        RunMount::Bind { path, writable, .. } => {
            text.extend([("type", "bind".to_owned()), ("source", path.clone()), ("writable", writable.to_string())]);
        }
        RunMount::Tmpfs { size_bytes, writable, .. } => {
            text.extend([("type", "tmpfs".to_owned()), ("writable", writable.to_string())]);
            text.extend(size_bytes.map(|bytes| ("size", bytes.to_string())));
        }
        RunMount::Cache { id, path, sharing, owner, writable, .. } => {
            let sharing = match sharing {
                MountSharing::Shared => "shared",
                MountSharing::Private => "private",
                MountSharing::Locked => "locked",
            };
            text.extend([("type", "cache".to_owned()), ("id", id.clone()), ("source", path.clone()), ("sharing", sharing.to_owned())]);
            text.insert("writable", writable.to_string());
            if let Some(owner) = owner {
                owned(&mut text, owner);
            }
        }
        RunMount::Secret { id, env, owner, required, .. } => {
            text.extend([("type", "secret".to_owned()), ("id", id.clone())]);
            // Who asks for it now must be told that it is not there.
            text.extend(required.then(|| ("required", "true".to_owned())));
            text.extend(env.clone().map(|env| ("env", env)));
            owned(&mut text, owner);
        }
        RunMount::Ssh { id, owner, required, .. } => {
            text.extend([("type", "ssh".to_owned()), ("id", id.clone())]);
            text.extend(required.then(|| ("required", "true".to_owned())));
            owned(&mut text, owner);
        }
    }
    parts.push_text(name, serde_json::to_string(&text).expect("strings serialise"));
    match input {
        Some(MountInput::Whole(chain)) => {
            parts.push_text(format!("files at {place}"), chain.to_string());
        }
        Some(MountInput::Files(list)) => {
            parts.push_list(format!("files at {place}"), *list);
        }
        None => {}
    }
}

fn copy_parts(parts: &mut KeyParts, copy: &CopyOp, inputs: &Inputs) {
    parts.push_text("destination", copy.destination.clone());
    if let Some(owner) = &copy.chown {
        parts.push_text("chown", owner.clone());
    }
    if let Some(chmod) = &copy.chmod {
        parts.push_text("chmod", chmod.to_string());
    }
    for (flag, is_set) in [("link", copy.link), ("parents", copy.parents)] {
        if is_set {
            parts.push_text(flag, "true");
        }
    }
    if copy.unpack_archives {
        parts.push_text("unpack", "archives");
    }
    if copy.unpacks_fetched() {
        parts.push_text("unpack-fetched", "archives");
    }
    inline_parts(parts, &copy.inline);
    if let Some(files) = inputs.files {
        parts.push_list("files", files);
    }
}

fn inline_parts(parts: &mut KeyParts, files: &[InlineFile]) {
    for file in files {
        parts.push_text(format!("heredoc {}", file.name), file.content.clone());
    }
}

fn workdir_parts(workdir: &WorkdirOp, parent: &ChainId) -> KeyParts {
    let mut parts = KeyParts::new("workdir");
    parts.push_text("parent", parent.to_string());
    parts.push_text("path", workdir.path.clone());
    parts.push_text("user", workdir.user.clone());
    if let Some(secs) = workdir.created_secs {
        parts.push_text("SOURCE_DATE_EPOCH", secs.to_string());
    }
    parts
}

/// A list as JSON: readable in an explanation, and no two lists give one text.
fn lines(words: &[String]) -> String {
    serde_json::to_string(words).expect("strings serialise")
}

/// What an instruction says, whatever it reads and wherever it stands: the words by which a step is found again. A hash, without
/// secrets: it is not made under a key, so who knows the rest could try values.
pub fn words(vertex: &Vertex) -> String {
    let told = |part: &str, text: &str| if vertex.secret_parts.contains(part) { String::new() } else { text.to_owned() };
    let mut words = KeyParts::new("words");
    words.push_text("platform", vertex.platform.to_string());
    match &vertex.op {
        Op::Run(run) => drop(words.push_text("run", lines(&run.argv))),
        Op::Copy(copy) => {
            let from = match &copy.source {
                CopySource::Context(name) => name.as_deref().unwrap_or_default(),
                CopySource::Vertex(_) => "from",
            };
            words
                .push_text(copy.instruction, lines(&copy.sources))
                .push_text("source", from)
                .push_text("destination", told("destination", &copy.destination));
            for remote in &copy.remotes {
                match &remote.what {
                    Remote::File(url) => words.push_text("url", &url.url),
                    Remote::Git(git) => words.push_text("git", &git.remote),
                };
            }
            for file in &copy.inline {
                words.push_text("inline", &file.name);
            }
        }
        Op::Workdir(workdir) => drop(words.push_text("workdir", told("path", &workdir.path))),
        Op::Scratch | Op::Image(_) => {}
    }
    words.key().to_hex()[..32].to_owned()
}
