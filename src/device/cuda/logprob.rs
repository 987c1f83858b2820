//! Launches of kernels/logprob_sm90.cu, where logits exist in registers only; and of kernels/logprob.cu around cuBLASLt's products for the f32
//! build and for extents that are no multiples of 8: there they exist a tile at a time, some tokens by some of the vocabulary.

use super::driver::{Grid, Matmul};
use super::gemm::{boxes, persistent};
use super::linear::{stored, transposed};
use super::scratch::{self, TOKENS, VOCABULARY};
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::Device;
use crate::error::Result;

/// A tile of the logits: tokens `token..token + rows`, vocabulary `first..first + width`.
struct Tile {
    token: usize,
    rows: usize,
    first: usize,
    width: usize,
}

impl Tile {
    /// `logits[rows, width] = x head^T`, unscaled.
    fn logits<A: Act>(&self, cuda: &Cuda<A>, logits: &mut Buf<f32>, x: &Buf<A>, head: &Buf<A>, c: usize) -> Result<()> {
        cuda.matmul(Matmul {
            m: self.rows,
            n: self.width,
            k: c,
            a: stored(address::<A>(x, self.token * c), c),
            b: transposed(address::<A>(head, self.first * c), c),
            out: logits.pointer,
            wide: true,
            bias: None,
            scale: 1.0,
            accumulate: false,
        })
    }
}

fn address<T>(buf: &Buf<T>, at: usize) -> u64 {
    buf.pointer + (at * size_of::<T>()) as u64
}

/// Calls `f` on every tile: all of the vocabulary for some tokens, then the next tokens.
fn tiles(t: usize, v: usize, mut f: impl FnMut(Tile) -> Result<()>) -> Result<()> {
    for token in (0..t).step_by(TOKENS) {
        for first in (0..v).step_by(VOCABULARY) {
            f(Tile { token, rows: TOKENS.min(t - token), first, width: VOCABULARY.min(v - first) })?;
        }
    }
    Ok(())
}

pub(super) fn linear_logprob_fwd<A: Act>(
    cuda: &Cuda<A>,
    logprob: &mut Buf<f32>,
    lse: &mut Buf<f32>,
    entropy: &mut Buf<f32>,
    x: &Buf<A>,
    head: &Buf<A>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    check::linear_logprob_fwd::<Cuda<A>>(logprob, lse, entropy, x, head, targets, (t, c, v))?;
    if scratch::logprob_sm90(size_of::<A>(), (t, c, v)) {
        return fused_fwd(cuda, [logprob, lse, entropy], x, head, targets, scale, (t, c, v));
    }
    let mut logits = cuda.empty::<f32>(scratch::logits_tile(t, v))?;
    let mut state = cuda.empty::<f32>(scratch::logprob_state(t))?;
    tiles(t, v, |tile| {
        tile.logits(cuda, &mut logits, x, head, c)?;
        let Tile { token, rows, first, width } = tile;
        let (mut state, targets) = (state.part_mut(4 * token), targets.part(token));
        let [token, rows, first, width, v] = [token, rows, first, width, v].map(|x| x as i32);
        let grid = Grid::x(tile.rows);
        cuda.with_fault(|fault| {
            kernel::logprob_fold(cuda, grid, &mut state, &logits, &targets, fault, token, rows, first, width, v, scale)
        })
    })?;
    let grid = Grid::x(t.div_ceil(kernel::LOGPROB_THREADS as usize));
    kernel::logprob_finish(cuda, grid, logprob, lse, entropy, &state, t as i32)
}

pub(super) fn linear_logprob_bwd<A: Act>(
    cuda: &Cuda<A>,
    dx: &mut Buf<A>,
    mut dhead: Option<&mut Buf<f32>>,
    dlogprob: &Buf<f32>,
    lse: &Buf<f32>,
    x: &Buf<A>,
    head: &Buf<A>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    check::linear_logprob_bwd::<Cuda<A>>(dx, dhead.as_deref(), dlogprob, lse, x, head, targets, (t, c, v))?;
    if scratch::logprob_sm90(size_of::<A>(), (t, c, v)) {
        return fused_bwd(cuda, dx, dhead, [dlogprob, lse], x, head, targets, scale, (t, c, v));
    }
    let tile = scratch::logits_tile(t, v);
    let (mut logits, mut dlogits) = (cuda.empty::<f32>(tile)?, cuda.empty::<A>(tile)?);
    // The tiles of the vocabulary add up in f32 and are rounded once.
    let sums = cuda.empty::<f32>(scratch::logprob_sums(t, c))?;
    tiles(t, v, |tile| {
        tile.logits(cuda, &mut logits, x, head, c)?;
        let Tile { token, rows, first, width } = tile;
        let grid = Grid::xy(rows, width.div_ceil(kernel::LOGPROB_COLUMNS as usize));
        let (d, lse, targets) = (dlogprob.part(token), lse.part(token), targets.part(token));
        let [r, f, w] = [rows, first, width].map(|x| x as i32);
        kernel::logprob_dlogits(cuda, grid, &mut dlogits, &logits, &d, &lse, &targets, r, f, w, scale)?;
        cuda.matmul(Matmul {
            m: rows,
            n: c,
            k: width,
            a: stored(dlogits.pointer, width),
            b: stored(address::<A>(head, first * c), c),
            out: sums.pointer,
            wide: true,
            bias: None,
            scale,
            accumulate: first > 0,
        })?;
        if let Some(dhead) = &mut dhead {
            cuda.matmul(Matmul {
                m: width,
                n: c,
                k: rows,
                a: transposed(dlogits.pointer, width),
                b: stored(address::<A>(x, token * c), c),
                out: address::<f32>(dhead, first * c),
                wide: true,
                bias: None,
                scale,
                accumulate: true,
            })?;
        }
        match first + width == v {
            true => super::rows::cast_part(cuda, &mut dx.part_mut(token * c), &sums, rows * c),
            false => Ok(()),
        }
    })
}

