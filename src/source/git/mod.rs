//! Files of git repositories, for ADD and for contexts: fetched by the program `git` as the calling user, and kept in the store.
//!
//! ```text
//! contexts/git/<hash of the remote>/lock            held while something is fetched from it
//!                                   <commit>-<how>/tree/   the files
//!                                                  made    their digest, the boot and the time of the commit, as JSON
//! contexts/git/known_hosts                          host keys that were seen for the first time
//! ```
//!
//! A commit that is there is taken without asking anybody; a name of one (a branch, a tag) is asked with `ls-remote` once in a build.
//! A checkout is made in the store's `tmp` and renamed, so no half one is ever used. One of another boot is hashed before it is
//! trusted. Its files have the modes of a umask of 022 and the time of the commit, wherever and whenever they are checked out.

mod checkout;
mod error;
mod program;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use shale_cache::Store;

use super::agent::{Agent, Forwarded};
use super::registry::Progress;
use super::secret::Lent;
use crate::plan::git::{GitRef, GitTime, Transport, is_commit};
pub use error::GitError;
pub use program::GitConfig;
use program::{Git, Settings};

/// How often somebody who waits for another fetch looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The agent that repositories are fetched with, among those of `--ssh`.
const AGENT: &str = "default";

/// Files of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// Where they lie.
    pub dir: PathBuf,
    /// The hash of the commit, or of the tag that names it.
    pub commit: String,
    /// When it was committed, in seconds since the epoch.
    pub committed_secs: i64,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolved {
    /// A commit, or a tag object.
    hash: String,
    /// The whole name: `refs/heads/main`.
    name: Option<String>,
}

/// Fetches from repositories, for one build.
#[derive(Debug)]
pub struct Repositories {
    config: GitConfig,
    lent: Lent,
    /// What was asked before: a build sees one state of each.
    known: Mutex<HashMap<(String, Option<String>), Arc<Mutex<Option<Answer>>>>>,
}

/// What `ls-remote` said about a name.
#[derive(Clone, Debug)]
struct Answer {
    resolved: Resolved,
    /// The commit behind a tag that is an object of its own.
    peeled: Option<String>,
}

/// What proves who we are.
#[derive(Debug, Default)]
struct Access {
    settings: Settings,
    secrets: Vec<String>,
}

impl Repositories {
    /// With what the caller lends: `GIT_AUTH_TOKEN`, `GIT_AUTH_HEADER`, the agent `default`.
    pub fn new(config: GitConfig, lent: Lent) -> Self {
        Self { config, lent, known: Mutex::default() }
    }

    /// The files that `git` names.
    pub fn get(&self, store: &Store, git: &GitRef, progress: &dyn Progress) -> Result<Checkout, GitError> {
        let all = store.root().join("contexts").join("git");
        let place = all.join(&blake3::hash(git.remote.as_bytes()).to_hex()[..32]);
        store.rely_on(&place)?;
        fs::create_dir_all(&place).map_err(GitError::io("make the directory", &place))?;
        let work = Work { repositories: self, store, git, progress, known_hosts: all.join("known_hosts") };
        let resolved = work.resolve()?;
        let finished = place.join(work.name(&resolved));
        if let Some(known) = checkout::read(&finished) {
            return Ok(known);
        }
        let _alone = work.lock(&place.join("lock"))?;
        if let Some(known) = checkout::read(&finished) {
            return Ok(known);
        }
        // One that is damaged.
        if finished.exists() {
            store.move_to_trash(&finished)?;
        }
        work.fetch(&resolved, &finished)
    }
}

/// One question.
struct Work<'a> {
    repositories: &'a Repositories,
    store: &'a Store,
    git: &'a GitRef,
    progress: &'a dyn Progress,
    known_hosts: PathBuf,
}

