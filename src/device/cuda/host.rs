//! Pinned memory of the host, which the GPU reads and writes by itself while the host goes on: weights that wait there, and results
//! that are on their way.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use super::Buf;
use super::driver::{Driver, Wait};
use crate::device::Elem;
use crate::error::Result;

/// Elements in pinned memory of the host. They are set once and then only read, by copies that may be under way until this is dropped;
/// or written by copies, and read once these have been waited for.
pub struct Host<T> {
    memory: *mut u8,
    len: usize,
    driver: Arc<dyn Driver>,
    element: PhantomData<T>,
}

// SAFETY: the memory is this value's own; the driver is told to copy from it and to take it back from any thread.
unsafe impl<T: Send> Send for Host<T> {}
// SAFETY: shared, it is only read.
unsafe impl<T: Sync> Sync for Host<T> {}

impl<T> Host<T> {
    pub(super) fn new(driver: &Arc<dyn Driver>, len: usize) -> Result<Host<T>> {
        let bytes = len * size_of::<T>();
        let memory = if bytes > 0 { driver.pin(bytes)? } else { std::ptr::dangling_mut() };
        Ok(Host { memory, len, driver: driver.clone(), element: PhantomData })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `new` got so many bytes, and they are written through `bytes_mut` only.
        unsafe { std::slice::from_raw_parts(self.memory, self.len * size_of::<T>()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; nobody else has this value.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.len * size_of::<T>()) }
    }
}

impl<T> Drop for Host<T> {
    fn drop(&mut self) {
        if !self.bytes().is_empty() {
            // SAFETY: `new` got it from this driver, and this is its end.
            unsafe { self.driver.unpin(self.memory, self.len * size_of::<T>()) };
        }
    }
}

/// Blocks of pinned memory that results come to. Taking such memory waits for the GPU, so blocks are used again.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Vec<Host<u8>>>);

impl Shelf {
    /// A block of at least so many bytes.
    fn take(&self, driver: &Arc<dyn Driver>, bytes: usize) -> Result<Host<u8>> {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match blocks.iter().position(|block| block.len() >= bytes) {
            Some(found) => Ok(blocks.swap_remove(found)),
            None => Host::new(driver, bytes.next_multiple_of(BLOCK)),
        }
    }
}

/// Bytes that blocks are multiples of.
const BLOCK: usize = 4096;

/// Elements of two buffers, and what kernels reported, on their way to the host.
pub struct Pending<T, U> {
    block: Option<Host<u8>>,
    lens: (usize, usize),
    wait: Wait,
    shelf: Arc<Shelf>,
    elements: PhantomData<(T, U)>,
}

impl<T: Elem, U: Elem> Pending<T, U> {
    /// Begins to copy two buffers, and `report`.
    pub(super) fn begin(
        driver: &Arc<dyn Driver>,
        shelf: &Arc<Shelf>,
        a: &Buf<T>,
        b: &Buf<U>,
        report: &Buf<u32>,
    ) -> Result<Pending<T, U>> {
        let parts = [(a.pointer, a.bytes()), (b.pointer, b.bytes()), (report.pointer, report.bytes())];
        let block = shelf.take(driver, parts.iter().map(|(_, bytes)| bytes).sum())?;
        let mut at = 0;
        let parts = parts.map(|(from, bytes)| {
            let to = block.memory.wrapping_add(at);
            at += bytes;
            (to, from, bytes)
        });
        // SAFETY: the block has room for all of them, one after the other, and is read once they have been waited for; until then it
        // is here or on the shelf, where only later copies take it.
        let wait = unsafe { driver.download_pinned(&parts) }?;
        Ok(Pending { block: Some(block), lens: (a.len, b.len), wait, shelf: shelf.clone(), elements: PhantomData })
    }

    /// Waits for the copies: both buffers, and the report.
    pub(super) fn finish<const N: usize>(mut self) -> Result<(Vec<T>, Vec<U>, [u32; N])> {
        std::mem::replace(&mut self.wait, Box::new(|| Ok(())))()?;
        let (mut a, mut b, mut report) = (vec![T::default(); self.lens.0], vec![U::default(); self.lens.1], [0u32; N]);
        let mut bytes = self.block.as_ref().map_or(&[][..], Host::bytes);
        let targets: [&mut [u8]; 3] =
            [bytemuck::cast_slice_mut(&mut a), bytemuck::cast_slice_mut(&mut b), bytemuck::cast_slice_mut(&mut report)];
        for target in targets {
            let (own, rest) = bytes.split_at(target.len());
            target.copy_from_slice(own);
            bytes = rest;
        }
        Ok((a, b, report))
    }
}

impl<T, U> Drop for Pending<T, U> {
    fn drop(&mut self) {
        self.shelf.0.lock().unwrap_or_else(PoisonError::into_inner).extend(self.block.take());
    }
}
