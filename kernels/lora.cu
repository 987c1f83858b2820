// The low-rank branch of a linear map and its gradients (Hu et al. 2021, section 4.1), and the gradient of a bias. The base product
// is a library's.
//
//   z = drop(x) a^T                    out[:, column..column + n] += scale z b^T
//   dz = scale dout[:, column..] b     db += scale dout^T z       da += dz^T drop(x)       dx += drop'(dz a)
//
// Layout: x[t, k], a[r, k], b[n, r], z and dz[t, r]; out and dout have `width` columns, of which the branch has n. drop zeroes an
// element with probability p and divides what is left by 1 - p; the mask is a function of an element's place (philox.cuh), so
// each kernel makes it again where it reads. The mask itself is exact and 1 / (1 - p) goes into the float sum: a dropped-out x
// is never rounded.
//
// Ranks are small (4 to 64) and rows long, so everything here is bound by reading or writing the long matrix once, and its elements
// go from memory to registers, 16 bytes a lane. Three shapes:
//
//   project  z and dz: a block owns 16 tokens and all ranks (32 at a time). Its warps share out the long dimension, each feeding
//            the tensor cores from its own loads, and add up through shared memory in the order of warps. Few tokens a block
//            rather than many: with a handful of tokens to decode the long dimension is the only thing to share out.
//   update   out and dx: a block owns a tile of 64 tokens and 128 columns, reads it, adds, writes it. The columns of a product's
//            tiles are dealt out so that a lane ends with 16 bytes of a row. All ranks are added up before the one rounding.
//   sum      db, da and the bias: a block owns 32 columns, each thread a vector of them and every n-th token in order; threads
//            meet by shuffles and then through shared memory, in the order of warps. No atomics.
#include "philox.cuh"
#include "tile.cuh"

constexpr int WARPS = LORA_THREADS / WARP;
// Elements of the summed dimension in one multiply_registers, and columns of a warp's tile in update.
constexpr int STEP = 4 * VEC;

__device__ __forceinline__ float drop_scale(float p) { return 1.0f / (1.0f - p); }

// Bit i: whether element e + i of the input of branch `stream` is kept, for a vector's elements. Four of them share a counter, and
// where rows are no multiple of four a vector begins inside one.
__device__ __forceinline__ unsigned kept_bits(unsigned long long e, unsigned long long key, unsigned stream, float p) {
    if (!(p > 0.0f)) {
        return ~0u;
    }
    unsigned bits = 0;
#pragma unroll
    for (int quad = 0; quad <= VEC / 4; ++quad) {
        if (quad < VEC / 4 || e % 4 != 0) {
            const Words words = dropout_words(e / 4 + quad, key, stream);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                bits |= unit(words.at[j]) < p ? 0u : 1u << (4 * quad + j);
            }
        }
    }
    return bits >> (e % 4);
}

// Zeroes what is dropped of elements e...
__device__ __forceinline__ void drop(Vec<act>& v, unsigned long long e, unsigned long long key, unsigned stream, float p) {
    const unsigned bits = kept_bits(e, key, stream, p);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
        v[i] = bits >> i & 1u ? v[i] : from_float<act>(0.0f);
    }
}

// write(token, rank, sum over `depth` of rows * columns), for the block's LORA_ROWS tokens. rows(token, at) and columns(rank, at)
// give a vector of elements at.., zeros where there are none.
template <int N, typename Rows, typename Columns, typename Write>
__device__ __forceinline__ void project(float* sums, int t, int depth, int r, Rows rows, Columns columns, Write write) {
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    const int token0 = static_cast<int>(blockIdx.x) * LORA_ROWS;
    for (int rank0 = 0; rank0 < r; rank0 += 8 * N) {
        float d[N][4] = {};
#pragma unroll (TENSOR_CORES ? 2 : 1)
        for (int at = warp * STEP; at < depth; at += WARPS * STEP) {
            const int mine = at + lane % 4 * VEC;
            const Vec<act> top = rows(token0 + lane / 4, mine);
            const Vec<act> bottom = rows(token0 + lane / 4 + 8, mine);
            Vec<act> right[N];
#pragma unroll
            for (int n = 0; n < N; ++n) {
                right[n] = columns(rank0 + 8 * n + lane / 4, mine);
            }
            multiply_registers<N>(d, top, bottom, right);
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                sums[(warp * LORA_ROWS + tile_row(i)) * 8 * N + tile_column(n, i)] = d[n][i];
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < LORA_ROWS * 8 * N; i += LORA_THREADS) {
            const int token = token0 + i / (8 * N), rank = rank0 + i % (8 * N);
            if (token < t && rank < r) {
                float sum = 0.0f;
                for (int w = 0; w < WARPS; ++w) {
                    sum += sums[w * LORA_ROWS * 8 * N + i];
                }
                write(token, rank, sum);
            }
        }
        __syncthreads();
    }
}

