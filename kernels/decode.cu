// Attention of one new token a sequence against a cache of keys and values.
//
//   out[b, h] = softmax(scale q_h K^T) V over the first lengths[b] entries of slot slots[b], head h reading key-value head
//   h / (q / kv)
//
// Layout: cache k and v[slots, capacity, kv dim]; qkv[b, (q + 2 kv) dim]; partial[b, q, splits, dim + 2] = an unnormalised sum
// over a split's keys, the largest score (to base 2), the sum of 2^(score - largest); of an empty split only the sum, 0, is set.
//
// Every key and value is used for q / kv heads and then never again, so the time is that of reading the cache once. A block
// takes one sequence, one key-value head and one split of the keys, and serves the whole group of query heads (DECODE_HEADS at a
// time) from one read. A team of lanes takes a key: a vector of 16 bytes a lane covers a head's row of 64 or 128 columns, a score
// is a sum over the team, and what a lane keeps of the output is the same columns. A team has DEPTH keys and values under way at
// once: two, with the registers for three blocks on an SM, keep as many bytes in flight as four with two blocks would. Teams
// keep statistics of their own and meet once, at the end of the split. Splits are there to fill the machine when sequences
// times heads are few; the second kernel joins them, in order.
#include "attention.cuh"

// Keys that a team has under way. The float build has half the teams and so twice the keys of each.
constexpr int DEPTH = 16 / VEC;

template <int D>
__device__ __forceinline__ void attend_split(float* partial, const act* qkv, const act* k, const act* v, size_t slot, int length,
                                             int q, int kv, int dim, int capacity, int splits, float scale) {
    constexpr int LANES = D / VEC, TEAMS = DECODE_THREADS / LANES;
    SHARED(float, query, DECODE_HEADS* D);
    SHARED(float, top_of_team, TEAMS);
    SHARED(float, sum_of_team, TEAMS);
    SHARED(float, out_of_team, TEAMS* D);
    const int split = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), group = q / kv;
    const int team = threadIdx.x / LANES, column = threadIdx.x % LANES * VEC;
    const bool whole = whole_vecs<act>(dim);
    const int share = max(DECODE_SPLIT_KEYS, (length + splits - 1) / splits);
    const int from = min(length, split * share), to = min(length, from + share);
    float* rows = partial + ((blockIdx.z * static_cast<size_t>(q) + head * group) * splits + split) * (dim + 2);
    const size_t row_stride = static_cast<size_t>(splits) * (dim + 2);
    if (from == to) {
        for (int h = threadIdx.x; h < group; h += DECODE_THREADS) {
            rows[h * row_stride + dim + 1] = 0.0f;
        }
        return;
    }
    const size_t width = static_cast<size_t>(kv) * dim;
    const act* keys = k + slot * capacity * width + static_cast<size_t>(head) * dim + column;
    const act* values = v + slot * capacity * width + static_cast<size_t>(head) * dim + column;
    const act* queries = qkv + blockIdx.z * (q * static_cast<size_t>(dim) + 2 * width);
    for (int first = head * group; first < head * group + group; first += DECODE_HEADS) {
        const int heads = min(DECODE_HEADS, head * group + group - first);
        // From shared memory, where DEPTH keys share a read: in registers they would leave room for half as many blocks.
        // Nobody reads the queries of the heads before any more: teams have met since.
        for (int i = threadIdx.x; i < heads * D; i += DECODE_THREADS) {
            const act* row = queries + (first + i / D) * static_cast<size_t>(dim);
            query[i] = i % D < dim ? scale * LOG2_E * to_float(row[i % D]) : 0.0f;
        }
        __syncthreads();
        float out[DECODE_HEADS][VEC], top[DECODE_HEADS], sum[DECODE_HEADS];
#pragma unroll
        for (int h = 0; h < DECODE_HEADS; ++h) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                out[h][e] = 0.0f;
            }
            top[h] = -INFINITY;
            sum[h] = 0.0f;
        }
        for (int base = from; base < to; base += TEAMS * DEPTH) {
            Vec<act> key[DEPTH], value[DEPTH];
#pragma unroll
            for (int i = 0; i < DEPTH; ++i) {
                const int at = base + i * TEAMS + team;
                key[i] = load_part(keys + at * width, at < to ? dim - column : 0, whole);
                value[i] = load_part(values + at * width, at < to ? dim - column : 0, whole);
            }
#pragma unroll
            for (int h = 0; h < DECODE_HEADS; ++h) {
                if (h >= heads) {
                    break;
                }
                float q_of_lane[VEC];
#pragma unroll
                for (int e = 0; e < VEC; e += Vec<float>::N) {
                    const Vec<float> part = load_vec(query + h * D + column + e);
#pragma unroll
                    for (int i = 0; i < Vec<float>::N; ++i) {
                        q_of_lane[e + i] = part[i];
                    }
                }
                float s[DEPTH];
                float largest = top[h];
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    s[i] = 0.0f;
#pragma unroll
                    for (int e = 0; e < VEC; ++e) {
                        s[i] = fmaf(q_of_lane[e], to_float(key[i][e]), s[i]);
                    }
#pragma unroll
                    for (int m = LANES / 2; m > 0; m /= 2) {
                        s[i] += __shfl_xor_sync(WHOLE_WARP, s[i], m);
                    }
                    s[i] = base + i * TEAMS + team < to ? s[i] : -INFINITY;
                    largest = fmaxf(largest, s[i]);
                }
                // A team that has had no key yet: -inf - -inf would be NaN.
                const float reference = largest == -INFINITY ? 0.0f : largest;
                const float shrink = exp2f(top[h] - reference);
                top[h] = largest;
                sum[h] *= shrink;
#pragma unroll
                for (int e = 0; e < VEC; ++e) {
                    out[h][e] *= shrink;
                }
#pragma unroll
                for (int i = 0; i < DEPTH; ++i) {
                    const float p = exp2f(s[i] - reference);
                    sum[h] += p;
#pragma unroll
                    for (int e = 0; e < VEC; ++e) {
                        out[h][e] = fmaf(p, to_float(value[i][e]), out[h][e]);
                    }
                }
            }
        }
