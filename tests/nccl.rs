//! Collectives by NCCL on the GPUs of this machine, against those through the host, which are the specification. Where there is no GPU
//! they are skipped (REPAIRITY_GPU=1 makes its absence a failure); so are those that need two.

#[path = "support/simulated.rs"]
#[allow(dead_code)] // Nothing is launched.
mod simulated;

use std::sync::{Mutex, MutexGuard};

use half::bf16;
use repairity::comm::{Comm, Group, Hub, Nccl, Threads, nccl, shard};
use repairity::device::cuda::{Act, gpu};
use repairity::device::{Cpu, Cuda, Device, Real};
use repairity::error::{Error, Result};
use repairity::rng::Rng;
use simulated::Simulated;

/// Lengths of tensors: none, fewer than there are ranks, a multiple of every number of ranks there is, and others.
const LENGTHS: [usize; 6] = [0, 3, 840, 1001, 65_537, 840 * 1024];

/// A GPU's memory is taken when it is opened: one test at a time.
fn gpus(at_least: usize) -> Option<(usize, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    if let Some(why) = gpu::missing() {
        assert!(std::env::var("REPAIRITY_GPU").as_deref() != Ok("1"), "REPAIRITY_GPU=1, but {why}");
        println!("skipped: no GPU ({why})");
        return None;
    }
    if let Err(why) = nccl::version() {
        println!("skipped: no NCCL ({why})");
        return None;
    }
    let count = gpu::list().unwrap().len();
    if count < at_least {
        println!("skipped: {count} GPU");
        return None;
    }
    Some((count, ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())))
}

/// What a rank brings: small integers, whose sums are exact in every order.
fn numbers<T: Real>(rank: usize, len: usize) -> Vec<T> {
    let mut rng = Rng::new(rank as u64, "nccl", len as u64);
    (0..len).map(|_| T::of(rng.below(9) as f64 - 4.0)).collect()
}

/// Both collectives over tensors of all lengths, several rounds, computing in between: this rank's results.
fn collect<D: Device>(device: &D, comm: &dyn Comm<D>) -> Result<Vec<Vec<f64>>> {
    let (ranks, rank) = (comm.group().ranks(), comm.group().rank());
    let own = |len| shard(len, ranks, rank).len();
    let mut results = Vec::new();
    for _ in 0..3 {
        let sums = LENGTHS.map(|len| device.upload(&numbers::<D::Acc>(rank, len)).unwrap());
        let mut parts = LENGTHS.map(|len| device.zeros::<D::Acc>(own(len)).unwrap());
        let mut pairs: Vec<_> = parts.iter_mut().zip(&sums).collect();
        comm.reduce_scatter(device, &mut pairs)?;
        // Beside it, on memory of its own.
        let mut other = device.upload(&[D::Act::of(1.0); 100])?;
        let same = device.upload(&[D::Act::of(2.0); 100])?;
        device.add(&mut other, &same)?;
        comm.join(device)?;
        let shards = LENGTHS.map(|len| device.upload(&numbers::<D::Act>(rank, own(len))).unwrap());
        let mut whole = LENGTHS.map(|len| device.zeros::<D::Act>(len).unwrap());
        let mut pairs: Vec<_> = whole.iter_mut().zip(&shards).collect();
        comm.all_gather(device, &mut pairs)?;
        comm.join(device)?;
        assert!(device.download(&other)?.iter().all(|x| x.f64() == 3.0));
        for part in &parts {
            results.push(device.download(part)?.into_iter().map(Real::f64).collect());
        }
        for whole in &whole {
            results.push(device.download(whole)?.into_iter().map(Real::f64).collect());
        }
    }
    Ok(results)
}

fn on_gpus<A: Act>() {
    let Some((ranks, _one)) = gpus(1) else { return };
    let expected = Hub::new(0, ranks, ranks).run(|group| collect(&Cpu::<f32>::new(), &Threads::new(group))).unwrap();
    let got = Hub::new(0, ranks, ranks).run(|group| {
        let device = Cuda::<A>::open(group.rank())?;
        collect(&device, &Nccl::open(&device, group)?)
    });
    assert_eq!(got.unwrap(), expected);
}

#[test]
fn collectives_give_what_those_through_the_host_give_f32() {
    on_gpus::<f32>();
}

#[test]
fn collectives_give_what_those_through_the_host_give_bf16() {
    on_gpus::<bf16>();
}

#[test]
fn a_rank_that_fails_ends_the_collectives_that_wait_for_it() {
    let Some((ranks, _one)) = gpus(2) else { return };
    let work = |group: Group| -> Result<()> {
        let device = Cuda::<bf16>::open(group.rank())?;
        let comm = Nccl::open(&device, group.clone())?;
        collect(&device, &comm)?;
        if group.rank() == 1 {
            return Err(Error::input("weights", "not finite"));
        }
        collect(&device, &comm)?;
        group.check()
    };
    assert_eq!(Hub::new(0, ranks, ranks).run(work).unwrap_err().to_string(), "weights: not finite");
}

#[test]
fn a_device_that_is_no_gpu_is_refused() {
    let device = Cuda::<f32>::with_driver(Simulated::new::<f32>(0)).unwrap();
    let error = Nccl::open(&device, Group::new(&Hub::new(0, 1, 1), 0)).map(|_| ()).unwrap_err().to_string();
    assert_eq!(error, "collectives by NCCL need a GPU, and this rank computes on cuda (simulator, f32)");
}
