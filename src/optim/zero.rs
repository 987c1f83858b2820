//! The gradient side of ZeRO-2: which micro-batch is whose, and the sums over ranks, block by block, while backward goes on.

use crate::comm::{Shared, shard};
use crate::device::Device;
use crate::error::Result;
use crate::model::OnLayer;
use crate::weights::Grads;

/// The micro-batches of a step that are a rank's own, by their place in the step.
pub fn deal(micros: usize, ranks: usize, rank: usize) -> impl Iterator<Item = usize> {
    (rank..micros).step_by(ranks)
}

/// What ranks made of the micro-batches that [`deal`] gave them, in the order of the step.
pub fn gather_dealt<T>(by_rank: Vec<Vec<T>>) -> Vec<T> {
    let mut rows: Vec<_> = by_rank.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(rows.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

/// Where the gradients of a step's micro-batches are added up, with several ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// On each rank, whole, and reduced once a step: for adapters, whose gradients are small.
    Whole,
    /// In each rank's share, reduced with every micro-batch: the whole gradient of no more than two blocks is there at a time.
    Shares,
}

/// Sums over ranks. With one rank the gradients are what they are, and nothing is done.
pub(super) struct Reduction<D: Device> {
    comm: Shared<D>,
    sum: Sum,
    /// Slots in the order in which backward finishes them: the blocks from the last to the first, then those of no block.
    order: Vec<Vec<usize>>,
    /// This rank's share of each slot's sum.
    shares: Vec<D::Buf<D::Acc>>,
    /// Gradients that a collective may still be reading.
    busy: Vec<D::Buf<D::Acc>>,
}

impl<D: Device> Reduction<D> {
    pub(super) fn new(device: &D, comm: &Shared<D>, grads: &Grads<D>, sum: Sum) -> Result<Self> {
        let (ranks, rank) = (comm.group().ranks(), comm.group().rank());
        let mut order = Vec::new();
        let mut shares = Vec::new();
        if ranks > 1 {
            let blocks = (0..grads.count()).filter_map(|slot| grads.layer(slot)).max().map_or(0, |last| last + 1);
            let of = |layer: Option<usize>| (0..grads.count()).filter(|slot| grads.layer(*slot) == layer).collect::<Vec<_>>();
            order = (0..blocks).rev().map(Some).chain([None]).map(of).collect();
            let share = |slot| device.zeros(shard(grads.elements(slot), ranks, rank).len());
            shares = (0..grads.count()).map(share).collect::<Result<_>>()?;
        }
        Ok(Reduction { comm: comm.clone(), sum, order, shares, busy: Vec::new() })
    }

    fn sharded(&self) -> bool {
        self.sum == Sum::Shares && !self.order.is_empty()
    }

    pub(super) fn clear(&mut self, device: &D, grads: &mut Grads<D>) -> Result<()> {
        if !self.sharded() {
            return grads.clear(device);
        }
        for (slot, share) in self.shares.iter_mut().enumerate() {
            device.clear(share)?;
            grads.replace(slot, device.zeros(0)?);
        }
        Ok(())
    }

    /// Room for the gradients of a group of slots. What was summed so far stands in this rank's share of it, and nowhere else: the
    /// next sum over ranks then adds to it.
    fn open(&self, device: &D, grads: &mut Grads<D>, group: usize) -> Result<()> {
        let (ranks, rank) = (self.comm.group().ranks(), self.comm.group().rank());
        for &slot in &self.order[group] {
            let mut buffer = device.zeros(grads.elements(slot))?;
            let own = shard(grads.elements(slot), ranks, rank);
            device.copy(&mut buffer, own.start, &self.shares[slot], 0, own.len())?;
            grads.replace(slot, buffer);
        }
        Ok(())
    }

    fn reduce(&mut self, device: &D, grads: &mut Grads<D>, group: usize) -> Result<()> {
        let slots = &self.order[group];
        let shares = self.shares.iter_mut().enumerate().filter(|(slot, _)| slots.contains(slot));
        let mut tensors: Vec<_> = shares.map(|(slot, share)| (share, grads.at(slot))).collect();
        self.comm.reduce_scatter(device, &mut tensors)?;
        if self.sum == Sum::Shares {
            for &slot in slots {
                self.busy.push(grads.replace(slot, device.zeros(0)?));
            }
        }
        Ok(())
    }

    pub(super) fn backward<T>(
        &mut self,
        device: &D,
        grads: &mut Grads<D>,
        last: bool,
        backward: impl FnOnce(&mut Grads<D>, OnLayer<'_, D>) -> Result<T>,
    ) -> Result<T> {
        let reduces = !self.order.is_empty() && (last || self.sharded());
        if !reduces {
            return backward(grads, &mut |_, _| Ok(()));
        }
        let (blocks, sharded) = (self.order.len() - 1, self.sharded());
        if sharded {
            // The sums of the micro-batch before have to be there.
            self.finish(device)?;
            // Those of no block come first and last: the head's gradient is made before the last block's, the embedding's at the end.
            self.open(device, grads, blocks)?;
            self.open(device, grads, 0)?;
        }
        let mut done = 0;
        let made = backward(grads, &mut |layer, grads| {
            let group = blocks - 1 - layer;
            self.step(device, grads, group, sharded)?;
            done = group + 1;
            Ok(())
        })?;
        // A rank without a micro-batch, or a head on frozen states, told of no block.
        for group in done..=blocks {
            self.step(device, grads, group, sharded)?;
        }
        Ok(made)
    }

    fn step(&mut self, device: &D, grads: &mut Grads<D>, group: usize, sharded: bool) -> Result<()> {
        // The collective before this one read a gradient of which it is done by now, or nearly: two blocks are there at a time.
        self.finish(device)?;
        self.reduce(device, grads, group)?;
        if sharded && group + 2 < self.order.len() {
            self.open(device, grads, group + 1)?;
        }
        Ok(())
    }

    /// What is computed from here on sees the sums.
    pub(super) fn finish(&mut self, device: &D) -> Result<()> {
        if !self.order.is_empty() {
            self.comm.join(device)?;
            self.busy.clear();
        }
        Ok(())
    }

    /// What the optimizer reads: the sum, or this rank's share of it.
    pub(super) fn gradient<'a>(&'a self, grads: &'a Grads<D>, slot: usize) -> &'a D::Buf<D::Acc> {
        self.shares.get(slot).unwrap_or_else(|| grads.at(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dealt_comes_back_in_order() {
        for micros in 0..9 {
            for ranks in 1..5 {
                let by_rank: Vec<Vec<usize>> = (0..ranks).map(|rank| deal(micros, ranks, rank).collect()).collect();
                assert_eq!(gather_dealt(by_rank), (0..micros).collect::<Vec<_>>());
            }
        }
    }
}
