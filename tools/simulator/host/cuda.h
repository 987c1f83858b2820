// Of the driver's header, what a kernel may name: the tensor map, opaque as the driver's. The simulator's own are made by
// `simulator::TensorMap` (src/tensor_map.rs).
#pragma once
#include "simulator.h"

struct alignas(64) CUtensorMap {
    unsigned long long opaque[16];
};
