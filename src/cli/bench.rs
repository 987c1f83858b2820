//! `repairity bench`: how fast this machine trains and decodes, and how fast each operator is.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use repairity::bench::against::{self, Comparison, Verdict};
use repairity::bench::kernels::{self, Shape};
use repairity::bench::{self, Extents, Measured, ppo};
use repairity::device::Device;
use repairity::error::Error;
use repairity::model::Config;
use serde::Serialize;
use serde_json::{Value, json};

use super::device::{DeviceArgs, on};
use super::print_lines;

/// The arguments of `bench`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every result keeps the seconds of each step or round (samples), their median, and the range that the middle \
    half of them spans (spread). mfu is the share of the device's matrix operations a second; roof is the least time that the \
    device's arithmetic and memory allow over the time taken. Both are told for GPUs whose data sheet is known.\n\n\
    --against FILE: a number moved beyond noise where Mann & Whitney's test on the samples of both runs gives p < 0.01 after Holm's \
    correction for how many numbers are compared. The interval is the central 95 % of a bootstrap of the ratio of medians (9,999 \
    resamples, a fixed seed). Samples of one run do not show what differs from run to run; put several runs in the file, one a line, \
    and theirs are taken together. Another device, model or extents end with exit code 2.\n\n\
    bench ppo: --batch prompts of --seq random tokens, a response of --max-new-tokens to each, 5 epochs in 4 minibatches, LoRA of \
    rank 4 for policy and critic. The reward model reads the tokens as they are, not as text.\n\n\
    Examples:\n  \
    repairity bench sft --model models/Qwen2.5-Coder-7B --batch 4 --seq 2048 --json > before.json\n  \
    repairity bench sft --model models/Qwen2.5-Coder-7B --batch 4 --seq 2048 --against before.json\n  \
    repairity bench decode --model models/Qwen2.5-Coder-7B --batch 32 --seq 512 --steps 128\n  \
    repairity bench ppo --model models/Qwen2.5-Coder-7B --reward-model models/CodeLlama-7b-hf --batch 16 --steps 3\n  \
    repairity bench kernels --batch 2 --seq 4096 --only attention_fwd_128"
)]
pub struct Args {
    /// What is measured
    what: What,
    /// The model, a folder in the Hugging Face layout; of kernels it gives the extents, and left out they are Qwen2.5-32B's
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Sequences at once; of ppo, prompts of an iteration
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,
    /// Tokens of a sequence, or of a prompt
    #[arg(long, value_name = "S", default_value_t = 256)]
    seq: usize,
    /// Steps, tokens decoded, iterations, or rounds of calls, that are timed
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Of ppo, tokens of a response
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Of ppo, the reward model; left out, the model itself with a fresh scalar head
    #[arg(long, value_name = "DIR")]
    reward_model: Option<PathBuf>,
    /// Of kernels, this operator alone
    #[arg(long, value_name = "OPERATOR")]
    only: Option<String>,
    /// Says of each number how far it moved since an earlier result of --json, and whether beyond noise
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
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
    /// An iteration of PPO: rollout, scoring, log-probs and values, epochs
    Ppo,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Kernels => "kernels",
            What::Sft => "sft",
            What::Decode => "decode",
            What::Ppo => "ppo",
        }
    }
}

/// A result, and what it was compared with.
#[derive(Serialize)]
struct Compared<'a, T> {
    #[serde(flatten)]
    measured: &'a T,
    against: Comparison,
}

impl Args {
    /// Prints what was measured.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        on!(self.device.open()?, device => self.measure(&device))
    }

    fn measure<D: Device>(&self, device: &D) -> anyhow::Result<ExitCode> {
        for (flag, value) in
            [("--batch", self.batch), ("--seq", self.seq), ("--steps", self.steps), ("--max-new-tokens", self.max_new_tokens)]
        {
            if value == 0 {
                return Err(Error::input(flag, "a number of at least 1 expected").into());
            }
        }
        let lines = match (self.what, self.model.as_deref()) {
            (What::Kernels, folder) => self.kernels(device, folder)?,
            (_, None) => return Err(Error::input("--model", "a model's folder expected").into()),
            (_, Some(model)) => self.steps(device, model)?,
        };
        print_lines(lines)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What is to be compared with is looked at before hours are spent on what it is compared to.
    fn comparable<D: Device>(&self, device: &D, model: &impl Serialize) -> anyhow::Result<()> {
        let Some(path) = &self.against else { return Ok(()) };
        let asked = json!({"what": self.what.name(), "device": device.name(), "model": model, "batch": self.batch, "seq": self.seq,
                           "steps": self.steps});
        against::earlier(path, &asked)?;
        Ok(())
    }

    /// The lines of a result, and of what it is compared with.
    fn lines<T: Serialize>(&self, measured: &T, human: impl Fn(&T) -> Vec<String>) -> anyhow::Result<Vec<String>> {
        let Some(path) = &self.against else {
            return Ok(if self.json { vec![serde_json::to_string(measured)?] } else { human(measured) });
        };
        let after: Value = serde_json::to_value(measured)?;
        let against = against::with(&against::earlier(path, &after)?, &after);
        if self.json {
            return Ok(vec![serde_json::to_string(&Compared { measured, against })?]);
        }
        Ok([human(measured), comparison(path, &against)].concat())
    }

    fn steps<D: Device>(&self, device: &D, model: &Path) -> anyhow::Result<Vec<String>> {
        self.comparable(device, &Extents::from(&Config::load(model)?))?;
        let (batch, seq, steps) = (self.batch, self.seq, self.steps);
        let measured = match self.what {
            What::Decode => bench::decode(device, model, batch, seq, steps)?,
            What::Ppo => {
                let reward_model = self.reward_model.as_deref().unwrap_or(model);
                let new_tokens = self.max_new_tokens;
                ppo::ppo(device, ppo::Question { model, reward_model, batch, seq, new_tokens, steps })?
            }
            _ => bench::sft(device, model, batch, seq, steps)?,
        };
        self.lines(&measured, step_lines)
    }

    fn kernels<D: Device>(&self, device: &D, model: Option<&Path>) -> anyhow::Result<Vec<String>> {
        let shape = match model {
            Some(folder) => Shape::from(&Config::load(folder)?),
            None => Shape::QWEN_32B,
        };
        self.comparable(device, &shape)?;
        let measured = kernels::kernels(device, shape, self.batch, self.seq, self.steps, self.only.as_deref())?;
        self.lines(&measured, kernel_lines)
    }
}

