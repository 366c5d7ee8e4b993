//! What a COPY or ADD takes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use shale_cache::{CacheKey, KeyParts, ListId, Store, StoreError};

use super::{is_changed, now};
use crate::execute::{BuildExecutor, StepError};
use crate::plan::git::GitRef;
use crate::plan::graph::{CopyOp, CopySource, Remote, UrlSource};
use crate::solve::Step;
use crate::solve::event::{Event, TaskId};
use crate::source::context::{BuildContext, ContextError};
use crate::source::git::GitError;
use crate::source::ignore::Ignore;
use crate::source::registry::Progress;
use crate::tree::entry::Mtime;
use crate::tree::graft::Graft;
use crate::tree::select::{self, Match, Matcher, SelectError, Selected};
use crate::tree::view::View;
use crate::tree::{Node, NodeKind, Tree};

/// What a COPY or ADD takes, hashed.
#[derive(Debug, Default)]
pub struct Selection {
    /// As matched: what the key is made of. Archives are still files here.
    pub(super) files: select::Selection,
    /// The matches that were fetched, each with its file in the store and whether it is unpacked.
    pub(super) fetched: Vec<Fetched>,
    /// The matches that come from repositories, each with the directory of its files.
    pub(super) checkouts: Vec<(usize, PathBuf)>,
    /// How often files of a context had been held when it was made.
    held: usize,
    /// Where it lands; known once the parent was looked at.
    pub(super) landed: OnceLock<Graft>,
}

/// A match that was fetched.
#[derive(Debug)]
pub(in crate::execute) struct Fetched {
    /// Which match.
    pub(in crate::execute) number: usize,
    /// The file in the store.
    pub(in crate::execute) path: PathBuf,
    /// Its size.
    pub(in crate::execute) size_bytes: u64,
    /// Whether it is unpacked if it is an archive.
    pub(in crate::execute) unpack: bool,
}

impl Selection {
    /// What the first source is.
    pub(in crate::execute) fn top(&self) -> Option<&NodeKind> {
        Some(&self.files.matches.first()?.items.first()?.node.kind)
    }

    /// Fetches a file and takes it as a match of its own: mode 0600, the time that the server says.
    fn fetch(&mut self, executor: &BuildExecutor<'_>, step: &Step<'_>, url: &UrlSource) -> Result<(), StepError> {
        let checksum = url.checksum.as_deref().and_then(|text| text.parse().ok());
        let progress = Fetching { executor, task: step.task };
        let fetched = executor.downloads.get(executor.store, &url.url, checksum.as_ref(), &progress).map_err(StepError::from);
        let fetched = fetched.map_err(|error| if executor.cancel.is_cancelled() { StepError::Cancelled } else { error })?;
        let node = Node {
            path: Vec::new(),
            kind: NodeKind::File { size: fetched.size_bytes, inode: None },
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: Mtime { secs: fetched.mtime_secs, nanos: 0 },
            xattrs: BTreeMap::new(),
        };
        let digest = Some(fetched.content);
        let item = Selected { digest, ..Selected::matched(node) };
        let number = self.files.matches.len();
        self.files.matches.push(Match { name: url.name.clone().into_bytes(), items: vec![item], archive: false });
        let path = executor.store.blobs().path(&fetched.blob);
        self.fetched.push(Fetched { number, path, size_bytes: fetched.size_bytes, unpack: url.unpack });
        Ok(())
    }

    /// Fetches a repository and takes all its files as a match of its own.
    fn check_out(&mut self, executor: &BuildExecutor<'_>, step: &Step<'_>, git: &GitRef, exclude: &[String]) -> Result<(), StepError> {
        let progress = Fetching { executor, task: step.task };
        let checkout = executor.repositories.get(executor.store, git, &progress).map_err(|error| match error {
            GitError::Cancelled => StepError::Cancelled,
            error => error.into(),
        })?;
        let text = format!("{} is commit {}", git.shown_with_ref(), checkout.commit);
        executor.reporter.report(Event::Note { task: step.task, text });
        let files = BuildContext::open_dir(&checkout.dir, Some(&executor.store.root().join("contexts")))?;
        let options = select::Options { exclude, parents: false, compile: &compile };
        let mut taken = select::select(&files, &[".".to_owned()], &options)?;
        taken.digest(&files).map_err(StepError::ContextRead)?;
        // The next build only loses time without it.
        drop(files.save_stat_cache());
        for matched in taken.matches {
            self.checkouts.push((self.files.matches.len(), checkout.dir.clone()));
            self.files.matches.push(matched);
        }
        Ok(())
    }

    /// Whether no file of a context was found changed, and held as it was then, since this was made: every later step reads that copy.
    pub(in crate::execute) fn is_current(&self, executor: &BuildExecutor<'_>) -> bool {
        self.held == times_held(executor)
    }

    /// Keeps the key's list.
    pub(in crate::execute) fn list(&self, store: &Store, op: &CopyOp) -> Result<ListId, StoreError> {
        store.lists().put_from(&|to| self.files.canonical(op.chown.is_none(), to))
    }
}

/// What decides which files a COPY takes, and that alone, if that is known before they are looked at: words, and a filesystem. Words with
/// a secret in them enter no hash that is not keyed.
pub(in crate::execute) fn source_key(step: &Step<'_>, op: &CopyOp) -> Option<CacheKey> {
    let CopySource::Vertex(id) = op.source else { return None };
    if step.vertex.no_cache.is_some() || step.vertex.has_secrets() || !op.remotes.is_empty() || !op.inline.is_empty() {
        return None;
    }
    let mut parts = KeyParts::new("selection");
    parts.push_text("of", step.source(id).chain.to_string());
    for source in &op.sources {
        parts.push_text("source", source);
    }
    for pattern in &op.exclude {
        parts.push_text("exclude", pattern);
    }
    parts.push_text("parents", op.parents.to_string());
    parts.push_text("owners", op.chown.is_none().to_string());
    Some(parts.key())
}

