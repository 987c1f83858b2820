// CUDA's language for a host compiler: what a kernel may name without including anything. One coroutine is one thread; every step in
// which threads meet is a call into the simulator's runtime (tools/simulator/src), which decides who runs next.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

struct SimulatorDim {
    unsigned x, y, z;
};

// The parts of a block and of a thread that kernels read. The runtime's own fields follow them in memory (src/block.rs).
struct SimulatorBlock {
    SimulatorDim index, grid, extent;
    unsigned rank;
    unsigned dynamic_bytes;
    unsigned char* shared;
    unsigned char* dynamic;
};
struct SimulatorThread {
    SimulatorDim index;
    unsigned lane;
    SimulatorBlock* block;
};

// Steps of a whole warp, by number in src/warp.rs.
enum SimulatorWarpStep : unsigned { SYNCWARP, SHUFFLE, VOTE, LDMATRIX, MMA, ELECT };
// Steps of an mbarrier (src/mbarrier.rs) and kinds of copies (src/copy.rs).
enum SimulatorMbarrierStep : unsigned { MBARRIER_INIT, MBARRIER_ARRIVE, MBARRIER_ARRIVE_REMOTE, MBARRIER_EXPECT, MBARRIER_WAIT };
enum SimulatorCopyKind : unsigned { BULK_LOAD, BULK_STORE, BULK_REDUCE, TILE_LOAD, TILE_STORE, TILE_REDUCE };

struct SimulatorShuffle {
    unsigned long long value;
    unsigned source;
};
struct SimulatorVote {
    unsigned predicate, ballot;
};
struct SimulatorLdmatrix {
    const void* row;
    unsigned* out;
    unsigned matrices, transpose;
};
struct SimulatorMma {
    float* d;
    const unsigned *a, *b;
};
struct SimulatorCopy {
    SimulatorCopyKind kind;
    void* shared;
    const void* map;
    void* global;
    unsigned long long* bar;
    int at[3];
    unsigned rank, bytes, ranks;
};
struct SimulatorWgmma {
    float* d;
    const unsigned* a_registers;
    unsigned long long a, b;
    int n, major_a, major_b, accumulate;
};

extern "C" {
// The thread that runs now. A plain thread-local of the operating system's thread: all coroutines of a launch share it, and the
// scheduler sets it before it resumes one.
extern __thread SimulatorThread* simulator_thread;
SimulatorThread** simulator_thread_slot();

void simulator_barrier(SimulatorThread*, int id, int count, int arrive, const char* file, int line);
void simulator_warp(SimulatorThread*, unsigned step, unsigned mask, void* payload, const char* file, int line);
void* simulator_shared(SimulatorThread*, const void* site, size_t bytes, const char* name, const char* file, int line);
void simulator_mbarrier(SimulatorThread*, unsigned step, unsigned long long* bar, unsigned value, const char* file, int line);
void simulator_copy(SimulatorThread*, const SimulatorCopy*, const char* file, int line);
void simulator_copy_commit(SimulatorThread*);
void simulator_copy_wait(SimulatorThread*, unsigned pending, int read);
void simulator_cluster(SimulatorThread*, int wait, const char* file, int line);
void simulator_overtaken(SimulatorThread*, unsigned seen, unsigned value, const char* file, int line);
void* simulator_shared_of(SimulatorThread*, void* own, unsigned rank, const char* file, int line);
unsigned long long simulator_descriptor(SimulatorThread*, const void* p, unsigned lead, unsigned stride, unsigned swizzle, const char* file,
                                        int line);
void simulator_wgmma(SimulatorThread*, const SimulatorWgmma*, const char* file, int line);
void simulator_wgmma_fence(SimulatorThread*);
void simulator_wgmma_commit(SimulatorThread*);
void simulator_wgmma_wait(SimulatorThread*, unsigned pending, const char* file, int line);
}

// The caller's place in the source, for functions that faults are reported of.
#define SIMULATOR_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// `extern "C" __global__ void f` becomes an empty linkage block and a static function: the two builds of a kernel, and its copies with
// planted faults, then live in one program without clashing.
#define __global__ \
    {}             \
    static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define threadIdx (simulator_thread->index)
#define blockIdx (simulator_thread->block->index)
#define blockDim (simulator_thread->block->extent)
#define gridDim (simulator_thread->block->grid)

