//! Memory and the operators of the network. The formula and the shapes of each operator stand here, once; [`Cpu`] is the
//! specification that other devices are judged against.
//!
//! Extents: `t` tokens, `c` model width, `n` outputs, `k` inputs, `v` vocabulary, `r` LoRA rank, `b` sequences in a batch,
//! `q`/`kv` query and key-value heads, `d` width of a head. `x[a, b]` is row-major: `b` runs fastest.
//!
//! Arguments come outputs first, then what forward saved, then inputs, then extents; a backward operator repeats its
//! forward's names with a `d`. The accumulation law: gradients of weights `+=`, gradients of activations `=`, gradients of
//! the residual stream `+=`. Where a backward operator can do either, `accumulate` says which.
//!
//! A tuple argument named `tnk` is `(t, n, k)`, `tcv` is `(t, c, v)`, and so on.
//!
//! Every operator checks its extents and returns [`Error::Extent`] naming operator and argument. Zero tokens are legal.

mod check;
pub mod cards;
pub mod cost;
pub mod cpu;
pub mod cuda;
pub mod meter;
pub mod record;

use std::fmt::Debug;

use crate::error::{Error, Result};
use crate::rng::{philox, unit};
pub use cpu::Cpu;
pub use cuda::Cuda;
pub use meter::Meter;
use record::Recorder;

/// What a buffer may hold.
pub trait Elem: bytemuck::Pod + Default + PartialEq + Debug + Send + Sync {
    /// Its name in a safetensors file.
    const NAME: &'static str;
}

/// A floating-point element.
pub trait Real: Elem {
    /// Rounded to nearest.
    fn of(x: f64) -> Self;
    /// Exact.
    fn f64(self) -> f64;
}

impl Elem for u32 {
    const NAME: &'static str = "U32";
}

macro_rules! real {
    ($($t:ty, $name:literal, $of:expr, $to:expr;)*) => {$(
        impl Elem for $t {
            const NAME: &'static str = $name;
        }
        impl Real for $t {
            fn of(x: f64) -> Self {
                $of(x)
            }
            fn f64(self) -> f64 {
                $to(self)
            }
        }
    )*};
}

real! {
    f32, "F32", |x| x as f32, f64::from;
    f64, "F64", |x| x, |x| x;
    half::f16, "F16", half::f16::from_f64, half::f16::to_f64;
    half::bf16, "BF16", half::bf16::from_f64, half::bf16::to_f64;
}

/// Attention's extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Heads {
    /// Query heads.
    pub q: usize,
    /// Key-value heads; divides `q`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
}

impl Heads {
    /// Columns of the packed `q | k | v` matrix.
    pub fn qkv_width(self) -> usize {
        (self.q + 2 * self.kv) * self.dim
    }

    /// Columns of attention's output.
    pub fn q_width(self) -> usize {
        self.q * self.dim
    }

    /// Columns of the keys, and of the values.
    pub fn kv_width(self) -> usize {
        self.kv * self.dim
    }
}

/// Where packed sequences begin: `bounds[0] = 0 <= ... <= bounds[b] <= t`. Sequence `i` is the tokens
/// `bounds[i]..bounds[i + 1]`; sequences may be empty, and tokens past the last bound belong to none.
pub struct Bounds<D: Device> {
    /// On the host, for grid sizes.
    pub host: Vec<u32>,
    /// The same numbers on the device.
    pub device: D::Buf<u32>,
}

impl<D: Device> Bounds<D> {
    /// From lengths.
    pub fn from_lengths(device: &D, lengths: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut host = vec![0u32];
        for length in lengths {
            host.push(host[host.len() - 1] + length as u32);
        }
        Ok(Bounds { device: device.upload(&host)?, host })
    }

    /// Sequences.
    pub fn count(&self) -> usize {
        self.host.len() - 1
    }

