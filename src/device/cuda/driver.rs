//! What the launch code asks of a machine: memory, launches, plain matrix products, waiting. [`Gpu`] is a GPU; tests put a simulator
//! here, so that launch code, argument order and buffers are the same with and without a GPU.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::c_void;

use super::gpu::Gpu;
use crate::error::{Error, Result};

/// A device pointer.
pub type Pointer = u64;

/// A place in the order of launches, whose time can be asked for: a number of the driver's.
pub type Mark = u64;

/// Blocks of a launch, and the dynamic shared memory of each. Threads of a block are the kernel's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Grid {
    /// So many blocks in a row.
    pub fn x(blocks: usize) -> Grid {
        Grid::xyz(blocks, 1, 1)
    }

    /// Blocks in a plane.
    pub fn xy(x: usize, y: usize) -> Grid {
        Grid::xyz(x, y, 1)
    }

    /// Blocks in space.
    pub fn xyz(x: usize, y: usize, z: usize) -> Grid {
        assert!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "a grid of ({x}, {y}, {z}) blocks");
        Grid { blocks: [x as u32, y as u32, z as u32], shared: 0 }
    }

    /// The same with dynamic shared memory.
    pub fn with_shared(self, bytes: usize) -> Grid {
        Grid { shared: bytes as u32, ..self }
    }

    /// Whether there is nothing to launch.
    pub fn is_empty(self) -> bool {
        self.blocks.contains(&0)
    }
}

/// A kernel of kernels/, as declared there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its name, which is its symbol.
    pub name: &'static str,
    /// The stem of its file.
    pub file: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// The builds that have it: `bf16`, `f32`.
    pub builds: &'static [&'static str],
    /// Bytes of each parameter.
    pub parameters: &'static [usize],
}

/// A tensor in memory and the box of it that one copy moves to or from shared memory: what cuTensorMapEncodeTiled takes. Extents go
/// from the innermost out; there are two or three. Elements of a box outside of the tensor are read as zeros and not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiled<'a> {
    /// The tensor's first element: a multiple of 16.
    pub base: Pointer,
    /// Whether elements are f32; else bf16.
    pub wide: bool,
    /// Elements along each dimension, none of them 0.
    pub extents: &'a [u64],
    /// Bytes from one to the next along each dimension but the innermost: multiples of 16.
    pub strides: &'a [u64],
    /// Elements of the box along each dimension, up to 256.
    pub tile: &'a [u32],
    /// Whether 16-byte pieces change places within 128 bytes in shared memory, which is what a row of the box then has. Else rows lie one
    /// after another.
    pub swizzle: bool,
}

/// What a kernel takes as its `CUtensorMap`: opaque, and good as long as the tensor lives.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap(pub [u64; 16]);

/// A factor of a product: row-major, `stride` elements from one row to the next, element type of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Factor {
    /// Its first element.
    pub pointer: Pointer,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether what is stored is the transpose of the factor.
    pub transposed: bool,
}

/// `out[m, n] = scale * a[m, k] b[k, n] + bias[n]`, added to what is there with `accumulate`. Sums are f32; none of `m`, `n`, `k` is 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matmul {
    /// Rows of `out`.
    pub m: usize,
    /// Columns of `out`.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// `a[m, k]`, or stored as `[k, m]`.
    pub a: Factor,
    /// `b[k, n]`, or stored as `[n, k]`.
    pub b: Factor,
    /// `out[m, n]`, row-major, rows contiguous.
    pub out: Pointer,
    /// Whether `out` holds f32; else activations.
    pub wide: bool,
    /// `bias[n]`, of activations; only where `out` holds them too.
    pub bias: Option<Pointer>,
    /// What the product is multiplied by.
    pub scale: f32,
    /// `+=` instead of `=`.
    pub accumulate: bool,
}

/// Waits for copies to the host, and for what was launched before them; fails where that failed.
pub type Wait = Box<dyn FnOnce() -> Result<()> + Send>;

/// A machine that runs kernels, in the order they are launched. Errors name the kernel or the call.
pub trait Driver: Send + Sync {
    /// What a log line calls it: `NVIDIA H100 80GB HBM3`.
    fn name(&self) -> String;

    /// Multiprocessors: what grids that split their work are sized by.
    fn multiprocessors(&self) -> usize;

