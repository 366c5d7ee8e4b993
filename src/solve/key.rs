//! What a step's result depends on, as named parts. The hash of the parts is the cache key, so an explanation of a miss and the
//! key can never disagree.
//!
//! | op | parts |
//! |---|---|
//! | all | format version and op kind (in the hash's frame), `parent` |
//! | RUN | `platform`, `command`, `env` (image ENV in order), one `arg NAME` per ARG in scope, `user`, `workdir`, `network`, `security`, one `device NAME` per wish, `hostname`, `add-host`, `ulimit`, `shm-size`, per mount `mount TARGET` and `files at TARGET`, `heredoc NAME` |
//! | COPY, ADD | `destination`, `chown`, `chmod`, `unpack`, `files` (the selection's list: never an mtime) |
//! | WORKDIR | `path`, `user` |
//!
//! The second look of COPY and ADD replaces `parent` by `below`: what the parent holds where the step writes.
//! ADD that unpacks archives keeps `parent`: what it writes is known only after reading the archive.

use std::fmt;

use shale_cache::{ChainId, KeyParts, ListId};

use crate::plan::graph::{CopyOp, FileOwner, InlineFile, NetworkMode, Op, RunMount, RunOp, Vertex, WorkdirOp};

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
    parts.push_text("env", lines(&run.env));
    for (name, value) in &run.args {
        parts.push_text(format!("arg {name}"), value.clone());
    }
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
    inline_parts(&mut parts, &run.heredoc_files);
    parts
}

/// What a mount is, and what it begins with. Of secrets and agents their names only.
fn mount_parts(parts: &mut KeyParts, mount: &RunMount, input: Option<&MountInput>) {
    let target = mount.target().unwrap_or_default();
    let owned = |owner: &FileOwner| format!("{:o} {}:{}", owner.mode, owner.uid, owner.gid);
    let text = match mount {
        RunMount::Bind { path, writable, .. } => format!("bind {path:?} writable={writable}"),
        RunMount::Tmpfs { size_bytes, writable: true, .. } => format!("tmpfs {size_bytes:?}"),
        RunMount::Tmpfs { size_bytes, writable: false, .. } => format!("tmpfs {size_bytes:?} writable=false"),
        RunMount::Cache { id, path, sharing, owner, writable, .. } => {
            let owner = owner.as_ref().map(owned);
            format!("cache {id:?} {path:?} {sharing:?} {owner:?} writable={writable}")
        }
        RunMount::Secret { id, env, owner, .. } => format!("secret {id:?} {env:?} {}", owned(owner)),
        RunMount::Ssh { id, owner, .. } => format!("ssh {id:?} {}", owned(owner)),
    };
    parts.push_text(format!("mount {target}"), text);
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
    parts
}

/// A list as JSON: readable in an explanation, and no two lists give one text.
fn lines(words: &[String]) -> String {
    serde_json::to_string(words).expect("strings serialise")
}
