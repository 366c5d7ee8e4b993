//! Images for several platforms, and what is written about them: indexes, annotations, metadata, compression.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use support::image::{Archive, Image};
use support::{Lab, Who, as_everybody};

const CROSS: &str = "FROM --platform=$BUILDPLATFORM busybox AS build\n\
    ARG TARGETARCH TARGETPLATFORM\n\
    RUN echo \"$TARGETPLATFORM\" >/arch-$TARGETARCH && cp /arch-$TARGETARCH /arch\n\
    FROM scratch\nCOPY --from=build /arch /\nCOPY same /\nCMD [\"/same\"]\n";
const BOTH: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

fn cross(lab: &Lab) {
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", CROSS), ("same", "same\n")]);
}

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("readable")).expect("JSON")
}

#[test]
fn one_build_makes_an_index_of_images_for_all_platforms() {
    as_everybody(|lab| {
        cross(lab);
        let args = ["build", "--progress", "plain", "-t", "multi:1", "--metadata-file", "meta.json", "--iidfile", "iid"];
        let said = lab.run(&[&args[..], &BOTH, &["-o", "type=oci,dest=o.tar", "ctx"]].concat());
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let archive = Archive::read(&lab.work("o.tar"));
        let entry = &archive.index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/library/multi:1");
        let index = archive.image_index();
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        let images = archive.images();
        assert_eq!(images.keys().collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"], "{:?}", lab.who());
        for (platform, image) in &images {
            assert_eq!(image.text("arch"), format!("{platform}\n"));
            assert_eq!(format!("linux/{}", image.config["architecture"].as_str().unwrap()), *platform);
        }
        // The base is one and the same for both.
        assert_eq!(said.stderr.matches("build 1/2] FROM").count(), 1, "{}", said.stderr);
        let meta = json(&lab.work("meta.json"));
        assert_eq!(meta["containerimage.digest"], entry["digest"]);
        assert_eq!(meta["containerimage.descriptor"]["mediaType"], index["mediaType"]);
        assert_eq!(meta["image.name"], "docker.io/library/multi:1");
        assert!(meta["containerimage.config.digest"].is_null());
        assert_eq!(fs::read_to_string(lab.work("iid")).unwrap(), entry["digest"].as_str().unwrap());
        // A store that has none of them takes all out of the archive, and gives the same ones away again.
        let again = |load: &[&str]| {
            assert!(lab.run(&["rmi", "-f", "multi:1"]).ok());
            let said = lab.run(load);
            assert!(said.ok() && said.stderr.is_empty() && said.stdout == "Loaded image: multi:1\n", "{}", said.stderr);
            assert!(lab.run(&["save", "-o", "again.tar", "multi:1"]).ok());
            Archive::read(&lab.work("again.tar")).index["manifests"][0].clone()
        };
        let all = again(&["load", "-i", "o.tar"]);
        assert_eq!((&all["digest"], &all["mediaType"]), (&entry["digest"], &entry["mediaType"]));
        let one = again(&["load", "--platform", "linux/arm64", "-i", "o.tar"]);
        assert_eq!(one["platform"]["architecture"], "arm64");
        // What its own index has no room for is not looked for.
        let missing = index["manifests"][1]["digest"].as_str().expect("a digest").replace("sha256:", "blobs/sha256/");
        let cut = format!("mkdir part && tar -xf o.tar -C part && rm part/{missing} && tar -cf part.tar -C part . && chmod 644 part.tar");
        assert!(Command::new("sh").args(["-c", &cut]).current_dir(lab.work("")).status().expect("sh").success());
        assert!(lab.run(&["rmi", "-f", "multi:1"]).ok());
        let said = lab.run(&["load", "-i", "part.tar"]);
        assert_eq!(said.stderr, "WARNING: multi:1 was loaded without linux/arm64: the archive names what it does not hold\n");
    });
}

#[test]
fn one_platform_is_a_manifest_unless_an_index_is_asked_for() {
    let lab = Lab::new(Who::Caller);
    cross(&lab);
    let args = ["build", "--platform", "linux/arm64", "-o", "type=oci,dest=o.tar", "--metadata-file", "meta.json"];
    let said = lab.run(&[&args[..], &["ctx"]].concat());
    assert!(said.ok(), "{}", said.stderr);
    let (archive, image) = (Archive::read(&lab.work("o.tar")), Image::read(&lab.work("o.tar")));
    assert_eq!(archive.index["manifests"][0]["platform"]["architecture"], "arm64");
    assert_eq!(image.config["architecture"], "arm64");
    let meta = json(&lab.work("meta.json"));
    assert_eq!(meta["containerimage.config.digest"], image.manifest["config"]["digest"]);
    assert_eq!(meta["containerimage.descriptor"]["platform"]["architecture"], "arm64");
    let said = lab.run(&[&args[..], &["--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "ctx"]].concat());
    assert!(said.ok(), "{}", said.stderr);
    assert_eq!(Archive::read(&lab.work("o.tar")).images().len(), 1);
    let said = lab.run(&[&args[..], &["--build-arg", "BUILDKIT_MULTI_PLATFORM=perhaps", "ctx"]].concat());
    assert!(said.stderr.contains("invalid boolean value for multi-platform: perhaps"), "{}", said.stderr);
}

#[test]
fn a_pruning_of_all_images_takes_those_of_all_platforms_but_for_parts_of_what_stays() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /f\n"), ("amd64", "a\n"), ("arm64", "b\n")]);
    for name in ["multi:1", "multi:2"] {
        let said = lab.run(&[&["build", "-t", name][..], &BOTH, &["ctx"]].concat());
        assert!(said.ok(), "{name}: {}", said.stderr);
    }
    let rows = |lab: &Lab| lab.run(&["images", "-aq"]).stdout.lines().count();
    assert_eq!(rows(&lab), 2, "one for each name");
    assert!(lab.run(&["rmi", "multi:1"]).ok() && lab.run(&["image", "prune", "-f"]).ok());
    assert_eq!(rows(&lab), 1);
    assert!(lab.run(&["save", "-o", "saved.tar", "multi:2"]).ok());
    assert_eq!(Archive::read(&lab.work("saved.tar")).images().len(), 2, "both are still whole");
    assert!(lab.run(&["system", "prune", "-af"]).ok());
    assert_eq!(lab.run(&["images", "-aq"]).stdout, "");
}

#[test]
fn the_store_keeps_all_platforms_under_one_name() {
    as_everybody(|lab| {
        cross(lab);
        let said = lab.run(&[&["build", "-t", "multi"][..], &BOTH, &["ctx"]].concat());
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        let native = lab.run(&["inspect", "-f", "{{.Architecture}}", "multi"]);
        assert_eq!(native.stdout.trim(), if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
        // The other one is no image of its own.
        assert_eq!(lab.run(&["images", "-q"]).stdout.lines().count(), 2);
        assert!(lab.run(&["save", "-o", "saved.tar", "multi"]).ok());
        let saved = Archive::read(&lab.work("saved.tar"));
        assert_eq!(saved.images().len(), 2);
        assert_eq!(serde_json::from_slice::<Value>(&saved.files["manifest.json"]).unwrap()[0]["RepoTags"][0], "multi:latest");
        for platform in ["amd64", "arm64"] {
            let wanted = format!("linux/{platform}");
            let inspect = ["image", "inspect", "--platform", &wanted, "-f", "{{.Architecture}} {{.Id}}", "multi"];
            let said = lab.run(&inspect);
            assert!(said.stdout.starts_with(platform), "{wanted}: {}{}", said.stdout, said.stderr);
            assert!(lab.run(&["history", "--platform", &wanted, "multi"]).ok());
            let said = lab.run(&["save", "--platform", &wanted, "-o", "one.tar", "multi"]);
            assert!(said.ok(), "{wanted}: {}", said.stderr);
            assert_eq!(Image::read(&lab.work("one.tar")).config["architecture"], platform);
            let one = Archive::read(&lab.work("one.tar"));
            assert_eq!(serde_json::from_slice::<Value>(&one.files["manifest.json"]).unwrap()[0]["RepoTags"][0], "multi:latest");
        }
        // As a base it is the image of the platform that is asked for.
        lab.context("next", &[("Dockerfile", "FROM --platform=linux/arm64 multi\nCOPY x /\n"), ("x", "")]);
        let next = lab.build("next", &["--platform", "linux/arm64"]);
        assert_eq!(next.image.text("arch"), "linux/arm64\n", "{:?}", lab.who());
        assert!(lab.run(&["rmi", "multi"]).ok());
        assert_eq!(lab.run(&["images", "-q"]).stdout.lines().count(), 2, "busybox and the last one");
    });
}

/// An image of one platform is what it is, and what it is not is told in Docker's words.
#[test]
fn the_platform_of_an_image_may_be_named_where_images_are_looked_at() {
    as_everybody(|lab| {
        lab.context("one", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "f\n")]);
        let said = lab.run(&["build", "-q", "-t", "one", "--platform", "linux/s390x", "one"]);
        assert!(said.ok(), "{}", said.stderr);
        for args in [
            &["save", "-o", "one.tar", "one"][..],
            &["load", "-i", "one.tar"],
            &["history", "-q", "one"],
            &["image", "inspect", "-f", "{{.Id}}", "one"],
        ] {
            let with = |platform: &str| {
                let at = if args[0] == "image" { 2 } else { 1 };
                lab.run(&[&args[..at], &["--platform", platform], &args[at..]].concat())
            };
            let (plain, right, wrong, broken) = (lab.run(args), with("linux/s390x"), with("linux/arm64"), with("a b"));
            assert!(right.ok() && right.stdout == plain.stdout, "{args:?}: {}", right.stderr);
            let sentence = "was found but does not provide the specified platform (linux/arm64)\nhint: it is for linux/s390x\n";
            assert!(wrong.code == 1 && wrong.stderr.contains(sentence), "{args:?}: {}", wrong.stderr);
            assert!(broken.code == 1 && broken.stderr.starts_with("ERROR: invalid platform: \"a b\""), "{args:?}: {}", broken.stderr);
        }
    });
}

#[test]
fn a_docker_archive_holds_one_platform() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let said = lab.run(&[&["build"][..], &BOTH, &["-o", "type=docker,dest=o.tar", "ctx"]].concat());
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("docker exporter does not currently support exporting manifest lists"), "{}", said.stderr);
}

