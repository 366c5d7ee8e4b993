//! Deletes what is still good, to get its space back.
//!
//! A pruning lists the store without holding anything, chooses, and deletes in batches: the gate of the leases is closed, leases and
//! images are read again, what nobody needs is renamed into `trash/`, the gate is opened, and `trash/` is emptied. It skips what is
//! in use and never waits for a build. A layer goes with one rename, and a record without its layer never hits, so a pruning that
//! is killed leaves rubbish and no damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::build::Builds;
use crate::digest::{LayerId, ListId, OciDigest};
use crate::entry::{self, is_absent};
use crate::error::StoreError;
use crate::image::Images;
use crate::inventory::{Inventory, Item, ItemKind, each_record, lists_of};
use crate::last_use;
use crate::layer::{BORN, KnownLayer, Layers};
use crate::lease::{Gate, InUse};
use crate::needed::Needed;
use crate::policy::{Disk, Policy, Reason, Turn, Urgency};
use crate::store::Inner;
use crate::tmp::names_in;
use crate::usage::{MeasureMapped, Meter};

/// So many items go between two openings of the gate at least: some milliseconds of renaming.
const BATCH: usize = 64;
/// What the records of builds may take together. A log is never clipped, so the oldest builds go; the newest stays however much its
/// commands said.
const KEPT_BUILD_BYTES: u64 = 256 << 20;
/// The folders whose children are deleted at once; everything else can be large and goes to `trash/` first.
const SMALL: &[&str] = &["steps", "blobs/made"];

/// Which items a pruning may take. An empty filter takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemFilter {
    /// Only of these kinds.
    pub kinds: Option<Vec<ItemKind>>,
    /// Only those whose id contains this.
    pub id: Option<String>,
    /// Only those that were not used for so many seconds.
    pub unused_for_secs: Option<i64>,
    /// Only those that are shared with images, or only those that are not.
    pub is_shared: Option<bool>,
    /// Only those that are in use, or only those that are not.
    pub is_in_use: Option<bool>,
    /// Only those whose description contains this.
    pub description: Option<String>,
}

impl ItemFilter {
    /// Whether an item passes, at a time in seconds since 1970.
    pub fn takes(&self, item: &Item, now_secs: i64) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&item.kind))
            && self.id.as_ref().is_none_or(|id| item.id().contains(id.as_str()))
            && self.unused_for_secs.is_none_or(|secs| item.last_used_secs() <= now_secs.saturating_sub(secs))
            && self.is_shared.is_none_or(|is| item.is_shared == is)
            && self.is_in_use.is_none_or(|is| item.is_in_use == is)
            && self.description.as_ref().is_none_or(|text| item.description.contains(text.as_str()))
    }
}

/// How much may stay. All zero: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// So many bytes always stay.
    pub reserved_bytes: u64,
    /// No more than so many bytes stay, if not 0.
    pub max_used_bytes: u64,
    /// So many bytes of the file system are to be free.
    pub min_free_bytes: u64,
    /// No more than so many percent of what is used when the pruning begins stay, if not 0; takes the place of `max_used_bytes`.
    pub max_used_share: u64,
    /// A cap that is crossed is kept by a tenth more than it asks for.
    pub is_distant: bool,
    /// What the filter takes is counted by itself, not with the rest of the cache.
    pub is_apart: bool,
}

impl Caps {
    /// How many of the used bytes may stay; `free_bytes` are those that the file system has left.
    pub fn keep_bytes(&self, used_bytes: u64, free_bytes: u64) -> u64 {
        let distance = |bytes: u64| if self.is_distant { bytes / 10 } else { 0 };
        let mut keep = if self.max_used_bytes == 0 && self.min_free_bytes != 0 { used_bytes } else { self.max_used_bytes };
        if used_bytes > keep {
            keep -= distance(keep);
        }
        if self.min_free_bytes > free_bytes {
            let lacking = self.min_free_bytes - free_bytes + distance(self.min_free_bytes);
            keep = keep.min(used_bytes.saturating_sub(lacking));
        }
        keep.max(self.reserved_bytes)
    }
}

