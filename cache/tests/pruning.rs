//! What a pruning takes, in which order, and that every block of a store is counted once.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{map, open, record, tree};
use shale_cache::{
    BlobRef, BuildRecord, BuildStep, Caps, ChainId, ContentId, DiffId, ImageLayer, ImageRecord, Inventory, Item, ItemFilter, ItemKind,
    LayerId, OciDigest, PackKey, Packed, Policy, PruneOptions, Reason, Store,
};
use tempfile::{TempDir, tempdir};

const HOUR: Duration = Duration::from_secs(3600);

/// Steps with a layer of about `kib` KiB each; closed again, so that nobody uses them.
fn filled(names: &[&str], kib: usize) -> (TempDir, Store) {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    for name in names {
        step(&store, name, kib);
    }
    drop(store);
    let store = open(dir.path());
    (dir, store)
}

fn index_of(name: &str, kib: usize) -> Vec<u8> {
    let mut index = name.as_bytes().to_vec();
    index.resize(kib << 10, b'.');
    index
}

fn step(store: &Store, name: &str, kib: usize) -> LayerId {
    let layer = store.layers().put_index(&index_of(name, kib)).expect("put");
    let tmp = store.tmp().expect("a directory");
    store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
    store.steps().put(&record(layer, name)).expect("put");
    layer
}

fn no_worker(paths: &[PathBuf]) -> Vec<Option<u64>> {
    panic!("nothing here belongs to mapped ids: {paths:?}")
}

fn inventory(store: &Store) -> Inventory {
    store.inventory(&mut no_worker).expect("counted")
}

fn prune(store: &Store, options: PruneOptions) -> Vec<String> {
    let report = store.gc().prune(&[options], None, &mut no_worker).expect("pruned");
    report.removed.iter().map(Item::id).collect()
}

/// Says that a layer and its record were last used at a time.
fn used_at(store: &Store, layer: LayerId, at: SystemTime) {
    let dir = store.root().join("layers").join(layer.to_string());
    let set = |path: &Path| fs::File::open(path).and_then(|file| file.set_modified(at)).expect("set");
    set(&dir.join("index"));
    set(&dir.join("made"));
    for entry in fs::read_dir(store.root().join("steps")).expect("listed").flatten().filter(|entry| entry.file_name() != "last") {
        for file in fs::read_dir(entry.path()).expect("listed").flatten() {
            if fs::read_to_string(file.path()).expect("read").contains(&layer.to_string()) {
                set(&file.path());
            }
        }
    }
}

/// `du -s` in bytes.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(path).output().expect("du starts");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn files_that_layers_share_are_free_when_the_last_of_them_has_gone() {
    let (_dir, store) = filled(&["one", "two", "three", "four"], 1);
    let fs_of = |name: &str| store.layers().fs(&LayerId::of_index(&index_of(name, 1)), &map()).expect("looked").expect("there");
    fs::write(fs_of("one").join("big"), vec![1; 400 << 10]).expect("written");
    for name in ["two", "three"] {
        fs::hard_link(fs_of("one").join("big"), fs_of(name).join("big")).expect("linked");
    }
    for (name, hours) in [("one", 4), ("two", 3), ("three", 2), ("four", 1)] {
        used_at(&store, LayerId::of_index(&index_of(name, 1)), SystemTime::now() - HOUR * hours);
    }
    let root = store.root().to_owned();
    drop(store);
    let store = open(&root);
    let before = du(&root);
    let caps = Caps { max_used_bytes: 300 << 10, ..Caps::default() };
    let report = store.gc().prune(&[PruneOptions { caps, ..PruneOptions::everything() }], None, &mut no_worker).expect("pruned");
    let gone: Vec<String> = report.removed.iter().map(Item::id).collect();
    let wanted = ["one", "two", "three"].map(|name| LayerId::of_index(&index_of(name, 1)).to_string());
    assert_eq!(gone, wanted);
    let left = inventory(&store).cache_bytes();
    assert!((left..300 << 10).contains(&report.left_bytes), "{} of {left}", report.left_bytes);
    let freed = before - du(&root);
    assert!(report.bytes.abs_diff(freed) < 100 << 10, "{} of {freed}", report.bytes);
}

