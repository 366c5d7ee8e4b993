//! Looking things up: paths in stacked layers, the merge of a high stack, an entry of the store.
//!
//! Floors (two virtual cores of Sapphire Rapids): an entry of a store of files 4 to 6 µs.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to say")]

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::index::{Index, IndexBuilder};
use shale::tree::merge::merge;
use shale::tree::view::View;
use shale_cache::{ContentId, KnownLayer, Store};

fn main() {
    divan::main();
}

/// Entries in all, whatever the number of layers: what grows between the rows is the stack alone.
const FILES: usize = 30_000;

/// Files of which each layer has its share, in directories that all layers share.
fn stack(layers: usize) -> Vec<Arc<Index>> {
    let layer = |number: usize| {
        let mut builder = IndexBuilder::new();
        for n in (number..FILES).step_by(layers) {
            let kind = Kind::File { size: 1, digest: [0; 32], hardlink: None };
            builder.push(Entry::new(format!("usr/share/{}/f{n}", n / 300), kind, 0o644, 0, 0, Mtime::default()));
        }
        Arc::new(builder.build())
    };
    (0..layers).map(layer).collect()
}

/// Every path of a view, by a fresh view.
#[divan::bench(args = [1, 60, 300, 1000], sample_count = 5)]
fn view_of_30k_files(bencher: Bencher<'_, '_>, layers: usize) {
    let layers = stack(layers);
    let paths: Vec<String> = (0..FILES).map(|n| format!("usr/share/{}/f{n}", n / 300)).collect();
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        let view = View::new(layers.clone());
        assert!(paths.iter().all(|path| view.get(path.as_bytes()).is_some()));
    });
}

/// Every directory listed from the top, as `COPY --from` does.
#[divan::bench(args = [1, 60, 300, 1000], sample_count = 5)]
fn listing_of_30k_files(bencher: Bencher<'_, '_>, layers: usize) {
    let layers = stack(layers);
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| {
        let view = View::new(layers.clone());
        let (mut dirs, mut files) = (vec![Vec::new()], 0);
        while let Some(dir) = dirs.pop() {
            for found in view.children(&dir) {
                if found.entry.is_dir() { dirs.push(found.entry.path) } else { files += 1 }
            }
        }
        assert_eq!(files, FILES);
    });
}

/// The oldest layers of a high stack become one.
#[divan::bench(sample_count = 5)]
fn merge_64_layers_of_30k_files(bencher: Bencher<'_, '_>) {
    let layers = stack(64);
    bencher.counter(ItemsCount::new(FILES)).bench_local(|| merge(&layers).index.len());
}

/// One entry of the store and whether what it names is there.
#[divan::bench]
fn store_entry(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layer = store.layers().put_index(Index::empty().as_bytes()).unwrap();
    let content = ContentId::from_bytes([1; 32]);
    store.layers().set_by_content(&content, &KnownLayer { layer }).unwrap();
    bencher.bench_local(|| store.layers().by_content(&content).unwrap().is_some());
}
