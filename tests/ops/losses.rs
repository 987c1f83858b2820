//! Losses, advantages and the optimizer: values worked by hand, and slopes against differences.

use repairity::device::{AdamW, Bounds, Cpu, Device};

use crate::*;

fn ppo(logprob: &[f64], old: &[f64], advantage: &[f64], norm: f64) -> (Vec<f64>, Vec<f64>) {
    let d = Cpu::<f64>::new();
    let (mut slope, mut stats) = (unset(&d, logprob.len()), unset(&d, 5));
    let [logprob, old, advantage] = [logprob, old, advantage].map(|x| upload(&d, x));
    d.ppo_clip(&mut slope, &mut stats, &logprob, &old, &advantage, 0.2, norm).unwrap();
    (host(&slope), host(&stats))
}

#[test]
fn ppo_takes_the_lower_of_the_two_surrogates() {
    let ratio = |r: f64| r.ln();
    // ratio, advantage -> loss, slope, clipped. The clip is a recipe's f32.
    let (low, high) = (1.0 - f64::from(0.2f32), 1.0 + f64::from(0.2f32));
    for (r, a, loss, slope, clipped) in [
        (1.0, 3.0, -3.0, -3.0, 0.0),
        (1.5, 2.0, -2.0 * high, 0.0, 1.0),
        (1.5, -2.0, 3.0, 3.0, 0.0),
        (0.5, 2.0, -1.0, -1.0, 0.0),
        (0.5, -2.0, 2.0 * low, 0.0, 1.0),
        (1.1, -1.0, 1.1, 1.1, 0.0),
    ] {
        let (slopes, stats) = ppo(&[ratio(r) - 1.0], &[-1.0], &[a], 0.5);
        assert_close("slope", &slopes, &[0.5 * slope], 1e-15);
        let log_ratio = (ratio(r) - 1.0) + 1.0;
        assert_close("stats", &stats, &[loss, clipped, r, -log_ratio, r - 1.0 - log_ratio], 1e-14);
    }
}

#[test]
fn ppo_on_policy_has_ratio_one_exactly() {
    let logprob = normal(7, 1);
    let (slopes, stats) = ppo(&logprob, &logprob, &[1.0; 7], 1.0);
    assert_eq!(slopes, [-1.0; 7]);
    assert_eq!(stats, [-7.0, 0.0, 7.0, 0.0, 0.0]);
}

#[test]
fn ppo_clamps_the_log_ratio_at_twenty() {
    let (slopes, stats) = ppo(&[1.0, -40.0], &[-29.0, 0.0], &[-1.0, 1.0], 1.0);
    assert_eq!(slopes, [0.0, 0.0]);
    assert_close("ratios", &stats[2..3], &[20f64.exp() + (-20f64).exp()], 1e-15);
    assert_close("loss", &stats[..1], &[20f64.exp() - (-20f64).exp()], 1e-15);
    assert_close("k1", &stats[3..4], &[10.0], 1e-15);
    assert_eq!(ppo(&[], &[], &[], 1.0).1, [0.0; 5]);
}

#[test]
fn ppo_slopes_are_those_of_its_loss() {
    let (logprob, advantage) = (normal(40, 1), normal(40, 2));
    let old: Vec<f64> = logprob.iter().zip(normal(40, 3)).map(|(l, x)| l + 0.3 * x).collect();
    let (slopes, _) = ppo(&logprob, &old, &advantage, 0.125);
    let want = differences(&logprob, |logprob| 0.125 * ppo(logprob, &old, &advantage, 1.0).1[0]);
    assert_gradient("dlogprob", &slopes, &want);
}

