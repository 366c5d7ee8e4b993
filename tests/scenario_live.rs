//! Files of a context that change while a build reads them: its own log, say.

mod support;

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::image::Image;
use support::{Lab, Said, Who, as_everybody};

const DOCKERFILE: &str = "FROM busybox\nCOPY . /a/\nRUN --mount=target=/src cp /src/log /bound && cp /src/one /src/two /\nCOPY . /b/\n\
    FROM scratch\nCOPY --from=0 /bound /one /two /\nCOPY --from=0 /a/log /a\nCOPY --from=0 /b/log /b\n";

/// Builds while a file grows line by line, without a pause that a build would fit into.
fn build_beside_a_writer(lab: &Lab) -> support::Built {
    let stop = AtomicBool::new(false);
    let mut log = File::options().append(true).open(lab.work("ctx/log")).expect("the log");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                log.write_all(b"line\n").expect("the log grows");
                thread::sleep(Duration::from_micros(20));
            }
        });
        let built = lab.build("ctx", &[]);
        stop.store(true, Ordering::Relaxed);
        built
    })
}

#[test]
fn a_file_that_grows_is_taken_as_it_was_at_one_moment() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("log", &"line\n".repeat(100_000)), ("one", "1\n"), ("two", "2\n")]);
        let built = build_beside_a_writer(lab);
        for name in ["a", "bound", "b"] {
            let text = built.image.text(name);
            let lines = "line\n".repeat(text.len() / 5 + 1);
            assert!(text.len() >= 500_000 && lines.starts_with(&text), "{name}");
        }
        assert_eq!(built.image.text("bound"), built.image.text("b"), "what came after the change was noticed is one copy");
        assert_eq!((built.image.text("one"), built.image.text("two")), ("1\n".to_owned(), "2\n".to_owned()));
        lab.assert_tidy("after the build");
        // What was made stands under the key of what was copied: nothing was evicted, the log has grown.
        let said = lab.build("ctx", &[]).said;
        assert!(!said.stderr.contains("evicted"), "{}", said.stderr);
        assert!(said.stderr.contains("cache miss: 1 file changed: log"), "{}", said.stderr);
        assert!(lab.build("ctx", &[]).said.executed().is_empty());
    });
}

#[test]
fn steps_that_look_at_once_wait_for_each_other_s_copies() {
    as_everybody(|lab| {
        lab.load_busybox();
        let stages: String = (0..6).map(|n| format!("FROM busybox AS s{n}\nCOPY . /c\nRUN test -s /c/log\n")).collect();
        let last: String = (0..6).map(|n| format!("COPY --from=s{n} /c/log /{n}\n")).collect();
        let dockerfile = format!("{stages}FROM scratch\n{last}");
        lab.context("ctx", &[("Dockerfile", &dockerfile), ("log", &"line\n".repeat(1000))]);
        for _ in 0..3 {
            let built = build_beside_a_writer(lab);
            assert!((0..6).all(|n| built.image.text(&n.to_string()).starts_with("line\nline\n")));
        }
        lab.assert_tidy("after the builds");
    });
}

#[test]
fn an_archive_that_is_replaced_before_it_is_unpacked_is_unpacked_as_it_is_then() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let archive = |text: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        // Its owner is left blank, as some writers have it.
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "f", text.as_bytes()).expect("memory");
        tar.into_inner().expect("memory")
    };
    lab.context("ctx", &[("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c sleep 2\nADD a.tar /a/\n")]);
    lab.write("ctx/a.tar", archive("old"));
    let replace = thread::spawn({
        let (to, new) = (lab.work("ctx/a.tar"), archive("new"));
        move || {
            thread::sleep(Duration::from_secs(1));
            std::fs::write(to, new).expect("the archive is replaced");
        }
    });
    assert_eq!(lab.build("ctx", &[]).image.text("a/f"), "new");
    replace.join().expect("replaced");
    // Whichever was unpacked, it stands under its own key.
    assert_eq!(lab.build("ctx", &[]).image.text("a/f"), "new");
    lab.write("ctx/a.tar", archive("old"));
    assert_eq!(lab.build("ctx", &[]).image.text("a/f"), "old");
}

/// Its files were selected before the command ran, and what they were then is in the cache.
#[test]
fn a_step_takes_a_file_as_the_step_before_it_saw_it() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let dockerfile = "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo $N; sleep 2\nCOPY d /d\nCOPY d/f /e/f\n";
    lab.context("ctx", &[("Dockerfile", dockerfile), ("d/f", "old"), ("d/g", "1")]);
    lab.build("ctx", &["--build-arg", "N=1"]);
    lab.write("ctx/d/g", "2");
    let write = thread::spawn({
        let to = lab.work("ctx/d/f");
        move || {
            thread::sleep(Duration::from_secs(1));
            std::fs::write(to, "new").expect("written");
        }
    });
    let image = lab.build("ctx", &["--build-arg", "N=2"]).image;
    write.join().expect("written");
    assert_eq!((image.text("d/f"), image.text("e/f")), ("new".to_owned(), "new".to_owned()));
}

/// As with `SHALE_ROOT=$WORKSPACE/.shale`: what a build leaves there must not be in the next image, nor make the next step run.
#[test]
fn the_store_is_no_part_of_a_context_that_holds_it() {
    as_everybody(|lab| {
        lab.context("ctx", &[("Dockerfile", "FROM scratch\nCOPY . /w/\n"), ("f", "f\n")]);
        let build = |name: &str| {
            let args = ["build", "--progress", "plain", "-o", "type=oci,dest=o.tar", "ctx"];
            let said = Said::of(lab.shale(&args).env("SHALE_ROOT", lab.work("ctx").join(name)).output().expect("shale starts"));
            assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
            let files = Image::read(&lab.work("o.tar")).files;
            assert!(files.contains_key("w/f") && !files.keys().any(|path| path.contains(name)), "{:?}: {:?}", lab.who(), files.keys());
            said
        };
        let told = build(".shale");
        assert!(told.stderr.contains(".shale, lies in the context and is left out"), "{:?}: {}", lab.who(), told.stderr);
        assert!(build(".shale").executed().is_empty(), "{:?}", lab.who());
        lab.write("ctx/.dockerignore", ".shale\ndeep\n");
        assert!(!build("deep/in/here").stderr.contains("lies in the context"), "{:?}", lab.who());
    });
}
