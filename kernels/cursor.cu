// Where the sequences of a batch stand, moved one token further on the device, so that the host need not know a token to launch
// the next step.
//
//   last[slots[i]] = ids[i];  positions[i], lengths[i], counts[i] += 1
//   draws[i] = unit(philox([counts[i], 0, 0, 0], keys[i])[0])
//
// A thread takes a row. What a row draws is a function of its own key and count: who shares the batch does not matter.
#include "philox.cuh"

// Grid: x = ceil(b / ADVANCE_THREADS). last[slot_count], keys[b, 2] with the lower word first; slots are distinct, or NO_SLOT.
extern "C" __global__ void __launch_bounds__(ADVANCE_THREADS)
advance(unsigned* last, unsigned* positions, unsigned* lengths, unsigned* counts, float* draws, const unsigned* ids, const unsigned* slots, const unsigned* keys, unsigned* fault, int b, int slot_count) {
    const int row = static_cast<int>(blockIdx.x) * ADVANCE_THREADS + static_cast<int>(threadIdx.x);
    if (row >= b) {
        return;
    }
    const unsigned slot = slots[row];
    if (slot < static_cast<unsigned>(slot_count)) {
        last[slot] = ids[row];
    } else if (slot != NO_SLOT) {
        report_fault(fault, FAULT_ADVANCE_SLOT, row, slot);
    }
    const unsigned count = counts[row] + 1u;
    positions[row] += 1u;
    lengths[row] += 1u;
    counts[row] = count;
    const unsigned long long key = keys[2 * row] | static_cast<unsigned long long>(keys[2 * row + 1]) << 32;
    draws[row] = unit(philox(count, 0u, 0u, 0u, key).at[0]);
}