impl Work<'_> {
    fn keeps_git_dir(&self) -> bool {
        // As in BuildKit: a directory of a repository is no repository.
        self.git.keep_git_dir == Some(true) && self.git.subdir.is_empty()
    }

    /// Everything that the files depend on besides the remote.
    fn name(&self, resolved: &Resolved) -> String {
        // The number stands for the form that a kept repository is given.
        let kept = self.keeps_git_dir().then(|| (2, resolved.name.as_deref().unwrap_or_default(), self.git.shown()));
        let how = format!("{kept:?} {:?} {} {:?}", self.git.subdir, self.git.skip_submodules, self.git.mtime);
        format!("{}-{}", resolved.hash, &blake3::hash(how.as_bytes()).to_hex()[..16])
    }

    /// The commit that is meant.
    fn resolve(&self) -> Result<Resolved, GitError> {
        let GitRef { reference, checksum, .. } = self.git;
        if let Some(hash) = reference.as_ref().filter(|reference| is_commit(reference)) {
            let resolved = Resolved { hash: hash.clone(), name: None };
            return match checksum {
                Some(sum) if !hash.starts_with(sum) => Err(GitError::Checksum { expected: sum.clone(), found: hash.clone() }),
                _ => Ok(resolved),
            };
        }
        if let (true, Some(hash)) = (self.git.fetch_by_commit, checksum) {
            let full = |name: &String| if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") };
            return Ok(Resolved { hash: hash.clone(), name: reference.as_ref().map(full) });
        }
        let answer = self.ask_once()?;
        let hashes = [Some(&answer.resolved.hash), answer.peeled.as_ref()];
        match checksum {
            Some(sum) if !hashes.iter().flatten().any(|hash| hash.starts_with(sum)) => {
                let found = hashes.into_iter().flatten().cloned().collect::<Vec<_>>().join(" or ");
                Err(GitError::Checksum { expected: sum.clone(), found })
            }
            _ => Ok(answer.resolved),
        }
    }

    fn ask_once(&self) -> Result<Answer, GitError> {
        let key = (self.git.remote.clone(), self.git.reference.clone());
        let known = &self.repositories.known;
        let slot = Arc::clone(known.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = slot.as_ref() {
            return Ok(answer.clone());
        }
        let answer = self.ask()?;
        *slot = Some(answer.clone());
        Ok(answer)
    }

    fn ask(&self) -> Result<Answer, GitError> {
        let mut access = self.access()?;
        // By a setting, so that a password in it stands on no command line.
        access.settings.push(("remote.origin.url".into(), self.git.remote.clone()));
        let shown = self.git.shown();
        let tmp = self.store.tmp()?;
        self.with_git(&access, |git| match &self.git.reference {
            None => {
                let deed = format!("error fetching default branch for repository {shown}");
                let said = git.run(tmp.path(), &deed, &["ls-remote", "--symref", "origin", "HEAD"])?;
                default_branch(&said).ok_or(GitError::NoDefault { remote: shown })
            }
            Some(name) => {
                let deed = format!("failed to fetch remote {shown}");
                let said = git.run(tmp.path(), &deed, &["ls-remote", "--", "origin", name, &format!("{name}^{{}}")])?;
                named(&said, name).ok_or_else(|| GitError::NoRef { reference: name.clone(), output: said })
            }
        })
    }

    /// Calls with a git that may reach the remote.
    fn with_git<T>(&self, access: &Access, call: impl FnOnce(&Git<'_>) -> Result<T, GitError>) -> Result<T, GitError> {
        let Repositories { config, lent, .. } = self.repositories;
        let lent = lent.agents.get(AGENT).cloned().or_else(|| config.agent.clone().map(Agent::Socket));
        let mut place = None;
        let agent = match lent.filter(|_| self.git.transport == Transport::Ssh) {
            Some(Agent::Socket(path)) => Some(path),
            Some(keys @ Agent::Keys(_)) => {
                let tmp = place.insert(self.store.tmp()?);
                let forwarded = Forwarded::start(tmp.path(), "agent", keys).map_err(GitError::io("serve keys in", tmp.path()))?;
                let path = forwarded.short_path();
                return self.call(access, Some(&path), call);
            }
            None => None,
        };
        self.call(access, agent.as_deref(), call)
    }

    fn call<T>(&self, access: &Access, agent: Option<&Path>, call: impl FnOnce(&Git<'_>) -> Result<T, GitError>) -> Result<T, GitError> {
        call(&Git {
            config: &self.repositories.config,
            agent,
            known_hosts: &self.known_hosts,
            settings: &access.settings,
            secrets: &access.secrets,
            progress: self.progress,
        })
    }

    /// Secrets for this remote: those of its host before those for all.
    fn access(&self) -> Result<Access, GitError> {
        let GitRef { remote, transport, host, .. } = self.git;
        let mut access = Access { settings: Vec::new(), secrets: self.git.password().map(str::to_owned).into_iter().collect() };
        if *transport != Transport::Http {
            return Ok(access);
        }
        for (id, is_token) in [(format!("GIT_AUTH_HEADER.{host}"), false), (format!("GIT_AUTH_TOKEN.{host}"), true)]
            .into_iter()
            .chain([("GIT_AUTH_HEADER".into(), false), ("GIT_AUTH_TOKEN".into(), true)])
        {
            let Some(value) = self.repositories.lent.secret(&id)? else { continue };
            let text = String::from_utf8(value).map_err(|_| GitError::SecretNotText(id.clone()))?;
            let text = text.trim_end().to_owned();
            if text.contains(['\n', '\r', '\0']) {
                return Err(GitError::SecretNotText(id));
            }
            let value = if is_token {
                let encoded = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{text}"));
                access.secrets.push(encoded.clone());
                format!("basic {encoded}")
            } else {
                text.clone()
            };
            access.secrets.push(text);
            access.settings.push((format!("http.{}.extraheader", scope(remote)), format!("Authorization: {value}")));
            break;
        }
        access.secrets.retain(|secret| !secret.is_empty());
        Ok(access)
    }

    /// One fetch from a remote at a time: who waited finds the work done.
    fn lock(&self, path: &Path) -> Result<File, GitError> {
        let file = File::options().create(true).truncate(false).write(true).open(path).map_err(GitError::io("open", path))?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) if self.progress.is_cancelled() => return Err(GitError::Cancelled),
                Err(Errno::WOULDBLOCK | Errno::INTR) => thread::sleep(LOOK_AGAIN),
                Err(error) => return Err(GitError::io("lock", path)(error.into())),
            }
        }
    }

    fn fetch(&self, resolved: &Resolved, finished: &Path) -> Result<Checkout, GitError> {
        let access = self.access()?;
        let tmp = self.store.tmp()?;
        let committed_secs = self.with_git(&access, |git| {
            let job = checkout::Job { git, wanted: self.git, resolved, tmp: tmp.path(), keeps_git_dir: self.keeps_git_dir() };
            job.run()
        })?;
        let time = (self.git.mtime == GitTime::Commit).then_some(committed_secs);
        checkout::finish(tmp.path(), time, Checkout { dir: finished.to_owned(), commit: resolved.hash.clone(), committed_secs })
    }
}

