//! A store, a worker and a root with busybox.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "named skips; a test ends by a panic")]

#[path = "../support/program.rs"]
mod program_file;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use program_file::copy_program;
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
        match start(dir.path()) {
            Ok(worker) => {
                let bench = Self { dir, worker, next: AtomicUsize::new(0) };
                bench.unpack_base();
                Some(bench)
            }
            Err(SandboxError::Refused(refusal)) => {
                eprintln!("SKIP: sandbox: {refusal}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base/fs")
    }

    fn unpack_base(&self) {
        let at = |name: &str| self.dir.path().join(name);
        fs::create_dir(at("filled")).unwrap();
        fill(&at("filled"));
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "-cf"]).arg(at("base.tar"));
        assert!(tar.arg("-C").arg(at("filled")).arg(".").status().unwrap().success());
        fs::create_dir_all(self.base()).unwrap();
        let unpacked = self.worker.unpack(&fs::File::open(at("base.tar")).unwrap(), &self.base()).unwrap();
        fs::write(at("base/index"), unpacked.index.as_bytes()).unwrap();
    }

    /// A request for `argv` on the base.
    pub(crate) fn request(&self, argv: &[&str]) -> RunRequest {
        let tmp = self.dir.path().join(format!("tmp-{}", self.next.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir(&tmp).unwrap();
        RunRequest {
            indexes: None,
            lowers: vec![LowerLayer { fs: self.base(), index: self.dir.path().join("base/index"), part: None }],
            upper: tmp.join("upper"),
            tmp,
            stubs: self.dir.path().to_owned(),
            wants_diff_id: false,
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            env: ["PATH=/usr/local/bin:/bin", "HOME=/root"].map(str::to_owned).to_vec(),
            cwd: "/".to_owned(),
            uid: 0,
            gid: 0,
            groups: vec![0],
            insecure: false,
            network: NetworkMode::Default,
            hostname: "buildkitsandbox".to_owned(),
            hosts: "127.0.0.1\tlocalhost\n".to_owned(),
            resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
            add_hosts: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            files: Vec::new(),
            mounts: Vec::new(),
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

pub(crate) fn program() -> PathBuf {
    std::env::var_os(WORKER).map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_shale")), PathBuf::from)
}

pub(crate) fn start(store: &Path) -> Result<Worker, SandboxError> {
    Worker::start_program(&program(), &WorkerConfig { store_root: store.to_owned(), privileged: false })
}

/// A small root: busybox with its links, accounts.
fn fill(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "proc", "dir/sub", "home"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    copy_program("/bin/busybox".as_ref(), &root.join("bin/busybox"));
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

/// Where a copy of a test program runs: who it is, and what its machine looks like.
#[derive(Clone, Copy)]
pub(crate) struct Guise<'a> {
    /// Shell lines before; `$1` is the copy's directory, `fail` ends it as not possible here.
    pub(crate) before: &'a str,
    /// The program that changes what it is, and its arguments.
    pub(crate) become_it: &'a str,
    /// Lines of `/etc/subuid` and `/etc/subgid`.
    pub(crate) ranges: &'a str,
    /// More of the environment, and arguments of the tests.
    pub(crate) env: &'a str,
    pub(crate) args: &'a str,
}

/// An ordinary user with subordinate ids.
pub(crate) const ORDINARY: Guise<'static> = Guise {
    before: "",
    become_it: "setpriv --reuid 2000 --regid 2000 --clear-groups",
    ranges: "rig:200000:65536\n",
    env: "",
    args: "--skip as_",
};

/// Runs every test of this program once more as an ordinary user.
pub(crate) fn again_as_an_ordinary_user() {
    again("as_an_ordinary_user", ORDINARY);
}

/// Runs this program's tests once more in another guise, in a copy that everybody may read and start. Only root can change.
pub(crate) fn again(name: &str, guise: Guise<'_>) {
    if !rustix::process::geteuid().is_root() || std::env::var_os(WORKER).is_some() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at("tmp")).unwrap();
    fs::set_permissions(at("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    copy_program(&std::env::current_exe().unwrap(), &at("tests"));
    copy_program(&program(), &at("shale"));
    for name in ["passwd", "group", "subuid", "subgid"] {
        let line = if name.starts_with("sub") { guise.ranges } else { "rig:x:2000:2000::/:/bin/sh\n" };
        let old = fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
        fs::write(at(name), format!("{old}{line}")).unwrap();
    }
    let Guise { before, become_it, env, args, .. } = guise;
    let script = format!(
        "fail() {{ exit 77; }}
        for f in passwd group subuid subgid; do [ -e /etc/$f ] || fail; mount --bind $1/$f /etc/$f || fail; done
        {before}
        exec {become_it} env -i PATH=\"$PATH\" TMPDIR=$1/tmp {WORKER}=$1/shale {env} $1/tests --test-threads 2 {args}"
    );
    let status =
        Command::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(home.path()).status().unwrap();
    if status.code() == Some(77) {
        eprintln!("SKIP: sandbox: {name}: this machine does not let a test prepare it");
        return;
    }
    assert!(status.success(), "{name}: the tests fail");
}
