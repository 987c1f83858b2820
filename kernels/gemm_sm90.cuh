// The main loop of products on a warpgroup's tensor cores, for kernels that differ in which tiles they take and in what they do with one:
//
//   D[i, j] = sum over k of a[i, k] b[k, j]  (+ sum over r of z[i, r] y[r, j], the tail)        bf16, sums in f32
//
// a and z are row-major. b and y are stored as [n, k] (B = K_MAJOR: a weight applied forward) or as [k, n] (B = MN_MAJOR: the same weight
// applied to gradients); neither is ever transposed in memory, the descriptors of wgmma read both. Rows are multiples of 16 bytes. Extents
// are any: copies fill with zeros what lies outside, which adds nothing, and so a low-rank branch of rank 4 is one more step of k.
//
// Operations and bytes: 2 m n k against (m + n) k per tile of m by n from L2. With 128 by 256 that is 85 operations a byte: at the tensor
// cores' rate (989 TFLOP/s) 11.6 TB/s, which is what forbids anything smaller; 256 by 256 would have no registers left.
//
// A block is three warpgroups and stays: tiles come to it one after another. The first warpgroup gives up its registers, and one thread of
// it copies (TMA, 128-byte swizzle, so that neither copies nor wgmma meet a bank conflict) into a ring of stages of GEMM_K each; the other
// two multiply, 64 rows each by all of the tile's columns, 128 accumulators a thread. A stage's `full` barrier counts its bytes, its
// `empty` barrier the warps that are done with it. A product of the next stage is issued before the last one is waited for, so the tensor
// cores always have one waiting.
//
// The two consumers share a tile (cooperative) instead of taking tiles in turns (ping-pong). Ping-pong hides an epilogue under the
// other's products, but its tiles are 64 rows high and need 1.7 times the bytes from L2, where this machine has none to spare. What hides
// the epilogue here: the copying thread does not stop at a tile's end, so the ring is full when the products go on, and the consumers are
// not tied to each other: one that is ahead by some stages stores while the other's products have the tensor cores alone. At k = 5120
// (80 steps of a tile) an epilogue is a few steps.
//
// Tiles are taken in bands of GEMM_BAND tile rows, column by column: what 132 blocks work on at one time is about 16 by 8 tiles, 2048 by 2048
// numbers, whose rows and columns are read from memory once and then from L2. No clusters: launches have none.
//
// Deterministic: a number of D is one thread's sum in the order of k, whatever the tiles.
#pragma once
#include "act.cuh"
#include "wgmma.cuh"

constexpr int GEMM_WARPGROUP = 128;
constexpr int GEMM_CONSUMER_WARPS = 8;
// 64 lines of 128 bytes: what a consumer's rows of a stage are, or what is staged of its result at a time.
constexpr int GEMM_BOX = 64 * 128;

// One sum: its factors' maps and how long it is; 0 is none.
struct GemmTerms {
    const CUtensorMap *a, *b;
    int k;
};

// A tile by its row and column among tiles.
struct GemmTile {
    int row, column;
};

// The block's share of rows * columns tiles.
struct GemmTiles {
    int rows, columns, index;

    __device__ GemmTiles(int rows, int columns) : rows(rows), columns(columns), index(blockIdx.x) {}

    __device__ __forceinline__ bool next(GemmTile& tile) {
        if (index >= rows * columns) {
            return false;
        }
        const int first = index / (GEMM_BAND * columns) * GEMM_BAND;
        const int high = min(GEMM_BAND, rows - first);
        const int within = index - first * columns;
        tile = {first + within % high, within / high};
        index += gridDim.x;
        return true;
    }
};

// Where the ring is for one who goes round it.
template <int STAGES>
struct GemmPosition {
    int stage = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// The numbers of a tile that a consumer's thread has: d[4 j + 2 h + e] = D[row + 8 h][column + 8 j + e], of the whole product.
template <int N>
struct GemmPlace {
    int row, column;

