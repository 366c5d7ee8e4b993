//! Which layers of a high stack are merged, by how many entries each of them has.
//!
//! A step pays for every directory that its root is stacked of: the kernel opens and clones a mount of each, and looks into each for every
//! name. To merge layers costs a link for every entry, once. So blocks of light layers are merged as soon as they are whole, and
//! blocks of such blocks again: the height grows with the logarithm of the number of steps. Heavy layers stay until the stack would
//! be too high.
//!
//! A block is named by its place and content alone, so steps and builds that share the bottom of a stack share its blocks.

use std::ops::Range;

/// Layers in a block, and blocks in a larger one.
pub(super) const FAN: usize = 16;
/// Stacks up to this height are mounted as they are: what merging takes would not come back.
pub(super) const LOW: usize = 64;
/// Blocks of at most so many entries are light.
const LIGHT_ENTRIES: usize = 1024;
/// The most that is mounted, unless there are tens of thousands of layers. Images seldom have so many; the kernel takes 500, older ones
/// about 200.
const HIGHEST: usize = 128;

/// How many layers, counted from the bottom, are looked at for being merged: whole blocks.
pub(super) fn settled(height: usize) -> usize {
    if height > LOW { height / FAN * FAN } else { 0 }
}

/// What a stack of settled layers with so many entries is mounted as, bottom first. A range of more than one layer is a block.
pub(super) fn blocks(entries: &[usize]) -> Vec<Range<usize>> {
    let mut stack = light_blocks(entries);
    let mut height = stack.len();
    for size in sizes(entries.len()) {
        stack = joined(&stack, size, entries.len(), |_, saved| {
            let is_high = height + FAN > HIGHEST;
            height -= if is_high { saved } else { 0 };
            is_high
        });
    }
    stack
}

/// The same with the light layers merged alone, whatever the height.
pub(super) fn light_blocks(entries: &[usize]) -> Vec<Range<usize>> {
    let mut stack: Vec<Range<usize>> = (0..entries.len()).map(|number| number..number + 1).collect();
    for size in sizes(entries.len()) {
        stack = joined(&stack, size, entries.len(), |block, _| entries[block.clone()].iter().sum::<usize>() <= LIGHT_ENTRIES);
    }
    stack
}

/// Sizes of the blocks that a stack can have, the smallest first.
fn sizes(height: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(FAN), |size| size.checked_mul(FAN)).take_while(move |size| *size <= height)
}

/// The stack with the parts of those blocks joined that are wanted, which is asked with the height that it saves.
fn joined(
    stack: &[Range<usize>],
    size: usize,
    height: usize,
    mut is_wanted: impl FnMut(&Range<usize>, usize) -> bool,
) -> Vec<Range<usize>> {
    let mut joined = Vec::new();
    for parts in stack.chunk_by(|below, above| below.start / size == above.start / size) {
        let block = parts[0].start..parts[parts.len() - 1].end;
        // The block at the top may lack layers.
        let is_whole = block.start / size * size + size <= height;
        if parts.len() > 1 && is_whole && is_wanted(&block, parts.len() - 1) {
            joined.push(block);
        } else {
            joined.extend_from_slice(parts);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what holds of every stack; returns its height with the layers that are not settled.
    fn height(entries: &[usize]) -> usize {
        let settled = settled(entries.len());
        let stack = if settled == 0 { Vec::new() } else { blocks(&entries[..settled]) };
        assert!(
            stack.iter().map(|block| block.start).eq([0]
                .into_iter()
                .filter(|_| settled > 0)
                .chain(stack.iter().map(|block| block.end))
                .take(stack.len()))
        );
        assert_eq!(stack.last().map_or(0, |block| block.end), settled);
        for block in &stack {
            assert!(block.len() == 1 || (sizes(settled).any(|size| size == block.len()) && block.start % block.len() == 0), "{block:?}");
        }
        stack.len() + entries.len() - settled
    }

    #[test]
    fn light_layers_make_a_stack_that_hardly_grows() {
        let height = |count| height(&vec![1; count]);
        assert_eq!([1, 64, 65, 100, 255, 256, 1_000, 3_000].map(height), [1, 64, 5, 10, 30, 1, 3 + 14 + 8, 11 + 11 + 8]);
        assert!((65..5_000).step_by(37).all(|count| height(count) <= 64));
    }

    #[test]
    fn heavy_layers_are_merged_only_where_the_stack_is_too_high() {
        let height = |count| height(&vec![LIGHT_ENTRIES; count]);
        assert_eq!([100, 112, 127, 128, 144, 1_792].map(height), [100, 112, 127, 98, 99, 112]);
        assert!((65..20_000).step_by(251).all(|count| height(count) <= HIGHEST));
    }

    #[test]
    fn a_block_is_never_taken_apart() {
        for weigh in [|_| 1, |_| LIGHT_ENTRIES, |n: usize| if n % 100 < 30 { 2_000 } else { 3 }] {
            let entries: Vec<usize> = (0..3_000).map(weigh).collect();
            let mut before: Vec<Range<usize>> = Vec::new();
            for count in (LOW..entries.len()).step_by(FAN) {
                let now = blocks(&entries[..count]);
                let is_kept = |block: &Range<usize>| now.iter().any(|own| own.start <= block.start && block.end <= own.end);
                assert!(before.iter().all(is_kept), "{count}");
                before = now;
            }
        }
    }
}
