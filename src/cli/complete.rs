//! `repairity completions` and `man`: what shells and the manual know of the command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;
use repairity::convert::FORMATS;
use repairity::error::Error;
use repairity::problem::SUITES;

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    /// Prints a script that the shell reads.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut with_values(super::command()), "repairity", &mut script);
        print(&script)
    }
}

/// Lists what may stand where the program itself reads a name, so that its complaint about a wrong one can say more than clap's.
fn with_values(command: Command) -> Command {
    let forms = || PossibleValuesParser::new(FORMATS.map(|(name, _)| name).into_iter().chain(["auto"]));
    let suites = || PossibleValuesParser::new(SUITES);
    command
        .mut_subcommand("check", |sub| sub.mut_arg("suite", |arg| arg.value_parser(suites())))
        .mut_subcommand("compare", |sub| sub.mut_arg("suite", |arg| arg.value_parser(suites())))
        .mut_subcommand("convert", |sub| {
            sub.mut_arg("to", |arg| arg.value_parser(forms())).mut_arg("from", |arg| arg.value_parser(forms()))
        })
}

/// The arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Writes a page for each subcommand there; left out, the main page goes to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl ManArgs {
    /// Writes the pages.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.out {
            None => {
                let mut page = Vec::new();
                Man::new(super::command()).render(&mut page)?;
                print(&page)
            }
            Some(folder) => {
                std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
                clap_mangen::generate_to(super::command(), &folder).map_err(|e| Error::io(&folder, e))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text).map_err(|e| Error::io("standard output", e))?;
    Ok(ExitCode::SUCCESS)
}
