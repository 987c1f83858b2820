//! The simulator as a driver: `Cuda` launches into it as it does into a GPU, so launch code, argument order and buffers are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use half::bf16;
use repairity::device::cuda::Act;
use repairity::device::cuda::driver::{Driver, Factor, Grid, Mark, Matmul, Pointer, TensorMap, Tiled};
use repairity::device::cuda::kernel::KERNELS;
use repairity::error::{Error, Result};
use simulator::{Build, Element, Launch, Memory, Swizzle};

/// What the clock goes on by in a kernel or a copy, and in a plain product.
const KERNEL_MICROS: u64 = 10;
const PRODUCT_MICROS: u64 = 100;

/// A machine of the simulator's for one build of the kernels.
pub struct Simulated {
    memory: Memory,
    bf16: bool,
    order: u64,
    launched: Mutex<BTreeSet<&'static str>>,
    /// Microseconds of a clock that only work and marks move.
    clock: AtomicU64,
    recorder: Mutex<Recorder>,
}

/// What a thread launches while it records, and what was recorded so far, by number.
#[derive(Default)]
struct Recorder {
    now: Option<(ThreadId, Vec<Call>)>,
    done: BTreeMap<u64, Arc<Vec<Call>>>,
    count: u64,
}

/// Bytes of an argument, aligned as any is.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u64; 16]);

/// A call that is recorded: a launch with the bytes of its arguments, as a graph has them.
#[derive(Clone)]
enum Call {
    Launch { kernel: usize, grid: Grid, arguments: Vec<Vec<Line>> },
    Matmul(Matmul),
    Copy { to: Pointer, from: Pointer, bytes: usize },
    Clear { to: Pointer, bytes: usize },
}

impl Simulated {
    /// Threads run in the natural order (0), or in one that this seed shuffles.
    pub fn new<A: Act>(order: u64) -> Arc<Simulated> {
        Arc::new(Simulated {
            memory: Memory::new(),
            bf16: A::BUILD == "bf16",
            order,
            launched: Mutex::default(),
            clock: AtomicU64::new(0),
            recorder: Mutex::default(),
        })
    }

    /// Every kernel that was launched so far.
    pub fn launched(&self) -> BTreeSet<&'static str> {
        self.launched.lock().unwrap().clone()
    }

    /// Whether this call was recorded, and is not to be made now.
    fn is_recorded(&self, call: impl FnOnce() -> Call) -> bool {
        match &mut self.recorder.lock().unwrap().now {
            Some((thread, calls)) if *thread == thread::current().id() => {
                calls.push(call());
                true
            }
            _ => false,
        }
    }

    fn element(&self, at: Pointer, index: usize) -> f32 {
        // SAFETY: the launch code promises that factors lie inside their buffers; guard pages hold it to that.
        unsafe {
            match self.bf16 {
                true => (*(at as *const bf16).add(index)).to_f32(),
                false => *(at as *const f32).add(index),
            }
        }
    }

    /// A factor as contiguous rows of f32.
    fn dense(&self, factor: Factor, rows: usize, columns: usize) -> Vec<f32> {
        let place = |i: usize, j: usize| if factor.transposed { j * factor.stride + i } else { i * factor.stride + j };
        let indices = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
        indices.map(|(i, j)| self.element(factor.pointer, place(i, j))).collect()
    }
}

impl Driver for Simulated {
    fn name(&self) -> String {
        "simulator".into()
    }

    fn multiprocessors(&self) -> usize {
        4
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        Ok(self.memory.alloc(bytes) as Pointer)
    }

    fn release(&self, pointer: Pointer) {
        self.memory.free(pointer as *mut u8);
    }

    fn upload(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.clock.fetch_add(KERNEL_MICROS, Ordering::Relaxed);
        // SAFETY: the buffer is as long as what is uploaded.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    fn download(&self, parts: &mut [(&mut [u8], Pointer)]) -> Result<()> {
        for (to, from) in parts {
            // SAFETY: as above.
            unsafe { to.as_mut_ptr().copy_from_nonoverlapping(*from as *const u8, to.len()) };
        }
        Ok(())
    }

