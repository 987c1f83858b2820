// Causal grouped-query attention over packed sequences, backward, on the tensor cores of warpgroups: the formulas and the layout of
// attention_bwd.cu, in bf16, for heads of exactly 64 or 128 columns.
//
//   S = scale Q K^T      P = e^(S - lse)      delta = rowsum(dout * out)      dP = dout V^T      dS = P * (dP - delta)
//   dQ = scale dS K      dK = scale dS^T Q    dV = P^T dout
//
// Five products are 10 dim operations a query, key and head: the floor is 1.74 ms at 8192 tokens with 40 heads of 128 at 989 TFLOP/s.
// Memory has to give and take 2 (q + 2 kv) dim + q dim numbers a token, 0.1 ms of that. attention_bwd.cu has seven products and no sums
// between blocks; here a block computes all five, dQ is summed in memory, and the design is about the order of that sum.
//
// A block owns 128 keys of a key-value head, a consumer warpgroup 64 of them, and walks tiles of 64 queries of the group's heads, so
// that dK and dV of the whole group add up in registers. A step is one tile of one head:
//
//   S^T = K Q^T and dP^T = V dout^T stand as [keys, queries]: P^T and dS^T are then the left operands of dV += P^T dout and
//   dK += dS^T Q in the registers that they were made in. dS also goes to shared memory for dQ = dS K, of which each consumer computes
//   half of the columns over all 128 keys; hence two tiles of dS in turn and one barrier of both consumers a step.
//
// A third warpgroup serves them: one warp has copies bring queries and dout three steps ahead, one reads lse and delta, two have copies
// add each consumer's half of dQ to a sum in f32 in device memory. A tile of that sum lies as the accumulators' registers do, D / 8 rows
// of 128 float4, so that it moves in whole lines; attention_bwd_sm90_finish turns it into rows of bf16.
//
// Tensor cores need 2560 cycles for a step of 128 columns, at 4096 operations a cycle. Shared memory needs more: products of two
// operands there read 128 bytes a cycle, all it has, and with tiles of 64 rows there is no reuse to save; with 368 KiB a step in all it
// takes 2944 cycles (derived), so 87 % of the tensor cores' rate is the roof. Sums of 208 numbers a thread leave no registers for larger
// tiles.
//
// Order. The sum of a tile of dQ takes additions in the order of keys, the first block setting it: `turns` holds for each half of a tile
// whose turn it is. Waiting costs nothing as long as every block finds its turn come, which the schedule sees to:
//
// - Blocks are numbered as they begin, by a counter. A block waits only for lower numbers, which run: no deadlock, whatever the order in
//   which the hardware starts blocks.
// - Numbers go to tiles of keys by how many queries see them, the most first, over all sequences: short blocks fill the end. The first
//   tiles of a sequence come first, so the order of numbers is that of turns.
// - A block starts at the sequence's last queries and ends at its diagonal, all heads of a tile before the next tile. Blocks that start
//   together then visit the same tiles in the same order, each one step behind its predecessor, and shorter blocks only stop earlier.
//   From the diagonal up they would meet at one tile and wait, each for all before it. They also share what they load, in L2.
//
// Derived by scheduling blocks so on 132 multiprocessors, 40 query and 8 key-value heads, with two steps for a block's beginning and half
// a step for an addition's way to memory; the share of the time in which steps are computed, for one sequence of so many tokens:
//
//                                                    2k (parts)   4k     8k     16k    4 x 2k
//   this order                                       0.86         0.96   0.99   0.99   0.94
//   any order (`ordered` 0)                          0.87         0.99   0.99   0.99   0.95
//   the fewest queries first, from the diagonal up   0.75         0.66   0.79   0.88   0.77
//
// So the fixed order costs at most 3 %, and it is the default. Without it only the first addition, which sets the sum, is waited for.
//
// Where one block a key-value head and tile is too coarse, the longest longer than a multiprocessor's share of all, `parts` blocks take
// the group's heads between them and leave f32 sums that attention_bwd_sm90_finish adds in order: at 2k tokens 0.86 in place of 0.51.
//
// Rows of neighbours. A copied tile may reach past the sequence's end, into whatever is there, NaN included. Such rows of K, V, Q and dout
// are set to zero before they are multiplied, their lse and delta are zero: P is then 1 and dS 0 for such queries, which adds 0 to dK and
// dV, and such keys lie beyond the diagonal. Their own gradients are not stored.
#include "attention.cuh"
#include "wgmma.cuh"

