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
const MULTIPROCESSORS: usize = 132;

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
