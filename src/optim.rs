//! AdamW on what is trained, learning-rate schedules, clipping of the global norm.

use crate::device::{AdamW, Device};
use crate::error::{Error, Result};
use crate::loss::Pending;
use crate::recipe::Schedule;
use crate::weights::{Grads, Param};

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

/// The optimizer's state for a set of parameters: moments by slot, and how many steps were taken.
pub struct Optimizer<D: Device> {
    hyper: Hyper,
    moments: Vec<[D::Buf<D::Acc>; 2]>,
    squares: D::Buf<D::Acc>,
    /// Steps taken.
    pub steps: u64,
}

impl<D: Device> Optimizer<D> {
    /// Fresh moments for what `grads` trains.
    pub fn new(device: &D, grads: &Grads<D>, hyper: Hyper) -> Result<Self> {
        let zeros = |slot| device.zeros(D::len(grads.at(slot)));
        let moments = (0..grads.count()).map(|slot| Ok([zeros(slot)?, zeros(slot)?])).collect::<Result<_>>()?;
        Ok(Optimizer { hyper, moments, squares: device.zeros(grads.count())?, steps: 0 })
    }

    /// The gradients' squares and the statistics of the micro-batches they were summed over: a step's one wait for the device.
    pub fn measure<T: 'static>(&mut self, device: &D, grads: &Grads<D>, pending: &[Pending<D, T>]) -> Result<(Squares, Vec<T>)> {
        for slot in 0..grads.count() {
            device.sum_squares(&mut self.squares, slot, grads.at(slot))?;
        }
        let (squares, statistics) = Pending::read_all(device, &self.squares, pending)?;
        Ok((Squares(squares), statistics))
    }

    /// One update at learning rate `lr` from gradients of this norm. `params` are those that `grads` was made for, in the same order.
    pub fn update(&mut self, device: &D, params: &mut [&mut Param<D>], grads: &Grads<D>, norm: f64, lr: f64) -> Result<()> {
        // As torch.nn.utils.clip_grad_norm_.
        let clipped = self.hyper.max_grad_norm / (norm + 1e-6);
        let grad_scale = if self.hyper.max_grad_norm > 0.0 { clipped.min(1.0) } else { 1.0 };
        self.steps += 1;
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
            device.adamw(&mut param.value, master, m, v, grads.at(slot), adamw)?;
        }
        Ok(())
    }

    /// The moments of every slot, for a checkpoint.
    pub fn moments(&self, device: &D) -> Result<Vec<[Vec<D::Acc>; 2]>> {
        self.moments.iter().map(|[m, v]| Ok([device.download(m)?, device.download(v)?])).collect()
    }

    /// Puts saved moments back.
    pub fn restore(&mut self, device: &D, steps: u64, moments: &[[Vec<D::Acc>; 2]]) -> Result<()> {
        if moments.len() != self.moments.len() {
            return Err(Error::Extent { what: "saved moments".into(), want: self.moments.len(), got: moments.len() });
        }
        for (slot, (place, saved)) in self.moments.iter_mut().zip(moments).enumerate() {
            for (buffer, values) in place.iter_mut().zip(saved) {
                crate::device::extent::<D, D::Acc>(&format!("saved moments of slot {slot}"), buffer, values.len())?;
                *buffer = device.upload(values)?;
            }
        }
        self.steps = steps;
        Ok(())
    }
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