namespace {

constexpr int QUERIES = ATTENTION_ROWS;
constexpr int KEYS = 2 * QUERIES;
constexpr int STAGES = ATTENTION_BWD_SM90_STAGES;
constexpr int CONSUMERS = 2 * 128;
// Bytes of a line of the swizzle, and its columns.
constexpr int LINE = 128;
constexpr int LINE_COLUMNS = LINE / 2;

// The block's named barriers: of both consumers; of one with the warp that adds its part of dQ, in both directions.
constexpr int CONSUMERS_MEET = 1;
constexpr int DQ_WRITTEN = 2;
constexpr int DQ_TAKEN = 4;
constexpr int DQ_THREADS = 128 + WARP;

// What a block does: keys `key_tile * KEYS` on of a sequence, for query heads head0 .. head0 + heads of key-value head kv_head.
struct Unit {
    int begin, length, key_tile;
    int first_tile;  // the sequence's first tile of queries among all sequences'
    int kv_head, part, head0, heads;

    __device__ __forceinline__ int query_tiles() const { return (length + QUERIES - 1) / QUERIES; }
    __device__ __forceinline__ int steps() const { return heads * (query_tiles() - 2 * key_tile); }
};

// Dynamic shared memory, in bytes. A tile of R rows lies as D / 64 parts of R lines.
template <int D>
struct Layout {
    static constexpr int KEY_PART = KEYS * LINE, QUERY_PART = QUERIES * LINE;
    static constexpr int KEY_TILE = D / LINE_COLUMNS * KEY_PART, QUERY_TILE = D / LINE_COLUMNS * QUERY_PART;
    static constexpr int K = 0, V = K + KEY_TILE;
    // Stages of Q and dout.
    static constexpr int RING = V + KEY_TILE, STAGE = 2 * QUERY_TILE;
    // dS[keys, queries], of even and of odd steps.
    static constexpr int DS = RING + STAGES * STAGE, DS_TILE = KEYS * LINE;
    static constexpr int DQ = DS + 2 * DS_TILE, DQ_PART = QUERIES * D / 2 * 4;
    // lse and delta of a stage's queries.
    static constexpr int STATS = DQ + 2 * DQ_PART, STATS_STAGE = 2 * QUERIES * 4;
    // The mbarriers of keys and values, of full and of empty stages; the unit.
    static constexpr int BARRIERS = STATS + STAGES * STATS_STAGE, UNIT = BARRIERS + (1 + 2 * STAGES) * 8;
    static constexpr int BYTES = BARRIERS + 128;
    static_assert(UNIT + sizeof(Unit) <= BYTES);
};
static_assert(Layout<64>::BYTES == ATTENTION_BWD_SM90_D64_BYTES && Layout<128>::BYTES == ATTENTION_BWD_SM90_D128_BYTES);

// A step is a tile of queries of one head. Tiles go from the last one to the diagonal, the heads of each in turn.
struct Step {
    int tile, head, stage;
    unsigned round;  // of the ring

