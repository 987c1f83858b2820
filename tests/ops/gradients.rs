//! Every differentiable operator but attention and the losses, in f64, against central differences.

use repairity::device::{Cpu, Device, Dropout, Heads};

use crate::*;

#[test]
fn lora_linear() {
    let device = Cpu::<f64>::new();
    let dropout = Some(Dropout { p: 0.3, key: 99 });
    for (tnk, branches) in [
        ((0, 3, 4), &[(0, 3, 1, 2.0)][..]),
        ((1, 1, 1), &[(0, 1, 1, 0.5)]),
        ((3, 7, 5), &[]),
        ((5, 7, 6), &[(0, 4, 3, 4.0), (4, 3, 1, 0.25)]),
        ((9, 6, 33), &[(1, 2, 3, 1.5)]),
        ((70, 2, 3), &[(0, 1, 1, 2.0), (1, 1, 3, 1.0)]),
        ((260, 2, 2), &[(0, 2, 1, 2.0)]),
    ] {
        for (bias, dropout) in [(false, None), (true, dropout)] {
            let map = Linear::new(tnk, branches, bias, dropout);
            let (t, n, k) = tnk;
            let g = normal(t * n, 7);
            let loss = |map: &Linear| dot(&host(&map.forward(&device).0), &g);
            let want_x = differences(&map.x, |x| loss(&Linear { x: x.to_vec(), ..map.clone() }));
            let before: Vec<_> = map.ab.iter().map(|x| normal(x.len(), 8)).collect();
            let (dx, dab) = map.backward(&device, &g, None, &before);
            assert_gradient("dx", &host(&dx), &want_x);
            for i in 0..map.ab.len() {
                let want = differences(&map.ab[i], |x| {
                    let mut map = map.clone();
                    map.ab[i] = x.to_vec();
                    loss(&map)
                });
                assert_added("dbranches", &host(&dab[i]), &before[i], &want);
            }
            let old = normal(t * k, 9);
            assert_added("dx +=", &host(&map.backward(&device, &g, Some(&old), &before).0), &old, &want_x);

            let (old_w, old_bias) = (normal(n * k, 11), normal(n, 12));
            let (mut dw, mut dbias) = (upload(&device, &old_w), upload(&device, &old_bias));
            let plain = Linear { branches: vec![], ab: vec![], bias: Some(normal(n, 3)), ..map.clone() };
            let (x, dout) = (upload(&device, &map.x), upload(&device, &g));
            device.linear_dweight(&mut dw, Some(&mut dbias), &dout, &x, tnk).unwrap();
            let want_w = differences(&map.w, |w| loss(&Linear { w: w.to_vec(), ..plain.clone() }));
            let bias = plain.bias.clone().unwrap();
            let want_bias = differences(&bias, |b| loss(&Linear { bias: Some(b.to_vec()), ..plain.clone() }));
            assert_added("dw", &host(&dw), &old_w, &want_w);
            assert_added("dbias", &host(&dbias), &old_bias, &want_bias);
        }
    }
}

#[test]
fn gradients_that_are_not_asked_for_leave_the_others_alone() {
    let device = Cpu::<f64>::new();
    let map = Linear::new((5, 4, 6), &[(0, 4, 3, 2.0)], false, Some(Dropout { p: 0.5, key: 1 }));
    let g = normal(20, 7);
    let zeros: Vec<_> = map.ab.iter().map(|x| vec![0.0; x.len()]).collect();
    let (dx, dab) = map.backward(&device, &g, None, &zeros);
    let (_, z) = map.forward(&device);
    let none = unset(&device, 0);
    let ab = map.upload_ab(&device);
    let (x, w, dout) = (upload(&device, &map.x), upload(&device, &map.w), upload(&device, &g));
    let branches = map.branches(&ab);
    let mut only_x = unset(&device, 30);
    device
        .lora_linear_bwd(Some((&mut only_x, false)), &mut [], &dout, &none, &none, &w, &branches, map.dropout, map.tnk)
        .unwrap();
    assert_eq!(only_x[..], dx[..]);
    let (mut da, mut db) = (upload(&device, &zeros[0]), upload(&device, &zeros[1]));
    device.lora_linear_bwd(None, &mut [&mut da, &mut db], &dout, &z, &x, &w, &branches, map.dropout, map.tnk).unwrap();
    assert_eq!((&da[..], &db[..]), (&dab[0][..], &dab[1][..]));
}

