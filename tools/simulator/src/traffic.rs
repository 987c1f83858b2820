//! Counts what kernels ask of device memory and of the tensor cores, so that a kernel's work can be held against the least there is.
//!
//! Copies and tensor-core products are counted in every build. Plain loads and stores are in one whose kernels were compiled with
//! REPAIRITY_TRAFFIC=1: the compiler's thread sanitizer calls a function before each access, and those functions are here.

use crate::memory;
use std::{cell::UnsafeCell, collections::BTreeMap};

/// Whether plain loads and stores are counted in this build.
pub const ACCESSES: bool = cfg!(traffic);

/// What the launches of one kernel asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Launches.
    pub launches: u64,
    /// Bytes of device memory that its threads and copies read, each as often as it was.
    pub read: u64,
    /// Bytes that they wrote.
    pub written: u64,
    /// Different bytes that were read, summed over launches: what a cache that holds everything would still have to load.
    pub distinct_read: u64,
    /// Different bytes that were written.
    pub distinct_written: u64,
    /// Multiplications and additions of the tensor cores.
    pub operations: u64,
}

/// One buffer and which of its bytes were touched.
struct Touched {
    base: usize,
    bytes: usize,
    read: Vec<u64>,
    written: Vec<u64>,
}

/// The counts of this thread, while somebody wants them.
#[derive(Default)]
struct State {
    on: bool,
    buffers: Vec<Touched>,
    now: Counts,
    kernels: BTreeMap<&'static str, Counts>,
}

thread_local! {
    static STATE: UnsafeCell<State> = UnsafeCell::default();
}

/// Calls `f` with this thread's counts. They are used between the steps of one thread's launches only, never while `f` runs.
fn with<R>(f: impl FnOnce(&mut State) -> R) -> R {
    // SAFETY: `f` is one of this file's own, and none of them calls another.
    STATE.with(|state| f(unsafe { &mut *state.get() }))
}

/// What `f` launches on this thread, by kernel. `f` launches no thread of its own, and does not call this.
pub fn counted<R>(f: impl FnOnce() -> R) -> (R, BTreeMap<&'static str, Counts>) {
    with(|state| (state.on, state.kernels) = (true, BTreeMap::new()));
    let result = f();
    let kernels = with(|state| {
        state.on = false;
        std::mem::take(&mut state.kernels)
    });
    (result, kernels)
}

/// Before a launch.
pub(crate) fn begin() {
    with(|state| {
        if state.on {
            state.now = Counts { launches: 1, ..Counts::default() };
            let touched = |(base, bytes): (usize, usize)| {
                let words = bytes.div_ceil(64);
                Touched { base, bytes, read: vec![0; words], written: vec![0; words] }
            };
            state.buffers = memory::live().into_iter().map(touched).collect();
            state.buffers.sort_by_key(|buffer| buffer.base);
        }
    });
}

/// After a launch of this kernel that ended well.
pub(crate) fn end(kernel: &'static str) {
    with(|state| {
        if state.on {
            let ones = |words: &[u64]| words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            let all = state.kernels.entry(kernel).or_default();
            let now = state.now;
            all.launches += now.launches;
            all.read += now.read;
            all.written += now.written;
            all.operations += now.operations;
            for buffer in state.buffers.drain(..) {
                all.distinct_read += ones(&buffer.read);
                all.distinct_written += ones(&buffer.written);
            }
        }
    });
}

/// A product of the tensor cores.
pub(crate) fn product(operations: u64) {
    with(|state| state.now.operations += operations);
}

/// An access to memory; what is no device memory does not count.
pub(crate) fn access(address: usize, bytes: usize, write: bool) {
    with(|state| {
        if !state.on {
            return;
        }
        let at = state.buffers.partition_point(|buffer| buffer.base <= address);
        let Some(buffer) = at.checked_sub(1).map(|at| &mut state.buffers[at]) else { return };
        let first = address - buffer.base;
        if first >= buffer.bytes {
            return;
        }
        let (count, touched) = match write {
            true => (&mut state.now.written, &mut buffer.written),
            false => (&mut state.now.read, &mut buffer.read),
        };
        let last = (first + bytes).min(buffer.bytes);
        *count += (last - first) as u64;
        (first..last).for_each(|byte| touched[byte / 64] |= 1 << (byte % 64));
    });
}

/// What the thread sanitizer's instrumentation calls. Its own runtime is not linked.
#[cfg(traffic)]
mod hooks {
    use super::access;
    use std::ffi::c_void;

    macro_rules! accesses {
        ($($name:ident $bytes:literal $write:literal;)*) => {$(
            #[unsafe(no_mangle)]
            extern "C" fn $name(address: *const c_void) {
                access(address as usize, $bytes, $write);
            }
        )*};
    }

    accesses! {
        __tsan_read1 1 false;
        __tsan_read2 2 false;
        __tsan_read4 4 false;
        __tsan_read8 8 false;
        __tsan_read16 16 false;
        __tsan_unaligned_read2 2 false;
        __tsan_unaligned_read4 4 false;
        __tsan_unaligned_read8 8 false;
        __tsan_unaligned_read16 16 false;
        __tsan_write1 1 true;
        __tsan_write2 2 true;
        __tsan_write4 4 true;
        __tsan_write8 8 true;
        __tsan_write16 16 true;
        __tsan_unaligned_write2 2 true;
        __tsan_unaligned_write4 4 true;
        __tsan_unaligned_write8 8 true;
        __tsan_unaligned_write16 16 true;
    }

    #[unsafe(no_mangle)]
    extern "C" fn __tsan_read_range(address: *const c_void, bytes: usize) {
        access(address as usize, bytes, false);
    }

    #[unsafe(no_mangle)]
    extern "C" fn __tsan_write_range(address: *const c_void, bytes: usize) {
        access(address as usize, bytes, true);
    }

    #[unsafe(no_mangle)]
    extern "C" fn __tsan_init() {}

    #[unsafe(no_mangle)]
    extern "C" fn __tsan_func_entry(_: *const c_void) {}

    #[unsafe(no_mangle)]
    extern "C" fn __tsan_func_exit() {}
}
