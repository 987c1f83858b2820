//! AdamW and the norm of a gradient.

use rayon::prelude::*;

use super::memory::Buf;
use super::simd::dispatch;
use super::{Cpu, Float, loss, parallel};
use crate::device::{AdamW, check};
use crate::error::Result;

pub(super) fn sum_squares<F: Float>(out: &mut Buf<F>, at: usize, x: &Buf<F>) -> Result<()> {
    check::element::<Cpu<F>>("sum_squares: out", out, at)?;
    out[at] = F::of(loss::sum(x, |x| x * x));
    Ok(())
}

pub(super) fn adamw<F: Float>(
    param: &mut Buf<F>,
    master: &mut Buf<F>,
    m: &mut Buf<F>,
    v: &mut Buf<F>,
    grad: &Buf<F>,
    hyper: AdamW,
) -> Result<()> {
    check::adamw::<Cpu<F>>(param, master, m, v, grad)?;
    let AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale } = hyper;
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let rate = F::of(lr / correction(beta1));
    let widen = F::of(1.0 / correction(beta2));
    let [decay, eps, grad_scale] = [lr * weight_decay, eps, grad_scale].map(F::of);
    let [old1, new1, old2, new2] = [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(F::of);
    let blocks = (param.par_chunks_mut(parallel::GRAIN), master.par_chunks_mut(parallel::GRAIN));
    let moments = (m.par_chunks_mut(parallel::GRAIN), v.par_chunks_mut(parallel::GRAIN));
    let grads = grad.par_chunks(parallel::GRAIN);
    blocks.into_par_iter().zip(moments.into_par_iter()).zip(grads).for_each(|(((param, master), (m, v)), grad)| {
        dispatch(
            #[inline(always)]
            || {
                for ((((param, p), m), v), &grad) in param.iter_mut().zip(master).zip(m).zip(v).zip(grad) {
                    let g = grad_scale * grad;
                    *m = old1 * *m + new1 * g;
                    *v = old2 * *v + new2 * g * g;
                    // `p (1 - lr decay)` as a difference: the factor itself would round to 1 in f32.
                    let decayed = *p - decay * *p;
                    *p = decayed - rate * *m / ((*v * widen).sqrt() + eps);
                    *param = *p;
                }
            },
        );
    });
    Ok(())
}
