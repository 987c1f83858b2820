//! Launches of kernels/linear_sm90.cu: a product and a low-rank one beside it, rounded once.

use super::buffer::{Read, Write};
use super::driver::{Driver, Factor, Grid, Matmul, Pointer, TensorMap, Tiled};
use super::{Act, Cuda, kernel};
use crate::error::Result;

/// A second product that is added to the first before anything is rounded: `z[m, r] b`. Its factor comes in the layout of the first
/// product's `b`. A scale, where there is one, is in `z` or in `b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// `z[m, r]`, of activations.
    pub z: Pointer,
    /// Elements from one row of `z` to the next.
    pub z_stride: usize,
    /// `b[n, r]` where the first product's `b` is stored as `[n, k]`; `b[r, n]` where it is stored as `[k, n]`.
    pub b: Pointer,
    /// Elements from one row of `b` to the next.
    pub b_stride: usize,
    /// What is summed over.
    pub r: usize,
}

/// An address as kernels take buffers.
pub(super) struct At(pub(super) Pointer);

impl<T> Read<T> for At {
    fn pointer(&self) -> Pointer {
        self.0
    }
}

impl<T> Write<T> for At {
    fn pointer(&mut self) -> Pointer {
        self.0
    }
}

/// Elements of 16 bytes of bf16: what rows of tensor maps are multiples of.
const PIECE: usize = 8;

/// Whether rows of activations that are `stride` elements apart can be copied in boxes.
fn tileable(pointer: Pointer, stride: usize) -> bool {
    pointer.is_multiple_of(16) && stride.is_multiple_of(PIECE)
}

/// A row-major matrix of bf16, in boxes of `high` rows and 64 columns, swizzled.
pub(super) fn boxes(
    driver: &dyn Driver,
    base: Pointer,
    rows: usize,
    columns: usize,
    stride: usize,
    high: u32,
) -> Result<TensorMap> {
    let (extents, strides) = ([columns as u64, rows as u64], [2 * stride as u64]);
    driver.tensor_map(&Tiled { base, wide: false, extents: &extents, strides: &strides, tile: &[64, high], swizzle: true })
}

/// Blocks that stay and take `tiles` in turns.
pub(super) fn persistent<A: Act>(cuda: &Cuda<A>, tiles: usize) -> Grid {
    Grid::x(tiles.min(cuda.driver.multiprocessors())).with_shared(kernel::GEMM_SHARED as usize)
}

/// Whether kernels/linear_sm90.cu has this product: bf16 in whole 16-byte pieces, `a` as it is stored, `out` of activations.
fn fits<A: Act>(product: &Matmul, tail: Option<Tail>) -> bool {
    let Matmul { m, n, k, a, b, out, wide, bias, scale, .. } = *product;
    let factor = |factor: Factor| tileable(factor.pointer, factor.stride);
    A::BUILD == "bf16"
        && m * n * k > 0
        && factor(a)
        && factor(b)
        && !a.transposed
        && tileable(out, n)
        && !wide
        && bias.is_none_or(|bias| bias.is_multiple_of(4))
        && scale == 1.0
        && tail.is_none_or(|tail| tileable(tail.z, tail.z_stride) && tileable(tail.b, tail.b_stride))
}

/// `product`, and with it `tail`. Where no kernel of ours has these extents (rows that are not whole 16-byte pieces, the f32 build) the
/// library multiplies, and what lies between the two products is rounded once more.
pub fn gemm<A: Act>(cuda: &Cuda<A>, product: &Matmul, tail: Option<Tail>) -> Result<()> {
    let tail = tail.filter(|tail| tail.r > 0);
    if !fits::<A>(product, tail) {
        cuda.matmul(*product)?;
        let Some(Tail { z, z_stride, b, b_stride, r }) = tail else { return Ok(()) };
        let a = Factor { pointer: z, stride: z_stride, transposed: false };
        let b = Factor { pointer: b, stride: b_stride, transposed: product.b.transposed };
        return cuda.matmul(Matmul { k: r, a, b, bias: None, accumulate: true, ..*product });
    }
    let Matmul { m, n, k, a, b, out, bias, accumulate, .. } = *product;
    let tiles = |columns: u32| m.div_ceil(kernel::GEMM_M as usize) * n.div_ceil(columns as usize);
    // Narrow tiles need twice the bytes for an operation, so they pay where few wide ones would leave most multiprocessors idle.
    let wide = tiles(kernel::GEMM_NARROW) > cuda.driver.multiprocessors();
    let columns = if wide { kernel::GEMM_N } else { kernel::GEMM_NARROW };
    let driver = &*cuda.driver;
    let left = |pointer, length, stride| boxes(driver, pointer, m, length, stride, kernel::GEMM_M);
    let right = |pointer, length, stride| match b.transposed {
        true => boxes(driver, pointer, n, length, stride, columns),
        false => boxes(driver, pointer, length, n, stride, kernel::GEMM_K),
    };
    let (x, w, to) = (left(a.pointer, k, a.stride)?, right(b.pointer, k, b.stride)?, boxes(driver, out, m, n, n, 64)?);
    let (z, of_z) = match tail {
        Some(tail) => (left(tail.z, tail.r, tail.z_stride)?, right(tail.b, tail.r, tail.b_stride)?),
        None => (x, w),
    };
    let launch = if b.transposed { kernel::linear_nt } else { kernel::linear_nn };
    let [t, n, k, r] = [m, n, k, tail.map_or(0, |tail| tail.r)].map(|x| x as i32);
    let (wide_tiles, accumulate) = (i32::from(wide), i32::from(accumulate));
    let (out, bias) = (At(out), At(bias.unwrap_or(0)));
    launch(cuda, persistent(cuda, tiles(columns)), &x, &w, &z, &of_z, &to, &out, &bias, t, n, k, r, wide_tiles, accumulate)
}
