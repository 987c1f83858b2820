// The warp's tensor-core product and the loads that feed it, as functions. Fragments are the PTX ISA's for mma.sync.m16n8k16 with bf16;
// with lane = 4 g + p (g = 0..7, p = 0..3), two bf16 a register, the lower index in the lower half:
//   A[16, 16], rows by k:     a[0] = A[g][2p..], a[1] = A[g + 8][2p..], a[2] = A[g][2p + 8..], a[3] = A[g + 8][2p + 8..]
//   B[16, 8], k by columns:   b[0] = B[2p..][g], b[1] = B[2p + 8..][g]
//   D[16, 8]:                 d[0], d[1] = D[g][2p..], d[2], d[3] = D[g + 8][2p..]
// The order in which the tensor core adds its sixteen products is not documented: results hold to rounding, not to the bit.
#pragma once

#ifdef SIMULATOR

inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], SIMULATOR_HERE) {
    SimulatorMma mma = {d, a, b};
    simulator_warp(simulator_thread, MMA, ~0u, &mma, file, line);
}
inline void ldmatrix_x4(unsigned (&out)[4], const void* row, SIMULATOR_HERE) {
    SimulatorLdmatrix load = {row, out, 4, 0};
    simulator_warp(simulator_thread, LDMATRIX, ~0u, &load, file, line);
}
inline void ldmatrix_x4_trans(unsigned (&out)[4], const void* row, SIMULATOR_HERE) {
    SimulatorLdmatrix load = {row, out, 4, 1};
    simulator_warp(simulator_thread, LDMATRIX, ~0u, &load, file, line);
}

#else

// d += a b.
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes, aligned to
// 16) and gets, of matrix j in out[j], the elements [g][2p] and [g][2p + 1].
__device__ inline void ldmatrix_x4(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same with each matrix transposed: the lane gets [2p][g] and [2p + 1][g].
__device__ inline void ldmatrix_x4_trans(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

#endif
