//! Every operator, timed at the extents of a model: what `repairity bench kernels` prints. Each names the kernels that it runs on a
//! GPU, and a kernel without a benchmark fails the house's tests.

use serde::Serialize;

use super::card;
use super::measure::{Call, Fill, Operator, Seen, samples, verify};
pub use super::shape::Shape;
use crate::device::{AdamW, Bounds, Branch, Cursor, Device, Dropout, Heads, PPO_STATS, Real, Sampling, Standing, narrow};
use crate::error::{Error, Result};
use crate::metric::timing::{median, spread};
use crate::plan::cards::Card;

/// Sequences that decode at once, where there are as many tokens.
const DECODING: usize = 32;

/// Rank of the low-rank branches.
const RANK: usize = 4;

/// One operator's time.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which.
    pub operator: &'static str,
    /// Kernels that it runs on a GPU, apart from plain matrix products.
    pub kernels: &'static [&'static str],
    /// Seconds of one call: the median of the samples.
    pub seconds: f64,
    /// Of its matrix products, in a second, divided by 10^12; 0 where it has none.
    pub tflops: f64,
    /// Bytes that it has to move, in a second, divided by 10^9.
    pub gbytes_per_s: f64,
    /// The least time that the device's arithmetic and memory allow, over the time that it took. None for a device whose limits are
    /// not known here.
    pub roof: Option<f64>,
    /// Seconds of one call, in each round.
    pub samples: Vec<f64>,
    /// The samples' interquartile range.
    pub spread: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// `kernels`.
    pub what: &'static str,
    /// The device's name.
    pub device: String,
    /// The model whose extents are taken.
    pub model: Shape,
    /// Sequences.
    pub batch: usize,
    /// Tokens of each.
    pub seq: usize,
    /// Rounds, of which the median counts.
    pub steps: usize,
    /// Tokens over the seconds of one call of each operator.
    pub tokens_per_s: f64,
    /// The most bytes that tensors held.
    pub peak_bytes: usize,
    /// The operators, in the order of a step.
    pub operators: Vec<Row>,
}

