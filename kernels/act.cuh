// What every kernel starts from: the type of activations, its conversions, and accesses of 16 bytes.
//
// Every .cu is compiled twice: with ACT = __nv_bfloat16 the kernels run in production, with ACT = float the same source is held
// tightly against the CPU. Arithmetic is in float in both; only loads and stores know which build this is.
//
// Layout: tensors are row-major and start at multiples of 256 bytes, so a row whose bytes are a multiple of 16 may be read in
// vectors from its first element on. 16 bytes a thread, neighbouring threads on neighbouring vectors: a warp then moves whole
// 128-byte lines in the fewest instructions, which is what reaches the memory's bandwidth.
#pragma once
#include <cuda_bf16.h>

#include "geometry.h"
#include "shared.cuh"

typedef ACT act;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

// 16 bytes of T.
template <typename T>
struct alignas(16) Vec {
    static constexpr int N = 16 / sizeof(T);
    T at[N];

    __device__ __forceinline__ T& operator[](int i) { return at[i]; }
    __device__ __forceinline__ const T& operator[](int i) const { return at[i]; }
};

// `p` is a multiple of 16 bytes.
template <typename T>
__device__ __forceinline__ Vec<T> load_vec(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}

template <typename T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T>& v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

// What a thread takes of a row at a time: one vector of bf16, two of float.
constexpr int PIECE = 8;

// PIECE neighbouring elements as memory has them: in bf16 two of them share a register until they are used.
template <typename T>
struct Piece;

template <>
struct Piece<float> {
    using Unit = float;
    Vec<Unit> vec[PIECE / Vec<Unit>::N];

    __device__ __forceinline__ float operator[](int i) const { return vec[i / 4][i % 4]; }

    static __device__ __forceinline__ Piece of(const float (&x)[PIECE]) {
        return {{{{x[0], x[1], x[2], x[3]}}, {{x[4], x[5], x[6], x[7]}}}};
    }
};

template <>
struct Piece<__nv_bfloat16> {
    using Unit = unsigned;
    Vec<Unit> vec[1];

    // A bf16 is the upper half of a float.
    __device__ __forceinline__ float operator[](int i) const {
        const unsigned pair = vec[0][i / 2];
        return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
    }

    // Rounded to nearest even, two in one instruction.
    static __device__ __forceinline__ Piece of(const float (&x)[PIECE]) {
        Piece piece;
#pragma unroll
        for (int i = 0; i < PIECE / 2; ++i) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
            memcpy(&piece.vec[0][i], &pair, sizeof pair);
        }
        return piece;
    }
};

// Whether rows of `n` elements consist of whole vectors, so that a piece's vectors lie on their boundaries, all in the row or
// out.
template <typename T>
__device__ __forceinline__ bool whole_vecs(int n) {
    return n % Vec<T>::N == 0;
}

// The piece at `p`, of which `left` elements (at most 0: none) are in the row; zeros past its end. With WHOLE the row consists of
// whole vectors.
template <bool WHOLE, typename T>
__device__ __forceinline__ Piece<T> load_piece(const T* p, int left) {
    if constexpr (WHOLE) {
        Piece<T> piece = {};
#pragma unroll
        for (int i = 0; i < PIECE; i += Vec<T>::N) {
            if (i < left) {
                piece.vec[i / Vec<T>::N] = load_vec(reinterpret_cast<const typename Piece<T>::Unit*>(p + i));
            }
        }
        return piece;
    } else {
        float x[PIECE];
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            x[i] = i < left ? to_float(p[i]) : 0.0f;
        }
        return Piece<T>::of(x);
    }
}

// Stores the elements of the piece that are in the row.
template <bool WHOLE, typename T>
__device__ __forceinline__ void store_piece(T* p, const Piece<T>& piece, int left) {
    if constexpr (WHOLE) {
#pragma unroll
        for (int i = 0; i < PIECE; i += Vec<T>::N) {
            if (i < left) {
                store_vec(reinterpret_cast<typename Piece<T>::Unit*>(p + i), piece.vec[i / Vec<T>::N]);
            }
        }
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            if (i < left) {
                p[i] = from_float<T>(piece[i]);
            }
        }
    }
}

// Says once that `value`, the element `index` of an argument, is out of range: the first thread to come writes, the host reads
// `fault[3]` at its next synchronisation. Codes are FAULT_... of geometry.h.
__device__ __forceinline__ void report_fault(unsigned* fault, unsigned code, unsigned index, unsigned value) {
    if (atomicCAS(&fault[0], 0u, code) == 0u) {
        fault[1] = index;
        fault[2] = value;
    }
}

// 2^x in one instruction; what is not normal is zero. exp2f spends three more on the numbers below 2^-126.
__device__ __forceinline__ float exp2_normal(float x) {
#ifdef SIMULATOR
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}
