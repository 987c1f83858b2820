// Causal grouped-query attention over packed sequences, forward, for heads of 64 and 128 columns in bf16 (Dao 2023, algorithm 1, on
// Hopper's own instructions; Shah et al. 2024 is where the two overlaps below come from):
//
//   S = scale Q K^T where key <= query, else -inf;  P = softmax(S);  out = P V;  lse = ln sum e^S
//
// Layout: qkv[t, (q + 2 kv) D], out[t, q D], lse[q, t]; query head h reads key-value head h / (q / kv).
//
// Work: 4 D operations for each pair of query and key, 2 q D n (n + 1) for a sequence of n tokens; bytes are those of qkv, out and lse,
// 2 (2 q + 2 kv) D + 4 q a token. At 40/8 heads of 128 and n = 4096 that is 42.0 M operations and 24.7 KB a token, 1,696 operations a
// byte where the ridge of an H100 is 295: the floor is arithmetic, 42.4 us per thousand tokens at 989.4 TFLOP/s, derived and not
// measured. The tensor cores have to be kept busy, and the rest is about what runs beside them.
//
// A tile is 128 rows of a head. A block takes 128 queries and goes through the keys and values 128 at a time, from the diagonal down to
// the first: queries and keys of a sequence are cut at the same rows, so only the first of them is masked, before the loop, and of that
// one the upper 64 queries multiply only the half that they see, which saves a quarter of a tile. Three warpgroups: one thread of the
// first brings tiles by TMA (24 registers a thread), the other two multiply 64 queries each (240). A tile is multiplied twice from one place,
// 64 KiB of keys and values for 8.4 M operations. 192 queries would make that half again as good, but a
// third warpgroup leaves 160 registers, and output, scores and probabilities alone are 64 + 64 + 32: the overlap within a warpgroup
// would have to go. 256 queries by two do not fit in 256 registers.
//
// Two overlaps. Within a warpgroup the next scores are issued before the product with the present values, and their softmax runs under
// that product. Between the two, named barriers hand the tensor cores over after each pair of products, so that one's softmax also runs
// under the other's products. Probabilities stay in registers: an accumulator's layout is that of the left operand.
//
// Shared memory (dynamic, 1024-aligned): queries, output on its way to memory, and a ring of five tiles of keys and values in the order
// of use: k0 k1 v0 k2 v1 ... v. Two and a half pairs, because the two warpgroups are half a pair apart. How tiles lie and how they become
// operands stands in attention_sm90.cuh. A stage is full when its bytes have come, and empty when each of the eight warps has arrived
// after its wait for the product. Output has a place of its own, so that the next tile's queries come during the epilogue.
//
// Exponentials are to base 2 with scale log2 e folded into one fused multiply-add each. The output shrinks only when a row of the warp
// has a new largest score: else the factor is exactly 1, so the bits are the same.
//
// A box of keys, values or queries may run past the end of its sequence into the next one or past the last bound, whatever is there.
// Such keys are masked by selection. Such values meet probabilities of 0, but 0 times NaN is NaN: where a sequence ends within a tile,
// the consumers clear the rest of it in shared memory first. Both clear all of it, since writing the same zeros twice is cheaper than
// meeting. Rows of such queries are computed and not stored.
//
// Blocks are as many as multiprocessors and take (tile, head) pairs from a counter, longest first, so that short ones fill in at the end;
// the order is made on the device (attention_fwd_sm90_order), in a launch of its own, from the bounds that are there. Who takes what
// may differ from run to run, and no sum crosses a pair, so the bits may not. The heads of a tile follow each other: with 5 heads a
// group, 132 blocks work on 27 streams of keys and values at a time, and the others of a group find them in the L2 cache.
#include "attention_sm90.cuh"

constexpr int CONSUMERS = 2;
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP / WARP;
constexpr int GROUP_ROWS = ATTENTION_SM90_ROWS / CONSUMERS;
// Scores of a thread: 64 rows by 128 keys over 128 threads.
constexpr int SCORES = GROUP_ROWS * ATTENTION_SM90_ROWS / WARPGROUP;
constexpr int STEPS = ATTENTION_SM90_ROWS / 16;

// Named barriers: whose turn at the tensor cores it is, and a consumer's own.
constexpr int BARRIER_TURN = 1;
constexpr int BARRIER_OWN = BARRIER_TURN + CONSUMERS;

using Stages = Ring<ATTENTION_FWD_SM90_STAGES>;

