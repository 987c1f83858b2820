//! `repairity run`: the stages of a recipe, in order.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use repairity::run::STAGES;

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
        stage::run(&recipe, self.recipe.fresh, self.from.as_deref(), self.until.as_deref())
    }
}
