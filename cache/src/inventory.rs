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

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ancestry::{Chain, use_parents};
use crate::build::Builds;
use crate::digest::{ChainId, LayerId, ListId, OciDigest};
use crate::entry;
use crate::error::StoreError;
use crate::image::Images;
use crate::key::KeyValue;
use crate::last_use;
use crate::layer::{BORN, PackedEntry};
use crate::lease::InUse;
use crate::needed::Needed;
use crate::step::StepRecord;
use crate::store::Inner;
use crate::tmp::names_in;
use crate::usage::{MeasureMapped, Meter, allocated, own_bytes};

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
/// So many trees are given to a worker together.
const ASKED_AT_ONCE: usize = 1024;
/// The folders whose children are items of their own.
const FOLDERS: &[(&str, ItemKind)] = &[("contexts", ItemKind::Context), (CHECKOUTS, ItemKind::Checkout), ("builds", ItemKind::Build)];
/// Git checkouts lie among the stat caches.
const CHECKOUTS: &str = "contexts/git";
/// The folders that are looked into by their own rules.
const OWN_RULES: &[&str] = &["blobs", "layers", "steps", "mounts", "images", "contexts", "builds"];

/// Something that can be deleted. A store has hundreds of thousands of them, so they are small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// Whether it is the rest of a layer that an image keeps.
    pub is_shared: bool,
    /// Whether a running build relies on it.
    pub is_in_use: bool,
    /// How many step records lead to it.
    pub uses: usize,
    /// What made it, for people.
    pub description: Arc<str>,
    /// The name of what is no layer.
    pub(crate) name: Box<str>,
    pub(crate) created_nanos: i64,
    pub(crate) last_used_nanos: i64,
    pub(crate) layer: Option<LayerId>,
    pub(crate) blobs: Vec<OciDigest>,
    pub(crate) paths: Paths,
}

impl Item {
    /// One of which nothing is known yet.
    pub(crate) fn new(kind: ItemKind, name: &str, description: Arc<str>, created_nanos: i64) -> Self {
        Self {
            kind,
            size_bytes: 0,
            is_shared: false,
            is_in_use: false,
            uses: 0,
            description,
            name: name.into(),
            created_nanos,
            last_used_nanos: 0,
            layer: None,
            blobs: Vec::new(),
            paths: Paths::default(),
        }
    }

    /// Its name, unique in the store.
    pub fn id(&self) -> String {
        self.layer.map_or_else(|| self.name.to_string(), |layer| layer.to_string())
    }

    /// When it was made: seconds since 1970.
    pub fn created_secs(&self) -> i64 {
        last_use::secs(self.created_nanos)
    }

    /// When it was last used, never later than the listing: seconds since 1970.
    pub fn last_used_secs(&self) -> i64 {
        last_use::secs(self.last_used_nanos)
    }

    /// What leases call it and its blobs.
    pub(crate) fn names(&self) -> Vec<String> {
        let own = match self.layer {
            Some(layer) => vec![format!("layers/{layer}")],
            None => self.paths.iter().map(|path| path.display().to_string()).collect(),
        };
        own.into_iter().chain(self.blobs.iter().map(blob_name)).collect()
    }
}

/// Paths below the root, in the order in which they are to go; a zero byte ends each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Paths(Vec<u8>);

impl Paths {
    fn push(&mut self, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        self.0.reserve_exact(bytes.len() + 1);
        self.0.extend_from_slice(bytes);
        self.0.push(0);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.split_inclusive(|byte| *byte == 0).map(|path| Path::new(OsStr::from_bytes(&path[..path.len() - 1])))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        let mut taking = Taking::new(store, mapped)?;
        let layers = taking.list_layers()?;
        taking.read_records(layers)?;
        for item in 0..layers {
            taking.read_layer(item)?;
        }
        taking.read_blobs()?;
        taking.read_folders()?;
        taking.read_rest()?;
        taking.ask_for_unreadable();
        let images = taking.images()?;
        let Taking { mut items, mut chains, kept, overhead_bytes, unmeasured, .. } = taking;
        let builds = Builds::new(store);
        for item in &mut items {
            item.is_in_use = item.kind == ItemKind::Build && builds.is_running(&item.name)?
                || !in_use.is_empty() && item.names().iter().any(|name| in_use.has(name));
        }
        use_parents(&mut items, &mut chains);
        drop(chains);
        items.retain(|item| !item.paths.is_empty());
        items.sort_unstable_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.id().cmp(&b.id())));
        Ok(Self { items, images, images_bytes: kept.values().sum(), overhead_bytes, unmeasured })
    }
}

/// Least recently used first, to the nanosecond. Steps count as used when those above them are, and then the youngest goes first: a
/// step before those that it stands on.
fn rank(item: &Item) -> (i64, Reverse<i64>, ItemKind) {
    (item.last_used_nanos, Reverse(item.created_nanos), item.kind)
}

