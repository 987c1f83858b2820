//! The student's answers that are judged: k diverse repairs of each validation problem from the SFT model (the paper's Eq 9),
//! checked.
//!
//! `repairity candidates RECIPE`. In: `problems.jsonl`, the SFT model. Out: `candidates.jsonl`.

use super::Files;
use super::sample::{self, Ask, Student};
use crate::comm::Shared;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::record::{Outcome, Problem, Split, read_jsonl, write_jsonl};

/// Runs the stage. Returns what came of it, on the first rank.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<String> {
    let (files, settings) = (Files::of(recipe), &recipe.candidates);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let held: Vec<&Problem> = problems.iter().filter(|problem| problem.split == Some(Split::Validation)).collect();
    if held.is_empty() {
        return Err(Error::input(files.problems().display(), "no problem of the validation split"));
    }
    let student = Student::load(device, comm, recipe, "sft")?;
    let ask = Ask {
        purpose: "candidates",
        per_problem: settings.per_problem,
        temperatures: &settings.temperatures,
        max_new_tokens: settings.max_new_tokens,
        top_k: settings.top_k,
        top_p: settings.top_p,
        batch: settings.batch,
    };
    let mut answers = student.answer(device, comm.group(), recipe, &held, &ask)?;
    if !comm.group().is_first() {
        return Ok(String::new());
    }
    sample::check(recipe, "candidates", &held, &mut answers)?;
    let passed = answers.iter().filter(|answer| answer.verdict.as_ref().is_some_and(|v| v.verdict == Outcome::Pass)).count();
    write_jsonl(&files.candidates(), &answers)?;
    Ok(format!("{} answers, {passed} pass", answers.len()))
}
