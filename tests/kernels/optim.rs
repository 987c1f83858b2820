//! The optimizer and the norm of a gradient: kernels/optim.cu.

use repairity::device::{AdamW, Device};

use crate::*;

/// One rounding in f32, relative.
const F32: f64 = 1.0 / 16_777_216.0;

/// `param`, `master`, `m`, `v` after one step from `[master, m, v, grad]`.
fn step<D: Device>(d: &D, [master, m, v, grad]: [&[f64]; 4], hyper: AdamW) -> Outputs {
    let mut param = unset::<D, D::Act>(d, grad.len());
    let [mut master, mut m, mut v, grad] = [master, m, v, grad].map(|x| upload::<D, D::Acc>(d, x));
    d.adamw(&mut param, &mut master, &mut m, &mut v, &grad, hyper).unwrap();
    let wide = |buf| host::<D, D::Acc>(d, buf);
    vec![("param", host::<D, D::Act>(d, &param)), ("master", wide(&master)), ("m", wide(&m)), ("v", wide(&v))]
}

fn adamw<A: OnGpu>(place: Place) {
    for (n, number) in [(0, 1), (1, 1), (7, 2), (8, 3), (9, 1000), (2048, 5), (2051, 2), (5000, 1)] {
        let [master, m, grad] = [1, 2, 3].map(|seed| normal::<f32>(n, seed));
        let v: Vec<f64> = normal::<f32>(n, 4).iter().map(|x| f64::from((x * x) as f32)).collect();
        let hyper = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: number, grad_scale: 0.5 };
        let inputs = [&master[..], &m, &v, &grad];
        let launched: &[&str] = if n > 0 { &["adamw"] } else { &[] };
        let Some(outputs) = bits::<A>(place, launched, |device| step(device, inputs, hyper)) else { return };
        let want = step(&exact(), inputs, hyper);
        let g = |i: usize| (hyper.grad_scale * grad[i]).abs();
        // A moment is two products and a sum of rounded constants, 4 roundings of each term and one more for the square.
        let of_m = |i: usize| 4.0 * F32 * (hyper.beta1 * m[i].abs() + (1.0 - hyper.beta1) * g(i));
        assert_within("m", &outputs[2].1, &want[2].1, of_m);
        assert_within("v", &outputs[3].1, &want[3].1, |i| 6.0 * F32 * want[3].1[i]);
        // The step divides m, with its error, by a root that has half of v's; the decay and the difference round once each.
        let rate = hyper.lr / (1.0 - hyper.beta1.powf(number as f64));
        let widen = 1.0 / (1.0 - hyper.beta2.powf(number as f64));
        let of_master = |i: usize| {
            let root = (want[3].1[i] * widen).sqrt() + hyper.eps;
            let moved = rate * want[2].1[i].abs() / root;
            2.0 * F32 * master[i].abs() + rate * of_m(i) / root + 9.0 * F32 * moved
        };
        assert_within("master", &outputs[1].1, &want[1].1, of_master);
        let rounded: Vec<f64> = outputs[1].1.iter().map(|&p| A::of(p).f64()).collect();
        assert_eq!(outputs[0].1, rounded, "param is the master, rounded");
    }
}

kernels!(adamw);

/// A learning rate so small that `1 - lr decay` is 1 in f32 still decays.
fn decay_is_not_lost<A: OnGpu>(place: Place) {
    let hyper = AdamW { lr: 1e-5, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.5, step: 1, grad_scale: 1.0 };
    let zeros = [0.0; 3];
    let run = |device: &Cuda<A>| step(device, [&[1.0; 3], &zeros, &zeros, &zeros], hyper);
    let Some(outputs) = bits::<A>(place, &["adamw"], run) else { return };
    assert_within("master", &outputs[1].1, &[1.0 - 5e-6; 3], |_| F32);
}

kernels!(decay_is_not_lost);

/// Nothing, one element, ends that cut a piece of 8, one part and several.
fn sum_squares<A: OnGpu>(place: Place) {
    for n in [0, 1, 7, 8, 2049, 32_768, 32_769, 100_003] {
        let x = normal::<f32>(n, 1);
        let outputs = bits::<A>(place, &["sum_squares_finish", "sum_squares_partial"], |device| {
            let mut out = upload::<_, f32>(device, &[7.0, 8.0, 9.0]);
            device.sum_squares(&mut out, 1, &upload(device, &x)).unwrap();
            vec![("out", host::<_, f32>(device, &out))]
        });
        let Some(outputs) = outputs else { return };
        let want = x.iter().map(|x| x * x).sum::<f64>();
        // In double, then rounded.
        assert_within("out", &outputs[0].1, &[7.0, want, 9.0], |i| if i == 1 { 1.001 * F32 * want } else { 0.0 });
    }
}

kernels!(sum_squares);
