// What attention's kernels for Hopper share: tiles of heads in shared memory as operands of wgmma, a ring of them, and arithmetic on
// accumulators.
//
// A tile is ATTENTION_SM90_ROWS rows of one head. TMA brings it in boxes of 64 columns, one after another: in a box a row is one line of
// 128 bytes, whose eight 16-byte pieces change places by the row's number (wgmma.cuh's 128-byte swizzle), so a box is 16 KiB and
// neighbouring rows never share banks. The same bytes are an operand in two ways:
//
//   K_MAJOR, rows are m or n, columns are k: eight rows make a pattern of 1024 bytes, which is the stride; the next 16 of k are 32
//     bytes on, and after four of them in the next box.
//   MN_MAJOR, columns are n, rows are k: a pattern is 64 columns by 8 rows, the same 1024 bytes; the next 8 rows are the stride, and
//     the next 64 columns, a box, are the lead. The next 16 of k are 2048 bytes on.
#pragma once
#include "tile.cuh"
#include "wgmma.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
constexpr int WARPGROUP = 128;
constexpr int BOX_COLUMNS = 64;
constexpr int BOX_BYTES = ATTENTION_SM90_BOX_BYTES;
constexpr int PATTERN_BYTES = 1024;

// Bytes of a tile of D columns.
template <int D>
constexpr int TILE_BYTES = D / BOX_COLUMNS * BOX_BYTES;

// How far descriptors move with bytes.
__device__ __forceinline__ constexpr unsigned long long descriptor_step(int bytes) { return bytes / 16; }

// The descriptor of rows of a tile, to multiply along its columns.
__device__ __forceinline__ unsigned long long rows_descriptor(const unsigned char* tile) {
    return matrix_descriptor(tile, 16, PATTERN_BYTES, SWIZZLE_128);
}

// How far it moves for columns 16 k to 16 k + 15.
__device__ __forceinline__ constexpr unsigned long long rows_step(int k) { return descriptor_step(k / 4 * BOX_BYTES + k % 4 * 32); }

// The descriptor of a tile's columns, to multiply along its rows, MN_MAJOR.
__device__ __forceinline__ unsigned long long columns_descriptor(const unsigned char* tile) {
    return matrix_descriptor(tile, BOX_BYTES, PATTERN_BYTES, SWIZZLE_128);
}

// How far it moves for rows 16 k to 16 k + 15.
__device__ __forceinline__ constexpr unsigned long long columns_step(int k) { return descriptor_step(k * 2 * PATTERN_BYTES); }

// A place in a ring of STAGES stages, and the parity of the phase in which it is filled.
template <int STAGES>
struct Ring {
    int slot = 0;
    unsigned parity = 0;

    __device__ __forceinline__ void advance() {
        slot = slot + 1 == STAGES ? 0 : slot + 1;
        parity ^= slot == 0 ? 1u : 0u;
    }
};

// One arrival for the warp, after what all its lanes did before.
__device__ __forceinline__ void warp_arrive(unsigned long long* bar) {
    if (lane_of_warp() == 0) {
        mbarrier_arrive(bar);
    }
}
