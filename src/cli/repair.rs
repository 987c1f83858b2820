//! `repairity repair`: one broken program, its tests, and a fix that passes them.

use std::process::ExitCode;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        Err(super::not_yet("repair"))
    }
}
