//! Launches of kernels/attention_fwd.cu and attention_bwd.cu, and of kernels/attention_fwd_sm90.cu and attention_bwd_sm90.cu, which take
//! their place in bf16 for heads of 64 and 128 columns.

use super::driver::{Grid, TensorMap};
use super::{Act, Buf, Cuda, check, gemm, kernel, scratch};
use crate::device::{Bounds, Device, Heads};
use crate::error::{Error, Result};

/// The widest head that kernels exist for.
const WIDEST: usize = 128;

/// Fails where no kernel is wide enough.
pub(super) fn supported(op: &str, heads: Heads) -> Result<()> {
    match heads.dim <= WIDEST {
        true => Ok(()),
        false => {
            Err(Error::input(format!("{op}: heads"), format!("{} columns a head, where kernels take up to {WIDEST}", heads.dim)))
        }
    }
}

/// What scores are multiplied by.
pub(super) fn score_scale(heads: Heads) -> f32 {
    (1.0 / (heads.dim as f64).sqrt()) as f32
}

/// Tiles of rows over all sequences, and of the tokens past the last one.
fn tiles<A: Act>(bounds: &Bounds<Cuda<A>>, t: usize) -> usize {
    let rows = kernel::ATTENTION_ROWS as usize;
    let of_sequences: usize = bounds.host.windows(2).map(|pair| ((pair[1] - pair[0]) as usize).div_ceil(rows)).sum();
    of_sequences + (t - bounds.total()).div_ceil(rows)
}

/// What copies boxes of `high` rows and 64 columns, one head's or half of it, of a matrix `[t, columns]`.
fn boxes<A: Act>(cuda: &Cuda<A>, matrix: &Buf<A>, t: usize, columns: usize, high: u32) -> Result<TensorMap> {
    gemm::boxes(&*cuda.driver, matrix.pointer, t, columns, columns, high)
}

pub(super) fn attention_fwd<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    lse: &mut Buf<f32>,
    qkv: &Buf<A>,
    bounds: &Bounds<Cuda<A>>,
    heads: Heads,
    t: usize,
) -> Result<()> {
    check::attention_fwd::<Cuda<A>>(out, lse, qkv, bounds, heads, t)?;
    supported("attention_fwd", heads)?;
    if scratch::attention_fwd_sm90(size_of::<A>(), heads.dim) {
        return attention_fwd_sm90(cuda, out, lse, qkv, bounds, heads, t);
    }
    let narrow = heads.dim <= 64;
    let acts = if narrow { kernel::ATTENTION_FWD_D64_ACTS } else { kernel::ATTENTION_FWD_D128_ACTS };
    let grid = Grid::xy(tiles(bounds, t), heads.q).with_shared(acts as usize * size_of::<A>());
    let launch = if narrow { kernel::attention_fwd_d64 } else { kernel::attention_fwd_d128 };
    let [sequences, t, q, kv, dim] = [bounds.count(), t, heads.q, heads.kv, heads.dim].map(|x| x as i32);
    launch(cuda, grid, out, lse, qkv, &bounds.device, sequences, t, q, kv, dim, score_scale(heads))
}

/// On a warpgroup's tensor cores. The list of tiles is made anew by each call: one small launch costs less than keeping it in step
/// with bounds would.
fn attention_fwd_sm90<A: Act>(
    cuda: &Cuda<A>,
    out: &mut Buf<A>,
    lse: &mut Buf<f32>,
    qkv: &Buf<A>,
    bounds: &Bounds<Cuda<A>>,
    heads: Heads,
    t: usize,
) -> Result<()> {
    if t == 0 {
        return Ok(());
    }
    let tiles = scratch::attention_fwd_tiles(&bounds.host);
    let mut order = cuda.empty(scratch::attention_fwd_order(tiles))?;
    let (sequences, tail) = (bounds.count(), t - bounds.total());
    let grid = Grid::x(sequences.div_ceil(kernel::ATTENTION_FWD_SM90_ORDER_WARPS as usize).max(tail).max(1));
    let [sequences, tokens, q, kv, dim] = [sequences, t, heads.q, heads.kv, heads.dim].map(|x| x as i32);
    kernel::attention_fwd_sm90_order(cuda, grid, &mut order, out, lse, &bounds.device, sequences, tokens, q, dim)?;

    let narrow = heads.dim == 64;
    let shared = if narrow { kernel::ATTENTION_FWD_SM90_D64_BYTES } else { kernel::ATTENTION_FWD_SM90_D128_BYTES };
    let pairs = tiles * heads.q;
    let grid = Grid::x(pairs.min(cuda.driver().multiprocessors())).with_shared(shared as usize);
    let launch = if narrow { kernel::attention_fwd_sm90_d64 } else { kernel::attention_fwd_sm90_d128 };
    let map = boxes(cuda, qkv, t, heads.qkv_width(), kernel::ATTENTION_SM90_ROWS)?;
    launch(cuda, grid, out, lse, &map, &mut order, pairs as i32, tokens, q, kv, score_scale(heads))
}

