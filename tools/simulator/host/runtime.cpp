// The one variable that kernels and the runtime share. It is here because Rust cannot declare a thread-local of C.
#include "simulator.h"

extern "C" {
__thread SimulatorThread* simulator_thread = nullptr;
SimulatorThread** simulator_thread_slot() { return &simulator_thread; }
}