#[test]
fn embed() {
    let device = Cpu::<f64>::new();
    for (ids, v, c) in [(vec![], 3, 2), (vec![1], 2, 1), (vec![2, 0, 2, 2, 6], 7, 3), (vec![0; 9], 1, 5)] {
        let ids = device.upload::<u32>(&ids).unwrap();
        let (table, g) = (normal(v * c, 1), normal(ids.len() * c, 2));
        let want = differences(&table, |table| {
            let mut out = unset(&device, ids.len() * c);
            device.embed_fwd(&mut out, &upload(&device, table), &ids, c).unwrap();
            dot(&host(&out), &g)
        });
        let before = normal(v * c, 3);
        let mut dtable = upload(&device, &before);
        device.embed_bwd(&mut dtable, &upload(&device, &g), &ids, c).unwrap();
        assert_added("dtable", &host(&dtable), &before, &want);
    }
}

#[test]
fn rmsnorm() {
    let device = Cpu::<f64>::new();
    for (t, c) in [(0, 4), (1, 1), (3, 7), (5, 33), (2, 64)] {
        let (x, delta, weight, g) = (normal(t * c, 1), normal(t * c, 2), normal(c, 3), normal(t * c, 4));
        let forward = |x: &[f64], delta: &[f64], weight: &[f64]| {
            let (mut out, mut rstd, mut sum) = (unset(&device, t * c), unset(&device, t), unset(&device, t * c));
            let (x, delta, weight) = (upload(&device, x), upload(&device, delta), upload(&device, weight));
            device.rmsnorm_fwd(&mut out, &mut rstd, Some((&mut sum, &delta)), &x, &weight, c, 1e-6).unwrap();
            (out, rstd, sum)
        };
        let loss = |x: &[f64], delta: &[f64], weight: &[f64]| dot(&host(&forward(x, delta, weight).0), &g);
        let (_, rstd, sum) = forward(&x, &delta, &weight);
        let (old, old_weight) = (normal(t * c, 5), normal(c, 6));
        let (mut dx, mut dweight) = (upload(&device, &old), upload(&device, &old_weight));
        let dout = upload(&device, &g);
        device.rmsnorm_bwd(&mut dx, Some(&mut dweight), &dout, &rstd, &sum, &upload(&device, &weight), c).unwrap();
        // One element has a second derivative near 1 / eps; it is compared as a value elsewhere.
        if c > 1 {
            assert_added("dx", &host(&dx), &old, &differences(&x, |x| loss(x, &delta, &weight)));
            assert_added("dx", &host(&dx), &old, &differences(&delta, |d| loss(&x, d, &weight)));
        }
        assert_added("dweight", &host(&dweight), &old_weight, &differences(&weight, |w| loss(&x, &delta, w)));
    }
}

#[test]
fn rope() {
    let device = Cpu::<f64>::new();
    for (positions, q, kv, dim) in
        [(vec![], 1, 1, 2), (vec![5], 2, 1, 2), (vec![0, 1, 2, 1000, 7], 3, 1, 6), (vec![3, 0], 4, 2, 16)]
    {
        let heads = Heads { q, kv, dim };
        let positions = device.upload::<u32>(&positions).unwrap();
        let n = positions.len() * heads.qkv_width();
        let (x, g) = (normal(n, 1), normal(n, 2));
        let want = differences(&x, |x| {
            let mut x = upload(&device, x);
            device.rope(&mut x, &positions, heads, 10_000.0, false).unwrap();
            dot(&host(&x), &g)
        });
        let mut dx = upload(&device, &g);
        device.rope(&mut dx, &positions, heads, 10_000.0, true).unwrap();
        assert_gradient("dqkv", &host(&dx), &want);
    }
}

