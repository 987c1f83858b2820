//! Device memory as the launch code sees it: buffers, and parts of them.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::driver::{Driver, Pointer};
use crate::device::Elem;

/// Bytes that live buffers hold, and the most they ever held.
#[derive(Debug, Default)]
pub(super) struct Counter {
    live: AtomicUsize,
    peak: AtomicUsize,
}

impl Counter {
    pub(super) fn read(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, bytes: usize) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
    }
}

/// Memory of a [`Cuda`](super::Cuda): given back to its pool when dropped. An empty buffer holds none.
pub struct Buf<T> {
    pub(super) pointer: Pointer,
    pub(super) len: usize,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) counter: Arc<Counter>,
    pub(super) element: PhantomData<T>,
}

impl<T> Buf<T> {
    /// Bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Where it is, for what reads and writes it by its address: libraries, products.
    pub fn address(&self) -> Pointer {
        self.pointer
    }

    /// The elements from `at` on.
    pub(super) fn part(&self, at: usize) -> Part<'_, T> {
        assert!(at <= self.len, "a part from {at} of a buffer of {} elements", self.len);
        Part { pointer: self.pointer + (at * size_of::<T>()) as u64, buffer: PhantomData }
    }

    /// The elements from `at` on, to write.
    pub(super) fn part_mut(&mut self, at: usize) -> PartMut<'_, T> {
        PartMut { pointer: self.part(at).pointer, buffer: PhantomData }
    }
}

impl<T> Drop for Buf<T> {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.driver.release(self.pointer);
            self.counter.live.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

/// A buffer from some element on.
pub struct Part<'a, T> {
    pointer: Pointer,
    buffer: PhantomData<&'a Buf<T>>,
}

/// A buffer from some element on, to write.
pub struct PartMut<'a, T> {
    pointer: Pointer,
    buffer: PhantomData<&'a mut Buf<T>>,
}

/// What a kernel reads elements of `T` from.
pub trait Read<T> {
    /// Its first element.
    fn pointer(&self) -> Pointer;
}

/// What a kernel writes elements of `T` to.
pub trait Write<T> {
    /// Its first element.
    fn pointer(&mut self) -> Pointer;
}

impl<T: Elem> Read<T> for Buf<T> {
    fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl<T: Elem> Read<T> for Part<'_, T> {
    fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl<T: Elem> Write<T> for Buf<T> {
    fn pointer(&mut self) -> Pointer {
        self.pointer
    }
}

impl<T: Elem> Write<T> for PartMut<'_, T> {
    fn pointer(&mut self) -> Pointer {
        self.pointer
    }
}
