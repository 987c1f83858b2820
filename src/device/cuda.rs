//! NVIDIA GPUs: kernels/*.cu launched through cudarc, plain matrix products by cuBLASLt. Each file of launch code chooses the grid of
//! the kernel file of the same name. What runs the launches is a [`Driver`]: a GPU, or in tests a simulator.

mod attention;
mod blas;
mod buffer;
mod decode;
pub mod driver;
mod embed;
pub mod gemm;
pub mod gpu;
mod host;
pub mod kernel;
mod linear;
mod logprob;
mod losses;
mod optim;
pub(super) mod pool;
mod rmsnorm;
mod rope;
mod rows;
mod sample;
mod scalar_head;
mod side;
pub(super) mod scratch;
mod swiglu;

use std::collections::HashMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use super::{AdamW, Bounds, Branch, Device, Dropout, Elem, Heads, Real, Sampling, check};
use crate::error::{Error, Result};
pub use buffer::Buf;
use buffer::Counter;
use driver::{Driver, Grid, Matmul};
pub use host::Host;
pub(crate) use side::Side;

/// The types of activations that the kernels are compiled for.
pub trait Act: Real {
    /// The build's name: `bf16`, `f32`.
    const BUILD: &'static str;
}

impl Act for half::bf16 {
    const BUILD: &'static str = "bf16";
}

impl Act for f32 {
    const BUILD: &'static str = "f32";
}

/// One GPU and one stream. `A` is the type of activations: `half::bf16` to run, `f32` for tight tests.
pub struct Cuda<A> {
    driver: Arc<dyn Driver>,
    counter: Arc<Counter>,
    /// What kernels report: code, index and value of the first id that is out of range.
    fault: Mutex<Buf<u32>>,
    /// Rotary frequencies `theta^(-2i/d)` by (d, theta's bits).
    frequencies: Mutex<HashMap<(usize, u64), Arc<Buf<f32>>>>,
    act: PhantomData<A>,
}

impl<A: Act> Cuda<A> {
    /// GPU `ordinal` of this machine. Errors: there is none ([`gpu::missing`] says why), or its memory is in use.
    pub fn open(ordinal: usize) -> Result<Self> {
        Self::with_driver(Arc::new(gpu::Gpu::open(ordinal, A::BUILD)?))
    }

    /// A device that launches into `driver`.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Result<Self> {
        let counter = Arc::default();
        let fault = allocate(&driver, &counter, scratch::FAULT)?;
        driver.clear(fault.pointer, fault.bytes())?;
        Ok(Cuda { driver, counter, fault: Mutex::new(fault), frequencies: Mutex::default(), act: PhantomData })
    }

    /// What it launches into.
    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Launches a kernel by its place in [`kernel::KERNELS`]; an empty grid launches nothing.
    fn launch(&self, kernel: usize, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        if grid.is_empty() { Ok(()) } else { self.driver.launch(kernel, grid, arguments) }
    }

    /// A plain product. One without terms is zero, or leaves what is there.
    fn matmul(&self, product: Matmul) -> Result<()> {
        let Matmul { m, n, k, .. } = product;
        if m * n == 0 {
            return Ok(());
        }
        if k > 0 {
            return self.driver.matmul(&product);
        }
        match (product.accumulate, product.bias) {
            (true, _) => Ok(()),
            (false, None) => self.driver.clear(product.out, m * n * if product.wide { 4 } else { size_of::<A>() }),
            (false, Some(_)) => {
                Err(Error::Extent { what: "lora_linear_fwd: inputs of a map with a bias".into(), want: 1, got: 0 })
            }
        }
    }

    /// Runs `f` with the buffer that kernels report bad ids to.
    fn with_fault(&self, f: impl FnOnce(&mut Buf<u32>) -> Result<()>) -> Result<()> {
        f(&mut self.fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// The rotary frequencies of heads of width `dim`, uploaded at their first use.
    fn frequencies(&self, dim: usize, theta: f64) -> Result<Arc<Buf<f32>>> {
        let mut known = self.frequencies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = known.get(&(dim, theta.to_bits())) {
            return Ok(found.clone());
        }
        let values: Vec<f32> = (0..scratch::frequencies(dim)).map(|i| theta.powf(-2.0 * i as f64 / dim as f64) as f32).collect();
        let made = Arc::new(self.upload(&values)?);
        known.insert((dim, theta.to_bits()), made.clone());
        Ok(made)
    }

    /// Downloads each pair, and what kernels reported meanwhile: one wait for all of it.
    fn download_all(&self, parts: &mut [(&mut [u8], driver::Pointer)]) -> Result<()> {
        self.with_fault(|fault| {
            let mut report = [0u32; scratch::FAULT];
            let mut all: Vec<(&mut [u8], driver::Pointer)> = Vec::with_capacity(parts.len() + 1);
            all.extend(parts.iter_mut().map(|(to, from)| (&mut **to, *from)));
            all.push((bytemuck::cast_slice_mut(&mut report), fault.pointer));
            self.driver.download(&mut all)?;
            let [code, index, value, _] = report;
            if code == 0 {
                return Ok(());
            }
            self.driver.clear(fault.pointer, fault.bytes())?;
            Err(Error::input(format!("{}[{index}]", faulty(code)), format!("{value} is out of range")))
        })
    }
}

/// Operator and argument of a code that kernels report: the FAULT_... constants of kernels/geometry.h.
fn faulty(code: u32) -> &'static str {
    match code {
        kernel::FAULT_GATHER_ROWS => "gather_rows: rows",
        kernel::FAULT_SCATTER_ROWS => "scatter_rows: rows",
        kernel::FAULT_EMBED_FWD => "embed_fwd: ids",
        kernel::FAULT_EMBED_BWD => "embed_bwd: ids",
        kernel::FAULT_CACHE_WRITE_SLOT => "cache_write: slots",
        kernel::FAULT_CACHE_WRITE_POSITION => "cache_write: positions",
        kernel::FAULT_DECODE_SLOT => "attention_decode: slots",
        kernel::FAULT_DECODE_LENGTH => "attention_decode: lengths",
        kernel::FAULT_TARGET => "linear_logprob_fwd: targets",
        _ => "a kernel's argument",
    }
}

