//! One process and one store: what goes in comes out, and what is bad does not.

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::{files, known, map, open, record, site, tree};
use shale_cache::{
    BlobRef, DiffId, ImageLayer, ImageRecord, ItemKind, KeyParts, LayerId, ListId, Lookup, MapId, OciDigest, PackKey, Packed, Store,
    StoreError,
};
use tempfile::{TempDir, tempdir};

fn store() -> (TempDir, Store) {
    let dir = tempdir().expect("a directory");
    let store = open(&dir.path().join("deep/store"));
    (dir, store)
}

#[test]
fn a_store_whose_version_was_lost_with_the_power_is_made_again() {
    let dir = tempdir().expect("a directory");
    let blob = Store::open(dir.path()).expect("made").blobs().put(b"kept").expect("put");
    for left in ["", "\0\0\0\0"] {
        std::fs::write(dir.path().join("version"), left).expect("written");
        std::fs::remove_dir_all(dir.path().join("durable")).expect("removed");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(store.blobs().size(&blob).expect("looked"), Some(4));
        assert!(dir.path().join("durable").is_dir());
    }
    let other = tempdir().expect("a directory");
    for name in ["version", "tmp", "mine"] {
        std::fs::write(other.path().join(name), "").expect("written");
    }
    let error = Store::open(other.path()).expect_err("it is somebody's");
    assert!(matches!(&error, StoreError::NotAStore { found, .. } if found == "mine"), "{error:?}");
}

#[test]
fn a_store_is_made_for_its_owner_alone() {
    let (_dir, store) = store();
    assert_eq!(fs::metadata(store.root()).expect("a store").permissions().mode() & 0o777, 0o700);
    assert!(
        fs::read_to_string(store.root().join("CACHEDIR.TAG")).expect("a tag").starts_with("Signature: 8a477f597d28d172789f06886806bc55")
    );
    assert_eq!(fs::read_to_string(store.root().join("version")).expect("a version"), "shale store 1\n");
    let before = files(store.root());
    open(store.root());
    assert_eq!(files(store.root()), before, "opening again writes nothing");
}

#[test]
fn another_version_is_refused() {
    let (_dir, store) = store();
    fs::write(store.root().join("version"), "shale store 2\n").expect("written");
    let error = Store::open(store.root()).expect_err("a newer store");
    assert!(matches!(&error, StoreError::Version { path, found, .. } if path == store.root() && found == "shale store 2"), "{error:?}");
}

#[test]
fn a_directory_that_holds_something_else_is_refused() {
    let dir = tempdir().expect("a directory");
    fs::create_dir(dir.path().join("lost+found")).expect("a directory");
    fs::write(dir.path().join("gc"), "{}").expect("written");
    fs::create_dir(dir.path().join("tmp")).expect("a directory");
    fs::write(dir.path().join("tmp/thesis"), "").expect("written");
    let error = Store::open(dir.path()).expect_err("no store");
    assert!(matches!(&error, StoreError::NotAStore { found, .. } if found == "tmp"), "{error:?}");
    assert_eq!(files(dir.path()), ["gc", "tmp/thesis"]);
    fs::remove_dir_all(dir.path().join("tmp")).expect("removed");
    fs::create_dir_all(dir.path().join("builds/nightly")).expect("a directory");
    Store::open(dir.path()).expect_err("somebody else's builds");
    fs::rename(dir.path().join("builds/nightly"), dir.path().join("builds/1a209e7735702d80")).expect("renamed");
    fs::write(dir.path().join("builds/1a209e7735702d80/1.log"), "from a build while the store was deleted").expect("written");
    open(dir.path());
}

#[test]
fn an_interrupted_creation_is_completed() {
    let (_dir, store) = store();
    fs::remove_file(store.root().join("CACHEDIR.TAG")).expect("removed");
    fs::remove_dir(store.root().join("tmp")).expect("removed");
    let again = open(store.root());
    again.blobs().put(b"x").expect("put");
    assert!(store.root().join("CACHEDIR.TAG").exists());
}

