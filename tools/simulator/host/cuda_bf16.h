// CUDA's bfloat16 for a host compiler. Conversions are explicit only, where CUDA's are implicit too: an expression that would round in
// one build and not in the other does not compile here.
#pragma once
#include "simulator.h"

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    // Round to nearest, ties to even; a NaN stays one.
    explicit __nv_bfloat16(float x) {
        unsigned word = __float_as_uint(x);
        bits = isnan(x) ? 0x7FFF : uint16_t((word + 0x7FFF + (word >> 16 & 1)) >> 16);
    }
    explicit operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
inline __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
inline float __bfloat162float(__nv_bfloat16 x) { return float(x); }
// Rounds once: the float in between is made odd where it was inexact, so that its own rounding cannot fall on a tie.
inline __nv_bfloat16 __double2bfloat16(double x) {
    float near = float(x);
    unsigned word = __float_as_uint(near);
    if (isfinite(near) && double(near) != x && !(word & 1)) word += fabs(double(near)) > fabs(x) ? -1 : 1;
    return __nv_bfloat16(__uint_as_float(word));
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {float(x.x), float(x.y)}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return simulator_bits<__nv_bfloat16>(bits); }
