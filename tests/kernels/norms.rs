//! What stands between the linear maps: kernels/rmsnorm.cu, rope.cu, swiglu.cu, and the head of one number, scalar_head.cu.

use repairity::device::{Cpu, Device, Heads};

use crate::*;

/// One rounding in f32, relative.
const F32: f64 = 1.0 / 16_777_216.0;

/// Tokens and columns: one element, rows not made of whole vectors, more than a pass of a block, and in both builds rows longer than a
/// block holds, of whole vectors and not.
const ROWS: [(usize, usize); 11] =
    [(0, 5), (1, 1), (3, 3), (2, 8), (5, 12), (3, 40), (2, 1024), (2, 1027), (2, 4104), (1, 8200), (1, 8195)];

/// The launched kernels where there are tokens.
fn where_any(t: usize, kernels: &[&'static str]) -> Vec<&'static str> {
    if t > 0 { kernels.to_vec() } else { vec![] }
}

/// Roundings along the longest path of a block's sum over a row: a thread's own terms, then two butterflies.
fn depth(c: usize) -> f64 {
    (8 * c.div_ceil(1024) + 7) as f64
}

fn rmsnorm_fwd<A: OnGpu>(place: Place) {
    for (t, c) in ROWS {
        let [inp, delta] = [1, 2].map(|seed| normal::<A>(t * c, seed));
        let weight = normal::<A>(c, 3);
        fn norm<D: Device>(d: &D, t: usize, inp: &[f64], weight: &[f64], delta: Option<&[f64]>) -> Outputs {
            let (mut out, mut rstd) = (unset::<D, D::Act>(d, inp.len()), unset::<D, D::Acc>(d, t));
            let (x, w, mut sum) = (upload(d, inp), upload(d, weight), unset::<D, D::Act>(d, inp.len()));
            let delta = delta.map(|delta| upload(d, delta));
            let fused = delta.as_ref().map(|delta| (&mut sum, delta));
            d.rmsnorm_fwd(&mut out, &mut rstd, fused, &x, &w, weight.len(), 1e-6).unwrap();
            vec![("out", host::<D, D::Act>(d, &out)), ("rstd", host::<D, D::Acc>(d, &rstd)), ("sum", host::<D, D::Act>(d, &sum))]
        }
        // The norm is of what is stored: the sum rounded to the build's type.
        let sum: Vec<f64> = inp.iter().zip(&delta).map(|(&a, &b)| A::of(f64::from(a as f32 + b as f32)).f64()).collect();
        for (kernel, delta, x) in [("rmsnorm_fwd", None, &inp), ("rmsnorm_residual_fwd", Some(&delta[..]), &sum)] {
            let outputs = bits::<A>(place, &where_any(t, &[kernel]), |device| norm(device, t, &inp, &weight, delta));
            let Some(outputs) = outputs else { return };
            let want = norm(&exact(), t, x, &weight, None);
            if delta.is_some() {
                assert_eq!(outputs[2].1, sum, "sum, {t} rows of {c}");
            }
            // The sum's error halves under the root; the mean, eps, the root and the quotient round once each.
            let statistic = (depth(c) / 2.0 + 4.0) * F32;
            assert_within(&format!("rstd of {c}"), &outputs[1].1, &want[1].1, |i| statistic * want[1].1[i]);
            let bound = (statistic + 2.0 * F32 + unit::<A>()) * (1.0 + unit::<A>());
            assert_within(&format!("out of {c}"), &outputs[0].1, &want[0].1, |i| bound * want[0].1[i].abs());
        }
    }
}

kernels!(rmsnorm_fwd);

fn rmsnorm_bwd<A: OnGpu>(place: Place) {
    for (t, c) in ROWS {
        let [dout, x, before] = [1, 2, 3].map(|seed| normal::<A>(t * c, seed));
        let weight = normal::<A>(c, 4);
        let rstd = rstd_of(&x, c);
        let inputs = [&dout[..], &rstd, &x, &weight, &before];
        let run = |device: &Cuda<A>| gradients(device, inputs, None);
        let Some(outputs) = bits::<A>(place, &where_any(t, &["rmsnorm_bwd"]), run) else { return };
        let want = &gradients(&exact(), inputs, None)[0].1;
        let along: Vec<f64> = (0..t)
            .map(|i| {
                let terms = (0..c).map(|j| (dout[i * c + j] * weight[j] * x[i * c + j]).abs());
                rstd[i] * rstd[i] * terms.sum::<f64>() / c as f64
            })
            .collect();
        // One rounding for each step of the formula; those of the sum over the row are proportional to its terms.
        let bound = |at: usize| {
            let (i, j) = (at / c, at % c);
            let direct = before[at].abs() + rstd[i] * (dout[at] * weight[j]).abs();
            let arithmetic = F32 * (5.0 * direct + (depth(c) + 8.0) * rstd[i] * x[at].abs() * along[i]);
            unit::<A>() * want[at].abs() + (1.0 + unit::<A>()) * arithmetic
        };
        assert_within(&format!("dx of {c}"), &outputs[0].1, want, bound);
    }
}

kernels!(rmsnorm_bwd);

/// `1 / sqrt(mean x^2 + 1e-6)` of each row, in f32.
fn rstd_of(x: &[f64], c: usize) -> Vec<f64> {
    let mean = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>() / c as f64;
    x.chunks_exact(c).map(|row| f64::from((1.0 / (mean(row) + 1e-6).sqrt()) as f32)).collect()
}

/// Tokens and columns of sums over tokens: rows of whole vectors and not, blocks of columns that are not full, more tokens than a block
/// has rows of threads.
const COLUMNS: [(usize, usize); 6] = [(1, 1), (3, 33), (2, 104), (5, 35), (700, 40), (300, 31)];

/// Roundings along the longest path of a sum over tokens: a thread's own terms, three exchanges, then the warps; a term itself rounds
/// twice.
fn depth_of_columns(t: usize) -> f64 {
    (t.div_ceil(128) + 12) as f64
}

fn rmsnorm_dweight<A: OnGpu>(place: Place) {
    for (t, c) in COLUMNS {
        let [dout, x, before] = [1, 2, 3].map(|seed| normal::<A>(t * c, seed));
        let (weight, before_weight) = (normal::<A>(c, 4), normal::<f32>(c, 5));
        let rstd = rstd_of(&x, c);
        let inputs = [&dout[..], &rstd, &x, &weight, &before];
        let run = |device: &Cuda<A>| gradients(device, inputs, Some(&before_weight));
        let Some(outputs) = bits::<A>(place, &["rmsnorm_bwd", "rmsnorm_dweight"], run) else { return };
        let want = gradients(&exact(), inputs, Some(&before_weight));
        let bound = |j: usize| {
            let terms: f64 = (0..t).map(|i| (dout[i * c + j] * x[i * c + j] * rstd[i]).abs()).sum();
            F32 * depth_of_columns(t) * (before_weight[j].abs() + terms)
        };
        assert_within(&format!("dweight of {c}"), &outputs[1].1, &want[1].1, bound);
    }
}

kernels!(rmsnorm_dweight);

/// `dx` of `[dout, rstd, x, weight, dx before]`, and `dweight` where it is asked for by what it was before.
fn gradients<D: Device>(d: &D, [dout, rstd, x, weight, before]: [&[f64]; 5], before_weight: Option<&[f64]>) -> Outputs {
    let mut dx = upload::<D, D::Act>(d, before);
    let mut dweight = before_weight.map(|before| upload::<D, D::Acc>(d, before));
    let (dout, rstd, x, w) = (upload(d, dout), upload(d, rstd), upload(d, x), upload(d, weight));
    d.rmsnorm_bwd(&mut dx, dweight.as_mut(), &dout, &rstd, &x, &w, weight.len()).unwrap();
    let dweight = dweight.map(|dweight| ("dweight", host::<D, D::Acc>(d, &dweight)));
    [("dx", host::<D, D::Act>(d, &dx))].into_iter().chain(dweight).collect()
}

/// Narrow heads, halves that are not whole vectors, more angles than a block keeps; positions that turn thousands of times.
fn rope<A: OnGpu>(place: Place) {
    for (t, q, kv, dim) in
        [(0, 2, 1, 4), (1, 1, 1, 2), (5, 3, 1, 6), (4, 4, 2, 16), (3, 5, 1, 128), (2, 2, 1, 272), (2, 1, 1, 300)]
    {
        let heads = Heads { q, kv, dim };
        let qkv = normal::<A>(t * heads.qkv_width(), 1);
        let positions: Vec<u32> = [0, 1, 40_001, 7, 131_071][..t].to_vec();
        fn turn<D: Device>(d: &D, qkv: &[f64], positions: &[u32], heads: Heads, inverse: bool) -> Vec<f64> {
            let mut out = upload::<D, D::Act>(d, qkv);
            d.rope(&mut out, &d.upload(positions).unwrap(), heads, 10_000.0, inverse).unwrap();
            host::<D, D::Act>(d, &out)
        }
        for inverse in [false, true] {
            let outputs = bits::<A>(place, &where_any(t, &["rope"]), |device| {
                vec![("qkv", turn(device, &qkv, &positions, heads, inverse))]
            });
            let Some(outputs) = outputs else { return };
            // Angles are f32 by definition, so the reference is the CPU in f32; it rounds where the kernel does.
            let want = turn(&Cpu::<f32>::new(), &qkv, &positions, heads, inverse);
            let pair = |at: usize| {
                let i = at % dim;
                (qkv[at].abs(), qkv[if i < dim / 2 { at + dim / 2 } else { at - dim / 2 }].abs())
            };
            // Sine and cosine within 2 units in the last place, a product and a sum, on both sides.
            let bound = |at: usize| unit::<A>() * want[at].abs() + 8.0 * F32 * (pair(at).0 + pair(at).1);
            assert_within(&format!("heads of {dim}"), &outputs[0].1, &want, bound);
            for (got, row) in outputs[0].1.chunks_exact(heads.qkv_width()).zip(qkv.chunks_exact(heads.qkv_width())) {
                let values = heads.q_width() + heads.kv_width();
                assert_eq!(got[values..], row[values..], "values do not turn");
            }
        }
    }
}

kernels!(rope);

/// Rows and columns of the MLP, some wider than a block takes.
const GATED: [(usize, usize); 8] = [(0, 3), (1, 1), (3, 3), (2, 8), (5, 12), (2, 20), (1, 2056), (2, 2051)];

/// Gates from far below 0 to far above, where `e^-x` overflows and vanishes.
fn gate_up<A: OnGpu>(t: usize, f: usize) -> Vec<f64> {
    let numbers = normal::<A>(t * 2 * f, 1).into_iter().enumerate();
    numbers.map(|(i, x)| A::of(if i % 7 == 0 { 60.0 * x } else { 2.0 * x }).f64()).collect()
}

/// Where `e^-gate` overflows, the sigmoid is below 3e-39 and becomes 0; it is multiplied by two numbers below 300.
const TINY: f64 = 1e-33;

fn swiglu_fwd<A: OnGpu>(place: Place) {
    for (t, f) in GATED {
        let gate_up = gate_up::<A>(t, f);
        fn forward<D: Device>(d: &D, gate_up: &[f64], f: usize) -> Outputs {
            let mut out = unset::<D, D::Act>(d, gate_up.len() / 2);
            d.swiglu_fwd(&mut out, &upload(d, gate_up), f).unwrap();
            vec![("out", host::<D, D::Act>(d, &out))]
        }
        let outputs = bits::<A>(place, &where_any(t, &["swiglu_fwd"]), |device| forward(device, &gate_up, f));
        let Some(outputs) = outputs else { return };
        let want = forward(&exact(), &gate_up, f);
        // The exponential is within 2 units, 4 roundings; the sum, the quotient and two products make 4 more.
        let bound = 8.0 * F32 + unit::<A>() * (1.0 + 8.0 * F32);
        assert_within(&format!("out of {f}"), &outputs[0].1, &want[0].1, |i| bound * want[0].1[i].abs() + TINY);
    }
}

kernels!(swiglu_fwd);

fn swiglu_bwd<A: OnGpu>(place: Place) {
    for (t, f) in GATED {
        let (gate_up, dout) = (gate_up::<A>(t, f), normal::<A>(t * f, 2));
        fn backward<D: Device>(d: &D, gate_up: &[f64], dout: &[f64], f: usize) -> Outputs {
            let mut dgate_up = unset::<D, D::Act>(d, gate_up.len());
            d.swiglu_bwd(&mut dgate_up, &upload(d, dout), &upload(d, gate_up), f).unwrap();
            vec![("dgate_up", host::<D, D::Act>(d, &dgate_up))]
        }
        let outputs = bits::<A>(place, &where_any(t, &["swiglu_bwd"]), |device| backward(device, &gate_up, &dout, f));
        let Some(outputs) = outputs else { return };
        let want = &backward(&exact(), &gate_up, &dout, f)[0].1;
        // As forward; dgate's factor 1 + gate (1 - s) cancels near gate = -1.28, so its error is of the terms.
        let bound = |at: usize| {
            let (i, j) = (at / (2 * f), at % f);
            let (gate, up, d) = (gate_up[i * 2 * f + j], gate_up[i * 2 * f + f + j], dout[i * f + j]);
            let sigmoid = 1.0 / (1.0 + (-gate).exp());
            let terms = if at % (2 * f) < f { d * up * sigmoid * (1.0 + gate.abs()) } else { d * gate * sigmoid };
            unit::<A>() * want[at].abs() + 12.0 * F32 * terms.abs() + TINY
        };
        assert_within(&format!("dgate_up of {f}"), &outputs[0].1, want, bound);
    }
}

kernels!(swiglu_bwd);

fn scalar_head<A: OnGpu>(place: Place) {
    for (t, c) in ROWS {
        let (x, weight, dout) = (normal::<A>(t * c, 1), normal::<A>(c, 2), normal::<f32>(t, 3));
        let run = |device: &Cuda<A>| head(device, [&x, &weight, &dout], None);
        let Some(outputs) = bits::<A>(place, &where_any(t, &["scalar_head_fwd", "scalar_head_bwd"]), run) else { return };
        let want = head(&exact(), [&x, &weight, &dout], None);
        // A lane's terms, then five shuffles; each term is rounded into the sum.
        let roundings = (8 * c.div_ceil(256) + 6) as f64;
        let terms = |i: usize| (0..c).map(|j| (x[i * c + j] * weight[j]).abs()).sum::<f64>();
        assert_within(&format!("out of {c}"), &outputs[0].1, &want[0].1, |i| F32 * roundings * terms(i));
        let bound = unit::<A>() + F32 * (1.0 + unit::<A>());
        assert_within(&format!("dx of {c}"), &outputs[1].1, &want[1].1, |i| bound * want[1].1[i].abs());
    }
}

kernels!(scalar_head);

fn scalar_head_dweight<A: OnGpu>(place: Place) {
    for (t, c) in COLUMNS {
        let (x, weight) = (normal::<A>(t * c, 1), normal::<A>(c, 2));
        let (dout, before) = (normal::<f32>(t, 3), normal::<f32>(c, 4));
        let launched = ["scalar_head_fwd", "scalar_head_bwd", "scalar_head_dweight"];
        let run = |device: &Cuda<A>| head(device, [&x, &weight, &dout], Some(&before));
        let Some(outputs) = bits::<A>(place, &launched, run) else { return };
        let want = head(&exact(), [&x, &weight, &dout], Some(&before));
        let terms = |j: usize| before[j].abs() + (0..t).map(|i| (dout[i] * x[i * c + j]).abs()).sum::<f64>();
        assert_within(&format!("dweight of {c}"), &outputs[2].1, &want[2].1, |j| F32 * depth_of_columns(t) * terms(j));
    }
}

kernels!(scalar_head_dweight);

/// `out` and `dx` of `[x, weight, dout]`, and `dweight` where it is asked for by what it was before.
fn head<D: Device>(d: &D, [x, weight, dout]: [&[f64]; 3], before: Option<&[f64]>) -> Outputs {
    let (mut out, mut dx) = (unset::<D, D::Acc>(d, dout.len()), unset::<D, D::Act>(d, x.len()));
    let mut dweight = before.map(|before| upload::<D, D::Acc>(d, before));
    let c = weight.len();
    let (x, weight, dout) = (upload(d, x), upload(d, weight), upload(d, dout));
    d.scalar_head_fwd(&mut out, &x, &weight, c).unwrap();
    d.scalar_head_bwd(&mut dx, dweight.as_mut(), &dout, &x, &weight, c).unwrap();
    let dweight = dweight.map(|dweight| ("dweight", host::<D, D::Acc>(d, &dweight)));
    [("out", host::<D, D::Acc>(d, &out)), ("dx", host::<D, D::Act>(d, &dx))].into_iter().chain(dweight).collect()
}
