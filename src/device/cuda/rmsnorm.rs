//! Launches of kernels/rmsnorm.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::error::Result;

pub(super) fn rmsnorm_fwd<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    rstd: &mut Buf<f32>,
    sum: Option<(&mut Buf<A>, &Buf<A>)>,
    inp: &Buf<A>,
    weight: &Buf<A>,
    c: usize,
    eps: f64,
) -> Result<()> {
    let t = check::rmsnorm_fwd::<Cuda<A>>(out, rstd, sum.as_ref().map(|(sum, delta)| (&**sum, *delta)), inp, weight, c)?;
    let (grid, rows, columns, eps) = (Grid::x(t), t as i32, c as i32, eps as f32);
    match sum {
        None => kernel::rmsnorm_fwd(cuda, grid, out, rstd, inp, weight, rows, columns, eps),
        Some((sum, delta)) => kernel::rmsnorm_residual_fwd(cuda, grid, out, rstd, sum, inp, delta, weight, rows, columns, eps),
    }
}

pub(super) fn rmsnorm_bwd<A: Act>(
    cuda: &Cuda<A>,
    dx: &mut Buf<A>,
    dweight: Option<&mut Buf<f32>>,
    dout: &Buf<A>,
    rstd: &Buf<f32>,
    x: &Buf<A>,
    weight: &Buf<A>,
    c: usize,
) -> Result<()> {
    let t = check::rmsnorm_bwd::<Cuda<A>>(dx, dweight.as_deref(), dout, rstd, x, weight, c)?;
    kernel::rmsnorm_bwd(cuda, Grid::x(t), dx, dout, rstd, x, weight, t as i32, c as i32)?;
    let Some(dweight) = dweight.filter(|_| t > 0) else { return Ok(()) };
    let grid = Grid::x(c.div_ceil(kernel::COLUMN_SUM_COLUMNS as usize));
    kernel::rmsnorm_dweight(cuda, grid, dweight, dout, rstd, x, t as i32, c as i32)
}
