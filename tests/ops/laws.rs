//! What holds for every operator: checked extents, ids within range, bits that do not depend on threads, counted memory.

use repairity::device::{AdamW, Bounds, Cpu, Cursor, Device, Dropout, Heads, NO_SLOT, Sampling};
use repairity::error::{Error, Result};

use crate::*;

/// `attempt` fails for its extents, and names `what`.
fn assert_extent(what: &str, attempt: Result<()>) {
    match attempt {
        Err(Error::Extent { what: named, .. }) => assert_eq!(named, what),
        other => panic!("{what}: {other:?}"),
    }
}

/// `attempt` fails for its input, and says `part` of it.
fn assert_input(part: &str, attempt: Result<()>) {
    match attempt {
        Err(error @ Error::Input { .. }) => assert!(error.to_string().contains(part), "{error}"),
        other => panic!("{part}: {other:?}"),
    }
}

#[test]
fn wrong_extents_name_operator_and_argument() {
    let d = Cpu::<f32>::new();
    let f = |n| d.zeros::<f32>(n).unwrap();
    let u = |n| d.zeros::<u32>(n).unwrap();
    let heads = Heads { q: 2, kv: 1, dim: 2 };
    let bounds = Bounds::from_lengths(&d, [3]).unwrap();
    assert_extent("embed_fwd: out", d.embed_fwd(&mut f(5), &f(8), &u(3), 2));
    assert_extent("embed_fwd: table", d.embed_fwd(&mut f(6), &f(7), &u(3), 2));
    assert_extent("embed_bwd: dout", d.embed_bwd(&mut f(8), &f(5), &u(3), 2));
    assert_extent("rmsnorm_fwd: weight", d.rmsnorm_fwd(&mut f(6), &mut f(3), None, &f(6), &f(3), 2, 1e-6));
    assert_extent("rmsnorm_fwd: delta", d.rmsnorm_fwd(&mut f(6), &mut f(3), Some((&mut f(6), &f(5))), &f(6), &f(2), 2, 1e-6));
    assert_extent("rmsnorm_bwd: dweight", d.rmsnorm_bwd(&mut f(6), Some(&mut f(1)), &f(6), &f(3), &f(6), &f(2), 2));
    assert_extent("lora_linear_fwd: w", d.lora_linear_fwd(&mut f(6), &mut f(0), &f(9), &f(5), None, &[], None, (3, 2, 3)));
    assert_extent(
        "lora_linear_fwd: bias",
        d.lora_linear_fwd(&mut f(6), &mut f(0), &f(9), &f(6), Some(&f(3)), &[], None, (3, 2, 3)),
    );
    assert_extent("lora_linear_fwd: z", d.lora_linear_fwd(&mut f(6), &mut f(1), &f(9), &f(6), None, &[], None, (3, 2, 3)));
    let (a, b) = (f(3), f(2));
    let branch = |column| Branch { a: &a, b: &b, column, n: 2, r: 1, scale: 1.0, stream: 0 };
    let fwd = |z, branches: &[_]| d.lora_linear_fwd(&mut f(6), &mut f(z), &f(9), &f(6), None, branches, None, (3, 2, 3));
    assert_extent("lora_linear_fwd: z", fwd(3, &[branch(0)]));
    assert_extent("lora_linear_fwd: branches[0].column", fwd(24, &[branch(1)]));
    assert_extent("lora_linear_fwd: branches[1].column", fwd(24, &[branch(0), branch(0)]));
    assert_extent("lora_linear_fwd: branches", fwd(24, &[branch(0), branch(0), branch(0), branch(0)]));
    assert_extent(
        "lora_linear_bwd: dbranches",
        d.lora_linear_bwd(None, &mut [&mut f(3)], &f(6), &f(24), &f(9), &f(6), &[branch(0)], None, (3, 2, 3)),
    );
    assert_extent("linear_dweight: dbias", d.linear_dweight(&mut f(6), Some(&mut f(3)), &f(6), &f(9), (3, 2, 3)));
    assert_extent("rope: qkv", d.rope(&mut f(23), &u(3), heads, 1e4, false));
    assert_extent("attention_fwd: lse", d.attention_fwd(&mut f(12), &mut f(5), &f(24), &bounds, heads, 3));
    assert_extent("attention_fwd: bounds", d.attention_fwd(&mut f(8), &mut f(4), &f(16), &bounds, heads, 2));
    assert_extent("attention_bwd: out", d.attention_bwd(&mut f(24), &f(12), &f(11), &f(6), &f(24), &bounds, heads, 3));
    let (slots, positions) = (u(3), u(3));
    assert_extent("rope_cached: v", d.rope_cached(&mut f(24), &mut f(8), &mut f(4), &slots, &positions, heads, 1e4, 4));
    assert_extent("attention_decode: out", d.attention_decode(&mut f(3), &f(8), &f(8), &f(8), &u(1), &u(1), heads, 4));
    assert_extent("swiglu_fwd: gate_up", d.swiglu_fwd(&mut f(4), &f(7), 2));
    assert_extent("swiglu_bwd: dgate_up", d.swiglu_bwd(&mut f(7), &f(4), &f(8), 2));
    let (x, head, ids) = (f(6), f(10), u(3));
    assert_extent(
        "linear_logprob_fwd: entropy",
        d.linear_logprob_fwd(&mut f(3), &mut f(3), &mut f(2), &x, &head, &ids, 1.0, (3, 2, 5)),
    );
    assert_extent(
        "linear_logprob_bwd: dhead",
        d.linear_logprob_bwd(&mut f(6), Some(&mut f(9)), &f(3), &f(3), &x, &head, &ids, 1.0, (3, 2, 5)),
    );
    assert_extent("logits: out", d.logits(&mut f(14), &x, &head, (3, 2, 5)));
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    assert_extent("sample: draws", d.sample(&mut u(2), &mut f(2), &f(10), &f(3), sampling, 5));
    let mut cursor = Cursor { keys: u(5), ..Cursor::empty(&d, 3).unwrap() };
    assert_extent("advance: keys", d.advance(&mut u(4), &mut cursor, &u(3)));
    assert_extent("write: buf", d.write(&mut u(2), &[1]));
    assert_extent("scalar_head_fwd: x", d.scalar_head_fwd(&mut f(3), &f(5), &f(2), 2));
    assert_extent("scalar_head_bwd: dx", d.scalar_head_bwd(&mut f(5), None, &f(3), &f(6), &f(2), 2));
    assert_extent("ppo_clip: stats", d.ppo_clip(&mut f(3), &mut f(4), &f(3), &f(3), &f(3), 0.2, 1.0));
    assert_extent("value_clip: returns", d.value_clip(&mut f(3), &mut f(2), &f(3), &f(3), &f(2), 0.2, 1.0));
    assert_extent("gae: bounds", d.gae(&mut f(2), &mut f(2), &f(2), &f(2), &bounds, 1.0, 1.0));
    assert_extent("bradley_terry: scores", d.bradley_terry(&mut f(4), &mut f(2), &f(3), &f(2), 1.0));
    assert_extent("sum_squares: out", d.sum_squares(&mut f(2), 2, &f(3)));
    let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, weight_decay: 0.0, step: 1, grad_scale: 1.0 };
    assert_extent("adamw: v", d.adamw(&mut f(3), &mut f(3), &mut f(3), &mut f(2), &f(3), hyper));
    assert_extent("copy: dst", d.copy(&mut f(3), 2, &f(3), 0, 2));
    assert_extent("copy: src", d.copy(&mut f(3), 0, &f(3), usize::MAX, 2));
    assert_extent("cast: dst", d.cast::<f32, f32>(&mut f(3), &f(2)));
    assert_extent("gather_rows: out", d.gather_rows(&mut f(3), &f(4), &u(2), 2));
    assert_extent("add: out", d.add(&mut f(3), &f(4)));
}

