//! Choosing the next token.

use std::cmp::Ordering;

use rayon::prelude::*;

use super::memory::{Buf, check_slots};
use super::simd::{dispatch, map_sum, max};
use super::{Cpu, Float};
use crate::device::{Cursor, NO_SLOT, Sampling, check, draw};
use crate::error::Result;

pub(super) fn sample<F: Float>(
    ids: &mut Buf<u32>,
    logprob: &mut Buf<F>,
    logits: &Buf<F>,
    draws: &Buf<f32>,
    sampling: Sampling,
    v: usize,
) -> Result<()> {
    check::sample::<Cpu<F>>(ids, logprob, logits, draws, v)?;
    let rows = logits.par_chunks_exact(v.max(1)).zip(&draws[..]);
    ids.par_iter_mut().zip(&mut logprob[..]).zip(rows).for_each(|((id, logprob), (logits, &draw))| {
        (*id, *logprob) = one(logits, draw, sampling);
    });
    Ok(())
}

pub(super) fn advance<F: Float>(last: &mut Buf<u32>, cursor: &mut Cursor<Cpu<F>>, ids: &Buf<u32>) -> Result<()> {
    let b = check::advance::<Cpu<F>>(cursor, ids)?;
    check_slots("advance: slots", &cursor.slots, last.len())?;
    for row in 0..b {
        if cursor.slots[row] != NO_SLOT {
            last[cursor.slots[row] as usize] = ids[row];
        }
        cursor.positions[row] += 1;
        cursor.lengths[row] += 1;
        cursor.counts[row] += 1;
        let key = u64::from(cursor.keys[2 * row]) | u64::from(cursor.keys[2 * row + 1]) << 32;
        cursor.draws[row] = draw(key, cursor.counts[row]);
    }
    Ok(())
}

/// A token of one row of logits, and its log-probability.
fn one<F: Float>(logits: &[F], draw: f32, sampling: Sampling) -> (u32, F) {
    let greedy = sampling.temperature <= 0.0;
    let cold = if greedy { F::ONE } else { F::of(1.0 / f64::from(sampling.temperature)) };
    let mut weights = logits.to_vec();
    let (top, sum) = dispatch(
        #[inline(always)]
        || {
            let top = max(logits);
            (top, map_sum(&mut weights, |l| ((l - top) * cold).exp()))
        },
    );
    let id = if greedy {
        logits.iter().position(|&l| l == top).unwrap_or(0)
    } else {
        match kept(logits, &weights, sampling) {
            None => invert(weights.iter().map(|w| w.f64()), draw),
            Some(kept) => kept[invert(kept.iter().map(|&i| weights[i as usize].f64()), draw)] as usize,
        }
    };
    (id as u32, (logits[id] - top) * cold - sum.ln())
}

/// The first index at which the running sum of `weights` passes `draw` of their total.
fn invert(weights: impl Iterator<Item = f64> + Clone, draw: f32) -> usize {
    let aim = f64::from(draw) * weights.clone().sum::<f64>();
    let mut sum = 0.0;
    weights
        .map(|w| {
            sum += w;
            sum
        })
        .position(|sum| sum > aim)
        .unwrap_or(0)
}

/// Ids that top-k, then top-p leave, in order; `None` where they leave all. Among equal logits the lower id is the more likely.
fn kept<F: Float>(logits: &[F], weights: &[F], sampling: Sampling) -> Option<Vec<u32>> {
    let v = logits.len();
    let (cut_k, cut_p) = ((1..v).contains(&sampling.top_k), sampling.top_p < 1.0);
    if !cut_k && !cut_p {
        return None;
    }
    let likelier = |&a: &u32, &b: &u32| {
        let by_logit = logits[b as usize].partial_cmp(&logits[a as usize]);
        by_logit.unwrap_or(Ordering::Equal).then(a.cmp(&b))
    };
    let weight = |&i: &u32| weights[i as usize].f64();
    let mut ids: Vec<u32> = (0..v as u32).collect();
    if cut_k {
        ids.select_nth_unstable_by(sampling.top_k - 1, likelier);
        ids.truncate(sampling.top_k);
        ids.sort_unstable();
    }
    if cut_p {
        let total: f64 = ids.iter().map(weight).sum();
        // Tokens below (1 - p) / v weigh less than 1 - p together, so the set never needs them: most of a vocabulary is not
        // sorted. Half of that leaves room for rounding.
        let floor = 0.5 * (1.0 - f64::from(sampling.top_p)) * total / v as f64;
        ids.retain(|i| weight(i) >= floor);
        ids.sort_unstable_by(likelier);
        let aim = f64::from(sampling.top_p) * total;
        let mut sum = 0.0;
        let reached = ids.iter().position(|i| {
            sum += weight(i);
            sum >= aim
        });
        ids.truncate(reached.map_or(ids.len(), |last| last + 1));
        ids.sort_unstable();
    }
    Some(ids)
}
