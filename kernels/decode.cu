// Attention of one new token a sequence against a cache of keys and values.
//
//   out[b, h] = softmax(scale q_h K^T) V over the first lengths[b] entries of slot slots[b], head h reading key-value head
//   h / (q / kv)
//
// Layout: cache k and v[slots, capacity, kv dim]; qkv[b, (q + 2 kv) dim]; partial[b, q, splits, dim + 2] = an unnormalised sum
// over a split's keys, the largest score (to base 2), the sum of 2^(score - largest).
//
// Every key and value is used for q / kv heads and then never again, so the time is that of reading the cache once, if nothing
// else stands in its way. Two things would:
//
//   instructions  A key of 128 columns is 512 bytes with its value, and a head costs it 256 multiplications and an exponential.
//                 With five to eight heads on a reading that is, on the plain units, as long as the reading itself. So the
//                 products are the tensor cores', with up to DECODE_HEADS heads of a group as half the rows of an operand.
//   latency       By Little's law an SM has to have some 25 to 30 KB under way at 4 to 5 TB/s. A warp takes 16 keys at a time,
//                 8 KB of keys and values, straight into registers, 16 bytes a lane: the next keys are asked for once these
//                 have been multiplied, before the softmax, and the next values once those have been. Between 4 and 8 KB a
//                 warp are always on their way, and eight warps fit on an SM.
//
// Nothing goes through shared memory on the way, since nothing is read twice. The tensor core's fragments are met by the choice
// of what a lane loads, not by moving it. A sum over columns may take them in any order that both operands share, so a lane's
// vector of a key feeds the fragment as it is. For the second product a lane holds vectors of four keys, two and two of which are
// neighbours, and the columns of a tile are a vector's width apart: tile e of a set takes element e of each vector, and two
// neighbours' elements are put into one register.
//
// The four warps of a block take the tiles of a split in turn, keep statistics of their own and meet once, at its end. Splits are
// there to fill the machine when sequences times heads are few. A sequence is cut into equal parts of no fewer than
// DECODE_SPLIT_KEYS keys, so a short one has fewer parts than there are blocks for: such a block reads a length and is gone.
// Where there is one part, the block that has it writes the output, and the second kernel, which joins parts in order, has
// nothing to do.
#include "tile.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int DECODE_WARPS = DECODE_THREADS / WARP;

// Keys of a warp's tile.
constexpr int TILE_KEYS = 16;

// What a sequence attends to, and how that is cut.
struct Extent {
    int length;  // 0 also where slot or length is out of range
    int share;   // keys of a part
    int parts;
};

__device__ __forceinline__ Extent extent_of(unsigned slot, unsigned length, int slot_count, int capacity, int splits) {
    const bool usable = slot < static_cast<unsigned>(slot_count) && length <= static_cast<unsigned>(capacity);
    Extent extent;
    extent.length = usable ? static_cast<int>(length) : 0;
    extent.share = max(DECODE_SPLIT_KEYS, (extent.length + splits - 1) / splits);
    extent.parts = (extent.length + extent.share - 1) / extent.share;
    return extent;
}

// A vector as memory has it: a struct of bf16 that waits for its use would wait in registers of its own for each element.
using Words = Vec<unsigned>;

// VEC elements of a row from `column` on; zeros past its end, and where there is no row. With WHOLE a row consists of whole
// vectors.
template <bool WHOLE>
__device__ __forceinline__ Words load_words(const act* row, bool there, int column, int dim) {
    Words words = {};
    if constexpr (WHOLE) {
        if (there && column < dim) {
            words = load_vec(reinterpret_cast<const unsigned*>(row + column));
        }
    } else {
        const Vec<act> vec = load_part(row + column, there ? dim - column : 0, false);
        memcpy(&words, &vec, sizeof(words));
    }
    return words;
}

