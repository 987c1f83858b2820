// AdamW (Loshchilov & Hutter 2019) and the square of a gradient's norm.
//
//   g = grad_scale grad;  m = old1 m + new1 g;  v = old2 v + new2 g^2
//   master = master - decay master - rate m / (sqrt(v widen) + eps);  param = master, rounded
//
// with rate = lr / (1 - beta1^step), widen = 1 / (1 - beta2^step) and decay = lr weight_decay, which the host computes in double.
//
// Flat arrays of n. A step reads 16 bytes and writes 14 for every parameter and does nothing else of weight, so a thread takes
// one piece of 8 from each array, all 8 loads of 16 bytes in flight at once. The square sums in double over fixed ranges, one a
// block: a second kernel adds the blocks' sums in one order, so that the norm that clips has the same bits in every run.
#include "reduce.cuh"

// Grid: x = parts; any number, for instance two for every multiprocessor. partial[parts] is overwritten
extern "C" __global__ void __launch_bounds__(SUM_SQUARES_THREADS)
sum_squares_partial(double* partial, const float* x, long long n, int parts) {
    constexpr int STEP = SUM_SQUARES_THREADS * PIECE;
    const long long pieces = (n + PIECE - 1) / PIECE;
    const long long range = (pieces + parts - 1) / parts * PIECE;
    const long long begin = blockIdx.x * range;
    const long long end = begin + range < n ? begin + range : n;
    double sums[PIECE] = {};
    long long i = begin + threadIdx.x * PIECE;
#pragma unroll 2
    for (; i + PIECE <= end; i += STEP) {
        const Piece<float> piece = load_piece<true>(x + i, PIECE);
#pragma unroll
        for (int k = 0; k < PIECE; ++k) {
            const double value = piece[k];
            sums[k] += value * value;
        }
    }
    // Of the thread whose piece the end cuts, the rest.
    for (; i < end && i + PIECE > end; ++i) {
        const double value = x[i];
        sums[0] += value * value;
    }
    double sum = 0.0;
#pragma unroll
    for (int k = 0; k < PIECE; ++k) {
        sum += sums[k];
    }
    sum = block_sum<SUM_SQUARES_THREADS>(sum);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = sum;
    }
}

// Grid: 1. out[at] is overwritten
extern "C" __global__ void __launch_bounds__(SUM_SQUARES_THREADS)
sum_squares_finish(float* out, int at, const double* partial, int parts) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < parts; i += SUM_SQUARES_THREADS) {
        sum += partial[i];
    }
    sum = block_sum<SUM_SQUARES_THREADS>(sum);
    if (threadIdx.x == 0) {
        out[at] = static_cast<float>(sum);
    }
}

struct Hyper {
    float rate, widen, decay, eps, grad_scale, old1, new1, old2, new2;
};

template <bool WHOLE>
__device__ __forceinline__ void update(
    act* param, float* master, float* m, float* v, const float* grad, int left, const Hyper& hyper) {
    const Piece<float> gradient = load_piece<WHOLE>(grad, left);
    const Piece<float> first = load_piece<WHOLE>(m, left);
    const Piece<float> second = load_piece<WHOLE>(v, left);
    const Piece<float> weight = load_piece<WHOLE>(master, left);
    float new_first[PIECE];
    float new_second[PIECE];
    float new_weight[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        const float g = hyper.grad_scale * gradient[i];
        new_first[i] = hyper.old1 * first[i] + hyper.new1 * g;
        new_second[i] = hyper.old2 * second[i] + hyper.new2 * g * g;
        // `p (1 - lr decay)` as a difference: the factor itself would round to 1 in f32.
        const float decayed = weight[i] - hyper.decay * weight[i];
        new_weight[i] = decayed - hyper.rate * new_first[i] / (sqrtf(new_second[i] * hyper.widen) + hyper.eps);
    }
    store_piece<WHOLE>(m, Piece<float>::of(new_first), left);
    store_piece<WHOLE>(v, Piece<float>::of(new_second), left);
    store_piece<WHOLE>(master, Piece<float>::of(new_weight), left);
    store_piece<WHOLE>(param, Piece<act>::of(new_weight), left);
}

// Grid: x = ceil(n / ELEMENTWISE_SPAN)
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
adamw(
    act* param, float* master, float* m, float* v, const float* grad, long long n, float rate, float widen, float decay,
    float eps, float grad_scale, float old1, float new1, float old2, float new2) {
    const Hyper hyper = {rate, widen, decay, eps, grad_scale, old1, new1, old2, new2};
    const long long i = (static_cast<long long>(blockIdx.x) * ELEMENTWISE_THREADS + threadIdx.x) * PIECE;
    if (i + PIECE <= n) {
        update<true>(param + i, master + i, m + i, v + i, grad + i, PIECE, hyper);
    } else {
        update<false>(param + i, master + i, m + i, v + i, grad + i, static_cast<int>(n - i), hyper);
    }
}
