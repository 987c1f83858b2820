//! `repairity repair`: one broken program, its tests, and a fix that passes them.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use repairity::device::Sampling;
use repairity::error::{Error, Result};
use repairity::problem::Checker;
use repairity::problem::own::Own;
use repairity::prompt::P_TRACE;
use repairity::record::{Runner, Verdict};
use repairity::repair::{self, Models, Part, Report, Sample, Settings, Task};
use repairity::sandbox::Mode;
use repairity::telemetry::{self, interrupt};
use serde_json::json;

use super::device::{DeviceArgs, on};

/// The arguments of `repair`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("by").required(true).multiple(true).args(["tests", "test_command"]))]
pub struct Args {
    /// The file to repair
    file: PathBuf,
    /// Its tests, Python: plain assertions, unittest classes or pytest functions; with --test-command, the file of the tests
    #[arg(long, value_name = "FILE")]
    tests: Option<PathBuf>,
    /// What tests it instead, in a copy of --root: 'python3 -m unittest -q', 'cargo test', 'go test ./...'
    #[arg(long, value_name = "COMMAND")]
    test_command: Option<String>,
    /// Whose report --test-command prints; left out, by its words or by the report
    #[arg(long, value_name = "NAME", requires = "test_command", value_parser = runners())]
    runner: Option<Runner>,
    /// The project's folder; left out, the tests see their two files alone, and a command the file's folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// A folder outside that the command may read, its bin on the PATH: a virtual environment, a toolchain
    #[arg(long, value_name = "DIR")]
    reads: Vec<PathBuf>,
    /// Shows and replaces one function alone: f, or Class.method
    #[arg(long, value_name = "NAME", conflicts_with = "lines")]
    function: Option<String>,
    /// Shows and replaces these lines alone: 10-25
    #[arg(long, value_name = "FIRST-LAST", value_parser = lines)]
    lines: Option<[usize; 2]>,
    /// What the code should do, for the model
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// What the model is asked; the bundled models know "Fix the bug in this code."
    #[arg(long, value_name = "TEXT", default_value = P_TRACE, hide_default_value = true)]
    instruction: String,
    /// The programming language; left out, by the file's ending
    #[arg(long, value_name = "NAME")]
    language: Option<String>,
    /// The model, a folder in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// An adapter, a PEFT folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// A reward model that ranks the fixes that pass: a folder, or an adapter with a head that names its base
    #[arg(long, value_name = "DIR")]
    reward_model: Option<PathBuf>,
    /// Answers to sample
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Sampling temperature; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temperature: f64,
    /// Samples from the smallest set of most likely tokens whose probability reaches this
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_new_tokens: usize,
    /// Answers written together
    #[arg(long, value_name = "B", default_value_t = 16)]
    batch: usize,
    /// The random stream
    #[arg(long, value_name = "S", default_value_t = 17)]
    seed: u64,
    /// Seconds that a run of the tests may take; left out, 10, or 60 for a command
    #[arg(long, value_name = "S")]
    timeout: Option<f64>,
    /// Programs checked at once; 0 is the number of cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    jobs: usize,
    /// Runs programs with time and memory limits only
    #[arg(long)]
    no_sandbox: bool,
    /// Asks the model even if the tests pass already
    #[arg(long)]
    anyway: bool,
    /// Puts the best fix into the file, if it passes
    #[arg(long)]
    write: bool,
    /// Prints the best fix alone, as a patch: `| git apply`
    #[arg(long, conflicts_with_all = ["json", "all"])]
    diff: bool,
    /// Prints every sample, not only the best
    #[arg(long, conflicts_with = "json")]
    all: bool,
    /// Prints one JSON object, for editors and scripts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    /// Prints the reasoning, the patch and the verdict. The code is 0 if a fix passes, or the file did already, else 1.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::input("--temperature", "a number of at least 0 expected").into());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::input("--top-p", "a number above 0, at most 1, expected").into());
        }
        let checker = self.checker()?;
        let task = Task::open(&checker, &self.own(), &self.part())?;
        let models = Models { model: self.model.clone(), adapter: self.adapter.clone(), reward_model: self.reward_model.clone() };
        if task.passes() && !self.anyway {
            match (self.json, self.diff) {
                (true, _) => print(&format!("{}\n", json!(Report::new(&task, &models, &[], false))))?,
                (_, true) => telemetry::note("nothing to fix: its tests pass already"),
                _ => print(&format!("{}: nothing to fix, its tests pass already\n", self.file.display()))?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        telemetry::note(&format!("{}: {}", self.file.display(), told(&task.before)));
        if self.root.is_none() && ["No module named", "_FailedTest"].iter().any(|sign| task.before.reason.contains(sign)) {
            telemetry::note("a module lacks: if it is the project's own, name the project's folder with --root");
        }
        let settings = Settings {
            instruction: self.instruction.clone(),
            samples: self.samples as usize,
            sampling: Sampling { temperature: self.temperature as f32, top_k: 0, top_p: self.top_p as f32 },
            max_new_tokens: self.max_new_tokens,
            batch: self.batch,
            seed: self.seed,
        };
        let samples = on!(self.device.open()?, device => task.solve(&device, &models, &settings, &checker))?;
        interrupt::check()?;
        let best = repair::best(&samples);
        // What was found is told also where it cannot be written.
        let writing = match best {
            Some(best) if self.write && !best.diff.is_empty() => task.write(best).map(|()| true),
            _ => Ok(false),
        };
        let written = matches!(writing, Ok(true));
        if self.json {
            print(&format!("{}\n", json!(Report::new(&task, &models, &samples, written))))?;
        } else if self.diff {
            print(best.map_or("", |best| best.diff.as_str()))?;
            telemetry::note(&summary(&samples));
        } else {
            print(&self.told(&samples, written))?;
        }
        writing?;
        Ok(if best.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn own(&self) -> Own {
        Own {
            file: self.file.clone(),
            tests: self.tests.clone(),
            command: self.test_command.clone(),
            runner: self.runner,
            root: self.root.clone(),
            description: self.description.clone(),
            language: self.language.clone(),
            timeout_s: self.timeout,
            reads: self.reads.clone(),
        }
    }

    fn part(&self) -> Part {
        match (&self.function, self.lines) {
            (Some(name), _) => Part::Function(name.clone()),
            (None, Some(lines)) => Part::Lines(lines),
            (None, None) => Part::Whole,
        }
    }

    fn checker(&self) -> Result<Checker> {
        let mode = if self.no_sandbox { Mode::None } else { Mode::Strict };
        let jobs = match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => jobs,
        };
        Ok(Checker::new(mode, jobs)?.with_stop(interrupt::flag()))
    }

    /// The samples for a person.
    fn told(&self, samples: &[Sample], written: bool) -> String {
        let ink = Ink { on: colour() };
        let shown = if self.all { samples } else { &samples[..1] };
        let mut text = String::new();
        for sample in shown {
            if self.all {
                text += &ink.bold(&format!("#{} {}\n\n", sample.rank, verdict_of(sample)));
            }
            if !sample.reasoning.is_empty() {
                text += &format!("{}\n\n", visible(&sample.reasoning));
            }
            if let (true, Some(earlier)) = (self.all, sample.same_as) {
                text += &format!("the code is sample {earlier}'s\n\n");
            } else if !sample.diff.is_empty() {
                text += &format!("{}\n", ink.diff(&visible(&sample.diff)));
            }
        }
        if !self.all {
            let line = verdict_of(&samples[0]);
            text += &match samples[0].passes() {
                true => ink.green(&format!("{line}\n")),
                false => ink.red(&format!("no sample passes; the best of them, {line}\n")),
            };
        }
        text += &format!("{}\n", summary(samples));
        if self.write {
            text += &match written {
                true => format!("written: {}\n", self.file.display()),
                false => format!("{} is as it was\n", self.file.display()),
            };
        }
        text
    }
}

/// `3 of 8 samples pass, 2 different fixes`.
fn summary(samples: &[Sample]) -> String {
    let passing = samples.iter().filter(|sample| sample.passes()).count();
    let different = samples.iter().filter(|sample| sample.passes() && sample.same_as.is_none()).count();
    match different {
        0 | 1 => format!("{passing} of {} samples pass", samples.len()),
        _ => format!("{passing} of {} samples pass, {different} different fixes", samples.len()),
    }
}

/// `sample 3 passes every test, reward 0.71`.
fn verdict_of(sample: &Sample) -> String {
    let reward = sample.reward.map_or(String::new(), |reward| format!(", reward {reward:.3}"));
    let change = if sample.unchanged { ", which changes nothing" } else { "" };
    match sample.passes() {
        true => format!("sample {}{change} passes every test{reward}", sample.index),
        false => format!("sample {}{change}{reward}: {}", sample.index, told(&sample.verdict)),
    }
}

/// A verdict in words: `fail: test 2 of 3: ...`.
fn told(verdict: &Verdict) -> String {
    let outcome = json!(verdict.verdict);
    let outcome = outcome.as_str().unwrap_or_default();
    visible(if verdict.reason.is_empty() { outcome.to_owned() } else { format!("{outcome}: {}", verdict.reason) }.as_str())
}

/// The runners by the names that a list of problems has for them.
fn runners() -> impl TypedValueParser<Value = Runner> {
    let names = ["unittest", "pytest", "cargo", "go", "junit", "node", "exit_code"];
    PossibleValuesParser::new(names).try_map(|name| serde_json::from_value::<Runner>(json!(name)))
}

fn lines(text: &str) -> std::result::Result<[usize; 2], String> {
    let parts = text.split_once('-').and_then(|(first, last)| Some([first.parse().ok()?, last.parse().ok()?]));
    parts.ok_or_else(|| "first and last line are expected, as 10-25".to_owned())
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| Error::io("standard output", e))
}

