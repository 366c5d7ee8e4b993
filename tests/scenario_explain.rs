//! Misses explained: one thing at a time changes, and the printed reason is that thing.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::{Lab, Said, Who, as_everybody_at_once};

/// A build in which every part of a key occurs. `BASE` is there to be moved.
const DOCKERFILE: &str = "FROM base AS src\nRUN mkdir /made && echo 1 >/made/f\n\
    FROM base\nARG VERSION=1\nARG API_TOKEN=first\nENV MODE=fast\nENV DB_PASSWORD=one\nWORKDIR /w\nCOPY --chown=1:1 dir/ /dst/\n\
    RUN --mount=type=cache,id=a,target=/c --mount=type=bind,source=dir,target=/m --mount=type=tmpfs,target=/t echo step\n\
    COPY --from=src /made /made/\nRUN <<EOF\necho body\nEOF\n";

const COPY: &str = "COPY --chown=1:1 dir/ /dst/";
const STEP: &str = "RUN --mount=type=cache,id=a,target=/c";
const FROM: &str = "COPY --from=src";
const SRC: &str = "RUN mkdir /made";
const BODY: &str = "RUN <<EOF";

type Change = fn(&Lab);

/// What changes, how, with which arguments; which step tells which reason (the beginning of its name, its reason).
const ROWS: &[(&str, Change, &[&str], &str, &str)] = &[
    ("content", |lab| drop(lab.write("ctx/dir/a", "other\n")), &[], COPY, "1 file changed: dir/a"),
    ("mode", |lab| chmod(lab, "ctx/dir/a", 0o600), &[], COPY, "1 file changed: dir/a (mode 644 → 600)"),
    ("a new file", |lab| drop(lab.write("ctx/dir/new", "n\n")), &[], COPY, "1 file added: dir/new"),
    ("a file less", |lab| fs::remove_file(lab.work("ctx/dir/sub/b")).expect("remove"), &[], COPY, "1 file removed: dir/sub/b"),
    ("link target", relink, &[], COPY, "1 file changed: dir/link (target a → sub/b)"),
    ("type", retype, &[], COPY, "1 file changed: dir/a (file → directory)"),
    ("several files", several, &[], COPY, "2 files changed: dir/a, dir/sub/b (1 added: dir/z)"),
    ("files of a bind mount", |lab| drop(lab.write("ctx/dir/a", "bound\n")), &[], STEP, "1 file changed: dir/a (mounted at /m)"),
    ("destination", |lab| edit(lab, "dir/ /dst/", "dir/ /dest/"), &[], "COPY --chown=1:1 dir/ /dest/", "destination: /dst/ → /dest/"),
    ("chown", |lab| edit(lab, "--chown=1:1", "--chown=2:2"), &[], "COPY --chown=2:2", "--chown: 1:1 → 2:2"),
    ("chown added", |lab| edit(lab, "COPY --from", "COPY --chown=1:1 --from"), &[], "COPY --chown=1:1 --from", "--chown: none → 1:1"),
    ("chown removed", |lab| edit(lab, "COPY --chown=1:1 dir", "COPY dir"), &[], "COPY dir", "--chown: 1:1 → none"),
    ("another instruction", |lab| edit(lab, "COPY --chown=1:1 dir", "ADD --chown=1:1 dir"), &[], "ADD", "archives are unpacked now"),
    ("chmod", |lab| edit(lab, "COPY --chown=1:1", "COPY --chmod=600 --chown=1:1"), &[], "COPY --chmod", "--chmod: none → 600"),
    ("link", |lab| edit(lab, "COPY --chown=1:1", "COPY --link --chown=1:1"), &[], "COPY --link", "--link: none → true"),
    ("command", |lab| edit(lab, "echo step", "echo other"), &[], STEP, "command changed: echo step → echo other"),
    ("shell", |lab| edit(lab, "COPY --from", "SHELL [\"/bin/ash\", \"-c\"]\nCOPY --from"), &[], BODY, "shell: /bin/sh -c → /bin/ash -c"),
    ("heredoc", |lab| edit(lab, "echo body", "echo other"), &[], BODY, "command changed: echo body → echo other"),
    ("ENV", |lab| edit(lab, "MODE=fast", "MODE=slow"), &[], STEP, "env MODE: fast → slow"),
    ("ENV added", |lab| edit(lab, "ENV MODE=fast", "ENV MODE=fast EXTRA=x"), &[], STEP, "env EXTRA is new: x"),
    ("a secret's ENV", |lab| edit(lab, "DB_PASSWORD=one", "DB_PASSWORD=two"), &[], STEP, "env DB_PASSWORD: changed (value hidden)"),
    ("build arg", |_| (), &["--build-arg", "VERSION=2"], STEP, "build arg VERSION: 1 → 2"),
    ("a secret's build arg", |_| (), &["--build-arg", "API_TOKEN=second"], STEP, "build arg API_TOKEN: changed (value hidden)"),
    ("ARG added", |lab| edit(lab, "ARG VERSION=1", "ARG VERSION=1\nARG MORE=m"), &[], STEP, "build arg MORE is new: m"),
    ("USER", |lab| edit(lab, "RUN --mount", "USER app\nRUN --mount"), &[], STEP, "user: root → app"),
    ("WORKDIR of a RUN", |lab| edit(lab, "WORKDIR /w", "WORKDIR /x"), &[], STEP, "workdir: /w → /x"),
    ("WORKDIR", |lab| edit(lab, "WORKDIR /w", "WORKDIR /y"), &[], "WORKDIR /y", "path: /w → /y"),
    ("network", |_| (), &["--network", "none"], STEP, "network: default → none"),
    ("add-host", |_| (), &["--add-host", "db:1.2.3.4"], STEP, "add-host is new: db:1.2.3.4"),
    ("ulimit", |_| (), &["--ulimit", "nofile=512:1024"], STEP, "ulimit is new: nofile=512:1024"),
    ("shm-size", |_| (), &["--shm-size", "1m"], STEP, "shm-size is new: 1048576"),
    ("hostname", |_| (), &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=h"], STEP, "hostname: buildkitsandbox → h"),
    ("cache id", |lab| edit(lab, "id=a,", "id=b,"), &[], "RUN --mount=type=cache,id=b", "mount cache id a → b at /c"),
    (
        "cache sharing",
        |lab| edit(lab, "target=/c", "sharing=locked,target=/c"),
        &[],
        "RUN --mount=type=cache,id=a,s",
        "mount cache sharing shared → locked at /c",
    ),
    ("a mount more", |lab| edit(lab, "echo step", "--mount=type=tmpfs,target=/u echo step"), &[], STEP, "mount tmpfs at /u is new"),
    (
        "mount type",
        |lab| edit(lab, "--mount=type=tmpfs,target=/t", "--mount=type=cache,target=/t"),
        &[],
        STEP,
        "mount at /t: type tmpfs → cache",
    ),
    ("a stage made other files", |lab| edit(lab, "echo 1 >", "echo 2 >"), &[], FROM, "1 file changed: made/f"),
    (
        "an earlier step",
        |lab| edit(lab, "WORKDIR /w", "WORKDIR /w\nRUN echo x >/dst-x"),
        &[],
        BODY,
        "an earlier step made other files (step [stage-1 3/7] RUN echo x >/dst-x)",
    ),
    ("a step that was not there", |lab| edit(lab, "WORKDIR /w", "WORKDIR /w\nRUN echo x"), &[], "RUN echo x", "never built here"),
    ("the base", move_base, &[], SRC, "base image moved: base:latest was sha256:"),
    (
        "steps that changed places",
        |lab| edit(lab, "WORKDIR /w\nCOPY --chown=1:1 dir/ /dst/\n", "COPY --chown=1:1 dir/ /dst/\nWORKDIR /w\n"),
        &[],
        STEP,
        "the steps before it are not those of the last time: one was added, moved, removed or changed",
    ),
    ("no cache", |_| (), &["--no-cache"], STEP, "--no-cache"),
    ("no cache for a stage", |_| (), &["--no-cache-filter", "src"], SRC, "--no-cache-filter=src"),
    ("evicted", evict, &[], STEP, "evicted: its record or its layer was removed from the store"),
];

fn fill(lab: &Lab) {
    lab.context("ctx", &[("Dockerfile", DOCKERFILE), ("dir/a", "a\n"), ("dir/sub/b", "b\n")]);
    symlink("a", lab.work("ctx/dir/link")).expect("symlink");
    chmod(lab, "ctx/dir/a", 0o644);
}

fn make_base(lab: &Lab, text: &str) {
    lab.context("base", &[("Dockerfile", &format!("FROM busybox\nRUN echo {text} >/v\n"))]);
    let said = lab.run(&["build", "-q", "-t", "base", "base"]);
    assert!(said.ok(), "{}", said.stderr);
}

fn move_base(lab: &Lab) {
    make_base(lab, "moved");
}

fn chmod(lab: &Lab, name: &str, mode: u32) {
    fs::set_permissions(lab.work(name), fs::Permissions::from_mode(mode)).expect("chmod");
}

fn relink(lab: &Lab) {
    fs::remove_file(lab.work("ctx/dir/link")).expect("remove");
    symlink("sub/b", lab.work("ctx/dir/link")).expect("symlink");
}

fn retype(lab: &Lab) {
    fs::remove_file(lab.work("ctx/dir/a")).expect("remove");
    fs::create_dir(lab.work("ctx/dir/a")).expect("mkdir");
}

fn several(lab: &Lab) {
    for name in ["a", "sub/b", "z"] {
        lab.write(&format!("ctx/dir/{name}"), "other\n");
    }
}

fn edit(lab: &Lab, from: &str, to: &str) {
    let text = fs::read_to_string(lab.work("ctx/Dockerfile")).expect("read");
    assert!(text.contains(from), "{from:?} is not in the Dockerfile");
    lab.write("ctx/Dockerfile", text.replacen(from, to, 1));
}

/// Removes all records, and leaves what points to them.
fn evict(lab: &Lab) {
    for entry in fs::read_dir(lab.store().join("steps")).expect("a store") {
        let path = entry.expect("an entry").path();
        if !path.ends_with("last") {
            fs::remove_dir_all(path).expect("remove");
        }
    }
}

/// The step whose instruction begins so, with its reason.
fn reason(said: &Said, step: &str) -> Option<String> {
    let heading = |line: &&str| line.starts_with('#') && line.split_once("] ").is_some_and(|(_, name)| name.starts_with(step));
    let number = said.stderr.lines().find(heading)?.split(' ').next()?;
    let start = format!("{number} cache miss: ");
    said.stderr.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
}

#[test]
fn one_thing_changes_and_the_reason_is_that_thing() {
    as_everybody_at_once(|lab| {
        lab.load_busybox();
        let mut wrong = Vec::new();
        for (what, change, args, step, expected) in ROWS {
            make_base(lab, "1");
            fill(lab);
            lab.build("ctx", &[]);
            change(lab);
            let said = lab.build("ctx", args).said;
            let told = reason(&said, step).unwrap_or_else(|| format!("no reason for {step}:\n{}", said.stderr));
            let fits = if expected.ends_with(':') { told.starts_with(expected) } else { told == *expected };
            if !fits {
                wrong.push(format!("{what}: {told} is not {expected}"));
            }
            let misses = said.stderr.lines().filter(|line| line.contains(" cache miss: ")).count();
            assert_eq!(misses, said.executed().len(), "{:?}: {what}: one line for each step that ran\n{}", lab.who(), said.stderr);
            fs::remove_dir_all(lab.work("ctx")).expect("remove");
        }
        assert!(wrong.is_empty(), "{:?}:\n{}", lab.who(), wrong.join("\n"));
    });
}

#[test]
fn values_that_look_secret_are_nowhere_in_the_store_s_records() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    make_base(&lab, "1");
    fill(&lab);
    let token = "s3cr3t-value-of-the-test";
    let said = lab.build("ctx", &["--build-arg", &format!("API_TOKEN={token}")]).said;
    assert!(!said.stderr.contains(token), "{}", said.stderr);
    for dir in ["steps", "lists", "builds"] {
        let found = lab.command_of("grep", &["-rl", token, lab.store().join(dir).to_str().expect("text")]).output().expect("grep");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{dir}");
    }
    assert_eq!(lab.build("ctx", &["--build-arg", &format!("API_TOKEN={token}")]).said.executed(), [""; 0]);
}

