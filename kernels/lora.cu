// The low-rank branches of a linear map and their gradients (Hu et al. 2021, section 4.1), and the gradient of a bias. The base
// product is another kernel's.
//
//   z = scale drop(x) a^T         out[:, column..column + n] += z b^T
//   dz = scale dout[:, column..] b     db += dout^T z     da += dz^T drop(x)     dx += drop'(dz a)
//
// Layout: x[t, k], a[r, k], b[n, r]. A map has up to three branches (q, k and v; gate and up) whose columns of out do not overlap.
// Their z stand side by side in one z[t, width], the branch's in columns at..at + r, zeros past the last; dz has the same form. drop
// zeroes an element with probability p and divides what is left by 1 - p; each branch has a mask of its own, which is a function of an
// element's place (philox.cuh), so each kernel makes it again where it reads. The mask itself is exact and 1 / (1 - p) goes into the
// float sum: a dropped-out x is never rounded.
//
// Ranks are small (4 to 64) and rows long, so everything here is bound by moving the long matrix: a launch serves all branches of a
// map, and the long matrix goes from memory to registers once, 16 bytes a lane, for everything that is made of it.
//
//   lora_down        z: a block owns 16 tokens and all ranks. Its warps share out x's columns, each feeding the tensor cores from its
//                    own loads, and add up through shared memory in the order of warps. Few tokens a block rather than many: with a
//                    handful of tokens to decode the long dimension is the only thing to share out.
//   lora_up, lora_dx a block owns a tile of 64 tokens and 128 columns, reads it, adds, writes it. The columns of a product's tiles are
//                    dealt out so that a lane ends with 16 bytes of a row. All ranks of all branches are added up before the one
//                    rounding.
//   lora_dz_db       dz sums dout over columns, db over tokens. Neither needs all of the other's dimension at once: a block owns 512
//                    columns and some hundred tokens, reads them once and has a part of both: at rank 4 and 256 tokens a 64th and a
//                    32nd of what it read, which the second level's cache mostly holds until it is joined.
//   lora_da          the same of x and dz, for up to three branches.
//   lora_join, lora_join_da add the parts up, in their order.
//
// The scale is in z and dz: where linear_sm90.cu takes a branch along, nothing is rounded that was not.
//
// A block of lora_dz_db and lora_da has as many tokens as make two blocks for each multiprocessor of an H100, by the extents alone, so
// that every card adds in the same order. A warp owns its columns for all of the block's tokens: the sum over tokens stays in its
// registers, and what it loaded by rows goes through a tile of shared memory that is its own, where ldmatrix turns it.
//
// Bytes per token and layer of Qwen2.5-32B (c = 5120, 7168 outputs of q, k, v), rank 4 on q, k, v, o, derived: lora_down 20.5 K (x of
// both maps), lora_up 49.2 K (out, read and written), lora_dz_db 24.6 K, lora_da 20.5 K, lora_dx 41.0 K, together 155.6 K, 10.0 MB a
// token: 3.7 us at 80 % of 3.35 TB/s, 1.9 % of a step of 200 us a token (launches of their own for each of q, k and v: 262 K, 3.1 %). Where
// the branch rides in the base product lora_up goes, and without dropout lora_dx too: 65.5 K, 0.8 %; with dropout 106.5 K, 1.3 %. The masks
// are made by lora_down, lora_da and lora_dx, of 20.5 K elements each; ten rounds of Philox for four elements are some 18 issue slots an
// element, 1.2 % at 1.755 GHz if nothing of it went on beside the loads: 1.3 % to 2.5 % with dropout. All of this is derived.
#include "lora_map.cuh"
#include "philox.cuh"
#include "tile.cuh"

constexpr int WARPS = LORA_THREADS / WARP;
// Blocks of a multiprocessor that registers are kept for. The float build only has to be right.
constexpr int BLOCKS = TENSOR_CORES ? 2 : 1;
// Elements of the summed dimension in one multiply_registers, and columns of a warp's tile.
constexpr int STEP = 4 * VEC;
// A row of a tile in shared memory: an odd number of vectors, so that eight rows at once meet no bank twice.
constexpr int PITCH = STEP + VEC;

__device__ __forceinline__ int parts_of(int n, int part) { return (n + part - 1) / part; }