// What the producer tells the consumers of the next pair.
struct Pair {
    int head;
    int begin, end;  // the sequence
    int tile;        // number within the sequence; -1: there is no next pair
};

// What a block has in shared memory.
struct Shared {
    unsigned char *queries, *output, *ring;
    unsigned long long *full, *empty;                // of each stage
    unsigned long long *queries_full, *queries_empty;  // of the queries and `next`
    Pair* next;
};

// Brings every tile that the block works on, by one thread.
template <int D>
__device__ __forceinline__ void produce(const Shared& shared, const CUtensorMap* qkv, unsigned* work, int pairs, int q, int kv) {
    Stages at;
    const auto load = [&](int column, int row) {
        mbarrier_wait(&shared.empty[at.slot], at.parity ^ 1);
        mbarrier_arrive_expect(&shared.full[at.slot], TILE_BYTES<D>);
        for (int box = 0; box < D / BOX_COLUMNS; ++box) {
            tile_load(shared.ring + at.slot * TILE_BYTES<D> + box * BOX_BYTES, qkv, &shared.full[at.slot], column + box * BOX_COLUMNS, row);
        }
        at.advance();
    };
    unsigned parity = 1;
    for (int pair = static_cast<int>(blockIdx.x); pair < pairs;) {
        // The answer is not needed before this pair's tiles are on their way.
        const int following = static_cast<int>(gridDim.x + atomicAdd(work, 1u));
        const unsigned* entry = work + 1 + pair / q * ATTENTION_FWD_SM90_ENTRY;
        const Pair next = {pair % q, static_cast<int>(entry[0]), static_cast<int>(entry[1]), static_cast<int>(entry[2])};
        const int keys = (q + next.head / (q / kv)) * D, values = keys + kv * D;
        const int diagonal = next.begin + next.tile * ATTENTION_SM90_ROWS;
        load(keys, diagonal);
        mbarrier_wait(shared.queries_empty, parity);
        *shared.next = next;
        mbarrier_arrive_expect(shared.queries_full, TILE_BYTES<D>);
        for (int box = 0; box < D / BOX_COLUMNS; ++box) {
            tile_load(shared.queries + box * BOX_BYTES, qkv, shared.queries_full, next.head * D + box * BOX_COLUMNS, diagonal);
        }
        for (int row = diagonal; row > next.begin; row -= ATTENTION_SM90_ROWS) {
            load(keys, row - ATTENTION_SM90_ROWS);
            load(values, row);
        }
        load(values, next.begin);
        pair = following;
        parity ^= 1;
    }
    mbarrier_wait(shared.queries_empty, parity);
    shared.next->tile = -1;
    mbarrier_arrive(shared.queries_full);
}

// s = Q K^T with the first KEYS keys of a tile, issued and committed.
template <int D, int KEYS>
__device__ __forceinline__ void issue_scores(float (&s)[KEYS / 2], unsigned long long queries, unsigned long long keys) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        wgmma<KEYS>(s, queries + rows_step(k), keys + rows_step(k), k > 0);
    }
    wgmma_commit();
}

// o += P V with the first KEYS keys of a tile, issued and committed.
template <int D, int KEYS>
__device__ __forceinline__ void issue_output(float (&o)[D / 2], const unsigned (&p)[STEPS][4], unsigned long long values) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
        wgmma<D, MN_MAJOR>(o, p[k], values + columns_step(k), 1);
    }
    wgmma_commit();
}

// A thread's two rows: the largest score so far, before scaling, and the thread's part of the sum of exponentials below it.
struct Softmax {
    float top[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.0f, 0.0f};
};

// s becomes exponentials below the rows' new largest score, which are summed; `shrink` is what everything before has to be multiplied by.
__device__ __forceinline__ void exponentials(float (&s)[SCORES], Softmax& rows, float (&shrink)[2], float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float largest = rows.top[half];
#pragma unroll
        for (int i = 2 * half; i < SCORES; i += 4) {
            largest = fmaxf(largest, fmaxf(s[i], s[i + 1]));
        }
        largest = quad_max(largest);
        // Every row sees its own key in the first tile, so `largest` is finite from then on.
        shrink[half] = exp2_normal((rows.top[half] - largest) * scale_log2);
        rows.top[half] = largest;
        const float below = -largest * scale_log2;
        float sum[2] = {rows.sum[half] * shrink[half], 0.0f};
#pragma unroll
        for (int i = 2 * half; i < SCORES; i += 4) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                s[i + e] = exp2_normal(fmaf(s[i + e], scale_log2, below));
                sum[e] += s[i + e];
            }
        }
        rows.sum[half] = sum[0] + sum[1];
    }
}

