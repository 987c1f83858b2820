// Root-mean-square normalisation (Zhang & Sennrich 2019, eq. 4), with the residual add fused in front.
//
//   rstd[i] = 1 / sqrt(mean_j x[i, j]^2 + eps)
//   out[i, j] = x[i, j] rstd[i] weight[j]                       x is inp, or inp + delta rounded to act and stored in sum
//   dx[i, j] += rstd (dout weight - x rstd^2 mean_j(dout weight x))
//   dweight[j] += sum_i dout[i, j] x[i, j] rstd[i]
//
// x[t, c], row-major. All that counts is to touch memory once. A block of four warps owns a row and holds it between the pass
// that sums and the pass that writes, up to 8192 columns of bf16. All loads of a row are issued before the first is used. The row
// then waits in shared memory, each thread's own pieces as they came, not in registers: there the compiler keeps what it has once
// unpacked, and twice the registers are half the blocks on a multiprocessor, where one block's sum must hide behind the others'
// loads. Longer rows, and rows that do not consist of whole vectors, are read twice; the second time mostly from cache. The
// weight comes from the first-level cache, where the rows before have left it. Statistics are f32.
#include "reduce.cuh"

constexpr int SPAN = RMSNORM_THREADS * PIECE;
// Pieces of a row that a thread can hold: 16 KiB a row in either build.
constexpr int HELD = 16 / sizeof(act);

__device__ __forceinline__ float sum_of_squares(const Piece<act>& x) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        sum += x[i] * x[i];
    }
    return sum;
}

__device__ __forceinline__ Piece<act> plus(const Piece<act>& a, const Piece<act>& b) {
    float sum[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        sum[i] = a[i] + b[i];
    }
    return Piece<act>::of(sum);
}

// One row of the forward pass: where this thread's pieces come from and go to.
template <bool RESIDUAL, bool WHOLE>
struct Forward {
    act* out;
    act* sum;
    const act* inp;
    const act* delta;
    const act* weight;
    int c;

    // The piece of x at column j, before it is stored.
    __device__ __forceinline__ Piece<act> read(int j) const {
        const Piece<act> x = load_piece<WHOLE>(inp + j, c - j);
        if constexpr (RESIDUAL) {
            return plus(x, load_piece<WHOLE>(delta + j, c - j));
        }
        return x;
    }

    __device__ __forceinline__ void keep(int j, const Piece<act>& x) const {
        if constexpr (RESIDUAL) {
            store_piece<WHOLE>(sum + j, x, c - j);
        }
    }

    __device__ __forceinline__ void write(int j, const Piece<act>& x, float scale) const {
        const Piece<act> w = load_piece<WHOLE>(weight + j, c - j);
        float y[PIECE];
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            y[i] = x[i] * scale * w[i];
        }
        store_piece<WHOLE>(out + j, Piece<act>::of(y), c - j);
    }

    __device__ __forceinline__ float scale_of(float* rstd, float squares, float eps) const {
        const float mean = block_sum<RMSNORM_THREADS>(squares) / static_cast<float>(c);
        const float scale = 1.0f / sqrtf(mean + eps);
        if (threadIdx.x == 0) {
            rstd[blockIdx.x] = scale;
        }
        return scale;
    }

    __device__ __forceinline__ void held(float* rstd, float eps) const {
        SHARED(Piece<act>, row, HELD * RMSNORM_THREADS);
        const int first = threadIdx.x * PIECE;
        Piece<act> x[HELD];
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            x[h] = read(first + h * SPAN);
        }
        float squares = 0.0f;
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            keep(first + h * SPAN, x[h]);
            row[h * RMSNORM_THREADS + threadIdx.x] = x[h];
            squares += sum_of_squares(x[h]);
        }
        const float scale = scale_of(rstd, squares, eps);
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            write(first + h * SPAN, row[h * RMSNORM_THREADS + threadIdx.x], scale);
        }
    }

    __device__ __forceinline__ void read_twice(float* rstd, float eps) const {
        float squares = 0.0f;
        for (int j = threadIdx.x * PIECE; j < c; j += SPAN) {
            const Piece<act> x = read(j);
            keep(j, x);
            squares += sum_of_squares(x);
        }
        const float scale = scale_of(rstd, squares, eps);
        // What this thread stored it may read again.
        const act* const again = RESIDUAL ? sum : inp;
        for (int j = threadIdx.x * PIECE; j < c; j += SPAN) {
            write(j, load_piece<WHOLE>(again + j, c - j), scale);
        }
    }
};

template <bool RESIDUAL>
__device__ __forceinline__ void normalise(
    act* out, float* rstd, act* sum, const act* inp, const act* delta, const act* weight, int c, float eps) {
    const size_t row = static_cast<size_t>(blockIdx.x) * c;
    act* const sum_row = RESIDUAL ? sum + row : nullptr;
    const act* const delta_row = RESIDUAL ? delta + row : nullptr;
    if (!whole_vecs<act>(c)) {
        Forward<RESIDUAL, false>{out + row, sum_row, inp + row, delta_row, weight, c}.read_twice(rstd, eps);
    } else if (c > HELD * SPAN) {
        Forward<RESIDUAL, true>{out + row, sum_row, inp + row, delta_row, weight, c}.read_twice(rstd, eps);
    } else {
        Forward<RESIDUAL, true>{out + row, sum_row, inp + row, delta_row, weight, c}.held(rstd, eps);
    }
}

