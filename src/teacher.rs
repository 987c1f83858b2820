//! Asks a strong model: for reasoning traces, and for judgments of candidates.
//!
//! A teacher is a [`Teacher`]: an API ([`anthropic`], [`openai`]), a file of earlier answers ([`recorded`]) or a program that
//! knows the bug ([`scripted`]). [`open`] makes one from settings; [`open_journaled`] also stores every answer on arrival. How
//! many ask at once is the caller's; how many requests are under way is never more than the settings say, and fewer where the
//! server is busy.

pub mod anthropic;
mod batches;
mod budget;
mod http;
pub mod judge;
mod key;
pub mod openai;
mod pace;
pub mod ranking;
pub mod recorded;
pub mod scripted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::prompt::{fenced, user_text};
use crate::record::{Candidate, Problem, Usage};

pub use budget::{Estimate, JUDGMENT_TOKENS, Rate, Spent, TRACE_TOKENS};

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
        /// What to do, the paper's p_compare.
        instruction: &'a str,
        /// Shown first, as A.
        first: &'a Candidate,
        /// Shown second, as B.
        second: &'a Candidate,
    },
    /// How several candidates rank, best to worst (Eq 10), in this order.
    Rank {
        /// The problem.
        problem: &'a Problem,
        /// What to do, the paper's p_compare.
        instruction: &'a str,
        /// As A, B, C and so on; at most 26.
        shown: &'a [&'a Candidate],
    },
}

impl Query<'_> {
    /// The text that an API is sent.
    pub fn text(&self) -> String {
        match self {
            Query::Trace { prompt, .. } => prompt.to_string(),
            Query::Compare { problem, instruction, first, second } => {
                judging_text(problem, instruction, &[first, second], ": Ranking: A > B, Ranking: B > A or Ranking: A = B.")
            }
            Query::Rank { problem, instruction, shown } => {
                let letters: Vec<String> = ('A'..='Z').take(shown.len()).map(String::from).collect();
                let last = shown.len().saturating_sub(1);
                let example = format!("{} > {}", letters[last], letters[..last].join(" > "));
                let end = format!(
                    " that names each solution once, the best first, with = between equals, such as Ranking: {example} or Ranking: {}.",
                    letters.join(" = ")
                );
                judging_text(problem, instruction, shown, &end)
            }
        }
    }

    /// Tokens that the paper's teacher wrote on average for such a question.
    fn usual_tokens(&self) -> u64 {
        match self {
            Query::Trace { .. } => TRACE_TOKENS,
            Query::Compare { .. } | Query::Rank { .. } => JUDGMENT_TOKENS,
        }
    }
}

/// Why a teacher stopped writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// It was done.
    #[default]
    End,
    /// The token limit cut it; the text is not trained on.
    Length,
    /// It declined.
    Refusal,
    /// Anything else: a tool call or a pause, which nothing here asks for, or a reason that this program does not know. The text is
    /// not trained on.
    Other,
}

impl Stop {
    /// The word for it in records.
    pub fn name(self) -> &'static str {
        match self {
            Stop::End => "end",
            Stop::Length => "length",
            Stop::Refusal => "refusal",
            Stop::Other => "other",
        }
    }
}