pub(super) fn attention_bwd<A: Act>(
    cuda: &Cuda<A>,
    dqkv: &mut Buf<A>,
    dout: &Buf<A>,
    out: &Buf<A>,
    lse: &Buf<f32>,
    qkv: &Buf<A>,
    bounds: &Bounds<Cuda<A>>,
    heads: Heads,
    t: usize,
) -> Result<()> {
    check::attention_bwd::<Cuda<A>>(dqkv, dout, out, lse, qkv, bounds, heads, t)?;
    supported("attention_bwd", heads)?;
    let mut delta = cuda.empty(scratch::attention_delta(t, heads.q))?;
    let [sequences, tokens, q, kv, dim] = [bounds.count(), t, heads.q, heads.kv, heads.dim].map(|x| x as i32);
    let rows = Grid::x((t * heads.q).div_ceil(kernel::ATTENTION_DELTA_ROWS as usize));
    kernel::attention_delta(cuda, rows, &mut delta, dout, out, tokens, q, dim)?;
    let multiprocessors = cuda.driver.multiprocessors();
    if let Some(plan) = scratch::AttentionBwd::new(size_of::<A>(), &bounds.host, heads, multiprocessors) {
        return bwd_of_warpgroups(cuda, dqkv, dout, lse, &delta, qkv, bounds, heads, t, &plan);
    }

    let narrow = heads.dim <= 64;
    let acts = if narrow { kernel::ATTENTION_BWD_D64_ACTS } else { kernel::ATTENTION_BWD_D128_ACTS };
    let (tiles, shared, scale) = (tiles(bounds, t), acts as usize * size_of::<A>(), score_scale(heads));
    let of_queries = if narrow { kernel::attention_bwd_dq_d64 } else { kernel::attention_bwd_dq_d128 };
    let grid = Grid::xy(tiles, heads.q).with_shared(shared);
    of_queries(cuda, grid, dqkv, dout, lse, &delta, qkv, &bounds.device, sequences, tokens, q, kv, dim, scale)?;
    let of_keys = if narrow { kernel::attention_bwd_dkv_d64 } else { kernel::attention_bwd_dkv_d128 };
    let grid = Grid::xy(tiles, heads.kv).with_shared(shared + kernel::ATTENTION_BWD_DKV_FLOATS as usize * size_of::<f32>());
    of_keys(cuda, grid, dqkv, dout, lse, &delta, qkv, &bounds.device, sequences, tokens, q, kv, dim, scale)
}

/// kernels/attention_bwd_sm90.cu, after delta.
fn bwd_of_warpgroups<A: Act>(
    cuda: &Cuda<A>,
    dqkv: &mut Buf<A>,
    dout: &Buf<A>,
    lse: &Buf<f32>,
    delta: &Buf<f32>,
    qkv: &Buf<A>,
    bounds: &Bounds<Cuda<A>>,
    heads: Heads,
    t: usize,
    plan: &scratch::AttentionBwd,
) -> Result<()> {
    let (mut dq, mut dkv) = (cuda.empty(plan.dq)?, cuda.empty(plan.dkv)?);
    let mut turns = cuda.zeros::<u32>(plan.turns)?;
    let (narrow, scale) = (heads.dim == 64, score_scale(heads));
    let [sequences, tokens, q, kv] = [bounds.count(), t, heads.q, heads.kv].map(|x| x as i32);
    let [parts, own_tiles, ordered] = [plan.parts, plan.tiles, usize::from(!cuda.relaxed)].map(|x| x as i32);
    let bounds_of = &bounds.device;
    if plan.key_tiles > 0 {
        let qkv = boxes(cuda, qkv, t, heads.qkv_width(), kernel::ATTENTION_ROWS)?;
        let dout = boxes(cuda, dout, t, heads.q_width(), kernel::ATTENTION_ROWS)?;
        let bytes = if narrow { kernel::ATTENTION_BWD_SM90_D64_BYTES } else { kernel::ATTENTION_BWD_SM90_D128_BYTES };
        let grid = Grid::x(plan.key_tiles * heads.kv * plan.parts).with_shared(bytes as usize);
        let launch = if narrow { kernel::attention_bwd_sm90_d64 } else { kernel::attention_bwd_sm90_d128 };
        launch(
            cuda, grid, dqkv, &mut dq, &mut dkv, &mut turns, &qkv, &dout, lse, delta, bounds_of, sequences, tokens, q, kv, parts,
            own_tiles, ordered, scale,
        )?;
    }
    let all = tiles(bounds, t);
    // Of keys and values there is something to do only then.
    let finished = if plan.parts > 1 || all > plan.tiles { heads.q + 2 * heads.kv } else { heads.q };
    let launch = if narrow { kernel::attention_bwd_sm90_finish_d64 } else { kernel::attention_bwd_sm90_finish_d128 };
    launch(cuda, Grid::xy(all, finished), dqkv, &dq, &dkv, bounds_of, sequences, tokens, q, kv, parts, own_tiles, scale)
}