#[test]
fn blobs_come_back_by_their_digest() {
    let (_dir, store) = store();
    let digest = store.blobs().put(b"hello").expect("put");
    assert_eq!(digest, OciDigest::sha256_of(b"hello"));
    assert_eq!(store.blobs().put(b"hello").expect("put again"), digest);
    assert_eq!(store.blobs().size(&digest).expect("looked"), Some(5));
    assert_eq!(store.blobs().read(&digest).expect("read").as_deref(), Some(b"hello".as_slice()));
    assert_eq!(fs::read(store.blobs().path(&digest)).expect("read"), b"hello");
    let other = OciDigest::sha256_of(b"other");
    assert!(store.blobs().open(&other).expect("looked").is_none());
    assert_eq!(store.blobs().size(&other).expect("looked"), None);
}

#[test]
fn blobs_are_checked_against_what_was_announced() {
    let (_dir, store) = store();
    let write = |bytes: &[u8]| {
        let mut writer = store.blobs().writer().expect("a writer");
        writer.write_all(bytes).expect("written");
        writer
    };
    let hello = OciDigest::sha256_of(b"hello");
    assert_eq!(write(b"hello").commit(Some(&hello)).expect("as announced"), (hello.clone(), 5));
    let error = write(b"jello").commit(Some(&hello)).expect_err("other bytes");
    assert!(matches!(error, StoreError::DigestMismatch { expected, size_bytes: 5, .. } if expected == hello));

    let sha512 = OciDigest::sha512_of(b"hello");
    assert_eq!(write(b"hello").commit(Some(&sha512)).expect("as announced"), (sha512.clone(), 5));
    assert_eq!(store.blobs().size(&sha512).expect("looked"), Some(5));
    assert!(write(b"jello").commit(Some(&sha512)).is_err());

    let foreign = store.blobs().writer().expect("a writer");
    let mut file = foreign.file().try_clone().expect("a descriptor");
    file.write_all(b"from elsewhere").expect("written");
    let digest = OciDigest::sha256_of(b"from elsewhere");
    foreign.commit_as(&digest, 14).expect("committed");
    assert_eq!(store.blobs().size(&digest).expect("looked"), Some(14));
    let error = store.blobs().writer().expect("a writer").commit_as(&hello, 5).expect_err("nothing was written");
    assert!(matches!(error, StoreError::SizeMismatch { expected: 5, actual: 0, .. }));
}

#[test]
fn dropped_writers_and_directories_leave_nothing() {
    let (_dir, store) = store();
    let before = files(store.root());
    {
        let mut writer = store.blobs().writer().expect("a writer");
        writer.write_all(b"half").expect("written");
        let tmp = store.tmp().expect("a directory");
        tree(tmp.path(), "fs");
        let closed = store.tmp().expect("a directory");
        let path = closed.path().to_owned();
        assert_eq!(closed.close(), None);
        assert!(!path.exists());
    }
    let in_tmp = |store: &Store| files(&store.root().join("tmp"));
    assert_eq!(in_tmp(&store).len(), 1, "only the lock is left: {:?}", in_tmp(&store));
    let root = store.root().to_owned();
    drop(store);
    assert_eq!(files(&root).iter().filter(|file| *file != "lease").collect::<Vec<_>>(), before.iter().collect::<Vec<_>>());
    assert_eq!(fs::read_dir(root.join("tmp")).expect("listed").count(), 0);
}

#[test]
fn a_truncated_blob_is_not_there_and_can_be_put_again() {
    let (_dir, store) = store();
    let digest = store.blobs().put(b"hello").expect("put");
    fs::write(store.blobs().path(&digest), b"hel").expect("cut");
    assert!(store.blobs().open(&digest).expect("looked").is_none());
    store.blobs().put(b"hello").expect("put");
    assert_eq!(store.blobs().size(&digest).expect("looked"), Some(5));
}

