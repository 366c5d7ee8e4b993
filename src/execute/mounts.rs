//! `RUN --mount`: what a step reads through its mounts, for the key; and the mounts themselves, for the sandbox.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, flock, fstat, openat};
use rustix::io::Errno;
use shale_cache::ListId;

use super::{BuildExecutor, StepError, copy};
use crate::plan::graph::{CopyOp, CopySource, FileOwner, MountSharing, RunMount, RunOp};
use crate::scoped::open_scoped;
use crate::solve::Step;
use crate::solve::event::Event;
use crate::solve::key::{Inputs, MountInput};
use crate::source::agent::Forwarded;
use crate::tree::NodeKind;
use crate::worker::{MountOwner, MountSource, StepMount, To, WriteLayer};

/// How often somebody who waits for a cache looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long he waits before he says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where files lie in a layer that is made to be mounted.
const PLACE: &str = "mount";
/// Where programs look for the agent's socket.
const AGENT_SOCKET: &str = "SSH_AUTH_SOCK";

/// What the mounts of a step read, one per mount.
#[derive(Debug, Default)]
pub struct Sources(Vec<Option<Taken>>);

/// What one mount reads.
#[derive(Debug)]
struct Taken {
    input: MountInput,
    is_file: bool,
    /// Of a context: the files, to be made into a layer.
    files: Option<(CopyOp, copy::Selection)>,
}

impl Sources {
    /// What enters the key.
    pub(super) fn inputs(&self) -> Vec<Option<MountInput>> {
        self.0.iter().map(|taken| taken.as_ref().map(|taken| taken.input.clone())).collect()
    }

    /// As [`copy::Selection::is_current`].
    pub(super) fn are_current(&self, executor: &BuildExecutor<'_>) -> bool {
        let files = self.0.iter().flatten().filter_map(|taken| taken.files.as_ref());
        files.map(|(_, selection)| selection).all(|selection| selection.is_current(executor))
    }
}

/// Looks at what every mount reads. Of a context, as for COPY: the files that the ignore rules leave, owned by root.
pub(super) fn select(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &RunOp) -> Result<Sources, StepError> {
    let taken = op.mounts.iter().map(|mount| {
        let Some(source) = mount.source() else { return Ok(None) };
        let path = match mount {
            RunMount::Bind { path, .. } => path.as_str(),
            // A cache begins with everything that its source has.
            _ => "/",
        };
        take(executor, step, source, path).map(Some)
    });
    Ok(Sources(taken.collect::<Result<_, StepError>>()?))
}

fn take(executor: &BuildExecutor<'_>, step: &Step<'_>, source: &CopySource, path: &str) -> Result<Taken, StepError> {
    if let CopySource::Vertex(id) = source
        && path == "/"
    {
        return Ok(Taken { input: MountInput::Whole(step.source(*id).chain), is_file: false, files: None });
    }
    let op = as_copy(source, path);
    let selection = copy::select(executor, step, &op)?;
    let list: ListId = selection.list(executor.store, &op)?;
    let top = selection.top().ok_or_else(|| StepError::Missing { path: path.to_owned(), why: None })?;
    let is_file = top != &NodeKind::Dir;
    let files = matches!(source, CopySource::Context(_)).then_some((op, selection));
    Ok(Taken { input: MountInput::Files(list), is_file, files })
}

/// The copy that takes the same files.
fn as_copy(source: &CopySource, path: &str) -> CopyOp {
    let relative = path.trim_start_matches('/');
    CopyOp {
        source: source.clone(),
        // The path of a mount is no pattern.
        sources: vec![if relative.is_empty() { ".".into() } else { escaped(relative) }],
        remotes: Vec::new(),
        inline: Vec::new(),
        destination: format!("/{PLACE}"),
        chown: None,
        chmod: None,
        unpack_archives: false,
        exclude: Vec::new(),
        parents: false,
        link: true,
        instruction: "RUN",
    }
}

