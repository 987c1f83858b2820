//! `repairity report`: writes what was measured as a page and as tables, and prints it in one of the tables' forms.

use std::io::Write;
use std::process::ExitCode;

use repairity::metric::table::{Format, render};
use repairity::report;

use super::{RecipeArgs, stage};

/// The arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// What is printed: markdown (the whole report), json, csv or latex (its tables)
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Markdown)]
    format: Format,
}

impl Args {
    /// Writes the report, unless it is done already, and prints it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = self.recipe.load()?;
        if self.format == Format::Markdown {
            return stage::run(&recipe, self.recipe.fresh, Some("report"), Some("report"));
        }
        if stage::advance(&recipe, self.recipe.fresh, Some("report"), Some("report"))? {
            std::io::stdout().write_all(render(&report::tables(&recipe)?, self.format).as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