/// Builds with these build arguments. All that is said of it, then and later.
fn told(lab: &Lab, build_args: &[&str]) -> String {
    let mut args = vec!["build", "--progress=rawjson", "--metadata-file", "m.json", "ctx"];
    args.extend(build_args.iter().flat_map(|arg| ["--build-arg", arg]));
    let said = Said::of(lab.shale(&args).current_dir(lab.work(".")).output().expect("shale starts"));
    assert!(said.ok(), "{}", said.stderr);
    let shown = ["explain", "builds inspect --format json", "explain --format json"];
    let shown = shown.map(|line| lab.run(&line.split(' ').collect::<Vec<_>>()).stdout).concat();
    let metadata = fs::read_to_string(lab.work("m.json")).expect("metadata");
    (said.stderr + &shown + &metadata).replace("\\\"", "\"")
}

/// These values are neither in what was told nor in these folders of the store.
fn is_nowhere(lab: &Lab, told: &str, folders: &[&str], values: &[&str]) {
    for value in values {
        assert!(!told.contains(value), "{value} is in\n{told}");
        for dir in folders {
            let found = lab.command_of("grep", &["-rl", value, lab.store().join(dir).to_str().expect("text")]).output().expect("grep");
            assert_eq!(String::from_utf8_lossy(&found.stdout), "", "{value} in {dir}");
        }
    }
}

