//! Losses over tokens and pairs. They are computed in f64 whatever the device computes in: they are small, and decide much.

use rayon::prelude::*;

use super::memory::Buf;
use super::{Cpu, Float, parallel};
use crate::device::{Bounds, PPO_STATS, check};
use crate::error::Result;

/// Where the log-ratio of PPO is clamped.
const LOG_RATIO: f64 = 20.0;

fn store<F: Float>(stats: &mut [F], sums: &[f64]) {
    stats.iter_mut().zip(sums).for_each(|(s, &x)| *s = F::of(x));
}

pub(super) fn ppo_clip<F: Float>(
    dlogprob: &mut Buf<F>,
    stats: &mut Buf<F>,
    logprob: &Buf<F>,
    old: &Buf<F>,
    advantage: &Buf<F>,
    clip: f32,
    norm: f64,
) -> Result<()> {
    let t = check::ppo_clip::<Cpu<F>>(dlogprob, stats, logprob, old, advantage)?;
    let clip = f64::from(clip);
    let mut sums = [0.0; PPO_STATS];
    for i in 0..t {
        let (log_ratio, advantage) = (logprob[i].f64() - old[i].f64(), advantage[i].f64());
        let ratio = log_ratio.clamp(-LOG_RATIO, LOG_RATIO).exp();
        let (plain, clipped) = (ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage);
        let is_clipped = clipped < plain;
        let slope = if is_clipped || log_ratio.abs() > LOG_RATIO { 0.0 } else { -plain };
        dlogprob[i] = F::of(norm * slope);
        let loss = if is_clipped { -clipped } else { -plain };
        let terms = [loss, f64::from(u8::from(is_clipped)), ratio, -log_ratio, ratio - 1.0 - log_ratio];
        sums.iter_mut().zip(terms).for_each(|(s, x)| *s += x);
    }
    store(stats, &sums);
    Ok(())
}

pub(super) fn value_clip<F: Float>(
    dvalue: &mut Buf<F>,
    stats: &mut Buf<F>,
    value: &Buf<F>,
    old: &Buf<F>,
    returns: &Buf<F>,
    clip: f32,
    norm: f64,
) -> Result<()> {
    let t = check::value_clip::<Cpu<F>>(dvalue, stats, value, old, returns)?;
    let clip = f64::from(clip);
    let mut sums = [0.0; 2];
    for i in 0..t {
        let (value, old, returns) = (value[i].f64(), old[i].f64(), returns[i].f64());
        let (moved, error) = (value - old, value - returns);
        // Inside the bounds the two errors are one number; computed twice they would differ by rounding.
        let clipped = if moved.abs() <= clip { error } else { old + moved.clamp(-clip, clip) - returns };
        let is_clipped = clipped * clipped > error * error;
        dvalue[i] = F::of(if is_clipped { 0.0 } else { norm * error });
        sums[0] += 0.5 * (error * error).max(clipped * clipped);
        sums[1] += f64::from(u8::from(is_clipped));
    }
    store(stats, &sums);
    Ok(())
}

pub(super) fn gae<F: Float>(
    advantage: &mut Buf<F>,
    returns: &mut Buf<F>,
    reward: &Buf<F>,
    value: &Buf<F>,
    bounds: &Bounds<Cpu<F>>,
    gamma: f32,
    lambda: f32,
) -> Result<()> {
    check::gae::<Cpu<F>>(advantage, returns, reward, value, bounds)?;
    advantage.fill(F::ZERO);
    returns.fill(F::ZERO);
    let (gamma, lambda) = (f64::from(gamma), f64::from(lambda));
    for sequence in bounds.host.windows(2) {
        let (mut next_value, mut next_advantage) = (0.0, 0.0);
        for i in (sequence[0] as usize..sequence[1] as usize).rev() {
            let here = value[i].f64();
            let delta = reward[i].f64() + gamma * next_value - here;
            next_advantage = delta + gamma * lambda * next_advantage;
            next_value = here;
            advantage[i] = F::of(next_advantage);
            returns[i] = F::of(next_advantage + here);
        }
    }
    Ok(())
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(super) fn bradley_terry<F: Float>(
    dscores: &mut Buf<F>,
    stats: &mut Buf<F>,
    scores: &Buf<F>,
    labels: &Buf<F>,
    norm: f64,
) -> Result<()> {
    check::bradley_terry::<Cpu<F>>(dscores, stats, scores, labels)?;
    let mut sums = [0.0; 2];
    for ((dpair, pair), label) in dscores.chunks_exact_mut(2).zip(scores.chunks_exact(2)).zip(&labels[..]) {
        let (d, label) = (pair[0].f64() - pair[1].f64(), label.f64());
        let slope = norm * (1.0 / (1.0 + (-d).exp()) - label);
        (dpair[0], dpair[1]) = (F::of(slope), F::of(-slope));
        sums[0] += label * softplus(-d) + (1.0 - label) * softplus(d);
        let agrees = (d > 0.0 && label > 0.5) || (d < 0.0 && label < 0.5);
        sums[1] += f64::from(u8::from(agrees));
    }
    store(stats, &sums);
    Ok(())
}

/// The sum of `f` over `x`: blocks in parallel, then the blocks in order.
pub(super) fn sum<F: Float>(x: &[F], f: impl Fn(f64) -> f64 + Sync) -> f64 {
    let blocks: Vec<f64> = x.par_chunks(parallel::GRAIN).map(|x| x.iter().map(|x| f(x.f64())).sum()).collect();
    blocks.into_iter().sum()
}

pub(super) fn moments<F: Float>(x: &Buf<F>, shift: f64) -> (f64, f64) {
    (sum(x, |x| x - shift), sum(x, |x| (x - shift) * (x - shift)))
}

pub(super) fn whiten<F: Float>(x: &mut Buf<F>, mean: f64, rstd: f64) {
    parallel::rows(x, 1, |_, x| x.iter_mut().for_each(|x| *x = F::of((x.f64() - mean) * rstd)));
}