// out[token, column] += scale * sum over ranks of left * right where kept, for the block's tile of out[t, n], whose rows are
// `stride` apart. left(token, rank) and right(column, rank) give a vector of ranks, zeros where there are none; kept(token, column)
// the bits of a vector of columns. The short operands go through shared memory, some ranks at a time, so that their odd rows are
// read element by element once a block and not once a warp. What is added to is read first of all, so that all of a thread's reads
// are under way at once.
template <typename Left, typename Right, typename Kept>
__device__ __forceinline__ void update(act* out, size_t stride, bool aligned, int t, int n, int r, float scale, Left left,
                                       Right right, Kept kept) {
    constexpr int N = STEP / 8, ACROSS = LORA_TILE_COLUMNS / STEP, GROUPS = LORA_TILE_TOKENS / 16 / (WARPS / ACROSS);
    // An odd number of vectors a row: writing eight rows at once meets no bank twice.
    constexpr int PITCH = STEP + VEC;
    SHARED(act, lefts, LORA_TILE_TOKENS* PITCH);
    SHARED(act, rights, LORA_TILE_COLUMNS* PITCH);
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    const int tile_column0 = static_cast<int>(blockIdx.x) * LORA_TILE_COLUMNS;
    const int tile_token0 = static_cast<int>(blockIdx.y) * LORA_TILE_TOKENS;
    const int my_columns = warp % ACROSS * STEP, my_tokens = warp / ACROSS * GROUPS * 16;
    const int column = tile_column0 + my_columns + lane % 4 * VEC, token0 = tile_token0 + my_tokens + lane / 4;
    Vec<act> rows[GROUPS][2];
#pragma unroll
    for (int i = 0; i < 2 * GROUPS; ++i) {
        const int token = token0 + 8 * i;
        rows[i / 2][i % 2] = load_part(out + token * stride + column, token < t ? n - column : 0, aligned);
    }
    float d[GROUPS][N][4] = {};
    for (int rank0 = 0; rank0 < r; rank0 += STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < 4 * LORA_TILE_TOKENS; i += LORA_THREADS) {
            const int row = i % LORA_TILE_TOKENS, rank = i / LORA_TILE_TOKENS * VEC;
            store_vec(lefts + row * PITCH + rank, left(tile_token0 + row, rank0 + rank));
        }
        for (int i = threadIdx.x; i < 4 * LORA_TILE_COLUMNS; i += LORA_THREADS) {
            const int row = i % LORA_TILE_COLUMNS, rank = i / LORA_TILE_COLUMNS * VEC;
            store_vec(rights + row * PITCH + rank, right(tile_column0 + row, rank0 + rank));
        }
        __syncthreads();
        // Column 2 c + i of product tile j stands for column VEC c + 2 j + i.
        Vec<act> columns[N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int row = my_columns + lane / 8 * VEC + 2 * j + lane / 4 % 2;
            columns[j] = load_vec(rights + row * PITCH + lane % 4 * VEC);
        }
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            const act* tokens = lefts + (my_tokens + 16 * group + lane / 4) * PITCH + lane % 4 * VEC;
            multiply_registers<N>(d[group], load_vec(tokens), load_vec(tokens + 8 * PITCH), columns);
        }
    }
#pragma unroll
    for (int i = 0; i < 2 * GROUPS; ++i) {
        const int token = token0 + 8 * i;
        if (token < t && column < n) {
            const unsigned bits = kept(token, column);
            Vec<act> v = rows[i / 2][i % 2];
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                const float sum = d[i / 2][e / 2][i % 2 * 2 + e % 2];
                v[e] = from_float<act>(fmaf(bits >> e & 1u ? scale : 0.0f, sum, to_float(v[e])));
            }
            store_part(out + token * stride + column, v, n - column, aligned);
        }
    }
}