/// Holds every operator, or the one called `only`, against the CPU, on extents cut to what the CPU computes at once. Gives the
/// operators' names and the kernels that each runs. Errors: a result that is too far from the CPU's, an operator that is not there.
pub fn check<D: Device>(
    device: &D,
    shape: Shape,
    batch: usize,
    seq: usize,
    only: Option<&str>,
) -> Result<Vec<(&'static str, &'static [&'static str])>> {
    let (shape, batch, seq) = (shape.reduced(), batch.min(2), seq.min(67));
    let (ours, references) = (operators::<D>(shape, batch, seq), operators(shape, batch, seq));
    let known: Vec<_> = ours.iter().map(|operator| (operator.name, operator.kernels)).collect();
    let chosen: Vec<_> = known.iter().copied().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if let (Some(only), true) = (only, chosen.is_empty()) {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        return Err(Error::input("--only", format!("one of {} expected, {only} found", names.join(", "))));
    }
    for (operator, reference) in ours.iter().zip(&references).filter(|(operator, _)| operator.is_in(&chosen)) {
        verify(device, operator, reference)?;
    }
    Ok(chosen)
}

/// Checks and then times every operator, or the one called `only`, on `batch` sequences of `seq` tokens.
pub fn kernels<D: Device>(
    device: &D,
    shape: Shape,
    batch: usize,
    seq: usize,
    steps: usize,
    only: Option<&str>,
) -> Result<Measured> {
    let chosen = check(device, shape, batch, seq, only)?;
    let card = card(device);
    let mut rows = Vec::new();
    for operator in operators::<D>(shape, batch, seq).iter().filter(|operator| operator.is_in(&chosen)) {
        let samples = samples(device, operator, steps)?;
        let seconds = median(&samples).ok_or_else(|| Error::input("--steps", "a number of at least 1 expected"))?;
        let floor = |card: Card| (operator.flops / card.tensor_flops).max(operator.bytes / card.bandwidth);
        rows.push(Row {
            operator: operator.name,
            kernels: operator.kernels,
            seconds,
            tflops: operator.flops / seconds / 1e12,
            gbytes_per_s: operator.bytes / seconds / 1e9,
            roof: card.map(|card| floor(card) / seconds),
            spread: spread(&samples),
            samples,
        });
    }
    let tokens_per_s = (batch * seq) as f64 / rows.iter().map(|row| row.seconds).sum::<f64>();
    let peak_bytes = device.memory().1;
    Ok(Measured {
        what: "kernels",
        device: device.name(),
        model: shape,
        batch,
        seq,
        steps,
        tokens_per_s,
        peak_bytes,
        operators: rows,
    })
}

impl<D: Device> Operator<D> {
    fn is_in(&self, chosen: &[(&'static str, &'static [&'static str])]) -> bool {
        chosen.iter().any(|(name, _)| *name == self.name)
    }
}

/// Collects operators of one device.
struct List<D: Device>(Vec<Operator<D>>);

impl<D: Device> List<D> {
    fn add<C: FnMut(&D, &mut Seen) -> Result<()> + 'static>(
        &mut self,
        name: &'static str,
        kernels: &'static [&'static str],
        flops: usize,
        bytes: usize,
        make: impl Fn(&D, &mut Fill) -> Result<C> + 'static,
    ) {
        let make = move |device: &D, fill: &mut Fill| Ok(Box::new(make(device, fill)?) as Call<D>);
        self.0.push(Operator { name, kernels, flops: flops as f64, bytes: bytes as f64, make: Box::new(make) });
    }
}

pub(super) fn operators<D: Device>(shape: Shape, batch: usize, seq: usize) -> Vec<Operator<D>> {
    let mut list = List(Vec::new());
    let t = batch * seq;
    rows(&mut list, shape, t);
    norms(&mut list, shape, t);
    linear(&mut list, shape, t);
    for dim in [64, 128] {
        attention(&mut list, shape.heads_of(dim), batch, seq);
    }
    positions(&mut list, shape, batch, seq);
    decode(&mut list, shape, t.min(DECODING), seq);
    head(&mut list, shape, t);
    scalar_head(&mut list, shape, t);
    losses(&mut list, batch, seq);
    optimizer(&mut list, shape, t);
    list.0
}

/// Bytes of an activation and of a statistic.
fn sizes<D: Device>() -> (usize, usize) {
    (size_of::<D::Act>(), size_of::<D::Acc>())
}

/// Copies, additions and lookups of rows.
fn rows<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let (c, v) = (shape.hidden, shape.vocab);
    list.add("cast", &["cast"], 0, t * c * (acc + act), move |device, fill| {
        let (mut dst, src) = (device.empty::<D::Act>(t * c)?, fill.normal::<D, D::Acc>(device, t * c, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.cast(&mut dst, &src)?;
            seen.buf(device, &dst)
        })
    });
    list.add("gather_rows", &["gather_rows"], 0, t * (2 * c * act + 4), move |device, fill| {
        let (mut out, inp) = (device.empty::<D::Act>(t * c)?, fill.normal::<D, D::Act>(device, t * c, 1.0)?);
        let rows = device.upload(&fill.permutation(t))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.gather_rows(&mut out, &inp, &rows, c)?;
            seen.buf(device, &out)
        })
    });
    list.add("scatter_rows", &["scatter_rows"], 0, t * (3 * c * act + 4), move |device, fill| {
        let (mut out, inp) = (device.empty::<D::Act>(t * c)?, fill.normal::<D, D::Act>(device, t * c, 1.0)?);
        let rows = device.upload(&fill.permutation(t))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.scatter_rows(&mut out, &inp, &rows, c)?;
            seen.buf(device, &out)
        })
    });
    list.add("add", &["add"], 0, 3 * t * c * act, move |device, fill| {
        let (mut out, inp) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, t * c, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.add(&mut out, &inp)?;
            seen.buf(device, &out)
        })
    });
    list.add("embed_fwd", &["embed_fwd"], 0, t * (2 * c * act + 4), move |device, fill| {
        let (mut out, table) = (device.empty(t * c)?, fill.normal(device, v * c, 1.0)?);
        let ids = device.upload(&fill.below(t, v))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.embed_fwd(&mut out, &table, &ids, c)?;
            seen.buf(device, &out)
        })
    });
    list.add("embed_bwd", &["embed_bwd"], 0, t * (c * (act + 2 * acc) + 4), move |device, fill| {
        let (mut dtable, dout) = (device.zeros(v * c)?, fill.normal(device, t * c, 1.0)?);
        let ids = device.upload(&fill.below(t, v))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.embed_bwd(&mut dtable, &dout, &ids, c)?;
            seen.buf(device, &dtable)
        })
    });
}

