//! Launches of kernels/embed.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::error::Result;

pub(super) fn embed_fwd<A: Act>(cuda: &Cuda<A>, out: &mut Buf<A>, table: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
    let v = check::embed_fwd::<Cuda<A>>(out, table, ids, c)?;
    let grid = Grid::xy(ids.len.div_ceil(kernel::EMBED_WARPS as usize), c.div_ceil(kernel::EMBED_COLUMNS as usize));
    cuda.with_fault(|fault| kernel::embed_fwd(cuda, grid, out, table, ids, fault, ids.len as i32, c as i32, v as i32))
}

pub(super) fn embed_bwd<A: Act>(cuda: &Cuda<A>, dtable: &mut Buf<f32>, dout: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
    let v = check::embed_bwd::<Cuda<A>>(dtable, dout, ids, c)?;
    let grid = Grid::xy(ids.len, c.div_ceil(kernel::EMBED_BWD_COLUMNS as usize));
    cuda.with_fault(|fault| kernel::embed_bwd(cuda, grid, dtable, dout, ids, fault, ids.len as i32, c as i32, v as i32))
}
