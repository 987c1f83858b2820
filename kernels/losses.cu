// Losses over tokens and pairs, generalised advantage estimation, and the moments that whiten. The formulas stand in
// src/device.rs.
//
// Everything is a flat array of floats, one a token or two a pair, small beside any activation, and decides much: arithmetic is
// in double, rounded once where it is stored. Kernels that sum statistics are one block, so that a sum has one order and needs no
// scratch memory: 64 thousand tokens are 128 steps of it.
//
// gae is the recurrence a_i = delta_i + q a_{i+1}, q = gamma lambda, run from a sequence's end. Step i is the map x -> B + A x
// with B = delta_i and A = q, and maps compose: (A2, B2) after (A1, B1) is (A2 A1, B2 + A2 B1). Composition is associative, so
// a block scans 1024 tokens at a time: each thread composes its 4, a warp its 32 threads by shuffles, the block its 8 warps
// through shared memory; then each map is applied to the advantage carried over from the tokens behind. A sequence of n tokens
// costs n / 1024 steps in place of n.
#include "reduce.cuh"

__device__ __forceinline__ double clamped(double x, double low, double high) {
    // NaN stays NaN.
    return x < low ? low : (x > high ? high : x);
}

// stats[i] = the sum of sums[i] over the block.
template <int COUNT>
__device__ __forceinline__ void store_stats(float* stats, double (&sums)[COUNT]) {
    block_sums<LOSS_THREADS>(sums);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        if (threadIdx.x == 0) {
            stats[i] = static_cast<float>(sums[i]);
        }
    }
}

// Grid: 1, also where t = 0, for the statistics are set
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
ppo_clip(
    float* dlogprob, float* stats, const float* logprob, const float* old, const float* advantage, int t, float clip,
    double norm) {
    constexpr double LOG_RATIO = 20.0;
    const double low = 1.0 - static_cast<double>(clip);
    const double high = 1.0 + static_cast<double>(clip);
    double sums[5] = {};
    for (int i = threadIdx.x; i < t; i += LOSS_THREADS) {
        const double log_ratio = static_cast<double>(logprob[i]) - static_cast<double>(old[i]);
        const double gain = advantage[i];
        const double ratio = exp(clamped(log_ratio, -LOG_RATIO, LOG_RATIO));
        const double plain = ratio * gain;
        const double clipped = clamped(ratio, low, high) * gain;
        const bool is_clipped = clipped < plain;
        const double slope = is_clipped || fabs(log_ratio) > LOG_RATIO ? 0.0 : -plain;
        dlogprob[i] = static_cast<float>(norm * slope);
        sums[0] += is_clipped ? -clipped : -plain;
        sums[1] += is_clipped ? 1.0 : 0.0;
        sums[2] += ratio;
        sums[3] -= log_ratio;
        sums[4] += ratio - 1.0 - log_ratio;
    }
    store_stats(stats, sums);
}

// Grid: 1, also where t = 0, for the statistics are set
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
value_clip(
    float* dvalue, float* stats, const float* value, const float* old, const float* returns, int t, float clip, double norm) {
    const double bound = clip;
    double sums[2] = {};
    for (int i = threadIdx.x; i < t; i += LOSS_THREADS) {
        const double before = old[i];
        const double target = returns[i];
        const double moved = static_cast<double>(value[i]) - before;
        const double error = static_cast<double>(value[i]) - target;
        // Inside the bounds the two errors are one number; computed twice they would differ by rounding.
        const double clipped = fabs(moved) <= bound ? error : before + clamped(moved, -bound, bound) - target;
        const double plain_square = error * error;
        const double clipped_square = clipped * clipped;
        const bool is_clipped = clipped_square > plain_square;
        dvalue[i] = static_cast<float>(is_clipped ? 0.0 : norm * error);
        sums[0] += 0.5 * (is_clipped ? clipped_square : plain_square);
        sums[1] += is_clipped ? 1.0 : 0.0;
    }
    store_stats(stats, sums);
}

// x -> offset + factor x
struct Map {
    double factor;
    double offset;
};

__device__ __forceinline__ Map after(const Map& second, const Map& first) {
    return {second.factor * first.factor, second.offset + second.factor * first.offset};
}

