// Causal grouped-query attention over packed sequences, forward (Dao 2023, algorithm 1):
//
//   S = scale Q K^T where key <= query, else -inf;  P = softmax(S);  out = P V;  lse = ln sum e^S
//
// Layout: qkv[t, (q + 2 kv) dim], out[t, q dim], lse[q, t]; query head h reads key-value head h / (q / kv).
//
// A block owns 64 queries of one head and goes through the keys 64 at a time; each of its four warps owns 16 query rows, so the
// softmax's statistics never leave a quad of lanes and warps meet only to share the tiles of keys and values. Nothing of size
// tokens x tokens exists: per row the largest score m so far, l = sum e^(S - m) and the unnormalised output are kept, and when
// m grows l and the output shrink by e^(m_old - m_new). Exponentials are taken to base 2, with log2 e inside the scale. Scores
// and output stay in registers (32 + dim / 2 a thread); 64 keys are as many as fit beside them at a width of 128 without
// spilling, and tiles of 3 x 64 rows leave shared memory for three blocks on an SM. Key tiles past the diagonal are not visited.
//
// The last tile of a sequence has the most keys, so tiles are taken from the last: long ones start first and short ones fill in.
#include "attention.cuh"

template <int D>
__device__ __forceinline__ void attend(act* out, float* lse, const act* qkv, const unsigned* bounds, int sequences, int t, int q,
                                       int kv, int dim, float scale) {
    constexpr int PITCH = D + ATTENTION_PAD;
    const Place place = find_tile(bounds, sequences, t, static_cast<int>(gridDim.x - 1 - blockIdx.x));
    const int head = static_cast<int>(blockIdx.y);
    const size_t stride = static_cast<size_t>(q + 2 * kv) * dim, out_stride = static_cast<size_t>(q) * dim;
    act* out_tile = out + place.first * out_stride + static_cast<size_t>(head) * dim;
    if (!place.in_sequence) {
        clear_tile(out_tile, out_stride, place.rows, dim);
        for (int i = threadIdx.x; i < place.rows; i += ATTENTION_THREADS) {
            lse[static_cast<size_t>(head) * t + place.first + i] = 0.0f;
        }
        return;
    }

    act* queries = reinterpret_cast<act*>(dynamic_shared());
    act* keys = queries + ATTENTION_ROWS * PITCH;
    act* values = keys + ATTENTION_ROWS * PITCH;
    load_tile<D>(queries, qkv + place.first * stride + static_cast<size_t>(head) * dim, stride, place.rows, dim);

    const int row0 = threadIdx.x / WARP * 16;
    act* my_queries = queries + row0 * PITCH;
    float o[D / 8][4] = {};
    float top[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.0f, 0.0f};
    const act* k_tile = qkv + place.begin * stride + static_cast<size_t>(q + head / (q / kv)) * dim;
    for (int first = place.begin; first <= place.first; first += ATTENTION_ROWS, k_tile += ATTENTION_ROWS * stride) {
        const int rows = min(ATTENTION_ROWS, place.end - first);
        __syncthreads();
        load_tile<D>(keys, k_tile, stride, rows, dim);
        load_tile<D>(values, k_tile + static_cast<size_t>(kv) * dim, stride, rows, dim);
        __syncthreads();

        float s[ATTENTION_ROWS / 8][4] = {};
        multiply_nt<ATTENTION_ROWS / 8, D, PITCH>(s, my_queries, keys);
        const bool diagonal = first == place.first;
#pragma unroll
        for (int n = 0; n < ATTENTION_ROWS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[n][i] = diagonal && tile_column(n, i) > row0 + tile_row(i) ? -INFINITY : scale * LOG2_E * s[n][i];
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = top[half];
#pragma unroll
            for (int n = 0; n < ATTENTION_ROWS / 8; ++n) {
                largest = fmaxf(largest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            }
            largest = quad_max(largest);
            // Every row sees the first key, so `largest` is finite from the first tile on.
            const float shrink = exp2f(top[half] - largest);
            top[half] = largest;
            sum[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[n][2 * half] *= shrink;
                o[n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < ATTENTION_ROWS / 8; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[n][i] = exp2f(s[n][i] - largest);
                    sum[half] += s[n][i];
                }
            }
        }
        multiply_nn<D / 8, ATTENTION_ROWS / 8, PITCH>(o, s, values);
    }

    float whole[2], inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        whole[half] = quad_sum(sum[half]);
        inverse[half] = 1.0f / whole[half];
        const int row = row0 + tile_row(2 * half);
        if (lane_of_warp() % 4 == 0 && row < place.rows) {
            lse[static_cast<size_t>(head) * t + place.first + row] = LN_2 * top[half] + logf(whole[half]);
        }
    }
    store_rows<D>(out_tile + row0 * out_stride, out_stride, place.rows - row0, dim, my_queries, o, inverse);
}

// Grid: x = sum over sequences of ceil(length / ATTENTION_ROWS), plus ceil((t - bounds[sequences]) / ATTENTION_ROWS); y = q.
// Dynamic shared memory: ATTENTION_FWD_D64_ACTS * sizeof(act). 1 <= dim <= 64.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_fwd_d64(act* out, float* lse, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    attend<64>(out, lse, qkv, bounds, sequences, t, q, kv, dim, scale);
}

// Grid: as attention_fwd_d64. Dynamic shared memory: ATTENTION_FWD_D128_ACTS * sizeof(act). 1 <= dim <= 128.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_fwd_d128(act* out, float* lse, const act* qkv, const unsigned* bounds, int sequences, int t, int q, int kv, int dim, float scale) {
    attend<128>(out, lse, qkv, bounds, sequences, t, q, kv, dim, scale);
}
