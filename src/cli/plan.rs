//! `repairity plan`: what a recipe needs of a machine, before it runs.

use std::path::PathBuf;
use std::process::ExitCode;

use repairity::device::cuda::gpu;
use repairity::error::{Error, Result};
use repairity::plan::cards::{Card, Machine};
use repairity::plan::{Models, Question, STAGES, shapes, table};
use repairity::recipe::Recipe;
use repairity::telemetry::note;

use super::print_lines;

/// The arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Sets one of its keys: --set sft.recompute=block
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// The GPU; left out, this machine's, or h100-80gb
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Card::names()))]
    gpu: Option<String>,
    /// GPUs of a node; left out, the recipe's
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: usize,
    /// One stage alone
    #[arg(long, value_name = "STAGE", value_parser = clap::builder::PossibleValuesParser::new(STAGES))]
    stage: Option<String>,
    /// Tokens of a prompt that is answered; left out, what sft.max_tokens leaves beside the answer
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// One line a stage
    #[arg(long, conflicts_with = "json")]
    brief: bool,
}

impl Args {
    /// Prints the plan. What does not fit is an error, after the plan was printed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = Recipe::load(&self.recipe, &self.sets)?;
        let machine = Machine { card: self.card()?, gpus: self.gpus.unwrap_or(recipe.gpus), nodes: self.nodes };
        for (flag, value) in
            [("--gpus", machine.gpus), ("--nodes", machine.nodes), ("--prompt-tokens", self.prompt_tokens.unwrap_or(1))]
        {
            if value == 0 {
                return Err(Error::input(flag, "a number of at least 1 expected").into());
            }
        }
        let stages: Vec<&'static str> =
            STAGES.into_iter().filter(|stage| self.stage.as_deref().is_none_or(|only| only == *stage)).collect();
        let shape = |key: &str, folder: &PathBuf| -> Result<_> {
            let known = shapes::of(folder)?;
            if known.built_in {
                note(&format!("{key}: {} is not here; planned with the published shape of that name", folder.display()));
            }
            Ok(known.config)
        };
        let models =
            Models { policy: shape("policy.model", &recipe.policy.model)?, reward: shape("reward.model", &recipe.reward.model)? };
        let plan = Question { recipe, models, machine, prompt: self.prompt_tokens }.answer(&stages)?;
        match (self.json, self.brief) {
            (true, _) => print_lines([serde_json::to_string(&plan)?])?,
            (_, true) => print_lines(table::brief(&plan))?,
            _ => print_lines(table::lines(&plan))?,
        }
        match plan.refusal() {
            Some(why) => Err(Error::Machine(why).into()),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    fn card(&self) -> Result<Card> {
        let here = || Card::of_driver(&gpu::list().ok()?.first()?.name);
        let named = self.gpu.as_deref().and_then(Card::find).or_else(here).or_else(|| Card::find("h100-80gb"));
        named.ok_or_else(|| Error::input("--gpu", format!("one of {} expected", Card::names().join(", "))))
    }
}
