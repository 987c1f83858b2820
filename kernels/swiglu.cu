// The gated unit of the MLP and its gradient.
//
//   out = silu(gate) up,  silu(x) = x s,  s = 1 / (1 + e^-x)
//   dgate = dout up s (1 + gate (1 - s)),  dup = dout gate s
//
// gate_up[t, 2 f]: a row's gate, then its up; out[t, f]. Elementwise and bound by memory: a block owns 2048 columns of one row, a
// thread one piece of 8 of gate with the piece of up that stands f further on. Rows go along x, so no thread divides to find its
// place, and t has no bound but the grid's.
#include "act.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <bool WHOLE>
__device__ __forceinline__ void forward(act* out, const act* gate_up, int f, int j) {
    const Piece<act> gate = load_piece<WHOLE>(gate_up + j, f - j);
    const Piece<act> up = load_piece<WHOLE>(gate_up + f + j, f - j);
    float y[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
    store_piece<WHOLE>(out + j, Piece<act>::of(y), f - j);
}

// Grid: x = t, y = ceil(f / SWIGLU_COLUMNS)
extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
swiglu_fwd(act* out, const act* gate_up, int t, int f) {
    const int j = (blockIdx.y * SWIGLU_THREADS + threadIdx.x) * PIECE;
    out += static_cast<size_t>(blockIdx.x) * f;
    gate_up += static_cast<size_t>(blockIdx.x) * 2 * f;
    if (whole_vecs<act>(f)) {
        forward<true>(out, gate_up, f, j);
    } else {
        forward<false>(out, gate_up, f, j);
    }
}

template <bool WHOLE>
__device__ __forceinline__ void backward(act* dgate_up, const act* dout, const act* gate_up, int f, int j) {
    const Piece<act> d = load_piece<WHOLE>(dout + j, f - j);
    const Piece<act> gate = load_piece<WHOLE>(gate_up + j, f - j);
    const Piece<act> up = load_piece<WHOLE>(gate_up + f + j, f - j);
    float dgate[PIECE];
    float dup[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        const float s = sigmoid(gate[i]);
        dgate[i] = d[i] * up[i] * s * (1.0f + gate[i] * (1.0f - s));
        dup[i] = d[i] * gate[i] * s;
    }
    store_piece<WHOLE>(dgate_up + j, Piece<act>::of(dgate), f - j);
    store_piece<WHOLE>(dgate_up + f + j, Piece<act>::of(dup), f - j);
}

// Grid: x = t, y = ceil(f / SWIGLU_COLUMNS)
extern "C" __global__ void __launch_bounds__(SWIGLU_THREADS)
swiglu_bwd(act* dgate_up, const act* dout, const act* gate_up, int t, int f) {
    const int j = (blockIdx.y * SWIGLU_THREADS + threadIdx.x) * PIECE;
    const size_t row = blockIdx.x;
    if (whole_vecs<act>(f)) {
        backward<true>(dgate_up + row * 2 * f, dout + row * f, gate_up + row * 2 * f, f, j);
    } else {
        backward<false>(dgate_up + row * 2 * f, dout + row * f, gate_up + row * 2 * f, f, j);
    }
}