#[test]
fn values_that_look_secret_are_not_in_the_names_of_steps_and_reasons() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let file = "FROM busybox\nARG API_TOKEN\nARG DBURL\nARG PLAIN=shown\n\
        RUN echo \"$API_TOKEN\" ${DBURL} $PLAIN $NO ${API_TOKEN:+--auth} >/dev/null\nCOPY --chmod=${API_TOKEN:+600} f /$PLAIN\n\
        COPY <<A /a\n_auth=$API_TOKEN\nA\n";
    lab.context("ctx", &[("Dockerfile", file), ("f", "1\n")]);
    let build = |token: &str, password: &str| told(&lab, &[&format!("API_TOKEN={token}"), &format!("DBURL=postgres://u:{password}@h/db")]);
    let all = build("tokBBB", "secretpw1") + &build("tokBBB", "secretpw2") + &build("tokCCC", "secretpw2");
    for part in [
        "RUN echo \"$API_TOKEN\" ${DBURL} shown $NO ${API_TOKEN:+--auth} >",
        "COPY --chmod=${API_TOKEN:+600} f /shown",
        "build arg DBURL: changed (value hidden)",
        "build arg API_TOKEN: changed (value hidden)",
        "heredoc A: changed (value hidden)",
    ] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    is_nowhere(&lab, &all, &["steps", "lists", "builds"], &["tokBBB", "tokCCC", "secretpw"]);
}

