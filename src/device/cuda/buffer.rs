//! Device memory as the launch code sees it: buffers, parts of them, and where they come from.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use super::driver::{Driver, Pointer};
use super::pool::Layout;
use crate::device::Elem;
use crate::error::{Error, Result};

/// Where a device's buffers come from, the bytes that live ones hold, and the most they ever held.
pub(super) struct Memory {
    driver: Arc<dyn Driver>,
    live: AtomicUsize,
    peak: AtomicUsize,
    /// The body that a thread runs for [`Memory::rehearse`] or [`Memory::aside`].
    body: Mutex<Option<(ThreadId, Body)>>,
}

/// What a body has allocated.
struct Body {
    layout: Layout,
    /// Offsets in the layout by address.
    lent: HashMap<Pointer, usize>,
    /// The range, and its bytes, that the layout is of; without one, buffers come from where all come from.
    range: Option<(Pointer, usize)>,
}

impl Memory {
    pub(super) fn new(driver: Arc<dyn Driver>) -> Memory {
        Memory { driver, live: AtomicUsize::new(0), peak: AtomicUsize::new(0), body: Mutex::default() }
    }

    /// Bytes that live buffers hold, and the most they ever held. Those of a range that was set aside do not count: the range does.
    pub(super) fn read(&self) -> (usize, usize) {
        (self.live.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    fn body(&self) -> MutexGuard<'_, Option<(ThreadId, Body)>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where so many bytes are, and whether that is in a range that was set aside.
    fn allocate(&self, bytes: usize) -> Result<(Pointer, bool)> {
        let mut running = self.body();
        let body = running.as_mut().filter(|(thread, _)| *thread == thread::current().id()).map(|(_, body)| body);
        let Some(body) = body else {
            drop(running);
            return Ok((self.take(bytes)?, false));
        };
        let at = body.layout.lend(bytes);
        let pointer = match body.range {
            None => self.take(bytes)?,
            Some((base, size)) if at + bytes <= size => base + at as u64,
            Some((_, size)) => {
                let cause = format!("{} bytes are needed where {size} were at its first run", at + bytes);
                return Err(Error::Device { what: "what is recorded".into(), cause });
            }
        };
        body.lent.insert(pointer, at);
        Ok((pointer, body.range.is_some()))
    }

    fn take(&self, bytes: usize) -> Result<Pointer> {
        let pointer = self.driver.allocate(bytes)?;
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
        Ok(pointer)
    }

    fn release(&self, pointer: Pointer, bytes: usize, aside: bool) {
        if let Some((_, body)) = &mut *self.body()
            && let Some(at) = body.lent.remove(&pointer)
        {
            body.layout.take_back(at);
        }
        if !aside {
            self.driver.release(pointer);
            self.live.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Runs a body, and tells how long a range has to be for all of its buffers.
    pub(super) fn rehearse(&self, body: &mut dyn FnMut() -> Result<()>) -> Result<usize> {
        let (done, Body { layout, .. }) = self.run(None, body);
        done.map(|()| layout.span())
    }

    /// Runs a body whose buffers lie in a range that was set aside for them. Errors: it keeps one of them.
    pub(super) fn aside(&self, range: &Buf<u32>, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let (done, Body { lent, .. }) = self.run(Some((range.pointer, range.bytes())), body);
        done?;
        match lent.is_empty() {
            true => Ok(()),
            false => {
                let cause = format!("{} buffers that it made are kept beyond its end", lent.len());
                Err(Error::Device { what: "what is recorded".into(), cause })
            }
        }
    }

    fn run(&self, range: Option<(Pointer, usize)>, body: &mut dyn FnMut() -> Result<()>) -> (Result<()>, Body) {
        let begun = Body { layout: Layout::new(), lent: HashMap::new(), range };
        *self.body() = Some((thread::current().id(), begun));
        let done = body();
        let (_, body) = self.body().take().expect("a body ends once");
        (done, body)
    }

    /// Fails while this thread runs a body that is recorded: `what` would be done once, and not each time.
    pub(super) fn refuse_in_recording(&self, what: &str) -> Result<()> {
        match &*self.body() {
            Some((thread, body)) if body.range.is_some() && *thread == thread::current().id() => {
                let cause = "not inside of what is recorded: it would happen once, and not at each replay".into();
                Err(Error::Device { what: what.into(), cause })
            }
            _ => Ok(()),
        }
    }
}

/// Memory of a [`Cuda`](super::Cuda): given back to its pool when dropped. An empty buffer holds none.
pub struct Buf<T> {
    pub(super) pointer: Pointer,
    pub(super) len: usize,
    /// Whether it lies in a range that was set aside, whose memory is the range's.
    aside: bool,
    memory: Arc<Memory>,
    element: PhantomData<T>,
}

impl<T> Buf<T> {
    pub(super) fn new(memory: &Arc<Memory>, len: usize) -> Result<Buf<T>> {
        let bytes = len * size_of::<T>();
        let (pointer, aside) = if bytes > 0 { memory.allocate(bytes)? } else { (0, false) };
        Ok(Buf { pointer, len, aside, memory: memory.clone(), element: PhantomData })
    }

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
            self.memory.release(self.pointer, self.bytes(), self.aside);
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
