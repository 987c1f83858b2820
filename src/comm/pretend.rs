//! Ranks that are only pretended, for a device that only counts: collectives return at once, and what they would move is added up.

use std::sync::{Mutex, MutexGuard};

use super::{Comm, Group, shard};
use crate::device::{Device, Meter, Real, extent};
use crate::error::Result;

/// What collectives were asked to move: bytes of the whole tensors, of which a rank of `k` receives `(k - 1) / k` at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of tensors whose sum was scattered.
    pub reduced: u64,
    /// Bytes of tensors that were gathered.
    pub gathered: u64,
}

/// The communicator of rank 0 of pretended ranks.
pub struct Pretend {
    group: Group,
    moved: Mutex<Moved>,
}

impl Pretend {
    /// As one of so many.
    pub fn new(ranks: usize) -> Pretend {
        Pretend { group: Group::pretend(ranks), moved: Mutex::default() }
    }

    fn moved(&self) -> MutexGuard<'_, Moved> {
        self.moved.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What was moved since the last time, which is then forgotten.
    pub fn take(&self) -> Moved {
        std::mem::take(&mut self.moved())
    }

    fn share(&self, len: usize) -> usize {
        shard(len, self.group.ranks(), self.group.rank()).len()
    }
}

impl<A: Real> Comm<Meter<A>> for Pretend {
    fn group(&self) -> &Group {
        &self.group
    }

    fn reduce_scatter(
        &self,
        _: &Meter<A>,
        tensors: &mut [(&mut <Meter<A> as Device>::Buf<f32>, &<Meter<A> as Device>::Buf<f32>)],
    ) -> Result<()> {
        for (out, inp) in tensors {
            let len = Meter::<A>::len(inp);
            extent::<Meter<A>, f32>("reduce_scatter: out", out, self.share(len))?;
            self.moved().reduced += (len * size_of::<f32>()) as u64;
        }
        Ok(())
    }

    fn all_gather(
        &self,
        _: &Meter<A>,
        tensors: &mut [(&mut <Meter<A> as Device>::Buf<A>, &<Meter<A> as Device>::Buf<A>)],
    ) -> Result<()> {
        for (out, inp) in tensors {
            let len = Meter::<A>::len(out);
            extent::<Meter<A>, A>("all_gather: inp", inp, self.share(len))?;
            self.moved().gathered += (len * size_of::<A>()) as u64;
        }
        Ok(())
    }

    fn join(&self, _: &Meter<A>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::meter::Style;

    /// Ten elements on four ranks: rank 0 owns three.
    #[test]
    fn shards_are_checked_and_whole_tensors_are_counted() {
        let (device, comm) = (Meter::<half::bf16>::new(Style::Cuda), Pretend::new(4));
        let (whole, mut shard) = (device.zeros::<f32>(10).unwrap(), device.zeros::<f32>(3).unwrap());
        comm.reduce_scatter(&device, &mut [(&mut shard, &whole)]).unwrap();
        let (mut gathered, part) = (device.zeros::<half::bf16>(10).unwrap(), device.zeros::<half::bf16>(3).unwrap());
        comm.all_gather(&device, &mut [(&mut gathered, &part)]).unwrap();
        assert_eq!(comm.take(), Moved { reduced: 40, gathered: 20 });
        assert_eq!(comm.take(), Moved::default());
        let mut wrong = device.zeros::<f32>(4).unwrap();
        let error = comm.reduce_scatter(&device, &mut [(&mut wrong, &whole)]).unwrap_err();
        assert_eq!(error.to_string(), "reduce_scatter: out: 3 elements expected, 4 given");
    }
}
