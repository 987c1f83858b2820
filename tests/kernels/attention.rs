//! kernels/attention_fwd.cu, attention_fwd_sm90.cu and attention_bwd.cu.

use std::ops::Range;

use repairity::device::meter::Style;
use repairity::device::{Bounds, Device, Heads, Meter};

use crate::plain::{assert_no_worse, dot, round, single};
use crate::simulated::Simulated;
use crate::*;

/// Packed sequences, tokens of none after them, and inputs.
struct Case {
    lengths: Vec<usize>,
    tail: usize,
    heads: Heads,
    qkv: Vec<f64>,
    dout: Vec<f64>,
}

impl Case {
    fn new<A: Act>(lengths: &[usize], tail: usize, (q, kv, dim): (usize, usize, usize)) -> Case {
        let heads = Heads { q, kv, dim };
        let t = lengths.iter().sum::<usize>() + tail;
        let (qkv, dout) = (normal::<A>(t * heads.qkv_width(), 1), normal::<A>(t * heads.q_width(), 2));
        Case { lengths: lengths.to_vec(), tail, heads, qkv, dout }
    }

    fn tokens(&self) -> usize {
        self.lengths.iter().sum::<usize>() + self.tail
    }

    fn what(&self, name: &str) -> String {
        format!("{name}, {:?} and {} more, {:?}", self.lengths, self.tail, self.heads)
    }

