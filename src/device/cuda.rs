//! NVIDIA GPUs: kernels/*.cu launched through cudarc, plain matrix products by cuBLASLt. Each file of launch code chooses the grid of
//! the kernel file of the same name. What runs the launches is a [`Driver`]: a GPU, or in tests a simulator.

mod attention;
mod blas;
mod buffer;
mod cursor;
mod decode;
pub mod driver;
mod embed;
pub mod gemm;
pub mod gpu;
mod graph;
mod host;
pub mod kernel;
mod linear;
mod logprob;
mod losses;
mod optim;
pub(super) mod pool;
mod recorded;
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

use super::cost::{self, Cost};
use super::record::{Open, Recorder};
use super::{AdamW, Bounds, Branch, Cursor, Device, Dropout, Elem, Heads, Real, Sampling, check, extent};
use crate::error::{Error, Result};
pub use buffer::Buf;
use buffer::Memory;
use driver::{Driver, Grid, Matmul};
pub use graph::Graphs;
pub use host::{Host, Pending};
use recorded::Recorded;
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
    memory: Arc<Memory>,
    recorder: Option<Arc<Recorder>>,
    /// Where results come to that the host does not wait for at once.
    shelf: Arc<host::Shelf>,
    /// Held by the thread that runs a body to be recorded.
    turn: Mutex<()>,
    /// What kernels report: code, index and value of the first id that is out of range.
    fault: Mutex<Buf<u32>>,
    /// Rotary frequencies `theta^(-2i/d)` by (d, theta's bits).
    frequencies: Mutex<HashMap<(usize, u64), Arc<Buf<f32>>>>,
    relaxed: bool,
    act: PhantomData<A>,
}

impl<A: Act> Cuda<A> {
    /// GPU `ordinal` of this machine, [relaxed](Cuda::relaxed) where `REPAIRITY_NONDETERMINISTIC=1` is in the environment. Errors:
    /// there is none ([`gpu::missing`] says why), or its memory is in use.
    pub fn open(ordinal: usize) -> Result<Self> {
        let relaxed = std::env::var("REPAIRITY_NONDETERMINISTIC").is_ok_and(|value| value == "1");
        Ok(Self::with_driver(Arc::new(gpu::Gpu::open(ordinal, A::BUILD)?))?.relaxed(relaxed))
    }

    /// Whether operators may add in an order that chance decides where that is faster: results then differ from run to run, by the
    /// roundings of f32 sums. Not so unless it is asked for.
    pub fn relaxed(self, relaxed: bool) -> Self {
        Cuda { relaxed, ..self }
    }

    /// A device that launches into `driver`.
    pub fn with_driver(driver: Arc<dyn Driver>) -> Result<Self> {
        let memory = Arc::new(Memory::new(driver.clone()));
        let fault = Buf::new(&memory, scratch::FAULT)?;
        driver.clear(fault.pointer, fault.bytes())?;
        Ok(Cuda {
            driver,
            memory,
            shelf: Arc::default(),
            turn: Mutex::default(),
            recorder: None,
            fault: Mutex::new(fault),
            frequencies: Mutex::default(),
            relaxed: false,
            act: PhantomData,
        })
    }

    /// The same, writing down its operators and all that its driver runs.
    pub fn recording(self, recorder: Arc<Recorder>) -> Result<Self> {
        // What was asked for before is done when the device's clock starts.
        self.download(&self.upload(&[0u32])?)?;
        recorder.attach(&self.driver)?;
        let driver = Arc::new(Recorded::over(self.driver.clone(), recorder.clone(), size_of::<A>()));
        Ok(Cuda { driver, recorder: Some(recorder), ..self })
    }

