//! kernels/lora.cu, around products that are cuBLASLt's (on a GPU) or the simulator's.

use repairity::device::{Branch, Device, Dropout, narrow};
use repairity::rng;

use crate::plain::{assert_no_worse, dot, round, single};
use crate::*;

/// Columns, rank and first column of a branch.
type Low = (usize, usize, usize);

const SCALE: f32 = 1.75;
const STREAM: u32 = 5;

/// A linear map with low-rank branches, its inputs and the gradients that it adds to.
struct Case {
    tnk: (usize, usize, usize),
    branches: Vec<Low>,
    dropout: Option<Dropout>,
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
    dout: Vec<f64>,
    dx: Vec<f64>,
    /// `a, b` of each branch in turn.
    ab: Vec<Vec<f64>>,
    dab: Vec<Vec<f64>>,
}

impl Case {
    fn new<A: Act>(tnk: (usize, usize, usize), branches: &[Low], p: f32) -> Case {
        let (t, n, k) = tnk;
        let sizes: Vec<usize> = branches.iter().flat_map(|&(columns, r, _)| [r * k, columns * r]).collect();
        let many = |seed: u64| (seed..).zip(&sizes);
        Case {
            tnk,
            branches: branches.to_vec(),
            dropout: Some(Dropout { p, key: 0x1234_5678_9abc_def0 }).filter(|_| p > 0.0),
            x: normal::<A>(t * k, 1),
            w: normal::<A>(n * k, 2),
            bias: normal::<A>(n, 3),
            dout: normal::<A>(t * n, 4),
            dx: normal::<A>(t * k, 5),
            ab: many(10).map(|(seed, &n)| normal::<A>(n, seed)).collect(),
            dab: many(30).map(|(seed, &n)| normal::<f32>(n, seed)).collect(),
        }
    }

    /// `accumulate`: whether the gradient of the input is added to what is there.
    fn run<D: Device>(&self, d: &D, accumulate: bool) -> Outputs {
        let (t, n, k) = self.tnk;
        let ab: Vec<D::Buf<D::Act>> = self.ab.iter().map(|x| upload(d, x)).collect();
        let branches = self.branches.iter().zip(ab.chunks_exact(2)).enumerate();
        let branches: Vec<Branch<'_, D>> = branches
            .map(|(i, (&(n, r, column), ab))| {
                let stream = STREAM + i as u32;
                Branch { a: &ab[0], b: &ab[1], column, n, r, scale: SCALE, stream }
            })
            .collect();
        let (x, w, bias, dout) = (upload(d, &self.x), upload(d, &self.w), upload(d, &self.bias), upload(d, &self.dout));
        let mut out = unset::<D, D::Act>(d, t * n);
        let mut z = unset::<D, D::Act>(d, t * narrow(&branches));
        d.lora_linear_fwd(&mut out, &mut z, &x, &w, Some(&bias), &branches, self.dropout, self.tnk).unwrap();

        let mut dx = if accumulate { upload(d, &self.dx) } else { unset::<D, D::Act>(d, t * k) };
        let mut dab: Vec<D::Buf<D::Acc>> = self.dab.iter().map(|x| upload(d, x)).collect();
        let mut dbranches: Vec<_> = dab.iter_mut().collect();
        let dx_of = Some((&mut dx, accumulate));
        d.lora_linear_bwd(dx_of, &mut dbranches, &dout, &z, &x, &w, &branches, self.dropout, self.tnk).unwrap();
        let mut outputs = vec![("out", host::<D, D::Act>(d, &out)), ("dx", host::<D, D::Act>(d, &dx))];

        // The narrow side alone, and the gradient of the input where nothing is trained, have the same bits.
        let (mut alone, none) = (unset::<D, D::Act>(d, D::len(&z)), d.empty(0).unwrap());
        d.lora_narrow(&mut alone, &x, &branches, self.dropout, (t, k)).unwrap();
        assert_eq!(host::<D, D::Act>(d, &alone), host::<D, D::Act>(d, &z));
        let mut dx = if accumulate { upload(d, &self.dx) } else { unset::<D, D::Act>(d, t * k) };
        let dx_of = Some((&mut dx, accumulate));
        d.lora_linear_bwd(dx_of, &mut [], &dout, &none, &none, &w, &branches, self.dropout, self.tnk).unwrap();
        assert_eq!(host::<D, D::Act>(d, &dx), outputs[1].1);
        outputs.push(("z", host::<D, D::Act>(d, &z)));
        outputs.extend(dab.chunks_exact(2).map(|pair| ("da", host::<D, D::Acc>(d, &pair[0]))));
        outputs.extend(dab.chunks_exact(2).map(|pair| ("db", host::<D, D::Acc>(d, &pair[1]))));
        outputs
    }

