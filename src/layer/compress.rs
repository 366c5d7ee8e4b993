//! Layers as blobs: compression that gives the same bytes on any number of cores, and decompression by content.
//!
//! gzip is one member made of raw deflate chunks. Each chunk of [`CHUNK_BYTES`] is deflated on its own and ends with a sync flush
//! ([`super::deflate`]). Where a chunk begins depends on nothing but its offset, so neither cores nor timing reach the bytes.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use shale_cache::{DiffId, OciDigest};

use super::deflate::{Deflated, deflate};

/// Uncompressed bytes per chunk.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Level of gzip where nobody asks for another: texts take a seventh less time than at 6 and are 3 % larger, files of a distribution are
/// much the same (`benches/README.md`).
pub const DEFAULT_GZIP_LEVEL: u32 = 5;
/// Level of zstd where nobody asks for another.
pub const DEFAULT_ZSTD_LEVEL: i32 = 3;

/// How a layer's tar becomes a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoder {
    /// As it is.
    None,
    /// gzip, level 0 to 9.
    Gzip {
        /// The level.
        level: u32,
    },
    /// zstd, level 1 to 22.
    Zstd {
        /// The level.
        level: i32,
    },
}

impl Encoder {
    /// `none`, `gzip`, `zstd`: part of the packed form's identity.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip { .. } => "gzip",
            Self::Zstd { .. } => "zstd",
        }
    }

    /// The level, 0 for none.
    pub fn level(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Gzip { level } => level as i32,
            Self::Zstd { level } => level,
        }
    }

    /// What else decides the bytes: our format and the library's version. Changes whenever the same tar gives another blob.
    pub fn version(self) -> &'static str {
        match self {
            Self::None => "1",
            Self::Gzip { .. } => "3 libdeflate-1.26.1 chunk-524288",
            Self::Zstd { .. } => "1 zstd-0.14",
        }
    }

    /// Media type of the blob in an OCI manifest.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip { .. } => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd { .. } => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// What packing a layer gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackNumbers {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the blob.
    pub blob: OciDigest,
    /// Size of the blob in bytes.
    pub size_bytes: u64,
}

/// Takes a tar, writes a blob, and digests both.
pub struct PackWriter<W: Write> {
    tar: Sha256,
    sink: Sink<W>,
}

enum Sink<W: Write> {
    Plain(Hashed<W>),
    Gzip(GzipWriter<Hashed<W>>),
    Zstd(zstd::stream::write::Encoder<'static, Hashed<W>>),
}

impl<W: Write> std::fmt::Debug for PackWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackWriter")
    }
}

impl<W: Write> PackWriter<W> {
    /// Writes a blob to `out`; nothing is written before the first bytes come.
    pub fn new(out: W, encoder: Encoder) -> io::Result<Self> {
        let out = Hashed { out, hash: Sha256::new(), size_bytes: 0 };
        let sink = match encoder {
            Encoder::None => Sink::Plain(out),
            Encoder::Gzip { level } => Sink::Gzip(GzipWriter::new(out, level)?),
            Encoder::Zstd { level } => Sink::Zstd(zstd::stream::write::Encoder::new(out, level)?),
        };
        Ok(Self { tar: Sha256::new(), sink })
    }

    /// Ends the blob.
    pub fn finish(self) -> io::Result<(PackNumbers, W)> {
        let out = match self.sink {
            Sink::Plain(out) => out,
            Sink::Gzip(gzip) => gzip.finish()?,
            Sink::Zstd(zstd) => zstd.finish()?,
        };
        let numbers = PackNumbers {
            diff_id: DiffId(OciDigest::of_sha256(self.tar)),
            blob: OciDigest::of_sha256(out.hash),
            size_bytes: out.size_bytes,
        };
        Ok((numbers, out.out))
    }
}

