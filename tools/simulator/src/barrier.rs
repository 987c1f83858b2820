//! The sixteen barriers of a block.

use crate::{
    fault::Place,
    machine::{Barrier, Block, LANES, Thread, WARPS, Wait, fail, suspend},
};
use std::ffi::c_char;

/// `bar.sync` and, with `arrive`, `bar.arrive`. `count` 0 is `__syncthreads`: every thread of the block that has not returned, and all
/// of them at the same line.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_barrier(thread: *mut Thread, id: i32, count: i32, arrive: i32, file: *const c_char, line: i32) {
    let place = Place { file, line };
    // SAFETY: the running thread, its block and its machine are live, and nobody else runs.
    unsafe {
        let block = (*thread).block;
        if !(0..16).contains(&id) {
            fail(thread, place, format!("barrier {id}: a block has barriers 0 to 15"));
        }
        let extent = (*block).extent.x;
        if count < 0 || count as u32 > extent.next_multiple_of(LANES as u32) || !(count as u32).is_multiple_of(LANES as u32) {
            fail(
                thread,
                place,
                format!("barrier {id} for {count} threads: expected a multiple of 32, at most the block's {extent}"),
            );
        }
        let barrier = &raw mut (*block).barriers[id as usize];
        if (*barrier).arrived == 0 {
            (*barrier).count = count as u32;
            (*barrier).place = place;
        } else if (*barrier).count != count as u32 {
            let (first, expected) = ((*barrier).place, (*barrier).count);
            fail(thread, place, format!("barrier {id} for {count} threads, but others are at it for {expected} at {first}"));
        } else if count == 0 && (*barrier).place != place {
            let (first, arrived) = ((*barrier).place, (*barrier).arrived);
            fail(thread, place, format!("__syncthreads here, but {arrived} threads of the block wait in the one at {first}"));
        }
        (*barrier).arrived += 1;
        let number = (*thread).number % (LANES * WARPS);
        let complete = full(block, barrier);
        if arrive == 0 {
            (*barrier).waiting[number / LANES] |= 1 << (number % LANES);
        }
        if !complete {
            if arrive == 0 {
                suspend(thread, Wait::Barrier(id as u32), place);
            }
            return;
        }
        let order = &raw mut (*(*block).machine).order;
        if arrive == 0 && (*order).natural() {
            // The last one goes straight on.
            (*barrier).waiting[number / LANES] &= !(1 << (number % LANES));
            release(block, barrier);
        } else {
            // Whoever came last has no head start.
            release(block, barrier);
            if arrive == 0 {
                suspend(thread, Wait::Barrier(id as u32), place);
            }
        }
    }
}

/// A block waits for another one that cannot come: in the simulator blocks run one after another, whatever their order.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_overtaken(thread: *mut Thread, seen: u32, value: u32, file: *const c_char, line: i32) {
    // SAFETY: as the caller promises.
    unsafe {
        let what = format!("waits for turn {value} at {seen}, which only a block that has not begun can give");
        fail(thread, Place { file, line }, what)
    }
}

/// A thread of the block has returned: a barrier of all that waited only for it is complete.
///
/// # Safety
/// `block` is a block of the running machine.
pub(crate) unsafe fn left(block: *mut Block) {
    // SAFETY: as the caller promises.
    unsafe {
        for id in 0..16 {
            let barrier = &raw mut (*block).barriers[id];
            if (*barrier).arrived > 0 && (*barrier).count == 0 && full(block, barrier) {
                release(block, barrier);
            }
        }
    }
}

unsafe fn full(block: *const Block, barrier: *const Barrier) -> bool {
    // SAFETY: both belong to the running machine.
    unsafe { (*barrier).arrived == if (*barrier).count == 0 { (*block).alive } else { (*barrier).count } }
}

unsafe fn release(block: *mut Block, barrier: *mut Barrier) {
    // SAFETY: both belong to the running machine.
    unsafe {
        let (order, first) = (&raw mut (*(*block).machine).order, (*block).slot * WARPS);
        for (warp, lanes) in (*barrier).waiting.iter().enumerate() {
            (*order).release(first + warp, *lanes);
        }
        *barrier = Barrier::EMPTY;
    }
}
