//! `repairity doctor`: what this machine has and lacks.

use std::process::ExitCode;

use repairity::doctor;

use super::print_lines;

/// `doctor` takes no arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

impl Args {
    /// Prints a line for each thing that was looked at.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let findings = doctor::examine()?;
        let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
        let mark = |good| if good { "yes" } else { "no " };
        print_lines(findings.iter().map(|f| format!("{} {:width$}  {}", mark(f.good), f.what, f.found)))?;
        Ok(ExitCode::SUCCESS)
    }
}