// Bit i: whether element e + i of the input of `branch` is kept, for a vector's elements. Four of them share a counter, and where rows
// are no WHOLE vectors one begins inside it.
template <bool WHOLE>
__device__ __forceinline__ unsigned kept_bits(const LoraMap& map, int branch, unsigned long long e) {
    if (map.dropped == 0) {
        return ~0u;
    }
    unsigned bits = 0;
#pragma unroll
    for (int quad = 0; quad < VEC / 4 + (WHOLE ? 0 : 1); ++quad) {
        if (quad < VEC / 4 || e % 4 != 0) {
            const Words words = dropout_words(e / 4 + quad, map.key, map.stream[branch]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                bits |= words.at[j] < map.dropped ? 0u : 1u << (4 * quad + j);
            }
        }
    }
    return WHOLE ? bits : bits >> (e % 4);
}

// A vector as registers hold it: taken apart by elements, each of them would take a register.
struct Bits {
    unsigned at[4];

    __device__ __forceinline__ static Bits of(const Vec<act>& v) {
        Bits bits;
        memcpy(&bits, &v, sizeof(bits));
        return bits;
    }
    __device__ __forceinline__ Vec<act> vec() const {
        Vec<act> v;
        memcpy(&v, this, sizeof(v));
        return v;
    }
};

// The vector with elements zeroed whose bit is 0.
__device__ __forceinline__ Vec<act> masked(const Vec<act>& v, unsigned kept) {
    Bits bits = Bits::of(v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (TENSOR_CORES) {
            bits.at[i] &= (kept >> 2 * i & 1u) * 0x0000ffffu | (kept >> (2 * i + 1) & 1u) * 0xffff0000u;
        } else {
            bits.at[i] &= kept >> i & 1u ? ~0u : 0u;
        }
    }
    return bits.vec();
}

// The vector plus scale * sum, rounded once. sum(e) belongs to element e.
template <typename Sum>
__device__ __forceinline__ Vec<act> plus(const Vec<act>& v, float scale, Sum sum) {
    Bits bits = Bits::of(v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if constexpr (TENSOR_CORES) {
            const float low = __uint_as_float(bits.at[i] << 16), high = __uint_as_float(bits.at[i] & 0xffff0000u);
            bits.at[i] = pack(fmaf(scale, sum(2 * i), low), fmaf(scale, sum(2 * i + 1), high));
        } else {
            bits.at[i] = __float_as_uint(fmaf(scale, sum(i), __uint_as_float(bits.at[i])));
        }
    }
    return bits.vec();
}

// A vector of a row of which `left` elements are there (which may be negative), zeros past its end. WHOLE: rows consist of vectors, so
// that it is all there or not at all.
template <bool WHOLE>
__device__ __forceinline__ Vec<act> load_row(const act* p, int left) {
    if constexpr (WHOLE) {
        return left > 0 ? load_vec(p) : Bits{}.vec();
    } else {
        return load_part(p, left, false);
    }
}

