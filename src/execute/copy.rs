//! COPY and ADD: select, graft onto the parent's view, write the form that the consumer needs.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shale_cache::{CacheKey, KeyParts, LayerId, ListId};

use super::forms::Forms;
use super::spool::{self, Spool};
use super::{BuildExecutor, StepError, former};
use crate::layer::LayerError;
use crate::layer::compress::Encoder;
use crate::layer::contents::{Contents, Gathered, SourceRef};
use crate::layer::unpack::{Unpacker, needs_worker, write_gathered};
use crate::plan::git::GitRef;
use crate::plan::graph::{CopyOp, CopySource, Remote, UrlSource};
use crate::sandbox::SandboxError;
use crate::solve::event::{Event, TaskId};
use crate::solve::key::Inputs;
use crate::solve::snapshot::LayerRef;
use crate::solve::{Made, Step};
use crate::source::context::{BuildContext, ContextError};
use crate::source::git::GitError;
use crate::source::ignore::Ignore;
use crate::source::registry::Progress;
use crate::tree::accounts::Owner;
use crate::tree::entry::{Entry, Mtime};
use crate::tree::graft::{self, Graft, graft};
use crate::tree::index::Index;
use crate::tree::select::{self, Match, Matcher, SelectError, Selected};
use crate::tree::view::View;
use crate::tree::walk::open_dir;
use crate::tree::{Node, NodeKind, Tree};
use crate::worker::{From, Packing, To, WriteLayer, gathered, pack};

/// What a COPY or ADD takes, hashed.
#[derive(Debug, Default)]
pub struct Selection {
    /// As matched: what the key is made of. Archives are still files here.
    files: select::Selection,
    /// The matches that were fetched, each with its file in the store and whether it is unpacked.
    fetched: Vec<Fetched>,
    /// The matches that come from repositories, each with the directory of its files.
    checkouts: Vec<(usize, PathBuf)>,
    /// Where it lands; known once the parent was looked at.
    landed: OnceLock<Graft>,
}

/// A match that was fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Which match.
    pub(super) number: usize,
    /// The file in the store.
    pub(super) path: PathBuf,
    /// Its size.
    pub(super) size_bytes: u64,
    /// Whether it is unpacked if it is an archive.
    pub(super) unpack: bool,
}

/// The directories and files that hold the contents of a layer to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    roots: Vec<PathBuf>,
    spools: Vec<PathBuf>,
    sources: Vec<(Vec<u8>, SourceRef)>,
    /// Whether only the worker can read some of it.
    mapped: bool,
}

impl Places {
    fn into_source(self) -> From {
        From::Gathered { roots: self.roots, spools: self.spools, sources: self.sources }
    }

    pub(super) fn source(&self) -> From {
        From::Gathered { roots: self.roots.clone(), spools: self.spools.clone(), sources: self.sources.clone() }
    }

    /// Adds files of a layer, each with its path in what is written: from its unpacked form if that is given, else from a tar.
    pub(super) fn add_layer(
        &mut self,
        forms: &Forms<'_>,
        layer: &LayerRef,
        fs: Option<PathBuf>,
        wanted: Vec<(Vec<u8>, Entry)>,
        spool: &mut Spool,
    ) -> Result<(), StepError> {
        if wanted.is_empty() {
            return Ok(());
        }
        if let Some(fs) = fs {
            let root = self.roots.len();
            self.roots.push(fs);
            self.mapped = !forms.reads_everything();
            self.sources.extend(wanted.into_iter().map(|(path, e)| (path, SourceRef::Root { root, path: e.path })));
        } else {
            self.sources.extend(spool.extract(forms.blob(layer)?, forms.index(layer)?.as_ref(), wanted)?);
            self.spools = spool.files().to_vec();
        }
        Ok(())
    }

    /// Opens everything, unless only the worker can.
    pub(super) fn open_here(&self) -> Result<Option<Gathered>, StepError> {
        if self.mapped {
            return Ok(None);
        }
        Ok(Some(gathered(&self.roots, &self.spools, self.sources.clone()).map_err(SandboxError::from)?))
    }
}

