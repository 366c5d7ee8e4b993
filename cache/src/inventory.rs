//! What is in a store, as things that can be deleted one by one, with what each of them takes.
//!
//! | kind | what it is | what goes with it |
//! |---|---|---|
//! | [`ItemKind::Layer`] | a layer | all its forms and notes, its step records, the blobs that no other layer and no image has |
//! | [`ItemKind::Blob`] | a blob that no layer has | |
//! | [`ItemKind::Mount`] | a RUN cache mount | |
//! | [`ItemKind::Context`] | a stat cache or the record of a download | |
//! | [`ItemKind::Checkout`] | a git checkout | |
//! | [`ItemKind::Build`] | record and logs of a past build | |
//!
//! Of a layer that an image has, the index and one form belong to the image; the rest is an item that is *shared*. Pointers, lists,
//! locks and unfinished things are overhead: they go with what they belong to. Every allocated block of the store is counted
//! exactly once, in an item, an image or the overhead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{ChainId, LayerId, ListId, OciDigest};
use crate::entry;
use crate::error::StoreError;
use crate::image::Images;
use crate::key::KeyValue;
use crate::last_use;
use crate::layer::PackedEntry;
use crate::lease::InUse;
use crate::needed::Needed;
use crate::step::StepRecord;
use crate::store::Inner;
use crate::tmp::names_in;
use crate::usage::{MeasureMapped, Meter, own_bytes};

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A layer with its forms.
    Layer,
    /// A blob that belongs to nothing.
    Blob,
    /// A cache mount.
    Mount,
    /// A stat cache.
    Context,
    /// A git checkout.
    Checkout,
    /// A past build.
    Build,
}

/// The part of a key that names the chain below the step.
const PARENT: &str = "parent";
/// The folders whose children are items of their own.
const FOLDERS: &[(&str, ItemKind)] = &[("contexts", ItemKind::Context), (CHECKOUTS, ItemKind::Checkout), ("builds", ItemKind::Build)];
/// Git checkouts lie among the stat caches.
const CHECKOUTS: &str = "contexts/git";
/// The folders that are looked into by their own rules.
const OWN_RULES: &[&str] = &["blobs", "layers", "steps", "mounts", "images", "contexts", "builds"];

/// Something that can be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Unique in the store.
    pub id: String,
    /// What it is.
    pub kind: ItemKind,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// When it was made: seconds since 1970.
    pub created_secs: i64,
    /// When it was last used, never later than the listing: seconds since 1970.
    pub last_used_secs: i64,
    /// Whether it is the rest of a layer that an image keeps.
    pub is_shared: bool,
    /// Whether a running build relies on it.
    pub is_in_use: bool,
    /// How many step records lead to it.
    pub uses: usize,
    /// What made it, for people.
    pub description: String,
    /// The two times to the nanosecond, for their order.
    pub(crate) created_nanos: i64,
    pub(crate) last_used_nanos: i64,
    pub(crate) layer: Option<LayerId>,
    pub(crate) blobs: Vec<OciDigest>,
    /// Below the root, in the order in which they are to go.
    pub(crate) paths: Vec<PathBuf>,
}

impl Item {
    /// What leases call it and its blobs.
    pub(crate) fn names(&self) -> Vec<String> {
        let own = match self.layer {
            Some(layer) => vec![format!("layers/{layer}")],
            None => self.paths.iter().map(|path| path.display().to_string()).collect(),
        };
        own.into_iter().chain(self.blobs.iter().map(blob_name)).collect()
    }
}

pub(crate) fn blob_name(digest: &OciDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// What images take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub id: OciDigest,
    /// Allocated bytes of all that it needs.
    pub size_bytes: u64,
    /// Of these, what other images need too.
    pub shared_bytes: u64,
}

/// Everything in a store.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// What can be deleted, least recently used first.
    pub items: Vec<Item>,
    /// The images.
    pub images: Vec<ImageUsage>,
    /// What all images need together.
    pub images_bytes: u64,
    /// Folders, pointers, lists, image records, locks, unfinished things.
    pub overhead_bytes: u64,
    /// Trees of mapped ids that nobody here can measure; they count as nothing.
    pub unmeasured: usize,
}