#[test]
fn every_block_is_counted_once_as_du_does() {
    let (_dir, store) = filled(&["one", "two", "three"], 20);
    assert_eq!(inventory(&store).total_bytes(), du(store.root()));
    // With an image, packed forms, links, mounts, contexts, logs, rubbish.
    let layer = LayerId::of_index(&index_of("one", 20));
    let packed = |bytes: &[u8]| {
        let blob = store.blobs().put(bytes).expect("put");
        Packed { blob: blob.clone(), size_bytes: bytes.len() as u64, diff_id: DiffId(blob), media_type: "tar".to_owned() }
    };
    let key = |level| PackKey { compression: "gzip".to_owned(), level, encoder: "test".to_owned(), clamp_secs: None };
    let kept = packed(&[1; 9000]);
    store.layers().put_packed(&layer, &key(1), &kept).expect("put");
    store.layers().put_packed(&layer, &key(2), &packed(&[2; 5000])).expect("put");
    store.layers().set_diff_id(&layer, None, &kept.diff_id).expect("set");
    store.layers().set_by_diff(&kept.diff_id, &layer).expect("set");
    let id = store.blobs().put(b"config").expect("put");
    let blob = BlobRef { digest: kept.blob.clone(), size_bytes: 9000, media_type: "tar".to_owned() };
    let layers = vec![ImageLayer { diff_id: kept.diff_id.clone(), layer: Some(layer), blob: Some(blob) }];
    let image = ImageRecord {
        id: id.clone(),
        manifest: None,
        layers,
        repo_digests: Vec::new(),
        stored_at_secs: 1,
        built: shale_cache::Built::default(),
    };
    store.images().put(&image).expect("put");
    store.images().tag("app:latest", &image).expect("tagged");
    store.lists().put(&[7; 6000]).expect("put");
    store.blobs().put(&vec![3; 70_000]).expect("put");
    for name in ["mounts/map-1/npm/data/file", "contexts/abc", "builds/1/log", "contexts/git/repository/HEAD", "trash/x/y", "unknown/file"]
    {
        let path = store.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, [1; 5000]).expect("written");
    }
    let fs_of = store.layers().fs(&LayerId::of_index(&index_of("two", 20)), &map()).expect("looked").expect("there");
    fs::hard_link(fs_of.join("file"), fs_of.join("again")).expect("linked");
    let found = inventory(&store);
    assert_eq!(found.total_bytes(), du(store.root()), "{found:#?}");
    assert_eq!(found.images.len(), 1);
    assert!(found.images[0].size_bytes == found.images_bytes && found.images_bytes > 9000, "{found:?}");
    let shared: Vec<_> = found.items.iter().filter(|item| item.is_shared).collect();
    assert!(matches!(shared[..], [item] if item.id() == layer.to_string() && item.size_bytes > 5000), "{shared:?}");

    let root = store.root().to_owned();
    drop(store);
    let store = open(&root);
    // The du of another test, before it is du, is a copy of this process and holds the lease that has just ended.
    let start = std::time::Instant::now();
    while inventory(&store).items.iter().any(|item| item.is_in_use) {
        assert!(start.elapsed() < Duration::from_secs(20), "the lease does not end");
    }
    let before = inventory(&store).total_bytes();
    let report = store.gc().prune_all().expect("pruned");
    assert_eq!(inventory(&store).total_bytes(), du(&root));
    assert!(inventory(&store).items.is_empty());
    assert!(report.bytes > 70_000 && report.bytes <= before - inventory(&store).total_bytes() + 4096 * 20, "{} of {before}", report.bytes);
    // The image goes with what only it has.
    let report = store.gc().remove_images(&[(id, vec!["app:latest".to_owned()])], &mut no_worker).expect("removed");
    assert!(report.bytes > 9000 && inventory(&store).images_bytes == 0, "{report:?}");
    assert_eq!(inventory(&store).total_bytes(), du(&root));
}

