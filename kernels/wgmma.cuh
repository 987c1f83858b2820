// The product of a warpgroup: 128 threads, D[64, N] (+)= A[64, 16] B[16, N] in bf16 with sums in f32, N = 8, 16, ..., 256. It runs by itself:
//   wgmma_fence(); wgmma<N>(d, a, b, accumulate); ... wgmma_commit(); ... wgmma_wait<P>();
// Between the product and the wait nobody may touch d, registers of A, or the operands in shared memory. wgmma_fence() comes before the
// first product and whenever d or A in registers were touched; wgmma_wait<P> returns when at most P committed groups are under way.
//
// D in registers, thread t of the warpgroup, w = t / 32, lane = t % 32 = 4 g + p:  d[4 j + 2 h + e] = D[16 w + 8 h + g][8 j + 2 p + e].
// A in registers is A of mma_m16n8k16 (mma.cuh) for the warp's sixteen rows.
//
// Operands in shared memory are made of core matrices, 8 rows of 16 bytes. A row runs along k (K_MAJOR) or along m or n (MN_MAJOR). With
// S bytes of swizzle, S / 16 rows' worth of neighbouring 16-byte pieces lie in one line of S bytes, eight lines make a pattern of 8 S
// bytes, and the piece's number is xor-ed with address bits from 7 on (swizzled below). `lead` and `stride` are distances in bytes:
//   K_MAJOR, no swizzle:   lead: core matrices next to each other along k;   stride: along m or n
//   K_MAJOR, swizzle:      lead: unused;                                     stride: patterns of 8 rows next to each other along m or n
//   MN_MAJOR, no swizzle:  lead: core matrices along k;                      stride: along m or n
//   MN_MAJOR, swizzle:     lead: patterns (S / 2 elements) along m or n;     stride: patterns of 8 k along k
// A pattern has to begin at a multiple of 8 S bytes. The next 16 of k within a K_MAJOR pattern are 32 bytes on, swizzle or not.
#pragma once
#include "hopper.cuh"

enum Swizzle : unsigned { SWIZZLE_NONE = 0, SWIZZLE_128 = 1, SWIZZLE_64 = 2, SWIZZLE_32 = 3 };
enum Major : int { K_MAJOR = 0, MN_MAJOR = 1 };

// Where byte `offset` of a tile with the 128-byte swizzle lies, counted from a multiple of 1024.
__device__ inline unsigned swizzled(unsigned offset) { return offset ^ (offset >> 3 & 0x70); }

#ifdef SIMULATOR

inline unsigned long long matrix_descriptor(const void* p, unsigned lead, unsigned stride, Swizzle swizzle, SIMULATOR_HERE) {
    return simulator_descriptor(simulator_thread, p, lead, stride, swizzle, file, line);
}
inline void wgmma_fence() { simulator_wgmma_fence(simulator_thread); }
inline void wgmma_commit() { simulator_wgmma_commit(simulator_thread); }
template <int PENDING> inline void wgmma_wait(SIMULATOR_HERE) { simulator_wgmma_wait(simulator_thread, PENDING, file, line); }
template <int N> inline void settle(float (&)[N]) {}

template <int N, Major A = K_MAJOR, Major B = K_MAJOR>
inline void wgmma(float (&d)[N / 2], unsigned long long a, unsigned long long b, int accumulate, SIMULATOR_HERE) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    SimulatorWgmma product = {d, nullptr, a, b, N, A, B, accumulate};
    simulator_wgmma(simulator_thread, &product, file, line);
}
template <int N, Major B = K_MAJOR>
inline void wgmma(float (&d)[N / 2], const unsigned (&a)[4], unsigned long long b, int accumulate, SIMULATOR_HERE) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    SimulatorWgmma product = {d, a, 0, b, N, K_MAJOR, B, accumulate};
    simulator_wgmma(simulator_thread, &product, file, line);
}

#else