    /// The kernels that it takes. In bf16 the branches of enough tokens ride in the product, backward only where nothing is dropped.
    fn kernels<A: Act>(&self) -> Vec<&'static str> {
        let (t, n, k) = self.tnk;
        if t == 0 {
            return Vec::new();
        }
        let rides = A::BUILD == "bf16" && t >= 128 && n.is_multiple_of(8) && k.is_multiple_of(8);
        let forward: &[_] = if rides { &["lora_pack_b", "linear_nt"] } else { &["lora_up"] };
        let backward: &[_] = if rides && self.dropout.is_none() { &["lora_pack_a", "linear_nn"] } else { &["lora_dx"] };
        [&["lora_down", "lora_dz_db", "lora_join", "lora_da", "lora_join_da"], forward, backward].concat()
    }

    /// What elements of the input of branch `i` are multiplied by.
    fn mask(&self, i: usize) -> Vec<f32> {
        let (t, _, k) = self.tnk;
        let kept = |e: usize, Dropout { p, key }: Dropout| {
            let word = rng::philox([(e / 4) as u32, 0, STREAM + i as u32, 0], key)[e % 4];
            if rng::unit(word) < p { 0.0 } else { 1.0 / (1.0 - p) }
        };
        (0..t * k).map(|e| self.dropout.map_or(1.0, |dropout| kept(e, dropout))).collect()
    }

    /// [`Case::run`] product by product, in its order of outputs.
    fn plain<A: Act>(&self, accumulate: bool) -> Vec<Vec<f32>> {
        let r = round::<A>;
        let (t, n, k) = self.tnk;
        let [x, w, bias, dout, before] = [&self.x, &self.w, &self.bias, &self.dout, &self.dx].map(|x| single(x));
        let product = |i: usize, j: usize| dot((0..k).map(|c| (x[i * k + c], w[j * k + c])));
        let mut out: Vec<f32> = (0..t * n).map(|e| r(product(e / n, e % n) + bias[e % n])).collect();
        let back = |i: usize, c: usize| dot((0..n).map(|j| (dout[i * n + j], w[j * k + c])));
        let mut dx: Vec<f32> = (0..t * k).map(|e| r(back(e / k, e % k) + if accumulate { before[e] } else { 0.0 })).collect();
        let width = self.branches.iter().map(|&(_, rank, _)| rank).sum::<usize>().next_multiple_of(8);
        let (mut all, mut at, mut das, mut dbs) = (vec![0.0; t * width], 0, vec![], vec![]);
        for (i, &(columns, rank, column)) in self.branches.iter().enumerate() {
            let (a, b, mask) = (single(&self.ab[2 * i]), single(&self.ab[2 * i + 1]), self.mask(i));
            let dropped: Vec<f32> = x.iter().zip(&mask).map(|(x, m)| r(x * m)).collect();
            let down = |i: usize, q: usize| dot((0..k).map(|c| (dropped[i * k + c], a[q * k + c])));
            let z: Vec<f32> = (0..t * rank).map(|e| r(SCALE * down(e / rank, e % rank))).collect();
            let of = |i: usize, j: usize| dout[i * n + column + j];
            let along = |i: usize, q: usize| dot((0..columns).map(|j| (of(i, j), b[j * rank + q])));
            let dz: Vec<f32> = (0..t * rank).map(|e| r(SCALE * along(e / rank, e % rank))).collect();
            for i in 0..t {
                for j in 0..columns {
                    let up = dot((0..rank).map(|q| (z[i * rank + q], b[j * rank + q])));
                    let at = i * n + column + j;
                    out[at] = r(out[at] + r(up));
                }
                for c in 0..k {
                    let (at, up) = (i * k + c, dot((0..rank).map(|q| (dz[i * rank + q], a[q * k + c]))));
                    dx[at] = r(dx[at] + r(mask[at] * up));
                }
            }
            let tokens = |q: usize, c: usize| dot((0..t).map(|i| (dz[i * rank + q], dropped[i * k + c])));
            let outputs = |j: usize, q: usize| dot((0..t).map(|i| (of(i, j), z[i * rank + q])));
            let (da, db) = (&self.dab[2 * i], &self.dab[2 * i + 1]);
            das.push((0..rank * k).map(|e| da[e] as f32 + tokens(e / k, e % k)).collect());
            dbs.push((0..columns * rank).map(|e| db[e] as f32 + outputs(e / rank, e % rank)).collect());
            z.iter().enumerate().for_each(|(e, z)| all[e / rank * width + at + e % rank] = *z);
            at += rank;
        }
        [vec![out, dx, all], das, dbs].concat()
    }
}