// Grid: x = sequences + 1; the last block zeroes the tokens past the last bound. Where sequences = 0 it is the only one
extern "C" __global__ void __launch_bounds__(GAE_THREADS)
gae(
    float* advantage, float* returns, const float* reward, const float* value, const unsigned* bounds, int sequences, int t,
    float gamma, float lambda) {
    constexpr int ITEMS = 4;
    constexpr int WARPS = GAE_THREADS / WARP;
    const int sequence = blockIdx.x;
    const int begin = bounds[sequence];
    if (sequence == sequences) {
        for (int i = begin + threadIdx.x; i < t; i += GAE_THREADS) {
            advantage[i] = 0.0f;
            returns[i] = 0.0f;
        }
        return;
    }
    SHARED(Map, of_warps, WARPS);
    const int end = bounds[sequence + 1];
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    const double discount = gamma;
    const double factor = discount * static_cast<double>(lambda);
    double carried = 0.0;
    // Steps count from the sequence's end: thread 0 has the last tokens.
    for (int last = end - 1; last >= begin; last -= GAE_THREADS * ITEMS) {
        const int own = last - static_cast<int>(threadIdx.x) * ITEMS;
        double values[ITEMS];
        Map maps[ITEMS];
        Map whole = {1.0, 0.0};
        double next = own >= begin && own + 1 < end ? value[own + 1] : 0.0;
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            const int i = own - k;
            maps[k] = {1.0, 0.0};
            values[k] = 0.0;
            if (i >= begin) {
                values[k] = value[i];
                maps[k] = {factor, static_cast<double>(reward[i]) + discount * next - values[k]};
                next = values[k];
            }
            whole = after(maps[k], whole);
        }
        // Inclusive over the warp's lanes, then exclusive: what lies behind this thread's own tokens.
#pragma unroll
        for (int m = 1; m < WARP; m *= 2) {
            const Map before = {__shfl_up_sync(WHOLE_WARP, whole.factor, m), __shfl_up_sync(WHOLE_WARP, whole.offset, m)};
            if (lane >= m) {
                whole = after(whole, before);
            }
        }
        if (lane == WARP - 1) {
            of_warps[warp] = whole;
        }
        Map behind = {__shfl_up_sync(WHOLE_WARP, whole.factor, 1), __shfl_up_sync(WHOLE_WARP, whole.offset, 1)};
        if (lane == 0) {
            behind = {1.0, 0.0};
        }
        __syncthreads();
        double running = carried;
        for (int w = 0; w < WARPS; ++w) {
            if (w == warp) {
                running = behind.offset + behind.factor * carried;
            }
            carried = of_warps[w].offset + of_warps[w].factor * carried;
        }
#pragma unroll
        for (int k = 0; k < ITEMS; ++k) {
            const int i = own - k;
            running = maps[k].offset + maps[k].factor * running;
            if (i >= begin) {
                advantage[i] = static_cast<float>(running);
                returns[i] = static_cast<float>(running + values[k]);
            }
        }
        // The next step writes the warps' maps again.
        __syncthreads();
    }
}

// ln(1 + e^x) without overflow.
__device__ __forceinline__ double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

// Grid: 1, also where pairs = 0, for the statistics are set
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
bradley_terry(float* dscores, float* stats, const float* scores, const float* labels, int pairs, double norm) {
    double sums[2] = {};
    for (int i = threadIdx.x; i < pairs; i += LOSS_THREADS) {
        const double d = static_cast<double>(scores[2 * i]) - static_cast<double>(scores[2 * i + 1]);
        const double label = labels[i];
        const double slope = norm * (1.0 / (1.0 + exp(-d)) - label);
        dscores[2 * i] = static_cast<float>(slope);
        dscores[2 * i + 1] = static_cast<float>(-slope);
        sums[0] += label * softplus(-d) + (1.0 - label) * softplus(d);
        sums[1] += (d > 0.0 && label > 0.5) || (d < 0.0 && label < 0.5) ? 1.0 : 0.0;
    }
    store_stats(stats, sums);
}

// Grid: 1, also where n = 0, for both moments are set
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
moments(double* out, const float* x, int n, double shift) {
    double sums[2] = {};
    for (int i = threadIdx.x; i < n; i += LOSS_THREADS) {
        const double d = static_cast<double>(x[i]) - shift;
        sums[0] += d;
        sums[1] += d * d;
    }
    block_sums<LOSS_THREADS>(sums);
    if (threadIdx.x == 0) {
        out[0] = sums[0];
        out[1] = sums[1];
    }
}

// Grid: x = ceil(n / ELEMENTWISE_SPAN)
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
whiten(float* x, int n, double mean, double rstd) {
    const long long first = static_cast<long long>(blockIdx.x) * (ELEMENTWISE_SPAN) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < PIECE; ++k) {
        const long long i = first + k * ELEMENTWISE_THREADS;
        if (i < n) {
            x[i] = static_cast<float>((static_cast<double>(x[i]) - mean) * rstd);
        }
    }
}
