//! Files with holes, as GNU tar and Go's archive/tar write them: a list of the pieces that are data, and the pieces one after the other.

use std::collections::VecDeque;

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

/// What is wrong with a list.
pub(super) const BROKEN: &str = "a sparse file whose pieces break its size";

/// Pieces more than this are no honest file's.
pub(super) const PIECE_LIMIT: usize = 1 << 20;

/// A larger one is no honest file: to read its zeros would take hours.
const SIZE_LIMIT_BYTES: u64 = 1 << 40;

/// What lies at a place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes of data, no more than asked for.
    Data(usize),
    /// So many zeros that are not stored.
    Hole(usize),
}

/// The pieces of a file from a place on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holes {
    at: u64,
    size_bytes: u64,
    /// Where data begins and ends, in order.
    data: VecDeque<(u64, u64)>,
}

impl Holes {
    /// Of a file of `size_bytes`, from pairs of offset and length whose lengths are `stored_bytes` together. `None` if they contradict each
    /// other.
    pub(super) fn new(pairs: &[(u64, u64)], size_bytes: u64, stored_bytes: u64) -> Option<Self> {
        if size_bytes > SIZE_LIMIT_BYTES {
            return None;
        }
        let (mut data, mut end, mut stored) = (VecDeque::new(), 0, 0_u64);
        for (offset, length) in pairs {
            let begin = std::mem::replace(&mut end, offset.checked_add(*length)?);
            if *offset < begin || end > size_bytes {
                return None;
            }
            stored += length;
            if *length > 0 {
                data.push_back((*offset, end));
            }
        }
        (stored == stored_bytes).then_some(Self { at: 0, size_bytes, data })
    }

    /// The size of the file.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What comes next, of no more than `want` bytes; `None` at the end.
    pub(super) fn next(&mut self, want: usize) -> Option<Piece> {
        let (begin, end) = self.data.front().copied().unwrap_or((self.size_bytes, self.size_bytes));
        let is_data = self.at >= begin && self.at < end;
        let to = if is_data { end } else { begin };
        let len = want.min(usize::try_from(to - self.at).unwrap_or(usize::MAX));
        if to == self.at {
            return None;
        }
        Some(if is_data { Piece::Data(len) } else { Piece::Hole(len) })
    }

    /// Goes on by so many bytes.
    pub(super) fn pass(&mut self, bytes: usize) {
        self.at += bytes as u64;
        if self.data.front().is_some_and(|(_, end)| self.at >= *end) {
            self.data.pop_front();
        }
    }
}

/// Pairs of a header of GNU's own form. More of them may follow in blocks of their own.
pub(super) fn of_header(header: &Header) -> Option<(Vec<(u64, u64)>, u64, bool)> {
    let gnu = header.as_gnu()?;
    Some((pairs(&gnu.sparse)?, gnu.real_size().ok()?, gnu.is_extended()))
}

/// Pairs of a block that follows, and whether one more does.
pub(super) fn of_block(bytes: &[u8; 512]) -> Option<(Vec<(u64, u64)>, bool)> {
    let mut block = GnuExtSparseHeader::new();
    block.as_mut_bytes().copy_from_slice(bytes);
    Some((pairs(block.sparse())?, block.is_extended()))
}

fn pairs(headers: &[GnuSparseHeader]) -> Option<Vec<(u64, u64)>> {
    headers.iter().filter(|header| !header.is_empty()).map(|header| Some((header.offset().ok()?, header.length().ok()?))).collect()
}

/// Numbers, parted by commas as in the value of an extended header.
pub(super) fn of_text(text: &[u8]) -> Option<Vec<(u64, u64)>> {
    let numbers = std::str::from_utf8(text).ok()?.split(',').filter(|number| !number.is_empty());
    in_pairs(&numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?)
}

/// The list that stands before the data: a count, then that many pairs, each number on a line. `line` gives one.
pub(super) fn of_lines<E>(mut line: impl FnMut() -> Result<Option<u64>, E>) -> Result<Option<Vec<(u64, u64)>>, E> {
    let Some(count) = line()?.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= PIECE_LIMIT) else { return Ok(None) };
    let mut numbers = Vec::new();
    for _ in 0..2 * count {
        let Some(number) = line()? else { return Ok(None) };
        numbers.push(number);
    }
    Ok(in_pairs(&numbers))
}

fn in_pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_must_fit() {
        let mut holes = Holes::new(&[(10, 5), (15, 0), (20, 3), (30, 0)], 30, 8).expect("they fit");
        let mut found = Vec::new();
        while let Some(piece) = holes.next(4) {
            found.push(piece);
            let (Piece::Data(bytes) | Piece::Hole(bytes)) = piece;
            holes.pass(bytes);
        }
        let (data, hole) = (Piece::Data, Piece::Hole);
        assert_eq!(found, [hole(4), hole(4), hole(2), data(4), data(1), hole(4), hole(1), data(3), hole(4), hole(3)]);
        assert_eq!(Holes::new(&[], 0, 0).expect("empty").next(1), None);
        for (pairs, size, stored) in [
            (&[(0, 5)][..], 4, 5),
            (&[(0, 5)], 9, 4),
            (&[(5, 2), (0, 1)], 9, 3),
            (&[(0, 5), (4, 1)], 9, 6),
            (&[(u64::MAX, 2)], 9, 2),
            (&[], 1 << 41, 0),
        ] {
            assert_eq!(Holes::new(pairs, size, stored), None, "{pairs:?} in {size}");
        }
    }
}
