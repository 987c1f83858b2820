//! A driver whose launches are recorded: marks around everything that its stream runs, and the host's waits.

use std::borrow::Cow;
use std::ffi::c_void;
use std::sync::Arc;

use super::driver::{Driver, Grid, Mark, Matmul, Pointer, TensorMap, Tiled, Wait};
use super::gpu::Gpu;
use super::kernel::KERNELS;
use crate::device::cost::{Cost, product};
use crate::device::record::{Kind, Recorder};
use crate::error::Result;

/// A driver, and who writes down what it is asked for.
pub(super) struct Recorded {
    inner: Arc<dyn Driver>,
    recorder: Arc<Recorder>,
    act_bytes: usize,
}

impl Recorded {
    /// Records what `inner` runs; an activation has so many bytes.
    pub(super) fn over(inner: Arc<dyn Driver>, recorder: Arc<Recorder>, act_bytes: usize) -> Recorded {
        Recorded { inner, recorder, act_bytes }
    }

    fn between(&self, name: &'static str, cost: Option<Cost>, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.inner.mark()?;
        run()?;
        if let (Some(before), Some(behind)) = (before, self.inner.mark()?) {
            self.recorder.launched(Cow::Borrowed(name), cost, [before, behind]);
        }
        Ok(())
    }
}

fn moved(bytes: usize) -> Option<Cost> {
    Some(Cost { bytes: bytes as u64, launches: 1, ..Cost::default() })
}

/// `matmul nt`: whether each factor is stored as it is or transposed.
fn name(product: &Matmul) -> &'static str {
    match (product.a.transposed, product.b.transposed) {
        (false, false) => "matmul nn",
        (false, true) => "matmul nt",
        (true, false) => "matmul tn",
        (true, true) => "matmul tt",
    }
}

impl Driver for Recorded {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn multiprocessors(&self) -> usize {
        self.inner.multiprocessors()
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer> {
        self.inner.allocate(bytes)
    }

    fn release(&self, pointer: Pointer) {
        self.inner.release(pointer);
    }

    fn upload(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.between("upload", moved(from.len()), || self.inner.upload(to, from))
    }

    fn download(&self, parts: &mut [(&mut [u8], Pointer)]) -> Result<()> {
        let _wait = self.recorder.open(Kind::Wait, "download", None);
        self.inner.download(parts)
    }

    fn copy(&self, to: Pointer, from: Pointer, bytes: usize) -> Result<()> {
        self.between("copy", moved(2 * bytes), || self.inner.copy(to, from, bytes))
    }

    fn clear(&self, to: Pointer, bytes: usize) -> Result<()> {
        self.between("clear", moved(bytes), || self.inner.clear(to, bytes))
    }

    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        self.between(KERNELS[kernel].name, None, || self.inner.launch(kernel, grid, arguments))
    }

    fn tensor_map(&self, tensor: &Tiled<'_>) -> Result<TensorMap> {
        self.inner.tensor_map(tensor)
    }

    fn matmul(&self, asked: &Matmul) -> Result<()> {
        let Matmul { m, n, k, .. } = *asked;
        let out = m * n * if asked.wide { 4 } else { self.act_bytes } * if asked.accumulate { 2 } else { 1 };
        let bytes = (m * k + k * n + asked.bias.map_or(0, |_| n)) * self.act_bytes + out;
        let cost = Cost { products: product(m, n, k), other: 0, bytes: bytes as u64, launches: 1 };
        self.between(name(asked), Some(cost), || self.inner.matmul(asked))
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.inner.pin(bytes)
    }

    unsafe fn unpin(&self, memory: *mut u8, bytes: usize) {
        // SAFETY: as the caller promised; `pin` is the inner driver's.
        unsafe { self.inner.unpin(memory, bytes) };
    }

    fn upload_pinned(&self, to: Pointer, from: &[u8]) -> Result<()> {
        self.between("upload", moved(from.len()), || self.inner.upload_pinned(to, from))
    }

    unsafe fn download_pinned(&self, parts: &[(*mut u8, Pointer, usize)]) -> Result<Wait> {
        // SAFETY: as the caller promised.
        unsafe { self.inner.download_pinned(parts) }
    }

    fn mark(&self) -> Result<Option<Mark>> {
        self.inner.mark()
    }

    fn read_marks(&self, marks: Vec<Mark>) -> Result<Vec<f64>> {
        self.inner.read_marks(marks)
    }

    fn gpu(&self) -> Option<&Gpu> {
        self.inner.gpu()
    }
}
