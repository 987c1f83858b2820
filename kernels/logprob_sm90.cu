// Log-probabilities, their normaliser and their entropy straight from the head's product, and the gradient at its input; bf16. Logits live
// in the accumulators of a tile and nowhere else.
//
//   with l = scale * (x head^T): lse = ln sum e^l, logprob = l[target] - lse, entropy = lse - sum softmax(l) l
//   dl = dlogprob * (onehot(target) - e^(l - lse)),  dx = scale * dl head
//
// Forward is one product (gemm_sm90.cuh) whose epilogue counts: a block takes a tile of rows and LOGPROB_RANGE tiles of the vocabulary
// after each other, and every thread keeps what it knows of its two rows (online.cuh) in registers across them. At the end of the range the
// four threads of a row join, and one state a row and a range goes to memory: 16 bytes for 1024 logits. A second kernel joins the ranges.
// Ranges depend on the vocabulary alone, so a token's bits do not depend on its batch or on the card.
//
// Backward multiplies again instead of remembering logits (1.2 GB at 4096 x 152064 in bf16). Tokens whose gradient is exactly 0 (prompts) are left
// out: one block lists the others in order and leaves their number beside the list, where the kernels after it read it; the host never
// waits. They then go in waves, as many as its caller has scratch for: their rows of x are gathered, one product writes the wave's dl in bf16, and
// another, over all of the vocabulary in one sum, its dx, which is rounded once and goes to the tokens' own rows. A wave that nobody is
// left for ends at once.
//
// Operations: 2 t c v forward, 4 t c v backward. Bytes: the head once a band of rows forward and twice a wave backward, dl written and read once.
// At 4096 x 5120 x 152064 with waves of 768 (derived): forward 6.4 TFLOP, 6.4 ms at 989 TFLOP/s; backward 12.8 TFLOP, 12.9 ms, for 6 waves of
// 3.1 GB of head and 0.5 GB of dl, 6.4 ms at 3.35 TB/s under them. dx of a wave is 6 by 20 tiles, 120 of 132 multiprocessors, and of the last
// wave's 256 rows 40: backward takes 25776 steps of a stage where 23040 would be even.
#include "gemm_sm90.cuh"
#include "online.cuh"
#include "reduce.cuh"

// Stands for a logit that there is none of: small beside any, and finite, so that nothing times it is still nothing.
constexpr float NO_LOGIT = -1e30f;
// No token of any vocabulary, no row.
constexpr unsigned NONE = 0xffffffffu;

__device__ __forceinline__ int tiles_of(int extent, int tile) { return (extent + tile - 1) / tile; }

// The block's share of rows * ranges, each tile by tile.
struct RangeTiles {
    GemmTiles ranges;
    GemmTile range;
    int columns, column, end;

    __device__ RangeTiles(int rows, int columns) : ranges(rows, tiles_of(columns, LOGPROB_RANGE)), columns(columns), column(0), end(0) {}

    __device__ __forceinline__ bool next(GemmTile& tile) {
        if (column == end) {
            if (!ranges.next(range)) {
                return false;
            }
            column = range.column * LOGPROB_RANGE;
            end = min(column + LOGPROB_RANGE, columns);
        }
        tile = {range.row, column++};
        return true;
    }
};

struct FoldEpilogue {
    float* state;
    const unsigned* targets;
    int t, v;
    float scale;
    // Of the thread's two rows.
    Online known[2];
    float of_target[2];
    unsigned target[2];

