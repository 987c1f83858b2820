//! What a call of each operator costs at least, by its extents: what plans, benchmarks and profiles count with.
//!
//! Costs are a floor. A product of [m, k] and [k, n] is 2 m n k operations; an operator reads each of its arguments and writes each
//! of its results once. What a kernel reads twice, or rounds up to whole tiles, is not counted.

use super::cuda::scratch::{self, Low};
use super::{Bounds, Branch, Device, Heads, PPO_STATS, narrow};

/// What one call of an operator costs at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Multiplications and additions of matrix products: what tensor cores do.
    pub products: u64,
    /// Other multiplications, additions and functions.
    pub other: u64,
    /// Bytes of its arguments: each read once, each written once.
    pub bytes: u64,
    /// Kernels that the CUDA device launches for it.
    pub launches: u64,
}

impl Cost {
    /// This and another one after the other.
    pub fn plus(self, other: Cost) -> Cost {
        self.plus_times(other, 1)
    }

    /// This, and another so many times over.
    pub fn plus_times(self, other: Cost, times: u64) -> Cost {
        Cost {
            products: self.products + other.products * times,
            other: self.other + other.other * times,
            bytes: self.bytes + other.bytes * times,
            launches: self.launches + other.launches * times,
        }
    }
}

fn cost(products: u64, other: usize, bytes: u64, launches: u64) -> Cost {
    Cost { products, other: other as u64, bytes, launches }
}

/// Bytes of so many elements.
fn size<T>(elements: usize) -> u64 {
    (elements * size_of::<T>()) as u64
}

fn acts<D: Device>(elements: usize) -> u64 {
    size::<D::Act>(elements)
}

fn accs<D: Device>(elements: usize) -> u64 {
    size::<D::Acc>(elements)
}

fn ids(elements: usize) -> u64 {
    size::<u32>(elements)
}

/// Operations of a product of `[m, k]` and `[k, n]`.
pub(super) fn product(m: usize, n: usize, k: usize) -> u64 {
    2 * m as u64 * n as u64 * k as u64
}

/// Query-key pairs of causal attention inside each sequence.
fn pairs<D: Device>(bounds: &Bounds<D>) -> u64 {
    let length = |pair: &[u32]| u64::from(pair[1] - pair[0]);
    bounds.host.windows(2).map(length).map(|l| l * (l + 1) / 2).sum()
}

/// Tiles of logits.
fn tiles(t: usize, v: usize) -> u64 {
    (t.div_ceil(scratch::TOKENS) * v.div_ceil(scratch::VOCABULARY)) as u64
}

pub(super) fn copy<T>(len: usize) -> Cost {
    cost(0, 0, 2 * size::<T>(len), 1)
}

pub(super) fn clear<T>(len: usize) -> Cost {
    cost(0, 0, size::<T>(len), 1)
}

pub(super) fn cast<S, T>(len: usize) -> Cost {
    cost(0, 0, size::<S>(len) + size::<T>(len), 1)
}

pub(super) fn gather_rows<T>(rows: usize, c: usize) -> Cost {
    cost(0, 0, 2 * size::<T>(rows * c) + ids(rows), 1)
}

/// `out` has so many elements.
pub(super) fn scatter_rows<T>(out: usize, rows: usize, c: usize) -> Cost {
    cost(0, 0, size::<T>(out) + size::<T>(rows * c) + ids(rows), 2)
}

pub(super) fn add<D: Device>(n: usize) -> Cost {
    cost(0, n, 3 * acts::<D>(n), 1)
}

pub(super) fn embed_fwd<D: Device>(t: usize, c: usize) -> Cost {
    cost(0, 0, 2 * acts::<D>(t * c) + ids(t), 1)
}

pub(super) fn embed_bwd<D: Device>(t: usize, c: usize) -> Cost {
    cost(0, t * c, 2 * accs::<D>(t * c) + acts::<D>(t * c) + ids(t), 1)
}

pub(super) fn rmsnorm_fwd<D: Device>(t: usize, c: usize, residual: bool) -> Cost {
    let (rows, adds) = if residual { (4, 1) } else { (2, 0) };
    cost(0, (4 + adds) * t * c, rows * acts::<D>(t * c) + accs::<D>(t) + acts::<D>(c), 1)
}

pub(super) fn rmsnorm_bwd<D: Device>(t: usize, c: usize, trained: bool) -> Cost {
    let (sums, launches) = if trained { (2 * accs::<D>(c), 2) } else { (0, 1) };
    let bytes = 4 * acts::<D>(t * c) + accs::<D>(t) + acts::<D>(c) + sums;
    cost(0, (8 + 3 * (launches as usize - 1)) * t * c, bytes, launches)
}