#[test]
fn ids_out_of_range_are_named_with_the_vocabulary() {
    let d = Cpu::<f32>::new();
    let f = |n| d.zeros::<f32>(n).unwrap();
    let ids = d.upload(&[0u32, 5]).unwrap();
    assert_input("embed_fwd: ids[1]: 5 where there are 4 tokens", d.embed_fwd(&mut f(4), &f(8), &ids, 2));
    assert_input("embed_bwd: ids[1]: 5 where there are 4", d.embed_bwd(&mut f(8), &f(4), &ids, 2));
    let fwd = d.linear_logprob_fwd(&mut f(2), &mut f(2), &mut f(2), &f(2), &f(5), &ids, 1.0, (2, 1, 5));
    assert_input("linear_logprob_fwd: targets[1]: 5 where there are 5 tokens", fwd);
    assert_input("gather_rows: rows[1]: 5 where there are 4 rows", d.gather_rows(&mut f(4), &f(8), &ids, 2));
    let heads = Heads { q: 1, kv: 1, dim: 2 };
    let slots = d.upload(&[0u32, 0]).unwrap();
    let cached = |slots| d.rope_cached(&mut f(12), &mut f(8), &mut f(8), slots, &ids, heads, 1e4, 4);
    assert_input("rope_cached: positions[1]: 5", cached(&slots));
    assert_input("rope_cached: slots[1]: 5", cached(&ids));
    cached(&d.upload(&[0, NO_SLOT]).unwrap()).unwrap();
    let mut cursor = Cursor::empty(&d, 2).unwrap();
    d.write(&mut cursor.slots, &[NO_SLOT, 4]).unwrap();
    assert_input("advance: slots[1]: 4 where there are 4 slots", d.advance(&mut d.zeros(4).unwrap(), &mut cursor, &ids));
    assert_input("3 query heads, 2", d.attention_fwd(&mut f(0), &mut f(0), &f(0), &bounds(&d), Heads { q: 3, kv: 2, dim: 1 }, 0));
}

