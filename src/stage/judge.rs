//! The teacher compares every two candidates of a problem, in both orders; what it agrees with itself on becomes a labelled pair
//! (the paper's Eq 10 and 11).
//!
//! `repairity judge RECIPE`. In: `problems.jsonl`, `candidates.jsonl`. Out: `preferences.jsonl`, `judging.json`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::collect::spread;
use super::{Files, instruction, provenance, teacher};
use crate::checkpoint::write_json;
use crate::error::{Error, Result};
use crate::prompt;
use crate::recipe::{Recipe, Ties};
use crate::record::{Candidate, Extra, Preference, Problem, read_jsonl, write_jsonl};
use crate::teacher::judge::{Preferred, Tally, combine};
use crate::teacher::{Query, Teacher};
use crate::telemetry::{Progress, note};

struct Judged {
    forward: Preferred,
    backward: Option<Preferred>,
    texts: Vec<String>,
}

fn judge(teacher: &dyn Teacher, problem: &Problem, a: &Candidate, b: &Candidate, both: bool) -> Result<Judged> {
    let ask = |first, second| teacher.ask(&Query::Compare { problem, first, second });
    let reply = ask(a, b)?;
    let mut judged = Judged { forward: Preferred::read(&reply), backward: None, texts: vec![reply.text] };
    if both {
        let reply = ask(b, a)?;
        judged.backward = Some(Preferred::read(&reply));
        judged.texts.push(reply.text);
    }
    Ok(judged)
}

/// Runs the stage.
pub fn run(recipe: &Recipe) -> Result<()> {
    let files = Files::of(recipe);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let candidates: Vec<Candidate> = read_jsonl(&files.candidates())?;
    let mut groups: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in &candidates {
        groups.entry(&candidate.id).or_default().push(candidate);
    }
    let mut pairs: Vec<(&Problem, &Candidate, &Candidate)> = Vec::new();
    for (id, group) in groups {
        let problem = problems.iter().find(|problem| problem.id == id);
        let problem = problem.ok_or_else(|| Error::input(files.candidates().display(), format!("no problem {id}")))?;
        for (i, a) in group.iter().enumerate() {
            // Equal texts have no order.
            pairs.extend(group[i + 1..].iter().filter(|b| a.text != b.text).map(|b| (problem, *a, *b)));
        }
    }
    let teacher = teacher(recipe, &files)?;
    let (both, keep_ties) = (recipe.judge.both_orders, recipe.judge.ties == Ties::Half);
    let progress = Progress::new("judge", pairs.len() as u64);
    let done = AtomicUsize::new(0);
    let judged = spread(pairs.len(), recipe.teacher.concurrency, |index| {
        let (problem, a, b) = pairs[index];
        let judged = judge(&teacher, problem, a, b, both)?;
        progress.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, "");
        Ok(judged)
    })?;
    let mut tally = Tally::default();
    let mut preferences = Vec::new();
    for ((problem, a, b), judged) in pairs.iter().zip(judged) {
        let label = match judged.backward {
            Some(backward) => {
                tally.count(judged.forward, backward);
                combine(judged.forward, backward, keep_ties)
            }
            None => judged.forward.label(keep_ties),
        };
        let Some(label) = label else { continue };
        let (chosen, rejected) = if label >= 0.5 { (a, b) } else { (b, a) };
        let mut extra = Extra::new();
        extra.insert("indices".into(), json!([chosen.index, rejected.index]));
        extra.insert("judge".into(), json!(teacher.model()));
        extra.extend(provenance(problem, recipe.teacher.temperature, recipe.teacher.max_tokens));
        preferences.push(Preference {
            id: problem.id.clone(),
            prompt: prompt::user_text(problem, instruction(recipe)),
            chosen: chosen.text.clone(),
            rejected: rejected.text.clone(),
            label: label.max(1.0 - label),
            judgments: judged.texts.into_iter().map(Into::into).collect(),
            extra,
        });
    }
    let summary = json!({
        "pairs": pairs.len(),
        "labelled": preferences.len(),
        "agreement": tally.agreement(),
        "first_place": tally.first_place(),
        "unreadable": tally.unreadable,
    });
    progress.finish(&format!("{} of {} pairs labelled", preferences.len(), pairs.len()));
    if preferences.is_empty() {
        let what = format!("none of {} pairs got a label: no two answers to one problem differ in quality", pairs.len());
        return Err(Error::input(files.candidates().display(), what));
    }
    write_jsonl(&files.preferences(), &preferences)?;
    write_json(&files.judging(), &summary)?;
    note(&format!("judge: {} labelled pairs, wrote {}", preferences.len(), files.preferences().display()));
    Ok(())
}
