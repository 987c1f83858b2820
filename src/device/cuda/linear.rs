//! Launches of kernels/lora.cu around cuBLASLt's products.

use super::driver::{Factor, Grid, Matmul, Pointer};
use super::{Act, Buf, Cuda, check, kernel, scratch};
use crate::device::{Branch, Device, Dropout};
use crate::error::Result;

/// A row-major factor with contiguous rows.
pub(super) fn stored(pointer: Pointer, stride: usize) -> Factor {
    Factor { pointer, stride, transposed: false }
}

/// The transpose of what is stored.
pub(super) fn transposed(pointer: Pointer, stride: usize) -> Factor {
    Factor { pointer, stride, transposed: true }
}

/// The key and probability that kernels take; none is a probability of 0.
fn mask(dropout: Option<Dropout>) -> (f32, u64) {
    dropout.map_or((0.0, 0), |dropout| (dropout.p, dropout.key))
}

/// Blocks that multiply rows by a narrow matrix: some tokens each, all ranks.
fn down(t: usize) -> Grid {
    Grid::x(t.div_ceil(kernel::LORA_ROWS as usize))
}

/// Blocks that add to a tile of rows.
fn tile(t: usize, columns: usize) -> Grid {
    Grid::xy(columns.div_ceil(kernel::LORA_TILE_COLUMNS as usize), t.div_ceil(kernel::LORA_TILE_TOKENS as usize))
}

/// Blocks that sum over all tokens for some columns and ranks.
fn sums(columns: usize, r: usize) -> Grid {
    Grid::xy(columns.div_ceil(kernel::LORA_SUM_COLUMNS as usize), r.div_ceil(kernel::LORA_SUM_RANKS as usize))
}

pub(super) fn lora_linear_fwd<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    z: &mut [Buf<A>],
    x: &Buf<A>,
    w: &Buf<A>,
    bias: Option<&Buf<A>>,
    branches: &[Branch<'_, Cuda<A>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::lora_linear_fwd::<Cuda<A>>(out, z, x, w, bias, branches, (t, n, k))?;
    cuda.matmul(Matmul {
        m: t,
        n,
        k,
        a: stored(x.pointer, k),
        b: transposed(w.pointer, k),
        out: out.pointer,
        wide: false,
        bias: bias.map(|bias| bias.pointer),
        scale: 1.0,
        accumulate: false,
    })?;
    let (p, key) = mask(dropout);
    for (branch, z) in branches.iter().zip(z).filter(|(branch, _)| branch.r > 0) {
        let [rows, width, column, of_branch, r, inputs] = [t, n, branch.column, branch.n, branch.r, k].map(|x| x as i32);
        kernel::lora_down(cuda, down(t), z, x, branch.a, rows, inputs, r, branch.stream, p, key)?;
        kernel::lora_up(cuda, tile(t, branch.n), out, z, branch.b, rows, width, column, of_branch, r, branch.scale)?;
    }
    Ok(())
}

pub(super) fn lora_linear_bwd<A: Act>(
    cuda: &Cuda<A>,
    mut dx: Option<(&mut Buf<A>, bool)>,
    dbranches: &mut [&mut Buf<f32>],
    dout: &Buf<A>,
    z: &[Buf<A>],
    x: &Buf<A>,
    w: &Buf<A>,
    branches: &[Branch<'_, Cuda<A>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    let dx_of = dx.as_ref().map(|(dx, _)| &**dx);
    check::lora_linear_bwd::<Cuda<A>>(dx_of, dbranches, dout, z, x, w, branches, (t, n, k))?;
    if let Some((dx, accumulate)) = &mut dx {
        cuda.matmul(Matmul {
            m: t,
            n: k,
            k: n,
            a: stored(dout.pointer, n),
            b: stored(w.pointer, k),
            out: dx.pointer,
            wide: false,
            bias: None,
            scale: 1.0,
            accumulate: *accumulate,
        })?;
    }
    let (p, key) = mask(dropout);
    for (i, (branch, z)) in branches.iter().zip(z).enumerate().filter(|(_, (branch, _))| t * branch.n * branch.r > 0) {
        let [rows, width, column, of_branch, r, inputs] = [t, n, branch.column, branch.n, branch.r, k].map(|x| x as i32);
        let mut dz = cuda.empty::<f32>(scratch::branch_gradient(t, branch.r))?;
        kernel::lora_dz(cuda, down(t), &mut dz, dout, branch.b, rows, width, column, of_branch, r, branch.scale)?;
        if let Some([da, db]) = dbranches.get_mut(2 * i..2 * i + 2) {
            let (of_b, of_a) = (sums(branch.n, branch.r), sums(k, branch.r));
            kernel::lora_db(cuda, of_b, *db, dout, z, rows, width, column, of_branch, r, branch.scale)?;
            kernel::lora_da(cuda, of_a, *da, &dz, x, rows, inputs, r, branch.stream, p, key)?;
        }
        if let Some((dx, _)) = &mut dx {
            kernel::lora_dx(cuda, tile(t, k), *dx, &dz, branch.a, rows, inputs, r, branch.stream, p, key)?;
        }
    }
    Ok(())
}

pub(super) fn linear_dweight<A: Act>(
    cuda: &Cuda<A>,
    dw: &mut Buf<f32>,
    dbias: Option<&mut Buf<f32>>,
    dout: &Buf<A>,
    x: &Buf<A>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::linear_dweight::<Cuda<A>>(dw, dbias.as_deref(), dout, x, (t, n, k))?;
    cuda.matmul(Matmul {
        m: n,
        n: k,
        k: t,
        a: transposed(dout.pointer, n),
        b: stored(x.pointer, k),
        out: dw.pointer,
        wide: true,
        bias: None,
        scale: 1.0,
        accumulate: true,
    })?;
    let Some(dbias) = dbias.filter(|_| t > 0) else { return Ok(()) };
    kernel::column_sum(cuda, Grid::x(n.div_ceil(kernel::LORA_SUM_COLUMNS as usize)), dbias, dout, t as i32, n as i32)
}