impl<W: Write> Write for PackWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar.update(bytes);
        match &mut self.sink {
            Sink::Plain(out) => out.write_all(bytes)?,
            Sink::Gzip(gzip) => gzip.write_all(bytes)?,
            Sink::Zstd(zstd) => zstd.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Hashed<W> {
    out: W,
    hash: Sha256,
    size_bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A deflated chunk on its way from the pool.
type Pending = Receiver<io::Result<Deflated>>;

/// The chunk-parallel gzip writer. A stream of one chunk starts no thread.
struct GzipWriter<W: Write> {
    out: W,
    level: u32,
    chunk: Vec<u8>,
    /// Chunks before this one.
    chunks: u64,
    pending: VecDeque<Pending>,
    /// Chunks on their way at once: bounds the memory.
    limit: usize,
    crc: crc32fast::Hasher,
    total_bytes: u64,
}

impl<W: Write> GzipWriter<W> {
    fn new(mut out: W, level: u32) -> io::Result<Self> {
        // Magic, deflate, no flags, no time, no extra flags, unknown system: nothing of this machine.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
        Ok(Self {
            out,
            level,
            chunk: Vec::new(),
            chunks: 0,
            pending: VecDeque::new(),
            limit: 2 * rayon::current_num_threads().max(1) + 2,
            crc: crc32fast::Hasher::new(),
            total_bytes: 0,
        })
    }

    fn submit(&mut self) -> io::Result<()> {
        if self.pending.len() >= self.limit {
            self.take_one()?;
        }
        let chunk = std::mem::take(&mut self.chunk);
        let (sender, receiver) = sync_channel(1);
        let (number, level) = (self.chunks, self.level);
        self.chunks += 1;
        rayon::spawn(move || {
            // Nobody listens any more if the writer failed: then the result is not wanted.
            sender.send(deflate(&chunk, number, level)).ok();
        });
        self.pending.push_back(receiver);
        Ok(())
    }

    fn take_one(&mut self) -> io::Result<()> {
        let Some(next) = self.pending.pop_front() else { return Ok(()) };
        // On a thread of the pool itself the chunk may stand behind us in its queue: then it is ours to work on.
        while rayon::current_thread_index().is_some() {
            match next.try_recv() {
                Ok(deflated) => return self.append(&deflated?),
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => drop(rayon::yield_now()),
            }
        }
        let deflated = next.recv().map_err(|_| io::Error::other("a compression thread ended early"))??;
        self.append(&deflated)
    }

    fn append(&mut self, deflated: &Deflated) -> io::Result<()> {
        self.crc.combine(&deflated.crc);
        self.out.write_all(&deflated.bytes)
    }

    fn finish(mut self) -> io::Result<W> {
        let last = std::mem::take(&mut self.chunk);
        if !last.is_empty() {
            let deflated = deflate(&last, self.chunks, self.level)?;
            while !self.pending.is_empty() {
                self.take_one()?;
            }
            self.append(&deflated)?;
        }
        while !self.pending.is_empty() {
            self.take_one()?;
        }
        // An empty final block with fixed codes, then the trailer.
        self.out.write_all(&[3, 0])?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.write_all(&(self.total_bytes as u32).to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.total_bytes += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.chunk.len() == CHUNK_BYTES {
                self.submit()?;
            }
            if self.chunk.capacity() == 0 && self.total_bytes > CHUNK_BYTES as u64 {
                self.chunk.reserve_exact(CHUNK_BYTES);
            }
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            rest = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads plain bytes from a stream of any compression that BuildKit detects, by its first bytes.
pub enum Decoder<R: Read> {
    /// Not compressed.
    Plain(BufReader<R>),
    /// gzip, of several members too.
    Gzip(GzipMembers<R>),
    /// bzip2
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<BufReader<R>>>),
    /// xz
    Xz(Box<liblzma::bufread::XzDecoder<BufReader<R>>>),
    /// zstd
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

/// The members of a gzip stream, one behind the other. NULs behind one are padding, as `gzip` takes them, and not the next one's header.
pub enum GzipMembers<R: Read> {
    /// In a member.
    In(Box<flate2::bufread::GzDecoder<BufReader<R>>>),
    /// Where the next one begins, or padding, or the end.
    Between(BufReader<R>),
    /// On the way from one to the other.
    Moving,
}

impl<R: Read> std::fmt::Debug for GzipMembers<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GzipMembers")
    }
}

impl<R: Read> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self {
                Self::In(member) => {
                    let read = member.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        return Ok(read);
                    }
                }
                Self::Between(source) => {
                    let bytes = source.fill_buf()?;
                    if bytes.is_empty() {
                        return Ok(0);
                    }
                    let padding = bytes.iter().take_while(|byte| **byte == 0).count();
                    let is_all = padding == bytes.len();
                    source.consume(padding);
                    if is_all {
                        continue;
                    }
                }
                Self::Moving => return Ok(0),
            }
            *self = match std::mem::replace(self, Self::Moving) {
                Self::In(member) => Self::Between(member.into_inner()),
                Self::Between(source) => Self::In(Box::new(flate2::bufread::GzDecoder::new(source))),
                Self::Moving => Self::Moving,
            };
        }
    }
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder::{:?}", self.format())
    }
}

/// What a stream is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all, as far as the first bytes tell.
    Plain,
    /// gzip
    Gzip,
    /// bzip2
    Bzip2,
    /// xz
    Xz,
    /// zstd
    Zstd,
}

