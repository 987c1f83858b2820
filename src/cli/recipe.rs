//! `repairity recipe new` and `check`: writes a recipe, and tells whether this machine can run it.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use repairity::error::{Error, Result};
use repairity::problem::SUITES;
use repairity::recipe::{Provider, Recipe};
use repairity::record::write_atomic;
use repairity::setup::{self, Dialogue, Found, Given, Goal, Here, Standing};
use repairity::telemetry::interrupt;

use super::{print_lines, stage};

/// The arguments of `recipe`.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes a recipe for a benchmark, a model and this machine; asks, on a terminal, for what is not given
    #[command(
        after_help = "Without a terminal --suite, --path, --model and --teacher have to be given. Settings are chosen by the \
        model's size and the memory there is, and the recipe says why.\n\n\
        Examples:\n  \
        repairity recipe new\n  \
        repairity recipe new mine.toml --suite folder --path problems.toml --model models/Qwen2.5-Coder-7B-Instruct\n  \
        repairity recipe new micro.toml --suite micro --model assets/micro-base --reward-model assets/micro-reward --teacher scripted\n  \
        repairity recipe new measure.toml --suite quixbugs --path data/quixbugs_python.jsonl \
        --model models/Qwen2.5-Coder-0.5B-Instruct --stages evaluate --force"
    )]
    New(NewArgs),
    /// Tells whether this machine can run a recipe: files, models, teacher, sandbox, toolchains, memory, disk
    #[command(
        after_help = "A line a finding: ok; warn, which runs and is worth a look; missing, which does not run here. Nothing is \
        written and nobody is asked. Exit code 0: it runs here; 1: it does not; 2: the recipe itself is wrong.\n\n\
        Examples:\n  \
        repairity recipe check recipes/quickstart.toml\n  \
        repairity recipe check recipes/mbpp-7b.toml --set problems.path=data/mbpp.jsonl --set device=cpu"
    )]
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Where it is written
    #[arg(value_name = "OUTPUT", default_value = "recipe.toml")]
    output: PathBuf,
    /// The benchmark
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SUITES))]
    suite: Option<String>,
    /// Its file or folder; micro needs none
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// The model that is trained, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// What the reward model starts from; left out, the model
    #[arg(long, value_name = "DIR")]
    reward_model: Option<PathBuf>,
    /// How the teacher is reached
    #[arg(long, value_name = "PROVIDER", value_enum)]
    teacher: Option<Teacher>,
    /// recorded: the file of its answers
    #[arg(long, value_name = "FILE")]
    teacher_file: Option<PathBuf>,
    /// GPUs of the machine; left out, all that are here
    #[arg(long, value_name = "N")]
    gpus: Option<usize>,
    /// How far it goes: all stages, up to the fine-tuned model, or measuring alone
    #[arg(long, value_name = "STAGES", value_parser = PossibleValuesParser::new(Goal::NAMES))]
    stages: Option<String>,
    /// Replaces a file that is there
    #[arg(long)]
    force: bool,
}

/// `--teacher`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Teacher {
    /// Anthropic's API
    Anthropic,
    /// A server with Chat Completions
    Openai,
    /// A file of stored answers
    Recorded,
    /// The program that knows micro's solutions
    Scripted,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Sets one of its keys: --set policy.model=models/mine
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::New(args) => args.run(),
            Command::Check(args) => args.run(),
        }
    }
}

impl NewArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.output.exists() && !self.force {
            return Err(Error::input(self.output.display(), "it is there already; --force replaces it").into());
        }
        let given = Given {
            suite: self.suite,
            path: self.path,
            model: self.model,
            reward_model: self.reward_model,
            teacher: self.teacher.map(|teacher| match teacher {
                Teacher::Anthropic => Provider::Anthropic,
                Teacher::Openai => Provider::OpenAi,
                Teacher::Recorded => Provider::Recorded,
                Teacher::Scripted => Provider::Scripted,
            }),
            teacher_file: self.teacher_file,
            gpus: self.gpus,
            goal: self.stages.as_deref().map(Goal::named).transpose()?,
        };
        let here = Here::look()?;
        let answers = match std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            true => setup::ask(&given, &here, Some(&mut Dialogue { next: &mut typed(), out: &mut std::io::stderr() }))?,
            false => setup::ask(&given, &here, None)?,
        };
        let text = setup::write(&answers, &here, &self.output)?;
        interrupt::check()?;
        write_atomic(&self.output, text.as_bytes())?;
        let next = setup::commands(&answers, &self.output).into_iter().map(|command| format!("  {command}"));
        print_lines([format!("wrote {}; next:", self.output.display())].into_iter().chain(next))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Lines that a person types. Ctrl-C ends the wait for one, which reading itself would not notice.
fn typed() -> impl FnMut() -> Result<Option<String>> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    move || loop {
        interrupt::check()?;
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => return line.map(Some).map_err(|e| Error::io("standard input", e)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl CheckArgs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let recipe = Recipe::load(&self.recipe, &self.sets)?;
        let specs: Vec<_> = setup::stages(&recipe).into_iter().map(|name| stage::spec(name, &recipe)).collect();
        let found = setup::check(&recipe, &specs, &Here::look()?)?;
        let width = found.iter().map(|one| one.what.len()).max().unwrap_or(0);
        let mark = |standing| match standing {
            Standing::Ok => "ok",
            Standing::Warn => "warn",
            Standing::Missing => "missing",
        };
        print_lines(
            found.iter().map(|Found { standing, what, found }| format!("{:<7} {what:width$}  {found}", mark(*standing))),
        )?;
        let usable = found.iter().all(|one| one.standing != Standing::Missing);
        Ok(if usable { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