// z of the block's tokens, ranks rank0 .. rank0 + 8 TILES of every branch. The next step's x is under way while this one's is
// multiplied.
template <bool WHOLE, int TILES>
__device__ __forceinline__ void down(float* sums, act* z, const act* x, const LoraMap& map, int t, int k, int rank0) {
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    const int token0 = static_cast<int>(blockIdx.x) * LORA_ROWS, upper = token0 + lane / 4, lower = upper + 8;
    const auto row = [=](int token, int at) {
        return load_row<WHOLE>(x + static_cast<size_t>(token) * k + at, token < t ? k - at : 0);
    };
    float d[LORA_BRANCHES][TILES][4] = {};
    int mine = warp * STEP + lane % 4 * VEC;
    Vec<act> top = row(upper, mine), bottom = row(lower, mine);
#pragma unroll 1
    for (int at = warp * STEP; at < k; at += WARPS * STEP) {
        Vec<act> right[LORA_BRANCHES][TILES];
#pragma unroll
        for (int i = 0; i < LORA_BRANCHES; ++i) {
#pragma unroll
            for (int j = 0; j < TILES; ++j) {
                const int rank = rank0 + 8 * j + lane / 4;
                right[i][j] = load_row<WHOLE>(map.a[i] + static_cast<size_t>(rank) * k + mine, rank < map.r[i] ? k - mine : 0);
            }
        }
        const int next = mine + WARPS * STEP;
        const Vec<act> next_top = row(upper, next), next_bottom = row(lower, next);
#pragma unroll
        for (int i = 0; i < LORA_BRANCHES; ++i) {
            if (rank0 < map.r[i]) {
                const unsigned of_top = kept_bits<WHOLE>(map, i, static_cast<unsigned long long>(upper) * k + mine);
                const unsigned of_bottom = kept_bits<WHOLE>(map, i, static_cast<unsigned long long>(lower) * k + mine);
                multiply_registers<TILES>(d[i], masked(top, of_top), masked(bottom, of_bottom), right[i]);
            }
        }
        mine = next;
        top = next_top;
        bottom = next_bottom;
    }
#pragma unroll
    for (int i = 0; i < LORA_BRANCHES; ++i) {
        if (rank0 >= map.r[i]) {
            continue;
        }
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                sums[(warp * LORA_ROWS + tile_row(e)) * 8 * TILES + tile_column(j, e)] = d[i][j][e];
            }
        }
        __syncthreads();
        for (int e = threadIdx.x; e < LORA_ROWS * 8 * TILES; e += LORA_THREADS) {
            const int token = token0 + e / (8 * TILES), rank = rank0 + e % (8 * TILES);
            if (token < t && rank < map.r[i]) {
                float sum = 0.0f;
                for (int w = 0; w < WARPS; ++w) {
                    sum += sums[w * LORA_ROWS * 8 * TILES + e];
                }
                z[static_cast<size_t>(token) * map.width + map.at[i] + rank] = from_float<act>(map.scale[i] * map.kept * sum);
            }
        }
        // The next branch's sums take these ones' place.
        __syncthreads();
    }
}

// out[token, column] += scale * the sum over branches first .. last of left * right, where kept if DROPS, for the block's tile of
// out[t, n], whose rows are `stride` apart. left(branch, token, rank) and right(branch, column, rank) give a vector of ranks, zeros where
// there are none. The short operands go through shared memory, some ranks at a time, so that their odd rows are read element by element
// once a block and not once a warp. What is added to is read first of all, so that all of a thread's reads are under way at once.
template <bool WHOLE, bool DROPS, typename Left, typename Right>
__device__ __forceinline__ void update(act* lefts, act* rights, act* out, int stride, int t, int n, const LoraMap& map, int first,
                                       int last, float scale, Left left, Right right) {
    constexpr int N = STEP / 8, ACROSS = LORA_TILE_COLUMNS / STEP, GROUPS = LORA_TILE_TOKENS / 16 / (WARPS / ACROSS);
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    const int tile_column0 = static_cast<int>(blockIdx.x) * LORA_TILE_COLUMNS;
    const int tile_token0 = static_cast<int>(blockIdx.y) * LORA_TILE_TOKENS;
    const int my_columns = warp % ACROSS * STEP, my_tokens = warp / ACROSS * GROUPS * 16;
    const int column = tile_column0 + my_columns + lane % 4 * VEC, token0 = tile_token0 + my_tokens + lane / 4;
    act* own = out + static_cast<size_t>(token0) * stride + column;
    const auto row = [=](int i) {
        return load_row<WHOLE>(own + static_cast<size_t>(8 * i) * stride, token0 + 8 * i < t ? n - column : 0);
    };
    Vec<act> rows[2 * GROUPS];
    if constexpr (WHOLE) {
#pragma unroll
        for (int i = 0; i < 2 * GROUPS; ++i) {
            rows[i] = row(i);
        }
    }
    float total[GROUPS][N][4] = {};
    for (int branch = first; branch < last; ++branch) {
        for (int rank0 = 0; rank0 < map.r[branch]; rank0 += STEP) {
            __syncthreads();
            for (int i = threadIdx.x; i < 4 * LORA_TILE_TOKENS; i += LORA_THREADS) {
                const int row = i % LORA_TILE_TOKENS, rank = i / LORA_TILE_TOKENS * VEC;
                store_vec(lefts + row * PITCH + rank, left(branch, tile_token0 + row, rank0 + rank));
            }
            for (int i = threadIdx.x; i < 4 * LORA_TILE_COLUMNS; i += LORA_THREADS) {
                const int row = i % LORA_TILE_COLUMNS, rank = i / LORA_TILE_COLUMNS * VEC;
                store_vec(rights + row * PITCH + rank, right(branch, tile_column0 + row, rank0 + rank));
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
                float d[N][4] = {};
                multiply_registers<N>(d, load_vec(tokens), load_vec(tokens + 8 * PITCH), columns);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const unsigned long long e = static_cast<unsigned long long>(token0 + 16 * group + 8 * i) * n + column;
                    const unsigned bits = DROPS ? kept_bits<WHOLE>(map, branch, e) : ~0u;
#pragma unroll
                    for (int e = 0; e < VEC; ++e) {
                        const float one = d[e / 2][2 * i + e % 2];
                        total[group][e / 2][2 * i + e % 2] += bits >> e & 1u ? one : 0.0f;
                    }
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2 * GROUPS; ++i) {
        if (token0 + 8 * i < t && column < n) {
            const Vec<act> before = WHOLE ? rows[i] : row(i);
            const auto sum = [&](int e) { return total[i / 2][e / 2][i % 2 * 2 + e % 2]; };
            const Vec<act> v = plus(before, scale, sum);
            store_part(own + static_cast<size_t>(8 * i) * stride, v, n - column, WHOLE);
        }
    }
}

// LORA_RANKS ranks of a branch and the block's columns of dout: what a block of lora_dz_db has.
struct Strip {
    int branch;
    int column;
    int rank0;
    // Where the branch's parts of dz begin, in units of t, and the strip's number in its branch.
    int before;
    int number;
};

// Strip `index`: branches in order, of each its ranks in order, of each the columns in order.
__device__ __forceinline__ Strip strip(const LoraMap& map, int index) {
    Strip found = {-1, 0, 0, 0, 0};
    int before = 0;
#pragma unroll
    for (int i = 0; i < LORA_BRANCHES; ++i) {
        const int across = parts_of(map.n[i], LORA_DOUT_COLUMNS), strips = across * parts_of(map.r[i], LORA_RANKS);
        if (found.branch < 0 && index < strips) {
            found = {i, index % across * LORA_DOUT_COLUMNS, index / across * LORA_RANKS, before, index % across};
        }
        index -= strips;
        before += across * map.r[i];
    }
    return found;
}

// A tile of LORA_RANKS ranks and 16 tokens of what stands in from[t, width] from column `at` on, as the left operand of multiply_nn.
__device__ __forceinline__ void load_factors(float (&p)[2][4], const act* from, int width, int at, int ranks, int token0, int end) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int token = token0 + tile_column(j, i), rank = tile_row(i);
            p[j][i] = token < end && rank < ranks ? to_float(from[static_cast<size_t>(token) * width + at + rank]) : 0.0f;
        }
    }
}

