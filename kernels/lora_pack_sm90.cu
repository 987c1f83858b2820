// The branches of a map as one matrix each, for the product that takes them along (linear_sm90.cu): z times a block-diagonal b forward, dz
// times the a below each other backward. A few numbers for each output or input of the map, written anew for each product, since the
// optimizer changes them. Only bf16 has that product.
#include "lora_map.cuh"

// out[n, width] = the branches' b, each in its rows and its columns of z; zeros elsewhere.
// Grid: x = ceil(n width / LORA_THREADS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_pack_b(act* out, const __grid_constant__ LoraMap map, int n) {
    const int i = static_cast<int>(blockIdx.x) * LORA_THREADS + threadIdx.x, row = i / map.width, column = i % map.width;
    if (row >= n) {
        return;
    }
    act value = from_float<act>(0.0f);
    for (int own = 0; own < LORA_BRANCHES; ++own) {
        const int j = row - map.column[own], rank = column - map.at[own];
        if (j >= 0 && j < map.n[own] && rank >= 0 && rank < map.r[own]) {
            value = map.b[own][j * map.r[own] + rank];
        }
    }
    out[i] = value;
}

// out[width, k] = the branches' a below each other; zeros after them.
// Grid: x = ceil(width k / LORA_THREADS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_pack_a(act* out, const __grid_constant__ LoraMap map, int k) {
    const int i = static_cast<int>(blockIdx.x) * LORA_THREADS + threadIdx.x, row = i / k, column = i % k;
    if (row >= map.width) {
        return;
    }
    act value = from_float<act>(0.0f);
    for (int own = 0; own < LORA_BRANCHES; ++own) {
        const int rank = row - map.at[own];
        if (rank >= 0 && rank < map.r[own]) {
            value = map.a[own][rank * k + column];
        }
    }
    out[i] = value;
}
