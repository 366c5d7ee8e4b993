//! Repositories and URLs as sources of ADD and as contexts, served on this machine.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use support::{Lab, Said, Who, as_everybody, skip};

/// What guards `/private/`: `x-access-token:s3cret`.
const BASIC: &str = "basic eC1hY2Nlc3MtdG9rZW46czNjcmV0";

/// Repositories by git's own CGI program under `/git/`, the same ones as mere files under `/plain/`, and behind a token under
/// `/private/`.
struct Server {
    dir: tempfile::TempDir,
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `None`, and a line that says so, on a machine without git.
    fn start() -> Option<Self> {
        if !support::has("git") {
            skip("git sources", "git is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Self { dir, base, asked: Arc::default() };
        server.sh("git init -q -b main repo && cd repo && mkdir sub && echo one >file && echo in >sub/in && chmod 755 sub/in \
            && printf 'FROM scratch\\nCOPY . /\\n' | tee Dockerfile >sub/Dockerfile && printf 'FROM scratch\\nADD file /other\\n' >sub/Other \
            && echo file >.dockerignore && git add . && git commit -q -m one && git tag v1 && echo two >file && git commit -q -a -m two");
        server.sh("git init -q -b main outer && cd outer && git -c protocol.file.allow=always submodule --quiet add ../repo inner \
            && git config -f .gitmodules submodule.inner.url ../repo.git && git add . && git commit -q -m outer");
        server.publish();
        let (root, asked) = (server.dir.path().to_owned(), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), root, asked) = (stream, root.clone(), Arc::clone(&asked)) else { return };
                std::thread::spawn(move || answer(stream, &root, &asked));
            }
        });
        Some(server)
    }

    /// Makes what was committed visible.
    fn publish(&self) {
        for name in ["repo", "outer"] {
            self.sh(&format!("rm -rf {name}.git && git clone -q --bare {name} {name}.git && git -C {name}.git update-server-info"));
        }
    }

    fn sh(&self, script: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-euc", script]).current_dir(self.dir.path()).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for who in ["AUTHOR", "COMMITTER"] {
            let date = format!("GIT_{who}_DATE");
            command.env(date, "1700000000 +0000").env(format!("GIT_{who}_NAME"), "n").env(format!("GIT_{who}_EMAIL"), "e@e");
        }
        let output = command.output().expect("sh starts");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn head(&self) -> String {
        self.sh("git -C repo rev-parse HEAD")
    }

    /// What was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("no panic"))
    }
}

fn answer(mut stream: TcpStream, root: &Path, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let Some(request) = lines.first() else { return };
    let header =
        |name: &str| lines.iter().find_map(|l| l.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name))).map(|(_, v)| v.to_owned());
    asked.lock().expect("no panic").push(request.clone());
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let refused = path.starts_with("/private/") && header("authorization").is_none_or(|said| said.replacen("Basic", "basic", 1) != BASIC);
    let reply = match path.trim_start_matches('/').split_once('/') {
        _ if refused => b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\n".to_vec(),
        Some(("plain", file)) => match fs::read(root.join(file)) {
            Ok(content) => [&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &content].concat(),
            Err(_) => b"HTTP/1.1 404 Not Found\r\n".to_vec(),
        },
        Some(("git" | "private", rest)) => cgi(root, method, rest, query, &header, &body),
        _ => b"HTTP/1.1 404 Not Found\r\n".to_vec(),
    };
    let end: &[u8] = if reply.windows(4).any(|w| w == b"\r\n\r\n") { b"" } else { b"Connection: close\r\nContent-Length: 0\r\n\r\n" };
    // A client that goes away is its own business.
    drop(stream.write_all(&[&reply, end].concat()));
}