    __device__ __forceinline__ explicit Step(const Unit& unit) : tile(unit.query_tiles() - 1), head(unit.head0), stage(0), round(0) {}
    __device__ __forceinline__ void advance(const Unit& unit) {
        if (++head == unit.head0 + unit.heads) {
            head = unit.head0;
            --tile;
        }
        if (++stage == STAGES) {
            stage = 0;
            ++round;
        }
    }
};

// Tiles of keys of sequence `i`; none past the last.
__device__ __forceinline__ int key_tiles(const unsigned* bounds, int sequences, int i) {
    return i < sequences ? static_cast<int>(bounds[i + 1] - bounds[i] + KEYS - 1) / KEYS : 0;
}

// The tiles of keys over all sequences, those that see the most queries first: tile `place` of that order. By a whole warp.
// A tile's level is the number of tiles from it to its sequence's end, itself included.
__device__ __forceinline__ Unit find_unit(const unsigned* bounds, int sequences, int place) {
    const int lane = lane_of_warp();
    const auto reaching = [&](int level) {
        int count = 0;
        for (int i = lane; i < sequences; i += WARP) {
            count += max(0, key_tiles(bounds, sequences, i) - level + 1);
        }
        return warp_sum(count);
    };
    int longest = 0;
    for (int i = lane; i < sequences; i += WARP) {
        longest = max(longest, key_tiles(bounds, sequences, i));
    }
    // More than `place` tiles have at least level `low`, at most as many have `high`.
    int low = 1, high = warp_max(longest) + 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (reaching(middle) > place) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int rank = place - reaching(high), sequence = 0, before = 0;
    for (int base = 0; base < sequences; base += WARP) {
        const unsigned holders = __ballot_sync(WHOLE_WARP, key_tiles(bounds, sequences, base + lane) >= low);
        const bool here = rank < __popc(holders);
        const int own = base + lane;
        if (here) {
            unsigned left = holders;
            for (; rank > 0; --rank) {
                left &= left - 1;
            }
            sequence = base + __ffs(static_cast<int>(left)) - 1;
        } else {
            rank -= __popc(holders);
        }
        const bool counted = own < sequences && (!here || own < sequence);
        before += counted ? static_cast<int>(bounds[own + 1] - bounds[own] + QUERIES - 1) / QUERIES : 0;
        if (here) {
            break;
        }
    }
    Unit unit;
    unit.begin = static_cast<int>(bounds[sequence]);
    unit.length = static_cast<int>(bounds[sequence + 1]) - unit.begin;
    unit.key_tile = key_tiles(bounds, sequences, sequence) - low;
    unit.first_tile = warp_sum(before);
    return unit;
}

// Loads of a unit: its keys and values, and of each step queries and dout.
template <int D>
__device__ __forceinline__ void load_tiles(const Unit& unit, unsigned char* shared, const CUtensorMap* qkv, const CUtensorMap* dout,
                                           int q, int kv, unsigned long long* keys_full, unsigned long long* full,
                                           unsigned long long* empty) {
    using L = Layout<D>;
    mbarrier_arrive_expect(keys_full, 2 * L::KEY_TILE);
#pragma unroll
    for (int part = 0; part < D / LINE_COLUMNS; ++part) {
        const int k_column = (q + unit.kv_head) * D + part * LINE_COLUMNS;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = unit.begin + unit.key_tile * KEYS + half * QUERIES, at = part * L::KEY_PART + half * L::QUERY_PART;
            tile_load(shared + L::K + at, qkv, keys_full, k_column, row);
            tile_load(shared + L::V + at, qkv, keys_full, k_column + kv * D, row);
        }
    }
    Step step(unit);
    for (int left = unit.steps(); left > 0; --left, step.advance(unit)) {
        if (step.round > 0) {
            mbarrier_wait(&empty[step.stage], (step.round - 1) & 1);
        }
        unsigned char* stage = shared + L::RING + step.stage * L::STAGE;
        mbarrier_arrive_expect(&full[step.stage], L::STAGE);
#pragma unroll
        for (int part = 0; part < D / LINE_COLUMNS; ++part) {
            const int column = step.head * D + part * LINE_COLUMNS, row = unit.begin + step.tile * QUERIES;
            tile_load(stage + part * L::QUERY_PART, qkv, &full[step.stage], column, row);
            tile_load(stage + L::QUERY_TILE + part * L::QUERY_PART, dout, &full[step.stage], column, row);
        }
    }
}

