// What kernels are told of the low-rank branches of a linear map.
#pragma once
#include "act.cuh"

// The branches of a map: LoraMap of src/device/cuda/kernel.rs. Those that are not there have no ranks and no columns.
struct LoraMap {
    const act* a[LORA_BRANCHES];
    const act* b[LORA_BRANCHES];
    // Null where nothing is trained.
    float* da[LORA_BRANCHES];
    float* db[LORA_BRANCHES];
    unsigned long long key;
    int column[LORA_BRANCHES];
    int n[LORA_BRANCHES];
    int r[LORA_BRANCHES];
    int at[LORA_BRANCHES];
    unsigned stream[LORA_BRANCHES];
    float scale[LORA_BRANCHES];
    // Columns of z that branches have, and all of them.
    int ranks;
    int width;
    // A word of the generator below this is an element that is dropped; 0 drops none. kept is 1 / (1 - p).
    unsigned dropped;
    float kept;
};
