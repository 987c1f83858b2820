//! Choosing tokens: kernels/sample.cu, and kernels/cursor.cu. Ids are those of the CPU in f32, whose weights the kernel's are; log-probabilities are near the
//! exact ones.

use repairity::device::{Cpu, Cursor, Device, Sampling, Standing};

use crate::*;

/// One rounding in f32, relative.
const F32: f64 = 1.0 / 16_777_216.0;

/// Ids and log-probabilities of rows of `logits[draws, v]`.
fn choose<D: Device>(d: &D, logits: &[f64], draws: &[f32], sampling: Sampling) -> Outputs {
    let b = draws.len();
    let (mut ids, mut logprob) = (d.upload(&vec![u32::MAX; b]).unwrap(), unset::<D, D::Acc>(d, b));
    let draws = d.upload(draws).unwrap();
    d.sample(&mut ids, &mut logprob, &upload(d, logits), &draws, sampling, logits.len() / b.max(1)).unwrap();
    let ids = d.download(&ids).unwrap().into_iter().map(f64::from).collect();
    vec![("ids", ids), ("logprob", host::<D, D::Acc>(d, &logprob))]
}

/// Holds the kernel to the CPU on rows of logits.
fn hold<A: OnGpu>(place: Place, logits: &[f64], draws: &[f32], sampling: Sampling) -> Option<Vec<u32>> {
    let outputs = bits::<A>(place, &["sample"], |device| choose(device, logits, draws, sampling))?;
    let v = logits.len() / draws.len();
    let want = choose(&Cpu::<f32>::new(), logits, draws, sampling);
    assert_eq!(outputs[0].1, want[0].1, "ids of {v}, {sampling:?}");
    let near = choose(&exact(), logits, draws, sampling);
    // A weight's exponent rounds twice, which counts with its magnitude: on average at most ln v, for the token drawn what it is. The
    // exponential, the logarithm and the difference round too.
    let bound = |i: usize| F32 * (5.0 * near[1].1[i].abs() + 5.0 * (v as f64).ln() + 8.0);
    assert_within(&format!("logprob of {v}, {sampling:?}"), &outputs[1].1, &near[1].1, bound);
    Some(outputs[0].1.iter().map(|&id| id as u32).collect())
}

/// `n` draws in the middle of `n` equal parts of [0, 1), and both ends.
fn draws(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 + 0.5) / n as f32).chain([0.0, 1.0f32.next_down()]).collect()
}

/// Vocabularies of one token, of less and more than a vector, of whole vectors or not, of more than one step of each warp; then every
/// kind of cut, and both at once.
fn like_the_cpu<A: OnGpu>(place: Place) {
    let run = |v: usize, draws: &[f32], temperature: f32, top_k: usize, top_p: f32| {
        let logits: Vec<f64> = normal::<f32>(v * draws.len(), 1).iter().map(|x| 2.0 * x).collect();
        hold::<A>(place, &logits, draws, Sampling { temperature, top_k, top_p }).is_some()
    };
    for v in [1, 2, 3, 5, 127, 128, 1003, 4100] {
        for temperature in [1.0, 0.6, 0.0] {
            if !run(v, &draws(3), temperature, 0, 1.0) {
                return;
            }
        }
    }
    for (v, temperature, top_k, top_p) in [
        (1, 1.0, 1, 0.5),
        (5, 1.0, 1, 1.0),
        (5, 2.0, 9, 0.0),
        (127, 1.3, 40, 1.0),
        (1003, 1.0, 0, 0.9),
        (1003, 0.8, 50, 0.8),
        (2052, 1.0, 2051, 0.99),
        (2052, 0.0, 3, 0.5),
    ] {
        if !run(v, &draws(1), temperature, top_k, top_p) {
            return;
        }
    }
}

kernels!(like_the_cpu);