/// Normalisation and the gated unit.
fn norms<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let (c, f) = (shape.hidden, shape.intermediate);
    const EPS: f64 = 1e-6;
    list.add("rmsnorm_fwd", &["rmsnorm_fwd"], 0, t * (2 * c * act + acc), move |device, fill| {
        let (mut out, mut rstd) = (device.empty(t * c)?, device.empty(t)?);
        let (inp, weight) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, c, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.rmsnorm_fwd(&mut out, &mut rstd, None, &inp, &weight, c, EPS)?;
            seen.buf(device, &out)?;
            seen.buf(device, &rstd)
        })
    });
    list.add("rmsnorm_residual_fwd", &["rmsnorm_residual_fwd"], 0, t * (4 * c * act + acc), move |device, fill| {
        let (mut out, mut rstd, mut sum) = (device.empty(t * c)?, device.empty(t)?, device.empty(t * c)?);
        let (inp, delta) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, t * c, 1.0)?);
        let weight = fill.normal(device, c, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.rmsnorm_fwd(&mut out, &mut rstd, Some((&mut sum, &delta)), &inp, &weight, c, EPS)?;
            seen.buf(device, &out)?;
            seen.buf(device, &sum)
        })
    });
    for (name, kernels, trained) in
        [("rmsnorm_bwd", &["rmsnorm_bwd"][..], false), ("rmsnorm_bwd_trained", &["rmsnorm_bwd", "rmsnorm_dweight"], true)]
    {
        let passes = if trained { 6 } else { 4 };
        list.add(name, kernels, 0, t * (passes * c * act + acc), move |device, fill| {
            let (mut out, mut rstd) = (device.empty(t * c)?, device.empty(t)?);
            let (x, weight) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, c, 1.0)?);
            device.rmsnorm_fwd(&mut out, &mut rstd, None, &x, &weight, c, EPS)?;
            let (mut dx, mut dweight, dout) = (device.zeros(t * c)?, device.zeros(c)?, fill.normal(device, t * c, 1.0)?);
            Ok(move |device: &D, seen: &mut Seen| {
                device.rmsnorm_bwd(&mut dx, trained.then_some(&mut dweight), &dout, &rstd, &x, &weight, c)?;
                seen.buf(device, &dx)?;
                seen.buf(device, &dweight)
            })
        });
    }
    list.add("swiglu_fwd", &["swiglu_fwd"], 0, 3 * t * f * act, move |device, fill| {
        let (mut out, gate_up) = (device.empty(t * f)?, fill.normal(device, 2 * t * f, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.swiglu_fwd(&mut out, &gate_up, f)?;
            seen.buf(device, &out)
        })
    });
    list.add("swiglu_bwd", &["swiglu_bwd"], 0, 5 * t * f * act, move |device, fill| {
        let (mut dgate_up, dout) = (device.empty(2 * t * f)?, fill.normal(device, t * f, 1.0)?);
        let gate_up = fill.normal(device, 2 * t * f, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.swiglu_bwd(&mut dgate_up, &dout, &gate_up, f)?;
            seen.buf(device, &dgate_up)
        })
    });
}

/// The branches of q, k and v in their common matrix.
fn branches<'a, D: Device>(heads: Heads, weights: &'a [(D::Buf<D::Act>, D::Buf<D::Act>)]) -> Vec<Branch<'a, D>> {
    let columns =
        [(0, heads.q_width()), (heads.q_width(), heads.kv_width()), (heads.q_width() + heads.kv_width(), heads.kv_width())];
    let each = (0..).zip(weights.iter().zip(columns));
    each.map(|(stream, ((a, b), (column, n)))| Branch { a, b, column, n, r: RANK, scale: 4.0, stream }).collect()
}

/// `a` and `b` of each branch of [`branches`].
fn low_rank<D: Device>(device: &D, fill: &mut Fill, shape: Shape) -> Result<Vec<(D::Buf<D::Act>, D::Buf<D::Act>)>> {
    let k = shape.hidden;
    let mut pair = |n: usize| Ok((fill.normal(device, RANK * k, (k as f64).powf(-0.5))?, fill.normal(device, n * RANK, 0.1)?));
    [shape.heads.q_width(), shape.heads.kv_width(), shape.heads.kv_width()].into_iter().map(&mut pair).collect()
}