// Exponentials as the left operand of the product with values.
__device__ __forceinline__ void as_operand(unsigned (&p)[STEPS][4], const float (&s)[SCORES]) {
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            p[k][i] = pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
        }
    }
}

// Multiplies, by consumer number `group`.
template <int D>
__device__ __forceinline__ void consume(const Shared& shared, int group, act* out, float* lse, int t, int q, float scale) {
    constexpr int PIECES = D / VEC;
    const float scale_log2 = scale * LOG2_E;
    const int warp = threadIdx.x / WARP % (WARPGROUP / WARP);
    // The thread's first row within the tile; the second is 8 below.
    const int own_row = group * GROUP_ROWS + warp * 16 + lane_of_warp() / 4;
    const unsigned long long queries = rows_descriptor(shared.queries + group * GROUP_ROWS * 128);
    const unsigned long long ring_rows = rows_descriptor(shared.ring), ring_columns = columns_descriptor(shared.ring);
    const auto of_stage = [](int slot) { return slot * descriptor_step(TILE_BYTES<D>); };
    // The warp's rows of `output`: 16-byte pieces change places by the row's number, for the banks' sake.
    act* staged = reinterpret_cast<act*>(shared.output) + (group * GROUP_ROWS + warp * 16) * D;

    if (group == 1) {
        bar_arrive(BARRIER_TURN, CONSUMERS * WARPGROUP);
    }
    Stages at;
    for (unsigned parity = 0;; parity ^= 1) {
        mbarrier_wait(shared.queries_full, parity);
        const Pair pair = *shared.next;
        if (pair.tile < 0) {
            break;
        }
        const int first = pair.begin + pair.tile * ATTENTION_SM90_ROWS;
        const int rows = min(ATTENTION_SM90_ROWS, pair.end - first);

        float s[SCORES], o[D / 2];
        unsigned p[STEPS][4];
        mbarrier_wait(&shared.full[at.slot], at.parity);
        // The first consumer multiplies with half of the tile on the diagonal. These scores have an array of their own: in a part of `s`
        // they leave the compiler short of registers, and then it has products wait for each other.
        if (group == 0) {
            float visible[GROUP_ROWS / 2];
            wgmma_fence();
            issue_scores<D, GROUP_ROWS>(visible, queries, ring_rows + of_stage(at.slot));
            wgmma_wait<0>();
            settle(visible);
#pragma unroll
            for (int i = 0; i < SCORES; ++i) {
                s[i] = i < GROUP_ROWS / 2 ? visible[i] : -INFINITY;
            }
        } else {
            wgmma_fence();
            issue_scores<D, ATTENTION_SM90_ROWS>(s, queries, ring_rows + of_stage(at.slot));
            wgmma_wait<0>();
            settle(s);
        }
        warp_arrive(&shared.empty[at.slot]);
        at.advance();
#pragma unroll
        for (int i = 0; i < SCORES; ++i) {
            s[i] = tile_column(i / 4, i % 4) > own_row + i / 2 % 2 * 8 ? -INFINITY : s[i];
        }
        Softmax state;
        float shrink[2];
        exponentials(s, state, shrink, scale_log2);
        as_operand(p, s);
#pragma unroll
        for (int i = 0; i < D / 2; ++i) {
            o[i] = 0.0f;
        }
        if (rows < ATTENTION_SM90_ROWS) {
            Stages values = at;
            if (pair.tile > 0) {
                values.advance();
            }
            mbarrier_wait(&shared.full[values.slot], values.parity);
            for (int box = 0; box < D / BOX_COLUMNS; ++box) {
                unsigned char* past = shared.ring + values.slot * TILE_BYTES<D> + box * BOX_BYTES + rows * 128;
                for (int i = threadIdx.x % WARPGROUP; i < (ATTENTION_SM90_ROWS - rows) * 8; i += WARPGROUP) {
                    store_vec(reinterpret_cast<act*>(past + i * 16), Vec<act>{});
                }
            }
            fence_async_proxy();
            bar_sync(BARRIER_OWN + group, WARPGROUP);
        }

        mbarrier_wait(&shared.full[at.slot], at.parity);
        // The next scores and the present output, of which VALUES keys are visible.
        const auto step = [&]<int VALUES>() {
            const int keys = at.slot;
            at.advance();
            bar_sync(BARRIER_TURN + group, CONSUMERS * WARPGROUP);
            wgmma_fence();
            issue_scores<D, ATTENTION_SM90_ROWS>(s, queries, ring_rows + of_stage(keys));
            mbarrier_wait(&shared.full[at.slot], at.parity);
            wgmma_fence();
            issue_output<D, VALUES>(o, p, ring_columns + of_stage(at.slot));
            bar_arrive(BARRIER_TURN + 1 - group, CONSUMERS * WARPGROUP);
            wgmma_wait<1>();
            settle(s);
            warp_arrive(&shared.empty[keys]);
            exponentials(s, state, shrink, scale_log2);
            settle(s);
            const int values = at.slot;
            at.advance();
            // What comes next is needed only after this wait for the product. But the compiler moves the exponentials behind that one unless
            // there is a branch between the two, and they are to run under the product.
            mbarrier_wait(&shared.full[at.slot], at.parity);
            wgmma_wait<0>();
            settle(o);
            warp_arrive(&shared.empty[values]);
            as_operand(p, s);
            if (__any_sync(WHOLE_WARP, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
                for (int i = 0; i < D / 2; ++i) {
                    o[i] *= shrink[i / 2 % 2];
                }
            }
        };
        int tile = pair.tile;
        if (group == 0 && tile > 0) {
            step.template operator()<GROUP_ROWS>();
            --tile;
        }
        for (; tile > 0; --tile) {
            step.template operator()<ATTENTION_SM90_ROWS>();
        }
        warp_arrive(shared.queries_empty);
        if (group == 0 && pair.tile == 0) {
            wgmma_fence();
            issue_output<D, GROUP_ROWS>(o, p, ring_columns + of_stage(at.slot));
        } else {
            wgmma_fence();
            issue_output<D, ATTENTION_SM90_ROWS>(o, p, ring_columns + of_stage(at.slot));
        }
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float whole = quad_sum(state.sum[half]);
            inverse[half] = 1.0f / whole;
            const int row = own_row + 8 * half;
            if (lane_of_warp() % 4 == 0 && row < rows) {
                lse[static_cast<size_t>(pair.head) * t + first + row] = scale * state.top[half] + logf(whole);
            }
        }
        wgmma_wait<0>();
        settle(o);
        warp_arrive(&shared.empty[at.slot]);
        at.advance();

        // The last pair's output has been read.
        __syncwarp();
#pragma unroll
        for (int i = 0; i < D / 2; i += 2) {
            const int row = lane_of_warp() / 4 + i / 2 % 2 * 8, piece = i / 4 ^ row % 8;
            const unsigned both = pack(o[i] * inverse[i / 2 % 2], o[i + 1] * inverse[i / 2 % 2]);
            reinterpret_cast<unsigned*>(staged + row * D + piece * VEC)[lane_of_warp() % 4] = both;
        }
        __syncwarp();
        const int left = rows - group * GROUP_ROWS - warp * 16;
        act* to = out + (static_cast<size_t>(first + group * GROUP_ROWS + warp * 16) * q + pair.head) * D;
#pragma unroll
        for (int i = lane_of_warp(); i < 16 * PIECES; i += WARP) {
            const int row = i / PIECES, piece = i % PIECES;
            if (row < left) {
                store_vec(to + static_cast<size_t>(row) * q * D + piece * VEC, load_vec(staged + row * D + (piece ^ row % 8) * VEC));
            }
        }
    }
    // The other's last turn was handed over too.
    if (group == 0) {
        bar_sync(BARRIER_TURN, CONSUMERS * WARPGROUP);
    }
}

