//! kernels/logprob.cu, around products that are cuBLASLt's (on a GPU) or the simulator's.

use repairity::device::Device;

use crate::plain::{assert_no_worse, dot, round, single};
use crate::*;

/// A head and what it is applied to.
struct Case {
    tcv: (usize, usize, usize),
    scale: f32,
    x: Vec<f64>,
    head: Vec<f64>,
    targets: Vec<u32>,
    dlogprob: Vec<f64>,
    dhead: Vec<f64>,
}

impl Case {
    fn new<A: Act>(tcv: (usize, usize, usize), scale: f32) -> Case {
        let (t, c, v) = tcv;
        Case {
            tcv,
            scale,
            x: normal::<A>(t * c, 1),
            head: normal::<A>(v * c, 2),
            // The last token of the vocabulary and the first are among them.
            targets: (0..t).map(|i| ((i + 1) * (v - 1) % v) as u32).collect(),
            dlogprob: normal::<f32>(t, 3),
            dhead: normal::<f32>(v * c, 4),
        }
    }

    fn run<D: Device>(&self, d: &D) -> Outputs {
        let (t, c, _) = self.tcv;
        let (x, head, targets) = (upload(d, &self.x), upload(d, &self.head), d.upload(&self.targets).unwrap());
        let [mut logprob, mut lse, mut entropy] = [(); 3].map(|()| unset::<D, D::Acc>(d, t));
        d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, self.scale, self.tcv).unwrap();
        let (mut dx, mut dhead) = (unset::<D, D::Act>(d, t * c), upload(d, &self.dhead));
        let dlogprob = upload(d, &self.dlogprob);
        d.linear_logprob_bwd(&mut dx, Some(&mut dhead), &dlogprob, &lse, &x, &head, &targets, self.scale, self.tcv).unwrap();
        vec![
            ("logprob", host::<D, D::Acc>(d, &logprob)),
            ("lse", host::<D, D::Acc>(d, &lse)),
            ("entropy", host::<D, D::Acc>(d, &entropy)),
            ("dx", host::<D, D::Act>(d, &dx)),
            ("dhead", host::<D, D::Acc>(d, &dhead)),
        ]
    }

    /// [`Case::run`] with whole logits in f32; their gradient is rounded as it is stored.
    fn plain<A: Act>(&self) -> [Vec<f32>; 5] {
        let (t, c, v) = self.tcv;
        let (x, head, d) = (single(&self.x), single(&self.head), single(&self.dlogprob));
        let [mut logprob, mut lse, mut entropy] = [(); 3].map(|()| vec![0.0; t]);
        let (mut dx, mut sums) = (vec![0.0; t * c], vec![0.0; v * c]);
        for i in 0..t {
            let logit = |j: usize| self.scale * dot((0..c).map(|e| (x[i * c + e], head[j * c + e])));
            let l: Vec<f32> = (0..v).map(logit).collect();
            let top = l.iter().fold(f32::NEG_INFINITY, |top, &l| top.max(l));
            let (sum, target) = (l.iter().map(|l| (l - top).exp()).sum::<f32>(), self.targets[i] as usize);
            lse[i] = top + sum.ln();
            logprob[i] = l[target] - lse[i];
            entropy[i] = sum.ln() - dot(l.iter().map(|l| ((l - top).exp(), l - top))) / sum;
            let hit = |j: usize| if j == target { 1.0 } else { 0.0 };
            let dl: Vec<f32> = (0..v).map(|j| round::<A>(d[i] * (hit(j) - (l[j] - lse[i]).exp()))).collect();
            for e in 0..c {
                dx[i * c + e] = round::<A>(self.scale * dot((0..v).map(|j| (dl[j], head[j * c + e]))));
                (0..v).for_each(|j| sums[j * c + e] += dl[j] * x[i * c + e]);
            }
        }
        let dhead = self.dhead.iter().zip(&sums).map(|(&before, sum)| before as f32 + self.scale * sum).collect();
        [logprob, lse, entropy, dx, dhead]
    }
}

fn check<A: OnGpu>(place: Place, case: &Case) {
    let kernels: &[&str] = match case.tcv.0 {
        0 => &[],
        _ => &["logprob_fold", "logprob_finish", "logprob_dlogits", "cast"],
    };
    let Some(got) = bits::<A>(place, kernels, |device| case.run(device)) else { return };
    let (want, plain) = (case.run(&exact()), case.plain::<A>());
    for (((name, got), (_, want)), plain) in got.iter().zip(&want).zip(&plain) {
        let stored = if *name == "dx" { unit::<A>() } else { unit::<f32>() };
        assert_no_worse(&format!("{name}, {:?}", case.tcv), got, want, plain, stored);
    }
}

/// Vocabularies of one token, of less than a vector a thread, of whole vectors and not, and no tokens.
fn vocabularies<A: OnGpu>(place: Place) {
    for tcv in [(0, 3, 5), (3, 4, 1), (40, 8, 5), (30, 3, 1027), (30, 16, 3000)] {
        check::<A>(place, &Case::new::<A>(tcv, 0.7));
    }
}

/// Tiles of the vocabulary that follow each other, the last one narrow, and tiles of tokens.
fn tiles<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((12, 2, 16_984), 1.0));
    check::<A>(place, &Case::new::<A>((1030, 3, 6), 1.0));
}

/// Logits in the hundreds, where the largest moves from tile to tile.
fn large_logits<A: OnGpu>(place: Place) {
    check::<A>(place, &Case::new::<A>((20, 8, 2000), 64.0));
}

kernels!(vocabularies, tiles, large_logits);

/// A target that is no token is reported with its place among all tokens, which are more than those of a tile.
fn bad_targets<A: OnGpu>(place: Place) {
    on::<A>(place, |d| {
        let mut case = Case::new::<A>((1030, 2, 4), 1.0);
        case.targets[1026] = 4;
        let (x, head, targets): (Buf<A>, Buf<A>, _) =
            (upload(d, &case.x), upload(d, &case.head), d.upload(&case.targets).unwrap());
        let [mut logprob, mut lse, mut entropy] = [(); 3].map(|()| unset::<_, f32>(d, 1030));
        d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.0, case.tcv).unwrap();
        let error = d.download(&logprob).unwrap_err().to_string();
        assert_eq!(error, "linear_logprob_fwd: targets[1026]: 4 is out of range");
        assert!(host::<_, f32>(d, &lse).iter().all(|x| x.is_finite()));
    });
}

kernels!(bad_targets);
