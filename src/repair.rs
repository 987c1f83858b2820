//! One broken program, its tests, and a fix that passes them: the file is checked, a model is asked several times, every answer is
//! put into the file and checked in the sandbox, and the answers are ranked.
//!
//! [`Report`] is what `repairity repair --json` prints, one object:
//!
//! ```json
//! {"file": "calc.py", "language": "python", "model": "assets/micro-base", "adapter": null, "reward_model": null,
//!  "before": {"verdict": "fail", "reason": "test 1 of 2: ...", "compiled": true, "seconds": 0.05},
//!  "already_passing": false, "passing": 1, "best": 2, "written": false,
//!  "samples": [
//!    {"rank": 1, "index": 2, "verdict": {"verdict": "pass", "reason": "", "compiled": true, "seconds": 0.05},
//!     "tests_passed": null, "reward": null, "same_as": null, "unchanged": false, "tokens": 93, "ended": true,
//!     "reasoning": "...", "answer": "def add(a, b): ...", "diff": "--- a/calc.py\n+++ b/calc.py\n..."}]}
//! ```
//!
//! `samples` stand by rank. `best` is the `index` of the first one if it passes, else null. A verdict is `pass`, `fail`, `timeout`,
//! `memory`, `error` or `refused` (no code). `tests_passed` is known of some answers that fail: `[passed, of]`. `same_as` is the
//! `index` of an earlier sample with the same code; `unchanged` says that the code is the file's own. `tokens` counts what the model
//! wrote, `ended` is false where it was cut by the limit. Where the file passes already there are no samples.

mod diff;
mod rank;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::checkpoint::Tensors;
use crate::device::{Device, Sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Request};
use crate::model::{Adapter, Decoder};
use crate::problem::check::BYTE_ORDER_MARK;
use crate::problem::own::{self, Own, OwnProblem};
use crate::problem::{self, Checker};
use crate::prompt;
use crate::record::{self, Message, Outcome, Verdict};
use crate::rng::key;
use crate::score::RewardModel;
use crate::stage::sft::check_vocabulary;
use crate::telemetry::{Progress, interrupt};
use crate::tokenizer::Tokenizer;

pub use diff::{unified, with_answer};

/// A file to repair: what it holds, what tests it, and what its tests say of it.
#[derive(Debug)]
pub struct Task {
    /// The file, as the user names it.
    pub file: PathBuf,
    /// What it holds.
    pub text: String,
    /// The lines that the model sees and replaces, first and last, from 1; the whole file without them.
    pub lines: Option<[usize; 2]>,
    /// The verdict on the file as it is.
    pub before: Verdict,
    own: OwnProblem,
}

/// Which part of a file is shown to the model, and replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The one definition of this name: `f`, or `Class.method`.
    Function(String),
    /// These lines, first and last, from 1.
    Lines([usize; 2]),
}

/// The folders of the models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// The model that writes fixes.
    pub model: PathBuf,
    /// Its adapter.
    pub adapter: Option<PathBuf>,
    /// The reward model that ranks those that pass.
    pub reward_model: Option<PathBuf>,
}

/// How the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the user says before the code.
    pub instruction: String,
    /// Answers to sample.
    pub samples: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens of an answer at most; fewer where the model's context ends before.
    pub max_new_tokens: usize,
    /// Answers written together.
    pub batch: usize,
    /// What the random streams come from.
    pub seed: u64,
}

/// One answer of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// Its place among all, from 1.
    pub rank: usize,
    /// Which it was, from 0.
    pub index: usize,
    /// What its tests say.
    pub verdict: Verdict,
    /// How many tests passed, and of how many, where a failing verdict tells.
    pub tests_passed: Option<[usize; 2]>,
    /// The reward model's score of the answer.
    pub reward: Option<f64>,
    /// The first sample with the same code.
    pub same_as: Option<usize>,
    /// Whether the code is the file's own.
    pub unchanged: bool,
    /// Tokens written.
    pub tokens: usize,
    /// Whether it ended by itself.
    pub ended: bool,
    /// What stands before the code.
    pub reasoning: String,
    /// The code: of the whole file, or of the part that was shown. Empty where there is none.
    pub answer: String,
    /// From the file to the file with the answer; empty where nothing changes.
    pub diff: String,
    /// The file with the answer.
    #[serde(skip)]
    pub text: String,
}