template <int D>
__device__ __forceinline__ void attend(act* out, float* lse, const CUtensorMap* qkv, unsigned* work, int pairs, int t, int q, int kv,
                                       float scale) {
    SHARED(unsigned long long, full, ATTENTION_FWD_SM90_STAGES);
    SHARED(unsigned long long, empty, ATTENTION_FWD_SM90_STAGES);
    SHARED(unsigned long long, queries_full, 1);
    SHARED(unsigned long long, queries_empty, 1);
    SHARED(Pair, next, 1);
    unsigned char* tiles = dynamic_shared();
    const Shared shared = {tiles, tiles + TILE_BYTES<D>, tiles + 2 * TILE_BYTES<D>, full, empty, queries_full, queries_empty, next};
    if (threadIdx.x == 0) {
        prefetch_tensor_map(qkv);
        for (int i = 0; i < ATTENTION_FWD_SM90_STAGES; ++i) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], CONSUMER_WARPS);
        }
        mbarrier_init(queries_full, 1);
        mbarrier_init(queries_empty, CONSUMER_WARPS);
        fence_mbarrier_init();
    }
    __syncthreads();
    // From one lane, so that the compiler knows that a warp has one.
    const int group = __shfl_sync(WHOLE_WARP, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    if (group == 0) {
        registers_fewer<24>();
        if (threadIdx.x < WARP && elect_one()) {
            produce<D>(shared, qkv, work, pairs, q, kv);
        }
    } else {
        registers_more<240>();
        consume<D>(shared, group - 1, out, lse, t, q, scale);
    }
}

