//! `repairity generate`: text from a model.

use std::path::PathBuf;
use std::process::ExitCode;

use super::not_yet;

/// The arguments of `generate`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["prompt", "input"]))]
pub struct Args {
    /// The model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The text to go on from
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Many prompts, JSONL: {"prompt": "..."} or {"messages": [...]} a line
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the answers go; left out, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tokens to write at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Sampling temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Samples from the smallest set of most likely tokens whose probability reaches this
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Samples from this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// The random stream
    #[arg(long, value_name = "S", default_value_t = 17)]
    seed: u64,
}

impl Args {
    /// Writes what the model answers.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(not_yet("generate"))
    }
}