/// What a pruning is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Take what is shared with images and records of past builds too.
    pub all: bool,
    /// Take only these.
    pub filter: ItemFilter,
    /// Stop where so much is left.
    pub caps: Caps,
}

impl PruneOptions {
    /// Everything that nobody uses and no image needs.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    fn may_take(&self, item: &Item, now_secs: i64) -> bool {
        let is_plain = !item.is_shared && item.kind != ItemKind::Build;
        (self.all || is_plain) && self.filter.takes(item, now_secs)
    }
}

/// What a pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Freed bytes, as allocated blocks.
    pub bytes: u64,
    /// What went, in that order.
    pub removed: Vec<Item>,
    /// How many items were left because a running build relies on them.
    pub in_use: usize,
    /// Trees with files of other ids, for a worker to delete.
    pub undeletable: Vec<PathBuf>,
    /// What the build cache takes now, as allocated blocks.
    pub left_bytes: u64,
    /// What of it cache mounts take.
    pub left_mount_bytes: u64,
}

impl PruneReport {
    fn has_layers(&self) -> bool {
        self.removed.iter().any(|item| item.layer.is_some())
    }
}

/// What is done with the items of a listing. They stay where they are until the end: a large store has them in memory once.
struct Eviction {
    items: Vec<Item>,
    /// Which of them went, in that order.
    removed: Vec<usize>,
    bytes: u64,
    in_use: usize,
    undeletable: Vec<PathBuf>,
}

impl Eviction {
    fn of(items: Vec<Item>) -> Self {
        Self { items, removed: Vec::new(), bytes: 0, in_use: 0, undeletable: Vec::new() }
    }

    fn report(self) -> PruneReport {
        let Self { items, removed, bytes, in_use, undeletable } = self;
        let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
        let removed = removed.into_iter().filter_map(|at| items[at].take()).collect();
        PruneReport { bytes, removed, in_use, undeletable, left_bytes: 0, left_mount_bytes: 0 }
    }
}

/// How many images are removed under one lock, and one reading of all names.
const IMAGES_AT_ONCE: usize = 64;

/// More than this would have builds wait at the gate.
const MAX_BATCH: usize = 1024;

/// How many items go between two openings of the gate, before each of which so many things that are needed or in use are read again:
/// about as many, so that a large pruning of a store with many images costs what both take, not their product.
fn batch(read_again: usize) -> usize {
    read_again.clamp(BATCH, MAX_BATCH)
}

/// The garbage collection of a store.
#[derive(Clone, Copy, Debug)]
pub struct Gc<'a> {
    store: &'a Arc<Inner>,
}

impl<'a> Gc<'a> {
    pub(crate) fn new(store: &'a Arc<Inner>) -> Self {
        Self { store }
    }

    /// Drops the whole build cache: records, lists, cache mounts, stat caches, logs, and every layer and blob that no image needs and
    /// no running build uses. Images stay, those without a name too.
    pub fn prune_all(self) -> Result<PruneReport, StoreError> {
        self.prune(&[PruneOptions::everything()], None, &mut |paths| vec![None; paths.len()])
    }

    /// Prunes by some rules, one after the other. Ends early at `deadline`.
    pub fn prune(
        self,
        rules: &[PruneOptions],
        deadline: Option<Instant>,
        mapped: &mut MeasureMapped<'_>,
    ) -> Result<PruneReport, StoreError> {
        self.require_writable()?;
        let mut report = self.take(rules, deadline, mapped)?;
        let everything = rules.iter().any(|rule| *rule == PruneOptions::everything());
        report.bytes += self.sweep(everything)?;
        self.finish(report)
    }

