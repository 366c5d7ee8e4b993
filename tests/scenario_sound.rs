//! A cache that has seen much gives what an empty one gives: a context and its Dockerfile change at random, and each build is compared with
//! one in a new store.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use support::image::{Image, Node};
use support::random::{Random, number};
use support::{Lab, as_everybody};

/// Changes for each user.
const CHANGES: usize = 16;
/// Lines of a stage.
const LONGEST: usize = 9;
/// A number that a failure is played again with; where it is not set every run has another one.
const SEED: &str = "SHALE_CHANGES_SEED";

/// What stages are made of. They write where they read and where others read, through links and over each other; none of it has another
/// result the next time.
const LINES: &[&str] = &[
    "COPY dir/ /w/a",
    "COPY *.txt /w/b/",
    "COPY link dir /w/c/",
    "COPY --chown=5:6 --chmod=750 dir/sub /w/a/sub",
    "COPY --link dir /w/a/linked",
    "COPY --exclude=*.txt . /w/all",
    "COPY a.txt /w/to/",
    "ADD dir/f /w/a",
    "WORKDIR /w/d/e",
    "ENV A=1",
    "ENV A=2",
    "ARG A=3",
    "RUN echo $A >/w/x 2>/dev/null; true",
    "RUN mkdir -p /w/b /w/a; ln -sfn a /w/to; true",
    "RUN ln -sfn b /w/to; true",
    "RUN rm -rf /w/a; true",
    "RUN mv /w/b /w/a/moved 2>/dev/null; true",
    "RUN chmod 711 /w/a /w/b/a.txt 2>/dev/null; chown 7:8 /w/c 2>/dev/null; true",
    "RUN X=$(find /w | sort); echo \"$X\" >/list",
    "RUN X=$(cat /w/*/* 2>/dev/null); echo \"$X\" >/w/cat",
    "RUN --mount=type=bind,source=dir,target=/m X=$(ls -R /m; cat /m/f); echo \"$X\" >/w/seen",
];

/// The same of a stage upon which nothing stands.
const TAKING: &[&str] = &[
    "COPY --from=first /w/ /w/f/",
    "COPY --from=first --chown=9 /w/* /w/c/",
    "COPY --from=first /w/a /w/b/",
    "COPY --from=first /w/to /w/to/",
    "RUN --mount=type=bind,from=first,source=/w,target=/m X=$(find /m | sort; cat /m/x); echo \"$X\" >/w/first",
];

const IGNORED: &[&str] = &["", "b.txt\n", "dir\n!dir/f\n!dir/sub\n", "**/g\n", "link\ndir/n*\n"];

/// A Dockerfile as it is changed.
struct Stages {
    first: Vec<&'static str>,
    second: Vec<&'static str>,
}

impl Stages {
    fn new() -> Self {
        Self { first: LINES[..8].to_vec(), second: TAKING.to_vec() }
    }

    fn text(&self) -> String {
        let stage = |from: &str, lines: &[&str]| format!("{from}\nRUN mkdir /w\n{}\n", lines.join("\n"));
        stage("FROM busybox AS first", &self.first) + &stage("FROM busybox", &self.second)
    }

    /// Adds or replaces a line, or takes one away.
    fn change(&mut self, random: &mut Random) {
        let is_first = random.below(2) == 0;
        let line = *if is_first || random.below(3) == 0 { random.one(LINES) } else { random.one(TAKING) };
        let lines = if is_first { &mut self.first } else { &mut self.second };
        let at = random.place(lines.len() + 1);
        if at < lines.len() && random.below(2) == 0 {
            lines[at] = line;
        } else {
            lines.insert(at, line);
        }
        if lines.len() > LONGEST {
            lines.remove(random.place(lines.len()));
        }
    }
}

fn fill(lab: &Lab) {
    drop(fs::remove_dir_all(lab.work("ctx")));
    lab.context("ctx", &[("a.txt", "a\n"), ("b.txt", "b\n"), ("dir/f", "f\n"), ("dir/sub/g", "g\n")]);
    symlink("dir", lab.work("ctx/link")).expect("symlink");
}

