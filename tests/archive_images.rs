//! Archives: what we write, what others make of it, what we read, and what a broken one leaves behind.

mod image_support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read as _, Write as _};
use std::path::Path;

use image_support::{Home, export_image, layer, noise, tool};
use serde_json::{Value, json};
use shale::export::{Destination, Format, MediaTypes, export};
use shale::image::{ImageError, LayoutName, Loaded, NamedImage, PullPolicy, Removal};
use shale::oci::platform::Platform;
use shale::oci::reference::Reference;
use shale::source::archive::Input;
use shale_cache::OciDigest;

fn amd64() -> Platform {
    "linux/amd64".parse().expect("a platform")
}

/// An archive of one image with two layers.
fn archive(home: &Home, names: &[&str], format: Format) -> Vec<u8> {
    let image = export_image(&home.store, names, &[&layer("a", b"first"), &layer("b", &noise(100_000))]);
    let mut bytes = Vec::new();
    export(&home.store, &[image], format, MediaTypes::Oci, Destination::Stream(&mut bytes)).expect("an archive");
    bytes
}

fn load(home: &Home, bytes: &[u8]) -> Result<Vec<Loaded>, ImageError> {
    home.service().load(Input::Stream(&mut Cursor::new(bytes)), None)
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().flat_map(|l| l.names.iter().map(Reference::familiar)).collect()
}

/// The entries of a tar: name, mode, content.
fn entries(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let header = entry.header().clone();
        assert_eq!((header.mtime().expect("a time"), header.uid().expect("an id"), header.gid().expect("an id")), (0, 0, 0));
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), header.mode().expect("a mode"), content)
    });
    entries.collect()
}

/// A tar of some files.
fn tar_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).expect("an entry");
    }
    builder.into_inner().expect("a tar")
}

/// All files of a store but its bookkeeping of processes.
fn contents(home: &Home) -> BTreeSet<String> {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().expect("a type").is_dir() {
                walk(&entry.path(), found);
            } else {
                found.insert(entry.path().display().to_string());
            }
        }
    }
    let mut found = BTreeSet::new();
    for part in ["blobs", "images", "layers"] {
        walk(&home.store.root().join(part), &mut found);
    }
    found
}

