//! `repairity bench`: how fast this machine trains and decodes, and how fast each operator is.

use std::path::PathBuf;
use std::process::ExitCode;

use repairity::bench::kernels::{self, Shape};
use repairity::bench::{self, Measured};
use repairity::device::Device;
use repairity::error::Error;
use repairity::model::Config;

use super::device::{DeviceArgs, on};
use super::{not_yet, print_lines};

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured
    what: What,
    /// The model, a folder in the Hugging Face layout; of kernels it gives the extents, and left out they are Qwen2.5-32B's
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Sequences at once
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// Tokens of a sequence, or of a prompt
    #[arg(long, value_name = "S", default_value_t = 256)]
    seq: usize,
    /// Steps, tokens decoded, or rounds of calls, that are timed
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Of kernels, this operator alone
    #[arg(long, value_name = "OPERATOR")]
    only: Option<String>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Each operator, and its share of what the device can do
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
        on!(self.device.open()?, device => self.measure(&device))
    }

    fn measure<D: Device>(&self, device: &D) -> anyhow::Result<ExitCode> {
        let model = || self.model.as_deref().ok_or_else(|| Error::input("--model", "a model's folder expected"));
        for (flag, value) in [("--batch", self.batch), ("--seq", self.seq), ("--steps", self.steps)] {
            if value == 0 {
                return Err(Error::input(flag, "a number of at least 1 expected").into());
            }
        }
        let lines = match self.what {
            What::Kernels => self.kernels(device)?,
            What::Sft => vec![self.line(bench::sft(device, model()?, self.batch, self.seq, self.steps)?)?],
            What::Decode => vec![self.line(bench::decode(device, model()?, self.batch, self.seq, self.steps)?)?],
            What::Ppo => return Err(not_yet("bench ppo")),
        };
        print_lines(lines)?;
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, measured: Measured) -> anyhow::Result<String> {
        if self.json {
            return Ok(serde_json::to_string(&measured)?);
        }
        Ok(format!(
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
        ))
    }

    fn kernels<D: Device>(&self, device: &D) -> anyhow::Result<Vec<String>> {
        let shape = match &self.model {
            Some(folder) => Shape::from(&Config::load(folder)?),
            None => Shape::QWEN_32B,
        };
        let measured = kernels::kernels(device, shape, self.batch, self.seq, self.steps, self.only.as_deref())?;
        if self.json {
            return Ok(vec![serde_json::to_string(&measured)?]);
        }
        let mut lines = vec![format!("{}, {} sequences of {} tokens", measured.device, measured.batch, measured.seq)];
        lines.push(format!("{:<24}{:>14}{:>10}{:>10}{:>8}  kernels", "operator", "microseconds", "TFLOP/s", "GB/s", "roof %"));
        lines.extend(measured.operators.iter().map(|row| {
            let tflops = if row.tflops > 0.0 { format!("{:.2}", row.tflops) } else { "-".into() };
            let roof = row.roof.map_or("-".into(), |share| format!("{:.1}", 100.0 * share));
            let (operator, micros, kernels) = (row.operator, row.seconds * 1e6, row.kernels.join(" "));
            let line = format!("{operator:<24}{micros:>14.1}{tflops:>10}{:>10.1}{roof:>8}  {kernels}", row.gbytes_per_s);
            line.trim_end().to_string()
        }));
        Ok(lines)
    }
}