#[test]
fn files_of_several_platforms_lie_side_by_side() {
    as_everybody(|lab| {
        cross(lab);
        let said = lab.run(&[&["build", "-o", "out", "-o", "type=tar,dest=o.tar"][..], &BOTH, &["ctx"]].concat());
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(fs::read_to_string(lab.work("out/linux_amd64/arch")).unwrap(), "linux/amd64\n");
        assert_eq!(fs::read_to_string(lab.work("out/linux_arm64/arch")).unwrap(), "linux/arm64\n");
        let names: Vec<String> =
            support::image::tar_entries(&fs::read(lab.work("o.tar")).unwrap()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["linux_amd64", "linux_amd64/arch", "linux_amd64/same", "linux_arm64", "linux_arm64/arch", "linux_arm64/same"]);
        let said = lab.run(&[&["build", "-o", "type=local,dest=one,platform-split=false"][..], &BOTH, &["ctx"]].concat());
        let sentence = "cannot overwrite arch from linux/amd64 with linux/arm64 when split option is disabled";
        assert!(said.code == 1 && said.stderr.contains(sentence), "{}", said.stderr);
    });
}

#[test]
fn annotations_come_where_they_are_asked_for() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let annotations = [
        "--annotation",
        "a=1",
        "--annotation",
        "index:b=2",
        "--annotation",
        "manifest[linux/arm64],manifest-descriptor:c=3",
        "--annotation",
        "index-descriptor:d=4",
    ];
    let output = "type=oci,dest=o.tar,annotation.a=5,annotation-index.e=6";
    let said = lab.run(&[&["build", "-t", "x"][..], &BOTH, &annotations, &["-o", output, "ctx"]].concat());
    assert!(said.ok(), "{}", said.stderr);
    let archive = Archive::read(&lab.work("o.tar"));
    let pairs = |value: &Value| -> BTreeMap<String, String> { serde_json::from_value(value["annotations"].clone()).unwrap_or_default() };
    let index = archive.image_index();
    assert_eq!(pairs(&index), BTreeMap::from([("b".into(), "2".into()), ("e".into(), "6".into())]));
    assert_eq!(pairs(&archive.index["manifests"][0])["d"], "4");
    let images = archive.images();
    assert_eq!(pairs(&images["linux/amd64"].manifest), BTreeMap::from([("a".into(), "5".into())]));
    assert_eq!(pairs(&images["linux/arm64"].manifest), BTreeMap::from([("a".into(), "5".into()), ("c".into(), "3".into())]));
    for entry in index["manifests"].as_array().unwrap() {
        assert_eq!(pairs(entry), BTreeMap::from([("c".into(), "3".into())]));
    }
    // What is saved later has them too.
    assert!(lab.run(&["save", "-o", "saved.tar", "x"]).ok());
    assert_eq!(pairs(&Archive::read(&lab.work("saved.tar")).images()["linux/arm64"].manifest)["c"], "3");
    for (annotation, sentence) in [
        ("index:b=2", "index annotations not supported for single platform export"),
        ("manifest[linux/s390x]:b=2", "invalid annotation: no platform linux/s390x found in source"),
    ] {
        let said = lab.run(&["build", "--annotation", annotation, "-o", "type=oci,dest=o.tar", "ctx"]);
        assert!(said.code == 1 && said.stderr.contains(sentence), "{}", said.stderr);
    }
}

