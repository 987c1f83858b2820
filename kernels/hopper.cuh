// What Hopper has beyond older machines, as one-line functions: barriers of a part of a block, barriers that count bytes, copies that run
// by themselves (TMA), the register budget, clusters. wgmma.cuh has the product of a warpgroup.
//
// How they fit together: one elected thread arms an mbarrier in shared memory with the bytes it expects, and starts copies that name it;
// whoever needs the data waits for the barrier's phase. A phase is complete when as many threads have arrived as mbarrier_init said and all
// expected bytes have come; its parity alternates 0, 1, 0, ..., and waiting for a parity means: until the phase of that parity is complete.
// A fresh barrier is in phase 0, so the first wait is for parity 0, and waiting for parity 1 on a fresh barrier returns at once.
//
// Data that a thread wrote to shared memory reaches the asynchronous copies and wgmma only behind fence_async_proxy().
// In the simulator asynchronous steps happen at a moment that the launch's order chooses, as late as the waits allow in the natural one.
#pragma once
#include <cuda.h>

#ifdef SIMULATOR

// ---- barriers of a part of the block ----
inline void bar_sync(int id, int threads, SIMULATOR_HERE) { simulator_barrier(simulator_thread, id, threads, 0, file, line); }
inline void bar_arrive(int id, int threads, SIMULATOR_HERE) { simulator_barrier(simulator_thread, id, threads, 1, file, line); }

// ---- barriers that count arrivals and bytes ----
inline void simulator_mbarrier_step(SimulatorMbarrierStep step, unsigned long long* bar, unsigned value, const char* file, int line) {
    simulator_mbarrier(simulator_thread, step, bar, value, file, line);
}
inline void mbarrier_init(unsigned long long* bar, unsigned arrivals, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_INIT, bar, arrivals, file, line);
}
inline void mbarrier_arrive(unsigned long long* bar, SIMULATOR_HERE) { simulator_mbarrier_step(MBARRIER_ARRIVE, bar, 0, file, line); }
inline void mbarrier_arrive_remote(unsigned long long* bar, unsigned rank, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_ARRIVE_REMOTE, bar, rank, file, line);
}
inline void mbarrier_expect(unsigned long long* bar, unsigned bytes, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_EXPECT, bar, bytes, file, line);
}
inline void mbarrier_arrive_expect(unsigned long long* bar, unsigned bytes, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_EXPECT, bar, bytes, file, line);
    simulator_mbarrier_step(MBARRIER_ARRIVE, bar, 0, file, line);
}
inline void mbarrier_wait(unsigned long long* bar, unsigned parity, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_WAIT, bar, parity, file, line);
}
inline void mbarrier_wait_cluster(unsigned long long* bar, unsigned parity, SIMULATOR_HERE) {
    simulator_mbarrier_step(MBARRIER_WAIT, bar, parity, file, line);
}
inline void fence_mbarrier_init() {}
inline void fence_async_proxy() {}

