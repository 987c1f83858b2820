//! Launches of kernels/losses.cu.

use super::driver::Grid;
use super::rows::flat;
use super::{Act, Buf, Cuda, check, kernel, scratch};
use crate::device::{Bounds, Device};
use crate::error::Result;

pub(super) fn ppo_clip<A: Act>(
    cuda: &Cuda<A>,
    dlogprob: &mut Buf<f32>,
    stats: &mut Buf<f32>,
    logprob: &Buf<f32>,
    old: &Buf<f32>,
    advantage: &Buf<f32>,
    clip: f32,
    norm: f64,
) -> Result<()> {
    let t = check::ppo_clip::<Cuda<A>>(dlogprob, stats, logprob, old, advantage)?;
    kernel::ppo_clip(cuda, Grid::x(1), dlogprob, stats, logprob, old, advantage, t as i32, clip, norm)
}

pub(super) fn value_clip<A: Act>(
    cuda: &Cuda<A>,
    dvalue: &mut Buf<f32>,
    stats: &mut Buf<f32>,
    value: &Buf<f32>,
    old: &Buf<f32>,
    returns: &Buf<f32>,
    clip: f32,
    norm: f64,
) -> Result<()> {
    let t = check::value_clip::<Cuda<A>>(dvalue, stats, value, old, returns)?;
    kernel::value_clip(cuda, Grid::x(1), dvalue, stats, value, old, returns, t as i32, clip, norm)
}

pub(super) fn gae<A: Act>(
    cuda: &Cuda<A>,
    advantage: &mut Buf<f32>,
    returns: &mut Buf<f32>,
    reward: &Buf<f32>,
    value: &Buf<f32>,
    bounds: &Bounds<Cuda<A>>,
    gamma: f32,
    lambda: f32,
) -> Result<()> {
    let t = check::gae::<Cuda<A>>(advantage, returns, reward, value, bounds)?;
    let sequences = bounds.count();
    kernel::gae(
        cuda,
        Grid::x(sequences + 1),
        advantage,
        returns,
        reward,
        value,
        &bounds.device,
        sequences as i32,
        t as i32,
        gamma,
        lambda,
    )
}

pub(super) fn bradley_terry<A: Act>(
    cuda: &Cuda<A>,
    dscores: &mut Buf<f32>,
    stats: &mut Buf<f32>,
    scores: &Buf<f32>,
    labels: &Buf<f32>,
    norm: f64,
) -> Result<()> {
    let pairs = check::bradley_terry::<Cuda<A>>(dscores, stats, scores, labels)?;
    kernel::bradley_terry(cuda, Grid::x(1), dscores, stats, scores, labels, pairs as i32, norm)
}

pub(super) fn moments<A: Act>(cuda: &Cuda<A>, x: &Buf<f32>, shift: f64) -> Result<(f64, f64)> {
    let mut out = cuda.empty::<f64>(scratch::MOMENTS)?;
    kernel::moments(cuda, Grid::x(1), &mut out, x, x.len as i32, shift)?;
    let sums = cuda.download(&out)?;
    Ok((sums[0], sums[1]))
}

pub(super) fn whiten<A: Act>(cuda: &Cuda<A>, x: &mut Buf<f32>, mean: f64, rstd: f64) -> Result<()> {
    let n = x.len;
    kernel::whiten(cuda, flat(n), x, n as i32, mean, rstd)
}
