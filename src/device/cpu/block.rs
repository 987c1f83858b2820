//! What stands between the linear maps of a block: embedding, RMSNorm, rotary positions, SwiGLU.

use rayon::prelude::*;

use super::memory::{Buf, check_ids};
use super::simd::{dispatch, dot, sum_of};
use super::{Cpu, Float, parallel};
use crate::device::{Heads, check};
use crate::error::Result;

pub(super) fn embed_fwd<F: Float>(out: &mut Buf<F>, table: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
    let vocabulary = check::embed_fwd::<Cpu<F>>(out, table, ids, c)?;
    check_ids("embed_fwd: ids", ids, vocabulary, "tokens in the vocabulary")?;
    parallel::rows(out, c, |first, out| {
        for (out, &id) in out.chunks_exact_mut(c.max(1)).zip(&ids[first..]) {
            out.copy_from_slice(&table[id as usize * c..][..c]);
        }
    });
    Ok(())
}

pub(super) fn embed_bwd<F: Float>(dtable: &mut Buf<F>, dout: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
    let vocabulary = check::embed_bwd::<Cpu<F>>(dtable, dout, ids, c)?;
    check_ids("embed_bwd: ids", ids, vocabulary, "tokens in the vocabulary")?;
    if c == 0 {
        return Ok(());
    }
    // A thread owns a range of the vocabulary and looks through all tokens, so every row adds in the order of tokens.
    let range = vocabulary.div_ceil(32).max(1);
    dtable.par_chunks_mut(range * c).enumerate().for_each(|(i, rows)| {
        let first = i * range;
        for (dout, &id) in dout.chunks_exact(c).zip(&ids[..]) {
            if let Some(row) = (id as usize).checked_sub(first).filter(|&row| row < rows.len() / c) {
                rows[row * c..][..c].iter_mut().zip(dout).for_each(|(r, &d)| *r += d);
            }
        }
    });
    Ok(())
}

pub(super) fn rmsnorm_fwd<F: Float>(
    out: &mut Buf<F>,
    rstd: &mut Buf<F>,
    sum: Option<(&mut Buf<F>, &Buf<F>)>,
    inp: &Buf<F>,
    weight: &Buf<F>,
    c: usize,
    eps: f64,
) -> Result<()> {
    check::rmsnorm_fwd::<Cpu<F>>(out, rstd, sum.as_ref().map(|(sum, delta)| (&**sum, *delta)), inp, weight, c)?;
    let mut x = &inp[..];
    if let Some((sum, delta)) = sum {
        parallel::rows(sum, 1, |first, sum| {
            for ((s, &x), &d) in sum.iter_mut().zip(&inp[first..]).zip(&delta[first..]) {
                *s = x + d;
            }
        });
        x = &sum[..];
    }
    let (eps, width) = (F::of(eps), F::of(c as f64));
    parallel::rows2((out, c), (rstd, 1), |first, out, rstd| {
        dispatch(
            #[inline(always)]
            || {
                let xs = x[first * c..].chunks_exact(c.max(1));
                for ((out, rstd), x) in out.chunks_exact_mut(c.max(1)).zip(rstd).zip(xs) {
                    *rstd = F::ONE / (sum_of(x, |x| x * x) / width + eps).sqrt();
                    for ((out, &x), &w) in out.iter_mut().zip(x).zip(&weight[..]) {
                        *out = x * *rstd * w;
                    }
                }
            },
        );
    });
    Ok(())
}

