//! Ranks and what they say to each other. A rank is one device and the thread that drives it; a [`Group`] lets all of them exchange
//! small things on the host and end together when one fails; a [`Comm`] adds the collectives on device memory that ZeRO needs.
//!
//! Every call of a group or a communicator is made by all ranks, in the same order.

mod frame;
mod group;
pub mod nccl;
mod rendezvous;
mod pretend;
mod solo;
mod star;
mod threads;
mod world;

use std::ops::Range;
use std::sync::Arc;

use crate::device::Device;
use crate::error::Result;
pub use group::{Bytes, Failure, Group, Hub};
pub use nccl::Nccl;
pub use pretend::{Moved, Pretend};
pub use rendezvous::join;
pub use solo::Solo;
pub use threads::Threads;
pub use world::World;

/// The part of `len` elements that a rank owns: equal parts, the last ones shorter or empty where `ranks` does not divide `len`.
pub fn shard(len: usize, ranks: usize, rank: usize) -> Range<usize> {
    let each = len.div_ceil(ranks);
    (rank * each).min(len)..((rank + 1) * each).min(len)
}

/// Collectives on device memory. They may run beside what the device computes: the tensors must stay as they are and where they are
/// (a buffer that is dropped may become another's memory at once), and the results may not be read, until [`Comm::join`].
pub trait Comm<D: Device>: Send + Sync {
    /// The ranks that take part.
    fn group(&self) -> &Group;

    /// For each `(out, inp)`: `out` is this rank's [`shard`] of the sum of every rank's `inp`. The order of the sum is the same in
    /// every run with the same ranks.
    fn reduce_scatter(&self, device: &D, tensors: &mut [(&mut D::Buf<D::Acc>, &D::Buf<D::Acc>)]) -> Result<()>;

    /// For each `(out, inp)`: `out` is every rank's `inp`, its [`shard`] of `out`, one after the other.
    fn all_gather(&self, device: &D, tensors: &mut [(&mut D::Buf<D::Act>, &D::Buf<D::Act>)]) -> Result<()>;

    /// What the device computes from here on comes after all collectives before this. The host does not wait.
    fn join(&self, device: &D) -> Result<()>;
}

/// A communicator as stages hold it.
pub type Shared<D> = Arc<dyn Comm<D>>;

/// The communicator of a device that works alone.
pub fn solo<D: Device>() -> Shared<D> {
    Arc::new(Solo::new())
}
