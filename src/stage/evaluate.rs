//! Measures the models on the held-out split (the paper's sections 4 and 5): each answers every problem, the answers are checked,
//! and models are compared problem by problem.
//!
//! `repairity evaluate RECIPE`. In: `problems.jsonl` and the models. Out: `evaluation/<model>.jsonl`, `evaluation/summary.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Files;
use super::sample::{self, Ask, Student};
use crate::checkpoint::write_json;
use crate::comm::Shared;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::metric::bleu;
use crate::metric::pass_at_k::{bootstrap_mean, pass_at_k, wilson};
use crate::metric::significance::{holm, mcnemar};
use crate::recipe::Recipe;
use crate::record::{Candidate, Outcome, Problem, Split, read_jsonl, write_jsonl};
use crate::telemetry::note;

/// Resamples of the bootstrap that gives a mean its interval.
const RESAMPLES: usize = 10_000;

fn split(recipe: &Recipe) -> Result<Split> {
    match recipe.evaluate.split.as_str() {
        "train" => Ok(Split::Train),
        "validation" => Ok(Split::Validation),
        "test" => Ok(Split::Test),
        other => Err(Error::input("evaluate.split", format!("train, validation or test expected, {other} found"))),
    }
}

fn passed(answer: &Candidate) -> bool {
    answer.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Outcome::Pass)
}

/// The answers of each problem, in the problems' order.
fn grouped<'a>(problems: &[&Problem], answers: &'a [Candidate]) -> Vec<Vec<&'a Candidate>> {
    let mut groups: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for answer in answers {
        groups.entry(&answer.id).or_default().push(answer);
    }
    problems.iter().map(|problem| groups.remove(problem.id.as_str()).unwrap_or_default()).collect()
}

