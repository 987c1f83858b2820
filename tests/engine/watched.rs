//! A driver that counts what passes through it, by thread, since tests share a GPU; and that fails when it is told to, which is how a
//! stage dies in the middle of a step.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use repairity::device::cuda::driver::{Driver, Grid, Matmul, Pointer, TensorMap, Tiled, Wait};
use repairity::device::cuda::gpu::Gpu;
use repairity::error::{Error, Result};

/// What a thread did since [`watch`] began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Waits for the device.
    pub downloads: usize,
    /// Results that came while the host went on.
    pub arrivals: usize,
    /// Repeated recordings.
    pub replays: usize,
    /// Kernels and plain products.
    pub launches: usize,
    /// Bytes allocated and not given back; those given back may be older.
    pub live: i64,
    /// The most that `live` ever was.
    pub peak: i64,
}

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(Seen { downloads: 0, arrivals: 0, replays: 0, launches: 0, live: 0, peak: 0 }) };
    static FAILS_AT: Cell<Option<usize>> = const { Cell::new(None) };
    static PLAIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` on drivers that record nothing.
pub fn plainly<T>(f: impl FnOnce() -> T) -> T {
    PLAIN.set(true);
    let result = f();
    PLAIN.set(false);
    result
}

/// Runs `f` and tells what it did. With `fails_at`, the launch after that many fails.
pub fn watch<T>(fails_at: Option<usize>, f: impl FnOnce() -> T) -> (T, Seen) {
    SEEN.set(Seen::default());
    FAILS_AT.set(fails_at);
    let result = f();
    FAILS_AT.set(None);
    (result, SEEN.get())
}

fn count(f: impl FnOnce(&mut Seen)) {
    let mut seen = SEEN.get();
    f(&mut seen);
    seen.peak = seen.peak.max(seen.live);
    SEEN.set(seen);
}

/// Counts a launch; an error where it is to fail.
fn launched() -> Result<()> {
    if FAILS_AT.get() == Some(SEEN.get().launches) {
        return Err(Error::Device { what: "a test".into(), cause: "the launch that is to fail".into() });
    }
    count(|seen| seen.launches += 1);
    Ok(())
}

/// The driver.
pub struct Watched {
    inner: Arc<dyn Driver>,
    sizes: Mutex<HashMap<Pointer, usize>>,
}

impl Watched {
    /// Watches `inner`.
    pub fn over(inner: Arc<dyn Driver>) -> Arc<dyn Driver> {
        Arc::new(Watched { inner, sizes: Mutex::default() })
    }
}

impl Driver for Watched {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        let pointer = self.inner.allocate(bytes)?;
        self.sizes.lock().unwrap().insert(pointer, bytes);
        count(|seen| seen.live += bytes as i64);
        Ok(pointer)
    }

    fn release(&self, pointer: Pointer) {
        // Before the memory can be lent to another thread under the same address.
        let bytes = self.sizes.lock().unwrap().remove(&pointer).expect("memory is given back once");
        count(|seen| seen.live -= bytes as i64);
        self.inner.release(pointer);
    }

    fn upload(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.inner.upload(to, from)
    }

    fn download(&self, parts: &mut [(&mut [u8], Pointer)]) -> Result<()> {
        count(|seen| seen.downloads += 1);
        self.inner.download(parts)
    }

    fn copy(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()> {
        self.inner.copy(to, from, bytes)
    }

    fn clear(&self, to: Pointer, bytes: usize) -> Result<()> {
        self.inner.clear(to, bytes)
    }

    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        launched()?;
        self.inner.launch(kernel, grid, arguments)
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        self.inner.tensor_map(tensor)
    }

    fn matmul(&self, product: &Matmul) -> Result<()> {
        launched()?;
        self.inner.matmul(product)
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.inner.pin(bytes)
    }

    unsafe fn unpin(&self, memory: *mut u8, bytes: usize) {
        // SAFETY: the caller promises the same.
        unsafe { self.inner.unpin(memory, bytes) };
    }

    fn upload_pinned(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.inner.upload_pinned(to, from)
    }

    unsafe fn download_pinned(&self, parts: &[(*mut u8, Pointer, usize)]) -> Result<Wait> {
        count(|seen| seen.arrivals += 1);
        // SAFETY: the caller promises the same.
        unsafe { self.inner.download_pinned(parts) }
    }

    fn records(&self) -> bool {
        !PLAIN.get() && self.inner.records()
    }

    fn record(&self) -> Result<()> {
        self.inner.record()
    }

    fn recorded(&self) -> Result<u64> {
        self.inner.recorded()
    }

    fn replay(&self, recording: u64) -> Result<()> {
        launched()?;
        count(|seen| seen.replays += 1);
        self.inner.replay(recording)
    }

    fn forget(&self, recording: u64) {
        self.inner.forget(recording);
    }

    fn gpu(&self) -> Option<&Gpu> {
        self.inner.gpu()
    }
}