impl Sample {
    /// Whether every test passes.
    pub fn passes(&self) -> bool {
        self.verdict.verdict == Outcome::Pass
    }
}

/// All that is known at the end; see the module's own words for its form as JSON.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "the module says what each field is")]
pub struct Report<'a> {
    pub file: &'a Path,
    pub language: &'a str,
    pub model: &'a Path,
    pub adapter: Option<&'a Path>,
    pub reward_model: Option<&'a Path>,
    pub before: &'a Verdict,
    pub already_passing: bool,
    pub passing: usize,
    pub best: Option<usize>,
    pub written: bool,
    pub samples: &'a [Sample],
}

impl<'a> Report<'a> {
    /// The report on a task; without samples, where its file passes already.
    pub fn new(task: &'a Task, models: &'a Models, samples: &'a [Sample], written: bool) -> Report<'a> {
        Report {
            file: &task.file,
            language: task.language(),
            model: &models.model,
            adapter: models.adapter.as_deref(),
            reward_model: models.reward_model.as_deref(),
            before: &task.before,
            already_passing: task.passes(),
            passing: samples.iter().filter(|sample| sample.passes()).count(),
            best: best(samples).map(|sample| sample.index),
            written,
            samples,
        }
    }
}

/// The best of ranked samples, if it passes.
pub fn best(samples: &[Sample]) -> Option<&Sample> {
    samples.first().filter(|sample| sample.passes())
}

impl Task {
    /// Reads the file and checks it. Errors: [`Error::Input`] for a file that is no text, a part that it does not have, and
    /// tests that cannot be run at all.
    pub fn open(checker: &Checker, own: &Own, part: &Part) -> Result<Task> {
        let bytes = fs::read(&own.file).map_err(|e| Error::io(&own.file, e))?;
        let wrong = |what: String| Error::input(own.file.display(), what);
        let text = String::from_utf8(bytes).map_err(|e| wrong(format!("a text in UTF-8 is expected: {e}")))?;
        let plain = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        if plain.trim().is_empty() {
            return Err(wrong("a program is expected, the file is empty".into()));
        }
        let described = own::read(checker, own, &text)?;
        let count = plain.lines().count();
        let lines = match part {
            Part::Whole => None,
            Part::Function(name) => {
                let found = problem::definition(plain, name, &described.problem.language);
                Some(found.ok_or_else(|| wrong(format!("one definition of `{name}` is expected, none or several were found")))?)
            }
            Part::Lines([first, last]) if *first == 0 || first > last || *last > count => {
                return Err(wrong(format!("lines within 1 to {count} are expected, {first}-{last} was given")));
            }
            Part::Lines(lines) => Some(*lines),
        };
        if let Some(reason) = checker.lacks(&described.problem) {
            return Err(Error::Machine(reason));
        }
        let before = checker.check(&described.problem, &text)?;
        if let Some(reason) = untestable(&before) {
            let at = own.tests.as_ref().map_or("the tests".to_string(), |tests| tests.display().to_string());
            // A list of problems has a key where the command line has an option.
            let option = "--runner NAME says whose it is, --runner exit_code";
            let reason = match own.command.is_some() && reason.starts_with(NO_REPORT) {
                true => format!("{reason}; {option} trusts the exit code alone"),
                false => reason.replace("`runner = \"exit_code\"`", option),
            };
            return Err(Error::input(at, format!("the tests cannot be run: {reason}")));
        }
        Ok(Task { file: own.file.clone(), text, lines, before, own: described })
    }

    /// Whether there is nothing to fix.
    pub fn passes(&self) -> bool {
        self.before.verdict == Outcome::Pass
    }

    /// The programming language.
    pub fn language(&self) -> &str {
        &self.own.problem.language
    }

    /// What the user says to the model.
    pub fn prompt(&self, instruction: &str) -> String {
        let text = self.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.text).replace("\r\n", "\n");
        let shown = match self.lines {
            Some([first, last]) => text.split_inclusive('\n').skip(first - 1).take(last + 1 - first).collect(),
            None => text,
        };
        let mut problem = self.own.problem.clone();
        problem.buggy = Some(shown);
        prompt::user_text(&problem, instruction)
    }