// lse and delta of each step's queries, by a warp: zeros past the sequence's end.
template <int D>
__device__ __forceinline__ void load_stats(const Unit& unit, unsigned char* shared, const float* lse, const float* delta, int t,
                                           unsigned long long* full, unsigned long long* empty) {
    using L = Layout<D>;
    Step step(unit);
    for (int left = unit.steps(); left > 0; --left, step.advance(unit)) {
        float of_lse[2], of_delta[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = step.tile * QUERIES + half * WARP + lane_of_warp();
            const size_t at = static_cast<size_t>(step.head) * t + unit.begin + row;
            of_lse[half] = row < unit.length ? LOG2_E * lse[at] : 0.0f;
            of_delta[half] = row < unit.length ? delta[at] : 0.0f;
        }
        if (step.round > 0) {
            mbarrier_wait(&empty[step.stage], (step.round - 1) & 1);
        }
        float* stats = reinterpret_cast<float*>(shared + L::STATS + step.stage * L::STATS_STAGE);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            stats[half * WARP + lane_of_warp()] = of_lse[half];
            stats[QUERIES + half * WARP + lane_of_warp()] = of_delta[half];
        }
        __syncwarp();
        if (lane_of_warp() == 0) {
            mbarrier_arrive(&full[step.stage]);
        }
    }
}

// Adds the part of dQ that consumer `which` leaves in shared memory in each step to what blocks of earlier keys have added, by a warp.
template <int D>
__device__ __forceinline__ void add_queries(const Unit& unit, unsigned char* shared, float* dq, unsigned* turns, int tiles, int ordered,
                                            int which) {
    using L = Layout<D>;
    const float* part = reinterpret_cast<const float*>(shared + L::DQ + which * L::DQ_PART);
    const unsigned own_turn = static_cast<unsigned>(unit.key_tile);
    const unsigned awaited = ordered != 0 ? own_turn : min(own_turn, 1u);
    Step step(unit);
    for (int left = unit.steps(); left > 0; --left, step.advance(unit)) {
        bar_sync(DQ_WRITTEN + which, DQ_THREADS);
        const size_t tile = static_cast<size_t>(step.head) * tiles + unit.first_tile + step.tile;
        float* sum = dq + tile * (QUERIES * D) + which * (QUERIES * D / 2);
        unsigned* turn = turns + 1 + tile * 2 + which;
        if (lane_of_warp() == 0) {
            turn_wait(turn, awaited);
            // The first to come sets what the others add to.
            if (own_turn == 0) {
                bulk_store(sum, part, L::DQ_PART);
            } else {
                bulk_reduce_add(sum, part, L::DQ_PART);
            }
            bulk_commit();
            bulk_wait_read<0>();
        }
        __syncwarp();
        if (left > 1) {
            bar_arrive(DQ_TAKEN + which, DQ_THREADS);
        }
        if (lane_of_warp() == 0) {
            bulk_wait<0>();
            if (ordered != 0 || own_turn == 0) {
                turn_give(turn, own_turn + 1);
            }
        }
    }
}

// Zeros in rows first .. end of a tile with `parts` parts of `part_bytes`, by the consumers.
__device__ __forceinline__ void clear_rows(unsigned char* tile, int parts, int part_bytes, int first, int end) {
    const int vecs = LINE / 16 * (end - first);
    for (int i = threadIdx.x % CONSUMERS; i < parts * vecs; i += CONSUMERS) {
        *reinterpret_cast<uint4*>(tile + i / vecs * part_bytes + first * LINE + i % vecs * 16) = make_uint4(0, 0, 0, 0);
    }
}

// Descriptors count in 16 bytes.
__device__ __forceinline__ unsigned long long further(unsigned long long descriptor, int bytes) { return descriptor + (bytes >> 4); }

