// Probes of what every kernel uses: indices, barriers, shuffles, votes, atomics, shared memory. Each writes what it saw, by thread.
#include "act.cuh"

#define PROBE_THREADS 1024

// out[i] = i for i < n, by a grid whose last block may hang over. Grid: n / threads, rounded up.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_index(unsigned* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = i;
}

// out[z, y, x] = the block's own number in a grid of three dimensions. One thread a block.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_grid(unsigned* out) {
    const unsigned at = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[at] = blockIdx.z * 100 + blockIdx.y * 10 + blockIdx.x;
}

// out[thread] = the sum of the thread numbers of its block: warps by shuffles, then through shared memory. Grid: any.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_block_sum(unsigned* out) {
    SHARED(unsigned, part, 32);
    unsigned x = threadIdx.x;
    for (int m = 16; m; m >>= 1) x += __shfl_xor_sync(~0u, x, m);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) x += part[w];
    out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

// out[step, lane]: lane numbers through each kind of shuffle, in segments of `width`. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_shuffles(unsigned* out, int width) {
    const unsigned lane = threadIdx.x;
    out[lane] = __shfl_sync(~0u, lane, 5, width);
    out[32 + lane] = __shfl_up_sync(~0u, lane, 3, width);
    out[64 + lane] = __shfl_down_sync(~0u, lane, 3, width);
    out[96 + lane] = __shfl_xor_sync(~0u, lane, 9, width);
    const double wide = __shfl_xor_sync(~0u, double(lane) + 0.5, 1);
    out[128 + lane] = unsigned(wide * 2);
}

// Halves of a warp shuffle by themselves, each under its own mask. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_halves(unsigned* out) {
    const unsigned lane = threadIdx.x;
    if (lane < 16) {
        out[lane] = __shfl_sync(0x0000FFFFu, lane, 15);
    } else {
        out[lane] = __shfl_sync(0xFFFF0000u, lane, 16);
        out[lane] += __shfl_sync(0xFFFF0000u, lane, 31);
    }
}

// out[lane]: a vote; out[32 + lane], out[64 + lane]: any and all of it. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_votes(unsigned* out, unsigned from) {
    const unsigned lane = threadIdx.x;
    out[lane] = __ballot_sync(~0u, lane >= from);
    out[32 + lane] = __any_sync(~0u, lane >= from);
    out[64 + lane] = __all_sync(~0u, lane >= from);
}

// Threads from `stay` on return at once; the others still meet, in barriers, warps and votes of their own. Grid: any.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_early_return(unsigned* out, int stay) {
    SHARED(unsigned, last, 1);
    if (int(threadIdx.x) >= stay) return;
    if (int(threadIdx.x) == stay - 1) *last = threadIdx.x;
    __syncwarp();
    __syncthreads();
    out[threadIdx.x] = *last;
}

// counts[0]: threads; counts[1]: their largest number; counts[2]: who came first, plus one. Grid: any.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_atomics(unsigned* counts) {
    atomicAdd(&counts[0], 1u);
    atomicMax(&counts[1], threadIdx.x);
    atomicCAS(&counts[2], 0u, threadIdx.x + 1);
}

// out[i] = what SHARED and dynamic shared memory hold before anyone wrote them. One warp, 128 bytes of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(PROBE_THREADS)
probe_poison(unsigned* out) {
    SHARED(unsigned, fixed, 32);
    const unsigned* dynamic = reinterpret_cast<const unsigned*>(dynamic_shared());
    out[threadIdx.x] = fixed[threadIdx.x];
    out[32 + threadIdx.x] = dynamic[threadIdx.x];
}