    /// `bytes` of memory that starts at a multiple of 256, contents unspecified. `bytes` is not 0.
    fn allocate(&self, bytes: usize) -> Result<Pointer>;

    /// Gives memory back; what was launched before may still use it, what is launched later may get it.
    fn release(&self, pointer: Pointer);

    /// Host to device. The host's memory is free again when this returns.
    fn upload(&self, to: Pointer, from: &[u8]) -> Result<()>;

    /// Device to host for each pair, after everything launched before: one wait for all of them.
    fn download(&self, parts: &mut [(&mut [u8], Pointer)]) -> Result<()>;

    /// Device to device; the ranges do not overlap.
    fn copy(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()>;

    /// Zeros.
    fn clear(&self, to: Pointer, bytes: usize) -> Result<()>;

    /// Launches [`KERNELS`](super::kernel::KERNELS)`[kernel]`. `arguments` point to values as the kernel declares them.
    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()>;

    /// The map of a tensor, for kernels that copy boxes of it.
    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap>;

    /// A plain product.
    fn matmul(&self, product: &Matmul) -> Result<()>;

    /// `bytes` of host memory, not 0, that [`Driver::upload_pinned`] can copy from while the host goes on. Plain memory where there is
    /// no other.
    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        // SAFETY: the layout's size is not 0.
        let memory = unsafe { alloc_zeroed(plain(bytes)) };
        if memory.is_null() {
            return Err(Error::Machine(format!("no memory for {bytes} bytes on the host")));
        }
        Ok(memory)
    }

    /// Gives back what [`Driver::pin`] gave, after every copy from it that was asked for before.
    ///
    /// # Safety
    /// `memory` came from `pin` of this driver, for so many bytes, and is not used any more.
    unsafe fn unpin(&self, memory: *mut u8, bytes: usize) {
        // SAFETY: `pin` gave it, for the same layout.
        unsafe { dealloc(memory, plain(bytes)) };
    }

    /// Host to device, from memory of [`Driver::pin`], in the order of launches. It may be read after this returns: it has to keep its
    /// contents until [`Driver::unpin`].
    fn upload_pinned(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.upload(to, from)
    }

    /// Marks where the order of launches has come to. None where there is no clock that could tell its time.
    fn mark(&self) -> Result<Option<Mark>> {
        Ok(None)
    }

    /// Waits, and gives up `marks`, which are in the order in which they were made: the seconds of each since the first.
    fn read_marks(&self, marks: Vec<Mark>) -> Result<Vec<f64>> {
        Ok(vec![0.0; marks.len()])
    }

    /// Device to host for each `(to, from, bytes)`, to memory of [`Driver::pin`], in the order of launches, while the host goes on.
    /// Nothing that is launched later is waited for.
    ///
    /// # Safety
    /// Each `to` has room, and nobody touches it before the copies have been waited for.
    unsafe fn download_pinned(&self, parts: &[(*mut u8, Pointer, usize)]) -> Result<Wait> {
        for (to, from, bytes) in parts.iter().filter(|(.., bytes)| *bytes > 0) {
            // SAFETY: the caller's memory has room, and is left to this call.
            self.download(&mut [(unsafe { std::slice::from_raw_parts_mut(*to, *bytes) }, *from)])?;
        }
        Ok(Box::new(|| Ok(())))
    }

    /// Whether it can record what it is told, to repeat it as one launch.
    fn records(&self) -> bool {
        false
    }

    /// From here on this thread's launches, products, copies and clears are recorded and not made, until [`Driver::recorded`]. One
    /// thread records at a time; what others launch meanwhile is made.
    fn record(&self) -> Result<()> {
        Err(unrecorded())
    }

    /// Ends recording, and gives what was recorded a number.
    fn recorded(&self) -> Result<u64> {
        Err(unrecorded())
    }

    /// Launches all that was recorded under this number.
    fn replay(&self, _recording: u64) -> Result<()> {
        Err(unrecorded())
    }

    /// Drops what was recorded under this number, once nothing of it runs any more.
    fn forget(&self, _recording: u64) {}

    /// The GPU behind it, for what only a GPU has: collectives. None where kernels are simulated.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }
}

fn unrecorded() -> Error {
    Error::Device { what: "a recording".into(), cause: "this driver does not record".into() }
}

/// Plain memory in place of pinned memory.
fn plain(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 64).expect("no machine has that much memory")
}
