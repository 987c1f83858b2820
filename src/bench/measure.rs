//! One operator at a time: held against the CPU on small extents, then timed on the extents asked for, over buffers that no cache
//! holds all of.

use std::time::Instant;

use crate::device::{Cpu, Device, Real};
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Buffers are rotated through at least this many bytes: several times the 50 or 60 MB of L2 that Hopper GPUs have.
const ROTATION: f64 = 256e6;

/// And through at most so many sets of them. An operator of less data finds it in the cache, as it does in a training step.
const SETS: usize = 32;

/// A round's calls take about this long, beside which waiting for the device once is nothing.
const ROUND_SECONDS: f64 = 0.02;

/// Random numbers are made in blocks of so many and repeated. A prime, so that no two rows of a matrix are equal.
const BLOCK: usize = 65_537;

/// One operator with buffers of its own. It shows what it wrote.
pub(super) type Call<D> = Box<dyn FnMut(&D, &mut Seen) -> Result<()>>;

/// An operator to measure.
pub(super) struct Operator<D: Device> {
    /// Which.
    pub name: &'static str,
    /// Kernels that it runs on a GPU, apart from plain matrix products.
    pub kernels: &'static [&'static str],
    /// Multiplications and additions of its matrix products.
    pub flops: f64,
    /// Bytes that it has to read and write, each once.
    pub bytes: f64,
    /// A call, with fresh buffers.
    pub make: Box<dyn Fn(&D, &mut Fill) -> Result<Call<D>>>,
}

/// What an operator wrote, where somebody wants to know.
#[derive(Default)]
pub(super) struct Seen {
    values: Option<Vec<Vec<f64>>>,
}

impl Seen {
    /// Shows a buffer.
    pub fn buf<D: Device, T: Real>(&mut self, device: &D, buf: &D::Buf<T>) -> Result<()> {
        if let Some(values) = &mut self.values {
            values.push(device.download(buf)?.into_iter().map(T::f64).collect());
        }
        Ok(())
    }

    /// Shows numbers that are on the host.
    pub fn host(&mut self, numbers: &[f64]) {
        if let Some(values) = &mut self.values {
            values.push(numbers.to_vec());
        }
    }
}

/// Random inputs, the same in each sequence of calls. Numbers are exact in bf16, so that every device computes on the same.
#[derive(Default)]
pub(super) struct Fill {
    made: u64,
}

impl Fill {
    fn rng(&mut self) -> Rng {
        self.made += 1;
        Rng::new(17, "bench", self.made)
    }

    /// Standard normal numbers times `scale`.
    pub fn normal<D: Device, T: Real>(&mut self, device: &D, len: usize, scale: f64) -> Result<D::Buf<T>> {
        let mut rng = self.rng();
        let number = |_| T::of(half::bf16::from_f64(scale * rng.normal()).to_f64());
        let block: Vec<T> = (0..len.min(BLOCK)).map(number).collect();
        let block = device.upload(&block)?;
        if len <= BLOCK {
            return Ok(block);
        }
        let mut whole = device.zeros(len)?;
        for at in (0..len).step_by(BLOCK) {
            device.copy(&mut whole, at, &block, 0, BLOCK.min(len - at))?;
        }
        Ok(whole)
    }

    /// Whole numbers below `end`.
    pub fn below(&mut self, len: usize, end: usize) -> Vec<u32> {
        let mut rng = self.rng();
        (0..len).map(|_| rng.below(end) as u32).collect()
    }

    /// Every number below `len` once, in any order.
    pub fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut rng = self.rng();
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            order.swap(i, rng.below(i + 1));
        }
        order
    }
}

/// What one call writes into fresh buffers.
fn seen<D: Device>(device: &D, operator: &Operator<D>) -> Result<Vec<Vec<f64>>> {
    let mut seen = Seen { values: Some(Vec::new()) };
    (operator.make)(device, &mut Fill::default())?(device, &mut seen)?;
    Ok(seen.values.unwrap_or_default())
}

