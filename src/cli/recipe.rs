//! `repairity recipe new` and `check`: writes a recipe, and tells whether this machine can run it.

use std::process::ExitCode;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(super::not_yet("recipe"))
    }
}