/// How often files of a context are looked at that change meanwhile. Each look holds those that the look before it saw.
pub(super) const LOOKS: usize = 8;

/// Matches and hashes the sources, and fetches those that are URLs. Of what changes under the build a copy is taken.
pub(in crate::execute) fn select(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp) -> Result<Selection, StepError> {
    for _ in 1..LOOKS {
        let selection = select_once(executor, step, op);
        match &selection {
            Err(error) if !is_changed(error) => return selection,
            // Another step may have taken the copy, so this one looks again in any case.
            Err(_) => drop(hold_changed(executor, &op.source)?),
            Ok(_) if !hold_changed(executor, &op.source)? => return selection,
            Ok(_) => {}
        }
    }
    select_once(executor, step, op)
}

fn times_held(executor: &BuildExecutor<'_>) -> usize {
    executor.held.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// Takes copies of the files of a context that changed under the build, and says whether there were any.
fn hold_changed(executor: &BuildExecutor<'_>, source: &CopySource) -> Result<bool, StepError> {
    let CopySource::Context(name) = source else { return Ok(false) };
    // One at a time, and all of it: who finds nothing to hold must find the copies.
    let mut held = executor.held.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(context) = executor.contexts.get(name.as_deref()).filter(|context| context.has_changed()) else { return Ok(false) };
    executor.store.require_writable("copy files to tmp/ that change during the build")?;
    let dir = executor.store.tmp()?;
    let holds = context.hold_changed(dir.path())?;
    held.push(dir);
    Ok(holds)
}

fn select_once(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp) -> Result<Selection, StepError> {
    let view;
    let context = match &op.source {
        CopySource::Context(name) => executor.contexts.get(name.as_deref()),
        CopySource::Vertex(_) => None,
    };
    let nothing = View::new(Vec::new());
    let tree: &dyn Tree = match (&op.source, context) {
        (CopySource::Vertex(id), _) => {
            view = executor.forms.view(step.source(*id))?;
            &view
        }
        (_, Some(context)) => context,
        (CopySource::Context(_), None) if op.sources.is_empty() => &nothing,
        (CopySource::Context(_), None) => return Err(StepError::NoContext),
    };
    let options = select::Options { exclude: &op.exclude, parents: op.parents, compile: &compile };
    let mut selection = Selection { held: times_held(executor), ..Selection::default() };
    let mut begun = 0;
    for end in op.remotes.iter().map(Some).chain([None]) {
        let paths = &op.sources[begun..end.map_or(op.sources.len(), |remote| remote.after)];
        let some = select::select(tree, paths, &options).map_err(|error| explained(error, context))?;
        selection.files.matches.extend(some.matches);
        begun += paths.len();
        match end.map(|remote| &remote.what) {
            Some(Remote::File(url)) => selection.fetch(executor, step, url)?,
            Some(Remote::Git(git)) => selection.check_out(executor, step, git, &op.exclude)?,
            None => {}
        }
    }
    let files = &mut selection.files;
    files.digest(tree).map_err(StepError::ContextRead)?;
    let created = now();
    if let CopySource::Vertex(_) = op.source {
        // The root of an image has no entry, and no time.
        let roots = files.matches.iter_mut().filter_map(|matched| matched.items.first_mut()).filter(|item| item.source().is_empty());
        roots.for_each(|root| root.node.mtime = created);
    }
    files.matches.extend(op.inline.iter().enumerate().map(|(n, file)| Match::inline(n, &file.name, file.content.as_bytes(), created)));
    Ok(selection)
}

/// What a failed selection means to the user.
fn explained(error: SelectError, context: Option<&BuildContext>) -> StepError {
    match (error, context) {
        (SelectError::NotFound { path }, Some(context)) => {
            let why = context.why_missing(path.trim_start_matches('/').as_bytes());
            StepError::Missing { path, why: Some(why) }
        }
        (SelectError::NotFound { path }, None) => StepError::Missing { path, why: None },
        (SelectError::Read { source, .. }, _) if ContextError::of(&source).is_some() => StepError::ContextRead(source),
        (error, _) => error.into(),
    }
}

/// Compiles `--exclude` and `--parents` patterns: they follow the rules of ignore files.
fn compile(patterns: &[&str]) -> Result<Matcher, String> {
    let rules = Ignore::from_patterns("--exclude", patterns.iter().copied()).map_err(|error| error.to_string())?;
    Ok(Box::new(move |path| rules.is_ignored(path)))
}

/// Shows a download, and ends it with the build.
struct Fetching<'a, 'b> {
    executor: &'a BuildExecutor<'b>,
    task: TaskId,
}

impl Progress for Fetching<'_, '_> {
    fn on_bytes(&self, what: &str, current_bytes: u64, total_bytes: u64) {
        let event = Event::Progress { task: self.task, what: what.into(), current_bytes, total_bytes: Some(total_bytes) };
        self.executor.reporter.report(event);
    }

    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        let text = format!("{what}: {cause}; trying again in {:.1}s", delay.as_secs_f64());
        self.executor.reporter.report(Event::Note { task: self.task, text });
    }

    fn is_cancelled(&self) -> bool {
        self.executor.cancel.is_cancelled()
    }
}
