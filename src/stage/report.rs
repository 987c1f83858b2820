//! What was measured, as a person reads it: the paper's ablation table with intervals and significance, and what each stage did.
//!
//! `repairity report RECIPE`. In: `evaluation/summary.json`. Out: `report.md`, which is also returned for standard output.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::Value;

use super::Files;
use crate::checkpoint::read_json;
use crate::error::Result;
use crate::recipe::{Objective, Recipe};
use crate::record::{read_jsonl, write_atomic};

/// The paper's name of a model of the run.
fn title(name: &str, recipe: &Recipe) -> String {
    let traces = match (recipe.sft.objective, recipe.filter.enabled) {
        (Objective::Reasoning, true) => "+RT",
        (Objective::Reasoning, false) => "+RT, no filter",
        (Objective::Direct, true) => "+direct output",
        (Objective::Direct, false) => "+direct output, no filter",
    };
    match name {
        "sft" => traces.to_string(),
        "ppo" => format!("{traces}+RLLF"),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn percent(value: &Value) -> String {
    format!("{:.1}", 100.0 * number(value))
}

/// The ablation table.
fn table(recipe: &Recipe, summary: &Value) -> String {
    let mut text = String::new();
    let first = &summary["models"][&recipe.evaluate.models[0]];
    let _ = writeln!(
        text,
        "{} problems of {} ({} split), {} answer(s) each at temperature {}\n",
        first["problems"], recipe.problems.suite, recipe.evaluate.split, first["samples"], recipe.evaluate.temperature
    );
    let _ = writeln!(text, "| model | pass@1 % | 95 % interval | no code % | unchanged % | BLEU | tokens |");
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    for name in &recipe.evaluate.models {
        let row = &summary["models"][name];
        let interval = format!("{} – {}", percent(&row["interval"][0]), percent(&row["interval"][1]));
        let _ = writeln!(
            text,
            "| {} | {} | {interval} | {} | {} | {:.1} | {:.0} |",
            title(name, recipe),
            percent(&row["pass_at_1"]),
            percent(&row["no_code"]),
            percent(&row["unchanged"]),
            number(&row["bleu"]),
            number(&row["mean_tokens"])
        );
    }
    for row in summary["comparisons"].as_array().into_iter().flatten() {
        let _ = write!(
            text,
            "\n{} → {}: {} problems won, {} lost; exact McNemar p = {:.2e} (Holm {:.2e})",
            title(row["from"].as_str().unwrap_or("?"), recipe),
            title(row["to"].as_str().unwrap_or("?"), recipe),
            row["won"],
            row["lost"],
            number(&row["p"]),
            number(&row["p_holm"])
        );
    }
    text.push('\n');
    text
}

/// The last line that a stage wrote into `metrics.jsonl`.
fn last<'a>(metrics: &'a [Value], stage: &str) -> Option<&'a Value> {
    metrics.iter().rev().find(|line| line["stage"] == stage)
}

/// What the training stages came to.
fn training(metrics: &[Value], judging: Option<&Value>) -> String {
    let mut text = String::from("\n| stage | what it came to |\n|---|---|\n");
    if let Some(line) = last(metrics, "sft") {
        let _ = writeln!(
            text,
            "| sft | {} steps, loss {:.4}, validation loss {:.4} |",
            line["step"],
            number(&line["loss"]),
            number(&line["validation_loss"])
        );
    }
    if let Some(judging) = judging {
        let _ = writeln!(
            text,
            "| judge | {} of {} pairs labelled, agreement of both orders {:.2}, first place wins {:.2} |",
            judging["labelled"],
            judging["pairs"],
            number(&judging["agreement"]),
            number(&judging["first_place"])
        );
    }
    if let Some(line) = last(metrics, "reward") {
        let _ = writeln!(
            text,
            "| reward | {} steps, loss {:.4}, held-out accuracy {:.2} |",
            line["step"],
            number(&line["loss"]),
            number(&line["accuracy"])
        );
    }
    let ppo: Vec<&Value> = metrics.iter().filter(|line| line["stage"] == "ppo").collect();
    if let (Some(start), Some(end)) = (ppo.first(), ppo.last()) {
        let _ = writeln!(
            text,
            "| ppo | {} iterations, raw score {:.2} → {:.2}, KL {:.3} → {:.3}, {:.0} → {:.0} tokens a response |",
            end["step"],
            number(&start["score"]),
            number(&end["score"]),
            number(&start["kl"]),
            number(&end["kl"]),
            number(&start["length"]),
            number(&end["length"])
        );
    }
    text
}

/// Runs the stage; returns the report.
pub fn run(recipe: &Recipe) -> Result<String> {
    let files = Files::of(recipe);
    let summary = read_json(&files.summary())?;
    let optional = |path: PathBuf| if path.exists() { Some(path) } else { None };
    let metrics: Vec<Value> = optional(files.metrics()).map_or(Ok(Vec::new()), |path| read_jsonl(&path))?;
    let judging = optional(files.judging()).map(|path| read_json(&path)).transpose()?;
    let text = format!("{}{}", table(recipe, &summary), training(&metrics, judging.as_ref()));
    write_atomic(&files.report(), text.as_bytes())?;
    Ok(text)
}