/// Tiles of a product of `m` rows and `n` columns.
fn products(m: usize, n: usize) -> usize {
    m.div_ceil(kernel::GEMM_M as usize) * n.div_ceil(kernel::GEMM_N as usize)
}

/// `results`: the log-probability, the log-sum-exp, the entropy.
fn fused_fwd<A: Act>(
    cuda: &Cuda<A>,
    [logprob, lse, entropy]: [&mut Buf<f32>; 3],
    x: &Buf<A>,
    head: &Buf<A>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    let (driver, ranges) = (&*cuda.driver, scratch::logprob_ranges(v));
    let mut states = cuda.empty::<f32>(scratch::logprob_states(t, v))?;
    let left = boxes(driver, x.pointer, t, c, c, kernel::GEMM_M)?;
    let right = boxes(driver, head.pointer, v, c, c, kernel::GEMM_N)?;
    let grid = persistent(cuda, t.div_ceil(kernel::GEMM_M as usize) * ranges);
    let [rows, ranges, c, v] = [t, ranges, c, v].map(|x| x as i32);
    kernel::linear_logprob_fold(cuda, grid, &mut states, &left, &right, targets, rows, c, v, scale)?;
    let grid = Grid::x(t.div_ceil(kernel::LOGPROB_FINISH_ROWS as usize));
    cuda.with_fault(|fault| {
        kernel::linear_logprob_finish(cuda, grid, logprob, lse, entropy, &states, targets, fault, rows, ranges, v)
    })
}

/// `of_tokens`: the gradient of the log-probability, the log-sum-exp.
fn fused_bwd<A: Act>(
    cuda: &Cuda<A>,
    dx: &mut Buf<A>,
    mut dhead: Option<&mut Buf<f32>>,
    [dlogprob, lse]: [&Buf<f32>; 2],
    x: &Buf<A>,
    head: &Buf<A>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    let (driver, high) = (&*cuda.driver, scratch::logprob_wave((t, c, v)));
    let mut rows = cuda.empty::<u32>(scratch::logprob_rows(t))?;
    let (mut wave, dl) = (cuda.empty::<A>(high * c)?, cuda.empty::<A>(high * v)?);
    kernel::linear_logprob_rows(cuda, Grid::x(1), &mut rows, dlogprob, t as i32)?;
    // Tokens that are not listed have no gradient.
    cuda.clear(dx)?;
    let of_wave = boxes(driver, wave.pointer, high, c, c, kernel::GEMM_M)?;
    let to_dl = boxes(driver, dl.pointer, high, v, v, 64)?;
    let of_dl = boxes(driver, dl.pointer, high, v, v, kernel::GEMM_M)?;
    let along_c = boxes(driver, head.pointer, v, c, c, kernel::GEMM_N)?;
    let along_v = boxes(driver, head.pointer, v, c, c, kernel::GEMM_K)?;
    let all = i32::from(dhead.is_some());
    for first in (0..t).step_by(high) {
        let [t, first, h, inputs, width] = [t, first, high, c, v].map(|x| x as i32);
        kernel::linear_logprob_gather(cuda, Grid::x(high), &mut wave, x, &rows, t, first, h, inputs)?;
        let grid = persistent(cuda, products(high, v));
        kernel::linear_logprob_dl(
            cuda, grid, &of_wave, &along_c, &to_dl, dlogprob, lse, targets, &rows, t, first, h, all, inputs, width, scale,
        )?;
        let grid = persistent(cuda, products(high, c));
        kernel::linear_logprob_dx(cuda, grid, dx, &of_dl, &along_v, &rows, t, first, h, inputs, width, scale)?;
        if let Some(dhead) = &mut dhead {
            cuda.matmul(Matmul {
                m: v,
                n: c,
                k: high,
                a: transposed(dl.pointer, v),
                b: stored(wave.pointer, c),
                out: dhead.pointer,
                wide: true,
                bias: None,
                scale,
                accumulate: true,
            })?;
        }
    }
    Ok(())
}

pub(super) fn logits<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<f32>,
    x: &Buf<A>,
    head: &Buf<A>,
    (b, c, v): (usize, usize, usize),
) -> Result<()> {
    check::logits::<Cuda<A>>(out, x, head, (b, c, v))?;
    Tile { token: 0, rows: b, first: 0, width: v }.logits(cuda, out, x, head, c)
}
