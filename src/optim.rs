//! AdamW on what is trained, learning-rate schedules, clipping of the global norm.

mod zero;

use crate::checkpoint::{Named, Tensors};
use crate::comm::{Shared, shard};
use crate::device::{AdamW, Device, Real};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::model::OnLayer;
use crate::recipe::Schedule;
use crate::weights::{Grads, Param, Trained};
use zero::Reduction;
pub use zero::{Sum, deal, gather_dealt};

/// A learning rate over steps: linear from 0 over the warm-up, then as the schedule says down to 0. The values are those of
/// Transformers' `get_cosine_schedule_with_warmup` and its siblings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The shape after the warm-up.
    pub schedule: Schedule,
    /// The highest value.
    pub peak: f64,
    /// Steps of warm-up.
    pub warmup: usize,
    /// All steps.
    pub total: usize,
}

impl LearningRate {
    /// With a warm-up of this fraction of the steps, rounded up.
    pub fn new(schedule: Schedule, peak: f64, warmup_ratio: f64, total: usize) -> LearningRate {
        LearningRate { schedule, peak, warmup: (warmup_ratio * total as f64).ceil() as usize, total }
    }

    /// The rate of step `step`, from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let progress = (step - self.warmup) as f64 / (self.total.saturating_sub(self.warmup)).max(1) as f64;
        self.peak
            * match self.schedule {
                Schedule::Constant => 1.0,
                Schedule::Linear => (1.0 - progress).max(0.0),
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
            }
    }
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyper {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, on matrices.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; 0 leaves them.
    pub max_grad_norm: f64,
}

/// The sum of squares of each slot's gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Squares(Vec<f64>);

impl Squares {
    /// The gradients' global norm. One that is not finite is an error that names its tensor.
    pub fn norm<D: Device>(&self, grads: &Grads<D>) -> Result<f64> {
        if let Some(slot) = self.0.iter().position(|square| !square.is_finite()) {
            let what = format!("the gradient of {}", grads.name(slot));
            return Err(Error::NonFinite { at: "optimizer".into(), what, records: Vec::new() });
        }
        Ok(self.0.iter().sum::<f64>().sqrt())
    }
}

/// The optimizer of a set of parameters on the ranks that train them together: ZeRO-2. Each rank holds the f32 masters and the
/// moments of its share of every parameter ([`comm::shard`]), gets that share of the gradients' sum, updates it, and gathers the
/// rest from the others.
///
/// Rajbhandari et al. 2020, section 5.2 (P_os+g).
pub struct Optimizer<D: Device> {
    hyper: Hyper,
    comm: Shared<D>,
    reduction: Reduction<D>,
    moments: Vec<[D::Buf<D::Acc>; 2]>,
    squares: D::Buf<D::Acc>,
    /// Steps taken.
    pub steps: u64,
}

impl<D: Device> Optimizer<D> {
    /// Takes `params` for training: masters and fresh moments, of which this rank holds its share, and gradients. `sum` says where
    /// those of several micro-batches are added up.
    pub fn new(device: &D, comm: &Shared<D>, params: &mut [&mut Param<D>], hyper: Hyper, sum: Sum) -> Result<(Self, Grads<D>)> {
        let (ranks, rank) = (comm.group().ranks(), comm.group().rank());
        let grads = Grads::on_rank(device, params, (ranks, rank), sum == Sum::Whole)?;
        let zeros = |slot| device.zeros(shard(grads.elements(slot), ranks, rank).len());
        let moments = (0..grads.count()).map(|slot| Ok([zeros(slot)?, zeros(slot)?])).collect::<Result<_>>()?;
        let reduction = Reduction::new(device, comm, &grads, sum)?;
        let squares = device.zeros(grads.count())?;
        Ok((Optimizer { hyper, comm: comm.clone(), reduction, moments, squares, steps: 0 }, grads))
    }

    /// The ranks that train together.
    pub fn comm(&self) -> &Shared<D> {
        &self.comm
    }

    /// Begins a step: no gradient yet.
    pub fn clear(&mut self, device: &D, grads: &mut Grads<D>) -> Result<()> {
        self.reduction.clear(device, grads)
    }

