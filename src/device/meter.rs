//! A device that computes nothing: its buffers are extents, its operators check them and write down what they would cost. The
//! engine's own code runs on it, so what is planned is what is run.
//! Those costs stand in `cost.rs`.

mod ledger;
mod replay;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Mutex;

pub use super::cost::Cost;
use super::cuda::scratch::{self, Low};
use super::{AdamW, Bounds, Branch, Cursor, Device, Dropout, Elem, Heads, Real, Sampling, check, cost, extent, narrow};
use crate::error::Result;
use ledger::Book;
pub use ledger::{Buf, Class, Held, Work};
pub use replay::Graphs;

/// Which device is stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// [`Cpu`](super::Cpu): operators allocate no buffers of their own.
    Cpu,
    /// [`Cuda`](super::Cuda): the buffers of `cuda/scratch.rs`.
    Cuda,
}

/// Counts memory and work of a device whose activations are of type `A`.
pub struct Meter<A> {
    book: Book,
    style: Style,
    /// Buffers that the device keeps for itself.
    kept: Mutex<Kept>,
    act: PhantomData<A>,
}

#[derive(Default)]
struct Kept {
    _fault: Option<Buf<u32>>,
    frequencies: BTreeMap<(usize, u64), Buf<f32>>,
}

/// The meter's scratch buffers of one call.
struct Scratch<'a>(&'a Book, bool);

impl Scratch<'_> {
    fn take<T>(&self, len: usize) -> Option<Buf<T>> {
        self.1.then(|| self.0.allocate(len, 0))
    }
}

/// The sum of what is uploaded, of u32.
fn sum_of<T: Elem>(host: &[T]) -> u64 {
    match T::NAME == u32::NAME {
        true => bytemuck::cast_slice::<T, u32>(host).iter().map(|id| u64::from(*id)).sum(),
        false => 0,
    }
}

impl<A: Real> Meter<A> {
    /// A device that holds nothing yet.
    pub fn new(style: Style) -> Meter<A> {
        let book = Book::new(style == Style::Cuda);
        let fault = (style == Style::Cuda).then(|| book.allocate(scratch::FAULT, 0));
        let kept = Mutex::new(Kept { _fault: fault, frequencies: BTreeMap::new() });
        Meter { book, style, kept, act: PhantomData }
    }

    /// What is allocated from here on is held for. Of [`Class::Activations`], what a backward operator's call comes before is
    /// workspace, until the next embedding.
    pub fn class(&self, class: Class) {
        self.book.set_class(class);
    }

    /// Says what a buffer is held for.
    pub fn tag<T: Elem>(&self, buf: &Buf<T>, class: Class) {
        buf.tag(class);
    }

    /// Bytes that a GPU's pool needs beyond what was held at most, for rounding and for the gaps between buffers. A pool without an
    /// end is tried; one that ends may close its gaps a little better.
    pub fn gaps(&self) -> usize {
        self.book.gaps()
    }

    /// Bytes by class, now.
    pub fn live(&self) -> Held {
        self.book.live()
    }

    /// Bytes by class at the moment when they were most, since the start or the last [`Meter::restart_peak`].
    pub fn peak(&self) -> Held {
        self.book.peak()
    }

    /// Forgets the peak: the next one counts from what is held now.
    pub fn restart_peak(&self) {
        self.book.restart_peak();
    }

    /// The calls since the last time, which are then forgotten.
    pub fn take_work(&self) -> Work {
        self.book.take_work()
    }

    fn record(&self, operator: &'static str, cost: Cost) {
        self.book.record(operator, cost);
    }

    /// The rotary frequencies, which a GPU keeps from their first use on.
    fn keep_frequencies(&self, heads: Heads, theta: f64) {
        if self.style == Style::Cuda {
            let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let make = || {
                let buf = self.book.allocate(scratch::frequencies(heads.dim), 0);
                buf.tag(Class::Workspace);
                buf
            };
            kept.frequencies.entry((heads.dim, theta.to_bits())).or_insert_with(make);
        }
    }

    fn scratch(&self) -> Scratch<'_> {
        Scratch(&self.book, self.style == Style::Cuda)
    }
}

impl<A: Real> Device for Meter<A> {
    type Act = A;
    type Acc = f32;
    type Buf<T: Elem> = Buf<T>;
    /// Elements: the host's memory is not counted.
    type Host<T: Elem> = usize;
    /// Elements of both.
    type Pending<T: Elem, U: Elem> = (usize, usize);
    type Graphs = Graphs;

