// Softmax without its end in sight: what is known after some logits, in natural units, and how more of them change it.
//
//   top = the largest l so far,  sum = sum e^(l - top),  weighted = sum e^(l - top) (l - top)
//
// so the log-sum-exp is top + ln sum, and the entropy is ln sum - weighted / sum.
#pragma once
#include "act.cuh"

// e^x for x at most 0, by the hardware's power of two: off by |x| units in the last place, where e^x counts little.
__device__ __forceinline__ float decay(float x) { return exp2_normal(1.44269504f * x); }

struct Online {
    float top, sum, weighted;

    // Counts from `largest` in place of `top`. Nothing counted yet is nothing then too, whatever `top`.
    __device__ __forceinline__ void rebase(float largest) {
        if (sum != 0.0f) {
            const float shrink = decay(top - largest);
            weighted = shrink * (weighted + (top - largest) * sum);
            sum *= shrink;
        }
        top = largest;
    }

    template <int N>
    __device__ __forceinline__ void add(const float (&l)[N]) {
        float largest = l[0];
#pragma unroll
        for (int i = 1; i < N; ++i) {
            largest = fmaxf(largest, l[i]);
        }
        if (largest > top) {
            rebase(largest);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float e = decay(l[i] - top);
            sum += e;
            weighted = fmaf(e, l[i] - top, weighted);
        }
    }

    // What another has counted, too. The same bits whichever of the two joins the other.
    __device__ __forceinline__ void join(Online other) {
        const float largest = fmaxf(top, other.top);
        rebase(largest);
        other.rebase(largest);
        sum += other.sum;
        weighted += other.weighted;
    }
};
