//! A laboratory for scenario tests: the real binary, a store of its own, a busybox base, as root and as an ordinary user.
//!
//! Each scenario runs as every user that this machine can play: as root also as uid 2000 with a subordinate range, whose accounts
//! are bound copies in a private mount namespace, so that the machine stays as it was.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of it")]
#![allow(clippy::print_stderr, reason = "skips are for whoever runs the tests")]

pub mod agent;
pub mod image;
pub mod jenkinsfile;
pub mod processes;
pub mod program;
pub mod random;
pub mod registry;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

pub(crate) use program::copy_program;

/// Uid and gid that scenarios play when they are run by root, and the first of its 65,536 subordinate ids.
const PLAYED: u32 = 2000;
const RANGE: u32 = 200_000;

/// Who runs shale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever runs the tests.
    Caller,
    /// The played ordinary user.
    Played,
}

/// One user with a home, a store and a folder for contexts.
pub struct Lab {
    dir: tempfile::TempDir,
    who: Who,
    binary: PathBuf,
}

/// Runs a scenario as every user that can be played here; names those that cannot.
pub fn as_everybody(scenario: impl Fn(&Lab)) {
    scenario(&Lab::new(Who::Caller));
    if has_other() {
        scenario(&Lab::new(Who::Played));
    }
}