// Two bf16, the first in the lower half.
__device__ __forceinline__ unsigned packed(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

// d[64, 64] = a b^T over D columns, both in parts of lines.
template <int D>
__device__ __forceinline__ void multiply_rows(float (&d)[32], unsigned long long a, int a_part, unsigned long long b, int b_part) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        const int part = k * 16 / LINE_COLUMNS, within = k * 32 % LINE;
        wgmma<64>(d, further(a, part * a_part + within), further(b, part * b_part + within), k > 0);
    }
    wgmma_commit();
}

// d[64, D] += a[64, 64] b[64, D], a in registers, b's rows along its columns.
template <int D>
__device__ __forceinline__ void multiply_columns(float (&d)[D / 2], const unsigned (&a)[4][4], unsigned long long b) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        wgmma<D, MN_MAJOR>(d, a[k], further(b, k * 16 * LINE), 1);
    }
    wgmma_commit();
}

template <int D>
__device__ __forceinline__ void consume(const Unit& unit, unsigned char* shared, int which, act* dqkv, float* dkv, int q, int kv, int parts,
                                        int tiles, float scale, unsigned long long* keys_full, unsigned long long* full,
                                        unsigned long long* empty) {
    using L = Layout<D>;
    const int lane = lane_of_warp(), pair = lane % 4, warp = threadIdx.x / WARP;
    // The thread's first row among the block's keys; the other one is 8 further.
    const int key = warp * 16 + lane / 4;
    // Where its pair of the first eight columns of dS lies.
    const unsigned ds_at = swizzled(key * LINE + pair * 4);
    const unsigned long long own_keys = matrix_descriptor(shared + L::K + which * 64 * LINE, 0, 8 * LINE, SWIZZLE_128);
    // All keys by the columns of dQ that are this consumer's: a part of 64, or half of the only one.
    const int columns = D == 128 ? which * L::KEY_PART : which * (LINE / 2);
    const unsigned long long all_keys = matrix_descriptor(shared + L::K + columns, 0, 8 * LINE, SWIZZLE_128);
    // Tiles of the ring and of dS by their rows, and by their columns, of which those of a part are L::QUERY_PART from the next.
    const unsigned long long rows = matrix_descriptor(shared, 0, 8 * LINE, SWIZZLE_128);
    const unsigned long long parts_of_columns = matrix_descriptor(shared, L::QUERY_PART, 8 * LINE, SWIZZLE_128);
    const float score = scale * LOG2_E;

    float dk[D / 2] = {}, dv[D / 2] = {};
    mbarrier_wait(keys_full, 0);
    const int keys_left = unit.length - unit.key_tile * KEYS;
    if (keys_left < KEYS) {
        clear_rows(shared + L::K, 2 * D / LINE_COLUMNS, L::KEY_PART, keys_left, KEYS);
        fence_async_proxy();
        bar_sync(CONSUMERS_MEET, CONSUMERS);
    }

    const int steps = unit.steps(), heads = unit.heads;
    int stage = 0, stage_at = L::RING;
    unsigned parity = 0;
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
        mbarrier_wait(&full[stage], parity);
        if (i < heads && unit.length % QUERIES != 0) {
            clear_rows(shared + stage_at, 2 * D / LINE_COLUMNS, L::QUERY_PART, unit.length % QUERIES, QUERIES);
            fence_async_proxy();
            bar_sync(CONSUMERS_MEET, CONSUMERS);
        }
        float s[32], dp[32];
        wgmma_fence();
        multiply_rows<D>(s, own_keys, L::KEY_PART, further(rows, stage_at), L::QUERY_PART);
        multiply_rows<D>(dp, further(own_keys, L::V), L::KEY_PART, further(rows, stage_at + L::QUERY_TILE), L::QUERY_PART);
        // S.
        wgmma_wait<1>();
        settle(s);

        const float2* stats = reinterpret_cast<const float2*>(shared + L::STATS + stage * L::STATS_STAGE) + pair;
        // The last two tiles lie on the diagonal.
        if (i >= steps - 2 * heads) {
            const int first = (i >= steps - heads ? 0 : QUERIES) + pair * 2 - key;
#pragma unroll
            for (int n = 0; n < 32; ++n) {
                s[n] = first + n / 4 * 8 + n % 2 - n / 2 % 2 * 8 >= 0 ? s[n] : -INFINITY;
            }
        }
        unsigned p16[4][4];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 lse = stats[4 * j];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = 4 * j + 2 * h;
                s[at] = exp2_normal(fmaf(score, s[at], -lse.x));
                s[at + 1] = exp2_normal(fmaf(score, s[at + 1], -lse.y));
                p16[j / 2][j % 2 * 2 + h] = packed(s[at], s[at + 1]);
            }
        }
        wgmma_fence();
        multiply_columns<D>(dv, p16, further(parts_of_columns, stage_at + L::QUERY_TILE));
        // dP.
        wgmma_wait<1>();
        settle(dp);

        unsigned ds16[4][4];
        const int ds_tile = L::DS + i % 2 * L::DS_TILE;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 delta = stats[QUERIES / 2 + 4 * j];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int at = 4 * j + 2 * h;
                const unsigned both = packed(s[at] * (dp[at] - delta.x), s[at + 1] * (dp[at + 1] - delta.y));
                ds16[j / 2][j % 2 * 2 + h] = both;
                *reinterpret_cast<unsigned*>(shared + ds_tile + h * 8 * LINE + (ds_at ^ j * 16)) = both;
            }
        }
        fence_async_proxy();
        bar_sync(CONSUMERS_MEET, CONSUMERS);

        float dq[D / 4];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; ++k) {
            wgmma<D / 2, MN_MAJOR, MN_MAJOR>(dq, further(rows, ds_tile + k * 16 * LINE), further(all_keys, k * 16 * LINE), k > 0);
        }
        wgmma_commit();
        multiply_columns<D>(dk, ds16, further(parts_of_columns, stage_at));
        // dV and dQ.
        wgmma_wait<1>();
        settle(dv);
        settle(dq);
        if (i > 0) {
            bar_sync(DQ_TAKEN + which, DQ_THREADS);
        }
        float4* part = reinterpret_cast<float4*>(shared + L::DQ + which * L::DQ_PART) + threadIdx.x % 128;
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
            part[n * 128] = make_float4(dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]);
        }
        fence_async_proxy();
        bar_arrive(DQ_WRITTEN + which, DQ_THREADS);
        // dK, and with it the last reading of the stage.
        wgmma_wait<0>();
        settle(dk);
        __syncwarp();
        if (lane == 0) {
            mbarrier_arrive(&empty[stage]);
        }

        ++stage;
        stage_at += L::STAGE;
        if (stage == STAGES) {
            stage = 0;
            stage_at = L::RING;
            parity ^= 1;
        }
    }

    if (parts > 1) {
        // A part of the sum over the group's heads, as the registers hold it.
        const int tile = 2 * unit.key_tile + which;
        if (tile < unit.query_tiles()) {
            const size_t size = static_cast<size_t>(tiles) * QUERIES * D;
            float* of_k = dkv + (static_cast<size_t>(unit.part) * 2 * kv + unit.kv_head) * size +
                          static_cast<size_t>(unit.first_tile + tile) * (QUERIES * D);
            float4* to_k = reinterpret_cast<float4*>(of_k) + threadIdx.x % 128;
            float4* to_v = reinterpret_cast<float4*>(of_k + kv * size) + threadIdx.x % 128;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                to_k[n * 128] = make_float4(dk[4 * n], dk[4 * n + 1], dk[4 * n + 2], dk[4 * n + 3]);
                to_v[n * 128] = make_float4(dv[4 * n], dv[4 * n + 1], dv[4 * n + 2], dv[4 * n + 3]);
            }
        }
        return;
    }
    // The ring is free as soon as both have done their last products.
    bar_sync(CONSUMERS_MEET, CONSUMERS);
    act* own = reinterpret_cast<act*>(shared + L::RING) + warp * 16 * (D + ATTENTION_PAD);
    const size_t stride = static_cast<size_t>(q + 2 * kv) * D;
    const int row0 = unit.key_tile * KEYS + warp * 16;
    act* to = dqkv + static_cast<size_t>(unit.begin + row0) * stride + (q + unit.kv_head) * D;
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    store_rows<D>(to, stride, unit.length - row0, D, own, reinterpret_cast<const float(&)[D / 8][4]>(dk), scales);
    store_rows<D>(to + kv * D, stride, unit.length - row0, D, own, reinterpret_cast<const float(&)[D / 8][4]>(dv), ones);
}