// d[0][n][i] + d[1][n][2 + i], number i of row g and tile n, += q k^T over 4 VEC columns: lane 4 g + c holds columns VEC c ..
// VEC c + VEC of row g of q, and of keys g and g + 8. Eight of the sixteen rows that the tensor core takes are not there. Zeros
// in their place would have to be put between the words of each vector; instead they are the vector's other words, and a product
// with the first half of a key counts in the first eight rows, one with its second half in the others.
__device__ __forceinline__ void multiply_keys(float (&d)[2][2][4], const Words& q, const Words (&k)[2]) {
    if constexpr (TENSOR_CORES) {
        const unsigned left[4] = {q[0], q[2], q[1], q[3]};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const unsigned right[2] = {k[n][2 * half], k[n][2 * half + 1]};
                mma_m16n8k16(d[half][n], left, right);
            }
        }
    } else {
        const int lane = lane_of_warp();
#pragma unroll 1
        for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float x = __uint_as_float(__shfl_sync(WHOLE_WARP, q[e], lane / 4 * 4 + c));
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                    const float even = __uint_as_float(__shfl_sync(WHOLE_WARP, k[n][e], lane % 4 * 8 + c));
                    const float odd = __uint_as_float(__shfl_sync(WHOLE_WARP, k[n][e], lane % 4 * 8 + 4 + c));
                    d[0][n][0] = fmaf(x, even, d[0][n][0]);
                    d[0][n][1] = fmaf(x, odd, d[0][n][1]);
                }
            }
        }
    }
}

// d[8 rows, 8 columns of each of VEC tiles] += p[8 rows, 16 keys] times this lane's vectors of four keys: v[i + 2 h] of key
// 2 (lane % 4) + i + 8 h, at column VEC (lane / 4). Column c of tile e is element e of the vectors at VEC c.
__device__ __forceinline__ void multiply_values(float (*d)[4], const float (&p)[2][4], const Words (&v)[4]) {
    if constexpr (TENSOR_CORES) {
        const unsigned left[4] = {pack(p[0][0], p[0][1]), 0u, pack(p[1][0], p[1][1]), 0u};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            // Of two words the lower halves, and the upper ones.
            const unsigned low[2] = {__byte_perm(v[0][w], v[1][w], 0x5410), __byte_perm(v[2][w], v[3][w], 0x5410)};
            const unsigned high[2] = {__byte_perm(v[0][w], v[1][w], 0x7632), __byte_perm(v[2][w], v[3][w], 0x7632)};
            mma_m16n8k16(d[2 * w], left, low);
            mma_m16n8k16(d[2 * w + 1], left, high);
        }
    } else {
        const int lane = lane_of_warp();
#pragma unroll 1
        for (int c = 0; c < 4; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float x = __shfl_sync(WHOLE_WARP, p[i / 2][i % 2], lane / 4 * 4 + c);
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float even = __uint_as_float(__shfl_sync(WHOLE_WARP, v[i][e], lane % 4 * 8 + c));
                    const float odd = __uint_as_float(__shfl_sync(WHOLE_WARP, v[i][e], lane % 4 * 8 + 4 + c));
                    d[e][0] = fmaf(x, even, d[e][0]);
                    d[e][1] = fmaf(x, odd, d[e][1]);
                }
            }
        }
    }
}

template <int D, bool WHOLE>
__device__ __forceinline__ void attend_split(float* shared, act* out, float* partial, const act* qkv, const act* k, const act* v,
                                             size_t slot, Extent extent, int q, int kv, int dim, int capacity, int splits,
                                             float scale) {
    // Columns that a quad's vectors cover, of a key; and that eight lanes' vectors cover, of a value.
    constexpr int CHUNKS = D / (4 * VEC), SETS = D / (8 * VEC);
    float *const top_of_warp = shared, *const sum_of_warp = shared + DECODE_WARPS * DECODE_HEADS;
    float* const out_of_warp = shared + 2 * DECODE_WARPS * DECODE_HEADS;
    const int split = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), group = q / kv;
    const int warp = threadIdx.x / WARP, lane = lane_of_warp(), g = lane / 4, c = lane % 4;
    const int from = split * extent.share, to = min(extent.length, from + extent.share);
    const size_t width = static_cast<size_t>(kv) * dim;
    const act* keys = k + slot * capacity * width + static_cast<size_t>(head) * dim;
    const act* values = v + slot * capacity * width + static_cast<size_t>(head) * dim;
    const act* queries = qkv + blockIdx.z * (q * static_cast<size_t>(dim) + 2 * width);
