//! One commit, fetched and laid out as files.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

use super::program::Git;
use super::{Checkout, GitError, Resolved};
use crate::plan::git::{GitRef, redacted};
use crate::tree::walk::{self, WalkError, Walked, open_dir};

/// The name under which a commit waits in a repository that was fetched whole.
const WANTED: &str = "refs/shale/wanted";

/// What makes a repository the same on every machine with this git. Read anew, the index knows neither times nor inodes of the files, and
/// git compares their contents once more. One thread packs, as the servers' packs depend on their threads and on what they had packed
/// before.
const LEVEL_GIT_DIR: [&[&str]; 2] = [&["read-tree", "HEAD"], &["-c", "pack.threads=1", "repack", "-a", "-d", "-F", "-q", "-n"]];

/// What is to be fetched into a fresh directory: its result lies in `out` there.
pub(super) struct Job<'a> {
    pub(super) git: &'a Git<'a>,
    pub(super) wanted: &'a GitRef,
    pub(super) resolved: &'a Resolved,
    pub(super) tmp: &'a Path,
    pub(super) keeps_git_dir: bool,
}

impl Job<'_> {
    /// Gives the time of the commit.
    pub(super) fn run(&self) -> Result<i64, GitError> {
        let tree = self.tmp.join("tree");
        self.init("tree", &[])?;
        self.fetch(&tree)?;
        let shown = self.wanted.shown();
        let deed = format!("failed to checkout remote {shown}");
        let commit = format!("{}^{{commit}}", self.resolved.hash);
        self.git.run(&tree, &deed, &["checkout", "--quiet", "--detach", "--force", &commit])?;
        let said = self.git.run(&tree, &format!("failed to get commit time for {shown}"), &["log", "-1", "--format=%ct", &commit])?;
        let committed_secs = said.trim().parse().unwrap_or_default();
        if !self.wanted.skip_submodules && tree.join(".gitmodules").exists() {
            self.submodules(&tree)?;
        }
        let out = self.tmp.join("out");
        let taken = if self.keeps_git_dir { self.kept(tree)? } else { self.subdir(&tree)? };
        fs::rename(&taken, &out).map_err(GitError::io("take", &taken))?;
        Ok(committed_secs)
    }

    /// A fresh repository that knows its remote. Nothing of this machine's templates gets into it.
    fn init(&self, name: &str, more: &[&str]) -> Result<(), GitError> {
        let format = if self.resolved.hash.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        let arguments = [&["-c", "init.defaultBranch=master", "init", "--quiet", "--template=", format], more, &[name]].concat();
        self.git.run(self.tmp, "failed to init repo", &arguments)?;
        let config = self.tmp.join(name).join(if more.is_empty() { ".git/config" } else { "config" });
        let url = self.wanted.remote.replace('\\', r"\\").replace('"', "\\\"");
        let text = format!("[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n");
        let append = || fs::File::options().append(true).open(&config)?.write_all(text.as_bytes());
        append().map_err(GitError::io("write", &config))
    }

    /// The commit alone, as long as the server can give it without its history.
    fn fetch(&self, tree: &Path) -> Result<(), GitError> {
        let Resolved { hash, name } = self.resolved;
        let by_name = if self.wanted.fetch_by_commit { None } else { name.as_deref() };
        if let Some(name) = by_name {
            match self.fetch_shallow(tree, &format!("+{name}:{name}"))? {
                Ok(()) if self.has_fetched(tree)? => return Ok(()),
                // The name points elsewhere by now: the commit itself may still be had, beside nothing of what came.
                Ok(()) => {
                    fs::remove_dir_all(tree).map_err(GitError::io("remove", tree))?;
                    self.init("tree", &[])?;
                }
                Err(said) if is_about_history(&said) => return self.fetch_whole(tree, &format!("+{name}:{WANTED}")),
                Err(said) => return Err(self.failed(said)),
            }
        }
        let spec = name.as_ref().map_or_else(|| hash.clone(), |name| format!("+{hash}:{name}"));
        match self.fetch_shallow(tree, &spec)? {
            Ok(()) => Ok(()),
            Err(said) if is_about_history(&said) => self.fetch_whole(tree, "+refs/heads/*:refs/remotes/origin/*"),
            Err(said) => Err(self.failed(said)),
        }
    }

    fn fetch_shallow(&self, tree: &Path, spec: &str) -> Result<Result<(), String>, GitError> {
        let said = self.git.try_run(tree, &["fetch", "--quiet", "-u", "--depth=1", "--no-tags", "--", "origin", spec])?;
        Ok(said.map(drop))
    }

    fn has_fetched(&self, tree: &Path) -> Result<bool, GitError> {
        let said = self.git.run(tree, "failed to rev-parse FETCH_HEAD", &["rev-parse", "FETCH_HEAD"])?;
        Ok(said.trim() == self.resolved.hash)
    }

    /// For servers that give no part of a history, or no commit that has no name: everything goes into a repository beside, and the
    /// commit comes from there.
    fn fetch_whole(&self, tree: &Path, spec: &str) -> Result<(), GitError> {
        let whole = self.tmp.join("whole");
        self.init("whole", &["--bare"])?;
        let deed = format!("failed to fetch remote {}", self.wanted.shown());
        self.git.run(&whole, &deed, &["fetch", "--quiet", "--tags", "--", "origin", spec])?;
        let Resolved { hash, name } = self.resolved;
        if self.git.try_run(&whole, &["update-ref", WANTED, hash])?.is_err() {
            let reference = self.wanted.reference.clone().unwrap_or_default();
            return Err(GitError::Moved { reference, commit: hash.clone() });
        }
        let spec = name.as_ref().map_or_else(|| WANTED.into(), |name| format!("+{WANTED}:{name}"));
        let from = format!("file://{}", whole.display());
        self.git.run(tree, &deed, &["fetch", "--quiet", "-u", "--depth=1", "--no-tags", "--", &from, &spec])?;
        Ok(())
    }

    fn failed(&self, said: String) -> GitError {
        GitError::Command { deed: format!("failed to fetch remote {}", self.wanted.shown()), said }
    }

    fn submodules(&self, tree: &Path) -> Result<(), GitError> {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        let deed = format!("failed to update submodules for {}", self.wanted.shown());
        match self.git.try_run(tree, &[&update[..], &["--depth=1"]].concat())? {
            Ok(_) => Ok(()),
            Err(said) if is_about_history(&said) => self.git.run(tree, &deed, &update).map(drop),
            Err(said) => Err(GitError::Command { deed, said }),
        }
    }

    /// The files with their repository, which has the same bytes wherever and whenever it was fetched.
    fn kept(&self, tree: PathBuf) -> Result<PathBuf, GitError> {
        let deed = format!("failed to checkout remote {}", self.wanted.shown());
        let run = |arguments: &[&str]| self.git.run(&tree, &deed, arguments).map(drop);
        LEVEL_GIT_DIR.iter().try_for_each(|arguments| run(arguments))?;
        if !self.wanted.skip_submodules && tree.join(".gitmodules").exists() {
            let each = LEVEL_GIT_DIR.map(|arguments| format!("git {}", arguments.join(" "))).join(" && ");
            run(&["submodule", "--quiet", "foreach", "--recursive", "--quiet", &each])?;
        }
        self.clean_git_dir(&tree.join(".git"))?;
        Ok(tree)
    }

    /// What is left of the way it came: the remote's password, the log, what was fetched last.
    pub(super) fn clean_git_dir(&self, git_dir: &Path) -> Result<(), GitError> {
        let shown = redacted(&self.wanted.remote);
        let (begin, shown_begin) = (before_path(&self.wanted.remote), before_path(&shown));
        let failed = |deed, path: &Path| GitError::io(deed, path.to_owned());
        let mut todo = vec![git_dir.to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
                let entry = entry.map_err(failed("list", &dir))?;
                let (path, is_dir) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
                match (entry.file_name().to_str(), is_dir) {
                    (Some("logs"), true) => fs::remove_dir_all(&path).map_err(failed("delete", &path))?,
                    (Some("FETCH_HEAD" | "ORIG_HEAD"), false) => fs::remove_file(&path).map_err(failed("delete", &path))?,
                    (Some("config"), false) if begin != shown_begin => {
                        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
                        fs::write(&path, text.replace(begin, shown_begin)).map_err(failed("write", &path))?;
                    }
                    (Some("objects"), true) => {}
                    (_, true) => todo.push(path),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The directory that is wanted, found without following a link.
    fn subdir(&self, tree: &Path) -> Result<PathBuf, GitError> {
        let git_dir = tree.join(".git");
        fs::remove_dir_all(&git_dir).map_err(GitError::io("delete", &git_dir))?;
        let failed = |source: io::Error| GitError::Subdir { subdir: self.wanted.subdir.clone(), source };
        let mut dir = open_dir(tree).map_err(failed)?;
        let mut path = tree.to_owned();
        for name in self.wanted.subdir.split('/').filter(|name| !name.is_empty()) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
            path.push(name);
        }
        Ok(path)
    }
}

/// A URL up to its path.
fn before_path(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    &url[..url[start..].find('/').map_or(url.len(), |at| start + at)]
}

/// Whether a server cannot give a commit without its history, or none that has no name.
fn is_about_history(said: &str) -> bool {
    ["--depth", "shallow", "not our ref", "unadvertised object", "did not contain"].iter().any(|words| said.contains(words))
}

/// What is known about a checkout.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    commit: String,
    committed_secs: i64,
    /// Of its files, to be compared in another boot: nothing here was synced.
    digest: String,
    boot: String,
}

