// Probes that do what a kernel must not, each one thing.
#include "act.cuh"

#define PROBE_FAULT_THREADS 128

// Writes out[at] and nothing else.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_write(unsigned* out, int at) {
    if (threadIdx.x == 7) out[at] = 1;
}

// Reads inp[at].
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_read(unsigned* out, const unsigned* inp, int at) {
    if (threadIdx.x == 7) out[0] = inp[at];
}

// Reads a vector of 16 bytes at byte `at`.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_misaligned(unsigned* out, const float* inp, int at) {
    out[0] = load_vec(inp + at)[0] > 0;
}

// Writes a shared array of 32 words at `at`.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_shared(unsigned* out, int at) {
    SHARED(unsigned, row, 32);
    if (threadIdx.x == 7) row[at] = 1;
    __syncthreads();
    out[0] = row[0];
}

// Half of the block meets in one barrier, half in another.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_two_barriers(unsigned* out) {
    if (threadIdx.x < 64) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}

// One warp waits for another that waits for it, in another way.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_stuck(unsigned* out) {
    if (threadIdx.x != 3) __syncthreads();
    if (threadIdx.x < 32) __syncwarp();
    out[threadIdx.x] = 1;
}

// A warp shuffles with a lane that has returned.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_gone(unsigned* out) {
    if (threadIdx.x == 3) return;
    out[threadIdx.x] = __shfl_sync(~0u, threadIdx.x, 0);
}

// A lane that its own mask does not name, and a source that the mask does not name.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_mask(unsigned* out, unsigned mask) {
    out[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(mask, threadIdx.x, 20) : 0;
}

// Neighbours read what neighbours wrote, with no barrier between.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_race(unsigned* out) {
    SHARED(unsigned, row, PROBE_FAULT_THREADS);
    row[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = row[(threadIdx.x + 64) % blockDim.x];
}

// Divides by `by`.
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_divide(unsigned* out, int by) {
    out[threadIdx.x] = 100 / by;
}

// Calls itself until its stack is full.
static __device__ __attribute__((noinline)) int deep(volatile int* p, int n) {
    volatile int room[256];
    room[n % 256] = n;
    return n > *p ? 0 : deep(p, n + 1) + room[n % 256];
}
extern "C" __global__ void __launch_bounds__(PROBE_FAULT_THREADS)
fault_deep(unsigned* out, int n) {
    out[0] = deep(&n, 0);
}
