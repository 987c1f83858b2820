//! Whole stages of tiny models on `Cuda`, in the simulator and on a GPU where there is one (REPAIRITY_GPU=1 makes its absence a
//! failure): the numbers that the CPU gives, the same bits after a crash, one wait a step, and memory that does not grow.
//!
//! `tests/golden.rs` holds the engine against PyTorch to the last digit that either has; here it is the stages around it. The
//! models are as small as they can be, since every thread of every kernel is run: what more steps, longer sequences and more
//! prompts would show, `tests/{method,resume}.rs` show on the CPU.

#[path = "../support/ground.rs"]
mod ground;
#[path = "../support/place.rs"]
#[allow(dead_code)] // It opens devices whose driver nobody watches.
mod place;
#[path = "../support/simulated.rs"]
mod simulated;
#[path = "../support/tiny.rs"]
mod tiny;

mod generation;
mod ranks;
mod stages;
mod steps;
mod watched;

use std::sync::Arc;

use place::{OnGpu, Place, present};
use repairity::device::Cuda;
use repairity::device::cuda::gpu::Gpu;
use simulated::Simulated;
use watched::Watched;

/// Runs `check` on a device of the place whose driver is watched, if the place is there.
fn on<A: OnGpu>(place: Place, check: impl FnOnce(&Cuda<A>)) {
    if !present(place) {
        return;
    }
    match place {
        Place::Gpu => {
            let open = || Cuda::with_driver(Watched::over(Arc::new(Gpu::open(0, A::BUILD).unwrap()))).unwrap();
            check(A::shared().get_or_init(open));
        }
        Place::Simulator => {
            let machine = Simulated::new::<A>(0);
            check(&Cuda::with_driver(Watched::over(machine.clone())).unwrap());
            assert!(!machine.launched().is_empty(), "no kernel was launched");
        }
    }
}

/// Tests of generic functions `fn name<A: OnGpu>(device: &Cuda<A>)` on both builds of the kernels, in the simulator and on a GPU.
macro_rules! on_kernels {
    ($($name:ident),* $(,)?) => {
        mod kernels {
            use crate::place::{OnGpu, Place, builds};

            $(fn $name<A: OnGpu>(place: Place) {
                crate::on::<A>(place, super::$name);
            })*

            builds!($($name),*);
        }
    };
}
pub(crate) use on_kernels;
