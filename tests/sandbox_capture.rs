//! What a RUN leaves behind as a layer, and the layer on disk.

#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

mod sandbox_common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use sandbox_common::{Bench, Ran};
use shale::layer::compress::Encoder;
use shale::layer::contents::SourceRef;
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::index::{Index, IndexBuilder};
use shale::tree::walk::{self, WalkError, Walked};
use shale::worker::{Exit, From, LowerLayer, Packing, RunRequest, To, WriteLayer};

const PLAIN: Packing = Packing { encoder: Encoder::None, clamp_secs: None };

struct Layer {
    ran: Ran,
    index: Index,
}

impl Layer {
    fn paths(&self) -> Vec<String> {
        self.index.iter().map(|e| String::from_utf8(e.path).unwrap()).collect()
    }

    fn get(&self, path: &str) -> Entry {
        let at = self.index.find(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not among {:?}", self.paths()));
        self.index.entry(at)
    }
}

fn run(bench: &Bench, request: RunRequest) -> Layer {
    let ran = bench.run(request);
    assert_eq!(ran.exit, Exit::Code(0), "{ran:?}");
    let layer = Layer { index: Index::from_bytes(ran.done.index.clone()).unwrap(), ran };
    fs::write(layer.ran.done.upper.with_file_name("index"), &layer.ran.done.index).unwrap();
    assert_equals_its_index(bench, &layer);
    layer
}

fn sh(bench: &Bench, script: &str) -> Layer {
    run(bench, bench.sh_request(script))
}

/// The directory packs to the tar of its index, which unpacks to the same index; and it holds nothing more.
fn assert_equals_its_index(bench: &Bench, layer: &Layer) {
    let upper = &layer.ran.done.upper;
    let tmp = tempfile::tempdir_in(bench.dir.path()).unwrap();
    let (blob, again) = (tmp.path().join("blob"), tmp.path().join("again"));
    let write = WriteLayer { index: upper.with_file_name("index"), from: From::Directory(upper.clone()), to: To::Packed(PLAIN) };
    bench.worker.write(write, Some(&File::create_new(&blob).unwrap()), None).unwrap();
    fs::create_dir(&again).unwrap();
    let index = bench.worker.unpack(&File::open(&blob).unwrap(), &again).unwrap().index;
    assert_eq!(index.content_id_without_mtimes(), layer.index.content_id_without_mtimes());
    bench.worker.remove(&[again]).unwrap();
    // From outside of the user namespace not everything can be seen.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut found = Vec::new();
    let options = walk::Options { xattrs: true };
    walk::walk(walk::open_dir(upper).unwrap().as_fd(), options, &mut |_, _| false, &mut |walked: Walked<'_>| {
        assert!(walked.internal_xattrs.is_empty() && !walked.opaque, "{walked:?}");
        let entry = layer.get(std::str::from_utf8(&walked.path).unwrap());
        assert_eq!(walked.whiteout, entry.kind == Kind::Whiteout, "{walked:?}");
        if !walked.whiteout {
            assert_eq!((walked.stat.mtime, walked.stat.mode & 0o7777), (entry.mtime, entry.mode), "{walked:?}");
        }
        found.push(walked.path);
        Ok::<(), WalkError>(())
    })
    .unwrap();
    assert_eq!(found, layer.index.iter().map(|e| e.path).collect::<Vec<_>>());
}

#[test]
fn a_step_without_changes_leaves_the_empty_layer() {
    let Some(bench) = Bench::new() else { return };
    for script in [
        "true",
        "chmod 755 /bin/busybox",
        "touch /tmp/x; rm /tmp/x",
        "mkdir -p /new/er && rm -r /new",
        "cat /etc/passwd",
        "mv /dir/file /dir/x; mv /dir/x /dir/file",
    ] {
        let layer = sh(&bench, script);
        assert_eq!(layer.ran.done.index, Index::empty().as_bytes(), "{script}: {:?}", layer.paths());
    }
    let mut request = bench.sh_request("cat /run/a/script");
    request.files = vec![("/run/a/script".to_owned(), b"x".to_vec(), 0o644)];
    assert_eq!(run(&bench, request).paths(), Vec::<String>::new(), "mount points are no part of the layer");
}