template <int D>
__device__ __forceinline__ void backward(act* dqkv, float* dq, float* dkv, unsigned* turns, const CUtensorMap* qkv, const CUtensorMap* dout,
                                         const float* lse, const float* delta, const unsigned* bounds, int sequences, int t, int q, int kv,
                                         int parts, int tiles, int ordered, float scale) {
    using L = Layout<D>;
    unsigned char* shared = dynamic_shared();
    unsigned long long* keys_full = reinterpret_cast<unsigned long long*>(shared + L::BARRIERS);
    unsigned long long *full = keys_full + 1, *empty = full + STAGES;
    Unit* own = reinterpret_cast<Unit*>(shared + L::UNIT);
    const int warp = __shfl_sync(WHOLE_WARP, static_cast<int>(threadIdx.x) / WARP, 0);
    if (threadIdx.x == CONSUMERS) {
        prefetch_tensor_map(qkv);
        prefetch_tensor_map(dout);
    }
    if (warp == 0) {
        // Blocks are numbered as they come, so that the ones which a block waits for have begun.
        unsigned number = lane_of_warp() == 0 ? atomicAdd(turns, 1u) : 0u;
        number = __shfl_sync(WHOLE_WARP, number, 0);
        const int shares = kv * parts, share = static_cast<int>(number) % shares;
        Unit unit = find_unit(bounds, sequences, static_cast<int>(number) / shares);
        unit.kv_head = share / parts;
        unit.part = share % parts;
        unit.heads = q / shares;
        unit.head0 = share * unit.heads;
        if (lane_of_warp() == 0) {
            *own = unit;
            mbarrier_init(keys_full, 1);
            for (int stage = 0; stage < STAGES; ++stage) {
                mbarrier_init(&full[stage], 2);
                mbarrier_init(&empty[stage], CONSUMERS / WARP);
            }
            fence_mbarrier_init();
        }
    }
    __syncthreads();
    if (warp < CONSUMERS / WARP) {
        registers_more<240>();
        consume<D>(*own, shared, warp / 4, dqkv, dkv, q, kv, parts, tiles, scale, keys_full, full, empty);
        return;
    }
    registers_fewer<24>();
    const Unit unit = *own;
    switch (warp - CONSUMERS / WARP) {
        case 0:
            if (lane_of_warp() == 0) {
                load_tiles<D>(unit, shared, qkv, dout, q, kv, keys_full, full, empty);
            }
            break;
        case 1:
            load_stats<D>(unit, shared, lse, delta, t, full, empty);
            break;
        default:
            add_queries<D>(unit, shared, dq, turns, tiles, ordered, warp - CONSUMERS / WARP - 2);
    }
}

