//! Launches of kernels/cursor.cu.

use super::driver::Grid;
use super::{Act, Buf, Cuda, check, kernel};
use crate::device::{Cursor, NO_SLOT};
use crate::error::Result;

const _: () = assert!(kernel::NO_SLOT == NO_SLOT, "kernels and host agree");

pub(super) fn advance<A: Act>(cuda: &Cuda<A>, last: &mut Buf<u32>, cursor: &mut Cursor<Cuda<A>>, ids: &Buf<u32>) -> Result<()> {
    let b = check::advance::<Cuda<A>>(cursor, ids)?;
    let grid = Grid::x(b.div_ceil(kernel::ADVANCE_THREADS as usize));
    let (slot_count, Cursor { slots, positions, lengths, counts, keys, draws }) = (last.len as i32, cursor);
    cuda.with_fault(|fault| {
        kernel::advance(cuda, grid, last, positions, lengths, counts, draws, ids, &*slots, &*keys, fault, b as i32, slot_count)
    })
}
