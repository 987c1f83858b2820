//! `repairity swebench`: prompts for its issues, predictions from answers, and the official harness.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use repairity::error::{Error, Result};
use repairity::problem::swebench::harness::{Evaluation, Prediction};
use repairity::problem::swebench::{self, Settings};
use repairity::prompt::user_text;
use repairity::record::{self, Outcome, Problem};
use repairity::telemetry;
use serde::Deserialize;
use serde_json::json;

use super::print_lines;

/// The arguments of `swebench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes what a model is asked for each issue: {"id", "prompt"} a line, as `generate --input` reads
    Prompts {
        #[command(flatten)]
        rows: Rows,
        /// Where the prompts go; left out, standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Makes a predictions file of a model's texts: finds the patch in each
    Predict {
        #[command(flatten)]
        rows: Rows,
        /// The texts, JSONL: {"id", "text"} or {"id", "answer"} a line
        #[arg(long, value_name = "FILE")]
        answers: PathBuf,
        /// The model's name in the predictions
        #[arg(long, value_name = "NAME")]
        model: String,
        /// The predictions file, JSONL: {"instance_id", "model_name_or_path", "model_patch"} a line
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Judges a predictions file with the official harness (Python's swebench, Docker)
    Evaluate {
        /// The data set's name on the hub, or a file of its rows
        #[arg(long, value_name = "NAME", default_value = "princeton-nlp/SWE-bench_Verified")]
        dataset: String,
        /// The predictions file
        #[arg(long, value_name = "FILE")]
        predictions: PathBuf,
        /// Containers run at once
        #[arg(long, value_name = "N", default_value = "4")]
        workers: NonZeroUsize,
        /// Seconds for one problem's tests
        #[arg(long, value_name = "S", default_value_t = 1800)]
        timeout: u64,
        /// The interpreter that has the package `swebench`
        #[arg(long, value_name = "PROGRAM", default_value = "python3")]
        python: String,
        /// Where the harness works: its logs and reports go there
        #[arg(long, value_name = "DIR", default_value = "swebench-runs")]
        folder: PathBuf,
        /// Where the verdicts go; left out, standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Where the problems come from.
#[derive(Debug, clap::Args)]
pub struct Rows {
    /// The data set's rows: JSONL, JSON or Parquet
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// A folder with a clone of each project, named owner__name: prompts show files from it
    #[arg(long, value_name = "DIR")]
    repos: Option<PathBuf>,
    /// Tokens of files in a prompt at most, three bytes counted as one
    #[arg(long, value_name = "N", default_value_t = 6000)]
    tokens: usize,
    /// The first N problems only
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
}

impl Rows {
    fn read(&self) -> Result<Vec<Problem>> {
        let settings = Settings { repos: self.repos.clone(), tokens: self.tokens, ..Settings::default() };
        swebench::read(&self.path, self.limit.map_or(0, NonZeroUsize::get), &settings)
    }
}

/// A line of `--answers`.
#[derive(Deserialize)]
struct Text {
    #[serde(alias = "instance_id")]
    id: String,
    text: Option<String>,
    answer: Option<String>,
}

impl Args {
    /// Does what was asked. The code is 1 where a judged prediction does not resolve its issue.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Prompts { rows, output } => {
                let lines: Vec<_> = rows.read()?.iter().map(|p| json!({"id": p.id, "prompt": user_text(p, "")})).collect();
                write(output, &lines, &format!("{} prompts", lines.len()))?;
            }
            Command::Predict { rows, answers, model, output } => {
                let problems = rows.read()?;
                let by_id: HashMap<&str, &Problem> = problems.iter().map(|p| (p.id.as_str(), p)).collect();
                let (mut predictions, mut empty) = (Vec::new(), 0);
                for (index, line) in record::read_jsonl::<Text>(&answers)?.into_iter().enumerate() {
                    let Some(problem) = by_id.get(line.id.as_str()) else {
                        if rows.limit.is_some() {
                            continue;
                        }
                        let what = format!("record {}: the rows have no problem `{}`", index + 1, line.id);
                        return Err(Error::input(answers.display(), what).into());
                    };
                    let Some(text) = line.text.or(line.answer) else {
                        return Err(Error::input(
                            answers.display(),
                            format!("record {}: `text` or `answer` is expected", index + 1),
                        )
                        .into());
                    };
                    let patch = swebench::patch_of(problem, &text)?.unwrap_or_else(|what| {
                        telemetry::note(&format!("{}: {what}", line.id));
                        String::new()
                    });
                    empty += usize::from(patch.is_empty());
                    predictions.push(Prediction {
                        instance_id: line.id,
                        model_name_or_path: model.clone(),
                        model_patch: Some(patch),
                    });
                }
                record::write_jsonl(&output, &predictions)?;
                print_lines([format!("{} predictions, {empty} of them empty, in {}", predictions.len(), output.display())])?;
            }
            Command::Evaluate { dataset, predictions, workers, timeout, python, folder, output } => {
                let evaluation = Evaluation { dataset, predictions, workers: workers.get(), timeout_s: timeout, python, folder };
                let graded = evaluation.run()?;
                let count = |outcome| graded.iter().filter(|one| one.verdict == outcome).count();
                let counts = format!(
                    "{} of {} resolved: {} unresolved, {} empty, {} error",
                    count(Outcome::Pass),
                    graded.len(),
                    count(Outcome::Fail),
                    count(Outcome::Refused),
                    count(Outcome::Error)
                );
                let lines: Vec<_> = graded.iter().map(|one| json!(one)).collect();
                write(output, &lines, &counts)?;
                if count(Outcome::Pass) < graded.len() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Lines to a file and the note to standard output, or the lines to standard output and the note beside it.
fn write(output: Option<PathBuf>, lines: &[serde_json::Value], note: &str) -> Result<()> {
    match output {
        Some(path) => {
            record::write_jsonl(&path, lines)?;
            print_lines([note.to_owned()])
        }
        None => {
            print_lines(lines.iter().map(ToString::to_string))?;
            telemetry::note(note);
            Ok(())
        }
    }
}