#[test]
fn value_loss_takes_the_larger_error() {
    let d = Cpu::<f64>::new();
    // value, old, return -> loss, slope, clipped; the bounds are old +- 0.25.
    for (value, old, ret, loss, slope, clipped) in [
        (1.0, 1.0, 3.0, 2.0, -2.0, 0.0),
        (1.2, 1.0, 3.0, 0.5 * 1.8 * 1.8, -1.8, 0.0),
        (2.0, 1.0, 3.0, 0.5 * 1.75 * 1.75, 0.0, 1.0),
        (2.0, 1.0, -1.0, 4.5, 3.0, 0.0),
        (0.0, 1.0, -1.0, 0.5 * 1.75 * 1.75, 0.0, 1.0),
    ] {
        let (mut slopes, mut stats) = (unset(&d, 1), unset(&d, 2));
        let [value, old, ret] = [value, old, ret].map(|x| upload(&d, &[x]));
        d.value_clip(&mut slopes, &mut stats, &value, &old, &ret, 0.25, 0.5).unwrap();
        assert_close("slope", &host(&slopes), &[0.5 * slope], 1e-15);
        assert_close("stats", &host(&stats), &[loss, clipped], 1e-15);
    }
}

#[test]
fn gae_by_hand() {
    let d = Cpu::<f64>::new();
    let bounds = Bounds::from_lengths(&d, [3, 0, 1]).unwrap();
    let reward = upload(&d, &[0.0, 0.0, 1.0, 2.0, 9.0]);
    let value = upload(&d, &[0.5, 0.25, 0.75, 1.5, 9.0]);
    let (mut advantage, mut returns) = (unset(&d, 5), unset(&d, 5));
    d.gae(&mut advantage, &mut returns, &reward, &value, &bounds, 0.5, 0.5).unwrap();
    // delta: 0 + 0.125 - 0.5, 0 + 0.375 - 0.25, 1 - 0.75; each advantage adds a quarter of the next.
    let want = [-0.375 + 0.25 * 0.1875, 0.125 + 0.25 * 0.25, 0.25, 0.5, 0.0];
    assert_eq!(host(&advantage), want);
    assert_eq!(host(&returns), [want[0] + 0.5, want[1] + 0.25, 1.0, 2.0, 0.0]);
}

#[test]
fn gae_with_gamma_and_lambda_one_returns_the_rewards_to_come() {
    let d = Cpu::<f64>::new();
    let bounds = Bounds::from_lengths(&d, [4]).unwrap();
    let (reward, value) = (upload(&d, &[1.0, 2.0, 3.0, 4.0]), upload(&d, &[0.5, -1.0, 2.0, 8.0]));
    let (mut advantage, mut returns) = (unset(&d, 4), unset(&d, 4));
    d.gae(&mut advantage, &mut returns, &reward, &value, &bounds, 1.0, 1.0).unwrap();
    assert_eq!(host(&returns), [10.0, 9.0, 7.0, 4.0]);
}

#[test]
fn bradley_terry_by_hand() {
    let d = Cpu::<f64>::new();
    let run = |scores: &[f64], labels: &[f64], norm: f64| {
        let (mut slopes, mut stats) = (unset(&d, scores.len()), unset(&d, 2));
        d.bradley_terry(&mut slopes, &mut stats, &upload(&d, scores), &upload(&d, labels), norm).unwrap();
        (host(&slopes), host(&stats))
    };
    let three = 3f64.ln(); // sigma(ln 3) = 3/4
    for (scores, label, loss, slope, agrees) in [
        ([three, 0.0], 1.0, (4.0f64 / 3.0).ln(), -0.25, 1.0),
        ([three, 0.0], 0.0, 4f64.ln(), 0.75, 0.0),
        ([three, 0.0], 0.5, 0.5 * (16.0f64 / 3.0).ln(), 0.25, 0.0),
        ([0.0, three], 0.0, (4.0f64 / 3.0).ln(), 0.25, 1.0),
        ([1.0, 1.0], 1.0, 2f64.ln(), -0.5, 0.0),
        ([800.0, 0.0], 0.0, 800.0, 1.0, 0.0),
        ([800.0, 0.0], 1.0, 0.0, 0.0, 1.0),
    ] {
        let (slopes, stats) = run(&scores, &[label], 2.0);
        assert_close("dscores", &slopes, &[2.0 * slope, -2.0 * slope], 1e-15);
        assert_close("stats", &stats, &[loss, agrees], 1e-15);
    }
    let (scores, labels) = (normal(10, 1), [1.0, 0.0, 0.5, 0.75, 1.0]);
    let want = differences(&scores, |s| run(s, &labels, 1.0).1[0]);
    assert_gradient("dscores", &run(&scores, &labels, 1.0).0, &want);
}

