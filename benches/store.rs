//! A store that has grown: what one key, a listing and a pruning cost among 1,000 to 100,000 cache entries.
//!
//! `store fill DIR COUNT`, given to the bench's binary, only makes such a store: `growth.py --fill` measures the program's own memory on it.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to say")]

use std::fs;
use std::path::Path;

use divan::Bencher;
use divan::counter::ItemsCount;
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::index::IndexBuilder;
use shale_cache::{CacheKey, ChainId, ContentId, KeyParts, KnownLayer, PruneOptions, STEP_RECORD_VERSION, StepRecord, StepSite, Store};

/// Steps of one build, which stand on each other.
const STEPS: usize = 100;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "fill", dir, count] => drop(filled(Path::new(dir), count.parse().unwrap())),
        _ => divan::main(),
    }
}

/// A store with so many steps, each with a layer of one file. Returns the key of the last one, too.
fn filled(dir: &Path, count: usize) -> (Store, CacheKey) {
    let store = Store::open(dir).unwrap();
    let mut parent = ChainId::scratch();
    let mut key = None;
    for n in 0..count {
        if n % STEPS == 0 {
            parent = ChainId::scratch().child(ContentId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()));
        }
        let mut builder = IndexBuilder::new();
        let kind = Kind::File { size: 1, digest: [0; 32], hardlink: None };
        builder.push(Entry::new(format!("usr/share/f{n}"), kind, 0o644, 0, 0, Mtime::default()));
        let index = builder.build();
        let (layer, content) = (store.layers().put_index(index.as_bytes()).unwrap(), index.content_id(None));
        store.layers().set_by_content(&content, &KnownLayer { layer }).unwrap();
        let record = record(n, parent, layer, content);
        store.steps().put(&record).unwrap();
        parent = parent.child(content);
        key = Some(record.key);
    }
    (store, key.unwrap())
}

fn record(n: usize, parent: ChainId, layer: shale_cache::LayerId, content: ContentId) -> StepRecord {
    let mut parts = KeyParts::new("run");
    parts.push_text("parent", parent.to_hex()).push_text("platform", "linux/amd64").push_text("argv", format!("/bin/sh -c make {n}"));
    parts.push_text("env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    StepRecord {
        version: STEP_RECORD_VERSION,
        key: parts.key(),
        parts,
        layer,
        content,
        created_secs: n as i64,
        created_nanos: 0,
        cost_ms: 1,
        site: StepSite {
            context: format!("/src/{}", n / STEPS),
            dockerfile: "Dockerfile".to_owned(),
            stage: "0".to_owned(),
            ordinal: n % STEPS,
            platform: "linux/amd64".to_owned(),
            words: String::new(),
        },
        base: None,
    }
}

/// One key that hits: must not depend on how many others there are. Their names are all that a look-up meets of them, so they have
/// nothing else: a whole store of 100,000 takes minutes to fill.
#[divan::bench(args = [1_000, 10_000, 100_000])]
fn lookup_of_one_key(bencher: Bencher<'_, '_>, entries: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (store, key) = filled(dir.path(), 1);
    for n in 0..entries {
        let name = blake3::hash(&n.to_le_bytes()).to_hex();
        let steps = dir.path().join("steps").join(&name[..2]);
        fs::create_dir_all(&steps).unwrap();
        fs::write(steps.join(name.as_str()), "").unwrap();
        fs::create_dir(dir.path().join("layers").join(name.as_str())).unwrap();
    }
    bencher.bench_local(|| assert!(store.steps().peek(&key).unwrap().is_some()));
}

/// Everything in a store with what it takes, as `system df` asks for it.
#[divan::bench(args = [1_000, 10_000, 100_000], sample_count = 3)]
fn listing(bencher: Bencher<'_, '_>, entries: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = filled(dir.path(), entries);
    bencher.counter(ItemsCount::new(entries)).bench_local(|| {
        let found = store.inventory(&mut |paths| vec![None; paths.len()]).unwrap();
        assert_eq!(found.items.len(), entries);
    });
}

/// A pruning of everything.
#[divan::bench(args = [1_000, 10_000], sample_count = 3)]
fn pruning(bencher: Bencher<'_, '_>, entries: usize) {
    bencher
        .counter(ItemsCount::new(entries))
        .with_inputs(|| {
            let dir = tempfile::tempdir().unwrap();
            drop(filled(dir.path(), entries));
            // The one that wrote keeps a lease on everything.
            let store = Store::open(dir.path()).unwrap();
            (dir, store)
        })
        .bench_local_values(|(dir, store)| {
            let report = store.gc().prune(&[PruneOptions::everything()], None, &mut |paths| vec![None; paths.len()]).unwrap();
            assert_eq!(report.removed.len(), entries);
            dir
        });
}
