//! Heads: log-probabilities without whole logits, logits, and the scalar head.

use super::matmul::{Mat, Out, matmul};
use super::memory::{Buf, check_ids};
use super::simd::{dispatch, dot, exp_sums, max};
use super::{Cpu, Float, parallel};
use crate::device::check;
use crate::error::Result;

/// Tokens and vocabulary of a tile of logits: 4 MiB in f32, and the head is read once for so many tokens.
const TOKENS: usize = 256;
const VOCABULARY: usize = 4096;

/// What is known of a token's softmax so far: the largest logit, `sum e^(l - largest)`, `sum e^(l - largest) (l - largest)`, and
/// the target's logit.
#[derive(Clone, Copy)]
struct Online<F> {
    top: F,
    sum: F,
    weighted: F,
    target: F,
}

impl<F: Float> Online<F> {
    /// Takes in more logits, of tokens `first..`. Call it under [`dispatch`].
    #[inline(always)]
    fn add(&mut self, logits: &[F], first: usize, target: usize) {
        let top = max(logits);
        if top > self.top {
            if self.sum > F::ZERO {
                let shrink = (self.top - top).exp();
                self.weighted = shrink * (self.weighted + (self.top - top) * self.sum);
                self.sum *= shrink;
            }
            self.top = top;
        }
        let (sum, weighted) = exp_sums(logits, self.top);
        self.sum += sum;
        self.weighted += weighted;
        if let Some(&target) = target.checked_sub(first).and_then(|i| logits.get(i)) {
            self.target = target;
        }
    }
}

/// Logits of `rows` tokens over `first..first + tokens` of the vocabulary into `tile[rows, tokens]`.
fn logits_tile<F: Float>(tile: &mut [F], x: &[F], head: &[F], scale: F, (rows, tokens, c): (usize, usize, usize)) {
    matmul(Out { data: tile, stride: tokens, add: false }, scale, Mat::new(x, c), Mat::new(head, c).t(), (rows, tokens, c), true);
}

pub(super) fn linear_logprob_fwd<F: Float>(
    logprob: &mut Buf<F>,
    lse: &mut Buf<F>,
    entropy: &mut Buf<F>,
    x: &Buf<F>,
    head: &Buf<F>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    check::linear_logprob_fwd::<Cpu<F>>(logprob, lse, entropy, x, head, targets, (t, c, v))?;
    check_ids("linear_logprob_fwd: targets", targets, v, "tokens in the vocabulary")?;
    let mut tile = vec![F::ZERO; TOKENS.min(t) * VOCABULARY.min(v)];
    for i in (0..t).step_by(TOKENS) {
        let rows = TOKENS.min(t - i);
        let mut states = vec![Online { top: F::NEG_INFINITY, sum: F::ZERO, weighted: F::ZERO, target: F::ZERO }; rows];
        for first in (0..v).step_by(VOCABULARY) {
            let tokens = VOCABULARY.min(v - first);
            let tile = &mut tile[..rows * tokens];
            logits_tile(tile, &x[i * c..], &head[first * c..], F::of(f64::from(scale)), (rows, tokens, c));
            parallel::rows2((tile, tokens), (&mut states, 1), |row, tile, states| {
                dispatch(
                    #[inline(always)]
                    || {
                        let targets = &targets[i + row..];
                        for ((logits, state), &target) in tile.chunks_exact(tokens).zip(states).zip(targets) {
                            state.add(logits, first, target as usize);
                        }
                    },
                );
            });
        }
        for (j, state) in states.iter().enumerate() {
            let log_sum = state.sum.ln();
            lse[i + j] = state.top + log_sum;
            logprob[i + j] = (state.target - state.top) - log_sum;
            entropy[i + j] = log_sum - state.weighted / state.sum;
        }
    }
    Ok(())
}

pub(super) fn linear_logprob_bwd<F: Float>(
    dx: &mut Buf<F>,
    mut dhead: Option<&mut Buf<F>>,
    dlogprob: &Buf<F>,
    lse: &Buf<F>,
    x: &Buf<F>,
    head: &Buf<F>,
    targets: &Buf<u32>,
    scale: f32,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    check::linear_logprob_bwd::<Cpu<F>>(dx, dhead.as_deref(), dlogprob, lse, x, head, targets, (t, c, v))?;
    check_ids("linear_logprob_bwd: targets", targets, v, "tokens in the vocabulary")?;
    let scale = F::of(f64::from(scale));
    let mut tile = vec![F::ZERO; TOKENS.min(t) * VOCABULARY.min(v)];
    for i in (0..t).step_by(TOKENS) {
        let rows = TOKENS.min(t - i);
        let x = &x[i * c..][..rows * c];
        for first in (0..v).step_by(VOCABULARY) {
            let tokens = VOCABULARY.min(v - first);
            let tile = &mut tile[..rows * tokens];
            let head = &head[first * c..][..tokens * c];
            logits_tile(tile, x, head, scale, (rows, tokens, c));
            parallel::rows(tile, tokens, |row, tile| {
                dispatch(
                    #[inline(always)]
                    || {
                        for (j, logits) in (i + row..).zip(tile.chunks_exact_mut(tokens)) {
                            let (d, lse) = (dlogprob[j], lse[j]);
                            logits.iter_mut().for_each(|l| *l = -d * (*l - lse).exp());
                            if let Some(target) = (targets[j] as usize).checked_sub(first).and_then(|k| logits.get_mut(k)) {
                                *target += d;
                            }
                        }
                    },
                );
            });
            let dl = Mat::new(tile, tokens);
            let product = Out { data: &mut dx[i * c..], stride: c, add: first > 0 };
            matmul(product, scale, dl, Mat::new(head, c), (rows, c, tokens), true);
            if let Some(dhead) = &mut dhead {
                let product = Out { data: &mut dhead[first * c..], stride: c, add: true };
                matmul(product, scale, dl.t(), Mat::new(x, c), (tokens, c, rows), true);
            }
        }
    }
    Ok(())
}

pub(super) fn logits<F: Float>(out: &mut Buf<F>, x: &Buf<F>, head: &Buf<F>, (b, c, v): (usize, usize, usize)) -> Result<()> {
    check::logits::<Cpu<F>>(out, x, head, (b, c, v))?;
    logits_tile(out, x, head, F::ONE, (b, v, c));
    Ok(())
}

pub(super) fn scalar_head_fwd<F: Float>(out: &mut Buf<F>, x: &Buf<F>, weight: &Buf<F>, c: usize) -> Result<()> {
    check::scalar_head_fwd::<Cpu<F>>(out, x, weight, c)?;
    for (out, x) in out.iter_mut().zip(x.chunks_exact(c.max(1))) {
        *out = dispatch(
            #[inline(always)]
            || dot(x, weight),
        );
    }
    Ok(())
}

pub(super) fn scalar_head_bwd<F: Float>(
    dx: &mut Buf<F>,
    dweight: Option<&mut Buf<F>>,
    dout: &Buf<F>,
    x: &Buf<F>,
    weight: &Buf<F>,
    c: usize,
) -> Result<()> {
    check::scalar_head_bwd::<Cpu<F>>(dx, dweight.as_deref(), dout, x, weight, c)?;
    if let Some(dweight) = dweight {
        parallel::add_columns(dweight, x, |i, _, x| dout[i] * x);
    }
    for (dx, &d) in dx.chunks_exact_mut(c.max(1)).zip(&dout[..]) {
        dx.iter_mut().zip(&weight[..]).for_each(|(dx, &w)| *dx = d * w);
    }
    Ok(())
}