fn cgi(root: &Path, method: &str, path: &str, query: &str, header: &dyn Fn(&str) -> Option<String>, body: &[u8]) -> Vec<u8> {
    let mut command = Command::new("git");
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("REQUEST_METHOD", method);
    command.env("PATH_INFO", format!("/{path}")).env("QUERY_STRING", query).env("CONTENT_LENGTH", body.len().to_string());
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "safe.directory").env("GIT_CONFIG_VALUE_0", "*");
    for (variable, name) in
        [("CONTENT_TYPE", "content-type"), ("GIT_PROTOCOL", "git-protocol"), ("HTTP_CONTENT_ENCODING", "content-encoding")]
    {
        if let Some(value) = header(name) {
            command.env(variable, value);
        }
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("git starts");
    let mut stdin = child.stdin.take().expect("piped");
    // What it does not read, it does not want.
    drop(stdin.write_all(body));
    drop(stdin);
    let said = child.wait_with_output().expect("it ends").stdout;
    let status = said
        .strip_prefix(b"Status: ")
        .map_or("200 OK".into(), |rest| String::from_utf8_lossy(rest.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned());
    [format!("HTTP/1.1 {status}\r\nConnection: close\r\n").into_bytes(), said].concat()
}

/// Builds what is no directory.
fn build(lab: &Lab, args: &[&str]) -> (support::image::Image, Said) {
    let archive = lab.work("o.tar");
    let output = format!("type=oci,dest={}", archive.display());
    let said = lab.run(&[&["build", "--progress", "plain", "-o", &output], args].concat());
    assert!(said.ok(), "{args:?}: {}", said.stderr);
    (support::image::Image::read(&archive), said)
}

fn names(image: &support::image::Image) -> Vec<&str> {
    image.files.keys().map(String::as_str).filter(|name| !name.contains(".git/")).collect()
}

#[test]
fn repositories_are_added_and_asked_again() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        let repo = format!("{}/git/repo.git", server.base);
        let commit = server.head();
        lab.context("ctx", &[
            ("local", "here\n"),
            ("Dockerfile", &format!(
                "FROM scratch\nADD --chown=5:6 {repo} local /a/\nADD {repo}#v1:sub /b\nADD --keep-git-dir=true --checksum={} {repo}#main /c\n\
                 ADD --exclude=sub --chmod=600 {repo}?tag=v1 /d/\n", &commit[..9]
            )),
        ]);
        let first = lab.build("ctx", &[]);
        let file = |name: &str| (first.image.files[name].mode, first.image.files[name].owner, first.image.files[name].mtime);
        assert_eq!((file("a/file"), first.image.text("a/file").as_str()), ((0o644, (5, 6), 1_700_000_000), "two\n"));
        assert_eq!((file("b/in").0, first.image.text("a/local").as_str()), (0o755, "here\n"));
        assert_eq!((file("d/file").0, first.image.text("d/file").as_str()), (0o600, "one\n"));
        assert!(first.image.files.contains_key("c/.git/HEAD") && !first.image.files.contains_key("a/.git"));
        assert!(!first.image.files.contains_key("d/sub") && !first.image.files.contains_key("b/file"));
        server.asked();
        let second = lab.build("ctx", &[]);
        assert_eq!(second.said.executed(), Vec::<String>::new(), "{}", second.said.stderr);
        // Each of the four names is asked for in two requests, and nothing is fetched.
        assert_eq!(server.asked().len(), 8, "{:?}", lab.who());
        server.sh("cd repo && echo three >file && git commit -q -a -m three");
        server.publish();
        lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {repo} /\nADD {repo}#{commit} /old/\n"))]);
        let third = lab.build("ctx", &[]);
        assert_eq!((third.image.text("file"), third.image.text("old/file")), ("three\n".into(), "two\n".into()));
    });
}

#[test]
fn a_kept_repository_is_the_same_wherever_it_was_fetched() {
    let Some(server) = Server::start() else { return };
    // So many objects come in a pack.
    server.sh("cd repo && for i in $(seq 150); do echo $i >sub/$i; done && git add . && git commit -q -m many");
    server.sh("cd outer/inner && git fetch -q ../../repo && git checkout -q FETCH_HEAD && cd .. && git commit -q -a -m many");
    server.publish();
    let dockerfile = format!("FROM scratch\nADD --keep-git-dir {}/git/outer.git /\n", server.base);
    let [first, second] = [(); 2].map(|()| {
        let lab = Lab::new(Who::Caller);
        lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        let files = lab.build("ctx", &[]).image.files;
        assert!(lab.run(&["build", "-o", "out", "ctx"]).ok());
        for place in ["out", "out/inner"] {
            let changed = server.sh(&format!("git -c safe.directory='*' -C {} status --porcelain", lab.work(place).display()));
            assert_eq!(changed, "", "{place}");
        }
        files
    });
    let names: Vec<&String> = first.keys().chain(second.keys()).filter(|name| first.get(*name) != second.get(*name)).collect();
    assert_eq!(names, [""; 0]);
    assert!(first.contains_key(".git/index") && first.contains_key(".git/modules/inner/index"));
    let of_this_machine = |name: &&String| name.contains("/hooks") || name.ends_with("description");
    assert_eq!(first.keys().find(of_this_machine), None);
}