// Puts the warp's rows g and g + 8 into its tile.
__device__ __forceinline__ void store_rows(act* tile, const Vec<act>& top, const Vec<act>& bottom) {
    const int lane = lane_of_warp();
    store_vec(tile + lane / 4 * PITCH + lane % 4 * VEC, top);
    store_vec(tile + (lane / 4 + 8) * PITCH + lane % 4 * VEC, bottom);
}

// The block's part of dz and, where db is asked for, of db.
template <bool WHOLE>
__device__ __forceinline__ void dz_db(float* sums, act* tiles, float* dz_parts, float* db_parts, const act* dout, const act* z,
                                      const LoraMap& map, int t, int width, int part) {
    constexpr int MINE = LORA_DOUT_COLUMNS / WARPS, TILES = MINE / STEP, N = STEP / 8;
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    act* tile = tiles + warp * 16 * PITCH;
    const Strip own = strip(map, static_cast<int>(blockIdx.x));
    const int n = map.n[own.branch], r = map.r[own.branch], at = map.at[own.branch] + own.rank0;
    const int ranks = min(r - own.rank0, LORA_RANKS), column0 = own.column + warp * MINE + lane % 4 * VEC;
    const int first = static_cast<int>(blockIdx.y) * part, end = min(first + part, t);
    const bool of_b = map.db[own.branch] != nullptr;
    dout += map.column[own.branch];
    dz_parts += static_cast<size_t>(t) * (own.before + own.number * r);

    Vec<act> right[TILES][2];
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                const int column = column0 + i * STEP + e, rank = 8 * j + lane / 4;
                const bool there = column < n && rank < ranks;
                const act* b = map.b[own.branch] + static_cast<size_t>(column) * r + own.rank0 + rank;
                right[i][j][e] = there ? *b : from_float<act>(0.0f);
            }
        }
    }
    const auto row = [=](int token, int i) {
        const int column = column0 + i * STEP;
        return load_row<WHOLE>(dout + static_cast<size_t>(token) * width + column, token < end ? n - column : 0);
    };
    Vec<act> rows[TILES][2];
    const auto load = [&](int token0) {
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            rows[i][0] = row(token0 + lane / 4, i);
            rows[i][1] = row(token0 + lane / 4 + 8, i);
        }
    };
    load(first);
    float sum[TILES][N][4] = {};
