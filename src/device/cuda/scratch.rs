//! What operators allocate for themselves, in elements, and the tiles they work in. It stands here and not in the operators' files
//! because [`Meter`](crate::device::Meter) counts the same buffers without launching anything.

use super::kernel;
use crate::device::Heads;

/// Elements of the buffer that kernels report bad ids to, kept as long as the device.
pub(in crate::device) const FAULT: usize = 4;

/// Tokens and vocabulary of a tile of logits: 64 MiB of f32, tall enough that the head's matrix is read at the speed of arithmetic.
pub(in crate::device) const TOKENS: usize = 1024;
pub(in crate::device) const VOCABULARY: usize = 16 * 1024;

/// Parts that a decoded sequence is cut into at most: their joining is read by one block a head.
const MOST_SPLITS: usize = 64;

/// Elements that are worth a block of the sum of squares.
const SPAN: usize = 32 * 1024;

/// Logits of a tile.
pub(in crate::device) fn logits_tile(t: usize, v: usize) -> usize {
    TOKENS.min(t) * VOCABULARY.min(v)
}

/// What `linear_logprob_fwd` keeps of each token between tiles, f32.
pub(in crate::device) fn logprob_state(t: usize) -> usize {
    4 * t
}

/// Where the tiles of the vocabulary add up in `linear_logprob_bwd`, f32.
pub(in crate::device) fn logprob_sums(t: usize, c: usize) -> usize {
    TOKENS.min(t) * c
}

/// Whether the head of the build of activations of so many bytes is multiplied and counted by one kernel: bf16, in whole 16-byte pieces.
/// What it then needs follows; else the tiles above.
pub(in crate::device) fn logprob_sm90(act_bytes: usize, (t, c, v): (usize, usize, usize)) -> bool {
    act_bytes == 2 && t * c * v > 0 && c.is_multiple_of(8) && v.is_multiple_of(8)
}

/// States of a row: one for each range of the vocabulary.
pub(in crate::device) fn logprob_ranges(v: usize) -> usize {
    v.div_ceil((kernel::GEMM_N * kernel::LOGPROB_RANGE) as usize)
}

/// What `linear_logprob_fwd` keeps of each token and range, f32.
pub(in crate::device) fn logprob_states(t: usize, v: usize) -> usize {
    4 * t * logprob_ranges(v)
}

/// The list of tokens that have a gradient, and its length, u32.
pub(in crate::device) fn logprob_rows(t: usize) -> usize {
    t + 1
}

/// Bytes that a wave of tokens may take.
const WAVE: usize = 256 << 20;

/// Multiprocessors of the cards that waves are cut for: H100 and H200 (SXM). On another card they are as right and less even.
pub(in crate::device) const MULTIPROCESSORS: usize = 132;

/// Tokens of a wave of `linear_logprob_bwd`, of which it holds the inputs and the gradients at all logits: the tiles of rows, as many as
/// fit into [`WAVE`], with which both products take the fewest steps; of several such the fewest rows.
pub(in crate::device) fn logprob_wave((t, c, v): (usize, usize, usize)) -> usize {
    let (rows, columns, step) = (kernel::GEMM_M as usize, kernel::GEMM_N as usize, kernel::GEMM_K as usize);
    let tiles = t.div_ceil(rows);
    let turns = |high: usize, width: usize| (high * width.div_ceil(columns)).div_ceil(MULTIPROCESSORS);
    let steps = |high: usize| turns(high, v) * c.div_ceil(step) + turns(high, c) * v.div_ceil(step);
    let all = |high: usize| tiles / high * steps(high) + steps(tiles % high);
    let most = (WAVE / (2 * rows * (v + c))).clamp(1, tiles.max(1));
    let high = (1..=most).min_by_key(|&high| all(high)).unwrap_or(1);
    t.min(high * rows)
}

/// Parts that a sequence's cache is cut into. By the capacity alone: here, at least, a sequence's sums do not depend on who shares
/// its batch.
pub(in crate::device) fn decode_splits(capacity: usize) -> usize {
    capacity.div_ceil(kernel::DECODE_SPLIT_KEYS as usize).clamp(1, MOST_SPLITS)
}

