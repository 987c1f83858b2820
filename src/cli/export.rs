//! `repairity export`: a trained adapter merged into its base model, for other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use repairity::checkpoint::Storage;
use repairity::export::{Options, export};
use repairity::telemetry::note;

/// The arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The base model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The adapter to merge, a PEFT folder; left out, the model itself gets a card, and another type where one is asked for
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// The folder to write; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The run that the model card tells of; left out, the run folder that the adapter lies in
    #[arg(long, value_name = "RUN_FOLDER")]
    run: Option<PathBuf>,
    /// The type of the weights; left out, the base model's own
    #[arg(long, value_enum)]
    dtype: Option<Type>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Type {
    Bf16,
    F16,
    F32,
}

impl Args {
    /// Writes the folder.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let dtype = self.dtype.map(|dtype| match dtype {
            Type::Bf16 => Storage::Bf16,
            Type::F16 => Storage::F16,
            Type::F32 => Storage::F32,
        });
        let Args { model, adapter, out, run, .. } = self;
        let alone = adapter.is_none();
        let exported = export(&Options { model, adapter, out: out.clone(), run, dtype })?;
        if alone {
            note("export: no --adapter, so nothing was merged: the weights are the model's own");
        }
        match &exported.run {
            Some(run) => note(&format!("export: the model card tells of {}", run.display())),
            None => note("export: no run is known, so the model card has no recipe, no data and no results; --run names one"),
        }
        let (gigabytes, files) = (exported.bytes as f64 / 1e9, exported.shards);
        note(&format!("export: wrote {}: {} tensors merged, {files} file(s), {gigabytes:.3} GB", out.display(), exported.merged));
        Ok(ExitCode::SUCCESS)
    }
}
