//! Linear maps with low-rank branches.

use rayon::prelude::*;

use super::matmul::{Mat, Out, matmul};
use super::memory::Buf;
use super::{Cpu, Float, parallel};
use crate::device::{Branch, Dropout, check, narrow};
use crate::error::Result;
use crate::rng;

/// Tokens that a branch takes at a time: with dropout, so many rows of its input exist as a copy.
const TOKENS: usize = 64;

/// What elements `first..` of the input of branch `stream` are multiplied by: 0 or `1 / (1 - p)`.
fn fill_mask<F: Float>(mask: &mut [F], first: usize, dropout: Dropout, stream: u32) {
    let keep = F::of(1.0 / (1.0 - f64::from(dropout.p)));
    let mut block = usize::MAX;
    let mut words = [0; 4];
    for (e, m) in (first..).zip(mask) {
        if e / 4 != block {
            block = e / 4;
            words = rng::philox([block as u32, 0, stream, 0], dropout.key);
        }
        *m = if rng::unit(words[e % 4]) < dropout.p { F::ZERO } else { keep };
    }
}

pub(super) fn lora_linear_fwd<F: Float>(
    out: &mut Buf<F>,
    z: &mut Buf<F>,
    x: &Buf<F>,
    w: &Buf<F>,
    bias: Option<&Buf<F>>,
    branches: &[Branch<'_, Cpu<F>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::lora_linear_fwd::<Cpu<F>>(out, z, x, w, bias, branches, (t, n, k))?;
    if let Some(bias) = bias {
        parallel::rows(out, n, |_, out| out.chunks_exact_mut(n.max(1)).for_each(|row| row.copy_from_slice(bias)));
    }
    let product = Out { data: out, stride: n, add: bias.is_some() };
    matmul(product, F::ONE, Mat::new(x, k), Mat::new(w, k).t(), (t, n, k), true);

    low_rank(z, x, branches, dropout, (t, k));
    let (width, mut at) = (narrow(branches), 0);
    for branch in branches.iter().filter(|branch| t * branch.r > 0) {
        let task = |out: &mut [F], z: &[F]| {
            let product = Out { data: &mut out[branch.column..], stride: n, add: true };
            let b = Mat::new(branch.b, branch.r).t();
            matmul(product, F::ONE, Mat::new(&z[at..], width), b, (z.len() / width, branch.n, branch.r), false);
        };
        if t <= TOKENS || n == 0 {
            task(out, z);
        } else {
            out.par_chunks_mut(TOKENS * n).zip(z.par_chunks(TOKENS * width)).for_each(|(out, z)| task(out, z));
        }
        at += branch.r;
    }
    Ok(())
}

pub(super) fn lora_narrow<F: Float>(
    z: &mut Buf<F>,
    x: &Buf<F>,
    branches: &[Branch<'_, Cpu<F>>],
    dropout: Option<Dropout>,
    (t, k): (usize, usize),
) -> Result<()> {
    check::lora_narrow::<Cpu<F>>(z, x, branches, (t, k))?;
    low_rank(z, x, branches, dropout, (t, k));
    Ok(())
}

/// `z[t, narrow]`, some tokens at a time.
fn low_rank<F: Float>(z: &mut [F], x: &[F], branches: &[Branch<'_, Cpu<F>>], dropout: Option<Dropout>, (t, k): (usize, usize)) {
    let (dropout, width) = (dropout.filter(|d| d.p > 0.0), narrow(branches));
    let task = |i: usize, z: &mut [F]| {
        z.fill(F::ZERO);
        let (first, rows) = (i * TOKENS, z.len() / width);
        let (mut copy, mut at) = (Vec::new(), 0);
        for branch in branches.iter().filter(|branch| branch.r > 0) {
            let mut input = &x[first * k..][..rows * k];
            if let Some(dropout) = dropout {
                copy.resize(rows * k, F::ZERO);
                fill_mask(&mut copy, first * k, dropout, branch.stream);
                copy.iter_mut().zip(input).for_each(|(m, &x)| *m *= x);
                input = &copy;
            }
            let product = Out { data: &mut z[at..], stride: width, add: false };
            let scale = F::of(f64::from(branch.scale));
            matmul(product, scale, Mat::new(input, k), Mat::new(branch.a, k).t(), (rows, branch.r, k), false);
            at += branch.r;
        }
    };
    if t * width == 0 {
        return;
    }
    if t <= TOKENS {
        task(0, z);
    } else {
        z.par_chunks_mut(TOKENS * width).enumerate().for_each(|(i, z)| task(i, z));
    }
}

pub(super) fn lora_linear_bwd<F: Float>(
    mut dx: Option<(&mut Buf<F>, bool)>,
    dbranches: &mut [&mut Buf<F>],
    dout: &Buf<F>,
    z: &Buf<F>,
    x: &Buf<F>,
    w: &Buf<F>,
    branches: &[Branch<'_, Cpu<F>>],
    dropout: Option<Dropout>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::lora_linear_bwd::<Cpu<F>>(dx.as_ref().map(|(dx, _)| &**dx), dbranches, dout, z, x, w, branches, (t, n, k))?;
    if let Some((dx, accumulate)) = &mut dx {
        let product = Out { data: dx, stride: k, add: *accumulate };
        matmul(product, F::ONE, Mat::new(dout, n), Mat::new(w, k), (t, k, n), true);
    }
    if t == 0 || n == 0 || k == 0 {
        return Ok(());
    }
    let mut dx = dx.map(|(dx, _)| &mut dx[..]);
    let width = narrow(branches);
    let places = branches.iter().scan(0, |next, branch| Some(std::mem::replace(next, *next + branch.r)));
    for ((i, branch), at) in branches.iter().enumerate().zip(places).filter(|((_, branch), _)| branch.n * branch.r > 0) {
        let (r, scale) = (branch.r, F::of(f64::from(branch.scale)));
        let dout = Mat::new(&dout[branch.column..], n);
        let mut dz = vec![F::ZERO; t * r];
        let product = Out { data: &mut dz, stride: r, add: false };
        matmul(product, scale, dout, Mat::new(branch.b, r), (t, r, branch.n), true);
        let mut da = None;
        if !dbranches.is_empty() {
            let product = Out { data: &mut dbranches[2 * i + 1][..], stride: r, add: true };
            matmul(product, F::ONE, dout.t(), Mat::new(&z[at..], width), (branch.n, r, t), true);
            da = Some(&mut dbranches[2 * i][..]);
        }
        match dropout.filter(|d| d.p > 0.0) {
            None => branch_bwd(dx.as_deref_mut(), da, &dz, x, branch, (t, k)),
            Some(dropout) => dropped_branch_bwd(dx.as_deref_mut(), da, &dz, x, branch, dropout, k),
        }
    }
    Ok(())
}

/// `dx += dz a` and `da += dz^T x`.
fn branch_bwd<F: Float>(
    dx: Option<&mut [F]>,
    da: Option<&mut [F]>,
    dz: &[F],
    x: &[F],
    branch: &Branch<'_, Cpu<F>>,
    (t, k): (usize, usize),
) {
    let r = branch.r;
    if let Some(dx) = dx {
        matmul(Out { data: dx, stride: k, add: true }, F::ONE, Mat::new(dz, r), Mat::new(branch.a, k), (t, k, r), true);
    }
    if let Some(da) = da {
        matmul(Out { data: da, stride: k, add: true }, F::ONE, Mat::new(dz, r).t(), Mat::new(x, k), (r, k, t), true);
    }
}

/// [`branch_bwd`] where the branch read `drop(x)`: some tokens at a time, so that neither mask nor dropped input is ever whole.
fn dropped_branch_bwd<F: Float>(
    mut dx: Option<&mut [F]>,
    mut da: Option<&mut [F]>,
    dz: &[F],
    x: &[F],
    branch: &Branch<'_, Cpu<F>>,
    dropout: Dropout,
    k: usize,
) {
    let r = branch.r;
    let (mut mask, mut scratch) = (vec![F::ZERO; 4 * TOKENS * k], vec![F::ZERO; 4 * TOKENS * k]);
    for (i, dz) in dz.chunks(4 * TOKENS * r).enumerate() {
        let (first, rows) = (i * 4 * TOKENS, dz.len() / r);
        let (mask, scratch) = (&mut mask[..rows * k], &mut scratch[..rows * k]);
        parallel::rows(mask, k, |row, mask| fill_mask(mask, (first + row) * k, dropout, branch.stream));
        if let Some(da) = da.as_deref_mut() {
            let (mask, x) = (&*mask, &x[first * k..]);
            parallel::rows(scratch, k, |row, dropped| {
                for ((d, &m), &x) in dropped.iter_mut().zip(&mask[row * k..]).zip(&x[row * k..]) {
                    *d = x * m;
                }
            });
            let product = Out { data: da, stride: k, add: true };
            matmul(product, F::ONE, Mat::new(dz, r).t(), Mat::new(scratch, k), (r, k, rows), true);
        }
        if let Some(dx) = dx.as_deref_mut() {
            let product = Out { data: scratch, stride: k, add: false };
            matmul(product, F::ONE, Mat::new(dz, r), Mat::new(branch.a, k), (rows, k, r), true);
            let (mask, scratch) = (&*mask, &*scratch);
            parallel::rows(&mut dx[first * k..][..rows * k], k, |row, dx| {
                for ((dx, &m), &s) in dx.iter_mut().zip(&mask[row * k..]).zip(&scratch[row * k..]) {
                    *dx += m * s;
                }
            });
        }
    }
}

pub(super) fn linear_dweight<F: Float>(
    dw: &mut Buf<F>,
    dbias: Option<&mut Buf<F>>,
    dout: &Buf<F>,
    x: &Buf<F>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    check::linear_dweight::<Cpu<F>>(dw, dbias.as_deref(), dout, x, (t, n, k))?;
    matmul(Out { data: dw, stride: k, add: true }, F::ONE, Mat::new(dout, n).t(), Mat::new(x, k), (n, k, t), true);
    if let Some(dbias) = dbias {
        parallel::add_columns(dbias, dout, |_, _, d| d);
    }
    Ok(())
}
