//! Which device a command computes on: the one match between the command line and the generic engine.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use repairity::comm::{self, Group, Nccl, Shared, Threads, World};
use repairity::device::cuda::gpu;
use repairity::device::{Cpu, Cuda, Device};
use repairity::error::{Error, Result};
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
        open(
            match self.device {
                Name::Auto => DeviceChoice::Auto,
                Name::Cpu => DeviceChoice::Cpu,
                Name::Cuda => DeviceChoice::Cuda,
            },
            0,
        )
    }
}

/// An open device. [`on!`] runs generic code on it.
pub enum Chosen {
    /// The CPU, in f32.
    Cpu(Cpu<f32>),
    /// A GPU, in bf16.
    Cuda(Cuda<bf16>),
}

impl Chosen {
    /// The same, free to add in any order where the recipe does not ask for a fixed one.
    pub fn deterministic(self, wanted: bool) -> Chosen {
        match self {
            Chosen::Cuda(cuda) if !wanted => Chosen::Cuda(cuda.relaxed(true)),
            other => other,
        }
    }
}

/// A device that can be one of several.
pub trait Ranked: Device {
    /// The communicator of this rank.
    fn join(&self, group: Group) -> Result<Shared<Self>>;
}

impl Ranked for Cpu<f32> {
    fn join(&self, group: Group) -> Result<Shared<Self>> {
        Ok(if group.ranks() == 1 { comm::solo() } else { Arc::new(Threads::new(group)) })
    }
}

impl Ranked for Cuda<bf16> {
    fn join(&self, group: Group) -> Result<Shared<Self>> {
        Ok(if group.ranks() == 1 { comm::solo() } else { Arc::new(Nccl::open(self, group)?) })
    }
}

/// The GPUs, by number, or threads that this process drives: its part of the node's `gpus`. Errors: a GPU that is not there.
pub fn own(world: &World, choice: DeviceChoice, gpus: usize) -> Result<Range<usize>> {
    let missing = gpu::missing();
    match (choice, missing) {
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, Some(_)) => world.share(gpus, gpus),
        (DeviceChoice::Cuda, Some(why)) => Err(Error::Machine(why)),
        (_, None) => world.share(gpus, gpu::list()?.len()),
    }
}

/// Opens what the choice means on this machine: of several GPUs the one of this number. Errors: a GPU that was asked for and is not
/// there.
pub fn open(choice: DeviceChoice, ordinal: usize) -> Result<Chosen> {
    let cpu = || Chosen::Cpu(Cpu::new());
    match choice {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Cuda => Cuda::open(ordinal).map(Chosen::Cuda),
        DeviceChoice::Auto => match gpu::missing() {
            None => Cuda::open(ordinal).map(Chosen::Cuda),
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
