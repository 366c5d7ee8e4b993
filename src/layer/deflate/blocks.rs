//! Walks through the blocks of a raw deflate stream (RFC 1951) without decompressing it: to find where its last block begins, and the
//! bit at which it ends.

/// The last block of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastBlock {
    /// Where it begins: the bit that says that it is the last one.
    pub(super) begins_bit: usize,
    /// The first bit behind it.
    pub(super) ends_bit: usize,
}

/// Finds the last block. `None` if the bytes are no deflate stream.
pub(super) fn last_block(stream: &[u8]) -> Option<LastBlock> {
    let mut bits = Bits { bytes: stream, at: 0 };
    loop {
        let begins_bit = bits.at;
        let is_last = bits.take(1) == 1;
        match bits.take(2) {
            0 => bits.skip_stored()?,
            1 => bits.skip_coded(&Codes::fixed()?)?,
            2 => {
                let codes = bits.codes()?;
                bits.skip_coded(&codes)?;
            }
            _ => return None,
        }
        if bits.at > 8 * stream.len() {
            return None;
        }
        if is_last {
            return Some(LastBlock { begins_bit, ends_bit: bits.at });
        }
    }
}

/// Bits from the lowest of each byte on. Behind the end there are zeros.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next 56 bits or more.
    fn peek(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let eight = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut eight = [0; 8];
            eight[..rest.len()].copy_from_slice(rest);
            eight
        });
        u64::from_le_bytes(eight) >> (self.at % 8)
    }

    fn take(&mut self, count: usize) -> usize {
        let bits = self.peek() & ((1 << count) - 1);
        self.at += count;
        bits as usize
    }

    /// A stored block: from the next byte on its length, the same inverted, its bytes.
    fn skip_stored(&mut self) -> Option<()> {
        self.at = self.at.next_multiple_of(8);
        let (length, inverted) = (self.take(16), self.take(16));
        self.at += 8 * length;
        (length ^ inverted == 0xffff).then_some(())
    }

    /// What a block holds, to its end. Whatever a code stands for, only its bits count.
    fn skip_coded(&mut self, codes: &Codes) -> Option<()> {
        while self.at <= 8 * self.bytes.len() {
            let next = self.peek();
            let code = codes.literals[next as usize & (codes.literals.len() - 1)];
            self.at += usize::from(code.bits);
            match code.kind {
                Kind::Literal => {}
                Kind::Length => {
                    let distance = codes.distances[(next >> code.bits) as usize & (codes.distances.len() - 1)];
                    self.at += usize::from(distance?);
                }
                Kind::End => return Some(()),
                Kind::None => return None,
            }
        }
        None
    }

    /// The codes that a block brings with it.
    fn codes(&mut self) -> Option<Codes> {
        let (literals, distances, count) = (self.take(5) + 257, self.take(5) + 1, self.take(4) + 4);
        let mut order = [0; 19];
        for place in &LENGTH_ORDER[..count] {
            order[*place] = self.take(3) as u8;
        }
        let symbols = table(&order, None, Some)?;
        let mut lengths = Vec::with_capacity(literals + distances);
        while lengths.len() < literals + distances {
            let symbol = symbols[self.peek() as usize & (symbols.len() - 1)]?;
            self.at += usize::from(order[symbol]);
            let (length, times) = match symbol {
                16 => (*lengths.last()?, 3 + self.take(2)),
                17 => (0, 3 + self.take(3)),
                18 => (0, 11 + self.take(7)),
                length => (length as u8, 1),
            };
            lengths.resize(lengths.len() + times, length);
        }
        Codes::new(lengths.get(..literals)?, lengths.get(literals..literals + distances)?)
    }
}

/// In which order a block gives the lengths of the codes of lengths.
const LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// What bits begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No code.
    None,
    Literal,
    /// A match: a distance follows.
    Length,
    /// The end of the block.
    End,
}

