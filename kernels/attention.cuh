// What attention's forward and backward kernels share: where a tile of rows stands among packed sequences, and moving tiles of
// heads between memory and shared memory.
//
// Sequences are packed without padding: sequence i is the tokens bounds[i]..bounds[i + 1]. Rows are cut into tiles of
// ATTENTION_ROWS from the first token of each sequence on, so a tile never crosses a sequence, and query tiles and key tiles of
// a sequence have the same borders: the causal mask cuts only the tile on the diagonal. The tokens past the last bound are cut
// in the same way after the sequences; kernels write zeros there.
//
// A row of qkv[t, (q + 2 kv) dim] is q heads of queries, kv of keys, kv of values. A tile in shared memory has D + ATTENTION_PAD
// elements a row, D the kernel's width of 64 or 128; columns from dim on and rows past the sequence's end are zeros, which add
// nothing to a product.
#pragma once
#include "tile.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

// Rows that a block owns, and the sequence they belong to.
struct Place {
    int begin, end;    // the sequence
    int first, rows;   // the tile; no rows: the grid was larger than needed
    bool in_sequence;  // or of the tokens past the last bound
};

// Tile number `tile`. Every warp looks for itself, a sequence a lane.
__device__ __forceinline__ Place find_tile(const unsigned* bounds, int sequences, int t, int tile) {
    const int lane = lane_of_warp();
    for (int base = 0; base <= sequences; base += WARP) {
        const int i = base + lane;
        const int begin = i <= sequences ? static_cast<int>(bounds[i]) : t;
        const int end = i < sequences ? static_cast<int>(bounds[i + 1]) : t;
        const int tiles = (end - begin + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
        int through = tiles;
#pragma unroll
        for (int m = 1; m < WARP; m *= 2) {
            const int before = __shfl_up_sync(WHOLE_WARP, through, m);
            through += lane >= m ? before : 0;
        }
        const int passed = warp_sum(through <= tile ? 1 : 0);
        if (passed < WARP) {
            Place place;
            place.begin = __shfl_sync(WHOLE_WARP, begin, passed);
            place.end = __shfl_sync(WHOLE_WARP, end, passed);
            place.first = place.begin + (tile - __shfl_sync(WHOLE_WARP, through - tiles, passed)) * ATTENTION_ROWS;
            place.rows = min(ATTENTION_ROWS, place.end - place.first);
            place.in_sequence = base + passed < sequences;
            return place;
        }
        tile -= __shfl_sync(WHOLE_WARP, through, WARP - 1);
    }
    return {t, t, t, 0, false};
}

// s[ATTENTION_ROWS, D] = g[rows, dim], from a matrix of `stride` columns, by the whole block.
template <int D>
__device__ __forceinline__ void load_tile(act* s, const act* g, size_t stride, int rows, int dim) {
    constexpr int VECS = D / VEC;
    if (whole_vecs<act>(dim)) {
#pragma unroll
        for (int i = threadIdx.x; i < ATTENTION_ROWS * VECS; i += ATTENTION_THREADS) {
            const int row = i / VECS, column = i % VECS * VEC;
            Vec<act> v = {};
            if (row < rows && column < dim) {
                v = load_vec(g + row * stride + column);
            }
            store_vec(s + row * (D + ATTENTION_PAD) + column, v);
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < ATTENTION_ROWS * VECS; i += ATTENTION_THREADS) {
            const int row = i / VECS, column = i % VECS * VEC;
            store_vec(s + row * (D + ATTENTION_PAD) + column,
                      load_part(g + row * stride + column, row < rows ? dim - column : 0, false));
        }
    }
}

// g[rows, dim] = 0, by the whole block.
__device__ __forceinline__ void clear_tile(act* g, size_t stride, int rows, int dim) {
    for (int i = threadIdx.x; i < rows * dim; i += ATTENTION_THREADS) {
        g[i / dim * stride + i % dim] = from_float<act>(0.0f);
    }
}

// g[rows, dim] = row i of d times scale[i / 8], d an accumulator of one warp's 16 rows; rows may be anything. It goes through 16
// rows of shared memory that are the warp's own, so that whole rows are written and not 4 bytes here and there.
template <int D>
__device__ __forceinline__ void store_rows(act* g, size_t stride, int rows, int dim, act* s, const float (&d)[D / 8][4],
                                           const float (&scale)[2]) {
    constexpr int PITCH = D + ATTENTION_PAD, VECS = D / VEC;
    // Other lanes may still read these rows as an operand.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s[tile_row(i) * PITCH + tile_column(n, i)] = from_float<act>(scale[i / 2] * d[n][i]);
        }
    }
    __syncwarp();
    const bool whole = whole_vecs<act>(dim);
    for (int i = lane_of_warp(); i < 16 * VECS; i += WARP) {
        const int row = i / VECS, column = i % VECS * VEC;
        if (row < rows) {
            store_part(g + row * stride + column, load_vec(s + row * PITCH + column), dim - column, whole);
        }
    }
}