#[test]
fn lists_come_back_unless_they_are_torn() {
    let (_dir, store) = store();
    let id = store.lists().put(b"a\nb\n").expect("put");
    assert_eq!(id, ListId::of(b"a\nb\n"));
    assert_eq!(store.lists().get(&id).expect("read").as_deref(), Some(b"a\nb\n".as_slice()));
    let path = store.root().join("lists").join(id.to_string());
    fs::write(&path, b"a\n").expect("cut");
    assert_eq!(store.lists().get(&id).expect("read"), None);
    assert!(!path.exists());
    store.lists().put(b"a\nb\n").expect("put");
    assert!(store.lists().get(&id).expect("read").is_some());
    assert_eq!(store.lists().get(&ListId::of(b"")).expect("read"), None);
}

#[test]
fn a_layer_has_an_index_and_forms() {
    let (_dir, store) = store();
    let layers = store.layers();
    let missing = LayerId::of_index(b"missing");
    assert!(!layers.has_index(&missing).expect("looked"));
    let layer = layers.put_index(b"the index").expect("put");
    assert_eq!(layer, LayerId::of_index(b"the index"));
    assert_eq!(layers.put_index(b"the index").expect("put again"), layer);
    assert!(layers.has_index(&layer).expect("looked"));
    assert_eq!(fs::read(layers.index_path(&layer)).expect("read"), b"the index");

    let tmp = store.tmp().expect("a directory");
    assert!(layers.fs(&layer, &map()).expect("looked").is_none());
    let first = tree(tmp.path(), "first");
    let inode = fs::metadata(&first).expect("there").ino();
    let at = layers.commit_fs(&layer, &map(), &first).expect("committed");
    assert_eq!((at.clone(), fs::metadata(&at).expect("there").ino()), (layers.fs(&layer, &map()).expect("looked").expect("there"), inode));
    let second = tree(tmp.path(), "second");
    assert_eq!(layers.commit_fs(&layer, &map(), &second).expect("committed"), at);
    assert_eq!(fs::read_to_string(at.join("file")).expect("read"), "first", "the first one stays");
    assert!(!second.exists());
    assert!(layers.fs(&layer, &map()).expect("looked").is_some());
    assert!(layers.fs(&layer, &MapId("true".to_owned())).expect("looked").is_none());
    let error = layers.commit_fs(&missing, &map(), &tree(tmp.path(), "third")).expect_err("no such layer");
    assert!(matches!(error, StoreError::NoLayer { layer } if layer == missing));
}

#[test]
fn a_layer_is_born_with_its_unpacked_form() {
    let (_dir, store) = store();
    let layers = store.layers();
    let (other, diff_id) = (MapId("true".to_owned()), DiffId(OciDigest::sha256_of(b"a tar")));
    let born = |content: &str| {
        let room = layers.room(&map()).expect("a room");
        let root = tree(room.root().parent().expect("a room"), "root");
        // Not the store's, whatever it is called.
        fs::write(root.join("made"), content).expect("written");
        layers.put_born(b"the index", room, Some(&diff_id)).expect("put")
    };
    let layer = born("first");
    let at = layers.fs(&layer, &map()).expect("looked").expect("there");
    assert_eq!(layers.diff_id(&layer, None).expect("looked"), Some(diff_id.clone()));
    assert_eq!((layers.diff_id(&layer, Some(0)).expect("looked"), layers.fs(&layer, &other).expect("looked")), (None, None));
    assert_eq!(born("second"), layer);
    assert_eq!(layers.fs(&layer, &map()).expect("looked"), Some(at.clone()));
    assert_eq!(fs::read_to_string(at.join("made")).expect("read"), "first", "the first one stays");
    let tmp = store.tmp().expect("a directory");
    let later = layers.commit_fs(&layer, &other, &tree(tmp.path(), "later")).expect("committed");
    assert_eq!(layers.fs(&layer, &other).expect("looked"), Some(later));
    // Evicted, it is made again at another place, of which its stamp says nothing.
    fs::remove_dir_all(&at).expect("evicted");
    assert_eq!(layers.fs(&layer, &map()).expect("looked"), None);
    let again = layers.commit_fs(&layer, &map(), &tree(tmp.path(), "again")).expect("committed");
    assert_eq!(layers.fs(&layer, &map()).expect("looked"), Some(again.clone()));
    assert_ne!(again, at);
    drop(tmp);
    let scratch = fs::read_dir(store.root().join("tmp")).expect("listed").map(|entry| entry.expect("an entry").path());
    let left: Vec<_> = scratch.filter(|path| path.is_dir()).flat_map(|dir| fs::read_dir(dir).expect("listed")).collect();
    assert!(left.is_empty(), "of the second: {left:?}");
}

