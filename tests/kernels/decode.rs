//! kernels/decode.cu, and what writes the cache that it reads: kernels/rope.cu.

use repairity::device::{Device, Heads, NO_SLOT};

use crate::plain::{assert_no_worse, dot, round, single};
use crate::*;

/// A cache that holds NaN wherever nothing was written, and one query a sequence.
struct Case {
    heads: Heads,
    capacity: usize,
    slots: Vec<u32>,
    lengths: Vec<u32>,
    /// The rows that are written, sequence after sequence.
    history: Vec<f64>,
    qkv: Vec<f64>,
}

impl Case {
    fn new<A: Act>(lengths: &[u32], capacity: usize, (q, kv, dim): (usize, usize, usize)) -> Case {
        let heads = Heads { q, kv, dim };
        let b = lengths.len();
        let tokens = lengths.iter().sum::<u32>() as usize;
        Case {
            heads,
            capacity,
            slots: (0..b as u32).map(|i| b as u32 - i).collect(),
            lengths: lengths.to_vec(),
            history: normal::<A>(tokens * heads.qkv_width(), 1),
            qkv: normal::<A>(b * heads.qkv_width(), 2),
        }
    }

    fn run<D: Device>(&self, d: &D) -> Outputs {
        let Case { heads, capacity, .. } = *self;
        let (width, size) = (heads.kv_width(), (self.slots.len() + 1) * capacity * heads.kv_width());
        let (mut k, mut v) = (vec![f64::NAN; size], vec![f64::NAN; size]);
        let places = self
            .slots
            .iter()
            .zip(&self.lengths)
            .flat_map(|(&slot, &n)| (0..n).map(move |p| slot as usize * capacity + p as usize));
        for (row, place) in self.history.chunks_exact(heads.qkv_width()).zip(places) {
            let (keys, values) = row[heads.q_width()..].split_at(width);
            k[place * width..][..width].copy_from_slice(keys);
            v[place * width..][..width].copy_from_slice(values);
        }
        let (k, v) = (upload::<D, D::Act>(d, &k), upload::<D, D::Act>(d, &v));
        let mut out = unset::<D, D::Act>(d, self.slots.len() * heads.q_width());
        let (slots, lengths) = (d.upload(&self.slots).unwrap(), d.upload(&self.lengths).unwrap());
        d.attention_decode(&mut out, &upload(d, &self.qkv), &k, &v, &slots, &lengths, heads, capacity).unwrap();
        vec![("out", host::<D, D::Act>(d, &out))]
    }

    fn plain<A: Act>(&self) -> Vec<f32> {
        let Heads { q, kv, dim } = self.heads;
        let (width, scale) = (self.heads.qkv_width(), 1.0 / (dim as f32).sqrt());
        let (history, qkv) = (single(&self.history), single(&self.qkv));
        let mut out = vec![0.0; self.slots.len() * q * dim];
        let mut begin = 0;
        for (i, &length) in self.lengths.iter().enumerate() {
            let rows = &history[begin * width..][..length as usize * width];
            for h in 0..q {
                let query = &qkv[i * width + h * dim..][..dim];
                let of_head = |head: usize, c: usize| rows.chunks_exact(width).map(move |row| row[head * dim + c]);
                let scores = rows.chunks_exact(width).map(|row| {
                    let key = &row[(q + h / (q / kv)) * dim..][..dim];
                    round::<A>(scale * round::<A>(dot(query.iter().copied().zip(key.iter().copied()))))
                });
                let scores: Vec<f32> = scores.collect();
                let top = scores.iter().fold(f32::NEG_INFINITY, |top, &s| top.max(s));
                let sum: f32 = scores.iter().map(|s| (s - top).exp()).sum();
                let p: Vec<f32> = scores.iter().map(|s| round::<A>((s - top).exp() / sum)).collect();
                for c in 0..dim {
                    let values = of_head(q + kv + h / (q / kv), c);
                    out[(i * q + h) * dim + c] = round::<A>(dot(p.iter().copied().zip(values)));
                }
            }
            begin += length as usize;
        }
        out
    }
}