// add(rank, column, sum over tokens of factor * row), for the block's LORA_SUM_COLUMNS columns and ranks 0..R. row(token, column)
// gives a vector of columns; factors(token, f) sets f[R].
template <int R, typename Row, typename Factors, typename Add>
__device__ __forceinline__ void sum_tokens(int t, int n, Row row, Factors factors, Add add) {
    constexpr int ACROSS = LORA_SUM_COLUMNS / VEC, DOWN = LORA_THREADS / ACROSS;
    SHARED(float, sums, WARPS* R* LORA_SUM_COLUMNS);
    const int column0 = static_cast<int>(blockIdx.x) * LORA_SUM_COLUMNS, mine = threadIdx.x % ACROSS * VEC;
    float sum[R][VEC] = {};
#pragma unroll 4
    for (int token = threadIdx.x / ACROSS; token < t; token += DOWN) {
        const Vec<act> v = row(token, column0 + mine);
        float f[R];
        factors(token, f);
#pragma unroll
        for (int rank = 0; rank < R; ++rank) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                sum[rank][e] = fmaf(f[rank], to_float(v[e]), sum[rank][e]);
            }
        }
    }
#pragma unroll
    for (int rank = 0; rank < R; ++rank) {
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
#pragma unroll
            for (int m = WARP / 2; m >= ACROSS; m /= 2) {
                sum[rank][e] += __shfl_xor_sync(WHOLE_WARP, sum[rank][e], m);
            }
            if (lane_of_warp() < ACROSS) {
                sums[(threadIdx.x / WARP * R + rank) * LORA_SUM_COLUMNS + mine + e] = sum[rank][e];
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < R * LORA_SUM_COLUMNS; i += LORA_THREADS) {
        const int column = column0 + i % LORA_SUM_COLUMNS;
        if (column < n) {
            float total = 0.0f;
            for (int w = 0; w < WARPS; ++w) {
                total += sums[w * R * LORA_SUM_COLUMNS + i];
            }
            add(i / LORA_SUM_COLUMNS, column, total);
        }
    }
}

// f = the elements at p, zeros after the first `left`.
template <int R, typename T>
__device__ __forceinline__ void load_factors(float (&f)[R], const T* p, int left, bool aligned) {
    constexpr int N = Vec<T>::N;
    static_assert(R % N == 0, "whole vectors");
#pragma unroll
    for (int i = 0; i < R; i += N) {
        const Vec<T> v = load_part(p + i, left - i, aligned);
#pragma unroll
        for (int e = 0; e < N; ++e) {
            f[i + e] = to_float(v[e]);
        }
    }
}

// Grid: x = ceil(t / LORA_ROWS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_down(act* z, const act* x, const act* a, int t, int k, int r, unsigned stream, float p, unsigned long long key) {
    SHARED(float, sums, WARPS* LORA_ROWS * 32);
    const bool whole = whole_vecs<act>(k);
    const float scale = drop_scale(p);
    const auto rows = [=](int token, int at) {
        const unsigned long long e = static_cast<unsigned long long>(token) * k + at;
        Vec<act> v = load_part(x + e, token < t ? k - at : 0, whole);
        drop(v, e, key, stream, p);
        return v;
    };
    const auto columns = [=](int rank, int at) {
        return load_part(a + static_cast<size_t>(rank) * k + at, rank < r ? k - at : 0, whole);
    };
    const auto write = [=](int token, int rank, float sum) {
        z[static_cast<size_t>(token) * r + rank] = from_float<act>(scale * sum);
    };
    if (r <= 8) {
        project<1>(sums, t, k, r, rows, columns, write);
    } else {
        project<4>(sums, t, k, r, rows, columns, write);
    }
}

// Grid: x = ceil(n / LORA_TILE_COLUMNS), y = ceil(t / LORA_TILE_TOKENS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_up(act* out, const act* z, const act* b, int t, int width, int column, int n, int r, float scale) {
    const bool whole = whole_vecs<act>(width) && whole_vecs<act>(column), whole_ranks = whole_vecs<act>(r);
    const auto left = [=](int token, int rank) {
        return load_part(z + static_cast<size_t>(token) * r + rank, token < t ? r - rank : 0, whole_ranks);
    };
    const auto right = [=](int j, int rank) {
        return load_part(b + static_cast<size_t>(j) * r + rank, j < n ? r - rank : 0, whole_ranks);
    };
    update(out + column, width, whole, t, n, r, scale, left, right, [](int, int) { return ~0u; });
}

