// Linear maps with a low-rank branch, as one product:
//
//   forward (nt):   out[t, n] = x[t, k] w[n, k]^T + z[t, r] b[n, r]^T + bias[n]
//   backward (nn):  out[t, n] = x[t, k] w[k, n]   + z[t, r] b[r, n]           (there x is the gradient of an output, and out that of an input)
//
// added to what `out` holds with `accumulate`. Everything is bf16, sums are f32, and what is stored was rounded once: the branch rides
// in the loop over k (gemm_sm90.cuh) as its last steps, so it costs no pass over `out` of its own. At rank 4 and k = 5120 that is one step
// in 81 of a tile.
//
// Bytes: x, w and z, b once (re-reads come from L2), `out` written once, and read once where it is added to. Floor at 4096 x 5120 x 7168: 0.30
// TFLOP, 0.30 ms at 989 TFLOP/s against 175 MB, 0.05 ms at 3.35 TB/s (both derived).
//
// `wide` tiles are 128 by GEMM_N. Where there are so few tokens that even tiles of GEMM_NARROW columns have a multiprocessor each, those are
// taken: they need twice the bytes for an operation, but four times as many blocks read the weights. Either way a number is the same sum.
#include "gemm_sm90.cuh"

template <int N>
struct LinearEpilogue {
    const CUtensorMap* map;
    const act *out, *bias;
    int t, n;
    bool accumulate;
    GemmStaging staging;
    // Two columns each, of the tile under way.
    unsigned biases[N / 8];

    __device__ __forceinline__ void begin(GemmTile tile) {
        const GemmPlace<N> place(tile);
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            const int column = place.column + 8 * j;
            biases[j] = bias != nullptr && column < n ? *reinterpret_cast<const unsigned*>(bias + column) : 0;
        }
    }

    __device__ __forceinline__ void end(float (&d)[N / 2], GemmTile tile) {
        const GemmPlace<N> place(tile);
        const int row = tile.row * GEMM_M + (threadIdx.x / GEMM_WARPGROUP - 1) * 64;
#pragma unroll
        for (int part = 0; part < N / 64; ++part) {
            staging.store(map, row, tile.column * N + part * 64, [&](int j, int h) {
                const int of_d = part * 32 + 4 * j + 2 * h;
                const float2 b = float_pair(biases[part * 8 + j]);
                float x = d[of_d] + b.x, y = d[of_d + 1] + b.y;
                const int i = place.row + 8 * h, column = place.column + part * 64 + 8 * j;
                if (accumulate && i < t && column < n) {
                    const float2 before = float_pair(*reinterpret_cast<const unsigned*>(out + static_cast<size_t>(i) * n + column));
                    x += before.x;
                    y += before.y;
                }
                return bf16_pair(x, y);
            });
        }
    }

    __device__ __forceinline__ void finish() const { staging.finish(); }
};

template <int N, Major B>
__device__ __forceinline__ void linear(const GemmTerms& terms, const GemmTerms& tail, const CUtensorMap* map, const act* out, const act* bias, int t,
                                       int n, bool accumulate) {
    const LinearEpilogue<N> epilogue = {map, out, bias, t, n, accumulate};
    gemm<N, B>(terms, tail, GemmTiles((t + GEMM_M - 1) / GEMM_M, (n + N - 1) / N), epilogue);
}

// Grid: x = blocks, at most one a multiprocessor. Dynamic shared memory: GEMM_SHARED bytes. n is a multiple of 8, k is not 0; without a branch
// r is 0 and z, b are any maps. Boxes: x, z: 64 by GEMM_M; w, b: 64 by the tile's columns; to: 64 by 64.
extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
linear_nt(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap z, const __grid_constant__ CUtensorMap b, const __grid_constant__ CUtensorMap to, const act* out, const act* bias, int t, int n, int k, int r, int wide, int accumulate) {
    const GemmTerms terms = {&x, &w, k}, tail = {&z, &b, r};
    if (wide) {
        linear<GEMM_N, K_MAJOR>(terms, tail, &to, out, bias, t, n, accumulate);
    } else {
        linear<GEMM_NARROW, K_MAJOR>(terms, tail, &to, out, bias, t, n, accumulate);
    }
}

// Grid: as linear_nt; boxes of w and b: 64 by 64. Dynamic shared memory: GEMM_SHARED bytes.
extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
linear_nn(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w, const __grid_constant__ CUtensorMap z, const __grid_constant__ CUtensorMap b, const __grid_constant__ CUtensorMap to, const act* out, const act* bias, int t, int n, int k, int r, int wide, int accumulate) {
    const GemmTerms terms = {&x, &w, k}, tail = {&z, &b, r};
    if (wide) {
        linear<GEMM_N, MN_MAJOR>(terms, tail, &to, out, bias, t, n, accumulate);
    } else {
        linear<GEMM_NARROW, MN_MAJOR>(terms, tail, &to, out, bias, t, n, accumulate);
    }
}