/// Counts the store, part by part.
struct Taking<'a, 'b, 'm> {
    store: &'a Arc<Inner>,
    now_nanos: i64,
    needed: Needed,
    /// The layers come first, by their ids.
    items: Vec<Item>,
    descriptions: BTreeSet<Arc<str>>,
    /// Which layer's item takes a blob with it.
    blob_owner: BTreeMap<OciDigest, usize>,
    /// What a part takes that images keep.
    kept: BTreeMap<Kept, u64>,
    meter: Meter,
    mapped: &'b mut MeasureMapped<'m>,
    /// Trees that only a worker can measure, and whose they are.
    unreadable: Vec<(PathBuf, Whose)>,
    unmeasured: usize,
    overhead_bytes: u64,
    chains: Vec<Chain>,
}

/// Who takes what a tree takes.
#[derive(Clone, Copy)]
enum Whose {
    Item(usize),
    Images(LayerId),
    Nobody,
}

/// A part that images need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Blob(OciDigest),
    Layer(LayerId),
}

impl<'a, 'b, 'm> Taking<'a, 'b, 'm> {
    fn new(store: &'a Arc<Inner>, mapped: &'b mut MeasureMapped<'m>) -> Result<Self, StoreError> {
        Ok(Self {
            store,
            now_nanos: last_use::now_nanos(),
            needed: Needed::of(store)?,
            items: Vec::new(),
            descriptions: BTreeSet::new(),
            blob_owner: BTreeMap::new(),
            kept: BTreeMap::new(),
            meter: Meter::default(),
            mapped,
            unreadable: Vec::new(),
            unmeasured: 0,
            overhead_bytes: 0,
            chains: Vec::new(),
        })
    }

    fn item(&mut self, name: &str, kind: ItemKind) -> usize {
        let description = self.described("");
        self.items.push(Item::new(kind, name, description, self.now_nanos));
        self.items.len() - 1
    }

    /// A description, one for all items that have it.
    fn described(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.descriptions.get(text) {
            return Arc::clone(known);
        }
        let fresh: Arc<str> = text.into();
        self.descriptions.insert(Arc::clone(&fresh));
        fresh
    }

    /// Adds a path to an item: it takes the file's times. Returns the bytes of the file itself.
    fn date(&mut self, item: usize, path: &Path) -> u64 {
        let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
        let (at, item) = (last_use::of(&meta, self.now_nanos), &mut self.items[item]);
        item.last_used_nanos = item.last_used_nanos.max(at);
        item.created_nanos = item.created_nanos.min(at);
        allocated(&meta)
    }

    fn add_tree(&mut self, item: usize, relative: &Path) -> Result<(), StoreError> {
        self.items[item].paths.push(relative);
        self.measure(self.store.root().join(relative), Whose::Item(item))
    }

    fn measure(&mut self, tree: PathBuf, whose: Whose) -> Result<(), StoreError> {
        if let Some(bytes) = self.meter.tree(&tree)? {
            self.count(whose, bytes);
            return Ok(());
        }
        self.unreadable.push((tree, whose));
        if self.unreadable.len() >= ASKED_AT_ONCE {
            self.ask_for_unreadable();
        }
        Ok(())
    }

    fn count(&mut self, whose: Whose, bytes: u64) {
        match whose {
            Whose::Item(item) => self.items[item].size_bytes += bytes,
            Whose::Images(layer) => *self.kept.entry(Kept::Layer(layer)).or_default() += bytes,
            Whose::Nobody => self.overhead_bytes += bytes,
        }
    }

    /// What nobody can measure counts as nothing.
    fn ask_for_unreadable(&mut self) {
        if self.unreadable.is_empty() {
            return;
        }
        let (paths, whose): (Vec<PathBuf>, Vec<Whose>) = std::mem::take(&mut self.unreadable).into_iter().unzip();
        let mut answers = (self.mapped)(&paths).into_iter();
        for whose in whose {
            match answers.next().flatten() {
                Some(bytes) => self.count(whose, bytes),
                None => self.unmeasured += 1,
            }
        }
    }

    /// Makes an item for each layer, and returns how many there are.
    fn list_layers(&mut self) -> Result<usize, StoreError> {
        let (mut layers, mut foreign) = (Vec::new(), Vec::new());
        for name in names_in(&self.store.root().join("layers"))? {
            match name.parse::<LayerId>() {
                Ok(layer) => layers.push(layer),
                Err(_) => foreign.push(name),
            }
        }
        layers.sort_unstable();
        for layer in &layers {
            let item = self.item("", ItemKind::Layer);
            self.items[item].layer = Some(*layer);
        }
        for name in foreign {
            let item = self.item(&name, ItemKind::Layer);
            self.add_tree(item, &Path::new("layers").join(name))?;
        }
        Ok(layers.len())
    }