#[test]
fn a_server_of_mere_files_and_submodules_will_do() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        for way in ["plain", "git"] {
            let url = format!("{}/{way}/outer.git", server.base);
            let dockerfile =
                format!("FROM scratch\nADD {url} /with/\nADD {url}?submodules=0 /without/\nADD {url}?subdir=inner/sub /part/\n");
            lab.context("ctx", &[("Dockerfile", &dockerfile)]);
            let image = lab.build("ctx", &[]).image;
            assert_eq!((image.text("with/inner/file"), image.text("part/in")), ("two\n".into(), "in\n".into()), "{way}");
            assert!(!image.files.contains_key("without/inner/file") && !image.files.keys().any(|name| name.ends_with("/.git")), "{way}");
        }
    });
}

#[test]
fn what_cannot_be_fetched_is_told_with_its_line() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        for (source, sentence) in [
            ("/git/none.git", "error fetching default branch for repository"),
            ("/git/repo.git#nope", "repository does not contain ref nope, output: \"\""),
            ("/git/repo.git?checksum=0000", "expected checksum to match 0000, got"),
            ("/git/repo.git#:none", "failed to open subdir none: "),
            ("/git/repo.git?colour=red", "unexpected query \"colour\""),
            ("/private/repo.git", "could not read Username"),
        ] {
            lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {}{source} /x\n", server.base))]);
            let said = lab.run(&["build", "--progress", "plain", "ctx"]);
            assert!(said.code == 1 && said.stderr.contains(sentence), "{source}: {}", said.stderr);
            assert!(said.stderr.contains("   2 | >>> ADD"), "{source}: {}", said.stderr);
        }
        let script = format!("PATH=/nowhere exec {} build --progress plain {}/git/repo.git", lab.path("shale").display(), server.base);
        let said = Said::of(lab.command_of("sh", &["-c", &script]).output().expect("sh starts"));
        assert!(said.code == 1 && said.stderr.contains("failed to find git binary"), "{}", said.stderr);
    });
}

#[test]
fn secrets_open_a_repository_and_are_written_nowhere() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        let url = format!("{}/private/repo.git", server.base);
        lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD --keep-git-dir {url} /\n")), ("token", "s3cret\n")]);
        let built = lab.build("ctx", &["--secret", "id=GIT_AUTH_TOKEN,src=ctx/token"]);
        assert_eq!(built.image.text("file"), "two\n");
        let by_url = url.replace("http://", "http://x-access-token:s3cret@");
        let (image, said) = build(lab, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &by_url]);
        assert_eq!(image.text("file"), "two\n");
        assert!(!said.stderr.contains("s3cret"), "{}", said.stderr);
        let config = image.text(".git/config");
        assert!(config.contains("x-access-token:xxxxx@") && !config.contains("s3cret"), "{config}");
        let found = Command::new("grep").args(["-rl", "s3cret"]).arg(lab.store()).output().expect("grep starts").stdout;
        assert_eq!(String::from_utf8_lossy(&found), "");
    });
}

#[test]
fn key_files_are_the_agent_that_ssh_asks() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        if !support::has("ssh-keygen") {
            return skip("ssh keys", "OpenSSH's programs are not installed");
        }
        // A key of the user's own, and an ssh that notes what the agent has and asks the repository here.
        let key = lab.work("key");
        let made = lab.command_of("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", key.to_str().expect("text")]).status();
        assert!(made.expect("it starts").success());
        let seen = lab.work("seen");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" != -G ] || exit 1\nssh-add -L >{}\nexport GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n\
             for last; do :; done\nexec sh -c \"$last\"\n",
            seen.display()
        );
        let ssh = lab.write("fake-ssh", script);
        fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        server.sh("chmod -R a+rX .");
        let url = format!("git@example.com:{}/repo.git#v1", server.dir.path().display());
        lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {url} /\n"))]);
        let archive = lab.work("o.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let mut command = lab.shale(&["build", "--progress", "plain", "-o", &output, "--ssh", "default=key", "ctx"]);
        let said = Said::of(command.env("GIT_SSH_COMMAND", &ssh).output().expect("shale starts"));
        assert!(said.ok(), "{:?}: {}", lab.who(), said.stderr);
        assert_eq!(support::image::Image::read(&archive).text("file"), "one\n");
        assert_eq!(fs::read_to_string(seen).expect("noted"), fs::read_to_string(key.with_extension("pub")).expect("made"));
        let refused = lab.run(&["build", "--ssh", "default=ctx/Dockerfile", "ctx"]);
        assert!(refused.stderr.contains("Dockerfile: ssh: no key found"), "{}", refused.stderr);
    });
}