    __device__ __forceinline__ void begin(GemmTile tile) {
        if (tile.column % LOGPROB_RANGE > 0) {
            return;
        }
        const GemmPlace<GEMM_N> place(tile);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = place.row + 8 * h;
            known[h] = {-INFINITY, 0.0f, 0.0f};
            of_target[h] = 0.0f;
            target[h] = row < t ? targets[row] : NONE;
        }
    }

    __device__ __forceinline__ void end(float (&d)[GEMM_N / 2], GemmTile tile) {
        const GemmPlace<GEMM_N> place(tile);
        const int width = v - tile.column * GEMM_N;
        const int own = place.column - tile.column * GEMM_N;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float l[GEMM_N / 4];
#pragma unroll
            for (int i = 0; i < GEMM_N / 4; ++i) {
                l[i] = scale * d[i / 2 * 4 + 2 * h + i % 2];
            }
            if (width < GEMM_N) {
#pragma unroll
                for (int i = 0; i < GEMM_N / 4; ++i) {
                    l[i] = own + i / 2 * 8 < width ? l[i] : NO_LOGIT;
                }
            }
            known[h].add(l);
            // Wraps round, past every column, where the target comes before this tile.
            const unsigned at = target[h] - static_cast<unsigned>(tile.column * GEMM_N + own);
            if (at < GEMM_N) {
#pragma unroll
                for (int i = 0; i < GEMM_N / 4; ++i) {
                    of_target[h] = at == i / 2 * 8 + i % 2 ? l[i] : of_target[h];
                }
            }
        }
        const bool last = (tile.column + 1) * GEMM_N >= v;
        if (!last && tile.column % LOGPROB_RANGE < LOGPROB_RANGE - 1) {
            return;
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int m = 1; m < 4; m *= 2) {
                const Online other = {__shfl_xor_sync(WHOLE_WARP, known[h].top, m), __shfl_xor_sync(WHOLE_WARP, known[h].sum, m),
                                      __shfl_xor_sync(WHOLE_WARP, known[h].weighted, m)};
                known[h].join(other);
                of_target[h] += __shfl_xor_sync(WHOLE_WARP, of_target[h], m);
            }
            const int row = place.row + 8 * h;
            if (threadIdx.x % 4 == 0 && row < t) {
                const int ranges = tiles_of(v, GEMM_N * LOGPROB_RANGE);
                const Vec<float> saved = {known[h].top, known[h].sum, known[h].weighted, of_target[h]};
                store_vec(state + (static_cast<size_t>(row) * ranges + tile.column / LOGPROB_RANGE) * 4, saved);
            }
        }
    }

    __device__ __forceinline__ void finish() const {}
};

// state[t, ranges of v, 4] = of each row and each range of GEMM_N * LOGPROB_RANGE tokens of the vocabulary top, sum, weighted, l[target] or 0.
// Grid: x = blocks, at most one a multiprocessor. Dynamic shared memory: GEMM_SHARED bytes. c and v are multiples of 8. Boxes: x[t, c]: 64 by
// GEMM_M; head[v, c]: 64 by GEMM_N.
extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
linear_logprob_fold(float* state, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap head, const unsigned* targets, int t, int c, int v, float scale) {
    const FoldEpilogue epilogue = {state, targets, t, v, scale};
    gemm<GEMM_N, K_MAJOR>({&x, &head, c}, {&x, &head, 0}, RangeTiles(tiles_of(t, GEMM_M), tiles_of(v, GEMM_N)), epilogue);
}

// A warp joins a row's ranges. A target that is no token of the vocabulary is reported, and its l[target] counts as 0.
// Grid: x = ceil(t / LOGPROB_FINISH_ROWS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LOGPROB_FINISH_THREADS)
linear_logprob_finish(float* logprob, float* lse, float* entropy, const float* state, const unsigned* targets, unsigned* fault, int t, int ranges, int v) {
    const int row = blockIdx.x * LOGPROB_FINISH_ROWS + threadIdx.x / WARP;
    if (row >= t) {
        return;
    }
    Online all = {-INFINITY, 0.0f, 0.0f};
    float of_target = 0.0f;
    for (int range = threadIdx.x % WARP; range < ranges; range += WARP) {
        const Vec<float> saved = load_vec(state + (static_cast<size_t>(row) * ranges + range) * 4);
        all.join({saved[0], saved[1], saved[2]});
        of_target += saved[3];
    }
#pragma unroll
    for (int m = WARP / 2; m > 0; m /= 2) {
        const Online other = {__shfl_xor_sync(WHOLE_WARP, all.top, m), __shfl_xor_sync(WHOLE_WARP, all.sum, m),
                              __shfl_xor_sync(WHOLE_WARP, all.weighted, m)};
        all.join(other);
    }
    of_target = warp_sum(of_target);
    if (threadIdx.x % WARP == 0) {
        const unsigned target = targets[row];
        if (target >= static_cast<unsigned>(v)) {
            report_fault(fault, FAULT_TARGET, row, target);
        }
        const float log_sum = logf(all.sum);
        lse[row] = all.top + log_sum;
        // In this order: the target's logit may be large and close to the largest.
        logprob[row] = (of_target - all.top) - log_sum;
        entropy[row] = log_sum - all.weighted / all.sum;
    }
}

