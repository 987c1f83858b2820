// CUDA's half precision for a host compiler: storage and conversions, which is all that checkpoints in f16 need.
#pragma once
#include "simulator.h"

struct __half {
    uint16_t bits;
    __half() = default;
    explicit __half(float x) : bits(simulator_bits<uint16_t>(_Float16(x))) {}
    explicit operator float() const { return float(simulator_bits<_Float16>(bits)); }
};
inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return float(x); }
inline __half __double2half(double x) {
    __half half;
    half.bits = simulator_bits<uint16_t>(_Float16(x));
    return half;
}
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return simulator_bits<__half>(bits); }
