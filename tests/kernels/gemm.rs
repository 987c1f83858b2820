//! kernels/linear_sm90.cu: products with a low-rank one beside them, and what the library does in their place.

use repairity::device::cuda::driver::{Factor, Matmul};
use repairity::device::cuda::gemm::{Tail, gemm};

use crate::plain::{assert_no_worse, dot, round, single};
use crate::*;

/// A product, and what it is given.
#[derive(Debug, Clone, Copy)]
struct Case {
    mnk: (usize, usize, usize),
    /// Rank, and elements from one row of the branch's factors to the next; those of a factor that is stored as `[r, n]` are `n`.
    tail: Option<(usize, usize)>,
    /// Whether `b` is stored as `[n, k]`.
    transposed: bool,
    bias: bool,
    accumulate: bool,
}

/// A matrix and where its rows begin.
struct Matrix {
    numbers: Vec<f64>,
    stride: usize,
}

impl Matrix {
    /// Rows of `columns` numbers, and what is not theirs up to the next row.
    fn new<A: Act>(rows: usize, columns: usize, stride: usize, seed: u64) -> Matrix {
        let mut numbers = normal::<A>(rows * stride, seed);
        numbers.iter_mut().enumerate().filter(|(i, _)| i % stride >= columns).for_each(|(_, x)| *x = f64::NAN);
        Matrix { numbers, stride }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.numbers[row * self.stride + column]
    }
}

struct Inputs {
    x: Matrix,
    w: Matrix,
    z: Matrix,
    b: Matrix,
    bias: Vec<f64>,
    out: Vec<f64>,
}

impl Case {
    fn forward(mnk: (usize, usize, usize), tail: (usize, usize)) -> Case {
        Case { mnk, tail: Some(tail), transposed: true, bias: true, accumulate: false }
    }

    fn backward(mnk: (usize, usize, usize), tail: (usize, usize)) -> Case {
        Case { mnk, tail: Some(tail), transposed: false, bias: false, accumulate: true }
    }

    fn inputs<A: Act>(&self) -> Inputs {
        let (m, n, k) = self.mnk;
        let (r, stride) = self.tail.unwrap_or((1, 1));
        let right = |k: usize, stride: usize, seed: u64| match self.transposed {
            true => Matrix::new::<A>(n, k, stride, seed),
            false => Matrix::new::<A>(k, n, n, seed),
        };
        Inputs {
            x: Matrix::new::<A>(m, k, k, 1),
            w: right(k, k, 2),
            z: Matrix::new::<A>(m, r, stride, 3),
            b: right(r, stride, 4),
            bias: normal::<A>(n, 5),
            out: normal::<A>(m * n, 6),
        }
    }

    fn run<A: Act>(&self, cuda: &Cuda<A>, inputs: &Inputs) -> Outputs {
        let (m, n, k) = self.mnk;
        let buf = |numbers: &[f64]| upload::<_, A>(cuda, numbers);
        let [x, w, z, b] = [&inputs.x, &inputs.w, &inputs.z, &inputs.b].map(|matrix| buf(&matrix.numbers));
        let bias = buf(&inputs.bias);
        let out: Buf<A> = if self.accumulate { buf(&inputs.out) } else { unset(cuda, m * n) };
        let product = Matmul {
            m,
            n,
            k,
            a: Factor { pointer: x.address(), stride: k, transposed: false },
            b: Factor { pointer: w.address(), stride: inputs.w.stride, transposed: self.transposed },
            out: out.address(),
            wide: false,
            bias: self.bias.then(|| bias.address()),
            scale: 1.0,
            accumulate: self.accumulate,
        };
        let (z_stride, b_stride) = (inputs.z.stride, inputs.b.stride);
        let tail = self.tail.map(|(r, _)| Tail { z: z.address(), z_stride, b: b.address(), b_stride, r });
        gemm(cuda, &product, tail).unwrap();
        vec![("out", host::<_, A>(cuda, &out))]
    }

