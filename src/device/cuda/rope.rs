//! Launches of kernels/rope.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::Heads;
use crate::error::Result;

pub(super) fn rope<A: Act>(
    cuda: &Cuda<A>,
    qkv: &mut Buf<A>,
    positions: &Buf<u32>,
    heads: Heads,
    theta: f64,
    inverse: bool,
) -> Result<()> {
    check::rope::<Cuda<A>>(qkv, positions, heads)?;
    let (t, turning, width) = (positions.len, heads.q + heads.kv, heads.qkv_width());
    let frequencies = cuda.frequencies(heads.dim, theta)?;
    let sign = if inverse { -1.0 } else { 1.0 };
    let extents = (t as i32, turning as i32, width as i32, heads.dim as i32);
    kernel::rope(cuda, Grid::x(t), qkv, positions, &*frequencies, extents.0, extents.1, extents.2, extents.3, sign)
}
