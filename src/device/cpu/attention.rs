//! Causal grouped-query attention over packed sequences, and over a cache. Query rows go in blocks, so what is stored of the
//! scores is a block of rows.

use rayon::prelude::*;

use super::matmul::{Mat, Out, matmul};
use super::memory::{Buf, check_slots, check_where};
use super::simd::{axpy, dispatch, dot, map_sum, max};
use super::{Cpu, Float, parallel};
use crate::device::{Bounds, Heads, NO_SLOT, check};
use crate::error::Result;

/// Query rows whose scores are held at a time.
const ROWS: usize = 64;

fn score_scale<F: Float>(heads: Heads) -> F {
    F::of(1.0 / (heads.dim as f64).sqrt())
}

/// Query head `h`, its keys and its values in `qkv`, from token `at` on.
fn q_of<F>(qkv: &[F], heads: Heads, h: usize, at: usize) -> Mat<'_, F> {
    Mat::new(&qkv[at * heads.qkv_width() + h * heads.dim..], heads.qkv_width())
}

fn k_of<F>(qkv: &[F], heads: Heads, h: usize, at: usize) -> Mat<'_, F> {
    q_of(qkv, heads, heads.q + h / (heads.q / heads.kv), at)
}

fn v_of<F>(qkv: &[F], heads: Heads, h: usize, at: usize) -> Mat<'_, F> {
    q_of(qkv, heads, heads.q + heads.kv + h / (heads.q / heads.kv), at)
}

/// Some rows of one sequence: a task of the forward pass.
struct Block<'a, F> {
    begin: usize,
    first: usize,
    out: &'a mut [F],
}

pub(super) fn attention_fwd<F: Float>(
    out: &mut Buf<F>,
    lse: &mut Buf<F>,
    qkv: &Buf<F>,
    bounds: &Bounds<Cpu<F>>,
    heads: Heads,
    t: usize,
) -> Result<()> {
    check::attention_fwd::<Cpu<F>>(out, lse, qkv, bounds, heads, t)?;
    let width = heads.q_width();

    let mut blocks = Vec::new();
    let mut rest = &mut out[..];
    for sequence in bounds.host.windows(2) {
        let (begin, end) = (sequence[0] as usize, sequence[1] as usize);
        for first in (begin..end).step_by(ROWS) {
            let (rows, tail) = rest.split_at_mut(ROWS.min(end - first) * width);
            blocks.push(Block { begin, first, out: rows });
            rest = tail;
        }
    }
    rest.fill(F::ZERO);
    let lse_of_blocks: Vec<(usize, Vec<F>)> = if qkv.len() <= parallel::GRAIN {
        blocks.into_iter().map(|block| (block.first, attend(block, qkv, heads))).collect()
    } else {
        blocks.into_par_iter().map(|block| (block.first, attend(block, qkv, heads))).collect()
    };
    lse.fill(F::ZERO);
    for (first, part) in lse_of_blocks {
        let rows = part.len() / heads.q;
        for (h, part) in part.chunks_exact(rows).enumerate() {
            lse[h * t + first..][..rows].copy_from_slice(part);
        }
    }
    Ok(())
}

/// All heads of a block of rows. Returns their log-sum-exp, `[q, rows]`.
fn attend<F: Float>(block: Block<'_, F>, qkv: &[F], heads: Heads) -> Vec<F> {
    let Block { begin, first, out } = block;
    let (width, dim) = (heads.q_width(), heads.dim);
    let rows = out.len() / width;
    let keys = first + rows - begin;
    let mut scores = vec![F::ZERO; rows * keys];
    let mut lse = vec![F::ZERO; heads.q * rows];
    for (h, lse) in lse.chunks_exact_mut(rows).enumerate() {
        let (q, k) = (q_of(qkv, heads, h, first), k_of(qkv, heads, h, begin));
        let product = Out { data: &mut scores, stride: keys, add: false };
        matmul(product, score_scale(heads), q, k.t(), (rows, keys, dim), false);
        let mut sums = [F::ZERO; ROWS];
        dispatch(
            #[inline(always)]
            || {
                for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                    let (seen, unseen) = row.split_at_mut(first + i + 1 - begin);
                    let top = max(seen);
                    sums[i] = map_sum(seen, |s| (s - top).exp());
                    lse[i] = top + sums[i].ln();
                    unseen.fill(F::ZERO);
                }
            },
        );
        let product = Out { data: &mut out[h * dim..], stride: width, add: false };
        matmul(product, F::ONE, Mat::new(&scores, keys), v_of(qkv, heads, h, begin), (rows, dim, keys), false);
        for (row, &sum) in out.chunks_exact_mut(width).zip(&sums) {
            row[h * dim..][..dim].iter_mut().for_each(|o| *o /= sum);
        }
    }
    lse
}