#pragma unroll 1
    for (int batch = first; batch < end; batch += LORA_BATCH) {
#pragma unroll 1
        for (int token0 = batch; token0 < min(batch + LORA_BATCH, end); token0 += 16) {
            Vec<act> now[TILES][2];
            float p[2][4];
            load_factors(p, z, map.width, at, ranks, token0, of_b ? end : 0);
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                now[i][0] = rows[i][0];
                now[i][1] = rows[i][1];
            }
            load(token0 + 16);
            float d[2][4] = {};
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                multiply_registers<2>(d, now[i][0], now[i][1], right[i]);
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    sums[(warp * LORA_BATCH + token0 - batch + tile_row(i)) * LORA_RANKS + tile_column(j, i)] = d[j][i];
                }
            }
            if (of_b) {
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    store_rows(tile, now[i][0], now[i][1]);
                    __syncwarp();
                    multiply_nn<N, 2, PITCH>(sum[i], p, tile);
                    __syncwarp();
                }
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < LORA_BATCH * LORA_RANKS; i += LORA_THREADS) {
            const int token = batch + i / LORA_RANKS, rank = i % LORA_RANKS;
            if (token < end && rank < ranks) {
                float all = 0.0f;
                for (int w = 0; w < WARPS; ++w) {
                    all += sums[w * LORA_BATCH * LORA_RANKS + i];
                }
                dz_parts[static_cast<size_t>(token) * r + own.rank0 + rank] = all;
            }
        }
        // The next tokens' sums take these ones' place.
        __syncthreads();
    }
    if (!of_b) {
        return;
    }
    size_t before = 0;
    for (int i = 0; i < own.branch; ++i) {
        before += static_cast<size_t>(map.n[i]) * map.r[i];
    }
    db_parts += before * gridDim.y + static_cast<size_t>(blockIdx.y) * n * r;
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int column = own.column + warp * MINE + i * STEP + tile_column(j, e), rank = tile_row(e);
                if (column < n && rank < ranks) {
                    db_parts[static_cast<size_t>(column) * r + own.rank0 + rank] = sum[i][j][e];
                }
            }
        }
    }
}

// Group `index` of LORA_RANKS ranks, of all branches' groups in order; its branch is -1 where there are not so many.
__device__ __forceinline__ Strip group(const LoraMap& map, int index) {
    Strip found = {-1, 0, 0, 0, 0};
    int before = 0;
#pragma unroll
    for (int i = 0; i < LORA_BRANCHES; ++i) {
        const int groups = parts_of(map.r[i], LORA_RANKS);
        if (found.branch < 0 && index < groups) {
            found = {i, 0, index * LORA_RANKS, before, 0};
        }
        index -= groups;
        before += map.r[i];
    }
    return found;
}

// The block's part of da.
template <bool WHOLE>
__device__ __forceinline__ void da(act* tiles, float* parts, const act* dz, const act* x, const LoraMap& map, int t, int k, int part) {
    constexpr int MINE = LORA_X_COLUMNS / WARPS, TILES = MINE / STEP, N = STEP / 8;
    const int lane = lane_of_warp(), warp = threadIdx.x / WARP;
    act* tile = tiles + warp * TILES * 16 * PITCH;
    const int columns = static_cast<int>(blockIdx.x) * LORA_X_COLUMNS + warp * MINE, column0 = columns + lane % 4 * VEC;
    const int first = static_cast<int>(blockIdx.y) * part, end = min(first + part, t);
    Strip own[LORA_BRANCHES];
    int at[LORA_BRANCHES], ranks[LORA_BRANCHES];
#pragma unroll
    for (int i = 0; i < LORA_BRANCHES; ++i) {
        own[i] = group(map, static_cast<int>(blockIdx.z) * LORA_BRANCHES + i);
        const int branch = max(own[i].branch, 0);
        at[i] = map.at[branch] + own[i].rank0;
        ranks[i] = min(map.r[branch] - own[i].rank0, LORA_RANKS);
    }
    const auto row = [=](int token, int i) {
        const int column = column0 + i * STEP;
        return load_row<WHOLE>(x + static_cast<size_t>(token) * k + column, token < end ? k - column : 0);
    };
    Vec<act> rows[TILES][2];
    const auto load = [&](int token0) {
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            rows[i][0] = row(token0 + lane / 4, i);
            rows[i][1] = row(token0 + lane / 4 + 8, i);
        }
    };
    load(first);
    float sum[LORA_BRANCHES][TILES][N][4] = {};
