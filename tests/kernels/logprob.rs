//! kernels/logprob_sm90.cu; and kernels/logprob.cu, around products that are cuBLASLt's (on a GPU) or the simulator's.

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

/// Kernels of forward and backward where logits are never stored: in bf16, of whole 16-byte pieces.
const FUSED: [&str; 6] = [
    "linear_logprob_fold",
    "linear_logprob_finish",
    "linear_logprob_rows",
    "linear_logprob_gather",
    "linear_logprob_dl",
    "linear_logprob_dx",
];

/// What was computed, once it has been held against the reference.
fn check<A: OnGpu>(place: Place, case: &Case) -> Option<Outputs> {
    let (t, c, v) = case.tcv;
    let kernels: &[&str] = match t {
        0 => &[],
        _ if A::BUILD == "bf16" && c % 8 == 0 && v % 8 == 0 => &FUSED,
        _ => &["logprob_fold", "logprob_finish", "logprob_dlogits", "cast"],
    };
    let got = bits::<A>(place, kernels, |device| case.run(device))?;
    let (want, plain) = (case.run(&exact()), case.plain::<A>());
    for (((name, got), (_, want)), plain) in got.iter().zip(&want).zip(&plain) {
        let stored = if *name == "dx" { unit::<A>() } else { unit::<f32>() };
        assert_no_worse(&format!("{name}, {:?}", case.tcv), got, want, plain, stored);
    }
    Some(got)
}

/// Vocabularies of one token, of less than a vector a thread, of whole vectors and not, and no tokens.
fn vocabularies<A: OnGpu>(place: Place) {
    for tcv in [(0, 3, 5), (3, 4, 1), (40, 8, 5), (30, 3, 1027), (30, 16, 3000)] {
        check::<A>(place, &Case::new::<A>(tcv, 0.7));
    }
}

/// One row and one piece of one; tiles of tokens, of the vocabulary and of the gradient next to each other; ranges of the vocabulary, the
/// last one of a tile's first columns; more steps than there are stages.
fn wide<A: OnGpu>(place: Place) {
    for tcv in [(1, 8, 8), (130, 72, 264), (140, 328, 1288)] {
        check::<A>(place, &Case::new::<A>(tcv, 0.7));
    }
}

/// More tokens than a wave of backward takes, or than a tile of logits in the f32 build.
fn waves<A: OnGpu>(place: Place) {
    let t = if A::BUILD == "bf16" { 132 * 128 + 1 } else { 1024 + 1 };
    check::<A>(place, &Case::new::<A>((t, 8, 8), 1.0));
}

/// Tokens without a gradient, here and there, whole tiles of them, and all of them: theirs is exactly 0, and they change nothing.
fn sparse<A: OnGpu>(place: Place) {
    let kept: [fn(usize) -> bool; 3] = [|i| i % 3 == 1, |i| i >= 290, |_| false];
    for kept in kept {
        let mut case = Case::new::<A>((300, 16, 24), 1.0);
        case.dlogprob
            .iter_mut()
            .enumerate()
            .filter(|(i, _)| !kept(*i))
            .for_each(|(i, d)| *d = if i % 2 == 0 { 0.0 } else { -0.0 });
        let Some(got) = check::<A>(place, &case) else { return };
        let of_token = |i: usize| &got[3].1[i * 16..][..16];
        assert!((0..300).all(|i| kept(i) == of_token(i).iter().any(|dx| *dx != 0.0)));
        assert!((0..300).any(kept) || got[4].1 == case.dhead);
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

kernels!(vocabularies, wide, waves, sparse, tiles, large_logits);

/// A target that is no token is reported with its place among all tokens, which are more than those of a tile.
fn bad_targets<A: OnGpu>(place: Place) {
    for (tcv, bad) in [((1030, 2, 4), 1026), ((260, 8, 16), 258)] {
        on::<A>(place, |d| {
            let (t, _, v) = tcv;
            let mut case = Case::new::<A>(tcv, 1.0);
            case.targets[bad] = v as u32;
            let (x, head, targets): (Buf<A>, Buf<A>, _) =
                (upload(d, &case.x), upload(d, &case.head), d.upload(&case.targets).unwrap());
            let [mut logprob, mut lse, mut entropy] = [(); 3].map(|()| unset::<_, f32>(d, t));
            d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.0, tcv).unwrap();
            let error = d.download(&logprob).unwrap_err().to_string();
            assert_eq!(error, format!("linear_logprob_fwd: targets[{bad}]: {v} is out of range"));
            assert!(host::<_, f32>(d, &lse).iter().all(|x| x.is_finite()));
        });
    }
}

kernels!(bad_targets);