#[test]
fn the_least_recently_used_goes_first_and_steps_before_those_below_them() {
    let names = ["a", "b", "c", "d"];
    let (_dir, store) = filled(&names, 64);
    let layers = names.map(|name| LayerId::of_index(&index_of(name, 64)));
    let now = SystemTime::now();
    for (layer, hours) in layers.iter().zip([5, 9, 1, 5]) {
        used_at(&store, *layer, now - HOUR * hours);
    }
    let total = inventory(&store).cache_bytes();
    let each = inventory(&store).items[0].size_bytes;
    let mut caps = Caps { max_used_bytes: total - 1, ..Caps::default() };
    assert_eq!(prune(&store, PruneOptions { caps, ..PruneOptions::default() }), [layers[1].to_string()]);
    caps.max_used_bytes = inventory(&store).cache_bytes() - each - 1;
    assert_eq!(prune(&store, PruneOptions { caps, ..PruneOptions::default() }).len(), 2);
    assert_eq!(inventory(&store).items.iter().map(Item::id).collect::<Vec<_>>(), [layers[2].to_string()]);
    caps.reserved_bytes = total;
    caps.max_used_bytes = 1;
    assert_eq!(prune(&store, PruneOptions { caps, ..PruneOptions::default() }), [""; 0], "what is reserved stays");
}

#[test]
fn of_things_made_within_a_second_the_first_goes_first() {
    let names = ["a", "b", "c", "d", "e"];
    let (_dir, store) = filled(&names, 1);
    let now = SystemTime::now();
    for (number, name) in (1..).zip(names) {
        used_at(&store, LayerId::of_index(&index_of(name, 1)), now - HOUR + Duration::from_nanos(number));
    }
    let order: Vec<String> = inventory(&store).items.iter().map(Item::id).collect();
    assert_eq!(order, names.map(|name| LayerId::of_index(&index_of(name, 1)).to_string()));
}

fn policy(max_bytes: u64) -> Policy {
    Policy { max_bytes, min_free_bytes: 0, reserved_bytes: 0, keep_secs: 0, max_checkout_bytes: 0, keep_builds: 10 }
}

/// Others write to the same disk meanwhile, which the next look would take for growth of the store.
fn forget_free_space(store: &Store) {
    let path = store.root().join("gc");
    let text = fs::read(&path).unwrap_or_default();
    if let Ok(mut seen) = serde_json::from_slice::<serde_json::Value>(&text) {
        assert!(seen["free_bytes"].is_u64(), "{seen}");
        seen["free_bytes"] = 0.into();
        fs::write(path, seen.to_string()).expect("written");
    }
}

fn collected(store: &Store, policy: &Policy) -> Option<Vec<String>> {
    let report = store.gc().collect(policy, Reason::routine(0, false), &mut no_worker).expect("collected");
    forget_free_space(store);
    report.map(|report| {
        // But for some folders and pointers, and the note itself.
        assert!(report.left_bytes.abs_diff(inventory(store).cache_bytes()) <= 4 * 4096, "{report:?}");
        report.removed.iter().map(Item::id).collect()
    })
}

#[test]
fn a_store_is_measured_once_and_again_when_it_may_have_outgrown_its_cap() {
    let (_dir, store) = filled(&["a", "b", "c"], 64);
    let layers = ["a", "b", "c"].map(|name| LayerId::of_index(&index_of(name, 64)));
    for (layer, hours) in layers.iter().zip([5, 9, 1]) {
        used_at(&store, *layer, SystemTime::now() - HOUR * hours);
    }
    fs::write(store.root().join("gc"), "").expect("written");
    let total = inventory(&store).cache_bytes();
    assert_eq!(collected(&store, &policy(0)), None, "there is nothing to keep to");
    assert_eq!(collected(&store, &policy(total * 2)), Some(vec![]), "nothing is known of it");
    assert_eq!(collected(&store, &policy(total * 2)), None);
    // The cap is lower now than what was seen; what goes makes some room for the next.
    assert_eq!(collected(&store, &policy(total - 1)), Some(vec![layers[1].to_string()]));
    assert_eq!(collected(&store, &policy(total - 1)), None);
    let reserved = Policy { reserved_bytes: total, ..policy(1) };
    assert_eq!(collected(&store, &reserved), None, "what is reserved stays");
    assert!(!reserved.is_pressed(store.root(), 0) && policy(1).is_pressed(store.root(), 0));
    // What a build uses stays, and is not looked at again at once.
    let user = open(store.root());
    let _lease = user.lease().expect("a lease");
    for name in ["a", "c"] {
        let layer = LayerId::of_index(&index_of(name, 64));
        assert!(user.steps().peek(&record(layer, name).key).expect("looked").is_some());
    }
    assert_eq!(collected(&store, &policy(1)), Some(vec![]));
    assert_eq!(collected(&store, &policy(1)), None);
    assert_eq!(inventory(&store).items.len(), 2);
}

