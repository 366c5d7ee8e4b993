//! Early cut-off: a step that runs again and makes what it had made before costs nothing that follows, in its stage and in others;
//! and what is copied stays when something below it changes.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Lab, as_everybody};

/// `/log` and `/out/bin` have the time of the run, which differs from run to run.
const DOCKERFILE: &str = "FROM base AS build\nARG FLAVOUR=sweet\nCOPY src /src\n\
    RUN mkdir /out && grep -v '^#' /src/main >/out/bin; touch /log\n\
    FROM base\nWORKDIR /app\nCOPY --from=build /out ./\nCOPY conf ./\nADD data /data/\nRUN cat bin >/copy\n\
    RUN --mount=type=bind,from=build,source=/out,target=/m cat /m/bin\nCOPY late /late\nRUN cat /version\n";

type Change = fn(&Lab);

/// What changes, how, with which arguments; which steps run then, by the beginnings of their instructions in the order of the graph.
const ROWS: &[(&str, Change, &[&str], &[&str])] = &[
    ("nothing", |_| (), &[], &[]),
    ("the time of a file", touch, &[], &[]),
    ("a command that makes the same", |lab| edit(lab, "; touch /log", " && touch /log"), &[], &["RUN mkdir"]),
    ("a build argument", |_| (), &["--build-arg", "FLAVOUR=sour"], &["RUN mkdir"]),
    ("a variable", |lab| edit(lab, "COPY src", "ENV MODE=fast\nCOPY src"), &[], &["RUN mkdir"]),
    ("a stage without cache", |_| (), &["--no-cache-filter", "build"], &["COPY src", "RUN mkdir"]),
    ("a comment in a source", |lab| drop(lab.write("ctx/src/main", "# other\nprogram\n")), &[], &["COPY src", "RUN mkdir"]),
    ("a step in the middle", |lab| edit(lab, "cat bin >/copy", "cp bin /copy"), &[], &["RUN cp bin"]),
    ("a moved base", move_base, &[], &["RUN mkdir", "WORKDIR", "RUN cat bin", "RUN --mount", "RUN cat /version"]),
    // These have other content, and must not be taken for the same.
    ("a copied file", |lab| drop(lab.write("ctx/conf", "2\n")), &[], &["COPY conf", "RUN cat bin", "RUN --mount", "RUN cat /version"]),
    ("an added file", |lab| drop(lab.write("ctx/data", "2\n")), &[], &["ADD data", "RUN cat bin", "RUN --mount", "RUN cat /version"]),
    (
        "a source",
        |lab| drop(lab.write("ctx/src/main", "# comment\nother\n")),
        &[],
        &["COPY src", "RUN mkdir", "COPY --from", "RUN cat bin", "RUN --mount", "RUN cat /version"],
    ),
];

fn make_base(lab: &Lab, version: &str) {
    lab.context("base", &[("Dockerfile", &format!("FROM busybox\nRUN echo {version} >/version\n"))]);
    let said = lab.run(&["build", "-q", "-t", "base", "base"]);
    assert!(said.ok(), "{}", said.stderr);
}

fn move_base(lab: &Lab) {
    make_base(lab, "2");
}

fn fill(lab: &Lab) {
    let files = [("src/main", "# comment\nprogram\n"), ("conf", "1\n"), ("data", "1\n"), ("late", "1\n"), ("Dockerfile", DOCKERFILE)];
    lab.context("ctx", &files);
}

fn touch(lab: &Lab) {
    let file = fs::File::options().write(true).open(lab.work("ctx/conf")).expect("open");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("a time");
}

fn edit(lab: &Lab, from: &str, to: &str) {
    let text = fs::read_to_string(lab.work("ctx/Dockerfile")).expect("read");
    assert!(text.contains(from), "{from:?} is not in the Dockerfile");
    lab.write("ctx/Dockerfile", text.replacen(from, to, 1));
}

/// The steps of `shale.build`: (instruction, status).
fn statuses(lab: &Lab) -> Vec<(String, String)> {
    let text = fs::read(lab.work("meta.json")).expect("--metadata-file");
    let meta: Value = serde_json::from_slice(&text).expect("JSON");
    assert!(meta["shale.build"]["started_ms"].as_u64() > Some(0) && meta["shale.build"]["pid"].as_u64() > Some(0), "{meta}");
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_else(|| panic!("no {name} in {step}")).to_owned();
    let steps = meta["shale.build"]["steps"].as_array().expect("steps").iter();
    steps.map(|step| (text(step, "name").split_once("] ").expect("a name").1.to_owned(), text(step, "status"))).collect()
}

