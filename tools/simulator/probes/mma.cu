// Probes of the warp's tensor-core product and its loads: registers in, registers out, by lane.
#include "act.cuh"
#include "mma.cuh"

#define PROBE_WARP 32

// d[lane, 4] += A B with a[lane, 4] and b[lane, 2] as registers. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_WARP)
probe_mma(float* d, const unsigned* a, const unsigned* b) {
    const int lane = threadIdx.x;
    float sums[4];
    unsigned left[4], right[2];
    for (int i = 0; i < 4; ++i) {
        sums[i] = d[lane * 4 + i];
        left[i] = a[lane * 4 + i];
    }
    for (int i = 0; i < 2; ++i) right[i] = b[lane * 2 + i];
    mma_m16n8k16(sums, left, right);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}

// out[lane, 4] = four 8 x 8 matrices, whose 32 rows of 16 bytes are inp, as registers; transposed where asked. One warp.
extern "C" __global__ void __launch_bounds__(PROBE_WARP)
probe_ldmatrix(unsigned* out, const unsigned* inp, int transpose, int shift) {
    SHARED(unsigned, rows, 32 * 4 + 4);
    const int lane = threadIdx.x;
    for (int i = 0; i < 4; ++i) rows[lane * 4 + i] = inp[lane * 4 + i];
    __syncwarp();
    unsigned registers[4];
    if (transpose) {
        ldmatrix_x4_trans(registers, rows + lane * 4 + shift);
    } else {
        ldmatrix_x4(registers, rows + lane * 4 + shift);
    }
    for (int i = 0; i < 4; ++i) out[lane * 4 + i] = registers[i];
}