#[test]
fn values_that_were_made_of_secrets_are_secret_in_all_stages() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let file = "ARG API_TOKEN\nARG GLOBAL=g$API_TOKEN\nFROM busybox AS below\nARG API_TOKEN\nARG GLOBAL\nARG X=p$API_TOKEN\n\
        ENV URL=https://h/?t=$API_TOKEN\nENV A=$X PLAIN=shown\nRUN echo $GLOBAL $A $PLAIN >/dev/null\n\
        ARG A=over\nFROM below\nENV AGAIN=${URL#https}\nRUN echo $URL $A $AGAIN $PLAIN >/dev/null\nCOPY <<H /h\n$A\nH\n";
    lab.context("ctx", &[("Dockerfile", file)]);
    let all = ["API_TOKEN=tokBBB", "API_TOKEN=tokCCC"].map(|arg| told(&lab, &[arg])).concat();
    for part in [
        "RUN echo $GLOBAL $A shown >",
        "RUN echo $URL $A $AGAIN shown >",
        "build arg X: changed (value hidden)",
        "build arg GLOBAL: changed (value hidden)",
        "env AGAIN: changed (value hidden)",
        "heredoc H: changed (value hidden)",
    ] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    is_nowhere(&lab, &all, &["steps", "lists", "builds"], &["tokBBB", "tokCCC"]);
    // Nothing changed, so everything is found.
    assert_eq!(lab.build("ctx", &["--build-arg", "API_TOKEN=tokCCC"]).said.executed(), [""; 0]);
}

