// The token embedding and its gradient.
//
//   forward   out[i, :] = table[ids[i], :]
//   backward  dtable[ids[i], :] += dout[i, :], in the order of i
//
// Forward is a gather of rows: a warp takes 1024 columns of one token, four vectors of bf16 a lane in flight. Backward must add
// the tokens of one id in order and without atomics, so that two runs give the same bits. A block belongs to a token and works
// only if that token is the first of its id; it then walks the later tokens, 1024 ids at a time, lists those that match, and adds
// their rows to sums in registers. Nothing is sorted and no scratch memory is needed; ids are 4 bytes against the 2 c of a row,
// so reading them once per block is the smaller part. Columns are split over blocks, so that a frequent token's long chain of
// adds runs in parallel.
#include "reduce.cuh"

// Copies the warp's columns of a row. All loads go ahead of the stores: the compiler cannot know that the two do not overlap.
template <bool WHOLE>
__device__ __forceinline__ void embed_columns(act* out, const act* row, int c) {
    constexpr int PIECES = EMBED_COLUMNS / (WARP * PIECE);
    const int first = blockIdx.y * EMBED_COLUMNS + threadIdx.x % WARP * PIECE;
    Piece<act> held[PIECES];
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
        const int j = first + k * WARP * PIECE;
        held[k] = load_piece<WHOLE>(row + j, c - j);
    }
#pragma unroll
    for (int k = 0; k < PIECES; ++k) {
        const int j = first + k * WARP * PIECE;
        store_piece<WHOLE>(out + j, held[k], c - j);
    }
}

// Grid: x = ceil(t / EMBED_WARPS), y = ceil(c / EMBED_COLUMNS)
extern "C" __global__ void __launch_bounds__(EMBED_THREADS)
embed_fwd(act* out, const act* table, const unsigned* ids, unsigned* fault, int t, int c, int v) {
    const int i = blockIdx.x * EMBED_WARPS + threadIdx.x / WARP;
    if (i >= t) {
        return;
    }
    const unsigned id = ids[i];
    out += static_cast<size_t>(i) * c;
    if (id >= static_cast<unsigned>(v)) {
        if (threadIdx.x % WARP == 0) {
            report_fault(fault, FAULT_EMBED_FWD, i, id);
        }
        for (int j = blockIdx.y * EMBED_COLUMNS + threadIdx.x % WARP; j < c && j < (blockIdx.y + 1) * EMBED_COLUMNS; j += WARP) {
            out[j] = from_float<act>(0.0f);
        }
        return;
    }
    const act* const row = table + static_cast<size_t>(id) * c;
    if (whole_vecs<act>(c)) {
        embed_columns<true>(out, row, c);
    } else {
        embed_columns<false>(out, row, c);
    }
}

// Tokens of a chunk: one word of 32 bits for each lane of a warp.
constexpr int CHUNK = WARP * WARP;

// Lists in `matches` those of the tokens `base..base + CHUNK` that have this id, in order; returns their number. A call writes
// the list behind its first barrier, so a thread may read the list of the call before for as long as it likes.
__device__ __forceinline__ int find_matches(unsigned short* matches, const unsigned* ids, unsigned id, int base, int t) {
    constexpr int WARPS = EMBED_BWD_THREADS / WARP;
    SHARED(unsigned, words, WARP);
    SHARED(int, count, 1);
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
#pragma unroll
    for (int word = warp; word < WARP; word += WARPS) {
        const int i = base + word * WARP + lane;
        const unsigned match = __ballot_sync(WHOLE_WARP, i < t && ids[i] == id);
        if (lane == 0) {
            words[word] = match;
        }
    }
    __syncthreads();
    if (warp == 0) {
        unsigned word = words[lane];
        int end = __popc(word);
        const int own = end;
#pragma unroll
        for (int m = 1; m < WARP; m *= 2) {
            const int before = __shfl_up_sync(WHOLE_WARP, end, m);
            end += lane >= m ? before : 0;
        }
        for (int at = end - own; at < end; ++at, word &= word - 1) {
            matches[at] = static_cast<unsigned short>(lane * WARP + __ffs(word) - 1);
        }
        if (lane == WARP - 1) {
            *count = end;
        }
    }
    __syncthreads();
    return *count;
}

// Adds the rows of all tokens from `first` on that have this id to the block's columns of the table's row.
template <bool WHOLE>
__device__ __forceinline__ void add_tokens(
    float* dtable, const act* dout, const unsigned* ids, unsigned id, int first, int t, int c) {
    SHARED(unsigned short, matches, CHUNK);
    const int j = (blockIdx.y * EMBED_BWD_THREADS + threadIdx.x) * PIECE;
    float* const row = dtable + static_cast<size_t>(id) * c + j;
    const Piece<float> before = load_piece<WHOLE>(row, c - j);
    float sum[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        sum[i] = before[i];
    }
    for (int base = first; base < t; base += CHUNK) {
        const int count = find_matches(matches, ids, id, base, t);
        // The loads of several rows are in flight while their adds wait for one another.
#pragma unroll 4
        for (int n = 0; n < count; ++n) {
            const Piece<act> d = load_piece<WHOLE>(dout + static_cast<size_t>(base + matches[n]) * c + j, c - j);
#pragma unroll
            for (int i = 0; i < PIECE; ++i) {
                sum[i] += d[i];
            }
        }
    }
    store_piece<WHOLE>(row, Piece<float>::of(sum), c - j);
}

// Grid: x = t, y = ceil(c / EMBED_BWD_COLUMNS)
extern "C" __global__ void __launch_bounds__(EMBED_BWD_THREADS)
embed_bwd(float* dtable, const act* dout, const unsigned* ids, unsigned* fault, int t, int c, int v) {
    const int first = blockIdx.x;
    const unsigned id = ids[first];
    if (id >= static_cast<unsigned>(v)) {
        if (threadIdx.x == 0) {
            report_fault(fault, FAULT_EMBED_BWD, first, id);
        }
        return;
    }
    float earlier = 0.0f;
#pragma unroll 8
    for (int i = threadIdx.x; i < first; i += EMBED_BWD_THREADS) {
        earlier = ids[i] == id ? 1.0f : earlier;
    }
    if (block_max<EMBED_BWD_THREADS>(earlier) > 0.0f) {
        return;
    }
    // Vectors of the table hold 4 floats and those of bf16 8: whole vectors of either make the row's pieces whole.
    if (whole_vecs<act>(c) && whole_vecs<float>(c)) {
        add_tokens<true>(dtable, dout, ids, id, first, t, c);
    } else {
        add_tokens<false>(dtable, dout, ids, id, first, t, c);
    }
}