__device__ inline unsigned long long matrix_descriptor(const void* p, unsigned lead, unsigned stride, Swizzle swizzle) {
    auto field = [](unsigned bytes) { return static_cast<unsigned long long>((bytes & 0x3FFFF) >> 4); };
    return field(shared_address(p)) | field(lead) << 16 | field(stride) << 32 | static_cast<unsigned long long>(swizzle) << 62;
}
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }
// Accumulators after wgmma_wait: the compiler knows of no connection between the two, and could move reading them before it.
template <int N> __device__ __forceinline__ void settle(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Registers of D as text and as operands, four more with each name: an instruction names every one.
#define WGMMA_TEXT_4 "%0, %1, %2, %3"
#define WGMMA_REGISTERS_4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_TEXT_8 WGMMA_TEXT_4 ", %4, %5, %6, %7"
#define WGMMA_TEXT_12 WGMMA_TEXT_8 ", %8, %9, %10, %11"
#define WGMMA_TEXT_16 WGMMA_TEXT_12 ", %12, %13, %14, %15"
#define WGMMA_TEXT_20 WGMMA_TEXT_16 ", %16, %17, %18, %19"
#define WGMMA_TEXT_24 WGMMA_TEXT_20 ", %20, %21, %22, %23"
#define WGMMA_TEXT_28 WGMMA_TEXT_24 ", %24, %25, %26, %27"
#define WGMMA_TEXT_32 WGMMA_TEXT_28 ", %28, %29, %30, %31"
#define WGMMA_TEXT_36 WGMMA_TEXT_32 ", %32, %33, %34, %35"
#define WGMMA_TEXT_40 WGMMA_TEXT_36 ", %36, %37, %38, %39"
#define WGMMA_TEXT_44 WGMMA_TEXT_40 ", %40, %41, %42, %43"
#define WGMMA_TEXT_48 WGMMA_TEXT_44 ", %44, %45, %46, %47"
#define WGMMA_TEXT_52 WGMMA_TEXT_48 ", %48, %49, %50, %51"
#define WGMMA_TEXT_56 WGMMA_TEXT_52 ", %52, %53, %54, %55"
#define WGMMA_TEXT_60 WGMMA_TEXT_56 ", %56, %57, %58, %59"
#define WGMMA_TEXT_64 WGMMA_TEXT_60 ", %60, %61, %62, %63"
#define WGMMA_TEXT_68 WGMMA_TEXT_64 ", %64, %65, %66, %67"
#define WGMMA_TEXT_72 WGMMA_TEXT_68 ", %68, %69, %70, %71"
#define WGMMA_TEXT_76 WGMMA_TEXT_72 ", %72, %73, %74, %75"
#define WGMMA_TEXT_80 WGMMA_TEXT_76 ", %76, %77, %78, %79"
#define WGMMA_TEXT_84 WGMMA_TEXT_80 ", %80, %81, %82, %83"
#define WGMMA_TEXT_88 WGMMA_TEXT_84 ", %84, %85, %86, %87"
#define WGMMA_TEXT_92 WGMMA_TEXT_88 ", %88, %89, %90, %91"
#define WGMMA_TEXT_96 WGMMA_TEXT_92 ", %92, %93, %94, %95"
#define WGMMA_TEXT_100 WGMMA_TEXT_96 ", %96, %97, %98, %99"
#define WGMMA_TEXT_104 WGMMA_TEXT_100 ", %100, %101, %102, %103"
#define WGMMA_TEXT_108 WGMMA_TEXT_104 ", %104, %105, %106, %107"
#define WGMMA_TEXT_112 WGMMA_TEXT_108 ", %108, %109, %110, %111"
#define WGMMA_TEXT_116 WGMMA_TEXT_112 ", %112, %113, %114, %115"
#define WGMMA_TEXT_120 WGMMA_TEXT_116 ", %116, %117, %118, %119"
#define WGMMA_TEXT_124 WGMMA_TEXT_120 ", %120, %121, %122, %123"
#define WGMMA_TEXT_128 WGMMA_TEXT_124 ", %124, %125, %126, %127"
#define WGMMA_REGISTERS_8 WGMMA_REGISTERS_4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_REGISTERS_12 WGMMA_REGISTERS_8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define WGMMA_REGISTERS_16 WGMMA_REGISTERS_12, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WGMMA_REGISTERS_20 WGMMA_REGISTERS_16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define WGMMA_REGISTERS_24 WGMMA_REGISTERS_20, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WGMMA_REGISTERS_28 WGMMA_REGISTERS_24, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_REGISTERS_32 WGMMA_REGISTERS_28, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_REGISTERS_36 WGMMA_REGISTERS_32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define WGMMA_REGISTERS_40 WGMMA_REGISTERS_36, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WGMMA_REGISTERS_44 WGMMA_REGISTERS_40, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define WGMMA_REGISTERS_48 WGMMA_REGISTERS_44, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WGMMA_REGISTERS_52 WGMMA_REGISTERS_48, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define WGMMA_REGISTERS_56 WGMMA_REGISTERS_52, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WGMMA_REGISTERS_60 WGMMA_REGISTERS_56, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define WGMMA_REGISTERS_64 WGMMA_REGISTERS_60, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WGMMA_REGISTERS_68 WGMMA_REGISTERS_64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define WGMMA_REGISTERS_72 WGMMA_REGISTERS_68, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WGMMA_REGISTERS_76 WGMMA_REGISTERS_72, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define WGMMA_REGISTERS_80 WGMMA_REGISTERS_76, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WGMMA_REGISTERS_84 WGMMA_REGISTERS_80, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define WGMMA_REGISTERS_88 WGMMA_REGISTERS_84, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WGMMA_REGISTERS_92 WGMMA_REGISTERS_88, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define WGMMA_REGISTERS_96 WGMMA_REGISTERS_92, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WGMMA_REGISTERS_100 WGMMA_REGISTERS_96, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define WGMMA_REGISTERS_104 WGMMA_REGISTERS_100, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WGMMA_REGISTERS_108 WGMMA_REGISTERS_104, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define WGMMA_REGISTERS_112 WGMMA_REGISTERS_108, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WGMMA_REGISTERS_116 WGMMA_REGISTERS_112, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define WGMMA_REGISTERS_120 WGMMA_REGISTERS_116, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WGMMA_REGISTERS_124 WGMMA_REGISTERS_120, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define WGMMA_REGISTERS_128 WGMMA_REGISTERS_124, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// One width N with its N / 2 registers; the numbers are those of the operands behind them.
#define WGMMA_SHARED(n, registers, a, b, scale, major_a, major_b)                                                             \
    if constexpr (N == n)                                                                                                     \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #scale ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n              \
                     "k16.f32.bf16.bf16 {" WGMMA_TEXT_##registers "}, %" #a ", %" #b ", add, 1, 1, %" #major_a ", %" #major_b ";\n}" \
                     : WGMMA_REGISTERS_##registers                                                                            \
                     : "l"(a_), "l"(b_), "r"(accumulate), "n"(int(A)), "n"(int(B))                                            \
                     : "memory");
