//! Asks a strong model: for reasoning traces, and for judgments of candidates.

pub mod scripted;

use crate::error::Result;
use crate::record::{Candidate, Problem, Usage};

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

/// Why a teacher stopped writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