    /// Runs a micro-batch's `backward`, which adds to the gradients and tells of each finished block; what is finished is reduced
    /// while the rest goes on. `last` says that no rank has another micro-batch in this step. Every rank runs as many as the others:
    /// one that has nothing to compute adds nothing.
    pub fn backward<T>(
        &mut self,
        device: &D,
        grads: &mut Grads<D>,
        last: bool,
        backward: impl FnOnce(&mut Grads<D>, OnLayer<'_, D>) -> Result<T>,
    ) -> Result<T> {
        self.reduction.backward(device, grads, last, backward)
    }

    /// The gradients' squares and the statistics of the micro-batches they were summed over: a step's one wait for the device.
    /// `pending` are this rank's; the statistics are those of all ranks, in the order in which [`deal`] dealt the micro-batches.
    pub fn measure<T: bytemuck::Pod>(
        &mut self,
        device: &D,
        grads: &Grads<D>,
        pending: &[Pending<D, T>],
    ) -> Result<(Squares, Vec<T>)> {
        self.reduction.finish(device)?;
        for slot in 0..grads.count() {
            device.sum_squares(&mut self.squares, slot, self.reduction.gradient(grads, slot))?;
        }
        let (squares, statistics) = Pending::read_all(device, &self.squares, pending)?;
        let group = self.comm.group();
        if group.ranks() == 1 {
            return Ok((Squares(squares), statistics));
        }
        let mut bytes = bytemuck::cast_slice::<f64, u8>(&squares).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(&statistics));
        let all = group.exchange("measure", bytes)?;
        let mut sums = vec![0.0; squares.len()];
        let mut by_rank = Vec::with_capacity(all.len());
        for bytes in &all {
            let (squares, statistics) = bytes.split_at_checked(sums.len() * size_of::<f64>()).ok_or_else(|| {
                Error::Machine(format!("ranks train different parameters: {} here, {} bytes elsewhere", sums.len(), bytes.len()))
            })?;
            let squares = squares.chunks_exact(size_of::<f64>()).map(bytemuck::pod_read_unaligned::<f64>);
            sums.iter_mut().zip(squares).for_each(|(sum, x)| *sum += x);
            by_rank.push(statistics.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect::<Vec<T>>());
        }
        Ok((Squares(sums), gather_dealt(by_rank)))
    }

    /// One update at learning rate `lr` from gradients of this norm. `params` are those that `grads` was made for, in the same order.
    pub fn update(&mut self, device: &D, params: &mut [&mut Param<D>], grads: &Grads<D>, norm: f64, lr: f64) -> Result<()> {
        // As torch.nn.utils.clip_grad_norm_.
        let clipped = self.hyper.max_grad_norm / (norm + 1e-6);
        let grad_scale = if self.hyper.max_grad_norm > 0.0 { clipped.min(1.0) } else { 1.0 };
        self.steps += 1;
        let mut shares = Vec::new();
        for param in params.iter_mut() {
            let slot = param.slot.expect("a trained parameter has a slot");
            let adamw = AdamW {
                lr,
                beta1: self.hyper.beta1,
                beta2: self.hyper.beta2,
                eps: self.hyper.eps,
                weight_decay: if param.decay { self.hyper.weight_decay } else { 0.0 },
                step: self.steps,
                grad_scale,
            };
            let master = param.master.as_mut().expect("a trained parameter has a master");
            let [m, v] = &mut self.moments[slot];
            let gradient = self.reduction.gradient(grads, slot);
            if self.comm.group().ranks() == 1 {
                device.adamw(&mut param.value, master, m, v, gradient, adamw)?;
            } else {
                let mut share = device.empty(D::len(master))?;
                device.adamw(&mut share, master, m, v, gradient, adamw)?;
                shares.push(share);
            }
        }
        self.gather(device, params, &shares)
    }

    /// Makes the values whole from each rank's shares; no shares, nothing to do.
    fn gather(&self, device: &D, params: &mut [&mut Param<D>], shares: &[D::Buf<D::Act>]) -> Result<()> {
        if shares.is_empty() {
            return Ok(());
        }
        let mut tensors: Vec<_> = params.iter_mut().map(|param| &mut param.value).zip(shares).collect();
        self.comm.all_gather(device, &mut tensors)?;
        self.comm.join(device)
    }

