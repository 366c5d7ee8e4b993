//! Files of a context that change while a build reads them: its own log, say.

mod support;

use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{Lab, as_everybody};

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
            assert!(text.starts_with(&"line\n".repeat(100_000)) && text.trim_end().lines().last() <= Some("line"), "{name}");
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