/// Makes a checkout out of the files in `out`, and moves it to its place.
pub(super) fn finish(tmp: &Path, time: Option<i64>, checkout: Checkout) -> Result<Checkout, GitError> {
    let (out, fresh) = (tmp.join("out"), tmp.join("fresh"));
    level(&out, time)?;
    fs::create_dir(&fresh).map_err(GitError::io("make the directory", &fresh))?;
    let tree = fresh.join("tree");
    fs::rename(&out, &tree).map_err(GitError::io("take", &out))?;
    let made = Made { commit: checkout.commit.clone(), committed_secs: checkout.committed_secs, digest: digest(&tree)?, boot: boot() };
    write_made(&fresh, &made)?;
    let finished = checkout.dir;
    fs::rename(&fresh, &finished).map_err(GitError::io("make", &finished))?;
    Ok(Checkout { dir: finished.join("tree"), ..checkout })
}

/// A checkout that was made before, if it is whole.
pub(super) fn read(finished: &Path) -> Option<Checkout> {
    let text = fs::read(finished.join("made")).ok()?;
    let tree = finished.join("tree");
    let found = match serde_json::from_slice::<Made>(&text) {
        Ok(made) if made.boot == boot() => Some(made),
        Ok(made) if digest(&tree).is_ok_and(|digest| digest == made.digest) => {
            let made = Made { boot: boot(), ..made };
            // Without the note the next build reads it all again; a read-only store has no place for it.
            drop(write_made(finished, &made));
            Some(made)
        }
        _ => None,
    };
    found.map(|Made { commit, committed_secs, .. }| Checkout { dir: tree, commit, committed_secs })
}

