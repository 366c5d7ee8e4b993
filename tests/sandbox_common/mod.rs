//! A store, a worker and a root with busybox.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use shale::plan::graph::NetworkMode;
use shale::sandbox::{Cancel, SandboxError};
use shale::solve::event::Stream;
use shale::worker::{Exit, LowerLayer, RunDone, RunRequest, Worker, WorkerConfig};

/// Set in the copy of the tests that runs as an ordinary user: the program to start as worker.
pub(crate) const WORKER: &str = "SHALE_TEST_WORKER";

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) worker: Worker,
    next: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) done: RunDone,
}

impl Bench {
    /// `None`, with a line that says why, where this machine cannot run steps.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base/fs");
        fs::create_dir_all(&base).unwrap();
        fill(&base);
        match Worker::start(&config(dir.path())) {
            Ok(worker) => Some(Self { dir, worker, next: AtomicUsize::new(0) }),
            Err(SandboxError::Refused(refusal)) => {
                println!("SKIPPED sandbox: {refusal}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base/fs")
    }

    /// A request for `argv` on the base.
    pub(crate) fn request(&self, argv: &[&str]) -> RunRequest {
        let tmp = self.dir.path().join(format!("tmp-{}", self.next.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir(&tmp).unwrap();
        RunRequest {
            lowers: vec![LowerLayer { fs: self.base(), index: self.dir.path().join("base/index") }],
            tmp,
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            env: ["PATH=/usr/local/bin:/bin", "HOME=/root"].map(str::to_owned).to_vec(),
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            groups: vec![0],
            network: NetworkMode::Default,
            hostname: "buildkitsandbox".to_owned(),
            hosts: "127.0.0.1\tlocalhost\n".to_owned(),
            resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
            add_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            files: Vec::new(),
        }
    }

    pub(crate) fn sh_request(&self, script: &str) -> RunRequest {
        self.request(&["/bin/sh", "-c", script])
    }

    pub(crate) fn try_run(&self, request: RunRequest, cancel: &Cancel) -> Result<Ran, SandboxError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let done = self.worker.run(
            request,
            &mut |stream, bytes| match stream {
                Stream::Stdout => stdout.extend(bytes),
                Stream::Stderr => stderr.extend(bytes),
            },
            cancel,
        )?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { exit: done.exit, stdout: text(stdout), stderr: text(stderr), done })
    }

    pub(crate) fn run(&self, request: RunRequest) -> Ran {
        self.try_run(request, &Cancel::new().unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn sh(&self, script: &str) -> Ran {
        self.run(self.sh_request(script))
    }

    /// stdout of a script that must succeed.
    pub(crate) fn out(&self, script: &str) -> String {
        let ran = self.sh(script);
        assert_eq!(ran.exit, Exit::Code(0), "{script}: {ran:?}");
        ran.stdout
    }
}

pub(crate) fn config(store: &Path) -> WorkerConfig {
    let program = std::env::var_os(WORKER).map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_shale")), PathBuf::from);
    WorkerConfig { store_root: store.to_owned(), program: Some(program) }
}

/// A small root: busybox with its links, accounts.
fn fill(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "proc", "dir/sub", "home"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static is installed");
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nann:x:1000:\ntty:x:5:\n").unwrap();
    fs::write(root.join("dir/file"), "below\n").unwrap();
    fs::write(root.join("dir/sub/deep"), "deep\n").unwrap();
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o170_000, 0o040_000);
}