#pragma unroll 1
    for (int token0 = first; token0 < end; token0 += 16) {
        Vec<act> now[TILES][2];
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            now[i][0] = rows[i][0];
            now[i][1] = rows[i][1];
        }
        load(token0 + 16);
#pragma unroll
        for (int j = 0; j < LORA_BRANCHES; ++j) {
            if (own[j].branch < 0) {
                continue;
            }
            float p[2][4];
            load_factors(p, dz, map.width, at[j], ranks[j], token0, end);
            // The tile is as the branch before left it where no mask tells them apart.
            if (j == 0 || (map.dropped != 0 && own[j].branch != own[max(j - 1, 0)].branch)) {
                __syncwarp();
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    const unsigned long long e = static_cast<unsigned long long>(token0 + lane / 4) * k + column0 + i * STEP;
                    const unsigned of_top = kept_bits<WHOLE>(map, own[j].branch, e);
                    const unsigned of_bottom = kept_bits<WHOLE>(map, own[j].branch, e + 8ull * k);
                    store_rows(tile + i * 16 * PITCH, masked(now[i][0], of_top), masked(now[i][1], of_bottom));
                }
                __syncwarp();
            }
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                multiply_nn<N, 2, PITCH>(sum[j][i], p, tile + i * 16 * PITCH);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < LORA_BRANCHES; ++j) {
        if (own[j].branch < 0) {
            continue;
        }
        const int r = map.r[own[j].branch];
        float* to = parts + (static_cast<size_t>(own[j].before) * gridDim.y + static_cast<size_t>(blockIdx.y) * r + own[j].rank0) * k;
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
            for (int m = 0; m < N; ++m) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int column = columns + i * STEP + tile_column(m, e), rank = tile_row(e);
                    if (column < k && rank < ranks[j]) {
                        to[static_cast<size_t>(rank) * k + column] = sum[j][i][m][e];
                    }
                }
            }
        }
    }
}

// The sum of parts[0 .. count], `stride` apart, in order.
__device__ __forceinline__ float join(const float* parts, int count, size_t stride) {
    float sum = 0.0f;
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
        sum += parts[i * stride];
    }
    return sum;
}

// to[i] += factor * the sum of `count` parts of n[branch] * r[branch] elements, those of `branch` behind those of the branches before.
__device__ __forceinline__ void add_parts(float* to, const float* parts, size_t before, size_t len, int count, float factor) {
    const size_t i = static_cast<size_t>(blockIdx.x) * LORA_THREADS + threadIdx.x;
    if (to != nullptr && i < len) {
        to[i] = fmaf(factor, join(parts + before * count + i, count, len), to[i]);
    }
}

// Grid: x = ceil(t / LORA_ROWS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS, BLOCKS)
lora_down(act* z, const act* x, const __grid_constant__ LoraMap map, int t, int k) {
    SHARED(float, sums, WARPS* LORA_ROWS * 16);
    const int most = max(map.r[0], max(map.r[1], map.r[2]));
    const bool whole = whole_vecs<act>(k);
    if (whole && most > 8) {
        for (int rank0 = 0; rank0 < most; rank0 += 16) {
            down<true, 2>(sums, z, x, map, t, k, rank0);
        }
    } else {
        for (int rank0 = 0; rank0 < most; rank0 += 8) {
            whole ? down<true, 1>(sums, z, x, map, t, k, rank0) : down<false, 1>(sums, z, x, map, t, k, rank0);
        }
    }
    const int token0 = static_cast<int>(blockIdx.x) * LORA_ROWS, past = map.width - map.ranks;
    for (int i = threadIdx.x; i < LORA_ROWS * past; i += LORA_THREADS) {
        const int token = token0 + i / past;
        if (token < t) {
            z[static_cast<size_t>(token) * map.width + map.ranks + i % past] = from_float<act>(0.0f);
        }
    }
}