#[test]
fn a_policy_caps_checkouts_ages_and_records() {
    let (_dir, store) = filled(&["old", "new"], 1);
    let old = LayerId::of_index(&index_of("old", 1));
    used_at(&store, old, SystemTime::now() - HOUR * 24 * 61);
    for (name, hours) in [("first", 3), ("second", 2)] {
        let place = store.root().join("contexts/git").join(name);
        fs::create_dir_all(&place).expect("made");
        fs::write(place.join("pack"), vec![1; 100_000]).expect("written");
        fs::File::open(place).and_then(|dir| dir.set_modified(SystemTime::now() - HOUR * hours)).expect("set");
    }
    for _ in 0..4 {
        let build = store.builds().begin(BuildRecord::default()).expect("begun");
        build.end(BuildRecord::default()).expect("ended");
    }
    let newest = store.builds().ids().expect("listed");
    let policy = Policy { keep_secs: 60 * 24 * 3600, max_checkout_bytes: 150_000, keep_builds: 2, ..policy(0) };
    assert_eq!(collected(&store, &policy), Some(vec!["first".to_owned(), old.to_string()]));
    assert_eq!(store.builds().ids().expect("listed"), newest[..2]);
    // Of a clock that was wrong.
    for id in ["f100000000000000", "f200000000000000"] {
        fs::create_dir(store.builds().dir(id)).expect("made");
    }
    store.builds().keep_newest(2).expect("kept");
    assert_eq!(store.builds().ids().expect("listed"), newest[..2]);
    // As a build leaves it that was killed.
    fs::write(store.root().join("locks").join(format!("build-{}", newest[0])), "").expect("written");
    assert!(inventory(&store).items.iter().all(|item| !item.is_in_use));
}

#[test]
fn builds_that_commit_nothing_ask_for_no_sync_and_stay_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for number in 1..=40_usize {
        let build = store.builds().begin(BuildRecord::default()).expect("begun");
        build.end(BuildRecord { steps: vec![BuildStep::default()], ..BuildRecord::default() }).expect("ended");
        drop(build);
        let removed = store.builds().keep_about(8).expect("kept");
        let left = store.builds().ids().expect("listed").len();
        assert!(left <= 10 && (removed == 0 || left == 8), "{number}: {removed} went, {left} are left");
        assert!(left >= number.min(8));
    }
    assert!(store.take_sync_job().is_none(), "records of builds are no reason to sync");
    store.blobs().put(b"a blob").expect("put");
    assert!(store.take_sync_job().is_some());
}

#[test]
fn a_full_disk_takes_what_is_reserved_but_nothing_that_is_used() {
    let (_dir, store) = filled(&["a", "b"], 64);
    let policy = Policy { reserved_bytes: 1 << 40, min_free_bytes: 1 << 50, ..policy(0) };
    let user = open(store.root());
    let lease = user.lease().expect("a lease");
    assert!(user.steps().peek(&record(LayerId::of_index(&index_of("b", 64)), "b").key).expect("looked").is_some());
    let report = store.gc().collect(&policy, Reason::full(false), &mut no_worker).expect("collected").expect("tried");
    assert_eq!(report.removed.len(), 1);
    // Whoever begins again says anew what they use.
    lease.renew().expect("a fresh lease");
    let report = store.gc().collect(&policy, Reason::full(false), &mut no_worker).expect("collected").expect("tried");
    assert_eq!((report.removed.len(), inventory(&store).items.len()), (1, 0));
    // A quota says nothing of the disk: a part of the cache goes.
    let (_dir, store) = filled(&["a", "b", "c", "d", "e", "f"], 64);
    let policy = Policy { min_free_bytes: 0, ..policy };
    let quota = store.gc().collect(&policy, Reason::full(true), &mut no_worker).expect("collected").expect("tried");
    // But for a disk that is short of space itself: of that all goes.
    let disk = shale_cache::Disk::of(store.root()).expect("a disk");
    assert!((1..=3).contains(&quota.removed.len()) || disk.free_bytes < disk.total_bytes / 20 + (1 << 30), "{quota:?}");
}

