//! What operators allocate for themselves, in elements, and the tiles they work in. It stands here and not in the operators' files
//! because [`Meter`](crate::device::Meter) counts the same buffers without launching anything.

use super::kernel;

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

/// Words of the memory that is set aside for the buffers of a step that is repeated, which take so many bytes.
pub(in crate::device) fn arena(bytes: usize) -> usize {
    bytes.div_ceil(size_of::<u32>())
}
