//! What the launch code asks of a machine: memory, launches, plain matrix products, waiting. [`Gpu`](super::gpu::Gpu) is a GPU; tests
//! put a simulator here, so that launch code, argument order and buffers are the same with and without a GPU.

use std::ffi::c_void;

use crate::error::Result;

/// A device pointer.
pub type Pointer = u64;

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
}

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

    /// A plain product.
    fn matmul(&self, product: &Matmul) -> Result<()>;
}