fn change_context(lab: &Lab, random: &mut Random) {
    let name = *random.one(&["a.txt", "b.txt", "dir/f", "dir/sub/g", "dir/new", "dir/sub/a.txt"]);
    let path = lab.work(&format!("ctx/{name}"));
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    match random.below(7) {
        0 if is_file => {
            // Neither its length nor its time tells.
            let modified = path.metadata().and_then(|meta| meta.modified()).expect("a time");
            lab.write(&format!("ctx/{name}"), format!("{}\n", random.below(10)));
            fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(modified)).expect("utimes");
        }
        1 if is_file => fs::set_permissions(&path, fs::Permissions::from_mode(*random.one(&[0o644, 0o755, 0o4711]))).expect("chmod"),
        2 if is_file => fs::remove_file(&path).expect("remove"),
        3 if is_file => fs::rename(&path, path.with_extension("txt")).expect("rename"),
        4 => drop(lab.write("ctx/.dockerignore", random.one(IGNORED))),
        5 => {
            let link = lab.work("ctx/link");
            fs::remove_file(&link).expect("remove");
            symlink(random.one(&["dir", "a.txt", "dir/sub", "nowhere"]), link).expect("symlink");
        }
        _ => drop(lab.write(&format!("ctx/{name}"), random.below(10).to_string())),
    }
}

/// The files of an image without their times, which a hit may have of an equal source; or why there is none.
fn built(lab: &Lab, store: &Path) -> Result<BTreeMap<String, Node>, String> {
    let archive = lab.work("ctx.tar");
    let output = format!("type=oci,compression=uncompressed,dest={}", archive.display());
    let mut build = lab.shale(&["build", "--progress", "plain", "-f", "Dockerfile", "-o", &output, "ctx"]);
    let said = build.env("SHALE_ROOT", store).output().expect("shale starts");
    if !said.status.success() {
        let text = String::from_utf8_lossy(&said.stderr);
        return Err(text.lines().rfind(|line| line.starts_with("ERROR: ")).unwrap_or(&text).to_owned());
    }
    let files = Image::read(&archive).files;
    Ok(files.into_iter().map(|(path, node)| (path, Node { mtime: 0, ..node })).collect())
}

#[test]
fn whatever_changed_a_full_cache_gives_what_an_empty_one_gives() {
    let seed = number(SEED).unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64));
    as_everybody(|lab| {
        let mut random = Random(seed);
        lab.load_busybox();
        fill(lab);
        let mut stages = Stages::new();
        let mut images = 0;
        assert!(lab.run(&["save", "-o", "busybox.tar", "busybox"]).ok());
        for change in 0..CHANGES {
            for _ in 0..=random.below(2) {
                if random.below(3) == 0 { stages.change(&mut random) } else { change_context(lab, &mut random) }
            }
            lab.write("Dockerfile", stages.text());
            // What a build leaves for later must not meet the next one in the same place.
            let fresh = lab.path("home").join(format!("fresh-{change}"));
            let load = lab.shale(&["load", "-q", "-i", "busybox.tar"]).env("SHALE_ROOT", &fresh).stdout(Stdio::null()).status();
            assert!(load.expect("shale starts").success());
            let (full, empty) = (built(lab, &lab.store()), built(lab, &fresh));

            let is_image = full.is_ok();
            assert!(full == empty, "{SEED}={seed}, change {change}, {:?}:\n{}\n{}", lab.who(), stages.text(), difference(full, empty));
            drop(fs::remove_dir_all(fresh));
            if is_image {
                images += 1;
            } else {
                // What cannot be built seldom can after the next change.
                fill(lab);
                stages = Stages::new();
            }
        }
        assert!(images > CHANGES / 8, "{SEED}={seed}: {images} images of {CHANGES} builds compare too little");
    });
}

fn difference(full: Result<BTreeMap<String, Node>, String>, empty: Result<BTreeMap<String, Node>, String>) -> String {
    match (full, empty) {
        (Ok(full), Ok(empty)) => {
            let paths = full.keys().chain(empty.keys()).filter(|path| full.get(*path) != empty.get(*path));
            let told = |node: Option<&Node>| node.map(|node| (String::from_utf8_lossy(&node.content).into_owned(), node.mode, node.owner));
            paths.map(|path| format!("{path}: {:?} instead of {:?}\n", told(full.get(path)), told(empty.get(path)))).collect()
        }
        (full, empty) => format!("{:?} instead of {:?}", full.map(|_| "an image"), empty.map(|_| "an image")),
    }
}