    /// Keeps to a policy: drops old records of builds, and prunes if it is time to. `None` if there was nothing to do.
    pub fn collect(self, policy: &Policy, reason: Reason, mapped: &mut MeasureMapped<'_>) -> Result<Option<PruneReport>, StoreError> {
        self.require_writable()?;
        let is_full = reason.urgency == Urgency::Full;
        if !is_full {
            let builds = Builds::new(self.store);
            if policy.keep_builds != 0 {
                builds.keep_newest(policy.keep_builds)?;
            }
            if reason.grown_bytes > 0 {
                // Only what ran has said something.
                builds.keep_bytes(KEPT_BUILD_BYTES)?;
            }
        }
        let disk = Disk::of(self.store.root())?;
        let rules = policy.rules(reason, disk);
        if rules.is_empty() {
            return Ok(None);
        }
        let mut turn = Turn::take(self.store.root())?;
        let mut added = turn.add(reason.grown_bytes);
        if reason.has_mounts && !is_full && turn.wants_mounts(policy, last_use::now_secs()) {
            let started = Instant::now();
            let bytes = self.mount_bytes(mapped)?;
            added = added.and(turn.note_mounts(bytes, started.elapsed().as_millis() as u64, last_use::now_secs()));
        }
        if !is_full && !turn.is_due(policy, last_use::now_secs(), disk.free_bytes) {
            return Ok(None);
        }
        let started = Instant::now();
        let mut report = self.take(&rules, None, mapped)?;
        if !report.removed.is_empty() {
            report.bytes += self.sweep(false)?;
            report = self.finish(report)?;
        }
        let took_ms = started.elapsed().as_millis() as u64;
        let free_bytes = Disk::of(self.store.root())?.free_bytes;
        let noted = turn.note(policy, last_use::now_secs(), took_ms, (report.left_bytes, report.left_mount_bytes), free_bytes);
        // On a full disk there may be no room for the note.
        if is_full { Ok(Some(report)) } else { added.and(noted).map(|()| Some(report)) }
    }

    /// What all cache mounts take.
    fn mount_bytes(self, mapped: &mut MeasureMapped<'_>) -> Result<u64, StoreError> {
        let (mounts, mut paths) = (self.store.root().join("mounts"), Vec::new());
        for map in names_in(&mounts)? {
            paths.extend(names_in(&mounts.join(&map))?.into_iter().map(|name| mounts.join(&map).join(name)));
        }
        Meter::default().trees(&paths, mapped).map(|(sizes, _)| sizes.iter().sum())
    }

