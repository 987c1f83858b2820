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
use crate::metric::comparison::pairwise;
use crate::metric::pass_at_k::rate_name;
use crate::metric::scores::{Answer, Reference, Scores};
use crate::recipe::Recipe;
use crate::record::{Candidate, Outcome, Problem, Split, read_jsonl, write_jsonl};
use crate::telemetry::note;

/// The part of the problems that the recipe measures on.
pub fn split(recipe: &Recipe) -> Result<Split> {
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

/// The variant of BLEU that the recipe asks for: a corpus', smoothed as sacrebleu does by default.
pub fn variant(recipe: &Recipe) -> Result<bleu::Config> {
    let name = &recipe.evaluate.bleu;
    bleu::Config::named(name)
        .ok_or_else(|| Error::input("evaluate.bleu", format!("13a, none, char or code expected, {name} found")))
}

/// Counts one model's answers.
pub fn scores(problems: &[&Problem], answers: &[Candidate], config: bleu::Config) -> Scores {
    let mut groups = Vec::with_capacity(problems.len());
    for group in grouped(problems, answers) {
        let compiled = |answer: &Candidate| answer.verdict.as_ref().and_then(|verdict| verdict.compiled);
        let seen = group.into_iter().map(|a| Answer { passed: passed(a), compiled: compiled(a), code: Some(&a.answer) });
        groups.push(seen.collect());
    }
    let mut references = Vec::with_capacity(problems.len());
    for problem in problems {
        references.push(problem.reference.as_deref().map(|code| Reference { code, language: &problem.language }));
    }
    Scores::new(&groups, &references, config)
}

/// The metrics of one model's answers.
pub fn measure(problems: &[&Problem], answers: &[Candidate], scores: &Scores, seed: u64) -> Value {
    let groups = grouped(problems, answers);
    let rates = scores.rates();
    let interval = scores.interval(seed);
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
    let ks: BTreeMap<String, f64> =
        [1, 2, 4, 5, 8, 10].into_iter().filter_map(|k| Some((k.to_string(), scores.pass_at(k)?))).collect();
    let texts = scores.texts.as_ref();
    json!({
        "problems": problems.len(),
        "samples": scores.samples(),
        "pass_at_1": mean,
        "interval": interval.map(|interval| [interval.low, interval.high]),
        "pass_at_k": ks,
        "compile_rate": scores.compile_rate(),
        "no_code": share(&|answer| answer.answer.is_empty()),
        "unchanged": unchanged(problems, &groups),
        "outcomes": outcomes(answers),
        "bleu": texts.map(|texts| texts.bleu().score),
        "bleu_signature": texts.map(|texts| texts.config.signature()),
        "exact_match": texts.map(|texts| texts.exact_match()),
        "edit_similarity": texts.map(|texts| texts.similarity),
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

/// Runs the stage. Returns what came of it, on the first rank.
pub fn run<D: Device>(device: &D, comm: &Shared<D>, recipe: &Recipe) -> Result<String> {
    let group = comm.group();
    let (files, settings) = (Files::of(recipe), &recipe.evaluate);
    let (split, config) = (split(recipe)?, variant(recipe)?);
    let all: Vec<Problem> = read_jsonl(&files.problems())?;
    let problems: Vec<&Problem> = all.iter().filter(|problem| problem.split == Some(split)).collect();
    if problems.is_empty() {
        return Err(Error::input(files.problems().display(), format!("no problem of the {} split", settings.split)));
    }
    let mut models = Vec::new();
    let mut metrics = serde_json::Map::new();
    for name in settings.in_order() {
        let (base, own) = sample::folders(recipe, name)?;
        let adapter = match name {
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
        sample::check(recipe, "evaluate", &problems, &mut answers)?;
        write_jsonl(&files.evaluation(name), &answers)?;
        let scores = scores(&problems, &answers, config);
        let measured = measure(&problems, &answers, &scores, recipe.seed);
        let compiles = scores.compile_rate().map_or(String::new(), |rate| format!(", {:.1} % compile", 100.0 * rate));
        note(&format!(
            "evaluate: {name}: {} {:.3}{compiles}",
            rate_name(&recipe.problems.suite),
            measured["pass_at_1"].as_f64().unwrap_or(0.0)
        ));
        metrics.insert(name.to_string(), measured);
        models.push((name.to_string(), scores));
    }
    if !group.is_first() {
        return Ok(String::new());
    }
    let summary = json!({
        "suite": recipe.problems.suite,
        "split": settings.split,
        "temperature": settings.temperature,
        "models": metrics,
        "comparisons": pairwise(&models, recipe.seed)?,
    });
    write_json(&files.summary(), &summary)?;
    let rates: Vec<String> = rates(&summary).collect();
    Ok(format!("{} problems, {} {}", problems.len(), rate_name(&recipe.problems.suite), rates.join(", ")))
}

/// Each model's rate: `sft 0.412`.
fn rates(summary: &Value) -> impl Iterator<Item = String> {
    let models = summary["models"].as_object().into_iter().flatten();
    models.map(|(name, measured)| format!("{name} {:.3}", measured["pass_at_1"].as_f64().unwrap_or(0.0)))
}
