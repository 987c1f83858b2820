//! `repairity export`: a trained adapter merged into its base model, for other programs.

use std::process::ExitCode;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(super::not_yet("export"))
    }
}