// Grid: x = ceil(the widest branch / LORA_TILE_COLUMNS), y = ceil(t / LORA_TILE_TOKENS), z = branches. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS, BLOCKS)
lora_up(act* out, const act* z, const __grid_constant__ LoraMap map, int t, int width) {
    SHARED(act, lefts, LORA_TILE_TOKENS* PITCH);
    SHARED(act, rights, LORA_TILE_COLUMNS* PITCH);
    const int own = blockIdx.z, n = map.n[own], r = map.r[own], column = map.column[own];
    if (static_cast<int>(blockIdx.x) * LORA_TILE_COLUMNS >= n || r == 0) {
        return;
    }
    const bool whole = whole_vecs<act>(width) && whole_vecs<act>(column) && whole_vecs<act>(n);
    const bool of_z = whole_vecs<act>(map.width) && whole_vecs<act>(map.at[own]), of_b = whole_vecs<act>(r);
    const auto left = [=, &map](int i, int token, int rank) {
        return load_part(z + static_cast<size_t>(token) * map.width + map.at[i] + rank, token < t ? r - rank : 0, of_z);
    };
    const auto right = [=, &map](int i, int j, int rank) {
        return load_part(map.b[i] + static_cast<size_t>(j) * r + rank, j < n ? r - rank : 0, of_b);
    };
    out += column;
    whole ? update<true, false>(lefts, rights, out, width, t, n, map, own, own + 1, 1.0f, left, right)
          : update<false, false>(lefts, rights, out, width, t, n, map, own, own + 1, 1.0f, left, right);
}

// Grid: x = strips of columns and ranks, y = parts of the tokens. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS, BLOCKS)
lora_dz_db(float* dz_parts, float* db_parts, const act* dout, const act* z, const __grid_constant__ LoraMap map, int t, int width, int part) {
    SHARED(float, sums, WARPS* LORA_BATCH* LORA_RANKS);
    SHARED(act, tiles, WARPS * 16 * PITCH);
    const int own = strip(map, static_cast<int>(blockIdx.x)).branch;
    if (whole_vecs<act>(width) && whole_vecs<act>(map.column[own]) && whole_vecs<act>(map.n[own])) {
        dz_db<true>(sums, tiles, dz_parts, db_parts, dout, z, map, t, width, part);
    } else {
        dz_db<false>(sums, tiles, dz_parts, db_parts, dout, z, map, t, width, part);
    }
}

// dz from the parts of its columns' strips, zeros past the last branch; db from the parts of its tokens.
// Grid: x = ceil(elements of the longest of dz and db / LORA_THREADS), y = 1 + branches of db. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_join(act* dz, const float* dz_parts, const float* db_parts, const __grid_constant__ LoraMap map, int t, int parts) {
    size_t before = 0;
    if (blockIdx.y > 0) {
        const int own = static_cast<int>(blockIdx.y) - 1;
        for (int i = 0; i < own; ++i) {
            before += static_cast<size_t>(map.n[i]) * map.r[i];
        }
        add_parts(map.db[own], db_parts, before, static_cast<size_t>(map.n[own]) * map.r[own], parts, 1.0f);
        return;
    }
    const size_t i = static_cast<size_t>(blockIdx.x) * LORA_THREADS + threadIdx.x;
    if (i >= static_cast<size_t>(t) * map.width) {
        return;
    }
    const int token = static_cast<int>(i / map.width), column = static_cast<int>(i % map.width);
    float value = 0.0f;
    for (int own = 0; own < LORA_BRANCHES; ++own) {
        const int r = map.r[own], rank = column - map.at[own], across = parts_of(map.n[own], LORA_DOUT_COLUMNS);
        if (rank >= 0 && rank < r) {
            const float* from = dz_parts + static_cast<size_t>(t) * before + static_cast<size_t>(token) * r + rank;
            value = map.scale[own] * join(from, across, static_cast<size_t>(t) * r);
        }
        before += static_cast<size_t>(across) * r;
    }
    dz[i] = from_float<act>(value);
}

