//! Packing without padding, on the host: which records make a step, in an order given by a seed, and which tokens of a packed
//! batch are trained. The position to resume from is the step's number; nothing else is remembered.

use crate::prompt::Example;
use crate::rng::Rng;

/// The tokens of a packed batch that are predicted: row `rows[i]` predicts `targets[i]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextTokens {
    /// Indices into the packed tokens.
    pub rows: Vec<u32>,
    /// The token that follows.
    pub targets: Vec<u32>,
}

impl NextTokens {
    /// Those that the masks of packed examples name.
    pub fn masked<'a>(examples: impl IntoIterator<Item = &'a Example>) -> NextTokens {
        let mut next = NextTokens::default();
        let mut start = 0;
        for example in examples {
            for (i, _) in example.mask.iter().enumerate().skip(1).filter(|(_, trained)| **trained) {
                next.rows.push(start + i as u32 - 1);
                next.targets.push(example.tokens[i]);
            }
            start += example.tokens.len() as u32;
        }
        next
    }

    /// Every token after the first `skip[s]` (at least 1) of each packed sequence.
    pub fn after<'a>(sequences: impl IntoIterator<Item = (&'a [u32], usize)>) -> NextTokens {
        let mut next = NextTokens::default();
        let mut start = 0;
        for (sequence, skip) in sequences {
            for (i, token) in sequence.iter().enumerate().skip(skip.max(1)) {
                next.rows.push(start + i as u32 - 1);
                next.targets.push(*token);
            }
            start += sequence.len() as u32;
        }
        next
    }
}

/// Which records make which step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Records.
    pub count: usize,
    /// Records of a micro-batch.
    pub per_micro: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Passes over the records.
    pub epochs: usize,
    /// The seed of each epoch's order.
    pub seed: u64,
    /// Whether epochs are shuffled; otherwise the order of the records is kept.
    pub shuffle: bool,
}

impl Order {
    /// Steps of one epoch; the last may be short.
    pub fn steps_per_epoch(&self) -> usize {
        self.count.div_ceil(self.per_micro * self.accumulation)
    }

    /// Steps of all epochs.
    pub fn steps(&self) -> usize {
        self.epochs * self.steps_per_epoch()
    }

    /// The order of an epoch, from 0.
    pub fn epoch(&self, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.count).collect();
        if self.shuffle {
            Rng::new(self.seed, "order", epoch as u64).shuffle(&mut order);
        }
        order
    }

    /// The micro-batches of a step, from 0, as indices of records.
    pub fn step(&self, step: usize) -> Vec<Vec<usize>> {
        let order = self.epoch(step / self.steps_per_epoch());
        let per_step = self.per_micro * self.accumulation;
        let start = step % self.steps_per_epoch() * per_step;
        let end = (start + per_step).min(self.count);
        order[start..end].chunks(self.per_micro).map(<[usize]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_once_an_epoch_and_steps_are_addressed_by_number() {
        let order = Order { count: 11, per_micro: 2, accumulation: 2, epochs: 3, seed: 5, shuffle: true };
        assert_eq!((order.steps_per_epoch(), order.steps()), (3, 9));
        for epoch in 0..3 {
            let mut seen: Vec<usize> = (0..3).flat_map(|s| order.step(epoch * 3 + s)).flatten().collect();
            assert_eq!(order.step(epoch * 3 + 2), vec![seen[8..10].to_vec(), seen[10..].to_vec()]);
            seen.sort_unstable();
            assert_eq!(seen, (0..11).collect::<Vec<_>>());
        }
        assert_ne!(order.epoch(0), order.epoch(1));
        let kept = Order { shuffle: false, ..order };
        assert_eq!(kept.step(4), vec![vec![4, 5], vec![6, 7]]);
    }

    #[test]
    fn targets_follow_their_rows_and_stay_inside_their_sequence() {
        let example = |tokens: &[u32], mask: &[bool]| Example { tokens: tokens.into(), mask: mask.into() };
        let pair = [example(&[5, 6, 7], &[false, false, true]), example(&[8, 9], &[true, true])];
        assert_eq!(NextTokens::masked(&pair), NextTokens { rows: vec![1, 3], targets: vec![7, 9] });
        let all = NextTokens::after([(&[5, 6, 7][..], 2), (&[][..], 0), (&[8, 9][..], 0)]);
        assert_eq!(all, NextTokens { rows: vec![1, 3], targets: vec![7, 9] });
    }
}