impl Inventory {
    /// What all items and the overhead take: the build cache.
    pub fn cache_bytes(&self) -> u64 {
        self.items.iter().map(|item| item.size_bytes).sum::<u64>() + self.overhead_bytes
    }

    /// Every allocated byte of the store.
    pub fn total_bytes(&self) -> u64 {
        self.cache_bytes() + self.images_bytes
    }

    pub(crate) fn of(store: &Arc<Inner>, mapped: &mut MeasureMapped<'_>) -> Result<Self, StoreError> {
        let in_use = InUse::read(store)?;
        let mut taking = Taking::new(store)?;
        taking.read_records()?;
        taking.read_layers()?;
        taking.read_blobs()?;
        taking.read_folders()?;
        let overhead = taking.overhead_paths()?;
        let mut meter = Meter::default();
        let paths: Vec<PathBuf> = taking.trees.iter().map(|(path, _)| path.clone()).chain(overhead).collect();
        let (sizes, unmeasured) = meter.trees(&paths, mapped)?;
        let (of_items, of_overhead) = sizes.split_at(taking.trees.len());
        for ((_, whose), size) in taking.trees.iter().zip(of_items) {
            match whose {
                Whose::Item(item) => taking.items[*item].size_bytes += size,
                Whose::Images(layer) => *taking.kept.entry(Kept::Layer(*layer)).or_default() += size,
            }
        }
        taking.overhead_bytes += of_overhead.iter().sum::<u64>();
        let images = taking.images()?;
        let running: BTreeSet<String> = names_in(&store.locks())?.into_iter().collect();
        let mut items = taking.items;
        for item in &mut items {
            item.is_in_use = item.kind == ItemKind::Build && running.contains(&format!("build-{}", item.id))
                || item.names().iter().any(|name| in_use.has(name));
        }
        use_parents(&mut items, &taking.chains);
        items.retain(|item| !item.paths.is_empty());
        items.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let images_bytes = taking.kept.values().sum();
        Ok(Self { items, images, images_bytes, overhead_bytes: taking.overhead_bytes, unmeasured })
    }
}

/// Least recently used first, to the nanosecond. Steps count as used when those above them are, and then the youngest goes first: a
/// step before those that it stands on.
fn rank(item: &Item) -> (i64, std::cmp::Reverse<i64>, ItemKind, &str) {
    (item.last_used_nanos, std::cmp::Reverse(item.created_nanos), item.kind, &item.id)
}

/// Where a step stands: the chain that it makes, the one below it, and its item.
struct Chain {
    own: ChainId,
    parent: ChainId,
    item: usize,
}

/// Who uses a step uses those below it, too, though within the hour it was not noted there.
fn use_parents(items: &mut [Item], chains: &[Chain]) {
    let by_own: BTreeMap<&[u8; 32], &Chain> = chains.iter().map(|chain| (chain.own.as_bytes(), chain)).collect();
    for chain in chains {
        let Item { last_used_secs, last_used_nanos, .. } = items[chain.item];
        let mut at = chain;
        while let Some(below) = by_own.get(at.parent.as_bytes()) {
            let below_it = &mut items[below.item];
            if below_it.last_used_nanos >= last_used_nanos {
                break;
            }
            (below_it.last_used_secs, below_it.last_used_nanos) = (last_used_secs, last_used_nanos);
            at = below;
        }
    }
}

/// Counts the store, part by part.
struct Taking<'a> {
    store: &'a Arc<Inner>,
    now_nanos: i64,
    needed: Needed,
    items: Vec<Item>,
    by_layer: BTreeMap<LayerId, usize>,
    /// Which layer's item takes a blob with it.
    blob_owner: BTreeMap<OciDigest, usize>,
    /// What a part takes that images keep.
    kept: BTreeMap<Kept, u64>,
    /// Trees still to be measured, and whose they are.
    trees: Vec<(PathBuf, Whose)>,
    overhead_bytes: u64,
    chains: Vec<Chain>,
    records: BTreeMap<LayerId, Vec<(PathBuf, StepRecord)>>,
}

/// Who takes what a tree takes.
enum Whose {
    Item(usize),
    Images(LayerId),
}