// rows = the tokens whose gradient is not 0, in order, and rows[t] their number.
// Grid: x = 1. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LOGPROB_ROWS_THREADS)
linear_logprob_rows(unsigned* rows, const float* dlogprob, int t) {
    SHARED(int, kept_of, LOGPROB_ROWS_THREADS / WARP);
    const int warp = threadIdx.x / WARP;
    int count = 0;
    for (int first = 0; first < t; first += LOGPROB_ROWS_THREADS) {
        const int token = first + threadIdx.x;
        const bool kept = token < t && dlogprob[token] != 0.0f;
        const unsigned votes = __ballot_sync(WHOLE_WARP, kept);
        if (threadIdx.x % WARP == 0) {
            kept_of[warp] = __popc(votes);
        }
        __syncthreads();
        int before = 0, all = 0;
#pragma unroll
        for (int w = 0; w < LOGPROB_ROWS_THREADS / WARP; ++w) {
            before += w < warp ? kept_of[w] : 0;
            all += kept_of[w];
        }
        if (kept) {
            rows[count + before + __popc(votes & ((1u << threadIdx.x % WARP) - 1))] = token;
        }
        count += all;
        // The next tokens' numbers take these ones' place.
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        rows[t] = count;
    }
}

// How many of the listed tokens are in the wave of `high` from `first` on.
__device__ __forceinline__ int tokens_of_wave(const unsigned* rows, int t, int first, int high) {
    return min(max(static_cast<int>(rows[t]) - first, 0), high);
}

// wave[high, c] = x of the listed tokens from `first` on; zeros after the last.
// Grid: x = high. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LOGPROB_GATHER_THREADS)
linear_logprob_gather(act* wave, const act* x, const unsigned* rows, int t, int first, int high, int c) {
    const int row = blockIdx.x;
    const bool taken = row < tokens_of_wave(rows, t, first, high);
    const act* from = x + static_cast<size_t>(taken ? rows[first + row] : 0) * c;
    for (int j = threadIdx.x * PIECE; j < c; j += LOGPROB_GATHER_THREADS * PIECE) {
        store_piece<true>(wave + static_cast<size_t>(row) * c + j, load_piece<true>(from + j, taken ? c - j : 0), c - j);
    }
}

struct GradientEpilogue {
    const CUtensorMap* map;
    const float *dlogprob, *lse;
    const unsigned *targets, *rows;
    int first, count;
    float scale;
    GemmStaging staging;
    // Of the thread's two rows; rows that no token is left for have a gradient of 0.
    float d[2], lse_of[2];
    unsigned target[2];

    __device__ __forceinline__ void begin(GemmTile tile) {
        const GemmPlace<GEMM_N> place(tile);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = place.row + 8 * h;
            const bool taken = row < count;
            const unsigned token = taken ? rows[first + row] : 0;
            d[h] = taken ? dlogprob[token] : 0.0f;
            lse_of[h] = taken ? lse[token] : 0.0f;
            target[h] = taken ? targets[token] : NONE;
        }
    }

    __device__ __forceinline__ void end(float (&logits)[GEMM_N / 2], GemmTile tile) {
        const GemmPlace<GEMM_N> place(tile);
        const int row = tile.row * GEMM_M + (threadIdx.x / GEMM_WARPGROUP - 1) * 64;
#pragma unroll
        for (int part = 0; part < GEMM_N / 64; ++part) {
            staging.store(map, row, tile.column * GEMM_N + part * 64, [&](int j, int h) {
                float dl[2];
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const unsigned column = place.column + part * 64 + 8 * j + e;
                    const float p = decay(scale * logits[part * 32 + 4 * j + 2 * h + e] - lse_of[h]);
                    dl[e] = d[h] * ((column == target[h] ? 1.0f : 0.0f) - p);
                }
                return bf16_pair(dl[0], dl[1]);
            });
        }
    }

    __device__ __forceinline__ void finish() const { staging.finish(); }
};