    fn span(&self, operator: &'static str, cost: impl FnOnce() -> Cost) -> Option<Open<'_>> {
        self.recorder.as_ref()?.operator(operator, Some(cost()))
    }

    /// Of an operator whose cost only the device knows.
    fn span_of(&self, operator: &'static str) -> Option<Open<'_>> {
        self.recorder.as_ref()?.operator(operator, None)
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
    fn with_fault<T>(&self, f: impl FnOnce(&mut Buf<u32>) -> Result<T>) -> Result<T> {
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
        self.memory.refuse_in_recording("a download")?;
        self.with_fault(|fault| {
            let mut report = [0u32; scratch::FAULT];
            let mut all: Vec<(&mut [u8], driver::Pointer)> = Vec::with_capacity(parts.len() + 1);
            all.extend(parts.iter_mut().map(|(to, from)| (&mut **to, *from)));
            all.push((bytemuck::cast_slice_mut(&mut report), fault.pointer));
            self.driver.download(&mut all)?;
            self.judge(report, fault)
        })
    }

    /// Fails where kernels reported something, which is then forgotten.
    fn judge(&self, [code, index, value, _]: [u32; scratch::FAULT], fault: &mut Buf<u32>) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        self.driver.clear(fault.pointer, fault.bytes())?;
        Err(Error::input(format!("{}[{index}]", faulty(code)), format!("{value} is out of range")))
    }
}

/// Operator and argument of a code that kernels report: the FAULT_... constants of kernels/geometry.h.
fn faulty(code: u32) -> &'static str {
    match code {
        kernel::FAULT_GATHER_ROWS => "gather_rows: rows",
        kernel::FAULT_SCATTER_ROWS => "scatter_rows: rows",
        kernel::FAULT_EMBED_FWD => "embed_fwd: ids",
        kernel::FAULT_EMBED_BWD => "embed_bwd: ids",
        kernel::FAULT_ROPE_CACHED_SLOT => "rope_cached: slots",
        kernel::FAULT_ROPE_CACHED_POSITION => "rope_cached: positions",
        kernel::FAULT_DECODE_SLOT => "attention_decode: slots",
        kernel::FAULT_DECODE_LENGTH => "attention_decode: lengths",
        kernel::FAULT_ADVANCE_SLOT => "advance: slots",
        kernel::FAULT_TARGET => "linear_logprob_fwd: targets",
        _ => "a kernel's argument",
    }
}

impl<A: Act> Device for Cuda<A> {
    type Act = A;
    type Acc = f32;
    type Buf<T: Elem> = Buf<T>;
    type Host<T: Elem> = Host<T>;
    type Pending<T: Elem, U: Elem> = Pending<T, U>;
    type Graphs = Graphs;

    fn name(&self) -> String {
        format!("cuda ({}, {})", self.driver.name(), A::BUILD)
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    fn zeros<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        let mut buf = self.empty(len)?;
        self.clear(&mut buf)?;
        Ok(buf)
    }

    fn empty<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        Buf::new(&self.memory, len)
    }

    fn upload<T: Elem>(&self, host: &[T]) -> Result<Buf<T>> {
        let mut buf = self.empty(host.len())?;
        self.write(&mut buf, host)?;
        Ok(buf)
    }

