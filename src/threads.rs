//! Work that several threads take pieces of.

use std::panic::resume_unwind;
use std::thread::{self, Builder};

/// Does `work` on this thread and on up to `count - 1` others, and returns what each of them gave. Where the machine has no more threads
/// to give, those that there are do all of it.
pub(crate) fn in_parallel<T: Send>(count: usize, work: impl Fn() -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..count).map_while(|_| Builder::new().spawn_scoped(scope, &work).ok()).collect();
        let own = work();
        let ended = others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.chain([own]).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_piece_is_taken_once_by_however_many() {
        for count in [0, 1, 2, 9] {
            let next = AtomicUsize::new(0);
            let take = || std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < 100)).sum::<usize>();
            let sums = in_parallel(count, take);
            assert_eq!((sums.len(), sums.iter().sum::<usize>()), (count.max(1), 4950));
        }
    }
}