/// Of equal logits the lower ids are the more likely, across lanes and warps, and the two zeros are equal.
fn ties<A: OnGpu>(place: Place) {
    let v = 1300;
    let draws = draws(1);
    let steps: Vec<f64> = normal::<f32>(v * draws.len(), 1).iter().map(|x| (2.0 * x).round() / 2.0).collect();
    let zeros: Vec<f64> = (0..v * draws.len()).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect();
    for logits in [&steps, &zeros] {
        for (temperature, top_k, top_p) in [(0.0, 0, 1.0), (1.0, 700, 1.0), (1.0, 0, 0.3), (1.0, 600, 0.61)] {
            if hold::<A>(place, logits, &draws, Sampling { temperature, top_k, top_p }).is_none() {
                return;
            }
        }
    }
    let seven = Sampling { temperature: 1.0, top_k: 7, top_p: 1.0 };
    let Some(ids) = hold::<A>(place, &zeros, &draws, seven) else { return };
    assert!(ids.iter().all(|&id| id < 7), "{ids:?}");
    assert_eq!(ids.last(), Some(&6));
}

kernels!(ties);

/// Tokens of probability 0 are never drawn, at either end of the interval.
fn impossible_tokens<A: OnGpu>(place: Place) {
    let draws = [0.0, 0.5, 1.0f32.next_down()];
    let mut row = vec![f64::NEG_INFINITY; 600];
    (row[130], row[131], row[470]) = (-3.0, -3.0, -4.0);
    let logits = row.repeat(3);
    for (top_k, top_p) in [(0, 1.0), (2, 1.0), (0, 0.99)] {
        let Some(ids) = hold::<A>(place, &logits, &draws, Sampling { temperature: 1.0, top_k, top_p }) else { return };
        assert_eq!(ids[0], 130);
        assert_eq!(ids[2], if top_k == 2 { 131 } else { 470 });
    }
}

kernels!(impossible_tokens);

/// Logits that are no numbers give an id of the vocabulary and a log-probability that shows it.
fn not_a_number<A: OnGpu>(place: Place) {
    for value in [f64::NAN, f64::NEG_INFINITY] {
        for sampling in [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.5)] {
            let sampling = Sampling { temperature: sampling.0, top_k: sampling.1, top_p: sampling.2 };
            let run = |device: &Cuda<A>| choose(device, &[value; 10], &[0.3, 0.9], sampling);
            let Some(outputs) = bits::<A>(place, &["sample"], run) else { return };
            assert!(outputs[0].1.iter().all(|&id| id < 5.0), "{:?}", outputs[0].1);
            assert!(outputs[1].1.iter().all(|x| x.is_nan()), "{:?}", outputs[1].1);
        }
    }
}

kernels!(not_a_number);

/// Every number of the CPU's, bit for bit, over several steps, from keys and counts with high bits and low ones; more rows than a block.
fn cursors<A: OnGpu>(place: Place) {
    fn moved<D: Device>(d: &D, rows: usize) -> Outputs {
        let mut rng = Rng::new(1, "cursors", 0);
        let word = |rng: &mut Rng| u64::from(rng.word()) << 32 | u64::from(rng.word());
        let standing =
            |i: usize| Standing { slot: (rows - i) as u32, position: 3 * i as u32, count: i as u32, key: word(&mut rng) };
        let standings: Vec<Standing> = (0..rows).map(standing).collect();
        // And three rows of no sequence.
        let mut cursor = Cursor::empty(d, rows + 3).unwrap();
        cursor.set(d, &standings).unwrap();
        let mut last = d.zeros(rows + 1).unwrap();
        let mut draws = Vec::new();
        for step in 0..3 {
            let ids: Vec<u32> = (0..rows as u32 + 3).map(|i| 1000 * step + i).collect();
            d.advance(&mut last, &mut cursor, &d.upload(&ids).unwrap()).unwrap();
            draws.extend(d.download(&cursor.draws).unwrap().into_iter().map(f64::from));
        }
        let words = |buf: &D::Buf<u32>| d.download(buf).unwrap().into_iter().map(f64::from).collect();
        let Cursor { positions, lengths, counts, .. } = &cursor;
        let words =
            [("last", words(&last)), ("positions", words(positions)), ("lengths", words(lengths)), ("counts", words(counts))];
        words.into_iter().chain([("draws", draws)]).collect()
    }
    for rows in [1, 130] {
        let Some(got) = bits::<A>(place, &["advance"], |d| moved(d, rows)) else { return };
        assert_eq!(got, moved(&Cpu::<f32>::new(), rows));
    }
}

kernels!(cursors);
