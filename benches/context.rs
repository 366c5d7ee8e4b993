//! What a build pays for its context: validating the stat cache of an unchanged one, and hashing a new one.
//!
//! Floors (two virtual cores of Sapphire Rapids): walk and stat of 12,400 entries 21 ms, of 98,800 165;
//! validation of 10,000 files 26 ms, of 79,000 217.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to say")]

use std::fs;
use std::path::Path;

use divan::Bencher;
use divan::counter::BytesCount;
use shale::source::context::BuildContext;
use shale::source::ignore::Ignore;
use shale::tree::{NodeKind, Tree};

fn main() {
    divan::main();
}

/// Ten files per directory and ten directories per directory, as source trees roughly are.
fn fill(root: &Path, files: usize, size: usize) {
    let mut made = 0;
    for i in 0.. {
        let dir = root.join(format!("package{:02}/module{:02}/part{:02}", i / 100, i / 10 % 10, i % 10));
        fs::create_dir_all(&dir).unwrap();
        for n in 0..10 {
            if made == files {
                return;
            }
            fs::write(dir.join(format!("source_file_{n}.rs")), format!("{made:>size$}")).unwrap();
            made += 1;
        }
    }
}

fn beds() -> std::path::PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-context");
    fs::create_dir_all(&base).unwrap();
    base
}

/// Lists everything and asks for every digest; gives the number of files.
fn select_all(context: &BuildContext) -> usize {
    let (mut dirs, mut files) = (vec![Vec::new()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for node in context.children(&dir).unwrap() {
            match node.kind {
                NodeKind::Dir => dirs.push(node.path),
                _ => files.push(node.path),
            }
        }
    }
    let paths: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    context.digests(&paths).unwrap().len()
}

fn open(dir: &Path, caches: Option<&Path>) -> BuildContext {
    let mut context = BuildContext::open_dir(dir, caches).unwrap();
    let patterns = ".git\n**/node_modules\n**/*.pyc\n*.log\n!keep.log\ntarget\n**/.DS_Store\ndocs/*.md\n";
    context.set_ignore(Ignore::parse(".dockerignore", patterns.as_bytes()).unwrap());
    context
}

/// A build that finds nothing changed: open, load, list, stat, compare, answer every digest.
#[divan::bench(args = [10_000, 100_000], sample_count = 20)]
fn validate(bencher: Bencher, files: usize) {
    // Kept between runs: making the files takes far longer than what is measured.
    let base = beds().join(files.to_string());
    let (dir, caches) = (base.join("context"), base.join("caches"));
    if !caches.exists() {
        fill(&dir, files, 100);
        std::thread::sleep(std::time::Duration::from_millis(2100));
        let first = open(&dir, Some(&caches));
        assert_eq!(select_all(&first), files);
        assert_eq!(first.save_stat_cache().unwrap().entries, files);
    }
    bencher.bench_local(|| {
        let context = open(&dir, Some(&caches));
        assert_eq!(select_all(&context), files);
        assert_eq!(context.hashed_files(), 0);
    });
}

/// The same without a stat cache: every file is read.
#[divan::bench(sample_count = 10)]
fn hash_10k_small_files(bencher: Bencher) {
    let base = tempfile::tempdir_in(beds()).unwrap();
    fill(base.path(), 10_000, 4000);
    bencher.counter(BytesCount::new(10_000usize * 4000)).bench_local(|| assert_eq!(select_all(&open(base.path(), None)), 10_000));
}

/// Two large files, which two threads share.
#[divan::bench(sample_count = 5)]
fn hash_large_files(bencher: Bencher) {
    const SIZE: usize = 128 << 20;
    let base = tempfile::tempdir_in(beds()).unwrap();
    fs::write(base.path().join("a"), vec![1; SIZE]).unwrap();
    fs::write(base.path().join("b"), vec![2; SIZE]).unwrap();
    bencher.counter(BytesCount::new(2 * SIZE)).bench_local(|| assert_eq!(select_all(&open(base.path(), None)), 2));
}
