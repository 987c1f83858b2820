//! The teacher compares every two candidates of a problem, in both orders, or ranks several at once, in several orders; what it
//! agrees with itself on becomes a labelled pair (the paper's Eq 10 and 11).
//!
//! `repairity judge RECIPE`. In: `problems.jsonl`, `candidates.jsonl`. Out: `preferences.jsonl`, `judging.json`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::collect::{broken_off, spread};
use super::{Files, instruction, provenance, teacher};
use crate::checkpoint::write_json;
use crate::error::{Error, Result};
use crate::prompt::{self, P_COMPARE};
use crate::recipe::{Recipe, Ties};
use crate::record::{Candidate, Extra, Preference, Problem, read_jsonl, write_jsonl};
use crate::teacher::judge::{Preferred, Tally, combine, place_p, unanimous};
use crate::teacher::ranking::{self, Ranked, orders};
use crate::teacher::recorded::Journal;
use crate::teacher::{Query, Reply, Stop, Teacher};
use crate::telemetry::{Progress, note};

/// Two candidates, and what the judgments of them come to: 1 for the first, 0 for the second, 0.5 for neither.
struct Labelled<'a> {
    problem: &'a Problem,
    pair: (&'a Candidate, &'a Candidate),
    label: Option<f64>,
    texts: Vec<String>,
}

/// A problem and its candidates.
type Group<'a> = (&'a Problem, Vec<&'a Candidate>);

/// Asks everything, first together where the teacher can, then one by one.
fn ask(recipe: &Recipe, teacher: &Journal, queries: &[Query<'_>]) -> Result<Vec<Reply>> {
    teacher.prepare(queries, &|line| note(&format!("judge: {line}")))?;
    let progress = Progress::new("judge", queries.len() as u64).rated("judgments");
    let done = AtomicUsize::new(0);
    let replies = spread(queries.len(), recipe.teacher.concurrency, |index| {
        let reply = teacher.ask(&queries[index])?;
        progress.set(done.fetch_add(1, Ordering::Relaxed) as u64 + 1, "");
        Ok(reply)
    })?;
    let broken = broken_off(&replies);
    progress.finish(&if broken.is_empty() { broken } else { format!("{} judgments{broken}", replies.len()) });
    Ok(replies)
}

/// How many replies ended so.
fn stopped(replies: &[Reply], stop: Stop) -> usize {
    replies.iter().filter(|reply| reply.stop == stop).count()
}

/// Every two candidates, by themselves.
fn pairwise<'a>(recipe: &Recipe, teacher: &Journal, groups: &[Group<'a>]) -> Result<(Vec<Labelled<'a>>, Value)> {
    let (both, keep_ties) = (recipe.judge.both_orders, recipe.judge.ties == Ties::Half);
    let instruction = recipe.judge.instruction.as_deref().unwrap_or(P_COMPARE);
    let mut pairs = Vec::new();
    for (problem, group) in groups {
        for (i, a) in group.iter().enumerate() {
            // Equal texts have no order.
            pairs.extend(group[i + 1..].iter().filter(|b| a.text != b.text).map(|b| (*problem, (*a, *b))));
        }
    }
    let queries: Vec<Query<'_>> = pairs
        .iter()
        .flat_map(|&(problem, (a, b))| {
            let query = |first, second| Query::Compare { problem, instruction, first, second };
            [Some(query(a, b)), both.then(|| query(b, a))].into_iter().flatten()
        })
        .collect();
    let replies = ask(recipe, teacher, &queries)?;
    let mut tally = Tally::default();
    let mut labelled = Vec::new();
    for ((problem, pair), replies) in pairs.into_iter().zip(replies.chunks(if both { 2 } else { 1 })) {
        let forward = Preferred::read(&replies[0]);
        let label = match replies.get(1).map(Preferred::read) {
            Some(backward) => {
                tally.count(forward, backward);
                combine(forward, backward, keep_ties)
            }
            None => forward.label(keep_ties),
        };
        labelled.push(Labelled { problem, pair, label, texts: replies.iter().map(|reply| reply.text.clone()).collect() });
    }
    let summary = json!({
        "pairs": labelled.len(),
        "labelled": labelled.iter().filter(|pair| pair.label.is_some()).count(),
        "agreement": tally.agreement(),
        "first_place": tally.first_place(),
        "first_place_p": place_p(tally.first, &vec![0.5; tally.decided]),
        "unreadable": tally.unreadable,
        "refused": stopped(&replies, Stop::Refusal),
        "cut": stopped(&replies, Stop::Length),
    });
    Ok((labelled, summary))
}

/// Where groups of at most `most` start among `count` candidates; the last one reaches back where it would hold less.
fn starts(count: usize, most: usize) -> Vec<usize> {
    (0..count).step_by(most).map(|start| start.min(count.saturating_sub(most))).collect()
}

/// Candidates of one problem that are shown together, and the orders.
struct Part<'a> {
    problem: &'a Problem,
    /// Where its first candidate stands among the problem's.
    start: usize,
    members: Vec<&'a Candidate>,
    orders: Vec<Vec<usize>>,
    shown: Vec<Vec<&'a Candidate>>,
}