#define WGMMA_IN_REGISTERS(n, registers, a0, a1, a2, a3, b, scale, major_b)                                                   \
    if constexpr (N == n)                                                                                                     \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #scale ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n              \
                     "k16.f32.bf16.bf16 {" WGMMA_TEXT_##registers "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b         \
                     ", add, 1, 1, %" #major_b ";\n}"                                                                         \
                     : WGMMA_REGISTERS_##registers                                                                            \
                     : "r"(a_[0]), "r"(a_[1]), "r"(a_[2]), "r"(a_[3]), "l"(b_), "r"(accumulate), "n"(int(B))                  \
                     : "memory");

// A and B in shared memory.
template <int N, Major A = K_MAJOR, Major B = K_MAJOR>
__device__ inline void wgmma(float (&d)[N / 2], unsigned long long a_, unsigned long long b_, int accumulate) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    WGMMA_SHARED(8, 4, 4, 5, 6, 7, 8)
    WGMMA_SHARED(16, 8, 8, 9, 10, 11, 12)
    WGMMA_SHARED(24, 12, 12, 13, 14, 15, 16)
    WGMMA_SHARED(32, 16, 16, 17, 18, 19, 20)
    WGMMA_SHARED(40, 20, 20, 21, 22, 23, 24)
    WGMMA_SHARED(48, 24, 24, 25, 26, 27, 28)
    WGMMA_SHARED(56, 28, 28, 29, 30, 31, 32)
    WGMMA_SHARED(64, 32, 32, 33, 34, 35, 36)
    WGMMA_SHARED(72, 36, 36, 37, 38, 39, 40)
    WGMMA_SHARED(80, 40, 40, 41, 42, 43, 44)
    WGMMA_SHARED(88, 44, 44, 45, 46, 47, 48)
    WGMMA_SHARED(96, 48, 48, 49, 50, 51, 52)
    WGMMA_SHARED(104, 52, 52, 53, 54, 55, 56)
    WGMMA_SHARED(112, 56, 56, 57, 58, 59, 60)
    WGMMA_SHARED(120, 60, 60, 61, 62, 63, 64)
    WGMMA_SHARED(128, 64, 64, 65, 66, 67, 68)
    WGMMA_SHARED(136, 68, 68, 69, 70, 71, 72)
    WGMMA_SHARED(144, 72, 72, 73, 74, 75, 76)
    WGMMA_SHARED(152, 76, 76, 77, 78, 79, 80)
    WGMMA_SHARED(160, 80, 80, 81, 82, 83, 84)
    WGMMA_SHARED(168, 84, 84, 85, 86, 87, 88)
    WGMMA_SHARED(176, 88, 88, 89, 90, 91, 92)
    WGMMA_SHARED(184, 92, 92, 93, 94, 95, 96)
    WGMMA_SHARED(192, 96, 96, 97, 98, 99, 100)
    WGMMA_SHARED(200, 100, 100, 101, 102, 103, 104)
    WGMMA_SHARED(208, 104, 104, 105, 106, 107, 108)
    WGMMA_SHARED(216, 108, 108, 109, 110, 111, 112)
    WGMMA_SHARED(224, 112, 112, 113, 114, 115, 116)
    WGMMA_SHARED(232, 116, 116, 117, 118, 119, 120)
    WGMMA_SHARED(240, 120, 120, 121, 122, 123, 124)
    WGMMA_SHARED(248, 124, 124, 125, 126, 127, 128)
    WGMMA_SHARED(256, 128, 128, 129, 130, 131, 132)
}