/// A part that images need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Blob(OciDigest),
    Layer(LayerId),
}

impl<'a> Taking<'a> {
    fn new(store: &'a Arc<Inner>) -> Result<Self, StoreError> {
        Ok(Self {
            store,
            now_nanos: last_use::now_nanos(),
            needed: Needed::of(store)?,
            items: Vec::new(),
            by_layer: BTreeMap::new(),
            blob_owner: BTreeMap::new(),
            kept: BTreeMap::new(),
            trees: Vec::new(),
            overhead_bytes: 0,
            chains: Vec::new(),
            records: BTreeMap::new(),
        })
    }

    fn item(&mut self, id: String, kind: ItemKind) -> usize {
        self.items.push(Item {
            id,
            kind,
            size_bytes: 0,
            created_secs: last_use::secs(self.now_nanos),
            last_used_secs: 0,
            created_nanos: self.now_nanos,
            last_used_nanos: 0,
            is_shared: false,
            is_in_use: false,
            uses: 0,
            description: String::new(),
            layer: None,
            blobs: Vec::new(),
            paths: Vec::new(),
        });
        self.items.len() - 1
    }

    /// Adds a path to an item: it takes the file's times.
    fn date(&mut self, item: usize, path: &Path) {
        if let Ok(meta) = std::fs::symlink_metadata(path) {
            let (at, item) = (last_use::of(&meta, self.now_nanos), &mut self.items[item]);
            item.last_used_nanos = item.last_used_nanos.max(at);
            item.last_used_secs = last_use::secs(item.last_used_nanos);
            item.created_nanos = item.created_nanos.min(at);
            item.created_secs = last_use::secs(item.created_nanos);
        }
    }

    fn add_tree(&mut self, item: usize, relative: PathBuf) {
        self.trees.push((self.store.root().join(&relative), Whose::Item(item)));
        self.items[item].paths.push(relative);
    }

    fn read_records(&mut self) -> Result<(), StoreError> {
        for (path, record) in step_records(self.store)? {
            match record {
                Some(record) => self.records.entry(record.layer).or_default().push((path, record)),
                // Nothing will ever hit it.
                None => self.overhead_bytes += own_bytes(&self.store.root().join(path))?,
            }
        }
        Ok(())
    }

    fn read_layers(&mut self) -> Result<(), StoreError> {
        for name in names_in(&self.store.root().join("layers"))? {
            let Ok(layer) = name.parse::<LayerId>() else {
                let item = self.item(name.clone(), ItemKind::Layer);
                self.add_tree(item, Path::new("layers").join(name));
                continue;
            };
            self.read_layer(layer)?;
        }
        // Records of layers that are gone: nothing hits them.
        for records in std::mem::take(&mut self.records).into_values() {
            for (path, _) in records {
                self.overhead_bytes += own_bytes(&self.store.root().join(path))?;
            }
        }
        Ok(())
    }

    fn read_layer(&mut self, layer: LayerId) -> Result<(), StoreError> {
        let item = self.item(layer.to_string(), ItemKind::Layer);
        self.by_layer.insert(layer, item);
        self.items[item].layer = Some(layer);
        let relative = Path::new("layers").join(layer.to_string());
        let dir = self.store.root().join(&relative);
        for dated in ["index", "made"] {
            self.date(item, &dir.join(dated));
        }
        self.take_records(item, layer)?;
        if !self.needed.layers.contains(&layer) {
            for name in names_in(&dir.join("packed"))? {
                let entry = self.store.read_entry::<PackedEntry>(entry::PACKED, &dir.join("packed").join(name))?.whole();
                self.own_blob(item, entry);
            }
            self.add_tree(item, relative);
            return Ok(());
        }
        self.items[item].is_shared = true;
        let mut kept_bytes = 0;
        for own in ["", "index", "made", "diff", "packed", "fs"] {
            kept_bytes += own_bytes(&if own.is_empty() { dir.clone() } else { dir.join(own) })?;
        }
        for name in names_in(&dir.join("diff"))? {
            kept_bytes += own_bytes(&dir.join("diff").join(name))?;
        }
        for name in names_in(&dir.join("packed"))? {
            let path = dir.join("packed").join(&name);
            let entry = self.store.read_entry::<PackedEntry>(entry::PACKED, &path)?.whole();
            if entry.as_ref().is_some_and(|entry| self.needed.blobs.contains(&entry.packed.blob)) {
                kept_bytes += own_bytes(&path)?;
            } else {
                self.own_blob(item, entry);
                self.add_tree(item, relative.join("packed").join(name));
            }
        }
        self.kept.insert(Kept::Layer(layer), kept_bytes);
        for name in names_in(&dir.join("fs"))? {
            self.date(item, &dir.join("fs").join(&name).join("made"));
            if self.needed.unpacked.contains(&layer) {
                self.trees.push((dir.join("fs").join(&name), Whose::Images(layer)));
            } else {
                self.add_tree(item, relative.join("fs").join(name));
            }
        }
        Ok(())
    }