    __device__ __forceinline__ explicit GemmPlace(GemmTile tile) {
        const int lane = threadIdx.x % 32;
        row = tile.row * GEMM_M + (threadIdx.x / 32 - GEMM_WARPGROUP / 32) * 16 + lane / 4;
        column = tile.column * N + lane % 4 * 2;
    }
};

__device__ __forceinline__ unsigned bf16_pair(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

__device__ __forceinline__ float2 float_pair(unsigned bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

// Two boxes of 64 rows and 64 columns of bf16 by which a consumer's result goes to memory, swizzled as copies want it: a warp's words then
// lie in 32 banks. One is filled while the other is stored.
struct GemmStaging {
    unsigned char* boxes;
    int slot = 0;

    __device__ __forceinline__ GemmStaging() {
        boxes = dynamic_shared() + GEMM_RING + (threadIdx.x / GEMM_WARPGROUP - 1) * 2 * GEMM_BOX;
    }

    __device__ __forceinline__ bool first() const { return threadIdx.x % GEMM_WARPGROUP == 0; }

    // Waits for the warpgroup.
    __device__ __forceinline__ void meet() const { bar_sync(threadIdx.x / GEMM_WARPGROUP, GEMM_WARPGROUP); }

    // `pair(j, h)`: the bits of the thread's numbers 4 j + 2 h and the one after it, of these 64 columns.
    template <class Pair>
    __device__ __forceinline__ void fill(Pair pair) {
        const int lane = threadIdx.x % 32;
        unsigned char* line = boxes + slot * GEMM_BOX + (threadIdx.x / 32 % 4 * 16 + lane / 4) * 128 + lane % 4 * 4;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                *reinterpret_cast<unsigned*>(line + h * 1024 + ((j ^ lane / 4) << 4)) = pair(j, h);
            }
        }
    }

    // Stores 64 columns from `column` on of the consumer's rows from `row` on.
    template <class Pair>
    __device__ __forceinline__ void store(const CUtensorMap* out, int row, int column, Pair pair) {
        // The box was stored two rounds ago.
        if (first()) {
            bulk_wait_read<1>();
        }
        meet();
        fill(pair);
        fence_async_proxy();
        meet();
        if (first()) {
            tile_store(out, boxes + slot * GEMM_BOX, column, row);
            bulk_commit();
        }
        slot ^= 1;
    }

    // Before the thread returns.
    __device__ __forceinline__ void finish() const {
        if (first()) {
            bulk_wait<0>();
        }
    }
};

template <int N, Major B>
struct Gemm {
    static constexpr int A_BYTES = GEMM_M * GEMM_K * 2;
    static constexpr int STAGE = A_BYTES + N * GEMM_K * 2;
    static constexpr int STAGES = GEMM_RING / STAGE;
    static_assert(GEMM_RING % STAGE == 0 && 2 * STAGES * 8 <= GEMM_BARRIERS, "whole stages, and room for their barriers");
    static_assert(GEMM_STAGING == 4 * GEMM_BOX && GEMM_K == 64 && GEMM_M == 128 && N % 64 == 0, "boxes are lines of 128 bytes");

    unsigned long long *full, *empty;

    static __device__ __forceinline__ int steps(int k) { return (k + GEMM_K - 1) / GEMM_K; }

    // Stage `at`, from `k` on of rows and columns of the tile.
    __device__ __forceinline__ void load(int at, const GemmTerms& terms, GemmTile tile, int k) const {
        unsigned char* stage = dynamic_shared() + at * STAGE;
        mbarrier_arrive_expect(full + at, STAGE);
        tile_load(stage, terms.a, full + at, k, tile.row * GEMM_M);
        if constexpr (B == K_MAJOR) {
            tile_load(stage + A_BYTES, terms.b, full + at, k, tile.column * N);
        } else {
            for (int part = 0; part < N / 64; ++part) {
                tile_load(stage + A_BYTES + part * GEMM_BOX, terms.b, full + at, tile.column * N + part * 64, k);
            }
        }
    }

