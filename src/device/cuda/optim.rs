//! Launches of kernels/optim.cu.

use super::driver::Grid;
use super::rows::flat;
use super::{Act, Buf, Cuda, check, kernel, scratch};
use crate::device::{AdamW, Device};
use crate::error::Result;

pub(super) fn sum_squares<A: Act>(cuda: &Cuda<A>, out: &mut Buf<f32>, at: usize, x: &Buf<f32>) -> Result<()> {
    check::element::<Cuda<A>>("sum_squares: out", out, at)?;
    let parts = scratch::square_parts(x.len);
    let mut partial = cuda.empty::<f64>(parts)?;
    kernel::sum_squares_partial(cuda, Grid::x(parts), &mut partial, x, x.len as i64, parts as i32)?;
    kernel::sum_squares_finish(cuda, Grid::x(1), out, at as i32, &partial, parts as i32)
}

pub(super) fn adamw<A: Act>(
    cuda: &Cuda<A>,
    param: &mut Buf<A>,
    master: &mut Buf<f32>,
    m: &mut Buf<f32>,
    v: &mut Buf<f32>,
    grad: &Buf<f32>,
    hyper: AdamW,
) -> Result<()> {
    let n = check::adamw::<Cuda<A>>(param, master, m, v, grad)?;
    let AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale } = hyper;
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    // Constants are combined in f64 and rounded once, as on the CPU.
    let [rate, widen, decay, eps, grad_scale, old1, new1, old2, new2] = [
        lr / correction(beta1),
        1.0 / correction(beta2),
        lr * weight_decay,
        eps,
        grad_scale,
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
    ]
    .map(|x| x as f32);
    kernel::adamw(cuda, flat(n), param, master, m, v, grad, n as i64, rate, widen, decay, eps, grad_scale, old1, new1, old2, new2)
}
