// Sums and maxima over a warp and over a block, for float and double.
//
//   warp: x_l <- x_l op x_{l xor m} for m = 16, 8, 4, 2, 1
//   block: each warp, then one value a warp through shared memory, then the same butterfly over those in every warp
//
// A butterfly rather than a tree: at each step both partners add the same two numbers, and addition commutes, so every lane
// ends with the same bits and nothing has to be sent back. The order is fixed by lane and warp alone, so results are
// deterministic. A block's partials take one word a warp.
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

// The sum over all threads of the block, in every thread. All threads must call it; it may be called again at once.
template <int THREADS, typename T>
__device__ __forceinline__ T block_sum(T x) {
    static_assert(THREADS % WARP == 0 && THREADS <= WARP * WARP, "a warp must be able to hold one value of each warp");
    constexpr int WARPS = THREADS / WARP;
    SHARED(T, partials, WARPS);
    const int lane = threadIdx.x % WARP;
    x = warp_sum(x);
    if (lane == 0) {
        partials[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = warp_sum(lane < WARPS ? partials[lane] : T(0));
    // The next call writes the partials again.
    __syncthreads();
    return x;
}

// The largest over all threads of the block, in every thread; NaN is passed over. As block_sum to call.
template <int THREADS, typename T>
__device__ __forceinline__ T block_max(T x) {
    static_assert(THREADS % WARP == 0 && THREADS <= WARP * WARP, "a warp must be able to hold one value of each warp");
    constexpr int WARPS = THREADS / WARP;
    SHARED(T, partials, WARPS);
    const int lane = threadIdx.x % WARP;
    x = warp_max(x);
    if (lane == 0) {
        partials[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = warp_max(partials[lane < WARPS ? lane : 0]);
    __syncthreads();
    return x;
}

// out[j] += sum over rows i of term_j(i), for the COLUMN_SUM_COLUMNS columns that the block owns. `add(sums, i, j)` adds the
// terms of row i and columns j .. j + PIECE to `sums`.
//
// Four lanes side by side cover the columns, 64 bytes of a bf16 row; every other quadruple of the block takes another row, 256
// rows apart. A gradient of 5120 columns is then 160 blocks of 32 warps, enough to draw on the whole memory, and one float is
// added to a column once, by one thread, in an order that extents alone decide.
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
#pragma unroll 2
    for (int i = threadIdx.x / ACROSS; i < rows; i += THREADS / ACROSS) {
        add(sums, i, first + own);
    }
#pragma unroll
    for (int k = 0; k < PIECE; ++k) {
#pragma unroll
        for (int m = WARP / 2; m >= ACROSS; m /= 2) {
            sums[k] += __shfl_xor_sync(WHOLE_WARP, sums[k], m);
        }
        if (lane < ACROSS) {
            partials[warp * PITCH + own + k] = sums[k];
        }
    }
    __syncthreads();
    // The pitch is odd, so that a warp reads a column of the partials from 32 banks.
    for (int j = warp; j < COLUMN_SUM_COLUMNS; j += WARPS) {
        const float sum = warp_sum(lane < WARPS ? partials[lane * PITCH + j] : 0.0f);
        if (lane == 0 && first + j < columns) {
            out[first + j] += sum;
        }
    }
}