fn check<A: OnGpu>(place: Place, case: &Case) {
    let kernels = case.kernels::<A>();
    for accumulate in [false, true] {
        let Some(got) = bits::<A>(place, &kernels, |device| case.run(device, accumulate)) else { return };
        let (want, plain) = (case.run(&exact(), accumulate), case.plain::<A>(accumulate));
        for (((name, got), (_, want)), plain) in got.iter().zip(&want).zip(&plain) {
            let what = format!("{name}, {:?}, branches {:?}, {:?}", case.tnk, case.branches, case.dropout);
            let stored = if name.starts_with("da") || name.starts_with("db") { unit::<f32>() } else { unit::<A>() };
            assert_no_worse(&what, got, want, plain, stored);
        }
    }
}

/// Whole vectors everywhere, tokens of more than two tiles and of several parts, q, k and v together.
fn whole_vectors<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((130, 64, 72), &[(32, 4, 0), (16, 4, 32), (16, 4, 48)], 0.0));
    check::<A>(place, &Case::new::<A>((34, 88, 48), &[(48, 12, 0), (40, 12, 48)], 0.3));
    check::<A>(place, &Case::new::<A>((128, 24, 16), &[(8, 3, 0), (16, 1, 8)], 0.3));
}

/// Rows, first columns and ranks that are no multiple of a vector, dropout counters that rows share, and columns of no branch.
fn odd_extents<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((70, 131, 37), &[(65, 1, 3), (20, 3, 68), (40, 8, 91)], 0.3));
    check::<A>(place, &Case::new::<A>((1, 9, 37), &[(9, 33, 0)], 0.5));
    check::<A>(place, &Case::new::<A>((18, 7, 1), &[(3, 3, 0), (4, 12, 3)], 0.5));
}

/// More ranks than a block takes together, several times the branches that it does; columns of more than one block.
fn many_ranks<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((17, 24, 280), &[(8, 64, 0), (8, 1, 8), (8, 64, 16)], 0.1));
    check::<A>(place, &Case::new::<A>((5, 560, 16), &[(520, 20, 8), (32, 4, 528)], 0.0));
}

fn no_tokens<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((0, 8, 8), &[(8, 4, 0)], 0.3));
}

kernels!(whole_vectors, odd_extents, many_ranks, no_tokens);

