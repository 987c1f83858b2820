// Log-probabilities, their normaliser and their entropy from tiles of logits, and the gradient at a tile.
//
//   with l = scale * logit over the whole vocabulary: lse = ln sum e^l, logprob = l[target] - lse, entropy = lse - sum softmax(l) l
//   dl = dlogprob * (onehot(target) - e^(l - lse))
//
// The head's product comes from elsewhere in tiles logits[rows, width] of the vocabulary first..first + width, in f32 and
// unscaled; a tile is used and overwritten, so the logits never exist whole. Between tiles state[rows, 4] carries, of each row,
// the largest l so far m, sum e^(l - m), sum e^(l - m) (l - m), and l[target]. Entropy is ln(sum) - weighted / sum.
//
// A block takes a row: a tile is read once, 16 bytes a thread, each thread with statistics of its own that move to a new largest
// when one comes; the block meets once, at the end. The work is that of reading the tile, which the product has just left in L2.
#include "online.cuh"
#include "tile.cuh"

// Grid: x = rows. No dynamic shared memory. Launches over one vocabulary go in order of `first`, the first of them with first = 0.
// A target that is no token of the vocabulary (v) is reported, and its l[target] counts as 0.
extern "C" __global__ void __launch_bounds__(LOGPROB_THREADS)
logprob_fold(float* state, const float* logits, const unsigned* targets, unsigned* fault, int token, int rows, int first, int width, int v, float scale) {
    constexpr int N = Vec<float>::N;
    const float* row = logits + static_cast<size_t>(blockIdx.x) * width;
    Online mine = {-INFINITY, 0.0f, 0.0f};
    if (whole_vecs<float>(width)) {
        for (int column = threadIdx.x * N; column < width; column += LOGPROB_THREADS * N) {
            const Vec<float> raw = load_vec(row + column);
            const float l[N] = {scale * raw[0], scale * raw[1], scale * raw[2], scale * raw[3]};
            mine.add(l);
        }
    } else {
        for (int column = threadIdx.x; column < width; column += LOGPROB_THREADS) {
            const float l[1] = {scale * row[column]};
            mine.add(l);
        }
    }
    mine.rebase(block_max<LOGPROB_THREADS>(mine.top));
    mine.sum = block_sum<LOGPROB_THREADS>(mine.sum);
    mine.weighted = block_sum<LOGPROB_THREADS>(mine.weighted);
    if (threadIdx.x == 0) {
        float* saved = state + static_cast<size_t>(blockIdx.x) * 4;
        float of_target = 0.0f;
        if (first > 0) {
            mine.join({saved[0], saved[1], saved[2]});
            of_target = saved[3];
        }
        const unsigned target = targets[blockIdx.x];
        if (target >= static_cast<unsigned>(v)) {
            report_fault(fault, FAULT_TARGET, token + blockIdx.x, target);
        } else if (target >= static_cast<unsigned>(first) && target - first < static_cast<unsigned>(width)) {
            of_target = scale * row[target - first];
        }
        saved[0] = mine.top;
        saved[1] = mine.sum;
        saved[2] = mine.weighted;
        saved[3] = of_target;
    }
}

// Grid: x = ceil(rows / LOGPROB_THREADS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LOGPROB_THREADS)
logprob_finish(float* logprob, float* lse, float* entropy, const float* state, int rows) {
    const int row = static_cast<int>(blockIdx.x) * LOGPROB_THREADS + threadIdx.x;
    if (row < rows) {
        const Vec<float> saved = load_vec(state + static_cast<size_t>(row) * 4);
        const float log_sum = logf(saved[1]);
        lse[row] = saved[0] + log_sum;
        // In this order: the target's logit may be large and close to the largest.
        logprob[row] = (saved[3] - saved[0]) - log_sum;
        entropy[row] = log_sum - saved[2] / saved[1];
    }
}

// Grid: x = rows, y = ceil(width / LOGPROB_COLUMNS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LOGPROB_THREADS)
logprob_dlogits(act* dl, const float* logits, const float* dlogprob, const float* lse, const unsigned* targets, int rows, int first, int width, float scale) {
    constexpr int N = Vec<float>::N;
    const size_t at = static_cast<size_t>(blockIdx.x) * width;
    const float d = dlogprob[blockIdx.x], lse_of_row = lse[blockIdx.x];
    // Wraps round, past every column, where the target comes before this tile.
    const unsigned target = targets[blockIdx.x] - static_cast<unsigned>(first);
    const bool whole = whole_vecs<act>(width);
    const int begin = static_cast<int>(blockIdx.y) * LOGPROB_COLUMNS;
    const int end = min(width, begin + LOGPROB_COLUMNS);
    for (int column = begin + threadIdx.x * VEC; column < end; column += LOGPROB_THREADS * VEC) {
        Vec<act> out;
#pragma unroll
        for (int part = 0; part < VEC; part += N) {
            const Vec<float> l = load_part(logits + at + column + part, width - column - part, whole);
#pragma unroll
            for (int e = 0; e < N; ++e) {
                const float hit = static_cast<unsigned>(column + part + e) == target ? 1.0f : 0.0f;
                out[part + e] = from_float<act>(d * (hit - decay(scale * l[e] - lse_of_row)));
            }
        }
        store_part(dl + at + column, out, width - column, whole);
    }
}