/// The q, k, v product, plain and with LoRA, and the gradients of both.
fn linear<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let (n, k) = (shape.heads.qkv_width(), shape.hidden);
    let spread = (k as f64).powf(-0.5);
    let dropout = Some(Dropout { p: 0.05, key: 17 });
    let product = 2 * t * n * k;
    let branch = 2 * t * RANK * (3 * k + n);
    let moved = act * (t * (n + k) + n * k);
    list.add("linear_fwd", &[], product, moved, move |device, fill| {
        let (mut out, mut none, x) = (device.empty(t * n)?, device.empty(0)?, fill.normal(device, t * k, 1.0)?);
        let (w, bias) = (fill.normal(device, n * k, spread)?, fill.normal(device, n, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.lora_linear_fwd(&mut out, &mut none, &x, &w, Some(&bias), &[], None, (t, n, k))?;
            seen.buf(device, &out)
        })
    });
    // In bf16 the branches of a tile's tokens ride in the product; backward, only where nothing is dropped.
    let rides = act == 2 && t >= 128;
    let kernels: &[&str] = if rides { &["lora_down", "lora_pack_b", "linear_nt"] } else { &["lora_down", "lora_up"] };
    list.add("lora_linear_fwd", kernels, product + branch, moved, move |device, fill| {
        let (mut out, x) = (device.empty(t * n)?, fill.normal(device, t * k, 1.0)?);
        let (w, bias) = (fill.normal(device, n * k, spread)?, fill.normal(device, n, 1.0)?);
        let weights = low_rank(device, fill, shape)?;
        let mut z = device.empty(t * narrow(&branches::<D>(shape.heads, &weights)))?;
        Ok(move |device: &D, seen: &mut Seen| {
            let branches = branches::<D>(shape.heads, &weights);
            device.lora_linear_fwd(&mut out, &mut z, &x, &w, Some(&bias), &branches, dropout, (t, n, k))?;
            seen.buf(device, &out)?;
            seen.buf(device, &z)
        })
    });
    let masked: &[&str] = &["lora_dz_db", "lora_join", "lora_da", "lora_join_da", "lora_dx"];
    let riding: &[&str] = &["lora_dz_db", "lora_join", "lora_da", "lora_join_da", "lora_pack_a", "linear_nn"];
    let undropped = if rides { riding } else { masked };
    for (name, dropout, kernels) in [("lora_linear_bwd", dropout, masked), ("lora_linear_bwd_undropped", None, undropped)] {
        list.add(name, kernels, product + 2 * branch, moved, move |device, fill| {
            let (x, w) = (fill.normal(device, t * k, 1.0)?, fill.normal(device, n * k, spread)?);
            let weights = low_rank(device, fill, shape)?;
            let z = fill.normal(device, t * narrow(&branches::<D>(shape.heads, &weights)), 1.0)?;
            let (mut dx, dout) = (device.empty(t * k)?, fill.normal(device, t * n, 1.0)?);
            let extents = weights.iter().flat_map(|(a, b)| [D::len(a), D::len(b)]);
            let mut grads = extents.map(|len| device.zeros(len)).collect::<Result<Vec<_>>>()?;
            Ok(move |device: &D, seen: &mut Seen| {
                let branches = branches::<D>(shape.heads, &weights);
                let mut dbranches: Vec<_> = grads.iter_mut().collect();
                let dx_set = Some((&mut dx, false));
                device.lora_linear_bwd(dx_set, &mut dbranches, &dout, &z, &x, &w, &branches, dropout, (t, n, k))?;
                seen.buf(device, &dx)?;
                grads.iter().try_for_each(|grad| seen.buf(device, grad))
            })
        });
    }
    let moved = act * t * (n + k) + 2 * acc * n * k;
    list.add("linear_dweight", &["column_sum"], product, moved, move |device, fill| {
        let (mut dw, mut dbias) = (device.zeros(n * k)?, device.zeros(n)?);
        let (dout, x) = (fill.normal(device, t * n, 1.0)?, fill.normal(device, t * k, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.linear_dweight(&mut dw, Some(&mut dbias), &dout, &x, (t, n, k))?;
            seen.buf(device, &dw)?;
            seen.buf(device, &dbias)
        })
    });
}

