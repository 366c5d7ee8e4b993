//! The build graph: filesystem steps only, each with what its key and its execution need.
//!
//! A vertex's result is a filesystem (`solve::Snapshot`). Everything here is resolved text: no variables, no Dockerfile.
//! Vertices stand in topological order: a vertex refers only to vertices before it.

use std::collections::{BTreeMap, BTreeSet};

use super::outline::Outline;
use crate::dockerfile::lint::{StageFacts, find_rule};
use crate::dockerfile::word::quote;
use crate::oci::config::{HistoryEntry, ImageConfig};
use crate::oci::platform::Platform;
use crate::plan::git::GitRef;
use crate::span::{SourceFile, Span};
use crate::tree::chmod::Chmod;

/// Index of a vertex in [`Graph::vertices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexId(pub usize);

/// What `plan::lower` makes of a Dockerfile.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every filesystem step of every image.
    pub graph: Graph,
    /// What is to be assembled, one per (target, platform).
    pub images: Vec<PlannedImage>,
    /// Warnings found while lowering.
    pub warnings: Vec<Warning>,
    /// `SOURCE_DATE_EPOCH` as the options, a build argument or a global ARG set it, in seconds.
    pub source_date_epoch: Option<i64>,
    /// The stages that were lowered, by number: what the linter looks into.
    pub stages: BTreeMap<usize, StageFacts>,
    /// What COPY and ADD take from the main context, for the rule that only the context can judge.
    pub taken: Vec<Taken>,
    /// What the target asks of whoever builds it.
    pub outline: Outline,
}

impl Plan {
    /// Warnings of COPY and ADD whose source the context leaves out.
    pub fn copies_of(&self, is_ignored: impl Fn(&str) -> bool) -> Vec<Warning> {
        let ignored = self.taken.iter().filter(|taken| is_ignored(&taken.path));
        ignored
            .map(|taken| {
                let deed = if taken.instruction == "ADD" { "Add" } else { "Copy" };
                let text = format!("Attempting to {deed} file {} that is excluded by .dockerignore", quote(&taken.path));
                Warning { rule: "CopyIgnoredFile", text, span: Some(taken.span) }
            })
            .collect()
    }
}

/// A source of COPY or ADD in the main context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// `COPY` or `ADD`
    pub instruction: &'static str,
    /// After expansion, clean; a slash at the front stays.
    pub path: String,
    /// The instruction.
    pub span: Span,
}

/// A lint warning: rule name and text as BuildKit has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// BuildKit's rule name (`StageNameCasing`), or ours.
    pub rule: &'static str,
    /// The sentence after the rule name.
    pub text: String,
    /// Where.
    pub span: Option<Span>,
}

impl Warning {
    /// Whether it is about a rule of the language; other remarks neither count as findings nor fail a build.
    pub fn is_violation(&self) -> bool {
        find_rule(self.rule).is_some()
    }
}

/// One image to assemble from the graph.
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// Platform of the image.
    pub platform: Platform,
    /// The filesystem: the last vertex of the target stage.
    pub root: VertexId,
    /// Config after every metadata instruction. Rootfs, history and `created` are still those of the base image (empty on scratch):
    /// `image::assemble` adds what the vertices make.
    pub config: ImageConfig,
    /// New history after the base's own, in order.
    pub history: Vec<PlannedHistory>,
}

/// A history entry to be: a metadata instruction, or the layer of a vertex.
#[derive(Clone, Debug)]
pub struct PlannedHistory {
    /// Text and flags without `created`.
    pub entry: HistoryEntry,
    /// The vertex whose layer this entry stands for; `None` = `empty_layer`.
    pub vertex: Option<VertexId>,
}

/// The graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Vertices in topological order.
    pub vertices: Vec<Vertex>,
}

/// The flag that has a step ignore the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedBy {
    /// `--no-cache`
    NoCache,
    /// `--no-cache-filter` with the step's stage.
    NoCacheFilter,
}

/// One filesystem step.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// What it does.
    pub op: Op,
    /// What it reads besides its parent comes from `op`; this is the filesystem it changes.
    pub parent: Option<VertexId>,
    /// Progress name, such as `[build 2/5] RUN make`.
    pub name: String,
    /// Where it was written (base vertices: the FROM).
    pub source: Option<(SourceFile, Span)>,
    /// Name of the stage (its `AS` name, else its number), for `explain`'s notion of the same step.
    pub stage: String,
    /// Ordinal of the filesystem step within its stage.
    pub ordinal: usize,
    /// Parts of its key that have a secret in them, by name: records hold hashes of them. A mount is [`secret_mount`].
    pub secret_parts: BTreeSet<String>,
    /// By which flag the user asked that the cache be ignored for it.
    pub no_cache: Option<PassedBy>,
    /// The platform it is built for.
    pub platform: Platform,
}

