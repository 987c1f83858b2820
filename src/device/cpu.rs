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

use super::{AdamW, Bounds, Branch, Device, Dropout, Elem, Heads, Real, Sampling};
use crate::error::Result;
pub use memory::Buf;
pub use simd::Float;

/// The CPU, computing in `F`: `f32` to run, `f64` for finite differences. A clone shares the count of its memory.
#[derive(Debug, Clone)]
pub struct Cpu<F> {
    counter: Arc<memory::Counter>,
    float: PhantomData<F>,
}

impl<F: Float> Cpu<F> {
    /// A CPU that holds no buffers yet. It computes on rayon's current thread pool.
    pub fn new() -> Self {
        Cpu { counter: Arc::default(), float: PhantomData }
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

    fn name(&self) -> String {
        format!("cpu ({} threads, {})", rayon::current_num_threads(), F::NAME.to_lowercase())
    }

    fn zeros<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        Ok(Buf::new(vec![T::default(); len], &self.counter))
    }

    fn empty<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        self.zeros(len)
    }

    fn upload<T: Elem>(&self, host: &[T]) -> Result<Buf<T>> {
        Ok(Buf::new(host.to_vec(), &self.counter))
    }

    fn download<T: Elem>(&self, buf: &Buf<T>) -> Result<Vec<T>> {
        Ok(buf.to_vec())
    }

    fn len<T: Elem>(buf: &Buf<T>) -> usize {
        <[T]>::len(buf)
    }

    fn copy<T: Elem>(&self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
        memory::copy::<F, T>(dst, dst_at, src, src_at, len)
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        buf.fill(T::default());
        Ok(())
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
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

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        memory::gather_rows::<F, T>(out, inp, rows, c)
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        memory::scatter_rows::<F, T>(out, inp, rows, c)
    }

    fn add(&self, out: &mut Buf<F>, inp: &Buf<F>) -> Result<()> {
        memory::add(out, inp)
    }

    fn embed_fwd(&self, out: &mut Buf<F>, table: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
        block::embed_fwd(out, table, ids, c)
    }

    fn embed_bwd(&self, dtable: &mut Buf<F>, dout: &Buf<F>, ids: &Buf<u32>, c: usize) -> Result<()> {
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
        linear::linear_dweight(dw, dbias, dout, x, tnk)
    }

    fn rope(&self, qkv: &mut Buf<F>, positions: &Buf<u32>, heads: Heads, theta: f64, inverse: bool) -> Result<()> {
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
        attention::attention_bwd(dqkv, dout, out, lse, qkv, bounds, heads, t)
    }

    fn cache_write(
        &self,
        k: &mut Buf<F>,
        v: &mut Buf<F>,
        qkv: &Buf<F>,
        slots: &Buf<u32>,
        positions: &Buf<u32>,
        heads: Heads,
        capacity: usize,
    ) -> Result<()> {
        attention::cache_write(k, v, qkv, slots, positions, heads, capacity)
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
        attention::attention_decode(out, qkv, k, v, slots, lengths, heads, capacity)
    }

    fn swiglu_fwd(&self, out: &mut Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
        block::swiglu_fwd(out, gate_up, f)
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<F>, dout: &Buf<F>, gate_up: &Buf<F>, f: usize) -> Result<()> {
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
        head::linear_logprob_bwd(dx, dhead, dlogprob, lse, x, head, targets, scale, tcv)
    }

    fn logits(&self, out: &mut Buf<F>, x: &Buf<F>, head: &Buf<F>, bcv: (usize, usize, usize)) -> Result<()> {
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
        sample::sample(ids, logprob, logits, draws, sampling, v)
    }

    fn scalar_head_fwd(&self, out: &mut Buf<F>, x: &Buf<F>, weight: &Buf<F>, c: usize) -> Result<()> {
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
        loss::gae(advantage, returns, reward, value, bounds, gamma, lambda)
    }

    fn bradley_terry(&self, dscores: &mut Buf<F>, stats: &mut Buf<F>, scores: &Buf<F>, labels: &Buf<F>, norm: f64) -> Result<()> {
        loss::bradley_terry(dscores, stats, scores, labels, norm)
    }

    fn sum_squares(&self, out: &mut Buf<F>, at: usize, x: &Buf<F>) -> Result<()> {
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
        optim::adamw(param, master, m, v, grad, hyper)
    }

    fn moments(&self, x: &Buf<F>, shift: f64) -> Result<(f64, f64)> {
        Ok(loss::moments(x, shift))
    }

    fn whiten(&self, x: &mut Buf<F>, mean: f64, rstd: f64) -> Result<()> {
        loss::whiten(x, mean, rstd);
        Ok(())
    }
}