    /// Lists the store and takes what some rules allow, again until nothing more goes: files that layers share count for one of them,
    /// and are free when the last of them has gone.
    fn take(self, rules: &[PruneOptions], deadline: Option<Instant>, mapped: &mut MeasureMapped<'_>) -> Result<PruneReport, StoreError> {
        let free_bytes = self.free_bytes()?;
        let (mut report, _) = self.take_once(rules, free_bytes, deadline, mapped)?;
        // A share of what is there would be another one each time.
        let has_lasting_cap =
            rules.iter().any(|rule| rule.caps != Caps::default()) && rules.iter().all(|rule| rule.caps.max_used_share == 0);
        let mut has_shrunk = report.has_layers();
        while has_lasting_cap && has_shrunk && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            // Some file systems show what was freed later.
            let free_bytes = self.free_bytes()?.max(free_bytes.saturating_add(report.bytes));
            let (more, begin_bytes) = self.take_once(rules, free_bytes, deadline, mapped)?;
            has_shrunk = more.has_layers();
            report.bytes = report.bytes.saturating_sub(begin_bytes.saturating_sub(report.left_bytes)) + more.bytes;
            report.removed.extend(more.removed);
            report.undeletable.extend(more.undeletable);
            (report.in_use, report.left_bytes, report.left_mount_bytes) = (more.in_use, more.left_bytes, more.left_mount_bytes);
        }
        Ok(report)
    }

    /// Lists the store and takes what some rules allow, one after the other. Returns also what the cache took before.
    fn take_once(
        self,
        rules: &[PruneOptions],
        free_bytes: u64,
        deadline: Option<Instant>,
        mapped: &mut MeasureMapped<'_>,
    ) -> Result<(PruneReport, u64), StoreError> {
        let Inventory { items, overhead_bytes, .. } = Inventory::of(self.store, mapped)?;
        let now_secs = last_use::now_secs();
        let mut eviction = Eviction::of(items);
        let cost = |item: &Item| if item.is_shared { 0 } else { item.size_bytes };
        let mut used_bytes = overhead_bytes + eviction.items.iter().map(cost).sum::<u64>();
        let begin_bytes = used_bytes;
        let mut left: Vec<usize> = (0..eviction.items.len()).filter(|at| !eviction.items[*at].is_in_use).collect();
        let used: Vec<usize> = (0..eviction.items.len()).filter(|at| eviction.items[*at].is_in_use).collect();
        eviction.in_use = used.len();
        for rule in rules {
            let items = &eviction.items;
            let apart = left.iter().chain(&used).map(|at| &items[*at]).filter(|item| rule.filter.takes(item, now_secs)).map(cost).sum();
            let mut counted = if rule.caps.is_apart { apart } else { used_bytes };
            let mut caps = rule.caps;
            if caps.max_used_share != 0 {
                caps.max_used_bytes = begin_bytes / 100 * caps.max_used_share;
            }
            let keep_bytes = caps.keep_bytes(counted, free_bytes.saturating_add(eviction.bytes));
            let mut chosen = Vec::new();
            left.retain(|at| {
                let item = &items[*at];
                let goes = counted > keep_bytes && rule.may_take(item, now_secs);
                if goes {
                    let bytes = cost(item);
                    (counted, used_bytes) = (counted.saturating_sub(bytes), used_bytes.saturating_sub(bytes));
                    chosen.push(*at);
                }
                !goes
            });
            if !self.evict(&chosen, deadline, &mut eviction)? {
                break;
            }
        }
        let mounts = left.iter().chain(&used).map(|at| &eviction.items[*at]).filter(|item| item.kind == ItemKind::Mount);
        let left_mount_bytes = mounts.map(|item| item.size_bytes).sum();
        Ok((PruneReport { left_bytes: used_bytes, left_mount_bytes, ..eviction.report() }, begin_bytes))
    }

    /// Removes images, each with the names that it had when it was chosen, and of what they needed everything that neither other images nor
    /// the build cache have. One that has got other names since stays.
    pub fn remove_images(self, chosen: &[(OciDigest, Vec<String>)], mapped: &mut MeasureMapped<'_>) -> Result<PruneReport, StoreError> {
        self.require_writable()?;
        let mut before = Needed::default();
        let images = Images::new(self.store);
        for chosen in chosen.chunks(IMAGES_AT_ONCE) {
            let _lock = images.lock()?;
            let named = images.names_by_id()?;
            for (id, names) in chosen {
                let own_names = named.get(id).map_or(&[][..], Vec::as_slice);
                if own_names.iter().any(|name| !names.contains(name)) {
                    continue;
                }
                if let Some(record) = images.get(id)? {
                    let own = Needed::of_image(self.store, &record)?;
                    before.blobs.extend(own.blobs);
                    before.layers.extend(own.layers);
                }
                images.remove_named(id, own_names)?;
            }
        }
        let was_needed = |item: &Item| match item.layer {
            Some(layer) => item.uses == 0 && before.layers.contains(&layer),
            None => item.kind == ItemKind::Blob && item.blobs.iter().any(|blob| before.blobs.contains(blob)),
        };
        let mut eviction = Eviction::of(Inventory::of(self.store, mapped)?.items);
        let chosen = eviction.items.iter().enumerate().filter(|(_, item)| !item.is_shared && was_needed(item));
        let chosen: Vec<usize> = chosen.map(|(at, _)| at).collect();
        self.evict(&chosen, None, &mut eviction)?;
        self.finish(eviction.report())
    }

    /// Moves items out of the way, but for those that are needed after all. Returns whether there was time for all.
    fn evict(self, chosen: &[usize], deadline: Option<Instant>, eviction: &mut Eviction) -> Result<bool, StoreError> {
        let mut chosen = chosen.iter().peekable();
        while chosen.peek().is_some() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
            let gate = Gate::close(self.store)?;
            let in_use = InUse::read(self.store)?;
            let needed = Needed::of(self.store)?;
            for at in chosen.by_ref().take(batch(needed.len() + in_use.len())) {
                let item = &eviction.items[*at];
                if item.names().iter().any(|name| in_use.has(name)) {
                    eviction.in_use += 1;
                } else if is_free(item, &needed) {
                    let paths = item.paths.iter().filter(|path| self.drop_path(path, &mut eviction.undeletable));
                    // Another pruning may have taken it since it was listed.
                    if paths.count() > 0 {
                        eviction.bytes += item.size_bytes;
                        eviction.removed.push(*at);
                    }
                }
            }
            drop(gate);
            self.store.empty_trash()?;
        }
        Ok(true)
    }

    fn finish(self, mut report: PruneReport) -> Result<PruneReport, StoreError> {
        self.prune_marks()?;
        let (_, left) = self.store.reap()?;
        report.undeletable.extend(left);
        Ok(report)
    }

    /// Moves something to `trash/`; what belongs to another id cannot be moved either. Returns whether it was there.
    fn drop_path(self, relative: &Path, stuck: &mut Vec<PathBuf>) -> bool {
        let path = self.store.root().join(relative);
        if SMALL.iter().any(|folder| relative.starts_with(folder)) && std::fs::remove_file(&path).is_ok() {
            return true;
        }
        let is_gone = self.store.take_away(&path).is_ok();
        let is_stuck = !is_gone && path.symlink_metadata().is_ok();
        if is_stuck {
            stuck.push(path);
        }
        is_gone || is_stuck
    }

    /// Deletes what leads nowhere: records without a layer, pointers to layers that are gone, lists of no record. Returns their bytes.
    /// Builds go on meanwhile: a layer that is not among those listed may have been made since.
    fn sweep(self, everything: bool) -> Result<u64, StoreError> {
        let (root, mut bytes) = (self.store.root(), 0);
        let layers: BTreeSet<LayerId> = names_in(&root.join("layers"))?.iter().filter_map(|name| name.parse().ok()).collect();
        let is_there = |layer: &LayerId| layers.contains(layer) || Layers::new(self.store).dir(layer).exists();
        let mut lists: BTreeSet<ListId> = BTreeSet::new();
        let mut has_records = false;
        each_record(self.store, &mut |path, record| {
            match record.filter(|record| is_there(&record.layer)) {
                Some(record) => {
                    lists.extend(lists_of(&record));
                    has_records = true;
                }
                None => bytes += remove_small(&root.join(path)),
            }
            Ok(())
        })?;
        let is_fresh = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| last_use::mtime_secs(&meta) + last_use::GRAIN_SECS > last_use::now_secs())
        };
        for name in names_in(&root.join("lists"))? {
            let path = root.join("lists").join(&name);
            // A build writes the list before the record.
            let is_needed = name.parse().is_ok_and(|id: ListId| lists.contains(&id)) || !everything && is_fresh(&path);
            bytes += if is_needed { 0 } else { remove_small(&path) };
        }
        for name in names_in(&root.join("by-source"))? {
            let path = root.join("by-source").join(name);
            let list = self.store.read_entry::<ListId>(entry::TAKEN, &path)?.whole();
            bytes += if list.is_some_and(|list| lists.contains(&list)) || !everything && is_fresh(&path) { 0 } else { remove_small(&path) };
        }
        for name in names_in(&root.join("by-diff"))? {
            let path = root.join("by-diff").join(name);
            let layer = self.store.read_entry::<LayerId>(entry::POINTER, &path)?.whole();
            bytes += if layer.is_some_and(|layer| is_there(&layer)) { 0 } else { remove_small(&path) };
        }
        for name in names_in(&root.join("by-content"))? {
            let path = root.join("by-content").join(name);
            let known = self.store.read_entry::<KnownLayer>(entry::KNOWN, &path)?.whole();
            // A layer that only an image has is no longer a step's.
            let is_needed = known.is_some_and(|known| is_there(&known.layer)) && (has_records || !everything);
            bytes += if is_needed { 0 } else { remove_small(&path) };
        }
        if everything && !has_records {
            // Why a step misses can be told from them for as long as there is a cache.
            for name in names_in(&root.join("steps/last"))? {
                bytes += remove_small(&root.join("steps/last").join(name));
            }
        }
        for folder in ["steps", "mounts"] {
            for dir in names_in(&root.join(folder))? {
                // Fails where something is left.
                drop(std::fs::remove_dir(root.join(folder).join(dir)));
            }
        }
        Ok(bytes)
    }

    /// Forgets the marks of past boots from which nothing is left.
    fn prune_marks(self) -> Result<(), StoreError> {
        let root = self.store.root();
        let mut used = BTreeSet::from([self.store.durability.epoch().to_owned()]);
        let mut look = |dir: &Path, file: &str| -> Result<(), StoreError> {
            for name in names_in(dir)? {
                let path = dir.join(name);
                used.extend(entry::epoch_at(&if file.is_empty() { path } else { path.join(file) }));
            }
            Ok(())
        };
        for dir in names_in(&root.join("steps"))? {
            look(&root.join("steps").join(dir), "")?;
        }
        for dir in ["blobs/made", "by-diff", "by-content"] {
            look(&root.join(dir), "")?;
        }
        look(&root.join("layers"), "made")?;
        for layer in names_in(&root.join("layers"))? {
            let dir = root.join("layers").join(layer);
            look(&dir.join("packed"), "")?;
            look(&dir.join("diff"), "")?;
            look(&dir.join("fs"), "made")?;
        }
        for epoch in names_in(&root.join("durable"))? {
            if !used.contains(epoch.strip_suffix(".new").unwrap_or(&epoch)) {
                drop(std::fs::remove_file(root.join("durable").join(epoch)));
            }
        }
        Ok(())
    }

    fn free_bytes(self) -> Result<u64, StoreError> {
        Disk::of(self.store.root()).map(|disk| disk.free_bytes)
    }

    fn require_writable(self) -> Result<(), StoreError> {
        self.store.require_writable(|| "delete anything in it".into())
    }
}

/// Whether images can do without an item. One that was listed as nobody's may have become part of an image since.
fn is_free(item: &Item, needed: &Needed) -> bool {
    let has_unpacked = item.is_shared && item.paths.iter().any(|path| path.iter().nth(2).is_some_and(|part| part == "fs" || part == BORN));
    let is_needed = |layer| if item.is_shared { has_unpacked && needed.unpacked.contains(&layer) } else { needed.layers.contains(&layer) };
    let is_layer_free = item.layer.is_none_or(|layer| !is_needed(layer));
    is_layer_free && !item.blobs.iter().any(|blob| needed.blobs.contains(blob))
}

/// Deletes a file and returns what it took.
fn remove_small(path: &Path) -> u64 {
    let bytes = std::fs::symlink_metadata(path).map_or(0, |meta| crate::usage::allocated(&meta));
    match std::fs::remove_file(path) {
        Ok(()) => bytes,
        Err(error) if is_absent(&error) => 0,
        Err(_) => 0,
    }
}