// ---- vectors of CUDA ----
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- arithmetic ----
using std::isfinite;
using std::isinf;
using std::isnan;
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long min(long a, long b) { return b < a ? b : a; }
inline long max(long a, long b) { return a < b ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
// The hardware's is an approximation within 2 ulp; kernels may not rely on its last bits.
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

template <class To, class From> inline To simulator_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return simulator_bits<unsigned>(x); }
inline int __float_as_int(float x) { return simulator_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return simulator_bits<float>(x); }
inline float __int_as_float(int x) { return simulator_bits<float>(x); }
inline long long __double_as_longlong(double x) { return simulator_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return simulator_bits<double>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
// Byte i of the result is byte (selector >> 4 i) & 7 of the eight of `low` and `high`; the sign mode of bit 3 is not used here.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const unsigned long long bytes = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    }
    return result;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

// ---- memory ----
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcs(const T* p) { return *p; }
template <class T> inline void __stcs(T* p, T x) { *p = x; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// Threads change places only where they wait, so a plain read and write are atomic. There is none for float: sums by atomics depend
// on their order, and this project's kernels have to give the same bits twice.
template <class T> using SimulatorAtomic =
    std::enable_if_t<std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>, T>;
template <class T> inline SimulatorAtomic<T> atomicAdd(T* p, std::type_identity_t<T> x) { T old = *p; *p = old + x; return old; }
template <class T> inline SimulatorAtomic<T> atomicMax(T* p, std::type_identity_t<T> x) { T old = *p; *p = old < x ? x : old; return old; }
template <class T> inline SimulatorAtomic<T> atomicMin(T* p, std::type_identity_t<T> x) { T old = *p; *p = x < old ? x : old; return old; }
template <class T> inline SimulatorAtomic<T> atomicOr(T* p, std::type_identity_t<T> x) { T old = *p; *p = old | x; return old; }
template <class T> inline SimulatorAtomic<T> atomicAnd(T* p, std::type_identity_t<T> x) { T old = *p; *p = old & x; return old; }
template <class T> inline SimulatorAtomic<T> atomicExch(T* p, std::type_identity_t<T> x) { T old = *p; *p = x; return old; }
template <class T> inline SimulatorAtomic<T> atomicCAS(T* p, std::type_identity_t<T> was, std::type_identity_t<T> x) {
    T old = *p;
    if (old == was) *p = x;
    return old;
}

// ---- threads that meet ----
inline void __syncthreads(SIMULATOR_HERE) { simulator_barrier(simulator_thread, 0, 0, 0, file, line); }
inline void __syncwarp(unsigned mask = ~0u, SIMULATOR_HERE) { simulator_warp(simulator_thread, SYNCWARP, mask, nullptr, file, line); }

template <class T> inline T simulator_shuffle(unsigned mask, T value, unsigned source, const char* file, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    SimulatorShuffle shuffle = {0, source};
    memcpy(&shuffle.value, &value, sizeof value);
    simulator_warp(simulator_thread, SHUFFLE, mask, &shuffle, file, line);
    memcpy(&value, &shuffle.value, sizeof value);
    return value;
}
// Segments of `width` lanes; a lane that would read past its segment reads itself.
template <class T> inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SIMULATOR_HERE) {
    unsigned self = simulator_thread->lane, start = self & ~unsigned(width - 1);
    return simulator_shuffle(mask, value, start | (unsigned(lane) & unsigned(width - 1)), file, line);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMULATOR_HERE) {
    unsigned self = simulator_thread->lane, start = self & ~unsigned(width - 1);
    return simulator_shuffle(mask, value, self >= start + delta ? self - delta : self, file, line);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMULATOR_HERE) {
    unsigned self = simulator_thread->lane, last = self | unsigned(width - 1);
    return simulator_shuffle(mask, value, self + delta <= last ? self + delta : self, file, line);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMULATOR_HERE) {
    unsigned self = simulator_thread->lane, last = self | unsigned(width - 1), source = self ^ unsigned(bits);
    return simulator_shuffle(mask, value, source <= last ? source : self, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMULATOR_HERE) {
    SimulatorVote vote = {predicate != 0, 0};
    simulator_warp(simulator_thread, VOTE, mask, &vote, file, line);
    return vote.ballot;
}
inline int __any_sync(unsigned mask, int predicate, SIMULATOR_HERE) { return __ballot_sync(mask, predicate, file, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, SIMULATOR_HERE) { return __ballot_sync(mask, predicate, file, line) == mask; }
