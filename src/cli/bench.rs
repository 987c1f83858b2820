//! `repairity bench`: how fast this machine trains and decodes.

use std::path::PathBuf;
use std::process::ExitCode;

use repairity::bench;
use repairity::device::Cpu;
use repairity::error::Error;

use super::{not_yet, print_lines};

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured
    what: What,
    /// The model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Sequences at once
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// Tokens of a sequence, or of a prompt
    #[arg(long, value_name = "S", default_value_t = 256)]
    seq: usize,
    /// Steps, or tokens decoded, that are timed
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Each kernel beside its peer
    Kernels,
    /// A training step: LoRA of rank 4 on q, k, v, o, random tokens
    Sft,
    /// Sampling at temperature 1 from random prompts
    Decode,
    /// An iteration of PPO
    Ppo,
}

impl Args {
    /// Prints what was measured.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let device = Cpu::<f32>::new();
        let model = || self.model.as_deref().ok_or_else(|| Error::input("--model", "a model's folder expected"));
        for (flag, value) in [("--batch", self.batch), ("--seq", self.seq), ("--steps", self.steps)] {
            if value == 0 {
                return Err(Error::input(flag, "a number of at least 1 expected").into());
            }
        }
        let measured = match self.what {
            What::Sft => bench::sft(&device, model()?, self.batch, self.seq, self.steps)?,
            What::Decode => bench::decode(&device, model()?, self.batch, self.seq, self.steps)?,
            What::Kernels => return Err(not_yet("bench kernels")),
            What::Ppo => return Err(not_yet("bench ppo")),
        };
        let line = match self.json {
            true => serde_json::to_string(&measured)?,
            false => format!(
                "{} on {}: {:.1} M parameters, batch {}, seq {}, {} steps in {:.2} s: {:.1} tokens/s, peak {:.1} MB",
                measured.what,
                measured.device,
                measured.parameters as f64 / 1e6,
                measured.batch,
                measured.seq,
                measured.steps,
                measured.seconds,
                measured.tokens_per_s,
                measured.peak_bytes as f64 / 1e6
            ),
        };
        print_lines([line])?;
        Ok(ExitCode::SUCCESS)
    }
}
