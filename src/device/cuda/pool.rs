//! One range of memory, lent in pieces. Everything runs in one stream, so a piece may be lent again as soon as it is given back: what
//! used it was launched earlier. What runs beside that stream, collectives, has to be waited for by the stream before its buffers are
//! dropped. Knows nothing of the GPU: it hands out offsets.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Pieces are whole multiples of this many bytes, and start at one: what the widest accesses and cuBLASLt's kernels like.
pub(super) const GRAIN: usize = 512;

/// Which parts of `0..size` are lent. The smallest free piece that is large enough is lent (best fit), neighbours that come free
/// become one again.
#[derive(Debug)]
pub(in crate::device) struct Pool {
    size: usize,
    /// Free pieces: offset and size.
    free: BTreeMap<usize, usize>,
    /// The same as (size, offset).
    by_size: BTreeSet<(usize, usize)>,
    lent: HashMap<usize, usize>,
}

impl Pool {
    pub(in crate::device) fn new(size: usize) -> Pool {
        let mut pool = Pool { size, free: BTreeMap::new(), by_size: BTreeSet::new(), lent: HashMap::new() };
        pool.insert(0, size - size % GRAIN);
        pool
    }

    fn insert(&mut self, at: usize, size: usize) {
        if size > 0 {
            self.free.insert(at, size);
            self.by_size.insert((size, at));
        }
    }

    fn remove(&mut self, at: usize, size: usize) {
        self.free.remove(&at);
        self.by_size.remove(&(size, at));
    }

    /// The offset of `bytes`, or none where no piece is large enough.
    pub(in crate::device) fn lend(&mut self, bytes: usize) -> Option<usize> {
        let want = bytes.max(1).next_multiple_of(GRAIN);
        let &(size, at) = self.by_size.range((want, 0)..).next()?;
        self.remove(at, size);
        self.insert(at + want, size - want);
        self.lent.insert(at, want);
        Some(at)
    }

    /// Takes a piece back. `at` is what [`Pool::lend`] gave.
    pub(in crate::device) fn take_back(&mut self, at: usize) {
        let mut size = self.lent.remove(&at).expect("a piece is given back once");
        let mut start = at;
        if let Some((&before, &length)) = self.free.range(..at).next_back()
            && before + length == at
        {
            self.remove(before, length);
            (start, size) = (before, size + length);
        }
        if let Some(&length) = self.free.get(&(start + size)) {
            self.remove(start + size, length);
            size += length;
        }
        self.insert(start, size);
    }

    /// All bytes, those lent, and the largest free piece.
    pub(super) fn state(&self) -> (usize, usize, usize) {
        (self.size, self.lent.values().sum(), self.by_size.last().map_or(0, |(size, _)| *size))
    }
}

/// More than any GPU has.
const ENDLESS: usize = 1 << 50;

/// Where the buffers of a piece of work would lie in a range of their own, and how long that range has to be. The same buffers in the
/// same order lie at the same places each time.
#[derive(Debug)]
pub(in crate::device) struct Layout {
    pool: Pool,
    span: usize,
}

impl Layout {
    pub(in crate::device) fn new() -> Layout {
        Layout { pool: Pool::new(ENDLESS), span: 0 }
    }

    /// The offset of `bytes`.
    pub(in crate::device) fn lend(&mut self, bytes: usize) -> usize {
        let at = self.pool.lend(bytes).expect("the range has no end");
        self.span = self.span.max(at + bytes);
        at
    }

    /// Takes back what [`Layout::lend`] gave.
    pub(in crate::device) fn take_back(&mut self, at: usize) {
        self.pool.take_back(at);
    }

    /// Bytes up to the end of the last buffer that ever was there.
    pub(in crate::device) fn span(&self) -> usize {
        self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_piece_that_fits_is_lent_and_neighbours_join() {
        let mut pool = Pool::new(10 * GRAIN);
        let [a, b, c, d] = [3, 1, 2, 1].map(|grains| pool.lend(grains * GRAIN).unwrap());
        assert_eq!([a, b, c, d], [0, 3 * GRAIN, 4 * GRAIN, 6 * GRAIN]);
        pool.take_back(a);
        pool.take_back(c);
        // Free: 3 grains at 0, 2 at 4, 3 at 7. Two grains fit exactly at 4.
        assert_eq!(pool.lend(2 * GRAIN - 1), Some(4 * GRAIN));
        pool.take_back(4 * GRAIN);
        pool.take_back(b);
        // 0..6 is one piece again.
        assert_eq!(pool.state(), (10 * GRAIN, GRAIN, 6 * GRAIN));
        assert_eq!(pool.lend(6 * GRAIN), Some(0));
        assert_eq!(pool.lend(4 * GRAIN), None);
        pool.take_back(d);
        assert_eq!(pool.lend(4 * GRAIN), Some(6 * GRAIN));
        assert_eq!(pool.state(), (10 * GRAIN, 10 * GRAIN, 0));
    }

    #[test]
    fn pieces_never_overlap_and_all_comes_back() {
        let mut rng = crate::rng::Rng::new(1, "pool", 0);
        let mut pool = Pool::new(1000 * GRAIN + 7);
        let mut held: Vec<(usize, usize)> = Vec::new();
        for _ in 0..5000 {
            if rng.chance(0.55) {
                let bytes = 1 + rng.below(60 * GRAIN);
                if let Some(at) = pool.lend(bytes) {
                    assert!(at.is_multiple_of(GRAIN) && at + bytes <= 1000 * GRAIN);
                    assert!(held.iter().all(|&(other, size)| at + bytes <= other || other + size <= at));
                    held.push((at, bytes));
                }
            } else if !held.is_empty() {
                let (at, _) = held.swap_remove(rng.below(held.len()));
                pool.take_back(at);
            }
        }
        held.into_iter().for_each(|(at, _)| pool.take_back(at));
        assert_eq!(pool.state(), (1000 * GRAIN + 7, 0, 1000 * GRAIN));
    }
}
