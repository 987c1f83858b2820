//! The arithmetic of the inner loops: the floats the CPU computes in, loops compiled for wide vectors, and reductions whose order
//! of summation is fixed. Knows nothing of operators.

use std::fmt::Display;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use crate::device::Real;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What [`Cpu`](super::Cpu) computes in: `f32` or `f64`.
pub trait Float:
    Real
    + sealed::Sealed
    + PartialOrd
    + Display
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Below every number.
    const NEG_INFINITY: Self;
    /// `e^self`. In f32 within 2 units in the last place, without branches, and 0 where the result would be subnormal.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// `self * a + b`, rounded once. Call it only under [`dispatch`]: without the instruction it is a slow library call.
    fn mul_add(self, a: Self, b: Self) -> Self;
}

impl Float for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn exp(self) -> f32 {
        exp_f32(self)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }
}

impl Float for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }
}

/// `e^x = 2^n e^r` with `n = round(x / ln 2)` and `|r| <= ln 2 / 2`. The Taylor polynomial of degree 7 leaves a relative error of
/// `r^8 / 8! < 5.3e-9`, a tenth of a unit in the last place; the rest is rounding. Straight-line, so that loops over it
/// vectorise. NaN stays NaN.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has 9 significant bits, so its product with `n` is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Beyond these the result is not a normal number.
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_83;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    // 2^128 is no f32 where n is 128, so the power goes in as two factors.
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = exponent >> 1;
    let power = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(exponent.wrapping_sub(half));
    if x < LOWEST {
        0.0
    } else if x > HIGHEST {
        f32::INFINITY
    } else {
        y
    }
}

/// Runs `f` compiled for AVX2 and FMA where the processor has them. `f` and what it calls must be `#[inline(always)]`: only code
/// inlined here gets the instructions. This keeps one binary for every machine, without `-C target-cpu`.
#[inline(always)]
pub(super) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both features.
            return unsafe { wide(f) };
        }
    }
    f()
}

/// Partial sums of a reduction: enough independent chains to hide the latency of an add.
const LANES: usize = 32;

/// The sum of the lanes, by halves.
#[inline(always)]
fn fold<F: Float>(mut lanes: [F; LANES]) -> F {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `sum x y`. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn dot<F: Float>(x: &[F], y: &[F]) -> F {
    let mut lanes = [F::ZERO; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail: F = xs.remainder().iter().zip(ys.remainder()).map(|(&a, &b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        for l in 0..LANES {
            lanes[l] = a[l].mul_add(b[l], lanes[l]);
        }
    }
    fold(lanes) + tail
}

/// `[dot(x0, y), dot(x1, y)]` with the same bits as [`dot`], reading `y` once. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn dot_pair<F: Float>(x0: &[F], x1: &[F], y: &[F]) -> [F; 2] {
    let (mut lanes0, mut lanes1) = ([F::ZERO; LANES], [F::ZERO; LANES]);
    let (xs0, xs1, ys) = (x0.chunks_exact(LANES), x1.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail = |xs: &[F], ys: &[F]| xs.iter().zip(ys).map(|(&a, &b)| a * b).sum::<F>();
    let (tail0, tail1) = (tail(xs0.remainder(), ys.remainder()), tail(xs1.remainder(), ys.remainder()));
    for ((a0, a1), b) in xs0.zip(xs1).zip(ys) {
        for l in 0..LANES {
            lanes0[l] = a0[l].mul_add(b[l], lanes0[l]);
            lanes1[l] = a1[l].mul_add(b[l], lanes1[l]);
        }
    }
    [fold(lanes0) + tail0, fold(lanes1) + tail1]
}

/// `sum f(x)`, in lanes. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn sum_of<F: Float>(x: &[F], f: impl Fn(F) -> F) -> F {
    let mut lanes = [F::ZERO; LANES];
    let xs = x.chunks_exact(LANES);
    let tail: F = xs.remainder().iter().map(|&a| f(a)).sum();
    for a in xs {
        for l in 0..LANES {
            lanes[l] += f(a[l]);
        }
    }
    fold(lanes) + tail
}

/// Replaces `x` by `f(x)` and returns the sum of the new values. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn map_sum<F: Float>(x: &mut [F], f: impl Fn(F) -> F) -> F {
    let mut lanes = [F::ZERO; LANES];
    let mut xs = x.chunks_exact_mut(LANES);
    for a in xs.by_ref() {
        for l in 0..LANES {
            a[l] = f(a[l]);
            lanes[l] += a[l];
        }
    }
    let mut tail = F::ZERO;
    for a in xs.into_remainder() {
        *a = f(*a);
        tail += *a;
    }
    fold(lanes) + tail
}

/// `(sum e^(x - top), sum e^(x - top) (x - top))`. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn exp_sums<F: Float>(x: &[F], top: F) -> (F, F) {
    let (mut sums, mut weighted) = ([F::ZERO; LANES], [F::ZERO; LANES]);
    let xs = x.chunks_exact(LANES);
    let (mut tail_sum, mut tail_weighted) = (F::ZERO, F::ZERO);
    for &a in xs.remainder() {
        let e = (a - top).exp();
        tail_sum += e;
        tail_weighted += e * (a - top);
    }
    for a in xs {
        for l in 0..LANES {
            let e = (a[l] - top).exp();
            sums[l] += e;
            weighted[l] += e * (a[l] - top);
        }
    }
    (fold(sums) + tail_sum, fold(weighted) + tail_weighted)
}

/// The largest element, negative infinity of none; NaN is passed over. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn max<F: Float>(x: &[F]) -> F {
    let larger = |a: F, b: F| if b > a { b } else { a };
    let mut lanes = [F::NEG_INFINITY; LANES];
    let xs = x.chunks_exact(LANES);
    let tail = xs.remainder().iter().fold(F::NEG_INFINITY, |a, &b| larger(a, b));
    for a in xs {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], a[l]);
        }
    }
    lanes.into_iter().fold(tail, larger)
}

/// `y += a x`. Call it under [`dispatch`].
#[inline(always)]
pub(super) fn axpy<F: Float>(y: &mut [F], a: F, x: &[F]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        let mut x = -87.336f32;
        while x < 88.72 {
            let want = f64::from(x).exp();
            let got = dispatch(|| Float::exp(x));
            let unit = f64::from((want as f32).next_up() - want as f32);
            worst = worst.max((f64::from(got) - want).abs() / unit);
            x += 0.000_37;
        }
        assert!(worst < 2.0, "{worst} units in the last place");
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(Float::exp(0.0f32), 1.0);
        assert_eq!(Float::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Float::exp(-88.0f32), 0.0);
        assert_eq!(Float::exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(Float::exp(89.0f32), f32::INFINITY);
        assert!(Float::exp(88.72f32).is_finite());
        assert!(Float::exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_reach_every_element_at_every_length() {
        for n in [0, 1, 31, 32, 33, 64, 100] {
            let x: Vec<f64> = (0..n).map(|i| i as f64 + 1.0).collect();
            let ones = vec![1.0; n];
            let want = (n * (n + 1) / 2) as f64;
            assert_eq!(dot(&x, &ones), want);
            assert_eq!(dot_pair(&x, &ones, &ones), [want, n as f64]);
            assert_eq!(sum_of(&x, |x| x), want);
            assert_eq!(map_sum(&mut x.clone(), |x| 2.0 * x), 2.0 * want);
            assert_eq!(max(&x), if n == 0 { f64::NEG_INFINITY } else { n as f64 });
        }
    }
}