#[test]
fn parts_of_steps_with_a_secret_in_them_are_told_by_their_names_only() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let file = "FROM busybox AS below\nARG API_TOKEN\nARG OWNER=1\nARG PASSWORD_OWNER=$OWNER\nWORKDIR /w/$API_TOKEN\nFROM below\n\
        COPY f .\nCOPY f /d/$API_TOKEN/\nCOPY --chown=$PASSWORD_OWNER f /plain\n\
        RUN --mount=type=cache,id=$API_TOKEN,target=/c --mount=type=bind,target=/b/$API_TOKEN --mount=type=tmpfs,target=t true\n\
        WORKDIR /x\nRUN --mount=type=tmpfs,target=/t true\n";
    lab.context("ctx", &[("Dockerfile", file), ("f", "1\n")]);
    let build = |args: &[&str]| told(&lab, args);
    let all = build(&["API_TOKEN=tokBBB"]) + &build(&["API_TOKEN=tokCCC"]) + &build(&["API_TOKEN=tokCCC", "PASSWORD_OWNER=7531:7531"]);
    for part in [
        "cache miss: path: changed (value hidden)",
        "cache miss: destination: changed (value hidden)",
        "cache miss: --chown: changed (value hidden)",
        "workdir: changed (value hidden)",
        "a mount with a secret in it: changed (value hidden)",
    ] {
        assert!(all.contains(part), "{part:?} is not in\n{all}");
    }
    // Lists have the names of the files that lie where a COPY writes, as the layer itself has them.
    is_nowhere(&lab, &all, &["steps", "builds"], &["tokBBB", "tokCCC", "7531:7531"]);
    let same = ["--build-arg", "API_TOKEN=tokCCC", "--build-arg", "PASSWORD_OWNER=7531:7531"];
    assert_eq!(lab.build("ctx", &same).said.executed(), [""; 0]);
    // A new file is told, wherever it lies.
    lab.write("ctx/f", "2\n");
    let all = build(&["API_TOKEN=tokCCC", "PASSWORD_OWNER=7531:7531"]);
    assert!(all.contains("1 file changed: f (mounted where a secret stands)"), "{all}");
    is_nowhere(&lab, &all, &["steps", "builds"], &["tokBBB", "tokCCC", "7531:7531"]);
}

