//! What a step's result depends on, as named parts. The hash of the parts is the cache key, so an explanation of a miss and the
//! key can never disagree.
//!
//! | op | parts |
//! |---|---|
//! | all | format version and op kind (in the hash's frame), `parent` |
//! | RUN | `platform`, `command`, `env` (image ENV in order), one `arg NAME` per ARG in scope, `secret arg NAME` and `secret env NAME` with a hash where a name looks secret, `user`, `workdir`, `network`, `security`, one `device NAME` per wish, `hostname`, `add-host`, `ulimit`, `shm-size`, per mount `mount TARGET` and `files at TARGET`, `heredoc NAME` |
//! | COPY, ADD | `destination`, `chown`, `chmod`, `unpack`, `heredoc NAME` or `secret heredoc NAME`, `files` (the selection's list: never an mtime) |
//! | WORKDIR | `path`, `user` |
//!
//! The second look of COPY and ADD replaces `parent` by `below`: what the parent holds where the step writes.
//! ADD that unpacks archives keeps `parent`: what it writes is known only after reading the archive.

use std::collections::BTreeMap;
use std::fmt;

use shale_cache::{ChainId, KeyParts, ListId};

use crate::plan::graph::{
    CopyOp, CopySource, FileOwner, InlineFile, MountSharing, NetworkMode, Op, Remote, RunMount, RunOp, Vertex, WorkdirOp,
};

/// What a step reads that its text does not say: digests of long parts, put in the store by the caller.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// COPY and ADD: the selection.
    pub files: Option<ListId>,
    /// RUN: what each mount reads.
    pub mounts: Vec<Option<MountInput>>,
    /// What stands for what looks secret. RUN: values of variables, by name. COPY and ADD: files of the Dockerfile, by content.
    pub hidden: BTreeMap<String, String>,
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

/// The parts of the first look: text and ids only.
///
/// # Panics
/// For vertices that are no steps (`Scratch`, `Image`): they have no key.
pub fn first_look(vertex: &Vertex, parent: &ChainId, inputs: &Inputs) -> KeyParts {
    match &vertex.op {
        Op::Run(run) => run_parts(vertex, run, parent, inputs),
        Op::Copy(copy) => {
            let mut parts = KeyParts::new("copy");
            parts.push_text("parent", parent.to_string());
            copy_parts(&mut parts, copy, inputs);
            parts
        }
        Op::Workdir(workdir) => workdir_parts(workdir, parent),
        Op::Scratch | Op::Image(_) => unreachable!("only steps have keys"),
    }
}

/// The parent-independent parts of COPY: `below` is the canonical list of what the parent holds at every path that the step writes.
pub fn second_look(copy: &CopyOp, inputs: &Inputs, below: ListId) -> KeyParts {
    let mut parts = KeyParts::new("copy onto");
    parts.push_list("below", below);
    copy_parts(&mut parts, copy, inputs);
    parts
}

fn run_parts(vertex: &Vertex, run: &RunOp, parent: &ChainId, inputs: &Inputs) -> KeyParts {
    let mut parts = KeyParts::new("run");
    parts.push_text("parent", parent.to_string());
    parts.push_text("platform", vertex.platform.to_string());
    parts.push_text("command", lines(&run.argv));
    env_parts(&mut parts, run, &inputs.hidden);
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
    for (mount, input) in run.mounts.iter().zip(inputs) {
        mount_parts(&mut parts, mount, input);
    }
    inline_parts(&mut parts, &run.heredoc_files, &BTreeMap::new());
    parts
}

/// Variables. A value that looks secret is not in the parts: of ENV its name keeps its place in the list.
fn env_parts(parts: &mut KeyParts, run: &RunOp, hidden: &BTreeMap<String, String>) {
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let shown = |entry: &String| {
        let name = name_of(entry);
        if hidden.contains_key(&name) { name } else { entry.clone() }
    };
    parts.push_text("env", lines(&run.env.iter().map(shown).collect::<Vec<_>>()));
    for name in run.env.iter().map(|entry| name_of(entry)) {
        if let Some(hash) = hidden.get(&name) {
            parts.push_text(format!("secret env {name}"), hash.clone());
        }
    }
    for (name, value) in &run.args {
        match hidden.get(name) {
            Some(hash) => parts.push_text(format!("secret arg {name}"), hash.clone()),
            None => parts.push_text(format!("arg {name}"), value.clone()),
        };
    }
}

/// What a mount is, and what it begins with. Of secrets and agents their names only.
fn mount_parts(parts: &mut KeyParts, mount: &RunMount, input: Option<&MountInput>) {
    let target = mount.target().unwrap_or_default();
    let mut text: BTreeMap<&str, String> = BTreeMap::new();
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
        RunMount::Secret { id, env, owner, .. } => {
            text.extend([("type", "secret".to_owned()), ("id", id.clone())]);
            text.extend(env.clone().map(|env| ("env", env)));
            owned(&mut text, owner);
        }
        RunMount::Ssh { id, owner, .. } => {
            text.extend([("type", "ssh".to_owned()), ("id", id.clone())]);
            owned(&mut text, owner);
        }
    }
    parts.push_text(format!("mount {target}"), serde_json::to_string(&text).expect("strings serialise"));
    match input {
        Some(MountInput::Whole(chain)) => {
            parts.push_text(format!("files at {target}"), chain.to_string());
        }
        Some(MountInput::Files(list)) => {
            parts.push_list(format!("files at {target}"), *list);
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
    inline_parts(parts, &copy.inline, &inputs.hidden);
    if let Some(files) = inputs.files {
        parts.push_list("files", files);
    }
}

fn inline_parts(parts: &mut KeyParts, files: &[InlineFile], hidden: &BTreeMap<String, String>) {
    for file in files {
        match hidden.get(&file.content) {
            Some(hash) => parts.push_text(format!("secret heredoc {}", file.name), hash.clone()),
            None => parts.push_text(format!("heredoc {}", file.name), file.content.clone()),
        };
    }
}

fn workdir_parts(workdir: &WorkdirOp, parent: &ChainId) -> KeyParts {
    let mut parts = KeyParts::new("workdir");
    parts.push_text("parent", parent.to_string());
    parts.push_text("path", workdir.path.clone());
    parts.push_text("user", workdir.user.clone());
    parts
}

/// A list as JSON: readable in an explanation, and no two lists give one text.
fn lines(words: &[String]) -> String {
    serde_json::to_string(words).expect("strings serialise")
}

/// What an instruction says, whatever it reads and wherever it stands: the words by which a step is found again. A hash.
pub fn words(vertex: &Vertex) -> String {
    let mut words = KeyParts::new("words");
    words.push_text("platform", vertex.platform.to_string());
    match &vertex.op {
        Op::Run(run) => drop(words.push_text("run", lines(&run.argv))),
        Op::Copy(copy) => {
            let from = match &copy.source {
                CopySource::Context(name) => name.as_deref().unwrap_or_default(),
                CopySource::Vertex(_) => "from",
            };
            words.push_text(copy.instruction, lines(&copy.sources)).push_text("source", from).push_text("destination", &copy.destination);
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
        Op::Workdir(workdir) => drop(words.push_text("workdir", &workdir.path)),
        Op::Scratch | Op::Image(_) => {}
    }
    words.key().to_hex()[..32].to_owned()
}