#[test]
fn a_repository_is_a_context() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        let repo = format!("{}/git/repo.git", server.base);
        // Its .dockerignore is for local directories.
        let (image, said) = build(lab, &[&repo]);
        assert_eq!(names(&image), [".dockerignore", "Dockerfile", "file", "sub", "sub/Dockerfile", "sub/Other", "sub/in"]);
        assert!(said.stderr.contains(".dockerignore is for local directories"), "{}", said.stderr);
        // Its name is the context's, wherever the flags stand.
        assert!(lab.run(&["build", &repo, "-q", "-t", "named"]).ok());
        let explained = lab.run(&["explain", &repo]);
        assert!(explained.ok(), "{}", explained.stderr);
        let inspected = lab.run(&["builds", "inspect"]).stdout;
        assert!(inspected.lines().any(|line| line.starts_with("Context") && line.ends_with(&repo)), "{inspected}");
        let missing = lab.run(&["build", &repo, "-f", "nope"]);
        let hint = "\nhint: the path after -f begins at the root of the context, for that is no directory of this machine\n";
        assert!(missing.code == 1 && missing.stderr.contains(hint), "{}", missing.stderr);
        assert_eq!(build(lab, &[&repo]).1.executed(), Vec::<String>::new());
        let (image, _) = build(lab, &["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &format!("{repo}#v1")]);
        assert!(image.files.contains_key(".git/HEAD") && image.text("file") == "one\n");
        assert_eq!(names(&build(lab, &[&format!("{repo}#main:sub")]).0), ["Dockerfile", "Other", "in"]);
        assert_eq!(names(&build(lab, &["-f", "sub/Other", &repo]).0), ["other"]);
        lab.write("Own", "FROM scratch\nCOPY sub/in /own\n");
        assert_eq!(names(&build(lab, &["-f", lab.work("Own").to_str().expect("text"), &repo]).0), ["own"]);
        lab.context(
            "ctx",
            &[(
                "Dockerfile",
                "FROM src AS base\nFROM scratch\nCOPY --from=src sub /s/\nCOPY --from=base file /f\nCOPY --from=file /context /c\n",
            )],
        );
        let named = [format!("src={repo}#v1"), format!("file={}/plain/repo/file", server.base)];
        // What nobody reads is not fetched.
        let unread = [format!("other={repo}#gone"), format!("none={}/plain/none.tar", server.base)];
        let all: Vec<_> = named.iter().chain(&unread).flat_map(|context| ["--build-context", context]).collect();
        let built = lab.build("ctx", &all);
        assert_eq!(
            (built.image.text("s/in"), built.image.text("f"), built.image.text("c")),
            ("in\n".into(), "one\n".into(), "two\n".into())
        );
        assert_eq!(built.image.files["c"].mode, 0o600);
        // The commit's time, and that of the newest file in an archive, for a SOURCE_DATE_EPOCH that names them.
        server.sh("touch -d @1600000000 dated && tar -cf dated.tar dated");
        let dockerfile = "ARG SOURCE_DATE_EPOCH=src\nFROM scratch\nARG SOURCE_DATE_EPOCH\nCOPY <<E /epoch\n$SOURCE_DATE_EPOCH\nE\n";
        lab.context("dated", &[("Dockerfile", dockerfile)]);
        let archive = format!("src={}/plain/dated.tar", server.base);
        for (value, epoch) in [(named[0].as_str(), "1700000000\n"), (&archive, "1600000000\n"), ("src=ctx", "\n")] {
            assert_eq!(lab.build("dated", &["--build-context", value]).image.text("epoch"), epoch, "{value}");
        }
        // And of a stage that only fetches.
        for (source, epoch) in [(format!("{repo}#v1"), "1700000000\n"), (format!("{}/plain/dated.tar", server.base), "1600000000\n")] {
            let stage = format!("ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {source} /\n");
            lab.context("dated", &[("Dockerfile", &dockerfile.replace("ARG SOURCE_DATE_EPOCH=src\n", &stage))]);
            let image = lab.build("dated", &[]).image;
            assert_eq!(image.text("epoch"), epoch, "{source}");
        }
    });
}

