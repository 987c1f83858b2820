//! Buggy code for problems that carry none: mutants of the reference, each shown to fail a test.
//!
//! A trusted Python process finds where the reference can be changed (its `ast`, with positions, so that formatting and
//! comments stay); which change is taken is drawn by the seed, and the checker says whether it shows.

use crate::error::Result;
use crate::record::{Outcome, Problem};
use crate::rng::Rng;

use super::check::value::Value;
use super::{Checker, Dropped};

const FIND: &str = concat!(include_str!("check/codec.py"), include_str!("mutate.py"));

/// How many mutants of one problem are tried.
const TRIES: usize = 12;
/// Wall-clock limit for a mutant, in seconds: many of them loop for ever, and a failing test is wanted, not a time-out.
const PATIENCE: f64 = 2.0;
/// How many references one trusted process reads.
const BATCH: usize = 32;

/// A change to a reference: the whole mutated program, and the kind of bug it is (HumanEvalFix' names).
struct Mutant {
    kind: String,
    code: String,
}

/// Gives every problem that has a reference and no buggy code a mutant that fails at least one test, and sets `kind` to the
/// kind of bug. Problems where no mutant does are returned and stay as they are. `done` is called after each problem.
pub fn mutate(checker: &Checker, problems: &mut [Problem], seed: u64, done: &(dyn Fn(usize) + Sync)) -> Result<Vec<Dropped>> {
    let needy: Vec<usize> =
        (0..problems.len()).filter(|i| problems[*i].buggy.is_none() && problems[*i].reference.is_some()).collect();
    let batches: Vec<&[usize]> = needy.chunks(BATCH).collect();
    let found = checker.spread(batches.len(), &|_| {}, |b| {
        let sources = batches[b].iter().map(|i| Value::text(problems[*i].reference.as_deref().unwrap_or_default()));
        let answer = checker.ask_trusted(FIND, &Value::List(sources.collect()), batches[b].len())?;
        Ok(answer.map(|list| list.iter().map(read).collect::<Vec<_>>()).unwrap_or_default())
    })?;
    let mut mutants: Vec<Vec<Mutant>> = Vec::new();
    for (batch, mut list) in batches.iter().zip(found) {
        list.resize_with(batch.len(), Vec::new);
        mutants.append(&mut list);
    }
    let chosen = checker.spread(needy.len(), done, |n| {
        let mut problem = problems[needy[n]].clone();
        problem.check.timeout_s = problem.check.timeout_s.min(PATIENCE);
        let mut order: Vec<&Mutant> = mutants[n].iter().collect();
        Rng::new(seed, &format!("mutant {}", problem.id), 0).shuffle(&mut order);
        for mutant in order.into_iter().take(TRIES) {
            if checker.check(&problem, &mutant.code)?.verdict == Outcome::Fail {
                return Ok(Some((mutant.kind.clone(), mutant.code.clone())));
            }
        }
        Ok(None)
    })?;
    let mut without = Vec::new();
    for (index, choice) in needy.into_iter().zip(chosen) {
        let problem = &mut problems[index];
        match choice {
            Some((kind, code)) => (problem.kind, problem.buggy) = (kind, Some(code)),
            None => without.push(Dropped { id: problem.id.clone(), reason: "no mutant of its reference fails a test".into() }),
        }
    }
    Ok(without)
}

fn read(value: &Value) -> Vec<Mutant> {
    let mutant = |value: &Value| match value.as_texts()?.as_slice() {
        [kind, code] => Some(Mutant { kind: kind.clone(), code: code.clone() }),
        _ => None,
    };
    value.as_list().unwrap_or_default().iter().filter_map(mutant).collect()
}