#[test]
fn a_first_build_and_a_build_of_another_directory_say_so() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("one", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f\n"), ("f", "1\n")]);
    let said = lab.build("one", &[]).said;
    assert_eq!(reason(&said, "COPY").as_deref(), Some("never built here"));
    assert_eq!(reason(&said, "RUN").as_deref(), Some("never built here"));
    lab.context("two", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f\n"), ("f", "2\n")]);
    let said = lab.build("two", &[]).said;
    assert_eq!(reason(&said, "COPY").as_deref(), Some("never built here; against a build of another context: 1 file changed: f"));
    lab.context("two", &[("Other", "FROM busybox\nCOPY f /f\n"), ("f", "3\n")]);
    let said = lab.build("two", &["-f", "two/Other"]).said;
    assert_eq!(reason(&said, "COPY").as_deref(), Some("never built here; against a build of another Dockerfile: 1 file changed: f"));
}

#[test]
fn an_earlier_step_that_went_back_to_older_files_is_named() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let file = "FROM busybox\nCOPY src /s\nRUN wc /s/f >/o\nRUN cat /o\n";
    lab.context("ctx", &[("Dockerfile", file), ("Other", "FROM busybox\nCOPY src /s\n"), ("src/f", "5\n")]);
    lab.build("ctx", &["-f", "ctx/Other"]);
    lab.write("ctx/src/f", "1\n");
    lab.build("ctx", &[]);
    lab.write("ctx/src/f", "5\n");
    let said = lab.build("ctx", &[]).said;
    let found = "an earlier step made other files than in the last build (step [2/4] COPY src /s: 1 file changed: src/f)";
    for step in ["RUN wc", "RUN cat"] {
        assert_eq!(reason(&said, step).as_deref(), Some(found), "{}", said.stderr);
    }
    // Other words, whose result is known from elsewhere.
    let edited = "COPY --chmod=600 src /s";
    lab.write("ctx/Other", format!("FROM busybox\n{edited}\n"));
    lab.build("ctx", &["-f", "ctx/Other"]);
    edit(&lab, "COPY src /s", edited);
    let said = lab.build("ctx", &[]).said;
    let changed = "an earlier step changed (step [2/4] COPY --chmod=600 src /s: COPY src /s → COPY --chmod=600 src /s)";
    for step in ["RUN wc", "RUN cat"] {
        assert_eq!(reason(&said, step).as_deref(), Some(changed), "{}", said.stderr);
    }
    // A step that is gone stays what it is.
    lab.write("ctx/Other", "FROM busybox\nRUN echo b >/b\n");
    lab.build("ctx", &["-f", "ctx/Other"]);
    lab.write("ctx/Dockerfile", "FROM busybox\nRUN echo a >/a\nRUN echo b >/b\nRUN echo c >/c\n");
    lab.build("ctx", &[]);
    edit(&lab, "RUN echo a >/a\n", "");
    let said = lab.build("ctx", &[]).said;
    let gone = "the steps before it are not those of the last time: one was added, moved, removed or changed";
    assert_eq!(reason(&said, "RUN echo c").as_deref(), Some(gone), "{}", said.stderr);
}

/// Each build of a matrix has others between itself and the one that it could have hit: that one tells what is new.
#[test]
fn of_several_builds_the_nearest_one_is_compared() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    let dockerfile = "FROM busybox\nARG PY\nRUN echo $PY\nCOPY f /f\nRUN cat /f\n";
    lab.context("ctx", &[("Dockerfile", dockerfile), ("f", "one\n")]);
    let build = |args: &[&str]| {
        let said = lab.run(&[&["build", "--progress", "plain"][..], args, &["ctx"]].concat());
        assert!(said.ok(), "{}", said.stderr);
        said
    };
    for version in ["PY=3.9", "PY=3.10", "PY=3.11"] {
        build(&["--build-arg", version]);
    }
    lab.write("ctx/f", "two\n");
    let said = build(&["--build-arg", "PY=3.9"]);
    let why = reason(&said, "RUN cat /f").expect("it ran");
    assert!(why.starts_with("an earlier step made other files") && why.contains("COPY f /f"), "{why}");
    assert_eq!(reason(&said, "RUN echo 3.9"), None, "a hit");
    // One that hit counts as well as one that ran.
    build(&["--build-arg", "PY=3.11"]);
    build(&["--build-arg", "PY=3.10", "--network", "none"]);
    let said = build(&["--build-arg", "PY=3.11", "--add-host", "db:1.2.3.4"]);
    assert_eq!(reason(&said, "RUN echo 3.11").expect("it ran"), "add-host is new: db:1.2.3.4");
}