/// The metrics of one model's answers.
pub fn measure(problems: &[&Problem], answers: &[Candidate], seed: u64) -> Value {
    let groups = grouped(problems, answers);
    let rates: Vec<f64> = groups
        .iter()
        .map(|group| group.iter().filter(|answer| passed(answer)).count() as f64 / group.len().max(1) as f64)
        .collect();
    let single = groups.iter().all(|group| group.len() == 1);
    let interval = match single {
        true => wilson(rates.iter().filter(|rate| **rate == 1.0).count(), rates.len()),
        false => bootstrap_mean(&rates, RESAMPLES, seed),
    };
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let count = |wanted: &dyn Fn(&Candidate) -> bool| answers.iter().filter(|answer| wanted(answer)).count();
    let share = |wanted: &dyn Fn(&Candidate) -> bool| count(wanted) as f64 / answers.len().max(1) as f64;
    let mut by: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for (problem, rate) in problems.iter().zip(&rates) {
        for key in [format!("kind/{}", problem.kind), format!("difficulty/{}", problem.difficulty)] {
            let entry = by.entry(key).or_default();
            entry.0 += rate;
            entry.1 += 1;
        }
    }
    let samples = groups.iter().map(Vec::len).min().unwrap_or(0);
    let pass_at = |k: usize| -> Option<f64> {
        let each = groups.iter().map(|group| pass_at_k(group.len(), group.iter().filter(|a| passed(a)).count(), k));
        let values: Option<Vec<f64>> = each.collect();
        values.filter(|values| !values.is_empty()).map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let ks: BTreeMap<String, f64> =
        [1, 2, 4, 5, 8, 10].iter().filter(|k| **k <= samples).filter_map(|k| Some((k.to_string(), pass_at(*k)?))).collect();
    let config = bleu::Config { tokens: bleu::Tokens::Mteval13a, smoothing: bleu::Smoothing::Exp, effective_order: false };
    let pairs = problems.iter().zip(&groups).flat_map(|(problem, group)| {
        group.iter().filter_map(|answer| Some((answer.answer.as_str(), problem.reference.as_deref()?)))
    });
    let bleu = config.corpus(pairs);
    json!({
        "problems": problems.len(),
        "samples": samples,
        "pass_at_1": mean,
        "interval": interval.map(|interval| [interval.low, interval.high]),
        "pass_at_k": ks,
        "no_code": share(&|answer| answer.answer.is_empty()),
        "unchanged": unchanged(problems, &groups),
        "outcomes": outcomes(answers),
        "bleu": bleu.score,
        "bleu_signature": config.signature(),
        "mean_tokens": answers.iter().filter_map(|a| a.extra.get("tokens")?.as_f64()).sum::<f64>() / answers.len().max(1) as f64,
        "by": by.into_iter().map(|(key, (sum, n))| (key, json!({"pass_at_1": sum / n as f64, "problems": n}))).collect::<BTreeMap<_, _>>(),
    })
}

/// The share of answers that are the buggy code again.
fn unchanged(problems: &[&Problem], groups: &[Vec<&Candidate>]) -> f64 {
    let (mut same, mut all) = (0, 0);
    for (problem, group) in problems.iter().zip(groups) {
        all += group.len();
        let buggy = problem.buggy.as_deref().map(str::trim);
        same += group.iter().filter(|answer| Some(answer.answer.trim()) == buggy).count();
    }
    same as f64 / all.max(1) as f64
}

fn outcomes(answers: &[Candidate]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for verdict in answers.iter().filter_map(|answer| answer.verdict.as_ref()) {
        let name = serde_json::to_value(verdict.verdict).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

/// Every later model against every earlier one, on each problem's first answer: exact McNemar, with Holm's correction.
fn compare(problems: &[&Problem], models: &[(String, Vec<Candidate>)]) -> Result<Vec<Value>> {
    let firsts = |answers: &[Candidate]| -> Vec<bool> {
        grouped(problems, answers).iter().map(|group| group.first().is_some_and(|answer| passed(answer))).collect()
    };
    let mut rows = Vec::new();
    for (j, (after, b)) in models.iter().enumerate() {
        for (before, a) in &models[..j] {
            rows.push((before.clone(), after.clone(), mcnemar(&firsts(a), &firsts(b))?));
        }
    }
    let adjusted = holm(&rows.iter().map(|(_, _, test)| test.p).collect::<Vec<_>>());
    let row = |((before, after, test), p): ((String, String, crate::metric::significance::McNemar), f64)| json!({"from": before, "to": after, "lost": test.b, "won": test.c, "p": test.p, "p_holm": p});
    Ok(rows.into_iter().zip(adjusted).map(row).collect())
}

/// Runs the stage.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<()> {
    let group = comm.group();
    let (files, settings) = (Files::of(recipe), &recipe.evaluate);
    let split = split(recipe)?;
    let all: Vec<Problem> = read_jsonl(&files.problems())?;
    let problems: Vec<&Problem> = all.iter().filter(|problem| problem.split == Some(split)).collect();
    if problems.is_empty() {
        return Err(Error::input(files.problems().display(), format!("no problem of the {} split", settings.split)));
    }
    let mut models = Vec::new();
    let mut metrics = serde_json::Map::new();
    for name in &settings.models {
        let (base, own) = sample::folders(recipe, name)?;
        let adapter = match name.as_str() {
            "sft" => own.map(|own| settings.adapter.clone().unwrap_or(own)),
            _ => own,
        };
        let student = Student::open(device, comm, recipe, name, (&base, adapter.as_deref()))?;
        let ask = Ask {
            purpose: "evaluate",
            per_problem: settings.samples,
            temperatures: &[settings.temperature],
            max_new_tokens: settings.max_new_tokens,
            top_k: settings.top_k,
            top_p: settings.top_p,
            batch: settings.batch,
        };
        let mut answers = student.answer(device, group, recipe, &problems, &ask)?;
        if !group.is_first() {
            continue;
        }
        sample::check(recipe, &problems, &mut answers)?;
        write_jsonl(&files.evaluation(name), &answers)?;
        let measured = measure(&problems, &answers, recipe.seed);
        note(&format!("evaluate: {name}: pass@1 {:.3}", measured["pass_at_1"].as_f64().unwrap_or(0.0)));
        metrics.insert(name.clone(), measured);
        models.push((name.clone(), answers));
    }
    if !group.is_first() {
        return Ok(());
    }
    let summary = json!({
        "suite": recipe.problems.suite,
        "split": settings.split,
        "temperature": settings.temperature,
        "models": metrics,
        "comparisons": compare(&problems, &models)?,
    });
    write_json(&files.summary(), &summary)
}
