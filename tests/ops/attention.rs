//! Attention: gradients, packing, and decoding against a cache.

use repairity::device::cpu::{Buf, Float};
use repairity::device::{Bounds, Cpu, Device, Heads, NO_SLOT};

use crate::*;

/// Sequence lengths, then tokens of no sequence.
fn forward<F: Float>(device: &Cpu<F>, qkv: &[f64], lengths: &[usize], heads: Heads) -> (Buf<F>, Buf<F>) {
    let t = qkv.len() / heads.qkv_width();
    let bounds = Bounds::from_lengths(device, lengths.iter().copied()).unwrap();
    let (mut out, mut lse) = (unset(device, t * heads.q_width()), unset(device, t * heads.q));
    device.attention_fwd(&mut out, &mut lse, &upload(device, qkv), &bounds, heads, t).unwrap();
    (out, lse)
}

/// `softmax(q k^T / sqrt(d)) v` of one query row over some keys, the way it is defined.
fn naive(query: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = keys.iter().map(|k| dot(query, k) / (query.len() as f64).sqrt()).collect();
    let sum: f64 = scores.iter().map(|s| s.exp()).sum();
    let out = (0..query.len()).map(|i| scores.iter().zip(values).map(|(s, v)| s.exp() / sum * v[i]).sum());
    (out.collect(), sum.ln())
}

#[test]
fn forward_is_the_definition() {
    let device = Cpu::<f64>::new();
    for (lengths, t, q, kv, dim) in [(vec![3, 0, 1, 5], 11, 4, 2, 6), (vec![150, 2], 152, 3, 1, 2), (vec![65], 70, 1, 1, 16)] {
        let heads = Heads { q, kv, dim };
        let qkv = normal(t * heads.qkv_width(), 1);
        let (out, lse) = forward(&device, &qkv, &lengths, heads);
        let part = |i: usize, head: usize| &qkv[i * heads.qkv_width() + head * dim..][..dim];
        let (mut want, mut want_lse) = (vec![0.0; out.len()], vec![0.0; lse.len()]);
        let mut begin = 0;
        for length in lengths {
            for i in begin..begin + length {
                for h in 0..q {
                    let group = h / (q / kv);
                    let keys: Vec<_> = (begin..=i).map(|j| part(j, q + group)).collect();
                    let values: Vec<_> = (begin..=i).map(|j| part(j, q + kv + group)).collect();
                    let (row, lse) = naive(part(i, h), &keys, &values);
                    want[(i * q + h) * dim..][..dim].copy_from_slice(&row);
                    want_lse[h * t + i] = lse;
                }
            }
            begin += length;
        }
        assert_close("out", &host(&out), &want, 1e-12);
        assert_close("lse", &host(&lse), &want_lse, 1e-12);
    }
}