fn pack(store: &Store, layer: &LayerId, bytes: &[u8]) -> (PackKey, Packed) {
    let key = PackKey { compression: "gzip".to_owned(), level: 6, encoder: "zlib-rs 1".to_owned(), clamp_secs: None };
    let blob = store.blobs().put(bytes).expect("put");
    let diff_id = DiffId(blob.clone());
    let packed = Packed { blob, size_bytes: bytes.len() as u64, diff_id, media_type: "tar".to_owned() };
    store.layers().put_packed(layer, &key, &packed).expect("put");
    (key, packed)
}

#[test]
fn packed_forms_are_told_apart_by_how_they_were_made() {
    let (_dir, store) = store();
    let layer = store.layers().put_index(b"the index").expect("put");
    let (key, packed) = pack(&store, &layer, b"a tar");
    assert_eq!(store.layers().packed(&layer, &key).expect("looked"), Some(packed.clone()));
    let others = [
        PackKey { compression: "zstd".to_owned(), ..key.clone() },
        PackKey { level: 7, ..key.clone() },
        PackKey { encoder: "zlib-rs 2".to_owned(), ..key.clone() },
        PackKey { clamp_secs: Some(0), ..key.clone() },
    ];
    for other in others {
        assert_eq!(store.layers().packed(&layer, &other).expect("looked"), None, "{other:?}");
    }
    fs::remove_file(store.blobs().path(&packed.blob)).expect("removed");
    assert_eq!(store.layers().packed(&layer, &key).expect("looked"), None, "its blob is gone");
}

#[test]
fn diff_ids_are_noted_by_clamp() {
    let (_dir, store) = store();
    let layer = store.layers().put_index(b"the index").expect("put");
    let (plain, clamped) = (DiffId(OciDigest::sha256_of(b"plain")), DiffId(OciDigest::sha256_of(b"clamped")));
    assert_eq!(store.layers().diff_id(&layer, None).expect("looked"), None);
    store.layers().set_diff_id(&layer, None, &plain).expect("set");
    store.layers().set_diff_id(&layer, Some(-5), &clamped).expect("set");
    assert_eq!(store.layers().diff_id(&layer, None).expect("looked"), Some(plain));
    assert_eq!(store.layers().diff_id(&layer, Some(-5)).expect("looked"), Some(clamped));
    assert_eq!(store.layers().diff_id(&layer, Some(5)).expect("looked"), None);
}

#[test]
fn layers_are_found_by_what_they_hold() {
    let (_dir, store) = store();
    let layers = store.layers();
    let layer = layers.put_index(b"the index").expect("put");
    let (diff_id, content) = (DiffId(OciDigest::sha256_of(b"tar")), record(layer, "").content);
    assert_eq!((layers.by_diff(&diff_id).expect("looked"), layers.by_content(&content).expect("looked")), (None, None));
    layers.set_by_diff(&diff_id, &layer).expect("set");
    layers.set_by_content(&content, &known(layer)).expect("set");
    assert_eq!(
        (layers.by_diff(&diff_id).expect("looked"), layers.by_content(&content).expect("looked")),
        (Some(layer), Some(known(layer)))
    );
    fs::remove_dir_all(layers.index_path(&layer).parent().expect("a directory")).expect("removed");
    assert_eq!((layers.by_diff(&diff_id).expect("looked"), layers.by_content(&content).expect("looked")), (None, None));
}

