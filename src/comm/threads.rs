//! Collectives through the host's memory: what CPU ranks use, and what the other implementations are judged against. Sums go from
//! the lowest rank to the highest, each addition rounded to the element's type.

use super::{Bytes, Comm, Group, shard};
use crate::device::{Device, Elem, Real};
use crate::error::{Error, Result};

/// The communicator of ranks that share a host, or, through the group's link, of several hosts.
pub struct Threads {
    group: Group,
}

impl Threads {
    /// Over a group.
    pub fn new(group: Group) -> Threads {
        Threads { group }
    }

    /// Every rank's elements of these tensors, one after the other.
    fn exchange<D: Device, T: Elem>(&self, device: &D, what: &'static str, tensors: &[&D::Buf<T>]) -> Result<Vec<Bytes>> {
        let values = device.download_many(tensors)?;
        let bytes = values.iter().flat_map(|values| bytemuck::cast_slice::<T, u8>(values)).copied().collect();
        self.group.exchange(what, bytes)
    }
}

/// Elements `range` of a rank's bytes, after `at` elements of tensors before it.
fn part<T: Elem>(bytes: &Bytes, at: usize, range: std::ops::Range<usize>) -> Result<Vec<T>> {
    let size = size_of::<T>();
    let bytes = bytes.get((at + range.start) * size..(at + range.end) * size);
    let bytes = bytes.ok_or_else(|| Error::Machine("ranks hold tensors of different extents".into()))?;
    Ok(bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect())
}

fn put<D: Device, T: Elem>(device: &D, out: &mut D::Buf<T>, at: usize, values: &[T]) -> Result<()> {
    device.copy(out, at, &device.upload(values)?, 0, values.len())
}

impl<D: Device> Comm<D> for Threads {
    fn group(&self) -> &Group {
        &self.group
    }

    fn reduce_scatter(&self, device: &D, tensors: &mut [(&mut D::Buf<D::Acc>, &D::Buf<D::Acc>)]) -> Result<()> {
        let inputs: Vec<&D::Buf<D::Acc>> = tensors.iter().map(|(_, inp)| *inp).collect();
        let all = self.exchange::<D, D::Acc>(device, "reduce_scatter", &inputs)?;
        let mut at = 0;
        for (out, inp) in tensors {
            let own = shard(D::len(inp), self.group.ranks(), self.group.rank());
            let mut sum: Vec<D::Acc> = part(&all[0], at, own.clone())?;
            for bytes in &all[1..] {
                let other: Vec<D::Acc> = part(bytes, at, own.clone())?;
                sum.iter_mut().zip(other).for_each(|(sum, x)| *sum = D::Acc::of(sum.f64() + x.f64()));
            }
            put::<D, D::Acc>(device, out, 0, &sum)?;
            at += D::len(inp);
        }
        Ok(())
    }

    fn all_gather(&self, device: &D, tensors: &mut [(&mut D::Buf<D::Act>, &D::Buf<D::Act>)]) -> Result<()> {
        let inputs: Vec<&D::Buf<D::Act>> = tensors.iter().map(|(_, inp)| *inp).collect();
        let all = self.exchange::<D, D::Act>(device, "all_gather", &inputs)?;
        let mut at = vec![0; all.len()];
        for (out, _) in tensors {
            let len = D::len(out);
            for (rank, bytes) in all.iter().enumerate() {
                let place = shard(len, self.group.ranks(), rank);
                let values: Vec<D::Act> = part(bytes, at[rank], 0..place.len())?;
                put::<D, D::Act>(device, out, place.start, &values)?;
                at[rank] += place.len();
            }
        }
        Ok(())
    }

    fn join(&self, _: &D) -> Result<()> {
        Ok(())
    }
}
