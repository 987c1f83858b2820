//! Values worked by hand or by the definition, and f32 against f64.

use repairity::device::{Cpu, Device, Dropout, Heads};
use repairity::rng::{philox, unit};

use crate::*;

const UNIT: f64 = f32::EPSILON as f64 / 2.0;

#[test]
fn rope_turns_pairs_half_a_head_apart() {
    let d = Cpu::<f64>::new();
    let heads = Heads { q: 1, kv: 1, dim: 4 };
    // Position 2, theta 16: the pairs (0, 2) and (1, 3) turn by 2 and by 2 * 16^(-1/2) = 1/2. Values are not turned.
    let row = [1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 8.0];
    let mut x = upload(&d, &[row, row].concat());
    let positions = d.upload(&[0u32, 2]).unwrap();
    d.rope(&mut x, &positions, heads, 16.0, false).unwrap();
    let ((s, c), (s2, c2)) = (2f64.sin_cos(), 0.5f64.sin_cos());
    assert_eq!(x[..12], row);
    let want = [c, -s2, s, c2, -3.0 * s, 2.0 * c2, 3.0 * c, 2.0 * s2, 5.0, 6.0, 7.0, 8.0];
    assert_close("turned", &x[12..], &want, 1e-15);
    d.rope(&mut x, &positions, heads, 16.0, true).unwrap();
    assert_close("turned back", &x[12..], &row, 1e-15);
}

#[test]
fn rmsnorm_by_hand() {
    let d = Cpu::<f64>::new();
    let (mut out, mut rstd) = (unset(&d, 4), unset(&d, 2));
    let (x, weight) = (upload(&d, &[1.0, 7.0, 0.0, 0.0]), upload(&d, &[2.0, 3.0]));
    d.rmsnorm_fwd(&mut out, &mut rstd, None, &x, &weight, 2, 0.0625).unwrap();
    let r = 1.0 / (25.0625f64).sqrt();
    assert_close("out", &out, &[2.0 * r, 21.0 * r, 0.0, 0.0], 1e-15);
    assert_close("rstd", &rstd, &[r, 4.0], 1e-15);

    let (mut out, mut sum) = (unset(&d, 2), unset(&d, 2));
    let (x, delta) = (upload(&d, &[0.5, 3.0]), upload(&d, &[0.5, 4.0]));
    let mut rstd = unset(&d, 1);
    d.rmsnorm_fwd(&mut out, &mut rstd, Some((&mut sum, &delta)), &x, &weight, 2, 0.0625).unwrap();
    assert_eq!(host(&sum), [1.0, 7.0]);
    assert_close("out", &out, &[2.0 * r, 21.0 * r], 1e-15);
}

#[test]
fn swiglu_by_hand() {
    let d = Cpu::<f64>::new();
    let mut out = unset(&d, 3);
    let three = 3f64.ln(); // sigma(ln 3) = 3/4
    d.swiglu_fwd(&mut out, &upload(&d, &[three, 0.0, -900.0, 2.0, 5.0, 1.0]), 3).unwrap();
    assert_close("out", &out, &[1.5 * three, 0.0, 0.0], 1e-15);
}

#[test]
fn linear_logprob_is_log_softmax() {
    let d = Cpu::<f64>::new();
    for tcv in [(4, 3, 1), (4, 3, 7), (300, 5, 33), (3, 2, 9000)] {
        let (t, c, v) = tcv;
        let (x, head) = (normal(t * c, 1), normal(v * c, 2));
        let targets: Vec<u32> = (0..t).map(|i| ((i * 4099) % v) as u32).collect();
        let (mut logprob, mut lse, mut entropy) = (unset(&d, t), unset(&d, t), unset(&d, t));
        let (x_buf, head_buf, target_buf) = (upload(&d, &x), upload(&d, &head), d.upload(&targets).unwrap());
        d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x_buf, &head_buf, &target_buf, 2.0, tcv).unwrap();
        let mut all = unset(&d, t * v);
        d.logits(&mut all, &x_buf, &head_buf, tcv).unwrap();
        for i in 0..t {
            let l: Vec<f64> = (0..v).map(|j| 2.0 * dot(&x[i * c..][..c], &head[j * c..][..c])).collect();
            let half: Vec<f64> = l.iter().map(|l| l / 2.0).collect();
            assert_close("logits", &all[i * v..][..v], &half, 1e-14);
            let sum: f64 = l.iter().map(|l| l.exp()).sum();
            let want = [l[targets[i] as usize] - sum.ln(), sum.ln(), sum.ln() - l.iter().map(|l| l.exp() / sum * l).sum::<f64>()];
            assert_close("logprob, lse, entropy", &[logprob[i], lse[i], entropy[i]], &want, 1e-12);
        }
    }
}

#[test]
fn linear_logprob_survives_large_logits() {
    let d = Cpu::<f32>::new();
    let (mut logprob, mut lse, mut entropy) = (unset(&d, 1), unset(&d, 1), unset(&d, 1));
    let (x, head) = (upload(&d, &[1.0]), upload(&d, &[500.0, -500.0, 500.0]));
    let target = d.upload(&[2u32]).unwrap();
    d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &target, 1.0, (1, 1, 3)).unwrap();
    let ln2 = std::f32::consts::LN_2;
    assert_eq!((logprob[0], lse[0], entropy[0]), (-ln2, 500.0 + ln2, ln2));
}