    /// Tokens that belong to a sequence.
    pub fn total(&self) -> usize {
        self.host[self.host.len() - 1] as usize
    }
}

/// Dropout whose mask is a function of position: element `[i, j]` of a `[t, k]` input of branch `s` is dropped when
/// `unit(philox([e / 4, 0, s, 0], key)[e % 4]) < p`, `e = i * k + j`; what is kept is divided by `1 - p`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in [0, 1).
    pub p: f32,
    /// The mask's key.
    pub key: u64,
}

/// One low-rank branch of a linear map: it adds to output columns `column..column + n`.
pub struct Branch<'a, D: Device> {
    /// `a[r, k]`.
    pub a: &'a D::Buf<D::Act>,
    /// `b[n, r]`.
    pub b: &'a D::Buf<D::Act>,
    /// First output column.
    pub column: usize,
    /// Output columns.
    pub n: usize,
    /// Rank.
    pub r: usize,
    /// What the product is multiplied by: alpha / rank.
    pub scale: f32,
    /// The branch's number in [`Dropout`]'s counter.
    pub stream: u32,
}

/// Branches that a linear map can have: q, k and v.
pub const BRANCHES: usize = 3;

/// Columns of the `z` that the branches of a map share: their ranks side by side, and zeros up to a multiple of 8, so that a row
/// consists of whole vectors.
pub fn narrow<D: Device>(branches: &[Branch<'_, D>]) -> usize {
    branches.iter().map(|branch| branch.r).sum::<usize>().next_multiple_of(8)
}

/// One step of AdamW (Loshchilov & Hutter 2019, as `torch.optim.AdamW` computes it).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The step's number, from 1, for bias correction.
    pub step: u64,
    /// What the gradient is multiplied by first (clipping).
    pub grad_scale: f64,
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token (the lowest id among equals).
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
}

/// The slot of a row that belongs to no sequence: nothing of it is cached, and it attends to nothing. Such rows fill a batch up to a
/// number of rows that steps are recorded for.
pub const NO_SLOT: u32 = u32::MAX;

/// Where a sequence that is being decoded stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its slot in the cache.
    pub slot: u32,
    /// The position of the token that is read next.
    pub position: u32,
    /// Tokens drawn for it so far.
    pub count: u32,
    /// The key of its random stream.
    pub key: u64,
}

impl Standing {
    /// A row of no sequence.
    pub const NONE: Standing = Standing { slot: NO_SLOT, position: 0, count: 0, key: 0 };
}

/// The number in [0, 1) that chooses token number `count` of the sequence that draws from `key`'s stream.
pub(crate) fn draw(key: u64, count: u32) -> f32 {
    unit(philox([count, 0, 0, 0], key)[0])
}

/// Where each row of a batch being decoded stands, on the device: [`Standing`] by columns, and what follows from it.
pub struct Cursor<D: Device> {
    /// `slots[b]`.
    pub slots: D::Buf<u32>,
    /// `positions[b]`.
    pub positions: D::Buf<u32>,
    /// `lengths[b] = positions[b] + 1`: what a row attends to.
    pub lengths: D::Buf<u32>,
    /// `counts[b]`.
    pub counts: D::Buf<u32>,
    /// `keys[b, 2]`, the lower word first.
    pub keys: D::Buf<u32>,
    /// `draws[b] = unit(philox([counts[b], 0, 0, 0], keys[b])[0])`: what chooses the next token.
    pub draws: D::Buf<f32>,
}

impl<D: Device> Cursor<D> {
    /// For `b` rows, of no value yet.
    pub fn empty(device: &D, b: usize) -> Result<Self> {
        let ids = |len| device.empty(len);
        let (slots, positions, lengths, counts, keys) = (ids(b)?, ids(b)?, ids(b)?, ids(b)?, ids(2 * b)?);
        Ok(Cursor { slots, positions, lengths, counts, keys, draws: device.empty(b)? })
    }

