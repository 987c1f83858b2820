//! One call of each operator, and the least work that it is: what the work of its kernels is held against.

use super::kernels::operators;
use super::measure::{Fill, Seen};
use super::shape::Shape;
use crate::device::Device;
use crate::error::Result;

/// The least work of an operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Which.
    pub operator: &'static str,
    /// Kernels that it runs on a GPU, apart from plain matrix products.
    pub kernels: &'static [&'static str],
    /// Multiplications and additions of its matrix products.
    pub flops: f64,
    /// Bytes that it has to read and write, each once.
    pub bytes: f64,
}

/// Tells `each` of every operator and gives it a call to make, whose inputs are there already.
pub fn once<D: Device>(
    device: &D,
    shape: Shape,
    batch: usize,
    seq: usize,
    each: &mut dyn FnMut(Work, &mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<()> {
    for operator in operators::<D>(shape, batch, seq) {
        let mut call = (operator.make)(device, &mut Fill::default())?;
        let work = Work { operator: operator.name, kernels: operator.kernels, flops: operator.flops, bytes: operator.bytes };
        each(work, &mut || call(device, &mut Seen::default()))?;
    }
    Ok(())
}