#[test]
fn all_layers_get_one_compression_when_that_is_forced() {
    let lab = Lab::new(Who::Caller);
    lab.context("base", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "base\n")]);
    assert!(lab.run(&["build", "-o", "type=oci,tar=false,dest=layout", "base"]).ok());
    lab.context("ctx", &[("Dockerfile", "FROM base\nCOPY g /g\n"), ("g", "own\n")]);
    let kinds = |output: &str| {
        let output = format!("type=oci,dest=o.tar{output}");
        let said = lab.run(&["build", "--build-context", "base=oci-layout://layout", "-o", &output, "ctx"]);
        assert!(said.ok(), "{}", said.stderr);
        let image = Image::read(&lab.work("o.tar"));
        assert_eq!((image.text("f").as_str(), image.text("g").as_str()), ("base\n", "own\n"));
        let kind = |layer: &Value| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        let kinds: Vec<String> = image.manifest["layers"].as_array().unwrap().iter().map(kind).collect();
        (kinds, image.config["rootfs"]["diff_ids"][0].clone())
    };
    let (plain, diff_id) = kinds(",compression=zstd");
    assert_eq!(plain, ["tar+gzip", "tar+zstd"]);
    assert_eq!(kinds(",compression=zstd,force-compression=true"), (vec!["tar+zstd".into(), "tar+zstd".into()], diff_id.clone()));
    assert_eq!(kinds(",compression=uncompressed,force-compression=true"), (vec!["tar".into(), "tar".into()], diff_id.clone()));
    assert_eq!(kinds(",oci-mediatypes=false").0, ["gzip", "gzip"]);
}