#[test]
fn a_step_counts_as_used_when_one_above_it_is() {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let mut parent = ChainId::scratch();
    let mut layers = Vec::new();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        let layer = store.layers().put_index(&index_of(name, 1)).expect("put");
        let mut step = record(layer, name);
        step.parts.push_text("parent", parent.to_string());
        step.key = step.parts.key();
        step.content = ContentId::from_bytes([number as u8; 32]);
        parent = parent.child(step.content);
        store.steps().put(&step).expect("put");
        layers.push(layer);
    }
    let other = step(&store, "other", 1);
    drop(store);
    let store = open(dir.path());
    let now = SystemTime::now();
    for (layer, hours) in layers.iter().zip([9, 8, 2]) {
        used_at(&store, *layer, now - HOUR * hours);
    }
    used_at(&store, other, now - HOUR * 5);
    let order: Vec<String> = inventory(&store).items.iter().map(Item::id).collect();
    assert_eq!(order[0], other.to_string());
    let used: Vec<i64> = inventory(&store).items[1..].iter().map(Item::last_used_secs).collect();
    assert!(used.windows(2).all(|pair| pair[0] == pair[1]), "{used:?}");
}

#[test]
fn filters_choose_by_time_kind_and_id() {
    let (_dir, store) = filled(&["old", "new"], 1);
    let [old, new] = ["old", "new"].map(|name| LayerId::of_index(&index_of(name, 1)));
    used_at(&store, old, SystemTime::now() - HOUR * 30);
    fs::write(store.root().join("contexts/abc"), "x").expect("written");
    let by = |filter: ItemFilter| PruneOptions { filter, ..PruneOptions::default() };
    assert_eq!(prune(&store, by(ItemFilter { unused_for_secs: Some(31 * 3600), ..ItemFilter::default() })), [""; 0]);
    assert_eq!(prune(&store, by(ItemFilter { kinds: Some(vec![ItemKind::Mount]), ..ItemFilter::default() })), [""; 0]);
    assert_eq!(prune(&store, by(ItemFilter { id: Some("nothing".into()), ..ItemFilter::default() })), [""; 0]);
    assert_eq!(prune(&store, by(ItemFilter { unused_for_secs: Some(24 * 3600), ..ItemFilter::default() })), [old.to_string()]);
    assert_eq!(prune(&store, by(ItemFilter { kinds: Some(vec![ItemKind::Context]), ..ItemFilter::default() })), ["abc"]);
    assert_eq!(prune(&store, by(ItemFilter { id: Some(new.to_string()[..10].into()), ..ItemFilter::default() })), [new.to_string()]);
}

#[test]
fn a_clock_that_was_wrong_does_no_harm() {
    let (_dir, store) = filled(&["future", "past", "now"], 1);
    let layers = ["future", "past", "now"].map(|name| LayerId::of_index(&index_of(name, 1)));
    used_at(&store, layers[0], SystemTime::now() + HOUR * 24 * 365 * 40);
    used_at(&store, layers[1], SystemTime::UNIX_EPOCH);
    let day = PruneOptions { filter: ItemFilter { unused_for_secs: Some(24 * 3600), ..ItemFilter::default() }, ..PruneOptions::default() };
    for item in inventory(&store).items {
        assert!(item.last_used_secs() <= SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs() as i64);
    }
    // A use brings both to the present.
    {
        let store = open(store.root());
        let _lease = store.lease().expect("a lease");
        for name in ["future", "past"] {
            let layer = LayerId::of_index(&index_of(name, 1));
            assert!(store.steps().peek(&record(layer, name).key).expect("looked").is_some());
            let meta = fs::metadata(store.layers().index_path(&layer)).expect("there").modified().expect("a time");
            assert!(meta.elapsed().is_ok_and(|ago| ago < HOUR), "{name}: {meta:?}");
        }
    }
    assert_eq!(prune(&store, day), [""; 0]);
    assert_eq!(inventory(&store).items.len(), 3);
}

