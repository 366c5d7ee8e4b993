//! What a step is to be, in the form that goes to the worker.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::plan::graph::NetworkMode;

/// One layer below a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LowerLayer {
    /// Its unpacked form in the store.
    pub fs: PathBuf,
    /// Its index.
    pub index: PathBuf,
    /// Where the same bytes lie in [`RunRequest::indexes`], if they are few: offset and length.
    #[serde(default)]
    pub part: Option<(u64, u64)>,
}

/// A resource limit by its name in the Dockerfile (`nofile`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, in lower case.
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// A command to run on top of layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// The layers below, bottom first.
    pub lowers: Vec<LowerLayer>,
    /// All small indexes of a build, one behind the other: a step maps this file and not a hundred. Goes beside the request.
    #[serde(skip)]
    pub indexes: Option<Arc<File>>,
    /// A fresh directory on the store's file system, for the worker's use. `work` may be there, empty and of mode 0755.
    pub tmp: PathBuf,
    /// Where the changes go, on the same file system: made unless it is there, empty and of mode 0755.
    pub upper: PathBuf,
    /// A directory on the same file system that outlives the step: what all steps of a build have mounted upon is made there once.
    pub stubs: PathBuf,
    /// Whether the digest of the layer's tar is wanted, if it takes no time to speak of.
    pub wants_diff_id: bool,
    /// The command; the first word is looked up in the PATH of `env` inside the root.
    pub argv: Vec<String>,
    /// The whole environment, `KEY=value`.
    pub env: Vec<String>,
    /// Absolute working directory inside the root. Made, as the user, if it does not exist.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, all of them.
    pub groups: Vec<u32>,
    /// Network.
    pub network: NetworkMode,
    /// Every capability, no system call filter, nothing of the kernel hidden or write-protected.
    pub insecure: bool,
    /// Host name.
    pub hostname: String,
    /// Content of `/etc/hosts`; `add_hosts` are appended.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `--add-host`: (name, address).
    pub add_hosts: Vec<(String, String)>,
    /// Size of `/dev/shm`; 64 MiB if not given.
    pub shm_size_bytes: Option<u64>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Files bound read-only into the root: absolute path, content, mode.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// `RUN --mount`s, parents before what lies in them.
    pub mounts: Vec<StepMount>,
}

impl RunRequest {
    /// Whether some layer's index lies in [`Self::indexes`].
    pub fn needs_indexes(&self) -> bool {
        self.lowers.iter().any(|lower| lower.part.is_some())
    }
}

/// A mount that the step asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepMount {
    /// Absolute path inside the root.
    pub target: String,
    /// Whether it is a file, not a directory.
    pub is_file: bool,
    /// Whether the step may write to it.
    pub writable: bool,
    /// What is mounted.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Clone, Serialize, Deserialize)]
pub enum MountSource {
    /// A path in layers. What the step writes there is thrown away.
    Layers {
        /// Unpacked layers, bottom first.
        lowers: Vec<PathBuf>,
        /// Absolute path with these layers as the root.
        path: String,
    },
    /// A directory of the store that outlives the step.
    Directory {
        /// The directory; made if it is not there.
        directory: PathBuf,
        /// Absolute path with this directory as the root.
        path: String,
        /// Mode and owner of a directory that is made.
        owner: MountOwner,
        /// Whether one that is there gets them too: it was filled just now.
        owned_anew: bool,
    },
    /// Memory.
    Tmpfs {
        /// Its limit.
        size_bytes: Option<u64>,
    },
    /// A file in memory.
    Secret {
        /// Its content.
        content: Vec<u8>,
        /// Its mode and owner.
        owner: MountOwner,
    },
    /// A file, directory or device of the machine.
    Machine {
        /// Where it is.
        path: PathBuf,
        /// Whether devices in it can be used.
        devices: bool,
        /// Whether programs in it can be run.
        programs: bool,
    },
    /// A socket that somebody listens on.
    Socket {
        /// Where it is, in the directory of the request.
        path: PathBuf,
        /// Its mode and owner.
        owner: MountOwner,
    },
}

impl std::fmt::Debug for MountSource {
    /// A secret's content is not for logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layers { lowers, path } => write!(f, "Layers({lowers:?}, {path:?})"),
            Self::Directory { directory, path, .. } => write!(f, "Directory({directory:?}, {path:?})"),
            Self::Tmpfs { size_bytes } => write!(f, "Tmpfs({size_bytes:?})"),
            Self::Secret { .. } => f.write_str("Secret(…)"),
            Self::Machine { path, .. } => write!(f, "Machine({path:?})"),
            Self::Socket { path, .. } => write!(f, "Socket({path:?})"),
        }
    }
}

/// Permission bits and ids inside the step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MountOwner {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Because the build was cancelled.
    Cancelled,
}