impl CopyOp {
    /// Whether a fetched file is unpacked if it is an archive.
    pub fn unpacks_fetched(&self) -> bool {
        self.remotes.iter().any(|remote| matches!(&remote.what, Remote::File(url) if url.unpack))
    }
}

impl Vertex {
    /// Whether its key has parts of which records hold hashes only.
    pub fn has_secrets(&self) -> bool {
        !self.secret_parts.is_empty() || matches!(&self.op, Op::Run(run) if !run.secret_names.is_empty())
    }

    /// Every vertex that must be solved before this one.
    pub fn inputs(&self) -> Vec<VertexId> {
        let read = self.sources().into_iter().filter_map(|source| match source {
            CopySource::Vertex(vertex) => Some(*vertex),
            CopySource::Context(_) => None,
        });
        self.parent.into_iter().chain(read).collect()
    }

    /// What it reads besides the filesystem that it changes.
    fn sources(&self) -> Vec<&CopySource> {
        match &self.op {
            Op::Copy(copy) => vec![&copy.source],
            Op::Run(run) => run.mounts.iter().filter_map(RunMount::source).collect(),
            Op::Scratch | Op::Image(_) | Op::Workdir(_) => Vec::new(),
        }
    }
}

impl Graph {
    /// The named contexts that its steps read.
    pub fn named_contexts(&self) -> BTreeSet<&str> {
        let sources = self.vertices.iter().flat_map(Vertex::sources);
        sources.filter_map(|source| if let CopySource::Context(name) = source { name.as_deref() } else { None }).collect()
    }
}

/// A filesystem step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The empty filesystem.
    Scratch,
    /// A base image, by its place in the resolved list (`BaseImages`).
    Image(BaseId),
    /// `RUN`
    Run(Box<RunOp>),
    /// `COPY` and `ADD` of local files, `COPY --from`
    Copy(Box<CopyOp>),
    /// `WORKDIR`
    Workdir(WorkdirOp),
}

/// Index of a resolved base image in the build's `BaseImages`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseId(pub usize);

/// Network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum NetworkMode {
    /// The builder's default (the host's network namespace).
    #[default]
    Default,
    /// The host's network namespace.
    Host,
    /// Loopback only.
    None,
}

/// `RUN`, ready to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOp {
    /// The process, argv[0] looked up in PATH of `env` inside the root.
    pub argv: Vec<String>,
    /// The image's ENV in order, `KEY=value`, without the names that `args` has: the later of ENV and ARG wins.
    pub env: Vec<String>,
    /// Every ARG in scope with its value, declared ones, sorted by name; part of the key and of the environment.
    pub args: BTreeMap<String, String>,
    /// Names of `env` and `args` whose values look secret: records hold hashes of them.
    pub secret_names: BTreeSet<String>,
    /// Predefined proxy args given but not declared: reach the process, never a key.
    pub proxy_env: BTreeMap<String, String>,
    /// USER as written, empty for root.
    pub user: String,
    /// Absolute working directory.
    pub workdir: String,
    /// Network.
    pub network: NetworkMode,
    /// `--security=insecure`: every capability, no system call filter, nothing of the kernel hidden.
    pub insecure: bool,
    /// `--device`
    pub devices: Vec<DeviceWish>,
    /// `--add-host`, sorted, `name:ip`.
    pub add_hosts: Vec<(String, String)>,
    /// `--shm-size` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// `--ulimit` as (name, soft, hard), sorted.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Hostname in the sandbox.
    pub hostname: String,
    /// `--mount`s, parents before what lies in them.
    pub mounts: Vec<RunMount>,
    /// Scripts of heredocs that become files of mode 0755, under their absolute path: a RUN whose body is a heredoc with a shebang.
    pub heredoc_files: Vec<InlineFile>,
}

/// A device that a step asks for (`RUN --device`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWish {
    /// `vendor/class=name`, `vendor/class`, `vendor/class=*` or a class.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// The part of a mount that has a secret in it, maybe in its target: told by its place among all mounts of the step.
pub fn secret_mount(at: usize) -> String {
    format!("mount {at}")
}