#[test]
fn a_step_misses_once_and_then_hits() {
    let (_dir, store) = store();
    let record = record(store.layers().put_index(b"the index").expect("put"), "make");
    assert_eq!(store.steps().last(&site(2)).expect("looked"), None);
    let Lookup::Miss(lock) = store.steps().lookup(&record.key).expect("looked") else { panic!("a hit") };
    assert_eq!(lock.key(), record.key);
    drop(lock);
    let Lookup::Miss(lock) = store.steps().lookup(&record.key).expect("looked") else { panic!("a hit") };
    lock.commit(&record).expect("committed");
    let Lookup::Hit(found) = store.steps().lookup(&record.key).expect("looked") else { panic!("a miss") };
    assert_eq!(found, record);
    assert_eq!(store.steps().last(&site(2)).expect("looked"), Some(record));
    assert_eq!(store.steps().last(&site(3)).expect("looked"), None);
    // Removed inodes slow down ext4 for minutes: a step removes none.
    assert_eq!(files(&store.root().join("locks")).len(), 1, "the lock file stays while the store is open");
    let locks = store.root().join("locks");
    drop(store);
    assert_eq!(files(&locks), [""; 0], "no lock file stays");
}

#[test]
fn the_last_record_of_a_site_is_the_newest() {
    let (_dir, store) = store();
    let layer = store.layers().put_index(b"the index").expect("put");
    let (first, second) = (record(layer, "make"), record(layer, "make all"));
    store.steps().put(&first).expect("put");
    store.steps().put(&second).expect("put");
    assert_eq!(store.steps().last(&site(2)).expect("looked"), Some(second));
    store.steps().put(&first).expect("put");
    assert_eq!(store.steps().last(&site(2)).expect("looked"), Some(first.clone()));
    // Explanations need no layer; hits do.
    fs::remove_dir_all(store.root().join("layers").join(layer.to_string())).expect("removed");
    assert_eq!(store.steps().peek(&first.key).expect("looked"), None);
    assert_eq!(store.steps().last(&site(2)).expect("looked"), Some(first));
}

#[test]
fn a_step_is_kept_although_its_site_cannot_be_noted() {
    let (_dir, store) = store();
    let record = record(store.layers().put_index(b"the index").expect("put"), "make");
    for digit in "0123456789abcdef".chars() {
        fs::create_dir_all(store.root().join(format!("steps/last/runs-{digit}"))).expect("a directory");
    }
    store.steps().put(&record).expect("put");
    assert_eq!(store.steps().peek(&record.key).expect("looked"), Some(record));
}

#[test]
fn a_record_is_only_kept_under_the_hash_of_its_parts() {
    let (_dir, store) = store();
    let good = record(store.layers().put_index(b"the index").expect("put"), "make");
    let mut lying = good.clone();
    lying.parts = KeyParts::new("copy");
    assert!(matches!(store.steps().put(&lying), Err(StoreError::KeyMismatch { .. })));
    let Lookup::Miss(lock) = store.steps().lookup(&lying.parts.key()).expect("looked") else { panic!("a hit") };
    assert!(matches!(lock.commit(&good), Err(StoreError::KeyMismatch { .. })));
    let layer = LayerId::of_index(b"missing");
    assert!(matches!(store.steps().put(&record(layer, "make")), Err(StoreError::NoLayer { .. })));
    assert_eq!(files(&store.root().join("steps")), [""; 0]);
}

