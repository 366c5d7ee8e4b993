//! What a step made the last time, where it makes the same once more.
//!
//! Times that a step makes are no part of its content, so what follows hits. Nor need the layer be kept and pushed once more, if that of the
//! last time stands for it. But a later command may compare times, as make does: so none that were in an order may come to be in the
//! other, neither within the layer nor between the layer and what lies below it.

use shale_cache::{ContentId, LayerId, StepRecord};

use super::{BuildExecutor, StepError};
use crate::solve::Step;
use crate::solve::snapshot::LayerRef;
use crate::tree::entry::Mtime;
use crate::tree::index::Index;

/// The layer that stands for one of that content, if it is still there in a form that the build needs. Whatever fails on the way to it leaves
/// the new one.
pub(super) fn layer(executor: &BuildExecutor<'_>, step: &Step<'_>, content: &ContentId, index: &Index) -> Option<LayerId> {
    let former = step.former.as_ref().filter(|former| former.content == *content)?;
    stands_for(executor, step, former, index).is_ok_and(|stands| stands).then_some(former.layer)
}

fn stands_for(executor: &BuildExecutor<'_>, step: &Step<'_>, former: &StepRecord, index: &Index) -> Result<bool, StepError> {
    let layers = executor.store.layers();
    if !layers.has_index(&former.layer)? {
        return Ok(false);
    }
    let own = LayerRef::Own { layer: former.layer, created: (former.created_secs, former.created_nanos) };
    let is_unpacked = executor.forms.fs_if_there(&own)?.is_some();
    if !is_unpacked && (executor.is_run_upon(step.id) || layers.any_packed(&former.layer)?.is_none()) {
        return Ok(false);
    }
    let times: Vec<(Mtime, Mtime)> = executor.forms.index(&own)?.mtimes().zip(index.mtimes()).collect();
    let Some((first, last)) = moved(&times) else { return Ok(true) };
    if !keep_order(times) {
        return Ok(false);
    }
    // What was changed last lies on top.
    for below in step.parent.layers.iter().rev() {
        if executor.forms.index(below)?.mtimes().any(|mtime| first < mtime && mtime <= last) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first and the last of all times that are not the same before and after.
fn moved(times: &[(Mtime, Mtime)]) -> Option<(Mtime, Mtime)> {
    let ends = times.iter().filter(|(old, new)| old != new).map(|(old, new)| (*old.min(new), *old.max(new)));
    ends.reduce(|(first, last), (from, to)| (first.min(from), last.max(to)))
}

/// Whether no two times, before and after, have changed places. Such that were the same may differ, and the other way round: a file system's
/// clock is coarse.
fn keep_order(mut times: Vec<(Mtime, Mtime)>) -> bool {
    times.sort_unstable();
    let mut latest = None;
    times.chunk_by(|a, b| a.0 == b.0).all(|same| {
        let is_after = latest.is_none_or(|latest| latest <= same[0].1);
        latest = latest.max(same.last().map(|(_, new)| *new));
        is_after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(pairs: &[(i64, i64)]) -> Vec<(Mtime, Mtime)> {
        let at = |secs| Mtime { secs, nanos: 0 };
        pairs.iter().map(|(old, new)| (at(*old), at(*new))).collect()
    }

    #[test]
    fn times_that_change_places_are_told_from_such_that_move_together() {
        for (pairs, is_kept) in [
            (&[][..], true),
            (&[(1, 11), (2, 12), (3, 13)], true),
            (&[(3, 13), (1, 11), (2, 12)], true),
            // Told apart by one clock only.
            (&[(1, 11), (1, 12)], true),
            (&[(1, 11), (2, 11)], true),
            (&[(1, 12), (2, 11)], false),
            (&[(1, 11), (2, 13), (3, 12)], false),
            // One of an hour that the command gave it.
            (&[(1, 11), (5, 5)], false),
            (&[(1, 11), (50, 50)], true),
        ] {
            assert_eq!(keep_order(times(pairs)), is_kept, "{pairs:?}");
        }
        let at = |secs| Mtime { secs, nanos: 0 };
        assert_eq!(moved(&times(&[(5, 5), (3, 9), (2, 8)])), Some((at(2), at(9))));
        assert_eq!(moved(&times(&[(5, 5)])), None);
    }
}
