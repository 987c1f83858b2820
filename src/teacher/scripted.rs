//! The teacher of the `micro` suite, where the injected bug is known: the same stages run without a network, a key or a bill.
//!
//! It errs on purpose in a share of its traces, so that the filter has something to filter. Its judgments are computed: by the
//! paper's four criteria, in their order, the first that tells the candidates apart decides.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::problem::micro::{self, Fix, Knowledge, PARTS};
use crate::record::{Candidate, Outcome, Problem, Usage};
use crate::rng::Rng;

use super::{Query, Reply, Teacher};

/// Of the traces that are wrong on purpose, the share that gives the buggy code back unchanged.
const UNCHANGED: f64 = 0.3;

/// A teacher that knows the micro suite and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Scripted {
    seed: u64,
    error_rate: f64,
}

impl Scripted {
    /// A teacher whose traces are wrong with probability `error_rate`, decided by `seed` and the problem's id alone.
    pub fn new(seed: u64, error_rate: f64) -> Scripted {
        Scripted { seed, error_rate }
    }

    fn trace(&self, problem: &Problem) -> Result<String> {
        let knowledge = Knowledge::of(problem)?;
        let code = |code: &Option<String>, what| code.clone().ok_or_else(|| missing(problem, what));
        let (buggy, reference) = (code(&problem.buggy, "buggy")?, code(&problem.reference, "reference")?);
        let mut rng = Rng::new(self.seed, &format!("scripted {}", problem.id), 0);
        let fix = if rng.chance(self.error_rate) {
            micro::wrong(&mut rng, &knowledge, &buggy, UNCHANGED)
        } else {
            Fix { kind: problem.kind.clone(), code: reference }
        };
        micro::trace(problem, &fix)
    }

    fn compare(&self, problem: &Problem, first: &Candidate, second: &Candidate) -> Result<String> {
        Knowledge::of(problem)?;
        let buggy = problem.buggy.as_deref().ok_or_else(|| missing(problem, "buggy"))?;
        let (a, b) = (Merits::of(problem, buggy, first)?, Merits::of(problem, buggy, second)?);
        let ranking = a.ranking(&b);
        let works = |works| if works { "passes the tests" } else { "fails the tests" };
        Ok(format!(
            "Correctness: A {}, B {}.\nEfficiency: A nests {} loops, B {}.\nReadability: A has {} of {} parts, B {}.\n\
             Minimal change: A changes {} lines, B {}.\nRanking: A {} B",
            works(a.works),
            works(b.works),
            a.loops,
            b.loops,
            a.parts,
            PARTS.len() + 1,
            b.parts,
            a.changed,
            b.changed,
            match ranking {
                Ordering::Greater => ">",
                Ordering::Less => "<",
                Ordering::Equal => "=",
            }
        ))
    }
}

/// The ranking of several, by the same criteria.
fn rank(problem: &Problem, shown: &[&Candidate]) -> Result<String> {
    Knowledge::of(problem)?;
    let buggy = problem.buggy.as_deref().ok_or_else(|| missing(problem, "buggy"))?;
    let merits = shown.iter().map(|candidate| Merits::of(problem, buggy, candidate)).collect::<Result<Vec<_>>>()?;
    let mut order: Vec<usize> = (0..shown.len()).collect();
    order.sort_by(|a, b| merits[*b].ranking(&merits[*a]));
    let mut line = String::from("Ranking:");
    for (place, index) in order.iter().enumerate() {
        if place > 0 {
            line += if merits[order[place - 1]].ranking(&merits[*index]) == Ordering::Equal { " =" } else { " >" };
        }
        line += &format!(" {}", char::from(b'A' + *index as u8));
    }
    Ok(line)
}

fn missing(problem: &Problem, field: &str) -> Error {
    Error::input(format!("problem {}", problem.id), format!("no field `{field}`, which the scripted teacher works from"))
}

/// What a candidate is judged by.
struct Merits {
    works: bool,
    /// How deep loops nest in its code.
    loops: usize,
    /// Parts of the expected form that its text has: the four of a trace, in their order, and the code.
    parts: usize,
    /// Lines that differ from the buggy code.
    changed: usize,
}