    /// Samples, checks and ranks answers.
    pub fn solve<D: Device>(&self, device: &D, models: &Models, settings: &Settings, checker: &Checker) -> Result<Vec<Sample>> {
        if let Some(folder) = &models.reward_model {
            check_reward_model(folder)?;
        }
        let user = self.prompt(&settings.instruction);
        let written = self.sample(device, models, settings, &user)?;
        let texts: Vec<String> = written.iter().map(|(text, ..)| text.clone()).collect();
        let mut samples: Vec<Sample> = written
            .into_iter()
            .enumerate()
            .map(|(index, (text, tokens, ended))| self.parsed(index, &text, tokens, ended))
            .collect();
        self.check(checker, &mut samples)?;
        if let Some(folder) = &models.reward_model {
            interrupt::check()?;
            let model = RewardModel::load(device, folder)?;
            let pairs: Vec<(&str, &str)> = texts.iter().map(|text| (user.as_str(), text.as_str())).collect();
            let scores = model.score_texts(device, &pairs, model.decoder.config.max_positions)?;
            samples.iter_mut().zip(scores).for_each(|(sample, score)| sample.reward = Some(score));
        }
        rank::rank(&mut samples);
        Ok(samples)
    }

    /// What the model writes: text, number of tokens, whether it ended.
    fn sample<D: Device>(
        &self,
        device: &D,
        models: &Models,
        settings: &Settings,
        user: &str,
    ) -> Result<Vec<(String, usize, bool)>> {
        let tokenizer = Tokenizer::load(&models.model)?;
        let tokens = prompt::prompt_tokens(&tokenizer, &[Message::user(user)])?;
        let decoder = Decoder::load(device, &models.model)?;
        check_vocabulary(&tokenizer, decoder.config.vocab, &models.model)?;
        let adapter = models.adapter.as_ref().map(|folder| Adapter::load(device, &decoder.config, folder)).transpose()?;
        let context = decoder.config.max_positions;
        if tokens.len() >= context {
            let what = format!(
                "with the instruction it is {} tokens, the model reads {context}; --function or --lines shows less of it",
                tokens.len()
            );
            return Err(Error::input(self.file.display(), what));
        }
        let requests: Vec<Request> = (0..settings.samples)
            .map(|index| Request { prompt: tokens.clone(), key: key(settings.seed, "repair", index as u64) })
            .collect();
        let asked = generate::Settings {
            sampling: settings.sampling,
            max_new_tokens: settings.max_new_tokens.min(context - tokens.len()),
            eos: tokenizer.eos_ids().to_vec(),
            batch: settings.batch,
        };
        let progress = Progress::new("repair", settings.samples as u64);
        let (mut finished, mut count) = (0, 0);
        let mut on_token = |_: usize, token: u32| {
            count += 1;
            finished += u64::from(asked.eos.contains(&token));
            progress.set(finished, &format!("{count} tokens"));
            interrupt::check()
        };
        let samples = generate::generate(device, &decoder, adapter.as_ref(), &requests, &asked, &mut on_token)?;
        progress.finish(&format!("{count} tokens"));
        let text = |sample: generate::Sample| Ok((tokenizer.decode(&sample.tokens, true)?, sample.tokens.len(), sample.ended));
        samples.into_iter().map(text).collect()
    }

    /// An answer as a sample that is not checked yet.
    fn parsed(&self, index: usize, text: &str, tokens: usize, ended: bool) -> Sample {
        let (reasoning, answer) = prompt::split_answer(text, self.language());
        let text = match answer.trim().is_empty() {
            true => self.text.clone(),
            false => with_answer(&self.text, self.lines, &answer),
        };
        Sample {
            rank: 0,
            index,
            verdict: Verdict { verdict: Outcome::Refused, reason: String::new(), compiled: None, seconds: 0.0 },
            tests_passed: None,
            reward: None,
            same_as: None,
            unchanged: !answer.trim().is_empty() && text == self.text,
            tokens,
            ended,
            reasoning,
            diff: unified(&self.file, &self.text, &text),
            answer,
            text,
        }
    }