    /// What element (i, j) is the sum of, in order: the product's terms and the branch's, then what is there before, then the bias.
    fn terms(&self, inputs: &Inputs, i: usize, j: usize) -> Vec<(f64, f64)> {
        let (_, n, k) = self.mnk;
        let right = |matrix: &Matrix, k: usize| if self.transposed { matrix.at(j, k) } else { matrix.at(k, j) };
        let mut terms: Vec<_> = (0..k).map(|k| (inputs.x.at(i, k), right(&inputs.w, k))).collect();
        let r = self.tail.map_or(0, |(r, _)| r);
        terms.extend((0..r).map(|r| (inputs.z.at(i, r), right(&inputs.b, r))));
        terms.extend(self.bias.then(|| (1.0, inputs.bias[j])));
        terms.extend(self.accumulate.then(|| (1.0, inputs.out[i * n + j])));
        terms
    }
}

fn check<A: OnGpu>(place: Place, case: Case, ours: bool) {
    let kernel = if case.transposed { "linear_nt" } else { "linear_nn" };
    let kernels: &[&str] = if ours && A::BUILD == "bf16" { &[kernel] } else { &[] };
    let inputs = case.inputs::<A>();
    let Some(got) = bits::<A>(place, kernels, |cuda| case.run(cuda, &inputs)) else { return };
    let (m, n, _) = case.mnk;
    let elements: Vec<Vec<(f64, f64)>> =
        (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| case.terms(&inputs, i, j)).collect();
    let want: Vec<f64> = elements.iter().map(|terms| terms.iter().map(|(x, y)| x * y).sum()).collect();
    let narrow = |terms: &Vec<(f64, f64)>| {
        let (x, y): (Vec<f64>, Vec<f64>) = terms.iter().copied().unzip();
        round::<A>(dot(single(&x).into_iter().zip(single(&y))))
    };
    let plain: Vec<f32> = elements.iter().map(narrow).collect();
    assert_no_worse(&format!("{case:?}"), &got[0].1, &want, &plain, unit::<A>());
}

/// One row, one piece of a row, extents that are no multiples of a tile, tiles in a row, in a column and next to each other, more tiles than
/// blocks, more steps of k than stages; ranks of less than a step, of a whole one and of more.
fn products<A: OnGpu>(place: Place) {
    for case in [
        Case::forward((1, 8, 8), (4, 8)),
        Case::forward((70, 136, 72), (8, 8)),
        Case::forward((130, 520, 136), (12, 16)),
        Case::forward((300, 264, 328), (64, 64)),
        Case::backward((1, 8, 8), (4, 8)),
        Case::backward((70, 136, 72), (8, 8)),
        Case::backward((130, 520, 136), (12, 16)),
        Case::backward((300, 264, 328), (68, 72)),
    ] {
        check::<A>(place, case, true);
    }
}

/// No branch, or one of no rank; no bias; nothing that is added to.
fn without<A: OnGpu>(place: Place) {
    for transposed in [false, true] {
        let case = Case { mnk: (20, 72, 40), tail: None, transposed, bias: false, accumulate: false };
        check::<A>(place, case, true);
        check::<A>(place, Case { tail: Some((0, 8)), ..case }, true);
    }
}

/// More rows of tiles than are taken side by side.
fn bands<A: OnGpu>(place: Place) {
    check::<A>(place, Case::forward((17 * 128 + 5, 264, 8), (4, 8)), true);
}

/// Rows that are not whole 16-byte pieces are the library's, as are products of nothing.
fn library<A: OnGpu>(place: Place) {
    for case in [
        Case::forward((5, 12, 16), (4, 8)),
        Case::forward((5, 16, 12), (4, 8)),
        Case::forward((5, 16, 16), (4, 4)),
        Case::backward((5, 12, 16), (4, 8)),
        Case::forward((0, 16, 16), (4, 8)),
        Case { bias: false, ..Case::forward((5, 16, 0), (4, 8)) },
    ] {
        check::<A>(place, case, false);
    }
}

kernels!(products, without, bands, library);
