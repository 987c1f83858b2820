// The next token of each sequence: softmax(logits / temperature) cut to the top_k most likely tokens, of those to the fewest
// whose probability reaches top_p, and a token drawn from what is left by inversion, in order of id.
//
//   weight_i = e^((logit_i - top) / temperature)
//   logprob = (logit_id - top) / temperature - ln sum_i weight_i, of the uncut distribution
//   temperature 0: the token with the largest logit, the lowest id among equals; logprob of temperature 1
//
// logits[b, v]; a block of 16 warps owns a row and a warp a stretch of ids, which it reads 512 bytes at a time. Nothing is sorted
// and nothing stored: a vocabulary of f32 does not fit into shared memory, but the row stays in the second-level cache, and
// weights are made again from it wherever they are needed. Two questions answer everything:
//
//   bisect  the largest logit such that what is measured (tokens, or their weight) over logits not below it reaches an aim.
//           Logits are compared as unsigned numbers of the same order; three pivots a pass halve the interval twice: 16 passes.
//   find    the first id at which a running sum in order of id passes an aim: sums of the warps' stretches, then one warp goes
//           through its own. It draws the token, and it settles ties: of equal logits the lower ids are the more likely.
//
// Sums are double. A pass adds what a pivot admits and 0 for the rest, in one fixed order; rounding is monotone, so more tokens
// never measure less, and a bisection cannot contradict itself. A row that is not cut costs two passes and a warp's stretch: the
// sums that its log-prob needs are also those that are searched.
#include "reduce.cuh"

constexpr int WARPS = SAMPLE_THREADS / WARP;
constexpr int STEP = WARP * Vec<float>::N;
constexpr int PIVOTS = 3;

// A row of logits and the stretch of ids of this thread's warp.
struct Row {
    const float* logits;
    int v;
    int begin;
    int end;

    __device__ __forceinline__ Row(const float* all, int vocabulary) : logits(all), v(vocabulary) {
        const int stretch = ((v + WARPS - 1) / WARPS + STEP - 1) / STEP * STEP;
        begin = static_cast<int>(min(static_cast<long long>(threadIdx.x / WARP) * stretch, static_cast<long long>(v)));
        end = begin + min(stretch, v - begin);
    }

    // Calls f(id, logit) on this lane's four tokens at `id`, as many as are in the stretch.
    template <typename F>
    __device__ __forceinline__ void four(int id, F f) const {
        if (whole_vecs<float>(v)) {
            if (id < end) {
                const Vec<float> vec = load_vec(logits + id);
#pragma unroll
                for (int k = 0; k < Vec<float>::N; ++k) {
                    f(id + k, vec[k]);
                }
            }
        } else {
#pragma unroll
            for (int k = 0; k < Vec<float>::N; ++k) {
                if (id + k < end) {
                    f(id + k, logits[id + k]);
                }
            }
        }
    }

    template <typename F>
    __device__ __forceinline__ void each(F f) const {
#pragma unroll 4
        for (int id = begin + threadIdx.x % WARP * Vec<float>::N; id < end; id += STEP) {
            four(id, f);
        }
    }
};

