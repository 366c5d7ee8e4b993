//! ADD of URLs: names, modes, times, checksums, and what asks the server again.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use support::{Lab, as_everybody};

/// A server of one file at every path. It counts whole answers and knows `If-None-Match`. At `/timed` it has no names for versions, but knows
/// `If-Modified-Since`.
struct Server {
    base: String,
    content: Arc<Mutex<Vec<u8>>>,
    sent: Arc<Mutex<usize>>,
}

impl Server {
    fn start(content: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Self { base, content: Arc::new(Mutex::new(content.to_vec())), sent: Arc::default() };
        let (content, sent) = (Arc::clone(&server.content), Arc::clone(&server.sent));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let head: Vec<String> = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
                let content = content.lock().expect("no panic").clone();
                let etag = format!("\"{}-{}\"", content.len(), content.first().copied().unwrap_or_default());
                let answer = if head[0].contains("/missing") {
                    b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec()
                } else if head[0].contains("/timed") {
                    let is_known = head.iter().any(|line| line.to_lowercase().starts_with("if-modified-since"));
                    let fresh = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n", content.len());
                    let head = if is_known { "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n" } else { &fresh };
                    let head = format!("{head}Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n");
                    [head.as_bytes(), if is_known { &[] } else { &content }].concat()
                } else if head.iter().any(|line| line.to_lowercase().starts_with("if-none-match") && line.contains(&etag)) {
                    b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_vec()
                } else {
                    *sent.lock().expect("no panic") += 1;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\nETag: {etag}\r\n\
                         Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n",
                        content.len()
                    );
                    [head.into_bytes(), content].concat()
                };
                // A client that goes away is its own business.
                drop(stream.write_all(&answer));
            }
        });
        server
    }

    fn sent(&self) -> usize {
        *self.sent.lock().expect("no panic")
    }
}

fn file<'a>(built: &'a support::Built, name: &str) -> (u32, (u64, u64), u64, &'a [u8]) {
    let node = &built.image.files[name];
    (node.mode, node.owner, node.mtime, &node.content)
}

#[test]
fn a_file_is_fetched_once_and_fetched_again_when_it_changed() {
    as_everybody(|lab: &Lab| {
        let server = Server::start(b"one\n");
        let url = format!("{}/dir/tool.sh?v=1", server.base);
        let dockerfile =
            format!("FROM scratch\nADD {url} local /bin/\nADD --chmod=u+x --chown=5:6 {url} /x\nADD {}/ /named/\n", server.base);
        lab.context("ctx", &[("Dockerfile", &dockerfile), ("local", "here\n")]);
        let first = lab.build("ctx", &[]);
        assert_eq!(file(&first, "bin/tool.sh"), (0o600, (0, 0), 1_700_000_000, b"one\n".as_slice()));
        assert_eq!(file(&first, "x"), (0o700, (5, 6), 1_700_000_000, b"one\n".as_slice()));
        assert_eq!(first.image.text("bin/local"), "here\n");
        assert_eq!(first.image.text("named/__unnamed__"), "one\n");
        let sent = server.sent();
        let second = lab.build("ctx", &[]);
        assert_eq!((second.said.executed(), server.sent()), (Vec::<String>::new(), sent), "{}", second.said.stderr);
        *server.content.lock().expect("no panic") = b"two\n\n".to_vec();
        let third = lab.build("ctx", &[]);
        assert_eq!(third.image.text("bin/tool.sh"), "two\n\n");
        assert_eq!(third.said.executed().len(), 3, "{}", third.said.stderr);
    });
}

#[test]
fn a_file_without_a_name_for_its_version_is_fetched_every_time() {
    as_everybody(|lab: &Lab| {
        let server = Server::start(b"one\n");
        lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {}/timed /f\n", server.base))]);
        assert_eq!(file(&lab.build("ctx", &[]), "f"), (0o600, (0, 0), 1_700_000_000, b"one\n".as_slice()));
        // Rolled back, or written twice in a second: the server says that nothing is newer.
        *server.content.lock().expect("no panic") = b"two\n".to_vec();
        assert_eq!(lab.build("ctx", &[]).image.text("f"), "two\n");
        assert!(lab.build("ctx", &[]).said.executed().is_empty(), "the same bytes are the same step");
    });
}

#[test]
fn a_checksum_is_kept_to_and_spares_the_question() {
    as_everybody(|lab: &Lab| {
        let server = Server::start(b"hello\n");
        // The sha256 of "hello\n".
        let sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let write = |sum: &str, path: &str| {
            let dockerfile = format!("FROM scratch\nADD --checksum=sha256:{sum} {}/{path} /f\n", server.base);
            lab.context("ctx", &[("Dockerfile", &dockerfile)]);
        };
        write(sum, "f");
        let built = lab.build("ctx", &[]);
        assert_eq!(built.image.text("f"), "hello\n");
        *server.content.lock().expect("no panic") = b"evil\n".to_vec();
        assert!(lab.build("ctx", &[]).said.executed().is_empty(), "a pinned file was asked for again");
        write(sum, "other");
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("digest mismatch sha256:") && said.stderr.contains(sum), "{}", said.stderr);
        write(sum, "missing");
        let said = lab.run(&["build", "--progress", "plain", "ctx"]);
        assert!(said.stderr.contains("failed to load cache key: invalid response status 404"), "{}", said.stderr);
    });
}

#[test]
fn an_archive_by_url_is_unpacked_only_if_asked() {
    as_everybody(|lab: &Lab| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_size(3);
        header.set_mtime(7);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, "dir/in", &b"in\n"[..]).expect("memory");
        let server = Server::start(&tar.into_inner().expect("memory"));
        let base = &server.base;
        lab.context("ctx", &[("Dockerfile", &format!("FROM scratch\nADD {base}/a.tar /kept/\nADD --unpack=true {base}/a.tar /un/\n"))]);
        let built = lab.build("ctx", &[]);
        assert_eq!(file(&built, "un/dir/in"), (0o640, (0, 0), 7, b"in\n".as_slice()));
        assert!(built.image.files.contains_key("kept/a.tar") && !built.image.files.contains_key("un/a.tar"));
    });
}

#[test]
fn a_dockerfile_alone_can_fetch() {
    as_everybody(|lab: &Lab| {
        let server = Server::start(b"x");
        lab.write("alone", format!("FROM scratch\nADD {}/f /\nCOPY <<E /h\nhere\nE\n", server.base));
        let archive = lab.work("o.tar");
        let mut command = lab.shale(&["build", "--progress", "plain", "-o", &format!("type=oci,dest={}", archive.display()), "-"]);
        command.stdin(std::fs::File::open(lab.work("alone")).expect("written"));
        let said = support::Said::of(command.output().expect("shale starts"));
        assert!(said.ok(), "{}", said.stderr);
        let image = support::image::Image::read(&archive);
        assert_eq!((image.text("f").as_str(), image.text("h").as_str()), ("x", "here\n"));
    });
}