#[test]
fn only_what_has_other_content_below_it_runs_again() {
    as_everybody(|lab| {
        lab.load_busybox();
        for (what, change, args, expected) in ROWS {
            make_base(lab, "1");
            fill(lab);
            let first = lab.build("ctx", &[]);
            change(lab);
            let mut all = vec!["--metadata-file", "meta.json"];
            all.extend(*args);
            let again = lab.build("ctx", &all);
            let steps = statuses(lab);
            let of = |wanted: &str| steps.iter().filter(|(_, status)| status == wanted).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
            let ran = of("executed");
            let fits = ran.len() == expected.len() && ran.iter().zip(*expected).all(|(ran, start)| ran.starts_with(start));
            assert!(fits, "{:?}: {what}: {ran:?} is not {expected:?}\n{}", lab.who(), again.said.stderr);
            assert_eq!(steps.len() - ran.len(), of("hit").len() + of("cut-off-hit").len(), "{what}: {steps:?}");
            // A step of another stage follows too.
            let is_same = expected.iter().all(|start| ["RUN mkdir", "COPY src", "RUN cp bin"].contains(start));
            assert_eq!(!of("cut-off-hit").is_empty(), is_same && !expected.is_empty(), "{what}: {steps:?}");
            assert_eq!(first.image.config["rootfs"] == again.image.config["rootfs"], is_same, "{:?}: {what}", lab.who());
            let program = if *what == "a source" { "other\n" } else { "program\n" };
            assert_eq!((again.image.text("app/bin"), again.image.text("copy")), (program.into(), program.into()), "{what}");
            assert_eq!(again.image.text("version"), if *what == "a moved base" { "2\n" } else { "1\n" });
            fs::remove_dir_all(lab.work("ctx")).expect("remove");
        }
    });
}

fn write_archive(lab: &Lab, mtime_secs: u64) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(2);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime_secs);
    tar.append_data(&mut header, "member", &b"m\n"[..]).expect("memory");
    lab.write("ctx/files.tar", tar.into_inner().expect("memory"));
}

/// Unlike those of a context's files, they are the same wherever it is unpacked, and a command may look at them.
#[test]
fn the_times_in_an_archive_are_content() {
    as_everybody(|lab| {
        lab.load_busybox();
        lab.context("ctx", &[("Dockerfile", "FROM busybox AS added\nADD files.tar /d/\nFROM added\nRUN stat -c %Y /d/member >/time\n")]);
        for mtime in ["1700000000\n", "1600000000\n"] {
            write_archive(lab, mtime.trim().parse().expect("a number"));
            assert_eq!(lab.build("ctx", &[]).image.text("time"), mtime, "{:?}", lab.who());
        }
        // The time of the directory above is that of the step, and nobody's content.
        lab.build("ctx", &["--no-cache-filter", "added", "--metadata-file", "meta.json"]);
        let told: Vec<String> = statuses(lab).into_iter().map(|(_, status)| status).collect();
        assert_eq!(told, ["executed", "cut-off-hit"], "{:?}", lab.who());
    });
}

#[test]
fn an_archive_is_unpacked_again_upon_a_changed_base() {
    as_everybody(|lab| {
        lab.load_busybox();
        make_base(lab, "1");
        write_archive(lab, 1_700_000_000);
        lab.context("ctx", &[("Dockerfile", "FROM base\nADD files.tar plain /d/\nADD plain /e/\n"), ("plain", "p\n")]);
        lab.build("ctx", &[]);
        make_base(lab, "2");
        let again = lab.build("ctx", &["--metadata-file", "meta.json"]);
        let told: Vec<String> = statuses(lab).into_iter().map(|(_, status)| status).collect();
        assert_eq!(told, ["executed", "hit"], "{:?}", lab.who());
        assert_eq!(
            (again.image.text("d/member"), again.image.text("d/plain"), again.image.text("e/plain")),
            ("m\n".into(), "p\n".into(), "p\n".into())
        );
    });
}

/// The layers of the image, by their digests.
fn layers(built: &support::Built) -> Value {
    built.image.config["rootfs"].clone()
}