// Grid: x = t
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS)
rmsnorm_fwd(act* out, float* rstd, const act* inp, const act* weight, int t, int c, float eps) {
    normalise<false>(out, rstd, nullptr, inp, nullptr, weight, c, eps);
}

// Grid: x = t
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS)
rmsnorm_residual_fwd(
    act* out, float* rstd, act* sum, const act* inp, const act* delta, const act* weight, int t, int c, float eps) {
    normalise<true>(out, rstd, sum, inp, delta, weight, c, eps);
}

// One row of the backward pass.
template <bool WHOLE>
struct Backward {
    act* dx;
    const act* dout;
    const act* x;
    const act* weight;
    int c;

    // The sum over the piece at column j of dout weight x.
    __device__ __forceinline__ float along(int j, const Piece<act>& d, const Piece<act>& y) const {
        const Piece<act> w = load_piece<WHOLE>(weight + j, c - j);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            sum += d[i] * w[i] * y[i];
        }
        return sum;
    }

    __device__ __forceinline__ void write(
        int j, const Piece<act>& before, const Piece<act>& d, const Piece<act>& y, float scale, float slope) const {
        const Piece<act> w = load_piece<WHOLE>(weight + j, c - j);
        float g[PIECE];
#pragma unroll
        for (int i = 0; i < PIECE; ++i) {
            g[i] = before[i] + scale * (d[i] * w[i] - y[i] * slope);
        }
        store_piece<WHOLE>(dx + j, Piece<act>::of(g), c - j);
    }

    // rstd^2 mean(dout weight x)
    __device__ __forceinline__ float slope_of(float sum, float scale) const {
        return scale * scale * block_sum<RMSNORM_THREADS>(sum) / static_cast<float>(c);
    }

    __device__ __forceinline__ void held(float scale) const {
        SHARED(Piece<act>, dout_row, HELD * RMSNORM_THREADS);
        SHARED(Piece<act>, x_row, HELD * RMSNORM_THREADS);
        const int first = threadIdx.x * PIECE;
        Piece<act> d[HELD];
        Piece<act> y[HELD];
        Piece<act> before[HELD];
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int j = first + h * SPAN;
            d[h] = load_piece<WHOLE>(dout + j, c - j);
            y[h] = load_piece<WHOLE>(x + j, c - j);
            before[h] = load_piece<WHOLE>(dx + j, c - j);
        }
        float sum = 0.0f;
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            dout_row[h * RMSNORM_THREADS + threadIdx.x] = d[h];
            x_row[h * RMSNORM_THREADS + threadIdx.x] = y[h];
            sum += along(first + h * SPAN, d[h], y[h]);
        }
        const float slope = slope_of(sum, scale);
#pragma unroll
        for (int h = 0; h < HELD; ++h) {
            const int at = h * RMSNORM_THREADS + threadIdx.x;
            write(first + h * SPAN, before[h], dout_row[at], x_row[at], scale, slope);
        }
    }

    __device__ __forceinline__ void read_twice(float scale) const {
        float sum = 0.0f;
        for (int j = threadIdx.x * PIECE; j < c; j += SPAN) {
            sum += along(j, load_piece<WHOLE>(dout + j, c - j), load_piece<WHOLE>(x + j, c - j));
        }
        const float slope = slope_of(sum, scale);
        for (int j = threadIdx.x * PIECE; j < c; j += SPAN) {
            const Piece<act> g = load_piece<WHOLE>(dx + j, c - j);
            write(j, g, load_piece<WHOLE>(dout + j, c - j), load_piece<WHOLE>(x + j, c - j), scale, slope);
        }
    }
};

// Grid: x = t
extern "C" __global__ void __launch_bounds__(RMSNORM_THREADS)
rmsnorm_bwd(act* dx, const act* dout, const float* rstd, const act* x, const act* weight, int t, int c) {
    const size_t row = static_cast<size_t>(blockIdx.x) * c;
    const float scale = rstd[blockIdx.x];
    if (!whole_vecs<act>(c)) {
        Backward<false>{dx + row, dout + row, x + row, weight, c}.read_twice(scale);
    } else if (c > HELD * SPAN) {
        Backward<true>{dx + row, dout + row, x + row, weight, c}.read_twice(scale);
    } else {
        Backward<true>{dx + row, dout + row, x + row, weight, c}.held(scale);
    }
}

template <bool WHOLE>
__device__ __forceinline__ void add_dweight(float* dweight, const act* dout, const float* rstd, const act* x, int t, int c) {
    add_column_sums<COLUMN_SUM_THREADS>(dweight, t, c, [&](float(&sums)[PIECE], int i, int j) {
        const size_t at = static_cast<size_t>(i) * c + j;
        const Piece<act> d = load_piece<WHOLE>(dout + at, c - j);
        const Piece<act> y = load_piece<WHOLE>(x + at, c - j);
        const float scale = rstd[i];
#pragma unroll
        for (int k = 0; k < PIECE; ++k) {
            sums[k] += d[k] * y[k] * scale;
        }
    });
}

// Grid: x = ceil(c / COLUMN_SUM_COLUMNS)
extern "C" __global__ void __launch_bounds__(COLUMN_SUM_THREADS)
rmsnorm_dweight(float* dweight, const act* dout, const float* rstd, const act* x, int t, int c) {
    if (whole_vecs<act>(c)) {
        add_dweight<true>(dweight, dout, rstd, x, t, c);
    } else {
        add_dweight<false>(dweight, dout, rstd, x, t, c);
    }
}
