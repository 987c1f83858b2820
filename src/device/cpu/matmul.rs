//! Matrix products with strides. Large ones go to the gemm crate; products with few rows read the weights once, at the speed of
//! memory. The thread count never shows in the bits: threads divide the output, never the sum.

use gemm::Parallelism;
use rayon::prelude::*;

use super::simd::{dispatch, dot, dot_pair};
use super::{Float, parallel};

/// A matrix to read: element `[i, j]` stands at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a, F> {
    data: &'a [F],
    row: usize,
    col: usize,
}

impl<'a, F> Mat<'a, F> {
    /// Row-major, with `stride` elements from one row to the next.
    pub(super) fn new(data: &'a [F], stride: usize) -> Self {
        Mat { data, row: stride, col: 1 }
    }

    /// The transpose.
    pub(super) fn t(self) -> Self {
        Mat { data: self.data, row: self.col, col: self.row }
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// Where a product goes: row-major, `stride` elements from one row to the next, and whether it is added to what is there.
pub(super) struct Out<'a, F> {
    /// Starts at element `[0, 0]`.
    pub(super) data: &'a mut [F],
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// `+=` instead of `=`.
    pub(super) add: bool,
}

/// Up to so many rows the product is bound by reading the other factor, and dot products beat packing it.
const FEW_ROWS: usize = 8;

/// `out[m, n] (+)= scale * a[m, k] b[k, n]`, on all threads or on this one.
pub(super) fn matmul<F: Float>(
    out: Out<'_, F>,
    scale: F,
    a: Mat<'_, F>,
    b: Mat<'_, F>,
    (m, n, k): (usize, usize, usize),
    threads: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out.stride + n <= out.data.len(), "matmul: output too short");
    if k == 0 {
        if !out.add {
            out.data.chunks_mut(out.stride).take(m).for_each(|row| row[..n].fill(F::ZERO));
        }
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n), "matmul: factor too short");
    if m <= FEW_ROWS && a.col == 1 && b.row == 1 {
        return few_rows(out, scale, a, b, (m, n, k), threads);
    }
    let parallelism = if threads { Parallelism::Rayon(0) } else { Parallelism::None };
    let strides = [out.stride, a.row, a.col, b.row, b.col].map(|s| s as isize);
    let [out_row, a_row, a_col, b_row, b_col] = strides;
    let keep = if out.add { F::ONE } else { F::ZERO };
    // SAFETY: the three matrices lie inside their slices, as checked above, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out_row,
            out.add,
            a.data.as_ptr(),
            a_col,
            a_row,
            b.data.as_ptr(),
            b_col,
            b_row,
            keep,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// [`matmul`] where the rows of `a` and the columns of `b` are contiguous: dot products, a column of `b` at a time.
fn few_rows<F: Float>(out: Out<'_, F>, scale: F, a: Mat<'_, F>, b: Mat<'_, F>, (m, n, k): (usize, usize, usize), threads: bool) {
    let row = |i: usize| &a.data[i * a.row..][..k];
    let columns = |first: usize, products: &mut [F]| {
        dispatch(
            #[inline(always)]
            || {
                for (j, products) in products.chunks_exact_mut(m).enumerate() {
                    let column = &b.data[(first + j) * b.col..][..k];
                    let mut pairs = products.chunks_exact_mut(2);
                    for (i, pair) in pairs.by_ref().enumerate() {
                        pair.copy_from_slice(&dot_pair(row(2 * i), row(2 * i + 1), column));
                    }
                    if let [last] = pairs.into_remainder() {
                        *last = dot(row(m - 1), column);
                    }
                }
            },
        );
    };
    let mut products = vec![F::ZERO; n * m];
    let block = (4 * parallel::GRAIN / k).clamp(1, n);
    if threads && n > block {
        products.par_chunks_mut(block * m).enumerate().for_each(|(i, part)| columns(i * block, part));
    } else {
        columns(0, &mut products);
    }
    let add = out.add;
    for (i, row) in out.data.chunks_mut(out.stride).take(m).enumerate() {
        for (out, product) in row[..n].iter_mut().zip(products.chunks_exact(m)) {
            let product = product[i] * scale;
            *out = if add { *out + product } else { product };
        }
    }
}