pub(super) fn attention_bwd<F: Float>(
    dqkv: &mut Buf<F>,
    dout: &Buf<F>,
    out: &Buf<F>,
    lse: &Buf<F>,
    qkv: &Buf<F>,
    bounds: &Bounds<Cpu<F>>,
    heads: Heads,
    t: usize,
) -> Result<()> {
    check::attention_bwd::<Cpu<F>>(dqkv, dout, out, lse, qkv, bounds, heads, t)?;

    let saved = Saved { dout, out, lse, qkv, heads, t };
    let sequences = bounds.host.windows(2).map(|s| (s[0] as usize, s[1] as usize)).filter(|(begin, end)| begin < end);
    let tasks: Vec<_> = sequences.flat_map(|(begin, end)| (0..heads.q).map(move |h| (begin, end, h))).collect();
    let parts: Vec<Vec<F>> = if qkv.len() <= parallel::GRAIN {
        tasks.iter().map(|&(begin, end, h)| saved.head(begin, end, h)).collect()
    } else {
        tasks.par_iter().map(|&(begin, end, h)| saved.head(begin, end, h)).collect()
    };

    let (width, dim, group) = (heads.qkv_width(), heads.dim, heads.q / heads.kv);
    for (&(begin, end, _), parts) in tasks.iter().step_by(heads.q.max(1)).zip(parts.chunks_exact(heads.q.max(1))) {
        let tokens = end - begin;
        parallel::rows(&mut dqkv[begin * width..end * width], width, |first, rows| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let (dq, dkv) = row.split_at_mut(heads.q_width());
                for (dq, part) in dq.chunks_exact_mut(dim).zip(parts) {
                    dq.copy_from_slice(&part[(first + i) * dim..][..dim]);
                }
                for (j, dkv) in dkv.chunks_exact_mut(dim).enumerate() {
                    let (which, head) = (1 + j / heads.kv, j % heads.kv);
                    dkv.fill(F::ZERO);
                    for part in &parts[head * group..][..group] {
                        let part = &part[(which * tokens + first + i) * dim..][..dim];
                        dkv.iter_mut().zip(part).for_each(|(d, &p)| *d += p);
                    }
                }
            }
        });
    }
    dqkv[bounds.total() * width..].fill(F::ZERO);
    Ok(())
}

/// What the backward pass reads.
struct Saved<'a, F> {
    dout: &'a [F],
    out: &'a [F],
    lse: &'a [F],
    qkv: &'a [F],
    heads: Heads,
    t: usize,
}

impl<F: Float> Saved<'_, F> {
    /// Query head `h` of one sequence: `dq | dk | dv`, each `[tokens, dim]`, the last two this head's share.
    fn head(&self, begin: usize, end: usize, h: usize) -> Vec<F> {
        let Saved { dout, out, lse, qkv, heads, t } = *self;
        let (width, dim, tokens) = (heads.q_width(), heads.dim, end - begin);
        let scale = score_scale::<F>(heads);
        let mut grads = vec![F::ZERO; 3 * tokens * dim];
        let (dq, rest) = grads.split_at_mut(tokens * dim);
        let (dk, dv) = rest.split_at_mut(tokens * dim);
        let mut p = vec![F::ZERO; ROWS.min(tokens) * tokens];
        let mut ds = p.clone();
        for first in (begin..end).step_by(ROWS) {
            let rows = ROWS.min(end - first);
            let keys = first + rows - begin;
            let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
            let (q, k, v) = (q_of(qkv, heads, h, first), k_of(qkv, heads, h, begin), v_of(qkv, heads, h, begin));
            let d = Mat::new(&dout[first * width + h * dim..], width);
            matmul(Out { data: p, stride: keys, add: false }, scale, q, k.t(), (rows, keys, dim), false);
            matmul(Out { data: ds, stride: keys, add: false }, F::ONE, d, v.t(), (rows, keys, dim), false);
            dispatch(
                #[inline(always)]
                || {
                    for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
                        let at = (first + i) * width + h * dim;
                        let along = dot(&dout[at..][..dim], &out[at..][..dim]);
                        let lse = lse[h * t + first + i];
                        let seen = first + i + 1 - begin;
                        for (p, ds) in p[..seen].iter_mut().zip(&mut ds[..seen]) {
                            *p = (*p - lse).exp();
                            *ds = *p * (*ds - along);
                        }
                        p[seen..].fill(F::ZERO);
                        ds[seen..].fill(F::ZERO);
                    }
                },
            );
            let (p, ds) = (Mat::new(p, keys), Mat::new(ds, keys));
            matmul(Out { data: dv, stride: dim, add: true }, F::ONE, p.t(), d, (keys, dim, rows), false);
            matmul(Out { data: dk, stride: dim, add: true }, scale, ds.t(), q, (keys, dim, rows), false);
            let dq = Out { data: &mut dq[(first - begin) * dim..], stride: dim, add: false };
            matmul(dq, scale, ds, k, (rows, dim, keys), false);
        }
        grads
    }
}

