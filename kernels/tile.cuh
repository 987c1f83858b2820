// Products of tiles by one warp, d[16, 8 N] += a b, for kernels that keep what they accumulate in registers.
//
// An accumulator is mma.sync's own fragment (PTX ISA, "Matrix Fragments for mma.m16n8k16"): N tiles of 16 rows and 8 columns,
// four numbers of each a lane. With g = lane / 4 and c = lane % 4, number i of tile n is
//
//   row g + 8 (i / 2), column 8 n + 2 c + i % 2
//
// so a row lives in the four lanes of a quad, and a sum over a row is a sum over one's own numbers and two shuffles. Two
// neighbouring tiles of an accumulator are, number by number, the left operand of the next product: softmax's output goes from
// one product to the next without leaving the registers.
//
// In shared memory operands are row-major with PITCH elements a row. A pitch of an odd number of 16-byte units puts the eight
// rows that ldmatrix reads at once into different banks.
//
// The float build computes the same fragments with fmaf in order of k, so that every kernel is one source and its index
// arithmetic can be held tightly against the CPU; where the tensor cores move numbers between lanes, it shuffles.
#pragma once
#include "act.cuh"
#include "mma.cuh"
#include "reduce.cuh"

constexpr bool TENSOR_CORES = sizeof(act) == 2;

// Elements of one vector.
constexpr int VEC = Vec<act>::N;

__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % WARP; }

// Row of number `i` of an accumulator's tile.
__device__ __forceinline__ int tile_row(int i) { return lane_of_warp() / 4 + i / 2 * 8; }

// Column of number `i` of an accumulator's tile `n`.
__device__ __forceinline__ int tile_column(int n, int i) { return 8 * n + lane_of_warp() % 4 * 2 + i % 2; }

// Over the four lanes that share a row.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(WHOLE_WARP, x, 1);
    return x + __shfl_xor_sync(WHOLE_WARP, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, 2));
}

// Up to a vector's worth of elements at `p`, zeros after the first `left` (which may be negative). `aligned`: p is a multiple
// of 16 bytes wherever a whole vector is left.
template <typename T>
__device__ __forceinline__ Vec<T> load_part(const T* p, int left, bool aligned) {
    if (aligned && left >= Vec<T>::N) {
        return load_vec(p);
    }
    Vec<T> v;
#pragma unroll
    for (int e = 0; e < Vec<T>::N; ++e) {
        v[e] = e < left ? p[e] : from_float<T>(0.0f);
    }
    return v;
}

template <typename T>
__device__ __forceinline__ void store_part(T* p, const Vec<T>& v, int left, bool aligned) {
    if (aligned && left >= Vec<T>::N) {
        store_vec(p, v);
        return;
    }
#pragma unroll
    for (int e = 0; e < Vec<T>::N; ++e) {
        if (e < left) {
            p[e] = v[e];
        }
    }
}

// Two neighbours of a row as one register of an operand.
__device__ __forceinline__ unsigned pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    unsigned word;
    memcpy(&word, &pair, sizeof(word));
    return word;
}

// d[16, 8 N] += a[16, K] b[8 N, K]^T.
template <int N, int K, int PITCH>
__device__ __forceinline__ void multiply_nt(float (&d)[N][4], const act* a, const act* b) {
    static_assert(N % 2 == 0 && K % 16 == 0, "one ldmatrix reads 16 rows and 16 columns");
    const int lane = lane_of_warp();
    if constexpr (TENSOR_CORES) {
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            unsigned left[4];
            ldmatrix_x4(left, a + lane % 16 * PITCH + k + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                unsigned right[4];
                ldmatrix_x4(right, b + (8 * n + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8);
                const unsigned even[2] = {right[0], right[1]};
                const unsigned odd[2] = {right[2], right[3]};
                mma_m16n8k16(d[n], left, even);
                mma_m16n8k16(d[n + 1], left, odd);
            }
        }
    } else {
        const act* top = a + lane / 4 * PITCH;
        const act* columns = b + lane % 4 * 2 * PITCH;
#pragma unroll 1
        for (int k = 0; k < K; ++k) {
            const float x = to_float(top[k]);
            const float y = to_float(top[8 * PITCH + k]);
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const float even = to_float(columns[8 * n * PITCH + k]);
                const float odd = to_float(columns[(8 * n + 1) * PITCH + k]);
                d[n][0] = fmaf(x, even, d[n][0]);
                d[n][1] = fmaf(x, odd, d[n][1]);
                d[n][2] = fmaf(y, even, d[n][2]);
                d[n][3] = fmaf(y, odd, d[n][3]);
            }
        }
    }
}

