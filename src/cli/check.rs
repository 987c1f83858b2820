//! `repairity check`: a benchmark's own solutions, its bugs, or anyone's answers, judged in the sandbox.

mod defects4j;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use repairity::error::{Error, Result};
use repairity::problem::{self, Checker, Options};
use repairity::record::{self, Outcome, Problem, Verdict};
use repairity::sandbox::Mode;
use repairity::telemetry::{self, Progress, interrupt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::print_lines;

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["reference", "buggy", "answers"]))]
pub struct Args {
    /// The benchmark: mbpp, mbpp_plus, humaneval_fix, humaneval_plus, humaneval_java, quixbugs, quixbugs_java, bigcodebench,
    /// swebench, defects4j, micro, or folder: your own code, from a list of problems
    #[arg(long, value_name = "NAME")]
    suite: String,
    /// Its file or folder; micro needs none
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// bigcodebench: the prompt, complete or instruct
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// bigcodebench: full or hard
    #[arg(long, value_name = "NAME")]
    subset: Option<String>,
    /// bigcodebench: the version whose corrections the rows get
    #[arg(long = "data-version", value_name = "VERSION")]
    version: Option<String>,
    /// bigcodebench: the tasks taken, a file with an id a line
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// mbpp, humaneval_fix: EvalPlus' file; its inputs are tests too
    #[arg(long, value_name = "FILE")]
    extra_inputs: Option<PathBuf>,
    /// Judges its own solutions: each has to pass
    #[arg(long)]
    reference: bool,
    /// Judges its bugs: none may pass
    #[arg(long)]
    buggy: bool,
    /// Judges answers, JSONL: {"id", "answer"} a line; for swebench a predictions file, too
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// The first N problems only; micro makes 200 without it
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Programs run at once; 0 is the number of cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Where the verdicts go; left out, standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the problems that micro makes
    #[arg(long, value_name = "S", default_value_t = 17)]
    seed: u64,
    /// Runs programs with time and memory limits only
    #[arg(long)]
    no_sandbox: bool,
    /// swebench: a folder with a clone of each project, named owner__name; left out, `repos` beside the file
    #[arg(long, value_name = "DIR")]
    repos: Option<PathBuf>,
    /// swebench: what runs the tests in a checkout; {tests} is the tests' files, {labels} their dotted names
    #[arg(long, value_name = "COMMAND")]
    test_command: Option<String>,
    /// swebench: a folder that this command may read, its bin on the PATH: a virtual environment, an interpreter
    #[arg(long, value_name = "DIR")]
    reads: Vec<PathBuf>,
    #[command(flatten)]
    defects4j: defects4j::Options,
}

/// Problems that `micro` makes where no limit is given.
const MICRO: usize = 200;

/// A line of `--answers`. What else it carries is not looked at.
#[derive(Deserialize)]
struct Answer {
    #[serde(alias = "instance_id")]
    id: String,
    #[serde(alias = "model_patch")]
    answer: Option<String>,
}

/// A line of the output.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    #[serde(flatten)]
    verdict: &'a Verdict,
}

impl Args {
    /// Judges, prints a line for each program and then the counts.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let all = if self.suite == "micro" { MICRO } else { 0 };
        let limit = self.limit.map_or(all, NonZeroUsize::get);
        let options = Options {
            variant: self.variant.clone(),
            subset: self.subset.clone(),
            version: self.version.clone(),
            ids: self.ids.clone(),
            extra_inputs: self.extra_inputs.clone(),
            repos: self.repos.clone(),
            test_command: self.test_command.clone(),
            reads: self.reads.clone(),
        };
        let problems = match self.suite.as_str() {
            "defects4j" => self.defects4j.load(self.path.as_deref(), limit, self.jobs())?,
            suite => {
                self.defects4j.refuse(suite)?;
                problem::load(suite, self.path.as_deref(), self.seed, limit, &options)?
            }
        };
        let answers = match &self.answers {
            Some(path) => read_answers(path, &problems, self.limit.is_some())?,
            None => Vec::new(),
        };
        let checker = self.checker()?;
        let (items, lacking) = apart(&checker, self.items(&problems, &answers));
        let verdicts = judge(checker, &items)?;

