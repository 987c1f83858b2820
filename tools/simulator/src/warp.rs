//! Steps of a whole warp: whoever comes last does the work for all, as the hardware does it for all at once.

use crate::{
    fault::Place,
    machine::{Gather, LANES, Thread, Wait, fail, suspend},
    traffic, wgmma,
};
use std::ffi::{c_char, c_void};

const SYNCWARP: u32 = 0;
const SHUFFLE: u32 = 1;
const VOTE: u32 = 2;
const LDMATRIX: u32 = 3;
const MMA: u32 = 4;
const ELECT: u32 = 5;
pub(crate) const WGMMA_WAIT: u32 = 6;
const NAMES: [&str; 7] = ["__syncwarp", "a shuffle", "a vote", "ldmatrix", "mma", "elect_one", "wgmma_wait"];

#[repr(C)]
struct Shuffle {
    value: u64,
    source: u32,
}

#[repr(C)]
struct Vote {
    predicate: u32,
    ballot: u32,
}

#[repr(C)]
struct Ldmatrix {
    row: *const u16,
    out: *mut u32,
    matrices: u32,
    transpose: u32,
}

#[repr(C)]
struct Mma {
    d: *mut f32,
    a: *const u32,
    b: *const u32,
}

/// A step that the lanes of `mask` take together; each brings a `payload` of the step's kind.
///
/// # Safety
/// Called by a kernel's thread, which is `thread`, with the payload that belongs to `step`.
#[unsafe(no_mangle)]
unsafe extern "C" fn simulator_warp(
    thread: *mut Thread,
    step: u32,
    mask: u32,
    payload: *mut c_void,
    file: *const c_char,
    line: i32,
) {
    // SAFETY: as the caller promises.
    unsafe { self::step(thread, step, mask, payload, Place { file, line }) }
}

/// The same, for the runtime's own steps.
///
/// # Safety
/// `thread` is the one that runs, and the payload belongs to `step`.
pub(crate) unsafe fn step(thread: *mut Thread, step: u32, mask: u32, payload: *mut c_void, place: Place) {
    // SAFETY: the running thread and its warp are live, and nobody else runs.
    unsafe {
        let (warp, bit, name) = ((*thread).warp, 1 << (*thread).lane, NAMES[step as usize]);
        if mask & bit == 0 {
            fail(
                thread,
                place,
                format!("{name} with mask {mask:#010x}, which does not name the calling lane {}", (*thread).lane),
            );
        }
        let gone = mask & !(*warp).alive;
        if gone != 0 && step != SYNCWARP {
            fail(thread, place, absent(name, mask, gone));
        }
        (*thread).payload = payload;
        let gathers = &mut (*warp).gathers;
        let at = gathers.iter().position(|gather| gather.mask == mask && gather.arrived & bit == 0).unwrap_or_else(|| {
            gathers.push(Gather { step, mask, arrived: 0 });
            gathers.len() - 1
        });
        let gather = &mut gathers[at];
        if gather.step != step {
            let other = NAMES[gather.step as usize];
            fail(thread, place, format!("{name} with mask {mask:#010x}, while lanes that it names wait in {other}"));
        }
        gather.arrived |= bit;
        if gather.arrived != mask & (*warp).alive {
            suspend(thread, Wait::Warp(name), place);
            return;
        }
        let arrived = gather.arrived;
        gathers.swap_remove(at);
        let first = thread.sub((*thread).lane as usize);
        if let Err(what) = perform(step, first, arrived) {
            fail(thread, place, what);
        }
        let order = &raw mut (*(*(*thread).block).machine).order;
        (*order).release((*thread).number / LANES, arrived & !bit);
    }
}

fn absent(name: &str, mask: u32, gone: u32) -> String {
    format!("{name} with mask {mask:#010x}, which names lane {}: it has returned or does not exist", gone.trailing_zeros())
}