// ---- copies ----
inline void prefetch_tensor_map(const CUtensorMap*) {}
inline void bulk_load(void* shared, const void* global, unsigned bytes, unsigned long long* bar, SIMULATOR_HERE) {
    SimulatorCopy copy = {BULK_LOAD, shared, nullptr, const_cast<void*>(global), bar, {}, 0, bytes, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void bulk_store(void* global, const void* shared, unsigned bytes, SIMULATOR_HERE) {
    SimulatorCopy copy = {BULK_STORE, const_cast<void*>(shared), nullptr, global, nullptr, {}, 0, bytes, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void bulk_reduce_add(float* global, const float* shared, unsigned bytes, SIMULATOR_HERE) {
    SimulatorCopy copy = {BULK_REDUCE, const_cast<float*>(shared), nullptr, global, nullptr, {}, 0, bytes, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_load(void* shared, const CUtensorMap* map, unsigned long long* bar, int x, int y, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_LOAD, shared, map, nullptr, bar, {x, y, 0}, 2, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_load(void* shared, const CUtensorMap* map, unsigned long long* bar, int x, int y, int z, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_LOAD, shared, map, nullptr, bar, {x, y, z}, 3, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_load_multicast(void* shared, const CUtensorMap* map, unsigned long long* bar, unsigned short ranks, int x, int y, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_LOAD, shared, map, nullptr, bar, {x, y, 0}, 2, 0, ranks};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_load_multicast(void* shared, const CUtensorMap* map, unsigned long long* bar, unsigned short ranks, int x, int y, int z,
                                SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_LOAD, shared, map, nullptr, bar, {x, y, z}, 3, 0, ranks};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_store(const CUtensorMap* map, const void* shared, int x, int y, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_STORE, const_cast<void*>(shared), map, nullptr, nullptr, {x, y, 0}, 2, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_store(const CUtensorMap* map, const void* shared, int x, int y, int z, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_STORE, const_cast<void*>(shared), map, nullptr, nullptr, {x, y, z}, 3, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_reduce_add(const CUtensorMap* map, const float* shared, int x, int y, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_REDUCE, const_cast<float*>(shared), map, nullptr, nullptr, {x, y, 0}, 2, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void tile_reduce_add(const CUtensorMap* map, const float* shared, int x, int y, int z, SIMULATOR_HERE) {
    SimulatorCopy copy = {TILE_REDUCE, const_cast<float*>(shared), map, nullptr, nullptr, {x, y, z}, 3, 0, 0};
    simulator_copy(simulator_thread, &copy, file, line);
}
inline void bulk_commit() { simulator_copy_commit(simulator_thread); }
template <int PENDING> inline void bulk_wait() { simulator_copy_wait(simulator_thread, PENDING, 0); }
template <int PENDING> inline void bulk_wait_read() { simulator_copy_wait(simulator_thread, PENDING, 1); }

// ---- blocks in turn ----
inline void turn_wait(const unsigned* turn, unsigned value, SIMULATOR_HERE) {
    if (*turn < value) simulator_overtaken(simulator_thread, *turn, value, file, line);
}
inline void turn_give(unsigned* turn, unsigned value) { *turn = value; }

// ---- the rest ----
template <int REGISTERS> inline void registers_more() { static_assert(REGISTERS >= 24 && REGISTERS <= 256 && REGISTERS % 8 == 0); }
template <int REGISTERS> inline void registers_fewer() { static_assert(REGISTERS >= 24 && REGISTERS <= 256 && REGISTERS % 8 == 0); }
inline bool elect_one(SIMULATOR_HERE) {
    SimulatorVote vote = {0, 0};
    simulator_warp(simulator_thread, ELECT, ~0u, &vote, file, line);
    return vote.ballot != 0;
}
inline unsigned cluster_rank() { return simulator_thread->block->rank; }
inline void cluster_arrive(SIMULATOR_HERE) { simulator_cluster(simulator_thread, 0, file, line); }
inline void cluster_wait(SIMULATOR_HERE) { simulator_cluster(simulator_thread, 1, file, line); }
template <class T> inline T* cluster_shared(T* own, unsigned rank, SIMULATOR_HERE) {
    return static_cast<T*>(simulator_shared_of(simulator_thread, own, rank, file, line));
}

#else

__device__ inline unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// ---- barriers of a part of the block ----
// Of the sixteen barriers of a block, 0 is __syncthreads'. `threads` is the number that meets, of those that wait and those that only
// arrive; a multiple of 32.
__device__ inline void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ inline void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- barriers that count arrivals and bytes ----
__device__ inline void mbarrier_init(unsigned long long* bar, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
// After mbarrier_init, before the barrier is used by copies or by the other block of the cluster.
__device__ inline void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void mbarrier_arrive(unsigned long long* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
// Arrives at the barrier at the same place in the shared memory of the cluster's block `rank`.
__device__ inline void mbarrier_arrive_remote(unsigned long long* bar, unsigned rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(shared_address(bar)),
        "r"(rank)
        : "memory");
}
// The phase also waits for `bytes` more.
__device__ inline void mbarrier_expect(unsigned long long* bar, unsigned bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
__device__ inline void mbarrier_arrive_expect(unsigned long long* bar, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
// Until the phase of this parity is complete: for what comes from the block itself and from its copies.
__device__ inline void mbarrier_wait(unsigned long long* bar, unsigned parity) {
    unsigned done;
    do {
        asm volatile(
            "{\n.reg .pred complete;\nmbarrier.try_wait.parity.acquire.cta.shared::cta.b64 complete, [%1], %2;\n"
            "selp.b32 %0, 1, 0, complete;\n}"
            : "=r"(done)
            : "r"(shared_address(bar)), "r"(parity)
            : "memory");
    } while (!done);
}
// The same, and what arrived from the other block of the cluster is seen too. It empties the multiprocessor's L1 cache each time.
__device__ inline void mbarrier_wait_cluster(unsigned long long* bar, unsigned parity) {
    unsigned done;
    do {
        asm volatile(
            "{\n.reg .pred complete;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%1], %2;\n"
            "selp.b32 %0, 1, 0, complete;\n}"
            : "=r"(done)
            : "r"(shared_address(bar)), "r"(parity)
            : "memory");
    } while (!done);
}
// What this thread wrote to shared memory, before copies and wgmma that follow.
__device__ inline void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- copies ----
// By one thread each. Addresses are multiples of 16 bytes, as are sizes; tiles in shared memory begin at multiples of 128, with the
// 128-byte swizzle of 1024. Loads count their bytes at `bar`, all of the box, also where it hangs over the tensor's edge and zeros come.
// Stores and reductions go in groups: bulk_commit closes one, bulk_wait<P> returns when at most P of this thread's groups are under
// way, bulk_wait_read<P> when at most P still read shared memory. x counts the innermost extent.
__device__ inline void prefetch_tensor_map(const CUtensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ inline void bulk_load(void* shared, const void* global, unsigned bytes, unsigned long long* bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(bar))
                 : "memory");
}
__device__ inline void bulk_store(void* global, const void* shared, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(global)),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}
// The order of additions to one address is not fixed: for sums whose bits matter, order them by barriers.
__device__ inline void bulk_reduce_add(float* global, const float* shared, unsigned bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(global)),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}
__device__ inline void tile_load(void* shared, const CUtensorMap* map, unsigned long long* bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(bar))
        : "memory");
}
__device__ inline void tile_load(void* shared, const CUtensorMap* map, unsigned long long* bar, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(bar))
        : "memory");
}
// To the same place in the shared memory of every block of the cluster whose bit is set in `ranks`, counted at each one's own barrier.
__device__ inline void tile_load_multicast(void* shared, const CUtensorMap* map, unsigned long long* bar, unsigned short ranks, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], "
        "%5;" ::"r"(shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(shared_address(bar)), "h"(ranks)
        : "memory");
}
__device__ inline void tile_load_multicast(void* shared, const CUtensorMap* map, unsigned long long* bar, unsigned short ranks, int x, int y,
                                           int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4}], "
        "[%5], %6;" ::"r"(shared_address(shared)),
        "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(bar)), "h"(ranks)
        : "memory");
}
__device__ inline void tile_store(const CUtensorMap* map, const void* shared, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
                 "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void tile_store(const CUtensorMap* map, const void* shared, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(x), "r"(y), "r"(z),
                 "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void tile_reduce_add(const CUtensorMap* map, const float* shared, int x, int y) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y),
                 "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void tile_reduce_add(const CUtensorMap* map, const float* shared, int x, int y, int z) {
    asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(x),
                 "r"(y), "r"(z), "r"(shared_address(shared))
                 : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int PENDING> __device__ inline void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory"); }
template <int PENDING> __device__ inline void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

// ---- blocks in turn ----
// A number in device memory that goes up, by which blocks take turns at what they copy to or add to by themselves: until it is at least
// `value`; and its new value, after bulk_wait<0>() by the thread that started the copies. A block may wait only for blocks that have begun
// for certain: those that drew a lower number by atomicAdd, not those with a lower blockIdx.
__device__ inline void turn_wait(const unsigned* turn, unsigned value) {
    unsigned seen;
    for (;;) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(__cvta_generic_to_global(turn)) : "memory");
        if (seen >= value) {
            break;
        }
        __nanosleep(64);
    }
    asm volatile("fence.proxy.async.global;" ::: "memory");
}
__device__ inline void turn_give(unsigned* turn, unsigned value) {
    asm volatile("fence.proxy.async.global;\nst.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(turn)), "r"(value)
                 : "memory");
}

// ---- the rest ----
// The warpgroup's registers a thread, from what the others gave up: 24 to 256, a multiple of 8. By whole warpgroups. ptxas passes over
// it unless the kernel's launch bound also says how many blocks a multiprocessor has: __launch_bounds__(THREADS, 1).
template <int REGISTERS> __device__ inline void registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> __device__ inline void registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
// True in one lane of the warp, whichever; by the whole warp.
__device__ inline bool elect_one() {
    unsigned elected;
    asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xffffffff;\nselp.b32 %0, 1, 0, one;\n}" : "=r"(elected)::"memory");
    return elected != 0;
}
__device__ inline unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// The barrier of all threads of the cluster, in two halves. Nobody may return while another still reaches into its shared memory.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The address, for plain reads and writes, of the same place in the shared memory of the cluster's block `rank`.
template <class T> __device__ inline T* cluster_shared(T* own, unsigned rank) {
    T* remote;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(remote) : "l"(own), "r"(rank));
    return remote;
}

#endif

__device__ inline void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}