    /// Gives every sample its verdict. What has no code is not run, what is unchanged has the file's verdict, and of several with
    /// the same code the first is run.
    fn check(&self, checker: &Checker, samples: &mut [Sample]) -> Result<()> {
        let mut first: HashMap<String, usize> = HashMap::new();
        for (place, sample) in samples.iter_mut().enumerate().filter(|(_, sample)| !sample.answer.trim().is_empty()) {
            let earlier = *first.entry(sample.text.clone()).or_insert(place);
            sample.same_as = (earlier != place).then_some(earlier);
        }
        let run = |sample: &&Sample| !sample.answer.trim().is_empty() && !sample.unchanged && sample.same_as.is_none();
        let items: Vec<(&record::Problem, &str)> =
            samples.iter().filter(run).map(|sample| (&self.own.problem, sample.text.as_str())).collect();
        let progress = Progress::new("check", items.len() as u64);
        let verdicts = checker.check_all(&items, &|done| progress.set(done as u64, ""))?;
        progress.finish("");
        let mut verdicts = verdicts.into_iter();
        for place in 0..samples.len() {
            let sample = &samples[place];
            let verdict = match sample.same_as {
                Some(earlier) => samples[earlier].verdict.clone(),
                None if sample.unchanged => self.before.clone(),
                None if sample.answer.trim().is_empty() => {
                    let reason = match sample.ended {
                        true => "the answer holds no code",
                        false => "the answer was cut before its code was whole: more --max-new-tokens",
                    };
                    Verdict { reason: reason.into(), compiled: Some(false), ..sample.verdict.clone() }
                }
                None => verdicts.next().expect("one verdict for each sample that ran"),
            };
            samples[place].tests_passed = rank::tests_passed(&verdict);
            samples[place].verdict = verdict;
        }
        Ok(())
    }

    /// Puts a sample's text into the file: whole or not at all, with the file's permissions, through a link to where it leads.
    /// An [`Error::Input`] if the file is not what it was when it was read.
    pub fn write(&self, sample: &Sample) -> Result<()> {
        let path = self.file.canonicalize().map_err(|e| Error::io(&self.file, e))?;
        let now = fs::read(&path).map_err(|e| Error::io(&self.file, e))?;
        if now != self.text.as_bytes() {
            return Err(Error::input(self.file.display(), "the file has changed since it was read; nothing was written"));
        }
        let permissions = fs::metadata(&path).map_err(|e| Error::io(&self.file, e))?.permissions();
        let io = |e| Error::io(&self.file, e);
        record::write_atomic_with(&path, |file| {
            file.set_permissions(permissions).map_err(io)?;
            file.write_all(sample.text.as_bytes()).map_err(io)
        })
    }
}

/// Refuses a folder that is no reward model before anything is sampled.
fn check_reward_model(folder: &Path) -> Result<()> {
    let tensors = match folder.join("adapter_config.json").exists() {
        true => Tensors::open_files(&[folder.join("adapter_model.safetensors")])?,
        false => Tensors::open_folder(folder)?,
    };
    match tensors.names().iter().any(|name| name.ends_with("score.weight")) {
        true => Ok(()),
        false => Err(Error::input(folder.display(), "tensor score.weight is missing: not a reward model")),
    }
}

/// What a verdict says where a command ends well and its runner was not heard.
const NO_REPORT: &str = "exit code 0, but no report";

/// Why tests say nothing about the file, if they do not: they could not be run, or there are none.
fn untestable(verdict: &Verdict) -> Option<&str> {
    let reason = verdict.reason.as_str();
    let starts = [
        "the tests cannot be read",
        "the tests' setup",
        "the command's report is of no runner",
        NO_REPORT,
        "no test ran",
        "every test was skipped",
    ];
    let known = matches!(verdict.verdict, Outcome::Error | Outcome::Fail) && starts.iter().any(|start| reason.starts_with(start));
    known.then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_say_nothing_are_told_from_a_program_that_fails() {
        let verdict = |verdict, reason: &str| Verdict { verdict, reason: reason.into(), compiled: None, seconds: 0.0 };
        for reason in ["no test ran", "the tests cannot be read: SyntaxError: x", "the tests' setup: ModuleNotFoundError: x"] {
            assert_eq!(untestable(&verdict(Outcome::Fail, reason)), Some(reason));
        }
        assert_eq!(untestable(&verdict(Outcome::Fail, "test 1 of 2: assert f(1) == 2: got 3")), None);
        assert_eq!(untestable(&verdict(Outcome::Error, "does not compile: SyntaxError")), None);
        assert_eq!(untestable(&verdict(Outcome::Pass, "")), None);
    }
}
