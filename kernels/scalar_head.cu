// The scalar head of reward and value models: one number a token.
//
//   out[i] = sum_j x[i, j] weight[j];  dx[i, j] = dout[i] weight[j];  dweight[j] += sum_i dout[i] x[i, j]
//
// x[t, c], row-major. Forward gives a token to a warp, so that the sum needs no shared memory and a batch of a few sequences
// still spreads over blocks; the backward pass writes a row in pieces of 8; the weight's gradient is the sum over rows of
// reduce.cuh. Sums are f32.
#include "reduce.cuh"

template <bool WHOLE>
__device__ __forceinline__ float dot(const act* x, const act* weight, int c) {
    float sum = 0.0f;
#pragma unroll 4
    for (int j = threadIdx.x % WARP * PIECE; j < c; j += WARP * PIECE) {
        const Piece<act> y = load_piece<WHOLE>(x + j, c - j);
        const Piece<act> w = load_piece<WHOLE>(weight + j, c - j);
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            sum += y[i] * w[i];
        }
    }
    return warp_sum(sum);
}

// Grid: x = ceil(t / SCALAR_HEAD_WARPS)
extern "C" __global__ void __launch_bounds__(SCALAR_HEAD_THREADS)
scalar_head_fwd(float* out, const act* x, const act* weight, int t, int c) {
    const int i = blockIdx.x * SCALAR_HEAD_WARPS + threadIdx.x / WARP;
    if (i >= t) {
        return;
    }
    x += static_cast<size_t>(i) * c;
    const float sum = whole_vecs<act>(c) ? dot<true>(x, weight, c) : dot<false>(x, weight, c);
    if (threadIdx.x % WARP == 0) {
        out[i] = sum;
    }
}

template <bool WHOLE>
__device__ __forceinline__ void scale_weight(act* dx, float d, const act* weight, int left) {
    const Piece<act> w = load_piece<WHOLE>(weight, left);
    float y[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        y[i] = d * w[i];
    }
    store_piece<WHOLE>(dx, Piece<act>::of(y), left);
}

// Grid: x = t, y = ceil(c / SCALAR_HEAD_COLUMNS)
extern "C" __global__ void __launch_bounds__(SCALAR_HEAD_THREADS)
scalar_head_bwd(act* dx, const float* dout, const act* weight, int t, int c) {
    const int j = (blockIdx.y * SCALAR_HEAD_THREADS + threadIdx.x) * PIECE;
    const float d = dout[blockIdx.x];
    dx += static_cast<size_t>(blockIdx.x) * c + j;
    if (whole_vecs<act>(c)) {
        scale_weight<true>(dx, d, weight + j, c - j);
    } else {
        scale_weight<false>(dx, d, weight + j, c - j);
    }
}

template <bool WHOLE>
__device__ __forceinline__ void add_dweight(float* dweight, const float* dout, const act* x, int t, int c) {
    add_column_sums<COLUMN_SUM_THREADS>(dweight, t, c, [&](float(&sums)[PIECE], int i, int j) {
        const Piece<act> y = load_piece<WHOLE>(x + static_cast<size_t>(i) * c + j, c - j);
        const float d = dout[i];
#pragma unroll
        for (int k = 0; k < PIECE; ++k) {
            sums[k] += d * y[k];
        }
    });
}

// Grid: x = ceil(c / COLUMN_SUM_COLUMNS)
extern "C" __global__ void __launch_bounds__(COLUMN_SUM_THREADS)
scalar_head_dweight(float* dweight, const float* dout, const act* x, int t, int c) {
    if (whole_vecs<act>(c)) {
        add_dweight<true>(dweight, dout, x, t, c);
    } else {
        add_dweight<false>(dweight, dout, x, t, c);
    }
}
