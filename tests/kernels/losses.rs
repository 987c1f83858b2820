//! Losses, advantages and moments: kernels/losses.cu. The kernels compute in double as the CPU does and round once, so a result is
//! within a unit in the last place of the reference in f64.

use repairity::device::{Bounds, Device};

use crate::*;

/// None, one, less than a block, more than one step of it.
const TOKENS: [usize; 6] = [0, 1, 31, 512, 513, 1300];

/// A unit in the last place of f32, relative, and what double sums of thousands of terms in another order may differ by.
fn assert_rounded(what: &str, got: &[f64], want: &[f64]) {
    assert_within(what, got, want, |i| 2f64.powi(-23) * want[i].abs() + 1e-10);
}

/// Each named result.
fn assert_all_rounded(got: &Outputs, want: &Outputs) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_rounded(name, got, want);
    }
}

fn ppo_clip<A: OnGpu>(place: Place) {
    fn loss<D: Device>(d: &D, [logprob, old, advantage]: [&[f64]; 3], clip: f32) -> Outputs {
        let (mut slope, mut stats) = (unset::<D, D::Acc>(d, logprob.len()), unset::<D, D::Acc>(d, 5));
        let [logprob, old, advantage] = [logprob, old, advantage].map(|x| upload::<D, D::Acc>(d, x));
        d.ppo_clip(&mut slope, &mut stats, &logprob, &old, &advantage, clip, 0.125).unwrap();
        vec![("dlogprob", host::<D, D::Acc>(d, &slope)), ("stats", host::<D, D::Acc>(d, &stats))]
    }
    for t in TOKENS {
        let (mut logprob, advantage) = (normal::<f32>(t, 1), normal::<f32>(t, 2));
        let old: Vec<f64> = logprob.iter().zip(normal::<f32>(t, 3)).map(|(l, x)| f64::from((l + 0.3 * x) as f32)).collect();
        // Ratios of exactly 1, and beyond both ends of the clamp. With the upper one the sums are of other magnitudes.
        for (i, (l, &old)) in logprob.iter_mut().zip(&old).enumerate() {
            match i % 10 {
                0 => *l = old,
                3 => *l = f64::from((old - 24.0) as f32),
                7 if t < 100 => *l = f64::from((old + 24.0) as f32),
                _ => {}
            }
        }
        let inputs = [&logprob[..], &old, &advantage];
        let Some(outputs) = bits::<A>(place, &["ppo_clip"], |device| loss(device, inputs, 0.2)) else { return };
        assert_all_rounded(&outputs, &loss(&exact(), inputs, 0.2));
    }
}

kernels!(ppo_clip);

fn value_clip<A: OnGpu>(place: Place) {
    fn loss<D: Device>(d: &D, [value, old, returns]: [&[f64]; 3]) -> Outputs {
        let (mut slope, mut stats) = (unset::<D, D::Acc>(d, value.len()), unset::<D, D::Acc>(d, 2));
        let [value, old, returns] = [value, old, returns].map(|x| upload::<D, D::Acc>(d, x));
        d.value_clip(&mut slope, &mut stats, &value, &old, &returns, 0.2, 0.5).unwrap();
        vec![("dvalue", host::<D, D::Acc>(d, &slope)), ("stats", host::<D, D::Acc>(d, &stats))]
    }
    for t in TOKENS {
        let (old, returns) = (normal::<f32>(t, 1), normal::<f32>(t, 2));
        // Half of the values move less than the bound: there both errors are one number and nothing is clipped.
        let value: Vec<f64> = old.iter().zip(normal::<f32>(t, 3)).map(|(o, x)| f64::from((o + 0.3 * x) as f32)).collect();
        let inputs = [&value[..], &old, &returns];
        let Some(outputs) = bits::<A>(place, &["value_clip"], |device| loss(device, inputs)) else { return };
        assert_all_rounded(&outputs, &loss(&exact(), inputs));
    }
}

kernels!(value_clip);