/// A code of a literal or a length.
#[derive(Clone, Copy, Debug)]
struct Code {
    /// Its bits and its extra bits.
    bits: u8,
    kind: Kind,
}

/// By the next bits, as many as the longest code has.
struct Codes {
    literals: Vec<Code>,
    /// Bits and extra bits of the distance.
    distances: Vec<Option<u8>>,
}

impl Codes {
    fn new(literals: &[u8], distances: &[u8]) -> Option<Self> {
        let literal = |symbol: usize| {
            let (extra, kind) = match symbol {
                0..=255 => (0, Kind::Literal),
                256 => (0, Kind::End),
                257..=264 | 285 => (0, Kind::Length),
                // Four symbols have one extra bit, the next four two, up to five.
                _ => ((symbol - 261) / 4, Kind::Length),
            };
            Code { bits: literals[symbol] + extra as u8, kind }
        };
        // The first four have none, then two have one, the next two two.
        let distance = |symbol: usize| Some(distances[symbol] + (symbol / 2).saturating_sub(1) as u8);
        let nothing = Code { bits: 0, kind: Kind::None };
        Some(Self { literals: table(literals, nothing, literal)?, distances: table(distances, None, distance)? })
    }

    /// The codes of blocks that bring none.
    fn fixed() -> Option<Self> {
        let literals: Vec<u8> = [(8, 144), (9, 112), (7, 24), (8, 8)].into_iter().flat_map(|(length, n)| vec![length; n]).collect();
        Self::new(&literals, &[5; 32])
    }
}

/// What a canonical Huffman code stands for, by the next bits: from the length of each symbol's code and what the symbol means. `None`
/// for lengths that no code has.
fn table<T: Copy>(lengths: &[u8], nothing: T, meaning: impl Fn(usize) -> T) -> Option<Vec<T>> {
    let longest = lengths.iter().copied().max().filter(|longest| *longest <= 15)?;
    let mut table = vec![nothing; 1 << longest];
    let mut next = 0_usize;
    for length in 1..=longest {
        next <<= 1;
        for symbol in (0..lengths.len()).filter(|symbol| lengths[*symbol] == length) {
            if next >= 1 << length {
                return None;
            }
            // Codes stand in the stream with their highest bit first.
            let first = next.reverse_bits() >> (usize::BITS - u32::from(length));
            let place = meaning(symbol);
            table.iter_mut().skip(first).step_by(1 << length).for_each(|at| *at = place);
            next += 1;
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::DeflateEncoder;
    use libdeflater::{CompressionLvl, Compressor};
    use proptest::prelude::*;

    use super::*;

    fn by_libdeflate(bytes: &[u8], level: i32) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::new(level).expect("a level"));
        let mut out = vec![0; compressor.deflate_compress_bound(bytes.len())];
        let length = compressor.deflate_compress(bytes, &mut out).expect("the bound is enough");
        out.truncate(length);
        out
    }

    fn by_zlib(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    /// Words of few letters with stretches of chance in between: blocks of every kind.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            (prop::collection::vec(any::<u8>(), 0..300), 1..2_usize),
            (prop::collection::vec(b'a'..b'g', 0..300), 1..200_usize),
            (prop::collection::vec(Just(b'x'), 0..300), 1..200_usize),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.into_iter().flat_map(|(piece, times)| piece.repeat(times)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_end_of_a_stream_is_found(bytes in bytes(), level in 0..=9_u32) {
            for stream in [by_libdeflate(&bytes, level as i32), by_zlib(&bytes, level)] {
                let last = last_block(&stream).expect("a stream");
                prop_assert_eq!(last.ends_bit.div_ceil(8), stream.len());
                prop_assert_eq!(stream[last.begins_bit / 8] >> (last.begins_bit % 8) & 1, 1);
                prop_assert_eq!(last_block(&stream[..stream.len() - 1]), None);
            }
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Some(last) = last_block(&bytes) {
                prop_assert!(last.begins_bit < last.ends_bit && last.ends_bit <= 8 * bytes.len());
            }
        }
    }
}
