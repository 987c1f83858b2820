//! `repairity completions` and `man`: what shells and the manual know of the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;
use repairity::convert::FORMATS;
use repairity::error::{Error, Result};
use repairity::problem::SUITES;
use repairity::record::write_atomic;

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
        let mut command = super::command().disable_help_subcommand(true);
        command.build();
        let Some(folder) = self.out else { return print(&page(&command)?) };
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        write_pages(&command, &folder)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A file for a command, and for each of its subcommands.
fn write_pages(command: &Command, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{}.1", name(command)));
    let bytes = page(command).map_err(|e| Error::io(&path, e))?;
    write_atomic(&path, &bytes)?;
    command.get_subcommands().try_for_each(|sub| write_pages(sub, folder))
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// The manual's page of a command. What its help ends with is set by hand: tables and examples keep their lines.
fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let version = format!("repairity {}", env!("CARGO_PKG_VERSION"));
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    let bare = command.clone().after_help(None::<&str>);
    Man::new(bare).source(version).manual("repairity").render(&mut page)?;
    if !notes.is_empty() {
        page.extend_from_slice(b".SH NOTES\n");
    }
    let mut kept = false;
    for line in notes.lines() {
        let as_it_is = line.starts_with("  ");
        if as_it_is != kept {
            page.extend_from_slice(if as_it_is { b".nf\n" } else { b".fi\n" });
            kept = as_it_is;
        }
        match line {
            "" => page.extend_from_slice(b".PP\n"),
            line => writeln!(page, "\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))?,
        }
    }
    if kept {
        page.extend_from_slice(b".fi\n");
    }
    Ok(page)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text).map_err(|e| Error::io("standard output", e))?;
    Ok(ExitCode::SUCCESS)
}