/// Attention of packed sequences, forward and backward.
fn attention<D: Device>(list: &mut List<D>, heads: Heads, batch: usize, seq: usize) {
    type Names = (&'static str, &'static [&'static str], &'static str);
    const NARROW: Names = ("attention_fwd_64", &["attention_fwd_d64"], "attention_bwd_64");
    const WIDE: Names = ("attention_fwd_128", &["attention_fwd_d128"], "attention_bwd_128");
    let (forward, forward_kernels, backward) = if heads.dim == 64 { NARROW } else { WIDE };
    let (act, acc) = sizes::<D>();
    // In bf16, heads of these widths have kernels of their own.
    let forward_kernels: &[&str] = match (act, heads.dim) {
        (2, 64) => &["attention_fwd_sm90_order", "attention_fwd_sm90_d64"],
        (2, 128) => &["attention_fwd_sm90_order", "attention_fwd_sm90_d128"],
        _ => forward_kernels,
    };
    let backward_kernels: &[&str] = match (act, heads.dim) {
        (2, 64) => &["attention_delta", "attention_bwd_sm90_d64", "attention_bwd_sm90_finish_d64"],
        (2, _) => &["attention_delta", "attention_bwd_sm90_d128", "attention_bwd_sm90_finish_d128"],
        (_, 64) => &["attention_delta", "attention_bwd_dq_d64", "attention_bwd_dkv_d64"],
        _ => &["attention_delta", "attention_bwd_dq_d128", "attention_bwd_dkv_d128"],
    };
    let t = batch * seq;
    // The lower triangle: q k^T and p v forward; backward q k^T again, and the gradients at p, q, k and v.
    let product = heads.q * heads.dim * batch * seq * (seq + 1);
    let moved = t * (act * (heads.qkv_width() + heads.q_width()) + acc * heads.q);
    let inputs = move |device: &D, fill: &mut Fill| {
        let (mut out, mut lse) = (device.empty(t * heads.q_width())?, device.empty(heads.q * t)?);
        let qkv = fill.normal(device, t * heads.qkv_width(), 1.0)?;
        let bounds = Bounds::from_lengths(device, vec![seq; batch])?;
        device.attention_fwd(&mut out, &mut lse, &qkv, &bounds, heads, t)?;
        Ok((out, lse, qkv, bounds))
    };
    list.add(forward, forward_kernels, 2 * product, moved, move |device, fill| {
        let (mut out, mut lse, qkv, bounds) = inputs(device, fill)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.attention_fwd(&mut out, &mut lse, &qkv, &bounds, heads, t)?;
            seen.buf(device, &out)?;
            seen.buf(device, &lse)
        })
    });
    let moved = t * (act * 2 * (heads.qkv_width() + heads.q_width()) + acc * heads.q);
    list.add(backward, backward_kernels, 5 * product, moved, move |device, fill| {
        let (out, lse, qkv, bounds) = inputs(device, fill)?;
        let (mut dqkv, dout) = (device.empty(D::len(&qkv))?, fill.normal(device, D::len(&out), 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.attention_bwd(&mut dqkv, &dout, &out, &lse, &qkv, &bounds, heads, t)?;
            seen.buf(device, &dqkv)
        })
    });
}

/// Positions of the tokens of `batch` sequences.
fn places(batch: usize, seq: usize) -> Vec<u32> {
    (0..batch).flat_map(|_| 0..seq as u32).collect()
}

/// What is applied to q, k, v between their product and attention.
fn positions<D: Device>(list: &mut List<D>, shape: Shape, batch: usize, seq: usize) {
    let act = sizes::<D>().0;
    let (heads, t) = (shape.heads, batch * seq);
    list.add("rope", &["rope"], 0, t * (2 * act * (heads.q_width() + heads.kv_width()) + 4), move |device, fill| {
        let mut qkv = fill.normal(device, t * heads.qkv_width(), 1.0)?;
        let positions = device.upload(&places(batch, seq))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.rope(&mut qkv, &positions, heads, 1e6, false)?;
            seen.buf(device, &qkv)
        })
    });
    let moved = act * (2 * heads.q_width() + 5 * heads.kv_width()) + 8;
    list.add("rope_cached", &["rope_cached"], 0, t * moved, move |device, fill| {
        let len = t * heads.kv_width();
        let (mut k, mut v) = (device.zeros(len)?, device.zeros(len)?);
        let mut qkv = fill.normal(device, t * heads.qkv_width(), 1.0)?;
        let positions = device.upload(&places(batch, seq))?;
        let slots: Vec<u32> = (0..t).map(|i| (i / seq) as u32).collect();
        let slots = device.upload(&slots)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.rope_cached(&mut qkv, &mut k, &mut v, &slots, &positions, heads, 1e6, seq)?;
            seen.buf(device, &k)?;
            seen.buf(device, &v)
        })
    });
}

