//! Launches of kernels/decode.cu.

use super::attention::{score_scale, supported};
use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel, scratch};
use crate::device::{Device, Heads};
use crate::error::Result;

pub(super) fn attention_decode<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    qkv: &Buf<A>,
    k: &Buf<A>,
    v: &Buf<A>,
    slots: &Buf<u32>,
    lengths: &Buf<u32>,
    heads: Heads,
    capacity: usize,
) -> Result<()> {
    let count = check::attention_decode::<Cuda<A>>(out, qkv, k, v, slots, lengths, heads, capacity)?;
    supported("attention_decode", heads)?;
    let batch = slots.len;
    let splits = scratch::decode_splits(capacity);
    let mut partial = cuda.empty::<f32>(scratch::decode_partial(batch, heads.q, heads.dim, capacity))?;
    let grid = Grid::xyz(splits, if heads.q == 0 { 0 } else { heads.kv }, batch);
    let scale = score_scale(heads);
    let [b, count, q, kv, dim, capacity, parts] =
        [batch, count, heads.q, heads.kv, heads.dim, capacity, splits].map(|x| x as i32);
    cuda.with_fault(|fault| {
        kernel::attention_decode(
            cuda,
            grid,
            out,
            &mut partial,
            qkv,
            k,
            v,
            slots,
            lengths,
            fault,
            b,
            count,
            q,
            kv,
            dim,
            capacity,
            parts,
            scale,
        )
    })?;
    let grid = Grid::x(batch * heads.q);
    kernel::attention_decode_combine(cuda, grid, out, &partial, slots, lengths, b, count, q, dim, capacity, parts)
}