// Unsigned numbers in the order of the floats; the two zeros are one.
__device__ __forceinline__ unsigned key_of(float logit) {
    const unsigned bits = __float_as_uint(logit + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float logit_of(unsigned key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// What a cut leaves: logits above a key, and of those equal to it the ids up to a last one.
struct Cut {
    unsigned key;
    int last;

    __device__ __forceinline__ bool keeps(int id, float logit) const {
        const unsigned own = key_of(logit);
        return own > key || (own == key && id <= last);
    }
};

// The sum of measure(id, logit) over tokens whose key is at least `pivot`.
template <typename Measure>
__device__ __forceinline__ double measure_from(const Row& row, unsigned pivot, Measure measure) {
    double sum = 0.0;
    row.each([&](int id, float logit) { sum += key_of(logit) >= pivot ? measure(id, logit) : 0.0; });
    return block_sum<SAMPLE_THREADS>(sum);
}

// The largest key not above `high` with measure_from(key) >= aim; 0 must satisfy it.
template <typename Measure>
__device__ __forceinline__ unsigned bisect(const Row& row, unsigned high, double aim, Measure measure) {
    unsigned low = 0;
    while (low < high) {
        unsigned pivots[PIVOTS];
        double sums[PIVOTS] = {};
#pragma unroll
        for (int k = 0; k < PIVOTS; ++k) {
            // Rounded up, so above `low`; one that coincides with another only repeats it.
            const unsigned long long width = high - low;
            pivots[k] = low + static_cast<unsigned>((width * (k + 1) + PIVOTS) / (PIVOTS + 1));
        }
        row.each([&](int id, float logit) {
            const unsigned key = key_of(logit);
            if (key >= pivots[0]) {
                const double x = measure(id, logit);
#pragma unroll
                for (int k = 0; k < PIVOTS; ++k) {
                    sums[k] += key >= pivots[k] ? x : 0.0;
                }
            }
        });
        block_sums<SAMPLE_THREADS>(sums);
        // Down from the highest pivot to the first that reaches the aim.
        bool reached = false;
#pragma unroll
        for (int k = PIVOTS - 1; k >= 0; --k) {
            if (!reached) {
                reached = sums[k] >= aim;
                low = reached ? pivots[k] : low;
                high = reached ? high : pivots[k] - 1;
            }
        }
    }
    return low;
}

// The first id at which the running sum of measure(id, logit) in order of id passes `share` of the total plus `offset`;
// `otherwise` where none does. `own` is this thread's sum of it, in the order of Row::each.
template <typename Measure>
__device__ __forceinline__ int find_after(const Row& row, double own, double share, double offset, int otherwise,
                                          Measure measure) {
    SHARED(double, of_warps, WARPS);
    SHARED(int, found, 1);
    const int lane = threadIdx.x % WARP;
    const int warp = threadIdx.x / WARP;
    own = warp_sum(own);
    if (lane == 0) {
        of_warps[warp] = own;
    }
    if (threadIdx.x == 0) {
        *found = otherwise;
    }
    __syncthreads();
    double total = 0.0;
    for (int w = 0; w < WARPS; ++w) {
        total += of_warps[w];
    }
    const double aim = share * total + offset;
    double running = 0.0;
    int passing = -1;
    double before = 0.0;
    for (int w = 0; w < WARPS; ++w) {
        before = passing < 0 ? running : before;
        running += of_warps[w];
        passing = passing < 0 && running > aim ? w : passing;
    }
    if (warp == passing) {
        running = before;
        // The stretch passes the aim as a whole; should its parts, added in another order, fall short by rounding, the last token
        // that weighs anything is meant.
        int last = -1;
        bool passed = false;
        for (int base = row.begin; base < row.end && !passed; base += STEP) {
            const int id = base + lane * Vec<float>::N;
            double sum = 0.0;
            row.four(id, [&](int i, float logit) {
                const double x = measure(i, logit);
                sum += x;
                last = x > 0.0 ? i : last;
            });
            double inclusive = sum;
#pragma unroll
            for (int m = 1; m < WARP; m *= 2) {
                const double other = __shfl_up_sync(WHOLE_WARP, inclusive, m);
                inclusive += lane >= m ? other : 0.0;
            }
            // Lanes add the same weights in orders of their own, so one whose tokens weigh nothing may round past the aim first.
            const unsigned passes = __ballot_sync(WHOLE_WARP, sum > 0.0 && running + inclusive > aim);
            passed = passes != 0;
            if (passed && lane == __ffs(passes) - 1) {
                double part = running + (inclusive - sum);
                int first = -1;
                row.four(id, [&](int i, float logit) {
                    part += measure(i, logit);
                    first = first < 0 && part > aim ? i : first;
                });
                *found = first < 0 ? last : first;
            }
            running += __shfl_sync(WHOLE_WARP, inclusive, WARP - 1);
        }
        if (!passed) {
#pragma unroll
            for (int m = WARP / 2; m > 0; m /= 2) {
                last = max(last, __shfl_xor_sync(WHOLE_WARP, last, m));
            }
            if (lane == 0 && last >= 0) {
                *found = last;
            }
        }
    }
    __syncthreads();
    const int id = *found;
    // Another call with such a measure would write it again.
    __syncthreads();
    return id;
}

// The same where nobody has summed yet.
template <typename Measure>
__device__ __forceinline__ int find(const Row& row, double share, double offset, int otherwise, Measure measure) {
    double own = 0.0;
    row.each([&](int id, float logit) { own += measure(id, logit); });
    return find_after(row, own, share, offset, otherwise, measure);
}

// The `count` most likely tokens.
__device__ __forceinline__ Cut cut_to_count(const Row& row, unsigned top, int count) {
    const auto one = [](int, float) { return 1.0; };
    const unsigned key = bisect(row, top, count, one);
    const double above = key == top ? 0.0 : measure_from(row, key + 1, one);
    // Of the tokens at the key, as many as are wanting.
    const auto tied = [&](int, float logit) { return key_of(logit) == key ? 1.0 : 0.0; };
    return {key, find(row, 0.0, count - above - 0.5, row.v - 1, tied)};
}

// Of the tokens that `kept` leaves, the fewest most likely ones whose weight reaches `share` of theirs.
template <typename Weight>
__device__ __forceinline__ Cut cut_to_share(const Row& row, unsigned top, double share, const Cut& kept, Weight weight) {
    const auto measure = [&](int id, float logit) { return kept.keeps(id, logit) ? static_cast<double>(weight(logit)) : 0.0; };
    const double aim = share * measure_from(row, 0u, measure);
    const unsigned key = bisect(row, top, aim, measure);
    const double above = key == top ? 0.0 : measure_from(row, key + 1, measure);
    // Tokens at the key weigh the same; at least one is needed.
    const double each = weight(logit_of(key));
    const double wanting = max(ceil((aim - above) / each), 1.0);
    const int otherwise = key == kept.key ? kept.last : row.v - 1;
    const auto tied = [&](int id, float logit) { return key_of(logit) == key && kept.keeps(id, logit) ? 1.0 : 0.0; };
    return {key, find(row, 0.0, wanting - 0.5, otherwise, tied)};
}

// Grid: x = b. v is at least 1
extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
sample(
    unsigned* ids, float* logprob, const float* logits, const float* draws, int b, int v, float temperature, int top_k,
    float top_p) {
    const Row row(logits + static_cast<size_t>(blockIdx.x) * v, v);
    const bool greedy = temperature <= 0.0f;
    const float cold = greedy ? 1.0f : static_cast<float>(1.0 / static_cast<double>(temperature));
    float largest = -INFINITY;
    row.each([&](int, float logit) { largest = logit > largest ? logit : largest; });
    const float top = block_max<SAMPLE_THREADS>(largest);
    const auto weight = [&](float logit) { return expf((logit - top) * cold); };
    double own = 0.0;
    row.each([&](int, float logit) { own += weight(logit); });
    const double sum = block_sum<SAMPLE_THREADS>(own);

    int id;
    if (greedy) {
        id = find(row, 0.0, 0.5, 0, [&](int, float logit) { return logit == top ? 1.0 : 0.0; });
    } else if (top_k <= 0 && top_p >= 1.0f) {
        const auto measure = [&](int, float logit) { return static_cast<double>(weight(logit)); };
        id = find_after(row, own, draws[blockIdx.x], 0.0, 0, measure);
    } else {
        // Keys begin above 0, so this one leaves all.
        Cut cut = {0u, 0};
        const unsigned top_key = key_of(top);
        if (top_k > 0 && top_k < v) {
            cut = cut_to_count(row, top_key, top_k);
        }
        if (top_p < 1.0f) {
            cut = cut_to_share(row, top_key, top_p, cut, weight);
        }
        const auto measure = [&](int i, float logit) { return cut.keeps(i, logit) ? static_cast<double>(weight(logit)) : 0.0; };
        id = find(row, draws[blockIdx.x], 0.0, 0, measure);
    }
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = id;
        logprob[blockIdx.x] = (row.logits[id] - top) * cold - static_cast<float>(log(sum));
    }
}
