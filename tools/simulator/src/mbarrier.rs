//! Barriers in shared memory that count arrivals and bytes. Their state is in the barrier's own eight bytes, so one that was never
//! initialised, or was written over, is told.

use crate::{
    fault::Place,
    machine::{Block, LANES, Machine, Thread, Wait, fail, suspend},
};
use std::ffi::c_char;

const INIT: u32 = 0;
const ARRIVE: u32 = 1;
const ARRIVE_REMOTE: u32 = 2;
const EXPECT: u32 = 3;
/// Arrivals and bytes at most, by the PTX ISA.
const MOST: i64 = (1 << 20) - 1;
/// The two bits that an initialised barrier has and neither poison nor zero does.
const MARK: u64 = 0b10;

/// A barrier's content.
#[derive(Clone, Copy)]
struct State {
    /// Parity of the phase under way.
    parity: u64,
    /// Arrivals that complete a phase, and those that are still missing in this one.
    arrivals: i64,
    missing: i64,
    /// Bytes that are expected less those that have come.
    bytes: i64,
}

impl State {
    unsafe fn load(bar: *const u64) -> Option<Self> {
        // SAFETY: the caller's barrier lies in shared memory.
        let word = unsafe { *bar };
        let field = |at: u32, bits: u32| (word >> at & ((1 << bits) - 1)) as i64;
        let state = State { parity: word >> 61 & 1, arrivals: field(0, 20), missing: field(20, 20), bytes: field(40, 21) - MOST };
        (word >> 62 == MARK).then_some(state)
    }

    unsafe fn store(self, bar: *mut u64) {
        let State { parity, arrivals, missing, bytes } = self;
        let word = MARK << 62 | parity << 61 | ((bytes + MOST) as u64) << 40 | (missing as u64) << 20 | arrivals as u64;
        // SAFETY: as in `load`.
        unsafe { *bar = word }
    }
}

/// A thread that waits for a phase.
pub(crate) struct Waiter {
    bar: *mut u64,
    parity: u64,
    number: usize,
}

/// The place in another block's window that corresponds to one in a block's own; None: it is not in the window.
pub(crate) unsafe fn corresponding(own: *const Block, other: *const Block, address: usize) -> Option<usize> {
    // SAFETY: blocks of the running machine.
    unsafe {
        let offset = address.wrapping_sub((*own).shared as usize);
        (offset < crate::shared::WINDOW).then(|| (*other).shared as usize + offset)
    }
}

/// A step of a barrier.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_mbarrier(
    thread: *mut Thread,
    step: u32,
    bar: *mut u64,
    value: u32,
    file: *const c_char,
    line: i32,
) {
    let place = Place { file, line };
    // SAFETY: the running thread, its block and its machine are live; the barrier's address is checked to lie in shared memory.
    unsafe {
        let block = (*thread).block;
        let machine = (*block).machine;
        if corresponding(block, block, bar as usize).is_none() || !(bar as usize).is_multiple_of(8) {
            fail(thread, place, format!("an mbarrier at {bar:p}: expected 8 aligned bytes of the block's shared memory"));
        }
        match step {
            INIT => {
                if value == 0 || i64::from(value) > MOST {
                    fail(thread, place, format!("an mbarrier for {value} arrivals: expected 1 to {MOST}"));
                }
                let arrivals = i64::from(value);
                State { parity: 0, arrivals, missing: arrivals, bytes: 0 }.store(bar);
            }
            ARRIVE => arrive(machine, bar, 1, 0).unwrap_or_else(|what| fail(thread, place, what)),
            ARRIVE_REMOTE => {
                let remote = remote(thread, bar as usize, value).unwrap_or_else(|what| fail(thread, place, what));
                arrive(machine, remote as *mut u64, 1, 0).unwrap_or_else(|what| fail(thread, place, what));
            }
            EXPECT => arrive(machine, bar, 0, i64::from(value)).unwrap_or_else(|what| fail(thread, place, what)),
            _ => {
                let Some(state) = State::load(bar) else { fail(thread, place, UNINITIALISED.to_string()) };
                if state.parity == u64::from(value & 1) {
                    (*machine).waiters.push(Waiter { bar, parity: state.parity, number: (*thread).number });
                    suspend(thread, Wait::Mbarrier(value & 1), place);
                }
            }
        }
    }
}

const UNINITIALISED: &str = "an mbarrier that was not initialised, or was written over";

/// The place of another block of the cluster that corresponds to an own one.
///
/// # Safety
/// `thread` is the one that runs.
pub(crate) unsafe fn remote(thread: *const Thread, address: usize, rank: u32) -> Result<usize, String> {
    // SAFETY: as the caller promises.
    unsafe {
        let block = (*thread).block;
        let machine = (*block).machine;
        if rank >= (*machine).cluster {
            return Err(format!("block {rank} of a cluster of {}", (*machine).cluster));
        }
        let other = &raw const (*machine).blocks[rank as usize];
        if (*other).alive == 0 {
            return Err(format!("shared memory of block {rank} of the cluster, which has returned"));
        }
        corresponding(block, other, address).ok_or_else(|| format!("{address:#x} is not in the block's shared memory"))
    }
}

/// Counts arrivals and bytes at a barrier, which may complete its phase.
///
/// # Safety
/// `bar` lies in the shared memory of a block of the machine.
pub(crate) unsafe fn arrive(machine: *mut Machine, bar: *mut u64, arrivals: i64, bytes: i64) -> Result<(), String> {
    // SAFETY: as the caller promises.
    unsafe {
        let mut state = State::load(bar).ok_or(UNINITIALISED)?;
        state.bytes += bytes;
        if state.bytes.abs() > MOST {
            return Err(format!("an mbarrier with {} bytes under way: at most {MOST} can be counted", state.bytes));
        }
        state.missing -= arrivals;
        if state.missing < 0 {
            return Err(format!(
                "an arrival too many at an mbarrier for {}, whose phase still waits for {} bytes",
                state.arrivals, state.bytes
            ));
        }
        if state.missing == 0 && state.bytes == 0 {
            state.parity ^= 1;
            state.missing = state.arrivals;
            let order = &mut (*machine).order;
            (*machine).waiters.retain(|waiter| {
                let done = waiter.bar == bar && waiter.parity != state.parity;
                if done {
                    order.release(waiter.number / LANES, 1 << (waiter.number % LANES));
                }
                !done
            });
        }
        state.store(bar);
        Ok(())
    }
}
