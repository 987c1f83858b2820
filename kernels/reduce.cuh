// Sums and maxima over a warp and over a block, for float and double.
//
//   warp: x_l <- x_l op x_{l xor m} for m = 16, 8, 4, 2, 1
//   block: each warp so, then the warps' values in their order
//
// A butterfly rather than a tree: at each step both partners add the same two numbers, and addition commutes, so every lane ends
// with the same bits and nothing has to be sent back. The warps' values go through shared memory, one word each, where every
// thread adds them up for itself: reads of one address by all are as fast as a second butterfly and need no second exchange. The
// order is fixed by lane and warp alone, so results are deterministic.
#pragma once
#include "act.cuh"

constexpr int WARP = 32;
constexpr unsigned WHOLE_WARP = 0xffffffffu;

template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int m = WARP / 2; m > 0; m /= 2) {
        x += __shfl_xor_sync(WHOLE_WARP, x, m);
    }
    return x;
}

// NaN is passed over, as the CPU's does.
template <typename T>
__device__ __forceinline__ T warp_max(T x) {
#pragma unroll
    for (int m = WARP / 2; m > 0; m /= 2) {
        const T other = __shfl_xor_sync(WHOLE_WARP, x, m);
        x = other > x ? other : x;
    }
    return x;
}

// The sums of N numbers over all threads of the block, in every thread. All threads must call it; it may be called again at once.
template <int THREADS, int N, typename T>
__device__ __forceinline__ void block_sums(T (&x)[N]) {
    static_assert(THREADS % WARP == 0, "warps are whole");
    constexpr int WARPS = THREADS / WARP;
    SHARED(T, partials, N * WARPS);
#pragma unroll
    for (int k = 0; k < N; ++k) {
        x[k] = warp_sum(x[k]);
        if (threadIdx.x % WARP == 0) {
            partials[k * WARPS + threadIdx.x / WARP] = x[k];
        }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) {
        x[k] = partials[k * WARPS];
#pragma unroll
        for (int w = 1; w < WARPS; ++w) {
            x[k] += partials[k * WARPS + w];
        }
    }
    // The next call writes the partials again.
    __syncthreads();
}

template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T x) {
    T one[1] = {x};
    block_sums<THREADS>(one);
    return one[0];
}

// The largest over all threads of the block, in every thread; NaN is passed over. As block_sums to call.
template <int THREADS, typename T>
__device__ __forceinline__ T block_max(T x) {
    static_assert(THREADS % WARP == 0, "warps are whole");
    constexpr int WARPS = THREADS / WARP;
    SHARED(T, partials, WARPS);
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) {
        partials[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = partials[0];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) {
        x = partials[w] > x ? partials[w] : x;
    }
    __syncthreads();
    return x;
}

// out[j] += sum over rows i of term_j(i), for the COLUMN_SUM_COLUMNS columns that the block owns. `add(sums, i, j)` adds the
// terms of row i and columns j .. j + PIECE to `sums`.
//
// Four lanes side by side cover the columns, 64 bytes of a bf16 row; every other quadruple of the block takes another row, 128
// rows apart. A gradient of 5120 columns is then 160 blocks of 16 warps: two fit on a multiprocessor, so that none of them waits
// for a second turn. A column is added to once, by one thread, in an order that the extents alone decide.
template <int THREADS, typename Add>
__device__ __forceinline__ void add_column_sums(float* out, int rows, int columns, Add add) {
    constexpr int WARPS = THREADS / WARP;
    constexpr int ACROSS = COLUMN_SUM_COLUMNS / PIECE;
    constexpr int PITCH = COLUMN_SUM_COLUMNS + 1;
    SHARED(float, partials, WARPS * PITCH);
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    const int first = blockIdx.x * COLUMN_SUM_COLUMNS;
    const int own = lane % ACROSS * PIECE;
    float sums[PIECE] = {};
#pragma unroll 4
    for (int i = threadIdx.x / ACROSS; i < rows; i += THREADS / ACROSS) {
        add(sums, i, first + own);
    }
    // The lanes of a quadruple's columns halve what they hold at each exchange, rather than all adding up all of it: each ends
    // with one column's sum.
    static_assert(PIECE * ACROSS == WARP, "a lane for each column");
    int column = 0;
#pragma unroll
    for (int n = PIECE / 2; n > 0; n /= 2) {
        const bool upper = (lane & n * ACROSS) != 0;
        column += upper ? n : 0;
#pragma unroll
        for (int k = 0; k < n; ++k) {
            const float other = __shfl_xor_sync(WHOLE_WARP, upper ? sums[k] : sums[k + n], n * ACROSS);
            sums[k] = (upper ? sums[k + n] : sums[k]) + other;
        }
    }
    partials[warp * PITCH + own + column] = sums[0];
    __syncthreads();
    // The pitch is odd, so that a warp reads a column of the partials from 32 banks.
    for (int j = warp; j < COLUMN_SUM_COLUMNS; j += WARPS) {
        const float sum = warp_sum(lane < WARPS ? partials[lane * PITCH + j] : 0.0f);
        if (lane == 0 && first + j < columns) {
            out[first + j] += sum;
        }
    }
}