/// What a teacher answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// The visible text: the only part that is read and trained on.
    pub text: String,
    /// What the model thought before it, where the provider shows that; a summary with some models. Kept, never trained on.
    pub reasoning: String,
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
    /// What asking all these would cost; none where nothing is paid.
    fn estimate(&self, _queries: &[&Query<'_>]) -> Option<Estimate> {
        None
    }
    /// Tokens that an answer may have; none where nothing cuts it.
    fn max_tokens(&self) -> Option<usize> {
        None
    }
    /// Fetches what earlier runs ordered, and asks all these together, the cheaper way, where the teacher has one and is to use it;
    /// hands over each answer as it comes. What has none afterwards is asked one by one.
    fn ask_all(&self, _questions: &[(recorded::Asked, &Query<'_>)], _post: &mut Post<'_>) -> Result<()> {
        Ok(())
    }
}

/// Where answers that come together go.
pub struct Post<'a> {
    /// The file that remembers what was ordered, so that a run that was cut short fetches it instead of ordering again.
    pub ledger: PathBuf,
    /// Stores an answer.
    pub store: &'a mut dyn FnMut(&recorded::Asked, Reply) -> Result<()>,
    /// Tells a person how it goes.
    pub report: &'a dyn Fn(&str),
}

/// The teacher's question about candidates: the instruction, the task as the student saw it but without one, the solutions, the four
/// criteria, and the line to end with, which [`judge::Preferred::read`] and [`ranking::read`] read. A candidate without code is shown
/// as its text.
fn judging_text(problem: &Problem, instruction: &str, shown: &[&Candidate], end: &str) -> String {
    let task = user_text(problem, "");
    let solutions: String = ('A'..='Z')
        .zip(shown)
        .map(|(letter, candidate)| {
            let text = match candidate.answer.trim() {
                "" => candidate.text.trim().to_string(),
                answer => fenced(answer, &problem.language),
            };
            format!("Solution {letter}:\n\n{text}\n\n")
        })
        .collect();
    format!(
        "{instruction}\n\n\
         Task:\n\n{task}\n\n\
         {solutions}\
         Evaluate by these criteria, the most important first:\n\
         1. Correctness: does it fix the bug and do what the task asks?\n\
         2. Efficiency: time and memory.\n\
         3. Readability: clarity and style.\n\
         4. Minimal change: nothing is altered that need not be.\n\n\
         End with one line{end}"
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
    /// Requests under way at once, at most.
    pub concurrency: usize,
    /// Asks in batches, where the provider has them.
    pub batch: bool,
    /// Tokens that the model may think before it answers; none for no thinking.
    pub thinking_tokens: Option<usize>,
    /// US dollars that must not be exceeded; infinite for no limit.
    pub budget_usd: f64,
    /// Tokens, read and written, that must not be exceeded; none for no limit.
    pub budget_tokens: Option<u64>,
    /// Asks even where the expected cost exceeds a budget, until that is spent.
    pub start_anyway: bool,
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
            concurrency: 8,
            batch: false,
            thinking_tokens: None,
            budget_usd: f64::INFINITY,
            budget_tokens: None,
            start_anyway: false,
            input_usd_per_mtok: 0.0,
            output_usd_per_mtok: 0.0,
            path: None,
            seed: 0,
            error_rate: 0.0,
        }
    }
}

/// How a teacher waits between attempts: false where the user asked to stop meanwhile. Tests pass one that only takes note.
pub type Sleep = Box<dyn Fn(Duration) -> bool + Send + Sync>;

/// Opens a teacher. Settings that cannot work (no key, a budget without prices) are input errors, before anything is asked.
pub fn open(settings: &Settings) -> Result<Box<dyn Teacher>> {
    let sleep = |wait| {
        std::thread::sleep(wait);
        true
    };
    open_with(settings, Spent::default(), Box::new(sleep))
}

/// [`open`], with `spent` tokens already counted against the budget, and with another way to wait between attempts.
pub fn open_with(settings: &Settings, spent: Spent, sleep: Sleep) -> Result<Box<dyn Teacher>> {
    let anthropic = settings.provider == Provider::Anthropic;
    for (key, set) in [("batch", settings.batch), ("thinking_tokens", settings.thinking_tokens.is_some())] {
        if set && !anthropic {
            return Err(Error::input(format!("teacher.{key}"), "teacher.provider = \"anthropic\" expected with it"));
        }
    }
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

/// [`open_with`], with every answer stored in `journal` on arrival and answered from there when it is asked for again. What earlier
/// runs stored there counts against the budget.
pub fn open_journaled(settings: &Settings, journal: &Path, sleep: Sleep) -> Result<recorded::Journal> {
    let entries = recorded::Entries::recover(journal)?;
    let teacher = open_with(settings, entries.spent(), sleep)?;
    recorded::Journal::new(journal, entries, teacher)
}