#[test]
fn a_bad_record_is_a_miss_and_goes() {
    let (_dir, store) = store();
    let record = record(store.layers().put_index(b"the index").expect("put"), "make");
    let hex = record.key.to_string();
    let path = store.root().join("steps").join(&hex[..2]).join(&hex);
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |bytes| bytes[..bytes.len() / 2].to_vec(),
        |bytes| vec![0; bytes.len()],
        |bytes| String::from_utf8(bytes).expect("text").replace("make", "fake").into_bytes(),
    ];
    for damage in damages {
        store.steps().put(&record).expect("put");
        fs::write(&path, damage(fs::read(&path).expect("read"))).expect("written");
        assert_eq!(store.steps().peek(&record.key).expect("looked"), None);
        let Lookup::Miss(lock) = store.steps().lookup(&record.key).expect("looked") else { panic!("a hit") };
        assert!(!path.exists());
        lock.commit(&record).expect("committed");
        assert!(matches!(store.steps().lookup(&record.key).expect("looked"), Lookup::Hit(_)));
    }
}

fn image(store: &Store, config: &str, layers: Vec<ImageLayer>, stored_at_secs: i64) -> ImageRecord {
    let id = store.blobs().put(config.as_bytes()).expect("put");
    let manifest = store.blobs().put(format!("manifest of {config}").as_bytes()).expect("put");
    let manifest = Some(BlobRef { digest: manifest, size_bytes: 0, media_type: "manifest".to_owned() });
    let record = ImageRecord { id, manifest, layers, repo_digests: Vec::new(), stored_at_secs, built: shale_cache::Built::default() };
    store.images().put(&record).expect("put");
    record
}

#[test]
fn names_move_and_leave_images_behind() {
    let (_dir, store) = store();
    let images = store.images();
    let (old, new) = (image(&store, "old", Vec::new(), 1), image(&store, "new", Vec::new(), 2));
    let (app, other) = ("registry.example:5000/team/app:1.0", "docker.io/library/app:latest");
    images.tag(app, &old).expect("tagged");
    images.tag(other, &old).expect("tagged");
    assert_eq!(images.resolve(app).expect("looked"), Some(old.id.clone()));
    assert_eq!(images.names_of(&old.id).expect("looked"), [other, app]);

    images.tag(app, &new).expect("moved");
    assert_eq!(images.untag(other).expect("untagged"), Some(old.id.clone()));
    assert_eq!(images.untag(other).expect("untagged"), None);
    assert_eq!(images.list().expect("listed"), [(new.clone(), vec![app.to_owned()]), (old.clone(), Vec::new())]);

    assert!(images.remove(&new.id).expect("removed"));
    assert!(!images.remove(&new.id).expect("removed"));
    assert_eq!(images.resolve(app).expect("looked"), None);
    assert_eq!(images.list().expect("listed"), [(old, Vec::new())]);
    assert!(matches!(images.tag(app, &new), Err(StoreError::NoImage { id }) if id == new.id));
}

#[test]
fn images_are_found_by_prefix_and_by_registry_digest() {
    let (_dir, store) = store();
    let images = store.images();
    let mut record = image(&store, "one", Vec::new(), 1);
    let other = image(&store, "two", Vec::new(), 2);
    let by_digest = format!("docker.io/library/app@{}", OciDigest::sha256_of(b"manifest"));
    assert_eq!(images.resolve(&by_digest).expect("looked"), None);
    record.repo_digests.push(by_digest.clone());
    images.put(&record).expect("put");
    assert_eq!(images.resolve(&by_digest).expect("looked"), Some(record.id.clone()));

    let find = |prefix: &str| images.find_by_id_prefix(prefix).expect("looked");
    assert_eq!(find(&record.id.hex()[..12]), std::slice::from_ref(&record.id));
    assert_eq!(find(record.id.as_str()), std::slice::from_ref(&record.id));
    assert_eq!(find(&record.id.as_str()[..12]), std::slice::from_ref(&record.id));
    for none in ["", "sha256:", "sha512:", "zz", ":", "../"] {
        assert_eq!(find(none), [], "{none}");
    }
    assert_ne!(record.id.hex()[..1], other.id.hex()[..1], "the test's configs differ at once");
}