impl Format {
    /// Tells by the first bytes; six are enough.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `source`.
    pub fn new(source: R) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(64 << 10, source);
        let format = Format::of(source.fill_buf()?);
        Ok(match format {
            Format::Plain => Self::Plain(source),
            Format::Gzip => Self::Gzip(GzipMembers::Between(source)),
            Format::Bzip2 => Self::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(source))),
            Format::Xz => Self::Xz(Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(source))),
            Format::Zstd => Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?)),
        })
    }

    /// What the stream is compressed with.
    pub fn format(&self) -> Format {
        match self {
            Self::Plain(_) => Format::Plain,
            Self::Gzip(_) => Format::Gzip,
            Self::Bzip2(_) => Format::Bzip2,
            Self::Xz(_) => Format::Xz,
            Self::Zstd(_) => Format::Zstd,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(source) => source.read(buffer),
            Self::Bzip2(source) => source.read(buffer),
            Self::Xz(source) => source.read(buffer),
            Self::Zstd(source) => source.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::deflate::PIECE_BYTES;
    use super::*;

    fn sample(kind: &str, len: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        match kind {
            "noise" => (0..len).map(|_| noise()).collect(),
            "text" => (0..len).map(|_| b"the quick brown fox\n"[usize::from(noise() % 20)]).collect(),
            // Borders of noise within chunks, now on a border of pieces, now not.
            "patches" => (0..len).map(|i| if (i / 20_000) % 3 == 0 { b'a' + noise() % 7 } else { noise() }).collect(),
            _ => (0..len).map(|i| if (i >> 17) & 1 == 0 { noise() } else { b'a' + noise() % 7 }).collect(),
        }
    }

    fn pack(bytes: &[u8], encoder: Encoder, piece: usize) -> (PackNumbers, Vec<u8>) {
        let mut writer = PackWriter::new(Vec::new(), encoder).expect("memory");
        for piece in bytes.chunks(piece) {
            writer.write_all(piece).expect("memory");
        }
        writer.finish().expect("memory")
    }

    #[test]
    fn every_encoder_gives_back_what_it_took() {
        let levels = [0, 1, 5, 6, 9].map(|level| Encoder::Gzip { level });
        for encoder in levels.into_iter().chain([Encoder::None, Encoder::Zstd { level: 3 }]) {
            for kind in ["noise", "text", "mixed", "patches"] {
                for len in [0, 1, 77, PIECE_BYTES, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 77] {
                    let bytes = sample(kind, len);
                    let (numbers, blob) = pack(&bytes, encoder, 10_000);
                    let mut back = Vec::new();
                    Decoder::new(blob.as_slice()).expect("memory").read_to_end(&mut back).expect("decodes");
                    assert!(back == bytes, "{encoder:?} {kind} {len}");
                    assert_eq!(numbers.diff_id.0, OciDigest::sha256_of(&bytes));
                    assert_eq!((numbers.blob, numbers.size_bytes), (OciDigest::sha256_of(&blob), blob.len() as u64));
                }
            }
        }
    }

    #[test]
    fn padding_between_gzip_members_and_behind_them_is_none_of_the_content() {
        let member = |bytes: &[u8]| {
            let mut writer = PackWriter::new(Vec::new(), Encoder::Gzip { level: 5 }).expect("memory");
            writer.write_all(bytes).expect("memory");
            writer.finish().expect("memory").1
        };
        let read = |blob: &[u8]| {
            let mut back = Vec::new();
            Decoder::new(blob)?.read_to_end(&mut back).map(|_| back)
        };
        let (one, two, padding) = (member(b"one "), member(b"two"), vec![0; 100_000]);
        for blob in [[&one[..], &two].concat(), [&one[..], &padding, &two, &padding[..512]].concat()] {
            assert_eq!(read(&blob).expect("reads"), b"one two");
        }
        read(&[&one[..], b"more"].concat()).expect_err("it is no member");
        read(&[&one[..], &two[..two.len() - 1]].concat()).expect_err("cut off");
    }

    #[test]
    fn neither_cores_nor_the_size_of_writes_reach_the_bytes() {
        for kind in ["mixed", "patches"] {
            let bytes = sample(kind, 3 << 20);
            let with = |threads, piece| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| pack(&bytes, Encoder::Gzip { level: 6 }, piece))
            };
            let alone = with(1, 512);
            for (threads, piece) in [(2, 4096), (3, 1 << 20), (16, 77_777)] {
                assert!(with(threads, piece) == alone, "{kind} on {threads} threads");
            }
            assert!(pack(&bytes, Encoder::Gzip { level: 6 }, 1 << 20) == alone, "{kind} outside of a pool");
        }
    }

    #[test]
    fn noise_is_stored_and_text_is_not() {
        let packed = |bytes: &[u8]| pack(bytes, Encoder::Gzip { level: 6 }, 4096).0.size_bytes;
        assert!(packed(&sample("noise", 1 << 20)) < (1 << 20) + 1000);
        assert!(packed(&sample("text", 1 << 20)) < 6 << 17);
        // Two thirds are noise, which costs what it is; of the rest a good half goes.
        let patches = packed(&sample("patches", 3 << 20));
        assert!(patches < (2 << 20) + (5 << 17), "{patches}");
        // Every byte as often as any other, and yet no noise.
        let table: Vec<u8> = (0..1 << 20).map(|i| (i % 256) as u8).collect();
        assert!(packed(&table) < 1 << 15);
    }
}
