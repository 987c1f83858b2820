//! `repairity run`: the stages of a recipe, in order.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use repairity::run::{Runner, STAGES};

use super::{RecipeArgs, stage};

/// The arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// The first stage to run; those before it are taken as they are
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES))]
    from: Option<String>,
    /// The last stage to run
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(STAGES))]
    until: Option<String>,
}

impl Args {
    /// Runs every stage between `--from` and `--until` that is not done already.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = self.recipe.load()?;
        let first = self.from.as_deref().unwrap_or(STAGES[0]);
        stage::ready(first)?;
        let mut runner = Runner::open(&recipe, self.recipe.fresh)?.between(self.from.as_deref(), self.until.as_deref())?;
        for name in STAGES {
            stage::run(name, &recipe, &mut runner)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