#[test]
fn the_layout_of_an_archive() {
    let home = Home::new();
    let bytes = archive(&home, &["app:1", "localhost:5000/app:two"], Format::Docker);
    assert_eq!(bytes, archive(&home, &["app:1", "localhost:5000/app:two"], Format::Docker), "the same image, the same bytes");
    let entries = entries(&bytes);
    let listed: Vec<_> = entries.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
    let mut sorted = listed.clone();
    sorted.sort_unstable();
    assert_eq!(listed, sorted, "entries are sorted");
    assert_eq!(listed[..2], [("blobs/", 0o755), ("blobs/sha256/", 0o755)]);
    assert_eq!(listed.len(), 2 + 4 + 3);
    assert!(listed[2..].iter().all(|(_, mode)| *mode == 0o444));
    for (name, _, content) in entries.iter().filter(|(name, ..)| name.len() > 20) {
        assert_eq!(name.rsplit('/').next(), Some(OciDigest::sha256_of(content).hex()));
    }
    let json = |name: &str| serde_json::from_slice::<Value>(&entries.iter().find(|(n, ..)| n == name).expect(name).2).expect("JSON");
    assert_eq!(json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let manifests = json("index.json")["manifests"].clone();
    assert_eq!(
        (&manifests[0]["annotations"], &manifests[1]["annotations"]),
        (
            &json!({"io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.created": "2024-02-03T04:05:06Z", "org.opencontainers.image.ref.name": "1"}),
            &json!({"io.containerd.image.name": "localhost:5000/app:two", "org.opencontainers.image.created": "2024-02-03T04:05:06Z", "org.opencontainers.image.ref.name": "two"}),
        )
    );
    assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);
    assert_eq!(manifests[0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
    let docker = json("manifest.json");
    assert_eq!(docker[0]["RepoTags"], json!(["app:1", "localhost:5000/app:two"]));
    assert_eq!(docker[0]["Layers"].as_array().expect("a list").len(), 2);
    assert!(!entries_of(&archive(&home, &["app:1"], Format::Oci)).contains("manifest.json"));
}

fn entries_of(bytes: &[u8]) -> BTreeSet<String> {
    entries(bytes).into_iter().map(|(name, ..)| name).collect()
}

#[test]
fn media_types_and_annotations_reach_the_manifest() {
    let home = Home::new();
    let mut image = export_image(&home.store, &[], &[&layer("a", b"a")]);
    image.annotations.insert("k".into(), "v".into());
    for (types, config, layer) in [
        (MediaTypes::Oci, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip"),
        (MediaTypes::Docker, "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        let built = shale::export::build_manifest(&image, types).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&built.bytes).expect("JSON");
        assert_eq!((&manifest["config"]["mediaType"], &manifest["layers"][0]["mediaType"]), (&json!(config), &json!(layer)));
        assert_eq!((&manifest["mediaType"], &manifest["annotations"]["k"]), (&json!(built.media_type), &json!("v")));
    }
}

#[test]
fn archives_are_read_back_in_every_wrapping() {
    let origin = Home::new();
    let plain = archive(&origin, &["app:1", "localhost/b:2"], Format::Docker);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain).expect("memory");
        encoder.finish().expect("memory")
    };
    let zstd = zstd::stream::encode_all(&plain[..], 1).expect("memory");
    let mut bzip2 = Vec::new();
    bzip2::read::BzEncoder::new(&plain[..], bzip2::Compression::fast()).read_to_end(&mut bzip2).expect("memory");
    let mut xz = Vec::new();
    liblzma::read::XzEncoder::new(&plain[..], 0).read_to_end(&mut xz).expect("memory");
    for (kind, bytes) in [("plain", &plain), ("gzip", &gzip), ("zstd", &zstd), ("bzip2", &bzip2), ("xz", &xz)] {
        let home = Home::new();
        let file = home.path().join("image.tar");
        fs::write(&file, bytes).expect("a file");
        let from_file = home.service().load(Input::Path(&file), None).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(names(&from_file), ["app:1", "localhost/b:2"], "{kind}");
        let home = Home::new();
        let loaded = load(&home, bytes).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(loaded, from_file, "{kind}");
        // Saved again it is the same archive: manifest and layers are kept as they are.
        let mut saved = Vec::new();
        let mut pack = |_: &_| panic!("every layer is packed");
        let destination = Destination::Stream(&mut saved);
        home.service().save(&["app:1", "localhost/b:2"], None, Format::Docker, destination, &mut pack).expect("an archive");
        assert_eq!(saved, plain, "{kind}");
    }
}

#[test]
fn a_classic_docker_archive() {
    let (a, b) = (layer("a", b"first"), layer("b", b"second"));
    let config = image_support::config("amd64", &[&a, &b, &a]);
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["busybox", "host.io/x:1"], "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"]}]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).expect("an entry");
    };
    add("./1/layer.tar", &a.tar);
    add("2/layer.tar", &b.gzip);
    add("manifest.json", manifest.to_string().as_bytes());
    add("c.json", &config);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "3/layer.tar", "../1/layer.tar").expect("a link");
    let bytes = builder.into_inner().expect("a tar");

    let home = Home::new();
    let loaded = load(&home, &bytes).expect("an image");
    assert_eq!(names(&loaded), ["busybox:latest", "host.io/x:1"]);
    assert_eq!(loaded[0].id, OciDigest::sha256_of(&config));
    let image = home.service().resolve("busybox", &amd64(), PullPolicy::Never, &()).expect("an image");
    let blobs: Vec<_> = image.layers.iter().map(|l| l.blob.clone().expect("a blob")).collect();
    assert_eq!(blobs[0].digest, OciDigest::sha256_of(&a.tar));
    assert_eq!(blobs[1].digest, OciDigest::sha256_of(&b.gzip));
    assert_eq!(blobs[0], blobs[2]);
    let types: Vec<_> = blobs.iter().map(|b| b.media_type.rsplit('.').next().unwrap_or_default()).collect();
    assert_eq!(types, ["tar", "tar+gzip", "tar"]);
}

