//! Keeps the traces whose fix passes every test (the paper's Eq 5 and 6), at most a share of the benchmark, balanced over kinds
//! and difficulties, and writes them as conversations.
//!
//! Traces that overlap a test problem, or duplicate another, are dropped before.
//!
//! `repairity filter RECIPE`. In: `problems.jsonl`, `traces.jsonl`. Out: `sft.jsonl`, `sft.validation.jsonl`, `sft.dropped.jsonl`.

use std::collections::HashMap;

use serde_json::json;

use super::{Files, checker};
use crate::error::{Error, Result};
use crate::hygiene::{self, Evaluation};
use crate::problem;
use crate::prompt;
use crate::recipe::{Objective, Recipe};
use crate::record::{Conversation, Extra, Message, Outcome, Problem, Split, Trace, program, read_jsonl, write_jsonl};
use crate::telemetry::Progress;

/// The conversation that a trace teaches. Only the teacher's own text is trained on, never the reference.
fn conversation(trace: &Trace, problem: &Problem, recipe: &Recipe) -> Conversation {
    let reasoning = match recipe.sft.objective {
        Objective::Reasoning => trace.reasoning.as_str(),
        Objective::Direct => "",
    };
    let answer = prompt::answer_text(reasoning, &trace.answer, &problem.language);
    let mut extra = Extra::new();
    extra.insert("teacher".into(), json!(trace.model));
    extra.insert("suite".into(), json!(problem.suite));
    extra.insert("split".into(), json!(problem.split));
    extra.insert("verified".into(), json!(trace.verdict.as_ref().is_some_and(|v| v.verdict == Outcome::Pass)));
    // What a trace from elsewhere does not tell is not made up.
    for name in ["temperature", "max_tokens", "stop"] {
        if let Some(value) = trace.extra.get(name) {
            extra.insert(name.into(), value.clone());
        }
    }
    extra.insert("tokens".into(), json!(trace.usage.output_tokens));
    extra.insert("program".into(), program());
    Conversation { id: trace.id.clone(), messages: vec![Message::user(trace.prompt.as_str()), Message::assistant(answer)], extra }
}

/// Runs the tests of every trace that has no verdict yet.
pub(super) fn check(recipe: &Recipe, stage: &str, problems: &[Problem], traces: &mut [Trace]) -> Result<()> {
    let by_id: HashMap<&str, &Problem> = problems.iter().map(|problem| (problem.id.as_str(), problem)).collect();
    if let Some(stray) = traces.iter().find(|trace| !by_id.contains_key(trace.id.as_str())) {
        return Err(Error::input(format!("trace of problem {}", stray.id), "problems.jsonl holds no such problem"));
    }
    let unchecked: Vec<usize> = (0..traces.len()).filter(|index| traces[*index].verdict.is_none()).collect();
    if unchecked.is_empty() {
        return Ok(());
    }
    let item = |index: &usize| (by_id[traces[*index].id.as_str()], traces[*index].answer.as_str());
    let items: Vec<(&Problem, &str)> = unchecked.iter().map(item).collect();
    let progress = Progress::new(&format!("{stage}: check"), items.len() as u64).rated("checks");
    let verdicts = checker(recipe)?.check_all(&items, &|done| progress.set(done as u64, ""))?;
    progress.finish("");
    for (index, verdict) in unchecked.into_iter().zip(verdicts) {
        traces[index].verdict = Some(verdict);
    }
    Ok(())
}

/// Whether a trace's fix passes its tests.
pub(super) fn passed(trace: &Trace) -> bool {
    trace.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Outcome::Pass)
}

/// Runs the stage. Returns what came of it.
pub fn run(recipe: &Recipe) -> Result<String> {
    let files = Files::of(recipe);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let by_id: HashMap<&str, &Problem> = problems.iter().map(|problem| (problem.id.as_str(), problem)).collect();
    let mut traces: Vec<Trace> = read_jsonl(&files.traces())?;
    check(recipe, "filter", &problems, &mut traces)?;
    let find = |trace: &Trace| by_id[trace.id.as_str()];
    let count = traces.iter().filter(|trace| passed(trace)).count();

    let usable = |trace: &&Trace| if recipe.filter.enabled { passed(trace) } else { !trace.answer.is_empty() };
    let part = |split| -> Vec<(&Trace, &Problem)> {
        let pairs = traces.iter().filter(usable).map(|trace| (trace, find(trace)));
        pairs.filter(|(_, problem)| problem.split == Some(split)).collect()
    };
    let write = |(trace, problem): &(&Trace, &Problem)| conversation(trace, problem, recipe);
    let (held_out, training) = (part(Split::Validation), part(Split::Train));
    // What is held out stays where the two are alike.
    let both: Vec<Conversation> = held_out.iter().chain(&training).map(write).collect();
    let evaluation = Evaluation::new(&problems, &recipe.hygiene);
    let compared: Vec<hygiene::Record> = both.iter().map(|record| hygiene::Record::conversation(record, "")).collect();
    let dropped = hygiene::records(&compared, &evaluation, &recipe.hygiene);
    let mut stays = dropped.iter().map(Option::is_none);
    let held_out: Vec<_> = held_out.into_iter().filter(|_| stays.next() == Some(true)).collect();
    let training: Vec<_> = training.into_iter().filter(|_| stays.next() == Some(true)).collect();
    let limit = (recipe.filter.cap * problems.len() as f64).floor() as usize;
    let candidates: Vec<&Problem> = training.iter().map(|(_, problem)| *problem).collect();
    let chosen = problem::cap(&candidates, limit, recipe.seed);
    let records: Vec<Conversation> = chosen.iter().map(|index| write(&training[*index])).collect();
    if records.is_empty() {
        let what = format!("no trace is left to train on: {count} of {} fixes pass, the cap is {limit}", traces.len());
        return Err(Error::input(files.traces().display(), what));
    }
    let held_out: Vec<Conversation> = held_out.iter().map(write).collect();
    let dropped: Vec<hygiene::Dropped> = dropped.into_iter().flatten().collect();
    write_jsonl(&files.sft(), &records)?;
    write_jsonl(&files.sft_validation(), &held_out)?;
    write_jsonl(&files.sft_dropped(), &dropped)?;
    let overlaps = match dropped.len() {
        0 => String::new(),
        count => format!(", {count} dropped as duplicates or overlaps"),
    };
    let (kept, all) = (records.len(), traces.len());
    Ok(format!("{kept} of {all} traces kept to train on (cap {limit}), {} to validate on{overlaps}", held_out.len()))
}
