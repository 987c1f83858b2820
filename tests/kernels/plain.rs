//! Plain arithmetic of a build: what the kernels of tensor-core products are measured by. Inputs and results are of the build's type,
//! sums run in f32 in order, and everything that a straightforward program would store is rounded to the build's type.

use crate::*;

/// A number as the build stores it.
pub fn round<A: Act>(x: f32) -> f32 {
    A::of(f64::from(x)).f64() as f32
}

/// A sum in f32, in order.
pub fn dot(terms: impl IntoIterator<Item = (f32, f32)>) -> f32 {
    terms.into_iter().fold(0.0, |sum, (x, y)| sum + x * y)
}

/// Inputs as f32, which holds both builds' numbers.
pub fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// The largest deviation from `want`.
fn error(got: impl Iterator<Item = f64>, want: &[f64]) -> f64 {
    got.zip(want).fold(0.0, |worst, (g, w)| if g.is_finite() { f64::max(worst, (g - w).abs()) } else { f64::INFINITY })
}

/// The rule for results that many roundings lie behind: the largest error may be twice that of plain arithmetic. Two roundings (`unit`
/// each) of the largest number are always allowed, since plain arithmetic may happen to be exact.
pub fn assert_no_worse(what: &str, got: &[f64], want: &[f64], plain: &[f32], unit: f64) {
    assert_eq!((got.len(), plain.len()), (want.len(), want.len()), "{what}");
    let largest = want.iter().fold(0.0f64, |largest, w| largest.max(w.abs()));
    let (kernel, plain) = (error(got.iter().copied(), want), error(plain.iter().map(|&x| f64::from(x)), want));
    let allowed = f64::max(2.0 * plain, 2.0 * unit * largest);
    assert!(kernel <= allowed, "{what}: off by {kernel:e}, plain arithmetic by {plain:e}, {allowed:e} is allowed");
}