#[test]
fn changes_of_every_kind() {
    let Some(bench) = Bench::new() else { return };
    let layer = sh(
        &bench,
        "echo new >/home/new; chown 1000:1001 /home/new; cp /bin/busybox /home/suid; chmod 4755 /home/suid; mkfifo -m 600 /home/fifo
         ln -s /etc/passwd /home/link; ln /home/new /home/again; mkdir -m 2750 /home/sgid; chown 5:5 /home/sgid
         rm /dir/file; chown 1000:1000 /etc/group; touch -d @1000000000 /home/old",
    );
    assert_eq!(
        layer.paths(),
        [
            "dir",
            "dir/file",
            "etc",
            "etc/group",
            "home",
            "home/again",
            "home/fifo",
            "home/link",
            "home/new",
            "home/old",
            "home/sgid",
            "home/suid"
        ]
    );
    assert_eq!(layer.get("dir/file"), Entry::whiteout("dir/file"));
    let of = |path| {
        let e = layer.get(path);
        (e.mode, e.uid, e.gid)
    };
    assert_eq!(of("home/new"), (0o644, 1000, 1001));
    assert_eq!(of("home/suid"), (0o4755, 0, 0));
    assert_eq!(of("home/sgid"), (0o2750, 5, 5));
    assert_eq!(of("home/fifo"), (0o600, 0, 0));
    assert_eq!(of("etc/group"), (0o644, 1000, 1000));
    assert_eq!(layer.get("home/fifo").kind, Kind::Fifo);
    assert_eq!(layer.get("home/link").kind, Kind::Symlink { target: b"/etc/passwd".to_vec() });
    assert!(matches!(layer.get("home/again").kind, Kind::File { size: 4, hardlink: None, .. }));
    assert!(matches!(layer.get("home/new").kind, Kind::File { hardlink: Some(first), .. } if first == b"home/again"));
    assert_eq!(layer.get("home/old").mtime.secs, 1_000_000_000);
    let (from, to) = layer.ran.done.window;
    for path in ["home/new", "home/suid", "home", "home/fifo"] {
        let mtime = layer.get(path).mtime;
        assert!(from <= mtime && mtime <= to, "{path}: {from:?} <= {mtime:?} <= {to:?}");
    }
    assert!(layer.index.inline(b"etc/group").is_some());
}

#[test]
fn removed_and_replaced_directories() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(sh(&bench, "rm -r /dir").paths(), ["dir"]);
    let replaced = sh(&bench, "rm -r /dir; mkdir /dir; echo x >/dir/file");
    assert_eq!(replaced.paths(), ["dir", "dir/file", "dir/sub"]);
    assert_eq!(replaced.get("dir/sub"), Entry::whiteout("dir/sub"));
    let file = sh(&bench, "rm -r /dir; echo x >/dir");
    assert!(file.paths() == ["dir"] && matches!(file.get("dir").kind, Kind::File { size: 2, .. }));
    let dir = sh(&bench, "rm /dir/file; mkdir /dir/file; touch /dir/file/in");
    assert_eq!(dir.paths(), ["dir", "dir/file", "dir/file/in"]);
    let moved = sh(&bench, "mv /dir /moved");
    assert_eq!(moved.paths(), ["dir", "moved", "moved/file", "moved/sub", "moved/sub/deep"]);
}

/// The request with a layer more below.
fn upon(mut request: RunRequest, layer: &Layer) -> RunRequest {
    let upper = &layer.ran.done.upper;
    request.lowers.push(LowerLayer { fs: upper.clone(), index: upper.with_file_name("index"), part: None });
    request
}

#[test]
fn steps_on_steps() {
    let Some(bench) = Bench::new() else { return };
    let first = sh(&bench, "rm -r /dir; mkdir -p /dir/sub; echo one >/dir/one; rm /home/none 2>/dev/null; chown -R 1000:1000 /dir");
    let second = run(
        &bench,
        upon(bench.sh_request("find /dir | sort; stat -c %u /dir/one; rm -r /dir/sub; echo two >>/dir/one; chmod 755 /dir"), &first),
    );
    assert_eq!(second.ran.stdout, "/dir\n/dir/one\n/dir/sub\n1000\n");
    assert_eq!(second.paths(), ["dir", "dir/one", "dir/sub"]);
    assert_eq!(second.get("dir/sub"), Entry::whiteout("dir/sub"));
    let mut request = upon(upon(bench.sh_request("find /dir; cat /dir/one"), &first), &second);
    (request.uid, request.gid) = (1000, 1000);
    let third = run(&bench, request);
    assert_eq!(third.ran.stdout, "/dir\n/dir/one\none\ntwo\n");
    assert_eq!(third.paths(), Vec::<String>::new());
}