/// Forward and both gradients drop exactly the elements that the generator says, in rows of whole vectors and in others. Identities
/// show single elements: what a product leaves is 0 where one is dropped.
fn masks<A: OnGpu>(place: Place) {
    for (t, k) in [(21, 24), (19, 23)] {
        let mut case = Case::new::<A>((t, 2 * t, k), &[(t, t.max(k), 0), (t, t.max(k), t)], 0.4);
        let rank = t.max(k);
        let one = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
        let identity =
            |rows: usize, columns: usize| (0..rows * columns).map(|e| one(e / columns, e % columns)).collect::<Vec<_>>();
        case.x.fill(1.0);
        case.w.fill(0.0);
        case.dout = (0..t * 2 * t).map(|e| one(e / (2 * t), e % (2 * t) % t)).collect();
        case.ab = (0..2).flat_map(|_| [identity(rank, k), identity(t, rank)]).collect();
        case.dab.iter_mut().for_each(|d| d.fill(0.0));
        let Some(got) = bits::<A>(place, &case.kernels::<A>(), |device| case.run(device, false)) else { return };
        let width = got[2].1.len() / t;
        let kept: Vec<Vec<bool>> = (0..2).map(|i| case.mask(i).iter().map(|mask| *mask != 0.0).collect()).collect();
        for (i, j, branch) in (0..t * k * 2).map(|e| (e / 2 / k, e / 2 % k, e % 2)) {
            let (z, da) = (got[2].1[i * width + branch * rank + j], got[3 + branch].1[i * k + j]);
            let kept = kept[branch][i * k + j];
            assert_eq!((z != 0.0, da != 0.0), (kept, kept), "branch {branch}, token {i}, input {j}");
        }
        // Token i has rank i of both branches: an input that is one's own shows in dx what either keeps.
        for i in 0..t.min(k) {
            let both = kept.iter().filter(|kept| kept[i * k + i]).count();
            let want = both as f64 * f64::from(SCALE) / 0.6;
            let got = got[1].1[i * k + i];
            assert!((got - want).abs() <= 2.0 * unit::<A>() * want, "dx of token {i}: {got} where {want} was expected");
        }
    }
}

kernels!(masks);

/// The gradient of a bias, and of a trained weight beside it.
fn bias<A: OnGpu>(place: Place) {
    for (t, n, k) in [(0, 3, 2), (1, 1, 1), (70, 5, 3), (300, 40, 2), (129, 33, 1)] {
        let (dout, x) = (normal::<A>(t * n, 1), normal::<A>(t * k, 2));
        let (dw, dbias) = (normal::<f32>(n * k, 3), normal::<f32>(n, 4));
        fn run<D: Device>(d: &D, [dw, dbias, dout, x]: [&[f64]; 4], tnk: (usize, usize, usize)) -> Outputs {
            let (mut dw, mut dbias) = (upload(d, dw), upload(d, dbias));
            d.linear_dweight(&mut dw, Some(&mut dbias), &upload(d, dout), &upload(d, x), tnk).unwrap();
            vec![("dw", host::<D, D::Acc>(d, &dw)), ("dbias", host::<D, D::Acc>(d, &dbias))]
        }
        let inputs = [&dw[..], &dbias, &dout, &x];
        let kernels: &[&str] = if t > 0 { &["column_sum"] } else { &[] };
        let Some(got) = bits::<A>(place, kernels, |device| run(device, inputs, (t, n, k))) else { return };
        let want = run(&exact(), inputs, (t, n, k));
        let [dw, dbias, dout, x] = inputs.map(single);
        let weight = |e: usize| dw[e] + dot((0..t).map(|i| (dout[i * n + e / k], x[i * k + e % k])));
        let plain = [
            (0..n * k).map(weight).collect::<Vec<f32>>(),
            (0..n).map(|j| dbias[j] + (0..t).map(|i| dout[i * n + j]).sum::<f32>()).collect(),
        ];
        for (((name, got), (_, want)), plain) in got.iter().zip(&want).zip(&plain) {
            assert_no_worse(&format!("{name}, {:?}", (t, n, k)), got, want, plain, unit::<f32>());
        }
    }
}

kernels!(bias);
