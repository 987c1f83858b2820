// Causal grouped-query attention over packed sequences, backward (Dao 2023, algorithm 2). With S and P of the forward pass, P
// recomputed from the saved lse as e^(S - lse):
//
//   delta = rowsum(dout * out)          dP = dout V^T          dS = P * (dP - delta)
//   dQ = scale dS K                     dK = scale dS^T Q      dV = P^T dout
//
// Layout: qkv and dqkv[t, (q + 2 kv) dim], dout and out[t, q dim], lse and delta[q, t]; query head h reads key-value head
// h / (q / kv), whose gradient is the sum over its group of query heads.
//
// dQ sums over keys, dK and dV over queries. One kernel for all three would have to add one of them across blocks, by atomics
// whose order is not fixed or through scratch memory. Two kernels compute S and dP twice (seven products in place of five) and
// have neither: the same bits every time. In both a block has four warps of 16 rows and walks tiles of 64 rows of the other
// side, and tiles on the far side of the diagonal are not visited.
//
//   dq:  a block owns 64 queries of one query head; S and dP stand as [queries, keys].
//   dkv: a block owns 64 keys of one key-value head and walks the query heads of the group in turn; S and dP stand transposed,
//        [keys, queries], so that P^T and dS^T come out as the left operands of the products they enter, in registers.
//
// The rows that a block owns stay in shared memory, sums in registers. A query row past the sequence's end is loaded as zeros
// with lse = delta = 0: its P is 1, but dout and dS are 0 there, so it adds nothing.
#include "attention.cuh"

constexpr int TILES = ATTENTION_ROWS / 8;

template <int D>
__device__ __forceinline__ void backward_of_queries(act* dqkv, const act* dout, const float* lse, const float* delta,
                                                    const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv,
                                                    int dim, float scale) {
    constexpr int PITCH = D + ATTENTION_PAD;
    const Place place = find_tile(bounds, sequences, t, static_cast<int>(gridDim.x - 1 - blockIdx.x));
    const int head = static_cast<int>(blockIdx.y);
    const size_t stride = static_cast<size_t>(q + 2 * kv) * dim, out_stride = static_cast<size_t>(q) * dim;
    act* dq_tile = dqkv + place.first * stride + static_cast<size_t>(head) * dim;
    if (!place.in_sequence) {
        clear_tile(dq_tile, stride, place.rows, dim);
        return;
    }

    act* queries = reinterpret_cast<act*>(dynamic_shared());
    act* douts = queries + ATTENTION_ROWS * PITCH;
    act* keys = douts + ATTENTION_ROWS * PITCH;
    act* values = keys + ATTENTION_ROWS * PITCH;
    const act* k_of_head = qkv + static_cast<size_t>(q + head / (q / kv)) * dim;
    const act* v_of_head = k_of_head + static_cast<size_t>(kv) * dim;
    load_tile<D>(queries, qkv + place.first * stride + static_cast<size_t>(head) * dim, stride, place.rows, dim);
    load_tile<D>(douts, dout + place.first * out_stride + static_cast<size_t>(head) * dim, out_stride, place.rows, dim);

    const int row0 = threadIdx.x / WARP * 16;
    float lse_of_row[2], delta_of_row[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = row0 + tile_row(2 * half);
        const size_t at = static_cast<size_t>(head) * t + place.first + row;
        lse_of_row[half] = row < place.rows ? LOG2_E * lse[at] : 0.0f;
        delta_of_row[half] = row < place.rows ? delta[at] : 0.0f;
    }
    float dq[D / 8][4] = {};
    for (int first = place.begin; first <= place.first; first += ATTENTION_ROWS) {
        const int rows = min(ATTENTION_ROWS, place.end - first);
        __syncthreads();
        load_tile<D>(keys, k_of_head + first * stride, stride, rows, dim);
        load_tile<D>(values, v_of_head + first * stride, stride, rows, dim);
        __syncthreads();

        float s[TILES][4] = {}, ds[TILES][4] = {};
        multiply_nt<TILES, D, PITCH>(s, queries + row0 * PITCH, keys);
        multiply_nt<TILES, D, PITCH>(ds, douts + row0 * PITCH, values);
        const bool diagonal = first == place.first;
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float p = exp2f(scale * LOG2_E * s[n][i] - lse_of_row[i / 2]);
                const bool seen = !diagonal || tile_column(n, i) <= row0 + tile_row(i);
                ds[n][i] = seen ? p * (ds[n][i] - delta_of_row[i / 2]) : 0.0f;
            }
        }
        multiply_nn<D / 8, TILES, PITCH>(dq, ds, keys);
    }
    const float scales[2] = {scale, scale};
    store_rows<D>(dq_tile + row0 * stride, stride, place.rows - row0, dim, queries + row0 * PITCH, dq, scales);
}

