//! `repairity bench`: how fast this machine trains and decodes.

use std::path::PathBuf;
use std::process::ExitCode;

use super::not_yet;

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
        Err(not_yet("bench"))
    }
}
