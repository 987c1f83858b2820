//! Launches of kernels/rows.cu.

use super::buffer::PartMut;
use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::{Elem, Real, extent};
use crate::error::{Error, Result};

/// A grid over `n` elements of a flat kernel.
pub(super) fn flat(n: usize) -> Grid {
    Grid::x(n.div_ceil(kernel::ELEMENTWISE_SPAN as usize))
}

/// A warp for each row, blocks side by side for long ones.
fn grid_of_rows(t: usize, bytes: usize) -> Grid {
    Grid::xy(t.div_ceil(kernel::ROWS_WARPS as usize), bytes.div_ceil(kernel::ROWS_BYTES as usize))
}

pub(super) fn gather_rows<A: Act, T: Elem>(
    cuda: &Cuda<A>,
    out: &mut Buf<T>,
    inp: &Buf<T>,
    rows: &Buf<u32>,
    c: usize,
) -> Result<()> {
    check::gather_rows::<Cuda<A>, T>(out, rows, c)?;
    let (t, of_inp, bytes) = (rows.len, inp.len / c.max(1), c * size_of::<T>());
    let grid = grid_of_rows(t, bytes);
    cuda.with_fault(|fault| kernel::gather_rows(cuda, grid, out, inp, rows, fault, t as i32, of_inp as i32, bytes as i32))
}

pub(super) fn scatter_rows<A: Act, T: Elem>(
    cuda: &Cuda<A>,
    out: &mut Buf<T>,
    inp: &Buf<T>,
    rows: &Buf<u32>,
    c: usize,
) -> Result<()> {
    check::scatter_rows::<Cuda<A>, T>(inp, rows, c)?;
    let (t, of_out, bytes) = (rows.len, out.len / c.max(1), c * size_of::<T>());
    if out.bytes() > 0 {
        cuda.driver.clear(out.pointer, out.bytes())?;
    }
    let grid = grid_of_rows(t, bytes);
    cuda.with_fault(|fault| kernel::scatter_rows(cuda, grid, out, inp, rows, fault, t as i32, of_out as i32, bytes as i32))
}

pub(super) fn add<A: Act>(cuda: &Cuda<A>, out: &mut Buf<A>, inp: &Buf<A>) -> Result<()> {
    extent::<Cuda<A>, A>("add: out", out, inp.len)?;
    kernel::add(cuda, flat(inp.len), out, inp, inp.len as i64)
}

/// The kernel's number of an element type.
fn number<T: Real>() -> Result<i32> {
    let number = match T::NAME {
        "F32" => kernel::CAST_F32,
        "F64" => kernel::CAST_F64,
        "F16" => kernel::CAST_F16,
        "BF16" => kernel::CAST_BF16,
        other => return Err(Error::input("cast", format!("{other} is not an element type that kernels convert"))),
    };
    Ok(number as i32)
}

/// `dst[..n] = src[..n]` in the type of activations.
pub(super) fn cast_part<A: Act>(cuda: &Cuda<A>, dst: &mut PartMut<'_, A>, src: &Buf<f32>, n: usize) -> Result<()> {
    kernel::cast(cuda, flat(n), dst, src, number::<A>()?, number::<f32>()?, n as i64)
}

pub(super) fn cast<A: Act, S: Real, T: Real>(cuda: &Cuda<A>, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
    extent::<Cuda<A>, T>("cast: dst", dst, src.len)?;
    kernel::cast(cuda, flat(src.len), dst, src, number::<T>()?, number::<S>()?, src.len as i64)
}
