//! Differences between parts, told in words.

use shale_cache::ChainId;

use super::*;

fn parts(entries: &[(&str, &str)]) -> KeyParts {
    let mut parts = KeyParts::new("run");
    for (name, value) in entries {
        match value.strip_prefix("list:") {
            Some(bytes) => parts.push_list(*name, ListId::of(bytes.as_bytes())),
            None => parts.push_text(*name, *value),
        };
    }
    parts
}

/// What is told about two part lists. Of lists the bytes are given, and all of them can be read.
fn told(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<String> {
    let read = |wanted: &ListId| {
        let all = before.iter().chain(after).filter_map(|(_, value)| value.strip_prefix("list:"));
        all.map(str::as_bytes).find(|bytes| ListId::of(bytes) == *wanted).map(<[u8]>::to_vec)
    };
    let (old, new) = (parts(before), parts(after));
    let found = {
        let side = |parts| Side { parts, base: None };
        let below = made_others("[2/5] RUN make");
        let mounted = |place: &str| (place == "/stage").then(|| made_others("[gen 2/2] RUN make").into());
        changes(side(&old), side(&new), Causes { below: Some(&below), mounted: &mounted }, &read)
    };
    found.into_iter().map(|change| change.text).collect()
}

#[test]
fn each_part_has_its_words() {
    for (name, before, after, words) in [
        ("command", r#"["/bin/sh","-c","echo 1"]"#, r#"["/bin/sh","-c","echo 2"]"#, "command changed: echo 1 → echo 2"),
        ("command", r#"["/bin/sh","-c","x"]"#, r#"["/bin/bash","-ec","x"]"#, "shell: /bin/sh -c → /bin/bash -ec"),
        ("env", r#"["A=1","B=2"]"#, r#"["A=1","B=3"]"#, "env B: 2 → 3"),
        ("env", r#"["A=1"]"#, r#"["A=1","B=3"]"#, "env B is new: 3"),
        ("env", r#"["A=1","B=2"]"#, r#"["B=2","A=1"]"#, "the order of ENV changed"),
        ("secret env TOKEN", "aa", "bb", "env TOKEN: changed (value hidden)"),
        ("secret arg TOKEN", "aa", "bb", "build arg TOKEN: changed (value hidden)"),
        ("arg VERSION", "1", "2", "build arg VERSION: 1 → 2"),
        ("arg VERSION", "1", "", "build arg VERSION: 1 → \"\""),
        ("user", "", "app", "user: root → app"),
        ("workdir", "/a", "/b", "workdir: /a → /b"),
        ("network", "default", "none", "network: default → none"),
        ("platform", "linux/amd64", "linux/arm64", "platform: linux/amd64 → linux/arm64"),
        ("shm-size", "1", "2", "shm-size: 1 → 2"),
        ("chown", "1", "2", "--chown: 1 → 2"),
        ("destination", "/a", "/b", "destination: /a → /b"),
        ("heredoc EOF", "a\nb\n", "a\nc\n", "heredoc EOF changed: a b → a c"),
        ("mount /c", r#"{"type":"cache","id":"a"}"#, r#"{"type":"cache","id":"b"}"#, "mount cache id a → b at /c"),
        ("mount /c", r#"{"type":"cache"}"#, r#"{"type":"cache","owner":"1:1"}"#, "mount cache owner none → 1:1 at /c"),
        ("mount /c", r#"{"type":"cache","id":"a"}"#, r#"{"type":"tmpfs"}"#, "mount at /c: type cache → tmpfs"),
        ("files", "list:match 0 a\n\\ 644 0:0 file 1 aa\n", "list:match 0 a\n\\ 644 0:0 file 1 bb\n", "1 file changed: a"),
        ("files at /m", "aa", "bb", "files changed (mounted at /m)"),
        ("files at /stage", "aa", "bb", "an earlier step made other files (step [gen 2/2] RUN make) (mounted at /stage)"),
        ("files at /stage", "aa", "list:match 0 a\n", "files changed (mounted at /stage)"),
        ("parent", "aa", "bb", "an earlier step made other files (step [2/5] RUN make)"),
        ("what another version knows", "1", "2", "what another version knows: 1 → 2"),
    ] {
        assert_eq!(told(&[(name, before)], &[(name, after)]), [words], "{name}");
    }
}

#[test]
fn what_came_and_what_went_is_told() {
    assert_eq!(told(&[], &[("arg A", "1")]), ["build arg A is new: 1"]);
    assert_eq!(told(&[("arg A", "1")], &[]), ["build arg A is gone (was 1)"]);
    assert_eq!(told(&[("mount /c", r#"{"type":"cache"}"#)], &[]), ["mount cache at /c was taken out of the instruction"]);
    assert_eq!(told(&[("arg A", "http://h")], &[("secret arg A", "aa")]), ["build arg A: changed (value hidden)"]);
    let (shown, hidden) = ([("env", r#"["A=1"]"#)], [("env", r#"["A"]"#), ("secret env A", "aa")]);
    assert_eq!(told(&shown, &hidden), ["env A: changed (value hidden)"]);
    assert_eq!(told(&hidden, &shown), ["env A: changed (value hidden)"]);
    assert_eq!(told(&[], &[("link", "true")]), ["--link: none → true"]);
    assert_eq!(told(&[("add-host", "a:1")], &[("add-host", "a:1"), ("add-host", "b:2")]), ["add-host: a:1 → a:1, b:2"]);
}

#[test]
fn a_flag_that_came_is_no_change_of_files() {
    let (owners, none) = ("list:match 0 a\n\\ 644 0:0 file 1 aa\n", "list:match 0 a\n\\ 644 file 1 aa\n");
    let other = "list:match 0 a\n\\ 644 file 1 bb\n";
    assert_eq!(told(&[("files", owners)], &[("chown", "1:1"), ("files", none)]), ["--chown: none → 1:1"]);
    assert_eq!(told(&[("chown", "1:1"), ("files", none)], &[("files", owners)]), ["--chown: 1:1 → none"]);
    assert_eq!(told(&[("files", owners)], &[("chown", "1:1"), ("files", other)]), ["--chown: none → 1:1", "1 file changed: a"]);
    assert_eq!(told(&[("files", none)], &[("chmod", "600"), ("files", other)]), ["--chmod: none → 600", "1 file changed: a"]);
    let archive = "list:archive 0 a\n\\ 644 0:0 file 1 aa\n";
    assert_eq!(told(&[("files", owners)], &[("unpack", "archives"), ("files", archive)]), ["archives are unpacked now"]);
    assert_eq!(told(&[("unpack-fetched", "archives")], &[]), ["archives are not unpacked any more"]);
}

#[test]
fn the_most_useful_is_first() {
    let before = [("parent", "a"), ("command", "[\"x\"]"), ("env", "[]"), ("arg V", "1"), ("user", "")];
    let after = [("parent", "b"), ("command", "[\"y\"]"), ("env", "[\"A=1\"]"), ("arg V", "2"), ("user", "u")];
    let order = ["command changed: x → y", "build arg V: 1 → 2", "env A is new: 1", "user: root → u"];
    assert_eq!(told(&before, &after)[..4], order);
    assert!(told(&before, &after)[4].starts_with("an earlier step"));
}

#[test]
fn a_base_that_moved_is_told_before_what_it_brought_along() {
    let base = |name: &str, digest: &str| StepBase {
        name: name.into(),
        digest: format!("sha256:{}", digest.repeat(64)),
        chain: ChainId::from_bytes([digest.as_bytes()[0]; 32]),
    };
    let (old, new) = (parts(&[("parent", "a"), ("env", "[\"A=1\"]")]), parts(&[("parent", "b"), ("env", "[\"A=2\"]")]));
    let told = |before: Option<&StepBase>, now: Option<&StepBase>| {
        changes(Side { parts: &old, base: before }, Side { parts: &new, base: now }, Causes::UNKNOWN, &|_| None)[0].text.clone()
    };
    let (first, moved, other) = (base("alpine:3.20", "a"), base("alpine:3.20", "b"), base("alpine:3.21", "b"));
    assert_eq!(told(Some(&first), Some(&moved)), "base image moved: alpine:3.20 was sha256:aaaaaaaaaaaa is sha256:bbbbbbbbbbbb");
    assert_eq!(told(Some(&first), Some(&other)), "base image: alpine:3.20 → alpine:3.21");
    assert_eq!(told(None, Some(&other)), "base image: scratch → alpine:3.21");
    assert_eq!(told(Some(&first), Some(&first)), "env A: 1 → 2");
}

#[test]
fn lists_of_files_are_compared_line_by_line() {
    let list = |lines: &str| format!("match 0 src\n\\ 755 0:0 dir\n{lines}").into_bytes();
    let line = |name: &str, digest: &str| format!("{name} 644 0:0 file 1 {digest}\n");
    let told = |before: &str, after: &str| files::summary(&files::changes(&list(before), &list(after)));
    let many = |digest: &str| ["a.rs", "b.rs", "c.rs", "d.rs"].map(|name| line(name, digest)).concat();
    assert_eq!(told(&many("aa"), &many("bb")), "4 files changed: src/a.rs, src/b.rs, src/c.rs, …");
    let both = told(&(line("a", "aa") + &line("b", "aa")), &(line("a", "bb") + &line("c", "aa")));
    assert_eq!(both, "1 file changed: src/a (1 added: src/c, 1 removed: src/b)");
    assert_eq!(told("", &line("new\\20file", "aa")), "1 file added: src/new file");
    for (before, after, what) in [
        ("a 644 0:0 file 1 aa\n", "a 755 0:0 file 1 aa\n", "mode 644 → 755"),
        ("a 644 0:0 file 1 aa\n", "a 644 1:2 file 1 bb\n", "content, owner 0:0 → 1:2"),
        ("a 777 0:0 symlink x\n", "a 777 0:0 symlink y\\20z\n", "target x → y z"),
        ("a 644 0:0 file 1 aa\n", "a 755 0:0 dir\n", "file → directory"),
        ("a 644 file 1 aa\n", "a 644 file 1 aa link b\n", "hard link none → b"),
        ("a 644 0:0 file 1 aa\n", "a 644 0:0 file 1 aa user.x=1\n", "extended attributes"),
        ("a 600 0:0 char 1:3\n", "a 600 0:0 char 1:5\n", "device 1:3 → 1:5"),
        ("a 755 0:0 dir\n", "a 755 0:0 implied-dir\n", "how it is selected"),
    ] {
        assert_eq!(told(before, after), format!("1 file changed: src/a ({what})"));
    }
}

#[test]
fn details_name_the_rest_and_every_file() {
    let file = |path: &str| FileChange { path: path.into(), what: "content".into() };
    let change = |part: &str, text: &str, files| Change { part: part.into(), text: text.into(), before: None, after: None, files };
    let reason = MissReason::Changed(vec![
        change("files", "2 files changed: a, b", vec![file("a"), file("b")]),
        change("user", "user: root → u", vec![]),
    ]);
    assert_eq!(reason.to_string(), "2 files changed: a, b");
    assert_eq!(reason.details(), ["  a (content)", "  b (content)", "also: user: root → u"]);
}