// Grid: x = ceil(k / LORA_X_COLUMNS), y = parts of the tokens, z = ceil(groups of ranks / LORA_BRANCHES). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS, BLOCKS)
lora_da(float* parts, const act* dz, const act* x, const __grid_constant__ LoraMap map, int t, int k, int part) {
    SHARED(act, tiles, LORA_X_COLUMNS / STEP * 16 * PITCH);
    whole_vecs<act>(k) ? da<true>(tiles, parts, dz, x, map, t, k, part) : da<false>(tiles, parts, dz, x, map, t, k, part);
}

// Grid: x = ceil(elements of the longest da / LORA_THREADS), y = branches. No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
lora_join_da(const float* parts, const __grid_constant__ LoraMap map, int k, int count) {
    const int own = static_cast<int>(blockIdx.y);
    size_t before = 0;
    for (int i = 0; i < own; ++i) {
        before += static_cast<size_t>(map.r[i]) * k;
    }
    add_parts(map.da[own], parts, before, static_cast<size_t>(map.r[own]) * k, count, map.kept);
}

// Grid: x = ceil(k / LORA_TILE_COLUMNS), y = ceil(t / LORA_TILE_TOKENS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS, BLOCKS)
lora_dx(act* dx, const act* dz, const __grid_constant__ LoraMap map, int t, int k) {
    SHARED(act, lefts, LORA_TILE_TOKENS* PITCH);
    SHARED(act, rights, LORA_TILE_COLUMNS* PITCH);
    const auto left = [=, &map](int i, int token, int rank) {
        const bool whole = whole_vecs<act>(map.width) && whole_vecs<act>(map.at[i]);
        return load_part(dz + static_cast<size_t>(token) * map.width + map.at[i] + rank, token < t ? map.r[i] - rank : 0, whole);
    };
    const auto right = [=, &map](int i, int j, int rank) {
        Vec<act> v;
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            v[e] = j < k && rank + e < map.r[i] ? map.a[i][(rank + e) * k + j] : from_float<act>(0.0f);
        }
        return v;
    };
    whole_vecs<act>(k) ? update<true, true>(lefts, rights, dx, k, t, k, map, 0, LORA_BRANCHES, map.kept, left, right)
                       : update<false, true>(lefts, rights, dx, k, t, k, map, 0, LORA_BRANCHES, map.kept, left, right);
}

// out[column] += the sum over tokens of x, for LORA_SUM_COLUMNS columns of a block: each thread a vector of them and every n-th token
// in order; threads meet by shuffles and then through shared memory, in the order of warps.
// Grid: x = ceil(n / LORA_SUM_COLUMNS). No dynamic shared memory.
extern "C" __global__ void __launch_bounds__(LORA_THREADS)
column_sum(float* out, const act* x, int t, int n) {
    constexpr int ACROSS = LORA_SUM_COLUMNS / VEC, DOWN = LORA_THREADS / ACROSS;
    SHARED(float, sums, WARPS* LORA_SUM_COLUMNS);
    const bool whole = whole_vecs<act>(n);
    const int column0 = static_cast<int>(blockIdx.x) * LORA_SUM_COLUMNS, mine = threadIdx.x % ACROSS * VEC;
    float sum[VEC] = {};
#pragma unroll 4
    for (int token = threadIdx.x / ACROSS; token < t; token += DOWN) {
        const Vec<act> v = load_part(x + static_cast<size_t>(token) * n + column0 + mine, n - column0 - mine, whole);
#pragma unroll
        for (int e = 0; e < VEC; ++e) {
            sum[e] += to_float(v[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < VEC; ++e) {
#pragma unroll
        for (int m = WARP / 2; m >= ACROSS; m /= 2) {
            sum[e] += __shfl_xor_sync(WHOLE_WARP, sum[e], m);
        }
        if (lane_of_warp() < ACROSS) {
            sums[threadIdx.x / WARP * LORA_SUM_COLUMNS + mine + e] = sum[e];
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < LORA_SUM_COLUMNS; i += LORA_THREADS) {
        if (column0 + i < n) {
            float total = 0.0f;
            for (int w = 0; w < WARPS; ++w) {
                total += sums[w * LORA_SUM_COLUMNS + i];
            }
            out[column0 + i] += total;
        }
    }
}
