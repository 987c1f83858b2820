//! Asks a strong model: for reasoning traces, and for judgments of candidates.
//!
//! A teacher is a [`Teacher`]: an API ([`anthropic`], [`openai`]), a file of earlier answers ([`recorded`]) or a program that
//! knows the bug ([`scripted`]). [`open`] makes one from settings; [`open_journaled`] also stores every answer on arrival. How
//! many are asked at once is the caller's.

pub mod anthropic;
mod http;
pub mod judge;
pub mod openai;
pub mod recorded;
pub mod scripted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::prompt::{P_COMPARE, fenced, user_text};
use crate::record::{Candidate, Problem, Usage};

/// The variables that keys are read from unless a recipe names another.
pub const KEYS: [&str; 2] = [anthropic::KEY, openai::KEY];

/// What a teacher is asked.
#[derive(Debug, Clone, Copy)]
pub enum Query<'a> {
    /// Fix the problem's buggy code, reasoning first (Eq 4).
    Trace {
        /// The problem.
        problem: &'a Problem,
        /// The rendered prompt: instruction, description, code.
        prompt: &'a str,
    },
    /// Which of two candidates is better (Eq 10), in this order.
    Compare {
        /// The problem.
        problem: &'a Problem,
        /// Shown first, as A.
        first: &'a Candidate,
        /// Shown second, as B.
        second: &'a Candidate,
    },
}

impl Query<'_> {
    /// The text that an API is sent.
    pub fn text(&self) -> String {
        match self {
            Query::Trace { prompt, .. } => prompt.to_string(),
            Query::Compare { problem, first, second } => compare_text(problem, first, second),
        }
    }
}

/// Why a teacher stopped writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// It was done.
    End,
    /// The token limit cut it; the text is not trained on.
    Length,
    /// It declined.
    Refusal,
}

/// What a teacher answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The visible text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// What it cost.
    pub usage: Usage,
}

/// A teacher. Calls may come from several threads.
pub trait Teacher: Send + Sync {
    /// The model's name, for the records.
    fn model(&self) -> &str;
    /// One answer. Errors are final: retrying has been done inside.
    fn ask(&self, query: &Query<'_>) -> Result<Reply>;
}

/// The teacher's question about two candidates: p_compare, the task as the student saw it but without an instruction, both
/// solutions, the four criteria, and the line to end with, which [`judge::Preferred::read`] reads. A candidate without code is
/// shown as its text.
pub fn compare_text(problem: &Problem, first: &Candidate, second: &Candidate) -> String {
    let task = user_text(problem, "");
    let shown = |candidate: &Candidate| match candidate.answer.trim() {
        "" => candidate.text.trim().to_string(),
        answer => fenced(answer, &problem.language),
    };
    format!(
        "{P_COMPARE}\n\n\
         Task:\n\n{task}\n\n\
         Solution A:\n\n{}\n\n\
         Solution B:\n\n{}\n\n\
         Evaluate by these criteria, the most important first:\n\
         1. Correctness: does it fix the bug and do what the task asks?\n\
         2. Efficiency: time and memory.\n\
         3. Readability: clarity and style.\n\
         4. Minimal change: nothing is altered that need not be.\n\n\
         End with one line: Ranking: A > B, Ranking: B > A or Ranking: A = B.",
        shown(first),
        shown(second),
    )
}

/// How a teacher is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Anthropic's Messages API.
    Anthropic,
    /// Any endpoint that speaks OpenAI's chat completions.
    Openai,
    /// A file of earlier answers.
    Recorded,
    /// The `micro` suite's own.
    Scripted,
}

/// Everything that decides about a teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How it is reached.
    pub provider: Provider,
    /// The model's name.
    pub model: String,
    /// Where the API answers, without `/v1`; none for the provider's own address.
    pub base_url: Option<String>,
    /// The environment variable that holds the key; none for the provider's usual one, empty to send no key.
    pub key_env: Option<String>,
    /// Tokens that an answer may have.
    pub max_tokens: usize,
    /// Sampling temperature.
    pub temperature: f64,
    /// Seconds after which a call counts as lost.
    pub timeout_s: f64,
    /// US dollars that must not be exceeded; infinite for no limit.
    pub budget_usd: f64,
    /// US dollars for a million tokens read.
    pub input_usd_per_mtok: f64,
    /// US dollars for a million tokens written.
    pub output_usd_per_mtok: f64,
    /// `recorded`: the file.
    pub path: Option<PathBuf>,
    /// Seeds the scripted teacher, and the jitter between attempts.
    pub seed: u64,
    /// `scripted`: the share of its fixes that is wrong.
    pub error_rate: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            provider: Provider::Scripted,
            model: String::new(),
            base_url: None,
            key_env: None,
            max_tokens: 4096,
            temperature: 0.0,
            timeout_s: 120.0,
            budget_usd: f64::INFINITY,
            input_usd_per_mtok: 0.0,
            output_usd_per_mtok: 0.0,
            path: None,
            seed: 0,
            error_rate: 0.0,
        }
    }
}

/// How a teacher waits between attempts. Tests pass one that only takes note.
pub type Sleep = Box<dyn Fn(Duration) + Send + Sync>;

/// Opens a teacher. Settings that cannot work (no key, a budget without prices) are input errors, before anything is asked.
pub fn open(settings: &Settings) -> Result<Box<dyn Teacher>> {
    open_with(settings, Usage::default(), Box::new(std::thread::sleep))
}

/// [`open`], with `spent` tokens already counted against the budget, and with another way to wait between attempts.
pub fn open_with(settings: &Settings, spent: Usage, sleep: Sleep) -> Result<Box<dyn Teacher>> {
    Ok(match settings.provider {
        Provider::Anthropic => Box::new(anthropic::Anthropic::new(settings, spent, sleep)?),
        Provider::Openai => Box::new(openai::OpenAi::new(settings, spent, sleep)?),
        Provider::Recorded => {
            let path = settings.path.as_deref();
            let path =
                path.ok_or_else(|| Error::input("teacher.path", "the file of recorded answers expected, nothing given"))?;
            Box::new(recorded::Recorded::open(path)?)
        }
        Provider::Scripted => Box::new(scripted::Scripted::new(settings.seed, settings.error_rate)),
    })
}

/// [`open`], with every answer stored in `journal` on arrival and answered from there when it is asked for again. What earlier
/// runs stored there counts against the budget.
pub fn open_journaled(settings: &Settings, journal: &Path) -> Result<recorded::Journal> {
    let entries = recorded::Entries::recover(journal)?;
    let teacher = open_with(settings, entries.usage(), Box::new(std::thread::sleep))?;
    recorded::Journal::new(journal, entries, teacher)
}