/// The same side by side, for a long scenario that waits for nobody: both are still running when the other tests are over.
pub fn as_everybody_at_once(scenario: impl Fn(&Lab) + Sync) {
    std::thread::scope(|scope| {
        let other = has_other().then(|| scope.spawn(|| scenario(&Lab::new(Who::Played))));
        scenario(&Lab::new(Who::Caller));
        if let Some(Err(panic)) = other.map(std::thread::ScopedJoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whether root can play an ordinary user here; says why not. Who is one already has no other.
pub fn has_other() -> bool {
    if !is_root() {
        return false;
    }
    let works = played_user_works();
    if let Err(why) = &works {
        skip("ordinary user", why);
    }
    works.is_ok()
}

/// What `du` counts below a path, in bytes.
pub fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(path).output().expect("du starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Says by name what was not tested; `.ci/run` collects these lines.
pub fn skip(what: &str, why: &str) {
    eprintln!("SKIP: {what}: {why}");
}

/// Whether a program is on PATH.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn played_user_works() -> Result<(), String> {
    static RESULT: OnceLock<Result<(), String>> = OnceLock::new();
    RESULT
        .get_or_init(|| {
            for tool in ["newuidmap", "setpriv", "unshare"] {
                if !has(tool) {
                    return Err(format!("{tool} is not installed"));
                }
            }
            let lab = Lab::new(Who::Played);
            let out = lab.command_of("unshare", &["-U", "true"]).output().map_err(|e| e.to_string())?;
            if out.status.success() { Ok(()) } else { Err(format!("user namespaces: {}", String::from_utf8_lossy(&out.stderr).trim())) }
        })
        .clone()
}

impl Lab {
    /// A fresh home and an empty store.
    pub fn new(who: Who) -> Self {
        Self::below(&std::env::temp_dir(), who)
    }

    /// The same in memory, where there is enough of it. Each build has the disk written back, and on a journal everybody waits for that:
    /// a test of many builds spends nine tenths of its time there.
    pub fn in_memory(who: Who) -> Self {
        let shm = Path::new("/dev/shm");
        let has_room = |found: &rustix::fs::StatVfs| {
            let is_usable = !found.f_flag.intersects(rustix::fs::StatVfsMountFlags::NOEXEC | rustix::fs::StatVfsMountFlags::RDONLY);
            is_usable && found.f_bavail.saturating_mul(found.f_frsize) > 1 << 30
        };
        let is_good = rustix::fs::statvfs(shm).is_ok_and(|found| has_room(&found));
        if is_good { Self::below(shm, who) } else { Self::new(who) }
    }

    fn below(parent: &Path, who: Who) -> Self {
        let dir = tempfile::Builder::new().prefix("shale-test-").tempdir_in(parent).expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let binary = dir.path().join("shale");
        // cargo's target folder may lie where an ordinary user cannot look.
        let built = Path::new(env!("CARGO_BIN_EXE_shale"));
        fs::hard_link(built, &binary).unwrap_or_else(|_| copy_program(built, &binary));
        for name in ["home", "work", "etc"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        let lab = Self { dir, who, binary };
        if who == Who::Played {
            lab.write_accounts();
            for name in ["home", "work"] {
                chown(lab.path(name), Some(PLAYED), Some(PLAYED)).expect("root may chown");
            }
        }
        lab
    }

    fn write_accounts(&self) {
        let read = |name: &str| fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        let home = self.path("home");
        let lines = [
            ("passwd", format!("shaletest:x:{PLAYED}:{PLAYED}::{}:/bin/sh\n", home.display())),
            ("group", format!("shaletest:x:{PLAYED}:\n")),
            ("subuid", format!("shaletest:{RANGE}:65536\n")),
            ("subgid", format!("shaletest:{RANGE}:65536\n")),
        ];
        for (name, line) in lines {
            fs::write(self.path("etc").join(name), read(name) + &line).expect("write");
        }
    }

    /// Who this is, for messages.
    pub fn who(&self) -> Who {
        self.who
    }

    /// A path in the laboratory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the working folder, where contexts and outputs lie.
    pub fn work(&self, name: &str) -> PathBuf {
        self.path("work").join(name)
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.path("home").join("store")
    }

    /// Writes a file below the working folder, parents included, owned by the user.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work(name);
        let mut missing = Vec::new();
        let mut dir = path.parent();
        while let Some(d) = dir.filter(|d| !d.exists()) {
            missing.push(d.to_owned());
            dir = d.parent();
        }
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("mkdir");
        fs::write(&path, content).expect("write");
        missing.push(path.clone());
        if self.who == Who::Played {
            for made in &missing {
                chown(made, Some(PLAYED), Some(PLAYED)).expect("chown");
            }
        }
        path
    }

    /// Writes a context: (path, content) pairs below `name`.
    pub fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        for (path, content) in files {
            self.write(&format!("{name}/{path}"), content);
        }
        self.work(name)
    }

    /// shale with arguments, ready to be changed and run, in the working folder.
    pub fn shale(&self, args: &[&str]) -> Command {
        let binary = self.binary.to_str().expect("temporary paths are text").to_owned();
        self.command_of(&binary, args)
    }

    /// Any command as this user, with an environment of its own.
    pub fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = match self.who {
            Who::Caller => Command::new(program),
            Who::Played => {
                let script = "e=$1; shift; for f in passwd group subuid subgid; do [ -e /etc/$f ] || : >/etc/$f; \
                    mount --bind \"$e/$f\" /etc/$f; done; exec setpriv --reuid 2000 --regid 2000 --clear-groups \"$@\"";
                let mut command = Command::new("unshare");
                command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]).arg(self.path("etc")).arg(program);
                command
            }
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("SHALE_ROOT", self.store())
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        command
    }

    /// Runs shale and gives what it said.
    pub fn run(&self, args: &[&str]) -> Said {
        Said::of(self.shale(args).output().expect("shale starts"))
    }

    /// Builds the context `name` with plain progress into an OCI archive and reads it.
    pub fn build(&self, name: &str, args: &[&str]) -> Built {
        let archive = self.work(&format!("{name}.oci.tar"));
        let output = format!("type=oci,dest={}", archive.display());
        let mut all = vec!["build", "--progress", "plain", "-o", &output];
        all.extend(args);
        all.push(name);
        let said = self.run(&all);
        assert!(said.ok(), "{:?}: build of {name} failed:\n{}", self.who, said.stderr);
        Built { image: image::Image::read(&archive), said, archive }
    }

    /// Loads a busybox base under `busybox:latest`, made by shale itself from the machine's static busybox.
    pub fn load_busybox(&self) {
        self.write("busybox/rootfs.tar", busybox_rootfs());
        self.write("busybox/Dockerfile", "FROM scratch\nADD rootfs.tar /\nCMD [\"/bin/sh\"]\n");
        // The base's own times are part of every image upon it.
        let mut build = self.shale(&["build", "-q", "-t", "busybox", "busybox"]);
        let said = Said::of(build.env("SOURCE_DATE_EPOCH", "1700000000").output().expect("shale starts"));
        assert!(said.ok(), "{:?}: no busybox base:\n{}", self.who, said.stderr);
    }
}

/// What a run said.
#[derive(Debug)]
pub struct Said {
    /// Exit code, 128 + signal where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// From a finished process.
    pub fn of(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        Self {
            code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it ended with 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// The steps that ran (not cached), by their display names, from plain progress.
    pub fn executed(&self) -> Vec<String> {
        self.steps().into_iter().filter(|(_, cached)| !cached).map(|(name, _)| name).collect()
    }

    /// The steps that were found in the cache.
    pub fn cached(&self) -> Vec<String> {
        self.steps().into_iter().filter(|(_, cached)| *cached).map(|(name, _)| name).collect()
    }

    /// Every step of the Dockerfile in plain progress with whether it was cached; FROM lines left out.
    fn steps(&self) -> Vec<(String, bool)> {
        let mut names: Vec<(String, String)> = Vec::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else { continue };
            let step = rest.starts_with('[') && !rest.starts_with("[internal]") && !rest.contains("] FROM ");
            if step && !names.iter().any(|(n, _)| n == number) {
                names.push((number.to_owned(), rest.to_owned()));
            }
        }
        names.into_iter().map(|(n, name)| (name, self.stderr.lines().any(|l| l == format!("#{n} CACHED")))).collect()
    }
}

/// A build that ended well.
#[derive(Debug)]
pub struct Built {
    /// The image it wrote.
    pub image: image::Image,
    /// What it said.
    pub said: Said,
    /// The archive.
    pub archive: PathBuf,
}

/// A root file system of the static busybox with an applet link for each command, as a tar.
pub fn busybox_rootfs() -> Vec<u8> {
    use tar::EntryType::{Directory, Regular, Symlink};
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.expect("busybox-static is installed (apt-get install busybox-static)");
    let applets = Command::new(busybox).arg("--list").output().expect("busybox runs").stdout;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, data: &[u8], link: &str| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        if !link.is_empty() {
            header.set_link_name(link).expect("short");
        }
        tar.append_data(&mut header, path, data).expect("memory");
    };
    for dir in ["bin/", "etc/", "root/", "tmp/", "home/"] {
        add(dir, Directory, if dir == "tmp/" { 0o1777 } else { 0o755 }, b"", "");
    }
    add("bin/busybox", Regular, 0o755, &fs::read(busybox).expect("readable"), "");
    for applet in String::from_utf8_lossy(&applets).lines().filter(|a| *a != "busybox") {
        add(&format!("bin/{applet}"), Symlink, 0o777, b"", "busybox");
    }
    add(
        "etc/passwd",
        Regular,
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\napp:x:1000:1000::/home/app:/bin/sh\n",
        "",
    );
    add("etc/group", Regular, 0o644, b"root:x:0:\ndaemon:x:1:\napp:x:1000:\nstaff:x:50:app\n", "");
    tar.into_inner().expect("memory")
}