/// Sums and maxima of those parts, f32, of `q` heads of width `dim`.
pub(in crate::device) fn decode_partial(batch: usize, q: usize, dim: usize, capacity: usize) -> usize {
    batch * q * decode_splits(capacity) * (dim + 2)
}

/// Parts of a sum of squares, f64. The number depends on the extent alone, so that another card sums in the same order.
pub(in crate::device) fn square_parts(len: usize) -> usize {
    len.div_ceil(SPAN).clamp(1, 1024)
}

/// Whether attention forward of the build of activations of so many bytes runs on a warpgroup's tensor cores.
pub(in crate::device) fn attention_fwd_sm90(act_bytes: usize, dim: usize) -> bool {
    act_bytes == 2 && (dim == 64 || dim == 128)
}

/// Tiles of queries over all sequences between `bounds`, for those tensor cores.
pub(in crate::device) fn attention_fwd_tiles(bounds: &[u32]) -> usize {
    bounds.windows(2).map(|pair| (pair[1] - pair[0]).div_ceil(kernel::ATTENTION_SM90_ROWS) as usize).sum()
}

/// The counter and the list of so many tiles, u32.
pub(in crate::device) fn attention_fwd_order(tiles: usize) -> usize {
    1 + tiles * kernel::ATTENTION_FWD_SM90_ENTRY as usize
}

/// What `attention_bwd` sums over a head's columns, f32.
pub(in crate::device) fn attention_delta(t: usize, q: usize) -> usize {
    t * q
}

/// Tokens from which on a tile of the product that takes branches along is worth its size; fewer are the library's and the small kernels'.
const RIDES: usize = 128;

/// Whether the branches of a map ride in its product, in the build of activations of so many bytes: bf16, in whole 16-byte pieces.
pub(in crate::device) fn rides(act_bytes: usize, (t, n, k): (usize, usize, usize)) -> bool {
    act_bytes == 2 && t >= RIDES && n * k > 0 && n.is_multiple_of(8) && k.is_multiple_of(8)
}

/// Columns and rank of a branch.
pub(in crate::device) type Low = (usize, usize);

/// Groups of ranks that a block of lora_dz_db or lora_da sums.
fn rank_groups(r: usize) -> usize {
    r.div_ceil(kernel::LORA_RANKS as usize)
}

/// Strips of the columns of `dout`.
fn strips(n: usize) -> usize {
    n.div_ceil(kernel::LORA_DOUT_COLUMNS as usize)
}

/// Blocks side by side of lora_dz_db.
pub(in crate::device) fn dout_blocks(lows: &[Low]) -> usize {
    lows.iter().map(|&(n, r)| strips(n) * rank_groups(r)).sum()
}

/// Blocks side by side of lora_da, and how often x is read.
pub(in crate::device) fn x_blocks(k: usize, lows: &[Low]) -> (usize, usize) {
    let groups: usize = lows.iter().map(|&(_, r)| rank_groups(r)).sum();
    (k.div_ceil(kernel::LORA_X_COLUMNS as usize), groups.div_ceil(kernel::LORA_BRANCHES as usize))
}

/// Tokens of a part where `blocks` stand side by side, and the number of parts. By the extents alone, so that another card sums in the
/// same order.
pub(in crate::device) fn token_parts(t: usize, blocks: usize) -> (usize, usize) {
    let wanted = (kernel::LORA_BLOCKS as usize).div_ceil(blocks.max(1));
    let part = t.div_ceil(wanted).next_multiple_of(kernel::LORA_BATCH as usize).max(kernel::LORA_BATCH as usize);
    (part, t.div_ceil(part))
}

/// What the strips of `dout` add to the gradient at the narrow side, f32.
pub(in crate::device) fn dz_parts(t: usize, lows: &[Low]) -> usize {
    t * lows.iter().map(|&(n, r)| strips(n) * r).sum::<usize>()
}

/// What parts of the tokens add to the gradients of `b`, f32.
pub(in crate::device) fn db_parts(t: usize, lows: &[Low]) -> usize {
    token_parts(t, dout_blocks(lows)).1 * lows.iter().map(|&(n, r)| n * r).sum::<usize>()
}