fn allocate<T>(driver: &Arc<dyn Driver>, counter: &Arc<Counter>, len: usize) -> Result<Buf<T>> {
    let bytes = len * size_of::<T>();
    let pointer = if bytes > 0 { driver.allocate(bytes)? } else { 0 };
    counter.add(bytes);
    Ok(Buf { pointer, len, driver: driver.clone(), counter: counter.clone(), element: PhantomData })
}

impl<A: Act> Device for Cuda<A> {
    type Act = A;
    type Acc = f32;
    type Buf<T: Elem> = Buf<T>;
    type Host<T: Elem> = Host<T>;

    fn name(&self) -> String {
        format!("cuda ({}, {})", self.driver.name(), A::BUILD)
    }

    fn zeros<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        let mut buf = self.empty(len)?;
        self.clear(&mut buf)?;
        Ok(buf)
    }

    fn empty<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        allocate(&self.driver, &self.counter, len)
    }

    fn upload<T: Elem>(&self, host: &[T]) -> Result<Buf<T>> {
        let buf = self.empty(host.len())?;
        if buf.bytes() > 0 {
            self.driver.upload(buf.pointer, bytemuck::cast_slice(host))?;
        }
        Ok(buf)
    }

    fn download<T: Elem>(&self, buf: &Buf<T>) -> Result<Vec<T>> {
        let mut host = vec![T::default(); buf.len];
        self.download_all(&mut [(bytemuck::cast_slice_mut(&mut host), buf.pointer)])?;
        Ok(host)
    }

    fn download_many<T: Elem>(&self, bufs: &[&Buf<T>]) -> Result<Vec<Vec<T>>> {
        let mut host: Vec<Vec<T>> = bufs.iter().map(|buf| vec![T::default(); buf.len]).collect();
        let pairs = host.iter_mut().zip(bufs);
        self.download_all(
            &mut pairs.map(|(host, buf)| (bytemuck::cast_slice_mut(&mut host[..]), buf.pointer)).collect::<Vec<_>>(),
        )?;
        Ok(host)
    }

    fn download_both<T: Elem, U: Elem>(&self, a: &Buf<T>, b: &Buf<U>) -> Result<(Vec<T>, Vec<U>)> {
        let (mut first, mut second) = (vec![T::default(); a.len], vec![U::default(); b.len]);
        let parts =
            [(bytemuck::cast_slice_mut(&mut first[..]), a.pointer), (bytemuck::cast_slice_mut(&mut second[..]), b.pointer)];
        self.download_all(&mut { parts })?;
        Ok((first, second))
    }

    fn len<T: Elem>(buf: &Buf<T>) -> usize {
        buf.len
    }

    fn copy<T: Elem>(&self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
        check::copy::<Self, T>(dst, dst_at, src, src_at, len)?;
        let size = size_of::<T>();
        match len {
            0 => Ok(()),
            _ => self.driver.copy(dst.pointer + (dst_at * size) as u64, src.pointer + (src_at * size) as u64, len * size),
        }
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        if buf.bytes() == 0 { Ok(()) } else { self.driver.clear(buf.pointer, buf.bytes()) }
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
        rows::cast(self, dst, src)
    }

    fn offload<T: Elem>(&self, buf: &Buf<T>) -> Result<Host<T>> {
        let mut host = Host::new(&self.driver, buf.len)?;
        self.download_all(&mut [(host.bytes_mut(), buf.pointer)])?;
        Ok(host)
    }

    fn fetch<T: Elem>(&self, host: &Host<T>) -> Result<Buf<T>> {
        let buf = self.empty(host.len())?;
        if buf.bytes() > 0 {
            self.driver.upload_pinned(buf.pointer, host.bytes())?;
        }
        Ok(buf)
    }

    fn memory(&self) -> (usize, usize) {
        self.counter.read()
    }

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        rows::gather_rows(self, out, inp, rows, c)
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        rows::scatter_rows(self, out, inp, rows, c)
    }

    fn add(&self, out: &mut Buf<A>, inp: &Buf<A>) -> Result<()> {
        rows::add(self, out, inp)
    }

    fn embed_fwd(&self, out: &mut Buf<A>, table: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        embed::embed_fwd(self, out, table, ids, c)
    }

    fn embed_bwd(&self, dtable: &mut Buf<f32>, dout: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        embed::embed_bwd(self, dtable, dout, ids, c)
    }

    fn rmsnorm_fwd(
        &self,
        out: &mut Buf<A>,
        rstd: &mut Buf<f32>,
        sum: Option<(&mut Buf<A>, &Buf<A>)>,
        inp: &Buf<A>,
        weight: &Buf<A>,
        c: usize,
        eps: f64,
    ) -> Result<()> {
        rmsnorm::rmsnorm_fwd(self, out, rstd, sum, inp, weight, c, eps)
    }

    fn rmsnorm_bwd(
        &self,
        dx: &mut Buf<A>,
        dweight: Option<&mut Buf<f32>>,
        dout: &Buf<A>,
        rstd: &Buf<f32>,
        x: &Buf<A>,
        weight: &Buf<A>,
        c: usize,
    ) -> Result<()> {
        rmsnorm::rmsnorm_bwd(self, dx, dweight, dout, rstd, x, weight, c)
    }

    fn lora_linear_fwd(
        &self,
        out: &mut Buf<A>,
        z: &mut Buf<A>,
        x: &Buf<A>,
        w: &Buf<A>,
        bias: Option<&Buf<A>>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        linear::lora_linear_fwd(self, out, z, x, w, bias, branches, dropout, tnk)
    }

    fn lora_linear_bwd(
        &self,
        dx: Option<(&mut Buf<A>, bool)>,
        dbranches: &mut [&mut Buf<f32>],
        dout: &Buf<A>,
        z: &Buf<A>,
        x: &Buf<A>,
        w: &Buf<A>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        linear::lora_linear_bwd(self, dx, dbranches, dout, z, x, w, branches, dropout, tnk)
    }

    fn lora_narrow(
        &self,
        z: &mut Buf<A>,
        x: &Buf<A>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tk: (usize, usize),
    ) -> Result<()> {
        linear::lora_narrow(self, z, x, branches, dropout, tk)
    }

    fn linear_dweight(
        &self,
        dw: &mut Buf<f32>,
        dbias: Option<&mut Buf<f32>>,
        dout: &Buf<A>,
        x: &Buf<A>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        linear::linear_dweight(self, dw, dbias, dout, x, tnk)
    }

    fn rope(&self, qkv: &mut Buf<A>, positions: &Buf<u32>, heads: Heads, theta: f64, inverse: bool) -> Result<()> {
        rope::rope(self, qkv, positions, heads, theta, inverse)
    }

    fn attention_fwd(
        &self,
        out: &mut Buf<A>,
        lse: &mut Buf<f32>,
        qkv: &Buf<A>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()> {
        attention::attention_fwd(self, out, lse, qkv, bounds, heads, t)
    }

    fn attention_bwd(
        &self,
        dqkv: &mut Buf<A>,
        dout: &Buf<A>,
        out: &Buf<A>,
        lse: &Buf<f32>,
        qkv: &Buf<A>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()> {
        attention::attention_bwd(self, dqkv, dout, out, lse, qkv, bounds, heads, t)
    }

    fn cache_write(
        &self,
        k: &mut Buf<A>,
        v: &mut Buf<A>,
        qkv: &Buf<A>,
        slots: &Buf<u32>,
        positions: &Buf<u32>,
        heads: Heads,
        capacity: usize,
    ) -> Result<()> {
        decode::cache_write(self, k, v, qkv, slots, positions, heads, capacity)
    }

    fn attention_decode(
        &self,
        out: &mut Buf<A>,
        qkv: &Buf<A>,
        k: &Buf<A>,
        v: &Buf<A>,
        slots: &Buf<u32>,
        lengths: &Buf<u32>,
        heads: Heads,
        capacity: usize,
    ) -> Result<()> {
        decode::attention_decode(self, out, qkv, k, v, slots, lengths, heads, capacity)
    }

    fn swiglu_fwd(&self, out: &mut Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        swiglu::swiglu_fwd(self, out, gate_up, f)
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<A>, dout: &Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        swiglu::swiglu_bwd(self, dgate_up, dout, gate_up, f)
    }

    fn linear_logprob_fwd(
        &self,
        logprob: &mut Buf<f32>,
        lse: &mut Buf<f32>,
        entropy: &mut Buf<f32>,
        x: &Buf<A>,
        head: &Buf<A>,
        targets: &Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        logprob::linear_logprob_fwd(self, logprob, lse, entropy, x, head, targets, scale, tcv)
    }

    fn linear_logprob_bwd(
        &self,
        dx: &mut Buf<A>,
        dhead: Option<&mut Buf<f32>>,
        dlogprob: &Buf<f32>,
        lse: &Buf<f32>,
        x: &Buf<A>,
        head: &Buf<A>,
        targets: &Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        logprob::linear_logprob_bwd(self, dx, dhead, dlogprob, lse, x, head, targets, scale, tcv)
    }

    fn logits(&self, out: &mut Buf<f32>, x: &Buf<A>, head: &Buf<A>, bcv: (usize, usize, usize)) -> Result<()> {
        logprob::logits(self, out, x, head, bcv)
    }

    fn sample(
        &self,
        ids: &mut Buf<u32>,
        logprob: &mut Buf<f32>,
        logits: &Buf<f32>,
        draws: &Buf<f32>,
        sampling: Sampling,
        v: usize,
    ) -> Result<()> {
        sample::sample(self, ids, logprob, logits, draws, sampling, v)
    }

    fn scalar_head_fwd(&self, out: &mut Buf<f32>, x: &Buf<A>, weight: &Buf<A>, c: usize) -> Result<()> {
        scalar_head::scalar_head_fwd(self, out, x, weight, c)
    }

    fn scalar_head_bwd(
        &self,
        dx: &mut Buf<A>,
        dweight: Option<&mut Buf<f32>>,
        dout: &Buf<f32>,
        x: &Buf<A>,
        weight: &Buf<A>,
        c: usize,
    ) -> Result<()> {
        scalar_head::scalar_head_bwd(self, dx, dweight, dout, x, weight, c)
    }

    fn ppo_clip(
        &self,
        dlogprob: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        logprob: &Buf<f32>,
        old: &Buf<f32>,
        advantage: &Buf<f32>,
        clip: f32,
        norm: f64,
    ) -> Result<()> {
        losses::ppo_clip(self, dlogprob, stats, logprob, old, advantage, clip, norm)
    }

    fn value_clip(
        &self,
        dvalue: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        value: &Buf<f32>,
        old: &Buf<f32>,
        returns: &Buf<f32>,
        clip: f32,
        norm: f64,
    ) -> Result<()> {
        losses::value_clip(self, dvalue, stats, value, old, returns, clip, norm)
    }

    fn gae(
        &self,
        advantage: &mut Buf<f32>,
        returns: &mut Buf<f32>,
        reward: &Buf<f32>,
        value: &Buf<f32>,
        bounds: &Bounds<Self>,
        gamma: f32,
        lambda: f32,
    ) -> Result<()> {
        losses::gae(self, advantage, returns, reward, value, bounds, gamma, lambda)
    }

    fn bradley_terry(
        &self,
        dscores: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        scores: &Buf<f32>,
        labels: &Buf<f32>,
        norm: f64,
    ) -> Result<()> {
        losses::bradley_terry(self, dscores, stats, scores, labels, norm)
    }

    fn moments(&self, x: &Buf<f32>, shift: f64) -> Result<(f64, f64)> {
        losses::moments(self, x, shift)
    }

    fn whiten(&self, x: &mut Buf<f32>, mean: f64, rstd: f64) -> Result<()> {
        losses::whiten(self, x, mean, rstd)
    }

    fn sum_squares(&self, out: &mut Buf<f32>, at: usize, x: &Buf<f32>) -> Result<()> {
        optim::sum_squares(self, out, at, x)
    }

    fn adamw(
        &self,
        param: &mut Buf<A>,
        master: &mut Buf<f32>,
        m: &mut Buf<f32>,
        v: &mut Buf<f32>,
        grad: &Buf<f32>,
        hyper: AdamW,
    ) -> Result<()> {
        optim::adamw(self, param, master, m, v, grad, hyper)
    }
}
