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

pub(super) fn rope_cached<A: Act>(
    cuda: &Cuda<A>,
    qkv: &mut Buf<A>,
    k: &mut Buf<A>,
    v: &mut Buf<A>,
    slots: &Buf<u32>,
    positions: &Buf<u32>,
    heads: Heads,
    theta: f64,
    capacity: usize,
) -> Result<()> {
    let count = check::rope_cached::<Cuda<A>>(qkv, k, v, slots, positions, heads, capacity)?;
    let frequencies = cuda.frequencies(heads.dim, theta)?;
    let (grid, frequencies) = (Grid::x(slots.len), &*frequencies);
    let [t, count, q, kv, dim, capacity] = [slots.len, count, heads.q, heads.kv, heads.dim, capacity].map(|x| x as i32);
    cuda.with_fault(|fault| {
        kernel::rope_cached(cuda, grid, qkv, k, v, positions, slots, frequencies, fault, t, count, q, kv, dim, capacity)
    })
}