/// What parts of the tokens add to the gradients of `a`, f32.
pub(in crate::device) fn da_parts(t: usize, k: usize, lows: &[Low]) -> usize {
    let (across, passes) = x_blocks(k, lows);
    token_parts(t, across * passes).1 * k * lows.iter().map(|&(_, r)| r).sum::<usize>()
}

/// How kernels/attention_bwd_sm90.cu goes over packed sequences, and what it keeps meanwhile.
pub(in crate::device) struct AttentionBwd {
    /// Tiles of `ATTENTION_ROWS` queries of all sequences.
    pub tiles: usize,
    /// Tiles of `ATTENTION_BWD_SM90_KEYS` keys of all sequences.
    pub key_tiles: usize,
    /// Blocks that share the query heads of a key-value head, each with a part of the sums dK and dV.
    pub parts: usize,
    /// dQ, f32.
    pub dq: usize,
    /// dK and dV where there is more than one part, f32.
    pub dkv: usize,
    /// Whose turn it is to add to each half of a tile of dQ, and how many blocks have begun, u32.
    pub turns: usize,
}

impl AttentionBwd {
    /// None: the kernels are not for activations of so many bytes and heads of that width.
    pub fn new(act: usize, bounds: &[u32], heads: Heads, multiprocessors: usize) -> Option<AttentionBwd> {
        if act != 2 || heads.q == 0 || !matches!(heads.dim, 64 | 128) {
            return None;
        }
        let (rows, keys) = (kernel::ATTENTION_ROWS as usize, kernel::ATTENTION_BWD_SM90_KEYS as usize);
        let lengths = || bounds.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
        let tiles = lengths().map(|length| length.div_ceil(rows)).sum();
        let longest = lengths().map(|length| length.div_ceil(rows)).max().unwrap_or(0);
        // Pairs of a tile of queries and one of keys, over all query heads: what blocks share.
        let of_sequence = |length: usize| -> usize {
            (0..length.div_ceil(keys)).map(|tile| length.div_ceil(rows) - tile * (keys / rows)).sum()
        };
        let steps: usize = heads.q * lengths().map(of_sequence).sum::<usize>();
        // The longest block may take what each multiprocessor gets where all get the same.
        let group = heads.q / heads.kv;
        let fits = |parts: &usize| group.is_multiple_of(*parts) && group / parts * longest * multiprocessors <= steps;
        let parts = (1..group).find(fits).unwrap_or(group);
        let dkv = if parts > 1 { parts * 2 * heads.kv * tiles * rows * heads.dim } else { 0 };
        Some(AttentionBwd {
            tiles,
            key_tiles: lengths().map(|length| length.div_ceil(keys)).sum(),
            parts,
            dq: heads.q * tiles * rows * heads.dim,
            dkv,
            turns: 1 + 2 * heads.q * tiles,
        })
    }
}

/// The two sums of `moments`, f64.
pub(in crate::device) const MOMENTS: usize = 2;

/// Rotary frequencies of heads of width `dim`, f32, kept as long as the device.
pub(in crate::device) fn frequencies(dim: usize) -> usize {
    dim / 2
}

/// Words of the memory that is set aside for the buffers of a step that is repeated, which take so many bytes.
pub(in crate::device) fn arena(bytes: usize) -> usize {
    bytes.div_ceil(size_of::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Qwen2.5-32B's head: 6 by 20 tiles of the second product are the most even that 256 MiB hold. Small ones go at once.
    #[test]
    fn waves_are_even_and_small_enough() {
        let (c, v) = (5120, 152_064);
        let wave = logprob_wave((4096, c, v));
        assert_eq!(wave, 768);
        assert!(2 * wave * (v + c) <= WAVE);
        assert_eq!(logprob_wave((1, c, v)), 1);
        assert_eq!(logprob_wave((300, 64, 512)), 300);
        // 133 tiles of rows are two turns, in one wave or in two.
        assert_eq!(logprob_wave((132 * 128 + 1, 8, 8)), 67 * 128);
    }
}