pub(super) fn rmsnorm_bwd<F: Float>(
    dx: &mut Buf<F>,
    dweight: Option<&mut Buf<F>>,
    dout: &Buf<F>,
    rstd: &Buf<F>,
    x: &Buf<F>,
    weight: &Buf<F>,
    c: usize,
) -> Result<()> {
    check::rmsnorm_bwd::<Cpu<F>>(dx, dweight.as_deref(), dout, rstd, x, weight, c)?;
    let width = F::of(c as f64);
    parallel::rows(dx, c, |first, dx| {
        dispatch(
            #[inline(always)]
            || {
                let mut weighted = vec![F::ZERO; c];
                let inputs = x[first * c..].chunks_exact(c.max(1)).zip(dout[first * c..].chunks_exact(c.max(1)));
                for ((dx, (x, dout)), &rstd) in dx.chunks_exact_mut(c.max(1)).zip(inputs).zip(&rstd[first..]) {
                    for ((g, &d), &w) in weighted.iter_mut().zip(dout).zip(&weight[..]) {
                        *g = d * w;
                    }
                    let along = rstd * rstd * dot(&weighted, x) / width;
                    for ((dx, &g), &x) in dx.iter_mut().zip(&weighted).zip(x) {
                        *dx += rstd * (g - x * along);
                    }
                }
            },
        );
    });
    if let Some(dweight) = dweight {
        parallel::add_columns(dweight, dout, |i, j, d| d * x[i * c + j] * rstd[i]);
    }
    Ok(())
}

pub(super) fn rope<F: Float>(qkv: &mut Buf<F>, positions: &Buf<u32>, heads: Heads, theta: f64, inverse: bool) -> Result<()> {
    check::rope::<Cpu<F>>(qkv, positions, heads)?;
    let width = heads.qkv_width();
    let half = heads.dim / 2;
    let frequencies: Vec<F> = (0..half).map(|i| F::of(theta.powf(-2.0 * i as f64 / heads.dim as f64))).collect();
    parallel::rows(qkv, width, |first, qkv| {
        let mut turns = vec![(F::ZERO, F::ZERO); half];
        for (row, &position) in qkv.chunks_exact_mut(width.max(1)).zip(&positions[first..]) {
            for (turn, &frequency) in turns.iter_mut().zip(&frequencies) {
                let (sin, cos) = (F::of(f64::from(position)) * frequency).f64().sin_cos();
                *turn = (F::of(cos), F::of(if inverse { -sin } else { sin }));
            }
            for head in row.chunks_exact_mut(heads.dim).take(heads.q + heads.kv) {
                let (low, high) = head.split_at_mut(half);
                for ((a, b), &(cos, sin)) in low.iter_mut().zip(high).zip(&turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    });
    Ok(())
}

pub(super) fn swiglu_fwd<F: Float>(out: &mut Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
    check::swiglu_fwd::<Cpu<F>>(out, gate_up, f)?;
    parallel::rows(out, f, |first, out| {
        dispatch(
            #[inline(always)]
            || {
                for (out, row) in out.chunks_exact_mut(f.max(1)).zip(gate_up[first * 2 * f..].chunks_exact(2 * f.max(1))) {
                    let (gate, up) = row.split_at(f);
                    for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                        *out = g / (F::ONE + (-g).exp()) * u;
                    }
                }
            },
        );
    });
    Ok(())
}

pub(super) fn swiglu_bwd<F: Float>(dgate_up: &mut Buf<F>, dout: &Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
    check::swiglu_bwd::<Cpu<F>>(dgate_up, dout, gate_up, f)?;
    parallel::rows(dgate_up, 2 * f, |first, dgate_up| {
        dispatch(
            #[inline(always)]
            || {
                let inputs = gate_up[first * 2 * f..].chunks_exact(2 * f.max(1)).zip(dout[first * f..].chunks_exact(f.max(1)));
                for (drow, (row, dout)) in dgate_up.chunks_exact_mut(2 * f.max(1)).zip(inputs) {
                    let (gate, up) = row.split_at(f);
                    let (dgate, dup) = drow.split_at_mut(f);
                    for ((((dg, du), &g), &u), &d) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dout) {
                        let sigmoid = F::ONE / (F::ONE + (-g).exp());
                        *dg = d * u * sigmoid * (F::ONE + g * (F::ONE - sigmoid));
                        *du = d * g * sigmoid;
                    }
                }
            },
        );
    });
    Ok(())
}