#[test]
fn what_runs_again_takes_the_layer_of_before_only_where_no_times_change_places() {
    as_everybody(|lab| {
        lab.load_busybox();
        let file = |line: &str, last: &str| {
            let text = format!("FROM busybox\nCOPY main.c /\nRUN {line}\nRUN {last}\n");
            lab.context("ctx", &[("Dockerfile", &text)]);
        };
        let compile = "usleep 1100000; grep -v '^//' /main.c >/main.o; touch /done";
        // busybox compares whole seconds.
        let check = "[ /main.o -nt /main.c ] && echo";
        lab.context("ctx", &[("main.c", "// one\nint main;\n")]);
        file(compile, &format!("{check} 1"));
        let first = lab.build("ctx", &[]);
        // Another command that makes the same: the image stays.
        file(&compile.replace("; touch", " && touch"), &format!("{check} 1"));
        let same = lab.build("ctx", &[]);
        assert_eq!((same.said.executed().len(), layers(&same)), (1, layers(&first)), "{:?}: {}", lab.who(), same.said.stderr);
        // The source is newer than what was made of it before: what is made now is newer than the source, and what follows sees that.
        lab.write("ctx/main.c", "// two\nint main;\n");
        file(compile, &format!("{check} 2"));
        let newer = lab.build("ctx", &[]);
        assert_eq!(newer.image.text("main.o"), "int main;\n");
        let hit = lab.build("ctx", &[]);
        assert!(hit.said.executed().is_empty() && layers(&hit) == layers(&newer), "{:?}: {}", lab.who(), hit.said.stderr);
        // Who wants no cache gets the times of now.
        let anew = lab.build("ctx", &["--no-cache"]);
        assert_ne!(layers(&anew), layers(&hit), "{:?}", lab.who());
        // The same where the source is only mounted.
        let mounted = |comment: &str| {
            let text =
                "FROM busybox\nRUN --mount=type=bind,target=/src usleep 1100000; grep -v '^//' /src/main.c >/main.o\nRUN cat /main.o\n";
            lab.context("ctx", &[("Dockerfile", text), ("main.c", &format!("// {comment}\nint main;\n"))]);
            lab.build("ctx", &[])
        };
        let (one, two) = (mounted("one"), mounted("two"));
        assert_eq!(two.said.executed().len(), 1, "{:?}: {}", lab.who(), two.said.stderr);
        assert_ne!(layers(&one), layers(&two), "{:?}", lab.who());
        // In the other order, at times that no clock takes for one.
        let write = |first: &str, second: &str| format!("touch /{first}; usleep 1100000; touch /{second}");
        file(&write("f", "g"), "[ /g -nt /f ]");
        lab.build("ctx", &[]);
        file(&write("g", "f"), "[ /f -nt /g ]");
        lab.build("ctx", &[]);
    });
}

/// A cached COPY from a stage looks at none of its files: the index of their layer may be lost.
#[test]
fn what_a_stage_gave_is_known_without_its_files() {
    as_everybody(|lab| {
        lab.load_busybox();
        let file = |copy: &str, text: &str| {
            let text =
                format!("FROM busybox AS build\nRUN mkdir /out && echo {text} >/out/a && echo b >/out/b\nFROM scratch\nCOPY {copy} /\n");
            lab.context("ctx", &[("Dockerfile", &text)]);
        };
        let executed = || lab.build("ctx", &[]).said.executed();
        file("--from=build /out", "a");
        let first = lab.build("ctx", &[]).image;
        file("--from=build --exclude=b /out", "a");
        assert_eq!(executed().len(), 1, "{:?}: another selection", lab.who());
        file("--from=build /out", "other");
        assert_eq!(executed().len(), 2, "{:?}: another stage", lab.who());
        file("--from=build /out", "a");
        let layers = lab.store().join("layers");
        let of_the_stage = |index: &Path| fs::read(index).is_ok_and(|bytes| bytes.windows(5).any(|at| at == b"out/a"));
        let mut lost = 0;
        for layer in fs::read_dir(&layers).expect("layers") {
            let index = layer.expect("a layer").path().join("index");
            if of_the_stage(&index) {
                fs::write(&index, "").expect("written");
                lost += 1;
            }
        }
        assert_eq!(lost, 2, "{:?}", lab.who());
        let again = lab.build("ctx", &[]);
        assert!(again.said.executed().is_empty() && again.image.config == first.config, "{:?}: {}", lab.who(), again.said.stderr);
        // Who needs the files is told.
        file("--from=build /out/a", "a");
        let said = lab.run(&["build", "ctx"]);
        assert!(said.stderr.contains("is damaged") || said.stderr.contains("not one this version"), "{:?}: {}", lab.who(), said.stderr);
    });
}

#[test]
fn an_image_is_as_old_as_the_build_that_made_it() {
    as_everybody(|lab| {
        lab.load_busybox();
        let built = |line: &str, args: &[&str]| {
            lab.context("ctx", &[("Dockerfile", &format!("FROM busybox\nRUN {line}\n"))]);
            lab.build("ctx", args).image.config["created"].as_str().expect("a time").to_owned()
        };
        let first = built("true", &[]);
        // It changes nothing either, but it is not the same step.
        let other = built("date", &[]);
        assert!(other > first, "{:?}: {other} is not after {first}", lab.who());
        assert_eq!(built("true", &[]), first, "{:?}: a step that hits", lab.who());
        let anew = built("true", &["--no-cache"]);
        assert!(anew > other, "{:?}: a step that is made anew", lab.who());
        assert_eq!(built("true", &[]), anew, "{:?}: a step that hits what was made anew", lab.who());
    });
}