    /// Gives each step record to the item of its layer. Nothing will ever hit one that is torn or whose layer is gone.
    fn read_records(&mut self, layers: usize) -> Result<(), StoreError> {
        each_record(self.store, &mut |path, record| {
            let item = record.as_ref().map(|record| self.items[..layers].binary_search_by_key(&Some(record.layer), |item| item.layer));
            match (record, item) {
                (Some(record), Some(Ok(item))) => self.take_record(item, path, &record),
                _ => self.overhead_bytes += own_bytes(&self.store.root().join(path))?,
            }
            Ok(())
        })
    }

    fn read_layer(&mut self, item: usize) -> Result<(), StoreError> {
        let Some(layer) = self.items[item].layer else { return Ok(()) };
        let relative = Path::new("layers").join(layer.to_string());
        let dir = self.store.root().join(&relative);
        for dated in ["index", "made"] {
            self.date(item, &dir.join(dated));
        }
        if !self.needed.layers.contains(&layer) {
            for name in names_in(&dir.join("packed"))? {
                let entry = self.store.read_entry::<PackedEntry>(entry::PACKED, &dir.join("packed").join(name))?.whole();
                self.own_blob(item, entry);
            }
            return self.add_tree(item, &relative);
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
                self.add_tree(item, &relative.join("packed").join(name))?;
            }
        }
        self.kept.insert(Kept::Layer(layer), kept_bytes);
        let later = names_in(&dir.join("fs"))?.into_iter().map(|name| Path::new("fs").join(name));
        let born = dir.join(BORN).is_dir().then(|| PathBuf::from(BORN));
        for form in later.chain(born) {
            self.date(item, &dir.join(&form).join("made"));
            if self.needed.unpacked.contains(&layer) {
                self.measure(dir.join(form), Whose::Images(layer))?;
            } else {
                self.add_tree(item, &relative.join(form))?;
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

    fn take_record(&mut self, item: usize, path: &Path, record: &StepRecord) {
        let bytes = self.date(item, &self.store.root().join(path));
        if let Some(KeyValue::Text(parent)) = record.parts.get(PARENT)
            && let Ok(parent) = parent.parse::<ChainId>()
        {
            self.chains.push(Chain { own: parent.child(record.content), parent, item: item as u32 });
        }
        if self.items[item].description.is_empty() {
            self.items[item].description = self.described(&describe(record));
        }
        let own = &mut self.items[item];
        own.size_bytes += bytes;
        own.paths.push(path);
        own.uses += 1;
        let created_nanos = record.created_secs.saturating_mul(last_use::NANOS).saturating_add(record.created_nanos.into());
        own.created_nanos = own.created_nanos.min(created_nanos);
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
            let name = relative.file_name().unwrap_or_default().to_string_lossy();
            self.item(&name, ItemKind::Blob)
        });
        self.date(item, &path);
        let own = &mut self.items[item];
        own.size_bytes += bytes;
        // Without its note a blob is not there.
        made.into_iter().chain([relative]).for_each(|path| own.paths.push(&path));
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
                let item = self.item(&name, *kind);
                self.date(item, &self.store.root().join(&relative));
                self.add_tree(item, &relative)?;
            }
        }
        let mounts = self.store.root().join("mounts");
        self.overhead_bytes += own_bytes(&mounts)?;
        for map in names_in(&mounts)? {
            self.overhead_bytes += own_bytes(&mounts.join(&map))?;
            for name in names_in(&mounts.join(&map))? {
                let relative = Path::new("mounts").join(&map).join(&name);
                let item = self.item(&name, ItemKind::Mount);
                self.items[item].description = self.described("cached mount of RUN");
                self.date(item, &self.store.root().join(&relative));
                self.add_tree(item, &relative)?;
            }
        }
        Ok(())
    }

    /// The rest of the store, and the folders themselves.
    fn read_rest(&mut self) -> Result<(), StoreError> {
        let root = self.store.root();
        let steps = root.join("steps");
        self.overhead_bytes += own_bytes(root)? + own_bytes(&root.join("layers"))? + own_bytes(&steps)?;
        for name in names_in(&steps)?.iter().filter(|name| *name != "last") {
            self.overhead_bytes += own_bytes(&steps.join(name))?;
        }
        let rest = names_in(root)?.into_iter().filter(|name| !OWN_RULES.contains(&name.as_str()) || name == "images");
        rest.map(|name| root.join(name)).chain([steps.join("last")]).try_for_each(|path| self.measure(path, Whose::Nobody))
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

/// Gives all files of step records by their paths below the root, with the record where the file is a whole one.
pub(crate) fn each_record(
    store: &Inner,
    visit: &mut dyn FnMut(&Path, Option<StepRecord>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for dir in names_in(&store.root().join("steps"))?.into_iter().filter(|name| name != "last") {
        let relative = Path::new("steps").join(dir);
        for name in names_in(&store.root().join(&relative))? {
            let path = relative.join(name);
            let record = store.read_entry::<StepRecord>(entry::STEP, &store.root().join(&path))?.whole();
            visit(&path, record)?;
        }
    }
    Ok(())
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
