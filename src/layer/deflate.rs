//! One chunk of a layer's tar as deflate blocks: the same bytes for the same chunk, whatever runs beside it.
//!
//! libdeflate only makes whole streams. Each is opened at its end (the mark of its last block taken away, a sync flush put behind it),
//! so that the next one goes on where it ends.

mod blocks;

use std::io;

use libdeflater::{CompressionLvl, Compressor};

use blocks::last_block;

/// Bytes that are judged together: deflated or stored. Smaller ones are too few to tell noise from data by counting.
pub(super) const PIECE_BYTES: usize = 8 << 10;
/// How far back a match may lie. Behind noise of this length nothing that came before it is of use.
const WINDOW_BYTES: usize = 32 << 10;
/// The most that a stored deflate block holds.
const STORED_BLOCK_BYTES: usize = 0xffff;

/// A chunk, deflated.
pub(super) struct Deflated {
    /// Blocks that end on a byte, none of them the last of the stream.
    pub(super) bytes: Vec<u8>,
    /// Of the chunk.
    pub(super) crc: crc32fast::Hasher,
}

/// Deflates the chunk of this number at a level of 0 to 9. Noise as long as the window is stored, what lies between is compressed.
pub(super) fn deflate(chunk: &[u8], number: u64, level: u32) -> io::Result<Deflated> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(chunk);
    let mut bytes = Vec::new();
    if level == 0 {
        store(chunk, &mut bytes);
        return Ok(Deflated { bytes, crc });
    }
    let level = library_level(level, number);
    let noise: Vec<bool> = chunk.chunks(PIECE_BYTES).map(is_noise).collect();
    let (mut begun, mut at) = (0, 0);
    for alike in noise.chunk_by(|a, b| a == b) {
        let end = chunk.len().min(at + alike.len() * PIECE_BYTES);
        if alike[0] && end - at >= WINDOW_BYTES {
            deflate_run(&chunk[begun..at], level, &mut bytes)?;
            store(&chunk[at..end], &mut bytes);
            begun = end;
        }
        at = end;
    }
    deflate_run(&chunk[begun..], level, &mut bytes)?;
    Ok(Deflated { bytes, crc })
}

/// libdeflate's level. Between its 5 and its 6 lies the largest step of all (of some texts a third of the time, a twentieth of the
/// size), so level 5 takes 6 for every other chunk.
fn library_level(level: u32, number: u64) -> i32 {
    if level == 5 && number % 2 == 1 { 6 } else { level as i32 }
}

/// Appends a run as deflate blocks that end with a sync flush, or stored where that is shorter.
fn deflate_run(run: &[u8], level: i32, out: &mut Vec<u8>) -> io::Result<()> {
    if run.is_empty() {
        return Ok(());
    }
    let level = CompressionLvl::new(level).map_err(|_| io::Error::other("no level of gzip"))?;
    let mut compressor = Compressor::new(level);
    let begun = out.len();
    out.resize(begun + compressor.deflate_compress_bound(run.len()), 0);
    let length = compressor.deflate_compress(run, &mut out[begun..]).map_err(io::Error::other)?;
    out.truncate(begun + length);
    open_end(out, begun)?;
    if out.len() - begun >= run.len() {
        out.truncate(begun);
        store(run, out);
    }
    Ok(())
}

/// Turns the whole stream that begins at `begun` into one that goes on behind it, with a stored block of nothing as a sync flush.
fn open_end(out: &mut Vec<u8>, begun: usize) -> io::Result<()> {
    let last = last_block(&out[begun..]).ok_or_else(|| io::Error::other("libdeflate made a stream without an end"))?;
    out[begun + last.begins_bit / 8] &= !(1 << (last.begins_bit % 8));
    // Its header is three zeros, and so are the bits that fill up the last byte.
    if 8 * (out.len() - begun) < last.ends_bit + 3 {
        out.push(0);
    }
    out.extend([0, 0, 0xff, 0xff]);
    Ok(())
}

/// Whether the bytes are spread as chance spreads them, so that deflate would gain nothing: compressed or encrypted data, at memory
/// speed.
fn is_noise(piece: &[u8]) -> bool {
    if piece.len() < PIECE_BYTES {
        return false;
    }
    // Most of what is not noise shows it early.
    let (start, _) = piece.split_at(PIECE_BYTES / 8);
    is_even(start, 2) && is_even(piece, 64)
}

/// Whether the sum of squares of how often each byte stands there is that of chance, n²/256 + n, up to a part of it: a 64th more
/// leaves nothing to win. Much less is an order of some kind, such as a table that counts up.
fn is_even(bytes: &[u8], part: u64) -> bool {
    // Four tables, so that equal neighbours do not wait for each other.
    let mut counts = [[0_u32; 256]; 4];
    for four in bytes.chunks_exact(4) {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    let squares: u64 = (0..256).map(|byte| counts.iter().map(|table| u64::from(table[byte])).sum::<u64>().pow(2)).sum();
    let (n, flat) = (bytes.len() as u64, (bytes.len() as u64).pow(2) / 256);
    (flat + n / 2..=flat + n + flat / part).contains(&squares)
}

/// Appends bytes in stored blocks, ending on a byte boundary as a sync flush does.
fn store(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 5 * (bytes.len() / STORED_BLOCK_BYTES + 1));
    for block in bytes.chunks(STORED_BLOCK_BYTES) {
        let length = block.len() as u16;
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
}