/// GitHub's tokens are good for all of its repositories, so also for the submodules.
fn scope(remote: &str) -> &str {
    let hubs = ["https://github.com/", "https://www.github.com/"];
    hubs.into_iter().find(|hub| remote.starts_with(hub)).unwrap_or(remote)
}

/// Reads the answer about HEAD.
fn default_branch(said: &str) -> Option<Answer> {
    let mut lines = said.lines().filter_map(|line| line.split_once('\t')).filter(|(_, name)| *name == "HEAD");
    let name = lines.clone().find_map(|(target, _)| target.strip_prefix("ref: ")).filter(|name| name.starts_with("refs/heads/"))?;
    let hash = lines.find(|(hash, _)| is_commit(hash))?.0;
    Some(Answer { resolved: Resolved { hash: hash.into(), name: Some(name.into()) }, peeled: None })
}

/// Reads the answer about a name: the name itself, then a branch, then a tag.
fn named(said: &str, name: &str) -> Option<Answer> {
    let find = |full: &str| {
        let line = said.lines().filter_map(|line| line.split_once('\t')).find(|(_, found)| *found == full)?;
        Some(line.0.to_owned()).filter(|hash| is_commit(hash))
    };
    let full = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
    let [itself, branch, tag] = [full("refs/"), full("refs/heads/"), full("refs/tags/")];
    let (hash, found) = [&itself, &branch, &tag].into_iter().find_map(|full| Some((find(full)?, full.clone())))?;
    let peeled = if found.starts_with("refs/tags/") { find(&format!("{found}^{{}}")) } else { None };
    Some(Answer { resolved: Resolved { hash, name: Some(found) }, peeled })
}

#[cfg(test)]
mod tests;