#[test]
fn whitening_gives_mean_zero_and_deviation_one() {
    let d = Cpu::<f64>::new();
    let mut x = upload(&d, &[1.0, 2.0, 3.0, 6.0]);
    assert_eq!(d.moments(&x, 0.0).unwrap(), (12.0, 50.0));
    assert_eq!(d.moments(&x, 3.0).unwrap(), (0.0, 14.0));
    d.whiten(&mut x, 3.0, 0.5).unwrap();
    assert_eq!(host(&x), [-1.0, -0.5, 0.0, 1.5]);
}

#[test]
fn sum_of_squares_goes_where_it_is_told() {
    let d = Cpu::<f64>::new();
    let mut out = upload(&d, &[7.0, 7.0, 7.0]);
    d.sum_squares(&mut out, 1, &upload(&d, &[3.0, 4.0])).unwrap();
    assert_eq!(host(&out), [7.0, 25.0, 7.0]);
    let x = normal(50_000, 1);
    d.sum_squares(&mut out, 2, &upload(&d, &x)).unwrap();
    assert_close("sum", &host(&out)[2..], &[dot(&x, &x)], 1e-12);
}

/// The update of `torch.optim.AdamW`, worked with round numbers: beta1 = beta2 = 0.5, lr = 0.25, decay = 0.5, eps = 1.
#[test]
fn adamw_by_hand() {
    let d = Cpu::<f64>::new();
    let hyper = AdamW { lr: 0.25, beta1: 0.5, beta2: 0.5, eps: 1.0, weight_decay: 0.5, step: 1, grad_scale: 0.5 };
    let (mut param, mut master) = (unset(&d, 1), upload(&d, &[8.0]));
    let (mut m, mut v) = (upload(&d, &[0.0]), upload(&d, &[0.0]));
    d.adamw(&mut param, &mut master, &mut m, &mut v, &upload(&d, &[6.0]), hyper).unwrap();
    // g = 3: m = 1.5, v = 4.5; corrected they are 3 and 9. p = 8 * 0.875 - 0.25 * 3 / (3 + 1).
    assert_eq!((host(&m)[0], host(&v)[0]), (1.5, 4.5));
    assert_eq!((host(&master)[0], host(&param)[0]), (6.8125, 6.8125));
    d.adamw(&mut param, &mut master, &mut m, &mut v, &upload(&d, &[-2.0]), AdamW { step: 2, ..hyper }).unwrap();
    // g = -1: m = 0.25, v = 2.75; corrected m / 0.75 and v / 0.75.
    assert_eq!((host(&m)[0], host(&v)[0]), (0.25, 2.75));
    let want = 6.8125 * 0.875 - 0.25 * (0.25 / 0.75) / ((2.75f64 / 0.75).sqrt() + 1.0);
    assert_close("p", &host(&master), &[want], 1e-15);
    assert_eq!(param[..], master[..]);
}

#[test]
fn weight_decay_is_not_lost_in_single_precision() {
    let d = Cpu::<f32>::new();
    let hyper = AdamW { lr: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, step: 1, grad_scale: 1.0 };
    let (mut param, mut master) = (unset(&d, 1), upload(&d, &[1.0]));
    let (mut m, mut v) = (upload(&d, &[0.0]), upload(&d, &[0.0]));
    d.adamw(&mut param, &mut master, &mut m, &mut v, &upload(&d, &[0.0]), hyper).unwrap();
    assert_close("p", &host(&master), &[1.0 - 5e-6], f64::from(f32::EPSILON) / 4.0);
}