#pragma unroll 1
    for (int first = head * group; first < head * group + group; first += DECODE_HEADS) {
        const int heads = min(DECODE_HEADS, head * group + group - first);
        Words query[CHUNKS];
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            query[i] = load_words<WHOLE>(queries + (first + g) * static_cast<size_t>(dim), g < heads, (4 * i + c) * VEC, dim);
        }
        Words key[CHUNKS][2], value[SETS][4];
        const auto load_keys = [&](int base) {
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const int at = base + 8 * n + g;
#pragma unroll
                for (int i = 0; i < CHUNKS; ++i) {
                    key[i][n] = load_words<WHOLE>(keys + at * width, at < to, (4 * i + c) * VEC, dim);
                }
            }
        };
        const auto load_values = [&](int base) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = base + 2 * c + j % 2 + j / 2 * 8;
#pragma unroll
                for (int i = 0; i < SETS; ++i) {
                    value[i][j] = load_words<WHOLE>(values + at * width, at < to, (8 * i + g) * VEC, dim);
                }
            }
        };
        float o[SETS * VEC][4] = {};
        float top = -INFINITY, sum = 0.0f;
        if constexpr (WHOLE) {
            load_keys(from + warp * TILE_KEYS);
            load_values(from + warp * TILE_KEYS);
        }
#pragma unroll 1
        for (int base = from + warp * TILE_KEYS; base < to; base += DECODE_WARPS * TILE_KEYS) {
            if constexpr (!WHOLE) {
                load_keys(base);
                load_values(base);
            }
            float halves[2][2][4] = {};
#pragma unroll
            for (int i = 0; i < CHUNKS; ++i) {
                multiply_keys(halves, query[i], key[i]);
            }
            if constexpr (WHOLE) {
                load_keys(base + DECODE_WARPS * TILE_KEYS);
            }
            float s[2][4] = {};
            float largest = top;
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const float score = halves[0][n][i] + halves[1][n][2 + i];
                    s[n][i] = base + tile_column(n, i) < to ? scale * LOG2_E * score : -INFINITY;
                    largest = fmaxf(largest, s[n][i]);
                }
            }
            // The tile's first key is there, so this is a number.
            largest = quad_max(largest);
            const float shrink = exp2f(top - largest);
            top = largest;
            sum *= shrink;
#pragma unroll
            for (int n = 0; n < 2; ++n) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    s[n][i] = exp2f(s[n][i] - largest);
                    sum += s[n][i];
                }
            }
#pragma unroll
            for (int n = 0; n < SETS * VEC; ++n) {
                o[n][0] *= shrink;
                o[n][1] *= shrink;
            }
#pragma unroll
            for (int i = 0; i < SETS; ++i) {
                multiply_values(o + i * VEC, s, value[i]);
            }
            if constexpr (WHOLE) {
                load_values(base + DECODE_WARPS * TILE_KEYS);
            }
        }
        sum = quad_sum(sum);
        if (c == 0) {
            top_of_warp[warp * DECODE_HEADS + g] = top;
            sum_of_warp[warp * DECODE_HEADS + g] = sum;
        }
        float* own = out_of_warp + (warp * DECODE_HEADS + g) * D;