// dQ, and in more than one part dK and dV, from sums as registers held them to rows of dqkv; zeros past the last bound. Columns c and
// c + D / 2 of a row are one thread's.
template <int D>
__device__ __forceinline__ void finish(act* dqkv, const float* dq, const float* dkv, const unsigned* bounds, int sequences, int t, int q,
                                       int kv, int parts, int tiles, float scale) {
    SHARED(act, rows, QUERIES * (D + ATTENTION_PAD));
    const int tile = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
    const Place place = find_tile(bounds, sequences, t, tile);
    const size_t stride = static_cast<size_t>(q + 2 * kv) * D, size = static_cast<size_t>(tiles) * QUERIES * D;
    act* to = dqkv + place.first * stride + static_cast<size_t>(head) * D;
    if (!place.in_sequence) {
        clear_tile(to, stride, place.rows, D);
        return;
    }
    const bool of_query = head < q;
    if (!of_query && parts == 1) {
        return;
    }
    const float* from = of_query ? dq + head * size : dkv + (head - q) * size;
    const float4* source = reinterpret_cast<const float4*>(from + static_cast<size_t>(tile) * (QUERIES * D)) + threadIdx.x;
    float d[D / 8][4] = {};
    for (int part = 0; part < (of_query ? 1 : parts); ++part) {
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            const float4 x = source[n * 128];
            d[n][0] += x.x;
            d[n][1] += x.y;
            d[n][2] += x.z;
            d[n][3] += x.w;
        }
        source += 2 * kv * size / 4;
    }
    const float factor = head < q + kv ? scale : 1.0f, scales[2] = {factor, factor};
    const int row0 = threadIdx.x / WARP * 16;
    store_rows<D>(to + row0 * stride, stride, place.rows - row0, D, rows + row0 * (D + ATTENTION_PAD), d, scales);
}

}  // namespace