template <int D>
__device__ __forceinline__ void backward_of_keys(act* dqkv, const act* dout, const float* lse, const float* delta, const act* qkv,
                                                 const unsigned* bounds, int sequences, int t, int q, int kv, int dim,
                                                 float scale) {
    constexpr int PITCH = D + ATTENTION_PAD;
    // Queries whose P and dS are held at a time: two sums of D columns leave no registers for 64.
    constexpr int QUERIES = 32;
    // The first tile of a sequence is seen by the most queries: it starts first.
    const Place place = find_tile(bounds, sequences, t, static_cast<int>(blockIdx.x));
    const int head = static_cast<int>(blockIdx.y), group = q / kv;
    const size_t stride = static_cast<size_t>(q + 2 * kv) * dim, out_stride = static_cast<size_t>(q) * dim;
    const size_t k_at = static_cast<size_t>(q + head) * dim, v_at = static_cast<size_t>(q + kv + head) * dim;
    act* dk_tile = dqkv + place.first * stride + k_at;
    act* dv_tile = dqkv + place.first * stride + v_at;
    if (!place.in_sequence) {
        clear_tile(dk_tile, stride, place.rows, dim);
        clear_tile(dv_tile, stride, place.rows, dim);
        return;
    }

    act* keys = reinterpret_cast<act*>(dynamic_shared());
    act* values = keys + ATTENTION_ROWS * PITCH;
    act* queries = values + ATTENTION_ROWS * PITCH;
    act* douts = queries + ATTENTION_ROWS * PITCH;
    float* lse_of_query = reinterpret_cast<float*>(douts + ATTENTION_ROWS * PITCH);
    float* delta_of_query = lse_of_query + ATTENTION_ROWS;
    load_tile<D>(keys, qkv + place.first * stride + k_at, stride, place.rows, dim);
    load_tile<D>(values, qkv + place.first * stride + v_at, stride, place.rows, dim);

    const int row0 = threadIdx.x / WARP * 16;
    act* my_keys = keys + row0 * PITCH;
    act* my_values = values + row0 * PITCH;
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (int query_head = head * group; query_head < head * group + group; ++query_head) {
        for (int first = place.first; first < place.end; first += ATTENTION_ROWS) {
            const int rows = min(ATTENTION_ROWS, place.end - first);
            const size_t column = static_cast<size_t>(query_head) * dim;
            __syncthreads();
            load_tile<D>(queries, qkv + first * stride + column, stride, rows, dim);
            load_tile<D>(douts, dout + first * out_stride + column, out_stride, rows, dim);
            for (int i = threadIdx.x; i < ATTENTION_ROWS; i += ATTENTION_THREADS) {
                const size_t at = static_cast<size_t>(query_head) * t + first + i;
                lse_of_query[i] = i < rows ? LOG2_E * lse[at] : 0.0f;
                delta_of_query[i] = i < rows ? delta[at] : 0.0f;
            }
            __syncthreads();

            const bool diagonal = first == place.first;
#pragma unroll 1
            for (int query0 = 0; query0 < ATTENTION_ROWS; query0 += QUERIES) {
                float p[QUERIES / 8][4] = {};
                multiply_nt<QUERIES / 8, D, PITCH>(p, my_keys, queries + query0 * PITCH);
#pragma unroll
                for (int n = 0; n < QUERIES / 8; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int query = query0 + tile_column(n, i);
                        const bool seen = !diagonal || row0 + tile_row(i) <= query;
                        p[n][i] = seen ? exp2f(scale * LOG2_E * p[n][i] - lse_of_query[query]) : 0.0f;
                    }
                }
                multiply_nn<D / 8, QUERIES / 8, PITCH>(dv, p, douts + query0 * PITCH);

                float ds[QUERIES / 8][4] = {};
                multiply_nt<QUERIES / 8, D, PITCH>(ds, my_values, douts + query0 * PITCH);
#pragma unroll
                for (int n = 0; n < QUERIES / 8; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        ds[n][i] = p[n][i] * (ds[n][i] - delta_of_query[query0 + tile_column(n, i)]);
                    }
                }
                multiply_nn<D / 8, QUERIES / 8, PITCH>(dk, ds, queries + query0 * PITCH);
            }
        }
    }
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    store_rows<D>(dk_tile + row0 * stride, stride, place.rows - row0, dim, my_keys, dk, scales);
    store_rows<D>(dv_tile + row0 * stride, stride, place.rows - row0, dim, my_values, dv, ones);
}

