//! The stat cache against the tricks that files play.

#![expect(clippy::unwrap_used, reason = "a test that fails by a panic has done its work")]

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use shale::source::context::{BuildContext, ContextError};
use shale::source::statcache::{Fingerprint, Horizon, Saved};
use shale::tree::entry::ContentDigest;
use shale::tree::{Tree, walk};

struct Bed {
    dir: tempfile::TempDir,
    caches: tempfile::TempDir,
}

/// What a build saw and did.
#[derive(Debug)]
struct Build {
    digests: Vec<ContentDigest>,
    hashed: usize,
    saved: Saved,
}

impl Bed {
    fn new() -> Self {
        // On the disk rather than in a tmpfs, if that is what the target directory is on.
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // The target directory may be somebody else's.
        let make = || tempfile::tempdir_in(base).or_else(|_| tempfile::tempdir()).unwrap();
        Self { dir: make(), caches: make() }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Waits until every file is older than the next scan: milliseconds where files without a name can be made, else seconds.
    fn settle(&self) {
        let dir = walk::open_dir(self.dir.path()).unwrap();
        let prints: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| Fingerprint::from(&walk::stat_at(&dir, entry.unwrap().file_name().as_os_str()).unwrap()))
            .map(|print| Fingerprint { mtime: print.ctime, ..print })
            .collect();
        for _ in 0..500 {
            let horizon = Horizon::now(&dir);
            if prints.iter().all(|print| horizon.is_settled(print)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the clock of the file system stands still");
    }

    fn context(&self) -> BuildContext {
        BuildContext::open_dir(self.dir.path(), Some(self.caches.path())).unwrap()
    }

    /// One build that selects everything.
    fn build(&self) -> Build {
        let context = self.context();
        let nodes = context.children(b"").unwrap();
        let paths: Vec<&[u8]> = nodes.iter().map(|node| node.path.as_slice()).collect();
        let digests = context.digests(&paths).unwrap();
        for (node, digest) in nodes.iter().zip(&digests) {
            let content = fs::read(self.dir.path().join(str::from_utf8(&node.path).unwrap())).unwrap();
            assert_eq!(digest, blake3::hash(&content).as_bytes(), "{}", String::from_utf8_lossy(&node.path));
        }
        let saved = context.save_stat_cache().unwrap();
        Build { digests, hashed: context.hashed_files(), saved }
    }
}

fn set_mtime(path: &Path, to: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(to)).unwrap();
}

#[test]
fn unchanged_files_are_read_once() {
    let bed = Bed::new();
    for i in 0..40 {
        bed.write(&format!("f{i}"), &format!("content {i}"));
    }
    bed.settle();
    let first = bed.build();
    assert_eq!((first.hashed, first.saved), (40, Saved { entries: 40, racy: 0 }));
    let second = bed.build();
    assert_eq!((second.hashed, second.saved.entries), (0, 0));
    assert_eq!(first.digests, second.digests);
    bed.write("f7", "other");
    bed.settle();
    let third = bed.build();
    assert_eq!((third.hashed, third.saved.entries), (1, 40));
    assert_eq!(bed.build().hashed, 0);
}

#[test]
fn same_size_and_mtime_do_not_hide_a_change() {
    let bed = Bed::new();
    bed.write("f", "aaaa");
    let path = bed.dir.path().join("f");
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    bed.settle();
    assert_eq!(bed.build().saved.entries, 1);
    bed.write("f", "bbbb");
    set_mtime(&path, mtime);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), mtime);
    assert_eq!(bed.build().hashed, 1, "ctime tells; build() compares the digest");
}

#[test]
fn a_file_renamed_over_another_is_another() {
    let bed = Bed::new();
    bed.write("f", "aaaa");
    let (path, other) = (bed.dir.path().join("f"), bed.caches.path().join("f"));
    fs::write(&other, "bbbb").unwrap();
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    set_mtime(&other, mtime);
    bed.settle();
    assert_eq!(bed.build().saved.entries, 1);
    fs::rename(&other, &path).unwrap();
    assert_eq!(bed.build().hashed, 1);
}

#[test]
fn what_is_written_around_the_scan_is_not_trusted() {
    let bed = Bed::new();
    for round in 0..50 {
        let context = bed.context();
        bed.write("f", &format!("{round:04}"));
        context.children(b"").unwrap();
        context.digests(&[b"f"]).unwrap();
        // Written again at once, mostly within the tick of the first write: no stat tells the two apart.
        bed.write("f", &format!("{:04}", round + 1000));
        assert_eq!(context.save_stat_cache().unwrap(), Saved { entries: 0, racy: 1 });
        bed.build();
    }
}

#[test]
fn times_in_the_future_are_never_trusted() {
    let bed = Bed::new();
    bed.write("f", "aaaa");
    set_mtime(&bed.dir.path().join("f"), SystemTime::now() + Duration::from_secs(3600));
    bed.settle();
    for _ in 0..3 {
        let build = bed.build();
        assert_eq!((build.hashed, build.saved), (1, Saved { entries: 0, racy: 1 }));
    }
}

#[test]
fn a_file_that_keeps_changing_is_given_up() {
    let bed = Bed::new();
    let path = bed.dir.path().join("f");
    fs::write(&path, vec![0; 32 << 20]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut size = 32 << 20;
            let file = File::options().write(true).open(&path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                size += 1;
                file.set_len(size).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let result = bed.context().digests(&[b"f"]);
        stop.store(true, Ordering::Relaxed);
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "f changed during the build");
        assert!(matches!(ContextError::of(&error), Some(ContextError::Changed { path }) if path == b"f"));
    });
}

#[test]
fn a_damaged_cache_only_costs_time() {
    let bed = Bed::new();
    bed.write("f", "aaaa");
    bed.settle();
    bed.build();
    let file = bed.caches.path().join(bed.context().identity());
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let note = bed.context().stat_cache_note().unwrap().to_string();
    assert!(note.ends_with("is ignored: its checksum does not hold"), "{note}");
    assert_eq!(bed.build().hashed, 1);
    assert_eq!(bed.build().hashed, 0);
}

#[test]
fn nothing_is_read_that_nobody_asked_for() {
    let bed = Bed::new();
    bed.write("a", "1");
    bed.write("b", "2");
    let context = bed.context();
    context.children(b"").unwrap();
    assert_eq!(context.hashed_files(), 0);
    context.digests(&[b"b"]).unwrap();
    context.digests(&[b"b"]).unwrap();
    assert_eq!(context.hashed_files(), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| context.digests(&[b"a", b"b"]).unwrap());
        }
    });
    assert_eq!(context.hashed_files(), 2, "stages that ask for the same files wait for each other");
}
