//! One chunk of a layer's tar as deflate blocks: the same bytes for the same chunk, whatever runs beside it.

use std::io;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes that are judged together: deflated or stored. Smaller ones are too few to tell noise from data by counting.
pub(super) const PIECE_BYTES: usize = 8 << 10;
/// What a chunk may refer back to.
const DICTIONARY_BYTES: usize = 32 << 10;
/// The most that a stored deflate block holds.
const STORED_BLOCK_BYTES: usize = 0xffff;

/// A chunk, deflated.
pub(super) struct Deflated {
    /// Blocks that end on a byte, none of them the last of the stream.
    pub(super) bytes: Vec<u8>,
    /// Of the chunk.
    pub(super) crc: crc32fast::Hasher,
}

/// What a chunk behind `before` may refer back to.
pub(super) fn dictionary(before: &[u8]) -> &[u8] {
    &before[before.len().saturating_sub(DICTIONARY_BYTES)..]
}

/// Deflates a chunk, piece by piece: runs of noise are stored, what lies between is compressed.
pub(super) fn deflate(chunk: &[u8], dictionary: &[u8], level: u32) -> io::Result<Deflated> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(chunk);
    if level == 0 {
        let mut bytes = Vec::new();
        store(chunk, &mut bytes);
        return Ok(Deflated { bytes, crc });
    }
    let mut bytes = Vec::new();
    let mut begun = 0;
    let mut is_stored = false;
    let pieces = chunk.chunks(PIECE_BYTES).map(|piece| (piece.len(), is_noise(piece)));
    let mut at = 0;
    // A run ends where the next piece is of the other sort, the last one at the end of the chunk.
    for (len, noise) in pieces.chain([(0, false)]) {
        if at > begun && (noise != is_stored || len == 0) {
            let run = &chunk[begun..at];
            if is_stored {
                store(run, &mut bytes);
            } else {
                // What lies right before the run: of this chunk, else of the one before.
                let before = if begun == 0 { dictionary } else { self::dictionary(&chunk[..begun]) };
                deflate_run(run, before, level, &mut bytes)?;
            }
            begun = at;
        }
        is_stored = noise;
        at += len;
    }
    Ok(Deflated { bytes, crc })
}

/// Appends a run as deflate blocks that end with a sync flush, or stored where that is shorter.
fn deflate_run(run: &[u8], dictionary: &[u8], level: u32, out: &mut Vec<u8>) -> io::Result<()> {
    let begun = out.len();
    // Never one that was used before: what zlib-rs keeps over a reset has reached the bytes.
    let mut compress = Compress::new(Compression::new(level), false);
    if !dictionary.is_empty() {
        compress.set_dictionary(dictionary).map_err(io::Error::other)?;
    }
    out.reserve(run.len() / 2 + 64);
    loop {
        let rest = &run[compress.total_in() as usize..];
        let status = compress.compress_vec(rest, out, FlushCompress::Sync).map_err(io::Error::other)?;
        // A flush is complete once it leaves room behind.
        if compress.total_in() as usize == run.len() && out.len() < out.capacity() {
            break;
        }
        debug_assert!(status != Status::StreamEnd);
        out.reserve(run.len() / 4 + 64);
    }
    if out.len() - begun >= run.len() {
        out.truncate(begun);
        store(run, out);
    }
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
