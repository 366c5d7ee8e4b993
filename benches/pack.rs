//! Packing: the tar writer and each encoder, in bytes per second. Compare rows of one run only.
//!
//! Floors, one core (two virtual cores of Sapphire Rapids): SHA-256 1.44 GB/s, blake3 4.8; gzip by libdeflate
//! at level 6 87 MB/s of text; by chunks on two cores twice that. tar of 10,000 files with SHA-256 0.9 GB/s.

#![expect(clippy::unwrap_used, reason = "a bench that cannot set itself up has nothing to say")]

use std::io::{self, Read, Write};

use divan::counter::BytesCount;
use shale::layer::compress::{DEFAULT_GZIP_LEVEL, Encoder, PackWriter};
use shale::layer::contents::Contents;
use shale::layer::write::{Options, write_tar};
use shale::tree::entry::{Entry, Kind, Mtime};
use shale::tree::index::{Index, IndexBuilder};

fn main() {
    divan::main();
}

const SIZE_BYTES: usize = 32 << 20;

/// Text-like bytes, noise, or blocks of either by turns.
fn sample(kind: &str, len: usize) -> Vec<u8> {
    let words = ["static ", "void ", "return ", "const ", "layer ", "digest ", "mount\n", "image ", "config ", "0x"];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        let noisy = match kind {
            "noise" => true,
            "text" => false,
            _ => (out.len() >> 20) & 1 == 1,
        };
        if noisy {
            out.extend(next().to_le_bytes());
        } else {
            let number = next();
            out.extend(words[(number % 10) as usize].as_bytes());
            out.extend((number % 10_000).to_string().as_bytes());
        }
    }
    out.truncate(len);
    out
}

const ENCODERS: [(&str, Encoder); 6] = [
    ("plain", Encoder::None),
    ("gzip-1", Encoder::Gzip { level: 1 }),
    ("gzip-4", Encoder::Gzip { level: 4 }),
    ("gzip-5", Encoder::Gzip { level: 5 }),
    ("gzip-6", Encoder::Gzip { level: 6 }),
    ("zstd-3", Encoder::Zstd { level: 3 }),
];

fn pack(bencher: divan::Bencher<'_, '_>, kind: &str, encoder: &str) {
    let bytes = sample(kind, SIZE_BYTES);
    let (_, encoder) = ENCODERS.into_iter().find(|(name, _)| *name == encoder).unwrap();
    bencher.counter(BytesCount::new(SIZE_BYTES)).bench_local(|| {
        let mut writer = PackWriter::new(io::sink(), encoder).unwrap();
        writer.write_all(&bytes).unwrap();
        writer.finish().unwrap().0
    });
}

#[divan::bench(args = ["plain", "gzip-1", "gzip-4", "gzip-5", "gzip-6", "zstd-3"], sample_count = 5)]
fn text(bencher: divan::Bencher<'_, '_>, encoder: &str) {
    pack(bencher, "text", encoder);
}

#[divan::bench(args = ["plain", "gzip-1", "gzip-4", "gzip-5", "gzip-6", "zstd-3"], sample_count = 5)]
fn half_noise(bencher: divan::Bencher<'_, '_>, encoder: &str) {
    pack(bencher, "half", encoder);
}

/// The default level on several threads: the bytes are the same, so only the time differs.
#[divan::bench(args = [1, 2, 4], sample_count = 5)]
fn gzip_by_threads(bencher: divan::Bencher<'_, '_>, threads: usize) {
    let bytes = sample("text", SIZE_BYTES);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    bencher.counter(BytesCount::new(SIZE_BYTES)).bench_local(|| {
        pool.install(|| {
            let mut writer = PackWriter::new(io::sink(), Encoder::Gzip { level: DEFAULT_GZIP_LEVEL }).unwrap();
            writer.write_all(&bytes).unwrap();
            writer.finish().unwrap().0
        })
    });
}

struct Same(Vec<u8>);

impl Contents for Same {
    fn open<'a>(&'a mut self, _: &Entry) -> io::Result<Box<dyn Read + 'a>> {
        Ok(Box::new(self.0.as_slice()))
    }
}

fn index(files: usize, content: &[u8]) -> Index {
    let mut builder = IndexBuilder::new();
    let digest = *blake3::hash(content).as_bytes();
    for number in 0..files {
        let kind = Kind::File { size: content.len() as u64, digest, hardlink: None };
        builder.push(Entry::new(format!("f{number:06}"), kind, 0o644, 0, 0, Mtime::default()));
    }
    builder.build()
}

/// The tar of 10,000 files of 14 KiB, hashed again on the way, without compression.
#[divan::bench(sample_count = 5)]
fn tar_of_10k_files(bencher: divan::Bencher<'_, '_>) {
    let content = sample("half", 14 << 10);
    let index = index(10_000, &content);
    bencher.counter(BytesCount::new(content.len() * 10_000)).bench_local(|| {
        let mut writer = PackWriter::new(io::sink(), Encoder::None).unwrap();
        write_tar(&index, &mut Same(content.clone()), Options::default(), &mut writer).unwrap();
        writer.finish().unwrap().0
    });
}

/// Opening an index, which checks it once, and looking a path up.
#[divan::bench(args = [1_000, 10_000, 100_000], sample_count = 10)]
fn open_index(bencher: divan::Bencher<'_, '_>, files: usize) {
    let bytes = index(files, b"x").as_bytes().to_vec();
    bencher.with_inputs(|| bytes.clone()).bench_local_values(|bytes| Index::from_bytes(bytes).unwrap().find(b"f000500"));
}
