//! The CPU: the specification that other devices are judged against, and the default where there is no GPU. Threads by rayon over
//! rows, large matrix products by the gemm crate. The bits of a result do not depend on the number of threads.

mod attention;
mod block;
mod head;
mod linear;
mod loss;
mod matmul;
mod memory;
mod optim;
mod parallel;
mod sample;
mod simd;

use std::marker::PhantomData;
use std::sync::Arc;

use super::cost::{self, Cost};
use super::record::{Open, Recorder};
use super::{AdamW, Bounds, Branch, Cursor, Device, Dropout, Elem, Heads, Real, Sampling, extent};
use crate::error::Result;
pub use memory::Buf;
pub use simd::Float;

/// The CPU, computing in `F`: `f32` to run, `f64` for finite differences. A clone shares the count of its memory.
#[derive(Debug, Clone)]
pub struct Cpu<F> {
    counter: Arc<memory::Counter>,
    recorder: Option<Arc<Recorder>>,
    float: PhantomData<F>,
}

impl<F: Float> Cpu<F> {
    /// A CPU that holds no buffers yet. It computes on rayon's current thread pool.
    pub fn new() -> Self {
        Cpu { counter: Arc::default(), recorder: None, float: PhantomData }
    }

    /// The same, writing down its operators.
    pub fn recording(self, recorder: Arc<Recorder>) -> Result<Self> {
        Ok(Cpu { recorder: Some(recorder), ..self })
    }

    fn span(&self, operator: &'static str, cost: impl FnOnce() -> Cost) -> Option<Open<'_>> {
        self.recorder.as_ref()?.operator(operator, Some(cost()))
    }
}

impl<F: Float> Default for Cpu<F> {
    fn default() -> Self {
        Cpu::new()
    }
}

impl<F: Float> Device for Cpu<F> {
    type Act = F;
    type Acc = F;
    type Buf<T: Elem> = Buf<T>;
    type Host<T: Elem> = Vec<T>;
    type Pending<T: Elem, U: Elem> = (Vec<T>, Vec<U>);
    type Graphs = ();

    fn name(&self) -> String {
        format!("cpu ({} threads, {})", rayon::current_num_threads(), F::NAME.to_lowercase())
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.recorder.as_deref()
    }

    fn zeros<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        let _span = self.span("clear", || cost::clear::<T>(len));
        self.empty(len)
    }