/// What writes one token of each of `b` sequences that hold `seq` already.
fn decode<D: Device>(list: &mut List<D>, shape: Shape, b: usize, seq: usize) {
    let (act, acc) = sizes::<D>();
    let (heads, c, v) = (shape.heads, shape.hidden, shape.vocab);
    let moved = 2 * act * (b * seq * heads.kv_width() + b * heads.q_width());
    let kernels = &["attention_decode", "attention_decode_combine"];
    list.add("attention_decode", kernels, 4 * b * seq * heads.q_width(), moved, move |device, fill| {
        let (mut out, qkv) = (device.empty(b * heads.q_width())?, fill.normal(device, b * heads.qkv_width(), 1.0)?);
        let mut cache = || fill.normal(device, b * seq * heads.kv_width(), 1.0);
        let (k, v) = (cache()?, cache()?);
        let slots: Vec<u32> = (0..b as u32).collect();
        let (slots, lengths) = (device.upload(&slots)?, device.upload(&vec![seq as u32; b])?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.attention_decode(&mut out, &qkv, &k, &v, &slots, &lengths, heads, seq)?;
            seen.buf(device, &out)
        })
    });
    list.add("logits", &[], 2 * b * c * v, act * c * (b + v) + acc * b * v, move |device, fill| {
        let (mut out, x) = (device.empty(b * v)?, fill.normal(device, b * c, 1.0)?);
        let head = fill.normal(device, v * c, (c as f64).powf(-0.5))?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.logits(&mut out, &x, &head, (b, c, v))?;
            seen.buf(device, &out)
        })
    });
    list.add("advance", &["advance"], 0, 48 * b, move |device, _| {
        let (mut last, ids) = (device.zeros::<u32>(b)?, device.upload(&(0..b as u32).collect::<Vec<_>>())?);
        let mut cursor = Cursor::empty(device, b)?;
        let place = |slot| Standing { slot, position: seq as u32, count: 0, key: u64::from(slot) };
        cursor.set(device, &(0..b as u32).map(place).collect::<Vec<_>>())?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.advance(&mut last, &mut cursor, &ids)?;
            seen.buf(device, &cursor.draws)
        })
    });
    let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    let cut = Sampling { temperature: 0.8, top_k: 50, top_p: 0.95 };
    for (name, sampling) in [("sample", all), ("sample_top_k_top_p", cut)] {
        list.add(name, &["sample"], 0, b * v * acc, move |device, fill| {
            let (mut ids, mut logprob) = (device.empty(b)?, device.empty(b)?);
            let logits = fill.normal(device, b * v, 2.0)?;
            let draws: Vec<f32> = (0..b).map(|i| (i as f32 + 0.5) / b as f32).collect();
            let draws = device.upload(&draws)?;
            Ok(move |device: &D, seen: &mut Seen| {
                device.sample(&mut ids, &mut logprob, &logits, &draws, sampling, v)?;
                seen.buf(device, &logprob)
            })
        });
    }
}

/// The language model's head with its log-softmax.
fn head<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let (c, v) = (shape.hidden, shape.vocab);
    let product = 2 * t * c * v;
    let inputs = move |device: &D, fill: &mut Fill| {
        let (x, head) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, v * c, (c as f64).powf(-0.5))?);
        let targets = device.upload(&fill.below(t, v))?;
        let (mut logprob, mut lse, mut entropy) = (device.empty(t)?, device.empty(t)?, device.empty(t)?);
        device.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.0, (t, c, v))?;
        Ok((logprob, lse, entropy, x, head, targets))
    };
    let moved = act * c * (t + v) + 3 * acc * t;
    // In bf16, heads of whole 16-byte pieces are multiplied and counted by one kernel.
    let (forward, backward): (&[&str], &[&str]) = match act {
        2 => (
            &["linear_logprob_fold", "linear_logprob_finish"],
            &["linear_logprob_rows", "linear_logprob_gather", "linear_logprob_dl", "linear_logprob_dx"],
        ),
        _ => (&["logprob_fold", "logprob_finish"], &["logprob_dlogits", "cast"]),
    };
    list.add("linear_logprob_fwd", forward, product, moved, move |device, fill| {
        let (mut logprob, mut lse, mut entropy, x, head, targets) = inputs(device, fill)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.linear_logprob_fwd(&mut logprob, &mut lse, &mut entropy, &x, &head, &targets, 1.0, (t, c, v))?;
            seen.buf(device, &logprob)?;
            seen.buf(device, &lse)?;
            seen.buf(device, &entropy)
        })
    });
    // The logits are computed again: two products.
    let moved = act * c * (2 * t + v) + 2 * acc * t;
    list.add("linear_logprob_bwd", backward, 2 * product, moved, move |device, fill| {
        let (_, lse, _, x, head, targets) = inputs(device, fill)?;
        let (mut dx, dlogprob) = (device.empty(t * c)?, fill.normal(device, t, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.linear_logprob_bwd(&mut dx, None, &dlogprob, &lse, &x, &head, &targets, 1.0, (t, c, v))?;
            seen.buf(device, &dx)
        })
    });
}