fn check<A: OnGpu>(place: Place, case: &Case) {
    let kernels = ["attention_decode", "attention_decode_combine"];
    let Some(got) = bits::<A>(place, &kernels, |device| case.run(device)) else { return };
    let want = case.run(&exact());
    let what = format!("{:?} of {}, {:?}", case.lengths, case.capacity, case.heads);
    assert_no_worse(&what, &got[0].1, &want[0].1, &case.plain::<A>(), unit::<A>());
}

/// Groups of one query head, of some, and of more than a block takes together; heads of whole vectors and not.
fn groups_and_widths<A: OnGpu>(place: Place) {
    for heads in [(2, 1, 64), (10, 2, 128), (9, 1, 6), (2, 2, 48), (17, 1, 100), (1, 1, 1)] {
        check::<A>(place, &Case::new::<A>(&[0, 1, 77, 33], 80, heads));
    }
    check::<A>(place, &Case::new::<A>(&[0], 1, (1, 1, 8)));
}

/// Sequences shorter than a split, of one split to the last key, of one key more, and of the whole capacity.
fn splits<A: OnGpu>(place: Place) {
    for heads in [(2, 1, 8), (3, 3, 72)] {
        check::<A>(place, &Case::new::<A>(&[0, 1, 130, 256, 257, 600], 600, heads));
    }
}

/// Scores in the hundreds, where statistics move from key to key.
fn large_scores<A: OnGpu>(place: Place) {
    let mut case = Case::new::<A>(&[300, 290], 512, (2, 1, 64));
    case.qkv.iter_mut().for_each(|x| *x *= 64.0);
    check::<A>(place, &case);
}

kernels!(groups_and_widths, splits, large_scores);

/// What is out of range is reported, with operator, argument and place, and neither read nor written.
fn bad_places<A: OnGpu>(place: Place) {
    on::<A>(place, |d| {
        let (heads, capacity) = (Heads { q: 2, kv: 1, dim: 8 }, 4);
        let qkv: Buf<A> = upload(d, &normal::<A>(3 * heads.qkv_width(), 1));
        let ids = |ids: &[u32]| d.upload(ids).unwrap();
        let mut row: Buf<A> = upload(d, &normal::<A>(3 * heads.qkv_width(), 2));
        let (mut k, mut v): (Buf<A>, Buf<A>) = (d.zeros(2 * 4 * 8).unwrap(), d.zeros(2 * 4 * 8).unwrap());
        for (slots, positions, error) in [
            ([0, 2, 1], [0, 0, 0], "rope_cached: slots[1]: 2 is out of range"),
            ([0, 1, 1], [0, 0, 4], "rope_cached: positions[2]: 4 is out of range"),
        ] {
            d.rope_cached(&mut row, &mut k, &mut v, &ids(&slots), &ids(&positions), heads, 1e4, capacity).unwrap();
            assert_eq!(d.download(&k).unwrap_err().to_string(), error);
        }
        let mut out: Buf<A> = unset(d, 3 * heads.q_width());
        for (slots, lengths, error) in [
            ([0, 1, 9], [1, 1, 1], "attention_decode: slots[2]: 9 is out of range"),
            ([0, 1, 0], [5, 1, 1], "attention_decode: lengths[0]: 5 is out of range"),
        ] {
            d.attention_decode(&mut out, &qkv, &k, &v, &ids(&slots), &ids(&lengths), heads, capacity).unwrap();
            assert_eq!(d.download(&out).unwrap_err().to_string(), error);
        }
        assert_eq!(host::<_, A>(d, &out)[..heads.q_width()], [0.0; 16], "a sequence of no usable length");
    });
}

kernels!(bad_places);