// Grid: x = tiles of 128 keys of all sequences * kv * parts. Dynamic shared memory: ATTENTION_BWD_SM90_D64_BYTES. Heads of 64 columns. The
// maps' boxes are 64 rows of 64 columns, swizzled, of qkv[t, (q + 2 kv) 64] and dout[t, q 64].
extern "C" __global__ void __launch_bounds__(ATTENTION_BWD_SM90_THREADS, 1)
attention_bwd_sm90_d64(act* dqkv, float* dq, float* dkv, unsigned* turns, const __grid_constant__ CUtensorMap qkv, const __grid_constant__ CUtensorMap dout, const float* lse, const float* delta, const unsigned* bounds, int sequences, int t, int q, int kv, int parts, int tiles, int ordered, float scale) {
    backward<64>(dqkv, dq, dkv, turns, &qkv, &dout, lse, delta, bounds, sequences, t, q, kv, parts, tiles, ordered, scale);
}

// Grid: as attention_bwd_sm90_d64, for heads of 128 columns. Dynamic shared memory: ATTENTION_BWD_SM90_D128_BYTES.
extern "C" __global__ void __launch_bounds__(ATTENTION_BWD_SM90_THREADS, 1)
attention_bwd_sm90_d128(act* dqkv, float* dq, float* dkv, unsigned* turns, const __grid_constant__ CUtensorMap qkv, const __grid_constant__ CUtensorMap dout, const float* lse, const float* delta, const unsigned* bounds, int sequences, int t, int q, int kv, int parts, int tiles, int ordered, float scale) {
    backward<128>(dqkv, dq, dkv, turns, &qkv, &dout, lse, delta, bounds, sequences, t, q, kv, parts, tiles, ordered, scale);
}

// Grid: x = tiles of 64 rows of all sequences and of the tokens past the last bound, y = q, or q + 2 kv where there are such tokens or more
// parts than one. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_sm90_finish_d64(act* dqkv, const float* dq, const float* dkv, const unsigned* bounds, int sequences, int t, int q, int kv, int parts, int tiles, float scale) {
    finish<64>(dqkv, dq, dkv, bounds, sequences, t, q, kv, parts, tiles, scale);
}

// Grid: as attention_bwd_sm90_finish_d64, for heads of 128 columns. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS)
attention_bwd_sm90_finish_d128(act* dqkv, const float* dq, const float* dkv, const unsigned* bounds, int sequences, int t, int q, int kv, int parts, int tiles, float scale) {
    finish<128>(dqkv, dq, dkv, bounds, sequences, t, q, kv, parts, tiles, scale);
}