    fn write<T: Elem>(&self, buf: &mut Buf<T>, host: &[T]) -> Result<()> {
        extent::<Self, T>("write: buf", buf, host.len())?;
        self.memory.refuse_in_recording("an upload")?;
        if buf.bytes() > 0 { self.driver.upload(buf.pointer, bytemuck::cast_slice(host)) } else { Ok(()) }
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

    fn begin_download<T: Elem, U: Elem>(&self, a: &Buf<T>, b: &Buf<U>) -> Result<Pending<T, U>> {
        self.memory.refuse_in_recording("a download")?;
        self.with_fault(|fault| Pending::begin(&self.driver, &self.shelf, a, b, fault))
    }

    fn finish_download<T: Elem, U: Elem>(&self, pending: Pending<T, U>) -> Result<(Vec<T>, Vec<U>)> {
        self.memory.refuse_in_recording("a download")?;
        let (a, b, report) = pending.finish()?;
        self.with_fault(|fault| self.judge(report, fault))?;
        Ok((a, b))
    }

    fn len<T: Elem>(buf: &Buf<T>) -> usize {
        buf.len
    }

    fn copy<T: Elem>(&self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
        let _span = self.span("copy", || cost::copy::<T>(len));
        check::copy::<Self, T>(dst, dst_at, src, src_at, len)?;
        let size = size_of::<T>();
        match len {
            0 => Ok(()),
            _ => self.driver.copy(dst.pointer + (dst_at * size) as u64, src.pointer + (src_at * size) as u64, len * size),
        }
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        let _span = self.span("clear", || cost::clear::<T>(Self::len(buf)));
        if buf.bytes() == 0 { Ok(()) } else { self.driver.clear(buf.pointer, buf.bytes()) }
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
        let _span = self.span("cast", || cost::cast::<S, T>(Self::len(src)));
        rows::cast(self, dst, src)
    }

    fn offload<T: Elem>(&self, buf: &Buf<T>) -> Result<Host<T>> {
        let mut host = Host::new(&self.driver, buf.len)?;
        self.download_all(&mut [(host.bytes_mut(), buf.pointer)])?;
        Ok(host)
    }

    fn fetch<T: Elem>(&self, host: &Host<T>) -> Result<Buf<T>> {
        self.memory.refuse_in_recording("an upload")?;
        let buf = self.empty(host.len())?;
        if buf.bytes() > 0 {
            self.driver.upload_pinned(buf.pointer, host.bytes())?;
        }
        Ok(buf)
    }

    fn memory(&self) -> (usize, usize) {
        self.memory.read()
    }

    fn ahead(&self) -> usize {
        1
    }

    fn replays(&self) -> bool {
        self.driver.records()
    }

    fn replay(&self, graphs: &mut Graphs, key: usize, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        graph::replay(self, graphs, key, body)
    }

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("gather_rows", || cost::gather_rows::<T>(Self::len(rows), c));
        rows::gather_rows(self, out, inp, rows, c)
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("scatter_rows", || cost::scatter_rows::<T>(Self::len(out), Self::len(rows), c));
        rows::scatter_rows(self, out, inp, rows, c)
    }

    fn add(&self, out: &mut Buf<A>, inp: &Buf<A>) -> Result<()> {
        let _span = self.span("add", || cost::add::<Self>(Self::len(inp)));
        rows::add(self, out, inp)
    }

    fn embed_fwd(&self, out: &mut Buf<A>, table: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("embed_fwd", || cost::embed_fwd::<Self>(Self::len(ids), c));
        embed::embed_fwd(self, out, table, ids, c)
    }

    fn embed_bwd(&self, dtable: &mut Buf<f32>, dout: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("embed_bwd", || cost::embed_bwd::<Self>(Self::len(ids), c));
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
        let _span = self.span("rmsnorm_fwd", || cost::rmsnorm_fwd::<Self>(Self::len(rstd), c, sum.is_some()));
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
        let _span = self.span("rmsnorm_bwd", || cost::rmsnorm_bwd::<Self>(Self::len(rstd), c, dweight.is_some()));
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
        let _span = self.span("lora_linear_fwd", || cost::lora_linear_fwd(bias.is_some(), branches, tnk));
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
        let _span = self.span("lora_linear_bwd", || {
            cost::lora_linear_bwd(dx.as_ref().map(|(_, add)| *add), !dbranches.is_empty(), branches, tnk)
        });
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
        let _span = self.span("lora_narrow", || cost::lora_narrow(branches, tk));
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
        let _span = self.span("linear_dweight", || cost::linear_dweight::<Self>(dbias.is_some(), tnk));
        linear::linear_dweight(self, dw, dbias, dout, x, tnk)
    }

    fn rope(&self, qkv: &mut Buf<A>, positions: &Buf<u32>, heads: Heads, theta: f64, inverse: bool) -> Result<()> {
        let _span = self.span("rope", || cost::rope::<Self>(Self::len(positions), heads));
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
        let _span = self.span("attention_fwd", || cost::attention_fwd(bounds, heads, t));
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
        let _span = self.span("attention_bwd", || cost::attention_bwd(bounds, heads, t));
        attention::attention_bwd(self, dqkv, dout, out, lse, qkv, bounds, heads, t)
    }