#[test]
fn a_url_is_a_context() {
    as_everybody(|lab: &Lab| {
        let Some(server) = Server::start() else { return };
        for (name, flag) in [("a.tar", ""), ("a.tgz", "z"), ("a.txz", "J"), ("a.tbz", "j")] {
            server.sh(&format!("tar -c{flag}f {name} -C repo file sub Dockerfile || tar -cf {name} -C repo file sub Dockerfile"));
            let url = format!("{}/plain/{name}", server.base);
            assert_eq!(build(lab, &[&url]).0.text("file"), "two\n", "{name}");
            assert_eq!(names(&build(lab, &["-f", "sub/Other", &url]).0), ["other"], "{name}");
        }
        let alone = format!("{}/plain/repo/Dockerfile", server.base);
        assert_eq!(names(&build(lab, &[&alone]).0), ["context"]);
        let said = lab.run(&["build", "--progress", "plain", "-f", "x", &alone]);
        assert!(said.stderr.contains("ambiguous Dockerfile source: both context and flag correspond to Dockerfiles"), "{}", said.stderr);
        lab.context("ctx", &[("file", "mine\n")]);
        assert_eq!(lab.build("ctx", &["-f", &format!("{}/plain/repo/sub/Other", server.base)]).image.text("other"), "mine\n");
        let said = lab.run(&["build", "--progress", "plain", &format!("{}/plain/none", server.base)]);
        assert!(said.code == 1 && said.stderr.contains("invalid response status 404"), "{}", said.stderr);
    });
}

/// Starts a build whose git waits for an answer that never comes, sends the build a signal, and gives what it has said then.
fn signalled_while_git_waits(lab: &Lab, signal: rustix::process::Signal) -> Said {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/x.git", listener.local_addr().expect("bound"));
    let pid: PathBuf = lab.work("pid");
    let script = format!("echo $$ >{}; exec {} build --progress plain {url}", pid.display(), lab.path("shale").display());
    let child = lab.command_of("sh", &["-c", &script]).stderr(Stdio::piped()).spawn().expect("it starts");
    let _held = listener.accept().expect("git asks");
    assert!(lab.processes().iter().any(|line| line.contains("git remote-http")), "{:?}", lab.processes());
    support::processes::send_to(&fs::read_to_string(&pid).expect("written"), signal);
    Said::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn no_git_outlives_its_build() {
    as_everybody(|lab: &Lab| {
        if !support::has("git") {
            return skip("git sources", "git is not installed");
        }
        lab.own_binary();
        let said = signalled_while_git_waits(lab, rustix::process::Signal::TERM);
        assert!(said.code == 143 && said.stderr.contains("context canceled"), "{}: {}", said.code, said.stderr);
        lab.assert_no_process("asked to end while git waits");
        signalled_while_git_waits(lab, rustix::process::Signal::KILL);
        lab.assert_no_process("killed while git waits");
    });
}

#[test]
fn what_an_ssh_leaves_behind_is_not_waited_for() {
    let lab = Lab::new(support::Who::Caller);
    if !support::has("git") {
        return skip("git sources", "git is not installed");
    }
    let repo = lab.work("a.git");
    let made = lab.command_of("git", &["init", "-q", "--bare", &repo.display().to_string()]).status().expect("git starts");
    assert!(made.success());
    // It serves the repository here, and leaves something in a session of its own that has its output open.
    let ssh = lab.write(
        "ssh",
        format!("#!/bin/sh\nsetsid sleep 60 &\necho $! >{}\nexec git upload-pack {}\n", lab.work("left").display(), repo.display()),
    );
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut command = lab.shale(&["build", "--progress", "plain", "ssh://git@h/a.git"]);
    command.env("GIT_SSH_COMMAND", &ssh);
    let start = std::time::Instant::now();
    let said = Said::of(command.output().expect("it ends"));
    let waited = start.elapsed();
    support::processes::send_to(&fs::read_to_string(lab.work("left")).expect("written"), rustix::process::Signal::KILL);
    assert!(said.code == 1 && waited.as_secs() < 30, "{waited:?}: {}", said.stderr);
}