    fn name(&self) -> String {
        format!("meter ({:?}, {})", self.style, A::NAME.to_lowercase())
    }

    fn zeros<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        let mut buf = self.empty(len)?;
        self.clear(&mut buf)?;
        Ok(buf)
    }

    fn empty<T: Elem>(&self, len: usize) -> Result<Buf<T>> {
        Ok(self.book.allocate(len, 0))
    }

    fn upload<T: Elem>(&self, host: &[T]) -> Result<Buf<T>> {
        Ok(self.book.allocate(host.len(), sum_of(host)))
    }

    fn write<T: Elem>(&self, buf: &mut Buf<T>, host: &[T]) -> Result<()> {
        extent::<Self, T>("write: buf", buf, host.len())?;
        buf.sum = sum_of(host);
        Ok(())
    }

    fn begin_download<T: Elem, U: Elem>(&self, a: &Buf<T>, b: &Buf<U>) -> Result<(usize, usize)> {
        Ok((a.len, b.len))
    }

    fn finish_download<T: Elem, U: Elem>(&self, (a, b): (usize, usize)) -> Result<(Vec<T>, Vec<U>)> {
        Ok((vec![T::default(); a], vec![U::default(); b]))
    }

    fn download<T: Elem>(&self, buf: &Buf<T>) -> Result<Vec<T>> {
        Ok(vec![T::default(); buf.len])
    }

    fn offload<T: Elem>(&self, buf: &Buf<T>) -> Result<usize> {
        Ok(buf.len)
    }

    fn fetch<T: Elem>(&self, host: &usize) -> Result<Buf<T>> {
        self.empty(*host)
    }

    fn len<T: Elem>(buf: &Buf<T>) -> usize {
        buf.len
    }

    fn copy<T: Elem>(&self, dst: &mut Buf<T>, dst_at: usize, src: &Buf<T>, src_at: usize, len: usize) -> Result<()> {
        check::copy::<Self, T>(dst, dst_at, src, src_at, len)?;
        self.record("copy", cost::copy::<T>(len));
        Ok(())
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        self.record("clear", cost::clear::<T>(buf.len));
        Ok(())
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
        extent::<Self, T>("cast: dst", dst, src.len)?;
        self.record("cast", cost::cast::<S, T>(src.len));
        Ok(())
    }

    fn memory(&self) -> (usize, usize) {
        self.book.memory()
    }

    fn ahead(&self) -> usize {
        usize::from(self.style == Style::Cuda)
    }

    fn replays(&self) -> bool {
        self.style == Style::Cuda
    }

    fn replay(&self, graphs: &mut Graphs, key: usize, body: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        match self.style {
            Style::Cpu => body(),
            Style::Cuda => graphs.run(&self.book, key, body),
        }
    }

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, _: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        check::gather_rows::<Self, T>(out, rows, c)?;
        self.record("gather_rows", cost::gather_rows::<T>(rows.len, c));
        Ok(())
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        check::scatter_rows::<Self, T>(inp, rows, c)?;
        self.record("scatter_rows", cost::scatter_rows::<T>(out.len, rows.len, c));
        Ok(())
    }

    fn add(&self, out: &mut Buf<A>, inp: &Buf<A>) -> Result<()> {
        extent::<Self, A>("add: out", out, inp.len)?;
        self.record("add", cost::add::<Self>(inp.len));
        Ok(())
    }

    fn embed_fwd(&self, out: &mut Buf<A>, table: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        check::embed_fwd::<Self>(out, table, ids, c)?;
        self.book.backward(false);
        self.record("embed_fwd", cost::embed_fwd::<Self>(ids.len, c));
        Ok(())
    }

    fn embed_bwd(&self, dtable: &mut Buf<f32>, dout: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        check::embed_bwd::<Self>(dtable, dout, ids, c)?;
        self.record("embed_bwd", cost::embed_bwd::<Self>(ids.len, c));
        Ok(())
    }

    fn rmsnorm_fwd(
        &self,
        out: &mut Buf<A>,
        rstd: &mut Buf<f32>,
        sum: Option<(&mut Buf<A>, &Buf<A>)>,
        inp: &Buf<A>,
        weight: &Buf<A>,
        c: usize,
        _: f64,
    ) -> Result<()> {
        let residual = sum.is_some();
        let t = check::rmsnorm_fwd::<Self>(out, rstd, sum.as_ref().map(|(sum, delta)| (&**sum, *delta)), inp, weight, c)?;
        self.record("rmsnorm_fwd", cost::rmsnorm_fwd::<Self>(t, c, residual));
        Ok(())
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
        let t = check::rmsnorm_bwd::<Self>(dx, dweight.as_deref(), dout, rstd, x, weight, c)?;
        self.book.backward(true);
        self.record("rmsnorm_bwd", cost::rmsnorm_bwd::<Self>(t, c, dweight.is_some()));
        Ok(())
    }

    fn lora_linear_fwd(
        &self,
        out: &mut Buf<A>,
        z: &mut Buf<A>,
        x: &Buf<A>,
        w: &Buf<A>,
        bias: Option<&Buf<A>>,
        branches: &[Branch<'_, Self>],
        _: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        check::lora_linear_fwd::<Self>(out, z, x, w, bias, branches, tnk)?;
        let rides = z.len > 0 && scratch::rides(size_of::<A>(), tnk);
        let _packed = rides.then(|| self.scratch().take::<A>(tnk.1 * narrow(branches)));
        self.record("lora_linear_fwd", cost::lora_linear_fwd(bias.is_some(), branches, tnk));
        Ok(())
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
        check::lora_linear_bwd::<Self>(dx.as_ref().map(|(dx, _)| &**dx), dbranches, dout, z, x, w, branches, tnk)?;
        self.book.backward(true);
        let (t, _, k) = tnk;
        let trained = !dbranches.is_empty();
        let lows: Vec<Low> = branches.iter().map(|branch| (branch.n, branch.r)).collect();
        if t * scratch::dout_blocks(&lows) > 0 && (trained || dx.is_some()) {
            let (scratch, width) = (self.scratch(), narrow(branches));
            let _dz = scratch.take::<A>(t * width);
            {
                let _of_dz = scratch.take::<f32>(scratch::dz_parts(t, &lows));
                let _of_db = trained.then(|| scratch.take::<f32>(scratch::db_parts(t, &lows)));
            }
            {
                let _of_da = trained.then(|| scratch.take::<f32>(scratch::da_parts(t, k, &lows)));
            }
            let rides = dx.is_some() && dropout.is_none_or(|dropout| dropout.p == 0.0) && scratch::rides(size_of::<A>(), tnk);
            let _packed = rides.then(|| scratch.take::<A>(width * k));
        }
        let dx = dx.map(|(_, accumulate)| accumulate);
        self.record("lora_linear_bwd", cost::lora_linear_bwd(dx, trained, branches, tnk));
        Ok(())
    }

    fn lora_narrow(
        &self,
        z: &mut Buf<A>,
        x: &Buf<A>,
        branches: &[Branch<'_, Self>],
        _: Option<Dropout>,
        tk: (usize, usize),
    ) -> Result<()> {
        check::lora_narrow::<Self>(z, x, branches, tk)?;
        if z.len > 0 {
            self.record("lora_narrow", cost::lora_narrow(branches, tk));
        }
        Ok(())
    }

    fn linear_dweight(
        &self,
        dw: &mut Buf<f32>,
        dbias: Option<&mut Buf<f32>>,
        dout: &Buf<A>,
        x: &Buf<A>,
        tnk: (usize, usize, usize),
    ) -> Result<()> {
        check::linear_dweight::<Self>(dw, dbias.as_deref(), dout, x, tnk)?;
        self.record("linear_dweight", cost::linear_dweight::<Self>(dbias.is_some(), tnk));
        Ok(())
    }

    fn rope(&self, qkv: &mut Buf<A>, positions: &Buf<u32>, heads: Heads, theta: f64, _: bool) -> Result<()> {
        check::rope::<Self>(qkv, positions, heads)?;
        self.keep_frequencies(heads, theta);
        self.record("rope", cost::rope::<Self>(positions.len, heads));
        Ok(())
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
        check::attention_fwd::<Self>(out, lse, qkv, bounds, heads, t)?;
        let ordered = t > 0 && scratch::attention_fwd_sm90(size_of::<A>(), heads.dim);
        let order = scratch::attention_fwd_order(scratch::attention_fwd_tiles(&bounds.host));
        let _order = ordered.then(|| self.scratch().take::<u32>(order));
        self.record("attention_fwd", cost::attention_fwd(bounds, heads, t));
        Ok(())
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
        check::attention_bwd::<Self>(dqkv, dout, out, lse, qkv, bounds, heads, t)?;
        self.book.backward(true);
        let scratch = self.scratch();
        let _delta = scratch.take::<f32>(scratch::attention_delta(t, heads.q));
        let plan = scratch::AttentionBwd::new(size_of::<A>(), &bounds.host, heads, scratch::MULTIPROCESSORS);
        let _sums =
            plan.map(|plan| (scratch.take::<f32>(plan.dq), scratch.take::<f32>(plan.dkv), scratch.take::<u32>(plan.turns)));
        self.record("attention_bwd", cost::attention_bwd(bounds, heads, t));
        Ok(())
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
        check::rope_cached::<Self>(qkv, k, v, slots, positions, heads, capacity)?;
        self.keep_frequencies(heads, theta);
        k.tag(Class::Cache);
        v.tag(Class::Cache);
        self.record("rope_cached", cost::rope_cached::<Self>(slots.len, heads));
        Ok(())
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
        check::attention_decode::<Self>(out, qkv, k, v, slots, lengths, heads, capacity)?;
        let partial = scratch::decode_partial(slots.len, heads.q, heads.dim, capacity);
        let _partial = self.scratch().take::<f32>(partial);
        self.record("attention_decode", cost::attention_decode::<Self>(slots.len, lengths.sum, heads));
        Ok(())
    }

    fn swiglu_fwd(&self, out: &mut Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let t = check::swiglu_fwd::<Self>(out, gate_up, f)?;
        self.record("swiglu_fwd", cost::swiglu_fwd::<Self>(t * f));
        Ok(())
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<A>, dout: &Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let t = check::swiglu_bwd::<Self>(dgate_up, dout, gate_up, f)?;
        self.book.backward(true);
        self.record("swiglu_bwd", cost::swiglu_bwd::<Self>(t * f));
        Ok(())
    }

    fn linear_logprob_fwd(
        &self,
        logprob: &mut Buf<f32>,
        lse: &mut Buf<f32>,
        entropy: &mut Buf<f32>,
        x: &Buf<A>,
        head: &Buf<A>,
        targets: &Buf<u32>,
        _: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        check::linear_logprob_fwd::<Self>(logprob, lse, entropy, x, head, targets, tcv)?;
        let (t, _, v) = tcv;
        let scratch = self.scratch();
        let fused = scratch::logprob_sm90(size_of::<A>(), tcv);
        let _tile = (!fused).then(|| scratch.take::<f32>(scratch::logits_tile(t, v)));
        let _state = scratch.take::<f32>(if fused { scratch::logprob_states(t, v) } else { scratch::logprob_state(t) });
        self.record("linear_logprob_fwd", cost::linear_logprob_fwd::<Self>(tcv));
        Ok(())
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
        _: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()> {
        check::linear_logprob_bwd::<Self>(dx, dhead.as_deref(), dlogprob, lse, x, head, targets, tcv)?;
        self.book.backward(true);
        let (t, c, v) = tcv;
        let scratch = self.scratch();
        let fused = scratch::logprob_sm90(size_of::<A>(), tcv);
        let high = if fused { scratch::logprob_wave(tcv) } else { 0 };
        let _rows = fused.then(|| scratch.take::<u32>(scratch::logprob_rows(t)));
        let _wave = fused.then(|| (scratch.take::<A>(high * c), scratch.take::<A>(high * v)));
        let tile = || (scratch.take::<f32>(scratch::logits_tile(t, v)), scratch.take::<A>(scratch::logits_tile(t, v)));
        let _tile = (!fused).then(|| (tile(), scratch.take::<f32>(scratch::logprob_sums(t, c))));
        self.record("linear_logprob_bwd", cost::linear_logprob_bwd::<Self>(dhead.is_some(), tcv));
        Ok(())
    }

    fn logits(&self, out: &mut Buf<f32>, x: &Buf<A>, head: &Buf<A>, bcv: (usize, usize, usize)) -> Result<()> {
        check::logits::<Self>(out, x, head, bcv)?;
        self.record("logits", cost::logits::<Self>(bcv));
        Ok(())
    }

    fn sample(
        &self,
        ids: &mut Buf<u32>,
        logprob: &mut Buf<f32>,
        logits: &Buf<f32>,
        draws: &Buf<f32>,
        _: Sampling,
        v: usize,
    ) -> Result<()> {
        let b = check::sample::<Self>(ids, logprob, logits, draws, v)?;
        self.record("sample", cost::sample::<Self>(b, v));
        Ok(())
    }

    fn advance(&self, _: &mut Buf<u32>, cursor: &mut Cursor<Self>, ids: &Buf<u32>) -> Result<()> {
        let b = check::advance::<Self>(cursor, ids)?;
        cursor.lengths.sum += b as u64;
        self.record("advance", cost::advance(b));
        Ok(())
    }

    fn scalar_head_fwd(&self, out: &mut Buf<f32>, x: &Buf<A>, weight: &Buf<A>, c: usize) -> Result<()> {
        check::scalar_head_fwd::<Self>(out, x, weight, c)?;
        self.record("scalar_head_fwd", cost::scalar_head_fwd::<Self>(out.len, c));
        Ok(())
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
        check::scalar_head_bwd::<Self>(dx, dweight.as_deref(), dout, x, weight, c)?;
        self.book.backward(true);
        self.record("scalar_head_bwd", cost::scalar_head_bwd::<Self>(dweight.is_some(), dout.len, c));
        Ok(())
    }

    fn ppo_clip(
        &self,
        dlogprob: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        logprob: &Buf<f32>,
        old: &Buf<f32>,
        advantage: &Buf<f32>,
        _: f32,
        _: f64,
    ) -> Result<()> {
        let t = check::ppo_clip::<Self>(dlogprob, stats, logprob, old, advantage)?;
        self.record("ppo_clip", cost::ppo_clip::<Self>(t));
        Ok(())
    }

    fn value_clip(
        &self,
        dvalue: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        value: &Buf<f32>,
        old: &Buf<f32>,
        returns: &Buf<f32>,
        _: f32,
        _: f64,
    ) -> Result<()> {
        let t = check::value_clip::<Self>(dvalue, stats, value, old, returns)?;
        self.record("value_clip", cost::value_clip::<Self>(t));
        Ok(())
    }

    fn gae(
        &self,
        advantage: &mut Buf<f32>,
        returns: &mut Buf<f32>,
        reward: &Buf<f32>,
        value: &Buf<f32>,
        bounds: &Bounds<Self>,
        _: f32,
        _: f32,
    ) -> Result<()> {
        let t = check::gae::<Self>(advantage, returns, reward, value, bounds)?;
        self.record("gae", cost::gae::<Self>(t));
        Ok(())
    }

    fn bradley_terry(
        &self,
        dscores: &mut Buf<f32>,
        stats: &mut Buf<f32>,
        scores: &Buf<f32>,
        labels: &Buf<f32>,
        _: f64,
    ) -> Result<()> {
        let pairs = check::bradley_terry::<Self>(dscores, stats, scores, labels)?;
        self.record("bradley_terry", cost::bradley_terry::<Self>(pairs));
        Ok(())
    }

    fn moments(&self, x: &Buf<f32>, _: f64) -> Result<(f64, f64)> {
        let _sums = self.scratch().take::<f64>(scratch::MOMENTS);
        self.record("moments", cost::moments::<Self>(x.len));
        Ok((0.0, 0.0))
    }

    fn whiten(&self, x: &mut Buf<f32>, _: f64, _: f64) -> Result<()> {
        self.record("whiten", cost::whiten::<Self>(x.len));
        Ok(())
    }

    fn sum_squares(&self, out: &mut Buf<f32>, at: usize, x: &Buf<f32>) -> Result<()> {
        check::element::<Self>("sum_squares: out", out, at)?;
        let _parts = self.scratch().take::<f64>(scratch::square_parts(x.len));
        self.record("sum_squares", cost::sum_squares::<Self>(x.len));
        Ok(())
    }

    fn adamw(
        &self,
        param: &mut Buf<A>,
        master: &mut Buf<f32>,
        m: &mut Buf<f32>,
        v: &mut Buf<f32>,
        grad: &Buf<f32>,
        _: AdamW,
    ) -> Result<()> {
        let n = check::adamw::<Self>(param, master, m, v, grad)?;
        self.record("adamw", cost::adamw::<Self>(n));
        Ok(())
    }
}