pub(super) fn lora_linear_fwd<D: Device>(bias: bool, branches: &[Branch<'_, D>], (t, n, k): (usize, usize, usize)) -> Cost {
    let mut products = product(t, n, k);
    let mut bytes = acts::<D>(t * n + t * k + n * k + if bias { n } else { 0 });
    for branch in branches {
        products += product(t, branch.r, k + branch.n);
        bytes += acts::<D>(branch.r * (k + branch.n));
    }
    let z = t * narrow(branches);
    cost(products, 0, bytes + acts::<D>(z), if z > 0 { 3 } else { 1 })
}

pub(super) fn lora_narrow<D: Device>(branches: &[Branch<'_, D>], (t, k): (usize, usize)) -> Cost {
    let ranks: usize = branches.iter().map(|branch| branch.r).sum();
    cost(product(t, ranks, k), 0, acts::<D>(t * k + ranks * k + t * narrow(branches)), 1)
}

/// `dx` says whether the gradient at the input is asked for, and whether it is added to what is there; `trained` whether those of the
/// branches are.
pub(super) fn lora_linear_bwd<D: Device>(
    dx: Option<bool>,
    trained: bool,
    branches: &[Branch<'_, D>],
    (t, n, k): (usize, usize, usize),
) -> Cost {
    let (mut products, mut bytes, mut launches) = (0, acts::<D>(t * n), 0);
    if let Some(accumulate) = dx {
        products += product(t, n, k);
        bytes += acts::<D>(n * k + if accumulate { 2 } else { 1 } * t * k);
        launches += 1;
    }
    if trained {
        bytes += acts::<D>(t * k);
    }
    let lows: Vec<Low> = branches.iter().map(|branch| (branch.n, branch.r)).collect();
    if t * scratch::dout_blocks(&lows) > 0 && (trained || dx.is_some()) {
        for branch in branches {
            let (of_a, of_b) = (product(t, branch.r, k), product(t, branch.r, branch.n));
            products += of_b + if trained { of_a + of_b } else { 0 } + if dx.is_some() { of_a } else { 0 };
            bytes += acts::<D>(branch.r * (k + branch.n));
            bytes += if trained { 2 * accs::<D>(branch.r * (k + branch.n)) } else { 0 };
        }
        bytes += acts::<D>(t * narrow(branches));
        launches += 2 + if trained { 2 } else { 0 } + u64::from(dx.is_some());
    }
    cost(products, 0, bytes, launches)
}

pub(super) fn linear_dweight<D: Device>(bias: bool, (t, n, k): (usize, usize, usize)) -> Cost {
    let (sums, launches) = if bias { (2 * accs::<D>(n), 2) } else { (0, 1) };
    let bytes = 2 * accs::<D>(n * k) + sums + acts::<D>(t * n + t * k);
    cost(product(t, n, k), t * n * (launches as usize - 1), bytes, launches)
}

pub(super) fn rope<D: Device>(t: usize, heads: Heads) -> Cost {
    let turned = t * (heads.q + heads.kv) * heads.dim;
    cost(0, 3 * turned, 2 * acts::<D>(turned) + ids(t), 1)
}

/// Scores and their product with the values; of each score a maximum, an exponential and a sum.
pub(super) fn attention_fwd<D: Device>(bounds: &Bounds<D>, heads: Heads, t: usize) -> Cost {
    let pairs = pairs(bounds);
    let bytes = acts::<D>(t * (heads.q_width() + heads.qkv_width())) + accs::<D>(t * heads.q);
    let launches = if t > 0 && scratch::attention_fwd_sm90(size_of::<D::Act>(), heads.dim) { 2 } else { 1 };
    cost(4 * pairs * heads.q_width() as u64, 3 * pairs as usize * heads.q, bytes, launches)
}

/// Five products: the scores again, and the gradients at probabilities, values, queries and keys.
pub(super) fn attention_bwd<D: Device>(bounds: &Bounds<D>, heads: Heads, t: usize) -> Cost {
    let pairs = pairs(bounds);
    let bytes = 2 * acts::<D>(t * (heads.q_width() + heads.qkv_width())) + accs::<D>(t * heads.q);
    cost(10 * pairs * heads.q_width() as u64, 4 * pairs as usize * heads.q, bytes, 3)
}

/// Queries and keys are read and written in place; keys and values are written to the cache, and values read for it.
pub(super) fn rope_cached<D: Device>(t: usize, heads: Heads) -> Cost {
    let turned = t * (heads.q + heads.kv) * heads.dim;
    cost(0, 3 * turned, acts::<D>(2 * turned + 3 * t * heads.kv_width()) + 2 * ids(t), 1)
}

/// Of each row seven words are read and five written.
pub(super) fn advance(b: usize) -> Cost {
    cost(0, 0, 12 * ids(b), 1)
}

/// `b` queries that attend to `read` entries of the cache together.
pub(super) fn attention_decode<D: Device>(b: usize, read: u64, heads: Heads) -> Cost {
    let bytes = 2 * read * acts::<D>(heads.kv_width()) + acts::<D>(b * (heads.q_width() + heads.qkv_width()));
    cost(4 * read * heads.q_width() as u64, 3 * read as usize * heads.q, bytes, 2)
}

/// `n` numbers are written.
pub(super) fn swiglu_fwd<D: Device>(n: usize) -> Cost {
    cost(0, 5 * n, acts::<D>(3 * n), 1)
}

/// `n` gradients are read.
pub(super) fn swiglu_bwd<D: Device>(n: usize) -> Cost {
    cost(0, 10 * n, acts::<D>(5 * n), 1)
}

pub(super) fn linear_logprob_fwd<D: Device>((t, c, v): (usize, usize, usize)) -> Cost {
    let bytes = 3 * accs::<D>(t) + acts::<D>(t * c + v * c) + ids(t);
    let fused = scratch::logprob_sm90(size_of::<D::Act>(), (t, c, v));
    cost(product(t, v, c), 5 * t * v, bytes, if fused { 2 } else { 2 * tiles(t, v) + 1 })
}

/// The logits again, their gradient times the head, and where it is trained the gradient of the head.
pub(super) fn linear_logprob_bwd<D: Device>(trained: bool, (t, c, v): (usize, usize, usize)) -> Cost {
    let (products, sums) = if trained { (3, 2 * accs::<D>(v * c)) } else { (2, 0) };
    let bytes = acts::<D>(2 * t * c + v * c) + sums + 2 * accs::<D>(t) + ids(t);
    let launches = match scratch::logprob_sm90(size_of::<D::Act>(), (t, c, v)) {
        true => 2 + t.div_ceil(scratch::logprob_wave((t, c, v))) as u64 * (1 + products),
        false => tiles(t, v) * (1 + products) + t.div_ceil(scratch::TOKENS) as u64,
    };
    cost(products * product(t, v, c), 4 * t * v, bytes, launches)
}

pub(super) fn logits<D: Device>((b, c, v): (usize, usize, usize)) -> Cost {
    cost(product(b, v, c), 0, accs::<D>(b * v) + acts::<D>(b * c + v * c), 1)
}

pub(super) fn sample<D: Device>(b: usize, v: usize) -> Cost {
    cost(0, 4 * b * v, ids(b) + accs::<D>(b + b * v) + size::<f32>(b), 1)
}

pub(super) fn scalar_head_fwd<D: Device>(t: usize, c: usize) -> Cost {
    cost(0, 2 * t * c, accs::<D>(t) + acts::<D>(t * c + c), 1)
}

pub(super) fn scalar_head_bwd<D: Device>(trained: bool, t: usize, c: usize) -> Cost {
    let (sums, launches) = if trained { (acts::<D>(t * c) + 2 * accs::<D>(c), 2) } else { (0, 1) };
    let bytes = acts::<D>(t * c + c) + sums + accs::<D>(t);
    cost(0, (2 * launches as usize - 1) * t * c, bytes, launches)
}

pub(super) fn ppo_clip<D: Device>(t: usize) -> Cost {
    cost(0, 15 * t, accs::<D>(4 * t + PPO_STATS), 1)
}

pub(super) fn value_clip<D: Device>(t: usize) -> Cost {
    cost(0, 10 * t, accs::<D>(4 * t + 2), 1)
}

pub(super) fn gae<D: Device>(t: usize) -> Cost {
    cost(0, 6 * t, accs::<D>(4 * t), 1)
}

pub(super) fn bradley_terry<D: Device>(pairs: usize) -> Cost {
    cost(0, 10 * pairs, accs::<D>(5 * pairs + 2), 1)
}

pub(super) fn moments<D: Device>(n: usize) -> Cost {
    cost(0, 4 * n, accs::<D>(n), 1)
}

pub(super) fn whiten<D: Device>(n: usize) -> Cost {
    cost(0, 2 * n, 2 * accs::<D>(n), 1)
}

pub(super) fn sum_squares<D: Device>(n: usize) -> Cost {
    cost(0, 2 * n, accs::<D>(n), 2)
}

pub(super) fn adamw<D: Device>(n: usize) -> Cost {
    cost(0, 15 * n, acts::<D>(n) + accs::<D>(7 * n), 1)
}