/// Whether standard output is a terminal that nobody wants plain.
fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// What a model wrote, for a terminal: without what moves its cursor or turns the direction of its text. Elsewhere as it is.
fn visible(text: &str) -> String {
    if !std::io::stdout().is_terminal() {
        return text.to_owned();
    }
    harmless(text)
}

fn harmless(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.replace("\r\n", "\n").chars().map(plain).collect()
}

/// Colours, where there are any.
struct Ink {
    on: bool,
}

impl Ink {
    fn paint(&self, code: &str, text: &str) -> String {
        // A colour ends before its line does.
        let line = text.trim_end_matches('\n');
        if self.on { format!("\x1b[{code}m{line}\x1b[0m{}", &text[line.len()..]) } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn diff(&self, text: &str) -> String {
        let line = |line: &str| match line.as_bytes() {
            [b'-', b'-', b'-', b' ', ..] | [b'+', b'+', b'+', b' ', ..] => self.bold(line),
            [b'@', ..] => self.paint("36", line),
            [b'+', ..] => self.green(line),
            [b'-', ..] => self.red(line),
            _ => line.to_owned(),
        };
        text.split_inclusive('\n').map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_writes_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\tc\r\nd\u{202e}e\x07"), "a\u{fffd}[2Jb\tc\nd\u{fffd}e\u{fffd}");
    }

    #[test]
    fn a_diff_is_painted_line_by_line() {
        let painted = Ink { on: true }.diff("--- a/f\n@@ -1 +1 @@\n-x\n+y\n z\n");
        assert_eq!(painted, "\x1b[1m--- a/f\x1b[0m\n\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-x\x1b[0m\n\x1b[32m+y\x1b[0m\n z\n");
        assert_eq!(Ink { on: false }.diff("-x\n"), "-x\n");
        assert_eq!(lines("10-25"), Ok([10, 25]));
        assert!(lines("10").is_err());
    }
}