#pragma unroll
        for (int i = 0; i < SETS; ++i) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                own[(8 * i + 2 * c) * VEC + e] = o[i * VEC + e][0];
                own[(8 * i + 2 * c + 1) * VEC + e] = o[i * VEC + e][1];
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < heads * D; i += DECODE_THREADS) {
            const int h = i / D, column = i % D;
            float largest = -INFINITY;
#pragma unroll
            for (int w = 0; w < DECODE_WARPS; ++w) {
                largest = fmaxf(largest, top_of_warp[w * DECODE_HEADS + h]);
            }
            float total = 0.0f, acc = 0.0f;
#pragma unroll
            for (int w = 0; w < DECODE_WARPS; ++w) {
                // A warp without keys has seen nothing, which weighs 0.
                const float weight = exp2f(top_of_warp[w * DECODE_HEADS + h] - largest);
                total += weight * sum_of_warp[w * DECODE_HEADS + h];
                acc += weight * out_of_warp[(w * DECODE_HEADS + h) * D + column];
            }
            const size_t row = blockIdx.z * static_cast<size_t>(q) + first + h;
            if (column < dim && extent.parts == 1) {
                out[row * dim + column] = from_float<act>(acc / total);
            } else if (column < dim) {
                float* part = partial + (row * splits + split) * (dim + 2);
                part[column] = acc;
                if (column == 0) {
                    part[dim] = largest;
                    part[dim + 1] = total;
                }
            }
        }
        // The next heads take their place.
        __syncthreads();
    }
}

// Grid: x = splits, y = kv, z = b. No dynamic shared memory. 1 <= dim <= 128. `splits`, from 1 up: the host need not know the
// lengths, ceil(capacity / DECODE_SPLIT_KEYS) fills the machine as well as the keys allow.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
attention_decode(act* out, float* partial, const act* qkv, const act* k, const act* v, const unsigned* slots, const unsigned* lengths, unsigned* fault, int b, int slot_count, int q, int kv, int dim, int capacity, int splits, float scale) {
    const unsigned slot = slots[blockIdx.z], length = lengths[blockIdx.z];
    const Extent extent = extent_of(slot, length, slot_count, capacity, splits);
    if (static_cast<int>(blockIdx.x) >= extent.parts) {
        if (slot >= static_cast<unsigned>(slot_count) && slot != NO_SLOT) {
            report_fault(fault, FAULT_DECODE_SLOT, blockIdx.z, slot);
        } else if (slot != NO_SLOT && length > static_cast<unsigned>(capacity)) {
            report_fault(fault, FAULT_DECODE_LENGTH, blockIdx.z, length);
        }
        return;
    }
    // What the warps meet with: of each head the largest score, the sum and the output.
    SHARED(float, met, DECODE_WARPS* DECODE_HEADS * (2 + 128));
    if (!whole_vecs<act>(dim)) {
        attend_split<128, false>(met, out, partial, qkv, k, v, slot, extent, q, kv, dim, capacity, splits, scale);
    } else if (dim <= 64) {
        attend_split<64, true>(met, out, partial, qkv, k, v, slot, extent, q, kv, dim, capacity, splits, scale);
    } else {
        attend_split<128, true>(met, out, partial, qkv, k, v, slot, extent, q, kv, dim, capacity, splits, scale);
    }
}

// Grid: x = b * q. No dynamic shared memory; any dim.
extern "C" __global__ void __launch_bounds__(DECODE_COMBINE_THREADS)
attention_decode_combine(act* out, const float* partial, const unsigned* slots, const unsigned* lengths, int b, int slot_count, int q, int dim, int capacity, int splits) {
    const int row = static_cast<int>(blockIdx.x) / q;
    const int parts = extent_of(slots[row], lengths[row], slot_count, capacity, splits).parts;
    if (parts == 1) {
        return;
    }
    const float* rows = partial + static_cast<size_t>(blockIdx.x) * splits * (dim + 2);
    const size_t row_stride = dim + 2;
    float largest = -INFINITY;
    for (int i = 0; i < parts; ++i) {
        largest = fmaxf(largest, rows[i * row_stride + dim]);
    }
    for (int column = threadIdx.x; column < dim; column += DECODE_COMBINE_THREADS) {
        float total = 0.0f, acc = 0.0f;
        for (int i = 0; i < parts; ++i) {
            const float* part = rows + i * row_stride;
            const float weight = exp2f(part[dim] - largest);
            total += weight * part[dim + 1];
            acc += weight * part[column];
        }
        out[static_cast<size_t>(blockIdx.x) * dim + column] = from_float<act>(parts == 0 ? 0.0f : acc / total);
    }
}
