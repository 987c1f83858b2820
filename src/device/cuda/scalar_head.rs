//! Launches of kernels/scalar_head.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::error::Result;

pub(super) fn scalar_head_fwd<A: Act>(cuda: &Cuda<A>, out: &mut Buf<f32>, x: &Buf<A>, weight: &Buf<A>, c: usize) -> Result<()> {
    check::scalar_head_fwd::<Cuda<A>>(out, x, weight, c)?;
    let t = out.len;
    let grid = Grid::x(t.div_ceil(kernel::SCALAR_HEAD_WARPS as usize));
    kernel::scalar_head_fwd(cuda, grid, out, x, weight, t as i32, c as i32)
}

pub(super) fn scalar_head_bwd<A: Act>(
    cuda: &Cuda<A>,
    dx: &mut Buf<A>,
    dweight: Option<&mut Buf<f32>>,
    dout: &Buf<f32>,
    x: &Buf<A>,
    weight: &Buf<A>,
    c: usize,
) -> Result<()> {
    check::scalar_head_bwd::<Cuda<A>>(dx, dweight.as_deref(), dout, x, weight, c)?;
    let t = dout.len;
    let grid = Grid::xy(t, c.div_ceil(kernel::SCALAR_HEAD_COLUMNS as usize));
    kernel::scalar_head_bwd(cuda, grid, dx, dout, weight, t as i32, c as i32)?;
    let Some(dweight) = dweight.filter(|_| t > 0) else { return Ok(()) };
    let grid = Grid::x(c.div_ceil(kernel::COLUMN_SUM_COLUMNS as usize));
    kernel::scalar_head_dweight(cuda, grid, dweight, dout, x, t as i32, c as i32)
}
