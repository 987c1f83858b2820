//! `repairity score`: per-token log-probabilities, or rewards.

use std::path::PathBuf;
use std::process::ExitCode;

use super::not_yet;

/// The arguments of `score`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, a folder in the Hugging Face layout; a scalar head gives rewards
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// JSONL: {"tokens": [...]}, {"text": "..."} or {"prompt": "...", "completion": "..."} a line
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the scored lines go; left out, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    /// Writes each line with its `tokens` and `logprobs`, or its `reward`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(not_yet("score"))
    }
}
