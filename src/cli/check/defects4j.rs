//! What `repairity check --suite defects4j` takes more, and the numbers that its field reports.

use std::path::{Path, PathBuf};

use repairity::error::{Error, Result};
use repairity::metric::bleu;
use repairity::problem::defects4j::{self, Settings, exact_match};
use repairity::record::{Defects4jMode, Defects4jProtocol, Form, Outcome, Problem, Verdict};
use repairity::telemetry;

/// What is asked for.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mode {
    /// The whole method, given the buggy one and the tests that fail
    Repair,
    /// The body of a method, given its signature
    MethodBody,
}

/// The options of the suite `defects4j`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of defects4j")]
pub struct Options {
    /// What is asked for; left out, repair
    #[arg(long, value_name = "MODE", value_enum)]
    mode: Option<Mode>,
    /// The folder of checkouts and results; left out, PATH.work
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Runs the tests that load a changed class instead of all
    #[arg(long)]
    relevant: bool,
    /// A source tree of Defects4J, to do without its set-up: trigger tests only
    #[arg(long, value_name = "DIR", requires = "clones")]
    metadata: Option<PathBuf>,
    /// Clones of the projects, named Lang, Cli, ...; or one clone
    #[arg(long, value_name = "DIR", requires = "metadata")]
    clones: Option<PathBuf>,
    /// Seconds to compile in; left out, 300
    #[arg(long, value_name = "S")]
    compile_seconds: Option<f64>,
    /// Seconds for each run of tests; left out, 1800
    #[arg(long, value_name = "S")]
    test_seconds: Option<f64>,
}

impl Options {
    /// An error where an option was given for another suite.
    pub fn refuse(&self, suite: &str) -> Result<()> {
        let given = [
            ("mode", self.mode.is_some()),
            ("work", self.work.is_some()),
            ("relevant", self.relevant),
            ("metadata", self.metadata.is_some()),
            ("compile-seconds", self.compile_seconds.is_some()),
            ("test-seconds", self.test_seconds.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::input(name, format!("suite `{suite}` takes no such option; defects4j does"))),
            None => Ok(()),
        }
    }

    /// The problems; what was left out is noted.
    pub fn load(&self, path: Option<&Path>, limit: usize, jobs: usize) -> Result<Vec<Problem>> {
        let path = path.ok_or_else(|| Error::input("path", "suite `defects4j` needs a list of bugs or a folder of checkouts"))?;
        let usual = Settings::default();
        let compile_s = self.compile_seconds.unwrap_or(usual.compile_s);
        let test_s = self.test_seconds.unwrap_or(usual.test_s);
        for (name, seconds) in [("compile-seconds", compile_s), ("test-seconds", test_s)] {
            if !(seconds > 0.0 && seconds <= 86_400.0) {
                return Err(Error::input(
                    name,
                    format!("more than 0 and at most 86400 seconds are expected, {seconds} was given"),
                ));
            }
        }
        let settings = Settings {
            mode: match self.mode {
                None | Some(Mode::Repair) => Defects4jMode::Repair,
                Some(Mode::MethodBody) => Defects4jMode::MethodBody,
            },
            work: self.work.clone(),
            relevant: self.relevant,
            trees: self.metadata.clone().zip(self.clones.clone()),
            compile_s,
            test_s,
            limit,
            jobs,
        };
        let (problems, dropped) = defects4j::load_all(path, &settings)?;
        for bug in &dropped {
            telemetry::note(&format!("{} is left out: {}", bug.id, bug.reason));
        }
        Ok(problems)
    }
}

/// What the answers came to; none where there are none of this suite. The share that passes has a name of its own where
/// only the trigger tests were run.
pub fn summary(items: &[(&Problem, &str)], verdicts: &[Verdict]) -> Option<String> {
    let Form::Defects4j(first) = &items.first()?.0.check.form else { return None };
    let count = items.len();
    let share = |part: usize| format!("{:.1} % ({part} of {count})", 100.0 * part as f64 / count as f64);
    let passed = verdicts.iter().filter(|verdict| verdict.verdict == Outcome::Pass).count();
    let compiled = verdicts.iter().filter(|verdict| verdict.compiled == Some(true)).count();
    let exact = items.iter().filter(|(problem, answer)| exact_match(problem, answer)).count();
    let mode = match first.mode {
        Defects4jMode::Repair => "test-validated repair",
        Defects4jMode::MethodBody => "method-body completion",
    };
    let pass = match first.protocol {
        Defects4jProtocol::Full => "plausible@1",
        Defects4jProtocol::Relevant => "plausible@1 (relevant tests)",
        Defects4jProtocol::TriggerTest => "trigger tests pass@1 (trigger-test protocol, not plausible@1)",
    };
    let config = bleu::Config::default();
    let pairs = items.iter().filter_map(|(problem, answer)| Some((*answer, problem.reference.as_deref()?)));
    Some(format!(
        "{mode}: CR {}, {pass} {}, exact match {}, BLEU {:.2} ({})",
        share(compiled),
        share(passed),
        share(exact),
        config.corpus(pairs).score,
        config.signature()
    ))
}