fn write_made(dir: &Path, made: &Made) -> Result<(), GitError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let (path, fresh) = (dir.join("made"), dir.join(format!("made-{}-{number}", std::process::id())));
    let text = serde_json::to_vec(made).expect("strings and numbers serialise");
    let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
    if written.is_err() {
        drop(fs::remove_file(&fresh));
    }
    written.map_err(GitError::io("write", &path))
}

/// The running boot; where the kernel does not tell, nothing is trusted unread.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| format!("unknown {}", std::process::id()), |id| id.trim().into())
}

/// Gives all files the modes that they have under a umask of 022, and one time. Takes away what ties a submodule to its repository,
/// unless that was kept.
fn level(out: &Path, time: Option<i64>) -> Result<(), GitError> {
    let root = open_dir(out).map_err(GitError::io("open", out))?;
    let keeps_git_dir = out.join(".git").is_dir();
    let mut stray = Vec::new();
    walk(&root, &mut |walked| {
        if !keeps_git_dir && walked.name.to_bytes() == b".git" {
            stray.push(walked.path.clone());
            return Ok(());
        }
        let mode = open_mode(walked.stat.mode);
        if walked.stat.file_type() != FileType::Symlink && mode != walked.stat.mode & 0o7777 {
            rustix::fs::chmodat(walked.dir, walked.name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(WalkError::at("change the mode of", &walked.path))?;
        }
        Ok(())
    })?;
    for path in stray {
        let path = out.join(std::ffi::OsStr::from_bytes(&path));
        fs::remove_file(&path).map_err(GitError::io("delete", &path))?;
    }
    rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(|error| GitError::io("change the mode of", out)(error.into()))?;
    let Some(secs) = time else { return Ok(()) };
    let time = Timespec { tv_sec: secs, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    walk(&root, &mut |walked| {
        rustix::fs::utimensat(walked.dir, walked.name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(WalkError::at("set the time of", &walked.path))
            .map_err(GitError::from)
    })?;
    rustix::fs::futimens(&root, &times).map_err(|error| GitError::io("set the time of", out)(error.into()))
}

/// What the owner may read and execute, everybody may; nobody else may write.
fn open_mode(mode: u32) -> u32 {
    let own = mode & 0o700;
    own | (own & 0o500) >> 3 | (own & 0o500) >> 6
}

/// A digest over names, modes, links and contents, in the walker's order.
fn digest(tree: &Path) -> Result<String, GitError> {
    let root = open_dir(tree).map_err(GitError::io("open", tree))?;
    let mut all = blake3::Hasher::new_derive_key("shale 1 git checkout");
    walk(&root, &mut |walked| {
        let content = if walked.stat.is_file() { content_digest(&walked)? } else { blake3::hash(&walked.target) };
        for part in [&walked.path[..], &walked.stat.mode.to_le_bytes(), content.as_bytes()] {
            all.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Ok(())
    })?;
    Ok(all.finalize().to_hex().to_string())
}

fn content_digest(walked: &Walked<'_>) -> Result<blake3::Hash, WalkError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(walked.open()?).map_err(WalkError::at("read", &walked.path))?;
    Ok(hasher.finalize())
}

fn walk(root: &impl std::os::fd::AsFd, visit: &mut dyn FnMut(Walked<'_>) -> Result<(), GitError>) -> Result<(), GitError> {
    walk::walk(root.as_fd(), walk::Options::default(), &mut |_, _| false, visit)
}