    fn own_blob(&mut self, item: usize, entry: Option<PackedEntry>) {
        let Some(PackedEntry { packed, .. }) = entry else { return };
        if !self.needed.blobs.contains(&packed.blob) {
            self.blob_owner.entry(packed.blob).or_insert(item);
        }
    }

    fn take_records(&mut self, item: usize, layer: LayerId) -> Result<(), StoreError> {
        let Some(records) = self.records.remove(&layer) else { return Ok(()) };
        for (path, record) in records {
            let absolute = self.store.root().join(&path);
            self.date(item, &absolute);
            if let Some(KeyValue::Text(parent)) = record.parts.get(PARENT)
                && let Ok(parent) = parent.parse::<ChainId>()
            {
                self.chains.push(Chain { own: parent.child(record.content), parent, item });
            }
            let own = &mut self.items[item];
            own.size_bytes += own_bytes(&absolute)?;
            own.paths.push(path);
            own.uses += 1;
            let created_nanos = record.created_secs.saturating_mul(last_use::NANOS).saturating_add(record.created_nanos.into());
            own.created_nanos = own.created_nanos.min(created_nanos);
            own.created_secs = last_use::secs(own.created_nanos);
            if own.description.is_empty() {
                own.description = describe(&record);
            }
        }
        Ok(())
    }

    fn read_blobs(&mut self) -> Result<(), StoreError> {
        for algorithm in ["sha256", "sha512"] {
            let relative = Path::new("blobs").join(algorithm);
            self.overhead_bytes += own_bytes(&self.store.root().join(&relative))?;
            for hex in names_in(&self.store.root().join(&relative))? {
                self.read_blob(relative.join(&hex), format!("{algorithm}:{hex}").parse().ok())?;
            }
        }
        self.overhead_bytes += own_bytes(&self.store.root().join("blobs"))? + own_bytes(&self.store.root().join("blobs/made"))?;
        for made in names_in(&self.store.root().join("blobs/made"))? {
            let digest = OciDigest::from_file_name(&made);
            if digest.is_none_or(|digest| !self.store.root().join(blob_name(&digest)).exists()) {
                self.overhead_bytes += own_bytes(&self.store.root().join("blobs/made").join(made))?;
            }
        }
        Ok(())
    }

    fn read_blob(&mut self, relative: PathBuf, digest: Option<OciDigest>) -> Result<(), StoreError> {
        let path = self.store.root().join(&relative);
        let made = digest.as_ref().map(|digest| Path::new("blobs/made").join(digest.file_name()));
        let mut bytes = own_bytes(&path)?;
        if let Some(made) = &made {
            bytes += own_bytes(&self.store.root().join(made))?;
        }
        if let Some(digest) = digest.as_ref().filter(|digest| self.needed.blobs.contains(digest)) {
            self.kept.insert(Kept::Blob(digest.clone()), bytes);
            return Ok(());
        }
        let owner = digest.as_ref().and_then(|digest| self.blob_owner.get(digest).copied());
        let item = owner.unwrap_or_else(|| {
            let id = relative.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.item(id, ItemKind::Blob)
        });
        self.date(item, &path);
        let own = &mut self.items[item];
        own.size_bytes += bytes;
        // Without its note a blob is not there.
        own.paths.extend(made.into_iter().chain([relative]));
        own.blobs.extend(digest);
        Ok(())
    }

