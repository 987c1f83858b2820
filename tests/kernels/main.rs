//! Every kernel, in both builds, against the CPU: in the simulator under several orders of threads, which must give the same bits,
//! and on a GPU where there is one (REPAIRITY_GPU=1 makes its absence a failure).

#[path = "../support/place.rs"]
mod place;
#[path = "../support/simulated.rs"]
mod simulated;

mod attention;
mod bench;
mod decode;
mod gemm;
mod logprob;
mod lora;
mod losses;
mod norms;
mod optim;
mod plain;
mod replay;
mod rows;
mod sampling;
mod traffic;

use std::collections::BTreeSet;

use place::{OnGpu, Place, builds as kernels, on, present};
use repairity::device::cuda::{Act, Buf};
use repairity::device::{Cpu, Cuda, Device, Real};
use repairity::rng::Rng;
use simulated::Simulated;

/// Orders of threads: the natural one and one of each kind of shuffle.
const ORDERS: [u64; 4] = [0, 1, 2, 3];

/// Named results of a run.
type Outputs = Vec<(&'static str, Vec<f64>)>;

/// What `run` computes, after checking that it launched exactly `kernels` and that neither the order of threads (in the simulator) nor
/// a second run (on a GPU) changes a bit. None where the place is missing.
fn bits<A: OnGpu>(place: Place, kernels: &[&'static str], run: impl Fn(&Cuda<A>) -> Outputs) -> Option<Outputs> {
    if !present(place) {
        return None;
    }
    let results: Vec<Outputs> = match place {
        Place::Gpu => {
            let device = A::device();
            vec![run(device), run(device)]
        }
        Place::Simulator => {
            let one = |&order: &u64| {
                let machine = Simulated::new::<A>(order);
                let outputs = run(&Cuda::with_driver(machine.clone()).unwrap());
                assert_eq!(machine.launched(), BTreeSet::from_iter(kernels.iter().copied()), "launched, and named by the test");
                outputs
            };
            ORDERS.iter().map(one).collect()
        }
    };
    for (which, other) in results.iter().enumerate().skip(1) {
        for ((name, first), (_, other)) in results[0].iter().zip(other) {
            let differs = first.iter().zip(other).position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(i) = differs {
                panic!("{name}[{i}] is {} in run 0 and {} in run {which}", first[i], other[i]);
            }
        }
    }
    results.into_iter().next()
}

/// `n` standard normal numbers that are exact in `A`, so that every device reads the same.
fn normal<A: Real>(n: usize, seed: u64) -> Vec<f64> {
    let mut rng = Rng::new(seed, "kernels", n as u64);
    (0..n).map(|_| A::of(rng.normal()).f64()).collect()
}

/// Numbers as a buffer of any device.
fn upload<D: Device, T: Real>(device: &D, x: &[f64]) -> D::Buf<T> {
    device.upload(&x.iter().map(|&x| T::of(x)).collect::<Vec<T>>()).unwrap()
}

/// A buffer's numbers.
fn host<D: Device, T: Real>(device: &D, buf: &D::Buf<T>) -> Vec<f64> {
    device.download(buf).unwrap().into_iter().map(|x| x.f64()).collect()
}

/// A buffer that holds NaN: what an operator that sets its output must not read and must not leave.
fn unset<D: Device, T: Real>(device: &D, n: usize) -> D::Buf<T> {
    upload(device, &vec![f64::NAN; n])
}

/// Half a unit in the last place, relative: what one rounding to `A` costs at most.
fn unit<A: Act>() -> f64 {
    if A::BUILD == "bf16" { 2f64.powi(-8) } else { 2f64.powi(-24) }
}

/// Every element within `bound(i)` of what was expected.
fn assert_within(what: &str, got: &[f64], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let bound = bound(i);
        assert!((g - w).abs() <= bound, "{what}[{i}]: {g} where {w} was expected, give or take {bound:e}");
    }
}

fn memory<A: OnGpu>(place: Place) {
    let numbers = normal::<A>(70, 1);
    let outputs = bits::<A>(place, &["cast"], |device| {
        let mut buf: Buf<A> = device.zeros(70).unwrap();
        let zeros = host::<_, A>(device, &buf);
        let source: Buf<A> = upload(device, &numbers);
        device.copy(&mut buf, 3, &source, 60, 9).unwrap();
        let copied = host::<_, A>(device, &buf);
        let mut wide: Buf<f64> = device.empty(70).unwrap();
        device.cast(&mut wide, &source).unwrap();
        vec![("zeros", zeros), ("copied", copied), ("wide", host::<_, f64>(device, &wide))]
    });
    let Some(outputs) = outputs else { return };
    assert_eq!(outputs[0].1, [0.0; 70]);
    let mut want = vec![0.0; 70];
    want[3..12].copy_from_slice(&numbers[60..69]);
    assert_eq!(outputs[1].1, want);
    assert_eq!(outputs[2].1, numbers);
}

kernels!(memory);

/// Weights that were put aside in the host's memory come back bit for bit, as often as they are asked for, and take no memory of the
/// device meanwhile.
fn offload<A: OnGpu>(place: Place) {
    let numbers = normal::<A>(100_003, 2);
    let outputs = bits::<A>(place, &["cast"], |device| {
        let empty = device.memory().0;
        let buf: Buf<A> = upload(device, &numbers);
        let held = device.memory().0;
        assert_eq!(held - empty, 100_003 * size_of::<A>());
        let aside = device.offload(&buf).unwrap();
        drop(buf);
        assert_eq!(device.memory().0, empty);
        let (first, second) = (device.fetch(&aside).unwrap(), device.fetch(&aside).unwrap());
        // Copies may be under way.
        drop(aside);
        assert_eq!(device.memory().0 - empty, 2 * (held - empty));
        let mut wide: Buf<f32> = device.empty(100_003).unwrap();
        device.cast(&mut wide, &first).unwrap();
        let none = device.offload(&device.empty::<A>(0).unwrap()).unwrap();
        assert!(device.download(&device.fetch(&none).unwrap()).unwrap().is_empty());
        vec![("second", host::<_, A>(device, &second)), ("wide", host::<_, f32>(device, &wide))]
    });
    let Some(outputs) = outputs else { return };
    assert!(outputs.iter().all(|(_, got)| *got == numbers));
}

kernels!(offload);

/// Ids that are out of range are reported at the next download, with operator, argument and index; what is computed after that is
/// right again.
fn bad_ids<A: OnGpu>(place: Place) {
    on::<A>(place, |device| {
        let (mut out, table): (Buf<A>, Buf<A>) = (device.empty(6).unwrap(), upload(device, &[1.0, 2.0, 3.0, 4.0]));
        device.embed_fwd(&mut out, &table, &device.upload(&[0u32, 1, 7]).unwrap(), 2).unwrap();
        let error = device.download(&out).unwrap_err().to_string();
        assert_eq!(error, "embed_fwd: ids[2]: 7 is out of range");
        device.embed_fwd(&mut out, &table, &device.upload(&[1u32, 0, 1]).unwrap(), 2).unwrap();
        assert_eq!(host::<_, A>(device, &out), [3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    });
}

kernels!(bad_ids);

/// What the CPU computes in f64: the reference of both builds.
fn exact() -> Cpu<f64> {
    Cpu::new()
}