    fn rope_cached(
        &self,
        qkv: &mut Buf<A>,
        k: &mut Buf<A>,
        v: &mut Buf<A>,
        slots: &Buf<u32>,
        positions: &Buf<u32>,
        heads: Heads,
        theta: f64,
        capacity: usize,
    ) -> Result<()> {
        let _span = self.span("rope_cached", || cost::rope_cached::<Self>(Self::len(slots), heads));
        rope::rope_cached(self, qkv, k, v, slots, positions, heads, theta, capacity)
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
        let _span = self.span_of("attention_decode");
        decode::attention_decode(self, out, qkv, k, v, slots, lengths, heads, capacity)
    }

    fn swiglu_fwd(&self, out: &mut Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let _span = self.span("swiglu_fwd", || cost::swiglu_fwd::<Self>(Self::len(out)));
        swiglu::swiglu_fwd(self, out, gate_up, f)
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<A>, dout: &Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let _span = self.span("swiglu_bwd", || cost::swiglu_bwd::<Self>(Self::len(dout)));
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
        let _span = self.span("linear_logprob_fwd", || cost::linear_logprob_fwd::<Self>(tcv));
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
        let _span = self.span("linear_logprob_bwd", || cost::linear_logprob_bwd::<Self>(dhead.is_some(), tcv));
        logprob::linear_logprob_bwd(self, dx, dhead, dlogprob, lse, x, head, targets, scale, tcv)
    }

    fn logits(&self, out: &mut Buf<f32>, x: &Buf<A>, head: &Buf<A>, bcv: (usize, usize, usize)) -> Result<()> {
        let _span = self.span("logits", || cost::logits::<Self>(bcv));
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
        let _span = self.span("sample", || cost::sample::<Self>(Self::len(ids), v));
        sample::sample(self, ids, logprob, logits, draws, sampling, v)
    }

    fn advance(&self, last: &mut Buf<u32>, cursor: &mut Cursor<Self>, ids: &Buf<u32>) -> Result<()> {
        let _span = self.span("advance", || cost::advance(Self::len(ids)));
        cursor::advance(self, last, cursor, ids)
    }

    fn scalar_head_fwd(&self, out: &mut Buf<f32>, x: &Buf<A>, weight: &Buf<A>, c: usize) -> Result<()> {
        let _span = self.span("scalar_head_fwd", || cost::scalar_head_fwd::<Self>(Self::len(out), c));
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
        let _span = self.span("scalar_head_bwd", || cost::scalar_head_bwd::<Self>(dweight.is_some(), Self::len(dout), c));
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
        let _span = self.span("ppo_clip", || cost::ppo_clip::<Self>(Self::len(logprob)));
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
        let _span = self.span("value_clip", || cost::value_clip::<Self>(Self::len(value)));
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
        let _span = self.span("gae", || cost::gae::<Self>(Self::len(value)));
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
        let _span = self.span("bradley_terry", || cost::bradley_terry::<Self>(Self::len(labels)));
        losses::bradley_terry(self, dscores, stats, scores, labels, norm)
    }

    fn moments(&self, x: &Buf<f32>, shift: f64) -> Result<(f64, f64)> {
        let _span = self.span("moments", || cost::moments::<Self>(Self::len(x)));
        losses::moments(self, x, shift)
    }

    fn whiten(&self, x: &mut Buf<f32>, mean: f64, rstd: f64) -> Result<()> {
        let _span = self.span("whiten", || cost::whiten::<Self>(Self::len(x)));
        losses::whiten(self, x, mean, rstd)
    }

    fn sum_squares(&self, out: &mut Buf<f32>, at: usize, x: &Buf<f32>) -> Result<()> {
        let _span = self.span("sum_squares", || cost::sum_squares::<Self>(Self::len(x)));
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
        let _span = self.span("adamw", || cost::adamw::<Self>(Self::len(grad)));
        optim::adamw(self, param, master, m, v, grad, hyper)
    }
}