#[test]
fn a_hit_writes_nothing_but_a_line_in_its_lease() {
    let (_dir, store) = filled(&["one"], 1);
    let layer = LayerId::of_index(&index_of("one", 1));
    let before = common::files(store.root());
    let times = || fs::metadata(store.layers().index_path(&layer)).and_then(|meta| meta.modified()).expect("a time");
    let noted = times();
    let lease = store.lease().expect("a lease");
    assert!(store.steps().peek(&record(layer, "one").key).expect("looked").is_some());
    let now: Vec<String> = common::files(store.root()).into_iter().filter(|file| !before.contains(file)).collect();
    assert!(matches!(&now[..], [one] if one.starts_with("leases/")), "{now:?}");
    assert!(fs::read_to_string(store.root().join(&now[0])).expect("read").ends_with(&format!("\nlayers/{layer}\n")));
    assert_eq!(times(), noted, "it was used within the hour");
    drop(lease);
    assert_eq!(common::files(store.root()), before);
}

#[test]
fn a_lease_that_could_not_be_written_covers_everything() {
    let (_dir, store) = filled(&["one"], 1);
    let user = open(store.root());
    let lease = user.lease().expect("a lease");
    let name = common::files(&store.root().join("leases")).remove(0);
    let path = store.root().join("leases").join(name);
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).expect("changed");
    assert_eq!(prune(&store, PruneOptions::everything()), [""; 0]);
    drop(lease);
    assert_eq!(prune(&store, PruneOptions::everything()).len(), 1);
}

#[test]
fn an_image_that_is_removed_while_it_is_used_stays_until_the_user_ends() {
    let (_dir, store) = filled(&[], 1);
    let id = store.blobs().put(b"config").expect("put");
    let layer = store.blobs().put(b"a layer").expect("put");
    let blob = BlobRef { digest: layer.clone(), size_bytes: 7, media_type: "tar".to_owned() };
    let layers = vec![ImageLayer { diff_id: DiffId(layer.clone()), layer: None, blob: Some(blob) }];
    let image = ImageRecord {
        id: id.clone(),
        manifest: None,
        layers,
        repo_digests: Vec::new(),
        stored_at_secs: 1,
        built: shale_cache::Built::default(),
    };
    store.images().put(&image).expect("put");
    let root = store.root().to_owned();
    drop(store);
    let user = open(&root);
    let lease = user.lease().expect("a lease");
    assert!(user.images().get(&id).expect("looked").is_some());
    let other = open(&root);
    other.gc().remove_images(&[(id.clone(), vec!["app:latest".to_owned()])], &mut no_worker).expect("removed");
    other.gc().prune_all().expect("pruned");
    assert!(user.blobs().size(&layer).expect("looked").is_some());
    assert!(user.images().get(&id).expect("looked").is_none());
    drop(lease);
    other.gc().prune_all().expect("pruned");
    assert!(other.blobs().size(&OciDigest::sha256_of(b"a layer")).expect("looked").is_none());
}

#[test]
fn the_least_that_caps_allow_stays() {
    let gb = |n: u64| n << 30;
    let caps = |reserved: u64, max: u64, free: u64| Caps {
        reserved_bytes: gb(reserved),
        max_used_bytes: gb(max),
        min_free_bytes: gb(free),
        ..Caps::default()
    };
    let distant = |caps| Caps { is_distant: true, ..caps };
    for (caps, used, free, keep) in [
        (caps(0, 0, 0), 50, 100, 0),
        (caps(0, 20, 0), 50, 0, 20),
        (caps(0, 20, 10), 50, 100, 20),
        (caps(0, 100, 30), 50, 10, 30),
        (caps(40, 100, 30), 50, 10, 40),
        (caps(0, 0, 30), 50, 10, 30),
        (caps(0, 0, 30), 50, 40, 50),
        (caps(10, 0, 0), 50, 40, 10),
        (caps(0, 0, 90), 50, 10, 0),
        (distant(caps(0, 20, 0)), 50, 0, 18),
        (distant(caps(0, 60, 0)), 50, 0, 60),
        (distant(caps(0, 0, 30)), 50, 10, 27),
        (distant(caps(40, 20, 30)), 50, 10, 40),
    ] {
        assert_eq!(caps.keep_bytes(gb(used), gb(free)) >> 30, keep, "{caps:?} of {used} with {free} free");
    }
}