#[test]
fn dropout_is_the_documented_mask() {
    let d = Cpu::<f64>::new();
    let dropout = Dropout { p: 0.25, key: 12345 };
    let (t, k) = (70, 5);
    // The branch is the identity: its z is the dropped input.
    let mut map = Linear::new((t, 1, k), &[(0, 1, k, 1.0)], false, Some(dropout));
    map.ab[0] = (0..k * k).map(|i| f64::from(u8::from(i % (k + 1) == 0))).collect();
    let (_, z) = map.forward(&d);
    let want: Vec<f64> = (0..t * k)
        .map(|e| {
            let words = philox([(e / 4) as u32, 0, 5, 0], dropout.key);
            if unit(words[e % 4]) < 0.25 { 0.0 } else { map.x[e] / 0.75 }
        })
        .collect();
    // A row of z is a whole vector: five columns and zeros.
    let z: Vec<f64> = z.chunks_exact(8).flat_map(|row| row[..k].to_vec()).collect();
    assert_close("z", &z, &want, 1e-15);
    let dropped = want.iter().filter(|&&x| x == 0.0).count();
    assert!((60..115).contains(&dropped), "{dropped} of 350 dropped, where 87.5 are expected, give or take 8");
}

/// A dot product of `n` terms is off by at most `(n + 2) u` of the sum of its terms' sizes (Higham 2002, section 3.1), a branch by
/// that of both its products.
#[test]
fn linear_in_single_precision() {
    // Both paths of the product, few rows and many.
    for (t, n, k) in [(1, 70, 100), (3, 70, 100), (4, 70, 33), (33, 70, 100)] {
        let map = Linear::new((t, n, k), &[(10, 20, 3, 2.0)], true, None);
        let (got, want) = (map.forward(&Cpu::<f32>::new()).0, map.forward(&Cpu::<f64>::new()).0);
        let absolute = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let sizes = Linear {
            x: absolute(&map.x),
            w: absolute(&map.w),
            bias: map.bias.as_deref().map(absolute),
            ab: map.ab.iter().map(|x| absolute(x)).collect(),
            ..map.clone()
        };
        let sizes = sizes.forward(&Cpu::<f64>::new()).0;
        for i in 0..t * n {
            let error = (f64::from(got[i]) - want[i]).abs();
            assert!(error <= (k as f64 + 10.0) * UNIT * sizes[i], "[{i}]: {} where {} was expected", got[i], want[i]);
        }
    }
}

/// Relative errors: a sum of `c` squares `c u`, halved by the root, and five roundings more; SwiGLU's exponential 4 u, five more.
#[test]
fn rows_in_single_precision() {
    let (single, double) = (Cpu::<f32>::new(), Cpu::<f64>::new());
    fn norm<F: Float>(d: &Cpu<F>) -> Vec<f64> {
        let (mut out, mut rstd) = (unset(d, 7 * 96), unset(d, 7));
        let (x, weight) = (upload(d, &normal(7 * 96, 1)), upload(d, &normal(96, 2)));
        d.rmsnorm_fwd(&mut out, &mut rstd, None, &x, &weight, 96, 1e-6).unwrap();
        host(&out)
    }
    assert_relative("rmsnorm", &norm(&single), &norm(&double), 54.0 * UNIT);
    fn gated<F: Float>(d: &Cpu<F>) -> Vec<f64> {
        let mut out = unset(d, 500);
        let x: Vec<f64> = normal(1000, 3).iter().map(|x| 4.0 * x).collect();
        d.swiglu_fwd(&mut out, &upload(d, &x), 50).unwrap();
        host(&out)
    }
    assert_relative("swiglu", &gated(&single), &gated(&double), 10.0 * UNIT);
}

fn assert_relative(what: &str, got: &[f64], want: &[f64], bound: f64) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * w.abs(), "{what}[{i}]: {g} where {w} was expected");
    }
}

/// Logits are off by `e = (c + 2) u sum |x w|`, the log-sum-exp by as much and some roundings of its own size, and the entropy by
/// `2 e` times the spread of the logits.
#[test]
fn linear_logprob_in_single_precision() {
    fn run<F: Float>(d: &Cpu<F>) -> [Vec<f64>; 3] {
        let (t, c, v) = (40, 24, 5000);
        let (mut logprob, mut lse, mut entropy) = (unset(d, t), unset(d, t), unset(d, t));
        let (x, head) = (upload(d, &normal(t * c, 1)), upload(d, &normal(v * c, 2)));
        let targets: Vec<u32> = (0..t as u32).map(|i| i * 100).collect();
        let targets = d.upload(&targets).unwrap();
        d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.0, (t, c, v)).unwrap();
        [host(&logprob), host(&lse), host(&entropy)]
    }
    let (got, want) = (run(&Cpu::<f32>::new()), run(&Cpu::<f64>::new()));
    // |x . w| sums to at most 24 * 4 * 4 here, logits lie within 25 of each other.
    let logit_error = 26.0 * UNIT * 384.0;
    assert_close("logprob", &got[0], &want[0], 2.0 * logit_error);
    assert_close("lse", &got[1], &want[1], 2.0 * logit_error);
    assert_close("entropy", &got[2], &want[2], 2.0 * 25.0 * logit_error);
}
