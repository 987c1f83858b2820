//! The extents of each operator's arguments, checked in one place for every device. Each function is called as its operator is;
//! an error names operator and argument.

use super::{BRANCHES, Bounds, Branch, Cursor, Device, Elem, Heads, PPO_STATS, extent, narrow};
use crate::error::{Error, Result};

type Acts<D> = <D as Device>::Buf<<D as Device>::Act>;
type Accs<D> = <D as Device>::Buf<<D as Device>::Acc>;
type Ids<D> = <D as Device>::Buf<u32>;

fn act<D: Device>(what: &str, buf: &Acts<D>, want: usize) -> Result<()> {
    extent::<D, D::Act>(what, buf, want)
}

fn acc<D: Device>(what: &str, buf: &Accs<D>, want: usize) -> Result<()> {
    extent::<D, D::Acc>(what, buf, want)
}

fn ids<D: Device>(what: &str, buf: &Ids<D>, want: usize) -> Result<()> {
    extent::<D, u32>(what, buf, want)
}

pub(super) fn copy<D: Device, T: Elem>(dst: &D::Buf<T>, dst_at: usize, src: &D::Buf<T>, src_at: usize, len: usize) -> Result<()> {
    for (what, have, at) in [("copy: dst", D::len(dst), dst_at), ("copy: src", D::len(src), src_at)] {
        let end = at.saturating_add(len);
        if end > have {
            return Err(Error::Extent { what: what.into(), want: end, got: have });
        }
    }
    Ok(())
}

pub(super) fn gather_rows<D: Device, T: Elem>(out: &D::Buf<T>, rows: &Ids<D>, c: usize) -> Result<()> {
    extent::<D, T>("gather_rows: out", out, D::len(rows) * c)
}

pub(super) fn scatter_rows<D: Device, T: Elem>(inp: &D::Buf<T>, rows: &Ids<D>, c: usize) -> Result<()> {
    extent::<D, T>("scatter_rows: inp", inp, D::len(rows) * c)
}

/// Returns the vocabulary.
pub(super) fn embed_fwd<D: Device>(out: &Acts<D>, table: &Acts<D>, tokens: &Ids<D>, c: usize) -> Result<usize> {
    act::<D>("embed_fwd: out", out, D::len(tokens) * c)?;
    let vocabulary = D::len(table) / c.max(1);
    act::<D>("embed_fwd: table", table, vocabulary * c)?;
    Ok(vocabulary)
}

/// Returns the vocabulary.
pub(super) fn embed_bwd<D: Device>(dtable: &Accs<D>, dout: &Acts<D>, tokens: &Ids<D>, c: usize) -> Result<usize> {
    act::<D>("embed_bwd: dout", dout, D::len(tokens) * c)?;
    let vocabulary = D::len(dtable) / c.max(1);
    acc::<D>("embed_bwd: dtable", dtable, vocabulary * c)?;
    Ok(vocabulary)
}

/// Returns the tokens.
pub(super) fn rmsnorm_fwd<D: Device>(
    out: &Acts<D>,
    rstd: &Accs<D>,
    sum: Option<(&Acts<D>, &Acts<D>)>,
    inp: &Acts<D>,
    weight: &Acts<D>,
    c: usize,
) -> Result<usize> {
    let t = D::len(rstd);
    act::<D>("rmsnorm_fwd: out", out, t * c)?;
    act::<D>("rmsnorm_fwd: inp", inp, t * c)?;
    act::<D>("rmsnorm_fwd: weight", weight, c)?;
    if let Some((sum, delta)) = sum {
        act::<D>("rmsnorm_fwd: sum", sum, t * c)?;
        act::<D>("rmsnorm_fwd: delta", delta, t * c)?;
    }
    Ok(t)
}

/// Returns the tokens.
pub(super) fn rmsnorm_bwd<D: Device>(
    dx: &Acts<D>,
    dweight: Option<&Accs<D>>,
    dout: &Acts<D>,
    rstd: &Accs<D>,
    x: &Acts<D>,
    weight: &Acts<D>,
    c: usize,
) -> Result<usize> {
    let t = D::len(rstd);
    act::<D>("rmsnorm_bwd: dx", dx, t * c)?;
    act::<D>("rmsnorm_bwd: dout", dout, t * c)?;
    act::<D>("rmsnorm_bwd: x", x, t * c)?;
    act::<D>("rmsnorm_bwd: weight", weight, c)?;
    dweight.map_or(Ok(()), |dweight| acc::<D>("rmsnorm_bwd: dweight", dweight, c))?;
    Ok(t)
}