#[test]
fn broken_archives_change_nothing() {
    let origin = Home::new();
    let good = archive(&origin, &["app:1"], Format::Oci);
    let dual = archive(&origin, &["app:1"], Format::Docker);
    let files = entries(&good);
    let swap = |which: &dyn Fn(&str) -> bool, change: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        let changed: Vec<(String, Vec<u8>)> = files
            .iter()
            .filter(|(name, ..)| !name.ends_with('/'))
            .filter_map(|(name, _, content)| Some((name.clone(), if which(name) { change(content)? } else { content.clone() })))
            .collect();
        tar_of(changed.iter().map(|(n, c)| (n.as_str(), c.as_slice())))
    };
    let is_large = |name: &str| files.iter().any(|(n, _, c)| n == name && c.len() > 50_000);
    let flip = |content: &[u8]| {
        let mut content = content.to_vec();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        Some(content)
    };
    let a = layer("a", b"first");
    let bare = |config: &[u8], layer: &[u8]| {
        let manifest = json!([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["l"]}]).to_string();
        tar_of([("c", config), ("l", layer), ("manifest.json", manifest.as_bytes())])
    };
    let config = image_support::config("amd64", &[&a]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a flipped bit in a layer", swap(&is_large, &flip), "content does not match its digest"),
        ("a flipped bit in a manifest", swap(&|n| n.starts_with("blobs/") && !is_large(n), &flip), "content does not match its digest"),
        ("a missing layer", swap(&is_large, &|_| None), "is missing"),
        ("a short layer", swap(&is_large, &|c| Some(c[1..].to_vec())), "its manifest says"),
        ("a cut archive", dual[..dual.len() / 2].to_vec(), "invalid image archive"),
        ("a cut stream", zstd::stream::encode_all(&good[..], 1).expect("memory")[..5000].to_vec(), "invalid image archive"),
        ("no archive", b"hello world".to_vec(), "image archive"),
        ("nothing", Vec::new(), "is no image archive: it is empty"),
        ("a text", b"hello\n".to_vec(), "is no image archive: it is no tar"),
        ("a longer text", b"hello\n".repeat(999), "is no image archive: it is no tar"),
        ("another tar", tar_of([("x", &b"y"[..])]), "is no image archive"),
        ("a wrong DiffID", bare(&config, b"not it"), "content does not match its digest"),
        ("a wrong DiffID in gzip", bare(&config, &layer("b", b"b").gzip), "content does not match its digest"),
        ("broken gzip", bare(&config, &a.gzip[..a.gzip.len() - 9]), "invalid image archive"),
        (
            "a bad tag",
            tar_of([("c", &config[..]), ("manifest.json", br#"[{"Config":"c","RepoTags":["A b"],"Layers":[]}]"#)]),
            "invalid image archive",
        ),
        (
            "a path outside",
            tar_of([("manifest.json", &br#"[{"Config":"../../etc/passwd","RepoTags":null,"Layers":[]}]"#[..])]),
            "is missing",
        ),
        ("an index without images", tar_of([("index.json", &br#"{"schemaVersion":2,"manifests":[]}"#[..])]), "names no image"),
    ];
    for (what, bytes, message) in cases {
        let home = Home::new();
        let before = contents(&home);
        let error = load(&home, &bytes).expect_err(what);
        assert!(error.to_string().contains(message), "{what}: {error}");
        assert_eq!(contents(&home), before, "{what}");
    }
}

#[test]
fn names_come_from_annotations() {
    let origin = Home::new();
    let image = export_image(&origin.store, &[], &[&layer("a", b"a")]);
    let dir = origin.path().join("layout");
    export(&origin.store, &[image], Format::Oci, MediaTypes::Oci, Destination::Directory(&dir)).expect("a layout");
    let index = fs::read_to_string(dir.join("index.json")).expect("an index");
    for (annotations, expected) in [
        (json!({"io.containerd.image.name": "docker.io/u/app:3", "org.opencontainers.image.ref.name": "3"}), vec!["u/app:3"]),
        (json!({"org.opencontainers.image.ref.name": "alpine:3"}), vec!["alpine:3"]),
        (json!({"org.opencontainers.image.ref.name": "localhost/a/b"}), vec!["localhost/a/b:latest"]),
        (json!({"org.opencontainers.image.ref.name": "latest"}), vec![]),
        (json!({}), vec![]),
    ] {
        let mut index: Value = serde_json::from_str(&index).expect("JSON");
        index["manifests"][0]["annotations"] = annotations.clone();
        fs::write(dir.join("index.json"), index.to_string()).expect("a file");
        let home = Home::new();
        let loaded = home.service().load(Input::Path(&dir), None).expect("an image");
        assert_eq!((names(&loaded), loaded.len()), (expected.into_iter().map(String::from).collect(), 1), "{annotations}");
    }
}

#[test]
fn a_layout_as_a_named_context() {
    let origin = Home::new();
    let dir = origin.path().join("layout");
    let (one, two) = (layer("a", b"one"), layer("a", b"two"));
    for (tag, l) in [("app:one", &one), ("app:two", &two), ("app:one", &one)] {
        let image = export_image(&origin.store, &[tag], &[l]);
        export(&origin.store, &[image], Format::Oci, MediaTypes::Oci, Destination::Directory(&dir)).expect("a layout");
    }
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).expect("an index")).expect("JSON");
    assert_eq!(index["manifests"].as_array().expect("a list").len(), 2, "an entry of the same name is replaced");

    let home = Home::new();
    let with = |context: String| {
        let named = NamedImage::parse(&context).expect("a context").expect("an image");
        home.service().with_named_contexts([("base".to_owned(), named)].into())
    };
    let find = |suffix: &str| {
        let service = with(format!("oci-layout://{}{suffix}", dir.display()));
        service.resolve("docker.io/library/base:latest", &amd64(), PullPolicy::Missing, &()).map(|image| (service, image))
    };
    let (service, image) = find(":two").expect("an image");
    assert_eq!(image.layers[0].diff_id.0, OciDigest::sha256_of(&two.tar));
    assert!(home.store.blobs().size(&image.layers[0].blob.as_ref().expect("a blob").digest).expect("a store").is_none());
    service.ensure_blobs(&image, &()).expect("the layers");
    let digest = image.record.manifest.expect("a manifest").digest;
    assert_eq!(find(&format!("@{digest}")).expect("by digest").1.record.id, image.record.id);
    let error = find("").map(drop).expect_err("two images, no latest");
    assert!(error.to_string().ends_with("latest: not found"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("there is two, one"));
    assert!(find(":three").is_err());
}

#[test]
fn named_contexts_are_parsed_and_circles_end() {
    let layout =
        |path: &str, tag: Option<&str>| Some(NamedImage::Layout(LayoutName { path: path.into(), tag: tag.map(Into::into), digest: None }));
    for (text, expected) in [
        ("docker-image://alpine:3", Some(NamedImage::Image("alpine:3".into()))),
        ("oci-layout:///a/b", layout("/a/b", None)),
        ("oci-layout://a/b:t", layout("a/b", Some("t"))),
        ("oci-layout:///a:5/b", layout("/a:5/b", None)),
        ("./dir", None),
        ("https://x", None),
    ] {
        assert_eq!(NamedImage::parse(text).expect(text), expected, "{text}");
    }
    for text in ["oci-layout://", "oci-layout://a@sha256:1"] {
        assert!(NamedImage::parse(text).is_err(), "{text}");
    }
    let home = Home::new();
    let circle = [("a".to_owned(), NamedImage::Image("b".into())), ("b".to_owned(), NamedImage::Image("a".into()))];
    let service = home.service().with_named_contexts(circle.into());
    assert!(matches!(service.resolve("a", &amd64(), PullPolicy::Never, &()), Err(ImageError::NamedContext { .. })));
    // An image that stands for itself, for another tag or a pinned digest, is no circle.
    let itself = service.with_named_contexts([("app:1".to_owned(), NamedImage::Image("app:1".into()))].into());
    load(&home, &archive(&home, &["app:1"], Format::Oci)).expect("an image");
    itself.resolve("app:1", &amd64(), PullPolicy::Never, &()).expect("the image itself");
}

#[test]
fn tags_ids_and_removal() {
    let home = Home::new();
    let service = home.service();
    let id = load(&home, &archive(&home, &["app:1"], Format::Oci)).expect("an image")[0].id.clone();
    let short = &id.hex()[..12];
    service.tag("app:1", "localhost:5000/app:2").expect("a tag");
    service.tag(short, "app").expect("a tag by a prefix");
    assert!(matches!(service.tag("app:1", &format!("x@{id}")), Err(ImageError::DigestTag { .. })));
    let error = service.tag("app:1", "Bad").expect_err("upper case");
    assert_eq!(error.to_string(), "invalid reference format: repository name (library/Bad) must be lowercase");
    assert_eq!(service.tag("nope", "x").expect_err("absent").to_string(), "No such image: nope:latest");

    let list = service.list().expect("a list");
    let listed: Vec<_> = list[0].names.iter().map(Reference::familiar).collect();
    assert_eq!((list.len(), listed), (1, vec!["app:1".to_owned(), "app:latest".into(), "localhost:5000/app:2".into()]));
    let inspected = serde_json::to_value(service.inspect(id.as_str()).expect("an image")).expect("JSON");
    for (path, expected) in [
        ("/Id", json!(id)),
        ("/RepoTags/0", json!("app:1")),
        ("/RepoDigests", json!([])),
        ("/Architecture", json!("amd64")),
        ("/Os", json!("linux")),
        ("/Created", json!("2024-02-03T04:05:06.789Z")),
        ("/Config/Cmd/0", json!("sh")),
        ("/Config/Entrypoint", json!(null)),
        ("/Config/Labels/a", json!("b")),
        ("/RootFS/Type", json!("layers")),
        ("/Comment", json!("c")),
        ("/Author", json!("")),
    ] {
        assert_eq!(inspected.pointer(path), Some(&expected), "{path}");
    }
    assert_eq!(inspected["Size"], json!(list[0].size_bytes));

    assert_eq!(service.remove("app", false).expect("a name"), [Removal::Untagged("app:latest".into())]);
    let error = service.remove(short, false).expect_err("two names");
    assert_eq!(
        error.to_string(),
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories")
    );
    let done = service.remove(short, true).expect("forced");
    let expected = [Removal::Untagged("app:1".into()), Removal::Untagged("localhost:5000/app:2".into()), Removal::Deleted(id.to_string())];
    assert_eq!(done, expected);
    assert_eq!(service.remove(short, true).expect_err("gone").to_string(), format!("No such image: {short}:latest"));
}

#[test]
fn a_prefix_that_two_images_share_is_ambiguous() {
    let home = Home::new();
    let service = home.service();
    let mut seen = std::collections::HashMap::new();
    let shared = (0..).find_map(|n| {
        let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}, "n": n});
        let id = service.commit(&[], config.to_string().as_bytes(), Vec::new(), shale_cache::Built::default()).expect("an image");
        let digit = id.hex()[..1].to_owned();
        seen.insert(digit.clone(), id).map(|_| digit)
    });
    let shared = shared.expect("seventeen ids share a digit");
    let error = service.inspect(&shared).expect_err("ambiguous");
    assert_eq!(error.to_string(), format!("multiple IDs found with provided prefix: {shared}"));
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let home = Home::new();
    let target = home.path().join("out.tar");
    fs::write(&target, "before").expect("a file");
    let mut image = export_image(&home.store, &["app"], &[&layer("a", b"a")]);
    let good = image.clone();
    image.layers[0].blob = OciDigest::sha256_of(b"nowhere");
    let run = |image, path: &Path| export(&home.store, &[image], Format::Oci, MediaTypes::Oci, Destination::File(path));
    assert!(run(image, &target).is_err());
    assert_eq!(fs::read(&target).expect("a file"), b"before");
    let link = home.path().join("link.tar");
    std::os::unix::fs::symlink("out.tar", &link).expect("a link");
    run(good.clone(), &link).expect("an archive");
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    let mut bytes = Vec::new();
    export(&home.store, std::slice::from_ref(&good), Format::Oci, MediaTypes::Oci, Destination::Stream(&mut bytes)).expect("an archive");
    assert!(fs::read(&target).expect("a file") == bytes, "a file and a stream get the same bytes");
    run(good.clone(), Path::new("/dev/null")).expect("a device is written to");
    let error = run(good, &home.path().join("no/such/out.tar")).expect_err("no directory");
    assert!(error.to_string().contains("no/such/out.tar"), "{error}");
    let left: Vec<_> = fs::read_dir(home.path()).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

/// A blob named by sha512 has a name longer than a tar header's field.
#[test]
fn sha512_names_survive() {
    let home = Home::new();
    let l = layer("a", b"a");
    let mut image = export_image(&home.store, &["app"], &[&l]);
    let digest = OciDigest::sha512_of(&l.gzip);
    let mut writer = home.store.blobs().writer().expect("a blob");
    writer.write_all(&l.gzip).expect("a file");
    writer.commit(Some(&digest)).expect("a blob");
    image.layers[0].blob = digest.clone();
    let mut bytes = Vec::new();
    export(&home.store, &[image], Format::Docker, MediaTypes::Oci, Destination::Stream(&mut bytes)).expect("an archive");
    assert!(entries_of(&bytes).contains(&format!("blobs/sha512/{}", digest.hex())));
    let other = Home::new();
    load(&other, &bytes).expect("an image");
    assert_eq!(other.store.blobs().size(&digest).expect("a store"), Some(l.gzip.len() as u64));
}

// What other tools make of our archives.

fn write_archive(home: &Home, names: &[&str]) -> String {
    let path = home.path().join("image.tar");
    File::create(&path).and_then(|mut f| f.write_all(&archive(home, names, Format::Docker))).expect("a file");
    path.display().to_string()
}

#[test]
fn skopeo_reads_both_halves_of_an_archive() {
    let home = Home::new();
    let path = write_archive(&home, &["app:1"]);
    for source in [
        format!("oci-archive:{path}"),
        format!("oci-archive:{path}:1"),
        format!("docker-archive:{path}"),
        format!("docker-archive:{path}:app:1"),
    ] {
        let Some(said) = tool("skopeo", &["inspect", "--config", &source]) else { return };
        let config: Value = serde_json::from_str(&said.unwrap_or_else(|e| panic!("{source}: {e}"))).expect("JSON");
        assert_eq!(config["config"]["Cmd"], json!(["sh"]), "{source}");
    }
}

#[test]
fn skopeos_archives_are_read() {
    let home = Home::new();
    let path = write_archive(&home, &["app:1"]);
    load(&home, &fs::read(&path).expect("a file")).expect("an image");
    let original = home.service().inspect("app:1").expect("an image").root_fs.layers;
    for (kind, suffix, expected) in
        [("docker-archive", ":r.io/b:2", "r.io/b:2"), ("oci-archive", ":r.io/b:2", "r.io/b:2"), ("oci", ":r.io/b:2", "r.io/b:2")]
    {
        let copy = home.path().join(format!("copy-{kind}"));
        let target = format!("{kind}:{}{suffix}", copy.display());
        let Some(done) = tool("skopeo", &["copy", "--insecure-policy", "-q", &format!("docker-archive:{path}"), &target]) else { return };
        done.unwrap_or_else(|e| panic!("{target}: {e}"));
        let other = Home::new();
        let loaded = other.service().load(Input::Path(&copy), None).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(names(&loaded), [expected], "{kind}");
        // skopeo writes the config anew when it changes the format; the layers tell that it is the same image.
        let layers = other.service().inspect(expected).expect("an image").root_fs.layers;
        assert_eq!(layers, original, "{kind}");
    }
}

#[test]
fn umoci_unpacks_a_layout() {
    let home = Home::new();
    let dir = home.path().join("layout");
    let image = export_image(&home.store, &["app:1"], &[&layer("a", b"first"), &layer("b", b"second")]);
    export(&home.store, &[image], Format::Oci, MediaTypes::Oci, Destination::Directory(&dir)).expect("a layout");
    let (image, bundle) = (format!("{}:1", dir.display()), home.path().join("bundle"));
    let Some(done) = tool("umoci", &["unpack", "--rootless", "--image", &image, &bundle.display().to_string()]) else { return };
    done.expect("umoci reads it");
    assert_eq!(fs::read(bundle.join("rootfs/b")).expect("a file"), b"second");
}

#[test]
fn podman_loads_an_archive() {
    for tags in [&["localhost/shale-test:1"][..], &["localhost/shale-test:1", "localhost/shale-test:2"]] {
        let home = Home::new();
        let path = write_archive(&home, tags);
        let root = |name: &str| home.path().join(name).display().to_string();
        let (graph, run) = (root("graph"), root("run"));
        let base = ["--root", &graph, "--runroot", &run, "--storage-driver", "vfs"];
        let Some(said) = tool("podman", &[&base[..], &["load", "-i", &path]].concat()) else { return };
        let said = said.expect("podman loads it");
        assert!(tags.iter().all(|tag| said.contains(tag)), "{said}");
    }
}