    /// Moves the rows to where sequences stand; rows past the last one belong to no sequence.
    pub fn set(&mut self, device: &D, standings: &[Standing]) -> Result<()> {
        let rows = D::len(&self.slots);
        if standings.len() > rows {
            return Err(Error::Extent { what: "a cursor's rows".into(), want: standings.len(), got: rows });
        }
        let all = || standings.iter().copied().chain(std::iter::repeat(Standing::NONE)).take(rows);
        let column = |f: fn(Standing) -> u32| all().map(f).collect::<Vec<u32>>();
        let length = |row: Standing| if row.slot == NO_SLOT { 0 } else { row.position + 1 };
        device.write(&mut self.slots, &column(|row| row.slot))?;
        device.write(&mut self.positions, &column(|row| row.position))?;
        device.write(&mut self.lengths, &column(length))?;
        device.write(&mut self.counts, &column(|row| row.count))?;
        let keys: Vec<u32> = all().flat_map(|row| [row.key as u32, (row.key >> 32) as u32]).collect();
        device.write(&mut self.keys, &keys)?;
        device.write(&mut self.draws, &all().map(|row| draw(row.key, row.count)).collect::<Vec<f32>>())
    }
}

/// Columns of [`Device::ppo_clip`]'s statistics.
pub const PPO_STATS: usize = 5;