/// `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunMount {
    /// `type=bind`
    Bind {
        /// Where from.
        source: CopySource,
        /// Path in the source.
        path: String,
        /// Absolute path in the step.
        target: String,
        /// `rw`: writes are thrown away.
        writable: bool,
    },
    /// `type=tmpfs`
    Tmpfs {
        /// Absolute path in the step.
        target: String,
        /// `size`
        size_bytes: Option<u64>,
        /// Not `ro`.
        writable: bool,
    },
    /// `type=cache`
    Cache {
        /// Which cache, with its namespace.
        id: String,
        /// What a new cache begins with.
        from: Option<CopySource>,
        /// Path in the cache.
        path: String,
        /// Absolute path in the step.
        target: String,
        /// `sharing`
        sharing: MountSharing,
        /// Mode and owner of a new cache, if given: another owner is another cache.
        owner: Option<FileOwner>,
        /// Not `ro`.
        writable: bool,
    },
    /// `type=secret`
    Secret {
        /// Which.
        id: String,
        /// Absolute path in the step, if it is a file there.
        target: Option<String>,
        /// The variable that has its value, if any.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode and owner of the file.
        owner: FileOwner,
    },
    /// `type=ssh`
    Ssh {
        /// Which agent.
        id: String,
        /// Absolute path of the socket in the step.
        target: String,
        /// Whether the step fails without it.
        required: bool,
        /// Mode and owner of the socket.
        owner: FileOwner,
    },
}

impl RunMount {
    /// Where it is in the step; a secret that is only a variable is nowhere.
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } | Self::Cache { target, .. } | Self::Ssh { target, .. } => Some(target),
            Self::Secret { target, .. } => target.as_deref(),
        }
    }

    /// What files it begins with.
    pub fn source(&self) -> Option<&CopySource> {
        match self {
            Self::Bind { source, .. } => Some(source),
            Self::Cache { from, .. } => from.as_ref(),
            Self::Tmpfs { .. } | Self::Secret { .. } | Self::Ssh { .. } => None,
        }
    }
}

/// How many steps write to a cache at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountSharing {
    /// As many as like.
    #[default]
    Shared,
    /// Each its own: a step that finds it in use gets another one.
    Private,
    /// One; others wait.
    Locked,
}

/// Mode and owner of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOwner {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A file that the Dockerfile itself holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// File name.
    pub name: String,
    /// Content after expansion.
    pub content: String,
}

/// Where COPY takes its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// The main context (`None`) or a named directory context.
    Context(Option<String>),
    /// The result of another vertex (a stage or an image).
    Vertex(VertexId),
}

/// `COPY`, `ADD` of local files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOp {
    /// Where the sources are found.
    pub source: CopySource,
    /// Sources after expansion, cleaned: relative to the source's root (`.` is the root itself), may hold wildcards. With `parents`
    /// they are as written, since `/./` in them means something.
    pub sources: Vec<String>,
    /// Sources that are fetched.
    pub remotes: Vec<RemoteSource>,
    /// Heredoc files to write besides the sources.
    pub inline: Vec<InlineFile>,
    /// Absolute destination. A trailing `/` says that it is a directory.
    pub destination: String,
    /// `--chown` after expansion, as written (`user`, `1:2`, `user:group`).
    pub chown: Option<String>,
    /// `--chmod` after expansion.
    pub chmod: Option<Chmod>,
    /// `ADD`: local tar archives are unpacked.
    pub unpack_archives: bool,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// `--parents`
    pub parents: bool,
    /// `--link`
    pub link: bool,
    /// `COPY` or `ADD`, for texts.
    pub instruction: &'static str,
}

/// A source of ADD that is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSource {
    /// What it is.
    pub what: Remote,
    /// How many of the other sources stand before it.
    pub after: usize,
}

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A file.
    File(UrlSource),
    /// The files of a repository.
    Git(GitRef),
}

/// A file by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlSource {
    /// As written, after expansion.
    pub url: String,
    /// The name under which it lands in a directory.
    pub name: String,
    /// `--checksum`: the sha256 that it must have, as `sha256:…`.
    pub checksum: Option<String>,
    /// `--unpack=true`
    pub unpack: bool,
}

/// `WORKDIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkdirOp {
    /// Absolute path to create.
    pub path: String,
    /// USER as written at that point: owner of what is created (as BuildKit does).
    pub user: String,
    /// SOURCE_DATE_EPOCH in Unix seconds: the time of what is created (as BuildKit does).
    pub created_secs: Option<i64>,
}
