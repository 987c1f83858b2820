//! The operators of the CPU: gradients against finite differences, values worked by hand, f32 against f64, and the laws that hold
//! for all of them (accumulation, extents, bits that do not depend on threads).

mod attention;
mod gradients;
mod laws;
mod losses;
mod sampling;
mod values;

use repairity::device::cpu::{Buf, Float};
use repairity::device::{Branch, Cpu, Device, Dropout, narrow};
use repairity::rng::Rng;

/// `n` standard normal numbers, each exact in f32, so that both precisions read the same.
fn normal(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng::new(seed, "test", n as u64);
    (0..n).map(|_| f64::from(rng.normal() as f32)).collect()
}

fn upload<F: Float>(device: &Cpu<F>, x: &[f64]) -> Buf<F> {
    let x: Vec<F> = x.iter().map(|&x| F::of(x)).collect();
    device.upload(&x).unwrap()
}

/// A buffer of NaN: what an operator that sets its output must not read.
fn unset<F: Float>(device: &Cpu<F>, n: usize) -> Buf<F> {
    upload(device, &vec![f64::NAN; n])
}

fn host<F: Float>(buf: &Buf<F>) -> Vec<f64> {
    buf.iter().map(|x| x.f64()).collect()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len());
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The gradient of `f` at `x` by central differences of step 1e-5.
fn differences(x: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut at = x.to_vec();
    let mut slope = |i: usize| {
        let mut value = |x: f64| {
            at[i] = x;
            f(&at)
        };
        let rise = value(x[i] + STEP) - value(x[i] - STEP);
        at[i] = x[i];
        rise / (2.0 * STEP)
    };
    (0..x.len()).map(&mut slope).collect()
}

/// Gradients against [`differences`]: truncation is `h^2 f''' / 6`, about 2e-11 f''', and rounding `eps |f| / h`, about 2e-11 |f|.
/// Third derivatives and sums here stay below some hundreds, so 1e-7 leaves a margin of ten and still sees any wrong term.
fn assert_gradient(what: &str, got: &[f64], want: &[f64]) {
    assert_close(what, got, want, 1e-7);
}

/// Every element within `tolerance * (1 + |want|)`.
fn assert_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * (1.0 + w.abs()), "{what}[{i}]: {g} where {w} was expected");
    }
}

/// `got` is `before + want`, the accumulation law of weight gradients.
fn assert_added(what: &str, got: &[f64], before: &[f64], want: &[f64]) {
    let sum: Vec<f64> = before.iter().zip(want).map(|(b, w)| b + w).collect();
    assert_gradient(what, got, &sum);
}

/// A linear map with low-rank branches, and its inputs.
#[derive(Clone)]
struct Linear {
    tnk: (usize, usize, usize),
    /// First column, columns, rank, scale.
    branches: Vec<(usize, usize, usize, f32)>,
    dropout: Option<Dropout>,
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Option<Vec<f64>>,
    /// `a, b` of each branch in turn.
    ab: Vec<Vec<f64>>,
}

impl Linear {
    fn new(tnk: (usize, usize, usize), branches: &[(usize, usize, usize, f32)], bias: bool, dropout: Option<Dropout>) -> Linear {
        let (t, n, k) = tnk;
        let ab = branches
            .iter()
            .enumerate()
            .flat_map(|(i, &(_, columns, r, _))| [normal(r * k, 10 + i as u64), normal(columns * r, 20 + i as u64)]);
        Linear {
            tnk,
            branches: branches.to_vec(),
            dropout,
            x: normal(t * k, 1),
            w: normal(n * k, 2),
            bias: bias.then(|| normal(n, 3)),
            ab: ab.collect(),
        }
    }

    fn branches<'a, F: Float>(&self, ab: &'a [Buf<F>]) -> Vec<Branch<'a, Cpu<F>>> {
        let pairs = self.branches.iter().zip(ab.chunks_exact(2)).enumerate();
        pairs
            .map(|(i, (&(column, n, r, scale), ab))| Branch { a: &ab[0], b: &ab[1], column, n, r, scale, stream: 5 + i as u32 })
            .collect()
    }

    fn upload_ab<F: Float>(&self, device: &Cpu<F>) -> Vec<Buf<F>> {
        self.ab.iter().map(|x| upload(device, x)).collect()
    }

    /// The output and `z`.
    fn forward<F: Float>(&self, device: &Cpu<F>) -> (Buf<F>, Buf<F>) {
        let (t, n, _) = self.tnk;
        let ab = self.upload_ab(device);
        let mut out = unset(device, t * n);
        let (x, w) = (upload(device, &self.x), upload(device, &self.w));
        let bias = self.bias.as_ref().map(|b| upload(device, b));
        let branches = self.branches(&ab);
        let mut z = unset(device, t * narrow(&branches));
        device.lora_linear_fwd(&mut out, &mut z, &x, &w, bias.as_ref(), &branches, self.dropout, self.tnk).unwrap();
        (out, z)
    }

    /// `dx`, added to `before` if given, and the gradients of `ab`, added to `dab`.
    fn backward<F: Float>(
        &self,
        device: &Cpu<F>,
        dout: &[f64],
        before: Option<&[f64]>,
        dab: &[Vec<f64>],
    ) -> (Buf<F>, Vec<Buf<F>>) {
        let (t, _, k) = self.tnk;
        let (_, z) = self.forward(device);
        let ab = self.upload_ab(device);
        let mut dx = before.map_or_else(|| unset(device, t * k), |b| upload(device, b));
        let mut dab: Vec<_> = dab.iter().map(|x| upload(device, x)).collect();
        let (x, w, dout) = (upload(device, &self.x), upload(device, &self.w), upload(device, dout));
        let mut dbranches: Vec<_> = dab.iter_mut().collect();
        let (branches, accumulate) = (self.branches(&ab), before.is_some());
        device
            .lora_linear_bwd(Some((&mut dx, accumulate)), &mut dbranches, &dout, &z, &x, &w, &branches, self.dropout, self.tnk)
            .unwrap();
        (dx, dab)
    }
}
