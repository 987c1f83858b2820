//! Launches of kernels/sample.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::Sampling;
use crate::error::Result;

pub(super) fn sample<A: Act>(
    cuda: &Cuda<A>,
    ids: &mut Buf<u32>,
    logprob: &mut Buf<f32>,
    logits: &Buf<f32>,
    draws: &Buf<f32>,
    sampling: Sampling,
    v: usize,
) -> Result<()> {
    let b = check::sample::<Cuda<A>>(ids, logprob, logits, draws, v)?;
    let Sampling { temperature, top_k, top_p } = sampling;
    // A cut to more tokens than there are is no cut.
    let top_k = if top_k < v { top_k as i32 } else { 0 };
    kernel::sample(cuda, Grid::x(b), ids, logprob, logits, draws, b as i32, v as i32, temperature, top_k, top_p)
}