// Grid: x = ceil(t / LORA_ROWS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_dz(float* dz, const act* dout, const act* b, int t, int width, int column, int n, int r, float scale) {
    SHARED(float, sums, WARPS* LORA_ROWS * 32);
    const bool whole = whole_vecs<act>(width) && whole_vecs<act>(column);
    const auto rows = [=](int token, int at) {
        return load_part(dout + static_cast<size_t>(token) * width + column + at, token < t ? n - at : 0, whole);
    };
    // b is small and stays in L1: it may be read across its rows.
    const auto columns = [=](int rank, int at) {
        Vec<act> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            v[e] = rank < r && at + e < n ? b[static_cast<size_t>(at + e) * r + rank] : from_float<act>(0.0f);
        }
        return v;
    };
    const auto write = [=](int token, int rank, float sum) { dz[static_cast<size_t>(token) * r + rank] = scale * sum; };
    if (r <= 8) {
        project<1>(sums, t, n, r, rows, columns, write);
    } else {
        project<4>(sums, t, n, r, rows, columns, write);
    }
}

// Grid: x = ceil(n / LORA_SUM_COLUMNS), y = ceil(r / LORA_SUM_RANKS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_db(float* db, const act* dout, const act* z, int t, int width, int column, int n, int r, float scale) {
    const bool whole = whole_vecs<act>(width) && whole_vecs<act>(column), whole_ranks = whole_vecs<act>(r);
    const int rank0 = static_cast<int>(blockIdx.y) * LORA_SUM_RANKS;
    sum_tokens<LORA_SUM_RANKS>(
        t, n,
        [=](int token, int j) { return load_part(dout + static_cast<size_t>(token) * width + column + j, n - j, whole); },
        [=](int token, float(&f)[LORA_SUM_RANKS]) {
            load_factors(f, z + static_cast<size_t>(token) * r + rank0, r - rank0, whole_ranks);
        },
        [=](int rank, int j, float sum) {
            if (rank0 + rank < r) {
                float* p = db + static_cast<size_t>(j) * r + rank0 + rank;
                *p = fmaf(scale, sum, *p);
            }
        });
}

// Grid: x = ceil(k / LORA_SUM_COLUMNS), y = ceil(r / LORA_SUM_RANKS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_da(float* da, const float* dz, const act* x, int t, int k, int r, unsigned stream, float p, unsigned long long key) {
    const bool whole = whole_vecs<act>(k), whole_ranks = whole_vecs<float>(r);
    const int rank0 = static_cast<int>(blockIdx.y) * LORA_SUM_RANKS;
    const float scale = drop_scale(p);
    sum_tokens<LORA_SUM_RANKS>(
        t, k,
        [=](int token, int j) {
            const unsigned long long e = static_cast<unsigned long long>(token) * k + j;
            Vec<act> v = load_part(x + e, k - j, whole);
            drop(v, e, key, stream, p);
            return v;
        },
        [=](int token, float(&f)[LORA_SUM_RANKS]) {
            load_factors(f, dz + static_cast<size_t>(token) * r + rank0, r - rank0, whole_ranks);
        },
        [=](int rank, int j, float sum) {
            if (rank0 + rank < r) {
                float* to = da + static_cast<size_t>(rank0 + rank) * k + j;
                *to = fmaf(scale, sum, *to);
            }
        });
}

// Grid: x = ceil(k / LORA_TILE_COLUMNS), y = ceil(t / LORA_TILE_TOKENS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_dx(act* dx, const float* dz, const act* a, int t, int k, int r, unsigned stream, float p, unsigned long long key) {
    const auto left = [=](int token, int rank) {
        Vec<act> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            v[e] = from_float<act>(token < t && rank + e < r ? dz[static_cast<size_t>(token) * r + rank + e] : 0.0f);
        }
        return v;
    };
    const auto right = [=](int j, int rank) {
        Vec<act> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            v[e] = j < k && rank + e < r ? a[static_cast<size_t>(rank + e) * k + j] : from_float<act>(0.0f);
        }
        return v;
    };
    update(dx, k, whole_vecs<act>(k), t, k, r, drop_scale(p), left, right, [=](int token, int j) {
        return kept_bits(static_cast<unsigned long long>(token) * k + j, key, stream, p);
    });
}

// Grid: x = ceil(n / LORA_SUM_COLUMNS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
column_sum(float* out, const act* x, int t, int n) {
    const bool whole = whole_vecs<act>(n);
    sum_tokens<1>(
        t, n, [=](int token, int j) { return load_part(x + static_cast<size_t>(token) * n + j, n - j, whole); },
        [](int, float(&f)[1]) { f[0] = 1.0f; }, [=](int, int j, float sum) { out[j] += sum; });
}
