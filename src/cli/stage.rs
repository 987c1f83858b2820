//! `repairity collect`, `filter`, `sft`, ...: one stage of a run.

use std::process::ExitCode;

use repairity::recipe::Recipe;
use repairity::run::Runner;

use super::{RecipeArgs, not_yet};

/// The arguments of every stage.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
}

impl Args {
    /// Runs one stage, unless it is done already.
    pub fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let recipe = self.recipe.load()?;
        ready(name)?;
        let mut runner = Runner::open(&recipe, self.recipe.fresh)?.between(Some(name), Some(name))?;
        run(name, &recipe, &mut runner)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Says which stages this version lacks before a run folder is made.
pub fn ready(name: &str) -> anyhow::Result<()> {
    Err(not_yet(name))
}

/// The body of each stage.
pub fn run(name: &str, _recipe: &Recipe, _runner: &mut Runner) -> anyhow::Result<()> {
    Err(not_yet(name))
}
