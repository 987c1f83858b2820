//! Launching probes without ceremony.

use simulator::{Build, Fault, Launch, Memory, TensorMap, launch};
use std::{ffi::c_void, mem::size_of};

/// An argument of a kernel.
pub enum Arg {
    Pointer(*mut u8),
    Int(i32),
    Long(i64),
    Float(f32),
    Map(Box<TensorMap>),
}

/// A launch in the making: one block of one warp, in the natural order, unless told otherwise.
pub struct Probe {
    pub kernel: &'static str,
    pub build: Build,
    pub grid: [u32; 3],
    pub threads: u32,
    pub cluster: u32,
    pub dynamic: usize,
}

impl Probe {
    pub fn new(kernel: &'static str) -> Self {
        Probe { kernel, build: Build::Bf16, grid: [1, 1, 1], threads: 32, cluster: 1, dynamic: 0 }
    }

    pub fn threads(self, threads: u32) -> Self {
        Probe { threads, ..self }
    }

    pub fn run(&self, args: &mut [Arg], order: u64) -> Result<(), Fault> {
        let value = |arg: &mut Arg| match arg {
            Arg::Pointer(pointer) => (&raw mut *pointer).cast::<c_void>(),
            Arg::Int(value) => (&raw mut *value).cast(),
            Arg::Long(value) => (&raw mut *value).cast(),
            Arg::Float(value) => (&raw mut *value).cast(),
            Arg::Map(map) => (&raw mut **map).cast(),
        };
        let mut args: Vec<*mut c_void> = args.iter_mut().map(value).collect();
        let Probe { kernel, build, grid, threads, cluster, dynamic } = *self;
        launch(&Launch { kernel, build, grid, threads, cluster, dynamic_shared: dynamic, args: &mut args, order })
    }
}

/// A buffer that holds `data`.
pub fn upload<T: Copy>(memory: &Memory, data: &[T]) -> *mut u8 {
    let start = memory.alloc(size_of_val(data));
    // SAFETY: a fresh buffer of that size.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), start.cast(), data.len()) };
    start
}

/// A buffer that nobody has written yet.
pub fn fresh<T>(memory: &Memory, count: usize) -> *mut u8 {
    memory.alloc(count * size_of::<T>())
}

/// What a buffer holds.
pub fn download<T: Copy>(start: *const u8, count: usize) -> Vec<T> {
    // SAFETY: the tests' own buffers, of at least `count` elements.
    unsafe { std::slice::from_raw_parts(start.cast(), count).to_vec() }
}

/// The bits of the nearest bf16; exact for the small whole numbers that tests use.
pub fn bf16(x: f32) -> u16 {
    (x.to_bits() >> 16) as u16
}

/// Every kind of order once, twice each kind with another seed.
pub const ORDERS: std::ops::Range<u64> = 0..7;
