//! Rows over threads. A block of rows is a task; which thread runs it never shows in the result.

use rayon::prelude::*;

/// Elements that are worth a task of their own.
pub(super) const GRAIN: usize = 16 * 1024;

/// Rows of `width` elements that make a task.
fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Calls `f(first row, rows)` on blocks of whole rows of `width` elements. `f` must treat rows independently. Little work stays
/// on the calling thread: waking another costs more.
pub(super) fn rows<T: Send>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let block = rows_per_task(width);
    if data.len() <= block * width {
        f(0, data);
    } else {
        data.par_chunks_mut(block * width).enumerate().for_each(|(i, rows)| f(i * block, rows));
    }
}

/// [`rows`] over two matrices of as many rows, `a[rows, width]` and `b[rows, width_b]`.
pub(super) fn rows2<T: Send, U: Send>(
    (a, width): (&mut [T], usize),
    (b, width_b): (&mut [U], usize),
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    let block = rows_per_task(width.max(width_b));
    if a.len() <= block * width && b.len() <= block * width_b {
        f(0, a, b);
    } else {
        let blocks = a.par_chunks_mut(block * width.max(1)).zip(b.par_chunks_mut(block * width_b.max(1)));
        blocks.enumerate().for_each(|(i, (a, b))| f(i * block, a, b));
    }
}

/// `out[c] += sum_i scale(i) x[i, c]` for `x[rows, c]`, each column in the order of rows: threads take blocks of columns.
pub(super) fn add_columns<F: super::Float>(out: &mut [F], x: &[F], term: impl Fn(usize, usize, F) -> F + Sync) {
    const COLUMNS: usize = 64;
    let c = out.len();
    if c == 0 {
        return;
    }
    let sum = |first: usize, out: &mut [F]| {
        super::simd::dispatch(
            #[inline(always)]
            || {
                for (i, row) in x.chunks_exact(c).enumerate() {
                    for (j, (out, &x)) in out.iter_mut().zip(&row[first..]).enumerate() {
                        *out += term(i, first + j, x);
                    }
                }
            },
        );
    };
    if x.len() <= GRAIN {
        sum(0, out);
    } else {
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(i, out)| sum(i * COLUMNS, out));
    }
}