/// The head of reward models and critics.
fn scalar_head<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let c = shape.hidden;
    list.add("scalar_head_fwd", &["scalar_head_fwd"], 0, t * (c * act + acc), move |device, fill| {
        let (mut out, x) = (device.empty(t)?, fill.normal(device, t * c, 1.0)?);
        let weight = fill.normal(device, c, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.scalar_head_fwd(&mut out, &x, &weight, c)?;
            seen.buf(device, &out)
        })
    });
    let kernels = &["scalar_head_bwd", "scalar_head_dweight"];
    list.add("scalar_head_bwd", kernels, 0, t * (2 * c * act + 2 * acc), move |device, fill| {
        let (mut dx, mut dweight, dout) = (device.empty(t * c)?, device.zeros(c)?, fill.normal(device, t, 1.0)?);
        let (x, weight) = (fill.normal(device, t * c, 1.0)?, fill.normal(device, c, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.scalar_head_bwd(&mut dx, Some(&mut dweight), &dout, &x, &weight, c)?;
            seen.buf(device, &dx)?;
            seen.buf(device, &dweight)
        })
    });
}

/// The losses, a number a token.
fn losses<D: Device>(list: &mut List<D>, batch: usize, seq: usize) {
    let acc = sizes::<D>().1;
    let t = batch * seq;
    let norm = 1.0 / t as f64;
    list.add("ppo_clip", &["ppo_clip"], 0, 4 * t * acc, move |device, fill| {
        let (mut dlogprob, mut stats) = (device.empty(t)?, device.empty(PPO_STATS)?);
        let (logprob, old) = (fill.normal(device, t, 0.3)?, fill.normal(device, t, 0.3)?);
        let advantage = fill.normal(device, t, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.ppo_clip(&mut dlogprob, &mut stats, &logprob, &old, &advantage, 0.2, norm)?;
            seen.buf(device, &dlogprob)?;
            seen.buf(device, &stats)
        })
    });
    list.add("value_clip", &["value_clip"], 0, 4 * t * acc, move |device, fill| {
        let (mut dvalue, mut stats) = (device.empty(t)?, device.empty(2)?);
        let (value, old) = (fill.normal(device, t, 0.3)?, fill.normal(device, t, 0.3)?);
        let returns = fill.normal(device, t, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.value_clip(&mut dvalue, &mut stats, &value, &old, &returns, 0.2, norm)?;
            seen.buf(device, &dvalue)?;
            seen.buf(device, &stats)
        })
    });
    list.add("gae", &["gae"], 0, 4 * t * acc, move |device, fill| {
        let (mut advantage, mut returns) = (device.empty(t)?, device.empty(t)?);
        let (reward, value) = (fill.normal(device, t, 1.0)?, fill.normal(device, t, 1.0)?);
        let bounds = Bounds::from_lengths(device, vec![seq; batch])?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.gae(&mut advantage, &mut returns, &reward, &value, &bounds, 1.0, 0.95)?;
            seen.buf(device, &advantage)?;
            seen.buf(device, &returns)
        })
    });
    list.add("bradley_terry", &["bradley_terry"], 0, 5 * t * acc, move |device, fill| {
        let (mut dscores, mut stats) = (device.empty(2 * t)?, device.empty(2)?);
        let scores = fill.normal(device, 2 * t, 1.0)?;
        let labels: Vec<D::Acc> = fill.below(t, 3).iter().map(|&x| D::Acc::of(f64::from(x) / 2.0)).collect();
        let labels = device.upload(&labels)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.bradley_terry(&mut dscores, &mut stats, &scores, &labels, norm)?;
            seen.buf(device, &dscores)?;
            seen.buf(device, &stats)
        })
    });
    list.add("moments", &["moments"], 0, t * acc, move |device, fill| {
        let x = fill.normal(device, t, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            let (sum, squares) = device.moments(&x, -1.0)?;
            seen.host(&[sum, squares]);
            Ok(())
        })
    });
    list.add("whiten", &["whiten"], 0, 2 * t * acc, move |device, fill| {
        let mut x = fill.normal(device, t, 1.0)?;
        Ok(move |device: &D, seen: &mut Seen| {
            device.whiten(&mut x, 0.01, 0.99)?;
            seen.buf(device, &x)
        })
    });
}