fn lora_branches<D: Device>(op: &str, branches: &[Branch<'_, D>], k: usize) -> Result<()> {
    if branches.len() > BRANCHES {
        return Err(Error::Extent { what: format!("{op}: branches"), want: BRANCHES, got: branches.len() });
    }
    for (i, branch) in branches.iter().enumerate() {
        act::<D>(&format!("{op}: branches[{i}].a"), branch.a, branch.r * k)?;
        act::<D>(&format!("{op}: branches[{i}].b"), branch.b, branch.n * branch.r)?;
    }
    Ok(())
}

/// That branches' columns ascend, do not overlap and are among `n`.
fn lora_columns<D: Device>(op: &str, branches: &[Branch<'_, D>], n: usize) -> Result<()> {
    let mut free = 0;
    for (i, branch) in branches.iter().enumerate() {
        let (first, end) = (branch.column, branch.column + branch.n);
        if first < free || end > n {
            let (want, got) = if first < free { (free, first) } else { (n, end) };
            return Err(Error::Extent { what: format!("{op}: branches[{i}].column"), want, got });
        }
        free = end;
    }
    Ok(())
}

pub(super) fn lora_narrow<D: Device>(z: &Acts<D>, x: &Acts<D>, branches: &[Branch<'_, D>], (t, k): (usize, usize)) -> Result<()> {
    lora_branches("lora_narrow", branches, k)?;
    act::<D>("lora_narrow: x", x, t * k)?;
    act::<D>("lora_narrow: z", z, t * narrow(branches))
}

pub(super) fn lora_linear_fwd<D: Device>(
    out: &Acts<D>,
    z: &Acts<D>,
    x: &Acts<D>,
    w: &Acts<D>,
    bias: Option<&Acts<D>>,
    branches: &[Branch<'_, D>],
    tnk: (usize, usize, usize),
) -> Result<()> {
    let (t, n, k) = tnk;
    act::<D>("lora_linear_fwd: x", x, t * k)?;
    act::<D>("lora_linear_fwd: w", w, n * k)?;
    lora_branches("lora_linear_fwd", branches, k)?;
    lora_columns("lora_linear_fwd", branches, n)?;
    act::<D>("lora_linear_fwd: z", z, t * narrow(branches))?;
    act::<D>("lora_linear_fwd: out", out, t * n)?;
    bias.map_or(Ok(()), |bias| act::<D>("lora_linear_fwd: bias", bias, n))
}

pub(super) fn lora_linear_bwd<D: Device>(
    dx: Option<&Acts<D>>,
    dbranches: &[&mut Accs<D>],
    dout: &Acts<D>,
    z: &Acts<D>,
    x: &Acts<D>,
    w: &Acts<D>,
    branches: &[Branch<'_, D>],
    tnk: (usize, usize, usize),
) -> Result<()> {
    let (t, n, k) = tnk;
    let read = |buf: &Acts<D>| !dbranches.is_empty() || D::len::<D::Act>(buf) > 0;
    act::<D>("lora_linear_bwd: x", x, if read(x) { t * k } else { 0 })?;
    act::<D>("lora_linear_bwd: z", z, if read(z) { t * narrow(branches) } else { 0 })?;
    act::<D>("lora_linear_bwd: w", w, n * k)?;
    lora_branches("lora_linear_bwd", branches, k)?;
    lora_columns("lora_linear_bwd", branches, n)?;
    act::<D>("lora_linear_bwd: dout", dout, t * n)?;
    if !dbranches.is_empty() {
        if dbranches.len() != 2 * branches.len() {
            let (want, got) = (2 * branches.len(), dbranches.len());
            return Err(Error::Extent { what: "lora_linear_bwd: dbranches".into(), want, got });
        }
        for (i, branch) in branches.iter().enumerate() {
            acc::<D>(&format!("lora_linear_bwd: dbranches[{}]", 2 * i), dbranches[2 * i], branch.r * k)?;
            acc::<D>(&format!("lora_linear_bwd: dbranches[{}]", 2 * i + 1), dbranches[2 * i + 1], branch.n * branch.r)?;
        }
    }
    dx.map_or(Ok(()), |dx| act::<D>("lora_linear_bwd: dx", dx, t * k))
}

pub(super) fn linear_dweight<D: Device>(
    dw: &Accs<D>,
    dbias: Option<&Accs<D>>,
    dout: &Acts<D>,
    x: &Acts<D>,
    (t, n, k): (usize, usize, usize),
) -> Result<()> {
    acc::<D>("linear_dweight: dw", dw, n * k)?;
    act::<D>("linear_dweight: dout", dout, t * n)?;
    act::<D>("linear_dweight: x", x, t * k)?;
    dbias.map_or(Ok(()), |dbias| acc::<D>("linear_dweight: dbias", dbias, n))
}

pub(super) fn rope<D: Device>(qkv: &Acts<D>, positions: &Ids<D>, heads: Heads) -> Result<()> {
    turning::<D>("rope", qkv, positions, heads)
}

fn turning<D: Device>(op: &str, qkv: &Acts<D>, positions: &Ids<D>, heads: Heads) -> Result<()> {
    act::<D>(&format!("{op}: qkv"), qkv, D::len(positions) * heads.qkv_width())?;
    match heads.dim.is_multiple_of(2) {
        true => Ok(()),
        false => Err(Error::input(format!("{op}: heads"), format!("{} columns a head, which cannot be paired", heads.dim))),
    }
}

fn heads(op: &str, heads: Heads) -> Result<()> {
    if heads.kv == 0 || heads.dim == 0 || !heads.q.is_multiple_of(heads.kv) {
        let what = format!("{} query heads, {} key-value heads of width {}", heads.q, heads.kv, heads.dim);
        return Err(Error::input(format!("{op}: heads"), what));
    }
    Ok(())
}

/// Fails unless bounds start at 0, do not fall, and end within `t` tokens.
fn bounds<D: Device>(op: &str, bounds: &Bounds<D>, t: usize) -> Result<()> {
    if bounds.host.first() != Some(&0) || !bounds.host.is_sorted() {
        return Err(Error::input(format!("{op}: bounds"), format!("{:?} do not rise from 0", bounds.host)));
    }
    if bounds.total() > t {
        return Err(Error::Extent { what: format!("{op}: bounds"), want: t, got: bounds.total() });
    }
    Ok(())
}

pub(super) fn attention_fwd<D: Device>(
    out: &Acts<D>,
    lse: &Accs<D>,
    qkv: &Acts<D>,
    sequences: &Bounds<D>,
    shape: Heads,
    t: usize,
) -> Result<()> {
    heads("attention_fwd", shape)?;
    act::<D>("attention_fwd: out", out, t * shape.q_width())?;
    acc::<D>("attention_fwd: lse", lse, shape.q * t)?;
    act::<D>("attention_fwd: qkv", qkv, t * shape.qkv_width())?;
    bounds("attention_fwd", sequences, t)
}

pub(super) fn attention_bwd<D: Device>(
    dqkv: &Acts<D>,
    dout: &Acts<D>,
    out: &Acts<D>,
    lse: &Accs<D>,
    qkv: &Acts<D>,
    sequences: &Bounds<D>,
    shape: Heads,
    t: usize,
) -> Result<()> {
    heads("attention_bwd", shape)?;
    act::<D>("attention_bwd: dqkv", dqkv, t * shape.qkv_width())?;
    act::<D>("attention_bwd: dout", dout, t * shape.q_width())?;
    act::<D>("attention_bwd: out", out, t * shape.q_width())?;
    acc::<D>("attention_bwd: lse", lse, shape.q * t)?;
    act::<D>("attention_bwd: qkv", qkv, t * shape.qkv_width())?;
    bounds("attention_bwd", sequences, t)
}

/// Returns the cache's slots.
fn cache<D: Device>(op: &str, k: &Acts<D>, v: &Acts<D>, shape: Heads, capacity: usize) -> Result<usize> {
    heads(op, shape)?;
    let slot = capacity * shape.kv_width();
    let count = D::len(k) / slot.max(1);
    act::<D>(&format!("{op}: k"), k, count * slot)?;
    act::<D>(&format!("{op}: v"), v, D::len(k))?;
    Ok(count)
}

/// Returns the cache's slots.
pub(super) fn rope_cached<D: Device>(
    qkv: &Acts<D>,
    k: &Acts<D>,
    v: &Acts<D>,
    slots: &Ids<D>,
    positions: &Ids<D>,
    shape: Heads,
    capacity: usize,
) -> Result<usize> {
    let count = cache::<D>("rope_cached", k, v, shape, capacity)?;
    ids::<D>("rope_cached: positions", positions, D::len(slots))?;
    turning::<D>("rope_cached", qkv, positions, shape)?;
    Ok(count)
}

/// Returns the cache's slots.
pub(super) fn attention_decode<D: Device>(
    out: &Acts<D>,
    qkv: &Acts<D>,
    k: &Acts<D>,
    v: &Acts<D>,
    slots: &Ids<D>,
    lengths: &Ids<D>,
    shape: Heads,
    capacity: usize,
) -> Result<usize> {
    let count = cache::<D>("attention_decode", k, v, shape, capacity)?;
    act::<D>("attention_decode: out", out, D::len(slots) * shape.q_width())?;
    act::<D>("attention_decode: qkv", qkv, D::len(slots) * shape.qkv_width())?;
    ids::<D>("attention_decode: lengths", lengths, D::len(slots))?;
    Ok(count)
}

/// Returns the tokens.
pub(super) fn swiglu_fwd<D: Device>(out: &Acts<D>, gate_up: &Acts<D>, f: usize) -> Result<usize> {
    let t = D::len(out) / f.max(1);
    act::<D>("swiglu_fwd: out", out, t * f)?;
    act::<D>("swiglu_fwd: gate_up", gate_up, t * 2 * f)?;
    Ok(t)
}

/// Returns the tokens.
pub(super) fn swiglu_bwd<D: Device>(dgate_up: &Acts<D>, dout: &Acts<D>, gate_up: &Acts<D>, f: usize) -> Result<usize> {
    let t = D::len(dout) / f.max(1);
    act::<D>("swiglu_bwd: dout", dout, t * f)?;
    act::<D>("swiglu_bwd: gate_up", gate_up, t * 2 * f)?;
    act::<D>("swiglu_bwd: dgate_up", dgate_up, t * 2 * f)?;
    Ok(t)
}

pub(super) fn linear_logprob_fwd<D: Device>(
    logprob: &Accs<D>,
    lse: &Accs<D>,
    entropy: &Accs<D>,
    x: &Acts<D>,
    head: &Acts<D>,
    targets: &Ids<D>,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    acc::<D>("linear_logprob_fwd: logprob", logprob, t)?;
    acc::<D>("linear_logprob_fwd: lse", lse, t)?;
    acc::<D>("linear_logprob_fwd: entropy", entropy, t)?;
    act::<D>("linear_logprob_fwd: x", x, t * c)?;
    act::<D>("linear_logprob_fwd: head", head, v * c)?;
    ids::<D>("linear_logprob_fwd: targets", targets, t)
}

pub(super) fn linear_logprob_bwd<D: Device>(
    dx: &Acts<D>,
    dhead: Option<&Accs<D>>,
    dlogprob: &Accs<D>,
    lse: &Accs<D>,
    x: &Acts<D>,
    head: &Acts<D>,
    targets: &Ids<D>,
    (t, c, v): (usize, usize, usize),
) -> Result<()> {
    act::<D>("linear_logprob_bwd: dx", dx, t * c)?;
    acc::<D>("linear_logprob_bwd: dlogprob", dlogprob, t)?;
    acc::<D>("linear_logprob_bwd: lse", lse, t)?;
    act::<D>("linear_logprob_bwd: x", x, t * c)?;
    act::<D>("linear_logprob_bwd: head", head, v * c)?;
    ids::<D>("linear_logprob_bwd: targets", targets, t)?;
    dhead.map_or(Ok(()), |dhead| acc::<D>("linear_logprob_bwd: dhead", dhead, v * c))
}

pub(super) fn logits<D: Device>(out: &Accs<D>, x: &Acts<D>, head: &Acts<D>, (b, c, v): (usize, usize, usize)) -> Result<()> {
    acc::<D>("logits: out", out, b * v)?;
    act::<D>("logits: x", x, b * c)?;
    act::<D>("logits: head", head, v * c)
}

/// Returns the rows.
pub(super) fn sample<D: Device>(
    tokens: &Ids<D>,
    logprob: &Accs<D>,
    logits: &Accs<D>,
    draws: &D::Buf<f32>,
    v: usize,
) -> Result<usize> {
    let b = D::len(tokens);
    acc::<D>("sample: logprob", logprob, b)?;
    acc::<D>("sample: logits", logits, b * v)?;
    extent::<D, f32>("sample: draws", draws, b)?;
    if v == 0 && b > 0 {
        return Err(Error::input("sample: v", "an empty vocabulary"));
    }
    Ok(b)
}

/// Returns the rows.
pub(super) fn advance<D: Device>(cursor: &Cursor<D>, tokens: &Ids<D>) -> Result<usize> {
    let b = D::len(tokens);
    ids::<D>("advance: slots", &cursor.slots, b)?;
    ids::<D>("advance: positions", &cursor.positions, b)?;
    ids::<D>("advance: lengths", &cursor.lengths, b)?;
    ids::<D>("advance: counts", &cursor.counts, b)?;
    ids::<D>("advance: keys", &cursor.keys, 2 * b)?;
    extent::<D, f32>("advance: draws", &cursor.draws, b)?;
    Ok(b)
}

pub(super) fn scalar_head_fwd<D: Device>(out: &Accs<D>, x: &Acts<D>, weight: &Acts<D>, c: usize) -> Result<()> {
    act::<D>("scalar_head_fwd: x", x, D::len(out) * c)?;
    act::<D>("scalar_head_fwd: weight", weight, c)
}

pub(super) fn scalar_head_bwd<D: Device>(
    dx: &Acts<D>,
    dweight: Option<&Accs<D>>,
    dout: &Accs<D>,
    x: &Acts<D>,
    weight: &Acts<D>,
    c: usize,
) -> Result<()> {
    act::<D>("scalar_head_bwd: dx", dx, D::len(dout) * c)?;
    act::<D>("scalar_head_bwd: x", x, D::len(dout) * c)?;
    act::<D>("scalar_head_bwd: weight", weight, c)?;
    dweight.map_or(Ok(()), |dweight| acc::<D>("scalar_head_bwd: dweight", dweight, c))
}

/// Returns the tokens.
pub(super) fn ppo_clip<D: Device>(
    dlogprob: &Accs<D>,
    stats: &Accs<D>,
    logprob: &Accs<D>,
    old: &Accs<D>,
    advantage: &Accs<D>,
) -> Result<usize> {
    let t = D::len(logprob);
    acc::<D>("ppo_clip: dlogprob", dlogprob, t)?;
    acc::<D>("ppo_clip: stats", stats, PPO_STATS)?;
    acc::<D>("ppo_clip: old", old, t)?;
    acc::<D>("ppo_clip: advantage", advantage, t)?;
    Ok(t)
}

/// Returns the tokens.
pub(super) fn value_clip<D: Device>(
    dvalue: &Accs<D>,
    stats: &Accs<D>,
    value: &Accs<D>,
    old: &Accs<D>,
    returns: &Accs<D>,
) -> Result<usize> {
    let t = D::len(value);
    acc::<D>("value_clip: dvalue", dvalue, t)?;
    acc::<D>("value_clip: stats", stats, 2)?;
    acc::<D>("value_clip: old", old, t)?;
    acc::<D>("value_clip: returns", returns, t)?;
    Ok(t)
}

/// Returns the tokens.
pub(super) fn gae<D: Device>(
    advantage: &Accs<D>,
    returns: &Accs<D>,
    reward: &Accs<D>,
    value: &Accs<D>,
    sequences: &Bounds<D>,
) -> Result<usize> {
    let t = D::len(value);
    acc::<D>("gae: advantage", advantage, t)?;
    acc::<D>("gae: returns", returns, t)?;
    acc::<D>("gae: reward", reward, t)?;
    bounds("gae", sequences, t)?;
    Ok(t)
}

/// Returns the pairs.
pub(super) fn bradley_terry<D: Device>(dscores: &Accs<D>, stats: &Accs<D>, scores: &Accs<D>, labels: &Accs<D>) -> Result<usize> {
    let pairs = D::len(labels);
    acc::<D>("bradley_terry: dscores", dscores, 2 * pairs)?;
    acc::<D>("bradley_terry: stats", stats, 2)?;
    acc::<D>("bradley_terry: scores", scores, 2 * pairs)?;
    Ok(pairs)
}

/// Fails unless `at` is an element of `out`.
pub(super) fn element<D: Device>(what: &str, out: &Accs<D>, at: usize) -> Result<()> {
    match at < D::len(out) {
        true => Ok(()),
        false => Err(Error::Extent { what: what.into(), want: at + 1, got: D::len(out) }),
    }
}

/// Returns the elements.
pub(super) fn adamw<D: Device>(param: &Acts<D>, master: &Accs<D>, m: &Accs<D>, v: &Accs<D>, grad: &Accs<D>) -> Result<usize> {
    let n = D::len(grad);
    act::<D>("adamw: param", param, n)?;
    acc::<D>("adamw: master", master, n)?;
    acc::<D>("adamw: m", m, n)?;
    acc::<D>("adamw: v", v, n)?;
    Ok(n)
}
