//! From what a model computed to statistics and the gradient at its outputs. Sums are over the global batch: the caller gives
//! the norm that makes them a mean.

pub mod ppo;
pub mod reward;
pub mod sft;

use crate::device::{Device, Real};
use crate::error::Result;

/// Statistics that the device still holds, so that a step waits for the device once and not for each of its micro-batches.
pub struct Pending<D: Device, T> {
    buffers: Vec<D::Buf<D::Acc>>,
    fold: Box<dyn Fn(&[Vec<f64>]) -> T>,
}

impl<D: Device, T: 'static> Pending<D, T> {
    /// What `fold` makes of the buffers' contents.
    pub fn new(buffers: Vec<D::Buf<D::Acc>>, fold: impl Fn(&[Vec<f64>]) -> T + 'static) -> Self {
        Pending { buffers, fold: Box::new(fold) }
    }

    /// The same buffers, seen otherwise.
    pub fn map<U>(self, f: impl Fn(T) -> U + 'static) -> Pending<D, U> {
        Pending { buffers: self.buffers, fold: Box::new(move |values| f((self.fold)(values))) }
    }

    /// Waits for the device.
    pub fn read(&self, device: &D) -> Result<T> {
        let values = download(device, self.buffers.iter().collect())?;
        Ok((self.fold)(&values))
    }

    /// The contents of `first`, and each of `all`, for one wait.
    pub fn read_all(device: &D, first: &D::Buf<D::Acc>, all: &[Self]) -> Result<(Vec<f64>, Vec<T>)> {
        let mut buffers = vec![first];
        buffers.extend(all.iter().flat_map(|pending| &pending.buffers));
        let mut values = download(device, buffers)?;
        let first = values.remove(0);
        let mut rest = &values[..];
        let read = |pending: &Self| {
            let (own, others) = rest.split_at(pending.buffers.len());
            rest = others;
            (pending.fold)(own)
        };
        Ok((first, all.iter().map(read).collect()))
    }
}

fn download<D: Device>(device: &D, buffers: Vec<&D::Buf<D::Acc>>) -> Result<Vec<Vec<f64>>> {
    let values = device.download_many(&buffers)?;
    Ok(values.into_iter().map(|values| values.into_iter().map(|x| x.f64()).collect()).collect())
}
