//! Launches of kernels/swiglu.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::error::Result;

fn grid(t: usize, f: usize) -> Grid {
    Grid::xy(t, f.div_ceil(kernel::SWIGLU_COLUMNS as usize))
}

pub(super) fn swiglu_fwd<A: Act>(cuda: &Cuda<A>, out: &mut Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
    let t = check::swiglu_fwd::<Cuda<A>>(out, gate_up, f)?;
    kernel::swiglu_fwd(cuda, grid(t, f), out, gate_up, t as i32, f as i32)
}

pub(super) fn swiglu_bwd<A: Act>(cuda: &Cuda<A>, dgate_up: &mut Buf<A>, dout: &Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
    let t = check::swiglu_bwd::<Cuda<A>>(dgate_up, dout, gate_up, f)?;
    kernel::swiglu_bwd(cuda, grid(t, f), dgate_up, dout, gate_up, t as i32, f as i32)
}