#[test]
fn swiglu() {
    let device = Cpu::<f64>::new();
    for (t, f) in [(0, 3), (1, 1), (3, 7), (5, 33)] {
        let (x, g) = (normal(2 * t * f, 1), normal(t * f, 2));
        let want = differences(&x, |x| {
            let mut out = unset(&device, t * f);
            device.swiglu_fwd(&mut out, &upload(&device, x), f).unwrap();
            dot(&host(&out), &g)
        });
        let mut dx = unset(&device, 2 * t * f);
        device.swiglu_bwd(&mut dx, &upload(&device, &g), &upload(&device, &x), f).unwrap();
        assert_gradient("dgate_up", &host(&dx), &want);
    }
}

#[test]
fn linear_logprob() {
    let device = Cpu::<f64>::new();
    // The last two go past one tile of tokens, and of the vocabulary.
    for tcv in [(0, 3, 7), (1, 1, 1), (3, 2, 7), (5, 6, 33), (259, 1, 3), (2, 1, 4100)] {
        let (t, c, v) = tcv;
        let (x, head, g) = (normal(t * c, 1), normal(v * c, 2), normal(t, 3));
        let targets: Vec<u32> = (0..t).map(|i| ((i * 5 + 3) % v) as u32).collect();
        let targets = device.upload(&targets).unwrap();
        let forward = |x: &[f64], head: &[f64]| {
            let (mut logprob, mut lse, mut entropy) = (unset(&device, t), unset(&device, t), unset(&device, t));
            let (x, head) = (upload(&device, x), upload(&device, head));
            device.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.25, tcv).unwrap();
            (logprob, lse)
        };
        let (_, lse) = forward(&x, &head);
        let before = normal(v * c, 4);
        let (mut dx, mut dhead) = (unset(&device, t * c), upload(&device, &before));
        let (dout, x_buf, head_buf) = (upload(&device, &g), upload(&device, &x), upload(&device, &head));
        device.linear_logprob_bwd(&mut dx, Some(&mut dhead), &dout, &lse, &x_buf, &head_buf, &targets, 1.25, tcv).unwrap();
        assert_gradient("dx", &host(&dx), &differences(&x, |x| dot(&host(&forward(x, &head).0), &g)));
        assert_added("dhead", &host(&dhead), &before, &differences(&head, |head| dot(&host(&forward(&x, head).0), &g)));
    }
}

#[test]
fn scalar_head() {
    let device = Cpu::<f64>::new();
    for (t, c) in [(0, 3), (1, 1), (3, 7), (5, 33)] {
        let (x, weight, g) = (normal(t * c, 1), normal(c, 2), normal(t, 3));
        let loss = |x: &[f64], weight: &[f64]| {
            let mut out = unset(&device, t);
            device.scalar_head_fwd(&mut out, &upload(&device, x), &upload(&device, weight), c).unwrap();
            dot(&host(&out), &g)
        };
        let before = normal(c, 4);
        let (mut dx, mut dweight) = (unset(&device, t * c), upload(&device, &before));
        let (x_buf, weight_buf) = (upload(&device, &x), upload(&device, &weight));
        device.scalar_head_bwd(&mut dx, Some(&mut dweight), &upload(&device, &g), &x_buf, &weight_buf, c).unwrap();
        assert_gradient("dx", &host(&dx), &differences(&x, |x| loss(x, &weight)));
        assert_added("dweight", &host(&dweight), &before, &differences(&weight, |w| loss(&x, w)));
    }
}
