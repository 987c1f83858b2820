// Probes of the warpgroup's product. An image of shared memory comes in, descriptors come in as numbers, registers of D go out by thread:
// out[thread, N / 2] = steps * (A B). A in registers comes as the image's words [thread, 4] at its beginning.
#include "act.cuh"
#include "wgmma.cuh"

#define PROBE_WARPGROUP 128

template <int N, Major A, Major B, bool REGISTERS>
static __device__ void probe(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at,
                             int b_lead, int b_stride) {
    unsigned* shared = reinterpret_cast<unsigned*>(dynamic_shared());
    for (int i = threadIdx.x; i < words; i += blockDim.x) shared[i] = image[i];
    fence_async_proxy();
    __syncthreads();
    const unsigned char* bytes = dynamic_shared();
    const unsigned long long a = matrix_descriptor(bytes + a_at, a_lead, a_stride, static_cast<Swizzle>(swizzle));
    const unsigned long long b = matrix_descriptor(bytes + b_at, b_lead, b_stride, static_cast<Swizzle>(swizzle));
    unsigned registers[4];
    for (int i = 0; i < 4; ++i) registers[i] = image[threadIdx.x * 4 + i];
    // The first product does not accumulate: what d held must not show.
    float d[N / 2];
    for (int i = 0; i < N / 2; ++i) d[i] = 7;
    wgmma_fence();
    for (int step = 0; step < steps; ++step) {
        if constexpr (REGISTERS) {
            wgmma<N, B>(d, registers, b, step > 0);
        } else {
            wgmma<N, A, B>(d, a, b, step > 0);
        }
        wgmma_commit();
    }
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; ++i) out[threadIdx.x * (N / 2) + i] = d[i];
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_64_k_k(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at, int b_lead,
                   int b_stride) {
    probe<64, K_MAJOR, K_MAJOR, false>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_64_k_mn(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at, int b_lead,
                    int b_stride) {
    probe<64, K_MAJOR, MN_MAJOR, false>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_64_mn_k(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at, int b_lead,
                    int b_stride) {
    probe<64, MN_MAJOR, K_MAJOR, false>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_128_mn_mn(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at,
                      int b_lead, int b_stride) {
    probe<128, MN_MAJOR, MN_MAJOR, false>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_8_k_k(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at, int b_lead,
                  int b_stride) {
    probe<8, K_MAJOR, K_MAJOR, false>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_256_registers_k(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at,
                            int b_lead, int b_stride) {
    probe<256, K_MAJOR, K_MAJOR, true>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_64_registers_mn(float* out, const unsigned* image, int words, int steps, int swizzle, int a_at, int a_lead, int a_stride, int b_at,
                            int b_lead, int b_stride) {
    probe<64, K_MAJOR, MN_MAJOR, true>(out, image, words, steps, swizzle, a_at, a_lead, a_stride, b_at, b_lead, b_stride);
}

// out[N / 8 - 1, thread]: the sum over d of a product of ones, of which each element is 16 and another 16 with A in registers.
template <int N> static __device__ void width(float* out, unsigned long long a, unsigned long long b) {
    const unsigned registers[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
    float d[N / 2] = {};
    wgmma_fence();
    wgmma<N>(d, a, b, 0);
    wgmma<N>(d, registers, b, 1);
    wgmma_commit();
    wgmma_wait<0>();
    float sum = 0;
    for (int i = 0; i < N / 2; ++i) sum += d[i];
    out[(N / 8 - 1) * PROBE_WARPGROUP + threadIdx.x] = sum;
}
template <int N> static __device__ void widths(float* out, unsigned long long a, unsigned long long b) {
    width<N>(out, a, b);
    if constexpr (N < 256) widths<N + 8>(out, a, b);
}

// Every width of the instruction. One warpgroup.
extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_widths(float* out) {
    SHARED(unsigned, ones, 256 * 8);
    for (int i = threadIdx.x; i < 256 * 8; i += blockDim.x) ones[i] = 0x3F803F80u;
    fence_async_proxy();
    __syncthreads();
    const unsigned long long both = matrix_descriptor(ones, 128, 256, SWIZZLE_NONE);
    widths<8>(out, both, both);
}

// out[i] = where byte 16 i of a tile with the 128-byte swizzle lies. One warpgroup.
extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_swizzled(unsigned* out) {
    out[threadIdx.x] = swizzled(threadIdx.x * 16);
}

// Products that are used wrongly. 0: no fence; 1: no wait at all; 2: d is read before the wait; 3: B is overwritten before the wait;
// 4: one warp issues one more than another lane waits for. One warpgroup.
extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
fault_wgmma(float* out, int what) {
    SHARED(unsigned, ones, 64 * 8 + 8 * 8);
    for (int i = threadIdx.x; i < 64 * 8 + 8 * 8; i += blockDim.x) ones[i] = 0x3F803F80u;
    fence_async_proxy();
    __syncthreads();
    const unsigned long long a = matrix_descriptor(ones, 1024, 128, SWIZZLE_NONE);
    const unsigned long long b = matrix_descriptor(ones + 64 * 8, 128, 128, SWIZZLE_NONE);
    float d[4] = {};
    if (what != 0) wgmma_fence();
    wgmma<8>(d, a, b, 0);
    wgmma_commit();
    if (what == 1) return;
    float early = 0;
    if (what == 2) early = d[0];
    if (what == 3 && threadIdx.x < 64) ones[64 * 8 + threadIdx.x] = 0;
    if (what == 4 && threadIdx.x == 5) wgmma<8>(d, a, b, 1);
    wgmma_wait<0>();
    out[threadIdx.x] = d[0] + early;
}

// Two products in two groups on accumulators of their own; after the first wait only the first may be used. One warpgroup.
extern "C" __global__ void __launch_bounds__(PROBE_WARPGROUP)
probe_wgmma_groups(float* out, int hasty) {
    SHARED(unsigned, ones, 64 * 8 + 8 * 8);
    for (int i = threadIdx.x; i < 64 * 8 + 8 * 8; i += blockDim.x) ones[i] = 0x3F803F80u;
    fence_async_proxy();
    __syncthreads();
    const unsigned long long a = matrix_descriptor(ones, 1024, 128, SWIZZLE_NONE);
    const unsigned long long b = matrix_descriptor(ones + 64 * 8, 128, 128, SWIZZLE_NONE);
    float first[4] = {1, 1, 1, 1}, second[4] = {2, 2, 2, 2};
    wgmma_fence();
    wgmma<8>(first, a, b, 1);
    wgmma_commit();
    wgmma<8>(second, a, b, 1);
    wgmma_commit();
    wgmma_wait<1>();
    out[threadIdx.x] = first[3];
    if (hasty) out[threadIdx.x] += second[3];
    wgmma_wait<0>();
    out[128 + threadIdx.x] = second[3];
}