    /// What a build runs for these passes, forward and backward.
    fn kernels<A: Act>(&self, [forward, backward]: [bool; 2]) -> Vec<&'static str> {
        let (mut kernels, narrow) = (vec![], self.heads.dim <= 64);
        if self.tokens() == 0 {
            return kernels;
        }
        let sm90 = A::BUILD == "bf16" && [64, 128].contains(&self.heads.dim);
        if forward && sm90 {
            kernels.push("attention_fwd_sm90_order");
            let attend = if narrow { "attention_fwd_sm90_d64" } else { "attention_fwd_sm90_d128" };
            kernels.extend((self.tokens() > self.tail).then_some(attend));
        } else if forward {
            kernels.push(if narrow { "attention_fwd_d64" } else { "attention_fwd_d128" });
        }
        if backward {
            kernels.push("attention_delta");
            let in_sequences = self.tokens() > self.tail;
            kernels.extend(match (sm90 && in_sequences, narrow) {
                (true, true) => ["attention_bwd_sm90_d64", "attention_bwd_sm90_finish_d64"],
                (true, false) => ["attention_bwd_sm90_d128", "attention_bwd_sm90_finish_d128"],
                (false, true) => ["attention_bwd_dq_d64", "attention_bwd_dkv_d64"],
                (false, false) => ["attention_bwd_dq_d128", "attention_bwd_dkv_d128"],
            });
        }
        kernels
    }

    /// Forward alone.
    fn forward<D: Device>(&self, d: &D) -> Outputs {
        let (t, heads) = (self.tokens(), self.heads);
        let bounds = Bounds::from_lengths(d, self.lengths.iter().copied()).unwrap();
        let (mut out, mut lse) = (unset::<D, D::Act>(d, t * heads.q_width()), unset::<D, D::Acc>(d, heads.q * t));
        d.attention_fwd(&mut out, &mut lse, &upload(d, &self.qkv), &bounds, heads, t).unwrap();
        vec![("out", host::<D, D::Act>(d, &out)), ("lse", host::<D, D::Acc>(d, &lse))]
    }

    /// The elements of qkv in `columns` of the tokens `tokens`.
    fn part(&mut self, tokens: Range<usize>, columns: Range<usize>) -> impl Iterator<Item = &mut f64> {
        let rows = self.qkv.chunks_mut(self.heads.qkv_width()).skip(tokens.start).take(tokens.len());
        rows.flat_map(move |row| &mut row[columns.clone()])
    }

    fn run<D: Device>(&self, d: &D) -> Outputs {
        let (t, heads) = (self.tokens(), self.heads);
        let bounds = Bounds::from_lengths(d, self.lengths.iter().copied()).unwrap();
        let (qkv, dout) = (upload(d, &self.qkv), upload(d, &self.dout));
        let (mut out, mut lse) = (unset::<D, D::Act>(d, t * heads.q_width()), unset::<D, D::Acc>(d, heads.q * t));
        d.attention_fwd(&mut out, &mut lse, &qkv, &bounds, heads, t).unwrap();
        let mut dqkv = unset::<D, D::Act>(d, self.qkv.len());
        d.attention_bwd(&mut dqkv, &dout, &out, &lse, &qkv, &bounds, heads, t).unwrap();
        vec![("out", host::<D, D::Act>(d, &out)), ("lse", host::<D, D::Acc>(d, &lse)), ("dqkv", host::<D, D::Act>(d, &dqkv))]
    }

    /// `out`, `lse`, `dqkv` with whole matrices of scores, each matrix rounded by `r` as it is stored.
    fn plain(&self, r: fn(f32) -> f32) -> [Vec<f32>; 3] {
        let Heads { q, kv, dim } = self.heads;
        let (t, width) = (self.tokens(), self.heads.qkv_width());
        let (qkv, dout) = (single(&self.qkv), single(&self.dout));
        let scale = 1.0 / (dim as f32).sqrt();
        let (mut out, mut lse, mut dqkv) = (vec![0.0f32; dout.len()], vec![0.0f32; q * t], vec![0.0f32; qkv.len()]);
        let row = |i: usize, head: usize| &qkv[i * width + head * dim..][..dim];
        let product = |x: &[f32], y: &[f32]| dot(x.iter().copied().zip(y.iter().copied()));
        let mut begin = 0;
        for &length in &self.lengths {
            for h in 0..q {
                let (key, value) = (q + h / (q / kv), q + kv + h / (q / kv));
                for i in begin..begin + length {
                    let dout = &dout[(i * q + h) * dim..][..dim];
                    let scores: Vec<f32> = (begin..=i).map(|j| r(scale * r(product(row(i, h), row(j, key))))).collect();
                    let top = scores.iter().fold(f32::NEG_INFINITY, |top, &s| top.max(s));
                    let sum: f32 = scores.iter().map(|s| (s - top).exp()).sum();
                    lse[h * t + i] = top + sum.ln();
                    // The backward pass starts from what the forward pass stored.
                    let stored = lse[h * t + i];
                    let weights: Vec<f32> = scores.iter().map(|s| r((s - top).exp() / sum)).collect();
                    let along = dot((0..dim).map(|c| {
                        let values = (begin..=i).map(|j| row(j, value)[c]);
                        out[(i * q + h) * dim + c] = r(dot(weights.iter().copied().zip(values)));
                        (dout[c], out[(i * q + h) * dim + c])
                    }));
                    let p: Vec<f32> = scores.iter().map(|s| r((s - stored).exp())).collect();
                    let dp: Vec<f32> = (begin..=i).map(|j| r(product(dout, row(j, value)))).collect();
                    let ds: Vec<f32> = p.iter().zip(&dp).map(|(p, dp)| r(p * (dp - along))).collect();
                    for c in 0..dim {
                        let keys = (begin..=i).map(|j| row(j, key)[c]);
                        dqkv[i * width + h * dim + c] = scale * dot(ds.iter().copied().zip(keys));
                        for (j, (p, ds)) in (begin..=i).zip(p.iter().zip(&ds)) {
                            dqkv[j * width + key * dim + c] += scale * ds * row(i, h)[c];
                            dqkv[j * width + value * dim + c] += p * dout[c];
                        }
                    }
                }
            }
            begin += length;
        }
        dqkv.iter_mut().for_each(|x| *x = r(*x));
        [out, lse, dqkv]
    }
}

/// `out` and `lse` by the rule of plain arithmetic. `lse` is made of f32 sums in both builds, but a tensor core may cut off where plain
/// arithmetic rounds, once for each 16 terms of a score.
fn assert_forward<A: Act>(case: &Case, got: &Outputs, want: &Outputs, plain: &[Vec<f32>; 3]) {
    assert_no_worse(&case.what("out"), &got[0].1, &want[0].1, &plain[0], unit::<A>());
    let [_, lse, _] = case.plain(|x| x);
    let cuts = if A::BUILD == "bf16" { case.heads.dim.div_ceil(16) } else { 0 };
    assert_no_worse(&case.what("lse"), &got[1].1, &want[1].1, &lse, (1 + cuts) as f64 * unit::<f32>());
    let in_sequences = case.tokens() - case.tail;
    assert!(
        got[0].1[in_sequences * case.heads.q_width()..].iter().all(|&x| x == 0.0),
        "{}",
        case.what("out past the last bound")
    );
}