/// Sequences that are empty, of one token, of one and of several steps of a block; tokens of no sequence behind them.
fn gae<A: OnGpu>(place: Place) {
    fn advantages<D: Device>(d: &D, reward: &[f64], value: &[f64], lengths: &[usize], (gamma, lambda): (f32, f32)) -> Outputs {
        let bounds = Bounds::from_lengths(d, lengths.iter().copied()).unwrap();
        let (mut advantage, mut returns) = (unset::<D, D::Acc>(d, value.len()), unset::<D, D::Acc>(d, value.len()));
        d.gae(&mut advantage, &mut returns, &upload(d, reward), &upload(d, value), &bounds, gamma, lambda).unwrap();
        vec![("advantage", host::<D, D::Acc>(d, &advantage)), ("returns", host::<D, D::Acc>(d, &returns))]
    }
    for (lengths, t) in
        [(vec![], 0), (vec![], 3), (vec![0, 0], 0), (vec![1], 1), (vec![3, 0, 5], 11), (vec![127, 4, 1024, 1, 2500], 3700)]
    {
        let (reward, value) = (normal::<f32>(t, 1), normal::<f32>(t, 2));
        for factors in [(1.0, 0.95), (0.99, 1.0), (0.5, 0.0), (0.0, 0.5)] {
            let run = |device: &Cuda<A>| advantages(device, &reward, &value, &lengths, factors);
            let Some(outputs) = bits::<A>(place, &["gae"], run) else { return };
            assert_all_rounded(&outputs, &advantages(&exact(), &reward, &value, &lengths, factors));
            let total: usize = lengths.iter().sum();
            assert!(outputs.iter().all(|(_, x)| x[total..].iter().all(|&x| x == 0.0)), "tokens of no sequence");
        }
    }
}

kernels!(gae);

fn bradley_terry<A: OnGpu>(place: Place) {
    fn loss<D: Device>(d: &D, scores: &[f64], labels: &[f64]) -> Outputs {
        let (mut slope, mut stats) = (unset::<D, D::Acc>(d, scores.len()), unset::<D, D::Acc>(d, 2));
        d.bradley_terry(&mut slope, &mut stats, &upload(d, scores), &upload(d, labels), 0.25).unwrap();
        vec![("dscores", host::<D, D::Acc>(d, &slope)), ("stats", host::<D, D::Acc>(d, &stats))]
    }
    for pairs in TOKENS {
        let mut scores = normal::<f32>(2 * pairs, 1);
        let labels: Vec<f64> = (0..pairs).map(|i| [1.0, 0.0, 0.5, 0.75][i % 4]).collect();
        // Equal scores, and differences whose exponentials overflow.
        for (i, pair) in scores.chunks_exact_mut(2).enumerate() {
            match i % 6 {
                2 => pair[0] = pair[1],
                3 => pair[0] += 800.0,
                4 => pair[1] += 800.0,
                _ => {}
            }
        }
        let scores: Vec<f64> = scores.iter().map(|&x| f64::from(x as f32)).collect();
        let Some(outputs) = bits::<A>(place, &["bradley_terry"], |device| loss(device, &scores, &labels)) else { return };
        assert_all_rounded(&outputs, &loss(&exact(), &scores, &labels));
    }
}

kernels!(bradley_terry);

fn moments_and_whitening<A: OnGpu>(place: Place) {
    fn whiten<D: Device>(d: &D, x: &[f64]) -> Outputs {
        let mut x = upload::<D, D::Acc>(d, x);
        let (mean, square) = d.moments(&x, 0.75).unwrap();
        d.whiten(&mut x, 0.3, 1.7).unwrap();
        vec![("moments", vec![mean, square]), ("whitened", host::<D, D::Acc>(d, &x))]
    }
    for n in [0, 1, 255, 2048, 2049, 5001] {
        let x = normal::<f32>(n, 1);
        let launched: &[&str] = if n > 0 { &["moments", "whiten"] } else { &["moments"] };
        let Some(outputs) = bits::<A>(place, launched, |device| whiten(device, &x)) else { return };
        let want = whiten(&exact(), &x);
        // Moments stay in double: sums of n terms in another order.
        let terms = [x.iter().map(|x| (x - 0.75).abs()).sum::<f64>(), x.iter().map(|x| (x - 0.75) * (x - 0.75)).sum()];
        assert_within("moments", &outputs[0].1, &want[0].1, |i| n as f64 * f64::EPSILON * terms[i]);
        assert_rounded("whitened", &outputs[1].1, &want[1].1);
    }
}

kernels!(moments_and_whitening);