/// The step of the optimizer, of as many parameters as there are activations.
fn optimizer<D: Device>(list: &mut List<D>, shape: Shape, t: usize) {
    let (act, acc) = sizes::<D>();
    let n = t * shape.hidden;
    list.add("sum_squares", &["sum_squares_partial", "sum_squares_finish"], 0, n * acc, move |device, fill| {
        let (mut out, x) = (device.zeros(1)?, fill.normal(device, n, 1.0)?);
        Ok(move |device: &D, seen: &mut Seen| {
            device.sum_squares(&mut out, 0, &x)?;
            seen.buf(device, &out)
        })
    });
    list.add("adamw", &["adamw"], 0, n * (act + 7 * acc), move |device, fill| {
        let (mut param, mut master) = (device.empty(n)?, fill.normal(device, n, 1.0)?);
        let (mut m, mut v, grad) = (device.zeros(n)?, device.zeros(n)?, fill.normal(device, n, 1.0)?);
        let hyper = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1, grad_scale: 1.0 };
        Ok(move |device: &D, seen: &mut Seen| {
            device.adamw(&mut param, &mut master, &mut m, &mut v, &grad, hyper)?;
            seen.buf(device, &param)?;
            seen.buf(device, &master)?;
            seen.buf(device, &v)
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    const TINY: Shape = Shape { hidden: 32, intermediate: 48, vocab: 90, heads: Heads { q: 4, kv: 2, dim: 8 } };

    #[test]
    fn every_operator_runs_and_has_a_name_of_its_own() {
        // In f64, so that what is verified before is not compared with itself.
        let measured = kernels(&Cpu::<f64>::new(), TINY, 2, 5, 1, None).unwrap();
        let mut names: Vec<&str> = measured.operators.iter().map(|row| row.operator).collect();
        assert!(measured.operators.iter().all(|row| row.seconds > 0.0 && row.gbytes_per_s > 0.0 && row.roof.is_none()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), measured.operators.len());
        assert_eq!((measured.what, measured.batch, measured.seq), ("kernels", 2, 5));
    }

    #[test]
    fn one_operator_by_its_name() {
        let measured = kernels(&Cpu::<f32>::new(), TINY, 1, 3, 2, Some("rope")).unwrap();
        assert_eq!(measured.operators.iter().map(|row| row.kernels).collect::<Vec<_>>(), [["rope"]]);
        let error = kernels(&Cpu::<f32>::new(), TINY, 1, 3, 2, Some("rape")).unwrap_err().to_string();
        assert!(error.contains("--only") && error.contains("rope, ") && error.contains("rape found"), "{error}");
    }

    /// A causal triangle of 3 tokens has 6 pairs; each costs 2 operations a column in q k^T and in p v, and backward five such products.
    #[test]
    fn work_is_counted() {
        let operators = operators::<Cpu<f32>>(TINY, 1, 3);
        let flops = |name: &str| operators.iter().find(|operator| operator.name == name).unwrap().flops;
        let heads = TINY.heads_of(64);
        assert_eq!((heads.q, heads.kv, heads.dim), (2, 1, 64));
        assert_eq!(flops("attention_fwd_64"), 2.0 * 2.0 * 6.0 * 128.0);
        assert_eq!(flops("attention_bwd_64"), 5.0 * 2.0 * 6.0 * 128.0);
        assert_eq!(flops("linear_fwd"), 2.0 * 3.0 * 64.0 * 32.0);
    }
}