impl Merits {
    fn of(problem: &Problem, buggy: &str, candidate: &Candidate) -> Result<Merits> {
        let verdict = candidate.verdict.as_ref().ok_or_else(|| {
            let at = format!("candidate {} of problem {}", candidate.index, problem.id);
            Error::input(at, "no verdict: candidates are checked before they are judged")
        })?;
        let mut labels = PARTS.iter().peekable();
        let mut parts = usize::from(!candidate.answer.is_empty());
        for line in candidate.text.lines() {
            if labels.next_if(|label| line.starts_with(**label)).is_some() {
                parts += 1;
            }
        }
        Ok(Merits {
            works: verdict.verdict == Outcome::Pass,
            loops: loop_depth(&candidate.answer),
            parts,
            changed: micro::changed_lines(buggy, candidate.answer.trim_end()),
        })
    }
}

impl Merits {
    /// Which is better, by the first criterion that tells them apart.
    fn ranking(&self, other: &Merits) -> Ordering {
        // Speed and size of code that does not work are no merits: the code it was given would win.
        let both_work = self.works && other.works;
        self.works
            .cmp(&other.works)
            .then(if both_work { other.loops.cmp(&self.loops) } else { Ordering::Equal })
            .then(self.parts.cmp(&other.parts))
            .then(if both_work { other.changed.cmp(&self.changed) } else { Ordering::Equal })
    }
}

/// How deep `for` and `while` statements nest, by their indentation.
fn loop_depth(code: &str) -> usize {
    let mut open: Vec<usize> = Vec::new();
    let mut deepest = 0;
    for line in code.lines() {
        let text = line.trim_start();
        if text.is_empty() {
            continue;
        }
        let indent = line.len() - text.len();
        open.retain(|loop_indent| *loop_indent < indent);
        if text.starts_with("for ") || text.starts_with("while ") {
            open.push(indent);
        }
        deepest = deepest.max(open.len());
    }
    deepest
}

/// Words between white space: what this teacher counts as tokens.
fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Words of what a judge reads.
fn judged_words(problem: &Problem, shown: &[&Candidate]) -> u64 {
    let task = words(&problem.prompt) + words(problem.buggy.as_deref().unwrap_or_default());
    task + shown.iter().map(|candidate| words(&candidate.text)).sum::<u64>()
}

impl Teacher for Scripted {
    fn model(&self) -> &str {
        "scripted"
    }

    /// Always ends; tokens are words between white space. An input error for a problem that is not of the micro suite, or a
    /// candidate without a verdict.
    fn ask(&self, query: &Query<'_>) -> Result<Reply> {
        let (text, input_tokens) = match query {
            Query::Trace { problem, prompt } => (self.trace(problem)?, words(prompt)),
            Query::Compare { problem, first, second, .. } => {
                (self.compare(problem, first, second)?, judged_words(problem, &[first, second]))
            }
            Query::Rank { problem, shown, .. } => (rank(problem, shown)?, judged_words(problem, shown)),
        };
        let usage = Usage { input_tokens, output_tokens: words(&text) };
        Ok(Reply { text, usage, ..Reply::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_counted_by_nesting() {
        assert_eq!(loop_depth("def f(x):\n    return x"), 0);
        assert_eq!(loop_depth("def f(x):\n    for i in x:\n        a\n    while x:\n        b"), 1);
        assert_eq!(loop_depth("def f(x):\n    for i in x:\n        if i:\n            while x:\n                b"), 2);
    }

    #[test]
    fn several_are_ranked_as_pairs_are() {
        let problem = micro::generate(1, 1).remove(0);
        let candidate = |index, verdict| Candidate {
            id: problem.id.clone(),
            index,
            model: String::new(),
            temperature: 0.0,
            text: String::new(),
            answer: problem.reference.clone().unwrap(),
            verdict: Some(crate::record::Verdict { verdict, reason: String::new(), compiled: None, seconds: 0.0 }),
            extra: Default::default(),
        };
        let [right, wrong] = [candidate(0, Outcome::Pass), candidate(1, Outcome::Fail)];
        let ranked = |shown: &[&Candidate]| {
            let query = Query::Rank { problem: &problem, instruction: "", shown };
            Scripted::new(1, 0.0).ask(&query).unwrap().text
        };
        assert_eq!(ranked(&[&wrong, &right, &wrong]), "Ranking: B > A = C");
        assert_eq!(ranked(&[&right, &wrong, &right]), "Ranking: A = C > B");
        assert_eq!(ranked(&[&wrong, &right]), "Ranking: B > A");
    }

    #[test]
    fn a_problem_from_elsewhere_is_refused_by_its_id() {
        let mut problem = micro::generate(1, 1).remove(0);
        problem.id = "mbpp/7".into();
        problem.extra.clear();
        let error = Scripted::new(1, 0.0).ask(&Query::Trace { problem: &problem, prompt: "" }).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("problem mbpp/7: "), "{error}");
    }
}
