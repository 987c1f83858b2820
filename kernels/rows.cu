// Moving and adding without arithmetic worth the name.
//
//   gather_rows   out[i, :] = inp[rows[i], :]
//   scatter_rows  out[rows[i], :] = inp[i, :]
//   add           out[i] += inp[i]
//   cast          dst[i] = src[i], rounded once to nearest even from the exact value
//
// Rows are bytes here: one kernel serves every element type. A warp copies up to 2048 bytes of one row, four vectors a lane in
// flight, and a block is eight such warps on eight rows: many narrow rows (a token's number) and few wide ones (the last hidden
// state of each sequence) both give enough warps. The flat kernels give a thread one piece of 8 elements, 16 bytes of each
// 16-bit tensor; 2048 resident threads then keep more bytes in flight than the memory's latency needs.
#include "act.cuh"

constexpr int LANES = 32;

// Copies this lane's share of `count` units of U. Four loads go ahead of their stores: the compiler, which cannot know that the
// rows do not overlap, would wait for each.
template <typename U>
__device__ __forceinline__ void copy_units(void* to, const void* from, int count) {
    constexpr int AHEAD = 4;
    U* const out = static_cast<U*>(to);
    const U* const inp = static_cast<const U*>(from);
    for (int first = threadIdx.x % LANES; first < count; first += AHEAD * LANES) {
        U held[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            if (first + k * LANES < count) {
                held[k] = inp[first + k * LANES];
            }
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            if (first + k * LANES < count) {
                out[first + k * LANES] = held[k];
            }
        }
    }
}

// Copies the part of a row of `bytes` that this warp owns, in the widest unit that rows consist of; `from` null means zeros.
__device__ __forceinline__ void copy_part(char* to, const char* from, int bytes) {
    const int first = blockIdx.y * ROWS_BYTES;
    const int count = bytes - first < ROWS_BYTES ? bytes - first : ROWS_BYTES;
    to += first;
    if (from == nullptr) {
        for (int i = threadIdx.x % LANES; i < count; i += LANES) {
            to[i] = 0;
        }
        return;
    }
    from += first;
    if (bytes % 16 == 0) {
        copy_units<Vec<unsigned>>(to, from, count / 16);
    } else if (bytes % 4 == 0) {
        copy_units<unsigned>(to, from, count / 4);
    } else {
        copy_units<unsigned short>(to, from, count / 2);
    }
}

// Grid: x = ceil(t / ROWS_WARPS), y = ceil(bytes / ROWS_BYTES)
extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
gather_rows(void* out, const void* inp, const unsigned* rows, unsigned* fault, int t, int rows_of_inp, int bytes) {
    const int i = blockIdx.x * ROWS_WARPS + threadIdx.x / LANES;
    if (i >= t) {
        return;
    }
    const unsigned row = rows[i];
    const bool known = row < static_cast<unsigned>(rows_of_inp);
    if (!known && threadIdx.x % LANES == 0) {
        report_fault(fault, FAULT_GATHER_ROWS, i, row);
    }
    const char* const from = known ? static_cast<const char*>(inp) + static_cast<size_t>(row) * bytes : nullptr;
    copy_part(static_cast<char*>(out) + static_cast<size_t>(i) * bytes, from, bytes);
}

// Grid: x = ceil(t / ROWS_WARPS), y = ceil(bytes / ROWS_BYTES)
extern "C" __global__ void __launch_bounds__(ROWS_THREADS)
scatter_rows(void* out, const void* inp, const unsigned* rows, unsigned* fault, int t, int rows_of_out, int bytes) {
    const int i = blockIdx.x * ROWS_WARPS + threadIdx.x / LANES;
    if (i >= t) {
        return;
    }
    const unsigned row = rows[i];
    if (row >= static_cast<unsigned>(rows_of_out)) {
        if (threadIdx.x % LANES == 0) {
            report_fault(fault, FAULT_SCATTER_ROWS, i, row);
        }
        return;
    }
    const char* const from = static_cast<const char*>(inp) + static_cast<size_t>(i) * bytes;
    copy_part(static_cast<char*>(out) + static_cast<size_t>(row) * bytes, from, bytes);
}

template <bool WHOLE>
__device__ __forceinline__ void add_piece(act* out, const act* inp, int left) {
    const Piece<act> a = load_piece<WHOLE>(out, left);
    const Piece<act> b = load_piece<WHOLE>(inp, left);
    float sum[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        sum[i] = a[i] + b[i];
    }
    store_piece<WHOLE>(out, Piece<act>::of(sum), left);
}

// Grid: x = ceil(n / ELEMENTWISE_SPAN)
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
add(act* out, const act* inp, long long n) {
    const long long first = (static_cast<long long>(blockIdx.x) * ELEMENTWISE_THREADS + threadIdx.x) * PIECE;
    if (first + PIECE <= n) {
        add_piece<true>(out + first, inp + first, PIECE);
    } else {
        add_piece<false>(out + first, inp + first, static_cast<int>(n - first));
    }
}

// The formats of checkpoints that the arithmetic does not use.
struct Half {
    unsigned short bits;
};

