// Rotary positions (Su et al. 2021, section 3.2.2) in the half rotation of Transformers: column i of a head pairs
// with i + dim / 2.
//
//   angle = positions[i] frequencies[p];  (a, b) <- (a cos - b sin, b cos + a sin), sin negated to turn back
//
// qkv[t, width]: the query heads, then the key heads, then values that do not turn; all turning heads of a token share the
// angles. A block owns a token: its threads compute each sine and cosine once, in f32, into shared memory, then walk over the
// heads, a piece of 8 low columns with the piece of 8 that it pairs with, so that a row is read and written once in 16-byte
// accesses.
//
// Where the keys and values go into a cache, k and v[slots, capacity, kv dim], the same walk stores them there: keys as they come
// from being turned, values from their first and only reading.
#include "act.cuh"

// Sine and cosine of `angle`, which is less than 2^32. The library's keep an array for angles of any size in local memory; here
// the angle is brought to [-pi/4, pi/4] in double, which leaves less than 1e-9 of error up to a million, far below a float's, and
// Taylor series of degree 9 and 10 leave less than 2e-9.
__device__ __forceinline__ void sine_cosine(float angle, float* sine, float* cosine) {
    constexpr double HALF_PI = 1.57079632679489661923;
    const double quarters = rint(angle * (1.0 / HALF_PI));
    const float r = static_cast<float>(angle - quarters * HALF_PI);
    const float square = r * r;
    float odd = 1.0f / 362880.0f;
    odd = odd * square - 1.0f / 5040.0f;
    odd = odd * square + 1.0f / 120.0f;
    odd = odd * square - 1.0f / 6.0f;
    odd = odd * square * r + r;
    float even = -1.0f / 3628800.0f;
    even = even * square + 1.0f / 40320.0f;
    even = even * square - 1.0f / 720.0f;
    even = even * square + 1.0f / 24.0f;
    even = even * square - 0.5f;
    even = even * square + 1.0f;
    const int quadrant = static_cast<int>(static_cast<long long>(quarters) & 3);
    const float s = quadrant % 2 == 0 ? odd : even;
    const float c = quadrant % 2 == 0 ? even : odd;
    *sine = quadrant < 2 ? s : -s;
    *cosine = quadrant == 0 || quadrant == 3 ? c : -c;
}

// Turns a piece and the piece `half` columns further; `copy`, if there is one, gets both too.
template <bool WHOLE>
__device__ __forceinline__ void turn(act* low, act* copy, int half, const float* cosine, const float* sine, int left) {
    const Piece<act> a = load_piece<WHOLE>(low, left);
    const Piece<act> b = load_piece<WHOLE>(low + half, left);
    float x[PIECE] = {};
    float y[PIECE] = {};
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        if (i < left) {
            x[i] = a[i] * cosine[i] - b[i] * sine[i];
            y[i] = b[i] * cosine[i] + a[i] * sine[i];
        }
    }
    const Piece<act> turned_low = Piece<act>::of(x), turned_high = Piece<act>::of(y);
    store_piece<WHOLE>(low, turned_low, left);
    store_piece<WHOLE>(low + half, turned_high, left);
    if (copy != nullptr) {
        store_piece<WHOLE>(copy, turned_low, left);
        store_piece<WHOLE>(copy + half, turned_high, left);
    }
}

// Turns `heads` heads of a row. Those from `first` on are also stored at `copy`, one after the other, if there is such a place.
__device__ __forceinline__ void turn_heads(act* row, act* copy, const float* frequencies, float position, float sign, int heads,
                                           int first, int dim, bool whole) {
    SHARED(float, cosine, ROPE_ANGLES);
    SHARED(float, sine, ROPE_ANGLES);
    const int half = dim / 2;
    for (int base = 0; base < half; base += ROPE_ANGLES) {
        const int angles = half - base < ROPE_ANGLES ? half - base : ROPE_ANGLES;
        for (int i = threadIdx.x; i < angles; i += ROPE_THREADS) {
            float s;
            sine_cosine(position * frequencies[base + i], &s, &cosine[i]);
            sine[i] = sign * s;
        }
        __syncthreads();
        const int pieces = (angles + PIECE - 1) / PIECE;
        for (int item = threadIdx.x; item < heads * pieces; item += ROPE_THREADS) {
            const int head = item / pieces;
            const int i = item % pieces * PIECE;
            act* const low = row + static_cast<size_t>(head) * dim + base + i;
            act* const to = copy == nullptr || head < first ? nullptr : copy + static_cast<size_t>(head - first) * dim + base + i;
            if (whole) {
                turn<true>(low, to, half, cosine + i, sine + i, angles - i);
            } else {
                turn<false>(low, to, half, cosine + i, sine + i, angles - i);
            }
        }
        // The next angles take these ones' place.
        __syncthreads();
    }
}

// Grid: x = t
extern "C" __global__ void __launch_bounds__(ROPE_THREADS)
rope(act* qkv, const unsigned* positions, const float* frequencies, int t, int heads, int width, int dim, float sign) {
    // A head's halves and every row must begin at a vector for its pieces to be whole.
    const bool whole = whole_vecs<act>(dim / 2) && whole_vecs<act>(width);
    act* const row = qkv + static_cast<size_t>(blockIdx.x) * width;
    const float position = static_cast<float>(positions[blockIdx.x]);
    turn_heads(row, nullptr, frequencies, position, sign, heads, heads, dim, whole);
}

// Grid: x = t. A token of no slot turns and is not cached; neither is one whose slot or position is out of range.
extern "C" __global__ void __launch_bounds__(ROPE_THREADS)
rope_cached(act* qkv, act* k, act* v, const unsigned* positions, const unsigned* slots, const float* frequencies, unsigned* fault, int t, int slot_count, int q, int kv, int dim, int capacity) {
    const unsigned slot = slots[blockIdx.x], position = positions[blockIdx.x];
    const bool held = slot < static_cast<unsigned>(slot_count), fits = position < static_cast<unsigned>(capacity);
    if (!held && slot != NO_SLOT) {
        report_fault(fault, FAULT_ROPE_CACHED_SLOT, blockIdx.x, slot);
    } else if (held && !fits) {
        report_fault(fault, FAULT_ROPE_CACHED_POSITION, blockIdx.x, position);
    }
    const bool cached = held && fits;
    const int width = kv * dim;
    const bool whole = whole_vecs<act>(dim / 2);
    act* const row = qkv + static_cast<size_t>(blockIdx.x) * (q + 2 * kv) * dim;
    const size_t at = (static_cast<size_t>(slot) * capacity + position) * width;
    // The values are on their way while the angles are computed.
    if (cached) {
        const act* values = row + static_cast<size_t>(q + kv) * dim;
        for (int column = threadIdx.x * PIECE; column < width; column += ROPE_THREADS * PIECE) {
            if (whole) {
                store_piece<true>(v + at + column, load_piece<true>(values + column, width - column), width - column);
            } else {
                store_piece<false>(v + at + column, load_piece<false>(values + column, width - column), width - column);
            }
        }
    }
    turn_heads(row, cached ? k + at : nullptr, frequencies, static_cast<float>(position), 1.0f, q + kv, q, dim, whole);
}