fn bounds(d: &Cpu<f32>) -> Bounds<Cpu<f32>> {
    Bounds::from_lengths(d, []).unwrap()
}

#[test]
fn gather_and_scatter() {
    let d = Cpu::<f64>::new();
    let rows = d.upload(&[3u32, 0]).unwrap();
    let mut out = unset(&d, 4);
    d.gather_rows(&mut out, &upload(&d, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), &rows, 2).unwrap();
    assert_eq!(host(&out), [6.0, 7.0, 0.0, 1.0]);
    let mut back = unset(&d, 8);
    d.scatter_rows(&mut back, &out, &rows, 2).unwrap();
    assert_eq!(host(&back), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 6.0, 7.0]);
}

#[test]
fn memory_counts_live_bytes_and_their_peak() {
    let d = Cpu::<f32>::new();
    let a = d.zeros::<f32>(100).unwrap();
    let b = d.upload(&[1u32; 50]).unwrap();
    assert_eq!(d.memory(), (600, 600));
    drop(a);
    assert_eq!(d.memory(), (200, 600));
    let mut c = d.zeros::<half::bf16>(4).unwrap();
    d.cast(&mut c, &d.upload(&[1.0f32, 1.003_906_2, 1.011_718_8, -3.0]).unwrap()).unwrap();
    // Halfway cases go to even.
    assert_eq!(c.map_to_f32(), [1.0, 1.0, 1.015_625, -3.0]);
    drop((b, c));
    assert_eq!(d.memory(), (0, 600));
}

#[test]
fn what_is_put_aside_comes_back_bit_for_bit_and_does_not_count() {
    let d = Cpu::<f32>::new();
    let buf = d.upload(&[1.5f32, f32::NAN, -0.0]).unwrap();
    let aside = d.offload(&buf).unwrap();
    drop(buf);
    assert_eq!(d.memory(), (0, 12));
    let back = d.fetch(&aside).unwrap();
    drop(aside);
    assert_eq!(d.memory(), (12, 12));
    assert_eq!(back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [1.5f32, f32::NAN, -0.0].map(f32::to_bits));
}

trait ToF32 {
    fn map_to_f32(&self) -> Vec<f32>;
}

impl ToF32 for Buf<half::bf16> {
    fn map_to_f32(&self) -> Vec<f32> {
        self.iter().map(|x| x.to_f32()).collect()
    }
}