__device__ __forceinline__ float widen(Half x) {
    const unsigned sign = (x.bits & 0x8000u) << 16;
    const unsigned rest = (x.bits & 0x7fffu) << 13;
    // Moving the fraction leaves the exponent 112 too low; the product mends that and makes subnormals normal, exactly.
    const float finite = __uint_as_float(rest) * 0x1p112f;
    const unsigned magnitude = (x.bits & 0x7c00u) == 0x7c00u ? rest | 0x7f800000u : __float_as_uint(finite);
    return __uint_as_float(sign | magnitude);
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return to_float(x); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

// The bits of the format of 16 with EXPONENT and FRACTION bits that is nearest to x, ties to even. From double at once: by way of
// float it would round twice.
template <int EXPONENT, int FRACTION>
__device__ __forceinline__ unsigned short nearest16(double x) {
    constexpr int BIAS = (1 << (EXPONENT - 1)) - 1;
    constexpr unsigned INFINITE = ((1u << EXPONENT) - 1) << FRACTION;
    const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(x));
    const unsigned sign = static_cast<unsigned>(bits >> 48) & 0x8000u;
    const int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
    const unsigned long long fraction = bits & 0xfffffffffffffull;
    if (exponent == 1024 && fraction != 0) {
        return static_cast<unsigned short>(sign | INFINITE | 1u << (FRACTION - 1));
    }
    // Below the smallest normal number the last place stays where it is, so more is shifted out. From 54 on nothing is left.
    const int lacking = exponent < 1 - BIAS ? 1 - BIAS - exponent : 0;
    const int shift = 52 - FRACTION + lacking < 54 ? 52 - FRACTION + lacking : 54;
    const unsigned long long whole = 1ull << 52 | fraction;
    const unsigned long long rounded = (whole + (1ull << (shift - 1)) - 1 + (whole >> shift & 1)) >> shift;
    // The leading bit of a normal number adds the 1 that its exponent is short of; a carry goes on into the exponent.
    const int base = lacking > 0 ? 0 : exponent + BIAS - 1;
    const unsigned magnitude = (static_cast<unsigned>(base) << FRACTION) + static_cast<unsigned>(rounded);
    return static_cast<unsigned short>(sign | (exponent > BIAS || magnitude > INFINITE ? INFINITE : magnitude));
}

__device__ __forceinline__ void narrow(float& to, double x) { to = static_cast<float>(x); }
__device__ __forceinline__ void narrow(double& to, double x) { to = x; }
__device__ __forceinline__ void narrow(Half& to, double x) { to.bits = nearest16<5, 10>(x); }
__device__ __forceinline__ void narrow(__nv_bfloat16& to, float x) { to = from_float<__nv_bfloat16>(x); }
__device__ __forceinline__ void narrow(__nv_bfloat16& to, double x) {
    const unsigned short bits = nearest16<8, 7>(x);
    // The upper half of a float: exact, so the conversion does not round again.
    to = from_float<__nv_bfloat16>(__uint_as_float(static_cast<unsigned>(bits) << 16));
}

template <typename T, typename S>
__device__ __forceinline__ void cast_span(T* dst, const S* src, long long n) {
    constexpr int VECS = PIECE / Vec<S>::N;
    const long long first = (static_cast<long long>(blockIdx.x) * ELEMENTWISE_THREADS + threadIdx.x) * PIECE;
    if (first + PIECE <= n) {
        Vec<T> out[PIECE / Vec<T>::N];
#pragma unroll
        for (int j = 0; j < VECS; ++j) {
            const Vec<S> inp = load_vec(src + first + j * Vec<S>::N);
#pragma unroll
            for (int i = 0; i < Vec<S>::N; ++i) {
                const int at = j * Vec<S>::N + i;
                narrow(out[at / Vec<T>::N][at % Vec<T>::N], widen(inp[i]));
            }
        }
#pragma unroll
        for (int j = 0; j < PIECE / Vec<T>::N; ++j) {
            store_vec(dst + first + j * Vec<T>::N, out[j]);
        }
    } else {
#pragma unroll 1
        for (long long i = first; i < n; ++i) {
            narrow(dst[i], widen(src[i]));
        }
    }
}

template <typename S>
__device__ __forceinline__ void cast_from(void* dst, const S* src, int dst_type, long long n) {
    if (dst_type == CAST_F32) {
        cast_span(static_cast<float*>(dst), src, n);
    } else if (dst_type == CAST_F64) {
        cast_span(static_cast<double*>(dst), src, n);
    } else if (dst_type == CAST_F16) {
        cast_span(static_cast<Half*>(dst), src, n);
    } else {
        cast_span(static_cast<__nv_bfloat16*>(dst), src, n);
    }
}

// Grid: x = ceil(n / ELEMENTWISE_SPAN)
extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)
cast(void* dst, const void* src, int dst_type, int src_type, long long n) {
    if (src_type == CAST_F32) {
        cast_from(dst, static_cast<const float*>(src), dst_type, n);
    } else if (src_type == CAST_F64) {
        cast_from(dst, static_cast<const double*>(src), dst_type, n);
    } else if (src_type == CAST_F16) {
        cast_from(dst, static_cast<const Half*>(src), dst_type, n);
    } else {
        cast_from(dst, static_cast<const __nv_bfloat16*>(src), dst_type, n);
    }
}