    fn read_folders(&mut self) -> Result<(), StoreError> {
        for (folder, kind) in FOLDERS {
            self.overhead_bytes += own_bytes(&self.store.root().join(folder))?;
            for name in names_in(&self.store.root().join(folder))? {
                let relative = Path::new(folder).join(&name);
                if relative == Path::new(CHECKOUTS) {
                    continue;
                }
                let item = self.item(name, *kind);
                self.date(item, &self.store.root().join(&relative));
                self.add_tree(item, relative);
            }
        }
        let mounts = self.store.root().join("mounts");
        self.overhead_bytes += own_bytes(&mounts)?;
        for map in names_in(&mounts)? {
            self.overhead_bytes += own_bytes(&mounts.join(&map))?;
            for name in names_in(&mounts.join(&map))? {
                let relative = Path::new("mounts").join(&map).join(&name);
                let item = self.item(name, ItemKind::Mount);
                "cached mount of RUN".clone_into(&mut self.items[item].description);
                self.date(item, &self.store.root().join(&relative));
                self.add_tree(item, relative);
            }
        }
        Ok(())
    }

    /// The rest of the store, as trees, after the folders themselves were added up.
    fn overhead_paths(&mut self) -> Result<Vec<PathBuf>, StoreError> {
        let root = self.store.root();
        let steps = root.join("steps");
        self.overhead_bytes += own_bytes(root)? + own_bytes(&root.join("layers"))? + own_bytes(&steps)?;
        for name in names_in(&steps)?.iter().filter(|name| *name != "last") {
            self.overhead_bytes += own_bytes(&steps.join(name))?;
        }
        let rest = names_in(root)?.into_iter().filter(|name| !OWN_RULES.contains(&name.as_str()) || name == "images");
        Ok(rest.map(|name| root.join(name)).chain([steps.join("last")]).collect())
    }

    fn images(&self) -> Result<Vec<ImageUsage>, StoreError> {
        let records = Images::new(self.store).records()?;
        let mut parts: Vec<(OciDigest, BTreeSet<Kept>)> = Vec::new();
        let mut count: BTreeMap<Kept, usize> = BTreeMap::new();
        for record in records {
            let own = Needed::of_image(self.store, &record)?;
            let blobs = own.blobs.into_iter().map(Kept::Blob);
            let own: BTreeSet<Kept> = blobs.chain(own.layers.into_iter().map(Kept::Layer)).collect();
            for part in &own {
                *count.entry(part.clone()).or_default() += 1;
            }
            parts.push((record.id, own));
        }
        let size = |part: &Kept| self.kept.get(part).copied().unwrap_or(0);
        let usage = |(id, own): (OciDigest, BTreeSet<Kept>)| {
            let shared_bytes = own.iter().filter(|part| count[*part] > 1).map(&size).sum();
            ImageUsage { id, size_bytes: own.iter().map(&size).sum(), shared_bytes }
        };
        Ok(parts.into_iter().map(usage).collect())
    }
}

/// All files of step records below the root, with the record where the file is a whole one.
pub(crate) fn step_records(store: &Inner) -> Result<Vec<(PathBuf, Option<StepRecord>)>, StoreError> {
    let mut found = Vec::new();
    for dir in names_in(&store.root().join("steps"))?.into_iter().filter(|name| name != "last") {
        let relative = Path::new("steps").join(dir);
        for name in names_in(&store.root().join(&relative))? {
            let path = relative.join(name);
            let record = store.read_entry::<StepRecord>(entry::STEP, &store.root().join(&path))?.whole();
            found.push((path, record));
        }
    }
    Ok(found)
}

/// The lists that a record names.
pub(crate) fn lists_of(record: &StepRecord) -> impl Iterator<Item = ListId> {
    let list = |(_, value): &(String, KeyValue)| match value {
        KeyValue::List(list) => Some(*list),
        KeyValue::Text(_) => None,
    };
    record.parts.parts().iter().filter_map(list)
}

/// `[stage 3] run`, after the step's place and kind.
fn describe(record: &StepRecord) -> String {
    format!("[{} {}] {}", record.site.stage, record.site.ordinal, record.parts.kind())
}