/// Seconds as a person reads them.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share))
}

fn step_lines(measured: &Measured) -> Vec<String> {
    let one = match measured.what {
        "decode" => "token of all",
        "ppo" => "iteration",
        _ => "step",
    };
    let times = match (measured.median, measured.spread) {
        (Some(median), Some(spread)) => format!(", {one} {} (spread {})", duration(median), duration(spread)),
        _ => String::new(),
    };
    let mut lines = vec![format!(
        "{} on {}: {:.1} M parameters, batch {}, seq {}, {} steps in {:.2} s{times}: {:.1} tokens/s, {:.2} TFLOP/s, {:.1} GB/s, \
         mfu {}, roof {}, peak {:.1} MB",
        measured.what,
        measured.device,
        measured.parameters as f64 / 1e6,
        measured.batch,
        measured.seq,
        measured.steps,
        measured.seconds,
        measured.tokens_per_s,
        measured.tflops,
        measured.gbytes_per_s,
        percent(measured.mfu),
        percent(measured.roof),
        measured.peak_bytes as f64 / 1e6
    )];
    lines.extend(measured.prefill_seconds.map(|seconds| format!("first tokens after {}", duration(seconds))));
    for phase in measured.ppo.iter().flat_map(|ppo| &ppo.phases) {
        let seconds: f64 = phase.samples.iter().sum();
        let share = percent(Some(seconds / measured.seconds));
        lines.push(format!("  {:<10}{:>10} an iteration, {share}", phase.name, duration(seconds / measured.steps as f64)));
    }
    lines
}

fn kernel_lines(measured: &kernels::Measured) -> Vec<String> {
    let mut lines = vec![format!("{}, {} sequences of {} tokens", measured.device, measured.batch, measured.seq)];
    lines.push(format!(
        "{:<24}{:>14}{:>10}{:>10}{:>10}{:>8}  kernels",
        "operator", "microseconds", "spread", "TFLOP/s", "GB/s", "roof %"
    ));
    lines.extend(measured.operators.iter().map(|row| {
        let tflops = if row.tflops > 0.0 { format!("{:.2}", row.tflops) } else { "-".into() };
        let roof = row.roof.map_or("-".into(), |share| format!("{:.1}", 100.0 * share));
        let (operator, micros, kernels) = (row.operator, row.seconds * 1e6, row.kernels.join(" "));
        let spread = row.spread.map_or("-".into(), |spread| format!("{:.1}", spread * 1e6));
        let line = format!("{operator:<24}{micros:>14.1}{spread:>10}{tflops:>10}{:>10.1}{roof:>8}  {kernels}", row.gbytes_per_s);
        line.trim_end().to_string()
    }));
    lines
}

fn comparison(path: &Path, found: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("against {}: medians, change with its 95 % interval, corrected p", path.display())];
    for line in &found.lines {
        let change = |ratio: f64| 100.0 * (ratio - 1.0);
        let verdict = match line.verdict {
            Verdict::Faster => "faster, beyond noise",
            Verdict::Slower => "slower, beyond noise",
            Verdict::WithinNoise => "within noise",
            Verdict::TooFewSamples => "too few samples to tell",
        };
        lines.push(format!(
            "{:<24}{:>12} -> {:<12}{:>+8.1} % [{:+.1}, {:+.1}]  p {:.1e}  {verdict}",
            line.name,
            duration(line.before),
            duration(line.after),
            change(line.ratio),
            change(line.low),
            change(line.high),
            line.p
        ));
    }
    lines.extend(found.new.iter().map(|name| format!("{name:<24}not measured there")));
    let [before, after] = found.peak_bytes;
    lines.push(format!("{:<24}{:>9.1} MB -> {:.1} MB", "peak memory", before as f64 / 1e6, after as f64 / 1e6));
    lines
}