    /// The masters, whole and on the host, for files; only on rank 0. Every rank calls it.
    pub fn masters(&self, device: &D, params: &[&mut Param<D>]) -> Result<Option<Trained>> {
        let group = self.comm.group();
        let mut whole = Vec::new();
        for param in params {
            let master = param.master.as_ref().expect("a trained parameter has a master");
            let share = floats::<D>(device.download(master)?);
            if group.ranks() == 1 {
                whole.push(share);
                continue;
            }
            let all = group.gather("masters", bytemuck::cast_slice(&share).to_vec())?;
            let values = all.iter().flat_map(|bytes| bytes.chunks_exact(size_of::<f32>()).map(bytemuck::pod_read_unaligned));
            whole.push(values.collect());
        }
        Ok(group.is_first().then_some(Trained(whole)))
    }

    /// This rank's share of the masters and moments, exactly, as `<prefix><slot>.master`, `.m`, `.v`.
    pub fn save(&self, device: &D, params: &[&mut Param<D>], prefix: &str) -> Result<Vec<Named>> {
        let mut tensors = Vec::new();
        for (slot, (param, [m, v])) in params.iter().zip(&self.moments).enumerate() {
            let master = param.master.as_ref().expect("a trained parameter has a master");
            let values = device.download_many(&[master, m, v])?;
            for (name, values) in ["master", "m", "v"].into_iter().zip(values) {
                let values = floats::<D>(values);
                tensors.push(Named { name: format!("{prefix}{slot}.{name}"), shape: vec![values.len()], values });
            }
        }
        Ok(tensors)
    }

    /// Takes up what [`Optimizer::save`] gave after `steps` steps, by however many ranks: `saved` holds the tensors of each.
    pub fn restore(
        &mut self,
        device: &D,
        params: &mut [&mut Param<D>],
        steps: u64,
        prefix: &str,
        saved: &[Tensors],
    ) -> Result<()> {
        let (ranks, rank) = (self.comm.group().ranks(), self.comm.group().rank());
        let mut shares = Vec::new();
        for (slot, param) in params.iter_mut().enumerate() {
            let own = shard(param.elements(), ranks, rank);
            let read = |name: &str| -> Result<D::Buf<D::Acc>> {
                let mut values: Vec<D::Acc> = Vec::with_capacity(own.len());
                for (saver, tensors) in saved.iter().enumerate() {
                    let theirs = shard(param.elements(), saved.len(), saver);
                    let common = own.start.max(theirs.start)..own.end.min(theirs.end);
                    if !common.is_empty() {
                        let all: Vec<D::Acc> = tensors.read(&format!("{prefix}{slot}.{name}"), &[theirs.len()])?;
                        values.extend(&all[common.start - theirs.start..common.end - theirs.start]);
                    }
                }
                device.upload(&values)
            };
            let (master, m, v) = (read("master")?, read("m")?, read("v")?);
            match ranks {
                1 => device.cast(&mut param.value, &master)?,
                _ => {
                    let mut share = device.empty(own.len())?;
                    device.cast(&mut share, &master)?;
                    shares.push(share);
                }
            }
            param.master = Some(master);
            self.moments[slot] = [m, v];
        }
        self.steps = steps;
        self.gather(device, params, &shares)
    }

    /// This rank's share of both moments of every slot.
    pub fn moments(&self) -> impl Iterator<Item = &D::Buf<D::Acc>> {
        self.moments.iter().flatten()
    }
}

fn floats<D: Device>(values: Vec<D::Acc>) -> Vec<f32> {
    values.into_iter().map(|x| x.f64() as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from the definition; `tests/golden.rs` holds the same against Transformers.
    #[test]
    fn warm_up_is_linear_and_cosine_ends_at_zero() {
        let rate = LearningRate::new(Schedule::Cosine, 2.0, 0.3, 10);
        assert_eq!(rate.warmup, 3);
        assert_eq!([rate.at(0), rate.at(3)], [0.0, 2.0]);
        assert!((rate.at(1) - 2.0 / 3.0).abs() < 1e-15);
        assert!((rate.at(10)).abs() < 1e-15);
        let middle = LearningRate { warmup: 0, total: 8, ..rate };
        assert!((middle.at(4) - 1.0).abs() < 1e-15);
        assert_eq!(LearningRate { schedule: Schedule::Linear, ..middle }.at(6), 0.5);
        assert_eq!(LearningRate { schedule: Schedule::Constant, ..middle }.at(7), 2.0);
    }
}