/// Several candidates at a time, ranked.
fn ranked<'a>(recipe: &Recipe, teacher: &Journal, groups: &[Group<'a>]) -> Result<(Vec<Labelled<'a>>, Value)> {
    let (settings, keep_ties) = (&recipe.judge, recipe.judge.ties == Ties::Half);
    let instruction = settings.instruction.as_deref().unwrap_or(P_COMPARE);
    let mut parts: Vec<Part<'a>> = Vec::new();
    for (problem, group) in groups {
        let mut distinct: Vec<&Candidate> = Vec::new();
        for candidate in group {
            if distinct.iter().all(|other| other.text != candidate.text) {
                distinct.push(candidate);
            }
        }
        if distinct.len() < 2 {
            continue;
        }
        for start in starts(distinct.len(), settings.at_once) {
            let members = distinct[start..distinct.len().min(start + settings.at_once)].to_vec();
            let orders = orders(members.len(), settings.orders);
            let shown = orders.iter().map(|order| order.iter().map(|index| members[*index]).collect()).collect();
            parts.push(Part { problem, start, members, orders, shown });
        }
    }
    let queries: Vec<Query<'_>> = parts
        .iter()
        .flat_map(|part| part.shown.iter().map(|shown| Query::Rank { problem: part.problem, instruction, shown }))
        .collect();
    let replies = ask(recipe, teacher, &queries)?;
    let mut tally = ranking::Tally::default();
    // Groups may overlap, so a pair can have judgments from two.
    type Judgments<'a> = (&'a Problem, (&'a Candidate, &'a Candidate), Vec<Preferred>, Vec<String>);
    let mut pairs: BTreeMap<(&str, usize, usize), Judgments<'a>> = BTreeMap::new();
    let mut rest = replies.as_slice();
    for part in &parts {
        let (own, others) = rest.split_at(part.shown.len());
        rest = others;
        let mut ranked = Ranked::default();
        part.orders.iter().zip(own).for_each(|(order, reply)| ranked.add(order.clone(), reply));
        tally.count(&ranked);
        for j in 1..part.members.len() {
            for i in 0..j {
                let key = (part.problem.id.as_str(), part.start + i, part.start + j);
                let pair = (part.members[i], part.members[j]);
                let judgments = pairs.entry(key).or_insert_with(|| (part.problem, pair, Vec::new(), Vec::new()));
                judgments.2.extend(ranked.votes(i, j));
                judgments.3.extend(own.iter().map(|reply| reply.text.clone()));
            }
        }
    }
    let labelled: Vec<Labelled<'_>> = pairs
        .into_values()
        .map(|(problem, pair, votes, texts)| Labelled { problem, pair, label: unanimous(&votes, keep_ties), texts })
        .collect();
    let summary = json!({
        "pairs": labelled.len(),
        "labelled": labelled.iter().filter(|pair| pair.label.is_some()).count(),
        "rankings": tally.rankings,
        "at_once": settings.at_once,
        "orders": settings.orders,
        "agreement": tally.agreement(),
        "kendall_tau": tally.kendall_tau(),
        "first_place": tally.first_place(),
        "first_place_p": tally.first_place_p(),
        "unreadable": tally.unreadable,
        "refused": stopped(&replies, Stop::Refusal),
        "cut": stopped(&replies, Stop::Length),
    });
    Ok((labelled, summary))
}

/// The summary for a person: `0.80 agreement, 0.60 first-place wins (p 0.36), 6 unreadable`.
fn said(summary: &Value) -> String {
    let number = |key: &str| summary[key].as_f64().map(|x| format!("{x:.2}"));
    let mut parts = Vec::new();
    parts.extend(number("agreement").map(|x| format!("agreement of orders {x}")));
    parts.extend(number("kendall_tau").map(|x| format!("Kendall's tau {x}")));
    parts.extend(number("first_place").zip(number("first_place_p")).map(|(x, p)| format!("first place wins {x} (p {p})")));
    parts.push(format!("{} unreadable", summary["unreadable"]));
    parts.join(", ")
}

/// Runs the stage. Returns what came of it.
pub fn run(recipe: &Recipe) -> Result<String> {
    let files = Files::of(recipe);
    let problems: Vec<Problem> = read_jsonl(&files.problems())?;
    let candidates: Vec<Candidate> = read_jsonl(&files.candidates())?;
    let mut by_id: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in &candidates {
        by_id.entry(&candidate.id).or_default().push(candidate);
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (id, group) in by_id {
        let problem = problems.iter().find(|problem| problem.id == id);
        let problem = problem.ok_or_else(|| Error::input(files.candidates().display(), format!("no problem {id}")))?;
        groups.push((problem, group));
    }
    let teacher = teacher(recipe, &files)?;
    let (labelled, summary) = match recipe.judge.at_once {
        2 => pairwise(recipe, &teacher, &groups)?,
        _ => ranked(recipe, &teacher, &groups)?,
    };
    let mut preferences = Vec::new();
    let pairs = labelled.len();
    for Labelled { problem, pair: (a, b), label, texts } in labelled {
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
            judgments: texts.into_iter().map(Into::into).collect(),
            extra,
        });
    }
    if preferences.is_empty() {
        let what =
            format!("none of {pairs} pairs got a label: no two answers to one problem differ in quality ({})", said(&summary));
        return Err(Error::input(files.candidates().display(), what));
    }
    write_jsonl(&files.preferences(), &preferences)?;
    write_json(&files.judging(), &summary)?;
    Ok(format!("{} of {pairs} pairs labelled, {}", preferences.len(), said(&summary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_all_and_are_full() {
        assert_eq!(starts(3, 3), [0]);
        assert_eq!(starts(2, 3), [0]);
        assert_eq!(starts(4, 3), [0, 1]);
        assert_eq!(starts(6, 3), [0, 3]);
        assert_eq!(starts(7, 3), [0, 3, 4]);
    }
}
