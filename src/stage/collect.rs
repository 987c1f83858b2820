//! Reasoning traces: the teacher is asked to fix the training problems, and the validation problems, whose traces serve early
//! stopping (the paper's Eq 4). Each fix is checked (Eq 5).
//!
//! `repairity collect RECIPE`. In: `problems.jsonl`. Out: `traces.jsonl`; every answer is stored in `teacher.jsonl` as it arrives,
//! so nothing is asked twice. With `teacher.batch`, `teacher.batches.jsonl` remembers what was ordered.
//!
//! What is trained on is the visible text that the instruction asks for, and only where the teacher came to its end. What a model
//! thought before it is kept beside it, as `thinking`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Files, filter, instruction, provenance, teacher};
use crate::error::{Error, Result};
use crate::prompt;
use crate::recipe::Recipe;
use crate::record::{Extra, Problem, Split, Trace, read_jsonl, write_jsonl};
use crate::teacher::{Query, Reply, Stop, Teacher};
use crate::telemetry::{Progress, interrupt, note};

/// The trace in a reply.
fn trace(model: &str, problem: &Problem, prompt: String, reply: Reply) -> Trace {
    let (reasoning, answer) = match reply.stop {
        Stop::End => prompt::split_answer(&reply.text, &problem.language),
        // A text that was cut or refused holds no fix, whatever it looks like.
        Stop::Length | Stop::Refusal | Stop::Other => (reply.text.clone(), String::new()),
    };
    let mut extra = Extra::new();
    extra.insert("stop".into(), reply.stop.name().into());
    if !reply.reasoning.is_empty() {
        extra.insert("thinking".into(), reply.reasoning.into());
    }
    Trace {
        id: problem.id.clone(),
        model: model.to_string(),
        prompt,
        reasoning,
        answer,
        raw: reply.text,
        verdict: None,
        usage: reply.usage,
        extra,
    }
}

/// How many replies are no whole answers, and why: `; 2 cut by the token limit, 1 refused`, or nothing.
pub(super) fn broken_off(replies: &[Reply]) -> String {
    let mut counts = [0; 4];
    for reply in replies {
        match reply.stop {
            // Such as a model that thinks and says nothing.
            Stop::End => counts[3] += usize::from(reply.text.trim().is_empty()),
            Stop::Length => counts[0] += 1,
            Stop::Refusal => counts[1] += 1,
            Stop::Other => counts[2] += 1,
        }
    }
    let words = ["cut by the token limit", "refused", "ended for another reason", "empty"];
    let said: Vec<String> =
        counts.iter().zip(words).filter(|(count, _)| **count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if said.is_empty() { String::new() } else { format!("; {}", said.join(", ")) }
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

/// Runs the stage. Returns what came of it.
pub fn run(recipe: &Recipe) -> Result<String> {
    let files = Files::of(recipe);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let asked: Vec<&Problem> = problems.iter().filter(|problem| problem.split != Some(Split::Test)).collect();
    if asked.is_empty() {
        return Err(Error::input(files.problems().display(), "no problem to train on is left after vetting and the split"));
    }
    let teacher = teacher(recipe, &files)?;
    let prompts: Vec<String> = asked.iter().map(|problem| prompt::user_text(problem, instruction(recipe))).collect();
    let query = |index: usize| Query::Trace { problem: asked[index], prompt: &prompts[index] };
    let queries: Vec<Query<'_>> = (0..asked.len()).map(query).collect();
    teacher.prepare(&queries, &|line| note(&format!("collect: {line}")))?;
    let progress = Progress::new("collect", asked.len() as u64).rated("traces");
    let done = AtomicUsize::new(0);
    let replies = spread(asked.len(), recipe.teacher.concurrency, |index| {
        let reply = teacher.ask(&queries[index])?;
        progress.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, "");
        Ok(reply)
    })?;
    let broken = broken_off(&replies);
    let tokens: u64 = replies.iter().map(|reply| reply.usage.output_tokens).sum();
    progress.finish("");
    let each = tokens / replies.len() as u64;
    drop(queries);
    let parts = asked.iter().zip(prompts).zip(replies);
    let mut traces: Vec<Trace> = parts.map(|((problem, prompt), reply)| trace(teacher.model(), problem, prompt, reply)).collect();
    for (trace, problem) in traces.iter_mut().zip(&asked) {
        trace.extra.extend(provenance(problem, recipe.teacher.temperature, recipe.teacher.max_tokens));
    }
    filter::check(recipe, "collect", &problems, &mut traces)?;
    write_jsonl(&files.traces(), &traces)?;
    let passed = traces.iter().filter(|trace| filter::passed(trace)).count();
    Ok(format!("{} traces of {each} tokens each, {passed} with a fix that passes{broken}", traces.len()))
}