    template <class Tiles>
    __device__ __forceinline__ void produce(const GemmTerms& terms, const GemmTerms& tail, Tiles tiles) const {
        GemmPosition<STAGES> at;
        GemmTile tile;
        const int own = steps(terms.k), all = own + steps(tail.k);
        while (tiles.next(tile)) {
            for (int step = 0; step < all; ++step) {
                // On the first round nobody has been there: the phase before it counts as complete.
                mbarrier_wait(empty + at.stage, at.parity ^ 1);
                if (step < own) {
                    load(at.stage, terms, tile, step * GEMM_K);
                } else {
                    load(at.stage, tail, tile, (step - own) * GEMM_K);
                }
                at.advance();
            }
        }
    }

    // The consumer's rows of stage `at` by its columns, added to d unless it is the first.
    static __device__ __forceinline__ void multiply(float (&d)[N / 2], int at, int consumer, bool add) {
        const unsigned char* a = dynamic_shared() + at * STAGE + consumer * GEMM_BOX;
        const unsigned char* b = dynamic_shared() + at * STAGE + A_BYTES;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < GEMM_K; k += 16) {
            const unsigned long long left = matrix_descriptor(a + k * 2, 16, 1024, SWIZZLE_128);
            const unsigned long long right = matrix_descriptor(b + k * (B == K_MAJOR ? 2 : 128), B == K_MAJOR ? 16 : GEMM_BOX, 1024, SWIZZLE_128);
            wgmma<N, K_MAJOR, B>(d, left, right, add || k > 0);
        }
        wgmma_commit();
    }

    // A warp's part of it, once its products are done.
    __device__ __forceinline__ void release(int at) const {
        if (threadIdx.x % 32 == 0) {
            mbarrier_arrive(empty + at);
        }
    }

    template <class Tiles, class Epilogue>
    __device__ __forceinline__ void consume(int steps, Tiles tiles, Epilogue& epilogue) const {
        const int consumer = threadIdx.x / GEMM_WARPGROUP - 1;
        GemmPosition<STAGES> at;
        GemmTile tile;
        float d[N / 2];
        while (tiles.next(tile)) {
            epilogue.begin(tile);
            int before = 0;
            for (int step = 0; step < steps; ++step) {
                mbarrier_wait(full + at.stage, at.parity);
                multiply(d, at.stage, consumer, step > 0);
                wgmma_wait<1>();
                if (step > 0) {
                    release(before);
                }
                before = at.stage;
                at.advance();
            }
            wgmma_wait<0>();
            settle(d);
            release(before);
            epilogue.end(d, tile);
        }
    }
};

// Runs the block. Every thread calls it with tiles of its own of the same block; `epilogue` is a consumer's: begin(tile) before the
// products, where it may ask memory for what it will need, end(d, tile) with the thread's numbers of the tile (GemmPlace), finish() last.
// terms.k is not 0.
template <int N, Major B, class Epilogue, class Tiles>
__device__ __forceinline__ void gemm(const GemmTerms& terms, const GemmTerms& tail, Tiles tiles, Epilogue epilogue) {
    using Loop = Gemm<N, B>;
    unsigned long long* barriers = reinterpret_cast<unsigned long long*>(dynamic_shared() + GEMM_RING + GEMM_STAGING);
    const Loop loop = {barriers, barriers + Loop::STAGES};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Loop::STAGES; ++stage) {
            mbarrier_init(loop.full + stage, 1);
            mbarrier_init(loop.empty + stage, GEMM_CONSUMER_WARPS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x < GEMM_WARPGROUP) {
        registers_fewer<40>();
        if (threadIdx.x < 32 && elect_one()) {
            loop.produce(terms, tail, tiles);
        }
    } else {
        registers_more<232>();
        loop.consume(Loop::steps(terms.k) + Loop::steps(tail.k), tiles, epilogue);
        epilogue.finish();
    }
}
