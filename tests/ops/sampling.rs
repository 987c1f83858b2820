//! Choosing tokens.

use repairity::device::{Cpu, Cursor, Device, NO_SLOT, Sampling, Standing};
use repairity::rng::{philox, unit};

use crate::*;

/// The ids and log-probabilities that `draws` give for one row of logits.
fn draw(logits: &[f64], draws: &[f32], temperature: f32, top_k: usize, top_p: f32) -> (Vec<u32>, Vec<f64>) {
    let d = Cpu::<f64>::new();
    let (mut ids, mut logprob) = (d.zeros::<u32>(draws.len()).unwrap(), unset(&d, draws.len()));
    let logits_of_all = upload(&d, &logits.repeat(draws.len()));
    let draws = d.upload(draws).unwrap();
    d.sample(&mut ids, &mut logprob, &logits_of_all, &draws, Sampling { temperature, top_k, top_p }, logits.len()).unwrap();
    (ids.to_vec(), host(&logprob))
}

/// `n` draws in the middle of `n` equal parts of [0, 1).
fn grid(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 + 0.5) / n as f32).collect()
}

fn counts(ids: &[u32], v: usize) -> Vec<usize> {
    (0..v as u32).map(|id| ids.iter().filter(|&&i| i == id).count()).collect()
}

/// Logits of the probabilities 1/16, 8/16, 4/16, 3/16.
fn logits() -> Vec<f64> {
    [1.0, 8.0, 4.0, 3.0].map(|p: f64| (p / 16.0).ln() + 0.5).to_vec()
}

#[test]
fn frequencies_over_a_grid_are_the_probabilities() {
    let (ids, logprob) = draw(&logits(), &grid(64), 1.0, 0, 1.0);
    assert_eq!(counts(&ids, 4), [4, 32, 16, 12]);
    assert!(ids.is_sorted());
    let want: Vec<f64> = ids.iter().map(|&i| ([1.0, 8.0, 4.0, 3.0][i as usize] / 16.0f64).ln()).collect();
    assert_close("logprob", &logprob, &want, 1e-14);
}

#[test]
fn the_ends_of_the_interval_give_the_first_and_the_last_token() {
    assert_eq!(draw(&logits(), &[0.0, 0.9999], 1.0, 0, 1.0).0, [0, 3]);
    // A token of probability 0 is never drawn.
    let logits = [-1e4, 0.0, 0.0, -1e4];
    assert_eq!(draw(&logits, &[0.0, 0.9999, 1.0f32.next_down()], 1.0, 0, 1.0).0, [1, 2, 2]);
}

#[test]
fn temperature_sharpens_and_the_log_probability_follows() {
    // At temperature 1/2 probabilities are squared: 1, 64, 16, 9 of 90.
    let (ids, logprob) = draw(&logits(), &grid(90), 0.5, 0, 1.0);
    assert_eq!(counts(&ids, 4), [1, 64, 16, 9]);
    assert_close("logprob", &logprob[..1], &[(1.0f64 / 90.0).ln()], 1e-14);
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let (ids, logprob) = draw(&[0.0, 2.0, 2.0, 1.0], &[0.0, 0.9999], 0.0, 0, 1.0);
    assert_eq!(ids, [1, 1]);
    let want = 2.0 - (1.0 + 2.0 * 2f64.exp() + 1f64.exp()).ln();
    assert_close("logprob", &logprob, &[want, want], 1e-14);
}

#[test]
fn top_k_keeps_the_most_likely_and_the_log_probability_is_of_all() {
    assert_eq!(counts(&draw(&logits(), &grid(8), 1.0, 1, 1.0).0, 4), [0, 8, 0, 0]);
    let (ids, logprob) = draw(&logits(), &grid(12), 1.0, 2, 1.0);
    assert_eq!(counts(&ids, 4), [0, 8, 4, 0]);
    assert_close("logprob", &logprob[..1], &[0.5f64.ln()], 1e-14);
    assert_eq!(counts(&draw(&[1.0, 1.0, 1.0], &grid(6), 1.0, 2, 1.0).0, 3), [3, 3, 0]);
    assert_eq!(counts(&draw(&logits(), &grid(64), 1.0, 9, 1.0).0, 4), [4, 32, 16, 12]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it() {
    assert_eq!(counts(&draw(&logits(), &grid(8), 1.0, 0, 0.01).0, 4), [0, 8, 0, 0]);
    assert_eq!(counts(&draw(&logits(), &grid(8), 1.0, 0, 0.0).0, 4), [0, 8, 0, 0]);
    assert_eq!(counts(&draw(&logits(), &grid(12), 1.0, 0, 0.7).0, 4), [0, 8, 4, 0]);
    assert_eq!(counts(&draw(&logits(), &grid(15), 1.0, 0, 0.8).0, 4), [0, 8, 4, 3]);
    // Top-k first: of the two kept, the first has 2/3.
    assert_eq!(counts(&draw(&logits(), &grid(8), 1.0, 2, 0.6).0, 4), [0, 8, 0, 0]);
}

#[test]
fn top_p_over_a_large_vocabulary_is_that_of_a_full_sort() {
    let v = 3000;
    let logits: Vec<f64> = normal(v, 4).iter().map(|x| 2.0 * x).collect();
    let mut order: Vec<usize> = (0..v).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let total: f64 = logits.iter().map(|l| l.exp()).sum();
    let mut sum = 0.0;
    let size = order
        .iter()
        .position(|&i| {
            sum += logits[i].exp() / total;
            sum >= f64::from(0.9f32)
        })
        .unwrap()
        + 1;
    let mut kept: Vec<u32> = order[..size].iter().map(|&i| i as u32).collect();
    kept.sort_unstable();
    let (ids, _) = draw(&logits, &[0.0, 1.0f32.next_down()], 1.0, 0, 0.9);
    assert_eq!(ids, [kept[0], kept[size - 1]]);
    let (ids, _) = draw(&logits, &grid(2000), 1.0, 0, 0.9);
    assert!(ids.iter().all(|id| kept.binary_search(id).is_ok()));
}

#[test]
fn a_row_moves_one_token_further_and_draws_the_next_number_of_its_stream() {
    let d = Cpu::<f32>::new();
    let mut cursor = Cursor::empty(&d, 3).unwrap();
    let places = [
        Standing { slot: 2, position: 7, count: 3, key: 0x1234_5678_9abc_def0 },
        Standing { slot: 0, position: 0, count: 0, key: 5 },
    ];
    cursor.set(&d, &places).unwrap();
    assert_eq!((cursor.slots.to_vec(), cursor.lengths.to_vec()), (vec![2, 0, NO_SLOT], vec![8, 1, 0]));
    let number = |count, key| unit(philox([count, 0, 0, 0], key)[0]);
    assert_eq!(cursor.draws[..2], [number(3, places[0].key), number(0, 5)]);
    let mut last = d.upload(&[90u32, 91, 92]).unwrap();
    d.advance(&mut last, &mut cursor, &d.upload(&[10u32, 11, 12]).unwrap()).unwrap();
    assert_eq!(last.to_vec(), [11, 91, 10]);
    assert_eq!((cursor.positions[..2].to_vec(), cursor.lengths[..2].to_vec()), (vec![8, 1], vec![9, 2]));
    assert_eq!(
        (cursor.counts[..2].to_vec(), cursor.draws[..2].to_vec()),
        (vec![4, 1], vec![number(4, places[0].key), number(1, 5)])
    );
}