/// A row of no sequence gives 0 beside rows of some, whatever its length is, and reports nothing.
fn rows_of_no_sequence<A: OnGpu>(place: Place) {
    let mut case = Case::new::<A>(&[40, 3], 64, (4, 2, 16));
    let Some(alone) = bits::<A>(place, &["attention_decode", "attention_decode_combine"], |d| case.run(d)) else { return };
    let width = case.heads.q_width();
    case.slots.push(NO_SLOT);
    case.lengths.push(1000);
    case.qkv.extend(normal::<A>(case.heads.qkv_width(), 3));
    on::<A>(place, |d| {
        let Case { heads, capacity, ref slots, ref lengths, ref qkv, .. } = case;
        let places = [(2, 40), (1, 3)];
        let size = 3 * capacity * heads.kv_width();
        let (mut k, mut v) = (vec![f64::NAN; size], vec![f64::NAN; size]);
        let mut history = case.history.chunks_exact(heads.qkv_width());
        for at in places.iter().flat_map(|&(slot, n)| (0..n).map(move |p| (slot * capacity + p) * heads.kv_width())) {
            let (keys, values) = history.next().unwrap()[width..].split_at(heads.kv_width());
            k[at..][..heads.kv_width()].copy_from_slice(keys);
            v[at..][..heads.kv_width()].copy_from_slice(values);
        }
        let mut out: Buf<A> = unset(d, 3 * width);
        let (k, v): (Buf<A>, Buf<A>) = (upload(d, &k), upload(d, &v));
        let (slots, lengths) = (d.upload(slots).unwrap(), d.upload(lengths).unwrap());
        d.attention_decode(&mut out, &upload(d, qkv), &k, &v, &slots, &lengths, heads, capacity).unwrap();
        let got = host::<_, A>(d, &out);
        assert_eq!(got[..2 * width], alone[0].1);
        assert_eq!(got[2 * width..], vec![0.0; width]);
    });
}

/// `rope` bit for bit, with keys and values in their places and nothing anywhere else; a row of no sequence turns and is not cached.
fn cached_as_turned<A: OnGpu>(place: Place) {
    for (q, kv, dim) in [(5, 1, 128), (4, 2, 16), (3, 3, 6), (2, 1, 300)] {
        let heads = Heads { q, kv, dim };
        let (capacity, slots, positions) = (3, [1, 0, NO_SLOT, 1], [2, 0, 77, 0]);
        let qkv = normal::<A>(4 * heads.qkv_width(), 4);
        let outputs = bits::<A>(place, &["rope", "rope_cached"], |d| {
            let (mut turned, mut cached): (Buf<A>, Buf<A>) = (upload(d, &qkv), upload(d, &qkv));
            let (slots, positions) = (d.upload(&slots).unwrap(), d.upload(&positions).unwrap());
            let cache = || upload::<_, A>(d, &vec![-99.0; 2 * capacity * heads.kv_width()]);
            let (mut k, mut v) = (cache(), cache());
            d.rope(&mut turned, &positions, heads, 1e4, false).unwrap();
            d.rope_cached(&mut cached, &mut k, &mut v, &slots, &positions, heads, 1e4, capacity).unwrap();
            [("turned", turned), ("cached", cached), ("k", k), ("v", v)].map(|(name, buf)| (name, host::<_, A>(d, &buf))).to_vec()
        });
        let Some(outputs) = outputs else { return };
        let [turned, cached, k, v] = [0, 1, 2, 3].map(|i| &outputs[i].1);
        assert_eq!(cached, turned, "{heads:?}");
        let width = heads.kv_width();
        let mut want = [vec![-99.0; 2 * capacity * width], vec![-99.0; 2 * capacity * width]];
        for (row, at) in [(0, capacity + 2), (1, 0), (3, capacity)] {
            let row = &turned[row * heads.qkv_width()..][heads.q_width()..];
            want[0][at * width..][..width].copy_from_slice(&row[..width]);
            want[1][at * width..][..width].copy_from_slice(&row[width..][..width]);
        }
        assert_eq!([k, v], [&want[0], &want[1]], "{heads:?}");
    }
}

kernels!(rows_of_no_sequence, cached_as_turned);