/// A device: memory and operators. `Act` holds activations and the weights that matmuls read, `Acc` holds statistics,
/// gradients of weights, optimizer state and losses.
pub trait Device: Sized + Send + Sync + 'static {
    /// Activations and weights.
    type Act: Real;
    /// Statistics, weight gradients, masters: f32, and f64 for finite differences.
    type Acc: Real;
    /// Memory. One tensor, one buffer.
    type Buf<T: Elem>: Send + Sync;
    /// A tensor that waits in the host's memory: pinned memory for a GPU.
    type Host<T: Elem>: Send + Sync;
    /// Copies of two buffers that are on their way to the host.
    type Pending<T: Elem, U: Elem>: Send;
    /// What [`Device::replay`] recorded. Every buffer that a body uses has to live as long as this does, or be dropped after it.
    type Graphs: Default;

    /// What a log line calls it: `cpu (2 threads, f32)`.
    fn name(&self) -> String;

    /// Who writes down where its time goes, if anybody does.
    fn recorder(&self) -> Option<&Recorder> {
        None
    }

    // ---- memory ----

    /// `len` zeros.
    fn zeros<T: Elem>(&self, len: usize) -> Result<Self::Buf<T>>;
    /// `len` elements of any value, for an operator that sets them all.
    fn empty<T: Elem>(&self, len: usize) -> Result<Self::Buf<T>>;
    /// A copy of host memory.
    fn upload<T: Elem>(&self, host: &[T]) -> Result<Self::Buf<T>>;
    /// `buf = host`. Does not wait: the copy takes its place among the operators.
    fn write<T: Elem>(&self, buf: &mut Self::Buf<T>, host: &[T]) -> Result<()>;
    /// A copy in host memory; waits for the device.
    fn download<T: Elem>(&self, buf: &Self::Buf<T>) -> Result<Vec<T>>;
    /// Copies of several buffers, for one wait.
    fn download_many<T: Elem>(&self, bufs: &[&Self::Buf<T>]) -> Result<Vec<Vec<T>>> {
        bufs.iter().map(|buf| self.download(buf)).collect()
    }
    /// Begins to copy two buffers to the host. Does not wait: the copies take their place among the operators.
    fn begin_download<T: Elem, U: Elem>(&self, a: &Self::Buf<T>, b: &Self::Buf<U>) -> Result<Self::Pending<T, U>>;
    /// Waits for the copies, and for nothing that was launched after them.
    fn finish_download<T: Elem, U: Elem>(&self, pending: Self::Pending<T, U>) -> Result<(Vec<T>, Vec<U>)>;
    /// Elements of a buffer.
    fn len<T: Elem>(buf: &Self::Buf<T>) -> usize;
    /// `dst[dst_at..][..len] = src[src_at..][..len]`.
    fn copy<T: Elem>(&self, dst: &mut Self::Buf<T>, dst_at: usize, src: &Self::Buf<T>, src_at: usize, len: usize) -> Result<()>;
    /// Sets every element to 0.
    fn clear<T: Elem>(&self, buf: &mut Self::Buf<T>) -> Result<()>;
    /// `dst[i] = src[i]`, rounded to nearest.
    fn cast<S: Real, T: Real>(&self, dst: &mut Self::Buf<T>, src: &Self::Buf<S>) -> Result<()>;
    /// A copy in the host's memory that [`Device::fetch`] brings back; waits for the device.
    fn offload<T: Elem>(&self, buf: &Self::Buf<T>) -> Result<Self::Host<T>>;
    /// A buffer with the bits that were put aside. Does not wait: the copy takes its place among the operators. `host` may be dropped
    /// at any time, which waits for copies of it that are under way.
    fn fetch<T: Elem>(&self, host: &Self::Host<T>) -> Result<Self::Buf<T>>;
    /// Bytes that live buffers hold now, and the most they ever held. What waits in the host's memory does not count.
    fn memory(&self) -> (usize, usize);

    // ---- steps ----

    /// Steps that are best launched before the results of the first of them are read: 0 where launching is computing.
    fn ahead(&self) -> usize;
    /// Whether [`Device::replay`] makes one launch of many, so that it pays to repeat the same step with the same buffers.
    fn replays(&self) -> bool;
    /// Runs `body`, or what was recorded of it under `key`: launches that are the same each time, with the same buffers. A device that
    /// records runs the body plainly at the first call, records it at the second, and from then on repeats it without calling it; until
    /// `graphs` is dropped the memory of the body's own buffers is kept for it. A body that is recorded must not upload, write, download
    /// or wait, which is an error, and must not keep a buffer that it made.
    fn replay(&self, graphs: &mut Self::Graphs, key: usize, body: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    // ---- rows ----

    /// `out[i, :] = inp[rows[i], :]` for rows of `c` elements.
    fn gather_rows<T: Elem>(&self, out: &mut Self::Buf<T>, inp: &Self::Buf<T>, rows: &Self::Buf<u32>, c: usize) -> Result<()>;
    /// `out = 0`, then `out[rows[i], :] = inp[i, :]`; rows are distinct. The gradient of [`Device::gather_rows`].
    fn scatter_rows<T: Elem>(&self, out: &mut Self::Buf<T>, inp: &Self::Buf<T>, rows: &Self::Buf<u32>, c: usize) -> Result<()>;
    /// `out[i] += inp[i]`.
    fn add(&self, out: &mut Self::Buf<Self::Act>, inp: &Self::Buf<Self::Act>) -> Result<()>;

    // ---- the block ----

    /// `out[t, c] = table[ids[t], c]`.
    fn embed_fwd(
        &self,
        out: &mut Self::Buf<Self::Act>,
        table: &Self::Buf<Self::Act>,
        ids: &Self::Buf<u32>,
        c: usize,
    ) -> Result<()>;
    /// `dtable[ids[t], c] += dout[t, c]`, in the order of `t`.
    fn embed_bwd(
        &self,
        dtable: &mut Self::Buf<Self::Acc>,
        dout: &Self::Buf<Self::Act>,
        ids: &Self::Buf<u32>,
        c: usize,
    ) -> Result<()>;

    /// `out[t, c] = x[t, c] * rstd[t] * weight[c]`, `rstd[t] = 1 / sqrt(mean_c(x[t, c]^2) + eps)`, saving `rstd`.
    /// `x` is `inp`, or `inp + delta`, which is then stored in `sum`: the residual add, fused.
    /// Zhang & Sennrich 2019, eq. 4; Transformers `Qwen2RMSNorm`.
    fn rmsnorm_fwd(
        &self,
        out: &mut Self::Buf<Self::Act>,
        rstd: &mut Self::Buf<Self::Acc>,
        sum: Option<(&mut Self::Buf<Self::Act>, &Self::Buf<Self::Act>)>,
        inp: &Self::Buf<Self::Act>,
        weight: &Self::Buf<Self::Act>,
        c: usize,
        eps: f64,
    ) -> Result<()>;
    /// `dx[t, c] += rstd * (dout * weight - x * rstd^2 * mean_c(dout * weight * x))`, and where asked for
    /// `dweight[c] += sum_t dout * x * rstd`. `x` is what forward normalised.
    fn rmsnorm_bwd(
        &self,
        dx: &mut Self::Buf<Self::Act>,
        dweight: Option<&mut Self::Buf<Self::Acc>>,
        dout: &Self::Buf<Self::Act>,
        rstd: &Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        weight: &Self::Buf<Self::Act>,
        c: usize,
    ) -> Result<()>;

    /// `out[t, n] = x[t, k] w[n, k]^T + bias[n] + sum over branches of scale * drop(x) a^T b^T` at the branch's columns.
    /// Up to [`BRANCHES`] branches, whose columns ascend and do not overlap. `z[t, narrow]`, the branches' `scale * drop(x) a^T` side by
    /// side and zeros after them ([`narrow`]), is saved. Without branches this is a plain linear map.
    /// LoRA: Hu et al. 2021, section 4.1; PEFT `lora/layer.py`, where each module drops its input by a mask of its own.
    fn lora_linear_fwd(
        &self,
        out: &mut Self::Buf<Self::Act>,
        z: &mut Self::Buf<Self::Act>,
        x: &Self::Buf<Self::Act>,
        w: &Self::Buf<Self::Act>,
        bias: Option<&Self::Buf<Self::Act>>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()>;
    /// `dx[t, k]` `=` or, with `accumulate`, `+=` `dout w + sum over branches of drop'(scale * dout b a)`. With
    /// `dbranches`, which holds `da, db` of each branch in turn: `db[n, r] += dout^T z`,
    /// `da[r, k] += scale * (dout b)^T drop(x)`. `dx` may be left out where nothing below is trained.
    /// Without `dbranches` neither `z` nor `x` is read, and both may be empty.
    fn lora_linear_bwd(
        &self,
        dx: Option<(&mut Self::Buf<Self::Act>, bool)>,
        dbranches: &mut [&mut Self::Buf<Self::Acc>],
        dout: &Self::Buf<Self::Act>,
        z: &Self::Buf<Self::Act>,
        x: &Self::Buf<Self::Act>,
        w: &Self::Buf<Self::Act>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tnk: (usize, usize, usize),
    ) -> Result<()>;
    /// The `z` of [`Device::lora_linear_fwd`] alone, to its bits: what backward needs of a map whose output it does not.
    fn lora_narrow(
        &self,
        z: &mut Self::Buf<Self::Act>,
        x: &Self::Buf<Self::Act>,
        branches: &[Branch<'_, Self>],
        dropout: Option<Dropout>,
        tk: (usize, usize),
    ) -> Result<()>;
    /// The gradient of a trained weight: `dw[n, k] += dout[t, n]^T x[t, k]`, and where asked for `dbias[n] += sum_t dout`.
    fn linear_dweight(
        &self,
        dw: &mut Self::Buf<Self::Acc>,
        dbias: Option<&mut Self::Buf<Self::Acc>>,
        dout: &Self::Buf<Self::Act>,
        x: &Self::Buf<Self::Act>,
        tnk: (usize, usize, usize),
    ) -> Result<()>;

    /// Rotates the query and key heads of `qkv[t, (q + 2 kv) d]` in place by `positions[t] * theta^(-2i/d)`, pairing column
    /// `i` with `i + d/2` of a head (half rotation, Transformers `apply_rotary_pos_emb`). `inverse` turns back: the gradient.
    /// Angles are computed in `Acc`. Su et al. 2021, section 3.2.2.
    fn rope(
        &self,
        qkv: &mut Self::Buf<Self::Act>,
        positions: &Self::Buf<u32>,
        heads: Heads,
        theta: f64,
        inverse: bool,
    ) -> Result<()>;

    /// Causal grouped-query attention inside each packed sequence: `out[t, q d] = softmax(q k^T / sqrt(d)) v`, query head `h`
    /// reading key-value head `h / (q / kv)`; `lse[h, t]` (h outermost) is the log-sum-exp of the scaled scores. Tokens of no
    /// sequence give 0. Nothing of size tokens x tokens is stored. Dao 2023, algorithm 1.
    fn attention_fwd(
        &self,
        out: &mut Self::Buf<Self::Act>,
        lse: &mut Self::Buf<Self::Acc>,
        qkv: &Self::Buf<Self::Act>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()>;
    /// `dqkv[t, (q + 2 kv) d] =` the gradient at the (rotated) input. Dao 2023, algorithm 2.
    fn attention_bwd(
        &self,
        dqkv: &mut Self::Buf<Self::Act>,
        dout: &Self::Buf<Self::Act>,
        out: &Self::Buf<Self::Act>,
        lse: &Self::Buf<Self::Acc>,
        qkv: &Self::Buf<Self::Act>,
        bounds: &Bounds<Self>,
        heads: Heads,
        t: usize,
    ) -> Result<()>;

    /// [`Device::rope`], whose keys and values then go into a cache `k, v[slots, capacity, kv d]`, at `slots[t]`, `positions[t]`: one
    /// reading of `qkv`. Rows of [`NO_SLOT`] turn like the others and are not cached.
    fn rope_cached(
        &self,
        qkv: &mut Self::Buf<Self::Act>,
        k: &mut Self::Buf<Self::Act>,
        v: &mut Self::Buf<Self::Act>,
        slots: &Self::Buf<u32>,
        positions: &Self::Buf<u32>,
        heads: Heads,
        theta: f64,
        capacity: usize,
    ) -> Result<()>;
    /// One query per sequence against the cache: `out[b, q d]` attends to the first `lengths[b]` entries of slot `slots[b]`
    /// (the query's own key and value are already there). Rows of [`NO_SLOT`] give 0.
    fn attention_decode(
        &self,
        out: &mut Self::Buf<Self::Act>,
        qkv: &Self::Buf<Self::Act>,
        k: &Self::Buf<Self::Act>,
        v: &Self::Buf<Self::Act>,
        slots: &Self::Buf<u32>,
        lengths: &Self::Buf<u32>,
        heads: Heads,
        capacity: usize,
    ) -> Result<()>;

    /// `out[t, f] = silu(gate) * up` with `gate = gate_up[t, ..f]`, `up = gate_up[t, f..2f]`, `silu(x) = x / (1 + e^-x)`.
    fn swiglu_fwd(&self, out: &mut Self::Buf<Self::Act>, gate_up: &Self::Buf<Self::Act>, f: usize) -> Result<()>;
    /// `dgate_up[t, 2f] =` the gradient of [`Device::swiglu_fwd`].
    fn swiglu_bwd(
        &self,
        dgate_up: &mut Self::Buf<Self::Act>,
        dout: &Self::Buf<Self::Act>,
        gate_up: &Self::Buf<Self::Act>,
        f: usize,
    ) -> Result<()>;

    // ---- heads ----

    /// With `l[t, v] = scale * (x[t, c] head[v, c]^T)` (`scale` is 1 / temperature): `lse[t]` its log-sum-exp,
    /// `logprob[t] = l[t, targets[t]] - lse[t]`, `entropy[t] = lse - sum_v softmax(l) l`. The logits are never stored whole.
    fn linear_logprob_fwd(
        &self,
        logprob: &mut Self::Buf<Self::Acc>,
        lse: &mut Self::Buf<Self::Acc>,
        entropy: &mut Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        head: &Self::Buf<Self::Act>,
        targets: &Self::Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()>;
    /// For any `dlogprob[t]`: `dl = dlogprob * (onehot(target) - softmax(l))`, `dx[t, c] = scale * dl head`, and where asked
    /// for `dhead[v, c] += scale * dl^T x`.
    fn linear_logprob_bwd(
        &self,
        dx: &mut Self::Buf<Self::Act>,
        dhead: Option<&mut Self::Buf<Self::Acc>>,
        dlogprob: &Self::Buf<Self::Acc>,
        lse: &Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        head: &Self::Buf<Self::Act>,
        targets: &Self::Buf<u32>,
        scale: f32,
        tcv: (usize, usize, usize),
    ) -> Result<()>;
    /// `out[b, v] = x[b, c] head[v, c]^T`, for sampling.
    fn logits(
        &self,
        out: &mut Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        head: &Self::Buf<Self::Act>,
        bcv: (usize, usize, usize),
    ) -> Result<()>;
    /// `ids[b]` drawn from `softmax(logits / temperature)` cut to top-k, then top-p, by inversion of `draws[b]` in [0, 1) over
    /// the kept tokens in order of id. `logprob[b]` is that of the uncut distribution (at temperature 0, of temperature 1).
    fn sample(
        &self,
        ids: &mut Self::Buf<u32>,
        logprob: &mut Self::Buf<Self::Acc>,
        logits: &Self::Buf<Self::Acc>,
        draws: &Self::Buf<f32>,
        sampling: Sampling,
        v: usize,
    ) -> Result<()>;
    /// Every row of a batch being decoded one token further: `last[slots[b]] = ids[b]`, `positions[b] += 1`, `lengths[b] += 1`,
    /// `counts[b] += 1`, and `draws[b]` anew as [`Cursor`] has it. `last` has an element for each slot; rows of [`NO_SLOT`] set none.
    fn advance(&self, last: &mut Self::Buf<u32>, cursor: &mut Cursor<Self>, ids: &Self::Buf<u32>) -> Result<()>;
    /// The scalar head: `out[t] = x[t, c] . weight[c]`.
    fn scalar_head_fwd(
        &self,
        out: &mut Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        weight: &Self::Buf<Self::Act>,
        c: usize,
    ) -> Result<()>;
    /// `dx[t, c] = dout[t] weight[c]`; where asked for `dweight[c] += sum_t dout[t] x[t, c]`.
    fn scalar_head_bwd(
        &self,
        dx: &mut Self::Buf<Self::Act>,
        dweight: Option<&mut Self::Buf<Self::Acc>>,
        dout: &Self::Buf<Self::Acc>,
        x: &Self::Buf<Self::Act>,
        weight: &Self::Buf<Self::Act>,
        c: usize,
    ) -> Result<()>;

    // ---- losses ----

    /// The clipped surrogate, per token (Schulman et al. 2017, eq. 7; the paper's Eq 15): `ratio = exp(clamp(logprob - old, ±20))`,
    /// `loss = -min(ratio * adv, clip(ratio, 1 - clip, 1 + clip) * adv)`, `dlogprob[t] = norm * dloss/dlogprob` (0 where the
    /// log-ratio is clamped). `stats` is set to the sums over tokens of: loss, 1 where the clipped branch was taken, ratio, `old -
    /// logprob` (k1), `ratio - 1 - (logprob - old)` (k3).
    fn ppo_clip(
        &self,
        dlogprob: &mut Self::Buf<Self::Acc>,
        stats: &mut Self::Buf<Self::Acc>,
        logprob: &Self::Buf<Self::Acc>,
        old: &Self::Buf<Self::Acc>,
        advantage: &Self::Buf<Self::Acc>,
        clip: f32,
        norm: f64,
    ) -> Result<()>;
    /// The clipped value loss, per token: `0.5 * max((v - ret)^2, (old + clamp(v - old, ±clip) - ret)^2)`;
    /// `dvalue[t] = norm * dloss/dv`. `stats[0]` is the sum of the loss, `stats[1]` counts tokens where the clipped term won.
    fn value_clip(
        &self,
        dvalue: &mut Self::Buf<Self::Acc>,
        stats: &mut Self::Buf<Self::Acc>,
        value: &Self::Buf<Self::Acc>,
        old: &Self::Buf<Self::Acc>,
        returns: &Self::Buf<Self::Acc>,
        clip: f32,
        norm: f64,
    ) -> Result<()>;
    /// Generalised advantage estimation inside each sequence (Schulman et al. 2016, eq. 16; the paper's Eq 17): `delta_t = r_t +
    /// gamma V_{t+1} - V_t` with `V = 0` after the last token, `advantage_t = delta_t + gamma lambda advantage_{t+1}`,
    /// `returns = advantage + V`. Tokens of no sequence give 0.
    fn gae(
        &self,
        advantage: &mut Self::Buf<Self::Acc>,
        returns: &mut Self::Buf<Self::Acc>,
        reward: &Self::Buf<Self::Acc>,
        value: &Self::Buf<Self::Acc>,
        bounds: &Bounds<Self>,
        gamma: f32,
        lambda: f32,
    ) -> Result<()>;
    /// Bradley-Terry (the paper's Eq 12, 13): `scores[2i]` against `scores[2i + 1]` with `labels[i] = P(first is better)`, `d =
    /// scores[2i] - scores[2i + 1]`, `loss = -label ln σ(d) - (1 - label) ln σ(-d)`; `dscores = norm * dloss`. `stats[0]` is the
    /// sum of the loss, `stats[1]` counts pairs whose sign agrees with a label other than 0.5.
    fn bradley_terry(
        &self,
        dscores: &mut Self::Buf<Self::Acc>,
        stats: &mut Self::Buf<Self::Acc>,
        scores: &Self::Buf<Self::Acc>,
        labels: &Self::Buf<Self::Acc>,
        norm: f64,
    ) -> Result<()>;
    /// `(sum (x - shift), sum (x - shift)^2)`, deterministic; waits for the device.
    fn moments(&self, x: &Self::Buf<Self::Acc>, shift: f64) -> Result<(f64, f64)>;
    /// `x = (x - mean) * rstd`, with moments taken over the global batch by the caller.
    fn whiten(&self, x: &mut Self::Buf<Self::Acc>, mean: f64, rstd: f64) -> Result<()>;

    // ---- optimizer ----

    /// `out[at] = sum x^2`, deterministic.
    fn sum_squares(&self, out: &mut Self::Buf<Self::Acc>, at: usize, x: &Self::Buf<Self::Acc>) -> Result<()>;
    /// `g = grad_scale * grad; p *= 1 - lr * weight_decay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    /// p -= lr / (1 - beta1^step) * m / (sqrt(v / (1 - beta2^step)) + eps)`; `param` is the rounded copy that matmuls read.
    fn adamw(
        &self,
        param: &mut Self::Buf<Self::Act>,
        master: &mut Self::Buf<Self::Acc>,
        m: &mut Self::Buf<Self::Acc>,
        v: &mut Self::Buf<Self::Acc>,
        grad: &Self::Buf<Self::Acc>,
        hyper: AdamW,
    ) -> Result<()>;
}

/// Fails when a buffer does not have the extent that an operator was told.
pub(crate) fn extent<D: Device, T: Elem>(what: &str, buf: &D::Buf<T>, want: usize) -> Result<()> {
    let got = D::len::<T>(buf);
    if got == want { Ok(()) } else { Err(Error::Extent { what: what.to_string(), want, got }) }
}
