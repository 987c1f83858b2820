//! Launches of kernels/logprob.cu around cuBLASLt's products: logits exist a tile at a time, some tokens by some of the vocabulary.

use super::driver::{Grid, Matmul};
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
