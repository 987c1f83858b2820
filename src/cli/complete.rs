//! `repairity completions` and `man`: what shells and the manual know of the command line.

use std::process::ExitCode;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(super::not_yet("completions"))
    }
}