    fn copy(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()> {
        if self.is_recorded(|| Call::Copy { to, from, bytes }) {
            return Ok(());
        }
        self.clock.fetch_add(KERNEL_MICROS, Ordering::Relaxed);
        // SAFETY: the device checked both ranges.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes) };
        Ok(())
    }

    fn clear(&self, to: Pointer, bytes: usize) -> Result<()> {
        if self.is_recorded(|| Call::Clear { to, bytes }) {
            return Ok(());
        }
        self.clock.fetch_add(KERNEL_MICROS, Ordering::Relaxed);
        // SAFETY: the device checked the range.
        unsafe { (to as *mut u8).write_bytes(0, bytes) };
        Ok(())
    }

    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        let recorded = || {
            let read = |(&bytes, &argument): (&usize, &*mut c_void)| {
                let mut lines = vec![Line([0; 16]); bytes.div_ceil(size_of::<Line>())];
                // SAFETY: the argument has so many bytes, and so has `lines`.
                unsafe { lines.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(argument.cast(), bytes) };
                lines
            };
            let arguments = KERNELS[kernel].parameters.iter().zip(arguments.iter()).map(read).collect();
            Call::Launch { kernel, grid, arguments }
        };
        if self.is_recorded(recorded) {
            return Ok(());
        }
        self.clock.fetch_add(KERNEL_MICROS, Ordering::Relaxed);
        let kernel = KERNELS[kernel];
        self.launched.lock().unwrap().insert(kernel.name);
        let launch = Launch {
            kernel: kernel.name,
            build: if self.bf16 { Build::Bf16 } else { Build::F32 },
            grid: grid.blocks,
            threads: kernel.threads,
            cluster: 1,
            dynamic_shared: grid.shared as usize,
            args: arguments,
            order: self.order,
        };
        simulator::launch(&launch).map_err(|fault| Error::Device { what: kernel.name.into(), cause: fault.to_string() })
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        let map = simulator::TensorMap::new(&simulator::Tiled {
            element: if tensor.wide { Element::F32 } else { Element::Bf16 },
            base: tensor.base as *mut u8,
            extents: tensor.extents,
            strides: tensor.strides,
            tile: tensor.tile,
            swizzle: if tensor.swizzle { Swizzle::B128 } else { Swizzle::None },
        });
        let map = map.map_err(|cause| Error::Device { what: "tensor map".into(), cause })?;
        // SAFETY: both are 128 bytes of plain data.
        Ok(TensorMap(unsafe { std::mem::transmute::<simulator::TensorMap, [u64; 16]>(map) }))
    }

    /// In f32 with one rounding, which is what cuBLASLt promises; only the order of its sums is its own.
    fn matmul(&self, product: &Matmul) -> Result<()> {
        if self.is_recorded(|| Call::Matmul(*product)) {
            return Ok(());
        }
        self.clock.fetch_add(PRODUCT_MICROS, Ordering::Relaxed);
        let Matmul { m, n, k, .. } = *product;
        let (a, b) = (self.dense(product.a, m, k), self.dense(product.b, k, n));
        for i in 0..m {
            let mut sums = vec![0.0f32; n];
            for (a, b) in a[i * k..][..k].iter().zip(b.chunks_exact(n)) {
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
            }
            for (j, sum) in sums.into_iter().enumerate() {
                let wide = product.wide || !self.bf16;
                let at = i * n + j;
                let mut value = product.scale * sum + product.bias.map_or(0.0, |bias| self.element(bias, j));
                // SAFETY: the launch code promises room for [m, n]; a guard page holds it to that.
                unsafe {
                    if wide {
                        let out = (product.out as *mut f32).add(at);
                        value += if product.accumulate { *out } else { 0.0 };
                        *out = value;
                    } else {
                        let out = (product.out as *mut bf16).add(at);
                        value += if product.accumulate { (*out).to_f32() } else { 0.0 };
                        *out = bf16::from_f32(value);
                    }
                }
            }
        }
        Ok(())
    }

    /// The clock stands at the mark, and goes on by a microsecond behind it.
    fn mark(&self) -> Result<Option<Mark>> {
        Ok(Some(self.clock.fetch_add(1, Ordering::Relaxed)))
    }

    fn read_marks(&self, marks: Vec<Mark>) -> Result<Vec<f64>> {
        Ok(marks.iter().map(|mark| (mark - marks[0]) as f64 * 1e-6).collect())
    }

    fn records(&self) -> bool {
        true
    }

    fn record(&self) -> Result<()> {
        let before = self.recorder.lock().unwrap().now.replace((thread::current().id(), Vec::new()));
        assert!(before.is_none(), "two threads record");
        Ok(())
    }

    fn recorded(&self) -> Result<u64> {
        let mut recorder = self.recorder.lock().unwrap();
        let (_, calls) = recorder.now.take().expect("recording began");
        recorder.count += 1;
        let number = recorder.count;
        recorder.done.insert(number, Arc::new(calls));
        Ok(number)
    }

    fn replay(&self, recording: u64) -> Result<()> {
        let calls = Arc::clone(&self.recorder.lock().unwrap().done[&recording]);
        calls.iter().cloned().try_for_each(|call| match call {
            Call::Launch { kernel, grid, mut arguments } => {
                let mut pointers: Vec<*mut c_void> = arguments.iter_mut().map(|lines| lines.as_mut_ptr().cast()).collect();
                self.launch(kernel, grid, &mut pointers)
            }
            Call::Matmul(product) => self.matmul(&product),
            Call::Copy { to, from, bytes } => self.copy(to, from, bytes),
            Call::Clear { to, bytes } => self.clear(to, bytes),
        })
    }

    fn forget(&self, recording: u64) {
        self.recorder.lock().unwrap().done.remove(&recording).expect("a recording is forgotten once");
    }
}