#[test]
fn a_torn_image_does_not_hide_the_others() {
    let (_dir, store) = store();
    let (good, bad) = (image(&store, "good", Vec::new(), 1), image(&store, "bad", Vec::new(), 2));
    store.images().tag("bad:latest", &bad).expect("tagged");
    fs::write(store.root().join("images/records").join(bad.id.as_str().replace(':', "-")), "{}").expect("written");
    assert_eq!(store.images().get(&bad.id).expect("looked"), None);
    assert_eq!(store.images().resolve("bad:latest").expect("looked"), None);
    assert_eq!(store.images().list().expect("listed"), [(good, Vec::new())]);
}

#[test]
fn very_long_names_have_their_own_files() {
    let (_dir, store) = store();
    let (a, b) = (image(&store, "a", Vec::new(), 1), image(&store, "b", Vec::new(), 2));
    let long = |tail: &str| format!("registry.example/{}:{tail}", "x/".repeat(120));
    store.images().tag(&long("a"), &a).expect("tagged");
    store.images().tag(&long("b"), &b).expect("tagged");
    assert_eq!(store.images().resolve(&long("a")).expect("looked"), Some(a.id.clone()));
    assert_eq!(store.images().names_of(&a.id).expect("looked"), [long("a")]);
}

/// Everything that a build leaves, and an image of two layers: one packed, one that the image only knows by its index.
fn build(store: &Store) -> ImageRecord {
    let mut layers = Vec::new();
    for number in 0..3 {
        let index = format!("index {number}");
        let layer = store.layers().put_index(index.as_bytes()).expect("put");
        let tmp = store.tmp().expect("a directory");
        store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
        let diff_id = DiffId(OciDigest::sha256_of(index.as_bytes()));
        store.layers().set_by_diff(&diff_id, &layer).expect("set");
        let mut record = record(layer, &index);
        record.parts.push_list("selection", store.lists().put(index.as_bytes()).expect("put"));
        record.key = record.parts.key();
        store.lists().set_by_source(&record.key, &ListId::of(index.as_bytes())).expect("set");
        store.steps().put(&record).expect("put");
        store.layers().set_by_content(&record.content, &known(layer)).expect("set");
        let packed = pack(store, &layer, format!("tar {number}").as_bytes()).1;
        let blob = BlobRef { digest: packed.blob, size_bytes: packed.size_bytes, media_type: packed.media_type };
        // The image of the second layer was made before the layer was packed.
        let blob = (number != 1).then_some(blob);
        layers.push(ImageLayer { diff_id, layer: Some(layer), blob });
    }
    // The third layer belongs to a stage that no image has.
    layers.pop();
    for name in ["mounts/map-1/npm/file", "contexts/abc", "builds/1/log"] {
        let path = store.root().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, name).expect("written");
    }
    image(store, "config", layers, 1)
}

/// Ends the process that built, as far as the store can tell.
fn reopened(store: Store) -> Store {
    let root = store.root().to_owned();
    drop(store);
    open(&root)
}