/// The forward pass alone against the CPU.
fn check_forward<A: OnGpu>(place: Place, case: &Case) {
    let kernels = case.kernels::<A>([true, false]);
    let Some(got) = bits::<A>(place, &kernels, |device| case.forward(device)) else { return };
    assert_forward::<A>(case, &got, &case.forward(&exact()), &case.plain(round::<A>));
}

/// Both passes against the CPU.
fn check<A: OnGpu>(place: Place, case: &Case) {
    let kernels = case.kernels::<A>([true, true]);
    let Some(got) = bits::<A>(place, &kernels, |device| case.run(device)) else { return };
    let want = case.run(&exact());
    let plain = case.plain(round::<A>);
    assert_forward::<A>(case, &got, &want, &plain);
    let what = |name: &str| case.what(name);
    assert_no_worse(&what("dqkv"), &got[2].1, &want[2].1, &plain[2], unit::<A>());
    let in_sequences = case.tokens() - case.tail;
    assert!(got[2].1[in_sequences * case.heads.qkv_width()..].iter().all(|&x| x == 0.0), "{}", what("dqkv past the last bound"));
}

/// Sequences of one row, of one tile with and without its last row, of a tile and a row, of more than two tiles; empty ones
/// between; more than a tile of tokens past the last bound.
const LENGTHS: [usize; 7] = [0, 1, 63, 64, 0, 65, 130];

fn heads_of_64<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>(&LENGTHS, 70, (2, 1, 64)));
}

fn heads_of_128<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>(&[65, 0, 70], 1, (5, 1, 128)));
}

fn narrow_heads<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>(&LENGTHS, 70, (2, 2, 6)));
    check::<A>(place, &Case::new::<A>(&[64, 2], 0, (4, 2, 48)));
    check::<A>(place, &Case::new::<A>(&[3, 66], 0, (1, 1, 100)));
    check::<A>(place, &Case::new::<A>(&[20], 0, (1, 1, 1)));
}

/// More sequences than a warp looks at together, and none at all.
fn many_sequences_and_none<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>(&[1; 70], 3, (1, 1, 8)));
    check::<A>(place, &Case::new::<A>(&[], 66, (1, 1, 8)));
    check::<A>(place, &Case::new::<A>(&[0, 0], 0, (1, 1, 8)));
}

/// Scores in the hundreds: the exponentials of all but the largest vanish, and nothing overflows.
fn large_scores<A: OnGpu>(place: Place) {
    let mut case = Case::new::<A>(&[130], 0, (2, 1, 64));
    case.qkv.iter_mut().for_each(|x| *x *= 8.0);
    check::<A>(place, &case);
}

/// Tiles of 128 rows, whole and cut, with more key tiles than a ring has stages.
fn tiles_of_128<A: OnGpu>(place: Place) {
    check_forward::<A>(place, &Case::new::<A>(&[127, 128, 129], 0, (1, 1, 64)));
    check_forward::<A>(place, &Case::new::<A>(&[3, 385], 2, (1, 1, 128)));
    check_forward::<A>(place, &Case::new::<A>(&[257], 0, (2, 1, 64)));
    check_forward::<A>(place, &Case::new::<A>(&[1; 40], 3, (1, 1, 64)));
    check_forward::<A>(place, &Case::new::<A>(&[], 5, (1, 1, 128)));
    check_forward::<A>(place, &Case::new::<A>(&[0, 0], 0, (1, 1, 64)));
}

/// Scores in the hundreds, over several tiles.
fn large_scores_of_128<A: OnGpu>(place: Place) {
    let mut case = Case::new::<A>(&[300], 0, (1, 1, 128));
    case.qkv.iter_mut().for_each(|x| *x *= 8.0);
    check_forward::<A>(place, &case);
}

/// Whatever stands past the end of a sequence, in the next one or past the last bound, does not reach it.
fn nothing_comes_from_past_the_end<A: OnGpu>(place: Place) {
    for heads in [(1, 1, 64), (2, 1, 128)] {
        let mut case = Case::new::<A>(&[140, 30], 20, heads);
        let width = case.heads.qkv_width();
        case.part(170..190, 0..width).for_each(|x| *x = f64::NAN);
        check_forward::<A>(place, &case);

        let kernels = case.kernels::<A>([true, false]);
        let Some(first) = bits::<A>(place, &kernels, |device| case.forward(device)) else { return };
        case.part(140..170, 0..width).for_each(|x| *x = f64::INFINITY);
        let Some(second) = bits::<A>(place, &kernels, |device| case.forward(device)) else { return };
        let of_first = 140 * case.heads.q_width();
        assert_eq!(first[0].1[..of_first], second[0].1[..of_first]);
        for head in 0..case.heads.q {
            assert_eq!(first[1].1[head * 190..][..140], second[1].1[head * 190..][..140]);
        }
    }
}