#pragma unroll
        for (int h = 0; h < DECODE_HEADS; ++h) {
            if (h >= heads) {
                break;
            }
            __syncthreads();
            top_of_team[team] = top[h];
            sum_of_team[team] = sum[h];
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                out_of_team[team * D + column + e] = out[h][e];
            }
            __syncthreads();
            float largest = -INFINITY;
            for (int i = 0; i < TEAMS; ++i) {
                largest = fmaxf(largest, top_of_team[i]);
            }
            float* row = rows + (first + h - head * group) * row_stride;
            const int mine = threadIdx.x;
            float total = 0.0f, acc = 0.0f;
            for (int i = 0; i < TEAMS; ++i) {
                // 0 too is a team without keys; NaN is not.
                const float weight = sum_of_team[i] == 0.0f ? 0.0f : exp2f(top_of_team[i] - largest);
                total += weight * sum_of_team[i];
                acc += weight * (mine < dim ? out_of_team[i * D + mine] : 0.0f);
            }
            if (mine < dim) {
                row[mine] = acc;
            }
            if (mine == 0) {
                row[dim] = largest;
                row[dim + 1] = total;
            }
        }
    }
}

// Grid: x = splits, y = kv, z = b. No dynamic shared memory. 1 <= dim <= 128. `splits`, from 1 up: the host need not know the
// lengths, ceil(capacity / DECODE_SPLIT_KEYS) fills the machine as well as the keys allow. Each sequence is cut into equal parts of
// its own length but of no fewer than DECODE_SPLIT_KEYS keys, which would cost more to start and to join than they save; what is
// left over is empty.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
attention_decode(float* partial, const act* qkv, const act* k, const act* v, const unsigned* slots, const unsigned* lengths, unsigned* fault, int b, int slot_count, int q, int kv, int dim, int capacity, int splits, float scale) {
    const unsigned slot = slots[blockIdx.z];
    unsigned length = lengths[blockIdx.z];
    if (slot >= static_cast<unsigned>(slot_count)) {
        if (slot != NO_SLOT) {
            report_fault(fault, FAULT_DECODE_SLOT, blockIdx.z, slot);
        }
        length = 0;
    } else if (length > static_cast<unsigned>(capacity)) {
        report_fault(fault, FAULT_DECODE_LENGTH, blockIdx.z, length);
        length = 0;
    }
    if (dim <= 64) {
        attend_split<64>(partial, qkv, k, v, slot, static_cast<int>(length), q, kv, dim, capacity, splits, scale);
    } else {
        attend_split<128>(partial, qkv, k, v, slot, static_cast<int>(length), q, kv, dim, capacity, splits, scale);
    }
}

// Grid: x = b * q. No dynamic shared memory; any dim.
extern "C" __global__ void __launch_bounds__(DECODE_COMBINE_THREADS)
attention_decode_combine(act* out, const float* partial, int b, int q, int dim, int splits) {
    const float* rows = partial + static_cast<size_t>(blockIdx.x) * splits * (dim + 2);
    const size_t row_stride = dim + 2;
    float largest = -INFINITY;
    for (int i = 0; i < splits; ++i) {
        const float* row = rows + i * row_stride;
        largest = row[dim + 1] == 0.0f ? largest : fmaxf(largest, row[dim]);
    }
    for (int column = threadIdx.x; column < dim; column += DECODE_COMBINE_THREADS) {
        float total = 0.0f, acc = 0.0f;
        for (int i = 0; i < splits; ++i) {
            const float* row = rows + i * row_stride;
            if (row[dim + 1] != 0.0f) {
                const float weight = exp2f(row[dim] - largest);
                total += weight * row[dim + 1];
                acc += weight * row[column];
            }
        }
        out[static_cast<size_t>(blockIdx.x) * dim + column] = from_float<act>(total == 0.0f ? 0.0f : acc / total);
    }
}
