//! What each stage came to, in a line.

use serde_json::Value;

use super::calibration::Calibration;
use super::folder::Folder;
use super::models::passes;
use crate::recipe::Recipe;
use crate::record::{Outcome, Split};
use crate::run::{STAGES, State};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// `, name 0.42`; nothing where it was not measured.
fn told(name: &str, value: Option<f64>, digits: usize) -> String {
    value.map_or(String::new(), |value| format!(", {name} {value:.digits$}"))
}

/// What a stage measured last of a field that not every line has.
fn last(folder: &Folder, stage: &str, field: &str) -> Option<f64> {
    folder.curve(stage, field, true).last().and_then(|(_, value)| *value)
}

/// The training stages and the judge, as far as they have come.
fn trained(folder: &Folder) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if let Some(line) = folder.metrics_of("sft").next_back() {
        let validation = told("validation loss", last(folder, "sft", "validation_loss"), 4);
        found.push(("sft", format!("{} steps, loss {:.4}{validation}", line["step"], number(&line["loss"]))));
    }
    if let Some(judging) = &folder.judging {
        let agreement = told("agreement of both orders", judging["agreement"].as_f64(), 2);
        let first = told("first place wins", judging["first_place"].as_f64(), 2);
        found.push(("judge", format!("{} of {} pairs labelled{agreement}{first}", judging["labelled"], judging["pairs"])));
    }
    if let Some(line) = folder.metrics_of("reward").next_back() {
        // Of the model that was kept, which may be an earlier epoch's.
        let kept = Calibration::of(&folder.held_out).map(|found| found.right as f64 / found.pairs as f64);
        let accuracy = told("held-out accuracy", kept.or(last(folder, "reward", "accuracy")), 2);
        found.push(("reward", format!("{} steps, loss {:.4}{accuracy}", line["step"], number(&line["loss"]))));
    }
    let mut ppo = folder.metrics_of("ppo");
    if let Some(start) = ppo.next() {
        let end = ppo.next_back().unwrap_or(start);
        let what = format!(
            "{} iterations, raw score {:.2} → {:.2}, KL {:.3} → {:.3}, {:.0} → {:.0} tokens a response",
            end["step"],
            number(&start["score"]),
            number(&end["score"]),
            number(&start["kl"]),
            number(&end["kl"]),
            number(&start["length"]),
            number(&end["length"])
        );
        found.push(("ppo", what));
    }
    found
}

/// The training stages as a table in Markdown.
pub(super) fn markdown(folder: &Folder) -> String {
    let rows: String = trained(folder).iter().map(|(name, what)| format!("| {name} | {what} |\n")).collect();
    format!("\n| stage | what it came to |\n|---|---|\n{rows}")
}

/// Every stage that was started or has left something, in the order they run, but for the report.
pub(super) fn came_to(recipe: &Recipe, folder: &Folder) -> Vec<(&'static str, String)> {
    let mut found = trained(folder);
    if !folder.problems.is_empty() {
        let part = |split| folder.problems.iter().filter(|problem| problem.split == Some(split)).count();
        let [train, validation, test] = [Split::Train, Split::Validation, Split::Test].map(part);
        let what = format!(
            "{} problems: {train} to train on, {validation} to validate, {test} to test; {} left out",
            folder.problems.len(),
            folder.dropped
        );
        found.push(("problems", what));
    }
    if !folder.traces.is_empty() {
        let passed = folder.traces.iter().filter(|t| t.verdict.as_ref().is_some_and(|v| v.verdict == Outcome::Pass)).count();
        found.push(("collect", format!("{} traces, the fix of {passed} passes", folder.traces.len())));
    }
    if let Some(trained) = folder.trained {
        found.push(("filter", format!("{trained} traces kept to train on")));
    }
    if !folder.candidates.is_empty() {
        let passed = folder.candidates.iter().filter(|candidate| passes(candidate)).count();
        found.push(("candidates", format!("{} answers, {passed} pass", folder.candidates.len())));
    }
    if let Some(compared) = &folder.compared {
        let own = compared.models.iter().filter(|model| model.own);
        let titles: Vec<&str> = own.map(|model| model.title.as_str()).collect();
        found.push(("evaluate", format!("{}, {} answer(s) to each problem", titles.join(", "), recipe.evaluate.samples)));
    }
    let mut stages = Vec::new();
    for name in STAGES.into_iter().filter(|name| *name != "report") {
        let mut what = found.iter().find(|(known, _)| *known == name).map_or(String::new(), |(_, what)| what.clone());
        let record = folder.manifest.stage(name);
        match record.map(|record| record.state) {
            Some(State::Failed) => what += " (failed)",
            Some(State::Interrupted) => what += " (interrupted)",
            Some(State::Running) => what += " (not finished)",
            Some(State::Done) | None => {}
        }
        if record.is_some() || !what.is_empty() {
            stages.push((name, what.trim_start().to_string()));
        }
    }
    stages
}