kernels!(tiles_of_128, large_scores_of_128, nothing_comes_from_past_the_end);
/// Lengths on both sides of the borders of tiles of keys, more tiles of keys than one, a tile of tokens past the last bound, and five
/// query heads a key-value head; with as many sequences as let one block take all five, and with so few that they are shared out.
fn borders_of_keys<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>(&[127, 128, 129, 0, 193, 130], 65, (5, 1, 64)));
    check::<A>(place, &Case::new::<A>(&[257], 3, (5, 1, 64)));
    check::<A>(place, &Case::new::<A>(&[129, 130, 1, 130], 0, (2, 1, 128)));
    check::<A>(place, &Case::new::<A>(&[130], 0, (4, 2, 128)));
}

/// Large scores of wide heads.
fn large_scores_of_wide_heads<A: OnGpu>(place: Place) {
    let mut case = Case::new::<A>(&[130], 0, (2, 1, 128));
    case.qkv.iter_mut().for_each(|x| *x *= 8.0);
    check::<A>(place, &case);
}

/// The gradients of a sequence do not read its neighbours' rows, which copies of whole tiles bring along: NaN in them changes no bit.
fn neighbours_of_a_sequence<A: OnGpu>(place: Place) {
    for dim in [64, 128] {
        let case = Case::new::<A>(&[70, 67, 1, 130], 5, (2, 1, dim));
        let (own, width) = (70..137, case.heads.qkv_width());
        let run = |case: &Case, device: &Cuda<A>| {
            let dqkv = case.run(device).remove(2).1;
            vec![("dqkv", dqkv[own.start * width..own.end * width].to_vec())]
        };
        let kernels = case.kernels::<A>([true, true]);
        let Some(want) = bits::<A>(place, &kernels, |device| run(&case, device)) else { return };
        let mut foreign = Case { lengths: case.lengths.clone(), qkv: case.qkv.clone(), dout: case.dout.clone(), ..case };
        for t in (0..case.tokens()).filter(|t| !own.contains(t)) {
            foreign.qkv[t * width..][..width].fill(f64::NAN);
            foreign.dout[t * case.heads.q_width()..][..case.heads.q_width()].fill(f64::NAN);
        }
        let Some(got) = bits::<A>(place, &kernels, |device| run(&foreign, device)) else { return };
        assert!(want[0].1.iter().all(|x| x.is_finite()), "heads of {dim}");
        assert_eq!(got, want, "heads of {dim}");
    }
}

/// Sums whose order is left to chance agree with the CPU's as the others do.
fn relaxed<A: OnGpu>(place: Place) {
    if place == Place::Gpu || !present(place) {
        return;
    }
    let case = Case::new::<A>(&[300], 0, (2, 1, 64));
    let device = Cuda::<A>::with_driver(Simulated::new::<A>(1)).unwrap().relaxed(true);
    let (got, want) = (case.run(&device), case.run(&exact()));
    assert_no_worse("dqkv", &got[2].1, &want[2].1, &case.plain(round::<A>)[2], unit::<A>());
}

/// What both passes allocate for themselves is what plans count, to the byte.
fn metered<A: OnGpu>(place: Place) {
    if place == Place::Gpu || !present(place) {
        return;
    }
    for heads in [(2, 2, 64), (4, 2, 128), (2, 2, 48)] {
        let case = Case::new::<A>(&[130, 3], 1, heads);
        let (device, meter) = (Cuda::<A>::with_driver(Simulated::new::<A>(0)).unwrap(), Meter::<A>::new(Style::Cuda));
        case.run(&device);
        case.run(&meter);
        assert_eq!(meter.peak().total(), device.memory().1, "heads {heads:?}");
    }
}

kernels!(borders_of_keys, large_scores_of_wide_heads, neighbours_of_a_sequence, relaxed, metered);

kernels!(heads_of_64, heads_of_128, narrow_heads, many_sequences_and_none, large_scores);