// A in registers, B in shared memory.
template <int N, Major B = K_MAJOR>
__device__ inline void wgmma(float (&d)[N / 2], const unsigned (&a_)[4], unsigned long long b_, int accumulate) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    WGMMA_IN_REGISTERS(8, 4, 4, 5, 6, 7, 8, 9, 10)
    WGMMA_IN_REGISTERS(16, 8, 8, 9, 10, 11, 12, 13, 14)
    WGMMA_IN_REGISTERS(24, 12, 12, 13, 14, 15, 16, 17, 18)
    WGMMA_IN_REGISTERS(32, 16, 16, 17, 18, 19, 20, 21, 22)
    WGMMA_IN_REGISTERS(40, 20, 20, 21, 22, 23, 24, 25, 26)
    WGMMA_IN_REGISTERS(48, 24, 24, 25, 26, 27, 28, 29, 30)
    WGMMA_IN_REGISTERS(56, 28, 28, 29, 30, 31, 32, 33, 34)
    WGMMA_IN_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37, 38)
    WGMMA_IN_REGISTERS(72, 36, 36, 37, 38, 39, 40, 41, 42)
    WGMMA_IN_REGISTERS(80, 40, 40, 41, 42, 43, 44, 45, 46)
    WGMMA_IN_REGISTERS(88, 44, 44, 45, 46, 47, 48, 49, 50)
    WGMMA_IN_REGISTERS(96, 48, 48, 49, 50, 51, 52, 53, 54)
    WGMMA_IN_REGISTERS(104, 52, 52, 53, 54, 55, 56, 57, 58)
    WGMMA_IN_REGISTERS(112, 56, 56, 57, 58, 59, 60, 61, 62)
    WGMMA_IN_REGISTERS(120, 60, 60, 61, 62, 63, 64, 65, 66)
    WGMMA_IN_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69, 70)
    WGMMA_IN_REGISTERS(136, 68, 68, 69, 70, 71, 72, 73, 74)
    WGMMA_IN_REGISTERS(144, 72, 72, 73, 74, 75, 76, 77, 78)
    WGMMA_IN_REGISTERS(152, 76, 76, 77, 78, 79, 80, 81, 82)
    WGMMA_IN_REGISTERS(160, 80, 80, 81, 82, 83, 84, 85, 86)
    WGMMA_IN_REGISTERS(168, 84, 84, 85, 86, 87, 88, 89, 90)
    WGMMA_IN_REGISTERS(176, 88, 88, 89, 90, 91, 92, 93, 94)
    WGMMA_IN_REGISTERS(184, 92, 92, 93, 94, 95, 96, 97, 98)
    WGMMA_IN_REGISTERS(192, 96, 96, 97, 98, 99, 100, 101, 102)
    WGMMA_IN_REGISTERS(200, 100, 100, 101, 102, 103, 104, 105, 106)
    WGMMA_IN_REGISTERS(208, 104, 104, 105, 106, 107, 108, 109, 110)
    WGMMA_IN_REGISTERS(216, 108, 108, 109, 110, 111, 112, 113, 114)
    WGMMA_IN_REGISTERS(224, 112, 112, 113, 114, 115, 116, 117, 118)
    WGMMA_IN_REGISTERS(232, 116, 116, 117, 118, 119, 120, 121, 122)
    WGMMA_IN_REGISTERS(240, 120, 120, 121, 122, 123, 124, 125, 126)
    WGMMA_IN_REGISTERS(248, 124, 124, 125, 126, 127, 128, 129, 130)
    WGMMA_IN_REGISTERS(256, 128, 128, 129, 130, 131, 132, 133, 134)
}

#endif
