// Philox 4x32-10 (Salmon et al., SC 2011), the same words as src/rng.rs.
//
//   a round: (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)); k0 += W0; k1 += W1
//
// A mask is a function of position: four neighbouring elements share one counter, so a thread that walks a row in steps of
// four pays ten rounds for four of them and nothing is stored between forward and backward.
#pragma once
#include "act.cuh"

struct Words {
    unsigned at[4];
};

__device__ __forceinline__ Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned long long key) {
    unsigned k0 = static_cast<unsigned>(key);
    unsigned k1 = static_cast<unsigned>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = static_cast<unsigned long long>(c0) * 0xD2511F53u;
        const unsigned long long b = static_cast<unsigned long long>(c2) * 0xCD9E8D57u;
        c0 = static_cast<unsigned>(b >> 32) ^ c1 ^ k0;
        c2 = static_cast<unsigned>(a >> 32) ^ c3 ^ k1;
        c1 = static_cast<unsigned>(b);
        c3 = static_cast<unsigned>(a);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// A word as a number in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float unit(unsigned word) { return static_cast<float>(word >> 8) * (1.0f / 16777216.0f); }

// The words that decide elements 4 * quad .. 4 * quad + 3 of the input of branch `stream`. An element is dropped where (word >> 8) / 2^24
// < p, which is word < ceil(p 2^24) 2^8: numbers of 24 bits, and p < 1, so that the right side is a word.
__device__ __forceinline__ Words dropout_words(unsigned long long quad, unsigned long long key, unsigned stream) {
    return philox(static_cast<unsigned>(quad), 0u, stream, 0u, key);
}
