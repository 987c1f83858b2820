//! A device that computes nothing: its buffers are extents, its operators check them and write down what they would cost. The
//! engine's own code runs on it, so what is planned is what is run.
//!
//! Costs are a floor. A product of [m, k] and [k, n] is 2 m n k operations; an operator reads each of its arguments and writes each
//! of its results once. What a kernel reads twice, or rounds up to whole tiles, is not counted.

mod ledger;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Mutex;

use super::cuda::scratch::{self, Low};
use super::{AdamW, Bounds, Branch, Device, Dropout, Elem, Heads, Real, Sampling, check, extent, narrow};
use crate::error::Result;
use ledger::Book;
pub use ledger::{Buf, Class, Cost, Held, Work};

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

fn size<T>(elements: usize) -> u64 {
    (elements * size_of::<T>()) as u64
}

/// Query-key pairs of causal attention inside each sequence.
fn pairs<D: Device>(bounds: &Bounds<D>) -> u64 {
    let length = |pair: &[u32]| u64::from(pair[1] - pair[0]);
    bounds.host.windows(2).map(length).map(|l| l * (l + 1) / 2).sum()
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

    fn record(&self, operator: &'static str, products: u64, other: u64, bytes: u64, launches: u64) {
        self.book.record(operator, Cost { products, other, bytes, launches });
    }

    fn scratch(&self) -> Scratch<'_> {
        Scratch(&self.book, self.style == Style::Cuda)
    }

    fn act_bytes(elements: usize) -> u64 {
        size::<A>(elements)
    }
}