#[test]
fn a_step_that_failed_is_compared_with_when_it_ran_last() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY src /s\nRUN grep 1 /s/f\n"), ("src/f", "1\n")]);
    lab.build("ctx", &[]);
    lab.write("ctx/src/f", "5\n");
    let first = lab.run(&["build", "ctx"]);
    let ran = "an earlier step made other files (step [2/3] COPY src /s)";
    assert_eq!(reason(&first, "RUN").as_deref(), Some(ran), "{}", first.stderr);
    // The COPY is found now, and the build before this one says nothing of a RUN that was done.
    let again = lab.run(&["build", "ctx"]);
    let found = "an earlier step made other files than when this one ran last (step [2/3] COPY src /s: 1 file changed: src/f)";
    assert_eq!(reason(&again, "RUN").as_deref(), Some(found), "{}", again.stderr);
}

#[test]
fn a_stage_that_is_mounted_as_a_whole_is_told_by_the_step_that_changed_it() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    make_base(&lab, "1");
    let dockerfile = "FROM base AS image\nFROM busybox AS gen\nCOPY src /s\nRUN cat /s/f >/out\n\
        FROM busybox\nRUN --mount=from=gen,target=/g --mount=from=image,target=/i cat /g/out\n";
    lab.context("ctx", &[("Dockerfile", dockerfile), ("src/f", "1\n")]);
    let told = || {
        let said = lab.run(&["build", "ctx"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        reason(&said, "RUN --mount")
    };
    assert_eq!(told().as_deref(), Some("never built here"));
    lab.write("ctx/src/f", "2\n");
    assert_eq!(told().as_deref(), Some("an earlier step made other files (step [gen 2/3] COPY src /s) (mounted at /g)"));
    // The stage is found in the cache here, by a build of it alone, and is another one all the same.
    lab.write("ctx/src/f", "3\n");
    lab.build("ctx", &["--target", "gen"]);
    let found =
        "an earlier step made other files than when this one ran last (step [gen 2/3] COPY src /s: 1 file changed: src/f) (mounted at /g)";
    assert_eq!(told().as_deref(), Some(found));
    make_base(&lab, "2");
    assert_eq!(told().as_deref(), Some("another image than the last time (base:latest) (mounted at /i)"));
    assert_eq!(told(), None);
}

#[test]
fn explain_tells_every_part_and_why_the_others_hit() {
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    make_base(&lab, "1");
    fill(&lab);
    lab.build("ctx", &[]);
    several(&lab);
    edit(&lab, "MODE=fast", "MODE=slow");
    let said = lab.build("ctx", &["--explain", "--build-arg", "VERSION=2"]).said;
    for part in [
        " cache miss: build arg VERSION: 1 → 2",
        "   dir/a (content)",
        " also: 2 files changed: dir/a, dir/sub/b (1 added: dir/z) (mounted at /m)",
        " also: env MODE: fast → slow",
        " also: an earlier step made other files (step [stage-1 3/6] COPY --chown=1:1 dir/ /dst/)",
        " cache hit: nothing changed",
        " cache hit: second look: its files, and what lies where they go, are the same",
    ] {
        assert!(said.stderr.contains(part), "{part:?} is not in\n{}", said.stderr);
    }
}

#[test]
fn another_platform_is_the_reason() {
    if cfg!(not(target_arch = "x86_64")) {
        return support::skip("RUN for another platform", "linux/386 runs on x86-64 only");
    }
    let lab = Lab::new(Who::Caller);
    lab.load_busybox();
    lab.context("ctx", &[("Dockerfile", "FROM busybox\nCOPY f /f\nRUN cat /f\n"), ("f", "1\n")]);
    lab.build("ctx", &[]);
    let said = lab.build("ctx", &["--platform", "linux/386"]).said;
    assert_eq!(reason(&said, "RUN").as_deref(), Some("platform: linux/amd64 → linux/386"), "{}", said.stderr);
    // Both are known now.
    assert_eq!(lab.build("ctx", &[]).said.executed(), [""; 0]);
    lab.write("ctx/f", "2\n");
    let said = lab.build("ctx", &["--platform", "linux/386"]).said;
    assert_eq!(reason(&said, "RUN").as_deref(), Some("an earlier step made other files (step [2/3] COPY f /f)"), "{}", said.stderr);
}
