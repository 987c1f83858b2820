//! Frozen blocks of which each rank holds a share: brought together one block ahead of where the computation is, and dropped behind
//! it. Embedding, last norm and head stay whole.
//!
//! Bringing a block together takes every rank, but ranks do not always have equally much to compute: one writes longer answers,
//! another has no micro-batch left. So ranks agree before each pass over the blocks who is at what, and those that have nothing to
//! compute only pass their shares on ([`Decoder::idle`], [`Decoder::keep_up`]).

use std::ops::Deref;

use super::block::Block;
use super::{Decoder, OnLayer};
use crate::comm::{Comm, Shared, shard};
use crate::device::Device;
use crate::error::Result;
use crate::weights::{Grads, Param};

/// Which way a pass goes over the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the first block to the last.
    Up,
    /// From the last to the first.
    Down,
}

/// A block's weights, whole.
enum Whole<'a, D: Device> {
    Here(&'a Block<D>),
    Gathered(Box<Block<D>>),
}

impl<D: Device> Deref for Whole<'_, D> {
    type Target = Block<D>;

    fn deref(&self) -> &Block<D> {
        match self {
            Whole::Here(block) => block,
            Whole::Gathered(block) => block,
        }
    }
}

/// Cuts a frozen parameter's values down to this rank's share.
pub(super) fn cut<D: Device>(device: &D, comm: &dyn Comm<D>, param: &mut Param<D>) -> Result<()> {
    let own = shard(param.elements(), comm.group().ranks(), comm.group().rank());
    let mut share = device.empty(own.len())?;
    device.copy(&mut share, 0, &param.value, own.start, own.len())?;
    param.value = share;
    Ok(())
}

impl<D: Device> Decoder<D> {
    /// Runs `f` on each block in turn, with its whole weights; what it returns goes on to the next.
    pub(super) fn fold<T>(&self, device: &D, way: Way, start: T, f: impl FnMut(T, usize, &Block<D>) -> Result<T>) -> Result<T> {
        if let Some(comm) = &self.shares {
            // Whoever goes the other way waits, and passes on what it has.
            while self.agree(comm, Some(way))? != Some(way) {
                self.walk(device, Way::Up, (), |(), _, _| Ok(()))?;
            }
        }
        self.walk(device, way, start, f)
    }

    /// What a rank does that has no micro-batch while others have one: forward and backward without anything to compute, telling
    /// `on_layer` of each block as they do.
    pub fn idle(&self, device: &D, grads: &mut Grads<D>, on_layer: OnLayer<'_, D>) -> Result<()> {
        if self.shares.is_none() {
            return Ok(());
        }
        self.fold(device, Way::Up, (), |(), _, _| Ok(()))?;
        self.fold(device, Way::Down, (), |(), layer, _| on_layer(layer, grads))
    }

    /// The same for a forward pass alone.
    pub fn idle_infer(&self, device: &D) -> Result<()> {
        match self.shares {
            None => Ok(()),
            Some(_) => self.fold(device, Way::Up, (), |(), _, _| Ok(())),
        }
    }

    /// Passes this rank's shares on until no rank has anything left to compute. Every rank calls it at the end of work that is not
    /// the same on all of them.
    pub fn keep_up(&self, device: &D) -> Result<()> {
        let Some(comm) = &self.shares else { return Ok(()) };
        while let Some(way) = self.agree(comm, None)? {
            self.walk(device, way, (), |(), _, _| Ok(()))?;
        }
        Ok(())
    }

    /// The way that is gone next: up, if any rank wants up.
    fn agree(&self, comm: &Shared<D>, wanted: Option<Way>) -> Result<Option<Way>> {
        let word = |way| match way {
            None => 0u8,
            Some(Way::Up) => 1,
            Some(Way::Down) => 2,
        };
        let all = comm.group().exchange("pass", vec![word(wanted)])?;
        let wants = |way| all.iter().any(|bytes| bytes[..] == [word(Some(way))]);
        Ok([Way::Up, Way::Down].into_iter().find(|way| wants(*way)))
    }

    fn walk<T>(&self, device: &D, way: Way, start: T, mut f: impl FnMut(T, usize, &Block<D>) -> Result<T>) -> Result<T> {
        let mut carried = start;
        let count = self.blocks.len();
        let mut layers = (0..count).map(|i| if way == Way::Up { i } else { count - 1 - i });
        let mut fetch = || layers.next().map(|layer| Ok((layer, self.whole(device, layer)?))).transpose();
        let mut ahead = fetch()?;
        while let Some((layer, block)) = ahead {
            if let Some(comm) = &self.shares {
                comm.join(device)?;
            }
            ahead = fetch()?;
            carried = f(carried, layer, &block)?;
        }
        Ok(carried)
    }

    fn whole(&self, device: &D, layer: usize) -> Result<Whole<'_, D>> {
        let block = &self.blocks[layer];
        let Some(comm) = &self.shares else { return Ok(Whole::Here(block)) };
        let mut whole = block.try_map(&mut |param| {
            let value = device.empty(param.elements())?;
            Ok(Param { parts: param.parts.clone(), value, master: None, slot: None, decay: param.decay })
        })?;
        let shares = block.params().into_iter().map(|param| &param.value);
        let mut tensors: Vec<_> = whole.params_mut().into_iter().map(|param| &mut param.value).zip(shares).collect();
        comm.all_gather(device, &mut tensors)?;
        Ok(Whole::Gathered(Box::new(whole)))
    }
}