// Grid: x = ceil(t * q / ATTENTION_DELTA_ROWS). No dynamic shared memory; any dim.
extern "C" __global__ void __launch_bounds__(ATTENTION_DELTA_THREADS)
attention_delta(float* delta, const act* dout, const act* out, int t, int q, int dim) {
    // Eight threads a row: at a width of 64 one vector each, and four rows side by side fill a warp's lines.
    constexpr int THREADS_OF_ROW = ATTENTION_DELTA_THREADS / ATTENTION_DELTA_ROWS;
    const long long row = static_cast<long long>(blockIdx.x) * ATTENTION_DELTA_ROWS + threadIdx.x / THREADS_OF_ROW;
    const bool mine = row < static_cast<long long>(t) * q, whole = whole_vecs<act>(dim);
    float sum = 0.0f;
    for (int column = threadIdx.x % THREADS_OF_ROW * VEC; column < dim && mine; column += THREADS_OF_ROW * VEC) {
        const Vec<act> a = load_part(dout + row * dim + column, dim - column, whole);
        const Vec<act> b = load_part(out + row * dim + column, dim - column, whole);
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            sum = fmaf(to_float(a[e]), to_float(b[e]), sum);
        }
    }
#pragma unroll
    for (int m = THREADS_OF_ROW / 2; m > 0; m /= 2) {
        sum += __shfl_xor_sync(WHOLE_WARP, sum, m);
    }
    if (mine && threadIdx.x % THREADS_OF_ROW == 0) {
        delta[row % q * t + row / q] = sum;
    }
}

// Grid: x = as attention_fwd_d64, y = q. Dynamic shared memory: ATTENTION_BWD_D64_ACTS * sizeof(act). 1 <= dim <= 64.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_dq_d64(act* dqkv, const act* dout, const float* lse, const float* delta, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    backward_of_queries<64>(dqkv, dout, lse, delta, qkv, bounds, sequences, t, q, kv, dim, scale);
}

// Grid: as attention_bwd_dq_d64. Dynamic shared memory: ATTENTION_BWD_D128_ACTS * sizeof(act). 1 <= dim <= 128.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_dq_d128(act* dqkv, const act* dout, const float* lse, const float* delta, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    backward_of_queries<128>(dqkv, dout, lse, delta, qkv, bounds, sequences, t, q, kv, dim, scale);
}

// Grid: x = as attention_fwd_d64, y = kv. Dynamic shared memory: ATTENTION_BWD_D64_ACTS * sizeof(act) +
// ATTENTION_BWD_DKV_FLOATS * 4. 1 <= dim <= 64.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_dkv_d64(act* dqkv, const act* dout, const float* lse, const float* delta, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    backward_of_keys<64>(dqkv, dout, lse, delta, qkv, bounds, sequences, t, q, kv, dim, scale);
}

// Grid: as attention_bwd_dkv_d64. Dynamic shared memory: ATTENTION_BWD_D128_ACTS * sizeof(act) + ATTENTION_BWD_DKV_FLOATS * 4.
// 1 <= dim <= 128.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_dkv_d128(act* dqkv, const act* dout, const float* lse, const float* delta, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    backward_of_keys<128>(dqkv, dout, lse, delta, qkv, bounds, sequences, t, q, kv, dim, scale);
}
