//! `repairity profile`: where the time of a stage's steps goes.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use repairity::device::Device;
use repairity::device::cuda::gpu;
use repairity::device::record::Recorder;
use repairity::error::{Error, Result};
use repairity::profile::{self, STAGES, table};
use repairity::recipe::Recipe;
use repairity::telemetry::nvml::Sampler;
use repairity::telemetry::{note, trace};

use super::device::{self, Chosen, on};
use super::print_lines;

/// The arguments of `profile`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One step warms up; those after it are recorded. On a CPU the table has a line for each operator. On a GPU each \
    kernel has one below its operator, and its time is that between two events, one before it and one behind it: where the GPU waits \
    for the host, that includes a launch's way. TFLOP/s and GB/s count what the operator has to compute and to move at least; roof is \
    the least time that the device's arithmetic and memory allow over the time taken. Recording costs time: `repairity bench` tells \
    the speed. CUDA graphs are off while it records. Of several GPUs one is profiled, alone.\n\n\
    Data that the recipe's run has not made yet are replaced by random tokens of the greatest lengths; ppo always takes random \
    prompts. Nothing is written but the trace, which ui.perfetto.dev shows.\n\n\
    Examples:\n  \
    repairity profile recipes/quickstart.toml\n  \
    repairity profile recipes/mbpp-7b.toml --steps 5 --trace trace.json\n  \
    repairity profile recipes/mbpp-7b.toml --stage ppo --set ppo.prompts_per_iteration=8 --steps 1 --trace ppo.json"
)]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Sets one of its keys: --set sft.max_tokens=1024
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Which stage
    #[arg(long, value_name = "STAGE", default_value = "sft", value_parser = clap::builder::PossibleValuesParser::new(STAGES))]
    stage: String,
    /// Steps that are recorded, or iterations of ppo
    #[arg(long, value_name = "N", default_value_t = 3)]
    steps: usize,
    /// Where a trace for Perfetto goes
    #[arg(long, value_name = "F.json")]
    trace: Option<PathBuf>,
}

impl Args {
    /// Prints where the time went.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.steps == 0 {
            return Err(Error::input("--steps", "a number of at least 1 expected").into());
        }
        let recipe = Recipe::load(&self.recipe, &self.sets)?;
        if let Some(path) = &self.trace {
            writable(path)?;
        }
        let recorder = Arc::new(Recorder::default());
        let chosen = device::open(recipe.device, 0)?.deterministic(recipe.deterministic);
        let sampler = match &chosen {
            Chosen::Cpu(_) => Err("no GPU computes".to_string()),
            Chosen::Cuda(_) => gpu::uuid(0).map_err(|e| e.to_string()).and_then(|uuid| Sampler::start(&uuid, recorder.clone())),
        };
        on!(chosen, device => {
            let device = device.recording(recorder.clone())?;
            self.profile(&device, &recorder, &recipe, sampler)
        })
    }

    fn profile<D: Device>(
        &self,
        device: &D,
        recorder: &Recorder,
        recipe: &Recipe,
        sampler: std::result::Result<Sampler, String>,
    ) -> anyhow::Result<ExitCode> {
        let spans = profile::run(device, recorder, recipe, &self.stage, self.steps)?;
        let found = profile::of_spans(device, &self.stage, &spans);
        // What was read before the first step is not of the steps.
        let begin = spans.first().map_or(0.0, |span| span.begin);
        let gpu = sampler.map(|sampler| {
            let readings = sampler.stop();
            readings.into_iter().filter(|reading| reading.at >= begin).collect::<Vec<_>>()
        });
        if let Some(path) = &self.trace {
            trace::write(path, &spans, gpu.as_deref().unwrap_or_default(), &device.name())?;
            note(&format!("wrote {}", path.display()));
        }
        print_lines(table::lines(&found, &gpu))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A trace that cannot be written is known before anything is run.
fn writable(path: &Path) -> Result<()> {
    let there = path.exists();
    OpenOptions::new().append(true).create(true).open(path).map_err(|e| Error::input(path.display(), e))?;
    if !there {
        std::fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    }
    Ok(())
}
