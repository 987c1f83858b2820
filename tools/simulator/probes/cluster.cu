// Probes of clusters of two blocks.
#include "act.cuh"
#include "hopper.cuh"

#define PROBE_CLUSTER_THREADS 128

// out[block, thread] = what the other block of the cluster wrote into its shared memory. Grid: pairs of blocks.
extern "C" __global__ void __launch_bounds__(PROBE_CLUSTER_THREADS)
probe_exchange(unsigned* out) {
    SHARED(unsigned, row, PROBE_CLUSTER_THREADS);
    row[threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;
    cluster_sync();
    const unsigned* other = cluster_shared(row, cluster_rank() ^ 1);
    out[blockIdx.x * blockDim.x + threadIdx.x] = other[blockDim.x - 1 - threadIdx.x];
    cluster_sync();
}

// Block 0 of the pair loads one tile into both; block 1 says through block 0's barrier that it has read it. out[block, words]. Two blocks.
extern "C" __global__ void __launch_bounds__(PROBE_CLUSTER_THREADS)
probe_multicast(unsigned* out, const __grid_constant__ CUtensorMap map, int words, int deep, int ranks) {
    SHARED(unsigned long long, full, 1);
    SHARED(unsigned long long, empty, 1);
    unsigned char* tile = dynamic_shared();
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 2 * PROBE_CLUSTER_THREADS);
        fence_mbarrier_init();
        mbarrier_arrive_expect(full, words * 4);
    }
    cluster_sync();
    if (cluster_rank() == 0 && threadIdx.x < 32 && elect_one()) {
        if (deep) {
            tile_load_multicast(tile, &map, full, ranks, 0, 0, 0);
        } else {
            tile_load_multicast(tile, &map, full, ranks, 0, 0);
        }
    }
    mbarrier_wait_cluster(full, 0);
    const unsigned* seen = reinterpret_cast<const unsigned*>(tile);
    for (int i = threadIdx.x; i < words; i += blockDim.x) out[blockIdx.x * words + i] = seen[i];
    mbarrier_arrive_remote(empty, 0);
    if (cluster_rank() == 0) mbarrier_wait_cluster(empty, 0);
    cluster_sync();
}

// Block 1 returns although block 0 still reads its shared memory. Two blocks.
extern "C" __global__ void __launch_bounds__(PROBE_CLUSTER_THREADS)
fault_gone_block(unsigned* out) {
    SHARED(unsigned, row, PROBE_CLUSTER_THREADS);
    row[threadIdx.x] = threadIdx.x;
    const unsigned* other = cluster_shared(row, cluster_rank() ^ 1);
    cluster_sync();
    if (cluster_rank() == 1) return;
    // Long enough for the other block to be gone: nothing but its threads is left to run.
    for (int i = 0; i < 64; ++i) __syncthreads();
    out[threadIdx.x] = other[threadIdx.x];
}

// One block arrives and does not wait, or waits and has not arrived. Two blocks.
extern "C" __global__ void __launch_bounds__(PROBE_CLUSTER_THREADS)
fault_halves(unsigned* out, int what) {
    if (what == 0) {
        cluster_arrive();
        cluster_arrive();
    } else {
        cluster_wait();
    }
    out[threadIdx.x] = 1;
}

// Registers are moved between warpgroups, which the simulator passes over. One block.
extern "C" __global__ void __launch_bounds__(PROBE_CLUSTER_THREADS)
probe_registers(unsigned* out) {
    registers_fewer<40>();
    registers_more<232>();
    out[threadIdx.x] = elect_one();
}