        let lines: Vec<Line> = items.iter().zip(&verdicts).map(|((p, _), verdict)| Line { id: &p.id, verdict }).collect();
        let mut counts = self.counts(&problems, &items, &lacking, &verdicts);
        for (reason, ids) in &lacking {
            counts += &format!("; {reason}: {} problems not judged", ids.len());
        }
        if let Some(summary) = defects4j::summary(&items, &verdicts) {
            counts = format!("{counts}\n{summary}");
        }
        match &self.output {
            Some(path) => {
                record::write_jsonl(path, &lines)?;
                print_lines([counts])?;
            }
            // Standard output stays JSONL.
            None => {
                print_lines(lines.iter().map(|line| json!(line).to_string()))?;
                telemetry::note(&counts);
            }
        }
        let passed = verdicts.iter().filter(|v| v.verdict == Outcome::Pass).count();
        let good = if self.buggy { passed == 0 } else { passed == verdicts.len() };
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The programs to run. A problem without a solution, or without a bug, has none.
    fn items<'a>(&self, problems: &'a [Problem], answers: &'a [(&'a Problem, String)]) -> Vec<(&'a Problem, &'a str)> {
        let own = |code: fn(&Problem) -> Option<&String>| {
            problems.iter().filter_map(move |p| Some((p, code(p)?.as_str()))).collect::<Vec<_>>()
        };
        if self.reference {
            own(|p| p.reference.as_ref())
        } else if self.buggy {
            own(|p| p.buggy.as_ref())
        } else {
            answers.iter().map(|(p, answer)| (*p, answer.as_str())).collect()
        }
    }

    fn jobs(&self) -> usize {
        match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        }
    }

    fn checker(&self) -> Result<Checker> {
        let mode = if self.no_sandbox { Mode::None } else { Mode::Strict };
        Ok(Checker::new(mode, self.jobs())?.with_stop(interrupt::flag()))
    }

    /// `163 of 164 pass: 1 fail, 0 timeout, 0 memory, 0 error, 0 refused`, and what could not be judged.
    fn counts(&self, problems: &[Problem], items: &[(&Problem, &str)], lacking: &Lacking<'_>, verdicts: &[Verdict]) -> String {
        let count = |outcome| verdicts.iter().filter(|v| v.verdict == outcome).count();
        let mut text = format!(
            "{} of {} pass: {} fail, {} timeout, {} memory, {} error, {} refused",
            count(Outcome::Pass),
            verdicts.len(),
            count(Outcome::Fail),
            count(Outcome::Timeout),
            count(Outcome::Memory),
            count(Outcome::Error),
            count(Outcome::Refused)
        );
        let judged = items.iter().map(|(p, _)| p.id.as_str());
        let judged: HashSet<&str> = judged.chain(lacking.values().flatten().copied()).collect();
        let without = problems.iter().filter(|p| !judged.contains(p.id.as_str())).count();
        if without > 0 {
            let what = if self.reference {
                "solution"
            } else if self.buggy {
                "bug"
            } else {
                "answer"
            };
            text += &format!("; {without} problems without {what}");
        }
        text
    }
}

/// Ids of problems that cannot be judged here, by what lacks.
type Lacking<'a> = BTreeMap<String, Vec<&'a str>>;

/// Takes out what this machine has no toolchain for.
fn apart<'a>(checker: &Checker, items: Vec<(&'a Problem, &'a str)>) -> (Vec<(&'a Problem, &'a str)>, Lacking<'a>) {
    let (mut judged, mut lacking) = (Vec::new(), Lacking::new());
    for (problem, code) in items {
        match checker.lacks(problem) {
            None => judged.push((problem, code)),
            Some(reason) => lacking.entry(reason).or_default().push(problem.id.as_str()),
        }
    }
    (judged, lacking)
}

fn judge(checker: Checker, items: &[(&Problem, &str)]) -> Result<Vec<Verdict>> {
    let progress = Progress::new("check", items.len() as u64).rated("checks");
    let verdicts = checker.check_all(items, &|done| progress.set(done as u64, ""))?;
    progress.finish("");
    Ok(verdicts)
}

/// The answers with their problems, in the file's order. An id that the benchmark does not have is an error,
/// unless `--limit` cut the benchmark.
fn read_answers<'a>(path: &Path, problems: &'a [Problem], cut: bool) -> Result<Vec<(&'a Problem, String)>> {
    let by_id: HashMap<&str, &Problem> = problems.iter().map(|p| (p.id.as_str(), p)).collect();
    let mut answers = Vec::new();
    for (index, answer) in record::read_jsonl::<Answer>(path)?.into_iter().enumerate() {
        match by_id.get(answer.id.as_str()) {
            Some(problem) => answers.push((*problem, answer.answer.unwrap_or_default())),
            None if cut => {}
            None => {
                let what = format!("record {}: the benchmark has no problem `{}`", index + 1, answer.id);
                return Err(Error::input(path.display(), what));
            }
        }
    }
    Ok(answers)
}