impl Selection {
    /// What the first source is.
    pub(super) fn top(&self) -> Option<&NodeKind> {
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

    /// The bytes of the key's list.
    pub(super) fn canonical(&self, op: &CopyOp) -> Vec<u8> {
        self.files.canonical(op.chown.is_none())
    }
}

/// What decides which files a COPY takes, and that alone, if that is known before they are looked at: words, and a filesystem. Words with
/// a secret in them enter no hash that is not keyed.
pub(super) fn source_key(step: &Step<'_>, op: &CopyOp) -> Option<CacheKey> {
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
const LOOKS: usize = 8;

/// Matches and hashes the sources, and fetches those that are URLs. Of what changes under the build a copy is taken.
pub(super) fn select(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp) -> Result<Selection, StepError> {
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
    let mut selection = Selection::default();
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
pub(super) fn explained(error: SelectError, context: Option<&BuildContext>) -> StepError {
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

/// The second look: what the parent holds where the step writes. An ADD that unpacks an archive has none, since what it writes is
/// known only after reading it.
pub(super) fn below(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    selection: &Selection,
) -> Result<Option<ListId>, StepError> {
    if op.unpacks_fetched() || (op.unpack_archives && !spool::archives(executor, op, &selection.files, &selection.fetched)?.is_empty()) {
        return Ok(None);
    }
    let landed = land_on_parent(executor, step, op, &selection.files)?;
    let below = executor.store.lists().put(&landed.facts)?;
    selection.landed.set(landed).ok();
    Ok(Some(below))
}

fn land_on_parent(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, files: &select::Selection) -> Result<Graft, StepError> {
    let view = executor.forms.view_without_layers(&step.parent)?;
    let owner = op.chown.as_deref().map(|spec| executor.forms.owner(&step.parent, &view, spec)).transpose()?;
    land(&view, op, files, owner)
}

fn land(view: &View, op: &CopyOp, files: &select::Selection, owner: Option<Owner>) -> Result<Graft, StepError> {
    let options = graft::Options { destination: op.destination.clone(), owner, chmod: op.chmod.clone(), created: now() };
    // A linked layer knows nothing of what is below it: as if it were copied onto nothing.
    let mut landed = if op.link { graft(&View::new(Vec::new()), files, &options)? } else { graft(view, files, &options)? };
    if let Some(owner) = owner {
        // Names in --chown were looked up in the parent's files: the answer is one more fact.
        landed.facts.extend(format!("owner {}:{}\n", owner.uid, owner.gid).into_bytes());
    }
    Ok(landed)
}

/// Writes the layer. Files that changed since they were hashed are looked at again; the key is then that of what was written.
pub(super) fn write(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: Selection) -> Result<Made, StepError> {
    let (made, changed) = steadily(executor, step, op, selection, |selection| write_once(executor, step, op, selection))?;
    let inputs = changed.map(|files| Inputs { files: Some(files), ..Inputs::default() });
    Ok(Made { inputs, ..made })
}

/// Does something with the files of a selection; if they change meanwhile, once more with a selection of what they are then. The list
/// is the key's, where it is not that of the first selection.
pub(super) fn steadily<T>(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    selection: Selection,
    mut work: impl FnMut(Selection) -> Result<T, StepError>,
) -> Result<(T, Option<ListId>), StepError> {
    let mut done = work(selection).map(|done| (done, None));
    for _ in 1..LOOKS {
        match &done {
            Err(error) if is_changed(error) => {}
            _ => break,
        }
        let again = select(executor, step, op)?;
        let files = executor.store.lists().put(&again.canonical(op))?;
        done = work(again).map(|done| (done, Some(files)));
    }
    done
}

fn is_changed(error: &StepError) -> bool {
    match error {
        StepError::Layer(LayerError::Changed { .. }) | StepError::Sandbox(SandboxError::Changed { .. }) => true,
        StepError::ContextRead(source) => matches!(ContextError::of(source), Some(ContextError::Changed { .. })),
        _ => false,
    }
}

fn write_once(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: Selection) -> Result<Made, StepError> {
    let Selection { mut files, fetched, checkouts, landed } = selection;
    let mut spool = Spool::new(executor.store);
    for file in &fetched {
        spool.take_fetched(file, &mut files)?;
    }
    if op.unpack_archives {
        let archives = spool::archives(executor, op, &files, &fetched)?;
        if let Some((number, _)) = archives.first().filter(|_| landed.get().is_some()) {
            // The second look took it for a plain file.
            return Err(LayerError::Changed { path: crate::layer::shown(&files.matches[*number].name) }.into());
        }
        spool.unpack_archives(archives, &mut files)?;
    }
    let landed = match landed.into_inner() {
        Some(landed) => landed,
        None => land_on_parent(executor, step, op, &files)?,
    };
    let places = places(executor, step, op, (&files, &checkouts), &landed, &mut spool)?;
    // Of a large context the names alone are tens of megabytes.
    drop(files);
    write_layer(executor, step, landed, places)
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

/// Where each file of the new layer lies now.
fn places(
    executor: &BuildExecutor<'_>,
    step: &Step<'_>,
    op: &CopyOp,
    (files, checkouts): (&select::Selection, &[(usize, PathBuf)]),
    landed: &Graft,
    spool: &mut Spool,
) -> Result<Places, StepError> {
    let mut places = Places::default();
    let wanted = landed.items.iter().filter_map(|item| item.from.map(|from| (&item.entry, from)));
    match &op.source {
        CopySource::Context(name) => {
            // Without a context there are only files that were fetched, and the Dockerfile's own.
            let context = executor.contexts.get(name.as_deref());
            if let Some(context) = context {
                places.roots.push(context_path(context)?);
            }
            let own_roots = places.roots.len();
            places.roots.extend(checkouts.iter().map(|(_, dir)| dir.clone()));
            let root_of = |number| checkouts.iter().position(|(n, _)| *n == number).map_or(0, |at| own_roots + at);
            for (entry, (m, i)) in wanted {
                let item = &files.matches[m].items[i];
                let held = context.filter(|_| root_of(m) < own_roots).and_then(|context| context.held(item.source()));
                let source = match (item.inline, spool.member(m, i).or_else(|| held.map(|held| spool.take_held(&held)))) {
                    (Some(n), _) => SourceRef::Inline(op.inline[n].content.clone().into_bytes()),
                    (None, Some(member)) => member,
                    // Nothing to read, and a socket of the context cannot be.
                    (None, None) if matches!(item.node.kind, NodeKind::File { size: 0, .. }) => SourceRef::Inline(Vec::new()),
                    (None, None) => SourceRef::Root { root: root_of(m), path: item.source().to_vec() },
                };
                places.sources.push((entry.path.clone(), source));
            }
        }
        CopySource::Vertex(id) => {
            let snapshot = step.source(*id);
            let view = executor.forms.view(snapshot)?;
            let mut from_layers: Vec<Vec<(Vec<u8>, Entry)>> = vec![Vec::new(); snapshot.layers.len()];
            for (entry, (m, i)) in wanted {
                let item = &files.matches[m].items[i];
                if let Some(n) = item.inline {
                    places.sources.push((entry.path.clone(), SourceRef::Inline(op.inline[n].content.clone().into_bytes())));
                } else if let Some((layer, found)) = view.get(item.source()) {
                    from_layers[layer].push((entry.path.clone(), found));
                }
            }
            for (layer, wanted) in snapshot.layers.iter().zip(from_layers) {
                places.add_layer(executor.forms, layer, executor.forms.fs_if_there(layer)?, wanted, spool)?;
            }
        }
    }
    places.spools = spool.files().to_vec();
    Ok(places)
}

/// The context's directory by its path: the worker opens it again.
fn context_path(context: &BuildContext) -> Result<PathBuf, StepError> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", context.root().as_raw_fd());
    std::fs::read_link(&link).map_err(StepError::io("resolve", link))
}

/// A layer that is known and not written yet.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) index: Index,
    needs_worker: bool,
    places: Places,
    /// Holds files that the places name.
    _spool: Spool,
}

impl Gathering {
    /// Where the contents are, for a writer.
    pub(super) fn source(&self) -> From {
        self.places.source()
    }
}

/// A selection as a layer on nothing.
pub(super) fn gather(executor: &BuildExecutor<'_>, step: &Step<'_>, op: &CopyOp, selection: &Selection) -> Result<Gathering, StepError> {
    let mut spool = Spool::new(executor.store);
    let landed = land(&View::new(Vec::new()), op, &selection.files, None)?;
    let places = places(executor, step, op, (&selection.files, &selection.checkouts), &landed, &mut spool)?;
    let needs_worker = needs_worker(landed.items.iter().map(|item| &item.entry));
    Ok(Gathering { needs_worker, index: index(executor, landed, &places)?, places, _spool: spool })
}

/// The unpacked form of a layer, written unless the store has it.
pub(super) fn unpacked(executor: &BuildExecutor<'_>, layer: &Gathering) -> Result<PathBuf, StepError> {
    let id = executor.put_index(&layer.index)?;
    let layers = executor.store.layers();
    let map = executor.forms.map_id()?;
    layers.fs(&id, &map)?.map_or_else(|| write_unpacked(executor, &id, layer.needs_worker, layer.places.clone()), Ok)
}

/// Writes the unpacked form, here if that can be: then the worker starts meanwhile.
fn write_unpacked(executor: &BuildExecutor<'_>, layer: &LayerId, needs_worker: bool, places: Places) -> Result<PathBuf, StepError> {
    let (forms, layers) = (executor.forms, executor.store.layers());
    let index = layers.index_path(layer);
    forms.with_fresh_dir(|dest| {
        if places.mapped || needs_worker {
            let request = WriteLayer { index, from: places.into_source(), to: To::Directory(dest.to_owned()) };
            forms.worker()?.write(request, None, None)?;
        } else {
            let contents = gathered(&places.roots, &places.spools, places.sources).map_err(SandboxError::from)?;
            let root = open_dir(dest).map_err(StepError::io("open", dest))?;
            write_gathered(&mut Unpacker::for_root_of_steps(root), &Index::of_layer(&index, *layer)?, &contents)?;
        }
        Ok(layers.commit_fs(layer, &forms.map_id()?, dest)?)
    })
}

/// The index of a grafted layer, with the contents that it carries.
fn index(executor: &BuildExecutor<'_>, landed: Graft, places: &Places) -> Result<Index, StepError> {
    let Places { roots, spools, sources, mapped } = places;
    let inline: Vec<Vec<u8>> = landed.inline_files().map(|item| item.entry.path.clone()).collect();
    Ok(if *mapped && !inline.is_empty() {
        let from = From::Gathered { roots: roots.clone(), spools: spools.clone(), sources: wanted(sources, &inline) };
        let read = executor.forms.worker()?.read(from, &inline)?;
        landed.into_index(&inline.into_iter().zip(read).collect::<Vec<_>>())
    } else {
        let read = read_here(roots, spools, wanted(sources, &inline), &landed)?;
        landed.into_index(&read)
    })
}

/// Commits a grafted layer: its index, and unpacked if a RUN comes to lie upon it, else packed.
pub(super) fn write_layer(executor: &BuildExecutor<'_>, step: &Step<'_>, landed: Graft, places: Places) -> Result<Made, StepError> {
    if landed.items.is_empty() {
        return executor.empty_layer();
    }
    let needs_worker = needs_worker(landed.items.iter().map(|item| &item.entry));
    let index = index(executor, landed, &places)?;
    let content = index.content_id_without_mtimes();
    if let Some(layer) = former::layer(executor, step, &content, &index) {
        return Ok(Made { layer, content, inputs: None });
    }
    let made = executor.made(&index, content)?;
    if executor.is_run_upon(step.id) {
        drop(index);
        write_unpacked(executor, &made.layer, needs_worker, places)?;
        return Ok(made);
    }
    let index_path = executor.store.layers().index_path(&made.layer);
    let packing = executor.packing_of(step.id);
    let writer = executor.store.blobs().writer()?;
    let out = writer.file().try_clone().map_err(StepError::io("write", "a blob of the store"))?;
    let numbers = if places.mapped {
        let request = WriteLayer { index: index_path, from: places.into_source(), to: To::Packed(packing) };
        executor.forms.worker()?.write(request, Some(&out), None)?.expect("a packed form has numbers")
    } else {
        let mut contents = gathered(&places.roots, &places.spools, places.sources).map_err(SandboxError::from)?;
        pack(&index, &mut contents, packing, out)?
    };
    writer.commit_as(&numbers.blob, numbers.size_bytes)?;
    executor.forms.note_packed(&made.layer, packing, &numbers)?;
    executor.forms.remember(made.layer, index);
    Ok(made)
}

fn wanted(sources: &[(Vec<u8>, SourceRef)], paths: &[Vec<u8>]) -> Vec<(Vec<u8>, SourceRef)> {
    sources.iter().filter(|(path, _)| paths.contains(path)).cloned().collect()
}

/// Reads the few contents that an index carries.
fn read_here(
    roots: &[PathBuf],
    spools: &[PathBuf],
    sources: Vec<(Vec<u8>, SourceRef)>,
    landed: &Graft,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StepError> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let mut contents = gathered(roots, spools, sources).map_err(SandboxError::from)?;
    let mut read = Vec::new();
    for item in landed.inline_files() {
        let mut bytes = Vec::new();
        let shown = || PathBuf::from(String::from_utf8_lossy(&item.entry.path).into_owned());
        contents.open(&item.entry).and_then(|mut source| source.read_to_end(&mut bytes)).map_err(|e| StepError::io("read", shown())(e))?;
        read.push((item.entry.path.clone(), bytes));
    }
    Ok(read)
}

/// The time of directories that a step makes.
pub(super) fn now() -> Mtime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Mtime { secs: now.as_secs() as i64, nanos: now.subsec_nanos() }
}

/// How layers of builder stages are packed: nobody exports them, and they are read again soon.
pub(super) const PLAIN: Packing = Packing { encoder: Encoder::None, clamp_secs: None };
