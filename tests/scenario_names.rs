//! What names of images stand for, whoever else builds, names or removes the same images.

mod support;

use support::image::Archive;
use support::{Lab, Who};

/// An image that two names stand for in two ways: one of several platforms with annotations, and alone.
#[test]
fn what_a_name_stands_for_is_not_changed_by_other_builds() {
    let lab = Lab::new(Who::Caller);
    let dockerfile = "FROM scratch AS amd64\nARG F\nCOPY ${F} /x\nFROM scratch AS arm64\nCOPY g /x\nFROM ${TARGETARCH}\n";
    lab.context("ctx", &[("Dockerfile", dockerfile), ("one", "1"), ("two", "2"), ("g", "g")]);
    let run = |args: &[&str]| {
        let said = lab.run(args);
        assert!(said.ok(), "{args:?}: {}", said.stderr);
        said.stdout
    };
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let build = |args: &[&str]| run(&[&["build", "-q"][..], args, &["ctx"]].concat());
    // What its name stands for: type and digest, without the name.
    let save = |name: &str| {
        run(&["save", name, "-o", "out.tar"]);
        let found = Archive::read(&lab.work("out.tar")).index["manifests"].as_array().expect("a list").clone();
        found.iter().map(|one| format!("{} {}", one["mediaType"], one["digest"])).collect::<Vec<_>>()
    };
    build(&[&both[..], &["--build-arg", "F=one", "--annotation", "a=1", "-t", "mm:multi"]].concat());
    let multi = save("mm:multi");
    build(&["--build-arg", "F=one", "--annotation", "a=2", "-t", "mm:solo"]);
    let solo = save("mm:solo");
    assert_ne!(multi, solo);
    assert_eq!(save("mm:multi"), multi);
    build(&["--build-arg", "F=one", "--output", "type=image,name=mm:zstd,compression=zstd"]);
    let zstd = save("mm:zstd");
    run(&["tag", "mm:zstd", "mm:too"]);
    build(&["--build-arg", "F=one", "--output", "type=image,name=mm:gzip,compression=gzip"]);
    run(&["builder", "prune", "--all", "--force"]);
    let is_as_before = || {
        assert_eq!(save("mm:solo"), solo);
        assert_eq!(save("mm:zstd"), zstd);
        assert_eq!(save("mm:too"), zstd);
        assert_eq!(save("mm:multi"), multi);
    };
    is_as_before();
    // The image of the other platform is that of two names: it goes with the last.
    build(&[&both[..], &["--build-arg", "F=two", "-t", "mm:second"]].concat());
    let second = save("mm:second");
    build(&["--platform", "linux/arm64", "-t", "mm:arm"]);
    run(&["rmi", "mm:arm"]);
    is_as_before();
    run(&["rmi", "mm:multi"]);
    assert_eq!(save("mm:second"), second);
    run(&["rmi", "mm:second", "mm:solo", "mm:zstd", "mm:too", "mm:gzip"]);
    assert_eq!(run(&["images", "-a", "-q"]), "");
}

/// Each job builds the same image under a name of its own, and takes that away again.
#[test]
fn names_come_and_go_while_others_build_the_same() {
    let lab = Lab::new(Who::Caller);
    lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "f")]);
    std::thread::scope(|scope| {
        for job in ["race:1", "race:2", "race:3"] {
            let lab = &lab;
            scope.spawn(move || {
                for round in 0..25 {
                    for args in [&["build", "-q", "-t", job, "ctx"][..], &["image", "inspect", job], &["rmi", job]] {
                        let said = lab.run(args);
                        assert!(said.ok(), "{job} {round} {args:?}: {}", said.stderr);
                    }
                }
            });
        }
    });
    assert_eq!(lab.run(&["images", "-a", "-q"]).stdout, "");
}