#[test]
fn pruning_keeps_images_and_nothing_else() {
    let (_dir, store) = store();
    let empty = files(store.root());
    let image = build(&store);
    let store = reopened(store);
    let report = store.gc().prune_all().expect("pruned");
    let count = |kind: ItemKind, shared: bool| report.removed.iter().filter(|item| item.kind == kind && item.is_shared == shared).count();
    assert_eq!((count(ItemKind::Layer, false), count(ItemKind::Layer, true), report.in_use), (1, 2, 0), "{report:?}");
    assert_eq!([ItemKind::Mount, ItemKind::Context, ItemKind::Build].map(|kind| count(kind, false)), [1, 1, 1], "{report:?}");
    assert_eq!(report.removed.iter().map(|item| item.uses).sum::<usize>(), 3);
    assert!(report.bytes > 0 && report.undeletable.is_empty());
    assert_eq!(store.images().get(&image.id).expect("looked"), Some(image.clone()));
    assert!(store.blobs().size(&image.id).expect("looked").is_some());
    assert!(store.blobs().size(&image.manifest.as_ref().expect("a manifest").digest).expect("looked").is_some());
    let layer = |number: usize| image.layers[number].layer.expect("a layer");
    let blob = &image.layers[0].blob.as_ref().expect("a blob").digest;
    assert!(store.blobs().size(blob).expect("looked").is_some());
    assert!(store.layers().fs(&layer(0), &map()).expect("looked").is_none(), "it can be made from the blob");
    assert!(store.layers().fs(&layer(1), &map()).expect("looked").is_none(), "nor is it needed beside a tar of the store's own");
    assert_eq!(files(&store.root().join(format!("layers/{}/packed", layer(1)))).len(), 1, "its packed form stays noted");
    assert!(store.blobs().size(&OciDigest::sha256_of(b"tar 1")).expect("looked").is_some(), "and there");
    assert_eq!(store.layers().by_diff(&image.layers[1].diff_id).expect("looked"), Some(layer(1)));
    for gone in ["steps", "lists", "by-content", "by-source", "contexts", "mounts", "trash", "locks"] {
        assert_eq!(files(&store.root().join(gone)), [""; 0], "{gone}");
    }
    let again = store.gc().prune_all().expect("pruned");
    assert_eq!((again.removed, again.bytes), (vec![], 0));

    store.images().tag("app:latest", &image).expect("tagged");
    let store = reopened(store);
    store.images().untag("app:latest").expect("untagged");
    store.images().remove(&image.id).expect("removed");
    store.gc().prune_all().expect("pruned");
    let root = store.root().to_owned();
    drop(store);
    let left: Vec<String> = files(&root).into_iter().filter(|file| !empty.contains(file)).collect();
    assert_eq!(left, ["lease"]);
}

#[test]
fn pruning_keeps_the_best_form_of_a_layer_that_an_image_has_no_blob_of() {
    let (_dir, store) = store();
    let layer = store.layers().put_index(b"index").expect("put");
    let tmp = store.tmp().expect("a directory");
    store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
    let diff_id = DiffId(OciDigest::sha256_of(b"tar"));
    image(&store, "config", vec![ImageLayer { diff_id, layer: Some(layer), blob: None }], 1);
    drop(tmp);
    let has_fs = |store: &Store| store.layers().fs(&layer, &map()).expect("looked").is_some();
    let store = reopened(store);
    store.gc().prune_all().expect("pruned");
    assert!(has_fs(&store), "it cannot be made from anything");
    let (_, large) = pack(&store, &layer, b"a large tar");
    let store = reopened(store);
    store.gc().prune_all().expect("pruned");
    assert!(!has_fs(&store));
    assert!(store.blobs().size(&large.blob).expect("looked").is_some());
}

#[test]
fn threads_commit_the_same_things() {
    let (_dir, store) = store();
    let made = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..20 {
                    let index = format!("index {number}");
                    let key = record(LayerId::of_index(index.as_bytes()), &index).key;
                    if let Lookup::Miss(lock) = store.steps().lookup(&key).expect("looked") {
                        made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let layer = store.layers().put_index(index.as_bytes()).expect("put");
                        lock.commit(&record(layer, &index)).expect("committed");
                    }
                    // Without the lock too: forms are made by whoever needs them.
                    let layer = store.layers().put_index(index.as_bytes()).expect("put");
                    let tmp = store.tmp().expect("a directory");
                    let at = store.layers().commit_fs(&layer, &map(), &tree(tmp.path(), "fs")).expect("committed");
                    assert!(at.join("file").exists());
                    store.blobs().put(index.as_bytes()).expect("put");
                }
            });
        }
    });
    assert_eq!(made.into_inner(), 20, "each step was made once");
    let locks = store.root().join("locks");
    drop(store);
    assert_eq!(files(&locks), [""; 0]);
}

/// The scheduler hands these from thread to thread.
#[test]
fn handles_may_be_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Store>();
    check::<Lookup>();
    check::<shale_cache::TmpDir>();
    check::<shale_cache::Lease>();
    check::<shale_cache::BlobWriter>();
}