#[test]
fn gradients() {
    let device = Cpu::<f64>::new();
    for (lengths, t, q, kv, dim) in [
        (vec![], 0, 1, 1, 2),
        (vec![0, 0], 2, 1, 1, 2),
        (vec![1], 1, 1, 1, 2),
        (vec![3, 0, 1, 5], 10, 2, 2, 6),
        (vec![4, 3], 7, 3, 1, 2),
        (vec![5], 6, 4, 1, 16),
        (vec![67, 1], 69, 1, 1, 2),
    ] {
        let heads = Heads { q, kv, dim };
        let (qkv, g) = (normal(t * heads.qkv_width(), 1), normal(t * heads.q_width(), 2));
        let (out, lse) = forward(&device, &qkv, &lengths, heads);
        let bounds = Bounds::from_lengths(&device, lengths.iter().copied()).unwrap();
        let mut dqkv = unset(&device, qkv.len());
        let (dout, qkv_buf) = (upload(&device, &g), upload(&device, &qkv));
        device.attention_bwd(&mut dqkv, &dout, &out, &lse, &qkv_buf, &bounds, heads, t).unwrap();
        let want = differences(&qkv, |qkv| dot(&host(&forward(&device, qkv, &lengths, heads).0), &g));
        assert_gradient("dqkv", &host(&dqkv), &want);
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let device = Cpu::<f64>::new();
    let heads = Heads { q: 4, kv: 2, dim: 6 };
    let lengths = [70, 1, 0, 9];
    let qkv = normal(80 * heads.qkv_width(), 1);
    let (out, _) = forward(&device, &qkv, &lengths, heads);
    let mut begin = 0;
    for length in lengths {
        let alone = &qkv[begin * heads.qkv_width()..][..length * heads.qkv_width()];
        let (want, _) = forward(&device, alone, &[length], heads);
        assert_eq!(out[begin * heads.q_width()..][..length * heads.q_width()], want[..]);
        begin += length;
    }
}

#[test]
fn decoding_gives_the_last_row() {
    let device = Cpu::<f64>::new();
    let heads = Heads { q: 4, kv: 2, dim: 6 };
    let (lengths, capacity, slots) = ([1usize, 5, 3], 6, [3u32, 0, 2]);
    let (width, t) = (heads.qkv_width(), 9);
    let qkv = normal(t * width, 1);
    let places: Vec<(u32, u32)> = lengths.iter().zip(slots).flat_map(|(&n, s)| (0..n as u32).map(move |p| (s, p))).collect();
    let (of_slot, positions): (Vec<u32>, Vec<u32>) = places.into_iter().unzip();
    let (mut k, mut v) = (unset(&device, 4 * capacity * heads.kv_width()), unset(&device, 4 * capacity * heads.kv_width()));
    let (of_slot, positions) = (device.upload(&of_slot).unwrap(), device.upload(&positions).unwrap());
    let (mut turned, mut cached) = (upload(&device, &qkv), upload(&device, &qkv));
    device.rope(&mut turned, &positions, heads, 100.0, false).unwrap();
    device.rope_cached(&mut cached, &mut k, &mut v, &of_slot, &positions, heads, 100.0, capacity).unwrap();
    let qkv = host(&turned);
    assert_eq!(host(&cached), qkv);
    let (whole, _) = forward(&device, &qkv, &lengths, heads);

    let last: Vec<usize> = lengths
        .iter()
        .scan(0, |end, n| {
            *end += n;
            Some(*end - 1)
        })
        .collect();
    // And a row of no sequence, which gives 0 whatever its length is.
    let rows: Vec<f64> = last.iter().chain(&[0]).flat_map(|&i| qkv[i * width..][..width].to_vec()).collect();
    let mut out = unset(&device, 4 * heads.q_width());
    let lengths = device.upload(&[lengths[0] as u32, lengths[1] as u32, lengths[2] as u32, 9]).unwrap();
    let slots = device.upload(&[slots[0], slots[1], slots[2], NO_SLOT]).unwrap();
    device.attention_decode(&mut out, &upload(&device, &rows), &k, &v, &slots, &lengths, heads, capacity).unwrap();
    let mut want: Vec<f64> = last.iter().flat_map(|&i| whole[i * heads.q_width()..][..heads.q_width()].to_vec()).collect();
    want.resize(4 * heads.q_width(), 0.0);
    assert_close("decode", &host(&out), &want, 1e-13);
}

/// f32 against f64. A score is a dot product of `d` terms, off by at most `(d + 2) u` of the sum of its terms' sizes; an error `e`
/// of all scores moves a softmax weight by a factor of at most `1 + 2 e`, and weights and sums of `n` keys round some `2 n + 10`
/// times.
#[test]
fn single_precision() {
    let heads = Heads { q: 4, kv: 2, dim: 16 };
    let lengths = [100, 1, 29];
    let qkv = normal(130 * heads.qkv_width(), 1);
    let (out, lse) = forward(&Cpu::<f32>::new(), &qkv, &lengths, heads);
    let (want, want_lse) = forward(&Cpu::<f64>::new(), &qkv, &lengths, heads);
    let unit = f64::from(f32::EPSILON) / 2.0;
    let largest = qkv.iter().fold(0.0f64, |a, x| a.max(x.abs()));
    let score_error = 18.0 * unit * 16.0 * largest * largest / 4.0;
    assert_close("lse", &host(&lse), &host(&want_lse), score_error + 110.0 * unit);
    assert_close("out", &host(&out), &host(&want), (2.0 * score_error + 210.0 * unit) * largest);
}
