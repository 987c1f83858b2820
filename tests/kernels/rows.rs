//! Moving, adding, converting: kernels/rows.cu and kernels/embed.cu. All of it is exact, or rounds once.

use half::{bf16, f16};
use repairity::device::{Cuda, Device, Elem, Real};

use crate::*;

/// `n` ids below `count`, some of them several times.
fn ids(n: usize, count: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed, "ids", n as u64);
    (0..n).map(|_| rng.below(count) as u32).collect()
}

/// The names of kernels that are launched where there is work.
fn where_any(work: usize, kernels: &[&'static str]) -> Vec<&'static str> {
    if work > 0 { kernels.to_vec() } else { vec![] }
}

/// Rows of 2, 4 and 8 bytes an element, narrower than a vector, not made of whole ones, longer than what a warp copies.
fn gather_and_scatter<A: OnGpu>(place: Place) {
    for (t, of_table, c) in [(0, 3, 2), (1, 1, 1), (5, 7, 3), (9, 4, 8), (17, 30, 5), (3, 5, 1200), (2, 3, 1027)] {
        let rows = ids(t, of_table, 1);
        let mut places: Vec<u32> = (0..of_table.max(t) as u32).collect();
        Rng::new(2, "places", t as u64).shuffle(&mut places);
        places.truncate(t);
        let table = normal::<A>(of_table.max(t) * c, 3);
        // What a row holds does not matter to a copy, so elements count upwards in each type.
        fn both<A: OnGpu, T: Elem>(device: &Cuda<A>, table: &[T], rows: &[u32], places: &[u32], c: usize) -> (Vec<T>, Vec<T>) {
            let inp = device.upload(table).unwrap();
            let mut gathered = device.empty::<T>(rows.len() * c).unwrap();
            device.gather_rows(&mut gathered, &inp, &device.upload(rows).unwrap(), c).unwrap();
            let mut scattered = device.empty::<T>(table.len()).unwrap();
            device.scatter_rows(&mut scattered, &gathered, &device.upload(places).unwrap(), c).unwrap();
            (device.download(&gathered).unwrap(), device.download(&scattered).unwrap())
        }
        let outputs = bits::<A>(place, &where_any(t, &["gather_rows", "scatter_rows"]), |device| {
            let narrow: Vec<A> = table.iter().map(|&x| A::of(x)).collect();
            let words: Vec<u32> = (0..table.len() as u32).collect();
            let wide = table.clone();
            let numbers = |x: Vec<A>| x.into_iter().map(Real::f64).collect();
            let (g, s) = both(device, &narrow, &rows, &places, c);
            let (gw, sw) = both(device, &words, &rows, &places, c);
            let (gd, sd) = both(device, &wide, &rows, &places, c);
            let integers = |x: Vec<u32>| x.into_iter().map(f64::from).collect();
            vec![
                ("gathered", numbers(g)),
                ("scattered", numbers(s)),
                ("gathered words", integers(gw)),
                ("scattered words", integers(sw)),
                ("gathered doubles", gd),
                ("scattered doubles", sd),
            ]
        });
        let Some(outputs) = outputs else { return };
        let numbers: Vec<f64> = (0..table.len()).map(|i| i as f64).collect();
        for (pair, table) in outputs.chunks_exact(2).zip([&table, &numbers, &table]) {
            let gathered: Vec<f64> = rows.iter().flat_map(|&row| table[row as usize * c..][..c].to_vec()).collect();
            let mut scattered = vec![0.0; table.len()];
            for (&place, row) in places.iter().zip(gathered.chunks_exact(c)) {
                scattered[place as usize * c..][..c].copy_from_slice(row);
            }
            assert_eq!(pair[0].1, gathered, "{} of rows of {c}", pair[0].0);
            assert_eq!(pair[1].1, scattered, "{} of rows of {c}", pair[1].0);
        }
    }
}

kernels!(gather_and_scatter);

/// A row that does not exist is skipped, and named.
fn rows_out_of_range<A: OnGpu>(place: Place) {
    on::<A>(place, |device| {
        let inp = device.upload(&[1u32, 2, 3, 4, 5, 6]).unwrap();
        let rows = device.upload(&[2u32, 3, 0]).unwrap();
        let mut out = device.upload(&[9u32; 6]).unwrap();
        device.gather_rows(&mut out, &inp, &rows, 2).unwrap();
        assert_eq!(device.download(&out).unwrap_err().to_string(), "gather_rows: rows[1]: 3 is out of range");
        assert_eq!(device.download(&out).unwrap(), [5, 6, 0, 0, 1, 2]);
        device.scatter_rows(&mut out, &inp, &rows, 2).unwrap();
        assert_eq!(device.download(&out).unwrap_err().to_string(), "scatter_rows: rows[1]: 3 is out of range");
        assert_eq!(device.download(&out).unwrap(), [5, 6, 0, 0, 1, 2]);
        let mut dtable = device.upload(&[0.5f32; 4]).unwrap();
        let dout = upload::<_, A>(device, &[1.0, 2.0, 3.0, 4.0]);
        device.embed_bwd(&mut dtable, &dout, &device.upload(&[u32::MAX, 1]).unwrap(), 2).unwrap();
        let error = device.download(&dtable).unwrap_err().to_string();
        assert_eq!(error, format!("embed_bwd: ids[0]: {} is out of range", u32::MAX));
        assert_eq!(device.download(&dtable).unwrap(), [0.5, 0.5, 3.5, 4.5]);
    });
}

kernels!(rows_out_of_range);

/// The sum in f32, rounded to the build's type.
fn add<A: OnGpu>(place: Place) {
    for n in [0, 1, 7, 8, 9, 2047, 2048, 2049, 5003] {
        let (a, b) = (normal::<A>(n, 1), normal::<A>(n, 2));
        let outputs = bits::<A>(place, &where_any(n, &["add"]), |device| {
            let mut out = upload::<_, A>(device, &a);
            device.add(&mut out, &upload(device, &b)).unwrap();
            vec![("sum", host::<_, A>(device, &out))]
        });
        let Some(outputs) = outputs else { return };
        let want: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| A::of(f64::from(a as f32 + b as f32)).f64()).collect();
        assert_eq!(outputs[0].1, want, "{n} elements");
    }
}

kernels!(add);

/// Numbers at which conversions go wrong: ends, ties, subnormals, and what is not a number.
fn awkward() -> Vec<f64> {
    let powers = [-1074, -149, -133, -126, -25, -24, -14, -1, 0, 1, 15, 16, 127, 128, 1023].map(|e| 2f64.powi(e));
    let fractions = [
        1.0,
        1.0 + 2f64.powi(-8),
        1.0 + 3.0 * 2f64.powi(-8),
        1.0 + 2f64.powi(-11),
        1.0 + 3.0 * 2f64.powi(-11),
        2.0 - 2f64.powi(-9),
    ];
    let finite =
        powers.iter().flat_map(|p| fractions.map(|f| p * f)).chain([0.0, 65504.0, 65519.0, 65520.0, f64::INFINITY, f64::NAN]);
    finite.flat_map(|x| [x, -x]).collect()
}

fn cast<A: OnGpu>(place: Place) {
    fn pair<A: OnGpu, S: Real, T: Real>(place: Place, numbers: &[f64]) -> bool {
        let source: Vec<S> = numbers.iter().map(|&x| S::of(x)).collect();
        let outputs = bits::<A>(place, &where_any(source.len(), &["cast"]), |device| {
            let mut out = unset::<_, T>(device, source.len());
            device.cast(&mut out, &device.upload(&source).unwrap()).unwrap();
            vec![("cast", host::<_, T>(device, &out))]
        });
        let Some(outputs) = outputs else { return false };
        for (i, (got, source)) in outputs[0].1.iter().zip(&source).enumerate() {
            let want = T::of(source.f64()).f64();
            let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
            assert!(same, "{} to {}, [{i}]: {source:?} gave {got}, not {want}", S::NAME, T::NAME);
        }
        true
    }
    fn from<A: OnGpu, S: Real>(place: Place, numbers: &[f64]) -> bool {
        pair::<A, S, f32>(place, numbers)
            && pair::<A, S, f64>(place, numbers)
            && pair::<A, S, f16>(place, numbers)
            && pair::<A, S, bf16>(place, numbers)
    }
    let long: Vec<f64> = normal::<f32>(2051, 4).iter().map(|x| 1e3 * x).collect();
    for numbers in [&awkward()[..], &[], &[1.5], &long] {
        if !(from::<A, f32>(place, numbers) && from::<A, f64>(place, numbers) && from::<A, f16>(place, numbers)) {
            return;
        }
        from::<A, bf16>(place, numbers);
    }
}

kernels!(cast);

/// Just above a tie, by less than a float sees: rounded by way of f32, or with the low bits cut, these would go down.
fn cast_rounds_once<A: OnGpu>(place: Place) {
    let above = 2f64.powi(-50);
    let numbers =
        [1.0 + 2f64.powi(-8) + above, -(1.0 + 2f64.powi(-8) + above), 1.0 + 2f64.powi(-8), 1.0 + 2f64.powi(-11) + above];
    let outputs = bits::<A>(place, &["cast"], |device| {
        let source = device.upload(&numbers).unwrap();
        let (mut brain, mut half) = (device.empty::<bf16>(4).unwrap(), device.empty::<f16>(4).unwrap());
        device.cast(&mut brain, &source).unwrap();
        device.cast(&mut half, &source).unwrap();
        vec![("bf16", host::<_, bf16>(device, &brain)), ("f16", host::<_, f16>(device, &half))]
    });
    let Some(outputs) = outputs else { return };
    assert_eq!(outputs[0].1, [1.0 + 2f64.powi(-7), -(1.0 + 2f64.powi(-7)), 1.0, 1.0]);
    assert_eq!(outputs[1].1[3], 1.0 + 2f64.powi(-10));
}

kernels!(cast_rounds_once);

/// Tokens, columns, vocabulary: columns beyond one warp's and one block's, tokens beyond one chunk of ids, ids that come often.
const EMBEDDINGS: [(usize, usize, usize); 8] =
    [(0, 3, 2), (1, 1, 1), (5, 3, 4), (9, 8, 3), (20, 12, 7), (6, 1032, 3), (4, 1030, 2), (1100, 4, 5)];

fn embed_fwd<A: OnGpu>(place: Place) {
    for (t, c, v) in EMBEDDINGS {
        let (table, ids) = (normal::<A>(v * c, 1), ids(t, v, 2));
        let outputs = bits::<A>(place, &where_any(t, &["embed_fwd"]), |device| {
            let mut out = unset::<_, A>(device, t * c);
            device.embed_fwd(&mut out, &upload(device, &table), &device.upload(&ids).unwrap(), c).unwrap();
            vec![("out", host::<_, A>(device, &out))]
        });
        let Some(outputs) = outputs else { return };
        let want: Vec<f64> = ids.iter().flat_map(|&id| table[id as usize * c..][..c].to_vec()).collect();
        assert_eq!(outputs[0].1, want, "{t} tokens of {c}");
    }
}

kernels!(embed_fwd);

/// Adds go in the order of tokens, in f32: the same bits as a plain loop.
fn embed_bwd<A: OnGpu>(place: Place) {
    for (t, c, v) in EMBEDDINGS {
        let (dout, ids, before) = (normal::<A>(t * c, 1), ids(t, v, 2), normal::<f32>(v * c, 3));
        let outputs = bits::<A>(place, &where_any(t, &["embed_bwd"]), |device| {
            let mut dtable = upload::<_, f32>(device, &before);
            device.embed_bwd(&mut dtable, &upload(device, &dout), &device.upload(&ids).unwrap(), c).unwrap();
            vec![("dtable", host::<_, f32>(device, &dtable))]
        });
        let Some(outputs) = outputs else { return };
        let mut want: Vec<f32> = before.iter().map(|&x| x as f32).collect();
        for (row, &id) in dout.chunks_exact(c).zip(&ids) {
            want[id as usize * c..][..c].iter_mut().zip(row).for_each(|(w, &d)| *w += d as f32);
        }
        let want: Vec<f64> = want.into_iter().map(f64::from).collect();
        assert_eq!(outputs[0].1, want, "{t} tokens of {c}");
    }
}

kernels!(embed_bwd);