pub(super) fn rope_cached<F: Float>(
    qkv: &mut Buf<F>,
    k: &mut Buf<F>,
    v: &mut Buf<F>,
    slots: &Buf<u32>,
    positions: &Buf<u32>,
    heads: Heads,
    theta: f64,
    capacity: usize,
) -> Result<()> {
    let count = check::rope_cached::<Cpu<F>>(qkv, k, v, slots, positions, heads, capacity)?;
    check_slots("rope_cached: slots", slots, count)?;
    check_where("rope_cached: positions", positions, capacity, "places in a slot", |row| slots[row] != NO_SLOT)?;
    super::block::rope(qkv, positions, heads, theta, false)?;
    let width = heads.kv_width();
    let rows = qkv.chunks_exact(heads.qkv_width()).zip(&slots[..]).zip(&positions[..]);
    for ((row, &slot), &position) in rows.filter(|((_, slot), _)| **slot != NO_SLOT) {
        let at = (slot as usize * capacity + position as usize) * width;
        let (keys, values) = row[heads.q_width()..].split_at(width);
        k[at..][..width].copy_from_slice(keys);
        v[at..][..width].copy_from_slice(values);
    }
    Ok(())
}

pub(super) fn attention_decode<F: Float>(
    out: &mut Buf<F>,
    qkv: &Buf<F>,
    k: &Buf<F>,
    v: &Buf<F>,
    slots: &Buf<u32>,
    lengths: &Buf<u32>,
    heads: Heads,
    capacity: usize,
) -> Result<()> {
    let count = check::attention_decode::<Cpu<F>>(out, qkv, k, v, slots, lengths, heads, capacity)?;
    check_slots("attention_decode: slots", slots, count)?;
    check_where("attention_decode: lengths", lengths, capacity + 1, "lengths a slot can have", |row| slots[row] != NO_SLOT)?;
    let length_of = |row: usize| if slots[row] == NO_SLOT { 0 } else { lengths[row] as usize };
    let (dim, width, group) = (heads.dim, heads.kv_width(), heads.q / heads.kv);
    if group == 0 {
        return Ok(());
    }
    // A task is a key-value head of a sequence: its query heads stand side by side in `out`.
    let task = |task: usize, out: &mut [F]| {
        let (b, head) = (task / heads.kv, task % heads.kv);
        let length = length_of(b);
        let at = if length == 0 { 0 } else { slots[b] as usize * capacity * width + head * dim };
        let queries = &qkv[b * heads.qkv_width() + head * group * dim..][..group * dim];
        out.fill(F::ZERO);
        let mut scores = vec![F::ZERO; group * length];
        dispatch(
            #[inline(always)]
            || {
                let scale = score_scale::<F>(heads);
                for j in 0..length {
                    let key = &k[at + j * width..][..dim];
                    for (g, query) in queries.chunks_exact(dim).enumerate() {
                        scores[g * length + j] = scale * dot(query, key);
                    }
                }
                for (scores, out) in scores.chunks_exact_mut(length.max(1)).zip(out.chunks_exact_mut(dim)) {
                    let top = max(scores);
                    let sum = map_sum(scores, |s| (s - top).exp());
                    for (j, &p) in scores.iter().enumerate() {
                        axpy(out, p / sum, &v[at + j * width..][..dim]);
                    }
                }
            },
        );
    };
    let work: usize = (0..lengths.len()).map(length_of).sum::<usize>() * width;
    if work <= parallel::GRAIN {
        out.chunks_exact_mut(group * dim).enumerate().for_each(|(i, out)| task(i, out));
    } else {
        out.par_chunks_exact_mut(group * dim).enumerate().for_each(|(i, out)| task(i, out));
    }
    Ok(())
}
