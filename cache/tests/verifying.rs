//! Every kind of damage is found, named and repaired, and nothing else is.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{files, known, map, open, record, tree};
use shale_cache::{BlobRef, Built, DiffId, ImageLayer, ImageRecord, LayerId, OciDigest, PackKey, Packed, Store};
use tempfile::{TempDir, tempdir};

/// One of everything; the image has its layer packed.
fn filled() -> (TempDir, Store) {
    let dir = tempdir().expect("a directory");
    let store = open(dir.path());
    let layer = store.layers().put_index(b"index").expect("put");
    let tmp = store.tmp().expect("a directory");
    store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
    drop(tmp);
    let blob = store.blobs().put(b"a tar").expect("put");
    let diff_id = DiffId(blob.clone());
    let key = PackKey { compression: "none".to_owned(), level: 0, encoder: "test".to_owned(), clamp_secs: None };
    let packed = Packed { blob: blob.clone(), size_bytes: 5, diff_id: diff_id.clone(), media_type: "tar".to_owned() };
    store.layers().put_packed(&layer, &key, &packed).expect("put");
    store.layers().set_diff_id(&layer, None, &diff_id).expect("set");
    store.layers().set_by_diff(&diff_id, &layer).expect("set");
    let mut step = record(layer, "make");
    let list = store.lists().put(b"a list").expect("put");
    store.lists().set_by_source(&step.key, &list).expect("set");
    step.parts.push_list("selection", list);
    step.key = step.parts.key();
    store.steps().put(&step).expect("put");
    store.layers().set_by_content(&step.content, &known(layer)).expect("set");
    let id = store.blobs().put(b"config").expect("put");
    let blob = BlobRef { digest: blob, size_bytes: 5, media_type: "tar".to_owned() };
    let layers = vec![ImageLayer { diff_id, layer: Some(layer), blob: Some(blob) }];
    let image = ImageRecord { id, manifest: None, layers, repo_digests: Vec::new(), stored_at_secs: 1, built: Built::default() };
    store.images().put(&image).expect("put");
    store.images().tag("app:latest", &image).expect("tagged");
    drop(store);
    let store = open(dir.path());
    (dir, store)
}

fn found(store: &Store) -> Vec<String> {
    let findings = store.verify(|_| true).expect("read");
    findings.damage.iter().map(|damage| format!("{}: {}", damage.path.display(), damage.what)).collect()
}

fn one_of(store: &Store, folder: &str) -> PathBuf {
    let mut names = files(&store.root().join(folder));
    names.retain(|name| !name.starts_with("last"));
    Path::new(folder).join(names.remove(0))
}

#[test]
fn a_good_store_is_clean_with_rubbish_of_the_killed_in_it() {
    let (_dir, store) = filled();
    assert_eq!(found(&store), [""; 0]);
    let findings = store.verify(|_| true).expect("read");
    assert_eq!((findings.checked > 10, findings.unpacked.len()), (true, 1), "{findings:?}");
    for rubbish in ["tmp/1-2/3", "trash/x/y", "locks/step-1", "leases/1-2", "blobs/sha256/half", "contexts/x", "mounts/m/i/data/f"] {
        let path = store.root().join(rubbish);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, "x").expect("written");
    }
    assert_eq!(found(&store), [""; 0]);
}