/// A thread has returned: who waits for it in `__syncwarp` need not, and who waits for it in anything else never will be done.
///
/// # Safety
/// `thread` is one of the running machine that has just returned.
pub(crate) unsafe fn left(thread: *mut Thread) {
    // SAFETY: as the caller promises.
    unsafe {
        let (warp, bit) = ((*thread).warp, 1u32 << (*thread).lane);
        let machine = (*(*thread).block).machine;
        let mut at = 0;
        let gathers = &mut (*warp).gathers;
        while at < gathers.len() {
            let gather = gathers[at];
            if gather.mask & bit == 0 {
                at += 1;
            } else if gather.step != SYNCWARP {
                let waiting = thread.sub((*thread).lane as usize).add(gather.arrived.trailing_zeros() as usize);
                let what = absent(NAMES[gather.step as usize], gather.mask, bit);
                (*machine).fault = Some((*machine).fault_of(waiting, Some((*waiting).place), what));
                return;
            } else if gather.arrived == gather.mask & (*warp).alive {
                (*machine).order.release((*thread).number / LANES, gather.arrived);
                gathers.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }
}

/// The lanes of a set, in order.
fn lanes(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// Does a step for the lanes of `set`, whose lane 0 is `first`.
unsafe fn perform(step: u32, first: *mut Thread, set: u32) -> Result<(), String> {
    // SAFETY: every lane of the set has brought a payload of this step and is suspended on it, or is the one that calls.
    unsafe {
        let payload = move |lane: usize| (*first.add(lane)).payload;
        match step {
            SHUFFLE => {
                let values: [u64; LANES] =
                    std::array::from_fn(|lane| if set >> lane & 1 == 1 { (*payload(lane).cast::<Shuffle>()).value } else { 0 });
                for lane in lanes(set) {
                    let shuffle = payload(lane).cast::<Shuffle>();
                    let source = (*shuffle).source as usize;
                    if source >= LANES || set >> source & 1 == 0 {
                        return Err(format!("lane {lane} shuffles from lane {source}, which mask {set:#010x} does not name"));
                    }
                    (*shuffle).value = values[source];
                }
            }
            VOTE => {
                let ballot = lanes(set).fold(0, |ballot, lane| ballot | (*payload(lane).cast::<Vote>()).predicate << lane);
                lanes(set).for_each(|lane| (*payload(lane).cast::<Vote>()).ballot = ballot);
            }
            LDMATRIX => return ldmatrix(std::array::from_fn(|lane| payload(lane).cast::<Ldmatrix>())),
            MMA => mma(std::array::from_fn(|lane| payload(lane).cast::<Mma>())),
            ELECT => {
                let order = &raw mut (*(*(*first).block).machine).order;
                // Any lane may be the one.
                let elected = if (*order).natural() { 0 } else { (*order).chance(LANES as u64) as usize };
                lanes(set).for_each(|lane| (*payload(lane).cast::<Vote>()).ballot = u32::from(lane == elected));
            }
            WGMMA_WAIT => return wgmma::wait(first, *payload(0).cast::<u32>()),
            _ => {}
        }
        Ok(())
    }
}

/// Up to four 8 x 8 matrices of 16-bit elements, as fragments.
unsafe fn ldmatrix(loads: [*mut Ldmatrix; LANES]) -> Result<(), String> {
    // SAFETY: the caller's payloads; their rows are read as the kernel would, guard pages and all.
    unsafe {
        let matrices = (*loads[0]).matrices as usize;
        for matrix in 0..matrices {
            let mut tile = [[0u16; 8]; 8];
            for (row, elements) in tile.iter_mut().enumerate() {
                let start = (*loads[matrix * 8 + row]).row;
                if !(start as usize).is_multiple_of(16) {
                    return Err(format!("ldmatrix: the row that lane {} gives is not aligned to 16 bytes", matrix * 8 + row));
                }
                *elements = *start.cast::<[u16; 8]>();
            }
            for (lane, load) in loads.iter().enumerate() {
                let (group, pair) = (lane / 4, lane % 4 * 2);
                let (low, high) = match (**load).transpose {
                    0 => (tile[group][pair], tile[group][pair + 1]),
                    _ => (tile[pair][group], tile[pair + 1][group]),
                };
                *(**load).out.add(matrix) = u32::from(low) | u32::from(high) << 16;
            }
        }
        Ok(())
    }
}

/// The two bf16 of a register.
pub(crate) fn halves(word: u32) -> [f32; 2] {
    [f32::from_bits(word << 16), f32::from_bits(word & 0xFFFF_0000)]
}

/// m16n8k16: each element adds its sixteen products to the accumulator in f32, in the order of k. The tensor core's own order and the
/// width of its intermediate sums are not documented.
unsafe fn mma(lanes: [*mut Mma; LANES]) {
    traffic::product(2 * 16 * 8 * 16);
    let (mut a, mut b) = ([[0f32; 16]; 16], [[0f32; 8]; 16]);
    // SAFETY: the caller's payloads: four registers of a, two of b, four accumulators.
    unsafe {
        for (lane, mma) in lanes.iter().enumerate() {
            let (group, pair) = (lane / 4, lane % 4 * 2);
            for register in 0..4 {
                let (row, k) = (group + register % 2 * 8, pair + register / 2 * 8);
                [a[row][k], a[row][k + 1]] = halves(*(**mma).a.add(register));
            }
            for register in 0..2 {
                let k = pair + register * 8;
                [b[k][group], b[k + 1][group]] = halves(*(**mma).b.add(register));
            }
        }
        let mut d = [[0f32; 8]; 16];
        for (lane, mma) in lanes.iter().enumerate() {
            let (group, pair) = (lane / 4, lane % 4 * 2);
            for element in 0..4 {
                d[group + element / 2 * 8][pair + element % 2] = *(**mma).d.add(element);
            }
        }
        for (d, a) in d.iter_mut().zip(&a) {
            for (a, b) in a.iter().zip(&b) {
                d.iter_mut().zip(b).for_each(|(d, b)| *d += a * b);
            }
        }
        for (lane, mma) in lanes.iter().enumerate() {
            let (group, pair) = (lane / 4, lane % 4 * 2);
            for element in 0..4 {
                *(**mma).d.add(element) = d[group + element / 2 * 8][pair + element % 2];
            }
        }
    }
}
