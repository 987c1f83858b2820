//! The specification, and the embedded default: plain loops, rayon over rows, the gemm crate for matrix products.

use std::marker::PhantomData;
/// The CPU, computing in `F`: `f32` to run, `f64` for finite differences.
pub struct Cpu<F>(PhantomData<F>);
