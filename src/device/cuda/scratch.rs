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

/// What `attention_bwd` sums over a head's columns, f32.
pub(in crate::device) fn attention_delta(t: usize, q: usize) -> usize {
    t * q
}

/// Multiprocessors of the GPUs that are planned for.
pub(in crate::device) const MULTIPROCESSORS: usize = 132;

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

/// The gradient at a branch's narrow side, f32; one branch at a time.
pub(in crate::device) fn branch_gradient(t: usize, r: usize) -> usize {
    t * r
}

/// The two sums of `moments`, f64.
pub(in crate::device) const MOMENTS: usize = 2;

/// Rotary frequencies of heads of width `dim`, f32, kept as long as the device.
pub(in crate::device) fn frequencies(dim: usize) -> usize {
    dim / 2
}
