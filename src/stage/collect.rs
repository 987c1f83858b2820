//! Reasoning traces: the teacher is asked to fix the training problems, and the validation problems, whose traces serve early
//! stopping (the paper's Eq 4). Each fix is checked (Eq 5).
//!
//! `repairity collect RECIPE`. In: `problems.jsonl`. Out: `traces.jsonl`; every answer is stored in `teacher.jsonl` as it arrives,
//! so nothing is asked twice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Files, filter, instruction, teacher};
use crate::error::{Error, Result};
use crate::prompt;
use crate::recipe::Recipe;
use crate::record::{Extra, Problem, Split, Trace, read_jsonl, write_jsonl};
use crate::teacher::{Query, Stop, Teacher};
use crate::telemetry::{Progress, interrupt, note};

/// Asks for one trace. None where the answer was cut or refused.
fn trace(teacher: &dyn Teacher, problem: &Problem, instruction: &str) -> Result<Trace> {
    let prompt = prompt::user_text(problem, instruction);
    let reply = teacher.ask(&Query::Trace { problem, prompt: &prompt })?;
    let (reasoning, answer) = match reply.stop {
        Stop::End => prompt::split_answer(&reply.text, &problem.language),
        // A text that was cut or refused holds no fix, whatever it looks like.
        Stop::Length | Stop::Refusal => (reply.text.clone(), String::new()),
    };
    let mut extra = Extra::new();
    let stop = match reply.stop {
        Stop::End => "end",
        Stop::Length => "length",
        Stop::Refusal => "refusal",
    };
    extra.insert("stop".into(), stop.into());
    Ok(Trace {
        id: problem.id.clone(),
        model: teacher.model().to_string(),
        prompt,
        reasoning,
        answer,
        raw: reply.text,
        verdict: None,
        usage: reply.usage,
        extra,
    })
}

/// Runs `work` for 0..count on `threads` threads and returns the results in order; the first error, or an interrupt, ends it.
pub(super) fn spread<T: Send>(count: usize, threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<T>>> = Mutex::new((0..count).map(|_| None).collect());
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let lock = |error| *failure.lock().expect("no thread panics while it holds this") = Some(error);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    if interrupt::requested() {
                        return lock(Error::Interrupted);
                    }
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    match work(index) {
                        Ok(result) => {
                            results.lock().expect("no thread panics while it holds this")[index] = Some(result);
                        }
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            return lock(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().expect("the threads are joined") {
        return Err(error);
    }
    let results = results.into_inner().expect("the threads are joined");
    Ok(results.into_iter().map(|result| result.expect("every index was worked on")).collect())
}

/// Runs the stage.
pub fn run(recipe: &Recipe) -> Result<()> {
    let files = Files::of(recipe);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let asked: Vec<&Problem> = problems.iter().filter(|problem| problem.split != Some(Split::Test)).collect();
    if asked.is_empty() {
        return Err(Error::input(files.problems().display(), "no problem to train on is left after vetting and the split"));
    }
    let teacher = teacher(recipe, &files)?;
    let progress = Progress::new("collect", asked.len() as u64);
    let done = AtomicUsize::new(0);
    let mut traces = spread(asked.len(), recipe.teacher.concurrency, |index| {
        let trace = trace(&teacher, asked[index], instruction(recipe))?;
        progress.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, "");
        Ok(trace)
    })?;
    let tokens: u64 = traces.iter().map(|trace| trace.usage.output_tokens).sum();
    progress.finish(&format!("{} traces, {} tokens each", traces.len(), tokens / traces.len() as u64));
    filter::check(recipe, &problems, &mut traces)?;
    write_jsonl(&files.traces(), &traces)?;
    note(&format!("collect: {} traces, wrote {}", traces.len(), files.traces().display()));
    Ok(())
}