impl<A: Real> Device for Meter<A> {
    type Act = A;
    type Acc = f32;
    type Buf<T: Elem> = Buf<T>;
    /// Elements: the host's memory is not counted.
    type Host<T: Elem> = usize;

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
        let sum = match T::NAME == u32::NAME {
            true => bytemuck::cast_slice::<T, u32>(host).iter().map(|id| u64::from(*id)).sum(),
            false => 0,
        };
        Ok(self.book.allocate(host.len(), sum))
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
        self.record("copy", 0, 0, 2 * size::<T>(len), 1);
        Ok(())
    }

    fn clear<T: Elem>(&self, buf: &mut Buf<T>) -> Result<()> {
        self.record("clear", 0, 0, buf.bytes() as u64, 1);
        Ok(())
    }

    fn cast<S: Real, T: Real>(&self, dst: &mut Buf<T>, src: &Buf<S>) -> Result<()> {
        extent::<Self, T>("cast: dst", dst, src.len)?;
        self.record("cast", 0, 0, (dst.bytes() + src.bytes()) as u64, 1);
        Ok(())
    }

    fn memory(&self) -> (usize, usize) {
        self.book.memory()
    }

    fn gather_rows<T: Elem>(&self, out: &mut Buf<T>, _: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        check::gather_rows::<Self, T>(out, rows, c)?;
        self.record("gather_rows", 0, 0, (2 * out.bytes() + rows.bytes()) as u64, 1);
        Ok(())
    }

    fn scatter_rows<T: Elem>(&self, out: &mut Buf<T>, inp: &Buf<T>, rows: &Buf<u32>, c: usize) -> Result<()> {
        check::scatter_rows::<Self, T>(inp, rows, c)?;
        self.record("scatter_rows", 0, 0, (out.bytes() + inp.bytes() + rows.bytes()) as u64, 2);
        Ok(())
    }

    fn add(&self, out: &mut Buf<A>, inp: &Buf<A>) -> Result<()> {
        extent::<Self, A>("add: out", out, inp.len)?;
        self.record("add", 0, inp.len as u64, (2 * out.bytes() + inp.bytes()) as u64, 1);
        Ok(())
    }

    fn embed_fwd(&self, out: &mut Buf<A>, table: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        check::embed_fwd::<Self>(out, table, ids, c)?;
        self.book.backward(false);
        self.record("embed_fwd", 0, 0, (2 * out.bytes() + ids.bytes()) as u64, 1);
        Ok(())
    }

    fn embed_bwd(&self, dtable: &mut Buf<f32>, dout: &Buf<A>, ids: &Buf<u32>, c: usize) -> Result<()> {
        check::embed_bwd::<Self>(dtable, dout, ids, c)?;
        let rows = 2 * size::<f32>(dout.len);
        self.record("embed_bwd", 0, dout.len as u64, rows + (dout.bytes() + ids.bytes()) as u64, 1);
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
        let t = check::rmsnorm_fwd::<Self>(out, rstd, sum.as_ref().map(|(sum, delta)| (&**sum, *delta)), inp, weight, c)?;
        let (rows, adds) = if sum.is_some() { (4, 1) } else { (2, 0) };
        let bytes = rows * Self::act_bytes(t * c) + (rstd.bytes() + weight.bytes()) as u64;
        self.record("rmsnorm_fwd", 0, (4 + adds) * (t * c) as u64, bytes, 1);
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
        let (sums, launches) = dweight.map_or((0, 1), |dweight| (2 * dweight.bytes(), 2));
        let bytes = 4 * Self::act_bytes(t * c) + (rstd.bytes() + weight.bytes() + sums) as u64;
        self.record("rmsnorm_bwd", 0, (8 + 3 * (launches - 1)) * (t * c) as u64, bytes, launches);
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
        let (t, n, k) = tnk;
        let mut products = 2 * (t * n * k) as u64;
        let mut bytes = (out.bytes() + x.bytes() + w.bytes() + bias.map_or(0, Buf::bytes)) as u64;
        for branch in branches {
            products += 2 * (t * branch.r * (k + branch.n)) as u64;
            bytes += (branch.a.bytes() + branch.b.bytes()) as u64;
        }
        bytes += z.bytes() as u64;
        let rides = z.len > 0 && scratch::rides(size_of::<A>(), tnk);
        let _packed = rides.then(|| self.scratch().take::<A>(n * narrow(branches)));
        self.record("lora_linear_fwd", products, 0, bytes, if z.len > 0 { 3 } else { 1 });
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
        let (t, n, k) = tnk;
        let (mut products, mut bytes, mut launches) = (0, dout.bytes() as u64, 0);
        if let Some((dx, accumulate)) = &dx {
            products += 2 * (t * n * k) as u64;
            bytes += (w.bytes() + if *accumulate { 2 } else { 1 } * dx.bytes()) as u64;
            launches += 1;
        }
        let trained = !dbranches.is_empty();
        if trained {
            bytes += x.bytes() as u64;
        }
        let lows: Vec<Low> = branches.iter().map(|branch| (branch.n, branch.r)).collect();
        if t * scratch::dout_blocks(&lows) > 0 && (trained || dx.is_some()) {
            for branch in branches {
                let (of_a, of_b) = (2 * (t * branch.r * k) as u64, 2 * (t * branch.r * branch.n) as u64);
                products += of_b + if trained { of_a + of_b } else { 0 } + if dx.is_some() { of_a } else { 0 };
                bytes += (branch.a.bytes() + branch.b.bytes()) as u64;
            }
            bytes += dbranches.iter().map(|gradient| 2 * gradient.bytes() as u64).sum::<u64>();
            launches += 2 + if trained { 2 } else { 0 } + u64::from(dx.is_some());
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
            bytes += z.bytes() as u64;
        }
        self.record("lora_linear_bwd", products, 0, bytes, launches);
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
            let products = branches.iter().map(|branch| 2 * (tk.0 * branch.r * tk.1) as u64).sum();
            let read: usize = branches.iter().map(|branch| branch.a.bytes()).sum();
            self.record("lora_narrow", products, 0, (z.bytes() + x.bytes() + read) as u64, 1);
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
        let (t, n, k) = tnk;
        let (sums, launches) = dbias.map_or((0, 1), |dbias| (2 * dbias.bytes(), 2));
        let bytes = (2 * dw.bytes() + sums + dout.bytes() + x.bytes()) as u64;
        self.record("linear_dweight", 2 * (t * n * k) as u64, (t * n) as u64 * (launches - 1), bytes, launches);
        Ok(())
    }

    fn rope(&self, qkv: &mut Buf<A>, positions: &Buf<u32>, heads: Heads, theta: f64, _: bool) -> Result<()> {
        check::rope::<Self>(qkv, positions, heads)?;
        let turned = positions.len * (heads.q + heads.kv) * heads.dim;
        if self.style == Style::Cuda {
            let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let make = || {
                let buf = self.book.allocate(scratch::frequencies(heads.dim), 0);
                buf.tag(Class::Workspace);
                buf
            };
            kept.frequencies.entry((heads.dim, theta.to_bits())).or_insert_with(make);
        }
        self.record("rope", 0, 3 * turned as u64, 2 * Self::act_bytes(turned) + positions.bytes() as u64, 1);
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
        let pairs = pairs(bounds);
        let bytes = (out.bytes() + lse.bytes() + qkv.bytes()) as u64;
        // Scores and their product with the values; of each score a maximum, an exponential and a sum.
        self.record("attention_fwd", 4 * pairs * heads.q_width() as u64, 3 * pairs * heads.q as u64, bytes, 1);
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
        let _delta = self.scratch().take::<f32>(scratch::attention_delta(t, heads.q));
        let pairs = pairs(bounds);
        let bytes = (dqkv.bytes() + dout.bytes() + out.bytes() + lse.bytes() + qkv.bytes()) as u64;
        // Five products: the scores again, and the gradients at probabilities, values, queries and keys.
        self.record("attention_bwd", 10 * pairs * heads.q_width() as u64, 4 * pairs * heads.q as u64, bytes, 3);
        Ok(())
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
        check::cache_write::<Self>(k, v, qkv, slots, positions, heads, capacity)?;
        k.tag(Class::Cache);
        v.tag(Class::Cache);
        let moved = 4 * Self::act_bytes(slots.len * heads.kv_width());
        self.record("cache_write", 0, 0, moved + (slots.bytes() + positions.bytes()) as u64, 1);
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
        let bytes = 2 * lengths.sum * Self::act_bytes(heads.kv_width()) + (out.bytes() + qkv.bytes()) as u64;
        let (products, other) = (4 * lengths.sum * heads.q_width() as u64, 3 * lengths.sum * heads.q as u64);
        self.record("attention_decode", products, other, bytes, 2);
        Ok(())
    }

    fn swiglu_fwd(&self, out: &mut Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let t = check::swiglu_fwd::<Self>(out, gate_up, f)?;
        self.record("swiglu_fwd", 0, 5 * (t * f) as u64, (out.bytes() + gate_up.bytes()) as u64, 1);
        Ok(())
    }

    fn swiglu_bwd(&self, dgate_up: &mut Buf<A>, dout: &Buf<A>, gate_up: &Buf<A>, f: usize) -> Result<()> {
        let t = check::swiglu_bwd::<Self>(dgate_up, dout, gate_up, f)?;
        self.book.backward(true);
        let bytes = (dgate_up.bytes() + dout.bytes() + gate_up.bytes()) as u64;
        self.record("swiglu_bwd", 0, 10 * (t * f) as u64, bytes, 1);
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
        let (t, c, v) = tcv;
        let scratch = self.scratch();
        let fused = scratch::logprob_sm90(size_of::<A>(), tcv);
        let _tile = (!fused).then(|| scratch.take::<f32>(scratch::logits_tile(t, v)));
        let _state = scratch.take::<f32>(if fused { scratch::logprob_states(t, v) } else { scratch::logprob_state(t) });
        let launches = if fused { 2 } else { 2 * tiles(t, v) + 1 };
        let bytes = (logprob.bytes() + lse.bytes() + entropy.bytes() + x.bytes() + head.bytes() + targets.bytes()) as u64;
        self.record("linear_logprob_fwd", 2 * (t * c * v) as u64, 5 * (t * v) as u64, bytes, launches);
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
        // The logits again, their gradient times the head, and where it is trained the gradient of the head.
        let (products, sums) = dhead.map_or((2, 0), |dhead| (3, 2 * dhead.bytes()));
        let inputs = dlogprob.bytes() + lse.bytes() + x.bytes() + head.bytes() + targets.bytes();
        let bytes = (dx.bytes() + sums + inputs) as u64;
        let launches = match fused {
            true => 2 + t.div_ceil(high) as u64 * (1 + products),
            false => tiles(t, v) * (1 + products) + t.div_ceil(scratch::TOKENS) as u64,
        };
        self.record("linear_logprob_bwd", 2 * products * (t * c * v) as u64, 4 * (t * v) as u64, bytes, launches);
        Ok(())
    }

    fn logits(&self, out: &mut Buf<f32>, x: &Buf<A>, head: &Buf<A>, bcv: (usize, usize, usize)) -> Result<()> {
        check::logits::<Self>(out, x, head, bcv)?;
        let (b, c, v) = bcv;
        self.record("logits", 2 * (b * c * v) as u64, 0, (out.bytes() + x.bytes() + head.bytes()) as u64, 1);
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
        let bytes = ids.bytes() + logprob.bytes() + logits.bytes() + draws.bytes();
        self.record("sample", 0, 4 * (b * v) as u64, bytes as u64, 1);
        Ok(())
    }

    fn scalar_head_fwd(&self, out: &mut Buf<f32>, x: &Buf<A>, weight: &Buf<A>, c: usize) -> Result<()> {
        check::scalar_head_fwd::<Self>(out, x, weight, c)?;
        let bytes = out.bytes() + x.bytes() + weight.bytes();
        self.record("scalar_head_fwd", 0, 2 * x.len as u64, bytes as u64, 1);
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
        let (sums, launches) = dweight.map_or((0, 1), |dweight| (x.bytes() + 2 * dweight.bytes(), 2));
        let bytes = dx.bytes() + sums + dout.bytes() + weight.bytes();
        self.record("scalar_head_bwd", 0, (2 * launches - 1) * dx.len as u64, bytes as u64, launches);
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
        self.record("ppo_clip", 0, 15 * t as u64, 4 * size::<f32>(t) + stats.bytes() as u64, 1);
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
        self.record("value_clip", 0, 10 * t as u64, 4 * size::<f32>(t) + stats.bytes() as u64, 1);
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
        self.record("gae", 0, 6 * t as u64, 4 * size::<f32>(t), 1);
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
        let bytes = dscores.bytes() + stats.bytes() + scores.bytes() + labels.bytes();
        self.record("bradley_terry", 0, 10 * pairs as u64, bytes as u64, 1);
        Ok(())
    }

    fn moments(&self, x: &Buf<f32>, _: f64) -> Result<(f64, f64)> {
        let _sums = self.scratch().take::<f64>(scratch::MOMENTS);
        self.record("moments", 0, 4 * x.len as u64, x.bytes() as u64, 1);
        Ok((0.0, 0.0))
    }

    fn whiten(&self, x: &mut Buf<f32>, _: f64, _: f64) -> Result<()> {
        self.record("whiten", 0, 2 * x.len as u64, 2 * x.bytes() as u64, 1);
        Ok(())
    }

    fn sum_squares(&self, out: &mut Buf<f32>, at: usize, x: &Buf<f32>) -> Result<()> {
        check::element::<Self>("sum_squares: out", out, at)?;
        let _parts = self.scratch().take::<f64>(scratch::square_parts(x.len));
        self.record("sum_squares", 0, 2 * x.len as u64, x.bytes() as u64, 2);
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
        let bytes = param.bytes() + 2 * (master.bytes() + m.bytes() + v.bytes()) + grad.bytes();
        self.record("adamw", 0, 15 * n as u64, bytes as u64, 1);
        Ok(())
    }
}

/// Tiles of logits.
fn tiles(t: usize, v: usize) -> u64 {
    (t.div_ceil(scratch::TOKENS) * v.div_ceil(scratch::VOCABULARY)) as u64
}
