//! Which device a command computes on: the one match between the command line and the generic engine.

use half::bf16;
use repairity::device::cuda::gpu;
use repairity::device::{Cpu, Cuda};
use repairity::error::Result;
use repairity::recipe::DeviceChoice;
use repairity::telemetry;

/// `--device` of the commands that have no recipe.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DeviceArgs {
    /// What computes: a GPU in bf16 or the CPU in f32; auto takes a GPU where there is one
    #[arg(long, value_enum, default_value_t = Name::Auto)]
    device: Name,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Name {
    Auto,
    Cpu,
    Cuda,
}

impl DeviceArgs {
    /// Opens the device.
    pub fn open(self) -> Result<Chosen> {
        open(match self.device {
            Name::Auto => DeviceChoice::Auto,
            Name::Cpu => DeviceChoice::Cpu,
            Name::Cuda => DeviceChoice::Cuda,
        })
    }
}

/// An open device. [`on!`] runs generic code on it.
pub enum Chosen {
    /// The CPU, in f32.
    Cpu(Cpu<f32>),
    /// A GPU, in bf16.
    Cuda(Cuda<bf16>),
}

/// Opens what the choice means on this machine. Errors: a GPU that was asked for and is not there.
pub fn open(choice: DeviceChoice) -> Result<Chosen> {
    let cpu = || Chosen::Cpu(Cpu::new());
    match choice {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Cuda => Cuda::open(0).map(Chosen::Cuda),
        DeviceChoice::Auto => match gpu::missing() {
            None => Cuda::open(0).map(Chosen::Cuda),
            Some(why) => {
                if !gpu::list()?.is_empty() {
                    telemetry::note(&format!("the GPU is not used: {why}"));
                }
                Ok(cpu())
            }
        },
    }
}

/// Runs an expression with the open device under a name.
macro_rules! on {
    ($chosen:expr, $device:ident => $work:expr) => {
        match $chosen {
            $crate::cli::device::Chosen::Cpu($device) => $work,
            $crate::cli::device::Chosen::Cuda($device) => $work,
        }
    };
}
pub(super) use on;