// d[16, 8 N] += p[16, 8 K8] b[8 K8, 8 N], where p is an accumulator, rounded to act.
template <int N, int K8, int PITCH>
__device__ __forceinline__ void multiply_nn(float (&d)[N][4], const float (&p)[K8][4], const act* b) {
    static_assert(N % 2 == 0 && K8 % 2 == 0, "one ldmatrix reads 16 rows and 16 columns");
    const int lane = lane_of_warp();
    if constexpr (TENSOR_CORES) {
#pragma unroll
        for (int k = 0; k < K8; k += 2) {
            const unsigned left[4] = {pack(p[k][0], p[k][1]), pack(p[k][2], p[k][3]), pack(p[k + 1][0], p[k + 1][1]),
                                      pack(p[k + 1][2], p[k + 1][3])};
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                unsigned right[4];
                ldmatrix_x4_trans(right, b + (8 * k + lane % 16) * PITCH + 8 * n + lane / 16 * 8);
                const unsigned even[2] = {right[0], right[1]};
                const unsigned odd[2] = {right[2], right[3]};
                mma_m16n8k16(d[n], left, even);
                mma_m16n8k16(d[n + 1], left, odd);
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < K8; ++k) {
#pragma unroll 1
            for (int c = 0; c < 4; ++c) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float x = __shfl_sync(WHOLE_WARP, p[k][i], lane / 4 * 4 + c);
                    const float y = __shfl_sync(WHOLE_WARP, p[k][i + 2], lane / 4 * 4 + c);
                    const act* row = b + (8 * k + 2 * c + i) * PITCH + lane % 4 * 2;
#pragma unroll
                    for (int n = 0; n < N; ++n) {
                        const float even = to_float(row[8 * n]);
                        const float odd = to_float(row[8 * n + 1]);
                        d[n][0] = fmaf(x, even, d[n][0]);
                        d[n][1] = fmaf(x, odd, d[n][1]);
                        d[n][2] = fmaf(y, even, d[n][2]);
                        d[n][3] = fmaf(y, odd, d[n][3]);
                    }
                }
            }
        }
    }
}

// d[16, 8 N] += a[16, 4 VEC] b[8 N, 4 VEC]^T from registers, for operands that are read once and so gain nothing from shared
// memory: lane (g, c) holds elements VEC c .. VEC c + VEC of rows g and g + 8 of a, and of row 8 n + g of b. That is one
// 16-byte load an operand. mma.sync wants other elements of k in a lane, but a sum over k may take them in any order that both
// operands share.
template <int N>
__device__ __forceinline__ void multiply_registers(float (&d)[N][4], const Vec<act>& top, const Vec<act>& bottom,
                                                   const Vec<act> (&b)[N]) {
    if constexpr (TENSOR_CORES) {
        unsigned x[4], y[4];
        memcpy(x, &top, sizeof(x));
        memcpy(y, &bottom, sizeof(y));
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const unsigned left[4] = {x[k], y[k], x[k + 1], y[k + 1]};
#pragma unroll
            for (int n = 0; n < N; ++n) {
                unsigned z[4];
                memcpy(z, &b[n], sizeof(z));
                const unsigned right[2] = {z[k], z[k + 1]};
                mma_m16n8k16(d[n], left, right);
            }
        }
    } else {
        const int lane = lane_of_warp();
#pragma unroll 1
        for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                const float x = __shfl_sync(WHOLE_WARP, to_float(top[e]), lane / 4 * 4 + c);
                const float y = __shfl_sync(WHOLE_WARP, to_float(bottom[e]), lane / 4 * 4 + c);
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    const float even = __shfl_sync(WHOLE_WARP, to_float(b[n][e]), lane % 4 * 8 + c);
                    const float odd = __shfl_sync(WHOLE_WARP, to_float(b[n][e]), lane % 4 * 8 + 4 + c);
                    d[n][0] = fmaf(x, even, d[n][0]);
                    d[n][1] = fmaf(x, odd, d[n][1]);
                    d[n][2] = fmaf(y, even, d[n][2]);
                    d[n][3] = fmaf(y, odd, d[n][3]);
                }
            }
        }
    }
}
