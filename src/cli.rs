//! The subcommands, one file each. The only place that knows about terminals and exit codes.

mod bench;
mod check;
mod convert;
mod compare;
mod complete;
mod device;
mod doctor;
mod examples;
mod export;
mod generate;
mod plan;
mod profile;
mod recipe;
mod repair;
mod report;
mod run;
mod score;
mod serve;
mod stage;
mod swebench;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use repairity::error::{Error, Result};
use repairity::recipe::Recipe;

/// Turns an open code model into a program-repair model.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted (state saved).\n\
    Results go to standard output, progress to standard error.")]
pub struct Cli {
    /// No progress and no notes on standard error; errors stay
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Says more on standard error: the device, models, data, memory, checkpoints, and the numbers of each step
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the stages of a recipe; what is unchanged since the last run is skipped
    Run(run::Args),
    /// One stage: trains a small base model from nothing
    Pretrain(stage::Args),
    /// One stage: loads, vets and splits the benchmark
    Problems(stage::Args),
    /// One stage: asks the teacher for reasoning traces
    Collect(stage::Args),
    /// One stage: keeps the traces whose fix passes the tests
    Filter(stage::Args),
    /// One stage: trains the policy on the traces
    Sft(stage::Args),
    /// One stage: samples fixes from the trained policy
    Candidates(stage::Args),
    /// One stage: lets the teacher compare the candidates
    Judge(stage::Args),
    /// One stage: trains the reward model on the comparisons
    Reward(stage::Args),
    /// One stage: optimises the policy against the reward model
    Ppo(stage::Args),
    /// One stage: measures the models on held-out problems
    Evaluate(stage::Args),
    /// One stage: writes what was measured as tables
    Report(report::Args),
    /// Fixes one program: the reasoning, a diff, and what its tests say
    Repair(Box<repair::Args>),
    /// Answers over HTTP as OpenAI's API does, on this machine
    Serve(serve::Args),
    /// Merges an adapter into its model: a folder in the Hugging Face layout, with a model card
    Export(export::Args),
    /// Samples text from a model
    Generate(generate::Args),
    /// Log-probabilities of given tokens, or rewards
    Score(score::Args),
    /// Judges a benchmark's own solutions, its bugs, or anyone's answers, in the sandbox
    Check(Box<check::Args>),
    /// SWE-bench: prompts for its issues, predictions from answers, the official harness
    Swebench(swebench::Args),
    /// Writes training data in another form: TRL's, OpenThoughts', ShareGPT's, Open-R1's, or this program's
    Convert(convert::Args),
    /// Compares models by the verdicts on their answers: pass@k, compiling answers, BLEU, and whether they differ by more than chance
    Compare(compare::Args),
    /// Tells what a recipe needs of a machine: memory, and the least time, before anything runs
    Plan(plan::Args),
    /// Measures training, decoding, PPO and every operator on this machine
    Bench(bench::Args),
    /// Tells where the time of a stage's steps goes, operator by operator and kernel by kernel
    Profile(profile::Args),
    /// Tells what this machine has and lacks
    Doctor(doctor::Args),
    /// Writes a recipe, or tells whether this machine can run one
    Recipe(recipe::Args),
    /// Prints completions for a shell
    Completions(complete::Args),
    /// Prints the manual's page, or writes a page for each subcommand
    Man(complete::ManArgs),
}

/// A recipe, and what the command line changes in it.
#[derive(Debug, Args)]
struct RecipeArgs {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Sets one of its keys: --set sft.learning_rate=5e-6
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Runs again what is already done, from its start
    #[arg(long)]
    fresh: bool,
}

impl RecipeArgs {
    fn load(&self) -> Result<Recipe> {
        Recipe::load(&self.recipe, &self.sets)
    }
}

/// The command line as shells, the manual and people see it.
fn command() -> clap::Command {
    examples::add(Cli::command())
}

impl Cli {
    /// What the process was called with; asked for help, or called wrongly, the process ends here.
    pub fn of_process() -> Cli {
        let matches = command().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the subcommand. The code is 0, or 1 where the work was done and its answer is no.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => args.run(),
            Command::Pretrain(args) => args.run("pretrain"),
            Command::Problems(args) => args.run("problems"),
            Command::Collect(args) => args.run("collect"),
            Command::Filter(args) => args.run("filter"),
            Command::Sft(args) => args.run("sft"),
            Command::Candidates(args) => args.run("candidates"),
            Command::Judge(args) => args.run("judge"),
            Command::Reward(args) => args.run("reward"),
            Command::Ppo(args) => args.run("ppo"),
            Command::Evaluate(args) => args.run("evaluate"),
            Command::Report(args) => args.run(),
            Command::Generate(args) => args.run(),
            Command::Score(args) => args.run(),
            Command::Check(args) => args.run(),
            Command::Swebench(args) => args.run(),
            Command::Convert(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Repair(args) => args.run(),
            Command::Serve(args) => args.run(),
            Command::Export(args) => args.run(),
            Command::Recipe(args) => args.run(),
            Command::Completions(args) => args.run(),
            Command::Man(args) => args.run(),
            Command::Plan(args) => args.run(),
            Command::Profile(args) => args.run(),
            Command::Doctor(args) => args.run(),
        }
    }
}

/// Results, one a line, on standard output.
fn print_lines(lines: impl IntoIterator<Item = String>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    lines.into_iter().try_for_each(|line| writeln!(out, "{line}")).map_err(|e| Error::io("standard output", e))
}
