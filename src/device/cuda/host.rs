//! Weights that wait in the host's memory: pinned, so that the GPU reads them by itself while the host goes on.

use std::marker::PhantomData;
use std::sync::Arc;

use super::driver::Driver;
use crate::error::Result;

/// Elements in pinned memory of the host. They are set once and then only read, by copies that may be under way until this is dropped.
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