/// Fails where a device's results are not the CPU's: each buffer as a vector, `|got - want| <= tolerance * |want|`. bf16 rounds to 8
/// bits, to within 2^-9 of each number; operators round up to a few times on the way, and 2^-6 leaves room for eight roundings that
/// all add up. In f32 what differs is the order of sums, whose error stays some powers of ten below 1e-4.
pub(super) fn verify<D: Device>(device: &D, operator: &Operator<D>, reference: &Operator<Cpu<f32>>) -> Result<()> {
    let tolerance = if size_of::<D::Act>() == 2 { 1.0 / 64.0 } else { 1e-4 };
    let (got, want) = (seen(device, operator)?, seen(&Cpu::new(), reference)?);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
        let limit = tolerance * norm(&mut want.iter().copied());
        // NaN is not close to anything.
        let close = error <= limit;
        if got.len() != want.len() || !close {
            let what = operator.name.to_string();
            let cause = format!("output {i} is {error:.3e} away from the CPU's, at most {limit:.3e} expected; nothing was timed");
            return Err(Error::Device { what, cause });
        }
    }
    Ok(())
}

/// Seconds of one call, in each of so many rounds.
pub(super) fn samples<D: Device>(device: &D, operator: &Operator<D>, rounds: usize) -> Result<Vec<f64>> {
    let mut fill = Fill::default();
    let sets = ((ROTATION / operator.bytes).ceil() as usize).clamp(1, SETS);
    let mut calls = (0..sets).map(|_| (operator.make)(device, &mut fill)).collect::<Result<Vec<_>>>()?;
    let fence = device.upload(&[0u32])?;
    let (mut next, mut blind) = (0, Seen::default());
    let mut round = |count: usize| -> Result<f64> {
        let started = Instant::now();
        for _ in 0..count {
            calls[next](device, &mut blind)?;
            next = (next + 1) % sets;
        }
        // Calls only queue work; a download waits for all of it.
        device.download(&fence)?;
        Ok(started.elapsed().as_secs_f64() / count as f64)
    };
    // The first calls load kernels and fill pools.
    round(sets)?;
    let count = ((ROUND_SECONDS / round(sets)?).ceil() as usize).clamp(1, 10_000);
    (0..rounds).map(|_| round(count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubled(factor: f32) -> Operator<Cpu<f32>> {
        let make = move |device: &Cpu<f32>, fill: &mut Fill| -> Result<Call<Cpu<f32>>> {
            let x: Vec<f32> = device.download(&fill.normal::<_, f32>(device, 100, 1.0)?)?;
            Ok(Box::new(move |device, seen| {
                let doubled: Vec<f32> = x.iter().map(|x| x * factor).collect();
                seen.buf(device, &device.upload(&doubled)?)
            }))
        };
        Operator { name: "doubled", kernels: &[], flops: 0.0, bytes: 400.0, make: Box::new(make) }
    }

    #[test]
    fn what_differs_from_the_cpu_is_not_timed() {
        let device = Cpu::<f32>::new();
        verify(&device, &doubled(2.0), &doubled(2.0)).unwrap();
        // 1e-4 of 2 is 2e-4.
        verify(&device, &doubled(2.000_1), &doubled(2.0)).unwrap();
        let error = verify(&device, &doubled(2.001), &doubled(2.0)).unwrap_err().to_string();
        assert!(error.starts_with("doubled: output 0 is ") && error.ends_with("nothing was timed"), "{error}");
        assert!(verify(&device, &doubled(f32::NAN), &doubled(2.0)).is_err());
    }

    #[test]
    fn long_inputs_repeat_a_block_and_every_permutation_is_whole() {
        let (device, mut fill) = (Cpu::<f32>::new(), Fill::default());
        let x: Vec<f32> = device.download(&fill.normal::<_, f32>(&device, BLOCK + 3, 1.0).unwrap()).unwrap();
        assert_eq!(x[..3], x[BLOCK..]);
        let mut order = fill.permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<u32>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn a_call_s_seconds_are_those_of_the_call() {
        let make = |_: &Cpu<f32>, _: &mut Fill| -> Result<Call<Cpu<f32>>> {
            Ok(Box::new(|_, _| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                Ok(())
            }))
        };
        let sleep = Operator { name: "sleep", kernels: &[], flops: 0.0, bytes: 1e9, make: Box::new(make) };
        let found = samples(&Cpu::<f32>::new(), &sleep, 3).unwrap();
        // A sleep may last longer than it was asked to, and never shorter.
        assert!(found.len() == 3 && found.iter().all(|seconds| *seconds >= 5e-3), "{found:?} s of a sleep of 5 ms");
    }
}