#[test]
fn every_kind_of_damage_is_found_and_repaired() {
    let layer = format!("layers/{}", LayerId::of_index(b"index"));
    let config = format!("blobs/sha256/{}", OciDigest::sha256_of(b"config").hex());
    let tar = format!("blobs/sha256/{}", OciDigest::sha256_of(b"a tar").hex());
    let image = "the image app:latest has lost";
    for (folder, words, is_lasting) in [
        (tar.as_str(), &["its bytes have another digest", "notes a blob that is damaged", "is damaged", image][..], true),
        (config.as_str(), &["its bytes have another digest", image], true),
        // The whole layer goes with its index, and so does what leads to it.
        (&format!("{layer}/index"), &["the index is not that of the layer", "is damaged"], false),
        (&format!("{layer}/packed"), &["torn"], false),
        (&format!("{layer}/diff"), &["torn"], false),
        (&format!("{layer}/made"), &["torn"], false),
        ("blobs/made", &["torn", image], true),
        ("steps", &["torn"], false),
        ("steps/last", &["torn"], false),
        ("lists", &["its bytes are not those of its name"], false),
        ("by-diff", &["torn"], false),
        ("by-content", &["torn"], false),
        ("by-source", &["torn"], false),
        ("images/records", &["torn"], false),
        ("images/names", &["torn"], false),
    ] {
        let (_dir, store) = filled();
        let path = if store.root().join(folder).is_dir() { one_of(&store, folder) } else { PathBuf::from(folder) };
        let absolute = store.root().join(&path);
        let mut bytes = fs::read(&absolute).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&absolute, bytes).expect("written");
        let damage = found(&store);
        let named = path.to_str().expect("text").trim_end_matches("/index");
        assert!(damage.iter().any(|line| line.starts_with(named)), "{folder}: {damage:?}");
        for word in words {
            assert!(damage.iter().any(|line| line.contains(word)), "{folder}: {word:?} in {damage:?}");
        }
        let findings = store.verify(|_| true).expect("read");
        let left = store.repair(&findings.damage).expect("repaired");
        assert!(left.iter().all(|damage| !damage.is_removable), "{left:?}");
        assert_eq!(!left.is_empty(), is_lasting, "{folder}: {left:?}");
        let after = found(&store);
        if is_lasting {
            assert!(after.iter().all(|line| line.contains("app:latest")), "{folder}: {after:?}");
            assert!(store.images().resolve("app:latest").expect("looked").is_some(), "an image never goes unasked");
        } else {
            let is_image_left = after.iter().all(|line| line.contains("has lost"));
            assert!(is_image_left, "{folder}: {after:?}");
        }
    }
}

#[test]
fn what_was_replaced_since_it_was_found_is_not_taken_away() {
    let (_dir, store) = filled();
    let blob = store.root().join("blobs/sha256").join(OciDigest::sha256_of(b"a tar").hex());
    let index = store.layers().index_path(&LayerId::of_index(b"index"));
    fs::write(&blob, b"b tar").expect("written");
    fs::write(&index, b"xndex").expect("written");
    let findings = store.verify(|_| true).expect("read");
    assert!(findings.damage.len() > 2, "{findings:?}");
    // As a load does, and a build.
    for (path, bytes) in [(&blob, &b"a tar"[..]), (&index, b"index")] {
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, path)).expect("replaced");
    }
    store.repair(&findings.damage).expect("repaired");
    assert!(blob.exists() && index.exists());
}

#[test]
fn what_builds_make_meanwhile_is_no_damage() {
    let (_dir, store) = filled();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..300 {
                let layer = store.layers().put_index(format!("layer {number}").as_bytes()).expect("put");
                let record = record(layer, &format!("step {number}"));
                store.lists().put(format!("list {number}").as_bytes()).expect("put");
                store.steps().put(&record).expect("put");
                store.layers().set_by_content(&record.content, &known(layer)).expect("set");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        scope.spawn(|| {
            let nothing = shale_cache::ItemFilter { id: Some("nothing".into()), ..Default::default() };
            let options = shale_cache::PruneOptions { filter: nothing, ..shale_cache::PruneOptions::everything() };
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                store.gc().prune(std::slice::from_ref(&options), None, &mut |paths| vec![None; paths.len()]).expect("pruned");
            }
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(found(&store), [""; 0]);
        }
    });
    let has_record = |number: &i32| {
        let layer = LayerId::of_index(format!("layer {number}").as_bytes());
        store.steps().peek(&record(layer, &format!("step {number}")).key).expect("looked").is_some()
    };
    let lost: Vec<i32> = (0..300).filter(|number| !has_record(number)).collect();
    assert_eq!(lost, [0; 0], "records that a pruning beside them took");
}

#[test]
fn what_a_build_uses_is_not_repaired_under_it() {
    let (_dir, store) = filled();
    let user = open(store.root());
    let _lease = user.lease().expect("a lease");
    let layer = LayerId::of_index(b"index");
    assert!(user.layers().has_index(&layer).expect("looked"));
    fs::write(store.layers().index_path(&layer), b"xndex").expect("written");
    let findings = store.verify(|_| true).expect("read");
    assert_eq!(findings.damage.len(), 3, "{findings:?}");
    let left = store.repair(&findings.damage).expect("repaired");
    assert!(left.iter().any(|damage| damage.path.starts_with("layers")), "{left:?}");
}
