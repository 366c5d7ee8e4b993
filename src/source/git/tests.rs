use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::plan::git::Transport;

/// Repositories on this machine, reached by `file://`, and a store.
struct Lab {
    dir: TempDir,
    store: Store,
}

impl Lab {
    /// `None`, and a line that says so, on a machine without git.
    fn new() -> Option<Self> {
        if Command::new("git").arg("version").output().is_err() {
            println!("SKIP: git sources: no git in PATH");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(&dir.path().join("store")).expect("a store");
        let lab = Self { dir, store };
        lab.sh("git init -q -b main origin && cd origin && mkdir -p bin sub/dir && echo one >file && echo in >sub/dir/in \
            && printf '#!/bin/sh\\n' >bin/run && chmod 755 bin/run && ln -s ../.. sub/up && git add . && git commit -q -m one && git tag v1 \
            && git tag -a -m two v2 && echo two >file && git commit -q -a -m two && git branch side v1");
        Some(lab)
    }

    /// Runs a script beside the repositories, with a clock that stands still and an umask of its own.
    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-euc", &format!("umask 077; {script}")]).current_dir(self.dir.path());
        for (name, value) in [("AUTHOR", "1700000000 +0100"), ("COMMITTER", "1700000000 +0100")] {
            command.env(format!("GIT_{name}_DATE"), value).env(format!("GIT_{name}_NAME"), "n").env(format!("GIT_{name}_EMAIL"), "e@e");
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.output().expect("sh starts");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn head(&self, name: &str) -> String {
        self.sh(&format!("git -C origin rev-parse {name}"))
    }

    fn git(&self, change: impl FnOnce(&mut GitRef)) -> GitRef {
        let remote = format!("file://{}/origin", self.dir.path().display());
        let mut git = GitRef { remote, transport: Transport::Git, host: String::new(), ..GitRef::default() };
        change(&mut git);
        git
    }

    fn at(&self, reference: &str) -> GitRef {
        self.git(|git| git.reference = Some(reference.to_owned()).filter(|r| !r.is_empty()))
    }

    /// As a build of its own would.
    fn get(&self, git: &GitRef) -> Result<Checkout, GitError> {
        let path = std::env::var("PATH").ok();
        Repositories::new(GitConfig { path, ..GitConfig::default() }, Lent::default()).get(&self.store, git, &())
    }

    fn text(&self, git: &GitRef, file: &str) -> String {
        let checkout = self.get(git).unwrap_or_else(|e| panic!("{git:?}: {e}"));
        fs::read_to_string(checkout.dir.join(file)).unwrap_or_else(|e| panic!("{git:?} {file}: {e}"))
    }

    fn gone(&self) {
        self.sh("mv origin away");
    }
}

#[test]
fn names_stand_for_commits() {
    let Some(lab) = Lab::new() else { return };
    let (one, two) = (lab.head("v1"), lab.head("main"));
    for (reference, content) in [
        ("", "two\n"),
        ("main", "two\n"),
        ("refs/heads/main", "two\n"),
        ("side", "one\n"),
        ("v1", "one\n"),
        ("refs/tags/v1", "one\n"),
        ("v2", "one\n"),
        (&one, "one\n"),
        (&two, "two\n"),
    ] {
        assert_eq!(lab.text(&lab.at(reference), "file"), content, "{reference}");
    }
    let error = lab.get(&lab.at("none")).expect_err("no such ref");
    assert_eq!(error.to_string(), "failed to load cache key: repository does not contain ref none, output: \"\"");
    let error = lab.get(&lab.at(&one[..10])).expect_err("a short hash is no name");
    assert!(error.hint().is_some_and(|hint| hint.contains("full hash")), "{error}");
    let error = lab.get(&lab.git(|git| git.remote += "-missing")).expect_err("no such repository");
    assert!(error.to_string().contains("error fetching default branch for repository file://"), "{error}");
}

#[test]
fn a_commit_that_is_there_asks_nobody_and_a_name_is_asked_again() {
    let Some(lab) = Lab::new() else { return };
    let commit = lab.head("main");
    let first = lab.get(&lab.at("main")).expect("fetched");
    assert_eq!((first.commit.as_str(), first.committed_secs), (commit.as_str(), 1_700_000_000));
    let pinned = lab.get(&lab.at(&commit)).expect("there");
    assert_eq!(pinned, first);
    lab.sh("cd origin && echo three >file && git commit -q -a -m three");
    assert_eq!(lab.text(&lab.at("main"), "file"), "three\n");
    assert_eq!(lab.text(&lab.at(&commit), "file"), "two\n");
    lab.gone();
    assert_eq!(lab.text(&lab.at(&commit), "file"), "two\n");
    lab.get(&lab.at("main")).expect_err("nobody to ask");
}

#[test]
fn one_build_sees_one_state() {
    let Some(lab) = Lab::new() else { return };
    let config = GitConfig { path: std::env::var("PATH").ok(), ..GitConfig::default() };
    let repositories = Repositories::new(config, Lent::default());
    let first = repositories.get(&lab.store, &lab.at("main"), &()).expect("fetched");
    lab.sh("cd origin && echo three >file && git commit -q -a -m three");
    assert_eq!(repositories.get(&lab.store, &lab.at("main"), &()).expect("known"), first);
}

#[test]
fn files_have_the_modes_of_an_open_umask_and_the_time_of_the_commit() {
    let Some(lab) = Lab::new() else { return };
    let dir = lab.get(&lab.at("main")).expect("fetched").dir;
    for (path, mode) in [("", 0o40755), ("bin", 0o40755), ("bin/run", 0o100_755), ("file", 0o100_644), ("sub/up", 0o120_777)] {
        let meta = fs::symlink_metadata(dir.join(path)).expect("there");
        assert_eq!((meta.mode(), meta.mtime()), (mode, 1_700_000_000), "{path}");
    }
    assert!(!dir.join(".git").exists());
    let now = lab.get(&lab.git(|git| git.mtime = GitTime::Checkout)).expect("fetched").dir;
    assert!(fs::metadata(now.join("file")).expect("there").mtime() > 1_700_000_000);
}

#[test]
fn the_repository_itself_is_kept_without_the_way_it_came() {
    let Some(lab) = Lab::new() else { return };
    for (reference, name) in [("main", "refs/heads/main\nrefs/remotes/origin/main"), ("v2", "refs/tags/v2"), (&lab.head("v1"), "")] {
        let dir = lab.get(&lab.git(|git| (git.reference, git.keep_git_dir) = (Some(reference.into()), Some(true)))).expect("fetched").dir;
        let ask = |question: &str| lab.sh(&format!("git -c safe.directory='*' -C {} {question}", dir.display()));
        assert_eq!(ask("status --porcelain"), "", "{reference}");
        assert_eq!(ask("log --format=%s").lines().count(), 1, "{reference}");
        assert_eq!(ask("for-each-ref --format='%(refname)'"), name, "{reference}");
        assert!(!dir.join(".git/FETCH_HEAD").exists() && !dir.join(".git/logs").exists());
        assert_eq!(fs::metadata(dir.join(".git/config")).expect("there").mode() & 0o777, 0o644);
    }
}

#[test]
fn passwords_leave_a_kept_repository() {
    let dir = tempfile::tempdir().expect("a folder");
    let modules = dir.path().join("modules/x");
    fs::create_dir_all(&modules).expect("made");
    for config in [dir.path().join("config"), modules.join("config")] {
        fs::write(config, "[remote \"origin\"]\n\turl = https://u:pw@h/a.git\n").expect("written");
    }
    let wanted = GitRef { remote: "https://u:pw@h/b.git".into(), ..GitRef::default() };
    let config = GitConfig::default();
    let settings = Vec::new();
    let git = Git { config: &config, agent: None, known_hosts: dir.path(), settings: &settings, secrets: &[], progress: &() };
    let resolved = Resolved { hash: String::new(), name: None };
    let job = checkout::Job { git: &git, wanted: &wanted, resolved: &resolved, tmp: dir.path(), keeps_git_dir: true };
    job.clean_git_dir(dir.path()).expect("cleaned");
    for config in [dir.path().join("config"), modules.join("config")] {
        assert_eq!(fs::read_to_string(config).expect("there"), "[remote \"origin\"]\n\turl = https://u:xxxxx@h/a.git\n");
    }
}

#[test]
fn a_directory_is_taken_but_never_through_a_link() {
    let Some(lab) = Lab::new() else { return };
    let within = |subdir: &str| lab.git(|git| git.subdir = subdir.into());
    assert_eq!(lab.text(&within("sub/dir"), "in"), "in\n");
    assert!(!lab.get(&within("sub")).expect("fetched").dir.join("file").exists());
    for subdir in ["sub/up", "sub/up/bin", "file", "none"] {
        let error = lab.get(&within(subdir)).expect_err(subdir);
        assert!(matches!(error, GitError::Subdir { .. }), "{subdir}: {error}");
    }
}

#[test]
fn checksums_are_kept_to() {
    let Some(lab) = Lab::new() else { return };
    let (tag, commit) = (lab.head("v2"), lab.head("v2^{}"));
    let sum = |reference: &str, sum: &str| lab.git(|git| (git.reference, git.checksum) = (Some(reference.into()), Some(sum.into())));
    for (reference, prefix) in [("v2", &tag[..1]), ("v2", &commit), ("v1", &commit[..7]), (&commit, &commit[..7])] {
        lab.get(&sum(reference, prefix)).unwrap_or_else(|e| panic!("{reference} {prefix}: {e}"));
    }
    for (reference, found) in [("v1", commit.clone()), ("v2", format!("{tag} or {commit}")), (&commit, commit.clone())] {
        let error = lab.get(&sum(reference, "0000000")).expect_err("another commit");
        assert_eq!(error.to_string(), format!("failed to load cache key: expected checksum to match 0000000, got {found}"));
    }
}

#[test]
fn a_commit_without_a_name_comes_with_its_history_if_it_must() {
    let Some(lab) = Lab::new() else { return };
    let commit = lab.head("v1");
    lab.sh("cd origin && git tag -d v1 v2 && git branch -D side && git config uploadpack.allowAnySHA1InWant false && git config uploadpack.allowReachableSHA1InWant false && git config protocol.version 0");
    assert_eq!(lab.text(&lab.at(&commit), "file"), "one\n");
    let named = lab.git(|git| (git.reference, git.checksum, git.fetch_by_commit) = (Some("x".into()), Some(commit.clone()), true));
    assert_eq!(lab.text(&named, "file"), "one\n");
    let error = lab.get(&lab.at(&"1".repeat(40))).expect_err("no such commit");
    assert!(error.to_string().contains("does not match expected commit"), "{error}");
}

#[test]
fn a_checkout_of_another_boot_is_read_before_it_is_trusted() {
    let Some(lab) = Lab::new() else { return };
    let checkout = lab.get(&lab.at("main")).expect("fetched");
    let made = checkout.dir.parent().expect("beside").join("made");
    let age = || fs::write(&made, fs::read_to_string(&made).expect("there").replace("\"boot\":\"", "\"boot\":\"old ")).expect("written");
    age();
    lab.gone();
    assert_eq!(lab.get(&lab.at(&checkout.commit)).expect("whole"), checkout);
    assert!(!fs::read_to_string(&made).expect("there").contains("old "));
    age();
    fs::write(checkout.dir.join("file"), "torn").expect("written");
    lab.get(&lab.at(&checkout.commit)).expect_err("nobody has it any more");
    assert!(!checkout.dir.exists());
}

#[test]
fn the_secret_of_a_host_goes_before_that_of_all() {
    let lab = |secrets: &[(&str, &str)]| {
        let value = |text: &str| crate::source::secret::SecretSource::Value(text.as_bytes().to_vec());
        let secrets = secrets.iter().map(|(id, text)| ((*id).to_owned(), value(text))).collect();
        Repositories::new(GitConfig::default(), Lent { secrets, ..Lent::default() })
    };
    let access = |secrets: &[(&str, &str)], url: &str| {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path()).expect("a store");
        let git = GitRef::parse(url).expect("a repository").expect("good");
        let work = Work { repositories: &lab(secrets), store: &store, git: &git, progress: &(), known_hosts: PathBuf::new() };
        work.access().map(|access| access.settings)
    };
    let header = |key: &str, value: &str| vec![(key.to_owned(), format!("Authorization: {value}"))];
    let all = [("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER", "Bearer h\n"), ("GIT_AUTH_TOKEN.own.io:5", "o")];
    assert_eq!(access(&all, "https://h.io/a.git").expect("text"), header("http.https://h.io/a.git.extraheader", "Bearer h"));
    // x-access-token:o
    let own = "basic eC1hY2Nlc3MtdG9rZW46bw==";
    assert_eq!(access(&all, "https://own.io:5/a.git").expect("text"), header("http.https://own.io:5/a.git.extraheader", own));
    assert_eq!(
        access(&[("GIT_AUTH_HEADER", "x")], "https://github.com/a/b.git").expect("text"),
        header("http.https://github.com/.extraheader", "x")
    );
    assert!(access(&all, "git@h.io:a.git").expect("none").is_empty());
    assert!(matches!(access(&[("GIT_AUTH_HEADER", "a\r\nEvil: b")], "https://h/a.git"), Err(GitError::SecretNotText(_))));
}
