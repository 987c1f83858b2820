// Probes of named barriers and of mbarriers: what waits for what, in rounds.
#include "act.cuh"
#include "hopper.cuh"

#define PROBE_BARRIER_THREADS 128

// Two warps write and only arrive, two wait and read: out[64]. Then the other way round through another barrier. One block.
extern "C" __global__ void __launch_bounds__(PROBE_BARRIER_THREADS)
probe_named(unsigned* out) {
    SHARED(unsigned, row, 64);
    const unsigned t = threadIdx.x;
    if (t < 64) {
        row[t] = t * 3;
        bar_arrive(1, 128);
        bar_sync(2, 128);
        row[t] = 0;
    } else {
        bar_sync(1, 128);
        out[t - 64] = row[127 - t];
        bar_arrive(2, 128);
    }
}

// Barrier 1 for two different numbers of threads.
extern "C" __global__ void __launch_bounds__(PROBE_BARRIER_THREADS)
fault_named(unsigned* out) {
    bar_sync(1, threadIdx.x < 64 ? 128 : 64);
    out[threadIdx.x] = 1;
}

// A ring of two places between a warp that fills and one that empties, for `rounds` rounds: out[round, lane]. One block of two warps.
extern "C" __global__ void __launch_bounds__(PROBE_BARRIER_THREADS)
probe_ring(unsigned* out, int rounds) {
    SHARED(unsigned, ring, 2 * 32);
    SHARED(unsigned long long, full, 2);
    SHARED(unsigned long long, empty, 2);
    const unsigned lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
            mbarrier_init(full + i, 32);
            mbarrier_init(empty + i, 32);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    for (int round = 0; round < rounds; ++round) {
        const int place = round % 2, parity = round / 2 % 2;
        if (threadIdx.x < 32) {
            // On a fresh barrier the phase before the first counts as complete.
            mbarrier_wait(empty + place, parity ^ 1);
            ring[place * 32 + lane] = round * 1000 + lane;
            mbarrier_arrive(full + place);
        } else {
            mbarrier_wait(full + place, parity);
            out[round * 32 + lane] = ring[place * 32 + 31 - lane];
            mbarrier_arrive(empty + place);
        }
    }
}

// Two loads of `first` and 64 bytes counted at one barrier that expects `expected`: out[32 words]. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_BARRIER_THREADS)
probe_bytes(unsigned* out, const unsigned* inp, int first, int expected) {
    SHARED(unsigned, row, 32);
    SHARED(unsigned long long, bar, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(bar, 1);
        fence_mbarrier_init();
        // Expected bytes and arrivals may come in any order within the phase.
        bulk_load(row, inp, first, bar);
        mbarrier_expect(bar, expected - 64);
        mbarrier_arrive_expect(bar, 64);
        bulk_load(row + 16, inp + 16, 64, bar);
    }
    __syncwarp();
    mbarrier_wait(bar, 0);
    out[threadIdx.x] = row[threadIdx.x];
}

// 0: a barrier that nobody initialised; 1: an arrival too many; 2: one outside of shared memory. One thread.
extern "C" __global__ void __launch_bounds__(PROBE_BARRIER_THREADS)
fault_mbarrier(unsigned* out, int what) {
    SHARED(unsigned long long, bar, 1);
    unsigned long long own = 0;
    if (what == 1) {
        mbarrier_init(bar, 1);
        mbarrier_arrive_expect(bar, 16);
    }
    mbarrier_arrive(what == 2 ? &own : bar);
    out[0] = 1;
}