// work[0] = 0, the counter, and behind it the tiles of all sequences, those with the most keys first: where the sequence begins and
// ends, and the tile's number in it. A warp takes a sequence, a lane a tile, whose place is the number of tiles before it: by number in
// the sequence, downwards, then by sequence. The tokens past the last bound get out = 0, lse = 0, a block each.
//
// Grid: x = the most of ceil(sequences / ATTENTION_FWD_SM90_ORDER_WARPS), t - bounds[sequences] and 1. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(ATTENTION_FWD_SM90_ORDER_THREADS)
attention_fwd_sm90_order(unsigned* work, act* out, float* lse, const unsigned* bounds, int sequences, int t, int q, int dim) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        work[0] = 0;
    }
    const auto tiles_of = [](unsigned begin, unsigned end) {
        return static_cast<int>((end - begin + ATTENTION_SM90_ROWS - 1) / ATTENTION_SM90_ROWS);
    };
    const int sequence = static_cast<int>(blockIdx.x) * ATTENTION_FWD_SM90_ORDER_WARPS + threadIdx.x / WARP;
    if (sequence < sequences) {
        const unsigned begin = bounds[sequence], end = bounds[sequence + 1];
        for (int tile = lane_of_warp(); tile < tiles_of(begin, end); tile += WARP) {
            int place = 0;
            unsigned from = bounds[0];
            for (int other = 0; other < sequences; ++other) {
                const unsigned to = bounds[other + 1];
                const int after = tiles_of(from, to) - tile;
                place += max(after - 1, 0) + (other < sequence && after > 0 ? 1 : 0);
                from = to;
            }
            unsigned* entry = work + 1 + place * ATTENTION_FWD_SM90_ENTRY;
            entry[0] = begin;
            entry[1] = end;
            entry[2] = static_cast<unsigned>(tile);
        }
    }
    const int token = static_cast<int>(bounds[sequences]) + static_cast<int>(blockIdx.x);
    if (token < t) {
        for (int i = threadIdx.x; i < q * dim / VEC; i += ATTENTION_FWD_SM90_ORDER_THREADS) {
            store_vec(out + static_cast<size_t>(token) * q * dim + i * VEC, Vec<act>{});
        }
        for (int head = threadIdx.x; head < q; head += ATTENTION_FWD_SM90_ORDER_THREADS) {
            lse[static_cast<size_t>(head) * t + token] = 0.0f;
        }
    }
}

// `work` is attention_fwd_sm90_order's, `pairs` the tiles in it times q; qkv's boxes are ATTENTION_SM90_ROWS rows of 64 columns with the
// 128-byte swizzle.
//
// Grid: x = as many blocks as run at once, at most `pairs`. Dynamic shared memory: ATTENTION_FWD_SM90_D64_BYTES. dim = 64.
extern "C" __global__ void __launch_bounds__(ATTENTION_FWD_SM90_THREADS, 1)
attention_fwd_sm90_d64(act* out, float* lse, const __grid_constant__ CUtensorMap qkv, unsigned* work, int pairs, int t, int q, int kv, float scale) {
    attend<64>(out, lse, &qkv, work, pairs, t, q, kv, scale);
}

// Grid: as attention_fwd_sm90_d64. Dynamic shared memory: ATTENTION_FWD_SM90_D128_BYTES. dim = 128.
extern "C" __global__ void __launch_bounds__(ATTENTION_FWD_SM90_THREADS, 1)
attention_fwd_sm90_d128(act* out, float* lse, const __grid_constant__ CUtensorMap qkv, unsigned* work, int pairs, int t, int q, int kv, float scale) {
    attend<128>(out, lse, &qkv, work, pairs, t, q, kv, scale);
}
