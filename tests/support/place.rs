//! Where the kernels run, in tests: thread by thread in the simulator, and on a GPU where there is one.

use std::sync::{Arc, OnceLock};

use half::bf16;
use repairity::device::Cuda;
use repairity::device::cuda::{Act, gpu};

use crate::simulated::Simulated;

/// Where the kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Thread by thread on the CPU.
    Simulator,
    /// On GPU 0.
    Gpu,
}

/// A build's device on the GPU, shared by all tests: it takes most of the memory when it is opened.
pub trait OnGpu: Act {
    /// Where it is kept.
    fn shared() -> &'static OnceLock<Cuda<Self>>;

    /// The device, opened at its first use.
    fn device() -> &'static Cuda<Self> {
        Self::shared().get_or_init(|| Cuda::open(0).unwrap())
    }
}

impl OnGpu for f32 {
    fn shared() -> &'static OnceLock<Cuda<f32>> {
        static DEVICE: OnceLock<Cuda<f32>> = OnceLock::new();
        &DEVICE
    }
}

impl OnGpu for bf16 {
    fn shared() -> &'static OnceLock<Cuda<bf16>> {
        static DEVICE: OnceLock<Cuda<bf16>> = OnceLock::new();
        &DEVICE
    }
}

/// Whether tests of this place run here. Without a GPU it says that they are skipped, or fails where one is demanded.
pub fn present(place: Place) -> bool {
    match (place, gpu::missing()) {
        (Place::Simulator, _) | (Place::Gpu, None) => true,
        (Place::Gpu, Some(why)) => {
            assert!(std::env::var("REPAIRITY_GPU").as_deref() != Ok("1"), "REPAIRITY_GPU=1, but {why}");
            println!("skipped: no GPU ({why})");
            false
        }
    }
}

/// Runs `check` on the place's device, if the place is there.
pub fn on<A: OnGpu>(place: Place, check: impl FnOnce(&Cuda<A>)) {
    match (present(place), place) {
        (false, _) => {}
        (true, Place::Gpu) => check(A::device()),
        (true, Place::Simulator) => {
            let machine = Simulated::new::<A>(0);
            check(&Cuda::with_driver(Arc::clone(&machine) as _).unwrap());
            assert!(!machine.launched().is_empty(), "no kernel was launched");
        }
    }
}

/// Tests of each generic function `fn name<A: OnGpu>(place: Place)` for both builds, in the simulator and on a GPU.
macro_rules! builds {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use half::bf16;

            use crate::place::Place;

            #[test]
            fn simulated_f32() {
                super::$name::<f32>(Place::Simulator);
            }

            #[test]
            fn simulated_bf16() {
                super::$name::<bf16>(Place::Simulator);
            }

            #[test]
            fn gpu_f32() {
                super::$name::<f32>(Place::Gpu);
            }

            #[test]
            fn gpu_bf16() {
                super::$name::<bf16>(Place::Gpu);
            }
        }
    )*};
}
pub(crate) use builds;
