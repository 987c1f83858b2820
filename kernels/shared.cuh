// Shared memory by name, the same in both worlds: on the device the compiler places it; in the simulator it comes from the block's own
// memory, which is poisoned when the block starts and has red zones between the arrays, so that reading what nobody wrote and writing
// past an end show.
#pragma once

#ifdef SIMULATOR

#define SHARED(type, name, count)                                                                                           \
    static char name##_site;                                                                                                \
    type* name = static_cast<type*>(simulator_shared(simulator_thread, &name##_site, sizeof(type) * (count), #name, __FILE__, __LINE__))

inline unsigned char* dynamic_shared() { return simulator_thread->block->dynamic; }

#else

// `type* name`: `count` elements at a 128-byte boundary, the widest that bulk copies and core matrices without swizzle ask for.
#define SHARED(type, name, count)              \
    alignas(128) __shared__ type name##_[count]; \
    type* name = name##_

// 1024 bytes are one period of the 128-byte swizzle, whose pattern depends on the address.
extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
__device__ inline unsigned char* dynamic_shared() { return dynamic_shared_memory; }

#endif