#[test]
fn file_capabilities_survive() {
    let Some(bench) = Bench::new() else { return };
    // cap_net_raw+ep, version 2.
    let capability: Vec<u8> = [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    let content = fs::read("/bin/busybox").unwrap();
    let kind = Kind::File { size: content.len() as u64, digest: *blake3::hash(&content).as_bytes(), hardlink: None };
    let mut entry = Entry::new("busybox-caps", kind, 0o755, 0, 0, Mtime { secs: 1, nanos: 0 });
    entry.xattrs = BTreeMap::from([(b"security.capability".to_vec(), capability.clone())]);
    let mut builder = IndexBuilder::new();
    builder.push(entry);
    let at = |name: &str| bench.dir.path().join(name);
    fs::create_dir(at("caps")).unwrap();
    fs::write(at("caps-index"), builder.build().as_bytes()).unwrap();
    let from =
        From::Gathered { roots: Vec::new(), spools: Vec::new(), sources: vec![(b"busybox-caps".to_vec(), SourceRef::Inline(content))] };
    bench.worker.write(WriteLayer { index: at("caps-index"), from, to: To::Directory(at("caps")) }, None, None).unwrap();
    let mut request = bench.sh_request("mv /busybox-caps /home/");
    request.lowers.push(LowerLayer { fs: at("caps"), index: at("caps-index"), part: None });
    (request.uid, request.gid, request.groups) = (0, 0, Vec::new());
    let layer = run(&bench, request);
    assert_eq!(layer.get("home/busybox-caps").xattrs.get(b"security.capability".as_slice()), Some(&capability));
    assert_eq!(layer.paths(), ["busybox-caps", "home", "home/busybox-caps"]);
    let mut request = upon(bench.sh_request("/home/busybox-caps grep CapEff /proc/self/status"), &layer);
    (request.uid, request.gid) = (1000, 1000);
    assert_eq!(bench.run(request).stdout, "CapEff:\t0000000000002000\n", "the kernel honours it");
}

#[test]
fn mount_points_hidden_by_the_image_leave_no_trace() {
    let Some(bench) = Bench::new() else { return };
    let first = sh(&bench, "mkdir /deep; echo x >/deep/file");
    // A layer that hides what lies below its etc, as foreign images have them, and a dangling link for resolv.conf.
    let second = run(&bench, upon(bench.sh_request("rm -r /etc 2>/dev/null; mkdir -p /etc; true"), &first));
    assert!(Path::new(&second.ran.done.upper).exists());
    let mut builder = IndexBuilder::new();
    let mut etc = Entry::new("etc", Kind::Dir, 0o755, 0, 0, Mtime { secs: 1, nanos: 0 });
    etc.opaque = true;
    builder.push(etc);
    builder.push(Entry::new(
        "etc/resolv.conf",
        Kind::Symlink { target: b"../run/net/resolv.conf".to_vec() },
        0o777,
        0,
        0,
        Mtime { secs: 1, nanos: 0 },
    ));
    let at = |name: &str| bench.dir.path().join(name);
    fs::create_dir(at("opaque")).unwrap();
    fs::write(at("opaque-index"), builder.build().as_bytes()).unwrap();
    let from = From::Gathered { roots: Vec::new(), spools: Vec::new(), sources: Vec::new() };
    bench.worker.write(WriteLayer { index: at("opaque-index"), from, to: To::Directory(at("opaque")) }, None, None).unwrap();
    let mut request = bench.sh_request("cat /etc/resolv.conf /run/net/resolv.conf /etc/hosts; ls /etc");
    request.lowers.push(LowerLayer { fs: at("opaque"), index: at("opaque-index"), part: None });
    let layer = run(&bench, request);
    assert_eq!(layer.ran.stdout, "nameserver 192.0.2.1\nnameserver 192.0.2.1\n127.0.0.1\tlocalhost\nhosts\nresolv.conf\n");
    assert_eq!(layer.paths(), Vec::<String>::new());
}

#[test]
fn more_layers_than_the_kernel_mounts_are_refused_in_words() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.sh_request("true");
    request.lowers = vec![request.lowers[0].clone(); 600];
    let error = bench.try_run(request, &shale::sandbox::Cancel::new().unwrap()).unwrap_err().to_string();
    assert!(error.contains("500"), "{error}");
}

#[test]
fn as_an_ordinary_user() {
    sandbox_common::again_as_an_ordinary_user();
}