/// Everything that sums over something, at extents large enough to be split among threads.
fn everything() -> Vec<Vec<f32>> {
    let d = Cpu::<f32>::new();
    let mut results = Vec::new();
    let map = Linear::new((300, 96, 130), &[(0, 64, 4, 2.0), (64, 32, 3, 1.0)], true, Some(Dropout { p: 0.1, key: 3 }));
    let (out, z) = map.forward(&d);
    results.extend([z.to_vec(), out.to_vec()]);
    let zeros: Vec<_> = map.ab.iter().map(|x| vec![0.0; x.len()]).collect();
    let g = normal(300 * 96, 7);
    let (dx, dab) = map.backward(&d, &g, None, &zeros);
    results.extend(dab.iter().map(|x| x.to_vec()));
    results.push(dx.to_vec());
    let few = Linear::new((3, 5000, 64), &[(0, 64, 4, 2.0)], false, None);
    results.push(few.forward(&d).0.to_vec());
    let (x, dout) = (upload(&d, &map.x), upload(&d, &g));
    let (mut dw, mut dbias) = (unset(&d, 96 * 130), unset(&d, 96));
    d.clear(&mut dw).unwrap();
    d.clear(&mut dbias).unwrap();
    d.linear_dweight(&mut dw, Some(&mut dbias), &dout, &x, (300, 96, 130)).unwrap();
    results.extend([dw.to_vec(), dbias.to_vec()]);

    let (mut normed, mut rstd) = (unset(&d, 300 * 130), unset(&d, 300));
    let weight = upload(&d, &normal(130, 8));
    d.rmsnorm_fwd(&mut normed, &mut rstd, None, &x, &weight, 130, 1e-6).unwrap();
    let (mut dnorm, mut dweight) = (d.zeros(300 * 130).unwrap(), d.zeros(130).unwrap());
    d.rmsnorm_bwd(&mut dnorm, Some(&mut dweight), &dx, &rstd, &x, &weight, 130).unwrap();
    results.extend([normed.to_vec(), dnorm.to_vec(), dweight.to_vec()]);

    let heads = Heads { q: 4, kv: 2, dim: 16 };
    let qkv = upload(&d, &normal(300 * heads.qkv_width(), 9));
    let bounds = Bounds::from_lengths(&d, [200, 0, 70]).unwrap();
    let (mut out, mut lse) = (unset(&d, 300 * 64), unset(&d, 300 * 4));
    d.attention_fwd(&mut out, &mut lse, &qkv, &bounds, heads, 300).unwrap();
    let mut dqkv = unset(&d, 300 * heads.qkv_width());
    d.attention_bwd(&mut dqkv, &upload(&d, &normal(300 * 64, 10)), &out, &lse, &qkv, &bounds, heads, 300).unwrap();
    results.extend([out.to_vec(), lse.to_vec(), dqkv.to_vec()]);

    let (head, ids) = (upload(&d, &normal(5000 * 130, 11)), d.upload(&vec![4999u32; 300]).unwrap());
    let (mut logprob, mut lse, mut entropy) = (unset(&d, 300), unset(&d, 300), unset(&d, 300));
    d.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &ids, 0.1, (300, 130, 5000)).unwrap();
    let (mut dx, mut dhead) = (unset(&d, 300 * 130), d.zeros(5000 * 130).unwrap());
    d.linear_logprob_bwd(&mut dx, Some(&mut dhead), &logprob, &lse, &x, &head, &ids, 0.1, (300, 130, 5000)).unwrap();
    let mut dtable = d.zeros(5000 * 130).unwrap();
    d.embed_bwd(&mut dtable, &dx, &ids, 130).unwrap();
    let mut norm = d.zeros(1).unwrap();
    d.sum_squares(&mut norm, 0, &dhead).unwrap();
    let (sum, squares) = d.moments(&dhead, 0.5).unwrap();
    results.extend([logprob.to_vec(), entropy.to_vec(), dx.to_vec(), dhead.to_vec(), dtable.to_vec(), norm.to_vec()]);
    results.push(vec![sum as f32, squares as f32]);
    results
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let with = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(everything);
    let (one, two, five) = (with(1), with(2), with(5));
    for (i, one) in one.iter().enumerate() {
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(one.iter().all(|x| x.is_finite()), "result {i}");
        assert!(bits(one) == bits(&two[i]), "result {i} with two threads");
        assert!(bits(one) == bits(&five[i]), "result {i} with five threads");
    }
}
