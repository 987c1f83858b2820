// Probes of asynchronous copies: shared memory as a load left it, device memory as a store or a reduction left it.
#include "act.cuh"
#include "hopper.cuh"

#define PROBE_COPY_THREADS 128

// out = the `words` of shared memory that a tile came to. One block.
static __device__ void dump(unsigned* out, const unsigned char* tile, int words) {
    const unsigned* seen = reinterpret_cast<const unsigned*>(tile);
    for (int i = threadIdx.x; i < words; i += blockDim.x) out[i] = seen[i];
}

// out = a tile at (x, y), or with `deep` at (x, y, z), as it lies in shared memory. One block.
extern "C" __global__ void __launch_bounds__(PROBE_COPY_THREADS)
probe_tile_load(unsigned* out, const __grid_constant__ CUtensorMap map, int words, int deep, int x, int y, int z) {
    SHARED(unsigned long long, bar, 1);
    unsigned char* tile = dynamic_shared();
    if (threadIdx.x == 0) {
        prefetch_tensor_map(&map);
        mbarrier_init(bar, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(bar, words * 4);
        if (deep) {
            tile_load(tile, &map, bar, x, y, z);
        } else {
            tile_load(tile, &map, bar, x, y);
        }
    }
    __syncthreads();
    mbarrier_wait(bar, 0);
    dump(out, tile, words);
}

// The `words` of inp, put into shared memory as they are, stored or (add) reduced as a tile at (x, y[, z]). One block.
extern "C" __global__ void __launch_bounds__(PROBE_COPY_THREADS)
probe_tile_store(const unsigned* inp, const __grid_constant__ CUtensorMap map, int words, int deep, int add, int x, int y, int z) {
    unsigned* tile = reinterpret_cast<unsigned*>(dynamic_shared());
    const float* sums = reinterpret_cast<const float*>(tile);
    for (int i = threadIdx.x; i < words; i += blockDim.x) tile[i] = inp[i];
    fence_async_proxy();
    __syncthreads();
    if (threadIdx.x == 0) {
        if (add && deep) {
            tile_reduce_add(&map, sums, x, y, z);
        } else if (add) {
            tile_reduce_add(&map, sums, x, y);
        } else if (deep) {
            tile_store(&map, tile, x, y, z);
        } else {
            tile_store(&map, tile, x, y);
        }
        bulk_commit();
        bulk_wait<0>();
    }
}

// out = inp and sums += inp, 256 words each, through shared memory; the copy is waited for in two ways. One block.
extern "C" __global__ void __launch_bounds__(PROBE_COPY_THREADS)
probe_bulk(float* out, float* sums, const float* inp) {
    SHARED(float, row, 256);
    SHARED(unsigned long long, bar, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(bar, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(bar, 1024);
        bulk_load(row, inp, 1024, bar);
        mbarrier_wait(bar, 0);
        bulk_store(out, row, 1024);
        bulk_commit();
        bulk_reduce_add(sums, row, 1024);
        bulk_commit();
        bulk_wait_read<1>();
        bulk_wait_read<0>();
        for (int i = 0; i < 256; ++i) row[i] = -1;
    }
}

// Copies that are not waited for. 0: a load; 1: a store that leaves; 2: a store whose source is overwritten; 3: a load at the end. One block.
extern "C" __global__ void __launch_bounds__(PROBE_COPY_THREADS)
fault_hasty(unsigned* out, const unsigned* inp, int what) {
    SHARED(unsigned, row, 32);
    SHARED(unsigned long long, bar, 1);
    if (threadIdx.x != 0) return;
    mbarrier_init(bar, 1);
    fence_mbarrier_init();
    if (what == 0 || what == 3) {
        mbarrier_arrive_expect(bar, 128);
        bulk_load(row, inp, 128, bar);
        if (what == 0) {
            for (int i = 0; i < 32; ++i) out[i] = row[i];
            mbarrier_wait(bar, 0);
        }
        return;
    }
    for (int i = 0; i < 32; ++i) row[i] = i;
    fence_async_proxy();
    bulk_store(out, row, 128);
    bulk_commit();
    if (what == 2) {
        for (int i = 0; i < 32; ++i) row[i] = 100;
        bulk_wait<0>();
    }
}