fn escaped(path: &str) -> String {
    path.chars().flat_map(|c| "*?[\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Everything that the mounts of a step need while it runs.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) mounts: Vec<StepMount>,
    /// Variables with secrets, and where the agent is.
    pub(super) env: Vec<(String, String)>,
    /// Values that must not be shown.
    pub(super) secrets: Vec<Vec<u8>>,
    /// The flags that would have given what the step can do without.
    pub(super) absent: Vec<String>,
    /// What the mounts hold, if files changed after they had been hashed.
    pub(super) inputs: Option<Inputs>,
    agents: Vec<Forwarded>,
    /// Caches that this step has locked until it ends, by their names.
    locked: HashMap<String, (PathBuf, File)>,
}

/// Makes the mounts ready. `tmp` is the step's own directory.
pub(super) fn prepare(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &RunOp, sources: Sources, tmp: &Path) -> Result<Ready, StepError> {
    let mut ready = Ready::default();
    ready.lock_caches(executor, step, op, &sources)?;
    let mut inputs = sources.inputs();
    for (number, (mount, taken)) in op.mounts.iter().zip(sources.0).enumerate() {
        if let Some(changed) = ready.add(executor, step, mount, taken, tmp)? {
            inputs[number] = Some(MountInput::Files(changed));
            ready.inputs = Some(Inputs { mounts: inputs.clone(), ..Inputs::default() });
        }
    }
    Ok(ready)
}

impl Ready {
    /// Makes a mount ready. The list of its files, where it is not that of the key.
    fn add(
        &mut self,
        executor: &BuildExecutor<'_>,
        step: &Step<'_>,
        mount: &RunMount,
        taken: Option<Taken>,
        tmp: &Path,
    ) -> Result<Option<ListId>, StepError> {
        let mut changed = None;
        let is_file = taken.as_ref().is_some_and(|taken| taken.is_file);
        match mount {
            RunMount::Bind { source, path, target, writable } => {
                let source = match (source, taken.and_then(|taken| taken.files)) {
                    (CopySource::Vertex(id), _) => {
                        let lowers = executor.forms.lowers(step.source(*id))?.into_iter().map(|lower| lower.fs).collect();
                        MountSource::Layers { lowers, path: path.clone() }
                    }
                    (CopySource::Context(_), Some((op, selection))) => {
                        // Never the live directory, which may change while the step runs.
                        let unpack = |selection| copy::unpacked(executor, &copy::gather(executor, step, &op, &selection)?);
                        let fs;
                        (fs, changed) = copy::steadily(executor, step, &op, selection, unpack)?;
                        MountSource::Layers { lowers: vec![fs], path: format!("/{PLACE}") }
                    }
                    (CopySource::Context(_), None) => return Err(StepError::NoContext),
                };
                self.mounts.push(StepMount { target: target.clone(), is_file, writable: *writable, source });
            }
            RunMount::Tmpfs { target, size_bytes, writable } => {
                let source = MountSource::Tmpfs { size_bytes: *size_bytes };
                self.mounts.push(StepMount { target: target.clone(), is_file: false, writable: *writable, source });
            }
            RunMount::Cache { target, writable, .. } => {
                let source = self.cache(executor, step, mount, taken)?;
                let is_file = matches!(&source, MountSource::Directory { directory, path, .. } if is_file_inside(directory, path));
                self.mounts.push(StepMount { target: target.clone(), is_file, writable: *writable, source });
            }
            RunMount::Secret { id, target, env, required, owner } => {
                let Some(value) = executor.lent.secret(id)? else {
                    self.absent.push(format!("--secret id={id},src=FILE"));
                    // BuildKit sets the variable all the same.
                    self.env.extend(env.iter().map(|name| (name.clone(), String::new())));
                    return if *required { Err(StepError::NoSecret { id: id.clone() }) } else { Ok(None) };
                };
                if let Some(name) = env {
                    let text = String::from_utf8(value.clone()).map_err(|_| StepError::SecretNotText { id: id.clone() })?;
                    self.env.push((name.clone(), text));
                }
                if let Some(target) = target {
                    let source = MountSource::Secret { content: value.clone(), owner: to_owner(*owner) };
                    self.mounts.push(StepMount { target: target.clone(), is_file: true, writable: false, source });
                }
                self.secrets.push(value);
            }
            RunMount::Ssh { id, target, required, owner } => {
                // The first socket's, also where there is none.
                if !self.env.iter().any(|(name, _)| name == AGENT_SOCKET) {
                    self.env.push((AGENT_SOCKET.into(), target.clone()));
                }
                let Some(agent) = executor.lent.agents.get(id) else {
                    self.absent.push(format!("--ssh {id}"));
                    return if *required { Err(StepError::NoAgent { id: id.clone() }) } else { Ok(None) };
                };
                let name = format!("agent-{}", self.agents.len());
                let forwarded = Forwarded::start(tmp, &name, agent.clone());
                let forwarded = forwarded.map_err(StepError::io("reach the agent", id.as_str()))?;
                let source = MountSource::Socket { path: forwarded.path().to_owned(), owner: to_owner(*owner) };
                self.mounts.push(StepMount { target: target.clone(), is_file: true, writable: false, source });
                self.agents.push(forwarded);
            }
        }
        Ok(changed)
    }

    /// Waits for the caches that are locked, in the order of their names: two steps that want the same ones, whatever they call them, never
    /// wait for each other.
    fn lock_caches(&mut self, executor: &BuildExecutor<'_>, step: &Step<'_>, op: &RunOp, sources: &Sources) -> Result<(), StepError> {
        let is_locked = |mount: &RunMount| matches!(mount, RunMount::Cache { sharing: MountSharing::Locked, .. });
        let wanted = op.mounts.iter().zip(&sources.0).filter(|(mount, _)| is_locked(mount));
        let names: BTreeSet<String> = wanted.map(|(mount, taken)| name_of(mount, taken.as_ref())).collect();
        names.iter().try_for_each(|name| self.place(executor, step, name, MountSharing::Locked).map(drop))
    }

    /// Finds the cache, waits for it where it is locked, and fills a new one that begins with something.
    fn cache(
        &mut self,
        executor: &BuildExecutor<'_>,
        step: &Step<'_>,
        mount: &RunMount,
        taken: Option<Taken>,
    ) -> Result<MountSource, StepError> {
        let RunMount::Cache { from, path, sharing, owner, .. } = mount else { unreachable!("the caller has looked") };
        let place = self.place(executor, step, &name_of(mount, taken.as_ref()), *sharing)?;
        let directory = place.join("data");
        executor.store.growth().add_mount();
        let mut is_filled = false;
        if let (Some(from), false) = (from, directory.exists()) {
            fill(executor, step, from, taken, &directory)?;
            is_filled = true;
        }
        let owned_anew = is_filled && owner.is_some();
        let owner = owner.unwrap_or(FileOwner { mode: 0o755, uid: 0, gid: 0 });
        Ok(MountSource::Directory { directory, path: path.clone(), owner: to_owner(owner), owned_anew })
    }

    /// The directory of the cache, locked as `sharing` says until the step ends. What the step has locked already is its own.
    fn place(&mut self, executor: &BuildExecutor<'_>, step: &Step<'_>, name: &str, sharing: MountSharing) -> Result<PathBuf, StepError> {
        if let Some((place, _)) = self.locked.get(name) {
            return Ok(place.clone());
        }
        let all = executor.store.root().join("mounts").join(executor.forms.map_id()?.to_string());
        let make = |name: &str| -> Result<(PathBuf, File), StepError> {
            let place = all.join(name);
            executor.store.rely_on(&place)?;
            fs::create_dir_all(&place).map_err(StepError::io("make the directory", &place))?;
            let path = place.join("lock");
            let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(StepError::io("open", &path))?;
            Ok((place, lock))
        };
        match sharing {
            MountSharing::Shared => Ok(make(name)?.0),
            MountSharing::Locked => {
                let (place, lock) = make(name)?;
                let begun = Instant::now();
                let mut has_told = false;
                while !try_lock(&lock, &place)? {
                    if executor.cancel.is_cancelled() {
                        return Err(StepError::Cancelled);
                    }
                    if !has_told && begun.elapsed() >= PATIENCE {
                        has_told = true;
                        let text = "waiting for another step, which uses the same locked cache".to_owned();
                        executor.reporter.report(Event::Note { task: step.task, text });
                    }
                    thread::sleep(LOOK_AGAIN);
                }
                self.locked.insert(name.to_owned(), (place.clone(), lock));
                Ok(place)
            }
            MountSharing::Private => {
                let mut number = 0_usize;
                loop {
                    let (place, lock) = make(&if number == 0 { name.to_owned() } else { format!("{name}-{number}") })?;
                    if try_lock(&lock, &place)? {
                        self.locked.insert(name.to_owned(), (place.clone(), lock));
                        return Ok(place);
                    }
                    number += 1;
                }
            }
        }
    }
}

/// The name of a cache's directory: what another step began with, or owned, is another cache.
fn name_of(mount: &RunMount, taken: Option<&Taken>) -> String {
    let RunMount::Cache { id, owner, .. } = mount else { unreachable!("the caller has looked") };
    let identity = format!("{id:?} {:?} {owner:?}", taken.map(|taken| taken.input.to_string()));
    blake3::hash(identity.as_bytes()).to_hex()[..32].to_owned()
}

/// Whether a path of a cache is a file, which is mounted upon one. Where we may not look it is taken for a directory.
fn is_file_inside(directory: &Path, path: &str) -> bool {
    let relative = path.trim_start_matches('/');
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = || -> Result<FileType, Errno> {
        let root = openat(CWD, directory, flags | OFlags::DIRECTORY, Mode::empty())?;
        let inside = open_scoped(&root, relative, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
        Ok(FileType::from_raw_mode(fstat(&inside)?.st_mode))
    };
    !relative.is_empty() && found().is_ok_and(|found| found != FileType::Directory)
}

fn try_lock(lock: &File, place: &Path) -> Result<bool, StepError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(StepError::io("lock", place)(error.into())),
    }
}

fn to_owner(owner: FileOwner) -> MountOwner {
    MountOwner { mode: owner.mode, uid: owner.uid, gid: owner.gid }
}

/// Writes what a new cache begins with.
fn fill(executor: &BuildExecutor<'_>, step: &Step<'_>, from: &CopySource, taken: Option<Taken>, directory: &Path) -> Result<(), StepError> {
    let (op, selection) = if let Some(known) = taken.and_then(|taken| taken.files) {
        known
    } else {
        let op = as_copy(from, "/");
        let selection = copy::select(executor, step, &op)?;
        (op, selection)
    };
    let layer = copy::gather(executor, step, &CopyOp { destination: "/".into(), ..op }, &selection)?;
    let id = executor.put_index(&layer.index)?;
    executor.forms.with_fresh_dir(|fresh| {
        let index = executor.store.layers().index_path(&id);
        let request = WriteLayer { index, from: layer.source(), to: To::Directory(fresh.to_owned()) };
        executor.forms.worker()?.write(request, None, None)?;
        match fs::rename(fresh, directory) {
            // Another step was faster.
            Err(_) if directory.exists() => Ok(()),
            other => other.map_err(StepError::io("make the cache", directory)),
        }
    })
}