// dl[high, v] of the wave: of the tiles of rows that have tokens, or with `all` of every one, where rows without a token are 0.
// Grid: x = blocks, at most one a multiprocessor. Dynamic shared memory: GEMM_SHARED bytes. c and v are multiples of 8. Boxes: wave[high, c]:
// 64 by GEMM_M; head[v, c]: 64 by GEMM_N; dl[high, v]: 64 by 64.
extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
linear_logprob_dl(const __grid_constant__ CUtensorMap wave, const __grid_constant__ CUtensorMap head, const __grid_constant__ CUtensorMap dl, const float* dlogprob, const float* lse, const unsigned* targets, const unsigned* rows, int t, int first, int high, int all, int c, int v, float scale) {
    const int count = tokens_of_wave(rows, t, first, high);
    const GradientEpilogue epilogue = {&dl, dlogprob, lse, targets, rows, first, count, scale};
    gemm<GEMM_N, K_MAJOR>({&wave, &head, c}, {&wave, &head, 0}, GemmTiles(tiles_of(all ? high : count, GEMM_M), tiles_of(v, GEMM_N)), epilogue);
}

struct ScatterEpilogue {
    act* dx;
    const unsigned* rows;
    int first, count, c;
    float scale;
    GemmStaging staging;
    // Where the rows go of which the thread stores a piece: every sixteenth of the consumer's.
    unsigned token[4];

    static __device__ __forceinline__ int own_row() { return threadIdx.x % GEMM_WARPGROUP / 8; }

    __device__ __forceinline__ void begin(GemmTile tile) {
        const int begin = tile.row * GEMM_M + (threadIdx.x / GEMM_WARPGROUP - 1) * 64 + own_row();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            token[i] = begin + 16 * i < count ? rows[first + begin + 16 * i] : NONE;
        }
    }

    __device__ __forceinline__ void end(float (&d)[GEMM_N / 2], GemmTile tile) {
        const int piece = threadIdx.x % 8;
#pragma unroll
        for (int part = 0; part < GEMM_N / 64; ++part) {
            staging.fill([&](int j, int h) {
                const int of_d = part * 32 + 4 * j + 2 * h;
                return bf16_pair(scale * d[of_d], scale * d[of_d + 1]);
            });
            // Those who fill this box again have met once more by then.
            staging.meet();
            const int column = tile.column * GEMM_N + part * 64 + piece * PIECE;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (token[i] != NONE && column < c) {
                    const unsigned char* at = staging.boxes + staging.slot * GEMM_BOX + swizzled((own_row() + 16 * i) * 128 + piece * 16);
                    store_vec(dx + static_cast<size_t>(token[i]) * c + column, load_vec(reinterpret_cast<const act*>(at)));
                }
            }
            staging.slot ^= 1;
        }
    }

    __device__ __forceinline__ void finish() const {}
};

// dx[token, c] = scale * dl[high, v] head[v, c] for the wave's tokens.
// Grid: as linear_logprob_dl. Dynamic shared memory: GEMM_SHARED
// bytes. Boxes: dl: 64 by GEMM_M; head: 64 by 64.
extern "C" __global__ void __launch_bounds__(GEMM_THREADS, 1)
linear_logprob_dx(act* dx, const __grid_constant__ CUtensorMap dl, const __grid_constant__ CUtensorMap head, const unsigned* rows, int t, int first, int high, int c, int v, float scale) {
    const int count = tokens_of_wave(rows, t, first, high);
    const ScatterEpilogue epilogue = {dx, rows, first, count, c, scale};
    gemm<GEMM_N, MN_MAJOR>({&dl, &head, v}, {&dl, &head, 0}, GemmTiles(tiles_of(count, GEMM_M), tiles_of(c, GEMM_N)), epilogue);
}