    fn empty<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        Ok(Buf::new(vec![T::default(); len], &self.counter))
    }

    fn upload<T: Elem>(&self, host: &[T]) -> Result<Buf<T>> {
        Ok(Buf::new(host.to_vec(), &self.counter))
    }

    fn write<T: Elem>(&self, buf: &mut Buf<T>, host: &[T]) -> Result<()> {
        extent::<Self, T>("write: buf", buf, host.len())?;
        buf.copy_from_slice(host);
        Ok(())
    }

    fn download<T: Elem>(&self, buf: &Buf<T>) -> Result<Vec<T>> {
        Ok(buf.to_vec())
    }

    fn begin_download<T: Elem, U: Elem>(&self, a: &Buf<T>, b: &Buf<U>) -> Result<(Vec<T>, Vec<U>)> {
        Ok((a.to_vec(), b.to_vec()))
    }

    fn finish_download<T: Elem, U: Elem>(&self, pending: (Vec<T>, Vec<U>)) -> Result<(Vec<T>, Vec<U>)> {
        Ok(pending)
    }

    fn len<T: Elem>(buf: &Buf<T>) -> usize {
        <[T]>::len(buf)
    }

    fn copy<T: Elem>(&self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
        let _span = self.span("copy", || cost::copy::<T>(len));
        memory::copy::<F, T>(dst, dst_at, src, src_at, len)
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        let _span = self.span("clear", || cost::clear::<T>(Self::len(buf)));
        buf.fill(T::default());
        Ok(())
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
        let _span = self.span("cast", || cost::cast::<S, T>(Self::len(src)));
        memory::cast::<F, S, T>(dst, src)
    }

    fn offload<T: Elem>(&self, buf: &Buf<T>) -> Result<Vec<T>> {
        Ok(buf.to_vec())
    }

    fn fetch<T: Elem>(&self, host: &Vec<T>) -> Result<Buf<T>> {
        self.upload(host)
    }

    fn memory(&self) -> (usize, usize) {
        self.counter.read()
    }

    fn ahead(&self) -> usize {
        0
    }

    fn replays(&self) -> bool {
        false
    }

    fn replay(&self, _: &mut (), _: usize, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        body()
    }

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("gather_rows", || cost::gather_rows::<T>(Self::len(rows), c));
        memory::gather_rows::<F, T>(out, inp, rows, c)
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("scatter_rows", || cost::scatter_rows::<T>(Self::len(out), Self::len(rows), c));
        memory::scatter_rows::<F, T>(out, inp, rows, c)
    }

    fn add(&self, out: &mut Buf<F>, inp: &Buf<F>) -> Result<()> {
        let _span = self.span("add", || cost::add::<Self>(Self::len(inp)));
        memory::add(out, inp)
    }

    fn embed_fwd(&self, out: &mut Buf<F>, table: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("embed_fwd", || cost::embed_fwd::<Self>(Self::len(ids), c));
        block::embed_fwd(out, table, ids, c)
    }

    fn embed_bwd(&self, dtable: &mut Buf<F>, dout: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
        let _span = self.span("embed_bwd", || cost::embed_bwd::<Self>(Self::len(ids), c));
        block::embed_bwd(dtable, dout, ids, c)
    }

    fn rmsnorm_fwd(
        &self,
        out: &mut Buf<F>,
        rstd: &mut Buf<F>,
        sum: Option<(&mut Buf<F>, &Buf<F>)>,
        inp: &Buf<F>,
        weight: &Buf<F>,
        c: usize,
        eps: f64,
    ) -> Result<()> {
        let _span = self.span("rmsnorm_fwd", || cost::rmsnorm_fwd::<Self>(Self::len(rstd), c, sum.is_some()));
        block::rmsnorm_fwd(out, rstd, sum, inp, weight, c, eps)
    }

    fn rmsnorm_bwd(
        &self,
        dx: &mut Buf<F>,
        dweight: Option<&mut Buf<F>>,
        dout: &Buf<F>,
        rstd: &Buf<F>,
        x: &Buf<F>,
        weight: &Buf<F>,
        c: usize,
    ) -> Result<()> {
        let _span = self.span("rmsnorm_bwd", || cost::rmsnorm_bwd::<Self>(Self::len(rstd), c, dweight.is_some()));
        block::rmsnorm_bwd(dx, dweight, dout, rstd, x, weight, c)
    }

    fn lora_linear_fwd(
        &self,
        out: &mut Buf<F>,
        z: &mut Buf<F>,
        x: &Buf<F>,
        w: &Buf<F>,
        bias: Option<&Buf<F>>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        let _span = self.span("lora_linear_fwd", || cost::lora_linear_fwd(bias.is_some(), branches, tnk));
        linear::lora_linear_fwd(out, z, x, w, bias, branches, dropout, tnk)
    }

    fn lora_linear_bwd(
        &self,
        dx: Option<(&mut Buf<F>, bool)>,
        dbranches: &mut [&mut Buf<F>],
        dout: &Buf<F>,
        z: &Buf<F>,
        x: &Buf<F>,
        w: &Buf<F>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        let _span = self.span("lora_linear_bwd", || {
            cost::lora_linear_bwd(dx.as_ref().map(|(_, add)| *add), !dbranches.is_empty(), branches, tnk)
        });
        linear::lora_linear_bwd(dx, dbranches, dout, z, x, w, branches, dropout, tnk)
    }

    fn lora_narrow(
        &self,
        z: &mut Buf<F>,
        x: &Buf<F>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tk: (usize, usize),
    ) -> Result<()> {
        let _span = self.span("lora_narrow", || cost::lora_narrow(branches, tk));
        linear::lora_narrow(z, x, branches, dropout, tk)
    }

    fn linear_dweight(
        &self,
        dw: &mut Buf<F>,
        dbias: Option<&mut Buf<F>>,
        dout: &Buf<F>,
        x: &Buf<F>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        let _span = self.span("linear_dweight", || cost::linear_dweight::<Self>(dbias.is_some(), tnk));
        linear::linear_dweight(dw, dbias, dout, x, tnk)
    }

    fn rope(&self, qkv: &mut Buf<F>, positions: &Buf<u32>, heads: Heads, theta: f64, inverse: bool) -> Result<()> {
        let _span = self.span("rope", || cost::rope::<Self>(Self::len(positions), heads));
        block::rope(qkv, positions, heads, theta, inverse)
    }

    fn attention_fwd(
        &self,
        out: &mut Buf<F>,
        lse: &mut Buf<F>,
        qkv: &Buf<F>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()> {
        let _span = self.span("attention_fwd", || cost::attention_fwd(bounds, heads, t));
        attention::attention_fwd(out, lse, qkv, bounds, heads, t)
    }

    fn attention_bwd(
        &self,
        dqkv: &mut Buf<F>,
        dout: &Buf<F>,
        out: &Buf<F>,
        lse: &Buf<F>,
        qkv: &Buf<F>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()> {
        let _span = self.span("attention_bwd", || cost::attention_bwd(bounds, heads, t));
        attention::attention_bwd(dqkv, dout, out, lse, qkv, bounds, heads, t)
    }

    fn rope_cached(
        &self,
        qkv: &mut Buf<F>,
        k: &mut Buf<F>,
        v: &mut Buf<F>,
        slots: &Buf<u32>,
        positions: &Buf<u32>,
        heads: Heads,
        theta: f64,
        capacity: usize,
    ) -> Result<()> {
        let _span = self.span("rope_cached", || cost::rope_cached::<Self>(Self::len(slots), heads));
        attention::rope_cached(qkv, k, v, slots, positions, heads, theta, capacity)
    }

    fn attention_decode(
        &self,
        out: &mut Buf<F>,
        qkv: &Buf<F>,
        k: &Buf<F>,
        v: &Buf<F>,
        slots: &Buf<u32>,
        lengths: &Buf<u32>,
        heads: Heads,
        capacity: usize,
    ) -> Result<()> {
        let _span = self.span("attention_decode", || {
            cost::attention_decode::<Self>(Self::len(slots), lengths.iter().map(|l| u64::from(*l)).sum(), heads)
        });
        attention::attention_decode(out, qkv, k, v, slots, lengths, heads, capacity)
    }

    fn swiglu_fwd(&self, out: &mut Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
        let _span = self.span("swiglu_fwd", || cost::swiglu_fwd::<Self>(Self::len(out)));
        block::swiglu_fwd(out, gate_up, f)
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<F>, dout: &Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
        let _span = self.span("swiglu_bwd", || cost::swiglu_bwd::<Self>(Self::len(dout)));
        block::swiglu_bwd(dgate_up, dout, gate_up, f)
    }

    fn linear_logprob_fwd(
        &self,
        logprob: &mut Buf<F>,
        lse: &mut Buf<F>,
        entropy: &mut Buf<F>,
        x: &Buf<F>,
        head: &Buf<F>,
        targets: &Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        let _span = self.span("linear_logprob_fwd", || cost::linear_logprob_fwd::<Self>(tcv));
        head::linear_logprob_fwd(logprob, lse, entropy, x, head, targets, scale, tcv)
    }

    fn linear_logprob_bwd(
        &self,
        dx: &mut Buf<F>,
        dhead: Option<&mut Buf<F>>,
        dlogprob: &Buf<F>,
        lse: &Buf<F>,
        x: &Buf<F>,
        head: &Buf<F>,
        targets: &Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        let _span = self.span("linear_logprob_bwd", || cost::linear_logprob_bwd::<Self>(dhead.is_some(), tcv));
        head::linear_logprob_bwd(dx, dhead, dlogprob, lse, x, head, targets, scale, tcv)
    }

    fn logits(&self, out: &mut Buf<F>, x: &Buf<F>, head: &Buf<F>, bcv: (usize, usize, usize)) -> Result<()> {
        let _span = self.span("logits", || cost::logits::<Self>(bcv));
        head::logits(out, x, head, bcv)
    }

    fn sample(
        &self,
        ids: &mut Buf<u32>,
        logprob: &mut Buf<F>,
        logits: &Buf<F>,
        draws: &Buf<f32>,
        sampling: Sampling,
        v: usize,
    ) -> Result<()> {
        let _span = self.span("sample", || cost::sample::<Self>(Self::len(ids), v));
        sample::sample(ids, logprob, logits, draws, sampling, v)
    }

    fn advance(&self, last: &mut Buf<u32>, cursor: &mut Cursor<Self>, ids: &Buf<u32>) -> Result<()> {
        let _span = self.span("advance", || cost::advance(Self::len(ids)));
        sample::advance(last, cursor, ids)
    }

    fn scalar_head_fwd(&self, out: &mut Buf<F>, x: &Buf<F>, weight: &Buf<F>, c: usize) -> Result<()> {
        let _span = self.span("scalar_head_fwd", || cost::scalar_head_fwd::<Self>(Self::len(out), c));
        head::scalar_head_fwd(out, x, weight, c)
    }

    fn scalar_head_bwd(
        &self,
        dx: &mut Buf<F>,
        dweight: Option<&mut Buf<F>>,
        dout: &Buf<F>,
        x: &Buf<F>,
        weight: &Buf<F>,
        c: usize,
    ) -> Result<()> {
        let _span = self.span("scalar_head_bwd", || cost::scalar_head_bwd::<Self>(dweight.is_some(), Self::len(dout), c));
        head::scalar_head_bwd(dx, dweight, dout, x, weight, c)
    }

    fn ppo_clip(
        &self,
        dlogprob: &mut Buf<F>,
        stats: &mut Buf<F>,
        logprob: &Buf<F>,
        old: &Buf<F>,
        advantage: &Buf<F>,
        clip: f32,
        norm: f64,
    ) -> Result<()> {
        let _span = self.span("ppo_clip", || cost::ppo_clip::<Self>(Self::len(logprob)));
        loss::ppo_clip(dlogprob, stats, logprob, old, advantage, clip, norm)
    }

    fn value_clip(
        &self,
        dvalue: &mut Buf<F>,
        stats: &mut Buf<F>,
        value: &Buf<F>,
        old: &Buf<F>,
        returns: &Buf<F>,
        clip: f32,
        norm: f64,
    ) -> Result<()> {
        let _span = self.span("value_clip", || cost::value_clip::<Self>(Self::len(value)));
        loss::value_clip(dvalue, stats, value, old, returns, clip, norm)
    }

    fn gae(
        &self,
        advantage: &mut Buf<F>,
        returns: &mut Buf<F>,
        reward: &Buf<F>,
        value: &Buf<F>,
        bounds: &Bounds<Self>,
        gamma: f32,
        lambda: f32,
    ) -> Result<()> {
        let _span = self.span("gae", || cost::gae::<Self>(Self::len(value)));
        loss::gae(advantage, returns, reward, value, bounds, gamma, lambda)
    }

    fn bradley_terry(&self, dscores: &mut Buf<F>, stats: &mut Buf<F>, scores: &Buf<F>, labels: &Buf<F>, norm: f64) -> Result<()> {
        let _span = self.span("bradley_terry", || cost::bradley_terry::<Self>(Self::len(labels)));
        loss::bradley_terry(dscores, stats, scores, labels, norm)
    }

    fn sum_squares(&self, out: &mut Buf<F>, at: usize, x: &Buf<F>) -> Result<()> {
        let _span = self.span("sum_squares", || cost::sum_squares::<Self>(Self::len(x)));
        optim::sum_squares(out, at, x)
    }

    fn adamw(
        &self,
        param: &mut Buf<F>,
        master: &mut Buf<F>,
        m: &mut Buf<F>,
        v: &mut Buf<F>,
        grad: &Buf<F>,
        hyper: AdamW,
    ) -> Result<()> {
        let _span = self.span("adamw", || cost::adamw::<Self>(Self::len(grad)));
        optim::adamw(param, master, m, v, grad, hyper)
    }

    fn moments(&self, x: &Buf<F>, shift: f64) -> Result<(f64, f64)> {
        let _span = self.span("moments", || cost::moments::<Self>(Self::len(x)));
        Ok(loss::moments(x, shift))
    }

    fn whiten(&self, x: &mut Buf<F>, mean: f64, rstd: f64) -> Result<()> {
        let _span = self.span("whiten", || cost::whiten::<Self>(Self::len(x)));
        loss::whiten(x, mean, rstd);
        Ok(())
    }
}
